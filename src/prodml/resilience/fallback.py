"""A ladder of answers: the model, a simpler model, a default, and which of them it was."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast, final, overload

from prodml._call import Guard, Invoke, Kind, Steps, arun, kind_of, protect, run
from prodml._deadline import remaining
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import (
    AllFallbacksFailed,
    BadConfiguration,
    DeadlineExceeded,
    RejectedAnswer,
)
from prodml.resilience._bounds import seconds
from prodml.types import MISS, Miss

__all__ = ["FallbackChain", "Rung", "RungStats", "Served"]

D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


_FIXED = {"fixed": "make another chain, and swap it in"}


class _Predictor(Protocol[T_co]):
    def predict(self, features: Any, /) -> T_co: ...


@final
@dataclass(slots=True, kw_only=True, eq=False)
class Rung(Generic[T_co]):
    """One way to an answer.

    Parameters
    ----------
    name
        Names the rung in :class:`Served`; unique in its chain.
    target
        A function of the features, or an object with ``predict`` (and ``apredict``, if it
        has one, for asynchronous callers).
    guard
        A :class:`CircuitBreaker`, :class:`Bulkhead`, ...: asked before, told after.  It
        hears of a refused answer as of a failure.
    timeout
        Seconds for the call; None means no limit of its own.
    needs
        Seconds that must be left for the rung to be tried; with less it is skipped.
    accept
        Check of the answer: a predicate, or a function that raises.  False means no; None
        and everything else means yes.

    Raises
    ------
    BadConfiguration
        ``target`` cannot be called, or a time is not positive.

    Examples
    --------
    >>> Rung("prior", lambda features: 0.5).name
    'prior'
    """

    name: str = field(kw_only=False)
    target: Callable[[Any], T_co] | _Predictor[T_co] = field(kw_only=False)
    guard: Guard[Any] | None = None
    timeout: float | None = None
    needs: float = 0.0
    accept: Callable[[Any], object] | None = None
    _call: Callable[..., Any] = field(init=False, repr=False)
    _acall: Callable[..., Any] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        seconds(self, "timeout", optional=True)
        seconds(self, "needs", zero=True)
        predict = getattr(self.target, "predict", None)
        call = self.target if predict is None else predict
        if not callable(call) or isinstance(self.target, type):
            raise BadConfiguration(
                f"rung {self.name!r} needs a function or an object with predict, "
                f"not {self.target!r}"
            )
        self._call = cast("Callable[..., Any]", call)
        self._acall = None if predict is None else getattr(self.target, "apredict", None)

    def invoke(self, features: Any) -> Invoke:
        """Return the call of this rung, as a step of a flow."""
        return Invoke(self._call, (features,), timeout=self.timeout, acall=self._acall)

    def refusal(self, answer: Any) -> Exception | None:
        """Why ``answer`` is not acceptable, or None."""
        if self.accept is None:
            return None
        try:
            verdict = self.accept(answer)
        except Exception as error:
            return error
        if verdict is None or verdict:
            return None
        return RejectedAnswer(f"rung {self.name!r} refused it", answer)


@dataclass(slots=True)
class Served(Generic[T]):
    """An answer and where it came from.

    Parameters
    ----------
    value
        The answer; may be falsy or None.
    rung
        Name of the rung that gave it, ``"default"`` for the default.
    degraded
        True when it was not the first rung.
    errors
        Why each rung above did not answer, by name, in order.
    elapsed
        Seconds from the question to the answer.

    Examples
    --------
    >>> Served(0.0, "primary").degraded
    False
    """

    value: T
    rung: str
    degraded: bool = False
    errors: dict[str, Exception] = field(default_factory=dict[str, Exception])
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True)
class RungStats:
    """How often a rung answered, failed (rejections and refused answers included), was skipped.

    Examples
    --------
    >>> RungStats(answered=3).failed
    0
    """

    answered: int = 0
    failed: int = 0
    skipped: int = 0


@final
@dataclass(slots=True, init=False, eq=False)
class FallbackChain(Generic[T]):
    """Ask each rung in turn until one gives an acceptable answer.

    Parameters
    ----------
    *rungs
        Best first; at least one, or a ``default``.
    default
        The last resort: a value, or a function of the features.  It is given at once, even
        when no time is left (unless it is asynchronous).  Falsy values and None are
        defaults too; ``MISS`` means that there is none.
    name
        Names the chain in errors.
    clock
        Collaborator.

    Raises
    ------
    BadConfiguration
        Neither rung nor default, two rungs of one name, or one called ``"default"``.

    Notes
    -----
    A rung for which the deadline leaves less than it ``needs`` is skipped.  Cancellation
    and interrupts are no reason to try the next rung: they pass.

    Examples
    --------
    >>> def broken(features):
    ...     raise ConnectionError("no model server")
    >>> chain = FallbackChain(Rung("model", broken), default=0.0)
    >>> served = chain({"age": 41})
    >>> served.value, served.rung, served.degraded
    (0.0, 'default', True)
    >>> served.errors
    {'model': ConnectionError('no model server')}
    """

    rungs: tuple[Rung[T], ...]
    default: Any = field(metadata=_FIXED)
    name: str = field(metadata=_FIXED)
    clock: Clock
    _default_call: Callable[..., Any] | None
    _default_waits: bool
    _counts: dict[str, list[int]]
    _lock: threading.Lock

    # The answer is of the rungs' types, or of the default's.
    @overload
    def __init__(
        self: "FallbackChain[R]",
        *rungs: Rung[R],
        default: Miss = MISS,
        name: str = "fallback-chain",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None: ...
    @overload
    def __init__(
        self: "FallbackChain[R | D]",
        *rungs: Rung[R],
        default: Callable[[Any], D],
        name: str = "fallback-chain",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None: ...
    @overload
    def __init__(
        self: "FallbackChain[R | D]",
        *rungs: Rung[R],
        default: D,
        name: str = "fallback-chain",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None: ...
    def __init__(
        self,
        *rungs: Rung[Any],
        default: Any = MISS,
        name: str = "fallback-chain",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        names = [rung.name for rung in rungs]
        if not names and default is MISS:
            raise BadConfiguration("a fallback chain needs at least one rung or a default")
        if len({*names, "default"}) <= len(names):
            raise BadConfiguration(
                f"rung names must differ, and not be 'default': {', '.join(names)}"
            )
        self.rungs = rungs
        self.default = default
        self.name = name
        self.clock = clock
        self._default_call = default if callable(default) else None
        self._default_waits = callable(default) and kind_of(default) is Kind.COROUTINE
        self._counts = {name: [0, 0, 0] for name in (*names, "default")}
        self._lock = threading.Lock()

    def __call__(self, features: Any) -> Served[T]:
        """Answer for ``features``.

        Raises
        ------
        AllFallbacksFailed
            No rung answered and there is no default; holds every cause in order.
        """
        return cast("Served[T]", run(self.steps(features), self.clock))

    def acall(self, features: Any) -> Awaitable[Served[T]]:
        """Answer for ``features``, awaiting what is asynchronous on the way."""
        return arun(self.steps(features), self.clock)

    def steps(self, features: Any) -> Steps:
        """Steps to ``(Served, None)`` or ``(None, AllFallbacksFailed)``, for a flow."""
        began = self.clock.monotonic()
        errors: dict[str, Exception] = {}
        for rung in self.rungs:
            left = remaining()
            if left is not None and (left <= 0.0 or left < rung.needs):
                errors[rung.name] = DeadlineExceeded(f"rung {rung.name!r}", max(left, 0.0))
                self._count(rung.name, _SKIPPED)
                continue
            answer, error = yield from _ask(rung, features)
            if error is None:
                return self._served(answer, rung.name, errors, began), None
            errors[rung.name] = error
            self._count(rung.name, _FAILED)
        return (yield from self._last_resort(features, errors, began))

    def stats(self) -> dict[str, RungStats]:
        """Counters of every rung and of the default, by name, since the chain was made."""
        with self._lock:
            return {name: RungStats(*counts) for name, counts in self._counts.items()}

    def _last_resort(self, features: Any, errors: dict[str, Exception], began: float) -> Steps:
        if self.default is MISS:
            return None, self._all_failed(errors)
        answer, error = yield from self._default_answer(features)
        if error is None:
            return self._served(answer, "default", errors, began), None
        errors["default"] = error
        self._count("default", _FAILED)
        return None, self._all_failed(errors)

    def _default_answer(self, features: Any) -> Steps:
        if self._default_call is None:
            return self.default, None
        if self._default_waits:
            return (yield Invoke(self._default_call, (features,)))
        try:
            # Not a step: steps are refused when no time is left, and that is when it counts.
            return self._default_call(features), None
        except Exception as error:
            return None, error

    def _served(
        self, answer: Any, rung: str, errors: dict[str, Exception], began: float
    ) -> Served[Any]:
        self._count(rung, _ANSWERED)
        return Served(
            answer,
            rung,
            not self.rungs or rung != self.rungs[0].name,
            errors,
            self.clock.monotonic() - began,
        )

    def _all_failed(self, errors: dict[str, Exception]) -> AllFallbacksFailed:
        names = ", ".join(errors)
        return AllFallbacksFailed(f"{self.name}: no answer from {names}", list(errors.values()))

    def _count(self, name: str, ending: int) -> None:
        with self._lock:
            self._counts[name][ending] += 1


_ANSWERED, _FAILED, _SKIPPED = range(3)


def _ask(rung: Rung[Any], features: Any) -> Steps:
    """One rung behind its guard, which hears of a refused answer as of a failure."""
    asked = _accepted(rung, features)
    return asked if rung.guard is None else protect(rung.guard, asked)


def _accepted(rung: Rung[Any], features: Any) -> Steps:
    answer, error = yield rung.invoke(features)
    return answer, rung.refusal(answer) if error is None else error
