"""A single look before the steps: most of what a look finds needs no steps at all."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from prodml._call.guard import Guard
from prodml._call.steps import Steps
from prodml.types import MISS

__all__ = ["Peek", "apeek", "peek"]

_NOTHING: Final = object()


class Peek:
    """One guarded call, whose result may be the answer; else the steps are walked.

    What a flow's ``start`` may return in place of steps where a call that rarely fails and
    mostly answers comes first: the shell itself makes the call, without a generator.

    Parameters
    ----------
    guard
        Hears of the call; it must not be one that waits.
    get, aget
        The call in either colour; without ``aget`` a task makes it by ``get``, without
        ``get`` a thread goes on to ``rest``.
    arg
        What is asked for.
    """

    __slots__: tuple[str, ...] = ("aget", "arg", "get", "guard")

    def __init__(
        self,
        guard: Guard[Any],
        get: Callable[[Any], Any] | None,
        aget: Callable[[Any], Awaitable[Any]] | None,
        arg: Any,
    ) -> None:
        self.guard: Guard[Any] = guard
        self.get: Callable[[Any], Any] | None = get
        self.aget: Callable[[Any], Awaitable[Any]] | None = aget
        self.arg: Any = arg

    def judged(self, result: Any) -> Any:
        """What ``result`` means: an answer, or MISS; never raises."""
        raise NotImplementedError

    def broken(self, error: Exception) -> None:
        """Note an error of the guard or the call, which goes no further."""
        raise NotImplementedError

    def rest(self) -> Steps:
        """Steps to the answer if the look gave none."""
        raise NotImplementedError

    def enter(self) -> Any:
        """The guard's token, or what says that it rejects."""
        try:
            return self.guard.enter()
        except Exception as error:
            self.broken(error)
            return _NOTHING

    def fail(self, token: Any, error: BaseException) -> None:
        """Tell guard and owner; what is no ``Exception`` goes on."""
        self.guard.fail(token, error)
        if isinstance(error, Exception):
            self.broken(error)

    def leave(self, token: Any, result: Any) -> Any:
        """Tell the guard; give the answer or MISS."""
        self.guard.leave(token, result)
        return self.judged(result)


def peek(look: Peek) -> Any:
    """Look from a thread; MISS if that gave no answer."""
    get = look.get
    token = _NOTHING if get is None else look.enter()
    if get is None or token is _NOTHING:
        return MISS
    try:
        result = get(look.arg)
    except BaseException as error:
        look.fail(token, error)
        if isinstance(error, Exception):
            return MISS
        raise
    return look.leave(token, result)


async def apeek(look: Peek) -> Any:
    """Look from a task; MISS if that gave no answer."""
    aget = look.aget
    if aget is None:
        return peek(look)
    token = look.enter()
    if token is _NOTHING:
        return MISS
    try:
        result = await aget(look.arg)
    except BaseException as error:
        look.fail(token, error)
        if isinstance(error, Exception):
            return MISS
        raise
    return look.leave(token, result)
