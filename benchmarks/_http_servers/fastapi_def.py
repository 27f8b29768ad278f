"""FastAPI as its tutorial has it: pydantic models and a plain ``def``."""

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks._http_servers.model import asgi, trained

MODEL = trained()
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[list[float]]


class Request(BaseModel):
    inputs: list[Tensor]


class Output(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[int]


class Reply(BaseModel):
    model_name: str
    outputs: list[Output]


@app.post("/v2/models/bench/infer")
def infer(request: Request) -> Reply:
    told = MODEL.predict(np.asarray(request.inputs[0].data))
    output = Output(name="predict", shape=list(told.shape), datatype="INT64", data=told.tolist())
    return Reply(model_name="bench", outputs=[output])


if __name__ == "__main__":
    asgi(app)
