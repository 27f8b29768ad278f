"""Values as bytes and back, without pickle.

The body is MessagePack with extension types for what it lacks.  Nothing that is read can
call anything; records are rebuilt only if their class was named in advance.  A body with
arrays begins with the byte C1, which begins no MessagePack value::

    C1 .. .. .. .. .. .. .. | offset of the value | array | ... | array | value
              8                      8              multiples of 16

Their elements are never copied on reading: a decoded array looks into the body.
"""

import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from functools import cache, lru_cache
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from prodml.errors import CorruptRecord

__all__ = ["Codec", "CustomCodec", "ValueCodec", "atomic", "class_name", "fields_of"]

_Records: TypeAlias = Mapping[str, tuple[type, tuple[str, ...]]]

_ATOMS: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})

_TUPLE, _SET, _FROZENSET, _PAIRS, _INTEGER, _COMPLEX, _BYTEARRAY = 1, 2, 3, 4, 5, 6, 7
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = 10, 11, 12, 13, 14, 15
_ARRAY, _SCALAR, _OBJECTS, _RECORD, _MEMBER = 20, 21, 22, 30, 31

_NATIVE: Final = frozenset({bool, bytes, float, str, type(None)})
_DTYPE: Final = re.compile(r"[<>|][biufcSUmM]\d{1,6}(\[\d{0,3}[a-zA-Z]{1,2}\])?")
_HEAD: Final = struct.Struct(">B7xQ")
_ALIGNED: Final = 16
_EXTENSIONS: Final = frozenset({0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8})


@runtime_checkable
class Codec(Protocol):
    """Turns answers into bytes and back."""

    def encode(self, value: Any) -> bytes:
        """Bytes of ``value``; raises anything if there are none."""
        ...

    def decode(self, body: bytes) -> Any:
        """A new value equal to the one encoded; raises anything if ``body`` is none."""
        ...


def atomic(cls: type) -> bool:
    """Whether values of ``cls`` cannot change: they are kept and handed out as they are.

    Examples
    --------
    >>> atomic(float), atomic(list)
    (True, False)
    """
    if cls in _ATOMS or cls.__module__ != "numpy":
        return cls in _ATOMS
    # A record scalar of numpy may be written to.
    return cls.__name__ != "void" and any(base.__name__ == "generic" for base in cls.__mro__)


class CustomCodec:
    """A codec of the user's, held to its word.

    Examples
    --------
    >>> import json
    >>> class Json:
    ...     def encode(self, value):
    ...         return json.dumps(value).encode()
    ...     def decode(self, body):
    ...         return json.loads(body)
    >>> CustomCodec(Json()).decode(b"nonsense")
    Traceback (most recent call last):
        ...
    prodml.errors.CorruptRecord: corrupt record at cached value: Expecting value: ...
    """

    __slots__: tuple[str, ...] = ("_codec",)

    def __init__(self, codec: Codec) -> None:
        self._codec: Codec = codec

    def encode(self, value: Any) -> bytes:
        """Bytes of ``value``.

        Raises
        ------
        TypeError
            The codec gave something else.
        """
        body = self._codec.encode(value)
        if type(body) is not bytes:
            raise TypeError(f"the codec gave a {type(body).__name__} instead of bytes")
        return body

    def decode(self, body: bytes) -> Any:
        """Value of ``body``.

        Raises
        ------
        CorruptRecord
            The codec raised something.
        """
        try:
            return self._codec.decode(body)
        except Exception as error:
            raise CorruptRecord("cached value", str(error)) from None


