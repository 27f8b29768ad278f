"""An ASGI server in a function: one request, driven in this thread, with every rule checked."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from prodml.events import Stream
from prodml.serving import VersionedModelServer


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert set(self.json) >= {"error"}
        assert self.headers["content-type"] == "application/json"
        return self.json["error"]


@dataclass
class Driver:
    """Sends requests to ``app`` in one event loop."""

    app: Any
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    root_path: str = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.loop.close()

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def __call__(self, method, path, body=b"", headers=None, pieces=1, gone=False) -> Answer | None:
        return self.run(self.ask(method, path, body, headers, pieces, gone))

    async def ask(self, method, path, body=b"", headers=None, pieces=1, gone=False):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        events = chunks(body, pieces)
        if gone:
            events = [*events[:-1], {"type": "http.disconnect"}]
        sent: list[dict[str, Any]] = []

        async def receive():
            return events.pop(0) if events else {"type": "http.disconnect"}

        async def send(event):
            sent.append(event)

        raw = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": method,
            "path": self.root_path + path,
            "root_path": self.root_path,
            "query_string": b"",
            "headers": raw,
        }
        await self.app(scope, receive, send)
        return told(sent, method)


def chunks(body, pieces):
    size = max(1, -(-len(body) // pieces))
    parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    return [
        {"type": "http.request", "body": part, "more_body": place < len(parts)}
        for place, part in enumerate(parts, 1)
    ]


def told(sent, method):
    if not sent:
        return None
    start, body = sent
    assert start["type"] == "http.response.start"
    assert body["type"] == "http.response.body"
    assert not body.get("more_body", False)
    headers = {k.decode(): v.decode() for k, v in start["headers"]}
    assert all(name == name.lower() for name in headers)
    if method == "HEAD":
        assert body["body"] == b""
    else:
        assert int(headers["content-length"]) == len(body["body"])
    return Answer(start["status"], headers, body["body"])


class Summing:
    """Sums each row; knows how it is called."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def predict(self, rows):
        return rows.sum(axis=1) * self.factor


def served(name="churn", **versions):
    """A server of ``versions``, the first of which is the default."""
    server = VersionedModelServer(name=name, events=Stream())
    for version, model in (versions or {"v1": Summing()}).items():
        server.load_model(version, model)
    server.set_default_version(server.versions[0])
    return server


def tensor(data=(1.0, 2.0), shape=(1, 2), datatype="FP64", name="x", **beside):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data), **beside}


def infer(*tensors, **beside):
    return {"inputs": list(tensors) or [tensor()], **beside}
