"""S10: reloading does not eat memory.  In a process of its own: what others leave would count."""

import json
import subprocess
import sys

import pytest

from prodml.serving.memory import resident

SCRIPT = """
import json, sys, threading
from prodml.events import Stream
from prodml.serving import VersionedModelServer
from prodml.serving.memory import resident


class Model:
    # Fifteen megabytes in small pieces, as trees of a forest are, and in one large one.
    def __init__(self, seed):
        self.nodes = [bytes(400 + (seed * 7919 + n) % 800) for n in range(15_000)]
        self.weights = bytearray(3_000_000)

    def predict(self, features):
        return len(self.nodes[features % 15_000]) + len(bytes(2000))


server = VersionedModelServer(events=Stream(), keep=None)
server.load("warm", lambda: Model(0)).result()
server.unload_model("warm")
floor = resident()
server.load("v0", lambda: Model(0)).result()
server.set_default_version("v0")
one = resident() - floor
over = threading.Event()


def ask():
    n = 0
    while not over.is_set():
        n += 1
        server.predict(n)
        over.wait(0.0005)


threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
returned = []
for number in range(1, 51):
    server.load(f"v{number}", lambda: Model(number), warm_up=range(10)).result()
    server.set_default_version(f"v{number}")
    returned.append(server.unload_model(f"v{number - 1}").returned)
over.set()
for thread in threads:
    thread.join()
json.dump({"one": one, "after": resident() - floor, "returned": returned}, sys.stdout)
"""


@pytest.mark.skipif(resident() is None, reason="the system does not say how much is resident")
@pytest.mark.skipif(sys.platform != "linux", reason="needs malloc_trim")
def test_fifty_reloads_leave_one_model():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["one"] > 10_000_000
    assert told["after"] <= 1.3 * told["one"]
    assert min(told["returned"]) >= 0


def test_system_that_tells_nothing_is_no_trouble(monkeypatch):
    from prodml.serving import memory

    class Model: ...

    monkeypatch.setattr(memory, "_trim", lambda: None)

    def unreadable(*_):
        raise OSError

    monkeypatch.setattr(memory, "open", unreadable, raising=False)
    model = Model()
    farewell = memory.watch(model)
    assert farewell.give_back() == (None, True)
    del model
    assert farewell.give_back() == (None, False)
