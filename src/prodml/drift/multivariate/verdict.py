"""What a multivariate method found, in the words of every other check."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prodml.drift.level import DriftLevel
from prodml.drift.multivariate.encoding import Sheet
from prodml.errors import BadConfiguration

__all__ = [
    "MultivariateDrift",
    "PairDrift",
    "between",
    "check_settings",
    "undecided",
    "unfit",
    "whole",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairDrift:
    """One pair of features: their correlation ``before`` and ``after``.

    ``p_adjusted`` is corrected for the number of pairs; ``level`` asks for evidence and size as
    everywhere.

    Examples
    --------
    >>> PairDrift(a="age", b="fare", before=0.1, after=0.6, p_adjusted=1e-9).name
    'age ~ fare'
    """

    a: str
    b: str
    before: float
    after: float
    p_adjusted: float
    level: DriftLevel = DriftLevel.NONE

    @property
    def name(self) -> str:
        """Both features."""
        return f"{self.a} ~ {self.b}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MultivariateDrift:
    """What one method found out about all features together.

    Parameters
    ----------
    method
        ``"classifier"``, ``"pca"``, ``"mmd"``, ``"energy"`` or ``"correlation"``.
    level
        The verdict; ``drift_detected`` is short for ``level is DriftLevel.DRIFT``.
    statistic, interval
        The method's own number (AUC, mean reconstruction error, squared distance, change of
        the correlation with the strongest evidence), and its confidence interval where the
        method has one.
    p_value, p_adjusted
        Before and after the correction over methods; NaN where nothing was tested.
    effect, floor
        Size, and the smallest that alarms: see the method.
    what, findings
        What changed, in numbers; what is wrong with the data.  ``reason`` is both.
    moved
        Feature to its part in the change, the largest first; empty where there is no evidence.
    pairs
        Pairs of features, for correlations; the strongest evidence first.

    Examples
    --------
    >>> import numpy as np
    >>> from prodml.drift import PCAReconstruction
    >>> rng = np.random.default_rng(0)
    >>> result = PCAReconstruction(rng.normal(size=(500, 3))).detect_drift([])
    >>> result.level.value, result.reason
    ('inconclusive', '0 rows in current; at least 30 are needed')
    """

    method: str
    level: DriftLevel
    statistic: float = math.nan
    interval: tuple[float, float] | None = None
    p_value: float = math.nan
    p_adjusted: float = math.nan
    effect: float = 0.0
    floor: float = 0.0
    what: str = ""
    findings: tuple[str, ...] = ()
    moved: Mapping[str, float] = field(default_factory=dict[str, float])
    pairs: tuple[PairDrift, ...] = ()
    reference_rows: int = 0
    current_rows: int = 0

    @property
    def drift_detected(self) -> bool:
        """Whether there is evidence of a change that is large enough to matter."""
        return self.level is DriftLevel.DRIFT

    @property
    def reason(self) -> str:
        """What changed and what is wrong with the data, for people."""
        told = self.what
        if self.level is DriftLevel.NONE:
            told = f"no evidence: {self.what}, p {self.p_adjusted:.3g}"
        elif self.level is DriftLevel.NEGLIGIBLE:
            told = f"{self.what} (effect {self.effect:.3g} below the floor of {self.floor:.3g})"
        return "; ".join([told, *self.findings])

    def judged(self, p_adjusted: float, alpha: float) -> "MultivariateDrift":
        """The verdict at another p-value; what was never tested stays as it is.

        Examples
        --------
        >>> found = MultivariateDrift(
        ...     method="pca", level=DriftLevel.DRIFT, p_value=0.02, effect=0.3, floor=0.05
        ... )
        >>> found.judged(0.08, 0.05).level.value
        'none'
        """
        if math.isnan(self.p_value):
            return self
        level = DriftLevel.NONE
        if p_adjusted < alpha:
            level = DriftLevel.DRIFT if self.effect >= self.floor else DriftLevel.NEGLIGIBLE
        return replace(self, p_adjusted=p_adjusted, level=level)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers that are not finite become None.

        Examples
        --------
        >>> MultivariateDrift(method="pca", level=DriftLevel.NONE).to_dict()["statistic"] is None
        True
        """
        numbers = ("statistic", "p_value", "p_adjusted", "effect", "floor")
        return {
            "method": self.method,
            "level": self.level.value,
            "drift_detected": self.drift_detected,
            **{name: _json(getattr(self, name)) for name in numbers},
            "interval": None if self.interval is None else [_json(x) for x in self.interval],
            "reason": self.reason,
            "findings": list(self.findings),
            "moved": {name: _json(value) for name, value in self.moved.items()},
            "pairs": [_pair(pair) for pair in self.pairs],
            "reference_rows": self.reference_rows,
            "current_rows": self.current_rows,
        }


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _pair(pair: PairDrift) -> dict[str, Any]:
    numbers = {name: _json(getattr(pair, name)) for name in ("before", "after", "p_adjusted")}
    return {"a": pair.a, "b": pair.b, **numbers, "level": pair.level.value}


def unfit(method: str, sheet: Sheet, least: int, floor: float) -> MultivariateDrift | None:
    """The verdict on data that cannot be compared at all; None when it can."""
    if sheet.gone:
        plural = "the columns are gone" if len(sheet.gone) > 1 else "the column is gone"
        found = undecided(method, sheet, floor, f"{', '.join(sheet.gone)}: {plural}")
        # Certain, and as grave as a univariate detector finds it.
        return replace(found, level=DriftLevel.DRIFT, effect=1.0)
    if sheet.used < least:
        rows = "rows" if sheet.used == sheet.rows else "rows with a value"
        why = f"{sheet.used} {rows} in current; at least {least} are needed"
        return undecided(method, sheet, floor, why)
    return None


def undecided(method: str, sheet: Sheet, floor: float, why: str) -> MultivariateDrift:
    """The verdict where none can be given."""
    return MultivariateDrift(
        method=method,
        level=DriftLevel.INCONCLUSIVE,
        floor=floor,
        what=why,
        findings=sheet.findings,
        current_rows=sheet.rows,
    )


def between(name: str, value: Any, high: float) -> None:
    """Refuse a setting that is no number between 0 and ``high``, both excluded."""
    if not (isinstance(value, int | float) and 0.0 < value < high):
        raise BadConfiguration(f"{name} must lie in (0, {high:g}), not {value!r}")


def whole(name: str, value: Any, least: int) -> None:
    """Refuse a setting that is no whole number of at least ``least``."""
    if not (isinstance(value, int) and value >= least):
        raise BadConfiguration(f"{name} must be a whole number >= {least}, not {value!r}")


def check_settings(detector: Any, rows: int, least: int | None = None) -> None:
    """Settings that all methods share, and a reference of at least ``least`` rows.

    Raises
    ------
    BadConfiguration
        One of them makes no sense.
    """
    between("alpha", detector.alpha, 1.0)
    effect = detector.min_effect
    if not (isinstance(effect, int | float) and 0.0 <= effect <= 1.0):
        raise BadConfiguration(f"min_effect must lie in [0, 1], not {effect!r}")
    whole("min_rows", detector.min_rows, 2)
    needed = detector.min_rows if least is None else least
    if rows < needed:
        raise BadConfiguration(f"reference has {rows} rows with a value; {needed} are needed")
