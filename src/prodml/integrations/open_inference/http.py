"""The ASGI side: headers, bodies within bounds, replies."""

import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from prodml.integrations.open_inference.messages import json_bytes
from prodml.integrations.open_inference.refusals import HttpError, Refusal

__all__ = [
    "Disconnected",
    "HttpReply",
    "Receive",
    "RequestHeaders",
    "Scope",
    "Send",
    "json_reply",
    "read_body",
    "refused_reply",
    "send_reply",
]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON: Final = b"application/json"
# A window of 47 reads the headers of both, gzip and zlib.
_WINDOWS: Final = {"gzip": 47, "deflate": 47}


class Disconnected(Exception):
    """The client went away before its request was whole."""


class RequestHeaders(Mapping[str, str]):
    """Headers of a request by lower-case name; of a repeated one the last counts.

    Examples
    --------
    >>> headers = RequestHeaders([(b"x-arm", b"canary")])
    >>> headers["X-Arm"], headers.get("accept")
    ('canary', None)
    """

    __slots__: tuple[str, ...] = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw: dict[bytes, bytes] = dict(raw)

    def __getitem__(self, name: str) -> str:
        return self._raw[name.lower().encode("latin-1", "replace")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def number(self, name: bytes) -> int | None:
        """Non-negative number in header ``name``, or None where there is no such header.

        Raises
        ------
        HttpError
            400: it is no number.
        """
        text = self._raw.get(name)
        if text is None:
            return None
        # int() would take "+1", "1_0" and digits of other scripts.
        if not (text.isdigit() and len(text) <= 18):
            raise HttpError(400, f"header {name.decode()} is not a number of bytes")
        return int(text)

    def text(self, name: bytes) -> str | None:
        """Header ``name``, or None."""
        found = self._raw.get(name)
        return None if found is None else found.decode("latin-1")


async def read_body(receive: Receive, headers: RequestHeaders, limit: int) -> bytes:
    """Body of the request, decompressed if it came compressed; at most ``limit`` bytes.

    Raises
    ------
    HttpError
        413 beyond ``limit``, 415 for an encoding other than gzip and deflate, 400 for a
        body that is not what its headers say.
    Disconnected
        The client went away.
    """
    announced = headers.number(b"content-length")
    if announced is not None and announced > limit:
        raise _too_large(limit)
    body = await _read(receive, limit)
    if announced is not None and announced != len(body):
        raise HttpError(400, f"content-length says {announced} bytes, {len(body)} came")
    encoding = headers.text(b"content-encoding")
    return body if encoding is None else _inflated(body, encoding.strip().lower(), limit)


async def _read(receive: Receive, limit: int) -> bytes:
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            raise Disconnected
        piece = event.get("body", b"")
        more = event.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"the body is larger than the {limit} bytes allowed")


def _inflated(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding in {"", "identity"}:
        return body
    window = _WINDOWS.get(encoding)
    if window is None:
        raise HttpError(
            415,
            f"content-encoding {encoding!r} is not supported",
            {"accept-encoding": ", ".join(_WINDOWS)},
        )
    inflater = zlib.decompressobj(window)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise HttpError(400, f"the body is not {encoding}") from None
    if len(inflated) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        raise HttpError(400, f"the body is not one whole {encoding} stream")
    return inflated


@dataclass(slots=True)
class HttpReply:
    """Status, body and headers of an answer.

    Examples
    --------
    >>> json_reply({"live": True}).body
    b'{"live":true}'
    """

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def json_reply(content: Any, status: int = 200) -> HttpReply:
    """``content`` as JSON."""
    return HttpReply(status, json_bytes(content))


def refused_reply(refusal: Refusal, **beside: Any) -> HttpReply:
    """``{"error": ...}``, with what else is to be told ``beside`` it."""
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    body = json_bytes(refusal.content | beside)
    return HttpReply(refusal.status, body, headers=tuple(headers))


async def send_reply(send: Send, reply: HttpReply, *, bodiless: bool = False) -> None:
    """Send ``reply``; for HEAD without the body, whose length is told all the same."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if bodiless else reply.body})
