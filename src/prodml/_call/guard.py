"""Guards: may this call pass, and how did it end?"""

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from enum import Enum
from types import CoroutineType, GeneratorType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast

from prodml._call.blocks import pop, push
from prodml._call.invoke import refuse_late
from prodml._call.kinds import Kind, kind_of, refuse_coroutine
from prodml._call.steps import Step, Steps
from prodml._call.stream import OpenStream
from prodml._call.walk import arun, run
from prodml.clock import Clock

__all__ = ["GUARD_SHELLS", "NO_RESULT", "Guard", "WaitingGuard", "protect"]

P = ParamSpec("P")
R = TypeVar("R")
TokenT = TypeVar("TokenT")


class _NoResult(Enum):
    """Stands for the result of what has none: a block, a generator."""

    NO_RESULT = "no result"


NO_RESULT: Final = _NoResult.NO_RESULT
"""Told to ``leave`` where there is no result to be judged."""


class Guard(Generic[TokenT]):
    """Stands before a call and hears how it ended.

    Subclasses implement :meth:`enter`, :meth:`leave` and :meth:`fail` and get the
    decorator for all four kinds of function, ``call``, ``acall``, ``with`` and
    ``async with``.

    Examples
    --------
    >>> class Count(Guard[None]):
    ...     calls = 0
    ...     def enter(self) -> None:
    ...         self.calls += 1
    ...     def leave(self, token: None, result: object) -> None: ...
    ...     def fail(self, token: None, error: BaseException) -> None: ...
    >>> count = Count()
    >>> count(abs)(-2), count.call(abs, -3), count.calls
    (2, 3, 2)
    """

    __slots__: tuple[str, ...] = ()

    def enter(self) -> TokenT:
        """Admit the call and return its token, or raise a ``Rejected``."""
        raise NotImplementedError

    def leave(self, token: TokenT, result: Any) -> None:
        """Note that the call returned ``result``; never raises.

        Blocks and generators have no result to be judged: they give ``NO_RESULT``.
        """
        raise NotImplementedError

    def fail(self, token: TokenT, error: BaseException) -> None:
        """Note that the call raised, or (not an ``Exception``) was abandoned; never raises."""
        raise NotImplementedError

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Protect ``fn`` of any kind; the result is a plain function of its signature."""
        return cast("Callable[P, R]", self._shells[kind_of(fn)](self, fn))

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn(*args, **kwargs)`` protected."""
        token = self.enter()
        try:
            result = fn(*args, **kwargs)
            refuse_coroutine(result)
        except BaseException as error:
            self.fail(token, error)
            raise
        self.leave(token, result)
        return result

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await ``fn(*args, **kwargs)`` protected."""
        token = await self.aenter()
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            self.fail(token, error)
            raise
        self.leave(token, result)
        return result

    def __enter__(self) -> Self:
        push(self, self.enter())
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._end(pop(self), error)

    async def __aenter__(self) -> Self:
        push(self, await self.aenter())
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._end(pop(self), error)

    def _end(self, token: TokenT, error: BaseException | None) -> None:
        if error is None:
            self.leave(token, NO_RESULT)
        else:
            self.fail(token, error)

    # What a guard that may wait does otherwise.

    async def aenter(self) -> TokenT:
        return self.enter()

    def admission(self) -> "TokenT | Steps":
        return self.enter()

    @property
    def _shells(self) -> "Mapping[Kind, _Shell]":
        return GUARD_SHELLS


class WaitingGuard(Guard[TokenT]):
    """A guard before which a call may queue: it gives a token, or the steps to one.

    Subclasses implement :meth:`admit` instead of :meth:`Guard.enter`.  Its steps end as
    every flow does: with ``(token, None)`` or with ``(None, rejection)``.  If the call goes
    away while it waits, the steps are closed: ``finally`` in them gives the place back.

    Examples
    --------
    >>> from prodml._call import Pause
    >>> from prodml.testing import ManualClock
    >>> class Slow(WaitingGuard[None]):
    ...     clock = ManualClock()
    ...     def admit(self):
    ...         return self._in_a_second()
    ...     def _in_a_second(self):
    ...         yield Pause(1.0)
    ...         return None, None
    ...     def leave(self, token: None, result: object) -> None: ...
    ...     def fail(self, token: None, error: BaseException) -> None: ...
    >>> slow = Slow()
    >>> slow(abs)(-2), slow.clock.slept
    (2, [1.0])
    """

    __slots__: tuple[str, ...] = ()

    clock: Clock

    def admit(self) -> TokenT | Steps:
        """Admit the call, raise a ``Rejected``, or return the steps of waiting."""
        raise NotImplementedError

    def enter(self) -> TokenT:
        """Admit the call as soon as may be, waiting in this thread."""
        token = self.admit()
        return cast("TokenT", run(token, self.clock) if isinstance(token, GeneratorType) else token)

    async def aenter(self) -> TokenT:
        token = self.admit()
        if isinstance(token, GeneratorType):
            return cast("TokenT", await arun(token, self.clock))
        return cast("TokenT", token)

    def admission(self) -> TokenT | Steps:
        return self.admit()

    @property
    def _shells(self) -> "Mapping[Kind, _Shell]":
        return _WAITING_SHELLS


def protect(guard: Guard[Any], inner: "Step | Steps") -> Steps:
    """Steps of ``inner`` behind ``guard``: ``outcome = yield from protect(guard, inner)``.

    ``inner`` is one step, or the steps of a part of a flow.  A rejection is an outcome
    like any other error.  A request whose time is over is not the callee's failure, so the
    guard does not hear of it.
    """
    try:
        refuse_late()
        token = guard.admission()
    except Exception as rejected:
        return None, rejected
    if isinstance(token, GeneratorType):
        token, refusal = yield from token
        if refusal is not None:
            return None, refusal
    try:
        if isinstance(inner, Generator):
            result, error = yield from inner
        else:
            result, error = yield inner
    except BaseException as gone:
        guard.fail(token, gone)
        raise
    if error is None:
        guard.leave(token, result)
    else:
        guard.fail(token, error)
    return result, error


# -- shells -----------------------------------------------------------------------------

_Fn = Callable[..., Any]
_Shell = Callable[[Guard[Any], _Fn], _Fn]


def _guard_plain(guard: Guard[Any], fn: _Fn) -> _Fn:
    enter, leave, fail = guard.enter, guard.leave, guard.fail

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        token = enter()
        try:
            result = fn(*args, **kwargs)
            if type(result) is CoroutineType:
                refuse_coroutine(result)
        except BaseException as error:
            fail(token, error)
            raise
        leave(token, result)
        return result

    return guarded


def _guard_coroutine(guard: Guard[Any], fn: _Fn) -> _Fn:
    enter, leave, fail = guard.enter, guard.leave, guard.fail

    @functools.wraps(fn)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        token = enter()
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            fail(token, error)
            raise
        leave(token, result)
        return result

    return guarded


def _waiting_coroutine(guard: Guard[Any], fn: _Fn) -> _Fn:
    waiting = cast("WaitingGuard[Any]", guard)
    admit, leave, fail = waiting.admit, waiting.leave, waiting.fail

    @functools.wraps(fn)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        token = admit()
        if isinstance(token, GeneratorType):
            token = await arun(token, waiting.clock)
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            fail(token, error)
            raise
        leave(token, result)
        return result

    return guarded


def _guard_generator(guard: Guard[Any], fn: _Fn) -> _Fn:
    enter, leave, fail = guard.enter, guard.leave, guard.fail

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        token = enter()
        try:
            result = yield from fn(*args, **kwargs)
        except BaseException as error:
            fail(token, error)
            raise
        leave(token, NO_RESULT)
        return result

    return guarded


def _guard_async_generator(guard: Guard[Any], fn: _Fn) -> _Fn:
    @functools.wraps(fn)
    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        token = await guard.aenter()
        stream = OpenStream(fn(*args, **kwargs))
        try:
            await stream.open()
            # ``yield from`` does not exist here, so each message is passed on by hand.
            while not stream.ended:
                try:
                    sent = yield stream.item
                except GeneratorExit:
                    await stream.source.aclose()
                    raise
                except BaseException as thrown:
                    await stream.throw(thrown)
                else:
                    await stream.send(sent)
        except BaseException as error:
            guard.fail(token, error)
            raise
        guard.leave(token, NO_RESULT)

    return guarded


GUARD_SHELLS: Mapping[Kind, _Shell] = {
    Kind.PLAIN: _guard_plain,
    Kind.COROUTINE: _guard_coroutine,
    Kind.GENERATOR: _guard_generator,
    Kind.ASYNC_GENERATOR: _guard_async_generator,
}
_WAITING_SHELLS: Mapping[Kind, _Shell] = {**GUARD_SHELLS, Kind.COROUTINE: _waiting_coroutine}
