"""One way to an answer, with what is asked of it."""

import contextlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast, final

from prodml._call import Guard, Invoke, Steps, protect
from prodml.errors import BadConfiguration, RejectedAnswer
from prodml.resilience._bounds import seconds

__all__ = ["Rung"]

T_co = TypeVar("T_co", covariant=True)

# Calls after which a rung's usual time is known.
_ENOUGH = 20


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
    breaker
        A :class:`CircuitBreaker`, or any other guard: asked before, told after.  It hears
        of a refused answer as of a failure.
    timeout
        Seconds for the call; None means no limit of its own.
    needs
        Seconds that must be left for the rung to be tried; with less it is skipped.  None
        means what 95 % of its last 64 calls took, once 20 are known.  Each skip forgets the
        oldest of them, so a rung that was slow for a while is tried again.
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
    breaker: Guard[Any] | None = None
    timeout: float | None = None
    needs: float | None = None
    accept: Callable[[Any], object] | None = None
    _call: Callable[..., Any] = field(init=False, repr=False)
    _acall: Callable[..., Any] | None = field(init=False, repr=False)
    _took: deque[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        seconds(self, "timeout", optional=True)
        seconds(self, "needs", zero=True, optional=True)
        self._took = deque(maxlen=64)
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

    def steps(self, features: Any) -> Steps:
        """Steps of this rung behind its breaker, which hears of a refused answer too."""
        asked = self._asked(features)
        return asked if self.breaker is None else protect(self.breaker, asked)

    def _asked(self, features: Any) -> Steps:
        answer, error = yield self.invoke(features)
        return answer, self.refusal(answer) if error is None else error

    def took(self, seconds: float) -> None:
        """Learn that a call took so many seconds."""
        self._took.append(seconds)

    def fits(self, left: float) -> bool:
        """Whether an answer can be expected in the ``left`` seconds."""
        if self.needs is not None:
            return left >= self.needs
        known = sorted(self._took)
        if len(known) < _ENOUGH or known[math.ceil(0.95 * len(known)) - 1] <= left:
            return True
        with contextlib.suppress(IndexError):
            self._took.popleft()
        return False
