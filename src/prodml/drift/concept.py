"""Is the model still right?  Predictions joined with labels that come late."""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import Any, Literal, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.streaming.detector import StreamDetector, number_of, whole
from prodml.drift.streaming.rank_cusum import RankCUSUM
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, DriftDetected, Event, PerformanceDropped, PredictionServed, Stream
from prodml.types import is_missing

__all__ = ["ConceptCounts", "ConceptDriftMonitor"]

# Errors among which the beginning of a change is looked for.
_RECENT = 1000


@dataclass(slots=True, kw_only=True)
class ConceptCounts:
    """What became of predictions and labels.

    Parameters
    ----------
    joined
        Labels that met their prediction.
    waiting
        Predictions without a label (or, in the order of predictions, behind one without).
    early
        Labels that wait for their prediction.
    expired, evicted
        Predictions given up: older than ``max_age``, more than ``max_pending``.
    late
        Labels of predictions that had been given up.
    unmatched
        Labels given up: no prediction came within ``max_age``.
    duplicate
        Labels and predictions whose id had one before.
    invalid
        Pairs that the error function could not judge, or judged as no finite number; without
        one, labels that are missing (None, NaN).

    Examples
    --------
    >>> ConceptCounts(joined=3).to_dict()["joined"]
    3
    """

    joined: int = 0
    waiting: int = 0
    early: int = 0
    expired: int = 0
    evicted: int = 0
    late: int = 0
    unmatched: int = 0
    duplicate: int = 0
    invalid: int = 0

    def to_dict(self) -> dict[str, int]:
        """Counts by name."""
        return asdict(self)


@dataclass(slots=True)
class _Pending:
    prediction: Any
    since: float
    error: float | None = None


