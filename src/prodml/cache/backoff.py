"""The cache's own small guard: leave a dead store alone for a while."""

from dataclasses import dataclass, field
from threading import Lock
from typing import Any, final

from prodml._call import Guard, abandoned
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, CircuitOpen, Rejected, WriteRefused

__all__ = ["Backoff"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Backoff(Guard[None]):
    """After ``failure_threshold`` failures in a row, skip ``pause`` seconds, then try once.

    What a cache uses when it is given no breaker: a dead store then costs one timeout per
    pause, since of all callers one tries when it is over.  One failure is enough: what a
    cache loses by a pause is a second of hits, what it loses by waiting is its callers'
    time.  A circuit breaker knows more (rates, facts, several trials): pass one to have it.

    Raises
    ------
    CircuitOpen
        While the pause lasts.

    Examples
    --------
    >>> backoff = Backoff(pause=5.0)
    >>> try:
    ...     with backoff:
    ...         raise ConnectionError
    ... except ConnectionError:
    ...     pass
    >>> backoff.call(len, "never called")
    Traceback (most recent call last):
        ...
    prodml.errors.CircuitOpen: circuit 'cache-store' is open; next trial call in ... s
    """

    failure_threshold: int = 1
    pause: float = 1.0
    name: str = "cache-store"
    clock: Clock = SYSTEM_CLOCK
    _failures: int = field(default=0, init=False, repr=False)
    _until: float = field(default=0.0, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.failure_threshold < 1:
            raise BadConfiguration(f"failure_threshold={self.failure_threshold!r} must be >= 1")
        if not self.pause > 0:
            raise BadConfiguration(f"pause={self.pause!r} must be more than 0 seconds")

    @property
    def down(self) -> bool:
        """Whether a pause lasts; a caller may look here before it prepares its call."""
        return self._failures >= self.failure_threshold and self.clock.monotonic() < self._until

    def enter(self) -> None:
        """Admit the call, or raise ``CircuitOpen`` during a pause."""
        if self._failures < self.failure_threshold:
            return
        now = self.clock.monotonic()
        with self._lock:
            left = self._until - now
            if left <= 0:
                # This caller tries; the next try, should nothing be heard of it, is a pause away.
                self._until = now + self.pause
        if left > 0:
            raise CircuitOpen(self.name, left)

    def leave(self, token: None, result: Any) -> None:  # noqa: ARG002
        """Note that the store is well."""
        self._failures = 0

    def fail(self, token: None, error: BaseException) -> None:  # noqa: ARG002
        """Count a failure; rejections and abandoned calls say nothing about the store."""
        if abandoned(error) or isinstance(error, Rejected):
            return
        if isinstance(error, WriteRefused):
            # It has answered: what it has can be read.
            self._failures = 0
            return
        self._failures += 1
        self._until = self.clock.monotonic() + self.pause
