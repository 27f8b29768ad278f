"""What every streaming detector can do: take a value, say drift, be kept and go on."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from prodml.errors import BadConfiguration, CorruptRecord

__all__ = ["StreamDetector", "between", "known", "number_of", "whole"]

# Squares and sums of larger numbers overflow; they are counted with the infinite ones.
_LARGEST = 1e100


@dataclass(kw_only=True, slots=True, eq=False)
class StreamDetector(ABC):
    """A detector of change in a stream of numbers, one value at a time.

    ``update(value)`` is true at the value that completes the evidence of a change, once a
    change: after it the detector begins anew with the next value.  What the method cannot
    use (NaN, infinite, beyond 1e100, no number, outside ``[low, high]`` of the class) is
    counted in ``invalid`` and touches nothing else.  Settings are fields of the constructor.

    Attributes
    ----------
    drift_detected, warning
        What the last value brought.
    seen, invalid, detections
        Values taken in, values refused, changes found: since it was made.

    Notes
    -----
    Not safe for threads: give each stream its own.

    Examples
    --------
    >>> from prodml.drift import PageHinkley
    >>> detector = PageHinkley(arl=1000)
    >>> [i for i, x in enumerate([0.0, 1.0] * 50 + [5.0] * 20) if detector.update(x)]
    [103]
    >>> detector.update(float("nan")), detector.invalid
    (False, 1)
    >>> kept = detector.to_dict()
    >>> PageHinkley.from_dict(kept).seen
    120
    """

    low: ClassVar[float] = -_LARGEST
    high: ClassVar[float] = _LARGEST

    drift_detected: bool = field(default=False, init=False)
    warning: bool = field(default=False, init=False)
    seen: int = field(default=0, init=False)
    invalid: int = field(default=0, init=False)
    detections: int = field(default=0, init=False)

    def update(self, value: float) -> bool:
        """Take one value in; true if it completes the evidence of a change."""
        number = self._usable(value)
        if number is None:
            return False
        self.seen += 1
        self.drift_detected = found = self._take(number)
        if found:
            self.detections += 1
            self.warning = False
            self._start()
        return found

    def reset(self) -> None:
        """Forget the stream and what was counted; settings stay."""
        self.drift_detected = self.warning = False
        self.seen = self.invalid = self.detections = 0
        self._start()

    def to_dict(self) -> dict[str, Any]:
        """Settings and state, ready for JSON: :meth:`from_dict` goes on from there."""
        self._keeping()
        return {
            "detector": type(self).__name__,
            "version": 1,
            "settings": {f.name: getattr(self, f.name) for f in fields(self) if f.init},
            "state": {name: _deep(getattr(self, name)) for name in _states(self)},
        }

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """Return the detector that :meth:`to_dict` described.

        Raises
        ------
        CorruptRecord
            It is not what this class wrote.
        """
        try:
            if (kept["detector"], kept["version"]) != (cls.__name__, 1):
                raise CorruptRecord(cls.__name__, f"written by {kept['detector']!r}")
            made = cls(**kept["settings"])
            for name in _states(made):
                setattr(made, name, _copied(kept["state"][name], getattr(made, name)))
            made._restored()
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise CorruptRecord(cls.__name__, f"{type(error).__name__}: {error}") from error
        return made

    @abstractmethod
    def _take(self, value: float) -> bool:
        """Take a usable value in; whether there is drift."""

    @abstractmethod
    def _start(self) -> None:
        """Begin anew, as after a change."""

    def _retuned(self) -> None:
        # What was learnt, and derived, belongs to the settings of before.
        self._start()

    def _keeping(self) -> None:  # noqa: B027 - most have nothing to do
        """Write down as state what is not: about to be kept."""

    def _restored(self) -> None:  # noqa: B027 - some have nothing to do
        """Build again what is derived from state; a ValueError if no stream leads to it."""

    def _usable(self, value: Any) -> float | None:
        number = number_of(value)
        if self.low <= number <= self.high:
            return number
        self.invalid += 1
        self.drift_detected = False
        return None


def number_of(value: Any) -> float:
    """``value`` as a float; NaN if it is no number.  An array of one number is that number."""
    if type(value) is float:
        return value
    try:
        return float(value.item() if getattr(value, "size", None) == 1 else value)
    except Exception:
        # Whatever a type raises that will not be a number: a stream goes on.
        return math.nan


def _states(detector: StreamDetector) -> list[str]:
    return [f.name for f in fields(detector) if not f.init and "derived" not in f.metadata]


def _copied(value: Any, like: Any) -> Any:
    """``value`` as a value of its own, if it is of the kind of ``like``."""
    kind = float if isinstance(like, float) else type(like)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} where {kind.__name__} is meant")
    if kind is int:
        known("a count", value >= 0)
    if kind is not bool:
        _refuse_odd(value)
    return _deep(value)


def _refuse_odd(item: Any) -> None:
    if isinstance(item, list):
        parts: list[Any] = item
        for part in parts:
            _refuse_odd(part)
    elif type(item) not in {float, int} or not math.isfinite(item):
        raise TypeError(f"{item!r} where a finite number is meant")


def known(what: str, sound: bool) -> None:
    """Refuse a state that no stream leads to."""
    if not sound:
        raise ValueError(f"{what} that no stream leads to")


def _deep(item: Any) -> Any:
    return [_deep(part) for part in item] if isinstance(item, list) else item


def whole(name: str, value: Any, low: int) -> None:
    """Refuse a setting that is no whole number >= ``low``."""
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= low):
        raise BadConfiguration(f"{name} must be a whole number >= {low}, not {value!r}")


def between(name: str, value: Any, low: float, high: float) -> None:
    """Refuse a setting that is no number inside the open interval."""
    if not (isinstance(value, int | float) and low < value < high):
        raise BadConfiguration(f"{name} must lie between {low:g} and {high:g}, not {value!r}")
