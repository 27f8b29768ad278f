"""Several multivariate methods at once, corrected for being several."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.correction import CORRECTIONS, Correction, adjust
from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.classifier import DomainClassifier
from prodml.drift.multivariate.correlation import CorrelationDrift
from prodml.drift.multivariate.distance import DistanceDrift
from prodml.drift.multivariate.reconstruction import PCAReconstruction
from prodml.drift.multivariate.verdict import MultivariateDrift
from prodml.drift.sample import Kind
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, DriftCleared, DriftDetected, Stream

__all__ = ["MultivariateDetector", "MultivariateReport"]


class MultivariateReport(Mapping[str, MultivariateDrift]):
    """Verdicts by method.

    Examples
    --------
    >>> found = MultivariateDrift(method="pca", level=DriftLevel.DRIFT, effect=0.3, what="moved")
    >>> report = MultivariateReport({"pca": found}, alpha=0.05)
    >>> report.drift_detected, report.drifted, report.level.value
    (True, ('pca',), 'drift')
    """

    __slots__: tuple[str, ...] = ("_methods", "alpha", "at", "source")

    def __init__(
        self,
        methods: Mapping[str, MultivariateDrift],
        *,
        alpha: float,
        at: float = 0.0,
        source: str = "multivariate",
    ) -> None:
        self._methods: dict[str, MultivariateDrift] = dict(methods)
        self.alpha: float = alpha
        self.at: float = at
        self.source: str = source

    def __getitem__(self, method: str) -> MultivariateDrift:
        return self._methods[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    @property
    def level(self) -> DriftLevel:
        """The gravest verdict: drift before inconclusive before negligible before none."""
        found = {result.level for result in self.values()}
        return next(level for level in _GRAVEST if level in found)

    @property
    def drift_detected(self) -> bool:
        """Whether any method found drift."""
        return self.level is DriftLevel.DRIFT

    @property
    def drifted(self) -> tuple[str, ...]:
        """Methods that found drift."""
        return tuple(name for name, result in self.items() if result.drift_detected)

    @property
    def inconclusive(self) -> tuple[str, ...]:
        """Methods that could not conclude."""
        return tuple(n for n, r in self.items() if r.level is DriftLevel.INCONCLUSIVE)

    @property
    def reason(self) -> str:
        """What the methods with the gravest verdict say."""
        return "; ".join(f"{n}: {r.reason}" for n, r in self.items() if r.level is self.level)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON.

        Examples
        --------
        >>> found = MultivariateDrift(method="pca", level=DriftLevel.NONE)
        >>> MultivariateReport({"pca": found}, alpha=0.05).to_dict()["level"]
        'none'
        """
        return {
            "at": self.at,
            "source": self.source,
            "alpha": self.alpha,
            "level": self.level.value,
            "drift_detected": self.drift_detected,
            "methods": {name: result.to_dict() for name, result in self.items()},
        }

    def __repr__(self) -> str:
        return f"<MultivariateReport {self.source}: {self.level.value}: {self.reason}>"


_GRAVEST = (DriftLevel.DRIFT, DriftLevel.INCONCLUSIVE, DriftLevel.NEGLIGIBLE, DriftLevel.NONE)


