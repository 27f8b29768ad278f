"""Is the canary's service below what was promised, whatever the stable arm does?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from prodml.errors import BadConfiguration
from prodml.rollout.analysis import Sequential, Tally
from prodml.rollout.share import count_one, share_bets, share_told, within

__all__ = ["Floor"]


@final
@dataclass(slots=True, kw_only=True)
class Floor(Sequential):
    """Share of the canary's requests that fail, or are slow, against a fixed limit.

    It looks at the canary alone.  So it also rolls back in an incident that has nothing to do
    with the canary, and that is its point: below the promised service nobody experiments.

    Parameters
    ----------
    limit
        Share of bad answers that is still acceptable, in (0, 1).
    seconds
        An answer that took longer is bad too; None looks at failures only.
    alpha
        Probability that a canary that keeps within the limit is ever called worse.
    enough
        Canary requests in a step after which a canary that was not shown to break the limit
        is fine.

    Raises
    ------
    BadConfiguration
        A setting out of its range.

    Examples
    --------
    >>> guard = Floor(limit=0.01)
    >>> for request in range(100):
    ...     guard.observe(canary=True, ok=request % 10 != 0)
    >>> guard.judge().verdict.value
    'worse'
    """

    name: str = "floor"
    limit: float
    seconds: float | None = None
    enough: int = 100

    def __post_init__(self) -> None:
        Sequential.__post_init__(self)
        within("limit", self.limit)
        if self.seconds is not None and not 0.0 < self.seconds < math.inf:
            raise BadConfiguration(f"seconds must be positive, not {self.seconds}")

    def observe(self, *, canary: bool, ok: bool, seconds: float | None = None) -> None:
        """Take in how one request of an arm ended, and how long it took if that is known."""
        self.tally["heard"] = 1
        if not canary:
            return
        slow = self.seconds is not None and seconds is not None and seconds > self.seconds
        count_one(self.tally, bad=slow or not ok)

    def _bets(self, tally: Tally) -> Sequence[tuple[float, float]]:
        return share_bets(tally, self.limit)

    def _told(self, step: Tally) -> tuple[str, Tally]:
        return share_told(step, "were bad", self.limit)
