"""A drift report as plain data: versioned, described by a JSON Schema, drawn again later."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final, Literal, cast

from prodml.drift.evidence import Evidence
from prodml.drift.feature import FeatureDrift, Profile
from prodml.drift.level import DriftLevel
from prodml.drift.ranking import Judged
from prodml.errors import CorruptRecord

__all__ = [
    "FORMAT",
    "VERSION",
    "plain_feature",
    "plain_verdict",
    "report_schema",
    "restored_feature",
    "restored_report",
]

_SCHEMAS: Final = {"drift": "report.schema.json", "monitor": "monitor.schema.json"}
FORMAT: Final = "prodml.drift.DriftReport"
VERSION: Final = 1


def report_schema(kind: Literal["drift", "monitor"] = "drift") -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of ``to_dict()`` of a report, a new dictionary each time.

    Parameters
    ----------
    kind
        ``"drift"`` for a :class:`DriftReport`, ``"monitor"`` for a :class:`MonitorReport`.

    Within one ``version`` fields are only added; readers leave alone what they do not know.

    Examples
    --------
    >>> report_schema()["properties"]["version"]
    {'const': 1}
    """
    import json
    from importlib.resources import files

    text = files("prodml.drift").joinpath(_SCHEMAS[kind]).read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


def plain_verdict(verdict: Judged) -> dict[str, Any]:
    """What every verdict says; numbers that are not finite become None."""
    return {
        "level": verdict.level.value,
        "drift_detected": verdict.level is DriftLevel.DRIFT,
        "effect": _plain(float(verdict.effect)),
        "p_adjusted": _plain(float(verdict.p_adjusted)),
        "reason": verdict.reason,
    }


def plain_feature(feature: FeatureDrift) -> dict[str, Any]:
    """Everything that is known of a feature; numbers that are not finite become None.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
    >>> plain_feature(report["x0"])["psi"] is None
    True
    """
    return cast("dict[str, Any]", _plain(feature)) | {"drift_detected": feature.drift_detected}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value):
        return {f.name: _field(f.type, getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value)


def _field(kind: Any, value: Any) -> Any:
    # Levels are of any type, and JSON has few.
    return [str(level) for level in value] if kind == tuple[Any, ...] else _plain(value)


def restored_report(stored: Mapping[str, Any]) -> tuple[dict[str, FeatureDrift], dict[str, Any]]:
    """Features and settings of the report that was stored.

    Raises
    ------
    CorruptRecord
        Another format or version, or fields of another type.
    """
    try:
        _check_version(stored)
        features = {
            str(name): restored_feature(plain, name)
            for name, plain in cast("dict[str, Any]", stored["features"]).items()
        }
        settings = {
            "alpha": _number(stored["alpha"]),
            "at": _number(stored["at"]),
            "source": _text(stored["source"]),
            "new_columns": _texts(stored["new_columns"]),
            "importance": {
                str(name): _number(weight)
                for name, weight in cast("dict[str, Any]", stored["importance"]).items()
            },
        }
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptRecord("a stored drift report", f"{type(error).__name__}: {error}") from error
    return features, settings


def _check_version(stored: Mapping[str, Any]) -> None:
    found, version = stored.get("format"), stored.get("version")
    if found != FORMAT or version != VERSION:
        raise ValueError(f"format {found!r:.80}, version {version!r:.20}")


def restored_feature(plain: Mapping[str, Any], name: str) -> FeatureDrift:
    """What :func:`plain_feature` gave; fields that it lacks have their defaults."""
    return FeatureDrift(**_restored(FeatureDrift, {**plain, "name": name}))


def _restored(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for f in fields(cast("Any", kind)):
        if f.name in plain:
            reader: Callable[[Any], Any] = _READERS.get(f.type, _texts)
            found[f.name] = reader(plain[f.name])
    return found


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.40} is no count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r:.40} is no list")
    return list(cast("list[Any]", value))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, _items(value)))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(map(_number, _items(value)))


def _evidence(value: Any) -> tuple[Evidence, ...]:
    return tuple(Evidence(**_restored(Evidence, item)) for item in _items(value))


def _profile(value: Any) -> Profile | None:
    if value is None:
        return None
    profile = Profile(**_restored(Profile, value))
    bins = len(profile.labels)
    if {len(profile.reference), len(profile.current)} != {bins} or (
        profile.edges and len(profile.edges) != bins + 1
    ):
        raise ValueError("a profile with shares for other bins than its own")
    return profile


_READERS: Final[dict[Any, Callable[[Any], Any]]] = {
    float: _number,
    int: _count,
    str: _text,
    DriftLevel: DriftLevel,
    tuple[float, ...]: _numbers,
    tuple[str, ...]: _texts,
    tuple[Evidence, ...]: _evidence,
    Profile | None: _profile,
}
