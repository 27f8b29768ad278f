"""Values as an array of one dtype, exactly: nothing is rounded, truncated or read from text."""

from collections.abc import Sequence
from typing import Any, Final

__all__ = ["array_of", "elements", "is_array", "vector_of"]


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array of numpy, and nothing that extends one.

    Examples
    --------
    >>> import numpy as np
    >>> is_array(np.zeros(3)), is_array(np.ma.zeros(3)), is_array([0.0])
    (True, False, False)
    """
    cls = type(value)
    return cls.__name__ == "ndarray" and cls.__module__ == "numpy"


def array_of(text: str, shape: tuple[int, ...], values: Sequence[Any]) -> Any:
    """Array of the dtype that ``text`` names, whose elements along the first axis are ``values``.

    Raises
    ------
    ValueError
        A value is not of this dtype and ``shape``.

    Examples
    --------
    >>> array_of("<f8", (), [0.5, 1])
    array([0.5, 1. ])
    """
    import numpy as np

    dtype = np.dtype(text)
    if not shape:
        return vector_of(dtype, values)
    if not all(is_array(value) and value.shape == shape for value in values):
        raise ValueError(f"a row that has not the shape {shape}")
    if not all(value.dtype == dtype or value.dtype.kind == text for value in values):
        raise ValueError(f"a row that is no {dtype}")
    if dtype.kind in "US":
        return np.array(values, dtype=dtype).reshape(len(values), *shape)
    return _filled(np.empty((len(values), *shape), dtype=dtype), values)


def elements(array: Any) -> list[Any]:
    """Rows of ``array``: numbers of Python where they are of the same kind, else as they are.

    Examples
    --------
    >>> import numpy as np
    >>> elements(np.array([0.5])), elements(np.array([0.5], "f4"))
    ([0.5], [np.float32(0.5)])
    """
    plain = array.ndim == 1 and array.dtype.str in _PYTHON
    return array.tolist() if plain else list(array)


def vector_of(dtype: Any, values: Sequence[Any]) -> Any:
    """Array of ``values``.

    Raises
    ------
    ValueError
        A value is not an element of ``dtype``.

    Examples
    --------
    >>> import numpy as np
    >>> vector_of(np.dtype("i8"), [1, 0.7])
    Traceback (most recent call last):
        ...
    ValueError: a value that is no int64
    """
    import numpy as np

    if dtype.kind == "O":
        return _filled(np.empty(len(values), dtype=dtype), values)
    if not _exact(values, dtype):
        with np.errstate(all="ignore"):
            if not all(_fits(value, dtype) for value in values):
                raise ValueError(f"a value that is no {dtype}")
    return np.array(values, dtype=dtype)


def _filled(array: Any, values: Sequence[Any]) -> Any:
    for place, value in enumerate(values):
        array[place] = value
    return array


# Dtypes whose elements are numbers of Python.
_PYTHON: Final[dict[str, type]] = {"<f8": float, "<i8": int, "|b1": bool}


def _exact(values: Sequence[Any], dtype: Any) -> bool:
    """Whether all ``values`` are so obviously elements that none needs a look."""
    types, kind = set(map(type, values)), str(dtype.kind)
    if kind in "mM" or not types <= {dtype.type, _PYTHON.get(dtype.str, dtype.type)}:
        # Dates of one type have many units.
        return False
    # Integers of Python have no end.
    return int not in types or _small(values)


def _small(values: Sequence[Any]) -> bool:
    return bool(min(values) >= -(2**63) and max(values) < 2**63)


# What an element may be beside a scalar of its own dtype; truth is no number here.
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "U": (str,),
    "S": (bytes,),
    "i": (int,),
    "u": (int,),
    "f": (int, float),
    "c": (int, float, complex),
}


def _fits(value: Any, dtype: Any) -> bool:
    """Whether ``value`` can be an element without a change of kind or loss of a digit."""
    import numpy as np

    own = isinstance(value, np.generic)
    if dtype.kind in "mM":
        return own and bool(value.dtype == dtype.newbyteorder("="))
    plain = value.item() if own and value.dtype.kind in "biufc" else value
    if isinstance(plain, bool) or dtype.kind == "b":
        return isinstance(plain, bool) and dtype.kind == "b"
    if not isinstance(plain, _KINDS[dtype.kind]):
        return False
    # As a number of Python: numpy would compare as coarsely as the coarser of the two.
    element = dtype.type(plain).item()
    # NaN is the only value that is not itself.
    return bool(element == plain) or bool(element != element and plain != plain)  # noqa: PLR0124
