"""BentoML; the class with batches has 64 rows and a second of latency to spend."""

from __future__ import annotations

import bentoml
import numpy as np

from benchmarks._http_servers.model import trained


@bentoml.service(workers=1, traffic={"timeout": 60})
class Single:
    def __init__(self) -> None:
        self.model = trained()

    @bentoml.api(route="/v2/models/bench/infer")
    def infer(self, inputs: list) -> list:
        return self.model.predict(np.asarray(inputs[0]["data"])).tolist()


@bentoml.service(workers=1, traffic={"timeout": 60})
class Batched:
    def __init__(self) -> None:
        self.model = trained()

    @bentoml.api(
        route="/v2/models/bench/infer", batchable=True, max_batch_size=64, max_latency_ms=1000
    )
    def infer(self, inputs: list) -> list:
        return self.model.predict(np.asarray([tensor["data"][0] for tensor in inputs])).tolist()
