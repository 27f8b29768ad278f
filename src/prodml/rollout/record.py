"""What a store keeps of a rollout: one record that moves it, one row for each worker.

The record is written by whoever ticks, by compare-and-swap, so of two that tick at once one
moves the rollout.  A row is written by its worker alone, and always holds all that this
worker saw: a write that is repeated, because nobody knows whether the first one arrived,
counts nothing twice, and a worker that is killed takes with it what it had not handed in yet.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias

from prodml.errors import Conflict, CorruptRecord
from prodml.rollout.analysis import Tally, added
from prodml.rollout.machine import RolloutPhase, RolloutState
from prodml.stores import SharedStore

__all__ = ["Eras", "Record", "Rows", "compact", "joined"]

Eras: TypeAlias = Mapping[int, Mapping[str, Mapping[str, float]]]
"""Sums by era and guard."""

_FORMAT = 2
# Eras that a row tells apart; of more, old ones of the same step are taken together.
_MOST_ERAS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where a rollout stands and how it came there.

    ``era`` and ``since`` number the present stretch and the first one of the present step.
    ``moves`` counts all moves, ``orders`` those with commands.  While ``owed_until`` is set,
    ``teller`` has been handed the last ones and has not ticked since.  ``sums`` holds what was
    fetched for metrics, up to the times in ``read``.

    Examples
    --------
    >>> state = RolloutState(version="v2", stable="v1", steps=(0.1,))
    >>> Record.decoded("key", Record(state=state).encoded()).state == state
    True
    """

    state: RolloutState
    era: int = 1
    since: int = 1
    moves: int = 0
    orders: int = 0
    teller: str = ""
    owed_until: float | None = None
    read: Mapping[str, float] = field(default_factory=dict[str, float])
    sums: Eras = field(default_factory=dict[int, dict[str, Tally]])
    steps: tuple[Mapping[str, Any], ...] = ()
    facts: tuple[Mapping[str, Any], ...] = ()

    def encoded(self) -> bytes:
        """The record as JSON."""
        state = self.state
        phases = {"phase": state.phase.value, "before": state.before.value}
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {"format": _FORMAT, "state": asdict(state) | phases}
        return json.dumps(plain).encode()

    @classmethod
    def decoded(cls, key: str, value: bytes) -> "Record":
        """The record in ``value``.

        Raises
        ------
        CorruptRecord
            It is none, or one of another format.
        """
        try:
            plain = json.loads(value)
            if plain.pop("format") != _FORMAT:
                raise CorruptRecord(key, "it was written by another version of prodml")
            state = plain["state"]
            state |= {name: RolloutPhase(state[name]) for name in ("phase", "before")}
            state["steps"] = tuple(state["steps"])
            plain["sums"] = {int(era): sums for era, sums in plain["sums"].items()}
            plain |= {name: tuple(plain[name]) for name in ("steps", "facts")}
            return cls(**plain | {"state": RolloutState(**state)})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptRecord(key, f"not a rollout: {error}") from error


@dataclass(slots=True)
class Rows:
    """The rows of all workers, of which one is mine.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> store = MemoryStore()
    >>> Rows(store, "rollout/x", "a").hand_in({1: {"error rate": {"n": 10}}})
    >>> Rows(store, "rollout/x", "b").others()
    [{1: {'error rate': {'n': 10}}}]
    """

    store: SharedStore
    key: str
    mine: str
    _written: bytes = field(default=b"", init=False, repr=False)
    _revision: int = field(default=0, init=False, repr=False)

    def hand_in(self, sums: Eras) -> None:
        """Write all that this worker saw, unless that has not changed."""
        if not sums:
            return
        value = json.dumps(sums).encode()
        if value == self._written:
            return
        if not self._written:
            self._join()
        try:
            self._revision = self.store.commit(self._row(self.mine), value, self._revision)
        except Conflict as conflict:
            # Nobody else writes here: an earlier write arrived, and its answer did not.
            found = self.store.read(conflict.key)[1]
            self._revision = self.store.commit(conflict.key, value, found)
        self._written = value

    def others(self) -> list[Eras]:
        """What the other workers have handed in.

        Raises
        ------
        CorruptRecord
            A row is none: without it nobody knows what its worker saw.
        """
        keys = [self._row(name) for name in self._names()[0] if name != self.mine]
        return [_decoded(key, self.store.read(key)[0]) for key in keys]

    def _names(self) -> tuple[list[str], int]:
        key = f"{self.key}/workers"
        value, revision = self.store.read(key)
        try:
            return list(json.loads(value or b"[]")), revision
        except (ValueError, TypeError) as error:
            raise CorruptRecord(key, f"not a list of workers: {error}") from error

    def _join(self) -> None:
        joined = False
        while not joined:
            names, revision = self._names()
            joined = self.mine in names or self._listed([*names, self.mine], revision)

    def _listed(self, names: list[str], revision: int) -> bool:
        try:
            self.store.commit(f"{self.key}/workers", json.dumps(names).encode(), revision)
        except Conflict:
            return False
        return True

    def _row(self, name: str) -> str:
        return f"{self.key}/seen/{name}"


def joined(parts: Sequence[Eras], name: str) -> dict[int, Tally]:
    """Sums of all workers for the guard ``name``, by era.

    Examples
    --------
    >>> joined([{1: {"a": {"n": 1}}}, {1: {"a": {"n": 2}}, 2: {"b": {"n": 9}}}], "a")
    {1: {'n': 3}}
    """
    eras = sorted({era for part in parts for era in part})
    found = {era: added(part.get(era, {}).get(name, {}) for part in parts) for era in eras}
    return {era: tally for era, tally in found.items() if tally}


def compact(sums: Eras, since: int) -> dict[int, Mapping[str, Mapping[str, float]]]:
    """Take old eras together, if there are too many: steps stay apart, and the last ones whole.

    Where the bets of an era begin must not depend on how they went, and it does not.

    Examples
    --------
    >>> list(compact({era: {"a": {"n": 1}} for era in range(1, 15)}, since=3))
    [1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    """
    sums = dict(sums)
    while len(sums) > _MOST_ERAS:
        eras = sorted(sums)
        pairs = itertools.pairwise(eras)
        first, second = next((a, b) for a, b in pairs if (a < since) == (b < since))
        old, new = sums[first], sums.pop(second)
        sums[first] = {
            name: added([old.get(name, {}), new.get(name, {})]) for name in {**old, **new}
        }
    return sums


def _decoded(key: str, value: bytes | None) -> Eras:
    try:
        # A worker that was killed between joining and its first row has seen nothing.
        return {int(era): sums for era, sums in json.loads(value or b"{}").items()}
    except (ValueError, AttributeError) as error:
        raise CorruptRecord(key, f"not what a worker saw: {error}") from error
