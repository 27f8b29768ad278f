"""The cache: predictions by features and model version, in memory and in a shared store."""

import hashlib
import math
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, cast, final
from weakref import WeakKeyDictionary, WeakSet

from prodml._call import Guard, Steps, arun, run
from prodml.cache.arguments import Arguments
from prodml.cache.backoff import Backoff
from prodml.cache.codecs import Codec, CustomCodec, ValueCodec, class_name
from prodml.cache.failures import Failures
from prodml.cache.freshness import Freshness
from prodml.cache.keys import Namer
from prodml.cache.memory import Memory, size_of
from prodml.cache.operations import NO_ARGUMENTS, Entries, Function, OperationSteps
from prodml.cache.rounding import Rounding, RoundingAudit
from prodml.cache.sealing import Sealer
from prodml.cache.single_flight import SingleFlight
from prodml.cache.stats import CacheStats, Counts, Explanation
from prodml.cache.tier import StoreTier
from prodml.cache.trace import Bypass, Trace, Watch
from prodml.cache.worth import Warmed
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, Stream
from prodml.types import MISS

if TYPE_CHECKING:
    from prodml.cache.disk import DiskTier

__all__ = ["PredictionCache"]


_CACHES: Final["WeakSet[PredictionCache]"] = WeakSet()


