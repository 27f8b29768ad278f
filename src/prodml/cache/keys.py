"""Canonical bytes of features: the same value gives the same key on every machine.

:func:`canonical` is the specification (written down in ``docs/reference/cache-keys.md``);
:class:`Namer` gives the same bytes faster for plain rows.  The format is a prefix code (a
value's end is known from its beginning), so concatenated values never run into each other
and two different values never share their bytes.
"""

import math
import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from itertools import chain
from operator import itemgetter, ne
from pathlib import PurePath
from types import MemberDescriptorType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

__all__ = [
    "FORMAT",
    "PLAIN",
    "Namer",
    "Parts",
    "Rounded",
    "Rounds",
    "canonical",
    "columns_of",
    "home_of",
    "parts_of",
    "plain_number",
]

Writer: TypeAlias = Callable[[Any], bytes]

FORMAT: Final = b"prodml2"
"""Begins every preimage; changes whenever some value's bytes do."""

PLAIN: Final = frozenset({bool, bytes, float, int, str, type(None)})
"""Types, exactly these, whose values msgspec writes as the specification does."""

# Type codes of extensions.  Numbers are for ever: a code is never given a second meaning.
_INTEGER, _SURROGATES, _SET, _ENUM, _COMPLEX, _OBJECT = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _NUMPY_TIME, _NO_TIME, _NO_VALUE = 10, 11, 12, 13, 14, 15, 16
_DECIMAL, _FRACTION, _UUID = 20, 21, 22
_ARRAY, _OBJECTS, _FRAME, _ROUNDED = 30, 31, 32, 33

_SIGN_AND_EXPONENT = 0xFFF0_0000_0000_0000
_NAN_SIGN = 0x8000_0000_0000_0000
# How a float begins whose sign and exponent bits are all set: -inf or a negative NaN.
_BIG: Final = 0xFF
_SUSPECT: Final = b"\xcb\xff"


def canonical(value: Any) -> bytes:
    """Bytes that name ``value``: equal for equal values, different for different ones.

    Numbers keep their kind: ``1``, ``1.0``, ``True`` and ``"1"`` are four values; scalars of
    numpy equal the Python value of their ``item()``.  The order of a mapping's names never
    matters; a list and a tuple of equal items are equal.

    Raises
    ------
    TypeError
        ``value``, or something in it, cannot be named: a function, an open file, an object
        that may hold more than it shows.

    Examples
    --------
    >>> canonical({"b": 1, "a": 2.0}) == canonical({"a": 2.0, "b": 1})
    True
    >>> canonical(1) == canonical(True), canonical(None) == canonical("")
    (False, False)
    >>> canonical([1, "a"]).hex()
    '9201a161'
    """
    cls = type(value)
    return (_WRITERS.get(cls) or _learn(cls))(value)


# -- MessagePack subset -----------------------------------------------------------------


def _nil(_: None) -> bytes:
    return b"\xc0"


def _boolean(value: bool) -> bytes:
    return b"\xc3" if value else b"\xc2"


def _integer(value: int) -> bytes:
    # int() would ask a subclass, which may say anything.
    value = int.__pos__(value)
    if 0 <= value < 128 or -32 <= value < 0:
        return struct.pack("b", value)
    for code, form, low, high in _INTEGERS:
        if low <= value <= high:
            return struct.pack(form, code, value)
    length = (value.bit_length() + 8) // 8
    return _extension(_INTEGER, value.to_bytes(length, "big", signed=True))


_INTEGERS: Final = (
    (0xCC, ">BB", 0, 2**8 - 1),
    (0xCD, ">BH", 0, 2**16 - 1),
    (0xCE, ">BI", 0, 2**32 - 1),
    (0xCF, ">BQ", 0, 2**64 - 1),
    (0xD0, ">Bb", -(2**7), -1),
    (0xD1, ">Bh", -(2**15), -1),
    (0xD2, ">Bi", -(2**31), -1),
    (0xD3, ">Bq", -(2**63), -1),
)


