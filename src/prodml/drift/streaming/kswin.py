"""KSWIN: the newest values against a draw of those before them, by Kolmogorov-Smirnov."""

import math
import random
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, final

from prodml.drift.streaming.detector import StreamDetector, between, known, whole
from prodml.errors import BadConfiguration

__all__ = ["KSWIN"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class KSWIN(StreamDetector):
    """Kolmogorov-Smirnov windowing [1]_: finds any change of distribution, not only of mean.

    Of the last ``window_size`` values the newest ``stat_size`` are compared with as many
    drawn from the others, by the exact two-sample test.

    Parameters
    ----------
    arl
        Values between false alarms, at least: sets ``alpha`` to ``1 / (2 arl)``, since one
        value is tested each time and the first false alarm among ``n`` has a probability of
        ``n alpha`` at most.
    alpha
        Level of one test, instead of ``arl``.
    window_size, stat_size
        Values kept, and values of each side of the test.
    min_distance
        Distance of the distributions that a drift must exceed.
    seed
        Of the draws; begun anew after each change, so that the same stream gives the same
        verdicts.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    The exact distribution for two samples of one size is a sum of binomial coefficients
    [2]_, so the smallest distance that is drift is found once; no p-value is computed for a
    value.

    References
    ----------
    .. [1] Raab, Heusinger and Schleif (2020), "Reactive soft prototype computing for concept
       drift streams", Neurocomputing 416.
    .. [2] Gnedenko and Korolyuk (1951), "On the maximum discrepancy between two empirical
       distributions", Doklady Akademii Nauk 80.

    Examples
    --------
    >>> detector = KSWIN(seed=1)
    >>> stream = [i % 7 for i in range(500)] + [i % 7 + 4 for i in range(100)]
    >>> [i for i, x in enumerate(stream) if detector.update(x)]
    [550]
    """

    arl: float = 10_000.0
    alpha: float | None = None
    window_size: int = 300
    stat_size: int = 100
    min_distance: float = 0.1
    seed: int = 0
    _window: list[float] = field(default_factory=list, init=False, repr=False)
    _random: list[Any] = field(default_factory=list, init=False, repr=False)
    _draws: random.Random = field(init=False, repr=False, metadata={"derived": True})
    _critical: float = field(init=False, repr=False, metadata={"derived": True})

    def __post_init__(self) -> None:
        between("arl", self.arl, 1.0, math.inf)
        if self.alpha is not None:
            between("alpha", self.alpha, 0.0, 1.0)
        between("min_distance", self.min_distance, -1e-12, 1.0)
        whole("stat_size", self.stat_size, 2)
        whole("window_size", self.window_size, 4)
        whole("seed", self.seed, 0)
        if self.window_size < 2 * self.stat_size:
            raise BadConfiguration(
                f"window_size must be at least twice stat_size, {2 * self.stat_size}, "
                f"not {self.window_size}"
            )
        self._start()

    def _start(self) -> None:
        alpha = 0.5 / self.arl if self.alpha is None else self.alpha
        self._critical = critical_distance(self.stat_size, alpha)
        self._window = []
        self._draws = random.Random(self.seed)

    def _take(self, value: float) -> bool:
        window = self._window
        window.append(value)
        if len(window) > self.window_size:
            del window[0]
        if len(window) < self.window_size:
            return False
        older = self.window_size - self.stat_size
        drawn = [window[i] for i in self._draws.sample(range(older), self.stat_size)]
        distance = _distance(sorted(drawn), sorted(window[older:]))
        return distance >= self._critical and distance > self.min_distance

    def _keeping(self) -> None:
        version, words, _ = self._draws.getstate()
        self._random = [version, list(words)]

    def _restored(self) -> None:
        known("a window", len(self._window) <= self.window_size)
        known("a window", all(isinstance(value, float | int) for value in self._window))
        version, words = self._random
        self._draws.setstate((version, tuple(words), None))


def _distance(a: list[float], b: list[float]) -> float:
    """Largest gap between the distributions of two sorted samples of one size."""
    size = len(a)
    # At the last of equal values of a sample both distributions are what they are there.
    above = max(i + 1 - bisect_right(b, a[i]) for i in range(size))
    below = max(i + 1 - bisect_right(a, b[i]) for i in range(size))
    return max(above, below, 0) / size


@lru_cache(maxsize=64)
def critical_distance(size: int, alpha: float) -> float:
    """Smallest distance of two samples of ``size`` that has a p-value of at most ``alpha``.

    Infinite if none has.

    Examples
    --------
    >>> critical_distance(30, 0.005)
    0.4666666666666667
    """
    ways = math.comb(2 * size, size)
    for step in range(1, size + 1):
        # P(D >= step / size) = 2 (C(2n, n - h) - C(2n, n - 2h) + ...) / C(2n, n)
        terms = [
            (-1) ** (j - 1) * math.comb(2 * size, size - j * step)
            for j in range(1, size // step + 1)
        ]
        if 2 * sum(terms) <= alpha * ways:
            return step / size
    return math.inf
