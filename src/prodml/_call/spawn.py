"""Steps that are walked through behind the caller's back: nobody waits for their end.

At the end of an event loop its tasks are cancelled, so a flow that was under way is closed
like every abandoned one: what it holds, it gives back in ``finally``.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from prodml._deadline import CURRENT
from prodml._workers import WORKERS
from prodml.errors import BulkheadFull

if TYPE_CHECKING:
    import asyncio

__all__ = ["BEHIND", "Background"]

_LOG: Final = logging.getLogger("prodml.call")

Walk: TypeAlias = Callable[[], object]
AsyncWalk: TypeAlias = Callable[[], Awaitable[object]]


class Background:
    """Flows under way behind their callers' backs, at most ``most`` of them.

    Examples
    --------
    >>> from threading import Event
    >>> done = Event()
    >>> Background().spawn(done.set)
    >>> done.wait(10)
    True
    """

    def __init__(self, most: int = 64) -> None:
        self.most: int = most
        self._threads: set[object] = set()
        # A task that nobody refers to may be collected before its end.
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._threads) + len(self._tasks)

    def spawn(self, walk: Walk) -> None:
        """Call ``walk`` on a worker thread.

        Raises
        ------
        BulkheadFull
            Too many flows are under way.
        """
        self._admit()
        place = object()
        self._threads.add(place)
        try:
            WORKERS.submit(self._walk, (walk, place), {})
        except BaseException:
            self._threads.discard(place)
            raise

    def aspawn(self, walk: AsyncWalk) -> None:
        """Await ``walk()`` in a task of this event loop; raises as :meth:`spawn`."""
        from asyncio import get_running_loop

        self._admit()
        task = get_running_loop().create_task(_awaited(walk))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self) -> None:
        """Start afresh in a forked child, where neither threads nor tasks go on."""
        self._threads = set()
        self._tasks = set()

    def _admit(self) -> None:
        if len(self) < self.most:
            return
        for task in [task for task in self._tasks if task.get_loop().is_closed()]:
            self._tasks.discard(task)
        if len(self) >= self.most:
            raise BulkheadFull("background calls", self.most)

    def _walk(self, walk: Walk, place: object) -> None:
        try:
            # The request that began this may be over long before.
            CURRENT.set(None)
            walk()
        except Exception as error:
            _report(error)
        finally:
            self._threads.discard(place)


async def _awaited(walk: AsyncWalk) -> None:
    CURRENT.set(None)
    try:
        await walk()
    except Exception as error:
        _report(error)


def _report(error: Exception) -> None:
    what: Any = (type(error), error, error.__traceback__)
    _LOG.warning("a call in the background failed", exc_info=what)


BEHIND: Background = Background()
"""The process-wide one."""

os.register_at_fork(after_in_child=BEHIND.forget)
