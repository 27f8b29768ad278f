"""Rooms for failure: stop calling what is broken, try again what may work, answer anyway.

==================  =====================================================================
CircuitBreaker      rejects calls to what keeps failing; trial calls find out if it works
Retry               calls again, with growing random waits, within a RetryBudget
Hedge               calls once more while the first call is slow; the first answer counts
Timeout             cuts one call off; a hung thread starves nobody
Deadline            tells every layer below how much time the request has left
Bulkhead            so many calls at once and no more, with a queue if need be
AdaptiveLimiter     as many calls at once as are answered in time; batch below live
RateLimiter         so many calls a second, here or in all workers together
Fallback            another answer when the call fails
FallbackChain       the model, a simpler model, a default, and which Rung answered
Chaos               faults, delays and bad answers on purpose
Health              what breakers and chains say to a readiness probe
==================  =====================================================================

Each one decorates ``def``, ``async def``, generators and async generators alike (a chain
is itself the function).  ``compose(...)`` puts them together, outermost first, and refuses
orders that do not work; the usual one is fallback, deadline, retry, breaker, bulkhead,
timeout.

>>> @compose(Fallback(None), Retry(attempts=2), CircuitBreaker("prices"))
... def price(item: str) -> float:
...     return 9.5
>>> price("tea")
9.5
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.resilience.adaptive_limit import AdaptiveLimiter, LimitShare
    from prodml.resilience.backoff import DecorrelatedJitter, Exponential, FullJitter
    from prodml.resilience.budget import RetryBudget
    from prodml.resilience.bulkhead import Bulkhead
    from prodml.resilience.chaos import Chaos, ChaosStats
    from prodml.resilience.circuit_breaker import CircuitBreaker
    from prodml.resilience.circuit_state import CircuitSnapshot, CircuitState
    from prodml.resilience.compose import Composition, compose
    from prodml.resilience.deadline import Deadline
    from prodml.resilience.fallback import Fallback
    from prodml.resilience.fallback_chain import FallbackChain, RungStats, Served
    from prodml.resilience.health import Health, HealthReport, HealthStatus, PartHealth
    from prodml.resilience.hedge import Hedge, HedgeStats
    from prodml.resilience.rate_limit import RateLimiter, RateStore
    from prodml.resilience.retry import Retry
    from prodml.resilience.rung import Rung
    from prodml.resilience.shared_circuit import SharedCircuit
    from prodml.resilience.timeout import Timeout

__all__ = [
    "AdaptiveLimiter",
    "Bulkhead",
    "Chaos",
    "ChaosStats",
    "CircuitBreaker",
    "CircuitSnapshot",
    "CircuitState",
    "Composition",
    "Deadline",
    "DecorrelatedJitter",
    "Exponential",
    "Fallback",
    "FallbackChain",
    "FullJitter",
    "Health",
    "HealthReport",
    "HealthStatus",
    "Hedge",
    "HedgeStats",
    "LimitShare",
    "PartHealth",
    "RateLimiter",
    "RateStore",
    "Retry",
    "RetryBudget",
    "Rung",
    "RungStats",
    "Served",
    "SharedCircuit",
    "Timeout",
    "compose",
]

load_on_use(
    __name__,
    {
        ".adaptive_limit": ("AdaptiveLimiter", "LimitShare"),
        ".backoff": ("DecorrelatedJitter", "Exponential", "FullJitter"),
        ".budget": ("RetryBudget",),
        ".bulkhead": ("Bulkhead",),
        ".chaos": ("Chaos", "ChaosStats"),
        ".circuit_breaker": ("CircuitBreaker",),
        ".circuit_state": ("CircuitSnapshot", "CircuitState"),
        ".compose": ("Composition", "compose"),
        ".deadline": ("Deadline",),
        ".fallback": ("Fallback",),
        ".fallback_chain": ("FallbackChain", "RungStats", "Served"),
        ".health": ("Health", "HealthReport", "HealthStatus", "PartHealth"),
        ".hedge": ("Hedge", "HedgeStats"),
        ".rate_limit": ("RateLimiter", "RateStore"),
        ".retry": ("Retry",),
        ".rung": ("Rung",),
        ".shared_circuit": ("SharedCircuit",),
        ".timeout": ("Timeout",),
    },
)
