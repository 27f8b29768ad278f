"""What a fleet agrees on: one small record, which of two holds, and what follows for a worker.

Everything here is pure.  The record of a fleet is one value in one place (its *truth*), written
by compare-and-swap: a generation, the routing table, who made it so and why.  Workers keep the
newest record they have heard of and never go back behind it::

    what the truth says            what the worker has heard       what holds
    nothing                        R                               R: the truth has forgotten
    R, of the same fleet           S                               the newer of the two
    R, of another birth            S                               R, raised above S

The last line is a store that was emptied and begun anew, or a worker that comes back from the
days before: the command that was given last, to the truth as it is now, holds, and generations
still only grow.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any, Final, cast

from prodml.clock import utc
from prodml.errors import CorruptRecord, UnknownVersion
from prodml.events import Stream
from prodml.serving.server import VersionedModelServer

__all__ = ["Agreement", "FleetChange", "Member", "Position", "Record", "reconciled", "rehearsed"]

_SHAPE: Final = 1
_HISTORY: Final = 20
_REASON: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChange:
    """One command that changed the table of a fleet.

    ``at`` is seconds since the epoch (UTC) by the clock of who gave it, ``by`` who that was,
    ``action`` one of ``promoted``, ``routed``, ``rolled back``, ``released``, ``changed`` or
    ``rejoined``; ``version`` is the default version afterwards.

    Examples
    --------
    >>> change = FleetChange(
    ...     generation=3, at=0.0, by="ann", action="promoted", version="v2", reason="better"
    ... )
    >>> print(change)
    generation 3, promoted by ann: better
    """

    generation: int
    at: float
    by: str
    action: str
    version: str | None
    reason: str = ""
    id: str = ""

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"generation {self.generation}, {self.action} by {self.by}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The table of a fleet, the last changes, and the birth that tells one fleet from another.

    Examples
    --------
    >>> first = Record.first({"default": "v1"})
    >>> second = first.next({"default": "v2"}, at=0.0, by="ann", action="promoted", reason="")
    >>> second.generation, second.newer(first), Record.decoded(second.encoded(), "x") == second
    (1, True, True)
    """

    birth: str
    table: Mapping[str, Any]
    history: tuple[FleetChange, ...] = ()

    @classmethod
    def first(cls, table: Mapping[str, Any]) -> "Record":
        """Generation 0, which is never written: what a fleet is before its first command."""
        return cls(birth=os.urandom(6).hex(), table=table)

    @property
    def generation(self) -> int:
        """Commands so far."""
        return self.history[-1].generation if self.history else 0

    @property
    def change(self) -> FleetChange:
        """The command that made this table."""
        return self.history[-1]

    def newer(self, other: "Record") -> bool:
        """Whether this one follows ``other``."""
        return _rank(self) > _rank(other)

    def holds(self, change: FleetChange) -> bool:
        """Whether ``change`` is part of how this table came about."""
        return any(past.id == change.id for past in self.history)

    def next(
        self, table: Mapping[str, Any], *, at: float, by: str, action: str, reason: str
    ) -> "Record":
        """Record that follows by a command."""
        change = FleetChange(
            generation=self.generation + 1,
            at=at,
            by=by,
            action=action,
            version=table.get("default"),
            reason=reason[:_REASON],
            id=os.urandom(6).hex(),
        )
        return replace(self, table=table, history=(*self.history, change)[-_HISTORY:])

    def raised(self, generation: int) -> "Record":
        """Return the same table and command under a greater generation."""
        change = replace(self.change, generation=generation)
        return replace(self, history=(*self.history[:-1], change))

    def encoded(self) -> bytes:
        """Bytes for a store."""
        history = [[getattr(change, name) for name in _FIELDS] for change in self.history]
        data = {"shape": _SHAPE, "birth": self.birth, "table": self.table, "history": history}
        return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def decoded(cls, value: bytes | None, where: str) -> "Record | None":
        """Record in ``value``, None if there is nothing.

        Raises
        ------
        CorruptRecord
            It is no record that this version of the library understands.
        """
        if not value:
            return None
        try:
            data = json.loads(value)
            history = tuple(_change(*given) for given in _of_this_shape(data)["history"])
            return cls(birth=_text(data["birth"]), table=dict(data["table"]), history=history)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = f"no record of a fleet: {type(error).__name__}: {error}"
            raise CorruptRecord(where, reason) from None


