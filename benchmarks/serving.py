"""Serving: what routing costs a prediction, and what swapping, loading and shadows do to others.

``python -m benchmarks.serving`` prints the tables, and what each way adds to the bare call
as a share of what the baseline adds.  The baseline is the server that one writes first: a
dictionary of models behind one re-entrant lock, held while the version is looked up.  It
counts nothing, so it cannot drain, and its caller cannot tell who answered; prodml's figures
include the exact in-flight count.
"""

import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.runner import Case, Counted, Result, markdown, measure
from prodml.events import Stream
from prodml.serving import VersionedModelServer
from prodml.serving.slot import Route, Slot
from prodml.serving.split import Split

INNER = 200
CROWD = 5_000
THREADS = 8
FEATURES = {"age": 30}
KEY = "user-12345"
BARE, LOCKED, OURS = "bare model.predict", "one RLock (baseline)", "predict"
STICKY, REPLY = "predict, canary of 5 %, sticky by key", "call, canary of 5 %, sticky by key"


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


# -- what a call costs ------------------------------------------------------------------


def loop(predict: Callable[[Any], Any], times: int = INNER) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            predict(FEATURES)

    return work


def named(server: VersionedModelServer) -> Callable[[], None]:
    def work() -> None:
        for _ in range(INNER):
            server.predict(FEATURES, "v1")

    return work


def keyed(predict: Callable[[Any, None, str], Any], times: int = INNER) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            predict(FEATURES, None, KEY)

    return work


def held(server: VersionedModelServer, key: str | None) -> Callable[[], None]:
    def work() -> None:
        for _ in range(INNER):
            route = server.resolve(None, key)
            try:
                route.predict(FEATURES)
            finally:
                route.release()

    return work


