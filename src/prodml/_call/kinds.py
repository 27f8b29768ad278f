"""The four kinds of function that a pattern can stand around."""

import functools
import inspect
import sys
from collections.abc import Callable
from enum import Enum
from types import CoroutineType, FunctionType, MethodType
from typing import Any

__all__ = ["AsyncInSync", "Kind", "abandoned", "kind_of", "name_of", "refuse_coroutine"]


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
    if _is_marked(target):
        return Kind.COROUTINE
    if not isinstance(target, (FunctionType, MethodType)) and not inspect.isbuiltin(target):
        target = type(target).__call__
    if inspect.isasyncgenfunction(target):
        return Kind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(target):
        return Kind.COROUTINE
    if inspect.isgeneratorfunction(target):
        return Kind.GENERATOR
    return Kind.PLAIN


def _is_marked(target: Any) -> bool:
    """Whether an object says of itself that it is a coroutine function, as an AsyncMock does."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and bool(asyncio.iscoroutinefunction(target))


def name_of(what: Any) -> str:
    """What an error calls ``what``: the same for every call, without addresses.

    Examples
    --------
    >>> name_of(len), name_of(functools.partial(len)), name_of("the request")
    ('len', 'len', 'the request')
    """
    while isinstance(what, functools.partial):
        what = what.args[0] if what.args and callable(what.args[0]) else what.func
    if isinstance(what, str):
        return what
    return str(getattr(what, "__qualname__", type(what).__qualname__))


def abandoned(error: BaseException) -> bool:
    """Whether ``error`` says nothing about the callee: cancelled, interrupted, closed.

    Examples
    --------
    >>> abandoned(KeyboardInterrupt()), abandoned(ValueError())
    (True, False)
    """
    return not isinstance(error, Exception)


class AsyncInSync(TypeError):
    """A synchronous shell was handed a coroutine."""


def refuse_coroutine(result: Any) -> None:
    """Raise if a plain call has made a coroutine: nobody here would await it."""
    if type(result) is CoroutineType:
        name = result.__qualname__
        result.close()
        raise AsyncInSync(f"{name} is async: use the awaiting form (acall, apredict)")
