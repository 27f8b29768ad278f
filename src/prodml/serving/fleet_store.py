"""A fleet's record in a store: Redis or Valkey for many hosts, SQLite for one.

What is kept, for a fleet named NAME::

    prodml:fleet:NAME             the record, written by compare-and-swap
    prodml:fleet:NAME (lease)     who is giving a command just now
    prodml:fleet:NAME:workers     names of the workers
    prodml:fleet:NAME:worker:ID   what worker ID says of itself; ends by itself

**A command that failed stays failed.**  A store that stalls has a request in its queue when the
caller has given up long ago, and carries it out when it wakes.  So a command is written under a
lease that is as long as the caller's patience, and the store refuses a write whose lease is
over: by its own clock, so that no clocks are compared.  Whoever got no answer first gives the
lease back; if that gets no answer either, it waits until the lease is over, and says then that
nothing has changed and nothing will.
"""

import inspect
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, Conflict, LeaseLost
from prodml.serving.fleet_record import Member
from prodml.serving.fleet_watch import Ear
from prodml.stores import Lease, SharedStore, Store, open_shared_store

__all__ = ["FleetStore", "StorePlace"]

_PREFIX: Final = "prodml:fleet:"
_PAUSE: Final = 0.005
_TRIES: Final = 10
_NUDGES: Final = 3


class FleetStore(Store, SharedStore, Protocol):
    """What a fleet needs of a store: bytes by key, and records that a lease can protect.

    Redis and Valkey, SQLite and memory are such stores.  One that also has ``nudge(channel)``
    and ``listen(channel) -> Ear | None`` tells workers at once; with others they find out at
    the next poll.
    """

    def commit(self, key: str, value: bytes, revision: int, *, lease: Lease | None = None) -> int:
        """Write ``value`` if the revision is ``revision`` and ``lease`` is still held.

        Raises
        ------
        Conflict, LeaseLost
            It is not; nothing was written.
        """
        ...


def _opened(target: Any) -> FleetStore:
    store: Any = open_shared_store(target)
    if not (hasattr(store, "get") and hasattr(store, "set") and hasattr(store, "delete")):
        raise BadConfiguration(
            f"{target!r} cannot keep heartbeats: use 'redis://host', 'sqlite:///file.db' or a "
            "store with get, set and delete"
        )
    taken = inspect.signature(store.commit).parameters.values()
    if not any(p.name == "lease" or p.kind is p.VAR_KEYWORD for p in taken):
        raise BadConfiguration(
            f"{target!r} cannot refuse a write that comes late: its commit must take lease="
        )
    opened: FleetStore = store
    return opened


