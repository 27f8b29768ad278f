"""The hallway: every call of the house passes here, and so does every ``await``.

A pattern is written once, as a :class:`Guard` (before and after a call) or as a
:class:`Flow` (which calls, in which order, with which pauses), and the shells below make
it work on plain functions, coroutine functions, generators and async generators.

A **guard** answers *may this call pass, and how did it end?*  It never waits and never
calls.  There are three endings: ``leave`` (returned), ``fail`` with an ``Exception``
(raised), and ``fail`` with any other ``BaseException`` (abandoned: cancelled, interrupted,
generator closed), which gives the permit back and counts nothing.

A **flow** is a generator of steps.  It is told each step's outcome as a value
``(result, error)`` and returns such a pair; the shell raises.  Sending errors as values
keeps flows free of ``try`` and immune to ``StopIteration`` inside generators.  When a step
is abandoned the shell closes the flow, so ``try/finally`` there gives permits back.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from enum import Enum
from types import CoroutineType, FunctionType, MappingProxyType, MethodType
from typing import Any, Generic, ParamSpec, Self, TypeAlias, TypeVar, cast

from prodml._deadline import expired, remaining
from prodml._workers import WORKERS
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import DeadlineExceeded

__all__ = [
    "Flow",
    "Guard",
    "Invoke",
    "Kind",
    "Outcome",
    "Pause",
    "Step",
    "Steps",
    "Wait",
    "abandoned",
    "arun",
    "kind_of",
    "protect",
    "run",
]

P = ParamSpec("P")
R = TypeVar("R")
TokenT = TypeVar("TokenT")

_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})


# -- what can be called -----------------------------------------------------------------


class Kind(Enum):
    """The four kinds of function that a shell exists for."""

    PLAIN = "def"
    COROUTINE = "async def"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


def kind_of(fn: Callable[..., Any]) -> Kind:
    """Kind of ``fn``, seen through partials, methods and callable objects.

    Decided once, at decoration: a coroutine function that is mistaken for a plain one
    counts its coroutine as a success and is never protected.

    Raises
    ------
    TypeError
        ``fn`` cannot be protected: not callable, a class, or a bare descriptor.

    Examples
    --------
    >>> kind_of(len).value
    'def'
    """
    target: Any = fn
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, (staticmethod, classmethod)):
        message = f"cannot protect {fn!r}: put @{type(target).__name__} above this decorator"
        raise TypeError(message)
    if isinstance(target, type) or not callable(target):
        raise TypeError(f"cannot protect {fn!r}: decorate a function, not {type(target).__name__}")
    if not isinstance(target, (FunctionType, MethodType)) and not inspect.isbuiltin(target):
        target = type(target).__call__
    if inspect.isasyncgenfunction(target):
        return Kind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(target):
        return Kind.COROUTINE
    if inspect.isgeneratorfunction(target):
        return Kind.GENERATOR
    return Kind.PLAIN


def abandoned(error: BaseException) -> bool:
    """Whether ``error`` says nothing about the callee: cancelled, interrupted, closed.

    Examples
    --------
    >>> abandoned(KeyboardInterrupt()), abandoned(ValueError())
    (True, False)
    """
    return not isinstance(error, Exception)


class _AsyncInSync(TypeError):
    """A synchronous shell was handed a coroutine."""


def _refuse_coroutine(result: Any) -> None:
    if type(result) is CoroutineType:
        name = result.__qualname__
        result.close()
        raise _AsyncInSync(f"{name} is async: use the awaiting form (acall, apredict)")


# -- guards -----------------------------------------------------------------------------

# Open ``with`` blocks of this thread or task, innermost first: (guard, token, rest).
_OPEN: ContextVar[Any] = ContextVar("prodml_open_guards", default=None)


def _push(guard: object, token: Any) -> None:
    _OPEN.set((guard, token, _OPEN.get()))


def _pop(guard: object) -> Any:
    stack, above = _OPEN.get(), list[Any]()
    while stack is not None and stack[0] is not guard:
        above.append(stack)
        stack = stack[2]
    if stack is None:
        raise RuntimeError(f"{guard!r} was not entered in this thread or task")
    rest = stack[2]
    for entry in reversed(above):
        rest = (entry[0], entry[1], rest)
    _OPEN.set(rest)
    return stack[1]


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
        """Note that the call returned ``result``; never raises."""
        raise NotImplementedError

    def fail(self, token: TokenT, error: BaseException) -> None:
        """Note that the call raised, or (not an ``Exception``) was abandoned; never raises."""
        raise NotImplementedError

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Protect ``fn`` of any kind; the result is a plain function of its signature."""
        return cast("Callable[P, R]", _GUARD_SHELLS[kind_of(fn)](self, fn))

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn(*args, **kwargs)`` protected."""
        token = self.enter()
        try:
            result = fn(*args, **kwargs)
            _refuse_coroutine(result)
        except BaseException as error:
            self.fail(token, error)
            raise
        self.leave(token, result)
        return result

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await ``fn(*args, **kwargs)`` protected."""
        token = self.enter()
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            self.fail(token, error)
            raise
        self.leave(token, result)
        return result

    def __enter__(self) -> Self:
        _push(self, self.enter())
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        token = _pop(self)
        if error is None:
            self.leave(token, None)
        else:
            self.fail(token, error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)