@final
@dataclass(slots=True, eq=False, weakref_slot=True)
class PredictionCache(OperationSteps):
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

    redis: Any = field(default=None, repr=False, metadata={"fixed": "its store is in use"})
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
    codec: Codec | None = field(
        default=None, repr=False, metadata={"fixed": "entries of another codec cannot be read"}
    )
    disk: "DiskTier | str | os.PathLike[str] | None" = field(
        default=None, repr=False, metadata={"fixed": "its file is open"}
    )
    breaker: Guard[Any] | None = field(
        default=None, metadata={"fixed": "it stands before the store already"}
    )
    rng: random.Random = field(default_factory=random.Random, repr=False)
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    name: str = "prediction-cache"
    _audits: dict[str, RoundingAudit] = field(
        default_factory=dict[str, RoundingAudit], init=False, repr=False
    )
    _codec: Codec = field(init=False, repr=False)
    _counts: Counts = field(default_factory=Counts, init=False, repr=False)
    _epochs: dict[bytes, Any] = field(default_factory=dict[bytes, Any], init=False, repr=False)
    _failures: Failures = field(default_factory=Failures, init=False, repr=False)
    _flights: SingleFlight = field(init=False, repr=False)
    _fresh: Freshness = field(init=False, repr=False)
    _functions: WeakKeyDictionary[Callable[..., Any], tuple[Arguments, Rounding | None]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )
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
    _blocks: Watch = field(default_factory=Watch, init=False, repr=False)

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
        _CACHES.add(self)

    def _hidden(self) -> dict[str, Any]:
        return {"secret": self._secret}

    def _retuned(self) -> None:
        self._memory.resize(size_of(self.memory, "memory"), self._now())
        self._flights.timeout = self.flight_timeout
        self._fresh = Freshness(self.early, self.stale, self.stale_if_error)

    def _after_fork(self) -> None:
        """Go on in a child process, where nobody lands the flights of the parent's threads."""
        self._lock = Lock()
        self._flights, self._failures = SingleFlight(self.flight_timeout), Failures()
        self._renewals.clear()
        self._blocks.after_fork()
        if not self._memory.after_fork():
            self._memory = Memory(self._memory.capacity)

    def _over_disk(self, disk: "DiskTier | str | os.PathLike[str]") -> StoreTier:
        from prodml.cache.disk import DiskTier
        from prodml.cache.disk_layer import DiskLayer, ends_of

        self.disk = disk if isinstance(disk, DiskTier) else DiskTier(disk, clock=self.clock)
        return DiskLayer(self.disk, self._tier, ends=ends_of(self._sealer))

    def get(
        self,
        features: Any,
        version: Any,
        default: Any = MISS,
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> Any:
        """Prediction kept for ``features`` and ``version``, or ``default``.

        None and every falsy value are predictions like others: compare with
        :data:`~prodml.types.MISS`.  Entries of a decorated function are found by passing it
        as ``function``, and those of calls with other arguments than its usual ones by passing
        these, by name, as ``arguments``.
        """
        entries = self.entries_of(function, arguments, version)
        return run(self._get_steps(features, version, default, entries), self.clock)

    def aget(
        self,
        features: Any,
        version: Any,
        default: Any = MISS,
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> Awaitable[Any]:
        """:meth:`get`, awaited."""
        entries = self.entries_of(function, arguments, version)
        return arun(self._get_steps(features, version, default, entries), self.clock)

    def set(
        self,
        features: Any,
        version: Any,
        value: Any,
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> bool:
        """Keep ``value``; return whether it can be kept at all."""
        entries = self.entries_of(function, arguments, version)
        return bool(run(self._set_steps(features, version, value, entries), self.clock))

    def aset(
        self,
        features: Any,
        version: Any,
        value: Any,
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> Awaitable[bool]:
        """:meth:`set`, awaited."""
        entries = self.entries_of(function, arguments, version)
        return arun(self._set_steps(features, version, value, entries), self.clock)

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
            rounding={function: audit.error for function, audit in list(self._audits.items())},
            evictions=memory.evictions,
            entries=len(memory),
            bytes=memory.used,
            capacity=memory.capacity,
        )

    def explain(
        self,
        features: Any,
        version: Any,
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> Explanation:
        """Key and canonical form of a row, and why it is, or is not, answered from the cache.

        Looks into the memory and, if that has nothing, into the store; counts no hit or miss.
        ``function`` and ``arguments`` are those of :meth:`get`.
        """
        steps = self._explain_steps(features, version, function, arguments)
        return cast("Explanation", run(steps, self.clock))

    def aexplain(
        self,
        features: Any,
        version: Any,
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> Awaitable[Explanation]:
        """:meth:`explain`, awaited."""
        return arun(self._explain_steps(features, version, function, arguments), self.clock)

    def warm(
        self,
        rows: Iterable[Any],
        version: Any,
        compute: Callable[[Any], Any],
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        batch: int | None = None,
    ) -> Warmed:
        """Compute and keep what is not there yet, before traffic asks for it.

        For a version that is about to get its first requests: a canary, a promoted model.

        Parameters
        ----------
        rows
            Features, those asked for most often first.
        version, function, arguments
            Whose entries they become, as in :meth:`get`.
        compute
            The version's model: a function of one row, or with ``batch`` of a list of rows.
        batch
            Rows that are computed in one call; None for one by one.

        Returns
        -------
        Warmed
            What was done; rows that fail are counted and do not stop the others.

        Examples
        --------
        >>> from prodml.cache import cached_prediction
        >>> cache = PredictionCache()
        >>> @cached_prediction(cache)
        ... def score(features, model_version):
        ...     raise AssertionError("it is all there")
        >>> rows = [{"age": 41}, {"age": 7}]
        >>> cache.warm(rows, "v2", lambda row: row["age"] / 100, function=score).computed
        2
        >>> score({"age": 7}, "v2")
        0.07
        """
        entries = self.entries_of(function, arguments, version)
        return cast(
            "Warmed", run(self._warm_steps(rows, version, compute, entries, batch), self.clock)
        )

    def awarm(
        self,
        rows: Iterable[Any],
        version: Any,
        compute: Callable[[Any], Any],
        *,
        function: Function = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        batch: int | None = None,
    ) -> Awaitable[Warmed]:
        """:meth:`warm`, awaited; ``compute`` may be asynchronous."""
        entries = self.entries_of(function, arguments, version)
        return arun(self._warm_steps(rows, version, compute, entries, batch), self.clock)

    def trace(self, size: int = 1000) -> Trace:
        """Block that hears where the answers given in its context come from.

        Parameters
        ----------
        size
            Answers that are kept; the oldest make room.
        """
        return Trace(self._blocks, size)

    def bypass(self, *, keep: bool = False) -> Bypass:
        """Block in whose context decorated functions and services compute, whatever is kept.

        For a replay, a shadow or a comparison of models, in which no old answer may pass for a
        new one.  With ``keep`` what is computed replaces what is kept: a refresh.  :meth:`get`
        and :meth:`set` do what they always do.

        Examples
        --------
        >>> cache = PredictionCache()
        >>> _ = cache.set({"age": 41}, "v1", 0.5, function="score")
        >>> with cache.bypass():
        ...     cache.recall({"age": 41}, "v1", function="score")
        (None, None)
        """
        return Bypass(self._blocks, keep=keep)

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

    def _get_steps(self, features: Any, version: Any, default: Any, entries: Entries) -> Steps:
        value, key = self.lookup(
            entries.shown(features),
            version,
            function=entries.name,
            extra=entries.extra,
            answer=entries.answer,
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

    def _set_steps(self, features: Any, version: Any, value: Any, entries: Entries) -> Steps:
        name, body = self._named(entries.shown(features)), self._encoded(value, entries.answer)
        key = self._key(entries.name, version, entries.extra, name, entries.answer)
        if key is None or body is None:
            return False, None
        yield from self._refresh(key.epoch)
        yield from self._keep([(self._preimage(key), value, body)], 0.0)
        return True, None


def _after_fork() -> None:
    for cache in list(_CACHES):
        cache._after_fork()  # noqa: SLF001 - its own


os.register_at_fork(after_in_child=_after_fork)


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