@final
@dataclass(kw_only=True, slots=True, eq=False)
class MultivariateDetector:
    """Fit several methods on one reference and hold one level over all of them.

    The p-values of the methods that tested something are corrected together, and each verdict
    is given anew at its corrected p-value.  Methods look at the same rows, so Holm's correction
    is the default: it holds for any dependence.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`.
    feature_names, kinds
        Columns to compare (default all); kinds as for :class:`DriftDetector`.
    methods
        Of ``"pca"`` (:class:`PCAReconstruction`), ``"energy"`` and ``"mmd"``
        (:class:`DistanceDrift`), ``"correlation"`` (:class:`CorrelationDrift`) and
        ``"classifier"`` (:class:`DomainClassifier`, needs scikit-learn).
    correction
        Over methods; see :func:`adjust`.
    alpha
        Level of one check over all methods, in (0, 1).
    seed
        Of all draws.
    min_rows
        As for :class:`DriftDetector`.
    blocks
        One label a row of the reference (its day) when rows of one block are alike: every method
        then deals out whole blocks.  P-values of few blocks are coarse, so each method is asked
        for one that the correction leaves below ``alpha``, or is INCONCLUSIVE.
    name, clock, events
        As for :class:`DriftDetector`.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or a method cannot be fitted on the reference.

    Notes
    -----
    Safe for any number of threads.
    States :class:`~prodml.events.DriftDetected` when a method finds drift that did not in the
    check before (effects by method) and :class:`~prodml.events.DriftCleared` when none does any
    more; an inconclusive method keeps its state.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> turned = rng.normal(size=(600, 2)) @ [[1.0, 0.9], [0.0, 0.44]]
    >>> detector = MultivariateDetector(rng.normal(size=(1000, 2)), ["a", "b"])
    >>> report = detector.detect_drift(turned)
    >>> report.drift_detected, report["correlation"].pairs[0].name
    (True, 'a ~ b')
    """

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(default=None, kw_only=False)
    methods: Sequence[str] = ("pca", "energy", "correlation")
    correction: Correction = "holm"
    alpha: float = 0.05
    seed: int = 0
    min_rows: int = 30
    kinds: Mapping[str, Kind] | None = field(default=None, repr=False)
    blocks: Any = field(default=None, repr=False)
    name: str = "multivariate"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    _fitted: dict[str, Any] = field(default_factory=dict[str, Any], init=False, repr=False)
    _drifting: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.methods = (self.methods,) if isinstance(self.methods, str) else tuple(self.methods)
        unknown = [method for method in self.methods if method not in _METHODS]
        if unknown or not self.methods:
            raise BadConfiguration(f"methods must be some of {', '.join(_METHODS)}: {unknown}")
        if self.correction not in CORRECTIONS:
            known = ", ".join(CORRECTIONS)
            raise BadConfiguration(f"correction must be one of {known}, not {self.correction!r}")
        alpha: Any = self.alpha
        if self.blocks is not None and self.correction != "none":
            alpha /= len(self.methods)
        # With the detector, not with its first batch.
        import_module("scipy.special")
        common = {"seed": self.seed, "kinds": self.kinds, "min_rows": self.min_rows}
        for method in self.methods:
            cls, more = _METHODS[method]
            settings = {**common, **more, "alpha": alpha, "blocks": self.blocks}
            self._fitted[method] = cls(self.reference, self.feature_names, **settings)
        self.reference = self.blocks = None

    def detect_drift(self, current: Any, *, blocks: Any = None) -> MultivariateReport:
        """Compare ``current`` with the reference by every method.

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
        >>> detector = MultivariateDetector({"a": [1.0, 2.0, 4.0] * 30, "b": [3.0, 1.0, 1.0] * 30})
        >>> detector.detect_drift([]).inconclusive
        ('pca', 'energy', 'correlation')
        """
        found = {
            name: method.detect_drift(current, blocks=blocks)
            for name, method in self._fitted.items()
        }
        tested = {name: result.p_value for name, result in found.items() if _tested(result)}
        adjusted = adjust(list(tested.values()), self.correction).tolist()
        for name, value in zip(tested, adjusted, strict=True):
            found[name] = found[name].judged(value, self.alpha)
        report = MultivariateReport(found, alpha=self.alpha, at=self.clock.time(), source=self.name)
        self._announce(report)
        return report

    def _announce(self, report: MultivariateReport) -> None:
        drifted = frozenset(report.drifted)
        with self._lock:
            before = self._drifting
            self._drifting = now = drifted | (before & frozenset(report.inconclusive))
        if drifted - before:
            effects = {name: report[name].effect for name in report.drifted}
            fact = DriftDetected(
                at=report.at,
                source=self.name,
                score=min(1.0, max(effects.values())),
                effects=effects,
                reason=report.reason,
            )
            self.events.emit(fact)
        elif before and not now:
            over = tuple(sorted(before))
            self.events.emit(DriftCleared(at=report.at, source=self.name, features=over))


_METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pca": (PCAReconstruction, {}),
    "energy": (DistanceDrift, {"method": "energy"}),
    "mmd": (DistanceDrift, {"method": "mmd"}),
    "correlation": (CorrelationDrift, {}),
    "classifier": (DomainClassifier, {}),
}


def _tested(result: MultivariateDrift) -> bool:
    return result.p_value == result.p_value
