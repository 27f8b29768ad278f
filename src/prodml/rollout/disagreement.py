"""Does the challenger answer too many requests differently?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from prodml.errors import BadConfiguration
from prodml.rollout.analysis import Sequential, Tally
from prodml.rollout.share import count_one, share_bets, share_told, within
from prodml.serving.difference import apart

__all__ = ["Disagreement"]


@final
@dataclass(slots=True, kw_only=True)
class Disagreement(Sequential):
    """Share of the requests on which challenger and stable answer differently.

    Parameters
    ----------
    below
        Share of different answers that is still acceptable, in (0, 1).
    atol, rtol
        Numbers differ if they are further apart than ``atol + rtol * abs(stable)``.
    differs
        Says of (challenger, stable) whether they differ, instead of the comparison by
        tolerance; what it raises counts as a difference.
    alpha
        Probability that a challenger that differs no more often is ever called worse.
    enough
        Answers in a step after which a challenger that was not shown to differ is fine.

    Raises
    ------
    BadConfiguration
        A setting out of its range.

    Notes
    -----
    Arrays, lists and mappings differ if any element does; NaN equals NaN.  A retrained model
    is meant to differ: this guard is for a rewrite, a new runtime, a smaller number format.

    Examples
    --------
    >>> guard = Disagreement(below=0.02, atol=1e-6, enough=100)
    >>> for request in range(100):
    ...     guard.observe(0.5 + request % 10 / 10, 0.5)
    >>> guard.judge().verdict.value
    'worse'
    """

    name: str = "disagreement"
    below: float = 0.02
    atol: float = 1e-6
    rtol: float = 1e-6
    differs: Callable[[Any, Any], bool] | None = None

    def __post_init__(self) -> None:
        Sequential.__post_init__(self)
        within("below", self.below)
        for setting in ("atol", "rtol"):
            if not getattr(self, setting) >= 0.0:
                raise BadConfiguration(f"{setting} must not be negative")

    def observe(self, challenger: Any, stable: Any) -> None:
        """Take in the answers of both versions to one request."""
        self.count_in(differ=self.differ(challenger, stable))

    def count_in(self, *, differ: bool) -> None:
        """Take in whether the answers to one request differed."""
        count_one(self.tally, bad=differ)

    def differ(self, challenger: Any, stable: Any) -> bool:
        """Whether two answers differ beyond the tolerance."""
        try:
            if self.differs is not None:
                return bool(self.differs(challenger, stable))
            return not apart(stable, challenger, rtol=self.rtol, atol=self.atol)[0]
        except Exception:
            # Answers that cannot even be compared are not the same.
            return True

    def _bets(self, tally: Tally) -> Sequence[tuple[float, float]]:
        return share_bets(tally, self.below)

    def _told(self, step: Tally) -> tuple[str, Tally]:
        return share_told(step, "differ", self.below)
