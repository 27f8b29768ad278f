"""In front of a versioned server: no call mixes versions, none is lost in a swap."""

import asyncio
import threading
from collections import Counter

import numpy as np
import pytest
from tests.serving.held import Held, Queue, start, until

from prodml.errors import DeadlineExceeded, Overloaded, UnknownVersion
from prodml.events import ShadowScored, Stream
from prodml.resilience import Deadline
from prodml.serving import MicroBatcher, VersionedModelServer
from prodml.testing import Recorder


class Version:
    """Names itself in each answer, and dies when it is closed."""

    def __init__(self, name, held=None):
        self.name, self.held, self.calls, self.closed = name, held, [], False

    def predict_batch(self, rows):
        assert not self.closed
        self.calls.append(list(rows))
        if self.held is not None:
            self.held(rows)
        assert not self.closed
        return [(self.name, row) for row in rows]

    def predict(self, row):
        return self.predict_batch([row])[0]

    def close(self):
        self.closed = True


def serving(*names, held=None, **settings):
    server = VersionedModelServer(name="churn", events=Stream(), **settings)
    models = {name: Version(name, held if name == names[0] else None) for name in names}
    for name, model in models.items():
        server.load_model(name, model)
    server.set_default_version(names[0])
    return server, models


def test_answers_are_those_of_the_server():
    server, _ = serving("v1", "v2")
    batcher = MicroBatcher(server)
    assert batcher.predict(1) == ("v1", 1)
    assert batcher.predict(1, version="v2") == ("v2", 1)
    assert asyncio.run(batcher.apredict(1, "v2")) == ("v2", 1)
    assert batcher.submit_many([1, 2], "v2") == [("v2", 1), ("v2", 2)]
    with pytest.raises(UnknownVersion):
        batcher.predict(1, version="v9")
    assert server.in_flight == {"v1": 0, "v2": 0}


def test_replies_say_who_answered():
    server, _ = serving("v1", "v2")
    batcher = MicroBatcher(server)
    server.route(canary={"v2": 1.0})
    reply = batcher.call(1, key="ann")
    assert (reply.value, reply.version, reply.arm) == (("v2", 1), "v2", "canary")
    assert asyncio.run(batcher.acall(1, "v1")).arm == "pinned"
    several = batcher.call_batch([1, 2], key="ann")
    assert (several.version, several.arm, len(several)) == ("v2", "canary", 2)


def test_a_call_never_mixes_versions():
    held = Held()
    server, models = serving("v1", "v2", held=held)
    batcher = MicroBatcher(server)
    queue = Queue(batcher, held)
    waiting = [
        queue.add(batcher.predict, row, version)
        for row, version in enumerate(["v1", "v2", None, "v2", "v1", None])
    ]
    queue.go()
    names = [future.result(20.0)[0] for future in waiting]
    assert names == ["v1", "v2", "v1", "v2", "v1", "v1"]
    assert models["v2"].calls == [[1, 3]]
    assert sorted(map(sorted, models["v1"].calls)) == [[0], [0, 4], [2, 5]]
    assert batcher.stats().batches == 2


def test_keys_stick_to_their_arm():
    server, _ = serving("v1", "v2")
    server.route(canary={"v2": 0.5})
    batcher = MicroBatcher(server)
    alone = [server.predict(0, key=key)[0] for key in range(100)]

    async def main():
        return await asyncio.gather(*(batcher.apredict(0, key=key) for key in range(100)))

    assert [name for name, _ in asyncio.run(main())] == alone
    assert len(set(alone)) == 2


def test_who_waited_when_the_default_changed_is_answered_by_whom_he_was_sent_to():
    held = Held()
    server, models = serving("v1", "v2", held=held)
    batcher = MicroBatcher(server)
    queue = Queue(batcher, held)
    waiting = queue.add(batcher.predict, 1)
    server.set_default_version("v2")
    unloading = start(server.unload_model, "v1", timeout=20.0)
    until(lambda: "v1" not in server.versions)
    assert not models["v1"].closed
    assert server.in_flight["v1"] == 2
    queue.go()
    assert waiting.result(20.0) == ("v1", 1)
    unloading.result(20.0)
    assert models["v1"].closed
    assert batcher.predict(3) == ("v2", 3)


