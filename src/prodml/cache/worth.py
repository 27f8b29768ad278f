"""Does caching pay?  What it has saved, what it has cost, what more memory would bring."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Warmed", "Worth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """An estimate of what a cache is worth, since it was made.

    Parameters
    ----------
    hits, hit_ratio
        As in :class:`CacheStats`.
    saved_seconds
        Model time that was not spent: hits times the mean time of the computations made.
        Cheap rows that are asked for more often than dear ones make it too high.
    spent_seconds
        Time spent on looking up and keeping, in stores too, from a sample of the calls.
    larger
        Hit ratio that memory would have with so many times its size, from a sample of what
        was expelled and asked for again; empty without a memory tier.

    Examples
    --------
    >>> worth = Worth(hits=90, hit_ratio=0.9, saved_seconds=9.0, spent_seconds=0.5)
    >>> worth.pays, print(worth)
    saved 9 s of model time for 0.5 s of looking up: 90 % of the rows were hits
    (True, None)
    """

    hits: int
    hit_ratio: float
    saved_seconds: float
    spent_seconds: float
    larger: Mapping[float, float] = field(default_factory=dict[float, float])

    @property
    def pays(self) -> bool:
        """Whether more time was saved than spent."""
        return self.saved_seconds > self.spent_seconds

    def __str__(self) -> str:
        more = "".join(
            f"; {_percent(ratio)} with {factor:g} x the memory"
            for factor, ratio in self.larger.items()
        )
        return (
            f"saved {self.saved_seconds:.3g} s of model time for {self.spent_seconds:.3g} s of "
            f"looking up: {_percent(self.hit_ratio)} of the rows were hits{more}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "hits": self.hits,
            "hit_ratio": self.hit_ratio,
            "saved_seconds": self.saved_seconds,
            "spent_seconds": self.spent_seconds,
            "pays": self.pays,
            "larger": {f"{factor:g}": ratio for factor, ratio in self.larger.items()},
        }


def _percent(ratio: float) -> str:
    return f"{100.0 * ratio:.0f} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """What :meth:`PredictionCache.warm` has done, in rows.

    Parameters
    ----------
    computed, present
        Those that were computed and kept, and those that were there.
    failed, error
        Those whose computation failed, and how the first of them did.
    uncacheable
        Those that cannot be named or kept.

    Examples
    --------
    >>> Warmed(computed=3, present=1).rows
    4
    """

    computed: int = 0
    present: int = 0
    failed: int = 0
    uncacheable: int = 0
    error: Exception | None = None

    @property
    def rows(self) -> int:
        """All of them."""
        return self.computed + self.present + self.failed + self.uncacheable
