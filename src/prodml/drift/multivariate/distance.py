"""Two clouds of points: maximum mean discrepancy and energy distance, tested by permutation.

Both are sums over pairs of rows.  A permutation deals the rows out anew and keeps the pairs, so
one pass over the matrix of pairs, some rows at a time, serves all permutations: it is never held
whole.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.dealing import Dealt, share_as_far
from prodml.drift.multivariate.encoding import Encoder, Sheet, columns_of, drawn
from prodml.drift.multivariate.method import Method
from prodml.drift.multivariate.verdict import (
    MultivariateDrift,
    between,
    check_settings,
    undecided,
    unfit,
    whole,
)
from prodml.errors import BadConfiguration

__all__ = ["DistanceDrift", "PermutationResult", "energy_distance", "mmd"]

Floats: TypeAlias = npt.NDArray[np.float64]
Measure: TypeAlias = Literal["energy", "mmd"]

# Pairs whose distances are held at a time.
_PAGE = 1 << 18
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
        inside, in [0, 1], without what chance alone makes of it; if a share of the rows moved far
        away, about that share.
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
class _Pairs:
    """Sums over pairs of rows for every dealing, the real one first.

    ``first`` is how many rows the first sample has, ``inside`` the sum within it, ``of_first``
    that of its rows with all.
    """

    first: Floats
    inside: Floats
    of_first: Floats
    total: float
    rows: int

    def means(self, itself: float | None) -> tuple[Floats, Floats, Floats]:
        """Within first and second, and between; ``itself``, of a row with itself, leaves it out."""
        own, fewer = (0.0, 0) if itself is None else (itself, 1)
        m, n = self.first, self.rows - self.first
        other = self.total - 2.0 * self.of_first + self.inside
        return (
            (self.inside - own * m) / np.maximum(m * (m - fewer), 1.0),
            (other - own * n) / np.maximum(n * (n - fewer), 1.0),
            (self.of_first - self.inside) / (m * n),
        )


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
    pairs = _pairs(rows, _deals(len(rows), size, permutations, rng), _kernel(width))
    return _of_kernel(pairs, size)


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
    return _of_distance(_pairs(rows, _deals(len(rows), size, permutations, rng), _root), size)


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


def _pages(rows: Floats) -> Iterator[tuple[slice, Floats]]:
    """Squared distances of some rows to all."""
    # Differences of large numbers are not distances: centred first.
    centred = rows - rows.mean(axis=0)
    lengths = (centred**2).sum(axis=1)
    height = max(1, _PAGE // len(rows))
    for start in range(0, len(rows), height):
        page = slice(start, start + height)
        squares = centred[page] @ centred.T
        squares *= -2.0
        both = lengths[page, None] + lengths
        squares += both
        both *= _NEAR
        near = np.nonzero(squares < both)
        squares[near] = _exact(rows, near[0] + start, near[1])
        yield page, squares


def _exact(rows: Floats, one: Any, other: Any) -> Floats:
    total = np.zeros(len(one))
    # A column at a time: all pairs of a block may be near each other.
    for column in rows.T:
        total += (column[one] - column[other]) ** 2
    return total


def _bandwidth(rows: Floats, rng: np.random.Generator) -> float:
    if len(rows) > _MEDIAN_ROWS:
        rows = rows[_some(rng, len(rows), _MEDIAN_ROWS)]
    squares = np.vstack([page for _, page in _pages(rows)])
    apart = np.sqrt(squares[np.triu_indices(len(rows), 1)])
    # More than half of the rows alike: the mean of the others, or anything when all are.
    return float(np.median(apart)) or float(apart.mean()) or 1.0


def _root(squares: Floats) -> Floats:
    return np.asarray(np.sqrt(squares, out=squares))


def _kernel(width: float) -> Callable[[Floats], Floats]:
    def kernel(squares: Floats) -> Floats:
        squares /= -2.0 * width**2
        return np.asarray(np.exp(squares, out=squares))

    return kernel


def _pairs(rows: Floats, deals: Floats, pair: Callable[[Floats], Floats]) -> _Pairs:
    """Sums over pairs of rows that are dealt one by one."""
    inside = np.zeros(deals.shape[1])
    of_first = np.zeros(deals.shape[1])
    total = 0.0
    for page, squares in _pages(rows):
        values = pair(squares)
        sums = values.sum(axis=1)
        total += float(sums.sum())
        of_first += sums @ deals[page]
        inside += ((values @ deals) * deals[page]).sum(axis=0)
    return _Pairs(deals.sum(axis=0), inside, of_first, total, len(rows))


def _block_pairs(dealt: Dealt, pair: Callable[[Floats], Floats]) -> _Pairs:
    """The same of rows that are dealt by block: sums over pairs of blocks are all they need."""
    starts = np.flatnonzero(np.diff(dealt.codes, prepend=-1))
    sums = np.zeros((dealt.blocks, len(starts)))
    for page, squares in _pages(dealt.rows):
        np.add.at(sums, dealt.codes[page], np.add.reduceat(pair(squares), starts, axis=1))
    ways = dealt.ways.astype(np.float64)
    sizes = np.bincount(dealt.codes, minlength=dealt.blocks)
    return _Pairs(
        sizes @ ways,
        ((sums @ ways) * ways).sum(axis=0),
        sums.sum(axis=1) @ ways,
        float(sums.sum()),
        len(dealt.rows),
    )


def _of_distance(pairs: _Pairs, size: int) -> PermutationResult:
    first, second, between = pairs.means(None)
    far = 2.0 * between - first - second
    # Of the size what two samples alike would show is taken out; the statistic is the paper's.
    first, second, between = pairs.means(0.0)
    rid = 2.0 * between - first - second
    return _result(far, float(rid[0]), 2.0 * float(between[0]), size, pairs.rows)


def _of_kernel(pairs: _Pairs, size: int) -> PermutationResult:
    first, second, between = pairs.means(1.0)
    far = first + second - 2.0 * between
    return _result(far, float(far[0]), float(first[0] + second[0]), size, pairs.rows)


def _result(far: Floats, found: float, most: float, size: int, rows: int) -> PermutationResult:
    return PermutationResult(
        statistic=float(far[0]),
        p_value=share_as_far(far, most),
        effect=math.sqrt(min(1.0, max(0.0, found / most))) if most > 0.0 else 0.0,
        rows=(size, rows - size),
    )


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DistanceDrift(Method):
    """Is the cloud of rows where it was?  :func:`energy_distance` or :func:`mmd` on a table.

    Columns are standardised by both samples together, categories become one column a level, and
    what is missing is imputed and counted.  The effect is :attr:`PermutationResult.effect`.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`; at most
        ``max_rows`` of its rows, drawn at random, are kept.
    feature_names, kinds, alpha, min_effect, min_rows
        As for :class:`DriftDetector`.
    method
        ``"energy"`` (nothing to choose) or ``"mmd"`` (median heuristic).
    permutations, max_rows, seed
        As for :func:`mmd`; of blocks twice as many rows are used.
    blocks
        One label a row of the reference (its day) when rows of one block are alike.  Whole
        blocks are then dealt out anew, not rows.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or the reference cannot be fitted.

    Notes
    -----
    Permutations of rows take them for independent: rows that come in blocks alarm more often,
    unless ``blocks`` says so.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> check = DistanceDrift(rng.normal(size=(500, 3)))
    >>> result = check.detect_drift(rng.normal(0.4, 1.0, size=(300, 3)))
    >>> result.drift_detected, result.p_value
    (True, 0.002)
    """

    method: Measure = "energy"
    permutations: int = _PERMUTATIONS
    max_rows: int = _ROWS
    _encoder: Encoder = field(init=False, repr=False)
    _rows: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in {"energy", "mmd"}:
            raise BadConfiguration(f"method must be 'energy' or 'mmd', not {self.method!r}")
        columns = columns_of(self.reference, self.feature_names)
        encoder, sheet = Encoder.fit(columns, None, self.kinds, onehot=True)
        check_settings(self, sheet.used)
        whole("max_rows", self.max_rows, self.min_rows)
        # With fewer no p-value can fall below alpha.
        whole("permutations", self.permutations, math.ceil(1.0 / self.alpha))
        self._encoder = encoder
        rng = np.random.default_rng(self.seed)
        self._rows = drawn(columns, sheet.some, self.max_rows, rng)
        self._settle(encoder.names, self._hold(columns, encoder, 2 * self.max_rows))

    def detect_drift(self, current: Any, *, blocks: Any = None) -> MultivariateDrift:
        """Compare ``current`` with the reference.

        Parameters
        ----------
        current
            A table like the reference.
        blocks
            One label a row, if the reference has blocks; without, ``current`` is one block.

        Raises
        ------
        TypeError
            ``current`` is no table at all, or has not one label a row.

        Examples
        --------
        >>> check = DistanceDrift({"x": [float(i % 50) for i in range(300)]}, method="mmd")
        >>> check.detect_drift({"x": [float(i % 50) for i in range(200)]}).level.value
        'none'
        """
        sheet = self._encoder.survey(current)
        found = unfit(self.method, sheet, self.min_rows, self.min_effect)
        if found is not None:
            return found
        rows = self._dealt(self._encoder, current, sheet, blocks, self.permutations)
        if rows is None:
            return self._verdict(sheet, self._by_row(sheet, current), "")
        few = rows.too_few(self.alpha)
        if few:
            return undecided(self.method, sheet, self.min_effect, few)
        return self._verdict(sheet, self._by_block(rows), f", {rows.told}")

    def _by_row(self, sheet: Sheet, current: Any) -> PermutationResult:
        rng = np.random.default_rng([self.seed, 1])
        columns = self._encoder.raw(current)
        old, new = self._encoder.pair(self._rows, drawn(columns, sheet.some, self.max_rows, rng))
        measure: Any = mmd if self.method == "mmd" else energy_distance
        settings = {"permutations": self.permutations, "max_rows": self.max_rows}
        found: PermutationResult = measure(old.values, new.values, **settings, seed=self.seed)
        return found

    def _by_block(self, rows: Dealt) -> PermutationResult:
        size = int((rows.codes < rows.new).sum())
        if self.method == "energy":
            return _of_distance(_block_pairs(rows, _root), size)
        width = _bandwidth(rows.rows, np.random.default_rng(self.seed))
        return _of_kernel(_block_pairs(rows, _kernel(width)), size)

    def _verdict(self, sheet: Sheet, test: PermutationResult, of: str) -> MultivariateDrift:
        return MultivariateDrift(
            method=self.method,
            level=DriftLevel.NONE,
            statistic=test.statistic,
            p_value=test.p_value,
            effect=test.effect,
            floor=self.min_effect,
            what=f"{self.method} distance {math.sqrt(max(0.0, test.statistic)):.3g}{of}",
            findings=sheet.findings,
            reference_rows=len(next(iter(self._rows.values()))),
            current_rows=sheet.rows,
        ).judged(test.p_value, self.alpha)
