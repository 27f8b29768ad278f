"""Any Python value as JSON, and back without loss where it matters.

What JSON has is written as it is.  What it lacks becomes an object with one key that
begins with ``$``: ``{"$float": "nan"}``, ``{"$bytes": "aGk="}``, ``{"$tuple": [1, 2]}``.
A mapping that could be mistaken for one, or has keys that are no text, is written as
``{"$map": [[key, value], ...]}``, so reading back is never a guess.  No pickle.

===================================  ==========================================  =============
value                                written as                                  read back as
===================================  ==========================================  =============
None, bool, int, finite float, str   itself; integers of any size                the same
NaN, inf, -inf                       ``$float``                                  the same
list, dict with text keys            itself                                      the same
other mappings                       ``$map``                                    dict
tuple, set, frozenset                ``$tuple``, ``$set``, ``$frozenset``        the same
bytes, bytearray, memoryview         ``$bytes``, base64                          bytes
datetime, date, time, timedelta      ``$datetime``, ... (microseconds)           the same
Decimal, UUID, complex               ``$decimal``, ``$uuid``, ``$complex``       the same
numpy number or text                 the Python number of the same value         int, float...
other numpy scalars                  ``$scalar``: dtype and bytes                the same
numpy array                          ``$ndarray``: dtype, shape, data            the same
pandas or polars Series, DataFrame   list of values; mapping of columns          list; dict
Enum                                 its value                                   its value
dataclass, msgspec Struct            mapping of its fields                       dict
exception                            ``$error``: type and message                str
``MISS``; pandas' NA and NaT         ``$missing``                                MISS; None
anything else                        ``$repr``, cut at 1,000 characters          str, counted
===================================  ==========================================  =============
"""

import base64
import dataclasses
import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from uuid import UUID

from prodml.types import MISS

__all__ = ["decode", "ordinary", "plain", "revive", "to_json"]

_DEPTH: Final = 40
_REPR: Final = 1000
_NATIVE: Final = frozenset({bool, int, type(None)})
_MISSING: Final = frozenset({"NAType", "NaTType", "Miss"})
# Numbers of numpy that Python has as well.
_ORDINARY: Final[dict[str, Callable[[Any], Any]]] = {
    "bool": bool,
    "bool_": bool,
    "float16": float,
    "float32": float,
    "float64": float,
} | {f"{sign}int{bits}": int for sign in ("", "u") for bits in (8, 16, 32, 64)}
# dtype kinds whose ``tolist`` is exact and that a human can read.
_READABLE: Final = "biufU"


def to_json(value: Any) -> bytes:
    """JSON bytes of a value that :func:`plain` has made plain.

    Examples
    --------
    >>> to_json({"age": 41})
    b'{"age":41}'
    """
    from msgspec.json import encode

    return encode(value)


def decode(data: bytes) -> Any:
    """Value of JSON bytes, tags still in place.

    Examples
    --------
    >>> decode(b'{"age": 41}')
    {'age': 41}
    """
    from msgspec.json import decode as from_json

    return from_json(data)


def plain(value: Any, depth: int = 0) -> Any:
    """Turn ``value`` into what JSON can carry: see the table of this module.

    Never raises and never changes ``value``; a value that resists becomes its ``repr``.
    Structures deeper than 40 levels (or circular ones) are cut off there.

    Examples
    --------
    >>> plain({"age": 41, "income": float("nan"), "tags": ("a", "b")})
    {'age': 41, 'income': {'$float': 'nan'}, 'tags': {'$tuple': ['a', 'b']}}
    """
    cls = type(value)
    if cls in _NATIVE:
        return value
    if cls is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if cls is str:
        return value if _is_text(value) else _surrogates(value)
    if depth >= _DEPTH:
        return _as_repr(value)
    try:
        encoder = _KNOWN.get(cls) or _learn(cls)
        return encoder(value, depth + 1)
    except Exception:
        return _as_repr(value)


def revive(value: Any) -> Any:
    """Turn what :func:`plain` wrote into what it was given; unknown tags stay as they are.

    Examples
    --------
    >>> revive({"age": 41, "tags": {"$tuple": ["a", "b"]}})
    {'age': 41, 'tags': ('a', 'b')}
    """
    if type(value) is list:
        return [revive(item) for item in value]
    if type(value) is not dict:
        return value
    row = cast("dict[str, Any]", value)
    if len(row) == 1:
        ((tag, content),) = row.items()
        if tag in _DECODERS:
            return _read(tag, content)
    return {key: revive(item) for key, item in row.items()}


