"""The OpenAPI document of the application, written by hand."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from prodml.integrations.open_inference.paths import CALLS
from prodml.integrations.open_inference.tensors import DATATYPES

__all__ = ["document"]

_PARAMETERS: Final[dict[str, Any]] = {
    "type": ["object", "null"],
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}
_NAME: Final = {"type": "string"}
_SHAPE: Final = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_TENSOR: Final[dict[str, Any]] = {
    "name": _NAME,
    "shape": {**_SHAPE, "minItems": 1, "maxItems": 32},
    "datatype": {"enum": list(DATATYPES)},
    "parameters": _PARAMETERS,
    "data": {"type": "array"},
}
_SPECS: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": _NAME,
            "datatype": {"enum": list(DATATYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        },
    },
}


def _object(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


SCHEMAS: Final[dict[str, Any]] = {
    "Error": _object(["error"], error={"type": "string"}),
    "ServerMetadata": _object(
        ["name", "version", "extensions"],
        name=_NAME,
        version={"type": "string"},
        extensions={"type": "array", "items": {"type": "string"}},
    ),
    "Health": _object(["live", "ready"], live={"type": "boolean"}, ready={"type": "boolean"}),
    "ModelMetadata": _object(
        ["name", "platform", "inputs", "outputs"],
        name=_NAME,
        versions={"type": "array", "items": {"type": "string"}},
        platform={"type": "string"},
        inputs=_SPECS,
        outputs=_SPECS,
    ),
    "ModelReady": _object(["name", "ready"], name=_NAME, ready={"type": "boolean"}),
    "InferRequest": _object(
        ["inputs"],
        id={"type": ["string", "null"]},
        parameters=_PARAMETERS,
        inputs={
            "type": "array",
            "minItems": 1,
            "items": _object(["name", "shape", "datatype"], **_TENSOR),
        },
        outputs={
            "type": ["array", "null"],
            "items": _object(["name"], name=_NAME, parameters=_PARAMETERS),
        },
    ),
    "InferReply": _object(
        ["model_name", "outputs"],
        model_name=_NAME,
        model_version={"type": "string"},
        id={"type": "string"},
        parameters=_PARAMETERS,
        outputs={
            "type": "array",
            "items": _object(["name", "shape", "datatype"], **_TENSOR),
        },
    ),
    "IndexRequest": _object(ready={"type": "boolean"}),
    "Index": {
        "type": "array",
        "items": _object(
            ["name", "state", "reason"],
            name=_NAME,
            version={"type": "string"},
            state={"enum": ["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"]},
            reason={"type": "string"},
        ),
    },
    "LoadRequest": _object(parameters=_PARAMETERS),
    "Empty": _object(),
}

# Summary, schema of the request, schema of the reply, and the errors beside those of any path.
_ABOUT: Final[dict[str, tuple[str, str, str, tuple[int, ...]]]] = {
    "server_metadata": ("What this server is", "", "ServerMetadata", ()),
    "live": ("Whether the process works", "", "Health", ()),
    "ready": ("Whether every model can answer", "", "Health", (503,)),
    "model_metadata": ("What a model takes and gives", "", "ModelMetadata", (404,)),
    "model_ready": ("Whether a model can answer", "", "ModelReady", (404, 503)),
    "infer": (
        "Ask a model",
        "InferRequest",
        "InferReply",
        (400, 404, 413, 415, 429, 500, 503),
    ),
    "index": ("Which models there are", "IndexRequest", "Index", (400, 413, 415)),
    "load": ("Load a model", "LoadRequest", "Empty", (400, 403, 409, 413, 415, 500)),
    "unload": ("Unload a model", "LoadRequest", "Empty", (400, 403, 404, 409, 413, 415, 500)),
    "openapi": ("This document", "", "Empty", (404,)),
}


def document(name: str, models: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1 of an application that hosts ``models``.

    Examples
    --------
    >>> "/v2/models/{model}/infer" in document("prodml", ["churn"])["paths"]
    True
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{name}: Open Inference Protocol", "version": "2"},
        "paths": {template: _path(template, models) for template in CALLS},
        "components": {"schemas": SCHEMAS},
    }


def _path(template: str, models: Sequence[str]) -> dict[str, Any]:
    method, call = CALLS[template]
    item: dict[str, Any] = {method.lower(): _operation(template, call)}
    parameters = list(_path_parameters(template, models))
    return {"parameters": parameters, **item} if parameters else item


def _path_parameters(template: str, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    if "{model}" in template:
        # A loader may know more than is there now.
        known = {} if "repository" in template else {"enum": list(models)}
        schema = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"} | known
        yield {"name": "model", "in": "path", "required": True, "schema": schema}
    if "{version}" in template:
        schema = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}
        yield {"name": "version", "in": "path", "required": True, "schema": schema}


def _operation(template: str, call: str) -> dict[str, Any]:
    operation_id = call + ("_version" if "{version}" in template else "")
    if call == "metrics":
        text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
        told = {"200": {"description": "Prometheus text format", **text}}
        return {"operationId": operation_id, "summary": "Counters", "responses": told}
    summary, asked, replied, errors = _ABOUT[call]
    operation: dict[str, Any] = {"operationId": operation_id, "summary": summary}
    if asked:
        operation["requestBody"] = {"required": call == "infer", "content": _content(asked)}
    content = _content(replied)
    if call == "infer":
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    responses: dict[str, Any] = {"200": {"description": summary, "content": content}}
    # Any path may be asked in a wrong way, and one with a name in it may be endless.
    for status in sorted({*errors, 405, *((414,) if "{" in template else ())}):
        responses[str(status)] = {"description": "Refused", "content": _content("Error")}
    return {**operation, "responses": responses}


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
