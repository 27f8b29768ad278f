"""Values as bytes and back, without pickle.

The body is MessagePack with extension types for what it lacks; nothing that is read can
call anything.  What goes to a store that others can write is wrapped in an *envelope*: a
format byte, a keyed BLAKE2b tag bound to the entry's key, and when it was made.  Bytes that
were damaged, moved to another key or written by somebody without the secret fail the tag.
"""

import hashlib
import hmac
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from functools import cache
from typing import Any, Final, NamedTuple

from prodml.errors import CorruptRecord

__all__ = ["Codec", "Sealed", "atomic", "open_envelope", "seal"]

_ATOMS: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})

_TUPLE, _SET, _FROZENSET, _PAIRS, _INTEGER, _COMPLEX, _BYTEARRAY = 1, 2, 3, 4, 5, 6, 7
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = 10, 11, 12, 13, 14, 15
_ARRAY, _SCALAR, _OBJECTS = 20, 21, 22

_NATIVE: Final = frozenset({bool, bytes, float, str, type(None)})
_DTYPE: Final = re.compile(r"[<>|][biufcSUmM]\d{1,6}(\[\d{0,3}[a-zA-Z]{1,2}\])?")


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


class Codec:
    """Encodes values and decodes them to equal values of the same type.

    Known are the scalars of Python and numpy, ``str``, ``bytes``, ``list``, ``tuple``,
    ``dict``, ``set``, dates and times, ``Decimal``, ``UUID`` and arrays of numpy, nested as
    you like.  A decoded array is the caller's own and may be written to.

    Examples
    --------
    >>> codec = Codec()
    >>> codec.decode(codec.encode({"label": ("churn", None), "score": 0.25}))
    {'label': ('churn', None), 'score': 0.25}
    >>> codec.encode(open)
    Traceback (most recent call last):
        ...
    TypeError: cannot encode a builtins.builtin_function_or_method
    """

    __slots__: tuple[str, ...] = ("_pack", "_unpack")

    def __init__(self) -> None:
        from msgspec.msgpack import Decoder, Encoder

        self._pack: Callable[[Any], bytes] = Encoder().encode
        self._unpack: Callable[[bytes], Any] = Decoder(ext_hook=self._restore).decode

    def encode(self, value: Any) -> bytes:
        """Bytes of ``value``.

        Raises
        ------
        TypeError
            A type that would not come back as it was.
        """
        try:
            return self._pack(self._plain(value))
        except (UnicodeEncodeError, RecursionError, OverflowError) as error:
            raise TypeError(f"cannot encode: {error}") from None

    def decode(self, body: bytes) -> Any:
        """Value of ``body``.

        Raises
        ------
        CorruptRecord
            ``body`` was not written by :meth:`encode`.
        """
        try:
            return self._unpack(body)
        except Exception as error:
            raise CorruptRecord("cached value", str(error)) from None

    def _plain(self, value: Any) -> Any:
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
            raise TypeError(f"cannot encode a {cls.__module__}.{cls.__qualname__}")
        return tagged

    def _items(self, values: Any) -> list[Any]:
        return [self._plain(value) for value in values]

    def _dict(self, value: dict[Any, Any]) -> Any:
        if all(type(name) is str for name in value):
            return {name: self._plain(item) for name, item in value.items()}
        pairs = [self._items(pair) for pair in value.items()]
        return _ext(_PAIRS, self._pack(pairs))

    def _tag(self, cls: type, value: Any) -> Any:
        if cls in _SEQUENCES:
            return _ext(_SEQUENCES[cls], self._pack(self._items(value)))
        writer = _TEXTS.get(f"{cls.__module__}.{cls.__qualname__}")
        if writer is not None:
            return _ext(writer[0], writer[1](value))
        if cls.__module__ == "numpy" and hasattr(value, "dtype"):
            return self._numpy(cls, value)
        return None

    def _numpy(self, cls: type, value: Any) -> Any:
        text, shape = value.dtype.str, list(value.shape)
        if cls.__name__ not in {"ndarray", value.dtype.type.__name__}:
            return None
        if text == "|O" and cls.__name__ == "ndarray":
            return _ext(_OBJECTS, self._pack([shape, self._items(value.ravel().tolist())]))
        if not _DTYPE.fullmatch(text):
            return None
        code = _ARRAY if cls.__name__ == "ndarray" else _SCALAR
        return _ext(code, self._pack([text, shape, value.tobytes()]))

    def _restore(self, code: int, data: memoryview) -> Any:
        payload = bytes(data)
        if code in {_ARRAY, _SCALAR}:
            return _array_of(code, *self._unpack(payload))
        if code == _OBJECTS:
            return _objects_of(*self._unpack(payload))
        if code in _COLLECTIONS:
            return _COLLECTIONS[code](self._unpack(payload))
        return _READERS[code](payload)


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


def _array_of(code: int, text: str, shape: list[int], data: bytes) -> Any:
    import numpy as np

    if not _DTYPE.fullmatch(text):
        raise ValueError(f"dtype {text!r}")
    array = np.frombuffer(data, dtype=text).reshape(shape)
    return array.copy() if code == _ARRAY else array[()]


def _objects_of(shape: list[int], items: list[Any]) -> Any:
    import numpy as np

    array = np.empty(len(items), dtype=object)
    # One by one: numpy would take items that are lists for another dimension.
    for place, item in enumerate(items):
        array[place] = item
    return array.reshape(shape)


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


# -- envelope ---------------------------------------------------------------------------

_FORMAT = 1
_HEAD: Final = struct.Struct(">B16sdff")
_TAGGED: Final = 17


class Sealed(NamedTuple):
    """A value's bytes, when they were made (epoch seconds), for how long, at what cost (s)."""

    body: bytes
    created: float
    ttl: float
    cost: float


def seal(key: str, sealed: Sealed, secret: bytes) -> bytes:
    """Envelope of ``sealed`` for the entry ``key``.

    Examples
    --------
    >>> bytes_ = seal("k", Sealed(b"body", 0.0, 60.0, 0.5), b"secret")
    >>> open_envelope("k", bytes_, b"secret").body
    b'body'
    """
    blank = _HEAD.pack(_FORMAT, b"", sealed.created, sealed.ttl, sealed.cost) + sealed.body
    return blank[:1] + _tag(key, blank[_TAGGED:], secret) + blank[_TAGGED:]


def open_envelope(key: str, envelope: bytes, secret: bytes) -> Sealed:
    """Content of the envelope found at ``key``.

    Raises
    ------
    CorruptRecord
        It is damaged, of another key, or sealed with another secret.
    """
    if len(envelope) < _HEAD.size or envelope[0] != _FORMAT:
        raise CorruptRecord(key, "not an envelope of this format")
    if not hmac.compare_digest(envelope[1:_TAGGED], _tag(key, envelope[_TAGGED:], secret)):
        raise CorruptRecord(key, "the tag does not match")
    _, _, created, ttl, cost = _HEAD.unpack_from(envelope)
    return Sealed(bytes(envelope[_HEAD.size :]), created, ttl, cost)


def _tag(key: str, content: bytes, secret: bytes) -> bytes:
    keyed = hashlib.blake2b(digest_size=16, key=secret, person=b"prodml-value")
    keyed.update(key.encode())
    keyed.update(content)
    return keyed.digest()
