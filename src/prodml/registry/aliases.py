"""Aliases: a name that points at a version, and every move that it made."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from prodml.clock import Clock, utc
from prodml.errors import BadConfiguration, Conflict, CorruptRecord
from prodml.registry.files import Archive
from prodml.registry.records import (
    VERSION,
    canonical,
    check_alias,
    check_name,
    parsed,
    sealed,
    unsealed,
)
from prodml.types import MISS, Miss

__all__ = ["AliasMove", "AliasWatch"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """Alias ``alias`` went from version ``old`` to ``new`` at ``at`` (epoch seconds, UTC).

    ``new`` is None when the alias was dropped.  ``number`` counts the moves of the alias
    from 1, so it is also the generation of what the alias points at.

    Examples
    --------
    >>> AliasMove(alias="champion", old=None, new="1", at=0.0).when.year
    1970
    """

    alias: str
    old: str | None
    new: str | None
    at: float
    reason: str = ""
    number: int = 1

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)


@final
@dataclass(frozen=True, slots=True)
class AliasWatch:
    """Tells cheaply whether an alias has moved, for whoever follows it.

    Examples
    --------
    >>> from prodml.registry import ModelRegistry
    >>> registry = ModelRegistry("memory://")
    >>> watch = registry.watch("churn", "champion")
    >>> ref = registry.register("churn", b"weights")
    >>> watch.changed() is None, registry.alias("churn", "champion", "1").number
    (True, 1)
    >>> watch.generation(), watch.changed(since=0).new, watch.changed(since=1)
    (1, '1', None)
    """

    name: str
    alias: str
    _aliases: "Aliases"

    def generation(self) -> int:
        """How often the alias has moved; in a directory two ``stat`` calls, no reading."""
        return self._aliases.generation(self.name, self.alias)

    def changed(self, since: int = 0) -> AliasMove | None:
        """The last move if it came after generation ``since``, else None.

        Whoever was away gets the last move alone: what lies between is in the history.
        """
        if self.generation() <= since:
            return None
        return self._aliases.last(self.name, self.alias)


@final
@dataclass(slots=True)
class Aliases:
    """Every alias is a list of moves, and points where the last one says."""

    archive: Archive
    clock: Clock

    def generation(self, name: str, alias: str) -> int:
        """How many moves there are."""
        return self.archive.count(_topic(name, alias))

    def last(self, name: str, alias: str) -> AliasMove | None:
        """The last move, or None if the alias was never set."""
        number = self.generation(name, alias)
        return self._move(name, alias, number) if number else None

    def now(self, name: str) -> dict[str, str]:
        """Version by alias."""
        last = (self.last(name, alias) for alias in self.known(name))
        return {move.alias: move.new for move in last if move is not None and move.new is not None}

    def known(self, name: str) -> Sequence[str]:
        """Every alias that ``name`` has or had."""
        check_name(name)
        return self.archive.topics(f"aliases/{name}")

    def history(
        self, name: str, alias: str, since: float | None, until: float | None
    ) -> tuple[AliasMove, ...]:
        """The moves that were in force at some time between ``since`` and ``until``."""
        first = 0 if since is None else self._number(name, alias, since)
        last = self.generation(name, alias) if until is None else self._number(name, alias, until)
        return tuple(self._move(name, alias, number) for number in range(max(first, 1), last + 1))

    def at(self, name: str, alias: str, when: float | None) -> str | None:
        """Version that the alias pointed at, or points at now."""
        if when is None:
            move = self.last(name, alias)
            return None if move is None else move.new
        number = self._number(name, alias, when)
        return self._move(name, alias, number).new if number else None

    def move(
        self, name: str, alias: str, new: str | None, expected: str | Miss | None, reason: str
    ) -> tuple[AliasMove | None, bool]:
        """The last move now, and whether this call made it; under the lock of the archive."""
        while True:
            last = self.last(name, alias)
            old = None if last is None else last.new
            if expected is not MISS and expected != old:
                raise Conflict(f"{name}@{alias}", expected, old)
            if old == new:
                return last, False
            move = AliasMove(
                alias=alias,
                old=old,
                new=new,
                # A clock that steps back must not tear holes into the history.
                at=max(self.clock.time(), 0.0 if last is None else last.at),
                reason=reason,
                number=1 if last is None else last.number + 1,
            )
            if self.archive.add(_topic(name, alias), move.number, sealed(_encoded(move))):
                return move, True

    def _number(self, name: str, alias: str, when: float) -> int:
        """Number of the move that was in force at ``when``; 0 before the first."""
        numbers = range(1, self.generation(name, alias) + 1)
        # Times never go back along the list, so a few reads find the place.
        return bisect_right(numbers, when, key=lambda number: self._move(name, alias, number).at)

    def _move(self, name: str, alias: str, number: int) -> AliasMove:
        topic = _topic(name, alias)
        where = f"{topic}/{number}"
        entry = parsed(where, unsealed(where, self.archive.record(topic, number)))
        try:
            move = AliasMove(**entry)
        except TypeError as error:
            raise CorruptRecord(where, f"not a move of an alias: {error}") from error
        if (move.alias, move.number) != (alias, number):
            raise CorruptRecord(where, f"it is move {move.number} of {move.alias!r}")
        if not (move.new is None or VERSION.fullmatch(str(move.new))):
            raise CorruptRecord(where, f"it points at {move.new!r}, which is no version")
        return move


def epoch(what: str, when: float | datetime | None) -> float | None:
    """Epoch seconds of a time; a datetime must say in which zone it is."""
    if not isinstance(when, datetime):
        return when
    if when.tzinfo is None:
        raise BadConfiguration(
            f"{what} must have a time zone: {when!r} means another time elsewhere"
        )
    return when.timestamp()


def _topic(name: str, alias: str) -> str:
    check_name(name)
    check_alias(alias)
    return f"aliases/{name}/{alias}"


def _encoded(move: AliasMove) -> bytes:
    entry: dict[str, Any] = {
        "alias": move.alias,
        "old": move.old,
        "new": move.new,
        "at": move.at,
        "reason": move.reason,
        "number": move.number,
    }
    return canonical(entry)
