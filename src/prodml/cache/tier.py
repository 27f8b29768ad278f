"""The second tier: a store that other processes share, reached through a guard.

Whatever the store does (refuse, stall, answer rubbish), a call here ends with a miss and a
count, never with an error.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from prodml._call import CalmGuard, Guard, Invoke, Steps, WaitingGuard, protect
from prodml.cache.backoff import Backoff
from prodml.cache.stats import Counts
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BadConfiguration, CorruptRecord, Rejected, StoreUnavailable
from prodml.stores import AsyncStore, Store, open_async_store, open_store

__all__ = ["BulkStore", "Direct", "LeaseStore", "StoreTier"]

Direct: TypeAlias = tuple[Guard[Any], Callable[[str], Any] | None, Callable[[str], Any] | None]
"""A guard, and how to get one value, in either colour."""


@runtime_checkable
class BulkStore(Protocol):
    """What a store may offer beside :class:`~prodml.stores.Store`: many keys in one trip."""

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Value of each key, None where absent."""
        ...

    def set_many(self, items: Mapping[str, bytes], *, ttl: float | None = None) -> None:
        """Keep all ``items`` for ``ttl`` seconds."""
        ...

    def setdefault(self, key: str, value: bytes) -> bytes:
        """Value of ``key``, which is set to ``value`` if absent; one atomic operation."""
        ...


@runtime_checkable
class LeaseStore(Protocol):
    """What a store may offer beside: one computation of a value among all processes.

    Whoever finds no value claims the right to compute it, for ``lease`` seconds; the others
    watch.  A claim lapses by itself, so that a computer that dies holds nobody up; values
    are written once, so that a claim that lapses too early costs a second computation and
    nothing else.
    """

    def claim(self, name: str, token: str, lease: float) -> tuple[bytes | None, bool]:
        """Value of ``name``, and whether ``token`` may compute it; one round trip.

        Asking again with the same token changes nothing.
        """
        ...

    def watch(self, name: str) -> tuple[bytes | None, str | None]:
        """Value of ``name``, and the token of who computes it; one round trip."""
        ...

    def prolong(self, name: str, token: str, lease: float) -> bool:
        """Let ``token`` compute ``name`` for ``lease`` seconds from now, if it still may."""
        ...

    def unclaim(self, name: str, token: str) -> None:
        """Let others compute ``name``; does nothing when it is not ``token``'s any more."""
        ...