# -- writing ----------------------------------------------------------------------------


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _surrogates(value: str) -> Any:
    return {"$text": _base64(value.encode("utf-8", "surrogatepass"))}


def _base64(value: Any) -> str:
    return base64.b64encode(value).decode()


def _as_repr(value: Any, _depth: int = 0) -> Any:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__} without a repr>"
    return {"$repr": text[:_REPR].encode("utf-8", "backslashreplace").decode()}


def _items(values: Any, depth: int) -> list[Any]:
    return [plain(item, depth) for item in values]


def _mapping(value: Mapping[Any, Any], depth: int) -> Any:
    if _are_names(value):
        return {key: plain(item, depth) for key, item in value.items()}
    return {"$map": [[plain(key, depth), plain(item, depth)] for key, item in value.items()]}


def _are_names(keys: Iterable[Any]) -> bool:
    """Whether all are text that JSON can carry and no tag."""
    try:
        joined = "".join(keys)
    except TypeError:
        return False
    if "$" not in joined and joined.isascii():
        return True
    return all(not key.startswith("$") and _is_text(key) for key in keys)


def _set(tag: str) -> Callable[[Any, int], Any]:
    # In a fixed order, so that equal sets make equal lines.
    return lambda value, depth: {tag: sorted(_items(value, depth), key=repr)}


def _missing(value: Any, _depth: int) -> Any:
    return {"$missing": type(value).__name__}


def _iso(tag: str) -> Callable[[Any, int], Any]:
    def encoder(value: Any, _depth: int) -> Any:
        return {tag: value.isoformat()}

    return encoder


def _timedelta(value: dt.timedelta, _depth: int) -> Any:
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


def _error(value: BaseException, _depth: int) -> Any:
    text = str(value)[:_REPR].encode("utf-8", "backslashreplace").decode()
    return {"$error": [type(value).__qualname__, text]}


def _fields(value: Any, depth: int) -> Any:
    names = getattr(type(value), "__struct_fields__", None)
    if names is None:
        names = [field.name for field in dataclasses.fields(value)]
    return _mapping({name: getattr(value, name) for name in names}, depth)


def _number(value: Any, depth: int) -> Any:
    """Encode a numpy scalar."""
    if value.dtype.kind in _READABLE:
        item = value.item()
        # A long double is its own ``item``: only its bytes are exact.
        if type(item) is not type(value):
            return plain(item, depth)
    if value.dtype.kind == "V":
        return _as_repr(value)
    return {"$scalar": {"dtype": value.dtype.str, "base64": _base64(value.tobytes())}}


def ordinary(cls: type) -> Callable[[Any], Any] | None:
    """Python's own type for numbers of the numpy class ``cls``; None for all other classes.

    Examples
    --------
    >>> import numpy as np
    >>> ordinary(np.float32), ordinary(np.longdouble), ordinary(float)
    (<class 'float'>, None, None)
    """
    return _ORDINARY.get(cls.__name__) if cls.__module__ == "numpy" else None


def _array(value: Any, depth: int) -> Any:
    kind = value.dtype.kind
    content: dict[str, Any] = {"dtype": value.dtype.str, "shape": list(value.shape)}
    if kind == "V":
        return _as_repr(value)
    if kind in "OU" or (kind in _READABLE and value.dtype.itemsize <= 8):
        content["data"] = _items(value.ravel().tolist(), depth)
    else:
        content["base64"] = _base64(value.tobytes())
    return {"$ndarray": content}


def _frame(value: Any, depth: int) -> Any:
    return _mapping({name: value[name].to_list() for name in value.columns}, depth)


