"""The language of Redis: commands as the bytes that a server reads, and replies read back."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

__all__ = [
    "Command",
    "Garbled",
    "Reader",
    "Refusal",
    "get_request",
    "mget_request",
    "packed",
    "set_requests",
    "whole",
]

Part: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Part, ...]

_LONGEST_LINE: Final = 65_536
_LARGEST: Final = 512 << 20
_DEEPEST: Final = 16
_TAKEN: Final = b"+OK\r\n"

# With these answers a connection leads to the wrong server, or as the wrong user.
_ASTRAY: Final = ("READONLY", "MOVED", "ASK", "CLUSTERDOWN", "MASTERDOWN", "NOAUTH", "WRONGPASS")


class Garbled(ValueError):
    """What came is not what a Redis server sends."""


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


def mget_request(keys: Sequence[str]) -> bytes:
    r"""``packed([("MGET", *keys)])``, quickly for keys of one length, as a cache's are.

    Examples
    --------
    >>> mget_request(["a", "b"])
    b'*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n'
    """
    lengths = set(map(len, keys))
    between = f"\r\n${lengths.pop()}\r\n" if len(lengths) == 1 else ""
    text = between.join(keys)
    if not between or not text.isascii():
        return packed([("MGET", *keys)])
    return f"*{len(keys) + 1}\r\n$4\r\nMGET{between}{text}\r\n".encode()


def set_requests(items: Mapping[str, bytes], end: int | None) -> bytes:
    r"""Commands that set all ``items``, which end after so many milliseconds, if at all.

    Examples
    --------
    >>> set_requests({"k": b"v"}, 5) == packed([("SET", "k", b"v", "PX", 5)])
    True
    """
    first, last = b"*3\r\n$3\r\nSET\r\n$", b"\r\n"
    if end is not None:
        first = b"*5\r\n$3\r\nSET\r\n$"
        last = b"\r\n$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(end)), end)
    pieces: list[bytes] = []
    # Names and values are of few lengths: what stands before each is written once.
    known: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    for key, value in items.items():
        name = key.encode()
        sizes = len(name), len(value)
        heads = known.get(sizes)
        if heads is None:
            heads = known[sizes] = b"%b%d\r\n" % (first, sizes[0]), b"\r\n$%d\r\n" % sizes[1]
        pieces += heads[0], name, heads[1], value, last
    return b"".join(pieces)


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
        if data == _TAKEN * self._count and not (self._have or self.replies or self._stack):
            # As nearly every batch of writes is answered.
            self.replies = [b"OK"] * self._count
            return True
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
            if self._stack and (after := self._strings(buffer, at)) > at:
                at = after
                continue
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

    def _strings(self, buffer: bytes, at: int) -> int:
        """Read the open array's strings that are there whole; return where they end.

        An array of strings is what a cache waits for; what is anything else is left.
        """
        items, size = self._stack[-1]
        begins, head, length = buffer.startswith, b"", 0
        while len(items) < size:
            if begins(b"$-1\r\n", at):
                items.append(None)
                at += 5
                continue
            if not head or not begins(head, at):
                # Most are as long as the one before.
                end = buffer.find(b"\r\n", at, at + 16)
                if end < 0 or buffer[at] != 0x24:
                    break
                head, length = buffer[at : end + 2], _number(buffer[at + 1 : end])
            start = at + len(head)
            after = start + length
            if buffer[after : after + 2] != b"\r\n":
                break
            items.append(buffer[start:after])
            at = after + 2
        if len(items) == size:
            self._stack.pop()
            self._add(items)
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
    size = len(data)
    head = _HEADS.get(size)
    if head is None:
        head = _head_of(size)
    if data.startswith(head) and data.endswith(b"\r\n"):
        return data[len(head) : -2]
    return None


# How a bulk string begins that is so many bytes long in all: they are of few lengths.
_HEADS: Final[dict[int, bytes]] = {}


def _head_of(total: int) -> bytes:
    for digits in range(1, 11):
        size = total - digits - 5
        if size >= 0 and len(str(size)) == digits:
            head = b"$%d\r\n" % size
            if len(_HEADS) < 4096:
                _HEADS[total] = head
            return head
    # No bulk string is so long; this begins nothing of that length.
    return b"$" * (total + 1)
