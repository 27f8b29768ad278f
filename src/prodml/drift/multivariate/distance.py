"""Two clouds of points: maximum mean discrepancy and energy distance, tested by permutation.

Both are sums over pairs of rows.  A permutation deals the rows out anew and keeps the pairs, so
one pass over the matrix of pairs, a block of rows at a time, serves all permutations: it is never
held whole.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, final

import numpy as np
import numpy.typing as npt

from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.encoding import Encoder, Sheet, columns_of, drawn
from prodml.drift.multivariate.verdict import (
    MultivariateDrift,
    between,
    check_settings,
    unfit,
    whole,
)
from prodml.drift.sample import Kind
from prodml.errors import BadConfiguration

__all__ = ["DistanceDrift", "PermutationResult", "energy_distance", "mmd"]

Floats: TypeAlias = npt.NDArray[np.float64]
Method: TypeAlias = Literal["energy", "mmd"]

_BLOCK = 256
_ROWS = 1000
_PERMUTATIONS = 499
# Pairs of this many rows say where the median distance lies.
_MEDIAN_ROWS = 500
# Pairs nearer than this, as a share of their squared lengths, lose digits in a product.
_NEAR = 1e-6
# Squares of differences stay finite.
_LARGEST = 1e150


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationResult:
    """A squared distance of two samples and what permutations say about it.

    Parameters
    ----------
    statistic
        The squared distance.
    p_value
        ``(1 + permutations at least as far) / (1 + permutations)`` [1]_: never 0.
    effect
        The distance as a share of the largest it could be between samples with these distances
        inside, in [0, 1]; if a share of the rows moved far away, about that share.
    rows
        Rows of either sample that were used.

    References
    ----------
    .. [1] Phipson and Smyth (2010), *Permutation p-values should never be zero*, Statistical
       Applications in Genetics and Molecular Biology 9.

    Examples
    --------
    >>> result = energy_distance([[0.0], [1.0]] * 20, [[5.0], [6.0]] * 20, permutations=99)
    >>> result.p_value, result.rows
    (0.01, (40, 40))
    """

    statistic: float
    p_value: float
    effect: float
    rows: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Mean of the pairs within and between the samples, for every dealing; the real one first."""

    within_first: Floats
    within_second: Floats
    between: Floats


def mmd(
    first: Any,
    second: Any,
    *,
    bandwidth: float | None = None,
    permutations: int = _PERMUTATIONS,
    max_rows: int = _ROWS,
    seed: int = 0,
) -> PermutationResult:
    """Squared maximum mean discrepancy, unbiased [1]_, with a Gaussian kernel.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)`` over different rows, where ``k(x, y) = exp(-|x -
    y|^2 / (2 h^2))``.  May come out below 0.

    Parameters
    ----------
    first, second
        Arrays (rows, columns) of finite numbers, in units that may be compared across columns.
    bandwidth
        ``h``; the default is the median distance between rows of both samples together, of at
        most 500 of them.
    permutations
        At least 1; the smallest p-value is ``1 / (1 + permutations)``.
    max_rows
        Rows drawn from either sample, at least 2.  Memory grows with ``max_rows *
        (permutations + 512)`` numbers, time with ``max_rows ** 2 * permutations``.
    seed
        Of draws and permutations.

    Raises
    ------
    ValueError
        Arrays of other shapes, fewer than two rows, or numbers that are not finite.
    BadConfiguration
        A setting makes no sense.

    References
    ----------
    .. [1] Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), *A kernel two-sample test*,
       Journal of Machine Learning Research 13, lemma 6.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> result = mmd(rng.normal(size=(200, 2)), rng.normal(0.5, size=(200, 2)))
    >>> result.p_value, 0.1 < result.effect < 0.3
    (0.002, True)
    """
    rows, size, rng = _samples(first, second, permutations, max_rows, seed)
    width = _bandwidth(rows, rng) if bandwidth is None else bandwidth
    between("bandwidth", width, math.inf)
    if not 0.0 < width * width < math.inf:
        raise BadConfiguration(f"bandwidth {width!r} has no square: another unit is needed")
    deals = _deals(len(rows), size, permutations, rng)
    sums = _sums(rows, deals, lambda squares: np.exp(squares / (-2.0 * width**2)), self_pair=1.0)
    squared = sums.within_first + sums.within_second - 2.0 * sums.between
    return _result(squared, sums.within_first[0] + sums.within_second[0], size, len(rows))