def crowd(many: Callable[[], None]) -> Callable[[], None]:
    """The same from eight threads at once."""

    def work() -> None:
        threads = [threading.Thread(target=many) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return work


def costs() -> list[Case]:
    plain, split, mirrored = versioned(), versioned(v2=0.05), versioned()
    mirrored.route(shadow=["v2"])
    one = {
        BARE: loop(Model().predict),
        LOCKED: loop(locked().predict),
        OURS: loop(plain.predict),
        "predict, version named": named(plain),
        "call: value, version, arm": loop(plain.call),
        "resolve, predict, release": held(plain, None),
        "predict, canary of 5 %, drawn": loop(split.predict),
        STICKY: keyed(split.predict),
        REPLY: keyed(split.call),
        "resolve, predict, release, sticky": held(split, KEY),
        "predict, a copy to a shadow": loop(mirrored.predict),
    }
    many = {
        BARE: crowd(loop(Model().predict, CROWD)),
        LOCKED: crowd(loop(locked().predict, CROWD)),
        OURS: crowd(loop(plain.predict, CROWD)),
        STICKY: crowd(keyed(split.predict, CROWD)),
        REPLY: crowd(keyed(split.call, CROWD)),
    }
    limits = {OURS: 0.55, REPLY: 1.0}
    return [
        Case("Route and answer, 1 thread", LOCKED, one, limits, INNER),
        Case(
            "Route and answer, 8 threads, CPU time",
            LOCKED,
            many,
            limits,
            CROWD * THREADS,
            clock=time.process_time,
        ),
    ]


# -- what a command costs ---------------------------------------------------------------


@contextmanager
def busy(predict: Callable[[Any], Any]) -> Iterator[None]:
    """Eight threads that ask without a pause."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            predict(FEATURES)

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def rolled_back(q: float, rounds: int = 300) -> float:
    """Milliseconds until ``rollback`` returns: no request begins with the bad version then."""
    server, took = versioned(), []
    with busy(server.predict):
        for _ in range(rounds):
            server.set_default_version("v2")
            time.sleep(0.002)
            began = time.perf_counter()
            server.rollback("v2", reason="bad")
            took.append(time.perf_counter() - began)
            server.release("v2")
    return 1e3 * quantile(took, q)


# -- what others feel -------------------------------------------------------------------


def asked(predict: Callable[[Any], Any], seconds: float) -> list[float]:
    """Latencies of requests of about a tenth of a millisecond, some time apart."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        predict(FEATURES)
        took.append(time.perf_counter() - began)
        time.sleep(0.0005)
    return took


def p99(values: list[float]) -> float:
    return quantile(values, 0.99)


def work(milliseconds: float, *, lock: bool) -> Callable[[Any], Any]:
    """A model that computes so long, with the interpreter lock or, in numpy, without it."""
    import numpy as np

    # One core at a time, as a library of linear algebra would not promise.
    numbers = np.random.default_rng(0).normal(size=10_000)

    def predict(features: Any) -> Any:
        end = time.perf_counter() + milliseconds / 1e3
        while time.perf_counter() < end:
            if not lock:
                np.exp(numbers)
        return features

    return predict


def wait(milliseconds: float) -> Callable[[Any], Any]:
    def predict(features: Any) -> Any:
        time.sleep(milliseconds / 1e3)
        return features

    return predict


def beside_shadow(shadow: Callable[[Any], Any], rounds: int = 9) -> float:
    """p99 of the default with a shadow over p99 without: the median of interleaved rounds."""
    server, ratios = VersionedModelServer(events=Stream()), []
    server.load_model("v1", work(0.1, lock=False))
    server.load_model("v2", shadow)
    server.set_default_version("v1")
    for _ in range(rounds):
        server.route()
        server.drain(60.0)
        alone = p99(asked(server.predict, 0.4))
        server.route(shadow=["v2"])
        ratios.append(p99(asked(server.predict, 0.4)) / alone)
    return statistics.median(ratios)


def beside_hand(rounds: int = 9) -> float:
    """The same with no server: a list to append to, and a thread that computes in numpy."""
    model, shadow = work(0.1, lock=False), work(10.0, lock=False)
    over: list[bool] = []
    copies: list[Any] = []
    ratios: list[float] = []

    def alone(features: Any) -> Any:
        return model(features)

    def copied(features: Any) -> Any:
        answer = model(features)
        copies.append((dict(features), answer))
        return answer

    def score() -> None:
        while not over:
            shadow(FEATURES)

    for _ in range(rounds):
        base = p99(asked(alone, 0.4))
        thread = threading.Thread(target=score)
        thread.start()
        ratios.append(p99(asked(copied, 0.4)) / base)
        over.append(True)
        thread.join()
        over.clear()
    return statistics.median(ratios)


def beside_load(factory: Callable[[], Any], rounds: int = 5) -> float:
    """p99 of the default while another version loads over p99 while none does."""
    server, ratios = VersionedModelServer(events=Stream()), []
    server.load_model("v1", work(0.1, lock=False))
    server.set_default_version("v1")
    for number in range(rounds):
        alone = p99(asked(server.predict, 1.0))
        loaded, took = server.load(f"w{number}", factory), []
        while not loaded.done():
            took += asked(server.predict, 0.05)
        server.unload_model(loaded.result())
        ratios.append(p99(took) / alone)
    return statistics.median(ratios)


def read_slowly() -> Any:
    """A load of 1.5 s that mostly waits and decodes arrays."""
    import numpy as np

    for _ in range(15):
        time.sleep(0.1)
        np.frombuffer(bytes(4_000_000)).sum()
    return Model()


def unpickled() -> Callable[[], Any]:
    """A load of the commonest kind: a forest of scikit-learn, decoded under the lock."""
    import pickle

    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    rows = np.random.default_rng(0).normal(size=(4_000, 10))
    forest = RandomForestRegressor(100, random_state=0).fit(rows, rows[:, 0] * rows[:, 1])
    data = pickle.dumps(forest)

    def factory() -> Any:
        for _ in range(10):
            pickle.loads(data)
        return pickle.loads(data)

    return factory


def counted() -> list[Counted]:
    return [
        Counted(
            "Roll back under 8 threads that ask without a pause",
            "ms",
            {
                "median": lambda: rolled_back(0.5),
                "p99": lambda: rolled_back(0.99),
            },
            {"p99": 1.0},
        ),
        Counted(
            "p99 of requests beside a shadow 100 times slower, over p99 without",
            "ratio",
            {
                "the shadow waits (remote)": lambda: beside_shadow(wait(10.0)),
                "it computes in numpy": lambda: beside_shadow(work(10.0, lock=False)),
                "it computes in Python": lambda: beside_shadow(work(10.0, lock=True)),
                "limit: a list and a thread of numpy, no server": beside_hand,
            },
            {"the shadow waits (remote)": 1.05, "it computes in numpy": 1.05},
        ),
        Counted(
            "p99 of requests beside a load of 1.5 s, over p99 without",
            "ratio",
            {
                "it waits and reads arrays": lambda: beside_load(read_slowly),
                "it unpickles a forest": lambda: beside_load(unpickled()),
            },
            {"it waits and reads arrays": 1.2},
        ),
    ]


def cases() -> list[Case | Counted]:
    return [*costs(), *counted()]


# -- who is in a cohort -----------------------------------------------------------------


def cohort(keys: list[str], share: float, version: str = "v2") -> set[str]:
    stable = Route.to(Slot.of("v1", abs), "stable")
    canary = Route.to(Slot.of(version, abs), "canary")
    split = Split.of(stable, [(canary, share)], salt="churn")
    return {key for key in keys if split.by_key(key) is canary}


def table() -> str:
    """Shares and overlap of cohorts at 10^5 keys, in percent."""
    kinds = {
        "`user-0` ...": [f"user-{n}" for n in range(100_000)],
        "`0`, `1`, `2` ...": [str(n) for n in range(100_000)],
        "`000000000` ...": [f"{n:09d}" for n in range(100_000)],
        "`0@example.com` ...": [f"{n}@example.com" for n in range(100_000)],
    }
    lines = [
        "### Cohorts of 100,000 keys, in percent",
        "",
        "| keys | 1 asked | 5 asked | 25 asked | 50 asked | two of 5: in both (0.25 is right) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, keys in kinds.items():
        shares = [len(cohort(keys, share)) / 1000 for share in (0.01, 0.05, 0.25, 0.5)]
        both = len(cohort(keys, 0.05) & cohort(keys, 0.05, "v3")) / 1000
        cells = " | ".join(f"{share:.2f}" for share in shares)
        lines.append(f"| {name} | {cells} | {both:.3f} |")
    return "\n".join(lines) + "\n"


def added(results: list[Result]) -> str:
    """What each way adds to the bare call, as a share of what the baseline adds."""
    ns = {result.candidate: result.ns for result in results}
    whole = ns[LOCKED] - ns[BARE]
    shares = [f"{name}: {(t - ns[BARE]) / whole:.2f}" for name, t in ns.items() if name != BARE]
    return f"Added to the bare call, baseline = 1: {'; '.join(shares)}.\n"


if __name__ == "__main__":
    for case in cases():
        results = measure(case)
        sys.stdout.write(f"{markdown(results)}\n")
        if isinstance(case, Case):
            sys.stdout.write(f"{added(results)}\n")
    sys.stdout.write(table())
