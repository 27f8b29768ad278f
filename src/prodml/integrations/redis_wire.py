"""What goes over a connection to Redis and comes back, without a client in between.

The client opens connections, since it knows about passwords, databases and TLS; from then
on packed commands are written to the socket and replies read from it, which costs a third
of what the client's own way costs.  Three rules keep answers true and outages short:

*   A connection on which anything went wrong is closed.  A late reply must never be read
    as the answer to the next question.
*   A request has one time limit, whatever it has to wait for: a free connection, a new
    one, the server.
*   Waiting for a connection that others are using is no outage.
"""

import os
import socket
import struct
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from prodml._workers import WORKERS
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BulkheadFull, StoreUnavailable
from prodml.integrations.redis_protocol import Reader, Refusal, whole

__all__ = ["NoWire", "Wire", "Wires", "dial_failure", "dialled", "quiet"]

_now: Final = SYSTEM_CLOCK.monotonic

_CHUNK: Final = 65_536
_MOST_READ: Final = 1 << 20


class NoWire(Exception):
    """The client does not let its connections be used this way."""


def limited(connected: Any, seconds: float) -> bool:
    """Let the kernel end each wait on a socket after ``seconds``; return whether it does.

    Python's own limit asks the kernel twice for each read and each write.  A socket that
    encrypts, or that belongs to green threads, does more than the kernel knows of.
    """
    if sys.platform != "linux" or type(connected) is not socket.socket:
        return False
    if type(connected).__module__ != "socket":
        return False
    whole_seconds = int(seconds)
    limit = struct.pack("ll", whole_seconds, int((seconds - whole_seconds) * 1e6) or 1)
    try:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    except OSError:
        # A kernel whose seconds have another size.
        return False
    return True


class Wire:
    """One open connection: a request out, its replies in.

    Whoever gets an error from it must close it.
    """

    __slots__: tuple[str, ...] = (
        *("_calm", "_enough", "_heard", "_hurried", "_reader", "_socket", "_timeout", "_used"),
        "refused",
    )

    def __init__(self, connected: Any, timeout: float) -> None:
        self._socket: Any = connected
        self._timeout: float = timeout
        # To set a time limit is a system call: it is done when it makes a difference.
        self._enough: float = timeout * 0.95
        self._calm: float | None = None if limited(connected, timeout) else timeout
        self._hurried: bool = False
        self._reader: Reader = Reader()
        # Whether it has answered ever, and since it was last asked.
        self._used: bool = False
        self._heard: bool = False
        self.refused: bool = False
        connected.settimeout(self._calm)

    def ask(self, request: bytes, count: int, ends: float) -> list[Any]:
        """Replies to the ``count`` commands in ``request``, until ``ends`` (monotonic)."""
        self._heard = False
        if ends - _now() < self._enough or len(request) > _CHUNK:
            self._hurry(ends)
        try:
            self._socket.sendall(request)
            if self._hurried:
                # An answer that is there by now counts, however long this thread has slept.
                self._hurry(max(ends, _now() + 0.001))
            return self._read(self._socket.recv(_CHUNK), count, ends)
        except (BlockingIOError, TimeoutError):
            # The kernel's word for it, or Python's.
            raise self._late() from None

    def get(self, request: bytes, ends: float) -> Any:
        """The one reply to ``request``; for who asks as soon as he has the connection."""
        self._heard = False
        try:
            self._socket.sendall(request)
            data = self._socket.recv(_CHUNK)
            value = whole(data)
            if value is None:
                return self._read(data, 1, ends)[0]
        except (BlockingIOError, TimeoutError):
            raise self._late() from None
        self._used = True
        self.refused = False
        return value

    def _read(self, data: bytes, count: int, ends: float) -> list[Any]:
        reader = self._reader
        reader.expect(count)
        while True:
            if not data:
                raise ConnectionResetError("closed by the server")
            self._heard = True
            if reader.feed(data):
                break
            self._hurry(ends)
            data = self._socket.recv(min(max(_CHUNK, reader.missing), _MOST_READ))
        self._used = True
        self.refused = reader.refused
        if self._hurried:
            self._hurried = False
            self._socket.settimeout(self._calm)
        return reader.replies

    def _hurry(self, ends: float) -> None:
        left = ends - _now()
        if left <= 0:
            raise self._late()
        self._hurried = True
        self._socket.settimeout(left)

    def _late(self) -> TimeoutError:
        return TimeoutError(f"no answer within {self._timeout:g} s")

    def stale(self, error: BaseException) -> bool:
        """Whether ``error`` only says that the server has closed an idle connection."""
        ended = isinstance(error, OSError) and not isinstance(error, TimeoutError)
        return ended and self._used and not self._heard

    def close(self) -> None:
        """Let go of the socket, without a word to the server."""
        self._socket.close()

    def __del__(self) -> None:
        self._socket.close()


