"""Generators held open between two items.

A flow around a generator calls its *opening*: it goes to the first item and gives an
:class:`Opened`, which the flow may look at like at any answer.
"""

from collections.abc import AsyncGenerator, Awaitable, Generator
from typing import Any, Self

__all__ = ["OpenItems", "OpenStream", "Opened"]


class Opened:
    """A generator, and the item it has produced but not yet handed on.

    When it has ``ended`` there is no item, or (plain) it is what the generator returned.
    """

    __slots__: tuple[str, ...] = ("ended", "item", "source")

    source: Any

    def __init__(self) -> None:
        self.item: Any = None
        self.ended: bool = False

    def close(self) -> None:
        """End the generator where it stands, in a thread."""
        self.source.close()

    async def aclose(self) -> None:
        """End the generator where it stands, in a task."""
        await self.source.aclose()


class OpenItems(Opened):
    """An open plain generator."""

    __slots__: tuple[str, ...] = ()

    source: Generator[Any, Any, Any]

    def __init__(self, source: Generator[Any, Any, Any]) -> None:
        super().__init__()
        self.source = source

    def open(self) -> Self:
        """Go to the first item."""
        try:
            self.item = next(self.source)
        except StopIteration as stop:
            self.item, self.ended = stop.value, True
        return self

    async def aclose(self) -> None:
        """End the generator where it stands; also from a task."""
        self.source.close()

    def rest(self) -> Generator[Any, Any, Any]:
        """Hand on this item and those that follow: ``yield from``, from the second item on."""
        if self.ended:
            return self.item
        source, item = self.source, self.item
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


class OpenStream(Opened):
    """An open async generator."""

    __slots__: tuple[str, ...] = ()

    source: AsyncGenerator[Any, Any]

    def __init__(self, source: AsyncGenerator[Any, Any]) -> None:
        super().__init__()
        self.source = source

    async def open(self) -> Self:
        """Go to the first item."""
        await self._settle(self.source.asend(None))
        return self

    async def send(self, sent: Any) -> None:
        """Go to the next item."""
        await self._settle(self.source.asend(sent))

    async def throw(self, error: BaseException) -> None:
        """Raise ``error`` where the generator stands, and go to what it makes of it."""
        await self._settle(self.source.athrow(error))

    async def _settle(self, produced: Awaitable[Any]) -> None:
        try:
            self.item = await produced
        except StopAsyncIteration:
            self.ended = True