class ValueCodec:
    """Encodes values and decodes them to equal values of the same type.

    Known are the scalars of Python and numpy, ``str``, ``bytes``, ``list``, ``tuple``,
    ``dict``, ``set``, dates and times, ``Decimal``, ``UUID`` and arrays of numpy, nested as
    you like.  A decoded array is read-only, aligned, and keeps its body alive.

    Parameters
    ----------
    records
        Classes that may be written and rebuilt: dataclasses, structs of msgspec, named
        tuples and enumerations.  Of a dataclass no code runs; a struct is called with its
        fields.

    Examples
    --------
    >>> codec = ValueCodec()
    >>> codec.decode(codec.encode({"label": ("churn", None), "score": 0.25}))
    {'label': ('churn', None), 'score': 0.25}
    >>> codec.encode(open)
    Traceback (most recent call last):
        ...
    TypeError: cannot encode a builtins.builtin_function_or_method
    """

    __slots__: tuple[str, ...] = ("_pack", "_records", "_unpack", "_unpack_top")

    def __init__(self, *records: type) -> None:
        from msgspec.msgpack import Decoder, Encoder

        self._records: _Records = {class_name(cls): (cls, fields_of(cls)) for cls in records}
        self._pack: Callable[[Any], bytes] = Encoder().encode
        self._unpack: Callable[[Any], Any] = _Reader(self._records).unpack
        self._unpack_top: Callable[[Any], Any] = Decoder().decode

    def encode(self, value: Any) -> bytes:
        """Bytes of ``value``.

        Raises
        ------
        TypeError
            A type that would not come back as it was.
        """
        try:
            if type(value) in _NATIVE:
                return self._pack(value)
            writer = _Writer(self._pack, self._records)
            main = self._pack(writer.plain(value))
            return writer.joined(main) if writer.buffers else main
        except (ValueError, RecursionError, OverflowError, AttributeError) as error:
            raise TypeError(f"cannot encode: {error}") from None

    def decode(self, body: bytes) -> Any:
        """Value of ``body``.

        Raises
        ------
        CorruptRecord
            ``body`` was not written by :meth:`encode`.
        """
        try:
            return self._with_arrays(body) if body[:1] == b"\xc1" else self._unpack(body)
        except Exception as error:
            raise CorruptRecord("cached value", str(error)) from None

    def _with_arrays(self, body: bytes) -> Any:
        _, start = _HEAD.unpack_from(body)
        main = memoryview(body)[start:]
        if main[0] in _EXTENSIONS:
            # An array alone needs no decoder of its own.
            extension = self._unpack_top(main)
            if extension.code == _ARRAY:
                return _array_in(body, start, *self._unpack(extension.data))
        reader = _Reader(self._records, body, start)
        try:
            return reader.unpack(main)
        finally:
            # Reader and decoder know each other, and would keep the body from being freed.
            del reader.unpack


class _Writer:
    """Makes one value plain; elements of arrays are set aside in ``buffers``."""

    __slots__: tuple[str, ...] = ("_pack", "_records", "_size", "buffers")

    def __init__(self, pack: Callable[[Any], bytes], records: _Records) -> None:
        self._pack: Callable[[Any], bytes] = pack
        self._records: _Records = records
        self._size: int = _HEAD.size
        self.buffers: list[Any] = []

    def joined(self, main: bytes) -> bytes:
        return b"".join((_HEAD.pack(0xC1, self._size), *self.buffers, main))

    def plain(self, value: Any) -> Any:
        cls = type(value)
        if cls in _NATIVE:
            return value
        if cls is int:
            return value if -(2**63) <= value < 2**64 else _ext(_INTEGER, str(value).encode())
        if cls is list:
            return value if _NATIVE.issuperset(map(type, value)) else self._items(value)
        if cls is dict:
            return self._dict(value)
        if cls is datetime or cls is time:
            return _moment(value)
        tagged = self._tag(cls, value)
        if tagged is None:
            raise TypeError(f"cannot encode a {class_name(cls)}")
        return tagged

    def _items(self, values: Any) -> list[Any]:
        return [self.plain(value) for value in values]

    def _dict(self, value: dict[Any, Any]) -> Any:
        if all(type(name) is str for name in value):
            return {name: self.plain(item) for name, item in value.items()}
        pairs = [self._items(pair) for pair in value.items()]
        return _ext(_PAIRS, self._pack(pairs))

    def _tag(self, cls: type, value: Any) -> Any:
        if cls in _SEQUENCES:
            return _ext(_SEQUENCES[cls], self._pack(self._items(value)))
        name = class_name(cls)
        writer = _TEXTS.get(name)
        if writer is not None:
            return _ext(writer[0], writer[1](value))
        if cls.__module__ == "numpy" and hasattr(value, "dtype"):
            return self._numpy(cls, value)
        known, fields = self._records.get(name, (None, ()))
        return self._record(name, value, fields) if known is cls else None

    def _record(self, name: str, value: Any, fields: tuple[str, ...]) -> Any:
        if isinstance(value, Enum):
            if type(value).__members__.get(value.name) is not value:
                raise TypeError(f"cannot encode a combination of {name}")
            return _ext(_MEMBER, self._pack([name, value.name]))
        if not set(fields).issuperset(getattr(value, "__dict__", ())):
            raise TypeError(f"cannot encode a {name} with more than its fields")
        plain = {field: self.plain(getattr(value, field)) for field in fields}
        return _ext(_RECORD, self._pack([name, plain]))

    def _numpy(self, cls: type, value: Any) -> Any:
        text, shape = value.dtype.str, list(value.shape)
        if cls.__name__ not in {"ndarray", value.dtype.type.__name__}:
            return None
        if text == "|O" and cls.__name__ == "ndarray":
            return _ext(_OBJECTS, self._pack([shape, self._items(value.ravel().tolist())]))
        if not _DTYPE.fullmatch(text):
            return None
        if cls.__name__ != "ndarray":
            return _ext(_SCALAR, self._pack([text, value.tobytes()[: value.dtype.itemsize]]))
        return _ext(_ARRAY, self._pack([text, shape, *self._set_aside(value)]))

    def _set_aside(self, array: Any) -> tuple[int, int]:
        import numpy as np

        place, length = self._size, array.nbytes
        if array.size and not length:
            raise TypeError("cannot encode an array of elements without a size")
        if length:
            gap = -length % _ALIGNED
            # Dates of numpy have no buffer of their own; their bytes have.
            plain = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self.buffers += [plain, bytes(gap)]
            self._size += length + gap
        return place, length


