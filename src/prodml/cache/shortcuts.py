"""The short way to an answer in memory, for calls like those that have found one there.

A hit costs little, so what surrounds it counts: reading the call, naming the row, judging the
entry.  A *line* has the outcome of all that for calls of one function and version with a row
of the same names; within it the packed values alone lead to the entry.  A shortcut is laid by
the long way, which has checked everything, and leads nowhere once anything is different: other
names, another kind of value, another epoch, a renewed entry.  Then the long way decides.

The values are packed by ``marshal``, whose second format writes plain values as a prefix code
with their exact types and refuses subclasses, or writes them as it writes ``bytes``: a row with
bytes has no shortcut, so nothing is ever taken for something else.  It is never read again.
"""
# ruff: noqa: SLF001 - files of one room may know each other's private names

from collections.abc import Callable
from marshal import dumps
from operator import itemgetter
from typing import Any, Final, TypeAlias

from prodml.cache.arguments import Arguments, Call
from prodml.cache.epochs import Epoch, Head
from prodml.cache.keys import PLAIN
from prodml.cache.memory import Data, Entry
from prodml.cache.steps import CacheSteps
from prodml.types import MISS

__all__ = ["Shortcuts"]

_Found: TypeAlias = dict[bytes, tuple[Entry, Data]]

_LINES: Final = 256
# Later formats write the same value in more than one way.
_FORM: Final = 2
_NAMES: Final = frozenset({str})
_VALUES: Final = PLAIN - {bytes}


class _Line:
    """What calls of one version with rows of the same names have in common."""

    __slots__: tuple[str, ...] = ("epoch", "find", "found", "head", "pick", "token")

    def __init__(self, head: Head, names: tuple[str, ...]) -> None:
        self.head: Head = head
        self.epoch: Epoch = head.epoch
        self.token: bytes = head.token
        # One name alone gives its value instead of a tuple, which does as well.
        self.pick: Callable[[Any], Any] = itemgetter(*sorted(names))
        self.found: _Found = {}
        self.find: Callable[[bytes], tuple[Entry, Data] | None] = self.found.get


class Shortcuts:
    """Those of one function.

    Parameters
    ----------
    version
        As given to the decorator: a version, a function that tells it, or None where it is
        the call's second argument.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> cache = PredictionCache()
    >>> arguments = Arguments(abs, function="score", versioned=True)
    >>> shortcuts = Shortcuts(cache, arguments, "v1")
    >>> row = {"age": 41}
    >>> shortcuts.known((row,)) is MISS, cache.set(row, "v1", 0.5, function="score")
    (True, True)
    >>> shortcuts.learn(arguments.read((row,), {})._replace(version="v1"))
    >>> shortcuts.known((row,)), shortcuts.known(({"age": 41.0},)) is MISS
    (0.5, True)
    """

    __slots__: tuple[str, ...] = ("_arguments", "_cache", "_latest", "_lines", "known")

    def __init__(self, cache: CacheSteps, arguments: Arguments, version: Any) -> None:
        self._cache: CacheSteps = cache
        self._arguments: Arguments = arguments
        self._lines: dict[tuple[Any, ...], _Line] = {}
        # By the number of names: a row of as many that has each of a line's has no other.
        self._latest: dict[tuple[Any, int], _Line] = {}
        line_of = _lines_by_call(cache, arguments, version, self._latest)
        self.known: Callable[[tuple[Any, ...]], Any] = _answers(cache, arguments, line_of)

    def learn(self, call: Call) -> None:
        """Lay a shortcut for calls like ``call``, for which memory has just had an answer."""
        features, version = call.features, call.version
        if type(features) is not dict or type(version) is not str:
            return
        # Its caller may change it at any moment: name and shortcut must be of the same row.
        features = features.copy()
        if call.extra != self._arguments.usual or not features:
            return
        cache, names = self._cache, tuple(features)
        plain = _VALUES.issuperset(map(type, features.values()))
        if not plain or not _NAMES.issuperset(map(type, names)):
            return
        head = cache._head(self._arguments.function, version)
        entry = cache._memory.entry(head.prefix + call.extra + cache._body(features))
        data = None if entry is None else entry.data
        if entry is None or data is None or cache._held(data, self._arguments.answer) is MISS:
            return
        line = self._line(version, names, head)
        short = dumps(line.pick(features), _FORM)
        line.found[short] = entry, data
        cache._memory.link(entry, line.found, short)

    def _line(self, version: str, names: tuple[str, ...], head: Head) -> _Line:
        place = version, *sorted(names)
        line = self._lines.get(place)
        if line is None or line.token is not head.token:
            if len(self._lines) >= _LINES:
                self._lines.clear()
                self._latest.clear()
            line = self._lines[place] = _Line(head, names)
        self._latest[version, len(names)] = line
        return line


def _lines_by_call(
    cache: CacheSteps, arguments: Arguments, version: Any, lines: dict[tuple[Any, int], _Line]
) -> Callable[[tuple[Any, ...]], _Line | None]:
    """The function from a call's positional arguments to their line."""
    blocks, latest, bare = cache._blocks, lines.get, arguments.bare
    told = version if callable(version) else None

    def line_of(args: tuple[Any, ...]) -> _Line | None:
        if len(args) != bare or blocks.blocks:
            return None
        features = args[0]
        given = args[1] if bare == 2 else version if told is None else told()
        if type(features) is dict and type(given) is str:
            return latest((given, len(features)))
        return None

    return line_of


def _answers(
    cache: CacheSteps, arguments: Arguments, line_of: Callable[[tuple[Any, ...]], _Line | None]
) -> Callable[[tuple[Any, ...]], Any]:
    """The function from a call's positional arguments to its answer, or MISS."""
    counts, now, answer = cache._counts, cache._now, arguments.answer
    typed = answer is not None and cache.codec is None
    decode = answer.codec.decode if answer is not None and typed else cache._codec.decode

    def known(args: tuple[Any, ...]) -> Any:
        line = line_of(args)
        found = None if line is None else line.find(dumps(line.pick(args[0]), _FORM))
        if line is None or found is None:
            return MISS
        entry, data = found
        moment, epoch = now(), line.epoch
        if entry.data is not data or moment >= data[3] or moment >= epoch.until:
            return MISS
        if line.token is not epoch.token:
            return MISS
        if entry.hits < 3:
            entry.hits += 1
        counts.memory_hits += 1
        return decode(data[0]) if data[1] else data[0]

    return known
