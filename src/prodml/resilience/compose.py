"""Several policies as one, in an order that works."""

import functools
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Never, ParamSpec, TypeAlias, TypeVar, cast, final, overload

from prodml._call import CalmGuard, Flow, Guard, Kind, Recovery, awaiting, fused, kind_of
from prodml.errors import BadConfiguration
from prodml.resilience._joined import Joined
from prodml.resilience.adaptive_limit import AdaptiveLimiter, LimitShare
from prodml.resilience.backoff import DecorrelatedJitter, Exponential, FullJitter
from prodml.resilience.bulkhead import Bulkhead
from prodml.resilience.chaos import Chaos
from prodml.resilience.circuit_breaker import CircuitBreaker
from prodml.resilience.deadline import Deadline
from prodml.resilience.fallback import Fallback
from prodml.resilience.fallback_chain import FallbackChain
from prodml.resilience.hedge import Hedge
from prodml.resilience.rate_limit import RateLimiter
from prodml.resilience.retry import Retry
from prodml.resilience.timeout import Timeout

__all__ = ["Composition", "Layer", "compose"]

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")

Layer: TypeAlias = Guard[Any] | Flow
"""Anything that decorates a function: a guard or a flow."""

_KEPT = "keep a place taken while the retry waits: put the retry outside"
_SHARED = "have one place for all copies, so the limit would not hold: put the hedge outside"
_ANSWERED = "the fallback answers the first failure, so there is nothing left to {}: put it outside"

# (outer, inner): why the outer one must not stand outside the inner one.
_BAD_ORDERS: Mapping[tuple[type, type], str] = {
    (Retry, Retry): "the attempts multiply: keep one retry",
    (Hedge, Retry): "the calls multiply, attempts by copies: put the retry outside",
    (Hedge, Hedge): "the copies multiply: keep one hedge",
    (CircuitBreaker, Retry): (
        "the breaker would count all attempts as one call and could not stop them: "
        "put the retry outside"
    ),
    (Bulkhead, Retry): f"the bulkhead would {_KEPT}",
    (Bulkhead, Hedge): f"the bulkhead would {_SHARED}",
    (AdaptiveLimiter, Hedge): f"the limiter would {_SHARED}",
    (LimitShare, Hedge): f"the limiter would {_SHARED}",
    (AdaptiveLimiter, Retry): f"the limiter would {_KEPT}",
    (LimitShare, Retry): f"the limiter would {_KEPT}",
    (RateLimiter, Retry): (
        "all attempts would go by on one permit, so the rate would not hold: put the retry outside"
    ),
    (RateLimiter, Hedge): (
        "all copies would go by on one permit, so the rate would not hold: put the hedge outside"
    ),
    (Retry, Deadline): (
        "every attempt would get a deadline of its own: put the deadline outside, and a "
        "Timeout inside for one attempt"
    ),
    (Timeout, CircuitBreaker): (
        "the breaker would hear of a hung call as cancelled, which is no failure: "
        "put the timeout inside"
    ),
    (Timeout, Fallback): (
        "the timeout would cut the fallback off with the call: put the fallback outside"
    ),
    (Retry, Fallback): _ANSWERED.format("retry"),
    (Hedge, Fallback): _ANSWERED.format("hedge"),
    (CircuitBreaker, Fallback): _ANSWERED.format("count"),
}

_CAPPED = (FullJitter, DecorrelatedJitter, Exponential)

_RAISES: Mapping[type, str] = {
    AdaptiveLimiter: "BulkheadFull",
    Bulkhead: "BulkheadFull",
    Chaos: "what it was told to",
    CircuitBreaker: "CircuitOpen",
    Deadline: "DeadlineExceeded",
    Fallback: "AllFallbacksFailed",
    LimitShare: "BulkheadFull",
    RateLimiter: "RateLimited",
    Timeout: "DeadlineExceeded",
}


@final
@dataclass(slots=True, frozen=True, eq=False)
class Composition(Joined[F_co], Generic[F_co]):
    """Policies around a call, outermost first; made by :func:`compose`.

    It decorates as one wrapper: ``__wrapped__`` is the function itself, and fallback, retry
    and breaker together cost next to nothing more than the breaker alone while all is well.

    Examples
    --------
    >>> guarded = compose(Retry(), CircuitBreaker("db"))
    >>> guarded(len)("abc"), guarded.call(len, "abc")
    (3, 3)
    """

    layers: tuple[Layer, ...]

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | F_co:
        """Call ``fn(*args, **kwargs)`` behind every policy."""
        return cast("R | F_co", self._around(fn)(*args, **kwargs))

    def acall(
        self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R | F_co]:
        """Await ``fn(*args, **kwargs)`` behind every policy."""
        asked = awaiting(fn) if kind_of(fn) is Kind.PLAIN else fn
        return cast("Awaitable[R | F_co]", self._around(asked)(*args, **kwargs))

    @property
    def worst_case(self) -> float:
        """Seconds that a call can take; ``inf`` when nothing limits an attempt.

        What a fallback takes to compute its answer comes on top: it answers also when no time
        is left.
        """
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
        rest = ", and what its fallback takes" if any(map(_computes, self.layers)) else ""
        return "\n".join([*lines, f"A call takes {limit}{rest}."])

    def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        streams = kind_of(fn) not in (Kind.PLAIN, Kind.COROUTINE)
        inner, outer = fn, list(self.layers)
        while outer:
            layer = outer.pop()
            recoveries = [] if streams else _recoveries(layer, outer)
            if recoveries:
                inner = fused(recoveries, layer if isinstance(layer, CalmGuard) else None, inner)
            else:
                inner = layer(inner)
        return functools.update_wrapper(inner, fn)


