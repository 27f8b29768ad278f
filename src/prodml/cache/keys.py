"""Canonical bytes of features: the same value gives the same key on every machine.

:func:`canonical` is the specification (written down in ``docs/reference/cache-keys.md``);
:class:`Namer` gives the same bytes faster for plain rows.  The format is a prefix code (a
value's end is known from its beginning), so concatenated values never run into each other
and two different values never share their bytes.
"""

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, time, timedelta
from enum import Enum
from operator import itemgetter
from typing import Any, Final, TypeAlias

__all__ = ["PLAIN", "Namer", "canonical", "digest"]

Writer: TypeAlias = Callable[[Any], bytes]

PLAIN: Final = frozenset({bool, bytes, float, int, str, type(None)})
"""Types, exactly these, whose values msgspec writes as the specification does."""

# Type codes of extensions.  Numbers are for ever: a code is never given a second meaning.
_INTEGER, _SURROGATES, _SET, _ENUM, _COMPLEX, _OBJECT = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _NUMPY_TIME, _NO_TIME, _NO_VALUE = 10, 11, 12, 13, 14, 15, 16
_DECIMAL, _FRACTION, _UUID = 20, 21, 22
_ARRAY, _OBJECTS, _FRAME = 30, 31, 32

_SIGN_AND_EXPONENT = 0xFFF0_0000_0000_0000
_NAN_SIGN = 0x8000_0000_0000_0000
# A float whose sign and exponent bits are all set: -inf or a negative NaN.
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


def digest(preimage: bytes, secret: bytes) -> str:
    """Keyed BLAKE2b-128 of ``preimage`` as 32 hexadecimal digits (RFC 7693).

    Whoever reads the digests cannot confirm a guess of the features without ``secret``.

    Examples
    --------
    >>> digest(b"x", b"one") == digest(b"x", b"two")
    False
    """
    return hashlib.blake2b(preimage, digest_size=16, key=secret).hexdigest()


# -- MessagePack subset -----------------------------------------------------------------


def _nil(_: None) -> bytes:
    return b"\xc0"


def _boolean(value: bool) -> bytes:
    return b"\xc3" if value else b"\xc2"


def _integer(value: int) -> bytes:
    value = int(value)
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
    if bits & _SIGN_AND_EXPONENT == _SIGN_AND_EXPONENT and value != value:  # noqa: PLR0124
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
    return _header(len(value), None, (0xC4, 0xC5, 0xC6)) + bytes(value)


def _extension(code: int, payload: bytes) -> bytes:
    return _header(len(payload), None, (0xC7, 0xC8, 0xC9)) + bytes((code,)) + payload


def _sequence(value: Any) -> bytes:
    items = [canonical(item) for item in value]
    return _header(len(items), (0x90, 16), (0, 0xDC, 0xDD)) + b"".join(items)


def _mapping(value: Mapping[Any, Any]) -> bytes:
    # An enumeration that is text names a field by its text, as a dictionary sees it.
    pairs = sorted(
        (_string(name) if isinstance(name, str) else canonical(name), canonical(item))
        for name, item in value.items()
    )
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise TypeError("cannot name a mapping with two equal keys")
    head = _header(len(pairs), (0x80, 16), (0, 0xDE, 0xDF)) + b"".join(names)
    size = _header(len(pairs), (0x90, 16), (0, 0xDC, 0xDD))
    return head + size + b"".join(item for _, item in pairs)


# -- extensions -------------------------------------------------------------------------


def _tagged(code: int, value: Any) -> bytes:
    return _extension(code, canonical(value))


def _set(value: Any) -> bytes:
    return _extension(_SET, b"".join(sorted(canonical(item) for item in value)))


def _enum(value: Enum) -> bytes:
    return _tagged(_ENUM, [_name_of(type(value)), value.name])


def _complex(value: complex) -> bytes:
    return _extension(_COMPLEX, _float(value.real) + _float(value.imag))


def _datetime(value: datetime) -> bytes:
    # The offset settles the fold of an aware time; a naive one has only its flag.
    fold = "~" if value.fold and value.tzinfo is None else ""
    return _extension(_DATETIME, (value.isoformat() + fold).encode())


def _time(value: time) -> bytes:
    fold = "~" if value.fold and value.tzinfo is None else ""
    return _extension(_TIME, (value.isoformat() + fold).encode())


def _timedelta(value: timedelta) -> bytes:
    rest = getattr(value, "nanoseconds", 0)
    return _tagged(_TIMEDELTA, [value.days, value.seconds, value.microseconds, rest])


def _fields_of(value: Any) -> tuple[str, ...]:
    if is_dataclass(value):
        return tuple(field.name for field in fields(value))
    names: Any = getattr(value, "__struct_fields__", None) or getattr(value, "_fields", ())
    return tuple(names)


def _object(value: Any) -> bytes:
    names = _fields_of(value)
    hidden = getattr(value, "__dict__", {}).keys() - set(names)
    if hidden:
        raise TypeError(f"cannot name {_name_of(type(value))}: it also holds {sorted(hidden)}")
    content = {name: getattr(value, name) for name in names}
    return _tagged(_OBJECT, [_name_of(type(value)), content])


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


def _series(value: Any) -> bytes:
    names, items = value.index.tolist(), value.tolist()
    if len(set(names)) != len(names):
        raise TypeError("cannot name a series with two equal labels")
    return _mapping(dict(zip(names, items, strict=True)))