def _guard_plain(guard: Guard[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    enter, leave, fail = guard.enter, guard.leave, guard.fail

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        token = enter()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            fail(token, error)
            raise
        leave(token, result)
        return result

    return guarded


def _guard_coroutine(guard: Guard[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
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


def _guard_generator(guard: Guard[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    enter, leave, fail = guard.enter, guard.leave, guard.fail

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        token = enter()
        try:
            result = yield from fn(*args, **kwargs)
        except BaseException as error:
            fail(token, error)
            raise
        leave(token, result)
        return result

    return guarded


def _guard_async_generator(guard: Guard[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        token = guard.enter()
        stream = _Stream(fn(*args, **kwargs))
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
        guard.leave(token, None)

    return guarded


_GUARD_SHELLS: Mapping[Kind, Callable[[Guard[Any], Callable[..., Any]], Callable[..., Any]]] = {
    Kind.PLAIN: _guard_plain,
    Kind.COROUTINE: _guard_coroutine,
    Kind.GENERATOR: _guard_generator,
    Kind.ASYNC_GENERATOR: _guard_async_generator,
}


class _Stream:
    """An async generator and the item it has produced but not yet handed on."""

    __slots__: tuple[str, ...] = ("ended", "item", "source")

    def __init__(self, source: AsyncGenerator[Any, Any]) -> None:
        self.source: AsyncGenerator[Any, Any] = source
        self.item: Any = None
        self.ended: bool = False

    async def open(self) -> Self:
        await self._settle(self.source.asend(None))
        return self

    async def send(self, sent: Any) -> None:
        await self._settle(self.source.asend(sent))

    async def throw(self, error: BaseException) -> None:
        await self._settle(self.source.athrow(error))

    async def _settle(self, produced: Awaitable[Any]) -> None:
        try:
            self.item = await produced
        except StopAsyncIteration:
            self.ended = True


# -- flows ------------------------------------------------------------------------------


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


Step: TypeAlias = Invoke | Pause | Wait
Outcome: TypeAlias = tuple[Any, Exception | None]
Steps: TypeAlias = Generator[Step, Outcome, Outcome]


def protect(guard: Guard[Any], inner: "Step | Steps") -> Steps:
    """Steps of ``inner`` behind ``guard``: ``outcome = yield from protect(guard, inner)``.

    ``inner`` is one step, or the steps of a part of a flow.  A rejection is an outcome
    like any other error.  A request whose time is over is not the callee's failure, so the
    guard does not hear of it.
    """
    try:
        _refuse_late()
        token = guard.enter()
    except Exception as rejected:
        return None, rejected
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


def run(steps: Steps, clock: Clock = SYSTEM_CLOCK) -> Any:
    """Walk through ``steps`` in this thread; return the result or raise the error."""
    try:
        step = next(steps)
        while True:
            step = steps.send(_perform(step, steps, clock))
    except StopIteration as stop:
        result, error = stop.value
    try:
        return _conclude(result, error)
    finally:
        # As in _conclude: the traceback refers to this frame too.
        del error


async def arun(steps: Steps, clock: Clock = SYSTEM_CLOCK) -> Any:
    """Walk through ``steps`` in this task; return the result or raise the error."""
    try:
        step = next(steps)
        while True:
            step = steps.send(await _aperform(step, steps, clock))
    except StopIteration as stop:
        result, error = stop.value
    try:
        return _conclude(result, error)
    finally:
        # As in _conclude: the traceback refers to this frame too.
        del error


def _conclude(result: Any, error: Exception | None) -> Any:
    if error is None:
        return result
    try:
        raise error
    finally:
        # The traceback refers to this frame: without this, frame and error keep each other.
        del error


def _perform(step: Step, steps: Steps, clock: Clock) -> Outcome:
    try:
        if type(step) is Invoke:
            _refuse_late()
            if step.timeout is None:
                result = step.fn(*step.args, **step.kwargs)
                _refuse_coroutine(result)
                return result, None
            return WORKERS.run(step.fn, step.args, step.kwargs, _clamped(step.timeout)), None
        if type(step) is Pause:
            clock.sleep(step.seconds)
            return None, None
        return _wait(cast("Wait", step)), None
    except _AsyncInSync:
        # A mistake in the program: no fallback or retry may paper over it.
        steps.close()
        raise
    except Exception as error:
        return None, error
    except BaseException:
        steps.close()
        raise


async def _aperform(step: Step, steps: Steps, clock: Clock) -> Outcome:
    try:
        if type(step) is Invoke:
            _refuse_late()
            if step.timeout is None:
                result = (step.acall or step.fn)(*step.args, **step.kwargs)
                return (await result if inspect.isawaitable(result) else result), None
            return await _ainvoke_limited(step, _clamped(step.timeout)), None
        if type(step) is Pause:
            await clock.asleep(step.seconds)
            return None, None
        return await _await_future(cast("Wait", step)), None
    except Exception as error:
        return None, error
    except BaseException:
        steps.close()
        raise


def _refuse_late() -> None:
    limit = expired()
    if limit is not None:
        raise DeadlineExceeded("the request", limit.seconds)


def _clamped(seconds: float) -> float:
    left = remaining()
    return seconds if left is None else min(seconds, left)


async def _ainvoke_limited(step: Invoke, seconds: float) -> Any:
    import asyncio

    fn = step.acall or step.fn
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if kind_of(fn) is Kind.COROUTINE:
                return await fn(*step.args, **step.kwargs)
            return await _ainvoke_on_worker(step)
    except TimeoutError:
        # The callee's own TimeoutError is its answer; only our expiry becomes a deadline.
        if not limit.expired():
            raise
        name = getattr(fn, "__qualname__", repr(fn))
        raise DeadlineExceeded(name, seconds) from None


async def _ainvoke_on_worker(step: Invoke) -> Any:
    import asyncio

    job = WORKERS.submit(step.fn, step.args, step.kwargs)
    try:
        result = await asyncio.shield(asyncio.wrap_future(job.future))
    except BaseException:
        WORKERS.abandon(job)
        raise
    return (await result) if inspect.isawaitable(result) else result


def _wait(step: Wait) -> Any:
    try:
        return step.future.result(step.timeout)
    except TimeoutError:
        if step.future.done():
            raise
        raise DeadlineExceeded("waiting", step.timeout or 0.0) from None


async def _await_future(step: Wait) -> Any:
    import asyncio

    limit = asyncio.timeout(step.timeout)
    try:
        async with limit:
            return await asyncio.shield(asyncio.wrap_future(step.future))
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded("waiting", step.timeout or 0.0) from None


class Flow:
    """Decides which calls are made, in which order, with which pauses.

    Subclasses implement :meth:`steps`; one that may know the answer without any step
    overrides :meth:`start`.  Generators are covered at their opening only: once an item
    has been handed on, it cannot be taken back.

    Examples
    --------
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
    ) -> tuple[Any, Steps | None]:
        """Return ``(answer, None)`` if it is known at once, else ``(None, steps)``."""
        return None, self.steps(fn, args, kwargs)

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Put the flow around ``fn`` of any kind; the result has its signature."""
        return cast("Callable[P, R]", _FLOW_SHELLS[kind_of(fn)](self, fn))

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow around ``fn(*args, **kwargs)``."""
        answer, steps = self.start(fn, args, kwargs)
        return cast("R", answer if steps is None else run(steps, self.clock))

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow around ``await fn(*args, **kwargs)``."""
        answer, steps = self.start(fn, args, kwargs)
        return cast("R", answer if steps is None else await arun(steps, self.clock))


def _flow_plain(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    start, clock = flow.start, flow.clock

    @functools.wraps(fn)
    def flowing(*args: Any, **kwargs: Any) -> Any:
        answer, steps = start(fn, args, kwargs)
        return answer if steps is None else run(steps, clock)

    return flowing


def _flow_coroutine(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    start, clock = flow.start, flow.clock

    @functools.wraps(fn)
    async def flowing(*args: Any, **kwargs: Any) -> Any:
        answer, steps = start(fn, args, kwargs)
        return answer if steps is None else await arun(steps, clock)

    return flowing


def _flow_generator(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    def opened(*args: Any, **kwargs: Any) -> tuple[Generator[Any, Any, Any], Any, bool]:
        source = fn(*args, **kwargs)
        try:
            return source, next(source), False
        except StopIteration as stop:
            return source, stop.value, True

    @functools.wraps(fn)
    def flowing(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        source, item, ended = run(flow.steps(opened, args, kwargs), flow.clock)
        return item if ended else (yield from _resume(source, item))

    return flowing


def _resume(source: Generator[Any, Any, Any], item: Any) -> Generator[Any, Any, Any]:
    # ``source`` stands at its first item: from here on this is ``yield from``, spelt out.
    try:
        while True:
            try:
                sent = yield item
            except GeneratorExit:
                source.close()
                raise
            except BaseException as thrown:
                item = source.throw(thrown)
            else:
                item = source.send(sent)
    except StopIteration as stop:
        return stop.value


def _flow_async_generator(flow: Flow, fn: Callable[..., Any]) -> Callable[..., Any]:
    async def opened(*args: Any, **kwargs: Any) -> _Stream:
        return await _Stream(fn(*args, **kwargs)).open()

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


_FLOW_SHELLS: Mapping[Kind, Callable[[Flow, Callable[..., Any]], Callable[..., Any]]] = {
    Kind.PLAIN: _flow_plain,
    Kind.COROUTINE: _flow_coroutine,
    Kind.GENERATOR: _flow_generator,
    Kind.ASYNC_GENERATOR: _flow_async_generator,
}
