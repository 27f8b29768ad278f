"""Whether what a model answered can be an answer at all."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from sys import float_info
from types import NoneType
from typing import Any, cast

from prodml.errors import BadConfiguration, RejectedAnswer
from prodml.types import is_missing
from prodml.validation.kinds import kind_of_type, plain_number
from prodml.validation.violation import shown

__all__ = ["AnswerCheck"]

_NUMBERS = frozenset({"bool", "float", "int"})


@dataclass(kw_only=True, slots=True, eq=False)
class AnswerCheck:
    """Refuse answers that cannot be right: NaN, out of range, an unknown label, a wrong shape.

    Parameters
    ----------
    finite
        Refuse infinities.  NaN and None are never an answer.
    minimum, maximum
        Bounds of every number, inclusive; a text then is no answer.
    allowed
        The only values allowed, of labels for example.
    shape
        Shape that the answer must have, ``None`` for any length: ``()`` a scalar, ``(3,)``
        three numbers, ``(None, 2)`` rows of two.

    Raises
    ------
    BadConfiguration
        ``minimum`` above ``maximum``, a bound that is not finite, a negative length.

    Notes
    -----
    Looks into sequences, mappings (their values), arrays, series and frames; what is neither
    number, text nor one of these passes, for nothing is known about it.  A float costs about
    0.1 us.

    Examples
    --------
    >>> probability = AnswerCheck(minimum=0.0, maximum=1.0)
    >>> probability(0.3)
    True
    >>> probability([0.2, float("nan")])
    Traceback (most recent call last):
        ...
    prodml.errors.RejectedAnswer: answer rejected: nan is not a value
    """

    finite: bool = True
    minimum: float | None = None
    maximum: float | None = None
    allowed: Collection[Any] | None = None
    shape: Sequence[int | None] | None = None
    _low: float = field(default=-inf, init=False, repr=False)
    _high: float = field(default=inf, init=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_bound("minimum", self.minimum)
        _refuse_bound("maximum", self.maximum)
        _refuse_shape(self.shape)
        edge = float_info.max if self.finite else inf
        self._low = -edge if self.minimum is None else self.minimum
        self._high = edge if self.maximum is None else self.maximum
        if self._low > self._high:
            raise BadConfiguration(f"minimum {self.minimum} is above maximum {self.maximum}")

    def _retuned(self) -> None:
        self.__post_init__()

    def __call__(self, value: Any) -> bool:
        """Return True, or refuse ``value``: what services and rungs take as ``accept``.

        Raises
        ------
        RejectedAnswer
            With the reason and the whole answer.
        """
        simple = type(value) is float and self.allowed is None and self.shape is None
        if simple and self._low <= cast("float", value) <= self._high:
            return True
        reason = self.reason(value)
        if reason is not None:
            raise RejectedAnswer(reason, value)
        return True

    def reason(self, value: Any) -> str | None:
        """Why ``value`` is refused, or None.

        Examples
        --------
        >>> AnswerCheck(allowed={"yes", "no"}).reason("maybe")
        "'maybe' is not allowed"
        """
        array = _array_of(value)
        if self.shape is not None:
            found = _shape_of(value) if array is None else tuple(array.shape)
            if not _fits(found, self.shape):
                return f"shape {found} is not {tuple(self.shape)}"
        if array is None:
            return self._content_reason(value)
        if array.dtype.kind in "fiub" and self.allowed is None:
            return self._array_reason(array)
        return self._content_reason(array.tolist())

    def _array_reason(self, array: Any) -> str | None:
        import numpy as np

        if array.dtype.kind == "f" and array.dtype.itemsize < 8:
            # A narrow float would round the bounds to its own width, infinity included.
            array = array.astype(np.float64)
        elif array.dtype.kind == "b":
            array = array.astype(np.int64)
        wrong = ~np.isfinite(array) if self.finite else np.isnan(array)
        if self.minimum is not None:
            wrong = wrong | (array < self.minimum)
        if self.maximum is not None:
            wrong = wrong | (array > self.maximum)
        return self._scalar_reason(array[wrong][0].item()) if wrong.any() else None

    def _content_reason(self, value: Any) -> str | None:
        if isinstance(value, Mapping):
            items: Any = value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            items = cast("Collection[Any]", value)
        elif (array := _array_of(value)) is not None and array.ndim:
            items = array.tolist()
        else:
            return self._scalar_reason(value)
        reasons = map(self._content_reason, items)
        return next((reason for reason in reasons if reason is not None), None)

    def _scalar_reason(self, value: Any) -> str | None:
        if is_missing(value):
            return f"{shown(value)} is not a value"
        if self.allowed is not None and not _among(value, self.allowed):
            return f"{shown(value)} is not allowed"
        if kind_of_type(type(value)) not in _NUMBERS:
            ranged = self.minimum is not None or self.maximum is not None
            return f"{shown(value)} is not a number" if ranged else None
        return self._number_reason(plain_number(value))

    def _number_reason(self, value: float) -> str | None:
        if self.finite and value in (inf, -inf):
            return f"{shown(value)} is not finite"
        if self.minimum is not None and value < self.minimum:
            return f"{shown(value)} is below {self.minimum}"
        if self.maximum is not None and value > self.maximum:
            return f"{shown(value)} is above {self.maximum}"
        return None


def _refuse_bound(name: str, bound: Any) -> None:
    number = kind_of_type(type(bound)) in _NUMBERS
    if bound is not None and not (number and isfinite(bound)):
        raise BadConfiguration(f"{name} must be finite or None, not {bound!r}")


def _refuse_shape(shape: Any) -> None:
    if not isinstance(shape, (list, tuple, NoneType)):
        raise BadConfiguration(f"shape must be a sequence of lengths, not {shape!r}")
    lengths: Sequence[Any] = shape or ()
    if any(length is not None and length < 0 for length in lengths):
        raise BadConfiguration(f"shape must hold lengths >= 0 or None, not {shape!r}")


def _among(value: Any, allowed: Collection[Any]) -> bool:
    try:
        return value in allowed
    except TypeError:
        # What cannot be hashed is no member of a set.
        return False


def _array_of(value: Any) -> Any:
    # Arrays, series, frames and tensors of any library; scalars of numpy as well.
    if not hasattr(type(value), "__array__"):
        return None
    import numpy as np

    return np.asarray(value)


def _shape_of(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        return ()
    items = cast("Sequence[Any]", value)
    inner = {_shape_of(item) for item in items}
    if len(inner) > 1:
        return (len(items), -1)
    return (len(items), *next(iter(inner), ()))


def _fits(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    pairs = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(want in {None, have} for have, want in pairs)
