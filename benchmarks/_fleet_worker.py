"""One worker process of the fleet benchmark: serves, and says when its answers change.

``python -m benchmarks._fleet_worker '{"folder": ..., "work": 100, "pause": 0.001}'`` prints
"ready", then a line for each change of version: which, and when (seconds of the monotonic
clock, which all processes of a machine share).
"""

import json
import os
import sys
import time
from typing import Any

from prodml.events import Stream
from prodml.serving import ServingFleet, VersionedModelServer


class Model:
    """Takes some microseconds of pure Python, holding the interpreter all the while."""

    def __init__(self, version: str, work: int) -> None:
        self.version = version
        self.work = work

    def predict(self, features: Any) -> str:
        total = 0
        for number in range(self.work):
            total += number
        return self.version


def main() -> None:
    given = json.loads(sys.argv[1])
    work, pause, looks = (given.pop(name) for name in ("work", "pause", "looks"))
    server = VersionedModelServer(name="bench", events=Stream())
    for version in ("v1", "v2"):
        server.load_model(version, Model(version, work))
    server.set_default_version("v1")
    fleet = ServingFleet(server, events=Stream(), **given).start()
    os.write(1, b"ready\n")
    last = "v1"
    while True:
        if looks:
            fleet.look()
        version = server.predict(None)
        if version != last:
            last = version
            os.write(1, f"{version} {time.monotonic()}\n".encode())
        if pause:
            time.sleep(pause)


if __name__ == "__main__":
    main()
