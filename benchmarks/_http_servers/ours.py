"""prodml's application; with ``batched`` behind its port, through a MicroBatcher."""

import sys

from benchmarks._http_servers.model import asgi, trained
from prodml.integrations.open_inference import open_inference_app
from prodml.serving import VersionedModelServer

if __name__ == "__main__":
    server = VersionedModelServer(name="bench")
    server.load_model("1", trained())
    server.set_default_version("1")
    asgi(open_inference_app(server, batcher={} if "batched" in sys.argv else None))