class _Reader:
    """Restores the extensions of one body; one without arrays serves any number of them."""

    __slots__: tuple[str, ...] = ("_body", "_end", "_records", "unpack")

    def __init__(self, records: _Records, body: bytes = b"", end: int = 0) -> None:
        from msgspec.msgpack import Decoder

        self._records: _Records = records
        self._body: bytes = body
        self._end: int = end
        self.unpack: Callable[[Any], Any] = Decoder(ext_hook=self._read).decode

    def _read(self, code: int, data: Any) -> Any:
        if code in _READERS:
            return _READERS[code](bytes(data))
        payload = self.unpack(data)
        if type(payload) is not list:
            raise TypeError(f"extension {code} without its list")
        if code in _COLLECTIONS:
            return _COLLECTIONS[code](payload)
        if code == _ARRAY:
            return _array_in(self._body, self._end, *payload)
        if code == _RECORD:
            return self._rebuilt(*payload)
        if code == _MEMBER:
            return self._member(*payload)
        return _NUMPY[code](*payload)

    def _member(self, name: str, member: str) -> Any:
        cls, _ = self._records[name]
        if not issubclass(cls, Enum):
            raise TypeError(f"{name} is no enumeration")
        return cls[member]

    def _rebuilt(self, name: str, values: dict[str, Any]) -> Any:
        cls, fields = self._records[name]
        if values.keys() != set(fields):
            raise ValueError(f"other fields than those of a {name}")
        if issubclass(cls, tuple):
            return tuple.__new__(cls, [values[field] for field in fields])
        if not hasattr(cls, "__dataclass_fields__"):
            return cls(**values)
        record = object.__new__(cls)
        for field, value in values.items():
            object.__setattr__(record, field, value)
        return record


def class_name(cls: type) -> str:
    """Name of ``cls`` in bodies.

    Examples
    --------
    >>> class_name(int)
    'builtins.int'
    """
    return f"{cls.__module__}.{cls.__qualname__}"


def fields_of(cls: type) -> tuple[str, ...]:
    """Names of a record's fields: of a dataclass, a struct or a named tuple; else none.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> fields_of(NamedTuple("Point", [("x", float), ("y", float)])), fields_of(int)
    (('x', 'y'), ())
    """
    if is_dataclass(cls):
        return tuple(field.name for field in fields(cls))
    named: tuple[str, ...] = getattr(cls, "__struct_fields__", getattr(cls, "_fields", ()))
    return tuple(named)


def _moment(value: datetime | time) -> Any:
    # A zone with rules would come back as a fixed offset.
    if value.fold or type(value.tzinfo) not in {type(None), timezone}:
        raise TypeError("cannot encode a time of a zone with rules: use UTC")
    code = _DATETIME if type(value) is datetime else _TIME
    return _ext(code, value.isoformat().encode())


