"""Adapters of other people's breakers; each imports its library when it is built.

Where a breaker has no count of failures in a row it gets a window of that many calls and a
rate of 1.0, which is the same until an old success falls out.
"""

import contextlib
import datetime
import importlib
import inspect
import time
from unittest import mock

from tests.resilience.conformance.forms import drive
from tests.resilience.conformance.subjects import Lacking, Subject, lack

from prodml.testing import ManualClock


class LateType:
    """An exception class of a library that is imported on first use."""

    def __init__(self, module, name, *others):
        self.module, self.name, self.others = module, name, others

    def __get__(self, instance, owner):
        found = getattr(importlib.import_module(self.module), self.name)
        return (*self.others, found) if self.others else found


def coupled(subject, trials, successes):
    """Refuse a cap that is not the number of successes asked for: they are one setting."""
    if trials != successes and trials != 1:
        raise Lacking(f"{subject.name} caps trials by the successes that it needs")
    return max(trials, successes)


class Nopanic(Subject):
    name = distribution = "nopanic"
    offers = frozenset(
        ["def", "async def", "generator", "async generator", "with", "async with", "call", "acall"]
    )
    lazy = False
    rejection = LateType("nopanic", "CircuitOpen")
    reset = 10.0

    def __init__(self, *, failures=3, successes=1, trials=1, ignore=(), span=None, listener=None):
        import nopanic

        self.clock, self.slept = ManualClock(), []
        self.breaker = nopanic.CircuitBreaker(
            failure_threshold=1.0 if span is None else 0.5,
            min_calls=failures,
            window=span or 100 * self.reset,
            reset_timeout=self.reset,
            half_open_max_calls=coupled(self, trials, successes),
            on=lambda error: not isinstance(error, ignore),
            on_state_change=listener and (lambda *_: listener()),
            clock=self.clock.monotonic,
        )

    def protect(self, fn):
        return self.breaker(fn)

    def block(self):
        return self.breaker.guard()

    ablock = block

    def call(self, fn):
        return self.breaker.call(fn)

    def acall(self, fn):
        return self.breaker.acall(fn)

    def state(self):
        return self.breaker.state

    def pass_time(self, seconds):
        self.clock.advance(seconds)

    def retrying(self, fn):
        import nopanic
        from nopanic.testing import instant

        with instant() as self.slept:
            return nopanic.retry(attempts=3).call(fn)


class Interlock(Subject):
    name, distribution = "interlock", "interlock-cb"
    offers = frozenset(
        ["def", "async def", "generator", "async generator", "with", "async with", "call", "acall"]
    )
    rejection = LateType("interlock", "CircuitOpenError")
    reset = 10.0

    def __init__(self, *, failures=3, successes=1, trials=1, ignore=(), span=None, listener=None):
        import interlock

        permitted = coupled(self, trials, successes)
        by_time = {"window_type": interlock.WindowType.TIME_BASED, "failure_rate_threshold": 0.5}
        self.clock, self.slept = ManualClock(), []
        self.breaker = interlock.CircuitBreaker(
            name="dependency",
            clock=self.clock,
            # Its other list, ``unreachable_exceptions``, opens the breaker again.
            classifier=_Classifier(ignore),
            listener=listener and _InterlockListener(listener),
            config=interlock.Config(
                minimum_number_of_calls=failures,
                window_size=failures if span is None else int(span),
                permitted_calls_in_half_open=permitted,
                max_concurrent_probes=permitted,
                wait_duration_in_open=self.reset,
                **({"failure_rate_threshold": 1.0} if span is None else by_time),
            ),
        )

    def protect(self, fn):
        return self.breaker(fn)

    def block(self):
        return self.breaker

    ablock = block

    def call(self, fn):
        return self.breaker.call(fn)

    def acall(self, fn):
        return self.breaker.call_async(fn)

    def state(self):
        return self.breaker.state.value

    def pass_time(self, seconds):
        self.clock.advance(seconds)

    def retrying(self, fn):
        from interlock import Pipeline
        from interlock.integrations.tenacity import RetryStrategy

        return Pipeline(RetryStrategy(attempts=3, sleep=self.slept.append)).call(fn)


class _Classifier:
    def __init__(self, ignore):
        self.ignore = ignore

    def is_failure(self, *, result, exception):
        return exception is not None and not isinstance(exception, self.ignore)


class _InterlockListener:
    def __init__(self, listener):
        self.listener = listener

    def on_state_change(self, **_):
        self.listener()