def test_a_version_is_not_closed_under_a_batch_that_nobody_waits_for_any_more():
    first, second = Held(), Held()
    server, models = serving("v1", "v2", held=first)
    models["v2"].held = second
    batcher = MicroBatcher(server)
    queue = Queue(batcher, first)
    leader = queue.add(batcher.predict, 1)

    def hurried():
        with Deadline(0.2):
            return batcher.predict(2, "v2")

    follower = queue.add(hurried)
    queue.go()
    assert second.entered.wait(20.0)
    with pytest.raises(DeadlineExceeded):
        follower.result(20.0)
    unloading = start(server.unload_model, "v2", timeout=20.0)
    until(lambda: "v2" not in server.versions)
    assert server.in_flight["v2"] == 1
    assert not models["v2"].closed
    second.go.set()
    unloading.result(20.0)
    assert models["v2"].closed
    assert leader.result(20.0) == ("v1", 1)


def test_however_a_request_ends_it_is_counted_out():
    held = Held(error=RuntimeError("broken"))
    server, _ = serving("v1", held=held)
    batcher = MicroBatcher(server, max_queue=2)
    queue = Queue(batcher, held)
    waiting = queue.rows(1, 2)
    with pytest.raises(Overloaded):
        batcher.predict(3)
    assert server.in_flight == {"v1": 3}
    with pytest.raises(RuntimeError, match="broken"):
        queue.go()
    assert [future.result(20.0) for future in waiting] == [("v1", 1), ("v1", 2)]
    until(lambda: server.in_flight == {"v1": 0})

    async def cancelled():
        task = asyncio.ensure_future(batcher.asubmit_many([1, 2]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancelled())
    batcher.close()
    with pytest.raises(Exception, match="closed"):
        batcher.predict(1)
    assert batcher.submit_many([]) == []
    assert server.in_flight == {"v1": 0}


def test_shadows_get_their_copies_as_the_model_got_its_rows():
    heard = Stream()
    recorder = Recorder(heard, ShadowScored)
    server = VersionedModelServer(name="churn", events=heard, shadow="inline")

    class Sum:
        def predict(self, rows):
            return rows.sum(axis=1)

    server.load_model("v1", Sum())
    server.load_model("v2", Sum())
    server.set_default_version("v1")
    server.route(shadow=["v2"])
    batcher = MicroBatcher(server, stack=True)

    async def main():
        rows = (np.array([n, 1.0]) for n in range(3))
        return await asyncio.gather(*(batcher.apredict(row) for row in rows))

    assert asyncio.run(main()) == [1.0, 2.0, 3.0]
    assert batcher.predict([5, 1]) == 6
    assert [fact.value for fact in recorder.of(ShadowScored)] == [1.0, 2.0, 3.0, 6]
    assert [fact.error for fact in recorder.of(ShadowScored)] == [None] * 4


def test_an_async_model_cannot_be_batched():
    class Awaited:
        async def predict(self, row):
            return row

    server = VersionedModelServer(events=Stream())
    server.load_model("v1", Awaited())
    server.set_default_version("v1")
    with pytest.raises(TypeError, match="is async"):
        MicroBatcher(server).predict(1)


def test_nothing_is_lost_or_misattributed_while_versions_come_and_go():
    server, _ = serving("v0")
    batcher = MicroBatcher(server, max_rows=8)
    over, seen, wrong = threading.Event(), Counter(), []

    def ask(rounds):
        for row in range(rounds):
            reply = batcher.call(row)
            if reply.value != (reply.version, row):
                wrong.append(reply)
            seen[reply.version] += 1
        return True

    def swap():
        for number in range(1, 40):
            new = f"v{number}"
            server.load_model(new, Version(new))
            old = server.default_version
            server.set_default_version(new)
            server.unload_model(old, timeout=20.0)
            if over.is_set():
                break

    async def tasks():
        async def one(row):
            reply = await batcher.acall(row)
            assert reply.value == (reply.version, row)

        for _ in range(40):
            await asyncio.gather(*(one(row) for row in range(10)))

    swapping = start(swap)
    asking = [start(ask, 150) for _ in range(4)]
    loop = start(lambda: asyncio.run(tasks()))
    for future in asking:
        assert future.result(60.0)
    loop.result(60.0)
    over.set()
    swapping.result(60.0)
    assert wrong == []
    assert sum(seen.values()) == 600
    assert set(server.in_flight.values()) == {0}