class Wires:
    """Open connections of one store for threads, at most ``limit``.

    New ones are opened one after the other on a thread of their own, so that no request
    waits for a name server, a handshake or its turn beyond its time limit.

    Parameters
    ----------
    connect
        Opens a socket and introduces itself to the server.
    where
        Names the server in errors.
    timeout
        Seconds for a request, all in all.
    limit
        Connections at most.
    """

    def __init__(
        self, connect: Callable[[], Any], where: str, timeout: float, limit: int = 32
    ) -> None:
        self.timeout: float = timeout
        self.limit: int = limit
        self._connect: Callable[[], Any] = connect
        self._where: str = where
        self._free: deque[Wire] = deque()
        self._era: int = 0
        self._open: int = 0
        self._dialing: bool = False
        self._places: deque[_Place] = deque()
        self._lock: threading.Lock = threading.Lock()
        _ALL.add(self)

    def __len__(self) -> int:
        return self._open

    def ask(self, request: bytes, count: int, ends: float = 0.0) -> list[Any]:
        """Replies to the ``count`` commands in ``request``.

        ``ends`` is when the time for it is over, if it is asked a second time: once it has
        been sent on a connection that the server had closed by then.

        Raises
        ------
        OSError, Garbled
            The server refuses, stalls, or is none.
        BulkheadFull
            All connections are in use.
        """
        era, until = self._era, ends or _now() + self.timeout
        try:
            # The ends of a deque are safe to use from any thread, with the lock or without.
            wire = self._free.pop()
        except IndexError:
            wire = self._wait(until)
        try:
            replies = wire.ask(request, count, until)
        except BaseException as error:
            if self._dismiss(wire, era, error) and not ends:
                return self.ask(request, count, until)
            raise
        self._give_back(wire, era, replies)
        return replies

    def get(self, request: bytes) -> Any:
        """The one reply to ``request``: :meth:`ask` in short, since a cache asks little else."""
        era = self._era
        try:
            wire = self._free.pop()
        except IndexError:
            return self.ask(request, 1)[0]
        ends = _now() + self.timeout
        try:
            reply = wire.get(request, ends)
        except BaseException as error:
            if self._dismiss(wire, era, error):
                return self.ask(request, 1, ends)[0]
            raise
        if wire.refused or era != self._era:
            self._give_back(wire, era, (reply,))
            return reply
        self._free.append(wire)
        if self._places:
            self._hand_over()
        return reply

    def _give_back(self, wire: Wire, era: int, replies: Sequence[Any]) -> None:
        if wire.refused and any(type(reply) is Refusal and reply.astray for reply in replies):
            self._renew(era)
        if era != self._era:
            self._discard(wire)
            return
        self._free.append(wire)
        if self._places:
            self._hand_over()

    def close(self) -> None:
        """Close idle connections at once, and those in use when they are given back."""
        with self._lock:
            self._era += 1
            while (wire := self._idle()) is not None:
                wire.close()
                self._open -= 1

    def _dismiss(self, wire: Wire, era: int, error: BaseException) -> bool:
        """Let go of ``wire``; return whether the same may be asked on another one."""
        stale = wire.stale(error)
        self._discard(wire)
        if stale:
            # All that lie idle are as old: a new one shall be asked.
            self._renew(era)
        return stale

    def _renew(self, era: int) -> None:
        if era == self._era:
            self.close()

    def _discard(self, wire: Wire) -> None:
        wire.close()
        with self._lock:
            self._open -= 1
            if self._places:
                self._grow()

    def _idle(self) -> Wire | None:
        try:
            return self._free.pop()
        except IndexError:
            return None

    # -- waiting for a connection -------------------------------------------------------

    def _wait(self, ends: float) -> Wire:
        place = _Place()
        with self._lock:
            # One may have been given back in between.
            wire = self._idle()
            if wire is not None:
                return wire
            self._grow()
            self._places.append(place)
        try:
            # Half of the time is the server's, or a crowd here would look like an outage there.
            if not place.called(ends - self.timeout / 2) and not self._crowded(place):
                place.called(ends)
        except BaseException:
            self._leave(place)
            if place.wire is not None:
                self._discard(place.wire)
            raise
        self._leave(place)
        if place.failure is not None:
            raise place.failure()
        if place.wire is None:
            raise TimeoutError(f"no connection within {self.timeout:g} s")
        if ends - _now() < self.timeout / 4:
            # Too little is left to blame a server for.
            self._free.append(place.wire)
            self._hand_over()
            raise BulkheadFull(f"connections to {self._where}", self._open)
        return place.wire

    def _crowded(self, place: "_Place") -> bool:
        with self._lock:
            if place in self._places and self._open:
                place.failure = partial(BulkheadFull, f"connections to {self._where}", self._open)
        return place.failure is not None

    def _leave(self, place: "_Place") -> None:
        with self._lock:
            if place in self._places:
                self._places.remove(place)

    def _hand_over(self) -> None:
        with self._lock:
            self._call()

    def _call(self) -> None:
        # In the order in which they came: else those who need none the longest get them all.
        while self._places and (wire := self._idle()) is not None:
            self._places.popleft().settle(wire, None)

    # -- opening: asked for under the lock, done on a worker ----------------------------

    def _grow(self) -> None:
        if not self._dialing and self._open < self.limit:
            WORKERS.submit(self._dial, (self._era,), {})
            self._dialing = True

    def _dial(self, era: int) -> None:
        try:
            wire = Wire(self._connect(), self.timeout)
        except Exception as error:
            self._failed(dial_failure(self._where, error))
            return
        with self._lock:
            self._dialing = False
            if era == self._era:
                self._free.append(wire)
                self._open += 1
            self._call()
            if self._places:
                self._grow()

    def _failed(self, failure: Callable[[], Exception]) -> None:
        with self._lock:
            self._dialing = False
            # While there are others, they may be given back.
            while self._places and not self._open:
                self._places.popleft().settle(None, failure)

    def forget(self) -> None:
        """Begin anew in a forked child, where the connections are the parent's."""
        self._lock = threading.Lock()
        self._era += 1
        self._open = 0
        self._dialing = False
        self._places.clear()
        while (wire := self._idle()) is not None:
            wire.close()