class Grit(Subject):
    name, distribution = "grit", "grit-toolkit"
    offers = frozenset(["def", "async def", "generator", "async generator", "with"])
    rejection = LateType("grit.exceptions", "BreakerOpen")

    def __init__(self, *, failures=3, successes=1, trials=1, ignore=(), span=None, listener=None):
        import grit

        lack(self, span=span)
        self.slept = []
        self.breaker = grit.breaker(
            fails=failures,
            reset_after=self.reset,
            # It has no list to ignore, only one of what counts.
            on=ConnectionError if ignore else Exception,
            success_threshold=coupled(self, trials, successes),
        )
        if listener is not None:
            self.breaker.on_change(lambda *_: listener())

    def protect(self, fn):
        return self.breaker(fn)

    def block(self):
        return self.breaker

    def state(self):
        return self.breaker.state

    def retrying(self, fn):
        import grit

        with mock.patch.object(time, "sleep", self.slept.append):
            try:
                return grit.retry(tries=3)(fn)()
            except grit.exceptions.RetryExhausted as exhausted:
                raise exhausted.last from exhausted


class Pybreaker(Subject):
    name = distribution = "pybreaker"
    offers = frozenset(["def", "async def", "generator", "async generator", "with", "call"])
    serialised = frozenset(["def", "call"])
    rejection = LateType("pybreaker", "CircuitBreakerError")
    trips_with = LateType("pybreaker", "CircuitBreakerError", ConnectionError)

    def __init__(self, *, failures=3, successes=1, trials=1, ignore=(), span=None, listener=None):
        import pybreaker

        lack(self, trials=trials, span=span)
        self.breaker = pybreaker.CircuitBreaker(
            fail_max=failures,
            reset_timeout=self.reset,
            success_threshold=successes,
            exclude=list(ignore),
        )
        if listener is not None:
            heard = pybreaker.CircuitBreakerListener()
            heard.state_change = lambda *_: listener()
            self.breaker.add_listener(heard)

    def protect(self, fn):
        return self.breaker(fn)

    def block(self):
        return self.breaker.calling()

    def call(self, fn):
        return self.breaker.call(fn)

    def state(self):
        return self.breaker.current_state.replace("-", "_")

    def step_wall(self, seconds, monkeypatch):
        import pybreaker

        class Stepped(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

        monkeypatch.setattr(pybreaker, "datetime", Stepped)


class Circuitbreaker(Subject):
    name = distribution = "circuitbreaker"
    offers = frozenset(["def", "async def", "generator", "async generator", "with"])
    lazy = False
    rejection = LateType("circuitbreaker", "CircuitBreakerError")

    def __init__(self, *, failures=3, successes=1, trials=1, ignore=(), span=None, listener=None):
        import circuitbreaker

        lack(self, successes=successes, trials=trials, span=span, listener=listener)
        self.breaker = circuitbreaker.CircuitBreaker(
            failure_threshold=failures,
            recovery_timeout=self.reset,
            expected_exception=lambda kind, _: (
                issubclass(kind, Exception) and not issubclass(kind, ignore)
            ),
            name="dependency",
        )

    def protect(self, fn):
        return self.breaker(fn)

    def block(self):
        return self.breaker

    def state(self):
        return self.breaker.state


class Purgatory(Subject):
    """Two factories, one a colour, that know nothing of each other."""

    name = distribution = "purgatory"
    offers = frozenset(["def", "async def", "generator", "async generator", "with", "async with"])
    rejection = LateType("purgatory.domain.model", "OpenedState")

    def __init__(self, *, failures=3, successes=1, trials=1, ignore=(), span=None, listener=None):
        import purgatory

        lack(self, successes=successes, trials=trials, span=span)
        self.circuit = ("dependency", failures, self.reset, list(ignore))
        self.factory = purgatory.SyncCircuitBreakerFactory()
        self.afactory = purgatory.AsyncCircuitBreakerFactory()
        if listener is not None:
            self.listener = listener
            self.factory.add_listener(self._heard)
            self.afactory.add_listener(self._heard)

    def _heard(self, name, kind, event):
        if kind == "state_changed":
            self.listener()

    def protect(self, fn):
        awaited = inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)
        return (self.afactory if awaited else self.factory)(*self.circuit)(fn)

    def block(self):
        return self.factory.get_breaker(*self.circuit)

    @contextlib.asynccontextmanager
    async def ablock(self):
        async with await self.afactory.get_breaker(*self.circuit):
            yield

    def state(self):
        breakers = (self.block(), drive(self.afactory.get_breaker(*self.circuit)))
        states = {breaker.context.state for breaker in breakers} - {"closed"}
        return {"opened": "open", "half-opened": "half_open"}[states.pop()] if states else "closed"


ADAPTERS = {
    adapter.name: adapter
    for adapter in (Nopanic, Interlock, Grit, Pybreaker, Circuitbreaker, Purgatory)
}
