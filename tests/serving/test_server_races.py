"""S2: nothing lost and nothing misattributed while versions come and go under load.

The ordinary suite runs a share; ``-m soak`` runs 10^6 requests of threads and 10^5 of tasks.
Models raise when they are asked after ``close``, and each answers with its own version.
"""

import asyncio
import sys
import threading
import time
from collections import Counter
from random import Random

import pytest

from prodml.events import Stream
from prodml.serving import Golden, VersionedModelServer

CYCLES, SHARE = 200, 50


class Closable:
    """Raises when asked after closing, as a model with a device buffer would."""

    def __init__(self, version):
        self.version, self.buffer = version, [version]

    def predict(self, features):
        answer = self.buffer[0]
        if features:
            time.sleep(features)
            assert self.buffer
        return answer

    def close(self):
        assert self.buffer
        self.buffer.clear()


@pytest.fixture(autouse=True)
def _switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


# Ways of asking: each makes requests and returns (how many, how many misattributed).


def by_predict(server, rng):
    assert server.predict(0).startswith("v")
    return 1, 0


def by_call(server, rng):
    reply = server.call(0, key=str(rng.randrange(1000)))
    return 1, reply.value != reply.version


def by_header(server, rng):
    reply = server.call(0, headers={"X-Arm": "new"})
    return 1, reply.value != reply.version


def by_lease(server, rng):
    with server.lease(key=rng.randrange(1000)) as lease:
        # Long enough for a version to be swapped and unloaded meanwhile.
        return 1, lease.predict(1e-4) != lease.version


def by_resolve(server, rng):
    route = server.resolve()
    try:
        return 1, route.predict(0) != route.version
    finally:
        route.release()


def by_batch(server, rng):
    reply = server.call_batch([0] * 4, keys=[rng.randrange(1000) for _ in range(4)])
    return 4, sum(row.value != row.version for row in reply)


ASKING = (by_predict, by_call, by_lease, by_resolve, by_batch, by_header, by_call, by_predict)


def cycle(server, number):
    """Load, shadow, canary, promote, unload the old one: what a release does."""
    old, new = server.default_version, f"v{number}"
    golden = Golden(rows=[0], answers=[new])
    if number % 2:
        server.load(new, lambda: Closable(new), warm_up=[0], check=golden).result(60)
    else:
        server.load_model(new, Closable(new), warm_up=[0], check=golden)
    server.route(
        canary={new: 0.5},
        shadow=[new] if number % 3 == 0 else [],
        overrides={"x-arm": {"new": new}},
    )
    if number == 3:
        # All else is done in microseconds: let a request meet the shadow once.
        limit = time.monotonic() + 30.0
        while server.shadow_stats().offered == 0 and time.monotonic() < limit:
            time.sleep(0.001)
    if number % 7 == 0:
        server.rollback(reason="practice")
        server.release(new)
    server.set_default_version(new)
    server.route(overrides={})
    server.unload_model(old, timeout=60.0)


def storm(cycles, least, workers=8):
    """At least ``least`` requests over at least ``cycles`` releases."""
    server = VersionedModelServer(events=Stream())
    server.load_model("v0", Closable("v0"))
    server.set_default_version("v0")
    over, failures, calls, wrong = threading.Event(), [], Counter(), Counter()

    def ask(worker):
        rng, ask_by = Random(worker), ASKING[worker % len(ASKING)]
        while not over.is_set():
            try:
                asked, misattributed = ask_by(server, rng)
            except BaseException as error:
                failures.append(error)
                return
            calls[worker] += asked
            wrong[worker] += misattributed

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    number = 0
    while number < cycles or sum(calls.values()) < least:
        assert all(thread.is_alive() for thread in threads), failures
        number += 1
        cycle(server, number)
    over.set()
    for thread in threads:
        thread.join(60)
    return server, failures, calls, wrong, number


def assert_nothing_lost(server, failures, calls, wrong, cycles):
    assert failures == []
    assert len(calls) == 8
    assert sum(wrong.values()) == 0
    assert server.drain(60)
    assert server.versions == (f"v{cycles}",)
    assert server.in_flight == {f"v{cycles}": 0}
    shadow = server.shadow_stats()
    assert shadow.offered > 0
    assert (shadow.failed, shadow.waiting) == (0, 0)


def test_nothing_is_lost_under_threads():
    assert_nothing_lost(*storm(SHARE, 50_000))


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_nothing_is_lost_in_a_million_requests_of_threads():
    assert_nothing_lost(*storm(CYCLES, 1_000_000))


class Awaited(Closable):
    async def apredict(self, features):
        answer = self.buffer[0]
        await asyncio.sleep(0)
        assert self.buffer
        return answer

    async def aclose(self):
        await asyncio.sleep(0)
        self.close()


async def astorm(cycles, least, tasks=8):
    """Tasks ask; releases come from the same loop by turns and from another thread."""
    server = VersionedModelServer(events=Stream())
    server.load_model("v0", Awaited("v0"))
    server.set_default_version("v0")
    over, calls, wrong = asyncio.Event(), Counter(), Counter()

    async def ask(task):
        rng = Random(task)
        while not over.is_set():
            if task % 2:
                reply = await server.acall(0, key=str(rng.randrange(1000)))
                asked, misattributed = 1, reply.value != reply.version
            else:
                rows = await server.acall_batch([0, 0], keys=[rng.randrange(1000), 7])
                asked, misattributed = 2, sum(row.value != row.version for row in rows)
            calls[task] += asked
            wrong[task] += misattributed
            # Every other version is plain and would never let the loop go on.
            await asyncio.sleep(0)

    async def release(number):
        old, new = server.default_version, f"v{number}"
        await server.aload_model(new, Awaited(new), warm_up=[0])
        server.route(canary={new: 0.5})
        await asyncio.sleep(0)
        server.set_default_version(new)
        server.route()
        await server.aunload_model(old, timeout=60.0)

    asking = [asyncio.create_task(ask(task)) for task in range(tasks)]
    number = 0
    while number < cycles or sum(calls.values()) < least:
        number += 1
        if number % 2:
            await release(number)
        else:
            await asyncio.to_thread(cycle, server, number)
    over.set()
    await asyncio.gather(*asking)
    return server, [], calls, wrong, number


def assert_no_task_lost(server, failures, calls, wrong, cycles):
    assert sum(wrong.values()) == 0
    assert min(calls[task] for task in range(8)) > 0
    (version,) = server.versions
    assert version == f"v{cycles}"
    assert server.in_flight == {version: 0}


def test_nothing_is_lost_under_tasks():
    assert_no_task_lost(*asyncio.run(astorm(SHARE, 10_000)))


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_nothing_is_lost_in_100_000_requests_of_tasks():
    assert_no_task_lost(*asyncio.run(astorm(CYCLES, 100_000)))


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
