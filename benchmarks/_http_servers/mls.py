"""MLServer; with ``batched``, its adaptive batching (64 rows, 2 ms)."""

import asyncio
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

from benchmarks._http_servers.model import port, trained


class Bench(MLModel):
    async def load(self):
        self.model = trained()
        return True

    async def predict(self, payload):
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        told = np.asarray(self.model.predict(rows))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("predict", told)]
        )


async def main():
    sizes = {"max_batch_size": 64, "max_batch_time": 0.002} if "batched" in sys.argv else {}
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=port(),
        grpc_port=port() + 1000,
        metrics_port=port() + 2000,
        parallel_workers=0,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="bench", implementation=Bench, **sizes)])


if __name__ == "__main__":
    asyncio.run(main())
