"""The default detector: Page's CUSUM of ranks, with the run length that was asked."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import NormalDist
from typing import Literal, final

from prodml.drift.streaming.detector import StreamDetector, between, known, number_of, whole
from prodml.drift.streaming.run_length import log_threshold
from prodml.errors import BadConfiguration

__all__ = ["RankCUSUM", "edges_of", "scores_of"]

_CELLS = 64
# Standard errors of the learnt mean that chance is granted.
_GRANTED = 1.0
_LARGEST = StreamDetector.high
_QUANTILE = NormalDist().inv_cdf


@final
@dataclass(kw_only=True, slots=True, eq=False)
class RankCUSUM(StreamDetector):
    """A CUSUM [1]_ of normal scores: no unit, no tail and no distribution to assume.

    The first ``warm_up`` values (or those given to :meth:`fit`) are cut into cells at their
    quantiles.  A value then counts by the rank of its cell among all values so far, made a
    normal score [2]_ with mean 0 and variance 1.  Ranks do not know units, so N(100, 20),
    N(0, 1) and a lognormal have the very same run lengths; values that repeat (0 and 1,
    rounded ones) get a score each, and the threshold follows from the distribution of the
    scores.

    Parameters
    ----------
    arl
        Values between false alarms on average, at least.
    shift
        What is to be found fastest, in standard deviations of the scores, in (0, 4]: of a
        normal stream that is a shift of the mean in standard deviations.
    on
        ``"location"`` for larger or smaller values, ``"spread"`` for wider or narrower ones.
    warm_up
        Values learnt from before any verdict, and again after each change.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    Two sums go up by ``t (z - shift/2)`` and ``t (-z - shift/2)``, never below zero, where
    ``t`` makes ``E exp`` of the step one under the distribution learnt; each is then a sum
    of log-likelihood ratios, an e-detector in the sense of [3]_, and ``arl`` gives the
    threshold (:mod:`prodml.drift.streaming.run_length`).  The ranks are learnt anew each
    time the number of values has doubled, so slow drifts are found only while they are
    faster than that.

    References
    ----------
    .. [1] Page (1954), "Continuous inspection schemes", Biometrika 41.
    .. [2] Hackl and Ledolter (1991), "A control chart based on ranks", Journal of Quality
       Technology 23.
    .. [3] Shin, Ramdas and Rinaldo (2024), "E-detectors: a nonparametric framework for
       sequential change detection", New England Journal of Statistics in Data Science 2.

    Examples
    --------
    >>> detector = RankCUSUM()
    >>> stream = [i * i % 101 for i in range(1000)] + [i * i % 101 + 60 for i in range(100)]
    >>> [i for i, x in enumerate(stream) if detector.update(x)]
    [1012]
    """

    arl: float = 10_000.0
    shift: float = 0.5
    on: Literal["location", "spread"] = "location"
    warm_up: int = 200
    # Which of the sums it was that found the last change.
    rose: bool = field(default=False, init=False, repr=False)
    _learning: list[float] = field(default_factory=list, init=False, repr=False)
    _edges: list[float] = field(default_factory=list, init=False, repr=False)
    # Values by cell, now and when the ranks were last learnt.
    _counts: list[int] = field(default_factory=list, init=False, repr=False)
    _learnt: list[int] = field(default_factory=list, init=False, repr=False)
    # The value at which to learn anew.
    _due: int = field(default=0, init=False, repr=False)
    _rise: float = field(default=0.0, init=False, repr=False)
    _fall: float = field(default=0.0, init=False, repr=False)
    # Steps of both sums by cell, in thresholds.
    _up: list[float] = field(init=False, repr=False, metadata={"derived": True})
    _down: list[float] = field(init=False, repr=False, metadata={"derived": True})

    def __post_init__(self) -> None:
        between("arl", self.arl, 1.0, math.inf)
        between("shift", self.shift, 0.0, 4.0 + 1e-12)
        whole("warm_up", self.warm_up, 20)
        if self.on not in {"location", "spread"}:
            raise BadConfiguration(f"on must be 'location' or 'spread', not {self.on!r}")
        self._start()

    def fit(self, values: Iterable[float]) -> None:
        """Learn from ``values`` instead of the beginning of the stream; sums begin anew.

        Raises
        ------
        BadConfiguration
            Fewer than 20 of them can be used.

        Examples
        --------
        >>> detector = RankCUSUM()
        >>> detector.fit(range(1000))
        >>> any(detector.update(x) for x in (2000.0,) * 6)
        True
        """
        number = [x for x in map(self._usable, values) if x is not None]
        if len(number) < 20:
            raise BadConfiguration(f"fit needs at least 20 finite values, not {len(number)}")
        self._start()
        self._grade(number)

    def update(self, value: float) -> bool:
        """Take one value in; true if it completes the evidence of a change."""
        # Straight on, without a step into the parent: this is the hot path.
        if type(value) is not float:
            value = number_of(value)
        self.drift_detected = False
        if not -_LARGEST <= value <= _LARGEST:
            self.invalid += 1
            return False
        self.seen = seen = self.seen + 1
        if seen >= self._due:
            return self._learn(value)
        cell = bisect_right(self._edges, value)
        self._counts[cell] += 1
        rise = self._rise + self._up[cell]
        fall = self._fall + self._down[cell]
        # A third of the time of max().
        self._rise = rise if rise > 0.0 else 0.0  # noqa: FURB136
        self._fall = fall if fall > 0.0 else 0.0  # noqa: FURB136
        return (rise >= 1.0 or fall >= 1.0) and self._found(rose=rise >= fall)

    def _found(self, *, rose: bool) -> bool:
        self.drift_detected, self.rose = True, rose
        self.detections += 1
        self._start()
        return True

    def _start(self) -> None:
        self._learning, self._edges, self._counts, self._learnt = [], [], [], []
        self._up, self._down = [], []
        self._rise = self._fall = 0.0
        self._due = 0

    def _learn(self, value: float) -> bool:
        if not self._edges:
            self._learning.append(value)
            if len(self._learning) >= self.warm_up:
                self._grade(self._learning)
                self._learning = []
            return False
        self._learnt = [*self._counts]
        self._derive()
        return self._take(value)

    def _take(self, value: float) -> bool:
        self._due = self.seen + sum(self._counts)
        self.seen -= 1
        return self.update(value)

    def _grade(self, values: list[float]) -> None:
        self._edges = edges_of(sorted(values), _CELLS)
        self._counts = [0] * (len(self._edges) + 1)
        for value in values:
            self._counts[bisect_right(self._edges, value)] += 1
        self._learnt = [*self._counts]
        self._due = self.seen + len(values)
        self._derive()

    def _derive(self) -> None:
        spread = self.on == "spread"
        # A new value is as likely beyond all those learnt as between any two of them, and lies
        # there far from the middle.  Where the largest occurs twice, values repeat.
        ends = int(spread and self._learnt[-2] < 2)
        weights = [self._learnt[0] + ends, *self._learnt[1:-1], self._learnt[-1] + ends]
        scores = scores_of(weights, spread=spread)
        self._up = self._steps(scores, weights)
        self._down = self._steps([-score for score in scores], weights)

    def _steps(self, scores: list[float], weights: list[int]) -> list[float]:
        k = self.shift / 2.0
        # The mean is known to a standard error only: that much is granted to chance.
        sure = k - min(_GRANTED / math.sqrt(sum(self._learnt)), k / 2.0)
        t = _tilt(scores, weights, sure)
        # Both sums share the false alarms.
        limit = log_threshold(2.0 * self.arl, t * sure)
        return [t * (score - k) / limit for score in scores]

    def _restored(self) -> None:
        edges, counts, learnt = self._edges, self._counts, self._learnt
        known("values", all(isinstance(value, float | int) for value in self._learning))
        if not edges:
            known("cells without edges", not (counts or learnt or self._due))
            return
        if not len(counts) == len(learnt) == len(edges) + 1:
            raise ValueError("cells and edges do not match")
        known("edges", all(a < b for a, b in pairwise(edges)))
        pairs = zip(learnt, counts, strict=True)
        known("counts", all(type(a) is type(b) is int and 0 <= a <= b for a, b in pairs))
        known("counts", sum(learnt) > 0)
        known("a sum", 0.0 <= self._rise < 1.0 and 0.0 <= self._fall < 1.0)
        self._derive()


def edges_of(ordered: Sequence[float], cells: int) -> list[float]:
    """Where to cut: at quantiles, around values that repeat, and outside of all values.

    The first cell holds what is below the smallest value, the last what is above the largest.

    Examples
    --------
    >>> edges_of([0.0, 0.0, 1.0], 64)
    [0.0, 1.0, 1.0000000000000002]
    >>> len(edges_of(range(1000), 64))
    66
    """
    last, end = len(ordered) - 1, float(ordered[-1])
    cuts = {float(ordered[round(i * last / cells)]) for i in range(cells)}
    return sorted({*cuts, end, math.nextafter(end, math.inf)})


def scores_of(counts: Sequence[int], *, spread: bool = False) -> list[float]:
    """Normal score of each cell by its rank, with mean 0 and variance 1 over ``counts``.

    Examples
    --------
    >>> [round(score, 2) for score in scores_of([0, 90, 10, 0])]
    [-5.91, -0.33, 3.0, 5.72]
    """
    total, below, scores = sum(counts), 0, list[float]()
    for count in counts:
        # The middle rank; what was never seen stands a tenth of a value from the end.
        share = (below + count / 2.0) / total
        below += count
        scores.append(_QUANTILE(min(max(share, 0.1 / total), 1.0 - 0.1 / total)))
    if spread:
        scores = [score * score for score in scores]
    mean = sum(n * z for n, z in zip(counts, scores, strict=True)) / total
    squares = sum(n * (z - mean) ** 2 for n, z in zip(counts, scores, strict=True)) / total
    # A constant has no spread; what differs from it keeps the score of its rank.
    unit = math.sqrt(squares) if squares > 1e-12 else 1.0
    return [(score - mean) / unit for score in scores]


def _tilt(scores: list[float], counts: list[int], k: float) -> float:
    """``t > 0`` with ``E exp(t (z - k)) = 1``, by Newton from above."""
    pairs = [(n / sum(counts), z - k) for n, z in zip(counts, scores, strict=True) if n]
    largest = max(step for _, step in pairs)
    if largest <= 0.0:
        # Nothing seen has ever raised the sum.
        return 2.0 * k
    t = min(8.0 * k, 30.0 / largest)
    for _ in range(60):
        powers = [(p * math.exp(t * step), step) for p, step in pairs]
        value = sum(w for w, _ in powers) - 1.0
        slope = sum(w * step for w, step in powers)
        if slope <= 0.0:
            break
        step = value / slope
        t -= step
        if abs(step) <= 1e-9 * t:
            break
    return min(t, 4.0 * k) if t > 0.0 else 2.0 * k
