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
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from prodml._workers import WORKERS
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BulkheadFull, StoreUnavailable

__all__ = [
    "Command",
    "Garbled",
    "NoWire",
    "Reader",
    "Refusal",
    "Stale",
    "Wire",
    "Wires",
    "dial_failure",
    "dialled",
    "get_request",
    "packed",
    "quiet",
    "whole",
]

Part: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Part, ...]

_now: Final = SYSTEM_CLOCK.monotonic

_CHUNK: Final = 65_536
_MOST_READ: Final = 1 << 20
_LONGEST_LINE: Final = 65_536
_LARGEST: Final = 512 << 20
_DEEPEST: Final = 16

# With these answers a connection leads to the wrong server, or as the wrong user.
_ASTRAY: Final = ("READONLY", "MOVED", "ASK", "CLUSTERDOWN", "MASTERDOWN", "NOAUTH", "WRONGPASS")


class Garbled(ValueError):
    """What came is not what a Redis server sends."""


class Stale(ConnectionError):
    """The server has closed a connection that lay idle."""


class NoWire(Exception):
    """The client does not let its connections be used this way."""


class Refusal:
    """A reply that says no; ``text`` begins with its code.

    Examples
    --------
    >>> Refusal("OOM command not allowed").astray, Refusal("READONLY a replica").astray
    (False, True)
    """

    __slots__: tuple[str, ...] = ("text",)

    def __init__(self, text: str) -> None:
        self.text: str = text

    def __repr__(self) -> str:
        return f"Refusal({self.text!r})"

    @property
    def astray(self) -> bool:
        """Whether the connection is of no use any more."""
        return self.text.startswith(_ASTRAY)


def packed(commands: Iterable[Command]) -> bytes:
    r"""Commands as the bytes that a server reads.

    Examples
    --------
    >>> packed([("GET", "k"), ("SET", "k", b"\xff", "PX", 5)])[:20]
    b'*2\r\n$3\r\nGET\r\n$1\r\nk\r\n'
    """
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        for part in command:
            data = part if isinstance(part, bytes) else str(part).encode()
            pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


def get_request(key: str) -> bytes:
    r"""``packed([("GET", key)])`` in short, since a cache asks little else.

    Examples
    --------
    >>> get_request("k")
    b'*2\r\n$3\r\nGET\r\n$1\r\nk\r\n'
    """
    name = key.encode()
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)


class Reader:
    r"""Replies out of a stream of bytes, however it is cut.

    ``missing`` is how many bytes there have to be at least before more can be told.

    Examples
    --------
    >>> reader = Reader()
    >>> reader.expect(2)
    >>> reader.feed(b"+OK\r\n$3\r\na"), reader.feed(b"bc\r\n"), reader.replies
    (False, True, [b'OK', b'abc'])
    """

    __slots__: tuple[str, ...] = (
        *("_chunks", "_count", "_have", "_stack", "missing", "refused", "replies"),
    )

    def __init__(self) -> None:
        self.expect(1)

    def expect(self, count: int) -> None:
        """Make ready for ``count`` replies."""
        self.replies: list[Any] = []
        self.missing: int = 1
        self.refused: bool = False
        self._count: int = count
        self._chunks: list[bytes] = []
        self._have: int = 0
        # Arrays that are not yet full: (items, how many there shall be).
        self._stack: list[tuple[list[Any], int]] = []

    def feed(self, data: bytes) -> bool:
        """Take what came; return whether all replies are there.

        Raises
        ------
        Garbled
            This is no reply, or more than was asked for.
        """
        self._chunks.append(data)
        self._have += len(data)
        if len(data) < self.missing:
            self.missing -= len(data)
            return False
        buffer = data if len(self._chunks) == 1 else b"".join(self._chunks)
        at = self._read(buffer)
        rest = len(buffer) - at
        done = len(self.replies) == self._count
        if done and rest:
            raise Garbled("more came than was asked for")
        self._chunks = [buffer[at:]] if rest else []
        self._have = rest
        return done

    def _read(self, buffer: bytes) -> int:
        """Read as far as ``buffer`` goes; return how far that is."""
        at, size = 0, len(buffer)
        while at < size and len(self.replies) < self._count:
            end = buffer.find(b"\r\n", at)
            if end < 0 and size - at > _LONGEST_LINE:
                raise Garbled("a line without an end")
            if end < 0:
                break
            if buffer[at] == 0x24:  # $
                length = _number(buffer[at + 1 : end])
                after = end + 4 + length if length >= 0 else end + 2
                if after > size:
                    self.missing = after - size
                    return at
                self._add(_bulk(buffer, end, after) if length >= 0 else None)
            else:
                self._line(buffer[at], buffer[at + 1 : end])
                after = end + 2
            at = after
        self.missing = 1
        return at

    def _line(self, kind: int, text: bytes) -> None:
        if kind == 0x2B:  # +
            self._add(text)
        elif kind == 0x3A:  # :
            self._add(_integer(text))
        elif kind == 0x2D:  # -
            self.refused = True
            self._add(Refusal(text.decode(errors="replace")))
        elif kind == 0x2A:  # *
            self._open(_number(text))
        elif kind == 0x5F and not text:  # _
            self._add(None)
        else:
            raise Garbled(f"no reply begins with {bytes((kind,))!r}")

    def _open(self, size: int) -> None:
        if size <= 0:
            self._add([] if size == 0 else None)
        elif len(self._stack) >= _DEEPEST:
            raise Garbled("arrays too deep")
        else:
            self._stack.append(([], size))

    def _add(self, value: Any) -> None:
        while self._stack:
            items, size = self._stack[-1]
            items.append(value)
            if len(items) < size:
                return
            self._stack.pop()
            value = items
        self.replies.append(value)


