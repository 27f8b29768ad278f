"""Checks that the settings of this room share: each names the field, the value, the way out."""

import math
import re
from typing import Any, Final

from prodml.errors import BadConfiguration

__all__ = ["seconds", "size"]

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def size(component: object, name: str, *, least: int = 1) -> int:
    """Bytes meant by setting ``name``: a number, or text like ``"64 MiB"`` or ``"1.5 GB"``."""
    value: Any = getattr(component, name)
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is not None and found[2].upper() in _UNITS:
        value = int(float(found[1]) * _UNITS[found[2].upper()])
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadConfiguration(
            f"{name} must be bytes or text like '64 MiB', not {getattr(component, name)!r}"
        )
    if value < least:
        raise BadConfiguration(f"{name} must be at least {least} bytes, not {value}")
    return value


def seconds(component: object, name: str, *, optional: bool = True) -> None:
    """Refuse what is no finite number of seconds above 0 (or None, if that is allowed)."""
    value = getattr(component, name)
    if value is None and optional:
        return
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise BadConfiguration(f"{name} must be seconds above 0, not {value!r}")
