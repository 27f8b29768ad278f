"""The other libraries, each as the decorator that its own documentation shows.

A library that is not installed leaves its row out.  Rules differ: pybreaker,
circuitbreaker, purgatory and grit count failures in a row, nopanic a rate over seconds,
interlock a rate over calls or seconds; each has the nearest settings that it knows.
Those marked "not thread-safe" take no lock and say so, or fail when threads share them.
"""

import logging
from collections.abc import Callable
from importlib import import_module as library
from typing import Any, TypeAlias

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
Makers: TypeAlias = dict[str, Callable[[], Any]]

HOUR = 3600.0
CIRCUITBREAKER = "circuitbreaker (not thread-safe)"
PURGATORY = "purgatory (not thread-safe)"


def installed(makers: Makers) -> dict[str, Any]:
    """What could be made; a library that is missing is left out."""
    made: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except ImportError:
            continue
    return made


# -- breakers -----------------------------------------------------------------------------


def _pybreaker() -> Decorator:
    return library("pybreaker").CircuitBreaker(fail_max=5, reset_timeout=HOUR)


def _circuitbreaker() -> Decorator:
    return library("circuitbreaker").CircuitBreaker(5, recovery_timeout=HOUR)


def _purgatory() -> Decorator:
    return library("purgatory").SyncCircuitBreakerFactory(5, HOUR)("bench")


def _apurgatory() -> Decorator:
    return library("purgatory").AsyncCircuitBreakerFactory(5, HOUR)("bench")


def _grit() -> Decorator:
    return library("grit").breaker(fails=5, reset_after=HOUR)


def _nopanic(**settings: Any) -> Decorator:
    return library("nopanic").circuit_breaker(window=10.0, reset_timeout=HOUR, **settings)


def _interlock(**settings: Any) -> Decorator:
    interlock = library("interlock")
    config = interlock.Config(wait_duration_in_open=HOUR, **settings)
    return interlock.CircuitBreaker(name="bench", config=config)


def _interlock_by_time() -> Decorator:
    return _interlock(window_type=library("interlock").WindowType.TIME_BASED, window_size=10)


def breakers() -> dict[str, Decorator]:
    """Closed breakers for plain functions."""
    return installed(
        {
            "grit": _grit,
            CIRCUITBREAKER: _circuitbreaker,
            PURGATORY: _purgatory,
            "nopanic": _nopanic,
            "pybreaker": _pybreaker,
            "interlock": _interlock,
        }
    )


def breakers_by_time() -> dict[str, Decorator]:
    """Those that look back over seconds or at how long calls took."""
    return installed(
        {
            "nopanic, rate of 10 s": _nopanic,
            "nopanic, slow calls": lambda: _nopanic(slow_call_duration=1.0),
            "interlock, rate of 10 s, slow calls": _interlock_by_time,
        }
    )


def abreakers() -> dict[str, Decorator]:
    """Closed breakers for coroutine functions; pybreaker lets coroutines pass unseen."""
    return installed(
        {
            "grit": _grit,
            CIRCUITBREAKER: _circuitbreaker,
            PURGATORY: _apurgatory,
            "nopanic": _nopanic,
            "nopanic, slow calls": lambda: _nopanic(slow_call_duration=1.0),
            "interlock": _interlock,
        }
    )


# -- retries ------------------------------------------------------------------------------


def _tenacity() -> Decorator:
    tenacity = library("tenacity")
    return tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        wait=tenacity.wait_none(),
        reraise=True,
    )


def _stamina() -> Decorator:
    stamina = library("stamina")
    # It would log every retry of the dead dependency.
    stamina.instrumentation.set_on_retry_hooks([])
    return stamina.retry(
        on=ConnectionError, attempts=3, wait_initial=0.0, wait_max=0.0, wait_jitter=0.0
    )


def _backoff() -> Decorator:
    backoff = library("backoff")
    return backoff.on_exception(
        backoff.constant,
        ConnectionError,
        max_tries=3,
        interval=0,
        jitter=None,
        logger=None,
        backoff_log_level=logging.DEBUG,
    )


def _grit_retry() -> Decorator:
    return library("grit").retry(tries=3, on=ConnectionError, wait=lambda _attempt: 0.0)


def _nopanic_retry(**settings: Any) -> Decorator:
    return library("nopanic").retry(3, on=ConnectionError, backoff=0.0, **settings)


