"""Several policies as one, in an order that works."""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeAlias, TypeVar, final

from prodml._call import Flow, Guard
from prodml.errors import BadConfiguration
from prodml.resilience.backoff import FullJitter
from prodml.resilience.bulkhead import Bulkhead
from prodml.resilience.circuit_breaker import CircuitBreaker
from prodml.resilience.deadline import Deadline
from prodml.resilience.retry import Retry
from prodml.resilience.timeout import Timeout

__all__ = ["Composition", "Layer", "compose"]

P = ParamSpec("P")
R = TypeVar("R")

Layer: TypeAlias = Guard[Any] | Flow
"""Anything that decorates a function: a guard or a flow."""

# (outer, inner): why the outer one must not stand outside the inner one.
_BAD_ORDERS: Mapping[tuple[type, type], str] = {
    (Retry, Retry): "the attempts multiply: keep one retry",
    (CircuitBreaker, Retry): (
        "the breaker would count all attempts as one call and could not stop them: "
        "put the retry outside"
    ),
    (Bulkhead, Retry): (
        "the bulkhead would keep a place taken while the retry waits: put the retry outside"
    ),
    (Retry, Deadline): (
        "every attempt would get a deadline of its own: put the deadline outside, and a "
        "Timeout inside for one attempt"
    ),
    (Timeout, CircuitBreaker): (
        "the breaker would hear of a hung call as cancelled, which is no failure: "
        "put the timeout inside"
    ),
}

_RAISES: Mapping[type, str] = {
    CircuitBreaker: "CircuitOpen",
    Bulkhead: "BulkheadFull",
    Timeout: "DeadlineExceeded",
    Deadline: "DeadlineExceeded",
}


@final
@dataclass(slots=True, frozen=True, eq=False)
class Composition:
    """Policies around a call, outermost first; made by :func:`compose`.

    Examples
    --------
    >>> guarded = compose(Retry(), CircuitBreaker("db"))
    >>> guarded(len)("abc"), guarded.call(len, "abc")
    (3, 3)
    """

    layers: tuple[Layer, ...]

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Put every policy around ``fn`` of any kind; the result has its signature."""
        for layer in reversed(self.layers):
            fn = layer(fn)
        return fn

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn(*args, **kwargs)`` behind every policy."""
        return self(fn)(*args, **kwargs)

    def acall(
        self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R]:
        """Await ``fn(*args, **kwargs)`` behind every policy."""
        return self(fn)(*args, **kwargs)

    @property
    def worst_case(self) -> float:
        """Seconds that a call can take; ``inf`` when nothing limits an attempt."""
        seconds = math.inf
        for layer in reversed(self.layers):
            seconds = _worst_case(layer, seconds)
        return seconds

    def explain(self) -> str:
        """Order, what each policy can raise by itself, and the worst case, as text.

        Examples
        --------
        >>> print(compose(Deadline(0.5), CircuitBreaker("db"), Timeout(0.1)).explain())
        1. Deadline(0.5 s): may raise DeadlineExceeded
        2. CircuitBreaker('db'): may raise CircuitOpen
        3. Timeout(0.1 s): may raise DeadlineExceeded
        A call takes at most 0.1 s.
        """
        lines = [
            f"{number}. {_title(layer)}: may raise {_RAISES.get(type(layer), 'nothing itself')}"
            for number, layer in enumerate(self.layers, 1)
        ]
        worst = self.worst_case
        limit = f"at most {worst:.3g} s" if math.isfinite(worst) else "as long as it likes"
        return "\n".join([*lines, f"A call takes {limit}."])


def compose(*layers: Layer) -> Composition:
    """Combine policies, outermost first, refusing orders that do not work.

    The usual order is deadline, retry, breaker, bulkhead, timeout.  A
    :class:`FallbackChain` stands around all of it, with the composed function as a rung.

    Raises
    ------
    BadConfiguration
        No layer, something that is no guard or flow, or an order known to be wrong.

    Examples
    --------
    >>> compose(CircuitBreaker("db"), Retry())
    Traceback (most recent call last):
        ...
    prodml.errors.BadConfiguration: CircuitBreaker outside Retry: the breaker would count all
    attempts as one call and could not stop them: put the retry outside
    """
    if not layers:
        raise BadConfiguration("compose needs at least one policy")
    for number, outer in enumerate(layers):
        if not isinstance(outer, Guard | Flow):
            raise BadConfiguration(f"compose takes guards and flows, not {outer!r}")
        for inner in layers[number + 1 :]:
            reason = _BAD_ORDERS.get((type(outer), type(inner)))
            if reason is not None:
                names = f"{type(outer).__name__} outside {type(inner).__name__}"
                raise BadConfiguration(f"{names}: {reason}")
    return Composition(layers)


def _title(layer: Layer) -> str:
    kind = type(layer).__name__
    if isinstance(layer, Timeout | Deadline):
        return f"{kind}({layer.seconds:.3g} s)"
    if isinstance(layer, Retry):
        return f"{kind}({layer.attempts} attempts)"
    name = getattr(layer, "name", None)
    return kind if name is None else f"{kind}({name!r})"


def _worst_case(layer: Layer, inner: float) -> float:
    """Seconds with ``layer`` around what takes ``inner`` seconds."""
    if isinstance(layer, Timeout):
        return min(inner, layer.seconds)
    total, bounded = inner, math.isfinite(inner)
    if isinstance(layer, Retry):
        total = layer.attempts * inner + (layer.attempts - 1) * _longest_wait(layer)
    # A deadline shortens the timeouts inside and refuses waits that would end too late; an
    # attempt that has no timeout it cannot end.
    limit = layer.seconds if isinstance(layer, Deadline) else getattr(layer, "deadline", None)
    return min(total, limit) if limit is not None and bounded else total


def _longest_wait(retry: Retry) -> float:
    wait = retry.wait
    seconds = wait.cap if isinstance(wait, FullJitter) else wait
    known = seconds if isinstance(seconds, int | float) else math.inf
    return max(known, retry.retry_after_cap)