class StoreTier:
    """Reads and writes of one store as steps for both colours.

    Parameters
    ----------
    target
        A URL, a client object, or a store, plain or awaited.

    Raises
    ------
    BadConfiguration
        Nothing is registered for ``target``.
    """

    __slots__: tuple[str, ...] = (
        "_async",
        "_bulky",
        "_counts",
        "_direct",
        "_guard",
        "_peek",
        "_sync",
        "leases",
    )

    def __init__(self, target: Any, guard: Guard[Any], counts: Counts) -> None:
        self._guard: Guard[Any] = guard
        self._peek: Callable[[], bool] = _peek_of(guard)
        self._counts: Counts = counts
        self._sync: Store | None = None
        self._async: AsyncStore | None = None
        self._sync, self._async = _colours(target)
        stores = [store for store in (self._sync, self._async) if store is not None]
        self._direct: Direct | None = None
        if not isinstance(guard, WaitingGuard):
            ways = getattr(self._sync, "get", None), getattr(self._async, "get", None)
            self._direct = guard, *ways
        self._bulky: bool = all(isinstance(store, BulkStore) for store in stores)
        # Whether processes can agree on who computes a value.
        self.leases: bool = all(isinstance(store, LeaseStore) for store in stores)

    def down(self) -> bool:
        """Whether the store is known to be away: there is no use in preparing a call."""
        return self._peek()

    def away(self) -> bool:
        """Whether what processes share cannot be asked."""
        return self.down()

    def read(self, names: Sequence[str]) -> Steps:
        """Steps to ``([bytes or None, ...], None)``, in one round trip if the store can."""
        if self._peek():
            self._counts.store_skipped += 1
            return [None] * len(names), None
        if len(names) == 1:
            value, _ = yield from self._ask("get", names[0])
            return [value], None
        if self._bulky:
            found, error = yield from self._ask("get_many", names)
            if error is None and isinstance(found, list | tuple) and len(found) == len(names):
                return found, None
            self._counts.corrupt += error is None
            return [None] * len(names), None
        values: list[bytes | None] = []
        for name in names:
            value, _ = yield from self._ask("get", name)
            values.append(value)
        return values, None

    @property
    def direct(self) -> Direct | None:
        """Guard and ways to get one value without steps; None where that is no use."""
        return None if self._direct is None or self._peek() else self._direct

    def count(self, error: Exception) -> None:
        """Note how a call of the store has failed."""
        if isinstance(error, Rejected):
            self._counts.store_skipped += 1
        elif isinstance(error, CorruptRecord):
            self._counts.corrupt += 1
        else:
            self._counts.store_errors += 1

    def write(self, items: Mapping[str, bytes], ttl: float | None) -> Steps:
        """Steps to ``(whether all was taken, None)``."""
        if self._peek():
            self._counts.store_skipped += 1
            return False, None
        if len(items) > 1 and self._bulky:
            _, error = yield from self._ask("set_many", items, ttl=ttl)
            return error is None, None
        taken = True
        for name, value in items.items():
            _, error = yield from self._ask("set", name, value, ttl=ttl)
            taken = taken and error is None
        return taken, None

    def settle(self, name: str, proposal: bytes) -> Steps:
        """Steps to ``(value now at name or None if unknown, None)``; proposes one if absent."""
        if self._peek():
            self._counts.store_skipped += 1
            return None, None
        if self._bulky:
            value, _ = yield from self._ask("setdefault", name, proposal)
            return value, None
        value, error = yield from self._ask("get", name)
        if value is None and error is None:
            _, error = yield from self._ask("set", name, proposal)
            return (proposal if error is None else None), None
        return value, None

    def claim(self, name: str, token: str, lease: float) -> Steps:
        """Steps to ``((value or None, whether to compute it here), None)``.

        A store that cannot be asked holds nobody up: each computes for himself.
        """
        return (yield from self._agree((None, True), "claim", name, token, lease))

    def watch(self, name: str) -> Steps:
        """Steps to ``((value or None, token of who computes it or None), None)``."""
        return (yield from self._agree((None, None), "watch", name))

    def prolong(self, name: str, token: str, lease: float) -> Steps:
        """Steps to ``(whether it is still to be computed here, None)``; so if nobody knows."""
        return (yield from self._agree(True, "prolong", name, token, lease))

    def unclaim(self, name: str, token: str) -> Steps:
        """Steps that let others compute ``name``."""
        return (yield from self._agree(None, "unclaim", name, token))

    @property
    def store(self) -> Store | AsyncStore | None:
        """The store itself, plain if there is a plain one."""
        return self._sync or self._async

    def close(self) -> Steps:
        """Steps that let go of connections; stores without ``close`` have none."""
        call = getattr(self._sync, "close", _nothing)
        yield Invoke(call, acall=getattr(self._async, "close", None))
        return None, None

    def _agree(self, unknown: Any, method: str, *args: Any) -> Steps:
        if self._peek():
            self._counts.store_skipped += 1
            return unknown, None
        result, error = yield from self._ask(method, *args)
        return (unknown if error is not None else result), None

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Steps:
        acall = getattr(self._async, method) if self._async is not None else None
        call = getattr(self._sync, method) if self._sync is not None else _only_awaited
        outcome = yield from protect(self._guard, Invoke(call, args, kwargs, acall=acall))
        error = outcome[1]
        if error is not None:
            self.count(error)
        if isinstance(error, CorruptRecord):
            # A damaged store is let go of: the next use opens what is there by then.
            yield from self.close()
        return outcome


def _peek_of(guard: Guard[Any]) -> Callable[[], bool]:
    """How to see that ``guard`` would reject a call, without making one."""
    if isinstance(guard, Backoff):
        return lambda: guard.down
    if isinstance(guard, CalmGuard) and hasattr(guard.era, "rejects"):
        clock = getattr(guard, "clock", SYSTEM_CLOCK)
        return lambda: guard.era.rejects and clock.monotonic() < guard.era.until
    return lambda: False


def _nothing() -> None:
    """Stand in for a store that holds nothing."""


def _only_awaited(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("cache store", "it is asynchronous; pass a URL to use it in threads")


def _colours(target: Any) -> tuple[Store | None, AsyncStore | None]:
    store = open_store(target)
    if inspect.iscoroutinefunction(cast("Callable[..., Any]", store.get)):
        return getattr(store, "twin", None), cast("AsyncStore", store)
    twin = getattr(store, "twin", None)
    if twin is None and store is not target:
        try:
            twin = open_async_store(target)
        except BadConfiguration:
            # Embedded stores have one colour: quick enough to be called from a task.
            twin = None
    return store, twin
