"""Rooms for failure: stop calling what is broken, try again what may work, answer anyway.

==================  =====================================================================
CircuitBreaker      rejects calls to what keeps failing; trial calls find out if it works
Retry               calls again, with growing random waits, within a RetryBudget
Timeout             cuts one call off; a hung thread starves nobody
Deadline            tells every layer below how much time the request has left
Bulkhead            so many calls at once and no more
FallbackChain       the model, a simpler model, a default, and which Rung answered
==================  =====================================================================

Each one decorates ``def``, ``async def``, generators and async generators alike (a chain
is itself the function).  ``compose(...)`` puts them together, outermost first, and refuses
orders that do not work; the usual one is deadline, retry, breaker, bulkhead, timeout.

>>> @compose(Retry(attempts=2), CircuitBreaker("prices"))
... def price(item: str) -> float:
...     return 9.5
>>> price("tea")
9.5
"""

from prodml.resilience.backoff import FullJitter
from prodml.resilience.budget import RetryBudget
from prodml.resilience.bulkhead import Bulkhead
from prodml.resilience.circuit_breaker import CircuitBreaker, CircuitSnapshot, CircuitState
from prodml.resilience.compose import Composition, compose
from prodml.resilience.deadline import Deadline
from prodml.resilience.fallback import FallbackChain, Rung, RungStats, Served
from prodml.resilience.retry import Retry
from prodml.resilience.timeout import Timeout

__all__ = [
    "Bulkhead",
    "CircuitBreaker",
    "CircuitSnapshot",
    "CircuitState",
    "Composition",
    "Deadline",
    "FallbackChain",
    "FullJitter",
    "Retry",
    "RetryBudget",
    "Rung",
    "RungStats",
    "Served",
    "Timeout",
    "compose",
]
