"""Can a classifier tell the batch from the reference?"""

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.auc import delong, interval_of
from prodml.drift.multivariate.dealing import Dealt
from prodml.drift.multivariate.encoding import Encoder, Sheet, columns_of, drawn
from prodml.drift.multivariate.method import Method
from prodml.drift.multivariate.verdict import (
    MultivariateDrift,
    check_settings,
    undecided,
    unfit,
    whole,
)
from prodml.errors import BadConfiguration

__all__ = ["DomainClassifier"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DomainClassifier(Method):
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
    feature_names, kinds, alpha, min_rows
        As for :class:`DriftDetector`.
    model
        Any scikit-learn classifier, cloned for every fold (default: 50 gradient-boosted trees
        of at most 15 leaves).
    folds
        At least 2; more folds train on more rows and cost more.
    max_rows
        Rows drawn at random from either sample, at least ``min_rows``: bounds time and memory.
    seed
        Of the draws, the folds, the default model and the importances.
    min_effect
        Smallest effect that is called drift; the default is an AUC of 0.525.
    blocks
        One label a row of the reference (its day) when rows of one block are alike.  Folds are
        then whole blocks, so that a model judges no day that it has seen, and what varies is the
        block (Obuchowski's variance, Student's interval).  It takes two blocks of either sample
        in every fold: with the batch as one block there is no verdict.

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

    model: Any = field(default=None, repr=False)
    folds: int = 5
    max_rows: int = 5_000
    _encoder: Encoder = field(init=False, repr=False)
    _rows: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        columns = columns_of(self.reference, self.feature_names)
        encoder, sheet = Encoder.fit(columns, None, self.kinds, onehot=True)
        check_settings(self, sheet.used)
        whole("folds", self.folds, 2)
        # Two rows of either sample in every fold.
        whole("min_rows", self.min_rows, 2 * self.folds)
        whole("max_rows", self.max_rows, self.min_rows)
        _classifier(self.model, self.seed)
        self._encoder = encoder
        rng = np.random.default_rng(self.seed)
        self._rows = drawn(columns, sheet.some, self.max_rows, rng)
        self._settle(encoder.names, self._hold(columns, encoder, self.max_rows))

    def detect_drift(self, current: Any, *, blocks: Any = None) -> MultivariateDrift:
        """Compare ``current`` with the reference.

        Parameters
        ----------
        current
            A table like the reference.
        blocks
            One label a row, if the reference has blocks.

        Raises
        ------
        TypeError
            ``current`` is no table at all, or has not one label a row.

        Examples
        --------
        >>> check = DomainClassifier({"x": [float(i % 50) for i in range(300)]})
        >>> check.detect_drift({"x": [float(i % 50) for i in range(200)]}).level.value
        'none'
        """
        sheet = self._encoder.survey(current)
        found = unfit("classifier", sheet, self.min_rows, self.min_effect)
        if found is not None:
            return found
        dealt = self._dealt(self._encoder, current, sheet, blocks, 0)
        few = "" if dealt is None else self._too_few(dealt)
        if few:
            return undecided("classifier", sheet, self.min_effect, few)
        task = self._by_row(sheet, current) if dealt is None else self._by_block(dealt)
        from threadpoolctl import threadpool_limits

        # A watcher leaves the other cores to those who serve; small models gain nothing by them.
        with threadpool_limits(limits=1, user_api="openmp"):
            return self._compared(sheet, task)

    def _too_few(self, dealt: Dealt) -> str:
        fewest = min(dealt.new, dealt.blocks - dealt.new)
        if fewest >= 2 * self.folds:
            return ""
        return (
            f"{dealt.told} are current's; with {self.folds} folds at least {2 * self.folds} of "
            f"either sample are needed, so that a model judges none that it has seen"
        )

    def _by_row(self, sheet: Sheet, current: Any) -> "_Task":
        rng = np.random.default_rng([self.seed, 1])
        columns = self._encoder.raw(current)
        old, new = self._encoder.pair(self._rows, drawn(columns, sheet.some, self.max_rows, rng))
        is_new = np.repeat((False, True), (len(old.values), len(new.values)))
        rows = np.vstack((old.values, new.values))
        return _Task(rows, is_new, _folds(is_new, self.folds, rng), old.owner)

    def _by_block(self, dealt: Dealt) -> "_Task":
        rng = np.random.default_rng([self.seed, 1])
        folds = _folds(np.arange(dealt.blocks) < dealt.new, self.folds, rng)[dealt.codes]
        is_new = dealt.codes < dealt.new
        freedom = min(dealt.new, dealt.blocks - dealt.new) - self.folds
        return _Task(dealt.rows, is_new, folds, dealt.owner, dealt.codes, freedom)

    def _compared(self, sheet: Sheet, task: "_Task") -> MultivariateDrift:
        folds = range(self.folds)
        models = [_trained(self, task, k) for k in folds]
        parts = [task.fold(k) for k in folds]
        aucs = [_auc(model, part, part.rows) for model, part in zip(models, parts, strict=True)]
        auc = float(np.mean([auc for auc, _ in aucs]))
        variance = float(np.sum([variance for _, variance in aucs])) / self.folds**2
        found = interval_of(auc, variance, 1.0 - self.alpha, task.freedom)
        moved: dict[str, float] = {}
        if found.p_value < self.alpha:
            rng = np.random.default_rng([self.seed, 3])
            moved = _lost(models, parts, [auc for auc, _ in aucs], task.owner, rng)
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
            reference_rows=len(next(iter(self._rows.values()))),
            current_rows=sheet.rows,
        ).judged(found.p_value, self.alpha)


