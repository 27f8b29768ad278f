"""An async generator held open between two items."""

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Self

__all__ = ["OpenStream"]


class OpenStream:
    """An async generator and the item it has produced but not yet handed on."""

    __slots__: tuple[str, ...] = ("ended", "item", "source")

    def __init__(self, source: AsyncGenerator[Any, Any]) -> None:
        self.source: AsyncGenerator[Any, Any] = source
        self.item: Any = None
        self.ended: bool = False

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