def _number(text: bytes) -> int:
    # Stricter than int(), which takes signs, spaces and underscores.
    if not text.isdigit() or len(text) > 10 or (number := int(text)) > _LARGEST:
        if text == b"-1":
            return -1
        raise Garbled(f"no length: {text[:20]!r}")
    return number


def _integer(text: bytes) -> int:
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    if not digits.isdigit() or len(digits) > 19:
        raise Garbled(f"no integer: {text[:20]!r}")
    return int(text)


def _bulk(buffer: bytes, end: int, after: int) -> bytes:
    if buffer[after - 2 : after] != b"\r\n":
        raise Garbled("a value longer than announced")
    return buffer[end + 2 : after - 2]


def whole(data: bytes) -> bytes | None:
    r"""Value of ``data`` if that is one bulk string and nothing else.

    Nearly every answer of a cache is, and to see it costs less than to read it.

    Examples
    --------
    >>> whole(b"$2\r\nok\r\n"), whole(b"$2\r\nok"), whole(b":1\r\n")
    (b'ok', None, None)
    """
    if not data.startswith(b"$"):
        return None
    end = data.find(b"\r\n")
    size = data[1:end]
    if not size.isdigit() or len(data) != end + 4 + int(size) or not data.endswith(b"\r\n"):
        return None
    return data[end + 2 : -2]


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
            data = self._socket.recv(_CHUNK)
            if count == 1 and not self._hurried and (value := whole(data)) is not None:
                self._used = True
                self.refused = False
                return [value]
            return self._read(data, count, ends)
        except (BlockingIOError, TimeoutError):
            # The kernel's word for it, or Python's.
            raise self._late() from None

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

    def ask(self, request: bytes, count: int) -> list[Any]:
        """Replies to the ``count`` commands in ``request``.

        Raises
        ------
        OSError, Garbled
            The server refuses, stalls, or is none.
        BulkheadFull
            All connections are in use.
        """
        ends = _now() + self.timeout
        try:
            return self._ask(request, count, ends)
        except Stale:
            return self._ask(request, count, ends)

    def close(self) -> None:
        """Close idle connections at once, and those in use when they are given back."""
        with self._lock:
            self._era += 1
            while (wire := self._idle()) is not None:
                wire.close()
                self._open -= 1

    def _ask(self, request: bytes, count: int, ends: float) -> list[Any]:
        era = self._era
        try:
            # The ends of a deque are safe to use from any thread, with the lock or without.
            wire = self._free.pop()
        except IndexError:
            wire = self._wait(ends)
        try:
            replies = wire.ask(request, count, ends)
        except BaseException as error:
            self._dismiss(wire, era, error)
            raise
        if wire.refused and any(type(reply) is Refusal and reply.astray for reply in replies):
            self._renew(era)
        if era != self._era:
            self._discard(wire)
            return replies
        self._free.append(wire)
        if self._places:
            self._hand_over()
        return replies

    def _dismiss(self, wire: Wire, era: int, error: BaseException) -> None:
        stale = wire.stale(error)
        self._discard(wire)
        if stale:
            # All that lie idle are as old: a new one shall be asked.
            self._renew(era)
            raise Stale(f"{type(error).__name__}: {error}") from error

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
