"""Real threads: nothing lost and nothing misattributed while versions come and go."""

import asyncio
import sys
import threading
from collections import Counter
from random import Random

import pytest

from prodml.events import Stream
from prodml.serving import VersionedModelServer


class Closable:
    """Dies when asked after closing, as a model with a device buffer would."""

    def __init__(self, version):
        self.version, self.buffer = version, [version]

    def predict(self, features):
        return self.buffer[0]

    def close(self):
        self.buffer.clear()


@pytest.fixture(autouse=True)
def _switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def by_predict(server, rng):
    server.predict({})


def by_key(server, rng):
    assert server.predict({}, key=rng.randrange(1000)).startswith("v")


def by_lease(server, rng):
    with server.lease(key=rng.randrange(1000)) as lease:
        assert lease.predict({}) == lease.version


def by_resolve(server, rng):
    route = server.resolve()
    try:
        assert route.predict({}) == route.version
    finally:
        route.release()


def by_batch(server, rng):
    answers = server.predict_batch([{}] * 4, keys=[rng.randrange(1000) for _ in range(4)])
    assert len(answers) == 4
    assert all(answer.startswith("v") for answer in answers)


ASKING = (by_predict, by_key, by_lease, by_resolve, by_batch)


def cycle(server, number):
    """Load, canary, promote, unload the old one: what a release does."""
    old, new = server.default_version, f"v{number}"
    server.load_model(new, Closable(new), warm_up=[{}], check=lambda m: m.predict({}) == new)
    server.route(canary={new: 0.5}, shadow=[new] if number % 3 == 0 else [])
    server.set_default_version(new)
    server.route()
    server.unload_model(old, timeout=60.0)


def storm(cycles, workers=8):
    server = VersionedModelServer(events=Stream())
    server.load_model("v0", Closable("v0"))
    server.set_default_version("v0")
    over, failures, calls = threading.Event(), [], Counter()

    def ask(worker):
        rng, ask_by = Random(worker), ASKING[worker % len(ASKING)]
        while not over.is_set():
            try:
                ask_by(server, rng)
            except BaseException as error:
                failures.append(error)
            calls[worker] += 1

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for number in range(1, cycles + 1):
        cycle(server, number)
    over.set()
    for thread in threads:
        thread.join(60)
    return server, failures, calls


def assert_nothing_lost(server, failures, calls, cycles):
    assert failures == []
    assert len(calls) == 8
    assert server.drain(60)
    assert server.versions == (f"v{cycles}",)
    assert server.in_flight == {f"v{cycles}": 0}


def test_nothing_is_lost_in_200_releases_under_8_threads():
    assert_nothing_lost(*storm(200), 200)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_lost_in_5000_releases():
    server, failures, calls = storm(5000)
    assert_nothing_lost(server, failures, calls, 5000)
    assert sum(calls.values()) >= 1_000_000


class Awaited(Closable):
    async def apredict(self, features):
        await asyncio.sleep(0)
        return self.buffer[0]


async def astorm(cycles, tasks=8):
    server = VersionedModelServer(events=Stream())
    server.load_model("v0", Awaited("v0"))
    server.set_default_version("v0")
    over, calls = asyncio.Event(), Counter()

    async def ask(task):
        while not over.is_set():
            assert (await server.apredict({}, key=calls[task])).startswith("v")
            calls[task] += 1

    def release_all():
        for number in range(1, cycles + 1):
            old, new = server.default_version, f"v{number}"
            server.load_model(new, Awaited(new))
            server.set_default_version(new)
            server.unload_model(old, timeout=60.0)

    asking = [asyncio.create_task(ask(task)) for task in range(tasks)]
    await asyncio.to_thread(release_all)
    over.set()
    await asyncio.gather(*asking)
    return server, calls


def test_nothing_is_lost_in_200_releases_under_8_tasks():
    server, calls = asyncio.run(astorm(200))
    assert server.in_flight == {"v200": 0}
    assert min(calls[task] for task in range(8)) > 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_lost_in_5000_releases_under_8_tasks():
    server, calls = asyncio.run(astorm(5000))
    assert server.in_flight == {"v5000": 0}
    assert sum(calls.values()) >= 100_000


def ask_by_lease(server):
    with server.lease() as lease:
        return lease.predict({})


@pytest.mark.parametrize("ask", [lambda server: server.predict({}), ask_by_lease])
def test_drain_cannot_miss_a_reader_between_choice_and_mark(ask):
    """The one dangerous moment, forced: the table moves after the choice, before the mark."""
    server = VersionedModelServer(events=Stream())
    for version in ("v1", "v2"):
        server.load_model(version, Closable(version))
    server.set_default_version("v1")

    class Late(list):
        def append(self, mark):
            if server.default_version == "v1":
                server.set_default_version("v2")
                server.unload_model("v1", timeout=0.0)
            super().append(mark)

    slot = server._table.slots["v1"]
    object.__setattr__(slot, "busy", Late())
    server.route()
    assert server._table.stable.busy is slot.busy
    assert ask(server) == "v2"
    assert slot.busy == []
    assert slot.model.buffer == []