def energy_distance(
    first: Any,
    second: Any,
    *,
    permutations: int = _PERMUTATIONS,
    max_rows: int = _ROWS,
    seed: int = 0,
) -> PermutationResult:
    """Squared energy distance [1]_: ``2 E|x - y| - E|x - x'| - E|y - y'|``.

    Means over all pairs, those of a row with itself included, as in the paper; in one dimension
    the square of :func:`scipy.stats.energy_distance`.  Parameters and errors are those of
    :func:`mmd`; nothing needs to be chosen.

    References
    ----------
    .. [1] Székely and Rizzo (2013), *Energy statistics: a class of statistics based on
       distances*, Journal of Statistical Planning and Inference 143.

    Examples
    --------
    >>> round(energy_distance([[0.0], [1.0]], [[2.0], [3.0]]).statistic, 9)
    3.0
    """
    rows, size, rng = _samples(first, second, permutations, max_rows, seed)
    sums = _sums(rows, _deals(len(rows), size, permutations, rng), np.sqrt, self_pair=None)
    squared = 2.0 * sums.between - sums.within_first - sums.within_second
    return _result(squared, 2.0 * sums.between[0], size, len(rows))


def _samples(
    first: Any, second: Any, permutations: int, max_rows: int, seed: int
) -> tuple[Floats, int, np.random.Generator]:
    for name, value, least in (("permutations", permutations, 1), ("max_rows", max_rows, 2)):
        whole(name, value, least)
    rng = np.random.default_rng(seed)
    both: list[Floats] = []
    for raw in (first, second):
        rows = np.asarray(raw, dtype=np.float64)
        if rows.ndim != 2 or len(rows) < 2 or (both and both[0].shape[1] != rows.shape[1]):
            raise ValueError(f"two arrays (rows, columns) of equal width are needed: {rows.shape}")
        if not np.isfinite(rows).all():
            raise ValueError("rows must be finite: count and impute what is missing first")
        if np.abs(rows).max(initial=0.0) > _LARGEST:
            raise ValueError(f"numbers beyond {_LARGEST:g} have no squares: divide by their spread")
        both.append(rows if len(rows) <= max_rows else rows[_some(rng, len(rows), max_rows)])
    return np.vstack(both), len(both[0]), rng


def _some(rng: np.random.Generator, rows: int, count: int) -> Any:
    return rng.choice(rows, count, replace=False)


def _deals(rows: int, size: int, permutations: int, rng: np.random.Generator) -> Floats:
    """A column a dealing, 1 for the rows of the first sample; the real dealing first."""
    deals = np.zeros((rows, permutations + 1))
    deals[:size, 0] = 1.0
    for column in range(1, permutations + 1):
        deals[rng.permutation(rows)[:size], column] = 1.0
    return deals


def _blocks(rows: Floats) -> Iterator[tuple[slice, Floats]]:
    """Squared distances of a block of rows to all."""
    # Differences of large numbers are not distances: centred first.
    centred = rows - rows.mean(axis=0)
    lengths = (centred**2).sum(axis=1)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        squares = lengths[block, None] + lengths - 2.0 * (centred[block] @ centred.T)
        near = np.nonzero(squares < _NEAR * (lengths[block, None] + lengths))
        squares[near] = _exact(rows, near[0] + start, near[1])
        yield block, squares


def _exact(rows: Floats, one: Any, other: Any) -> Floats:
    total = np.zeros(len(one))
    # A column at a time: all pairs of a block may be near each other.
    for column in rows.T:
        total += (column[one] - column[other]) ** 2
    return total


def _bandwidth(rows: Floats, rng: np.random.Generator) -> float:
    if len(rows) > _MEDIAN_ROWS:
        rows = rows[_some(rng, len(rows), _MEDIAN_ROWS)]
    squares = np.vstack([block for _, block in _blocks(rows)])
    apart = np.sqrt(squares[np.triu_indices(len(rows), 1)])
    # More than half of the rows alike: the mean of the others, or anything when all are.
    return float(np.median(apart)) or float(apart.mean()) or 1.0


def _sums(
    rows: Floats,
    deals: Floats,
    pair: Callable[[Floats], Floats],
    *,
    self_pair: float | None,
) -> _Sums:
    """Means over pairs; ``self_pair``, the value of a row with itself, leaves those out."""
    inside = np.zeros(deals.shape[1])
    of_first = np.zeros(deals.shape[1])
    total = 0.0
    for block, squares in _blocks(rows):
        values = pair(squares)
        sums = values.sum(axis=1)
        total += float(sums.sum())
        of_first += sums @ deals[block]
        inside += ((values @ deals) * deals[block]).sum(axis=0)
    m = float(deals[:, 0].sum())
    n = len(rows) - m
    other = total - 2.0 * of_first + inside
    own = 0.0 if self_pair is None else self_pair
    fewer = 0.0 if self_pair is None else 1.0
    return _Sums(
        (inside - own * m) / (m * (m - fewer)),
        (other - own * n) / (n * (n - fewer)),
        (of_first - inside) / (m * n),
    )


