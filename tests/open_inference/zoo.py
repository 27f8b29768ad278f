"""The models that the clients' checks ask; ``python -m tests.open_inference.zoo`` serves them."""

import sys
from typing import Any

from prodml.events import Stream
from prodml.integrations.open_inference import (
    Endpoint,
    OpenInferenceApp,
    Tabular,
    TensorSpec,
    open_inference_app,
)
from prodml.serving import VersionedModelServer


class Sums:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, rows: Any) -> Any:
        if (rows < 0).any():
            raise ValueError("a secret of the model")
        return rows.sum(axis=1) * self.factor


def echo(rows: Any) -> Any:
    return rows


def words(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"upper": row["text"].upper(), "length": len(row["text"])} for row in rows]


def columns(row: dict[str, Any]) -> float:
    return row["age"] + (100.0 if row["home"] == "own" else 0.0)


class Words:
    def predict(self, row: dict[str, Any]) -> dict[str, Any]:
        return words([row])[0]


def zoo() -> OpenInferenceApp:
    """An application with a model of each kind."""
    sums = VersionedModelServer(name="sum", events=Stream())
    sums.load_model("v1", Sums(1.0))
    sums.load_model("v2", Sums(100.0))
    sums.set_default_version("v1")
    inputs = [TensorSpec("INPUT", "FP32", (-1, 2))]
    return open_inference_app(
        {
            "sum": Endpoint(sums, inputs=inputs, outputs=[TensorSpec("SUM", "FP32", (-1,))]),
            "echo": Endpoint(echo, mapping=Tabular(rows="array")),
            "words": Endpoint(Words(), mapping=Tabular(rows="dicts")),
            "columns": columns,
        },
        loader=lambda name, parameters: columns,
    )


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(zoo(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
