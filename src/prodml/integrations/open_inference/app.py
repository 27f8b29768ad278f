"""The ASGI application: finds the call, lets it be carried out, tells how it ended."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, final

from prodml._settings import size_of
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.integrations.open_inference.calls import Answer, Call, Calls
from prodml.integrations.open_inference.endpoint import Endpoint, named
from prodml.integrations.open_inference.http import (
    Disconnected,
    HttpReply,
    Receive,
    RequestHeaders,
    Scope,
    Send,
    refused_reply,
    send_reply,
)
from prodml.integrations.open_inference.inference import Inference, log_fault
from prodml.integrations.open_inference.mapping import TensorMapping
from prodml.integrations.open_inference.paths import find
from prodml.integrations.open_inference.refusals import HttpError, refusal_of
from prodml.integrations.open_inference.repository import (
    Loader,
    Repository,
    Unloader,
    checked_name,
)
from prodml.integrations.open_inference.signature import TensorSpec
from prodml.serving import ServingFleet

__all__ = ["OpenInferenceApp", "open_inference_app"]

_LOG = logging.getLogger("prodml.integrations.open_inference")


@final
@dataclass(slots=True, eq=False)
class OpenInferenceApp:
    """The ASGI 3 application that :func:`open_inference_app` makes.

    Examples
    --------
    >>> app = open_inference_app(abs)
    >>> list(app.repository.endpoints)
    ['model']
    """

    calls: Calls
    _: KW_ONLY
    fleets: Sequence[ServingFleet] = ()
    clock: Clock = SYSTEM_CLOCK
    _answers: Mapping[str, Answer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._answers = self.calls.by_name()

    @property
    def repository(self) -> Repository:
        """The hosted models."""
        return self.calls.repository

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection: HTTP or lifespan; a websocket is turned away."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise HttpError(501, f"connections of type {kind!r} are not served")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send(await self._started())
        for fleet in self.fleets:
            # On a thread: it says good-bye to a store.
            await asyncio.to_thread(fleet.close)
        self.repository.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _started(self) -> dict[str, str]:
        for fleet in self.fleets:
            try:
                await asyncio.to_thread(fleet.start)
            except Exception as error:
                why = f"fleet {fleet.name!r} does not start: {error}"
                _LOG.exception("%s", why)
                return {"type": "lifespan.startup.failed", "message": why}
        return {"type": "lifespan.startup.complete"}

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        for fleet in self.fleets:
            fleet.look()
        try:
            reply = await self._answer(method, scope, receive)
        except Disconnected:
            return
        except Exception as error:
            refusal = refusal_of(error, "the server")
            log_fault("the server", error, refusal.status)
            reply = refused_reply(refusal)
        try:
            await send_reply(send, reply, bodiless=method == "HEAD")
        except OSError:
            # By ASGI 2.4: the client has gone, and nobody is left to be told.
            _LOG.debug("a client went away before its reply")

    async def _answer(self, method: str, scope: Scope, receive: Receive) -> HttpReply:
        began = self.clock.monotonic()
        path: str = scope["path"]
        target = find(method, _below(path, scope.get("root_path", "")))
        call = Call(target, RequestHeaders(scope["headers"]), receive, began)
        return await self._answers[target.call](call)


def _below(path: str, root: str) -> str:
    """``path`` below the one that the application is mounted at; not every server adds that."""
    below = path.removeprefix(root)
    return below if below != path and below[:1] in {"", "/"} else path


def _plain(ready: Callable[[], object] | None) -> Callable[[], object] | None:
    # What it returns is true before anybody has awaited it.
    if inspect.iscoroutinefunction(ready):
        raise BadConfiguration(
            "ready must be a plain function, not an async one: it is not awaited"
        )
    return ready


def _listed(fleets: Sequence[ServingFleet]) -> tuple[ServingFleet, ...]:
    if isinstance(fleets, ServingFleet):
        raise BadConfiguration("fleets must be a list of fleets, such as fleets=[fleet]")
    return tuple(fleets)


def open_inference_app(
    models: Any,
    *,
    name: str = "prodml",
    version: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    mapping: TensorMapping | None = None,
    batcher: Any = None,
    threads: int = 0,
    key_header: str = "x-routing-key",
    key_parameter: str = "routing_key",
    max_body: int | str = "16 MiB",
    loader: Loader | None = None,
    unloader: Unloader | None = None,
    ready: Callable[[], object] | None = None,
    metrics: bool = True,
    openapi: bool = True,
    fleets: Sequence[ServingFleet] = (),
    clock: Clock = SYSTEM_CLOCK,
) -> OpenInferenceApp:
    """Serve ``models`` by the Open Inference Protocol, version 2, over REST.

    The result is a plain ASGI 3 application: run it under uvicorn, hypercorn or gunicorn's
    uvicorn workers, or mount it in an application that is there already.

    Parameters
    ----------
    models
        A :class:`~prodml.serving.VersionedModelServer`, a :class:`~prodml.PredictionService`
        or a model, which appears under its own name; or a mapping from name to any of these
        or to an :class:`Endpoint`.
    name, version
        What ``GET /v2`` tells about the server; the version of prodml by default.
    inputs, outputs, mapping, batcher, threads
        As in :class:`Endpoint`, for every model that is not an Endpoint.
    key_header, key_parameter
        Header, or parameter of the request, with the key that a canary split sticks to.
    max_body
        Bytes of a request at most, decompressed; more is refused with 413.
    loader, unloader
        Switch the repository extension on: ``loader(name, parameters)`` makes a model on a
        thread, ``unloader(name, endpoint)`` hears of one that is gone.
    ready
        Asked by the readiness probe beside the models: ``lambda: health.report().ready``.
    metrics, openapi
        Whether ``GET /metrics`` and ``GET /openapi.json`` answer.
    fleets
        :class:`~prodml.serving.ServingFleet` of every server that belongs to one: started and
        closed by the lifespan, looked at by every request.

    Raises
    ------
    BadConfiguration
        A name that no path can carry, or a setting that makes no sense.

    References
    ----------
    .. [1] Open Inference Protocol, https://github.com/kserve/open-inference-protocol, REST,
       2025; binary tensor data and model repository: extensions of NVIDIA Triton.

    Examples
    --------
    >>> from prodml import VersionedModelServer
    >>> server = VersionedModelServer(name="churn")
    >>> server.load_model("v1", lambda rows: rows.sum(axis=1))
    >>> server.set_default_version("v1")
    >>> app = open_inference_app(server)
    >>> import asyncio, json
    >>> async def post(path, body):
    ...     async def receive():
    ...         return {"type": "http.request", "body": body}
    ...     sent = []
    ...     async def send(event):
    ...         sent.append(event)
    ...     scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    ...     await app(scope, receive, send)
    ...     return json.loads(sent[1]["body"])
    >>> tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    >>> body = json.dumps({"inputs": [tensor]}).encode()
    >>> reply = asyncio.run(post("/v2/models/churn/infer", body))
    >>> reply["model_version"], reply["parameters"], reply["outputs"][0]["data"]
    ('v1', {'arm': 'stable'}, [3.0])
    """
    hosted = partial(
        Endpoint, inputs=inputs, outputs=outputs, mapping=mapping, batcher=batcher, threads=threads
    )
    endpoints = {
        checked_name(known): model if isinstance(model, Endpoint) else hosted(model)
        for known, model in named(models).items()
    }
    repository = Repository(endpoints, loader=loader, unloader=unloader, hosted=hosted)
    inference = Inference(
        repository, key_header=key_header, key_parameter=key_parameter, clock=clock
    )
    calls = Calls(
        inference,
        name=name,
        version=version,
        max_body=size_of(max_body, "max_body"),
        ready=_plain(ready),
        metrics=metrics,
        openapi=openapi,
    )
    return OpenInferenceApp(calls, fleets=_listed(fleets), clock=clock)