@final
@dataclass(kw_only=True, slots=True, eq=False)
class ConceptDriftMonitor:
    """Join predictions with late labels by id, and watch the stream of errors.

    Parameters
    ----------
    detectors
        Hear each error; the first that finds drift states it and all begin anew.  Empty: one
        :class:`~prodml.drift.RankCUSUM`.
    error
        ``error(prediction, label)``, a number, smaller is better; None: 1 where they differ,
        else 0.  Called under the monitor's lock: it should be short.
    order
        ``"label"``: errors are heard as labels arrive, so at once; where hard cases are
        labelled first, that order shows a change that is none.  ``"prediction"``: in the order
        of the predictions, each waiting for the labels of those before it or for their
        ``max_age``.
    max_age
        Seconds for which a prediction waits for its label, and a label for its prediction.
    max_pending
        Predictions (and early labels) kept at most; the oldest go first.
    name
        Names the monitor in facts.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    Safe for any number of threads.  States :class:`~prodml.events.PerformanceDropped` when the
    error has risen (``metric`` is ``"accuracy"`` without an ``error``, else ``"error"``; the
    current value is the mean since the likeliest beginning of the change; the reference is NaN
    where a detector that was fitted elsewhere finds the very first errors changed), and
    :class:`~prodml.events.DriftDetected` when it has fallen.  As many ids as ``max_pending``
    are remembered once settled, to tell late and duplicate labels from unknown ones.

    Examples
    --------
    >>> events = Stream()
    >>> heard = []
    >>> unsubscribe = events.subscribe(PerformanceDropped, heard.append)
    >>> monitor = ConceptDriftMonitor(events=events)
    >>> for i in range(700):
    ...     monitor.predicted(f"r{i}", prediction=1)
    >>> for i in range(700):
    ...     joined = monitor.labelled(f"r{i}", 1 if i % 10 and i < 600 else 0)
    >>> heard[0].metric, round(heard[0].reference, 2), monitor.counts().joined
    ('accuracy', 0.9, 700)
    """

    detectors: Sequence[StreamDetector] = ()
    error: Callable[[Any, Any], float] | None = field(default=None, repr=False)
    order: Literal["label", "prediction"] = field(
        default="label", metadata={"fixed": "build another monitor"}
    )
    max_age: float = 7 * 86_400.0
    max_pending: int = 100_000
    name: str = "concept-drift"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    _pending: "OrderedDict[str, _Pending]" = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    # Labels before their prediction, and since when.
    _early: "OrderedDict[str, tuple[Any, float]]" = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    # Whether an id that is settled was joined.
    _settled: "OrderedDict[str, bool]" = field(default_factory=OrderedDict, init=False, repr=False)
    _counts: ConceptCounts = field(default_factory=ConceptCounts, init=False, repr=False)
    # Errors since the last change: how many and their sum, and the newest.
    _errors: int = field(default=0, init=False, repr=False)
    _total: float = field(default=0.0, init=False, repr=False)
    _recent: "deque[float]" = field(
        default_factory=lambda: deque(maxlen=_RECENT), init=False, repr=False
    )
    _drift: bool = field(default=False, init=False, repr=False)
    _facts: list[Event] = field(default_factory=list, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.detectors = tuple(self.detectors) or (RankCUSUM(),)
        if not all(isinstance(detector, StreamDetector) for detector in self.detectors):
            raise BadConfiguration("detectors must be stream detectors, such as RankCUSUM()")
        if self.order not in {"label", "prediction"}:
            raise BadConfiguration(f"order must be 'label' or 'prediction', not {self.order!r}")
        if not 0.0 < self.max_age < math.inf:
            raise BadConfiguration(f"max_age must be a finite number > 0, not {self.max_age!r}")
        whole("max_pending", self.max_pending, 1)

    # -- what comes in --------------------------------------------------------------------

    def predicted(self, request_id: str, prediction: Any) -> None:
        """Note a prediction that waits for its label.

        Examples
        --------
        >>> monitor = ConceptDriftMonitor()
        >>> monitor.predicted("r1", 0.7)
        >>> monitor.counts().waiting
        1
        """
        with self._lock:
            now = self._aged()
            if request_id in self._pending or request_id in self._settled:
                self._counts.duplicate += 1
            else:
                self._pending[request_id] = _Pending(prediction, now)
                label = self._early.pop(request_id, None)
                if label is not None:
                    self._join(request_id, label[0])
                self._bound()
            facts = self._stated()
        self._emit(facts)

    def labelled(self, request_id: str, label: Any) -> bool:
        """Note the truth about a prediction; whether it met one that waited for it.

        Examples
        --------
        >>> monitor = ConceptDriftMonitor()
        >>> monitor.predicted("r1", "spam")
        >>> monitor.labelled("r1", "ham"), monitor.labelled("r1", "ham")
        (True, False)
        >>> monitor.counts().duplicate
        1
        """
        with self._lock:
            now = self._aged()
            joined = self._labelled(request_id, label, now)
            facts = self._stated()
        self._emit(facts)
        return joined

    def observe(self, event: PredictionServed) -> None:
        """Hear a served prediction: :meth:`predicted` by its ``request_id``.

        Examples
        --------
        >>> from prodml.types import Prediction
        >>> stream, monitor = Stream(), ConceptDriftMonitor()
        >>> unsubscribe = stream.subscribe(PredictionServed, monitor.observe)
        >>> answer = Prediction(0.5, "r1")
        >>> stream.emit(PredictionServed(at=0.0, source="api", prediction=answer, features={}))
        >>> monitor.labelled("r1", 0.5)
        True
        """
        self.predicted(event.prediction.request_id, event.prediction.value)

    # -- what is asked ----------------------------------------------------------------------

    @property
    def drift_detected(self) -> bool:
        """Whether the last error heard completed the evidence of a change."""
        return self._drift

    @property
    def warning(self) -> bool:
        """Whether any detector that can warn does."""
        return any(detector.warning for detector in self.detectors)

    def counts(self) -> ConceptCounts:
        """What became of predictions and labels so far.

        Examples
        --------
        >>> ConceptDriftMonitor().counts().waiting
        0
        """
        with self._lock:
            self._aged()
            facts, waiting, early = self._stated(), len(self._pending), len(self._early)
            known = asdict(self._counts) | {"waiting": waiting, "early": early}
        self._emit(facts)
        return ConceptCounts(**known)

    # -- inside, under the lock ---------------------------------------------------------------

    def _labelled(self, request_id: str, label: Any, now: float) -> bool:
        found = self._pending.get(request_id)
        if found is not None and found.error is None:
            self._join(request_id, label)
            return True
        if found is not None or request_id in self._early:
            self._counts.duplicate += 1
        elif request_id in self._settled:
            self._unwanted(request_id)
        else:
            self._early[request_id] = (label, now)
            self._bound()
        return False

    def _join(self, request_id: str, label: Any) -> None:
        found = self._pending[request_id]
        found.error = self._judged(found.prediction, label)
        self._counts.joined += 1
        if self.order == "label":
            self._release(request_id)
        else:
            self._advance()

    def _judged(self, prediction: Any, label: Any) -> float:
        if self.error is None and is_missing(label):
            # Nobody knows the truth yet: that is no error of the model.
            return math.nan
        try:
            wrong = prediction != label if self.error is None else self.error(prediction, label)
            return number_of(wrong)
        except Exception:
            # A pair that cannot be judged is counted; it must not hold up the others.
            return math.nan

    def _advance(self) -> None:
        """Hear what is labelled at the head of the queue."""
        while self._pending:
            oldest = next(iter(self._pending))
            if self._pending[oldest].error is None:
                return
            self._release(oldest)

    def _release(self, request_id: str) -> None:
        """Settle the prediction, and hear its error if it has one."""
        error = self._pending.pop(request_id).error
        self._settled[request_id] = error is not None
        if len(self._settled) > self.max_pending:
            self._settled.popitem(last=False)
        if error is not None:
            self._hear(error)

    def _aged(self) -> float:
        """Give up what has waited too long; the time."""
        now = self.clock.monotonic()
        limit = now - self.max_age
        while self._pending and next(iter(self._pending.values())).since < limit:
            self._counts.expired += self._give_up()
        while self._early and next(iter(self._early.values()))[1] < limit:
            self._early.popitem(last=False)
            self._counts.unmatched += 1
        return now

    def _bound(self) -> None:
        while len(self._pending) > self.max_pending:
            self._counts.evicted += self._give_up()
        while len(self._early) > self.max_pending:
            self._early.popitem(last=False)
            self._counts.unmatched += 1

    def _give_up(self) -> bool:
        """Settle the oldest prediction; whether its label never came."""
        oldest = next(iter(self._pending))
        unlabelled = self._pending[oldest].error is None
        self._release(oldest)
        self._advance()
        return unlabelled

    def _unwanted(self, request_id: str) -> None:
        if self._settled[request_id]:
            self._counts.duplicate += 1
        else:
            self._counts.late += 1

    def _hear(self, error: float) -> None:
        if not math.isfinite(error):
            self._counts.invalid += 1
            return
        self._errors += 1
        self._total += error
        self._recent.append(error)
        found = [detector.update(error) for detector in self.detectors]
        self._drift = any(found)
        if self._drift:
            self._facts.append(self._fact(self.detectors[found.index(True)]))
            self._renew(found)

    def _renew(self, found: list[bool]) -> None:
        """One change is one fact: those that have not found it do not find it again."""
        self._errors, self._total = 0, 0.0
        self._recent.clear()
        for detector, own in zip(self.detectors, found, strict=True):
            if not own:
                detector.reset()

    def _means(self, detector: StreamDetector) -> tuple[float, float, bool]:
        """Mean error before the change and since, and whether it has risen."""
        since = _since(list(self._recent))
        current = sum(since) / len(since)
        before = (self._total - sum(since)) / max(1, self._errors - len(since))
        rose = current > before
        if isinstance(detector, RankCUSUM) and detector.on == "location" and detector.rose != rose:
            # It knew the errors from elsewhere (fit, from_dict): all that were heard are new.
            return math.nan, sum(self._recent) / len(self._recent), detector.rose
        return before, current, rose

    def _fact(self, detector: StreamDetector) -> Event:
        before, current, rose = self._means(detector)
        method = type(detector).__name__
        at, what = self.clock.time(), "accuracy" if self.error is None else "error"
        if rose:
            low, high = (before, current) if self.error else (1.0 - before, 1.0 - current)
            return PerformanceDropped(
                at=at, source=self.name, metric=what, reference=low, current=high
            )
        return DriftDetected(
            at=at,
            source=self.name,
            score=before - current,
            effects={"error": before - current},
            reason=f"the mean error fell from {before:.4g} to {current:.4g} ({method})",
        )

    def _stated(self) -> list[Event]:
        facts, self._facts = self._facts, []
        return facts

    def _emit(self, facts: list[Event]) -> None:
        # Outside the lock: a listener may ask the monitor.
        for fact in facts:
            self.events.emit(fact)


def _since(errors: list[float]) -> list[float]:
    """Errors since the change: the cut whose two sides differ most, in standard errors."""
    if len(errors) < 2:
        return errors
    mean = sum(errors) / len(errors)
    sums = accumulate(error - mean for error in errors[:-1])
    cuts = range(1, len(errors))
    contrasts = (s * s / (k * (len(errors) - k)) for k, s in zip(cuts, sums, strict=True))
    cut, _ = max(zip(cuts, contrasts, strict=True), key=itemgetter(1))
    return errors[cut:]
