"""The seam between a cache and the flows that use it: looking up, fetching, keeping.

Everything here is sans-I/O: generators of steps that a shell walks through in a thread or
a task.  ``cached_prediction`` and ``PredictionService`` are built on these five methods.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Lock
from typing import Any, Final, Generic, TypeAlias, TypeVar

from prodml._call import Steps
from prodml.cache.arguments import NO_EXTRA
from prodml.cache.codecs import Codec, Sealed, atomic, open_envelope, seal
from prodml.cache.keys import Namer, canonical, digest
from prodml.cache.memory import Memory
from prodml.cache.single_flight import ALONE, SingleFlight
from prodml.cache.stats import Counts
from prodml.cache.tier import StoreTier
from prodml.clock import Clock
from prodml.errors import CorruptRecord
from prodml.types import MISS

__all__ = ["CacheSteps", "Key", "Uncached"]

T = TypeVar("T")

Compute: TypeAlias = Callable[[], Steps]

_FORMAT: Final = b"prodml1"
# A dropped version is gone everywhere within a second of its drop.
_POLL: Final = 0.85
_CLAIM: Final = 0.1
_LONG: Final = 1024
_FOREVER: Final = float("inf")


class Uncached(Generic[T]):
    """An answer that must not be kept: ``compute`` returns it in place of the answer.

    Callers who waited for it get ``value`` too, the same object.

    Examples
    --------
    >>> Uncached(0.5).value
    0.5
    """

    __slots__: tuple[str, ...] = ("value",)

    def __init__(self, value: T) -> None:
        self.value: T = value


class _Epoch:
    """What a version's keys contain so that all of them can be dropped at once."""

    __slots__: tuple[str, ...] = ("name", "pending", "token", "until")

    def __init__(self, name: str, until: float) -> None:
        self.name: str = name
        self.token: bytes = b""
        self.until: float = until
        # A drop that the store has not heard of yet.
        self.pending: bool = False


class _Head:
    """The part of a key that a function's calls for one version share."""

    __slots__: tuple[str, ...] = ("epoch", "prefix", "token")

    def __init__(self, prefix: bytes, epoch: _Epoch) -> None:
        self.epoch: _Epoch = epoch
        self.token: bytes = epoch.token
        self.prefix: bytes = prefix + canonical(self.token)


class Key:
    """One entry: what :meth:`CacheSteps.lookup` hands out and the other steps take.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> value, key = PredictionCache().lookup({"age": 41}, "v1")
    >>> bool(value), key.version
    (False, 'v1')
    """

    __slots__: tuple[str, ...] = ("epoch", "function", "tail", "version")

    def __init__(self, function: str, version: Any, epoch: _Epoch, tail: bytes) -> None:
        self.function: str = function
        self.version: Any = version
        self.epoch: _Epoch = epoch
        self.tail: bytes = tail


class _Answer:
    """A value on its way to callers, with the bytes it is copied from for the others."""

    __slots__: tuple[str, ...] = ("body", "cached", "private", "value")

    def __init__(
        self, value: Any, *, body: bytes | None = None, cached: bool, private: bool = False
    ) -> None:
        self.value: Any = value
        self.body: bytes | None = body
        self.cached: bool = cached
        self.private: bool = private


