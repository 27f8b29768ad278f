"""What the calls of the protocol answer, apart from infer."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cache
from importlib import metadata
from typing import Any, Final, TypeAlias, final

from prodml.integrations.open_inference.http import (
    HttpReply,
    Receive,
    RequestHeaders,
    json_reply,
    read_body,
    refused_reply,
)
from prodml.integrations.open_inference.inference import Inference
from prodml.integrations.open_inference.openapi import document
from prodml.integrations.open_inference.paths import Target
from prodml.integrations.open_inference.refusals import HttpError, Refusal
from prodml.integrations.open_inference.repository import Repository

__all__ = ["Call", "Calls"]

_TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"


@cache
def _own_version() -> str:
    try:
        return metadata.version("prodml")
    except metadata.PackageNotFoundError:
        # Run from a folder that was never installed.
        return "unknown"


@dataclass(slots=True)
class Call:
    """One HTTP request on its way."""

    target: Target
    headers: RequestHeaders
    receive: Receive
    began: float


Answer: TypeAlias = Callable[[Call], Awaitable[HttpReply]]


@final
@dataclass(slots=True, eq=False)
class Calls:
    """Carries out every call of the protocol; settings as in :func:`open_inference_app`."""

    inference: Inference
    _: KW_ONLY
    name: str
    version: str | None
    max_body: int
    ready: Callable[[], object] | None
    metrics: bool
    openapi: bool

    @property
    def repository(self) -> Repository:
        """The models."""
        return self.inference.repository

    def by_name(self) -> dict[str, Answer]:
        """What answers each call of :data:`paths.CALLS`."""
        return {
            "server_metadata": self._server_metadata,
            "live": self._live,
            "ready": self._ready,
            "model_metadata": self._model_metadata,
            "model_ready": self._model_ready,
            "infer": self._infer,
            "index": self._index,
            "load": self._load,
            "unload": self._unload,
            "metrics": self._metrics,
            "openapi": self._openapi,
        }

    # -- the server ---------------------------------------------------------------------

    async def _server_metadata(self, call: Call) -> HttpReply:  # noqa: ARG002
        extensions = ["binary_tensor_data"]
        if self.repository.loader is not None:
            extensions.append("model_repository")
        version = _own_version() if self.version is None else self.version
        return json_reply({"name": self.name, "version": version, "extensions": extensions})

    async def _live(self, call: Call) -> HttpReply:  # noqa: ARG002
        return json_reply({"live": True, "ready": not self._unready()})

    async def _ready(self, call: Call) -> HttpReply:  # noqa: ARG002
        why = self._unready()
        if why:
            return refused_reply(Refusal(503, f"not ready: {why}", {}), live=True, ready=False)
        return json_reply({"live": True, "ready": True})

    def _unready(self) -> str:
        why = self.repository.unready()
        if why or self.ready is None:
            return why
        return "" if self.ready() else "the application says so"

    # -- a model ------------------------------------------------------------------------

    async def _model_metadata(self, call: Call) -> HttpReply:
        target = call.target
        return json_reply(self.repository[target.model].metadata(target.model, target.version))

    async def _model_ready(self, call: Call) -> HttpReply:
        name = call.target.model
        why = self.repository[name].unready(call.target.version)
        if why:
            refusal = Refusal(503, f"model {name!r} is not ready: {why}", {})
            return refused_reply(refusal, name=name, ready=False)
        return json_reply({"name": name, "ready": True})

    async def _infer(self, call: Call) -> HttpReply:
        body = await self._body(call)
        return await self.inference.infer(call.target, call.headers, body, call.began)

    # -- the repository -----------------------------------------------------------------

    async def _index(self, call: Call) -> HttpReply:
        return json_reply(self.repository.index(await self._body(call)))

    async def _load(self, call: Call) -> HttpReply:
        await self.repository.load(call.target.model, await self._body(call))
        return json_reply({})

    async def _unload(self, call: Call) -> HttpReply:
        await self.repository.unload(call.target.model, await self._body(call))
        return json_reply({})

    # -- about --------------------------------------------------------------------------

    async def _metrics(self, call: Call) -> HttpReply:  # noqa: ARG002
        if not self.metrics:
            raise HttpError(404, "metrics are switched off")
        gauges = {
            "prodml_inference_in_flight": self._in_flight(),
            "prodml_model_ready": self._readiness(),
            "prodml_batcher_waiting_rows": self._batches("waiting"),
            "prodml_batcher_mean_rows": self._batches("mean_rows"),
        }
        return HttpReply(200, self.inference.metrics.text(gauges).encode(), _TEXT)

    async def _openapi(self, call: Call) -> HttpReply:  # noqa: ARG002
        if not self.openapi:
            raise HttpError(404, "the OpenAPI document is switched off")
        return json_reply(document(self.name, list(self.repository.endpoints)))

    def _in_flight(self) -> Iterator[tuple[dict[str, Any], float]]:
        for name, endpoint in self.repository.endpoints.items():
            for version, count in endpoint.server.in_flight.items():
                yield {"model": name, "version": version}, count

    def _readiness(self) -> Iterator[tuple[dict[str, Any], float]]:
        for name, endpoint in self.repository.endpoints.items():
            yield {"model": name}, 0 if endpoint.unready() else 1

    def _batches(self, figure: str) -> Iterator[tuple[dict[str, Any], float]]:
        for name, endpoint in self.repository.endpoints.items():
            if endpoint.batcher is not None:
                yield {"model": name}, getattr(endpoint.batcher.stats(), figure)

    async def _body(self, call: Call) -> bytes:
        return await read_body(call.receive, call.headers, self.max_body)
