"""What a guard says, what it says it from, and how long evidence counts.

A guard turns what it sees into *sums*: counts, and logarithms of the wealth of bets against
the challenger.  Sums of several workers add up to the sums of all, so any of them may judge.

If the challenger is harmless, each bet is fair or worse, its wealth is a non-negative
supermartingale, and by Ville's inequality [1]_ the wealth *ever* reaches ``1 / alpha`` with
probability at most ``alpha``, however often one looks and whenever one stops.  The weighted
mean of such wealths is one as well.  That is used twice: over stakes, because the size of a
harm is not known, and over starting points, because its beginning is not [2]_: a version
that did well for a day has lost the old bets for good, those of the last era have not.

References
----------
.. [1] Ville (1939); Ramdas, Grunwald, Vovk and Shafer (2023), "Game-theoretic statistics and
   safe anytime-valid inference", Statistical Science 38(4).
.. [2] Shin, Ramdas and Rinaldo (2023), "E-detectors: a nonparametric framework for
   sequential change detection", section 4, here with weights that sum to one, which bounds
   the probability of a false alarm and not only their rate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, TypeAlias

from prodml.errors import BadConfiguration

__all__ = [
    "ARMS",
    "Finding",
    "Guardrail",
    "Seen",
    "Sequential",
    "Tally",
    "Verdict",
    "added",
    "log_sum",
]

Tally: TypeAlias = dict[str, float]
"""Sums by name.  ``"n"`` counts the occasions on which the challenger was judged; ``"heard"`` is
there if a guard that compares arms was told of either, be it too little to judge by."""

ARMS: Final = frozenset({"canary", "stable"})
"""Arms that requests are drawn into by lot; others cannot be compared."""

# Share of the evidence's weight that later starting points have together.
_LATER = 0.25
# Beyond a million the odds say nothing but their length.
_MILLION = math.log(1e6)


class Verdict(Enum):
    """What a guard can say; ``UNKNOWN`` never moves a rollout.

    Examples
    --------
    >>> Verdict("worse") is Verdict.WORSE
    True
    """

    WORSE = "worse"
    FINE = "fine"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with its reason in words and numbers.

    ``numbers`` are those of the present step; always there are ``n`` (occasions on which the
    challenger was judged), ``in_all`` (those of all steps) and ``evidence`` (0 says nothing,
    1 shows harm: the logarithm of the odds against the challenger in units of the limit).
    ``heard`` is there if the guard was told of an arm, even if of the other one alone.

    Examples
    --------
    >>> Finding(Verdict.FINE, "500 pairs").verdict.value
    'fine'
    """

    verdict: Verdict
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)


def added(tallies: Iterable[Mapping[str, float]]) -> Tally:
    """Sum of ``tallies``, name by name.

    Examples
    --------
    >>> added([{"n": 1}, {"n": 2, "bad": 1}])
    {'n': 3, 'bad': 1}
    """
    total: Tally = {}
    for tally in tallies:
        for name, value in tally.items():
            total[name] = total.get(name, 0) + value
    return total