@dataclass(frozen=True, slots=True)
class _Task:
    """Rows to be told apart, the fold of each, and its block where rows come in blocks."""

    rows: Floats
    is_new: Bools
    folds: Ints
    owner: tuple[str, ...]
    codes: Ints | None = None
    freedom: float = math.inf

    def fold(self, k: int) -> "_Task":
        """The rows of one fold."""
        return self._some(self.folds == k)

    def rest(self, k: int) -> "_Task":
        """All others."""
        return self._some(self.folds != k)

    def _some(self, kept: Bools) -> "_Task":
        codes = None if self.codes is None else self.codes[kept]
        return _Task(self.rows[kept], self.is_new[kept], self.folds[kept], self.owner, codes)

    def blocks(self) -> tuple[Ints, Ints] | None:
        """Blocks of the new rows and of the old."""
        if self.codes is None:
            return None
        return self.codes[self.is_new], self.codes[~self.is_new]


def _classifier(model: Any, seed: int) -> Any:
    try:
        from sklearn.base import clone
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ModuleNotFoundError as error:
        raise BadConfiguration(
            "DomainClassifier needs scikit-learn: pip install scikit-learn"
        ) from error
    if model is None:
        trees: Any = HistGradientBoostingClassifier
        return trees(max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed)
    try:
        fresh: Any = clone(model)
    except TypeError as error:
        raise BadConfiguration(f"model must be a scikit-learn classifier: {error}") from error
    if not (hasattr(fresh, "predict_proba") or hasattr(fresh, "decision_function")):
        raise BadConfiguration(f"model must be a classifier that gives scores, not {model!r:.60}")
    return fresh


def _folds(is_new: Bools, count: int, rng: np.random.Generator) -> Ints:
    folds = np.empty(len(is_new), dtype=np.int64)
    for group in (is_new, ~is_new):
        folds[group] = rng.permutation(int(group.sum())) % count
    return folds


def _trained(check: DomainClassifier, task: _Task, k: int) -> Any:
    seen = task.rest(k)
    return _classifier(check.model, check.seed).fit(seen.rows, seen.is_new)


def _scores(model: Any, rows: Floats) -> Floats:
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)
    return np.asarray(model.decision_function(rows), dtype=np.float64)


def _auc(model: Any, part: _Task, rows: Floats) -> tuple[float, float]:
    scores = _scores(model, rows)
    return delong(scores[part.is_new], scores[~part.is_new], part.blocks())


def _lost(
    models: list[Any],
    parts: list[_Task],
    aucs: list[float],
    owner: tuple[str, ...],
    rng: np.random.Generator,
) -> dict[str, float]:
    lost: dict[str, float] = {}
    for name in dict.fromkeys(owner):
        mine = np.array([other == name for other in owner])
        drops: list[float] = []
        for model, part, auc in zip(models, parts, aucs, strict=True):
            shuffled = part.rows.copy()
            shuffled[:, mine] = part.rows[np.ix_(rng.permutation(len(part.rows)), mine)]
            drops.append(auc - _auc(model, part, shuffled)[0])
        lost[name] = float(np.mean(drops))
    return dict(sorted(((n, x) for n, x in lost.items() if x > 0.0), key=lambda item: -item[1]))
