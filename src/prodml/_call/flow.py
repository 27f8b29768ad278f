"""Flows: which calls, in which order, with which pauses?"""

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from prodml._call.kinds import Kind, kind_of
from prodml._call.peek import Peek, apeek, peek
from prodml._call.steps import Steps
from prodml._call.stream import OpenItems, OpenStream
from prodml._call.walk import arun, run
from prodml.clock import Clock
from prodml.types import MISS

__all__ = ["FLOW_SHELLS", "Flow", "awaiting", "opening"]

P = ParamSpec("P")
R = TypeVar("R")


class Flow:
    """Decides which calls are made, in which order, with which pauses.

    Subclasses implement :meth:`steps`; one that may know the answer without any step
    overrides :meth:`start`.  Generators are covered at their opening only: once an item
    has been handed on, it cannot be taken back.

    Examples
    --------
    >>> from prodml._call import Invoke
    >>> from prodml.clock import SYSTEM_CLOCK
    >>> class Twice(Flow):
    ...     clock = SYSTEM_CLOCK
    ...     def steps(self, fn, args, kwargs):
    ...         yield Invoke(fn, args, kwargs)
    ...         return (yield Invoke(fn, args, kwargs))
    >>> heard = []
    >>> Twice()(heard.append)("x")
    >>> heard
    ['x', 'x']
    """

    __slots__: tuple[str, ...] = ()

    clock: Clock

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Steps around ``fn(*args, **kwargs)``."""
        raise NotImplementedError

    def start(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Steps | Peek | None]:
        """Return ``(answer, None)`` if it is known at once, else ``(None, steps)``.

        A :class:`Peek` in place of steps looks once, and has the steps for when it sees nothing.
        """
        return None, self.steps(fn, args, kwargs)

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Put the flow around ``fn`` of any kind; the result has its signature."""
        return cast("Callable[P, R]", self._shells[kind_of(fn)](self, fn))

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow around ``fn(*args, **kwargs)``."""
        answer, steps = self.start(fn, args, kwargs)
        return cast("R", answer if steps is None else _walk(steps, self.clock))

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow around ``await fn(*args, **kwargs)``."""
        answer, steps = self.start(fn, args, kwargs)
        return cast("R", answer if steps is None else await _awalk(steps, self.clock))

    @property
    def known(self) -> Callable[[tuple[Any, ...]], Any] | None:
        """A short way to the answer of a call with these positional arguments, if there is one.

        It may give ``MISS``, or raise an ``Exception``: then :meth:`start` is asked.
        """
        return None

    @property
    def _shells(self) -> "Mapping[Kind, Callable[[Flow, Callable[..., Any]], Callable[..., Any]]]":
        return FLOW_SHELLS


def _walk(steps: Steps | Peek, clock: Clock) -> Any:
    if isinstance(steps, Peek):
        value = peek(steps)
        if value is not MISS:
            return value
        steps = steps.rest()
    return run(steps, clock)


async def _awalk(steps: Steps | Peek, clock: Clock) -> Any:
    if isinstance(steps, Peek):
        value = await apeek(steps)
        if value is not MISS:
            return value
        steps = steps.rest()
    return await arun(steps, clock)


def _flow_plain(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    start, clock, known = flow.start, flow.clock, flow.known

    if known is not None:

        @functools.wraps(fn)
        def knowing(*args: Any, **kwargs: Any) -> Any:
            if not kwargs:
                try:
                    value = known(args)
                except Exception:
                    value = MISS
                if value is not MISS:
                    return value
            answer, steps = start(fn, args, kwargs)
            return answer if steps is None else _walk(steps, clock)

        return knowing

    @functools.wraps(fn)
    def flowing(*args: Any, **kwargs: Any) -> Any:
        answer, steps = start(fn, args, kwargs)
        return answer if steps is None else _walk(steps, clock)

    return flowing


def _flow_coroutine(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    start, clock, known = flow.start, flow.clock, flow.known

    if known is not None:

        @functools.wraps(fn)
        async def knowing(*args: Any, **kwargs: Any) -> Any:
            if not kwargs:
                try:
                    value = known(args)
                except Exception:
                    value = MISS
                if value is not MISS:
                    return value
            answer, steps = start(fn, args, kwargs)
            return answer if steps is None else await _awalk(steps, clock)

        return knowing

    @functools.wraps(fn)
    async def flowing(*args: Any, **kwargs: Any) -> Any:
        answer, steps = start(fn, args, kwargs)
        return answer if steps is None else await _awalk(steps, clock)

    return flowing


def opening(fn: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    """What goes to the first item of ``fn`` in a stream of ``kind``.

    A function that is no generator makes a stream of its one answer.
    """
    own = kind_of(fn)
    if kind is Kind.GENERATOR:
        source = fn if own is Kind.GENERATOR else _alone(fn)
        return functools.partial(_opened, source)
    return functools.partial(_opened_async, fn if own is Kind.ASYNC_GENERATOR else _alone_async(fn))


def awaiting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function that awaits what the plain ``fn`` returns."""

    @functools.wraps(fn)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return awaited


def _opened(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> OpenItems:
    return OpenItems(fn(*args, **kwargs)).open()


async def _opened_async(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> OpenStream:
    return await OpenStream(fn(*args, **kwargs)).open()


def _alone(fn: Callable[..., Any]) -> Callable[..., Any]:
    def stream(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        yield fn(*args, **kwargs)

    return stream


def _alone_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        answer = fn(*args, **kwargs)
        yield (await answer) if inspect.isawaitable(answer) else answer

    return stream


def _flow_generator(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    opened = opening(fn, Kind.GENERATOR)

    @functools.wraps(fn)
    def flowing(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        items: OpenItems = run(flow.steps(opened, args, kwargs), flow.clock)
        return (yield from items.rest())

    return flowing


def _flow_async_generator(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    opened = opening(fn, Kind.ASYNC_GENERATOR)

    @functools.wraps(fn)
    async def flowing(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        stream = await arun(flow.steps(opened, args, kwargs), flow.clock)
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

    return flowing


FLOW_SHELLS: Mapping[Kind, Callable[[Flow, Callable[..., Any]], Callable[..., Any]]] = {
    Kind.PLAIN: _flow_plain,
    Kind.COROUTINE: _flow_coroutine,
    Kind.GENERATOR: _flow_generator,
    Kind.ASYNC_GENERATOR: _flow_async_generator,
}
