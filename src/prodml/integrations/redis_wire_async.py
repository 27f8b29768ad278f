"""The wire to Redis for tasks: one event loop's connections, one request on each at a time.

As :mod:`prodml.integrations.redis_wire`, by the same rules.  A connection is opened by the
client and then given a protocol of ours, which costs half of what the client's streams do.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from prodml.errors import BulkheadFull
from prodml.integrations.redis_protocol import Reader, Refusal, whole
from prodml.integrations.redis_wire import NoWire, dial_failure, quiet

__all__ = ["AsyncWire", "AsyncWires", "Stale", "adialled"]

# A timer that comes so late tells of a busy loop, not of a slow server.
_LATE: Final = 0.005


class Stale(ConnectionError):
    """The server has closed a connection that lay idle."""


class AsyncWire(asyncio.Protocol):
    """One open connection: a request out, its replies in; aborted when anything goes wrong."""

    __slots__: tuple[str, ...] = (
        *("_count", "_future", "_reader", "_transport", "_writer"),
        *("ends", "gone", "heard", "refused", "spared", "used"),
    )

    def __init__(self, writer: Any) -> None:
        # The writer is kept: one that is collected closes its transport.
        self._writer: Any = writer
        self._transport: Any = writer.transport
        self._reader: Reader = Reader()
        self._count: int = 0
        self.refused: bool = False
        self._future: asyncio.Future[list[Any]] | None = None
        self.ends: float = 0.0
        self.gone: bool = self._transport.is_closing()
        self.heard: bool = False
        self.spared: bool = False
        self.used: bool = False
        self._transport.set_protocol(self)

    def ask(
        self, request: bytes, count: int, future: "asyncio.Future[list[Any]]", ends: float
    ) -> None:
        """Send ``request``; the replies to its ``count`` commands become ``future``'s result."""
        self._count = count
        self.ends, self.heard, self.spared = ends, False, False
        if self.gone:
            future.set_exception(ConnectionResetError("closed by the server"))
            return
        self._future = future
        self._transport.write(request)

    def fail(self, error: Exception) -> None:
        """End with ``error``."""
        future, self._future = self._future, None
        self.abort()
        if future is not None and not future.done():
            future.set_exception(error)

    def abort(self) -> None:
        """Close at once, without a word to the server."""
        self.gone = True
        self._transport.abort()

    def stale(self, error: BaseException) -> bool:
        """Whether ``error`` only says that the server has closed an idle connection."""
        ours = isinstance(error, TimeoutError | ConnectionAbortedError)
        return isinstance(error, OSError) and not ours and self.used and not self.heard

    # -- what the transport says --------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what came; if nobody has asked for it, the connection is of no use."""
        future = self._future
        if future is None or future.done():
            self.abort()
            return
        if self._count == 1 and not self.heard and (value := whole(data)) is not None:
            self._future, self.used, self.refused = None, True, False
            future.set_result([value])
            return
        try:
            self._read(data, future)
        except ValueError as error:
            self.fail(error)

    def _read(self, data: bytes, future: "asyncio.Future[list[Any]]") -> None:
        reader = self._reader
        if not self.heard:
            reader.expect(self._count)
            self.heard = True
        if reader.feed(data):
            self._future, self.used, self.refused = None, True, reader.refused
            future.set_result(reader.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer."""
        reason = exc if isinstance(exc, OSError) else ConnectionResetError("closed by the server")
        self.fail(reason)


class AsyncWires:
    """Open connections of one store in one event loop, at most ``limit``.

    New ones are opened one after the other by a task of their own.  All are closed when the
    loop shuts down as ``asyncio.run`` does it.

    Parameters
    ----------
    connect
        Opens a connection, introduces itself to the server, and gives a stream's writer.
    where
        Names the server in errors.
    timeout
        Seconds for a request, all in all.
    limit
        Connections at most.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], where: str, timeout: float, limit: int = 32
    ) -> None:
        self.timeout: float = timeout
        self.limit: int = limit
        self._connect: Callable[[], Awaitable[Any]] = connect
        self._where: str = where
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._free: deque[AsyncWire] = deque()
        self._asked: dict[AsyncWire, None] = {}
        self._waiters: deque[asyncio.Future[AsyncWire]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due: float = 0.0
        self._era: int = 0
        self._open: int = 0
        self._dial: asyncio.Task[None] | None = None
        self._end: AsyncGenerator[None, None] | None = None

    def __len__(self) -> int:
        return self._open

    @property
    def dead(self) -> bool:
        """Whether the loop is closed."""
        return self._loop.is_closed()

    async def ask(self, request: bytes, count: int) -> list[Any]:
        """Replies to the ``count`` commands in ``request``; see :meth:`Wires.ask`."""
        ends = self._loop.time() + self.timeout
        try:
            return await self._ask(request, count, ends)
        except Stale:
            return await self._ask(request, count, ends)

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        end, self._end = self._end, None
        self.abort()
        if end is not None:
            await end.aclose()
        # The transports let go of their sockets in the loop's next round.
        await asyncio.sleep(0)

    def abort(self) -> None:
        """Close all connections without waiting; those who use one hear of it."""
        self._era += 1
        if self._dial is not None:
            self._dial.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for wire in [*self._free, *self._asked]:
            wire.fail(ConnectionAbortedError("the store was closed"))
        self._refuse(partial(ConnectionAbortedError, "the store was closed"))
        self._open -= len(self._free)
        self._free.clear()

    async def _ask(self, request: bytes, count: int, ends: float) -> list[Any]:
        era = self._era
        wire = self._free.pop() if self._free else await self._wait(ends)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._asked[wire] = None
        try:
            wire.ask(request, count, future, ends)
            if self._timer is None or ends < self._due:
                self._watch(ends)
            replies = await future
        except BaseException as error:
            self._discard(wire)
            if wire.stale(error):
                self._renew(era)
                raise Stale(f"{type(error).__name__}: {error}") from error
            raise
        del self._asked[wire]
        if wire.refused and any(type(reply) is Refusal and reply.astray for reply in replies):
            self._renew(era)
        self._give_back(wire, era)
        return replies

    def _renew(self, era: int) -> None:
        """Close what lies idle, and what is of that era when it is given back."""
        if era == self._era:
            self._era += 1
            while self._free:
                self._free.pop().abort()
                self._open -= 1

    def _give_back(self, wire: AsyncWire, era: int) -> None:
        if era != self._era or wire.gone:
            self._discard(wire)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(wire)
                return
        self._free.append(wire)

    def _discard(self, wire: AsyncWire) -> None:
        self._asked.pop(wire, None)
        wire.abort()
        self._open -= 1
        if any(not waiter.done() for waiter in self._waiters):
            self._grow()

    # -- waiting for a connection -------------------------------------------------------

    async def _wait(self, ends: float) -> AsyncWire:
        self._grow()
        waiter: asyncio.Future[AsyncWire] = self._loop.create_future()
        self._waiters.append(waiter)
        # Half of the time is the server's, or a crowd here would look like an outage there.
        half = self._loop.call_at(ends - self.timeout / 2, self._crowded, waiter)
        over = self._loop.call_at(ends, self._late, waiter)
        era = self._era
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was handed a connection in the moment it went away.
                self._give_back(waiter.result(), era)
            raise
        finally:
            half.cancel()
            over.cancel()

    def _crowded(self, waiter: "asyncio.Future[AsyncWire]") -> None:
        if self._open and not waiter.done():
            waiter.set_exception(BulkheadFull(f"connections to {self._where}", self._open))

    def _late(self, waiter: "asyncio.Future[AsyncWire]") -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError(f"no connection within {self.timeout:g} s"))

    def _refuse(self, failure: Callable[[], Exception]) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(failure())
        self._waiters.clear()

    # -- late answers -------------------------------------------------------------------

    def _watch(self, at: float) -> None:
        # One timer for all: to start and stop one for each request costs more than the rest.
        if self._timer is not None:
            self._timer.cancel()
        self._due = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        now, self._timer = self._loop.time(), None
        busy = now - self._due > _LATE
        for wire in list(self._asked):
            if wire.ends <= now and busy and not wire.spared:
                # The loop was elsewhere: an answer may be there, and unread.
                wire.spared, wire.ends = True, now + _LATE
            elif wire.ends <= now:
                wire.fail(TimeoutError(f"no answer within {self.timeout:g} s"))
        left = [wire.ends for wire in self._asked if wire.ends > now]
        if left:
            self._watch(min(left))

    # -- opening --------------------------------------------------------------------------

    def _grow(self) -> None:
        if self._dial is None and self._open < self.limit:
            self._dial = self._loop.create_task(self._connected(self._era))

    async def _connected(self, era: int) -> None:
        wire = None
        try:
            await self._mark_the_end()
            wire = AsyncWire(await self._connect())
        except Exception as error:
            if not self._open:
                self._refuse(dial_failure(self._where, error))
        finally:
            self._dial = None
        if wire is not None:
            self._open += 1
            self._give_back(wire, era)
            if any(not waiter.done() for waiter in self._waiters):
                self._grow()

    async def _mark_the_end(self) -> None:
        if self._end is None:
            # A loop that shuts down ends the generators that it has begun.
            self._end = self._until_the_end()
            await anext(self._end)

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.abort()


async def adialled(kind: Any, settings: Mapping[str, Any]) -> Any:
    """Writer of a new connection of class ``kind``, introduced to the server.

    Raises
    ------
    NoWire
        The connection has no transport of its own: a stand-in.
    """
    connection = quiet(kind(**settings))
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    writer = getattr(connection, "_writer", None)
    if not hasattr(getattr(writer, "transport", None), "set_protocol"):
        await connection.disconnect()
        raise NoWire(type(connection).__name__)
    # From here on it is ours; the connection, when it is collected, closes what it has.
    connection._reader = connection._writer = None  # noqa: SLF001
    return writer
