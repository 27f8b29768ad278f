"""A model of prodml as a KServe predictor.

Two ways.  The first needs nothing of KServe in the image: the container runs the ASGI
application, which speaks the protocol that KServe speaks (docs/how-to/scale-out.md has the
manifest)::

    uvicorn --factory examples.adapters.kserve_predictor:application --host 0.0.0.0 --port 8080

The second puts the model into KServe's own server, for its gRPC door, its logger and its
transformers::

    python -m examples.adapters.kserve_predictor
"""

from typing import Any

from prodml import VersionedModelServer
from prodml.integrations.open_inference import (
    Endpoint,
    OpenInferenceApp,
    Question,
    Tensor,
    open_inference_app,
)


def served() -> VersionedModelServer:
    """The models: here one that sums its row; yours come from a ModelRegistry."""
    server = VersionedModelServer(name="churn")
    server.load_model("v1", lambda rows: rows.sum(axis=1))
    server.set_default_version("v1")
    return server


def application() -> OpenInferenceApp:
    """The container's application."""
    return open_inference_app(served())


def predictor(name: str, endpoint: Endpoint) -> Any:
    """``endpoint`` as a model of KServe's server."""
    from kserve import InferOutput, InferResponse, Model

    class Predictor(Model):
        def __init__(self) -> None:
            super().__init__(name)
            self.ready = True

        async def predict(self, payload: Any, headers: Any = None, *_: Any) -> Any:
            tensors = [Tensor(i.name, i.datatype, i.as_numpy()) for i in payload.inputs]
            key = (headers or {}).get("x-routing-key")
            question = Question(key=key, headers=headers, request_id=payload.id or "")
            outputs, answered = await endpoint.infer(tensors, question)
            told = []
            for tensor in outputs.values():
                output = InferOutput(tensor.name, list(tensor.array.shape), tensor.datatype)
                output.set_data_from_numpy(tensor.array, binary_data=False)
                told.append(output)
            # KServe's server insists on an id.
            return InferResponse(payload.id or "", name, told, answered.version)

    return Predictor()


if __name__ == "__main__":
    import kserve

    kserve.ModelServer().start([predictor("churn", Endpoint(served()))])