def log_sum(logs: Iterable[float]) -> float:
    """Logarithm of the sum of numbers given by their logarithms.

    Examples
    --------
    >>> round(log_sum([1000.0, 1000.0]) - 1000.0, 6)
    0.693147
    """
    logs = list(logs)
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen for one guard, by era: a stretch of a step, numbered through the rollout.

    ``since`` is the era with which the present step began.

    Examples
    --------
    >>> seen = Seen({1: {"n": 500}, 2: {"n": 20}}, since=2)
    >>> seen.step, seen.whole
    ({'n': 20}, {'n': 520})
    """

    eras: Mapping[int, Mapping[str, float]]
    since: int = 1

    @property
    def step(self) -> Tally:
        """Sums of the present step."""
        return added(tally for era, tally in self.eras.items() if era >= self.since)

    @property
    def whole(self) -> Tally:
        """Sums of the whole rollout."""
        return added(self.eras.values())

    def tails(self) -> list[tuple[float, Tally]]:
        """Sums from each era to the end, with the weight of starting there.

        Examples
        --------
        >>> Seen({1: {"n": 500}, 2: {"n": 20}}).tails()
        [(0.75, {'n': 520}), (0.125, {'n': 20})]
        """
        starts = sorted(self.eras)
        previous = [0, *starts][:-1]
        found, tail = list[tuple[float, Tally]](), Tally()
        for era, before in zip(reversed(starts), reversed(previous), strict=True):
            tail = added([self.eras[era], tail])
            # Nothing was seen in the eras in between: their tail is this one.
            found.append((_begun(era) - _begun(before), tail))
        return found[::-1]


def _begun(era: int) -> float:
    """Weight of all starting points up to ``era``: 3/4, then 1/8, 1/24, ..., one in all."""
    return 1.0 - _LATER / era if era else 0.0


class Guardrail(Protocol):
    """What a rollout asks of a guard; ``tally`` holds the sums of the present era."""

    name: str
    tally: Tally

    def judge(self, seen: Seen | None = None) -> Finding:
        """What follows from ``seen``, by default from what this guard saw itself."""
        ...

    def renew(self, *, step: bool) -> None:
        """Begin an era: sums from zero; a new ``step`` also drops what is half seen."""
        ...


@dataclass(slots=True, kw_only=True)
class Sequential:
    """Settings and judgement that all guards share; each says what it bets on."""

    name: str
    alpha: float = 0.01
    enough: int = 500
    tally: Tally = field(default_factory=dict[str, float], init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise BadConfiguration(f"alpha must lie in (0, 1), not {self.alpha}")
        if self.enough < 1:
            raise BadConfiguration(f"enough must be at least 1, not {self.enough}")
        if not self.name:
            raise BadConfiguration(f"{type(self).__name__} needs a name")

    @property
    def count(self) -> int:
        """Occasions seen by this guard itself in this era."""
        return int(self.tally.get("n", 0))

    def renew(self, *, step: bool) -> None:
        """Begin an era, and with ``step`` a new step."""
        self.tally = {}
        if step:
            self._drop()

    def judge(self, seen: Seen | None = None) -> Finding:
        """What follows from ``seen``, by default from what this guard saw itself."""
        seen = Seen({1: self.tally}) if seen is None else seen
        step, limit = seen.step, -math.log(self.alpha)
        evidence = self._evidence(seen)
        told, numbers = self._told(step) if step.get("n") else ("nothing seen in this step", {})
        numbers |= {"n": step.get("n", 0), "in_all": seen.whole.get("n", 0)}
        if "heard" in step:
            numbers["heard"] = 1
        numbers["evidence"] = evidence / limit
        if evidence >= limit:
            reason = f"{told}; odds {_odds(evidence)} : 1 against the challenger"
            return Finding(Verdict.WORSE, reason, numbers)
        if numbers["n"] < self.enough:
            left = f"{told}; {numbers['n']:g} of {self.enough} in this step"
            return Finding(Verdict.UNKNOWN, left, numbers)
        return Finding(Verdict.FINE, f"{told}; no sign of harm", numbers)

    def _evidence(self, seen: Seen) -> float:
        """Logarithm of the mean wealth over stakes and starting points."""
        # What has not begun has kept its money: the weight that is left counts with wealth one.
        terms = [math.log(1.0 - _begun(max(seen.eras, default=0)))]
        for start, tail in seen.tails():
            terms += [math.log(start * weight) + wealth for weight, wealth in self._bets(tail)]
        return log_sum(terms)

    def _bets(self, tally: Tally) -> Sequence[tuple[float, float]]:
        """Weight and logarithm of the wealth of each stake."""
        raise NotImplementedError

    def _told(self, step: Tally) -> tuple[str, Tally]:
        """What was seen in a step, in words and numbers."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Forget what is half seen."""


def _odds(evidence: float) -> str:
    return f"{math.exp(evidence):,.0f}" if evidence < _MILLION else "over a million"
