"""Has the data moved?  One reference, many batches, one verdict a feature."""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.cells import Cells
from prodml.drift.correction import CORRECTIONS, Correction
from prodml.drift.reference import Reference, check_agrees
from prodml.drift.sample import Kind
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, DriftCleared, DriftDetected, Stream

if TYPE_CHECKING:
    from prodml.drift.report import DriftReport
    from prodml.validation import SchemaStats

__all__ = ["DriftDetector"]

_TESTS_OF: dict[str, tuple[str, ...]] = {
    "numeric": ("ks", "cramer_von_mises", "anderson_darling"),
    "categorical": ("chi_square", "g_test"),
}
_FITTED = "the reference is fitted already: build another detector"


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DriftDetector:
    """Compare batches with a reference, feature by feature.

    Numbers are compared by the two-sample Kolmogorov-Smirnov test, categories by the
    two-sample chi-square test; missing, infinite and wrongly typed values and new levels
    are tested beside them, and all p-values of a check are corrected together, those of the
    distributions with twice the weight of the others.  A feature
    drifted when there is evidence (adjusted p below ``alpha``) *and* size (effect at least
    the floor) in one of these aspects.

    Parameters
    ----------
    reference
        The data that the model knows: an array (rows, features), a mapping of columns, a
        list of mappings, a data frame of any library that narwhals knows, or a fitted
        :class:`Reference`, exact or counted in cells.  Fitted once and not kept.
    feature_names
        Names of an array's columns (default ``x0``, ``x1``, ...), or the columns of a table
        to watch (default all).
    alpha
        Level of one check over all features, in (0, 1).
    correction
        ``"bh"``, ``"holm"``, ``"bonferroni"`` or ``"none"``: see :func:`adjust`.
    min_effect
        Smallest effect that is called drift: the share of rows that lie on another side of
        some threshold, in other levels, or are missing (infinite, of a wrong type) that were
        not, in [0, 1].  The default, 0.05, is what a shift by an eighth of a standard
        deviation does to a normal feature.
    min_new_levels
        Smallest share of rows with levels that the reference does not have, in [0, 1]:
        lower than ``min_effect``, because a model has never seen them.
    min_rows
        Values that both samples need, at least 1; with fewer the verdict is INCONCLUSIVE.
    categorical
        Features whose numbers are codes: carriers, postal codes.
    kinds
        Feature name to ``"numeric"``, ``"categorical"`` or ``"time"``, where the type of
        the data does not say it; ``categorical`` is short for the usual case.
    tests
        Feature name to ``"cramer_von_mises"`` or ``"anderson_darling"`` (numbers, sorted
        references only) or ``"g_test"`` (categories), instead of the default of its kind.
        They weigh the evidence; the effect stays the same share of rows.
    fresh
        Feature name to seconds: the newest time of the feature may be no older by the
        clock.  A stale feed is drift, whatever its values.
    counts
        What the schema refused and repaired of the reference; default: nothing.
    blocks
        One label a row of the reference (its day, say) when rows of one block are alike:
        evidence is then counted in effective rows, see :mod:`prodml.drift.blocks`.
    name
        Names the detector in facts and reports.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or the reference cannot be fitted.

    Notes
    -----
    Safe for any number of threads.  States :class:`~prodml.events.DriftDetected` when a
    feature drifts that did not in the check before, and
    :class:`~prodml.events.DriftCleared` when none drifts any more; a feature about which a
    check could not conclude keeps its state.  ``alpha`` holds for one check; of a hundred
    checks without drift about ``100 * alpha`` may alarm, fewer because of the floor.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> detector = DriftDetector(rng.normal(size=(2000, 2)), ["age", "fare"])
    >>> today = rng.normal(size=(1000, 2)) + [0.0, 0.5]
    >>> report = detector.detect_drift(today)
    >>> report.drifted, report["age"].drift_detected
    (('fare',), False)
    """

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(
        default=None, kw_only=False, metadata={"fixed": _FITTED}
    )
    alpha: float = 0.05
    correction: Correction = "bh"
    min_effect: float = 0.05
    min_new_levels: float = 0.01
    min_rows: int = 30
    categorical: Sequence[str] = field(default=(), metadata={"fixed": _FITTED})
    kinds: Mapping[str, Kind] | None = field(default=None, repr=False)
    tests: Mapping[str, str] = field(default_factory=dict[str, str])
    fresh: Mapping[str, float] = field(default_factory=dict[str, float])
    counts: "SchemaStats | None" = field(default=None, repr=False)
    blocks: Any = field(default=None, repr=False)
    name: str = "drift"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    _fitted: Reference = field(default_factory=Reference, init=False, repr=False)
    _drifting: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        if isinstance(self.reference, Reference):
            _check_fitted(self)
            self._fitted = self.reference
        else:
            self._fitted = Reference.fit(
                self.reference, self.feature_names, kinds=_kinds(self), blocks=self.blocks
            )
        # The raw data may be large: what is kept is the fitted reference.
        self.reference, self.blocks = self._fitted, None
        self.feature_names = self._fitted.names
        self.fresh, self.tests = dict(self.fresh), dict(self.tests)
        _check_tests(self.tests, self._fitted)
        _check_fresh(self.fresh, self._fitted)
        self.categorical = tuple(self.categorical)
        # What a batch needs is loaded with the detector, not with the first batch.
        import_module("prodml.drift.comparison")
        import_module("prodml.drift.report")
        import_module("scipy.special")

    def detect_drift(
        self, current: Any, alpha: float | None = None, *, counts: "SchemaStats | None" = None
    ) -> "DriftReport":
        """Compare ``current`` with the reference.

        Parameters
        ----------
        current
            A table in any of the forms of ``reference``.  Columns are matched by name,
            those of an array by position.
        alpha
            Level of this check instead of the detector's.
        counts
            What the schema has refused and repaired of ``current``
            (``schema.take_stats()``): rows that were clipped, imputed or turned away are
            tested beside those that came through.  Compared with the detector's ``counts``.

        Returns
        -------
        DriftReport
            A verdict for every feature of the reference, whatever ``current`` looks like.

        Raises
        ------
        BadConfiguration
            ``alpha`` outside (0, 1).
        TypeError
            ``current`` is no table at all.

        Examples
        --------
        >>> detector = DriftDetector({"x": [float(i % 7) for i in range(70)]})
        >>> print(detector.detect_drift({"y": [1.0]})["x"].reason)
        the column is gone
        """
        from prodml.drift.comparison import compared
        from prodml.drift.evidence import Rules
        from prodml.drift.report import DriftReport

        level = self.alpha if alpha is None else alpha
        _in_unit("alpha", level)
        rules = Rules(
            alpha=level,
            min_effect=self.min_effect,
            min_new=self.min_new_levels,
            min_rows=self.min_rows,
            now=self.clock.time(),
            fresh=self.fresh,
            tests=self.tests,
        )
        breaches = self._breaches(counts)
        features, new = compared(current, self._fitted, rules, self.correction, breaches)
        report = DriftReport(
            features,
            alpha=level,
            at=self.clock.time(),
            source=self.name,
            new_columns=new,
        )
        self._announce(report)
        return report

    def _breaches(self, counts: "SchemaStats | None") -> "tuple[SchemaStats, SchemaStats] | None":
        if counts is None:
            return None
        from prodml.validation import SchemaStats

        # A schema that was learnt from the reference refused nothing of it.
        rows = max((column.sample.rows for column in self._fitted.columns.values()), default=0)
        return self.counts or SchemaStats(rows=rows), counts

    def _announce(self, report: "DriftReport") -> None:
        drifted = frozenset(report.drifted)
        with self._lock:
            before = self._drifting
            self._drifting = drifted | (before & frozenset(report.inconclusive))
            now = self._drifting
        if drifted - before:
            effects = {name: report[name].effect for name in report.drifted}
            reason = "; ".join(f"{name}: {report[name].reason}" for name in report.drifted[:3])
            self.events.emit(
                DriftDetected(
                    at=report.at,
                    source=self.name,
                    score=report.score,
                    effects=effects,
                    reason=reason,
                )
            )
        elif before and not now:
            over = tuple(sorted(before))
            self.events.emit(DriftCleared(at=report.at, source=self.name, features=over))


