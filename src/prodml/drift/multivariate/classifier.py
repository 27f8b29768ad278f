"""Can a classifier tell the batch from the reference?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.auc import delong, interval_of
from prodml.drift.multivariate.encoding import Encoder, Sheet, columns_of, drawn
from prodml.drift.multivariate.verdict import MultivariateDrift, check_settings, unfit, whole
from prodml.drift.sample import Kind
from prodml.errors import BadConfiguration

__all__ = ["DomainClassifier"]

Floats: TypeAlias = npt.NDArray[np.float64]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DomainClassifier:
    """A classifier is trained to tell current from the reference; if it can, they differ.

    Rows are dealt at random into stratified folds, and every row is scored by a model that has
    not seen it.  The AUC is the mean over folds, its variance the sum of DeLong's variances of
    the folds over the square of their number, the interval normal.  There is evidence when the
    interval (two-sided, confidence ``1 - alpha``) lies above 0.5.  The effect is ``2 AUC - 1``:
    if a share of the rows moved away altogether, it is that share.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`.
    feature_names, kinds
        Columns to compare (default all); kinds as for :class:`DriftDetector`.
    model
        Any scikit-learn classifier, cloned for every fold (default: 50 gradient-boosted trees
        of at most 15 leaves).
    folds
        At least 2; more folds train on more rows and cost more.
    max_rows
        Rows drawn at random from either sample, at least ``min_rows``: bounds time and memory.
    seed
        Of the draws, the folds, the default model and the importances.
    alpha, min_effect, min_rows
        As for :class:`DriftDetector`; the default floor is an AUC of 0.525.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, the reference cannot be fitted, or scikit-learn is missing.

    Notes
    -----
    ``moved`` is the AUC lost when the columns of a feature are shuffled among the rows of a fold
    (permutation importance [2]_).  Folds share rows of training, so their AUCs are not quite
    independent; without drift that makes an AUC beyond the interval on either side up to twice
    as frequent as asked.  Only the upper side counts, which restores the level (measured: see
    the how-to).

    References
    ----------
    .. [1] Lopez-Paz and Oquab (2017), *Revisiting classifier two-sample tests*, ICLR.
    .. [2] Breiman (2001), *Random forests*, Machine Learning 45.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> turned = rng.normal(size=(600, 2)) @ [[1.0, 0.9], [0.0, 0.44]]
    >>> check = DomainClassifier(rng.normal(size=(600, 2)), ["a", "b"])
    >>> result = check.detect_drift(turned)  # same margins, other dependence
    >>> result.drift_detected, result.interval[0] > 0.5, sorted(result.moved)
    (True, True, ['a', 'b'])
    """

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(default=None, kw_only=False)
    model: Any = field(default=None, repr=False)
    folds: int = 5
    max_rows: int = 5_000
    seed: int = 0
    alpha: float = 0.05
    min_effect: float = 0.05
    min_rows: int = 30
    kinds: Mapping[str, Kind] | None = field(default=None, repr=False)
    _encoder: Encoder = field(init=False, repr=False)
    _rows: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        columns = columns_of(self.reference, self.feature_names)
        encoder, sheet = Encoder.fit(columns, None, self.kinds, onehot=True)
        check_settings(self, len(sheet.values))
        whole("folds", self.folds, 2)
        # Two rows of either sample in every fold.
        whole("min_rows", self.min_rows, 2 * self.folds)
        whole("max_rows", self.max_rows, self.min_rows)
        _classifier(self.model, self.seed)
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
        >>> check = DomainClassifier({"x": [float(i % 50) for i in range(300)]})
        >>> check.detect_drift({"x": [float(i % 50) for i in range(200)]}).level.value
        'none'
        """
        sheet = self._encoder.read(current)
        found = unfit("classifier", sheet, self.min_rows, self.min_effect)
        if found is not None:
            return found
        from threadpoolctl import threadpool_limits

        # A watcher leaves the other cores to those who serve; small models gain nothing by them.
        with threadpool_limits(limits=1, user_api="openmp"):
            return self._compared(sheet, columns_of(current, self._encoder.names))

    def _compared(self, sheet: Sheet, current: dict[str, Any]) -> MultivariateDrift:
        rng = np.random.default_rng([self.seed, 1])
        old, new = self._encoder.pair(self._rows, drawn(current, self.max_rows, rng))
        rows = np.vstack((old.values, new.values))
        is_new = np.repeat((False, True), (len(old.values), len(new.values)))
        folds = _folds(is_new, self.folds, rng)
        models = [_trained(self, rows, is_new, folds != k) for k in range(self.folds)]
        parts = [(rows[folds == k], is_new[folds == k]) for k in range(self.folds)]
        aucs = [
            _auc(model, part, label) for model, (part, label) in zip(models, parts, strict=True)
        ]
        auc = float(np.mean([auc for auc, _ in aucs]))
        variance = float(np.sum([variance for _, variance in aucs])) / self.folds**2
        found = interval_of(auc, variance, 1.0 - self.alpha)
        moved: dict[str, float] = {}
        if found.p_value < self.alpha:
            moved = _lost(models, parts, [auc for auc, _ in aucs], old.owner, rng)
        top = ", ".join(f"{name} {lost:.3f}" for name, lost in list(moved.items())[:3])
        told = f"AUC {auc:.3f} ({found.low:.3f} to {found.high:.3f})"
        return MultivariateDrift(
            method="classifier",
            level=DriftLevel.NONE,
            statistic=auc,
            interval=(found.low, found.high),
            p_value=found.p_value,
            effect=max(0.0, 2.0 * auc - 1.0),
            floor=self.min_effect,
            what=f"{told}; AUC lost without: {top}" if top else told,
            findings=sheet.findings,
            moved=moved,
            reference_rows=old.rows,
            current_rows=sheet.rows,
        ).judged(found.p_value, self.alpha)


def _classifier(model: Any, seed: int) -> Any:
    try:
        from sklearn.base import clone
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ModuleNotFoundError as error:
        raise BadConfiguration(
            "DomainClassifier needs scikit-learn: pip install scikit-learn"
        ) from error
    if model is not None:
        return clone(model)
    trees: Any = HistGradientBoostingClassifier
    return trees(max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed)


def _folds(is_new: npt.NDArray[np.bool_], count: int, rng: np.random.Generator) -> Any:
    folds = np.empty(len(is_new), dtype=np.int64)
    for group in (is_new, ~is_new):
        folds[group] = rng.permutation(int(group.sum())) % count
    return folds


def _trained(check: DomainClassifier, rows: Floats, is_new: Any, seen: Any) -> Any:
    return _classifier(check.model, check.seed).fit(rows[seen], is_new[seen])


def _scores(model: Any, rows: Floats) -> Floats:
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)
    return np.asarray(model.decision_function(rows), dtype=np.float64)


def _auc(model: Any, rows: Floats, is_new: Any) -> tuple[float, float]:
    scores = _scores(model, rows)
    return delong(scores[is_new], scores[~is_new])


def _lost(
    models: list[Any],
    parts: list[Any],
    aucs: list[float],
    owner: tuple[str, ...],
    rng: np.random.Generator,
) -> dict[str, float]:
    lost: dict[str, float] = {}
    for name in dict.fromkeys(owner):
        mine = np.array([other == name for other in owner])
        drops: list[float] = []
        for model, (rows, is_new), auc in zip(models, parts, aucs, strict=True):
            shuffled = rows.copy()
            shuffled[:, mine] = rows[np.ix_(rng.permutation(len(rows)), mine)]
            drops.append(auc - _auc(model, shuffled, is_new)[0])
        lost[name] = float(np.mean(drops))
    return dict(sorted(((n, x) for n, x in lost.items() if x > 0.0), key=lambda item: -item[1]))
