"""A ladder of answers: the model, a simpler model, a default, and which of them it was."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast, final, overload

from prodml._call import Invoke, Kind, Steps, arun, kind_of, run
from prodml._deadline import remaining
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import (
    AllFallbacksFailed,
    BadConfiguration,
    DeadlineExceeded,
)
from prodml.resilience._verdict import refused
from prodml.resilience.rung import Rung
from prodml.types import MISS, Miss

__all__ = ["FallbackChain", "RungStats", "Served"]

D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")


_FIXED = {"fixed": "make another chain, and swap it in"}


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
    A rung for which the deadline leaves less than it ``needs``, or usually takes, is
    skipped.  Cancellation
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
            if left is not None and (left <= 0.0 or not rung.fits(left)):
                errors[rung.name] = DeadlineExceeded(f"rung {rung.name!r}", max(left, 0.0))
                self._count(rung.name, _SKIPPED)
                continue
            before = self.clock.monotonic()
            answer, error = yield from rung.steps(features)
            if error is None or not refused(error):
                rung.took(self.clock.monotonic() - before)
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
