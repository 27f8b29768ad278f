"""LitServe; with ``batched``, batches of up to 64 and its default of no waiting."""

import sys

import litserve
import numpy as np

from benchmarks._http_servers.model import port, trained


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = trained()

    def decode_request(self, request):
        return np.asarray(request["inputs"][0]["data"][0])

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, rows):
        if rows.ndim == 1:
            return self.model.predict(rows[None])[0]
        return self.model.predict(rows)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        told = {"name": "predict", "datatype": "INT64", "shape": [1], "data": [int(output)]}
        return {"model_name": "bench", "outputs": [told]}


if __name__ == "__main__":
    sizes = {"max_batch_size": 64, "batch_timeout": 0.0} if "batched" in sys.argv else {}
    server = litserve.LitServer(
        Api(api_path="/v2/models/bench/infer", **sizes), accelerator="cpu", workers_per_device=1
    )
    quiet = {"log_level": "error", "generate_client_file": False}
    server.run(host="127.0.0.1", port=port(), num_api_servers=1, **quiet)
