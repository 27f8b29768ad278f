"""Checks that the settings of this room share: each names the field, the value, the way out."""

import math
from typing import Any

from prodml.errors import BadConfiguration

__all__ = ["at_least", "error_types", "seconds", "share"]


def at_least(component: object, low: int, *names: str, optional: bool = False) -> None:
    """Refuse what is not a whole number >= ``low`` (or None, if that is allowed)."""
    for name, value in _given(component, names, optional=optional):
        if not (isinstance(value, int) and value >= low):
            raise BadConfiguration(f"{name} must be a whole number >= {low}, not {value!r}")


def seconds(component: object, *names: str, zero: bool = False, optional: bool = False) -> None:
    """Refuse what is not a finite positive number (or zero or None, if that is allowed)."""
    for name, value in _given(component, names, optional=optional):
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise BadConfiguration(f"{name} must be a finite number of seconds, not {value!r}")
        if value == 0 and not zero:
            raise BadConfiguration(f"{name} must be more than 0 seconds, not {value!r}")


def share(component: object, *names: str, optional: bool = False) -> None:
    """Refuse what is not in (0, 1] (or None, if that is allowed)."""
    for name, value in _given(component, names, optional=optional):
        if not (isinstance(value, int | float) and 0 < value <= 1):
            raise BadConfiguration(f"{name} must be a share in (0, 1], not {value!r}")


def error_types(component: object, *names: str) -> None:
    """Refuse what is not an ``Exception`` class: a BaseException would swallow cancellation."""
    for name in names:
        for kind in _flat(getattr(component, name)):
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise BadConfiguration(
                    f"{name} must be Exception classes, not {kind!r}: cancellation and "
                    f"interrupts are never an outcome"
                )


def _given(component: object, names: tuple[str, ...], *, optional: bool) -> list[tuple[str, Any]]:
    values = [(name, getattr(component, name)) for name in names]
    return [(name, value) for name, value in values if not (optional and value is None)]


def _flat(kinds: Any) -> tuple[Any, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)
