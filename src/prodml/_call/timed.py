"""Flows that set a deadline, with shells of their own for the usual kinds."""

import functools
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import Any

from prodml._call.flow import FLOW_SHELLS, Flow
from prodml._call.kinds import Kind, name_of, refuse_coroutine
from prodml._call.steps import Invoke, Steps
from prodml._call.walk import arun, run
from prodml._deadline import CURRENT, Limit, narrow, restore, use
from prodml._workers import WORKERS

__all__ = ["DeadlineFlow", "TimedFlow"]

_Fn = Callable[..., Any]
_Shells = Mapping[Kind, Callable[[Any, _Fn], _Fn]]


class DeadlineFlow(Flow):
    """Makes one call, and tells everything inside that it has ``seconds``."""

    __slots__: tuple[str, ...] = ()

    seconds: float

    def steps(self, fn: _Fn, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
        """Make the one call, under the narrowed deadline."""
        before = narrow(self.seconds, self.clock)
        try:
            return (yield self.step(Invoke(fn, args, kwargs)))
        finally:
            restore(before)

    def step(self, call: Invoke) -> Invoke:
        """What becomes of the call."""
        return call

    @property
    def _shells(self) -> _Shells:
        return _DEADLINE_SHELLS


class TimedFlow(DeadlineFlow):
    """Makes one call, for at most ``seconds`` and no longer than the request has left."""

    __slots__: tuple[str, ...] = ()

    def step(self, call: Invoke) -> Invoke:
        """The same call, cut off in time."""
        return Invoke(call.fn, call.args, call.kwargs, timeout=self.seconds)

    @property
    def _shells(self) -> _Shells:
        return _TIMED_SHELLS


# The shells write out what ``steps`` do where no outer deadline ends first; else, and when
# it has ended already, the long way is gone.


def _deadline_plain(flow: DeadlineFlow, fn: _Fn) -> _Fn:
    use()
    clock, deadline = flow.clock, CURRENT.get

    @functools.wraps(fn)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        outer, seconds = deadline(), flow.seconds
        if outer is not None and outer.left() <= seconds:
            return run(flow.steps(fn, args, kwargs), clock)
        before = CURRENT.set(Limit(clock.monotonic() + seconds, clock, seconds))
        try:
            result = fn(*args, **kwargs)
        finally:
            restore(before)
        if type(result) is CoroutineType:
            refuse_coroutine(result)
        return result

    return bounded


def _deadline_coroutine(flow: DeadlineFlow, fn: _Fn) -> _Fn:
    use()
    clock, deadline = flow.clock, CURRENT.get

    @functools.wraps(fn)
    async def bounded(*args: Any, **kwargs: Any) -> Any:
        outer, seconds = deadline(), flow.seconds
        if outer is not None and outer.left() <= seconds:
            return await arun(flow.steps(fn, args, kwargs), clock)
        before = CURRENT.set(Limit(clock.monotonic() + seconds, clock, seconds))
        try:
            return await fn(*args, **kwargs)
        finally:
            restore(before)

    return bounded


def _timed_plain(flow: TimedFlow, fn: _Fn) -> _Fn:
    use()
    clock, deadline, name = flow.clock, CURRENT.get, name_of(fn)

    @functools.wraps(fn)
    def cut(*args: Any, **kwargs: Any) -> Any:
        outer, seconds = deadline(), flow.seconds
        if outer is not None and outer.left() <= seconds:
            return run(flow.steps(fn, args, kwargs), clock)
        before = CURRENT.set(Limit(clock.monotonic() + seconds, clock, seconds))
        try:
            result = WORKERS.run(fn, args, kwargs, seconds, name)
        finally:
            restore(before)
        if type(result) is CoroutineType:
            refuse_coroutine(result)
        return result

    return cut


def _timed_coroutine(flow: TimedFlow, fn: _Fn) -> _Fn:
    # Whoever decorates a coroutine function has asyncio loaded already.
    from prodml._call.limiting import limiting

    return limiting(flow, fn)


_DEADLINE_SHELLS: _Shells = {
    **FLOW_SHELLS,
    Kind.PLAIN: _deadline_plain,
    Kind.COROUTINE: _deadline_coroutine,
}
_TIMED_SHELLS: _Shells = {
    **FLOW_SHELLS,
    Kind.PLAIN: _timed_plain,
    Kind.COROUTINE: _timed_coroutine,
}