class StorePlace:
    """The record of fleet ``name`` in ``store``; nothing is connected before the first use.

    Parameters
    ----------
    ttl
        Seconds after which a silent worker is not counted.
    patience
        Seconds that a command may take.
    """

    def __init__(
        self, store: Any, name: str, *, ttl: float, patience: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store: FleetStore = _opened(store)
        # A store that was given is closed by who gave it.
        self._ours: bool = self._store is not store
        self._key: str = _PREFIX + name
        self._ttl: float = ttl
        self._patience: float = patience
        self._clock: Clock = clock
        self.where: str = f"{self._key} in {self._store!r}"

    def read(self) -> tuple[bytes | None, int]:
        """Value and revision of the record."""
        return self._store.read(self._key)

    def tell(self, value: bytes, revision: int) -> int:
        """Write what is known already: it does no harm if it comes about late."""
        return self._store.commit(self._key, value, revision)

    def commit(self, value: bytes, revision: int) -> int:
        """Write the record if its revision is ``revision``; now or never.

        Raises
        ------
        Conflict
            Somebody else was faster; nothing was written.
        StoreUnavailable
            Nothing was written as far as can be known, and nothing will be.
        """
        lease = self._right(revision)
        # From after the answer: it has begun before, and is over before.
        ends = self._clock.monotonic() + self._patience
        try:
            written = self._store.commit(self._key, value, revision, lease=lease)
        except LeaseLost:
            raise Conflict(self._key, revision, "another command") from None
        except OSError as error:
            self._prevent(lease, ends)
            return self._found(value, revision, error)
        self._give_back(lease)
        return written

    def _right(self, revision: int) -> Lease:
        """Wait for the lease of those who give commands."""
        ends = self._clock.monotonic() + 2.0 * self._patience
        owner = os.urandom(8).hex()
        while True:
            lease = self._store.acquire(self._key, owner, self._patience)
            if lease is not None:
                return lease
            if self._clock.monotonic() >= ends:
                raise Conflict(self._key, revision, "another command under way")
            self._clock.sleep(_PAUSE)

    def _give_back(self, lease: Lease) -> bool:
        try:
            self._store.release(lease)
        except OSError:
            return False
        return True

    def _prevent(self, lease: Lease, ends: float) -> None:
        """Make sure that a write without an answer does not come about from here on."""
        while not self._give_back(lease) and self._clock.monotonic() < ends:
            self._clock.sleep(_PAUSE)

    def _found(self, value: bytes, revision: int, error: OSError) -> int:
        """Find out whether a write without an answer has come about."""
        try:
            there, now = self.read()
        except OSError:
            error.add_note(
                "no answer to the write and none since: if it was carried out before the store "
                "went silent, it shows when the store is back"
            )
            raise error from None
        if there == value:
            return now
        if now != revision:
            raise Conflict(self._key, revision, now) from None
        raise error

    # -- who is there -------------------------------------------------------------------

    def beat(self, worker: str, member: Member) -> None:
        """Say how ``worker`` fares, and that it is there."""
        self._store.set(self._place(worker), member.encoded(self._clock.time()), ttl=self._ttl)
        self._list(lambda names: names if worker in names else [*self._living(names), worker])

    def leave(self, worker: str) -> None:
        """Let ``worker`` be no more."""
        self._store.delete(self._place(worker))
        self._list(lambda names: [name for name in names if name != worker])

    def workers(self) -> dict[str, Member]:
        """Living workers and what they say."""
        names, _ = self._names()
        spoken = zip(names, map(Member.decoded, self._beats(names)), strict=True)
        return {name: said[0] for name, said in spoken if said is not None}

    def _place(self, worker: str) -> str:
        return f"{self._key}:worker:{worker}"

    def _beats(self, names: Sequence[str]) -> Sequence[bytes | None]:
        keys = [self._place(name) for name in names]
        many = getattr(self._store, "get_many", None)
        return many(keys) if many is not None and keys else [self._store.get(k) for k in keys]

    def _names(self) -> tuple[list[str], int]:
        value, revision = self._store.read(f"{self._key}:workers")
        try:
            names = json.loads(value or b"[]")
        except ValueError:
            names = []
        known = names if isinstance(names, list) else []
        return [name for name in known if isinstance(name, str)], revision

    def _living(self, names: list[str]) -> list[str]:
        return [name for name, beat in zip(names, self._beats(names), strict=True) if beat]

    def _list(self, edit: Callable[[list[str]], list[str]]) -> None:
        for _ in range(_TRIES):
            names, revision = self._names()
            new = edit(names)
            if new == names:
                return
            value = json.dumps(sorted(set(new))).encode()
            with suppress(Conflict):
                self._store.commit(f"{self._key}:workers", value, revision)
                return
        # So many come and go: the next beat sees to it.

    # -- bells --------------------------------------------------------------------------

    def nudge(self) -> None:
        """Tell the workers that there is news, if the store can."""
        nudge = getattr(self._store, "nudge", None)
        if nudge is None:
            return
        for left in reversed(range(_NUDGES)):
            try:
                nudge(self._key)
            except OSError:
                # A late answer, perhaps: to ring twice does no harm, not to ring costs a poll.
                if not left:
                    raise
            else:
                return

    def listen(self, worker: str) -> Ear | None:  # noqa: ARG002
        """What rings when there is news, if the store can."""
        listen = getattr(self._store, "listen", None)
        ear: Ear | None = None if listen is None else listen(self._key)
        return ear

    def close(self) -> None:
        """Let go of the connections; the next use opens new ones."""
        close = getattr(self._store, "close", None)
        if self._ours and close is not None:
            close()

    def forget(self) -> None:
        """Nothing here is the parent's in a forked child."""
