"""Serving: what routing costs a prediction.

``python -m benchmarks.serving`` prints the tables, and what each way adds to the bare call
as a share of what the baseline adds.  The baseline is the server that one writes first: a
dictionary of models behind one re-entrant lock, held while the version is looked up.  It
counts nothing, so it cannot drain; prodml's figure includes the exact in-flight count.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.runner import Case, Result, markdown, measure
from prodml.events import Stream
from prodml.serving import VersionedModelServer

INNER = 200
CROWD = 5_000
THREADS = 8
FEATURES = {"age": 30}
BARE, LOCKED, OURS = "bare model.predict", "one RLock (baseline)", "VersionedModelServer.predict"


class Model:
    def predict(self, features: Any) -> Any:
        return features


class LockedServer:
    """The baseline."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.default: str | None = None
        self.lock = threading.RLock()

    def predict(self, features: Any, version: str | None = None) -> Any:
        with self.lock:
            if version is None:
                version = self.default
            if version not in self.models:
                raise ValueError(version)
            model = self.models[version]
        return model.predict(features)


def locked() -> LockedServer:
    server = LockedServer()
    server.models = {"v1": Model(), "v2": Model()}
    server.default = "v1"
    return server


def versioned(**canary: float) -> VersionedModelServer:
    server = VersionedModelServer(events=Stream())
    for version in ("v1", "v2"):
        server.load_model(version, Model())
    server.set_default_version("v1")
    server.route(canary=canary)
    return server


def loop(predict: Callable[[Any], Any]) -> Callable[[], None]:
    def work() -> None:
        for _ in range(INNER):
            predict(FEATURES)

    return work


def named(server: VersionedModelServer) -> Callable[[], None]:
    def work() -> None:
        for _ in range(INNER):
            server.predict(FEATURES, "v1")

    return work


def keyed(server: VersionedModelServer) -> Callable[[], None]:
    def work() -> None:
        for _ in range(INNER):
            server.predict(FEATURES, None, "user-12345")

    return work


def leased(server: VersionedModelServer) -> Callable[[Any], Any]:
    def predict(features: Any) -> Any:
        route = server.resolve()
        try:
            return route.predict(features), route.version
        finally:
            route.release()

    return predict


def crowd(predict: Callable[[Any], Any]) -> Callable[[], None]:
    """The same from eight threads at once."""

    def many() -> None:
        for _ in range(CROWD):
            predict(FEATURES)

    def work() -> None:
        threads = [threading.Thread(target=many) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return work


def cases() -> list[Case]:
    plain, split = versioned(), versioned(v2=0.05)
    one = {
        BARE: loop(Model().predict),
        LOCKED: loop(locked().predict),
        OURS: loop(plain.predict),
        "version named": named(plain),
        "resolve, predict, release": loop(leased(plain)),
        "canary of 5 %, drawn": loop(split.predict),
        "canary of 5 %, sticky by key": keyed(split),
    }
    many = {
        BARE: crowd(Model().predict),
        LOCKED: crowd(locked().predict),
        OURS: crowd(plain.predict),
    }
    return [
        Case("Route and answer, 1 thread", LOCKED, one, {OURS: 0.55}, INNER),
        Case(
            "Route and answer, 8 threads, CPU time",
            LOCKED,
            many,
            {OURS: 0.55},
            CROWD * THREADS,
            clock=time.process_time,
        ),
    ]


def added(results: list[Result]) -> str:
    """What each way adds to the bare call, as a share of what the baseline adds."""
    ns = {result.candidate: result.ns for result in results}
    whole = ns[LOCKED] - ns[BARE]
    shares = [f"{name}: {(t - ns[BARE]) / whole:.2f}" for name, t in ns.items() if name != BARE]
    return f"Added to the bare call, baseline = 1: {'; '.join(shares)}.\n"


if __name__ == "__main__":
    for case in cases():
        results = measure(case)
        sys.stdout.write(f"{markdown(results)}\n{added(results)}\n")