def _recoveries(layer: Layer, outer: list[Layer]) -> list[Recovery]:
    """Take the layers that make one wrapper with ``layer`` from ``outer``; outermost first."""
    if not (isinstance(layer, CalmGuard) or _calm(layer)):
        return []
    found = [cast("Recovery", layer)] if _calm(layer) else []
    while outer and _calm(outer[-1]):
        nearest = cast("Recovery", outer[-1])
        if found and nearest.clock is not found[0].clock:
            # One wrapper waits by one clock.
            break
        found.insert(0, nearest)
        outer.pop()
    return found


def _calm(layer: Layer) -> bool:
    return isinstance(layer, Recovery) and not layer.watchful


# A fallback is a layer too: the overlap gives the more exact type where there is one.
@overload
def compose(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    outermost: Fallback[F], /, *layers: Layer
) -> Composition[F]: ...
@overload
def compose(outermost: FallbackChain[F], /, *layers: Layer) -> Composition[F]: ...
@overload
def compose(*layers: Layer) -> Composition[Never]: ...
def compose(*layers: Any) -> Composition[Any]:
    """Combine policies, outermost first, refusing orders that do not work.

    The usual order is fallback, deadline, retry, breaker, bulkhead, timeout.  The fallback
    is a :class:`Fallback`, or a :class:`FallbackChain` whose value answers instead; it comes
    first, and its type joins that of the function.

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
    taken = tuple(
        Fallback(layer) if isinstance(layer, FallbackChain) else layer for layer in layers
    )
    for number, outer in enumerate(taken):
        if not isinstance(outer, Guard | Flow):
            raise BadConfiguration(f"compose takes guards and flows, not {outer!r}")
        for inner in taken[number + 1 :]:
            _refuse(outer, inner)
    return Composition(taken)


def _refuse(outer: Any, inner: Any) -> None:
    reason = _BAD_ORDERS.get((type(outer), type(inner)))
    if isinstance(outer, Chaos):
        reason = "what stands inside would not meet the faults: put the chaos innermost"
    if isinstance(inner, Fallback) and not isinstance(outer, Fallback):
        # The type of the joined answer is read off the outermost layer.
        reason = reason or "its answer would be guarded like the call's: put it outside"
    if reason is not None:
        names = f"{type(outer).__name__} outside {type(inner).__name__}"
        raise BadConfiguration(f"{names}: {reason}")


def _computes(layer: Layer) -> bool:
    return isinstance(layer, Fallback) and callable(layer.to)


def _title(layer: Layer) -> str:
    kind = type(layer).__name__
    if isinstance(layer, Timeout | Deadline):
        return f"{kind}({layer.seconds:.3g} s)"
    if isinstance(layer, Retry):
        longest = _longest_wait(layer)
        waits = f"of at most {longest:.3g} s" if math.isfinite(longest) else "of any length"
        return f"{kind}({layer.attempts} attempts, waits {waits})"
    name = getattr(layer, "name", None)
    return kind if name is None else f"{kind}({name!r})"


def _worst_case(layer: Layer, inner: float) -> float:
    """Seconds with ``layer`` around what takes ``inner`` seconds."""
    if isinstance(layer, Timeout):
        return min(inner, layer.seconds)
    total, bounded = inner + _queueing(layer), math.isfinite(inner)
    if isinstance(layer, Hedge):
        # A learned delay is at most as long as a call.
        total = inner + (layer.attempts - 1) * (inner if layer.after is None else layer.after)
    elif isinstance(layer, Retry):
        total = layer.attempts * inner + (layer.attempts - 1) * _longest_wait(layer)
    # A deadline shortens the timeouts inside and refuses waits that would end too late; an
    # attempt that has no timeout it cannot end.
    limit = layer.seconds if isinstance(layer, Deadline) else getattr(layer, "deadline", None)
    return min(total, limit) if limit is not None and bounded else total


def _queueing(layer: Layer) -> float:
    """Seconds that a call can spend before the layer lets it in."""
    if isinstance(layer, Bulkhead):
        if not layer.queue:
            return 0.0
        return math.inf if layer.max_wait is None else layer.max_wait
    return layer.max_wait if isinstance(layer, RateLimiter) else 0.0


def _longest_wait(retry: Retry) -> float:
    wait = retry.wait
    seconds = getattr(wait, "cap", math.inf) if isinstance(wait, _CAPPED) else wait
    known = seconds if isinstance(seconds, int | float) else math.inf
    return max(known, retry.retry_after_cap)
