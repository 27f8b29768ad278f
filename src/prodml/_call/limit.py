"""A time limit on awaiting, as ``asyncio.timeout`` sets one, at half its price."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from prodml.errors import DeadlineExceeded

__all__ = ["limited"]

T = TypeVar("T")


class _Alarm:
    """Cancels ``task`` when it rings, and remembers that it was the one who did."""

    __slots__: tuple[str, ...] = ("rang", "task")

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.task: asyncio.Task[Any] = task
        self.rang: bool = False

    def ring(self) -> None:
        self.rang = True
        self.task.cancel()


async def limited(awaited: Awaitable[T], seconds: float, what: object) -> T:
    """Await for at most ``seconds``, then cancel and raise ``DeadlineExceeded``.

    As in ``asyncio.timeout``, a cancellation from outside stays one, also when both come
    together, and the callee's own ``TimeoutError`` is its answer.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a time limit needs a task: await this inside one")
    others = task.cancelling()
    alarm = _Alarm(task)
    handle = task.get_loop().call_later(seconds, alarm.ring)
    try:
        return await awaited
    except asyncio.CancelledError:
        if alarm.rang and task.uncancel() <= others:
            alarm.rang = False
            raise DeadlineExceeded(_name(what), seconds) from None
        alarm.rang = False
        raise
    finally:
        handle.cancel()
        if alarm.rang:
            # It rang, but the call has ended in another way: take the cancellation back.
            task.uncancel()


def _name(what: object) -> str:
    return getattr(what, "__qualname__", repr(what))
