"""What a flow can ask for, one step at a time."""

from collections.abc import Awaitable, Callable, Generator, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, TypeAlias

__all__ = ["Invoke", "Outcome", "Pause", "Race", "Spawn", "Step", "Steps", "Wait"]

_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})


class Invoke:
    """Step: call ``fn(*args, **kwargs)``, for at most ``timeout`` seconds.

    ``acall`` is the same call for the other colour: an awaiting shell prefers it.  Without
    one, an awaiting shell calls ``fn`` and awaits what it returns if that is awaitable; a
    plain ``fn`` then runs in the event loop's thread, or on a worker if it has a timeout.
    """

    __slots__: tuple[str, ...] = ("acall", "args", "fn", "kwargs", "timeout")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = _NO_KWARGS,
        *,
        timeout: float | None = None,
        acall: Callable[..., Awaitable[Any]] | None = None,
    ) -> None:
        self.fn: Callable[..., Any] = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: Mapping[str, Any] = kwargs
        self.timeout: float | None = timeout
        self.acall: Callable[..., Awaitable[Any]] | None = acall


class Pause:
    """Step: do nothing for ``seconds``."""

    __slots__: tuple[str, ...] = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds


class Wait:
    """Step: wait for ``future``, which somebody else settles, at most ``timeout`` seconds.

    Cancelling the waiter leaves the future alone: others may wait for it too.
    """

    __slots__: tuple[str, ...] = ("future", "timeout")

    def __init__(self, future: "Future[Any]", timeout: float | None = None) -> None:
        self.future: Future[Any] = future
        self.timeout: float | None = timeout


class Race:
    """Step: make ``call``, and again side by side while it is slow; the first answer counts.

    After ``delay()`` seconds without an answer ``again()`` is asked for another call: an
    :class:`Invoke`, or None when there shall be no more; an infinite delay means never.  The
    outcome's result is ``(call, answer)``, so a flow knows who has won.  The losers are
    cancelled, or left behind on their threads where code is plain.  An error counts when
    no other call is under way; if all have failed, that of the first call is told.
    """

    __slots__: tuple[str, ...] = ("again", "call", "delay")

    def __init__(
        self, call: Invoke, delay: Callable[[], float], again: Callable[[], Invoke | None]
    ) -> None:
        self.call: Invoke = call
        self.delay: Callable[[], float] = delay
        self.again: Callable[[], Invoke | None] = again


class Spawn:
    """Step: begin to walk through ``make()`` behind the caller's back, and go on at once.

    It runs on a worker thread, or as a task where the caller awaits, in a copy of the
    caller's context without the request's deadline.  The outcome's result is None; its error
    says that nothing was begun, since too much is under way.  Nobody waits for the end or
    hears how it went, so its own steps must tell whoever is to know.
    """

    __slots__: tuple[str, ...] = ("make",)

    def __init__(self, make: "Callable[[], Steps]") -> None:
        self.make: Callable[[], Steps] = make


Step: TypeAlias = Invoke | Pause | Wait | Race | Spawn
Outcome: TypeAlias = tuple[Any, Exception | None]
Steps: TypeAlias = Generator[Step, Outcome, Outcome]
