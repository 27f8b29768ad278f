"""What a cache has done so far, and why it would or would not answer a row."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prodml.cache.rounding import MeasuredError

__all__ = ["CacheStats", "Counts", "Explanation"]


@dataclass(slots=True)
class Counts:
    """Running numbers; bare additions, so a free-threaded build may lose a few."""

    memory_hits: int = 0
    store_hits: int = 0
    coalesced: int = 0
    misses: int = 0
    uncacheable: int = 0
    bypassed: int = 0
    unstorable: int = 0
    corrupt: int = 0
    store_errors: int = 0
    store_skipped: int = 0
    early: int = 0
    stale: int = 0
    stale_if_error: int = 0
    negative_hits: int = 0
    renewals: int = 0
    renewal_errors: int = 0
    renewals_skipped: int = 0
    drops: int = 0
    computed: int = 0
    compute_seconds: float = 0.0
    looks: int = 0
    look_seconds: float = 0.0
    store_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Numbers since the cache was made.

    Parameters
    ----------
    memory_hits, store_hits
        Rows answered by each tier.
    coalesced
        Rows answered by a computation that another caller had under way.
    misses
        Rows that had to be computed (or, for ``get``, were not there).
    uncacheable
        Calls that went through because something in them cannot be named.
    bypassed
        Calls that computed because a ``bypass()`` said so.
    unstorable
        Answers that were not kept: of a type that cannot be encoded, or too large.
    corrupt
        Stored entries that were refused and counted as misses.
    store_errors, store_skipped
        Failed calls of the store, and calls spared while it was down.
    early
        Renewals begun before the end of an entry.
    stale
        Rows answered by an entry whose time was over (they count as hits of a tier, too).
    stale_if_error
        Computations that failed and were replaced by an entry whose time was over.
    negative_hits
        Failures repeated from memory instead of computing again.
    renewals, renewal_errors, renewals_skipped
        Computations behind the callers' backs: those made, those of them that failed, and
        those not begun because too many were under way.
    drops
        Versions that were dropped by this cache.
    computed, compute_seconds
        Rows whose answers were computed and kept, and the time that took.
    looks, look_seconds
        A sample of the look-ups of single rows, and the time they took.
    store_seconds
        Time spent waiting for the store by callers of single rows.
    evictions, entries, bytes, capacity
        The memory tier.
    rounding
        How far shared answers are off, by function whose keys are rounded.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> cache = PredictionCache()
    >>> cache.set({"age": 41}, "v1", 0.5)
    True
    >>> cache.get({"age": 41}, "v1"), cache.stats().hit_ratio
    (0.5, 1.0)
    """

    memory_hits: int
    store_hits: int
    coalesced: int
    misses: int
    uncacheable: int
    bypassed: int
    unstorable: int
    corrupt: int
    store_errors: int
    store_skipped: int
    early: int
    stale: int
    stale_if_error: int
    negative_hits: int
    renewals: int
    renewal_errors: int
    renewals_skipped: int
    drops: int
    computed: int
    compute_seconds: float
    looks: int
    look_seconds: float
    store_seconds: float
    evictions: int
    entries: int
    bytes: int
    capacity: int
    rounding: Mapping[str, MeasuredError] = field(default_factory=dict[str, MeasuredError])

    @property
    def hits(self) -> int:
        """Rows that no computation of their own was needed for."""
        return self.memory_hits + self.store_hits + self.coalesced

    @property
    def hit_ratio(self) -> float:
        """Hits among the rows that could have been hits, in [0, 1]; 0 before the first."""
        return self.hits / max(1, self.hits + self.misses)

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        numbers = {each.name: getattr(self, each.name) for each in fields(self)}
        numbers["rounding"] = {name: asdict(error) for name, error in self.rounding.items()}
        return numbers | {"hits": self.hits, "hit_ratio": self.hit_ratio}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a row is, or is not, answered from the cache.

    Parameters
    ----------
    cacheable
        Whether features and version can be named.
    reason
        One sentence.
    key
        The entry's name in a shared store; empty when it has none.
    canonical
        Canonical bytes of the features.
    function, version
        What else is in the key.
    tier
        ``"memory"``, ``"store"`` (the shared one or the disk), or empty.
    age, expires_in
        Seconds since the answer was computed, and seconds left; None when it is not there or
        never ends.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> print(PredictionCache().explain({"age": open}, "v1"))
    not cacheable: cannot name a builtins.builtin_function_or_method
    """

    cacheable: bool
    reason: str
    key: str = ""
    canonical: bytes = b""
    function: str = ""
    version: Any = None
    tier: str = ""
    age: float | None = None
    expires_in: float | None = None

    def __str__(self) -> str:
        if not self.cacheable:
            return f"not cacheable: {self.reason}"
        where = f"in {self.tier}" if self.tier else "not kept"
        return f"{where}: {self.reason}; key {self.key}, features {self.canonical.hex()}"
