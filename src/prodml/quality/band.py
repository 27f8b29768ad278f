"""The reference's own performance: how good, how much it varies, how well it is estimated."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.quality.metric import Formula
from prodml.quality.task import Task

__all__ = ["Band", "band_of", "cross_fitted"]

Floats: TypeAlias = npt.NDArray[np.float64]

_FOLDS = 5
_LARGEST = 1e150


@dataclass(frozen=True, slots=True)
class Band:
    """What one metric does on the reference.

    ``reference`` is realised; ``offset`` is how far the estimate (of rows not fitted on) lies
    above it; ``spread`` and ``realised_spread`` are the standard deviations of estimate and
    realised metric between ``chunks`` consecutive chunks of ``size`` rows; ``stretch`` says by how
    much estimates miss more than their own sampling error explains, at least 1; ``rows`` is the
    whole.
    """

    reference: float
    offset: float
    spread: float
    realised_spread: float
    chunks: int
    size: float
    stretch: float
    rows: int

    @property
    def defined(self) -> bool:
        """Whether every number of it has a square: of errors too large to be squared none has."""
        numbers = (self.reference, self.offset, self.spread, self.realised_spread)
        return all(abs(number) < _LARGEST for number in numbers)

    def half(self, rows: int, alpha: float, more: float) -> float:
        """Half width of the band for ``rows`` rows at level ``alpha``, two-sided.

        The spread shrinks with the root of the rows; the reference's mean has an error of its
        own; the quantile is Student's, since the spread is itself estimated from few chunks.
        ``more`` is the variance of what was learnt from labels.
        """
        from scipy.special import stdtrit

        quantile = float(stdtrit(self.chunks - 1, 1.0 - alpha / 2.0))
        variance = self.spread**2 * (self.size / rows + self.size / self.rows)
        return quantile * math.sqrt(variance + more)


def cross_fitted(task: Task, rows: Any, codes: Floats, seed: int) -> Any:
    """What can be expected of every row by a model that was not fitted on it."""
    folds = np.random.default_rng([seed, 3]).permutation(len(rows)) % _FOLDS
    parts: list[Any] = []
    order: list[Any] = []
    for k in range(_FOLDS):
        held, seen = np.flatnonzero(folds == k), np.flatnonzero(folds != k)
        parts.append(task.fit(rows.take(seen), codes[seen])(rows.take(held)))
        order.append(held)
    index = np.argsort(np.concatenate(order))
    return _joined(parts).take(index)


def _joined(parts: list[Any]) -> Any:
    cls = type(parts[0])
    names = cls.__dataclass_fields__
    return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def band_of(formula: Formula, rows: Any, truth: Any, expected: Any, chunks: int) -> Band:
    """The band of one metric; NaN where the reference does not define it."""
    found: list[tuple[float, float, float]] = []
    for index in np.array_split(np.arange(len(rows)), chunks):
        part = rows.take(index)
        real = formula.of(part, truth.take(index))[0]
        guess, error = formula.of(part, expected.take(index))
        if not math.isnan(real + guess):
            found.append((guess, real, (real - guess) / error if error else 0.0))
    reference = formula.of(rows, truth)[0]
    offset = formula.of(rows, expected)[0] - reference
    if len(found) < 2:
        return Band(reference, offset, 0.0, 0.0, len(found), 0.0, 1.0, len(rows))
    # Misses less their mean: a common offset is taken out of every estimate.
    spread, realised, missed = np.std(found, axis=0, ddof=1).tolist()
    return Band(
        reference=reference,
        offset=offset,
        spread=spread,
        realised_spread=realised,
        chunks=len(found),
        size=len(rows) / chunks,
        stretch=max(1.0, missed),
        rows=len(rows),
    )
