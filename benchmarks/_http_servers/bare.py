"""The baseline: Starlette alone, ``async def``, the model asked in place."""

import numpy as np
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks._http_servers.model import asgi, trained

MODEL = trained()


async def infer(request):
    tensor = (await request.json())["inputs"][0]
    rows = np.asarray(tensor["data"], dtype=np.float64).reshape(tensor["shape"])
    told = MODEL.predict(rows)
    output = {
        "name": "predict",
        "datatype": "INT64",
        "shape": list(told.shape),
        "data": told.tolist(),
    }
    return JSONResponse({"model_name": "bench", "outputs": [output]})


if __name__ == "__main__":
    asgi(Starlette(routes=[Route("/v2/models/bench/infer", infer, methods=["POST"])]))