def _frame(value: Any) -> bytes:
    import narwhals as nw

    frame = nw.from_native(value, eager_only=True)
    columns = [frame[name].to_list() for name in frame.columns]
    return _tagged(_FRAME, [frame.columns, columns])


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
    "datetime.datetime": _datetime,
    "datetime.date": lambda value: _extension(_DATE, value.isoformat().encode()),
    "datetime.time": _time,
    "datetime.timedelta": _timedelta,
    "decimal.Decimal": lambda value: _extension(_DECIMAL, str(value).encode()),
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
    "pandas.Series": _series,
    "pandas.DataFrame": _frame,
    "polars.DataFrame": _frame,
    "pyarrow.Table": _frame,
}


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _key_of(cls: type) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__.rpartition('.')[2]}"


_WRITERS: Final[dict[type, Writer]] = {}


def _learn(cls: type) -> Writer:
    # Classes may be made at run time: do not keep every one of them for ever.
    if len(_WRITERS) >= 1024:
        _WRITERS.clear()
    writer = _WRITERS[cls] = _writer_of(cls)
    return writer


def _writer_of(cls: type) -> Writer:
    exact = _BY_EXACT_NAME.get(_key_of(cls))
    if exact is not None:
        return exact
    if issubclass(cls, Enum):
        return _enum
    builtin = issubclass(cls, int | float | str | bytes | list | dict | set | frozenset)
    if not builtin and (is_dataclass(cls) or _has_fields(cls)):
        return _object
    if issubclass(cls, Mapping):
        return _mapping
    for base in cls.__mro__:
        writer = _BY_NAME.get(_key_of(base))
        if writer is not None:
            return writer
    return _refuse


def _has_fields(cls: type) -> bool:
    named = issubclass(cls, tuple) and hasattr(cls, "_fields")
    return named or hasattr(cls, "__struct_fields__")


def _refuse(value: Any) -> bytes:
    raise TypeError(f"cannot name a {_name_of(type(value))}")


# -- the fast path ----------------------------------------------------------------------


class _Shape:
    """Names of a row that was seen: their bytes in order, and how to pick the values."""

    __slots__: tuple[str, ...] = ("pick", "prefix")

    def __init__(self, names: tuple[str, ...]) -> None:
        ordered = sorted(names, key=_string)
        head = _header(len(names), (0x80, 16), (0, 0xDE, 0xDF))
        self.prefix: bytes = head + b"".join(map(_string, ordered))
        self.pick: Callable[[Any], tuple[Any, ...]] = itemgetter(*ordered)


class Namer:
    """:func:`canonical`, faster for flat rows of plain values.

    It remembers the field names of rows it has seen, so only the values are written anew.

    Examples
    --------
    >>> row = {"age": 41, "country": "DE", "score": 0.5}
    >>> Namer().name(row) == canonical(row)
    True
    """

    __slots__: tuple[str, ...] = ("_pack", "_shapes")

    def __init__(self) -> None:
        from msgspec.msgpack import Encoder

        self._pack: Callable[[Any], bytes] = Encoder().encode
        self._shapes: dict[tuple[Any, ...], _Shape | None] = {}

    def name(self, value: Any) -> bytes:
        """Canonical bytes of ``value``; raises ``TypeError`` when it cannot be named."""
        cls = type(value)
        if cls is dict:
            names = tuple(value)
            shape = self._shapes.get(names) or self._learn(names)
            if shape is not None:
                packed = self._packed(shape.pick(value))
                return canonical(value) if packed is None else shape.prefix + packed
        elif cls is list or cls is tuple:
            packed = self._packed(value)
            if packed is not None:
                return packed
        return canonical(value)

    def rows(self, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """Canonical bytes of each row of a frame, given as columns, as a mapping by name.

        None for a row with a value that cannot be named.
        """
        order = sorted(range(len(names)), key=lambda at: _string(names[at]))
        head = _header(len(names), (0x80, 16), (0, 0xDE, 0xDF))
        prefix = head + b"".join(_string(names[at]) for at in order)
        rows = zip(*(columns[at] for at in order), strict=True)
        return [self._row(prefix, row) for row in rows]

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

    def _row(self, prefix: bytes, values: tuple[Any, ...]) -> bytes | None:
        packed = self._packed(values)
        try:
            return prefix + (_sequence(values) if packed is None else packed)
        except TypeError:
            return None

    def _packed(self, values: Any) -> bytes | None:
        if not PLAIN.issuperset(map(type, values)):
            values = _unwrapped(values)
            if values is None:
                return None
        try:
            packed = self._pack(values)
        except (OverflowError, UnicodeEncodeError):
            return None
        return None if _SUSPECT in packed else packed

    def _learn(self, names: tuple[Any, ...]) -> _Shape | None:
        if len(names) < 2 or not all(type(name) is str for name in names):
            return None
        if len(self._shapes) >= 1024:
            self._shapes.clear()
        shape = self._shapes[names] = _Shape(names)
        return shape


# Those whose item() is the plain value they stand for; a date's item() may be a number.
_NUMPY_SCALARS: Final = frozenset(
    {"bool", "bool_", "float16", "float32", "float64", "str_", "bytes_"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


def _unwrapped(values: Any) -> list[Any] | None:
    plain = [value.item() if _wraps(type(value)) else value for value in values]
    return plain if PLAIN.issuperset(map(type, plain)) else None


def _wraps(cls: type) -> bool:
    return cls.__module__ == "numpy" and cls.__name__ in _NUMPY_SCALARS
