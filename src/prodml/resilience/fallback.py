"""Another answer when a call has failed."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast, final, overload

from prodml._call import Flow, Invoke, Kind, Recovery, Steps, kind_of, opening
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import AllFallbacksFailed
from prodml.resilience._joined import Joined
from prodml.resilience._verdict import Failures, check_failures, counts
from prodml.resilience.fallback_chain import FallbackChain

__all__ = ["Fallback"]

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")

_FIXED = "it says what the decorated functions answer"


@final
@dataclass(slots=True, init=False, eq=False)
class Fallback(Joined[F_co], Recovery):  # type: ignore[misc]  # the joined type is the point
    """Answer by ``to`` when the call fails.

    The simplest way down: one call, one other answer, and nobody hears which it was.  A
    :class:`FallbackChain` knows several and tells.

    Parameters
    ----------
    to
        A value, a function that takes the same arguments as the call, or a
        :class:`FallbackChain`, of which the value counts.  A plain function is called at
        once, even when no time is left.  Falsy values and None are answers too.
    on
        Exception class or classes that it answers, or a predicate of the exception.
        Rejections by the policies inside (open breaker, full bulkhead) are among them.
    name
        Names it in errors.
    clock
        Collaborator.

    Raises
    ------
    BadConfiguration
        ``on`` is no ``Exception`` class: cancellation and interrupts always pass.
    TypeError
        At decoration: ``to`` is asynchronous and the function is not.

    Notes
    -----
    When ``to`` fails as well, :class:`~prodml.errors.AllFallbacksFailed` holds both errors.
    Of a generator the opening is covered, up to the first item: then the items of ``to``
    follow if it is a generator function too, or its answer as the one item.  Type checkers
    see both answers: a function to ``R`` becomes one to ``R | F``.

    Examples
    --------
    >>> @Fallback(0.5)
    ... def score(features: dict[str, float]) -> float:
    ...     return 1.0 / features["days"]
    >>> score({"days": 4.0}), score({})
    (0.25, 0.5)
    """

    to: Any
    on: Failures
    name: str
    clock: Clock
    _kind: Kind | None

    @overload
    def __init__(
        self: "Fallback[F]",
        to: FallbackChain[F],
        *,
        on: Failures = ...,
        name: str = ...,
        clock: Clock = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]",
        to: Callable[..., Coroutine[Any, Any, F]],
        *,
        on: Failures = ...,
        name: str = ...,
        clock: Clock = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]",
        to: Callable[..., F],
        *,
        on: Failures = ...,
        name: str = ...,
        clock: Clock = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]", to: F, *, on: Failures = ..., name: str = ..., clock: Clock = ...
    ) -> None: ...
    def __init__(
        self,
        to: Any,
        *,
        on: Failures = (Exception,),
        name: str = "fallback",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.to = to
        self.on = on
        self.name = name
        self.clock = clock
        check_failures(self, "on")
        function = callable(to) and not isinstance(to, FallbackChain)
        # A class is a function that makes an object.
        self._kind = (Kind.PLAIN if isinstance(to, type) else kind_of(to)) if function else None

    def call(  # type: ignore[override]  # as above
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R | F_co:
        """Call ``fn(*args, **kwargs)``, or answer by ``to``."""
        return cast("R | F_co", Flow.call(self, fn, *args, **kwargs))

    def recover(self, call: Invoke, error: Exception) -> Steps:
        """The other answer, or both errors."""
        if not counts(self.on, error):
            return None, error
        try:
            answer, second = yield from self._answer(call.args, call.kwargs)
        except Exception as broken:
            answer, second = None, broken
        if second is None:
            return answer, None
        return None, AllFallbacksFailed(f"{self.name}: no answer", [error, second])

    def _answer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
        to = self.to
        if isinstance(to, FallbackChain):
            # A chain answers for features: the first argument.
            features = [*args, *kwargs.values()]
            served, error = yield from to.steps(features[0])
            return (None if error is not None else served.value), error
        if self._kind is None:
            return to, None
        if self._kind is Kind.COROUTINE:
            return (yield Invoke(to, args, kwargs))
        try:
            # Not a step: steps are refused when no time is left, and that is when it counts.
            return to(*args, **kwargs), None
        except Exception as error:
            return None, error

    def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        kind = kind_of(fn)
        if kind in (Kind.PLAIN, Kind.COROUTINE):
            if kind is Kind.PLAIN and self._awaited:
                raise TypeError(f"{self.to!r} is asynchronous and {fn!r} is not")
            return self._shells[kind](self, fn)
        if kind is Kind.GENERATOR and self._awaited:
            raise TypeError(f"{self.to!r} is asynchronous and {fn!r} is not")
        streaming = Fallback[Any](
            opening(self._as_function(), kind), on=self.on, name=self.name, clock=self.clock
        )
        return self._shells[kind](streaming, fn)

    @property
    def _awaited(self) -> bool:
        return self._kind in (Kind.COROUTINE, Kind.ASYNC_GENERATOR)

    def _as_function(self) -> Callable[..., Any]:
        to = self.to
        if isinstance(to, FallbackChain):
            return _values(to)
        return to if callable(to) else _always(to)


def _values(chain: FallbackChain[Any]) -> Callable[..., Any]:
    def value(*args: Any, **kwargs: Any) -> Any:
        return chain([*args, *kwargs.values()][0]).value

    return value


def _always(answer: Any) -> Callable[..., Any]:
    def always(*_args: Any, **_kwargs: Any) -> Any:
        return answer

    return always
