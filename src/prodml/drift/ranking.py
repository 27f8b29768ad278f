"""What to look at first: effect times importance times evidence."""

import math
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar, cast

from prodml.drift.level import DriftLevel
from prodml.errors import BadConfiguration

__all__ = ["Judged", "evidence_weight", "priority", "ranked", "weights_of"]

_ORDER: Final = {
    DriftLevel.DRIFT: 0,
    DriftLevel.INCONCLUSIVE: 1,
    DriftLevel.NEGLIGIBLE: 2,
    DriftLevel.NONE: 3,
}


class Judged(Protocol):
    """A verdict of any check: of a feature, of a method, of a monitor."""

    @property
    def level(self) -> DriftLevel:
        """The verdict."""
        ...

    @property
    def effect(self) -> float:
        """Share of rows that moved, in [0, 1]."""
        ...

    @property
    def p_adjusted(self) -> float:
        """Evidence, corrected for many tests; NaN where nothing was tested."""
        ...

    @property
    def reason(self) -> str:
        """What changed, for people."""
        ...


V = TypeVar("V", bound=Judged)


def evidence_weight(verdict: Judged) -> float:
    """How likely it is, at best, that something moved: see :func:`priority`.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift({"y": [1.0]})
    >>> report["x0"].reason, evidence_weight(report["x0"])
    ('the column is gone', 1.0)
    """
    p = verdict.p_adjusted
    if math.isnan(p):
        return 1.0 if verdict.level is DriftLevel.DRIFT else 0.5
    if p >= math.exp(-1.0):
        return 0.5
    return 1.0 / (1.0 - math.e * p * math.log(p)) if p > 0.0 else 1.0


def priority(verdict: Judged, importance: float = 1.0) -> float:
    """``effect * importance * evidence``: what a report is ranked by, within a level.

    Evidence is how likely it is, at best, that something moved at all, if that was an even bet
    before: ``1 / (1 - e p log p)`` for an adjusted p below ``1/e`` [1]_, 0.5 above it or
    without a test, 1 for what is certain (a column is gone).  That is 0.71 at 0.05, 0.89 at
    0.01 and soon 1, so that with many rows effects rank and p-values do not.

    Parameters
    ----------
    verdict
        Of a feature.
    importance
        Of the feature to the model, at least 0.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift({"y": [1.0]})
    >>> priority(report["x0"], importance=0.3)
    0.3

    References
    ----------
    .. [1] Sellke, Bayarri and Berger (2001), "Calibration of p values for testing precise null
       hypotheses", The American Statistician 55.
    """
    return verdict.effect * importance * evidence_weight(verdict)


def ranked(verdicts: Mapping[str, V], importance: Mapping[str, float]) -> list[tuple[str, V]]:
    """Names and verdicts, the gravest level first, within it by priority.

    Features without an importance have 1.
    """

    def place(item: tuple[str, V]) -> tuple[int, float, float]:
        name, verdict = item
        weight = importance.get(name, 1.0)
        return _ORDER[verdict.level], -priority(verdict, weight), -weight

    return sorted(verdicts.items(), key=place)


def weights_of(importance: Any) -> dict[str, float]:
    """Importances as plain numbers.

    Raises
    ------
    BadConfiguration
        It is no mapping, or an importance is no finite number >= 0.
    """
    if importance is None:
        return {}
    try:
        weights = {str(name): float(value) for name, value in cast("Any", dict(importance)).items()}
    except (TypeError, ValueError) as error:
        raise BadConfiguration(
            f"importance must map features to numbers, not {importance!r:.80}: {error}"
        ) from error
    for name, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            raise BadConfiguration(
                f"importance[{name!r}] must be a finite number >= 0, not {weight!r}: "
                f"take absolute values of coefficients"
            )
    return weights