def _rank(record: Record) -> tuple[int, float, str]:
    # The time and the mark decide only between two that a store handed out twice.
    change = record.history[-1] if record.history else None
    return (change.generation, change.at, change.id) if change else (0, 0.0, "")


def _of_this_shape(data: Any) -> Any:
    if data["shape"] != _SHAPE:
        raise ValueError(f"shape {data['shape']!r}")
    return data


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{given!r} is no text")
    return given


_FIELDS: Final = ("generation", "at", "by", "action", "version", "reason", "id")


def _change(*given: Any) -> FleetChange:
    change = FleetChange(**dict(zip(_FIELDS, given, strict=True)))
    whole = type(change.generation) is int and change.generation > 0
    if not whole or not math.isfinite(change.at) or not isinstance(change.id, str):
        raise ValueError(f"generation {change.generation!r} at {change.at!r}")
    return change


def reconciled(heard: Record | None, found: Record | None) -> Record | None:
    """Which record holds, if a worker has ``heard`` one and the truth has another.

    Examples
    --------
    >>> old = Record.first({}).next({}, at=0.0, by="ann", action="promoted", reason="")
    >>> new = old.next({}, at=1.0, by="bob", action="promoted", reason="")
    >>> reconciled(new, None) is reconciled(old, new) is reconciled(new, old) is new
    True
    >>> other = Record.first({}).next({}, at=2.0, by="kim", action="promoted", reason="")
    >>> reconciled(new, other).generation, reconciled(new, other).change.by
    (3, 'kim')
    """
    if heard is None or found is None:
        return found or heard
    if found.newer(heard):
        return found
    if found.birth == heard.birth:
        return heard
    return found.raised(heard.generation + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a living worker says of itself.

    ``generation`` is that of the table it serves by, ``heard`` the newest it knows of;
    ``version`` its default version.  ``cannot`` says why it does not serve by the newest
    (``"not loaded: v2"``), empty if it does or is about to; ``loading`` that this is about
    to change.  ``birth`` is the mark of the fleet whose table it serves by.

    Examples
    --------
    >>> Member(generation=7, heard=8, version="v1", cannot="not loaded: v2").agrees(8)
    False
    """

    generation: int = 0
    heard: int = 0
    version: str | None = None
    cannot: str = ""
    loading: bool = False
    birth: str = ""

    def agrees(self, generation: int, birth: str = "") -> bool:
        """Whether it serves by ``generation`` or a later one, and by nothing else."""
        return self.generation >= generation and self.birth == birth and not self.cannot

    def settled(self, generation: int, birth: str = "") -> bool:
        """Whether nothing more is to be expected of it, good or bad."""
        said_no = self.heard >= generation and bool(self.cannot) and not self.loading
        return self.agrees(generation, birth) or said_no

    def encoded(self, at: float) -> bytes:
        """Bytes of a heartbeat at ``at`` (epoch seconds)."""
        return json.dumps({"at": at, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, value: bytes | None) -> "tuple[Member, float] | None":
        """Member in a heartbeat and when it spoke; None if it is none."""
        try:
            data = json.loads(value or b"")
            given = {f.name: data[f.name] for f in fields(cls)}
            member, at = cls(**given), float(data["at"])
        except (ValueError, TypeError, KeyError):
            return None
        whole = type(member.generation) is int and type(member.heard) is int
        return (member, at) if whole else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement(Mapping[str, Member]):
    """Which living worker serves by which table: a mapping from worker to :class:`Member`.

    ``generation`` and ``version`` (the default) are what they should have.

    Examples
    --------
    >>> agreement = Agreement(
    ...     generation=8,
    ...     version="v2",
    ...     workers={
    ...         "a": Member(generation=8, heard=8, version="v2"),
    ...         "b": Member(generation=7, heard=8, version="v1", cannot="not loaded: v2"),
    ...     },
    ... )
    >>> agreement.complete, agreement.cannot, agreement["a"].version
    (False, {'b': 'not loaded: v2'}, 'v2')
    """

    generation: int
    version: str | None
    workers: Mapping[str, Member]
    birth: str = ""

    @classmethod
    def on(cls, record: "Record | None", workers: Mapping[str, Member]) -> "Agreement":
        """Agreement of ``workers`` on ``record``."""
        if record is None:
            return cls(generation=0, version=None, workers=workers)
        return cls(
            generation=record.generation,
            version=record.table.get("default"),
            workers=workers,
            birth=record.birth,
        )

    def __getitem__(self, worker: str) -> Member:
        return self.workers[worker]

    def __iter__(self) -> Iterator[str]:
        return iter(self.workers)

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def complete(self) -> bool:
        """Whether there is a worker and all of them serve by it; never of nobody."""
        return bool(self.workers) and not self.behind

    @property
    def behind(self) -> tuple[str, ...]:
        """Workers that serve by another table."""
        said = self.workers.items()
        return tuple(name for name, m in said if not m.agrees(self.generation, self.birth))

    @property
    def cannot(self) -> dict[str, str]:
        """Reason by worker that said it could not."""
        return {worker: member.cannot for worker, member in self.items() if member.cannot}

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be expected: everybody agrees or has said why not."""
        known = self.workers.values()
        return bool(known) and all(m.settled(self.generation, self.birth) for m in known)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a worker stands: the record it has heard of, and the one it serves by.

    Each step returns the next position; neither generation ever falls.

    Examples
    --------
    >>> one = Record.first({}).next({}, at=0.0, by="ann", action="promoted", reason="")
    >>> there = Position().hearing(one)
    >>> there.due, there.refusing("not loaded: v2").cannot, there.applying(one).due
    (True, 'not loaded: v2', False)
    """

    heard: Record | None = None
    applied: Record | None = None
    cannot: str = ""
    loading: bool = False

    @property
    def due(self) -> bool:
        """Whether there is a table to be applied."""
        return self.heard is not self.applied

    def hearing(self, record: Record | None) -> "Position":
        """After a record that may be news."""
        if record is None or (self.heard is not None and not record.newer(self.heard)):
            return self
        return Position(record, self.applied)

    def applying(self, record: Record) -> "Position":
        """After ``record`` was applied, unless whoever heard of that has applied a newer one."""
        if self.applied is not None and not record.newer(self.applied):
            return self
        return Position(self.heard, record)

    def refusing(self, why: str, *, loading: bool = False) -> "Position":
        """After it could not be: the worker stays with the table it has, whole."""
        return replace(self, cannot=why, loading=loading)


def rehearsed(
    name: str,
    table: Mapping[str, Any],
    versions: Iterable[str],
    edit: Callable[[VersionedModelServer], object],
    *,
    anything: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Table after ``edit``, tried on a server without models; and whether that is a change.

    The stage knows ``versions`` and those that ``table`` sends traffic to, so a command means
    and refuses there what it would on a worker.  With ``anything`` it knows every version
    that it is asked for.

    Examples
    --------
    >>> edit = lambda server: server.set_default_version("v2")
    >>> table, changed = rehearsed("m", {"default": "v1"}, ["v1", "v2"], edit)
    >>> table["default"], changed
    ('v2', True)
    """
    known = dict.fromkeys(versions)
    if anything:
        known |= dict.fromkeys(cast("list[str]", table.get("past", ())))
    while True:
        stage = VersionedModelServer(name=name, events=Stream(), shadow="inline")
        for version in known:
            stage.load_model(version, _nobody)
        staged = False
        try:
            stage.apply_routing(table)
            before, staged = stage.routing(), True
            edit(stage)
        except UnknownVersion as error:
            # What has traffic already is known to somebody, if not here.
            if (staged and not anything) or error.version in known:
                raise
            known[error.version] = None
        else:
            return stage.routing(), stage.routing() != before


def _nobody(features: Any) -> Any:  # noqa: ARG001
    raise AssertionError("a stage answers nobody")
