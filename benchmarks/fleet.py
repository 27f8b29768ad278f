"""Many workers: how soon they agree, and what that costs a request.

``python -m benchmarks.fleet`` prints the tables.  Workers are real processes that serve all the
while; a command is given by one more, and it is over when the last worker has answered a request
by the new version.  *As a server does* means a request of a few microseconds of pure Python each
millisecond; *spinning* means requests without a pause, so that four workers want four cores.
Redis, where there is one, runs on the same machine, so that figures lack the network.
"""

import contextlib
import functools
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.servers import Server, server_binary

from benchmarks.runner import Case, Counted, main
from prodml.events import Stream
from prodml.serving import ServingFleet, VersionedModelServer

INNER = 200
ROUNDS = 100
WORKERS = 4
CALM = {"work": 100, "pause": 0.001}
SPINNING = {"work": 2000, "pause": 0.0}
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None

Figures = tuple[float, float]


# -- what a request pays --------------------------------------------------------------------


def nothing() -> None:
    """What is called in the baseline."""


def repeated(work: Callable[[], object]) -> Callable[[], None]:
    def many() -> None:
        for _ in range(INNER):
            work()

    return many


def glances() -> Case:
    folder = tempfile.mkdtemp(dir=MEMORY)
    server = served()
    looking = ServingFleet(server, name="bench", folder=folder, events=Stream()).start()
    looking.look()
    candidates = {
        "a call of nothing": repeated(nothing),
        "fleet.look()": repeated(looking.look),
    }
    limits = {"fleet.look()": 200.0}
    return Case(
        "what a request pays to know at once",
        "a call of nothing",
        candidates,
        {},
        INNER,
        limits_ns=limits,
    )


# -- how soon all agree ---------------------------------------------------------------------


def served() -> VersionedModelServer:
    server = VersionedModelServer(name="bench", events=Stream())
    for version in ("v1", "v2"):
        server.load_model(version, lambda features, version=version: version)
    server.set_default_version("v1")
    return server


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Address of a server of one's own, on whatever core is free."""
    with tempfile.TemporaryDirectory(prefix="prodml-") as folder:
        server = Server(server_binary() or "", Path(folder)).start()
        yield server.url
        server.kill()


@contextlib.contextmanager
def workers(count: int, **settings: Any) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", "benchmarks._fleet_worker", json.dumps(settings)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            spoken(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def spoken(process: subprocess.Popen[bytes]) -> list[bytes]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def agreed(boss: ServingFleet, processes: list[subprocess.Popen[bytes]]) -> Figures:
    """Milliseconds from the command to the last worker's first new answer: median and worst."""
    took: list[float] = []
    versions = itertools.cycle(("v2", "v1"))
    # Apart by times that have no rhythm of their own in common with a poll.
    for number in range(ROUNDS):
        time.sleep(0.03 + number % 7 * 0.011)
        version, began = next(versions), time.monotonic()
        boss.promote(version)
        answers = [spoken(process) for process in processes]
        assert all(answer[0] == version.encode() for answer in answers)
        took.append((max(float(answer[1]) for answer in answers) - began) * 1e3)
    return statistics.median(took), max(took)


@functools.cache
def of_one_host(looks: bool, spinning: bool) -> Figures:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        load = SPINNING if spinning else CALM
        with workers(WORKERS, folder=folder, looks=looks, **load) as processes:
            return agreed(ServingFleet(name="bench", folder=folder, events=Stream()), processes)


@functools.cache
def of_three_hosts(nudged: bool, poll: float, looks: bool = False) -> Figures:
    with redis_server() as url, contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        for _ in range(3):
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
            shared = {"folder": folder} if nudged else {}
            settings = {"store": url, "poll": poll, "looks": looks, **shared, **CALM}
            processes += stack.enter_context(workers(WORKERS, **settings))
        boss = ServingFleet(name="bench", store=url, events=Stream())
        if not nudged:
            boss._truth.nudge = nothing  # type: ignore[method-assign]
        return agreed(boss, processes)


@functools.cache
def of_one_process() -> Figures:
    """99th percentile and worst of a rollback here, while eight threads predict."""
    took, stop = [], threading.Event()
    server = served()

    def predicting() -> None:
        while not stop.is_set():
            for _ in range(100):
                server.predict(None)
            time.sleep(0.0001)

    threads = [threading.Thread(target=predicting) for _ in range(8)]
    for thread in threads:
        thread.start()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        fleet = ServingFleet(server, folder=folder, events=Stream())
        for _ in range(300):
            fleet.promote("v2")
            began = time.monotonic()
            fleet.rollback("v2")
            took.append((time.monotonic() - began) * 1e3)
            assert server.predict(None) == "v1"
            fleet.release("v2")
    stop.set()
    for thread in threads:
        thread.join()
    return statistics.quantiles(took, n=100)[-1], max(took)


def agreement(which: int, what: str) -> Counted:
    candidates: dict[str, Callable[[], float]] = {
        "4 workers of a host": lambda: of_one_host(False, False)[which],
        "4 workers of a host, requests look": lambda: of_one_host(True, False)[which],
        "4 workers of a host, spinning": lambda: of_one_host(False, True)[which],
        "4 workers of a host, spinning, requests look": lambda: of_one_host(True, True)[which],
    }
    limits = dict.fromkeys(list(candidates)[:2], 5.0)
    if server_binary() is not None:
        hosts = "3 hosts of 4 workers, Redis"
        candidates |= {
            f"{hosts} and shared memory": lambda: of_three_hosts(True, 1.0)[which],
            f"{hosts} polled each 50 ms, not nudged": lambda: of_three_hosts(False, 0.05)[which],
        }
        limits[f"{hosts} and shared memory"] = 100.0
    return Counted(
        f"from the command until all workers answer by it, {what}", "ms", candidates, limits
    )


def here() -> Counted:
    candidates = {
        "rollback of the fleet, 99th percentile": lambda: of_one_process()[0],
        "rollback of the fleet, worst": lambda: of_one_process()[1],
    }
    return Counted("from the command until this process answers by it, 8 threads", "ms", candidates)


def cases() -> list[Case | Counted]:
    return [glances(), here(), agreement(0, "median"), agreement(1, "worst of 100")]


if __name__ == "__main__":
    main(cases())