@cache
def _ext_class() -> Callable[[int, bytes], Any]:
    from msgspec.msgpack import Ext

    return Ext


def _ext(code: int, payload: bytes) -> Any:
    return _ext_class()(code, payload)


@lru_cache(256)
def _dtype_of(text: str) -> Any:
    import numpy as np

    if not _DTYPE.fullmatch(text):
        raise ValueError(f"dtype {text!r}")
    return np.dtype(text)


def _array_in(body: bytes, end: int, *payload: Any) -> Any:
    import numpy as np

    text, shape, place, length = payload
    dtype = _dtype_of(text)
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != length:
        raise ValueError("an array of another size")
    if not count:
        return _frozen(np.empty(shape, dtype))
    if not _HEAD.size <= place < place + length <= end or place % _ALIGNED:
        raise ValueError("an array beyond its body")
    return _sound(np.frombuffer(body, dtype, count, place).reshape(shape))


def _sound(array: Any) -> Any:
    """Refuse elements that numpy itself never makes; they would fail in the caller's hands."""
    kind = array.dtype.kind
    if kind == "b" and array.view("u1").max() > 1:
        raise ValueError("a truth value that is neither")
    if kind == "U" and array.reshape(-1).view(f"{array.dtype.str[0]}u4").max() > 0x10FFFF:
        raise ValueError("text that is none")
    return array if array.flags.aligned else _frozen(array.copy())


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def _scalar_of(text: str, data: bytes) -> Any:
    import numpy as np

    dtype = _dtype_of(text)
    if len(data) != dtype.itemsize:
        raise ValueError("a scalar of another size")
    return _sound(np.frombuffer(data, dtype))[0] if data else dtype.type()


def _objects_of(shape: list[int], items: list[Any]) -> Any:
    import numpy as np

    if min(shape, default=0) < 0 or type(items) is not list:
        raise ValueError("an array of less than nothing")
    array = np.empty(len(items), dtype=object)
    # One by one: numpy would take items that are lists for another dimension.
    for place, item in enumerate(items):
        array[place] = item
    return _frozen(array.reshape(shape))


def _complex(payload: bytes) -> complex:
    return complex(*struct.unpack(">dd", payload))


def _timedelta(payload: bytes) -> timedelta:
    days, seconds, microseconds = struct.unpack(">iII", payload)
    return timedelta(days, seconds, microseconds)


def _decimal(payload: bytes) -> Any:
    from decimal import Decimal

    return Decimal(payload.decode())


def _uuid(payload: bytes) -> Any:
    from uuid import UUID

    return UUID(bytes=payload)


_SEQUENCES: Final[dict[type, int]] = {tuple: _TUPLE, set: _SET, frozenset: _FROZENSET}
_COLLECTIONS: Final[dict[int, Callable[[Any], Any]]] = {
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
    _PAIRS: dict,
}
_TEXTS: Final[dict[str, tuple[int, Callable[[Any], bytes]]]] = {
    "builtins.complex": (_COMPLEX, lambda value: struct.pack(">dd", value.real, value.imag)),
    "builtins.bytearray": (_BYTEARRAY, bytes),
    "datetime.date": (_DATE, lambda value: value.isoformat().encode()),
    "datetime.timedelta": (
        _TIMEDELTA,
        lambda value: struct.pack(">iII", value.days, value.seconds, value.microseconds),
    ),
    "decimal.Decimal": (_DECIMAL, lambda value: str(value).encode()),
    "uuid.UUID": (_UUID, lambda value: value.bytes),
}
_READERS: Final[dict[int, Callable[[bytes], Any]]] = {
    _INTEGER: int,
    _COMPLEX: _complex,
    _BYTEARRAY: bytearray,
    _DATETIME: lambda payload: datetime.fromisoformat(payload.decode()),
    _DATE: lambda payload: date.fromisoformat(payload.decode()),
    _TIME: lambda payload: time.fromisoformat(payload.decode()),
    _TIMEDELTA: _timedelta,
    _DECIMAL: _decimal,
    _UUID: _uuid,
}
_NUMPY: Final[dict[int, Callable[..., Any]]] = {_SCALAR: _scalar_of, _OBJECTS: _objects_of}