class _Place:
    """Where a thread waits until it is given a connection, or told why not."""

    __slots__: tuple[str, ...] = ("_go", "failure", "wire")

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.failure: Callable[[], Exception] | None = None
        self._go: threading.Lock = threading.Lock()
        self._go.acquire()

    def settle(self, wire: Wire | None, failure: Callable[[], Exception] | None) -> None:
        """Let the thread go on."""
        self.wire, self.failure = wire, failure
        self._go.release()

    def called(self, until: float) -> bool:
        """Wait; return whether it was settled before ``until``."""
        left = min(until - _now(), threading.TIMEOUT_MAX)
        return self._go.acquire(timeout=left) if left > 0 else self._go.acquire(blocking=False)


def dial_failure(where: str, error: Exception) -> Callable[[], Exception]:
    """Makes the error for each of those who waited: one for all would gather tracebacks."""
    if isinstance(error, NoWire):
        return partial(NoWire, *error.args)
    return partial(StoreUnavailable, where, f"{type(error).__name__}: {error}")


def dialled(kind: Any, settings: Mapping[str, Any]) -> Any:
    """Socket of a new connection of class ``kind``, introduced to the server.

    Raises
    ------
    NoWire
        The connection has no socket of its own: a stand-in, a proxy.
    """
    connection = quiet(kind(**settings))
    connection.connect()
    connected = getattr(connection, "_sock", None)
    if not all(hasattr(connected, name) for name in ("sendall", "recv", "settimeout")):
        connection.disconnect()
        raise NoWire(type(connection).__name__)
    # From here on it is ours; the connection, when it is collected, closes what it has.
    connection._sock = None  # noqa: SLF001
    return connected


def quiet(connection: Any) -> Any:
    """Let ``connection`` not tell the server its library, which costs two more round trips."""
    for name in ("driver_info", "lib_name", "lib_version"):
        if hasattr(connection, name):
            setattr(connection, name, None)
    return connection


_ALL: Final[weakref.WeakSet[Wires]] = weakref.WeakSet()


def _forget_all() -> None:
    for wires in list(_ALL):
        wires.forget()


os.register_at_fork(after_in_child=_forget_all)
