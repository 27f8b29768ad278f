"""Do the features still hang together as they did?  What a few components cannot explain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.drift.level import DriftLevel
from prodml.drift.measures import ks_sorted
from prodml.drift.multivariate.encoding import Encoder, Sheet, columns_of, rows_of
from prodml.drift.multivariate.verdict import MultivariateDrift, between, check_settings, unfit
from prodml.drift.sample import Kind
from prodml.errors import BadConfiguration

__all__ = ["PCAReconstruction"]

Floats: TypeAlias = npt.NDArray[np.float64]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PCAReconstruction:
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
    feature_names, kinds
        Columns to compare (default all); kinds as for :class:`DriftDetector`.
    variance
        Share of the variance to explain, in (0, 1); at least one component is kept and at least
        one left out.
    seed
        Of the split.
    alpha, min_effect, min_rows
        As for :class:`DriftDetector`.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or the reference cannot be fitted: too few rows for two
        halves, or no variance at all.

    Notes
    -----
    Blind to shifts along the kept components: what moves every feature the way they always
    moved together.  ``moved`` is a feature's part in the change of the mean squared error.
    Categories enter by the share their level has in the reference.

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

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(default=None, kw_only=False)
    variance: float = 0.65
    seed: int = 0
    alpha: float = 0.05
    min_effect: float = 0.05
    min_rows: int = 30
    kinds: Mapping[str, Kind] | None = field(default=None, repr=False)
    _encoder: Encoder = field(init=False, repr=False)
    _mean: Floats = field(init=False, repr=False)
    _rest: Floats = field(init=False, repr=False)
    _errors: Floats = field(init=False, repr=False)
    _by_column: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        between("variance", self.variance, 1.0)
        columns = columns_of(self.reference, self.feature_names)
        rows = max((len(column) for column in columns.values()), default=0)
        check_settings(self, rows, least=2 * self.min_rows)
        # Everything is learnt from one half: to the other, current is like any sample.
        first, second = np.array_split(np.random.default_rng(self.seed).permutation(rows), 2)
        encoder, seen = Encoder.fit(rows_of(columns, first), None, self.kinds)
        held = encoder.read(rows_of(columns, second)).values
        if min(len(seen.values), len(held)) < self.min_rows:
            raise BadConfiguration(f"reference has {len(held)} rows with a value in one half")
        self._encoder = encoder
        self._mean = seen.values.mean(axis=0)
        self._rest = _left_out(seen.values - self._mean, self.variance)
        left = self._left(held)
        self._errors = np.sort(np.linalg.norm(left, axis=1))
        self._by_column = (left**2).mean(axis=0)
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
        >>> check = PCAReconstruction({"a": [1.0, 2.0, 4.0] * 30, "b": [3.0, 1.0, 1.0] * 30})
        >>> check.detect_drift({"a": [1.0, 2.0, 4.0] * 20}).reason
        'b: the column is gone'
        """
        sheet = self._encoder.read(current)
        found = unfit("pca", sheet, self.min_rows, self.min_effect)
        return found or self._compared(sheet)

    def _left(self, rows: Floats) -> Floats:
        centred = rows - self._mean
        return np.asarray(centred @ self._rest @ self._rest.T)

    def _compared(self, sheet: Sheet) -> MultivariateDrift:
        left = self._left(sheet.values)
        errors = np.sort(np.linalg.norm(left, axis=1))
        test = ks_sorted(self._errors, errors)
        moved: dict[str, float] = {}
        if test.p_value < self.alpha:
            moved = _parts((left**2).mean(axis=0) - self._by_column, sheet.owner)
        before, after = float(self._errors.mean()), float(errors.mean())
        top = ", ".join(f"{name} {100 * part:.0f} %" for name, part in list(moved.items())[:3])
        told = f"reconstruction error {before:.4g} -> {after:.4g}"
        return MultivariateDrift(
            method="pca",
            level=DriftLevel.NONE,
            statistic=after,
            p_value=test.p_value,
            effect=test.statistic,
            floor=self.min_effect,
            what=f"{told}, by {top}" if top else told,
            findings=sheet.findings,
            moved=moved,
            reference_rows=len(self._errors),
            current_rows=sheet.rows,
        ).judged(test.p_value, self.alpha)


def _left_out(centred: Floats, variance: float) -> Floats:
    """Axes of what the first components do not explain, one a column."""
    if centred.shape[1] < 2 or not centred.any():
        raise BadConfiguration("reference needs columns that vary: nothing to decompose")
    values, axes = np.linalg.eigh(centred.T @ centred)
    shares = np.cumsum(np.maximum(values, 0.0)[::-1]) / np.maximum(values, 0.0).sum()
    varied = int((values > 1e-9 * values[-1]).sum())
    kept = 1 + int(np.searchsorted(shares, variance - 1e-12))
    kept = max(1, min(kept, varied - 1))
    return np.ascontiguousarray(axes[:, : len(values) - kept])


def _parts(change: Floats, owner: tuple[str, ...]) -> dict[str, float]:
    by_name = dict.fromkeys(owner, 0.0)
    for name, value in zip(owner, np.abs(change).tolist(), strict=True):
        by_name[name] += value
    total = sum(by_name.values()) or 1.0
    shares = {name: value / total for name, value in by_name.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