def _result(squared: Floats, most: float, size: int, rows: int) -> PermutationResult:
    found, dealt = float(squared[0]), squared[1:]
    # Dealings that give the same sum in another order are as far, whatever their last digits.
    least = found - 1e-10 * max(abs(found), abs(most))
    p_value = (1.0 + float((dealt >= least).sum())) / (1.0 + len(dealt))
    effect = math.sqrt(min(1.0, max(0.0, found / most))) if most > 0.0 else 0.0
    return PermutationResult(
        statistic=found, p_value=p_value, effect=effect, rows=(size, rows - size)
    )


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DistanceDrift:
    """Is the cloud of rows where it was?  :func:`energy_distance` or :func:`mmd` on a table.

    Columns are standardised by both samples together, categories become one column a level, and
    what is missing is imputed and counted.  The effect is :attr:`PermutationResult.effect`.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`; at most
        ``max_rows`` of its rows, drawn at random, are kept.
    feature_names, kinds
        Columns to compare (default all); kinds as for :class:`DriftDetector`.
    method
        ``"energy"`` (nothing to choose) or ``"mmd"`` (median heuristic).
    permutations, max_rows, seed
        As for :func:`mmd`.
    alpha, min_effect, min_rows
        As for :class:`DriftDetector`.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or the reference cannot be fitted.

    Notes
    -----
    Permutations take rows for independent; rows that come in blocks alarm more often.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> check = DistanceDrift(rng.normal(size=(500, 3)))
    >>> result = check.detect_drift(rng.normal(0.4, 1.0, size=(300, 3)))
    >>> result.drift_detected, result.p_value
    (True, 0.002)
    """

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(default=None, kw_only=False)
    method: Method = "energy"
    permutations: int = _PERMUTATIONS
    max_rows: int = _ROWS
    seed: int = 0
    alpha: float = 0.05
    min_effect: float = 0.05
    min_rows: int = 30
    kinds: Mapping[str, Kind] | None = field(default=None, repr=False)
    _encoder: Encoder = field(init=False, repr=False)
    _rows: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in {"energy", "mmd"}:
            raise BadConfiguration(f"method must be 'energy' or 'mmd', not {self.method!r}")
        columns = columns_of(self.reference, self.feature_names)
        encoder, sheet = Encoder.fit(columns, None, self.kinds, onehot=True)
        check_settings(self, len(sheet.values))
        whole("max_rows", self.max_rows, self.min_rows)
        # With fewer no p-value can fall below alpha.
        whole("permutations", self.permutations, math.ceil(1.0 / self.alpha))
        self._encoder = encoder
        self._rows = drawn(columns, self.max_rows, np.random.default_rng(self.seed))
        self.reference = None
        self.feature_names = encoder.names

    def detect_drift(self, current: Any) -> MultivariateDrift:
        """Compare ``current`` with the reference.

        Raises
        ------
        TypeError
            ``current`` is no table at all.

        Examples
        --------
        >>> check = DistanceDrift({"x": [float(i % 50) for i in range(300)]}, method="mmd")
        >>> check.detect_drift({"x": [float(i % 50) for i in range(200)]}).level.value
        'none'
        """
        sheet = self._encoder.read(current)
        found = unfit(self.method, sheet, self.min_rows, self.min_effect)
        return found or self._compared(sheet, columns_of(current, self._encoder.names))

    def _compared(self, sheet: Sheet, current: dict[str, Any]) -> MultivariateDrift:
        rng = np.random.default_rng([self.seed, 1])
        old, new = self._encoder.pair(self._rows, drawn(current, self.max_rows, rng))
        measure = cast("Any", mmd if self.method == "mmd" else energy_distance)
        test: PermutationResult = measure(
            old.values,
            new.values,
            permutations=self.permutations,
            max_rows=self.max_rows,
            seed=self.seed,
        )
        return MultivariateDrift(
            method=self.method,
            level=DriftLevel.NONE,
            statistic=test.statistic,
            p_value=test.p_value,
            effect=test.effect,
            floor=self.min_effect,
            what=f"{self.method} distance {math.sqrt(max(0.0, test.statistic)):.3g}",
            findings=sheet.findings,
            reference_rows=old.rows,
            current_rows=sheet.rows,
        ).judged(test.p_value, self.alpha)
