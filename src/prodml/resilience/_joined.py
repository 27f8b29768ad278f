"""The type of a function that has got another answer to give: both answers' types, joined."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from typing import Any, Generic, Never, ParamSpec, TypeVar, overload

__all__ = ["Joined"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Y = TypeVar("Y")
F_co = TypeVar("F_co", covariant=True)


class Joined(Generic[F_co]):
    """A decorator after which a function may answer ``F_co`` as well.

    Whatever kind of function: what it answers, awaits to or yields is joined with ``F_co``.
    For ``Never`` (nothing is added) the very type of the function stays.
    """

    __slots__: tuple[str, ...] = ()

    # The overlap is the point: the more exact type where nothing is added.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: "Joined[Never]", fn: Callable[P, R]
    ) -> Callable[P, R]: ...
    @overload
    def __call__(
        self, fn: Callable[P, AsyncGenerator[Y, S]]
    ) -> Callable[P, AsyncGenerator[Y | F_co, S]]: ...
    @overload
    def __call__(
        self, fn: Callable[P, AsyncIterator[Y]]
    ) -> Callable[P, AsyncIterator[Y | F_co]]: ...
    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R | F_co]]: ...
    @overload
    def __call__(
        self, fn: Callable[P, Generator[Y, S, R]]
    ) -> Callable[P, Generator[Y | F_co, S, R | None]]: ...
    @overload
    def __call__(self, fn: Callable[P, Iterator[Y]]) -> Callable[P, Iterator[Y | F_co]]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> Callable[P, R | F_co]: ...
    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Put this around ``fn`` of any kind; only the type of its answer changes."""
        return self._around(fn)

    def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError
