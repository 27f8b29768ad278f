"""What the suite is pointed at: prodml, or a breaker of somebody else behind an adapter."""

import importlib
import time
from abc import ABC, abstractmethod
from typing import ClassVar

from prodml.errors import CircuitOpen
from prodml.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Stream
from prodml.resilience import CircuitBreaker, Retry
from prodml.testing import ManualClock

PEERS = ("nopanic", "interlock", "grit", "pybreaker", "circuitbreaker", "purgatory")


class Business(Exception):
    """An answer of the dependency, though not a pleasant one: the exception to ignore."""


class Lacking(Exception):
    """The subject has no such ability, so a check of it is not applicable."""


class Subject(ABC):
    """A breaker that opens after ``failures`` in a row, or by the nearest equal of that.

    It stays open for ``reset`` seconds and then lets ``trials`` calls at once try; after
    ``successes`` of them it closes.  An adapter raises :class:`Lacking` for a setting that
    its breaker does not have; it must not imitate the missing ability.
    """

    name: ClassVar[str]
    distribution: ClassVar[str]
    # Forms that the breaker takes without complaint, whether it protects them or not.
    offers: ClassVar[frozenset[str]]
    # Forms in which only one call at a time can be inside, so that none can be overtaken.
    serialised: ClassVar[frozenset[str]] = frozenset()
    # A lazy breaker says "open" until a call finds that the time is over.
    lazy: ClassVar[bool] = True
    rejection: ClassVar[type[BaseException]]
    # What the caller of a failing call may see; only check 17 asks for its own error.
    trips_with: ClassVar[tuple[type[BaseException], ...]] = (ConnectionError,)
    reset: ClassVar[float] = 0.3
    # Seconds after which a call that has not come back counts as blocked.
    patience: ClassVar[float] = 2.0
    rounds: ClassVar[int] = 10

    slept: list[float]

    @abstractmethod
    def __init__(
        self, *, failures=3, successes=1, trials=1, ignore=(), span=None, listener=None
    ): ...

    @abstractmethod
    def protect(self, fn): ...

    def block(self):
        raise NotImplementedError

    def ablock(self):
        raise NotImplementedError

    def call(self, fn):
        raise NotImplementedError

    def acall(self, fn):
        raise NotImplementedError

    @abstractmethod
    def state(self): ...

    def says(self, state):
        """Whether it is in ``state``, as far as one can tell from outside."""
        own = self.state()
        return own == state or (self.lazy and (own, state) == ("open", "half_open"))

    def pass_time(self, seconds):
        # A little more, because the breaker's clock may tick less finely than this one.
        time.sleep(seconds * 1.05)

    def step_wall(self, seconds, monkeypatch):
        """Set the wall clock, as an operator or NTP does."""
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    def retrying(self, fn):
        """Call ``fn`` under the breaker's own retry policy, noting its pauses in ``slept``."""
        raise Lacking(f"{self.name} has no retry of its own")


def lack(subject, **settings):
    """Refuse the settings that differ from what every breaker has."""
    usual = {"successes": 1, "trials": 1, "ignore": (), "span": None, "listener": None}
    for ability, value in settings.items():
        if value != usual[ability]:
            raise Lacking(f"{subject.name} has no setting for {ability}={value}")


class Prodml(Subject):
    name = distribution = "prodml"
    offers = frozenset(
        ["def", "async def", "generator", "async generator", "with", "async with", "call", "acall"]
    )
    lazy = False
    rejection = CircuitOpen
    reset = 10.0
    patience = 10.0
    rounds = 50

    def __init__(
        self,
        *,
        failures=3,
        successes=1,
        trials=1,
        ignore=(),
        span=None,
        listener=None,
        **settings,
    ):
        self.clock, self.events = ManualClock(), Stream()
        if listener is not None:
            for fact in (CircuitOpened, CircuitHalfOpened, CircuitClosed):
                self.events.subscribe(fact, lambda _: listener())
        if span is not None:
            settings |= {"failure_rate": 0.5, "window_seconds": span, "min_calls": failures}
        self.breaker = CircuitBreaker(
            "dependency",
            failure_threshold=failures if span is None else None,
            success_threshold=successes,
            trial_limit=trials,
            reset_timeout=self.reset,
            ignore=ignore,
            clock=self.clock,
            events=self.events,
            **settings,
        )
        self.slept = self.clock.slept

    def protect(self, fn):
        return self.breaker(fn)

    def block(self):
        return self.breaker

    ablock = block

    def call(self, fn):
        return self.breaker.call(fn)

    def acall(self, fn):
        return self.breaker.acall(fn)

    def state(self):
        return self.breaker.state.value

    def pass_time(self, seconds):
        self.clock.advance(seconds)

    def step_wall(self, seconds, monkeypatch):
        self.clock.step_wall(seconds)

    def retrying(self, fn):
        return Retry(attempts=5, on=(Exception,), wait=10.0, clock=self.clock).call(fn)


def subject_class(name):
    if name == "prodml":
        return Prodml
    # Imported late: the ordinary run needs no peer, and one peer needs no other.
    module = importlib.import_module("tests.resilience.conformance.peers")
    return module.ADAPTERS[name]
