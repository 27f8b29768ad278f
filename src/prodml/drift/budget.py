"""A false-alarm budget in words, and durations in words."""

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from prodml.errors import BadConfiguration

__all__ = ["FalseAlarms", "seconds_of"]

_UNITS: Final = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
    "week": 7 * 86400.0,
    "month": 365.25 / 12 * 86400.0,
    "quarter": 365.25 / 4 * 86400.0,
    "year": 365.25 * 86400.0,
}
_SHORT: Final = {"s": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"} | {
    "w": "week",
    "y": "year",
}
_WORDS: Final = {"once": "1", "one": "1", "twice": "2", "two": "2", "three": "3"}
_BUDGET: Final = re.compile(
    r"(?P<many>\d+(?:\.\d+)?) *(?P<percent>%|percent|per cent)? *(?:false )?(?:alarms? )?"
    r"(?:per|an?|each|every|/|in an?) *(?P<times>\d+(?:\.\d+)?)? *(?P<unit>[a-z]+)"
)
_LONG: Final = 1e12
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)? *([a-z]+)")

# More is no promise about one alarm any more, but about their number: it is spread.
_SHARE: Final = 0.25
_MOST: Final = 1e6


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """The chance of any false alarm in any stretch of ``seconds`` is at most ``alpha``.

    A number of alarms ("1 per year") is spread evenly: a quarter of an alarm in a quarter of
    the time, and so on, so that the expected number holds.

    Examples
    --------
    >>> FalseAlarms.read("5% per quarter")
    FalseAlarms(alpha=0.05, seconds=7889400.0)
    >>> FalseAlarms.read("once a year")
    FalseAlarms(alpha=0.25, seconds=7889400.0)
    """

    alpha: float
    seconds: float

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise BadConfiguration(f"false_alarms must be a chance in (0, 1), not {self.alpha!r}")
        if not 0.0 < self.seconds < math.inf:
            raise BadConfiguration(f"false_alarms must be per some time, not {self.seconds!r} s")

    @classmethod
    def read(cls, budget: Any) -> "FalseAlarms":
        """``budget`` in words: a share or a number of alarms, per some time.

        Raises
        ------
        BadConfiguration
            It is no budget; the message says which part is wrong.

        Examples
        --------
        >>> FalseAlarms.read("1 % per 2 weeks").seconds
        1209600.0
        """
        if isinstance(budget, FalseAlarms):
            return budget
        found = _BUDGET.fullmatch(_plain(budget)) if isinstance(budget, str) else None
        if found is None:
            raise BadConfiguration(
                f"false_alarms must read like '5% per quarter' or '1 per year', not {budget!r}"
            )
        seconds = float(found["times"] or 1) * _unit(found["unit"], "false_alarms")
        many = float(found["many"])
        if found["percent"]:
            if not 0.0 < many < 100.0:
                raise BadConfiguration(f"false_alarms must be above 0 % and below 100 %: {budget}")
            return cls(many / 100, seconds)
        if not many:
            raise BadConfiguration(
                "false_alarms must allow for some: no evidence is beyond all doubt"
            )
        if many > _MOST:
            raise BadConfiguration(f"false_alarms must be at most {_MOST:g}: {budget:.80}")
        parts = max(1, math.ceil(many / _SHARE))
        return cls(many / parts, seconds / parts)


def seconds_of(duration: Any, setting: str) -> float:
    """Seconds meant by ``duration``: a number, or text like "1d", "15m" or "2 weeks".

    Raises
    ------
    BadConfiguration
        It is no duration above zero; the message names ``setting``.

    Examples
    --------
    >>> seconds_of("15m", "every"), seconds_of("1d", "every"), seconds_of(30, "every")
    (900.0, 86400.0, 30.0)
    """
    found = _DURATION.fullmatch(_plain(duration)) if isinstance(duration, str) else None
    if found is not None:
        seconds = float(found[1] or 1) * _unit(found[2], setting)
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        seconds = float(min(duration, _LONG))
    else:
        raise BadConfiguration(
            f"{setting} must be seconds or text like '1d' or '15m', not {duration!r}"
        )
    if not 0.0 < seconds < _LONG:
        raise BadConfiguration(f"{setting} must be a time above zero, not {duration!r:.80}")
    return seconds


def _plain(text: str) -> str:
    words = re.sub(r"\s+", " ", text.strip().lower()).split(" ")
    return " ".join(_WORDS.get(word, word) for word in words)


def _unit(word: str, setting: str) -> float:
    name = _SHORT.get(word, word.removesuffix("s") if len(word) > 1 else word)
    if name not in _UNITS:
        raise BadConfiguration(
            f"{setting} has the unknown time {word!r}; times: {', '.join(_UNITS)}"
        )
    return _UNITS[name]