# The special before the general: a Timestamp is a datetime is a date.
_KINDS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any, int], Any]], ...]] = (
    (dict, _mapping),
    (list, _items),
    (Enum, lambda value, depth: plain(value.value, depth)),
    (bytes, lambda value, _depth: {"$bytes": _base64(value)}),
    ((bytearray, memoryview), lambda value, _depth: {"$bytes": _base64(bytes(value))}),
    (dt.datetime, _iso("$datetime")),
    (dt.date, _iso("$date")),
    (dt.time, _iso("$time")),
    (dt.timedelta, _timedelta),
    (Decimal, lambda value, _depth: {"$decimal": str(value)}),
    (UUID, lambda value, _depth: {"$uuid": str(value)}),
    (complex, lambda value, depth: {"$complex": _items((value.real, value.imag), depth)}),
    (BaseException, _error),
    (int, lambda value, _depth: int(value)),
    (float, lambda value, depth: plain(float(value), depth)),
    (str, lambda value, depth: plain(str(value), depth)),
    (Mapping, _mapping),
    (frozenset, _set("$frozenset")),
    (AbstractSet, _set("$set")),
    (tuple, lambda value, depth: {"$tuple": _items(value, depth)}),
    (Sequence, _items),
)


def _encoder_of(cls: type) -> Callable[[Any, int], Any]:
    """Encoder for instances of ``cls``: the class alone decides, so it can be remembered."""
    number = ordinary(cls)
    if number is not None:
        return lambda value, depth: plain(number(value), depth)
    if cls.__name__ in _MISSING:
        return _missing
    foreign = _FOREIGN.get(cls.__module__.partition(".")[0], _nothing)(cls)
    if foreign is not None:
        return foreign
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__struct_fields__"):
        return _fields
    return next((encoder for kind, encoder in _KINDS if issubclass(cls, kind)), _as_repr)


def _nothing(_cls: type) -> None:
    """Stand in for a package whose classes need no care of their own."""


def _of_numpy(cls: type) -> Callable[[Any, int], Any] | None:
    if not hasattr(cls, "dtype"):
        return None
    return _array if hasattr(cls, "__setitem__") else _number


def _of_frames(cls: type) -> Callable[[Any, int], Any] | None:
    # Told by what they can do, so that neither package is imported.
    if hasattr(cls, "to_list"):
        return lambda value, depth: _items(value.to_list(), depth)
    return _frame if hasattr(cls, "columns") else None


_FOREIGN: Final[dict[str, Callable[[type], Callable[[Any, int], Any] | None]]] = {
    "numpy": _of_numpy,
    "pandas": _of_frames,
    "polars": _of_frames,
}
_KNOWN: Final[dict[type, Callable[[Any, int], Any]]] = {}


def _learn(cls: type) -> Callable[[Any, int], Any]:
    # Classes made at run time must not pile up for ever.
    if len(_KNOWN) >= 1000:
        _KNOWN.clear()
    return _KNOWN.setdefault(cls, _encoder_of(cls))


# -- reading ----------------------------------------------------------------------------


def _read(tag: str, content: Any) -> Any:
    try:
        return _DECODERS[tag](content)
    except Exception:
        # Not of our making, or a set of what cannot be hashed again: show what is written.
        return {tag: content}


def _bytes(content: str) -> bytes:
    return base64.b64decode(content)


def _read_array(content: Mapping[str, Any]) -> Any:
    import numpy as np

    shape, dtype = content["shape"], np.dtype(content["dtype"])
    if "base64" in content:
        return np.frombuffer(_bytes(content["base64"]), dtype).reshape(shape).copy()
    flat = np.empty(len(content["data"]), dtype)
    for position, item in enumerate(content["data"]):
        flat[position] = revive(item)
    return flat.reshape(shape)


def _read_scalar(content: Mapping[str, Any]) -> Any:
    import numpy as np

    return np.frombuffer(_bytes(content["base64"]), np.dtype(content["dtype"]))[0]


_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "$bytes": _bytes,
    "$complex": lambda content: complex(*revive(content)),
    "$date": dt.date.fromisoformat,
    "$datetime": dt.datetime.fromisoformat,
    "$decimal": Decimal,
    "$error": ": ".join,
    "$float": float,
    "$frozenset": lambda content: frozenset(revive(content)),
    "$map": lambda content: {revive(key): revive(item) for key, item in content},
    "$missing": lambda name: MISS if name == "Miss" else None,
    "$ndarray": _read_array,
    "$repr": str,
    "$scalar": _read_scalar,
    "$set": lambda content: set(revive(content)),
    "$text": lambda content: _bytes(content).decode("utf-8", "surrogatepass"),
    "$time": dt.time.fromisoformat,
    "$timedelta": lambda content: dt.timedelta(*content),
    "$tuple": lambda content: tuple(revive(content)),
    "$uuid": UUID,
}
