"""Checks that the settings of this room share: each names the field, the value, the way out."""

import math
from typing import Any

from prodml.errors import BadConfiguration

__all__ = ["at_least", "error_types", "positive", "rate"]


def at_least(component: object, low: int, *names: str) -> None:
    """Refuse a count below ``low``; None, where a field allows it, is no count."""
    for name in names:
        value = getattr(component, name)
        if value is not None and not (isinstance(value, int) and value >= low):
            raise BadConfiguration(f"{name} must be a whole number >= {low}, not {value!r}")


def positive(component: object, *names: str, zero: bool = False) -> None:
    """Refuse seconds that are not a finite positive number (or zero, if allowed)."""
    for name in names:
        value = getattr(component, name)
        if value is None:
            continue
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise BadConfiguration(f"{name} must be a finite number of seconds, not {value!r}")
        if value == 0 and not zero:
            raise BadConfiguration(f"{name} must be more than 0 seconds, not {value!r}")


def rate(component: object, *names: str) -> None:
    """Refuse a share outside (0, 1]."""
    for name in names:
        value = getattr(component, name)
        if value is not None and not (isinstance(value, int | float) and 0 < value <= 1):
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


def _flat(kinds: Any) -> tuple[Any, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)
