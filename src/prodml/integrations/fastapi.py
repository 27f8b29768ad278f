"""Predictions in a FastAPI application that is there already (extra ``fastapi``).

:func:`open_inference_router` adds the Open Inference Protocol behind whatever dependencies the
application asks for; :func:`reply_of` and :func:`add_error_handlers` are for handlers of one's
own.  ``reply_of`` needs no FastAPI.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from prodml.errors import ProdmlError
from prodml.integrations.open_inference import OpenInferenceApp, open_inference_app, refusal_of
from prodml.integrations.open_inference.inference import log_fault
from prodml.integrations.open_inference.messages import json_bytes
from prodml.types import Prediction

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

__all__ = ["add_error_handlers", "open_inference_router", "reply_of"]

# All of them come here, so that even a wrong one is told in the protocol's words.
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def open_inference_router(models: Any, **settings: Any) -> "APIRouter":
    """Router with every call of the protocol, to be included in an application.

    Dependencies of the router and of the application, authentication say, hold for every
    call.  What they raise as ``HTTPException``, and what of the request they cannot read, is
    told as ``{"error": ...}``, which the protocol promises, and not as ``{"detail": ...}``.

    Parameters
    ----------
    models, settings
        As for :func:`~prodml.integrations.open_inference.open_inference_app`; or the
        application that it has made, without settings.

    Raises
    ------
    ImportError
        FastAPI is not installed.

    Examples
    --------
    >>> router = open_inference_router(abs)
    >>> [route.path for route in router.routes]
    ['/v2', '/v2/{call:path}']

    ``app.include_router(router, prefix="/models", dependencies=[Depends(signed_in)])``
    """
    from fastapi import APIRouter, Request

    inner = (
        models if isinstance(models, OpenInferenceApp) else open_inference_app(models, **settings)
    )
    within = _within(inner)

    async def answer(request: Request) -> Any:
        return within(request.path_params.get("call"))

    router = APIRouter(route_class=_route_class())
    for path in ("/v2", "/v2/{call:path}"):
        router.add_api_route(path, answer, methods=list(_METHODS), include_in_schema=False)
    return router


def _within(inner: OpenInferenceApp) -> Callable[[str | None], Any]:
    """Make responses that let ``inner`` answer, whatever path the router was included under."""
    from fastapi import Response

    class Within(Response):
        def __init__(self, call: str | None) -> None:
            super().__init__()
            self.path: str = "/v2" if call is None else f"/v2/{call}"

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, "path": self.path, "root_path": ""}, receive, send)

    return Within


def _route_class() -> Any:
    """Make a class of routes that tell what dependencies raise in the protocol's words."""
    from fastapi import HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.routing import APIRoute

    class Route(APIRoute):
        def get_route_handler(self) -> Any:
            handler = super().get_route_handler()

            async def told(request: Any) -> Any:
                try:
                    return await handler(request)
                except HTTPException as error:
                    body = json_bytes({"error": str(error.detail)})
                    return _response(error.status_code, body, error.headers)
                except RequestValidationError as error:
                    body = json_bytes({"error": "; ".join(map(_breach, error.errors()))})
                    return _response(422, body, None)

            return told

    return Route


def _breach(found: Mapping[str, Any]) -> str:
    """What a dependency misses: ``header x-token: Field required``."""
    return f"{' '.join(map(str, found['loc']))}: {found['msg']}"


def add_error_handlers(app: "FastAPI") -> None:
    """Let ``app`` tell the errors of prodml by the right status.

    See :func:`~prodml.integrations.open_inference.refusal_of` for the table.  A handler that
    calls ``service.predict`` needs no ``try`` any more.

    Examples
    --------
    >>> from fastapi import FastAPI
    >>> app = FastAPI()
    >>> add_error_handlers(app)
    >>> ProdmlError in app.exception_handlers
    True
    """

    async def told(_: Any, error: Any) -> Any:
        refusal = refusal_of(error, "the prediction")
        log_fault("the prediction", error, refusal.status)
        return _response(refusal.status, refusal.body, refusal.headers)

    app.add_exception_handler(ProdmlError, told)


def _response(status: int, body: bytes, headers: Mapping[str, str] | None) -> Any:
    from fastapi import Response

    return Response(body, status, dict(headers or {}), "application/json")


def reply_of(prediction: Prediction[Any]) -> dict[str, Any]:
    """``prediction`` as plain values, fit for JSON in any framework.

    NaN and the infinities, for which JSON has no word, are None.

    A row of ``predict_batch`` that has failed has ``error`` and ``status`` in place of the
    rest.

    Examples
    --------
    >>> import numpy as np
    >>> reply_of(Prediction(np.float64(0.5), "r1", "v2"))["value"]
    0.5
    """
    if prediction.source == "failed":
        refusal = refusal_of(cast("Exception", prediction.errors[-1]), "the prediction")
        told: dict[str, Any] = {"error": refusal.error, "status": refusal.status}
    else:
        told = {
            "value": _plain(prediction.value),
            "model_version": prediction.version,
            "source": prediction.source,
            "degraded": prediction.degraded,
            "cached": prediction.cached,
            "latency_ms": prediction.latency_ms,
        }
    return {"request_id": prediction.request_id, **told}


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {name: _plain(item) for name, item in items}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
