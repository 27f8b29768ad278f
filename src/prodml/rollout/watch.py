"""What one process sees of a rollout: its guards, and their sums by era."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from prodml.errors import BadConfiguration, CorruptRecord
from prodml.rollout.analysis import ARMS, Finding, Guardrail, Seen, Sequential, Tally
from prodml.rollout.disagreement import Disagreement
from prodml.rollout.error_rate import ErrorRate
from prodml.rollout.floor import Floor
from prodml.rollout.latency import Latency
from prodml.rollout.metric import Metric
from prodml.rollout.paired_loss import PairedLoss
from prodml.rollout.record import Eras, compact, joined

__all__ = ["Watch", "full"]

G = TypeVar("G")


class Watch:
    """Guards of one process.  Observing takes a lock for microseconds and waits for no store.

    Raises
    ------
    BadConfiguration
        No guard, or two of one name.

    Examples
    --------
    >>> watch = Watch([ErrorRate(enough=5)])
    >>> for arm in ("stable", "canary") * 5:
    ...     watch.outcome(arm, ok=True, seconds=None)
    >>> watch.judge([watch.sums()])["error rate"].verdict.value
    'fine'
    """

    def __init__(self, guards: Iterable[Guardrail]) -> None:
        self.guards: tuple[Guardrail, ...] = tuple(map(_own, guards))
        names = [guard.name for guard in self.guards]
        if not names or len(set(names)) < len(names):
            raise BadConfiguration(f"guards need one name each, not {names or 'none at all'}")
        self.era: int = 1
        self.since: int = 1
        self._closed: Eras = {}
        self._lock: threading.Lock = threading.Lock()
        self._rates: list[ErrorRate] = self._of(ErrorRate)
        self._floors: list[Floor] = self._of(Floor)
        self._latencies: list[Latency] = self._of(Latency)
        self._losses: list[PairedLoss] = self._of(PairedLoss)
        self._answers: list[Disagreement] = self._of(Disagreement)
        self._metrics: dict[str, Metric] = {metric.name: metric for metric in self._of(Metric)}

    # -- what is seen -------------------------------------------------------------------

    def outcome(self, arm: str, *, ok: bool, seconds: float | None) -> None:
        """How a request of an arm ended; other arms are not drawn by lot and are left out."""
        if arm not in ARMS:
            return
        canary = arm == "canary"
        # Sums are kept as JSON, which knows no number of numpy.
        seconds = None if seconds is None else float(seconds)
        with self._lock:
            for rate in self._rates:
                rate.observe(canary=canary, ok=ok)
            for floor in self._floors:
                floor.observe(canary=canary, ok=ok, seconds=seconds)
            if seconds is not None:
                for latency in self._latencies:
                    latency.observe(seconds, canary=canary)

    def pairs(self, pairs: Iterable[tuple[float, float]]) -> None:
        """Losses (challenger, stable) of requests that both answered."""
        # Whoever makes them may ask this very rollout, or turn out to be no numbers half way.
        told = [(float(challenger), float(stable)) for challenger, stable in pairs]
        with self._lock:
            for challenger, stable in told:
                for loss in self._losses:
                    loss.observe(challenger, stable)

    def answers(self, challenger: Any, stable: Any) -> None:
        """Answers of both versions to one request."""
        for guard in self._answers:
            # Comparing may take long, and is the user's code: not under the lock.
            differ = guard.differ(challenger, stable)
            with self._lock:
                guard.count_in(differ=differ)

    def metric(self, name: str, arm: str, value: float) -> None:
        """A value of the metric ``name``."""
        if name not in self._metrics:
            known = ", ".join(self._metrics) or "none"
            raise BadConfiguration(f"no guard is a Metric called {name!r}; there are: {known}")
        if arm in ARMS:
            with self._lock:
                self._metrics[name].observe(value, canary=arm == "canary")

    # -- what follows -------------------------------------------------------------------

    def sums(self) -> Eras:
        """All that this process has seen, by era."""
        with self._lock:
            now = {g.name: dict(g.tally) for g in self.guards if g.tally}
            return {**self._closed, self.era: now} if now else dict(self._closed)

    def turn(self, era: int, since: int) -> None:
        """Go on with ``era``, of a step that began with the era ``since``."""
        with self._lock:
            step = since > self.since
            ended = {g.name: g.tally for g in self.guards if g.tally}
            if ended:
                self._closed = compact({**self._closed, self.era: ended}, since)
            self.era, self.since = era, since
            for guard in self.guards:
                guard.renew(step=step)

    def judge(self, parts: Sequence[Eras]) -> dict[str, Finding]:
        """What each guard says of the sums of all workers.

        Raises
        ------
        CorruptRecord
            Some of them are not those of such a guard.
        """
        found: dict[str, Finding] = {}
        for guard in self.guards:
            seen = Seen(joined(parts, guard.name), self.since)
            try:
                found[guard.name] = guard.judge(seen)
            except KeyError as missing:
                reason = f"its sums lack {missing}: was it another kind of guard in this rollout?"
                raise CorruptRecord(f"guard {guard.name!r}", reason) from None
        return found

    def forget(self) -> None:
        """Begin without anything seen: in a forked child, whose parent keeps it."""
        self._lock = threading.Lock()
        self._closed = {}
        for guard in self.guards:
            guard.renew(step=True)

    def readers(self) -> list[Metric]:
        """Metrics that fetch their values."""
        return [metric for metric in self._metrics.values() if metric.read is not None]

    def _of(self, kind: type[G]) -> list[G]:
        return [guard for guard in self.guards if isinstance(guard, kind)]


def _own(guard: Guardrail) -> Guardrail:
    """A guard like this one that has seen nothing: one that two rollouts share would mix them."""
    return replace(guard) if isinstance(guard, Sequential) else guard


def full(parts: Sequence[Eras], era: int, most: int) -> bool:
    """Whether any guard has judged the challenger ``most`` times in ``era``."""
    names = {name for part in parts for name in part.get(era, {})}
    counts = (joined(parts, name).get(era, Tally()).get("n", 0) for name in names)
    return any(count >= most for count in counts)