def _kinds(detector: DriftDetector) -> dict[str, Kind]:
    codes = detector.categorical
    if isinstance(codes, str):
        raise BadConfiguration(f"categorical must be several names, not the text {codes!r}")
    chosen: dict[str, Kind] = {}
    for name in codes:
        chosen[name] = "categorical"
    chosen.update(detector.kinds or {})
    return chosen


def _check_fitted(detector: Any) -> None:
    """What only a fit can heed must not be given in vain."""
    if detector.blocks is not None:
        raise BadConfiguration("blocks need the rows of the reference: give them to Reference.fit")
    check_agrees(detector.reference, detector.feature_names, _kinds(detector))


def _check(detector: Any) -> None:
    _in_unit("alpha", detector.alpha)
    if detector.correction not in CORRECTIONS:
        raise BadConfiguration(
            f"correction must be one of {', '.join(CORRECTIONS)}, not {detector.correction!r}"
        )
    for name in ("min_effect", "min_new_levels"):
        value = getattr(detector, name)
        if not (isinstance(value, int | float) and 0.0 <= value <= 1.0):
            raise BadConfiguration(f"{name} must be a share in [0, 1], not {value!r}")
    if not (isinstance(detector.min_rows, int) and detector.min_rows >= 1):
        raise BadConfiguration(f"min_rows must be a whole number >= 1, not {detector.min_rows!r}")


def _check_fresh(fresh: Mapping[str, Any], reference: Reference) -> None:
    for name, limit in fresh.items():
        if name not in reference.columns or reference.columns[name].kind == "categorical":
            raise BadConfiguration(f"fresh names {name!r}, which is no time of the reference")
        if not (isinstance(limit, int | float) and 0.0 < limit < math.inf):
            raise BadConfiguration(f"fresh[{name!r}] must be seconds above 0, not {limit!r}")


def _check_tests(tests: Mapping[str, str], reference: Reference) -> None:
    for name, test in tests.items():
        if name not in reference.columns:
            raise BadConfiguration(f"tests names {name!r}, which is no feature of the reference")
        column = reference.columns[name]
        known = _TESTS_OF.get(column.kind, ())
        if test not in known:
            told = " or ".join(map(repr, known)) or "none"
            raise BadConfiguration(
                f"tests[{name!r}] must be {told} for a feature that is {column.kind}, not {test!r}"
            )
        if isinstance(column.sample, Cells) and test != "ks":
            raise BadConfiguration(
                f"tests[{name!r}] is {test!r}, which needs a sorted reference: "
                f"this one is counted in cells"
            )


def _in_unit(name: str, value: Any) -> None:
    if not (isinstance(value, int | float) and math.isfinite(value) and 0.0 < value < 1.0):
        raise BadConfiguration(f"{name} must lie in (0, 1), not {value!r}")
