"""Periods of a breaker, and the tokens of the calls that they admit."""

from collections.abc import Callable
from typing import ClassVar, TypeAlias

from prodml._window import Window
from prodml.resilience.circuit_state import CircuitState

__all__ = ["UNWATCHED", "CircuitToken", "Era", "Pass", "Timed", "Trial"]


class Era:
    """One period of one state; while closed also the token of its calls.

    ``admits``, ``start``, ``quiet`` and ``note`` are what the shells read (see
    :class:`prodml._call.calm.Era`).
    """

    __slots__: tuple[str, ...] = (
        "admits",
        "failures",
        "healthy",
        "note",
        "number",
        "quiet",
        "reason",
        "rejects",
        "reports",
        "start",
        "state",
        "successes",
        "trials",
        "tried",
        "unbroken",
        "until",
        "window",
    )

    def __init__(self, state: CircuitState, number: int, reason: str) -> None:
        self.state: CircuitState = state
        self.number: int = number
        self.reason: str = reason
        self.admits: bool = False
        self.quiet: bool = False
        self.start: Callable[[], float] | None = None
        self.note: Callable[[float], object] | None = None
        self.healthy: Callable[[float], object] | None = None
        self.rejects: bool = False
        # Failures in a row, as calls ended and as late verdicts say.
        self.failures: int = 0
        self.unbroken: int = 0
        self.window: Window | None = None
        self.reports: Window | None = None
        self.until: float = 0.0
        self.successes: int = 0
        self.tried: int = 0
        self.trials: set[Trial] = set()

    def seen_at(self, now: float) -> CircuitState:
        """State that a call at ``now`` meets: OPEN ends by itself, unnoticed."""
        over = self.state is CircuitState.OPEN and now >= self.until
        return CircuitState.HALF_OPEN if over else self.state

    def in_flight(self, now: float) -> set["Trial"]:
        """Return the trials whose lease runs; forget the others."""
        for trial in list(self.trials):
            if trial.ends <= now:
                self.trials.discard(trial)
        return self.trials

    @property
    def era(self) -> "Era":
        """Itself: every token knows its era."""
        return self


class Timed:
    """A call admitted while closed, whose duration matters."""

    __slots__: tuple[str, ...] = ("at", "era")

    def __init__(self, era: Era, at: float) -> None:
        self.era: Era = era
        self.at: float = at


class Trial(Timed):
    """A call admitted while half open; its slot is free again at ``ends``."""

    __slots__: tuple[str, ...] = ("ends",)

    def __init__(self, era: Era, at: float, ends: float) -> None:
        super().__init__(era, at)
        self.ends: float = ends


class Pass:
    """A call that the breaker lets through without judging by it."""

    __slots__: tuple[str, ...] = ()

    era: ClassVar[None] = None


CircuitToken: TypeAlias = Era | Timed | Pass
"""What ``enter`` gives and ``leave``, ``fail`` and ``report`` take."""

UNWATCHED: Pass = Pass()
"""Of a call through a breaker that is disabled."""
