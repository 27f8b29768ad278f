"""The flow that gives a call so many seconds, with shells of its own for the usual kinds."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from prodml._call.flow import FLOW_SHELLS, Flow
from prodml._call.kinds import Kind
from prodml._call.steps import Invoke, Steps
from prodml._call.walk import run
from prodml._deadline import CURRENT, Limit, narrow, restore
from prodml._workers import WORKERS

__all__ = ["TimedFlow"]

_Fn = Callable[..., Any]


class TimedFlow(Flow):
    """Makes one call, for at most ``seconds`` and no longer than the request has left."""

    __slots__: tuple[str, ...] = ()

    seconds: float

    def steps(self, fn: _Fn, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
        """Make the one call, under the narrowed deadline."""
        before = narrow(self.seconds, self.clock)
        try:
            return (yield Invoke(fn, args, kwargs, timeout=self.seconds))
        finally:
            restore(before)

    @property
    def _shells(self) -> "Mapping[Kind, Callable[[Any, _Fn], _Fn]]":
        return _TIMED_SHELLS


def _timed_plain(flow: TimedFlow, fn: _Fn) -> _Fn:
    clock, deadline = flow.clock, CURRENT.get

    @functools.wraps(fn)
    def cut(*args: Any, **kwargs: Any) -> Any:
        if deadline() is not None:
            return run(flow.steps(fn, args, kwargs), clock)
        seconds = flow.seconds
        before = CURRENT.set(Limit(clock.monotonic() + seconds, clock, seconds))
        try:
            return WORKERS.run(fn, args, kwargs, seconds)
        finally:
            CURRENT.reset(before)

    return cut


def _timed_coroutine(flow: TimedFlow, fn: _Fn) -> _Fn:
    # Whoever decorates a coroutine function has asyncio loaded already.
    from prodml._call.limiting import limiting

    return limiting(flow, fn)


_TIMED_SHELLS: Mapping[Kind, Callable[[Any, _Fn], _Fn]] = {
    **FLOW_SHELLS,
    Kind.PLAIN: _timed_plain,
    Kind.COROUTINE: _timed_coroutine,
}
