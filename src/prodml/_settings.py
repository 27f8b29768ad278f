"""One view of every component's settings, and the one way to change them while running.

A component is a dataclass.  Its *settings* are the init fields that hold plain data
(numbers, text, enums, and tuples of these): comparable, printable, diffable.  Everything
else it was given (clock, stream, store, model) is a collaborator and stays out.
"""

import re
from dataclasses import Field, fields
from enum import Enum
from threading import Lock
from typing import Any, Final

from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, SettingsChanged

__all__ = ["retune", "settings_of", "size_of"]

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_PLAIN = (type(None), bool, int, float, str, bytes, Enum)


def settings_of(component: Any) -> dict[str, Any]:
    """Settings of ``component`` by name.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Fan:
    ...     speed: int = 3
    ...     owner: object = print
    >>> settings_of(Fan())
    {'speed': 3}
    """
    values = {f.name: getattr(component, f.name) for f in _public(component)}
    return {name: value for name, value in values.items() if _is_plain(value)}


def retune(component: Any, **changes: Any) -> SettingsChanged:
    """Change settings of a running component, all or none, and state the fact.

    The new settings are validated on a copy first and set under the component's ``_lock``,
    if it has one; ``_retuned()``, if it has that, then renews what it derived.  A field
    with ``metadata={"fixed": reason}`` cannot be changed.  The fact goes to the component's
    ``events`` (or the process's) and is returned.  What a component was given and does not
    show (a secret, say) it hands to the copy by ``_hidden()``.

    Raises
    ------
    BadConfiguration
        An unknown or fixed name, or a value that the component refuses; nothing changed.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Fan:
    ...     speed: int = 3
    >>> fan = Fan()
    >>> retune(fan, speed=5).changes
    {'speed': (3, 5)}
    >>> fan.speed
    5
    """
    settings = settings_of(component)
    for name in changes:
        _refuse_unknown(component, name, settings)
    given = {f.name: getattr(component, f.name) for f in _public(component)}
    hidden = getattr(component, "_hidden", dict[str, Any])()
    copy = type(component)(**(given | hidden | changes))
    old = {name: getattr(component, name) for name in changes}
    new = {name: getattr(copy, name) for name in changes}
    with getattr(component, "_lock", None) or Lock():
        for name, value in new.items():
            setattr(component, name, value)
        getattr(component, "_retuned", _nothing)()
    fact = SettingsChanged(
        at=getattr(component, "clock", SYSTEM_CLOCK).time(),
        source=getattr(component, "name", type(component).__name__),
        changes={name: (old[name], new[name]) for name in changes if old[name] != new[name]},
    )
    getattr(component, "events", EVENTS).emit(fact)
    return fact


def size_of(size: int | str, setting: str) -> int:
    """Bytes meant by ``size``: a number, or text like ``"64 MiB"`` or ``"1.5 GB"``.

    Raises
    ------
    BadConfiguration
        It is not a size; the message names ``setting``.

    Examples
    --------
    >>> size_of("64 MiB", "memory"), size_of("1.5 kB", "memory"), size_of(7, "memory")
    (67108864, 1500, 7)
    """
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is not None and found[2].upper() in _UNITS:
        return int(float(found[1]) * _UNITS[found[2].upper()])
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    raise BadConfiguration(f"{setting} must be bytes or text like '64 MiB', not {size!r}")


def _nothing() -> None:
    """Stand in for a component that derives nothing from its settings."""


def _public(component: Any) -> list["Field[Any]"]:
    return [f for f in fields(component) if f.init and not f.name.startswith("_")]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(isinstance(item, type) or _is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _refuse_unknown(component: Any, name: str, settings: dict[str, Any]) -> None:
    if name not in settings:
        known = ", ".join(settings) or "none"
        raise BadConfiguration(
            f"{type(component).__name__} has no setting {name!r}; settings: {known}"
        )
    for f in _public(component):
        if f.name == name and "fixed" in f.metadata:
            raise BadConfiguration(f"{name} cannot change while running: {f.metadata['fixed']}")