class CacheSteps:
    """The steps of a cache.  ``key`` is None for what cannot be named: it is never kept.

    A flow that computes one answer writes::

        value, key = cache.lookup(features, version)
        if value is MISS:
            found, error = yield from cache.complete_steps(key, compute)
            value, cached = found or (None, False)

    where ``compute()`` gives the steps to ``(answer, error)``.  A flow for many rows writes::

        values, keys = cache.lookup_many(rows, version)
        values, _ = yield from cache.fetch_steps(keys, values)
        ...  # compute those that are MISS
        yield from cache.store_steps(keys, answers)

    Examples
    --------
    >>> from prodml._call import Invoke, run
    >>> from prodml.cache import PredictionCache
    >>> def compute():
    ...     return (yield Invoke(len, ("abc",)))
    >>> cache = PredictionCache()
    >>> [run(cache.compute_steps({"age": 41}, "v1", compute)) for _ in range(2)]
    [(3, False), (3, True)]
    """

    __slots__: tuple[str, ...] = ()

    namespace: str
    ttl: float | None
    jitter: float
    clock: Clock
    rng: random.Random
    _codec: Codec
    _counts: Counts
    _epochs: dict[bytes, _Epoch]
    _flights: SingleFlight
    _heads: dict[Any, _Head]
    _lock: Lock
    _memory: Memory
    _namer: Namer
    _now: Callable[[], float]
    _secret: bytes
    _tier: StoreTier | None

    def lookup(
        self, features: Any, version: Any, *, function: str = "", extra: bytes = NO_EXTRA
    ) -> tuple[Any, Key | None]:
        """``(value, None)`` from memory, ``(MISS, key)``, or ``(MISS, None)`` if unnameable.

        Takes no lock, makes no call and never raises.

        Parameters
        ----------
        features, version
            The row and the resolved version of the model; a version of None has no key.
        function
            Whose answer it is: models that share a cache need different names.
        extra
            Canonical bytes of what else the answer depends on.
        """
        try:
            return self._recall(function, version, extra + self._body(features))
        except Exception:
            # Features may be objects of anyone's making, and raise anything when read.
            self._counts.uncacheable += 1
            return MISS, None

    def lookup_many(
        self, rows: Iterable[Any], version: Any, *, function: str = "", extra: bytes = NO_EXTRA
    ) -> tuple[list[Any], list[Key | None]]:
        """:meth:`lookup` of each row; here a row found in memory has its key, too."""
        return self.recall_many(map(self._named, rows), version, function=function, extra=extra)

    def recall_many(
        self,
        bodies: Iterable[bytes | None],
        version: Any,
        *,
        function: str = "",
        extra: bytes = NO_EXTRA,
    ) -> tuple[list[Any], list[Key | None]]:
        """:meth:`lookup_many` of rows given by their canonical bytes."""
        keys = [self._key(function, version, extra, body) for body in bodies]
        return [self._recall_one(key) for key in keys], keys

    def fetch_steps(self, keys: Sequence[Key | None], values: Sequence[Any] = ()) -> Steps:
        """Steps to ``(values, None)``: what the tiers hold, MISS elsewhere; at most two trips.

        ``values`` are those found before; only the ones that are MISS are asked for.
        """
        found = list(values) or [MISS] * len(keys)
        wanted = {place: key for place, key in enumerate(keys) if key and found[place] is MISS}
        answers, _ = yield from self._fetch(list(wanted.values()))
        for place, answer in zip(wanted, answers, strict=True):
            found[place] = MISS if answer is None else answer.value
        return found, None

    def store_steps(
        self,
        keys: Sequence[Key | None],
        values: Sequence[Any],
        *,
        cost: float = 0.0,
        computed: bool = True,
    ) -> Steps:
        """Steps to ``(rows kept, None)``; ``cost`` is what computing one took, in seconds.

        A value of MISS is not kept; if ``computed``, each of the others counts as a miss.
        """
        items = [
            (key, value, self._encoded(value))
            for key, value in zip(keys, values, strict=True)
            if key is not None and value is not MISS
        ]
        self._counts.misses += len(items) if computed else 0
        kept = [(key, value, body) for key, value, body in items if body is not None]
        yield from self._refresh_all(key for key, _, _ in kept)
        yield from self._keep(kept, cost)
        return len(kept), None

    def compute_steps(
        self,
        features: Any,
        version: Any,
        compute: Compute,
        *,
        function: str = "",
        extra: bytes = NO_EXTRA,
    ) -> Steps:
        """Steps to ``((value, cached), error)``: from a tier, from another, or computed here.

        ``compute()`` gives steps to ``(answer, error)``; an answer wrapped in
        :class:`Uncached` is handed on and not kept.  An error is never kept.  ``cached`` is
        False only for the caller who computed.
        """
        value, key = self.lookup(features, version, function=function, extra=extra)
        if value is not MISS:
            return (value, True), None
        return (yield from self.complete_steps(key, compute))

    def complete_steps(self, key: Key | None, compute: Compute) -> Steps:
        """:meth:`compute_steps` after a :meth:`lookup` that found nothing in memory."""
        if key is None:
            return (yield from self._alone(compute))
        yield from self._refresh(key.epoch)
        work = partial(self._work, key, compute)
        shared, error = yield from self._flights.steps(self._preimage(key), work)
        answer, led = shared
        if error is not None:
            return None, error
        if led:
            return (answer.value, answer.cached), None
        if answer is ALONE or answer.private:
            return (yield from self._alone(compute))
        self._counts.coalesced += 1
        value = answer.value if answer.body is None else self._codec.decode(answer.body)
        return (value, True), None

    # -- keys ---------------------------------------------------------------------------

    def _named(self, features: Any) -> bytes | None:
        try:
            return self._namer.name(features)
        except Exception:
            # As in lookup: whatever reading a stranger's object raises.
            return None

    def _body(self, features: Any) -> bytes:
        return _short(self._namer.name(features))

    def _recall(self, function: str, version: Any, tail: bytes) -> tuple[Any, Key | None]:
        head = self._head(function, version)
        now = self._now()
        if now < head.epoch.until:
            found = self._memory.find(head.prefix + tail, now)
            if found is not None:
                self._counts.memory_hits += 1
                return (self._codec.decode(found[0]) if found[1] else found[0]), None
        return MISS, Key(function, version, head.epoch, tail)

    def _recall_one(self, key: Key | None) -> Any:
        if key is None:
            return MISS
        return self._recall(key.function, key.version, key.tail)[0]

    def _key(self, function: str, version: Any, extra: bytes, body: bytes | None) -> Key | None:
        try:
            epoch = None if body is None else self._head(function, version).epoch
        except Exception:
            # As in lookup: a version may be an object of anyone's making, too.
            epoch = None
        if body is None or epoch is None:
            self._counts.uncacheable += 1
            return None
        return Key(function, version, epoch, extra + _short(body))

    def _head(self, function: str, version: Any) -> _Head:
        # The type, since 1, 1.0 and True are one key of a dictionary.
        place = (function, type(version), version)
        head = self._heads.get(place)
        if head is None or head.token is not head.epoch.token:
            head = self._new_head(function, version)
            if isinstance(version, str | int):
                self._heads[place] = head
        return head

    def _new_head(self, function: str, version: Any) -> _Head:
        if version is None or version is MISS:
            raise TypeError("no version, no cache")
        name = canonical(version)
        if len(self._heads) >= 1024:
            self._heads.clear()
        return _Head(self._prefix(canonical(function) + name), self._epoch(name))

    def _prefix(self, rest: bytes) -> bytes:
        return _FORMAT + canonical(self.namespace) + rest

    def _epoch(self, version: bytes) -> _Epoch:
        epoch = self._epochs.get(version)
        if epoch is None:
            until = _FOREVER if self._tier is None else -_FOREVER
            fresh = _Epoch(self._name(b"epoch:" + self._prefix(version)), until)
            epoch = self._epochs.setdefault(version, fresh)
        return epoch

    def _preimage(self, key: Key) -> bytes:
        return self._head(key.function, key.version).prefix + key.tail

    def _name(self, preimage: bytes) -> str:
        return "prodml:" + digest(preimage, self._secret)

    # -- epochs -------------------------------------------------------------------------

    def _refresh(self, epoch: _Epoch) -> Steps:
        if self._now() < epoch.until:
            return None, None
        work = partial(self._settle, epoch)
        return (yield from self._flights.steps(epoch.name.encode(), work))

    def _refresh_all(self, keys: Iterable[Key | None]) -> Steps:
        for epoch in {key.epoch for key in keys if key is not None}:
            yield from self._refresh(epoch)
        return None, None

    def _settle(self, epoch: _Epoch) -> Steps:
        if self._tier is None or self._now() < epoch.until:
            return None, None
        before = epoch.token
        if before:
            # Others go on under the known epoch while this caller asks.
            epoch.until = self._now() + _CLAIM
        if epoch.pending:
            taken, _ = yield from self._tier.write({epoch.name: before}, None)
            epoch.pending = not taken
        else:
            token, _ = yield from self._tier.settle(epoch.name, before or os.urandom(8))
            self._learn_epoch(epoch, before, token)
        epoch.until = self._now() + _POLL
        return None, None

    def _learn_epoch(self, epoch: _Epoch, before: bytes, token: bytes | None) -> None:
        with self._lock:
            # A drop here and now outruns what the store said before it.
            if token is None or epoch.token is not before or token == before:
                return
            if len(token) != 8:
                # Somebody else's bytes: put an epoch of our own in their place.
                self._counts.corrupt += 1
                epoch.pending = True
                token = before or os.urandom(8)
            epoch.token = bytes(token)

    def _drop_steps(self, version: Any) -> Steps:
        epoch = self._epoch(canonical(version))
        with self._lock:
            token = epoch.token = os.urandom(8)
            epoch.pending = self._tier is not None
        if self._tier is None:
            return True, None
        taken, _ = yield from self._tier.write({epoch.name: token}, None)
        with self._lock:
            if epoch.token is token:
                epoch.pending = not taken
        return taken, None

    # -- tiers --------------------------------------------------------------------------

    def _work(self, key: Key, compute: Compute) -> Steps:
        # The leader before may have landed between our look-up and our take-off.
        answers, _ = yield from self._fetch([key])
        if answers[0] is not None:
            return answers[0], None
        self._counts.misses += 1
        began = self._now()
        result, error = yield from compute()
        if error is not None:
            return None, error
        if type(result) is Uncached:
            return _Answer(result.value, cached=False), None
        body = self._encoded(result)
        if body is None:
            return _Answer(result, cached=False, private=True), None
        yield from self._keep([(key, result, body)], self._now() - began)
        shared = None if atomic(type(result)) else body
        return _Answer(result, body=shared, cached=False), None

    def _alone(self, compute: Compute) -> Steps:
        result, error = yield from compute()
        if error is not None:
            return None, error
        return (result.value if type(result) is Uncached else result, False), None

    def _fetch(self, keys: Sequence[Key]) -> Steps:
        yield from self._refresh_all(keys)
        places = [self._preimage(key) for key in keys]
        found = [self._remembered(place) for place in places]
        absent = [at for at, answer in enumerate(found) if answer is None]
        if self._tier is None or not absent:
            return found, None
        names = [self._name(places[at]) for at in absent]
        envelopes, _ = yield from self._tier.read(names)
        for at, name, envelope in zip(absent, names, envelopes, strict=True):
            if envelope is not None:
                found[at] = self._opened(name, places[at], envelope)
        return found, None

    def _remembered(self, place: bytes) -> _Answer | None:
        found = self._memory.find(place, self._now())
        if found is None:
            return None
        self._counts.memory_hits += 1
        if not found[1]:
            return _Answer(found[0], cached=True)
        return _Answer(self._codec.decode(found[0]), body=found[0], cached=True)

    def _opened(self, name: str, place: bytes, envelope: bytes) -> _Answer | None:
        try:
            sealed = open_envelope(name, envelope, self._secret)
            value = self._codec.decode(sealed.body)
        except CorruptRecord:
            self._counts.corrupt += 1
            return None
        self._counts.store_hits += 1
        left = min(sealed.created + sealed.ttl - self.clock.time(), self._lifetime())
        self._remember(place, value, sealed.body, left)
        return _Answer(value, body=None if atomic(type(value)) else sealed.body, cached=True)

    def _keep(self, items: Sequence[tuple[Key, Any, bytes]], cost: float) -> Steps:
        ttl, wall = self._lifetime(), self.clock.time()
        envelopes: dict[str, bytes] = {}
        for key, value, body in items:
            place = self._preimage(key)
            self._remember(place, value, body, ttl)
            if self._tier is not None:
                name = self._name(place)
                envelopes[name] = seal(name, Sealed(body, wall, ttl, cost), self._secret)
        if self._tier is not None and envelopes:
            yield from self._tier.write(envelopes, None if ttl == _FOREVER else ttl)
        return None, None

    def _remember(self, place: bytes, value: Any, body: bytes, ttl: float) -> None:
        if ttl <= 0 or not self._memory.capacity:
            return
        now, atom = self._now(), atomic(type(value))
        held = value if atom else body
        kept = self._memory.put(place, held, encoded=not atom, now=now, expires=now + ttl)
        self._counts.unstorable += not kept

    def _lifetime(self) -> float:
        if self.ttl is None:
            return _FOREVER
        return self.ttl * (1.0 - self.jitter * self.rng.random())

    def _encoded(self, value: Any) -> bytes | None:
        try:
            return self._codec.encode(value)
        except Exception:
            # The answer reaches the caller; only keeping it is impossible.
            self._counts.unstorable += 1
            return None


def _short(body: bytes) -> bytes:
    if len(body) <= _LONG:
        return body
    # 0xC1 begins no canonical value, so a digest is never taken for one.
    return b"\xc1" + hashlib.blake2b(body, digest_size=32).digest()
