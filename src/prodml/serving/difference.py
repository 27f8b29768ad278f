"""How far two answers are apart."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any, TypeAlias, TypeGuard, cast

__all__ = ["Apart", "apart"]

Apart: TypeAlias = tuple[bool, float]
"""Whether two answers agree, and the largest difference between their numbers."""

_SAME: Apart = (True, 0.0)
_OTHER: Apart = (False, math.inf)


def apart(expected: Any, answer: Any, *, rtol: float, atol: float) -> Apart:
    """Compare ``answer`` with ``expected``, number by number.

    Numbers agree within ``atol + rtol * abs(expected)``, as in ``numpy.isclose``; NaN agrees
    with NaN.  Arrays, sequences and mappings are compared by part; whatever else by ``==``.
    What cannot be subtracted (labels, shapes, types) and differs is infinitely far apart.

    Examples
    --------
    >>> apart({"p": 0.5}, {"p": 0.5000001}, rtol=1e-5, atol=0.0)[0]
    True
    >>> apart([1.0, 2.0], [1.0, 2.5], rtol=0.0, atol=0.1)
    (False, 0.5)
    >>> apart("spam", "ham", rtol=0.0, atol=0.0)
    (False, inf)
    """
    # A row of numpy is a number too: the scalar types are registered.
    if isinstance(expected, Number) and isinstance(answer, Number):
        return _numbers(cast("Any", expected), cast("Any", answer), rtol, atol)
    if hasattr(expected, "shape") or hasattr(answer, "shape"):
        return _arrays(expected, answer, rtol, atol)
    if isinstance(expected, Mapping) and isinstance(answer, Mapping):
        return _mappings(expected, answer, rtol, atol)
    if _is_row(expected) and _is_row(answer):
        return _rows(expected, answer, rtol, atol)
    return _SAME if bool(expected == answer) else _OTHER


def _numbers(expected: Any, answer: Any, rtol: float, atol: float) -> Apart:
    # Equal infinities have no difference; NaN does not even equal itself.
    if expected == answer or (expected != expected and answer != answer):  # noqa: PLR0124
        return _SAME
    distance = float(abs(answer - expected))
    if not math.isfinite(distance):
        return _OTHER
    return bool(distance <= atol + rtol * abs(expected)), distance


def _arrays(expected: Any, answer: Any, rtol: float, atol: float) -> Apart:
    import numpy as np

    one, other = np.asarray(expected), np.asarray(answer)
    if one.shape != other.shape:
        return _OTHER
    if not (np.issubdtype(one.dtype, np.number) and np.issubdtype(other.dtype, np.number)):
        # As objects of Python: a text of numpy has a shape, and would come back here.
        return _rows(one.ravel().tolist(), other.ravel().tolist(), rtol, atol)
    with np.errstate(invalid="ignore", over="ignore"):
        # Unsigned numbers would wrap around below zero.
        distance = np.abs(np.subtract(other, one, dtype=np.result_type(one, other, np.float64)))
        close = np.isclose(other, one, rtol=rtol, atol=atol, equal_nan=True)
    far = distance[~(np.isnan(one) & np.isnan(other)) & (one != other)]
    worst = float(far.max()) if far.size else 0.0
    return bool(close.all()), math.inf if math.isnan(worst) else worst


def _rows(expected: Sequence[Any], answer: Sequence[Any], rtol: float, atol: float) -> Apart:
    if len(expected) != len(answer):
        return _OTHER
    pairs = zip(expected, answer, strict=True)
    return _worst(apart(one, other, rtol=rtol, atol=atol) for one, other in pairs)


def _mappings(
    expected: Mapping[Any, Any], answer: Mapping[Any, Any], rtol: float, atol: float
) -> Apart:
    if expected.keys() != answer.keys():
        return _OTHER
    return _worst(apart(expected[k], answer[k], rtol=rtol, atol=atol) for k in expected)


def _is_row(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _worst(parts: Iterable[Apart]) -> Apart:
    agree, farthest = True, 0.0
    for same, distance in parts:
        agree, farthest = agree and same, max(farthest, distance)
    return agree, farthest
