"""The shell of a time limit around a coroutine function, in one coroutine."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from prodml._call.kinds import name_of
from prodml._call.limit import Alarm
from prodml._call.steps import Steps
from prodml._call.walk import arun
from prodml._deadline import CURRENT, Limit, restore, use
from prodml.clock import Clock
from prodml.errors import DeadlineExceeded

__all__ = ["limiting"]


class Timed(Protocol):
    """A flow that gives a call so many seconds."""

    @property
    def seconds(self) -> float:
        """Time for one call."""
        ...

    @property
    def clock(self) -> Clock:
        """Tells the layers below how much is left."""
        ...

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """The long way."""
        ...


def limiting(flow: Timed, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Shell of ``flow`` for a coroutine function: :func:`limited`, in one coroutine."""
    use()
    clock, deadline, name = flow.clock, CURRENT.get, name_of(fn)

    @functools.wraps(fn)
    async def cut(*args: Any, **kwargs: Any) -> Any:
        outer, seconds = deadline(), flow.seconds
        if outer is not None and outer.left() <= seconds:
            # The outer one ends first, and may have ended: the long way knows all that.
            return await arun(flow.steps(fn, args, kwargs), clock)
        limit = Limit(clock.monotonic() + seconds, clock, seconds)
        before, alarm = CURRENT.set(limit), Alarm(seconds)
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            alarm.off()
            if alarm.rang and alarm.took(error):
                raise DeadlineExceeded(name, seconds) from None
            raise
        finally:
            restore(before)
        alarm.off()
        if alarm.rang:
            alarm.took(None)
        return result

    return cut
