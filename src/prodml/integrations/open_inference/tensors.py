"""Tensors of the protocol as arrays, and back: JSON and binary, pure functions.

===========  ==================  ===============================================
datatype     array               on the wire
===========  ==================  ===============================================
BOOL         bool                JSON true/false; binary one byte each
INT8 ... 64  int8 ... int64      JSON integers within range; binary little-endian
UINT8 .. 64  uint8 ... uint64    the same
FP16 ... 64  float16 ... 64      JSON numbers, null for NaN; binary little-endian
BF16         float32 (exact)     binary only, the upper half of a float32
BYTES        object (str, bytes)  JSON strings; binary 4-byte length, then the bytes
===========  ==================  ===============================================

Nothing is converted on the quiet: 1.5 is no INT64, 300 no INT8, ``true`` no FP64, and a
number too large for its datatype is refused, not turned into infinity.
"""

import math
import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from types import GenericAlias
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np

from prodml.errors import InvalidFeatures

__all__ = [
    "DATATYPES",
    "Array",
    "check_shape",
    "datatype_of",
    "from_binary",
    "from_json",
    "to_binary",
    "to_json",
]

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

DATATYPES: Final[dict[str, "np.dtype[Any]"]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<f4"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
"""Array type by datatype of the protocol."""

_NAMES: Final[dict[str, str]] = {d.str: n for n, d in DATATYPES.items() if n != "BF16"}
_OPENING: Final = re.compile(rb"[\s\[]*")
_LENGTH: Final = struct.Struct("<I")
# numpy 1 knows no more; nobody's tensor does either.
_MOST_DIMENSIONS: Final = 32
_MOST_EMPTY: Final = 65_536
_NARROW: Final = frozenset({"FP16", "FP32"})


def datatype_of(array: Array) -> str:
    """Datatype of the protocol for ``array``; text, bytes and dates are BYTES.

    Examples
    --------
    >>> datatype_of(np.zeros(1)), datatype_of(np.array(["a"])), datatype_of(np.array([True]))
    ('FP64', 'BYTES', 'BOOL')
    """
    return _named(array.dtype)


@lru_cache(maxsize=256)
def _named(dtype: "np.dtype[Any]") -> str:
    if dtype.kind in "OUSM":
        return "BYTES"
    if dtype.name == "bfloat16":
        return "BF16"
    name = _NAMES.get(dtype.newbyteorder("<").str)
    if name is None:
        raise TypeError(f"no datatype of the protocol can hold {dtype}")
    return name


def check_shape(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Elements in a tensor of ``shape``; refuses what no tensor can be.

    Raises
    ------
    InvalidFeatures
        Unknown datatype, no dimension or more than 32, or a thousand million rows of nothing.
    """
    if datatype not in DATATYPES:
        known = ", ".join(DATATYPES)
        raise refused(name, f"datatype {datatype!r} is unknown; known: {known}")
    if not 1 <= len(shape) <= _MOST_DIMENSIONS:
        raise refused(name, f"a shape has 1 to {_MOST_DIMENSIONS} dimensions, not {len(shape)}")
    count = math.prod(shape)
    # Without a number in it a tensor could claim any number of rows, for a few bytes.
    if count == 0 and math.prod(filter(None, shape)) > _MOST_EMPTY:
        raise refused(name, f"no tensor without elements is as large as {list(shape)}")
    return count


def refused(name: str, why: str) -> InvalidFeatures:
    """Error that names the tensor."""
    return InvalidFeatures([f"tensor {name!r}: {why}"])


# -- JSON ---------------------------------------------------------------------------------


def _between(low: int, high: int) -> Any:
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


_ELEMENTS: Final[dict[str, Any]] = {
    "BOOL": bool,
    **{f"INT{n}": _between(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)},
    **{f"UINT{n}": _between(0, 2**n - 1) for n in (8, 16, 32)},
    # A bound beyond 64 signed bits cannot be told to the decoder; the array refuses it.
    "UINT64": Annotated[int, msgspec.Meta(ge=0)],
    "FP16": float | None,
    "FP32": float | None,
    "FP64": float | None,
    "BYTES": str,
}


@lru_cache(maxsize=512)
def _decoder(datatype: str, depth: int) -> Any:
    element: Any = _ELEMENTS[datatype]
    for _ in range(depth):
        element = GenericAlias(list, (element,))
    return msgspec.json.Decoder(element)


def from_json(raw: Any, name: str, datatype: str, shape: Sequence[int]) -> Array:
    """Array of the JSON text ``raw``, row-major, flat or nested as ``shape`` says.

    Raises
    ------
    InvalidFeatures
        The data are not of ``datatype`` or do not have this shape.

    Examples
    --------
    >>> from_json(b"[[1, 2], [3, null]]", "x", "FP32", [2, 2])
    array([[ 1.,  2.],
           [ 3., nan]], dtype=float32)
    >>> from_json(b"[1, 2]", "x", "INT8", [2, 1]).tolist()
    [[1], [2]]
    """
    count = check_shape(name, datatype, shape)
    depth = _depth(raw)
    if depth not in {1, len(shape)}:
        raise refused(name, f"data are neither flat nor nested as the shape {list(shape)} says")
    try:
        array = _array(_decoder(datatype, depth).decode(raw), datatype)
    except KeyError:
        raise refused(name, f"{datatype} has no JSON form; send it as binary data") from None
    except (ValueError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise refused(name, f"data are not of {datatype}: {error}") from None
    if depth == 1 and array.size == count:
        return array.reshape(shape)
    if array.shape == tuple(shape):
        return array
    found = f"data of shape {list(array.shape)}"
    raise refused(name, f"{found} do not fill the shape {list(shape)}, {count} elements")


def _depth(raw: Any) -> int:
    opening = _OPENING.match(raw)
    return 0 if opening is None else opening.group().count(b"[")


def _array(values: list[Any], datatype: str) -> Array:
    if datatype not in _NARROW:
        return np.array(values, DATATYPES[datatype])
    with np.errstate(over="ignore"):
        array = np.array(values, DATATYPES[datatype])
    # JSON has no infinity, so one that is there now was a number too large.
    if np.isinf(array).any():
        raise OverflowError("a number is too large")
    return array


def to_json(array: Array, name: str, datatype: str) -> list[Any]:
    """Flat list that JSON can carry; NaN and infinities become null when it is encoded.

    Raises
    ------
    InvalidFeatures
        Only binary data can carry it: BF16, or bytes that are no text.

    Examples
    --------
    >>> to_json(np.array([[1.5, 2.0]]), "y", "FP64")
    [1.5, 2.0]
    """
    if datatype == "BF16":
        raise refused(name, "BF16 has no JSON form; ask for it with the parameter binary_data")
    if datatype != "BYTES":
        return array.ravel().tolist()
    try:
        return [item.decode() for item in _octets(array)]
    except UnicodeDecodeError:
        why = "holds bytes that are no text; ask for it with the parameter binary_data"
        raise refused(name, why) from None


# -- binary -------------------------------------------------------------------------------


def from_binary(data: memoryview, name: str, datatype: str, shape: Sequence[int]) -> Array:
    """Array of the raw tensor ``data``: a copy, aligned and writable.

    Raises
    ------
    InvalidFeatures
        There are not exactly as many bytes as ``shape`` and ``datatype`` mean.

    Examples
    --------
    >>> from_binary(memoryview(bytes([1, 0, 2, 0])), "x", "INT16", [2]).tolist()
    [1, 2]
    """
    count = check_shape(name, datatype, shape)
    if datatype == "BYTES":
        return _split(data, name, count).reshape(shape)
    wire = np.dtype("<u2") if datatype == "BF16" else DATATYPES[datatype]
    if len(data) != count * wire.itemsize:
        means = f"the shape {list(shape)} of {datatype} means {count * wire.itemsize}"
        raise refused(name, f"{len(data)} bytes of data; {means}")
    if datatype == "BOOL":
        return np.not_equal(np.frombuffer(data, np.uint8), 0).reshape(shape)
    array = np.frombuffer(data, wire)
    if datatype == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape)
    # To the machine's own byte order; a copy, since the body's bytes lie anywhere.
    return array.astype(wire.newbyteorder("=")).reshape(shape)


def _split(data: memoryview, name: str, count: int) -> Array:
    items: list[bytes] = []
    place, size = 0, len(data)
    while place < size and len(items) < count:
        end = place + 4
        if end <= size:
            end += _LENGTH.unpack_from(data, place)[0]
        if end > size:
            break
        items.append(bytes(data[place + 4 : end]))
        place = end
    if place != size or len(items) != count:
        raise refused(name, f"data do not hold {count} elements of BYTES, each behind its length")
    return _objects(items)


def to_binary(array: Array, datatype: str) -> bytes:
    """Raw tensor of ``array``.

    Examples
    --------
    >>> to_binary(np.array(["ab"]), "BYTES").hex()
    '020000006162'
    """
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(item)) + item for item in _octets(array))
    if datatype == "BF16":
        return _halved(array)
    return array.astype(DATATYPES[datatype], copy=False).tobytes()


def _halved(array: Array) -> bytes:
    """Upper halves of float32, rounded to the nearest, ties to even, as hardware does."""
    numbers = np.ascontiguousarray(array, np.float32)
    bits = numbers.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    # Rounding could carry a NaN over into an infinity.
    halves = np.where(np.isnan(numbers), np.uint32(0x7FC0), rounded)
    return halves.astype("<u2").tobytes()


def _octets(array: Array) -> list[bytes]:
    if array.dtype.kind == "M":
        array = np.datetime_as_string(array)
    return [_octet(item) for item in array.ravel().tolist()]


def _octet(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    raise TypeError(f"BYTES hold text or bytes, not {type(item).__name__}")


def _objects(items: list[Any]) -> Array:
    # Filled by hand: numpy must not look into the items.
    array = np.empty(len(items), object)
    array[:] = items
    return array
