"""A time limit on awaiting, as ``asyncio.timeout`` sets one, at half its price.

As there, a cancellation from outside stays one, also when both come together, and the
callee's own ``TimeoutError`` is its answer.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from prodml._call.kinds import name_of
from prodml.errors import DeadlineExceeded

__all__ = ["Alarm", "limited"]

T = TypeVar("T")


class Alarm:
    """Cancels the present task when it rings, and remembers that it was the one who did."""

    __slots__: tuple[str, ...] = ("_handle", "_others", "_task", "rang")

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task: await this inside one")
        self._task: asyncio.Task[Any] = task
        self._others: int = task.cancelling()
        self.rang: bool = False
        self._handle: asyncio.TimerHandle = task.get_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self.rang = True
        self._task.cancel()

    def off(self) -> None:
        """Stop the clock."""
        self._handle.cancel()

    def took(self, error: BaseException | None) -> bool:
        """Take back the cancellation after it rang; whether ``error`` was due to it alone."""
        alone = self._task.uncancel() <= self._others
        return alone and isinstance(error, asyncio.CancelledError)


async def limited(awaited: Awaitable[T], seconds: float, what: object) -> T:
    """Await for at most ``seconds``, then cancel and raise ``DeadlineExceeded``."""
    alarm = Alarm(seconds)
    try:
        result = await awaited
    except BaseException as error:
        alarm.off()
        if alarm.rang and alarm.took(error):
            raise DeadlineExceeded(name_of(what), seconds) from None
        raise
    alarm.off()
    if alarm.rang:
        alarm.took(None)
    return result
