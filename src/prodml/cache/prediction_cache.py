"""The cache: predictions by features and model version, in memory and in a shared store."""

import hashlib
import math
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field
from threading import Lock
from typing import Any, final

from prodml._call import Guard, Steps, arun, run
from prodml.cache.arguments import NO_EXTRA, function_id
from prodml.cache.backoff import Backoff
from prodml.cache.codecs import Codec, CustomCodec, ValueCodec, class_name
from prodml.cache.disk import DiskTier
from prodml.cache.disk_layer import DiskLayer, ends_of
from prodml.cache.failures import Failures
from prodml.cache.freshness import Freshness
from prodml.cache.keys import Namer
from prodml.cache.memory import Memory, size_of
from prodml.cache.sealing import Sealer
from prodml.cache.single_flight import SingleFlight
from prodml.cache.stats import CacheStats, Counts, Explanation
from prodml.cache.steps import CacheSteps
from prodml.cache.tier import StoreTier
from prodml.cache.typed import kept_by
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, Stream
from prodml.types import MISS

__all__ = ["PredictionCache"]


@final
@dataclass(slots=True, eq=False)
class PredictionCache(CacheSteps):
    """Keeps predictions by model version and canonical features.

    An entry's key holds the namespace, the function, the version and every argument, so no
    model ever gets another's answer.  Nothing here can break or change a prediction: what
    cannot be named or kept is computed as if there were no cache, and counted; a store that
    fails is a miss.  Nothing connects before the first use.

    Parameters
    ----------
    redis
        The tier that processes share: a URL (``redis://``, ``rediss://``, ``unix://``), a
        ``redis.Redis`` or ``redis.asyncio.Redis`` (its address is taken over; connections,
        timeouts and retries are the cache's own), any :class:`~prodml.stores.Store`, or None.
    namespace
        Tenant or application; part of every key.
    memory
        Bound of the first tier, bytes or text like ``"64 MiB"``; None for no memory tier.
    ttl
        Seconds that an entry lives, or None for ever.
    jitter
        Share of ``ttl``, in [0, 1), by which lives are shortened at random, so that entries
        made together do not end together.
    early
        How eagerly entries are renewed before their end, behind the back of a caller who is
        answered at once: 1 is the optimum of XFetch (the longer computing takes, the
        earlier), 0 is never.
    stale
        Seconds after its ``ttl`` in which an entry is still served while one caller's
        renewal runs in the background.
    stale_if_error
        Seconds after its ``ttl`` in which an entry is served if computing another fails.
    negative_ttl
        Seconds that a failure is remembered and raised again instead of computing; what was
        only refused (:class:`~prodml.errors.Rejected`) is not remembered.  Other processes
        raise :class:`~prodml.errors.RememberedFailure`, with the type and text of the error.
    lease
        Seconds after which other processes go on without one that was killed while it
        computed for all; it is prolonged while the work lasts.  0 lets each process compute
        for itself.
    flight_timeout
        Seconds that a caller waits for another's computation before it computes itself.
    secret
        Keys the digests and tags in the shared store: whoever lacks it can neither confirm
        a guess of the features nor forge an entry.  All processes need the same one.
    encryption
        ``"aes-gcm"``: nobody without ``secret``, which it needs, can read the answers in the
        shared store; takes the package cryptography.  By default they are authenticated only.
    codec
        Encoder and decoder of answers in place of the built-in one, for types that it does
        not know.  What it decodes is trusted: do not let it load pickles.
    disk
        File, or a :class:`~prodml.cache.DiskTier`, that keeps answers across restarts, between
        memory and the shared store.
    breaker
        Guard in front of the store; by default a :class:`~prodml.cache.Backoff`.
    rng, clock, events, name
        Chance, time, where settings changes are told, and as whom.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, a package is not installed, or nothing is registered for
        ``redis``.

    Examples
    --------
    >>> cache = PredictionCache(ttl=60.0)
    >>> cache.set({"age": 41, "country": "DE"}, "v2", 0.25)
    True
    >>> cache.get({"country": "DE", "age": 41}, "v2")
    0.25
    >>> cache.get({"country": "DE", "age": 41}, "v3") is MISS
    True
    >>> cache.drop("v2"), cache.get({"age": 41, "country": "DE"}, "v2", default="gone")
    (True, 'gone')
    """

    redis: Any = field(default=None, repr=False)
    _: KW_ONLY
    namespace: str = field(default="default", metadata={"fixed": "it is part of every key"})
    memory: int | str | None = "64 MiB"
    ttl: float | None = 3600.0
    jitter: float = 0.1
    early: float = 1.0
    stale: float = 0.0
    stale_if_error: float = 0.0
    negative_ttl: float = 0.0
    lease: float = 2.0
    flight_timeout: float = 30.0
    secret: InitVar[bytes | str | None] = None
    encryption: str | None = field(
        default=None, metadata={"fixed": "entries of another mode cannot be read"}
    )
    codec: Codec | None = field(default=None, repr=False)
    disk: DiskTier | str | os.PathLike[str] | None = field(
        default=None, repr=False, metadata={"fixed": "its file is open"}
    )
    breaker: Guard[Any] | None = None
    rng: random.Random = field(default_factory=random.Random, repr=False)
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    name: str = "prediction-cache"
    _codec: Codec = field(init=False, repr=False)
    _counts: Counts = field(default_factory=Counts, init=False, repr=False)
    _epochs: dict[bytes, Any] = field(default_factory=dict[bytes, Any], init=False, repr=False)
    _failures: Failures = field(default_factory=Failures, init=False, repr=False)
    _flights: SingleFlight = field(init=False, repr=False)
    _fresh: Freshness = field(init=False, repr=False)
    _heads: dict[Any, Any] = field(default_factory=dict[Any, Any], init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)
    _memory: Memory = field(init=False, repr=False)
    _namer: Namer = field(default_factory=Namer, init=False, repr=False)
    _now: Callable[[], float] = field(init=False, repr=False)
    _renewals: dict[bytes, float] = field(
        default_factory=dict[bytes, float], init=False, repr=False
    )
    _sealer: Sealer = field(init=False, repr=False)
    _secret: bytes = field(init=False, repr=False)
    _tier: StoreTier | None = field(default=None, init=False, repr=False)

    def __post_init__(self, secret: bytes | str | None) -> None:
        if self.ttl is not None and not self.ttl > 0:
            raise BadConfiguration(f"ttl={self.ttl!r} must be more than 0 seconds, or None")
        if not 0 <= self.jitter < 1:
            raise BadConfiguration(f"jitter={self.jitter!r} must be a share in [0, 1)")
        if not self.flight_timeout > 0:
            raise BadConfiguration(f"flight_timeout={self.flight_timeout!r} must be more than 0")
        for setting in ("negative_ttl", "lease"):
            if not 0 <= getattr(self, setting) < math.inf:
                raise BadConfiguration(f"{setting}={getattr(self, setting)!r} must be 0 or more")
        self._fresh = Freshness(self.early, self.stale, self.stale_if_error)
        self._memory = Memory(size_of(self.memory, "memory"))
        self._flights = SingleFlight(self.flight_timeout)
        self._now = self.clock.monotonic
        self._secret = _key_of(secret)
        self._codec = ValueCodec() if self.codec is None else _custom(self.codec)
        if self.encryption is not None and secret is None:
            raise BadConfiguration(f"encryption={self.encryption!r} needs a secret")
        name = "" if self.codec is None else class_name(type(self.codec))
        self._sealer = Sealer(self._secret, self.encryption, name)
        if self.redis is not None:
            guard = self.breaker or Backoff(name=f"{self.name}-store", clock=self.clock)
            self._tier = StoreTier(self.redis, guard, self._counts)
            # A URL may hold a password: from here on only the store is known.
            self.redis = self._tier.store
        if self.disk is not None:
            self._tier = self._over_disk(self.disk)

    def _hidden(self) -> dict[str, Any]:
        return {"secret": self._secret}

    def _retuned(self) -> None:
        self._memory.resize(size_of(self.memory, "memory"), self._now())
        self._flights.timeout = self.flight_timeout
        self._fresh = Freshness(self.early, self.stale, self.stale_if_error)

    def _over_disk(self, disk: DiskTier | str | os.PathLike[str]) -> StoreTier:
        self.disk = disk if isinstance(disk, DiskTier) else DiskTier(disk, clock=self.clock)
        return DiskLayer(self.disk, self._tier, ends=ends_of(self._sealer))

    def get(
        self,
        features: Any,
        version: Any,
        default: Any = MISS,
        *,
        function: str | Callable[..., Any] = "",
    ) -> Any:
        """Prediction kept for ``features`` and ``version``, or ``default``.

        None and every falsy value are predictions like others: compare with
        :data:`~prodml.types.MISS`.  Entries of a decorated function are found by passing it
        as ``function``.
        """
        return run(self._get_steps(features, version, default, function), self.clock)

    def aget(
        self,
        features: Any,
        version: Any,
        default: Any = MISS,
        *,
        function: str | Callable[..., Any] = "",
    ) -> Awaitable[Any]:
        """:meth:`get`, awaited."""
        return arun(self._get_steps(features, version, default, function), self.clock)

    def set(
        self,
        features: Any,
        version: Any,
        value: Any,
        *,
        function: str | Callable[..., Any] = "",
    ) -> bool:
        """Keep ``value``; return whether it can be kept at all."""
        return bool(run(self._set_steps(features, version, value, function), self.clock))

    def aset(
        self,
        features: Any,
        version: Any,
        value: Any,
        *,
        function: str | Callable[..., Any] = "",
    ) -> Awaitable[bool]:
        """:meth:`set`, awaited."""
        return arun(self._set_steps(features, version, value, function), self.clock)

    def drop(self, version: Any) -> bool:
        """Forget every prediction of ``version``: here at once, everywhere within a second.

        One operation, however many entries there are: their keys are never asked for again
        and end with their time to live.

        Returns
        -------
        bool
            Whether the shared store knows.  If it cannot be reached, it is told as soon as
            it can be: until then other processes go on with what they have.

        Raises
        ------
        TypeError
            ``version`` cannot be named.
        """
        return bool(run(self._drop_steps(version), self.clock))

    def adrop(self, version: Any) -> Awaitable[bool]:
        """:meth:`drop`, awaited."""
        return arun(self._drop_steps(version), self.clock)

    def stats(self) -> CacheStats:
        """Numbers since the cache was made."""
        counts, memory = self._counts, self._memory
        numbers = {name: getattr(counts, name) for name in Counts.__slots__}
        return CacheStats(
            **numbers,
            evictions=memory.evictions,
            entries=len(memory),
            bytes=memory.used,
            capacity=memory.capacity,
        )

    def explain(
        self, features: Any, version: Any, *, function: str | Callable[..., Any] = ""
    ) -> Explanation:
        """Key of a row and why it is, or is not, answered from memory; asks no store."""
        name = function_id(function)
        try:
            canonical = self._namer.name(features)
            head = self._head(name, version)
            place = head.prefix + NO_EXTRA + self._body(features)
        except Exception as error:
            # As in a look-up: whatever reading a stranger's object raises.
            return Explanation(cacheable=False, reason=str(error) or type(error).__name__)
        now = self._now()
        found = self._memory.find(place, now)
        life = found[4] if found else None
        left = None if life is None else life.created + life.ttl - now
        reason = "never computed here, expelled, expired or dropped"
        if left is not None:
            reason = "kept" if left > 0 else "its time is over, but it may stand in"
        return Explanation(
            cacheable=True,
            reason=reason,
            key=self._name(place),
            canonical=canonical,
            function=name,
            version=version,
            tier="memory" if found else "",
            age=None if life is None else life.age(now),
            expires_in=None if left is None or left == math.inf else left,
        )

    def close(self) -> None:
        """Let go of the store's connections; the next use opens new ones."""
        if self._tier is not None:
            run(self._tier.close(), self.clock)

    def aclose(self) -> Awaitable[None]:
        """:meth:`close` for the connections of this event loop, awaited."""

        def steps() -> Steps:
            if self._tier is not None:
                yield from self._tier.close()
            return None, None

        return arun(steps(), self.clock)

    def _get_steps(
        self, features: Any, version: Any, default: Any, function: str | Callable[..., Any]
    ) -> Steps:
        value, key = self.lookup(
            features, version, function=function_id(function), answer=kept_by(function)
        )
        if value is MISS and key is not None:
            answers, _ = yield from self._fetch([key])
            found = answers[0]
            if found is None or not found.fresh:
                self._counts.misses += 1
            else:
                self._count_hit(found)
                value = found.value
        return (default if value is MISS else value), None

    def _set_steps(
        self, features: Any, version: Any, value: Any, function: str | Callable[..., Any]
    ) -> Steps:
        answer = kept_by(function)
        key = self._key(function_id(function), version, NO_EXTRA, self._named(features), answer)
        body = self._encoded(value, answer)
        if key is None or body is None:
            return False, None
        yield from self._refresh(key.epoch)
        yield from self._keep([(key, value, body)], 0.0)
        return True, None


def _custom(codec: Any) -> Codec:
    if not isinstance(codec, Codec):
        raise BadConfiguration(f"codec={codec!r} needs the methods encode and decode")
    return CustomCodec(codec)


def _key_of(secret: bytes | str | None) -> bytes:
    if secret is None:
        return b"prodml"
    key = secret.encode() if isinstance(secret, str) else secret
    if not key:
        raise BadConfiguration("secret is empty: leave it out, or give at least 16 bytes")
    # BLAKE2b takes keys of up to 64 bytes.
    return key if len(key) <= 64 else hashlib.blake2b(key).digest()
