"""A limit on how much load retries may add."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from prodml._window import Ticks
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.resilience._bounds import share

__all__ = ["RetryBudget"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class RetryBudget:
    """Retries may add ``ratio`` to the calls, and ``floor`` a second on top.

    When a dependency is down every call fails, and retries would multiply the load just
    when it hurts most.  Share one budget among all retries of one dependency: each call
    pays in ``ratio``, each retry takes out 1, and one that finds less is not made.

    Parameters
    ----------
    ratio
        Retries earned by one call, in (0, 1].
    floor
        Retries earned by one second, for clients with few calls; also the balance to
        begin with.
    burst
        Retries that can be saved up, at least 1.
    clock
        Collaborator.

    Raises
    ------
    BadConfiguration
        A setting is out of range.

    Notes
    -----
    A token bucket, as in Finagle's ``RetryBudget``; the ratio of 0.1 is the advice of the
    SRE book [1]_.

    Examples
    --------
    >>> budget = RetryBudget(ratio=0.5, floor=0.0)
    >>> for _ in range(3):
    ...     _ = budget.deposit()
    >>> budget.withdraw(), budget.withdraw(), budget.refused
    (True, False, 1)

    References
    ----------
    .. [1] Beyer et al. (2016), *Site Reliability Engineering*, chapter 21.
    """

    ratio: float = 0.1
    floor: float = 1.0
    burst: float = 10.0
    clock: Clock = SYSTEM_CLOCK
    deposit: Callable[[], object] = field(init=False, repr=False)
    """Pay in for one call, before it is made.  Takes no lock, so it is the cheapest counter."""
    _calls: Ticks = field(default_factory=Ticks, init=False, repr=False)
    _settled: int = field(default=0, init=False, repr=False)
    _balance: float = field(init=False, repr=False)
    _at: float = field(init=False, repr=False)
    _refused: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        share(self, "ratio")
        if not (0 <= self.floor < float("inf")):
            raise BadConfiguration(f"floor must be retries a second >= 0, not {self.floor!r}")
        if not (1 <= self.burst < float("inf")):
            raise BadConfiguration(f"burst must be at least 1 retry, not {self.burst!r}")
        self.deposit = self._calls.up
        self._balance = min(self.floor, self.burst)
        self._at = self.clock.monotonic()

    @property
    def refused(self) -> int:
        """Retries that were not made for want of balance."""
        return self._refused

    @property
    def balance(self) -> float:
        """Retries that could be made now."""
        with self._lock:
            self._settle()
            return self._balance

    def withdraw(self) -> bool:
        """Take out one retry; False if the balance does not cover it."""
        with self._lock:
            self._settle()
            # Ten times 0.1 is a little less than 1.
            granted = self._balance >= 1.0 - 1e-9
            self._balance = max(0.0, self._balance - granted)
            self._refused += not granted
            return granted

    def _settle(self) -> None:
        """Book what calls and seconds have earned since the last time."""
        now, calls = self.clock.monotonic(), self._calls.value()
        earned = self.ratio * (calls - self._settled) + self.floor * max(0.0, now - self._at)
        self._balance = min(self.burst, self._balance + earned)
        self._settled, self._at = calls, max(now, self._at)
