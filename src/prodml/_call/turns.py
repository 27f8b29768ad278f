"""Taking turns: who finds nobody at work works for all who wait; the others sleep.

No thread of its own and no polling: the work is done by one of those who want it done.
Callers of both colours wait for the same turn, each by a bell of its kind.  A bell that is
rung before its owner sleeps is not lost, and one that is rung twice rings once.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, TimerHandle

__all__ = ["Bell", "Seat", "TaskBell", "ThreadBell", "Turns", "atake_turns", "ring", "take_turns"]

S = TypeVar("S", bound="Seat")
S_contra = TypeVar("S_contra", bound="Seat", contravariant=True)


class ThreadBell:
    """Wakes a thread.

    Examples
    --------
    >>> bell = ThreadBell()
    >>> ring([bell, bell])
    >>> bell.wait(None)
    """

    __slots__: tuple[str, ...] = ("_gate",)

    home: ClassVar[None] = None

    def __init__(self) -> None:
        self._gate: threading.Lock = threading.Lock()
        self._gate.acquire()

    def wait(self, seconds: float | None) -> None:
        """Sleep until the bell rings, or for so many seconds."""
        self._gate.acquire(timeout=-1.0 if seconds is None else _possible(seconds))

    def ring(self) -> None:
        """Wake the thread."""
        # An open gate refuses to be opened: it was rung before.
        with suppress(RuntimeError):
            self._gate.release()


class TaskBell:
    """Wakes a task of the event loop ``home``."""

    __slots__: tuple[str, ...] = ("_rung", "_sleeper", "_timer", "home")

    def __init__(self, home: "AbstractEventLoop") -> None:
        self.home: AbstractEventLoop = home
        self._rung: bool = False
        self._sleeper: Future[None] | None = None
        self._timer: TimerHandle | None = None

    def wait(self, seconds: float | None) -> "Future[None]":
        """What to await until the bell rings, or for so many seconds."""
        self._sleeper = sleeper = self.home.create_future()
        if self._rung:
            # The others of the loop get a chance all the same.
            self._rung = False
            self.home.call_soon(self.ring)
        elif seconds is not None:
            self._timer = self.home.call_later(_possible(seconds), self.ring)
        return sleeper

    def ring(self) -> None:
        """Wake the task; only in the thread of its loop."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is None:
            self._rung = True
        elif not sleeper.done():
            sleeper.set_result(None)
        self.still()

    def still(self) -> None:
        """Ring no more by time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


Bell: TypeAlias = ThreadBell | TaskBell


def ring(bells: Iterable[Bell]) -> None:
    """Wake whoever sleeps by these bells, from any thread; every loop is called once."""
    by_home: dict[AbstractEventLoop, list[TaskBell]] = {}
    for bell in bells:
        if isinstance(bell, ThreadBell):
            bell.ring()
        else:
            by_home.setdefault(bell.home, []).append(bell)
    if by_home:
        _ring_tasks(by_home)


def _ring_tasks(by_home: "dict[AbstractEventLoop, list[TaskBell]]") -> None:
    from asyncio import _get_running_loop

    here = _get_running_loop()
    for home, bells in by_home.items():
        if home is here:
            _ring_here(bells)
            continue
        # A loop that is closed has no tasks any more.
        with suppress(RuntimeError):
            home.call_soon_threadsafe(_ring_here, bells)


def _ring_here(bells: list[TaskBell]) -> None:
    for bell in bells:
        bell.ring()


def _possible(seconds: float) -> float:
    return min(max(seconds, 0.0), threading.TIMEOUT_MAX)


class Seat(Protocol):
    """What one caller waits with."""

    called: bool
    done: bool


class Turns(Protocol[S_contra]):
    """Work that is done in turns, by those who want it done."""

    def join(self, seat: S_contra, bell: Bell) -> None:
        """Stand in line; ``seat.called`` says whether to advance before waiting."""
        ...

    def gathers(self, seat: S_contra) -> bool:
        """Whether a task should let the other tasks of its loop run before its first turn."""
        ...

    def advance(self, seat: S_contra) -> bool:
        """Take a turn if nobody has it; return whether there is nothing to wait for."""
        ...

    def patience(self, seat: S_contra) -> float | None:
        """Seconds to sleep at most before advancing again."""
        ...

    def leave(self, seat: S_contra) -> None:
        """Go away, however it ended; if nobody has the turn, call those who wait."""
        ...


def take_turns(turns: Turns[S], seat: S) -> None:
    """Work or wait in this thread until what ``seat`` wants is done."""
    bell = ThreadBell()
    turns.join(seat, bell)
    try:
        while not turns.advance(seat):
            bell.wait(turns.patience(seat))
    finally:
        turns.leave(seat)


async def atake_turns(turns: Turns[S], enter: Callable[[], S], finish: Callable[[S], Any]) -> Any:
    """Work or wait in this task until what ``enter()`` wants is done; return ``finish(seat)``.

    The seat is taken in the task itself: a coroutine that never runs holds none.
    """
    import asyncio

    home = asyncio.get_running_loop()
    seat = enter()
    if not seat.done:
        bell = TaskBell(home)
        turns.join(seat, bell)
        try:
            # Nobody waits here for a state: each pass lets others of the loop come in.
            while seat.called and turns.gathers(seat):  # noqa: ASYNC110
                await asyncio.sleep(0)
            while not turns.advance(seat):
                await bell.wait(turns.patience(seat))
        finally:
            bell.still()
            turns.leave(seat)
    return finish(seat)