def _nopanic_budget(clock: Callable[[], float]) -> Decorator:
    budget = library("nopanic").RetryBudget(0.1, min_retries_per_sec=0.1, clock=clock)
    return _nopanic_retry(budget=budget)


def retries() -> dict[str, Decorator]:
    """Up to three attempts, for functions of both colours."""
    return installed(
        {
            "grit": _grit_retry,
            "nopanic": _nopanic_retry,
            "backoff": _backoff,
            "tenacity": _tenacity,
            "stamina": _stamina,
        }
    )


def budgets(clock: Callable[[], float]) -> dict[str, Decorator]:
    """Retries under a budget of one retry in ten calls, and those that know none."""
    makers: Makers = {
        "nopanic, budget": lambda: _nopanic_budget(clock),
        "grit": _grit_retry,
        "backoff": _backoff,
        "tenacity": _tenacity,
        "stamina": _stamina,
    }
    return installed(makers)


# -- stacks -------------------------------------------------------------------------------


def _answered(inner: Decorator) -> Decorator:
    """A fallback by hand, for libraries that have none."""

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        guarded = inner(fn)

        def answered(*args: Any, **kwargs: Any) -> Any:
            try:
                return guarded(*args, **kwargs)
            except Exception:
                return 0.0

        return answered

    return decorate


def _both(outer: Decorator, inner: Decorator) -> Decorator:
    return lambda fn: outer(inner(fn))


def _grit_stack(breaker: Decorator) -> Decorator:
    grit = library("grit")
    return grit.policy(grit.fallback(0.0), _grit_retry(), breaker)


def _nopanic_stack(breaker: Decorator, *inner: Decorator) -> Decorator:
    nopanic = library("nopanic")
    return nopanic.compose(nopanic.fallback(0.0), _nopanic_retry(), breaker, *inner)


def _nopanic_limited() -> Decorator:
    return _nopanic_stack(_nopanic(), library("nopanic").timeout(30.0))


def stacks() -> dict[str, Decorator]:
    """Fallback, retry, breaker around a plain function."""
    return installed(
        {
            "grit": lambda: _grit_stack(_grit()),
            "nopanic": lambda: _nopanic_stack(_nopanic()),
            "tenacity, pybreaker": lambda: _answered(_both(_tenacity(), _pybreaker())),
            "stamina, circuitbreaker (not thread-safe)": lambda: _answered(
                _both(_stamina(), _circuitbreaker())
            ),
        }
    )


def limited_stacks() -> dict[str, Decorator]:
    """Fallback, retry, breaker, timeout around a coroutine function."""
    return installed({"nopanic": _nopanic_limited})


def timeouts() -> dict[str, Decorator]:
    """Timeouts of plain functions on another thread; grit's signal works in one thread."""
    return installed({"nopanic, a new thread": lambda: library("nopanic").timeout(30.0)})


def opened_stacks(trip: Callable[[Decorator], Decorator]) -> dict[str, Decorator]:
    """Fallback, retry, breaker, where ``trip`` has opened the breaker.

    nopanic waits out the breaker's open time between its attempts, so it is only counted.
    """
    return installed({"grit": lambda: _grit_stack(trip(_grit()))})


def sleepers(
    trip: Callable[[Decorator], Decorator], fn: Callable[..., Any]
) -> dict[str, Callable[[], float]]:
    """Seconds that a stack would sleep before its fallback answers, breaker open for 30 s."""
    return installed({"nopanic": lambda: _nopanic_sleeper(trip, fn)})


def _nopanic_sleeper(
    trip: Callable[[Decorator], Decorator], fn: Callable[..., Any]
) -> Callable[[], float]:
    nopanic, testing = library("nopanic"), library("nopanic.testing")
    breaker = trip(nopanic.circuit_breaker(reset_timeout=30.0))
    stack = nopanic.compose(nopanic.fallback(0.0), nopanic.retry(3), breaker)(fn)

    def slept() -> float:
        with testing.instant() as sleeps:
            stack(1)
        return sum(sleeps)

    return slept


# -- other guards -------------------------------------------------------------------------


def others() -> dict[str, Decorator]:
    """What is neither breaker nor retry, with room for every call."""
    return installed(
        {
            "grit, bulkhead": lambda: library("grit").bulkhead(8),
            "grit, limiter": lambda: library("grit").limiter(1e9),
            "nopanic, bulkhead": lambda: library("nopanic").bulkhead(8),
            "nopanic, rate_limit": lambda: library("nopanic").rate_limit(1e9),
        }
    )
