"""Do the features still hang together as they did?  What a few components cannot explain."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.drift.level import DriftLevel
from prodml.drift.measures import ks_sorted
from prodml.drift.multivariate.dealing import Dealt, share_as_far
from prodml.drift.multivariate.encoding import Encoder, Sheet, columns_of, rows_of
from prodml.drift.multivariate.method import Method
from prodml.drift.multivariate.verdict import (
    MultivariateDrift,
    between,
    check_settings,
    undecided,
    unfit,
)
from prodml.drift.smirnov import largest_gap
from prodml.errors import BadConfiguration

__all__ = ["PCAReconstruction"]

Floats: TypeAlias = npt.NDArray[np.float64]

# An error below this is no error but another last digit: single precision has seven.
_EXACT = 1e-6
# Rows of either sample that are kept of blocks.
_IN_BLOCKS = 2000


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PCAReconstruction(Method):
    """Rows are squeezed through the reference's principal components; the loss is compared.

    The components that explain ``variance`` of one random half of the reference are kept.  A
    row's error is the length of what they leave of it.  The errors of current are compared with
    those of the *other* half, which the components have not seen, by the two-sample
    Kolmogorov-Smirnov test; the effect is its distance, the share of rows whose error lies on
    another side of some threshold.  Errors that become smaller count too.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`.
    feature_names, kinds, alpha, min_effect, min_rows
        As for :class:`DriftDetector`.
    variance
        Share of the variance to explain, in (0, 1); at least one component is kept and at least
        one left out.
    seed
        Of the split.
    blocks
        One label a row of the reference (its day) when rows of one block are alike.  Whole
        blocks are then dealt out anew, the components learnt for every dealing.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or the reference cannot be fitted: too few rows for two
        halves, or fewer than two columns that vary.

    Notes
    -----
    Blind to shifts along the kept components: what moves every feature the way they always
    moved together.  Hotelling's T2, the usual companion, hardly sees a shift of the mean either
    (measured: see the how-to); the energy distance does.  ``moved`` is a feature's part in the
    change of the mean squared error.  Categories enter by the share their level has in the
    reference.

    References
    ----------
    .. [1] Jackson and Mudholkar (1979), *Control procedures for residuals associated with
       principal component analysis*, Technometrics 21.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def rows(n, sign):
    ...     x = rng.normal(size=n)
    ...     return np.column_stack([x, sign * x + 0.1 * rng.normal(size=n), rng.normal(size=n)])
    >>> check = PCAReconstruction(rows(2000, 1.0), ["a", "b", "c"])
    >>> result = check.detect_drift(rows(1000, -1.0))
    >>> result.drift_detected, sorted(list(result.moved)[:2])
    (True, ['a', 'b'])
    """

    variance: float = 0.65
    _encoder: Encoder = field(init=False, repr=False)
    _axes: "_Axes" = field(init=False, repr=False)
    _errors: Floats = field(init=False, repr=False)
    _by_column: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        between("variance", self.variance, 1.0)
        columns = columns_of(self.reference, self.feature_names)
        rows = max((len(column) for column in columns.values()), default=0)
        check_settings(self, rows, least=2 * self.min_rows)
        # Everything is learnt from one half: to the other, current is like any sample.
        first, second = np.array_split(np.random.default_rng(self.seed).permutation(rows), 2)
        half = rows_of(columns, first)
        self._encoder, _ = Encoder.fit(half, None, self.kinds)
        moments = _Moments()
        seen = self._encoder.read(half, moments.add)
        _check_varied(moments, seen)
        self._axes = _Axes.of(moments, self.variance)
        held = _Left(self._axes)
        sheet = self._encoder.read(rows_of(columns, second), held.add)
        if min(seen.used, sheet.used) < self.min_rows:
            raise BadConfiguration(f"reference has {sheet.used} rows with a value in one half")
        self._errors, self._by_column = held.ascending(), held.by_column()
        held_blocks = self._hold(columns, self._encoder, _IN_BLOCKS)
        self._settle(self._encoder.names, held_blocks)

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
        >>> check = PCAReconstruction({"a": [1.0, 2.0, 4.0] * 30, "b": [3.0, 1.0, 1.0] * 30})
        >>> check.detect_drift({"a": [1.0, 2.0, 4.0] * 20}).reason
        'b: the column is gone'
        """
        left = _Left(self._axes)
        sheet = self._encoder.read(current, left.add)
        found = unfit("pca", sheet, self.min_rows, self.min_effect)
        if found is not None:
            return found
        rows = self._dealt(self._encoder, current, sheet, blocks)
        few = "" if rows is None else rows.too_few(self.alpha)
        if few:
            return undecided("pca", sheet, self.min_effect, few)
        return self._compared(sheet, left, rows)

    def _compared(self, sheet: Sheet, left: "_Left", rows: Dealt | None) -> MultivariateDrift:
        errors = left.ascending()
        test = ks_sorted(self._errors, errors)
        before, after = float(self._errors.mean()), float(errors.mean())
        p_value, what = test.p_value, f"reconstruction error {before:.4g} -> {after:.4g}"
        if rows is not None:
            p_value = share_as_far(np.array([self._distance(rows, way) for way in rows.ways.T]))
            what = f"{what}, {rows.told}"
        moved: dict[str, float] = {}
        if p_value < self.alpha:
            moved = _parts(left.by_column() - self._by_column, sheet.owner)
        top = ", ".join(f"{name} {100 * part:.0f} %" for name, part in list(moved.items())[:3])
        return MultivariateDrift(
            method="pca",
            level=DriftLevel.NONE,
            statistic=after,
            p_value=p_value,
            effect=test.statistic,
            floor=self.min_effect,
            what=f"{what}, by {top}" if top else what,
            findings=sheet.findings,
            moved=moved,
            reference_rows=len(self._errors),
            current_rows=sheet.rows,
        ).judged(p_value, self.alpha)

    def _distance(self, rows: Dealt, way: Any) -> float:
        """How far errors are apart if these blocks are current and all others the reference."""
        new = way[rows.codes]
        moments = _Moments()
        moments.add(rows.rows[~new])
        left = _Left(_Axes.of(moments, self.variance))
        left.add(rows.rows)
        errors = left.errors[0]
        before, after = np.sort(errors[~new]), np.sort(errors[new])
        return largest_gap(before, after).lattice / (len(before) * len(after))


@dataclass(slots=True)
class _Moments:
    """Sums of lines and of their products; lines are within eight spreads, so squares are safe."""

    rows: int = 0
    sums: Any = 0.0
    products: Any = 0.0

    def add(self, lines: Floats) -> None:
        self.rows += len(lines)
        self.sums = self.sums + lines.sum(axis=0)
        self.products = self.products + lines.T @ lines

    def mean(self) -> Floats:
        return np.asarray(self.sums / max(1, self.rows))

    def covariance(self) -> Floats:
        mean = self.mean()
        return np.asarray(self.products / max(1, self.rows) - np.outer(mean, mean))


@dataclass(frozen=True, slots=True)
class _Axes:
    """Axes of what the first components do not explain, one a column."""

    mean: Floats
    rest: Floats

    @classmethod
    def of(cls, moments: _Moments, variance: float) -> "_Axes":
        values, axes = np.linalg.eigh(moments.covariance())
        positive = np.maximum(values, 0.0)
        shares = np.cumsum(positive[::-1]) / (positive.sum() or 1.0)
        varied = int((values > 1e-9 * values[-1]).sum())
        kept = 1 + int(np.searchsorted(shares, variance - 1e-12))
        kept = max(1, min(kept, varied - 1))
        return cls(moments.mean(), np.ascontiguousarray(axes[:, : len(values) - kept]))


@dataclass(slots=True)
class _Left:
    """What components leave of lines: the length of each, and squares by column."""

    axes: _Axes
    errors: list[Floats] = field(default_factory=list[Floats])
    squares: Any = 0.0

    def add(self, lines: Floats) -> None:
        left = (lines - self.axes.mean) @ self.axes.rest @ self.axes.rest.T
        errors = np.linalg.norm(left, axis=1)
        self.errors.append(np.where(errors < _EXACT, 0.0, errors))
        self.squares = self.squares + (left**2).sum(axis=0)

    def ascending(self) -> Floats:
        return np.sort(np.concatenate(self.errors))

    def by_column(self) -> Floats:
        return np.asarray(self.squares / max(1, sum(map(len, self.errors))))


def _check_varied(moments: _Moments, sheet: Sheet) -> None:
    varied = {
        name
        for name, spread in zip(sheet.owner, np.diag(moments.covariance()).tolist(), strict=True)
        if spread > 1e-12
    }
    if len(varied) < 2:
        raise BadConfiguration("reference needs two columns that vary: nothing to decompose")


def _parts(change: Floats, owner: tuple[str, ...]) -> dict[str, float]:
    by_name = dict.fromkeys(owner, 0.0)
    for name, value in zip(owner, np.abs(change).tolist(), strict=True):
        by_name[name] += value
    total = sum(by_name.values()) or 1.0
    shares = {name: value / total for name, value in by_name.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