def _float(value: float) -> bytes:
    bits = int.from_bytes(struct.pack(">d", value), "big")
    if bits & _SIGN_AND_EXPONENT == _SIGN_AND_EXPONENT and math.isnan(value):
        # Processors give NaN either sign; the payload stays, some systems mean "NA" by it.
        bits ^= _NAN_SIGN
    return b"\xcb" + bits.to_bytes(8, "big")


def _header(length: int, short: tuple[int, int] | None, codes: tuple[int, ...]) -> bytes:
    if short is not None and length < short[1]:
        return bytes((short[0] | length,))
    for code, form, limit in zip(codes[-3:], ("B", ">H", ">I"), (8, 16, 32), strict=True):
        if code and length < 2**limit:
            return bytes((code,)) + struct.pack(form, length)
    raise TypeError("cannot name a value of 4 GiB or more")


def _string(value: str) -> bytes:
    try:
        # str() drops a subclass, whose own encode() could say anything.
        text = str.encode(value, "utf-8")
    except UnicodeEncodeError:
        return _extension(_SURROGATES, str.encode(value, "utf-8", "surrogatepass"))
    return _header(len(text), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + text


def _binary(value: Any) -> bytes:
    content = b"".join((value,))
    return _header(len(content), None, (0xC4, 0xC5, 0xC6)) + content


def _extension(code: int, payload: bytes) -> bytes:
    return _header(len(payload), None, (0xC7, 0xC8, 0xC9)) + bytes((code,)) + payload


def _sequence(value: Any) -> bytes:
    items = [canonical(item) for item in value]
    return _header(len(items), (0x90, 16), (0, 0xDC, 0xDD)) + b"".join(items)


def _name(name: Any) -> bytes:
    # An enumeration that is text names a field by its text, as a dictionary sees it.
    return _string(name) if isinstance(name, str) else canonical(name)


def _mapping(value: Mapping[Any, Any]) -> bytes:
    pairs = sorted((_name(name), canonical(item)) for name, item in value.items())
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise TypeError("cannot name a mapping with two equal keys")
    return _names(names) + _header(len(pairs), (0x90, 16), (0, 0xDC, 0xDD)) + _items(pairs)


def _names(ordered: Sequence[bytes]) -> bytes:
    return _header(len(ordered), (0x80, 16), (0, 0xDE, 0xDF)) + b"".join(ordered)


def _items(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(item for _, item in pairs)


def _defaults(value: Any) -> bytes:
    if value.default_factory is not None:
        raise TypeError("cannot name a mapping that makes up what it lacks")
    return _mapping(value)


# -- classes ----------------------------------------------------------------------------


def home_of(thing: Any) -> str | None:
    """Module that a class or function is known by, or None if only this process has it.

    The program itself is ``__main__`` to every process, whatever it is: it goes by the name
    that ``python -m`` was given, or by its file's.  What was typed in has no home.

    Examples
    --------
    >>> import json
    >>> home_of(json.JSONDecoder)
    'json.decoder'
    """
    module: str | None = thing.__module__
    if module is None or module not in {"__main__", "__mp_main__"}:
        return module
    main = sys.modules.get(module)
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name)
    path = PurePath(file or "")
    return (path.parent.stem if path.stem == "__main__" else path.stem) or None


def _label(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _class_name(cls: type) -> str:
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    home = home_of(cls)
    if found is not cls or home is None:
        # Another class may go by the same name: one made in a function, say.
        raise TypeError(f"cannot name {_label(cls)}: no import leads to this class")
    return f"{home}.{cls.__qualname__}"


def _slots_of(cls: type, shown: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        name
        for base in cls.__mro__
        if _key_of(base) not in _BY_NAME
        for name, member in vars(base).items()
        if type(member) is MemberDescriptorType and name not in shown
    )


def _refuse_hidden(value: Any, shown: Sequence[str], slots: Sequence[str]) -> None:
    hidden = {*getattr(value, "__dict__", ())} - {*shown}
    hidden.update(name for name in slots if hasattr(value, name))
    if hidden:
        held = sorted(map(str, hidden))
        raise TypeError(f"cannot name a {_label(type(value))}: it also holds {held}")


def _extended(cls: type, write: Writer) -> Writer:
    """``write`` for a class that extends what it is for, unless an instance holds more."""
    slots = _slots_of(cls, ())

    def checked(value: Any) -> bytes:
        _refuse_hidden(value, (), slots)
        return write(value)

    return checked


def _fields_of(cls: type) -> tuple[str, ...] | None:
    if is_dataclass(cls):
        return tuple(field.name for field in fields(cls))
    names: Any = getattr(cls, "__struct_fields__", None)
    if names is None and issubclass(cls, tuple):
        names = getattr(cls, "_fields", None)
    return None if names is None else tuple(names)


def _object(cls: type, names: tuple[str, ...]) -> Writer:
    slots = _slots_of(cls, names)

    def write(value: Any) -> bytes:
        _refuse_hidden(value, names, slots)
        return _object_of(cls, {name: getattr(value, name) for name in names})

    return write


def _object_of(cls: type, content: dict[Any, Any]) -> bytes:
    return _tagged(_OBJECT, [_class_name(cls), content])


# -- extensions -------------------------------------------------------------------------


def _tagged(code: int, value: Any) -> bytes:
    return _extension(code, canonical(value))


def _set(value: Any) -> bytes:
    return _extension(_SET, b"".join(sorted(canonical(item) for item in value)))


def _enum(value: Enum) -> bytes:
    # Combinations of flags may have no name, and versions of Python differ in the others'.
    member = value._value_ if isinstance(value, Flag) else value._name_
    return _tagged(_ENUM, [_class_name(type(value)), member])


def _complex(value: complex) -> bytes:
    return _extension(_COMPLEX, _float(value.real) + _float(value.imag))


def _datetime(value: datetime) -> bytes:
    return _moment(_DATETIME, value, datetime.isoformat(value))


def _time(value: time) -> bytes:
    return _moment(_TIME, value, time.isoformat(value))


def _moment(code: int, value: datetime | time, text: str) -> bytes:
    # Where the offset is known it settles the fold.
    fold = "~" if value.fold and value.utcoffset() is None else ""
    zone = "" if value.tzinfo is None else _zone(value.tzinfo)
    return _extension(code, (text + fold + zone).encode())


def _zone(zone: tzinfo) -> str:
    """What the offset does not say: the zone's rules by their name, as RFC 9557 writes it."""
    if type(zone) is timezone:
        return ""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if isinstance(name, str):
        return f"[{name}]"
    if zone.utcoffset(None) is None:
        raise TypeError(f"cannot name a {_label(type(zone))}: a zone without a key")
    return f"[{_class_name(type(zone))}]"


def _timedelta(value: timedelta) -> bytes:
    rest = getattr(value, "nanoseconds", 0)
    return _tagged(_TIMEDELTA, [value.days, value.seconds, value.microseconds, rest])


def _little(array: Any) -> Any:
    # Bytes are little-endian on every machine.
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _numpy_scalar(value: Any) -> bytes:
    item = value.item()
    if value.dtype.kind in "mM":
        little = _little(value)
        return _extension(_NUMPY_TIME, _string(little.dtype.str) + little.tobytes())
    if type(item) in PLAIN or type(item) is complex:
        return canonical(item)
    raise TypeError(f"cannot name a numpy scalar of dtype {value.dtype}")


def _array(value: Any) -> bytes:
    kind, size = value.dtype.kind, value.dtype.itemsize
    shape = canonical(value.shape)
    if kind in "OT":
        return _extension(_OBJECTS, shape + canonical(value.ravel().tolist()))
    # Long doubles have padding bytes with anything in them.
    if kind not in "biufcSUmM" or (kind == "f" and size > 8) or (kind == "c" and size > 16):
        raise TypeError(f"cannot name an array of dtype {value.dtype}")
    little = _little(value)
    return _extension(_ARRAY, _string(little.dtype.str) + shape + little.tobytes())


# -- tables -----------------------------------------------------------------------------


class _Written:
    """Canonical bytes that stand for a value."""

    __slots__: tuple[str, ...] = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data


def _labelled(value: Any) -> dict[Any, Any]:
    names, items = value.index.tolist(), value.tolist()
    if len(set(names)) != len(names):
        raise TypeError("cannot name a series with two equal labels")
    return dict(zip(names, items, strict=True))


def columns_of(frame: Any) -> tuple[list[Any], list[list[Any]]]:
    """Names and columns of a pandas, polars or pyarrow frame, each value as it is named.

    Examples
    --------
    >>> import pandas as pd
    >>> columns_of(pd.DataFrame({"a": [1, 2]}))
    (['a'], [[1, 2]])
    """
    if _key_of(type(frame)) == "pandas.DataFrame":
        columns = [_pandas_column(column) for _, column in frame.items()]
        return frame.columns.tolist(), columns
    import narwhals as nw

    table = nw.from_native(frame, eager_only=True)
    return list(table.columns), [_column(table[name]) for name in table.columns]


# Python's times end at microseconds: lists of finer ones would lose the rest.
_FINE: Final = re.compile(r"time_unit='ns'|\bTime\b")


def _pandas_column(column: Any) -> list[Any]:
    if str(column.dtype).startswith("time64[ns]"):
        raise TypeError(f"cannot name a column of {column.dtype}")
    items: list[Any] = column.tolist()
    return items


def _column(column: Any) -> list[Any]:
    import narwhals as nw

    items: list[Any] = column.to_list()
    if not _FINE.search(repr(column.dtype)):
        return items
    if column.dtype.is_nested():
        raise TypeError(f"cannot name a column of {column.dtype}")
    rests = column.cast(nw.Int64()).to_list()
    return [_finer(item, rest) for item, rest in zip(items, rests, strict=True)]


def _finer(item: Any, nanoseconds: int | None) -> Any:
    """``item`` with the nanoseconds that it lost, written as pandas' counterpart is."""
    micros, rest = divmod(nanoseconds or 0, 1000)
    if not rest or hasattr(item, "nanosecond") or hasattr(item, "nanoseconds"):
        return item
    if isinstance(item, timedelta):
        whole = timedelta(microseconds=micros)
        parts = [whole.days, whole.seconds, whole.microseconds, rest]
        return _Written(_tagged(_TIMEDELTA, parts))
    text = item.isoformat(timespec="microseconds")
    place = text.index(".") + 7
    code = _DATETIME if isinstance(item, datetime) else _TIME
    return _Written(_moment(code, item, f"{text[:place]}{rest:03}{text[place:]}"))


def _axes(frame: Any) -> list[Any]:
    """Labels and names of a pandas frame's axes, unless they are what every frame has."""
    if _key_of(type(frame)) != "pandas.DataFrame":
        return []
    index, names = frame.index, [list(frame.index.names), list(frame.columns.names)]
    counted = type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1
    if counted and names == [[None], [None] * frame.columns.nlevels]:
        return []
    return [None if counted else index.tolist(), *names]


def _frame_of(value: Any, names: Sequence[Any], columns: Sequence[Any]) -> bytes:
    return _tagged(
        _FRAME, [len(value), list(map(_Written, map(_name, names))), columns, _axes(value)]
    )


def _frame(value: Any) -> bytes:
    return _frame_of(value, *columns_of(value))


# -- rows that were rounded -------------------------------------------------------------


class Rounds(Protocol):
    """What rounds the features of a row for its key."""

    @property
    def settings(self) -> bytes:
        """What keys say of it."""
        ...

    def row(self, features: Any) -> Any:
        """``features`` as the key shall see them."""
        ...


class Rounded:
    """Features that go by rounded values in their key: made by a rounding.

    Parameters
    ----------
    rounding
        Its settings are part of the key, so a row that was rounded never shares an entry
        with one that was not, nor with one that was rounded otherwise.
    features
        The row as it came.

    Examples
    --------
    >>> from prodml.cache.rounding import Rounding
    >>> row = Rounding({"amount": 2})({"amount": 9.987})
    >>> row.features
    {'amount': 9.987}
    >>> canonical(row) == canonical({"amount": 9.99})
    False
    """

    __slots__: tuple[str, ...] = ("features", "rounding")

    def __init__(self, rounding: Rounds, features: Any) -> None:
        self.rounding: Rounds = rounding
        self.features: Any = features

    def written(self, row: bytes) -> bytes:
        """Canonical bytes of this rounding's row whose own are ``row``."""
        return _extension(_ROUNDED, b"\x92" + self.rounding.settings + row)


def _rounded(value: Rounded) -> bytes:
    return value.written(canonical(value.rounding.row(value.features)))


class Parts(NamedTuple):
    """A value taken apart: what it calls its columns, and how to name it with others.

    Parameters
    ----------
    names
        Names of the columns, or their places.
    columns
        A list for each; of one item, if the value is a row.
    named
        The value with other columns, for :func:`canonical`.
    """

    names: Sequence[Any]
    columns: Sequence[list[Any]]
    named: Callable[[Sequence[list[Any]]], Any]


def parts_of(value: Any) -> Parts:
    """Columns of a row or frame.

    Raises
    ------
    TypeError
        ``value`` has no columns, or holds more than them.

    Examples
    --------
    >>> parts = parts_of({"a": 1})
    >>> parts.names, parts.columns, parts.named([[2]])
    (['a'], [[1]], {'a': 2})
    """
    cls = type(value)
    if _key_of(cls) == "pandas.Series":
        return _row_parts(_labelled(value), dict)
    if _writer_of(cls) is _frame:
        return _frame_parts(value)
    if cls not in {dict, list, tuple}:
        # Naming it whole refuses what holds more than it shows.
        canonical(value)
    if isinstance(value, Mapping):
        return _row_parts(value, dict)
    if isinstance(value, list | tuple) and not hasattr(cls, "_fields"):
        return _row_parts(dict(enumerate(value)), lambda row: list(row.values()))
    shown = None if isinstance(value, Enum) else _fields_of(cls)
    if shown is None:
        raise TypeError(f"cannot round a {_label(cls)}: it has no columns")
    content = {name: getattr(value, name) for name in shown}
    return _row_parts(content, lambda row: _Written(_object_of(cls, row)))


def _frame_parts(value: Any) -> Parts:
    names, columns = columns_of(value)

    def put(columns: Sequence[list[Any]]) -> Any:
        return _Written(_frame_of(value, names, columns))

    return Parts(names, columns, put)


def _row_parts(row: Mapping[Any, Any], named: Callable[[dict[Any, Any]], Any]) -> Parts:
    names = list(row)

    def put(columns: Sequence[list[Any]]) -> Any:
        return named({name: column[0] for name, column in zip(names, columns, strict=True)})

    return Parts(names, [[item] for item in row.values()], put)


# Third parties are known by package and class name: nothing of theirs is imported here.
_BY_NAME: Final[dict[str, Writer]] = {
    "builtins.NoneType": _nil,
    "builtins.bool": _boolean,
    "builtins.int": _integer,
    "builtins.float": _float,
    "builtins.complex": _complex,
    "builtins.str": _string,
    "builtins.bytes": _binary,
    "builtins.bytearray": _binary,
    "builtins.list": _sequence,
    "builtins.tuple": _sequence,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.dict": _mapping,
    "collections.defaultdict": _defaults,
    "datetime.datetime": _datetime,
    "datetime.date": lambda value: _extension(_DATE, date.isoformat(value).encode()),
    "datetime.time": _time,
    "datetime.timedelta": _timedelta,
    "decimal.Decimal": lambda value: _extension(_DECIMAL, Decimal.__str__(value).encode()),
    "fractions.Fraction": lambda value: _tagged(_FRACTION, [value.numerator, value.denominator]),
    "uuid.UUID": lambda value: _extension(_UUID, value.bytes),
    "numpy.generic": _numpy_scalar,
    "pandas.NaTType": lambda _: _extension(_NO_TIME, b""),
    "pandas.NAType": lambda _: _extension(_NO_VALUE, b""),
}

# Subclasses of these may mean something else (a mask, a matrix), so the class must match.
_BY_EXACT_NAME: Final[dict[str, Writer]] = {
    "numpy.ndarray": _array,
    "numpy.memmap": _array,
    "pandas.Series": lambda value: _mapping(_labelled(value)),
    # Its own isoformat knows of nanoseconds, and of years beyond Python's.
    "pandas.Timestamp": lambda value: _moment(_DATETIME, value, value.isoformat()),
    # It notes its parts once somebody has asked for them.
    "pandas.Timedelta": _timedelta,
    "pandas.DataFrame": _frame,
    "polars.DataFrame": _frame,
    "pyarrow.Table": _frame,
}


def _key_of(cls: type) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__.rpartition('.')[2]}"


_WRITERS: Final[dict[type, Writer]] = {}
_OURS: Final[dict[type, Writer]] = {Rounded: _rounded, _Written: lambda value: value.data}


def _learn(cls: type) -> Writer:
    # Classes may be made at run time: do not keep every one of them for ever.
    if len(_WRITERS) >= 1024:
        _WRITERS.clear()
    writer = _WRITERS[cls] = _writer_of(cls)
    return writer


def _writer_of(cls: type) -> Writer:
    exact = _OURS.get(cls) or _BY_EXACT_NAME.get(_key_of(cls))
    if exact is not None:
        return exact
    if issubclass(cls, Enum):
        return _enum
    builtin = issubclass(cls, int | float | str | bytes | list | dict | set | frozenset)
    names = None if builtin else _fields_of(cls)
    if names is not None:
        return _object(cls, names)
    for base in cls.__mro__:
        writer = _BY_NAME.get(_key_of(base))
        if writer is not None:
            return writer if base is cls or writer is _numpy_scalar else _extended(cls, writer)
    return _mapping if issubclass(cls, Mapping) else _refuse


def _refuse(value: Any) -> bytes:
    raise TypeError(f"cannot name a {_label(type(value))}")


# -- the fast path ----------------------------------------------------------------------


# Of a row's names: their bytes in order, and how to pick the values.
_Shape: TypeAlias = tuple[bytes, Callable[[Any], tuple[Any, ...]]]


def _shape_of(names: tuple[str, ...]) -> _Shape:
    ordered = sorted(names, key=_string)
    prefix = _names([_string(name) for name in ordered])
    if len(names) == 1:
        return prefix, lambda row: (row[names[0]],)
    return prefix, itemgetter(*ordered)


_all_plain: Final = PLAIN.issuperset


class Namer:
    """:func:`canonical`, faster for flat rows of plain values.

    It remembers the field names of rows it has seen, so only the values are written anew.

    Examples
    --------
    >>> row = {"age": 41, "country": "DE", "score": 0.5}
    >>> Namer().name(row) == canonical(row)
    True
    """

    __slots__: tuple[str, ...] = ("_latest", "_pack", "_shapes")

    def __init__(self) -> None:
        from msgspec.msgpack import Encoder

        self._pack: Callable[[Any], bytes] = Encoder().encode
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        # By the number of names: a row of as many that has each of a shape's has no other.
        self._latest: dict[int, _Shape] = {}

    def name(self, value: Any) -> bytes:
        """Canonical bytes of ``value``; raises ``TypeError`` when it cannot be named."""
        cls = type(value)
        if cls is dict:
            try:
                prefix, pick = self._latest[len(value)]
                values = pick(value)
            except KeyError:
                return self._of_another_shape(value)
            packed = self._packed(values)
            return canonical(value) if packed is None else prefix + packed
        if cls is list or cls is tuple:
            return self._packed(value) or canonical(value)
        if cls is Rounded:
            rounded: Rounded = value
            return rounded.written(self.name(rounded.rounding.row(rounded.features)))
        return canonical(value)

    def rows(self, names: Sequence[Any], columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """Canonical bytes of each row of a frame, given as columns, as a mapping by name.

        None for a row with a value that cannot be named.
        """
        written = [_name(name) for name in names]
        order = sorted(range(len(names)), key=written.__getitem__)
        rows = zip(*(columns[at] for at in order), strict=True)
        if len(set(written)) != len(written):
            return [None for _ in rows]
        prefix, picked = _names([written[at] for at in order]), list(rows)
        return [
            self._row(prefix, row) if each is None else prefix + each
            for row, each in zip(picked, self._packed_alike(picked), strict=True)
        ]

    def each(self, rows: Sequence[Any]) -> list[bytes | None]:
        """:meth:`name` of each of ``rows``, None for one that cannot be named.

        Quickest where all of them are dictionaries with the same names and plain values.

        Examples
        --------
        >>> rows = [{"a": 1}, {"a": 2}, {"a": open}]
        >>> Namer().each(rows) == [canonical(rows[0]), canonical(rows[1]), None]
        True
        """
        bodies = self._alike(rows) if type(self) is Namer else None
        return [self._tried(row) for row in rows] if bodies is None else bodies

    def vectors(self, rows: Any) -> list[bytes]:
        """Canonical bytes of each row of an array of two or more dimensions.

        Raises
        ------
        TypeError
            The array's dtype has no name.
        """
        if rows.dtype.kind in "OT" or not len(rows):
            return [canonical(row) for row in rows]
        first = canonical(rows[0])
        data = _little(rows).tobytes()
        size = len(data) // len(rows)
        prefix = first[: len(first) - size]
        return [prefix + data[at : at + size] for at in range(0, len(data), size or 1)]

    def _tried(self, row: Any) -> bytes | None:
        try:
            return self.name(row)
        except Exception:
            # Rows may be objects of anyone's making, and raise anything when read.
            return None

    def _alike(self, rows: Sequence[Any]) -> list[bytes | None] | None:
        """Bodies of dictionaries that have the same names; None if they are not that."""
        if set(map(type, rows)) != {dict} or len(set(map(len, rows))) != 1:
            return None
        names = tuple(rows[0])
        shape = self._shapes.get(names) or self._learn(names)
        if shape is None:
            return None
        prefix, pick = shape
        try:
            # As many names, and each of them: so there is no other.
            packed = self._packed_alike(list(map(pick, rows)))
        except KeyError:
            return None
        return [
            self._tried(row) if each is None else prefix + each
            for row, each in zip(rows, packed, strict=True)
        ]

    def _packed_alike(self, rows: Sequence[Any]) -> list[bytes | None]:
        """Packed values of each of ``rows``, None for one that wants a closer look."""
        # What is beyond MessagePack makes the packing of all fail.
        with suppress(OverflowError, UnicodeEncodeError):
            if _all_plain(map(type, chain.from_iterable(rows))):
                packed = list(map(self._pack, rows))
                return [None if _BIG in each and _SUSPECT in each else each for each in packed]
        return [None] * len(rows)

    def _row(self, prefix: bytes, values: tuple[Any, ...]) -> bytes | None:
        packed = self._packed(values)
        try:
            return prefix + (_sequence(values) if packed is None else packed)
        except TypeError:
            return None

    def _packed(self, values: Any) -> bytes | None:
        if not _all_plain(map(type, values)):
            values = _unwrapped(values)
            if values is None:
                return None
        try:
            packed = self._pack(values)
        except (OverflowError, UnicodeEncodeError):
            return None
        # One byte is found much faster than two, and most pairs are there by chance.
        if _BIG in packed and _SUSPECT in packed and any(map(ne, values, values)):
            return None
        return packed

    def _of_another_shape(self, value: dict[Any, Any]) -> bytes:
        names = tuple(value)
        shape = self._shapes.get(names) or self._learn(names)
        if shape is None:
            return canonical(value)
        self._latest[len(names)] = shape
        return Namer.name(self, value)

    def _learn(self, names: tuple[Any, ...]) -> _Shape | None:
        if not names or not all(type(name) is str for name in names):
            return None
        if len(self._shapes) >= 1024:
            self._shapes.clear()
            self._latest.clear()
        shape = self._shapes[names] = _shape_of(names)
        return shape


# Those whose item() is the plain value they stand for; a date's item() may be a number.
_NUMPY_SCALARS: Final = frozenset(
    {"bool", "bool_", "float16", "float32", "float64", "str_", "bytes_"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


def plain_number(value: Any) -> int | float | None:
    """``value`` if it is a number of Python or numpy and nothing more, else None.

    Examples
    --------
    >>> plain_number(1.5), plain_number(True), plain_number("1")
    (1.5, None, None)
    """
    plain = value.item() if _wraps(type(value)) else value
    return plain if type(plain) is int or type(plain) is float else None


def _unwrapped(values: Any) -> list[Any] | None:
    plain = [value.item() if _wraps(type(value)) else value for value in values]
    return plain if PLAIN.issuperset(map(type, plain)) else None


def _wraps(cls: type) -> bool:
    return cls.__module__ == "numpy" and cls.__name__ in _NUMPY_SCALARS
