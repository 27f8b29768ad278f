"""Answers with their origin: the version and the arm belong to the value, whatever is swapped."""

import asyncio

import numpy as np
import pytest

from prodml.errors import UnknownVersion
from prodml.events import Stream
from prodml.serving import BatchReply, Reply, VersionedModelServer


class Named:
    """Answers with its version; ``during`` runs in the middle of a request."""

    def __init__(self, version, during=lambda: None):
        self.version, self.during = version, during

    def predict(self, features):
        self.during()
        return self.version


class Awaited(Named):
    async def apredict(self, features):
        await asyncio.sleep(0)
        return self.version


def serving(kind=Named, **settings):
    server = VersionedModelServer(events=Stream(), **settings)
    for version in ("v1", "v2"):
        server.load_model(version, kind(version))
    server.set_default_version("v1")
    return server


def test_reply_names_version_and_arm():
    server = serving()
    server.route(canary={"v2": 1.0})
    assert server.call({}, key="ann") == Reply("v2", "v2", "canary")
    assert server.call({}, "v1") == Reply("v1", "v1", "pinned")
    server.route()
    assert server.call({}) == Reply("v1", "v1", "stable")


def test_reply_is_right_when_the_default_moves_in_the_middle():
    server = VersionedModelServer(events=Stream())
    server.load_model("v1", Named("v1", during=lambda: server.set_default_version("v2")))
    server.load_model("v2", Named("v2"))
    server.set_default_version("v1")
    assert server.call({}) == Reply("v1", "v1", "stable")
    assert server.call({}) == Reply("v2", "v2", "stable")


def test_awaited_reply_is_right_when_the_default_moves_in_the_middle():
    server = serving(Awaited)

    async def ask():
        task = asyncio.create_task(server.acall({}))
        await asyncio.sleep(0)
        server.set_default_version("v2")
        return await task, await server.acall({}, key=1)

    assert asyncio.run(ask()) == (Reply("v1", "v1", "stable"), Reply("v2", "v2", "stable"))


@pytest.mark.parametrize("ask", ["predict", "call", "apredict", "acall", "call_batch"])
def test_unknown_version_is_refused_by_every_way_of_asking(ask):
    server = serving()
    with pytest.raises(UnknownVersion):
        answer = getattr(server, ask)([{}], "v9")
        asyncio.run(answer)
    assert server.in_flight == {"v1": 0, "v2": 0}


def test_error_of_the_model_passes_and_is_counted_out():
    server = VersionedModelServer(events=Stream())
    server.load_model("v1", lambda features: 1 / 0)
    for call in (server.call, lambda *a: asyncio.run(server.acall(*a))):
        with pytest.raises(ZeroDivisionError):
            call({}, "v1")
    for call in (server.call_batch, lambda *a: asyncio.run(server.acall_batch(*a))):
        with pytest.raises(ZeroDivisionError):
            call([{}], "v1")
    assert server.in_flight == {"v1": 0}


# -- batches ----------------------------------------------------------------------------


def test_batch_reply_names_the_version_of_each_row():
    server = serving()
    server.route(canary={"v2": 0.5})
    keys = list(range(30))
    reply = server.call_batch([{}] * 30, keys=keys)
    assert list(reply.value) == list(reply.versions)
    assert list(reply) == [server.call({}, key=key) for key in keys]
    assert set(reply.arms) == {"stable", "canary"}
    assert (reply.version, reply.arm, len(reply)) == ("", "", 30)


def test_batch_of_one_key_goes_to_its_arm_whole():
    server = serving()
    server.route(canary={"v2": 0.5})
    for user in range(20):
        reply, one = server.call_batch([{}] * 3, key=user), server.call({}, key=user)
        assert (reply.version, reply.arm) == (one.version, one.arm)


def test_batch_without_rows_has_no_version():
    reply = serving().call_batch([], keys=[])
    assert (reply.value, reply.version, reply.arm) == ([], "", "")


def test_awaited_batch_uses_the_models_own():
    class Batches(Named):
        async def predict(self, features):
            raise AssertionError

        async def apredict_batch(self, rows):
            await asyncio.sleep(0)
            return [self.version] * len(rows)

    server = serving(Batches)
    reply = asyncio.run(server.acall_batch([{}] * 2))
    assert reply == BatchReply(["v1", "v1"], ("v1", "v1"), ("stable", "stable"))
    assert asyncio.run(server.apredict_batch([{}] * 2, "v2")) == ["v2", "v2"]


def test_batch_coroutine_in_the_plain_ones_place_is_awaited():
    class Batches(Named):
        async def predict_batch(self, rows):
            await asyncio.sleep(0)
            return [self.version] * len(rows)

    server = serving(Batches)
    assert asyncio.run(server.apredict_batch([{}])) == ["v1"]
    assert server.predict_batch([{}, {}]) == ["v1", "v1"]


def test_async_model_without_a_batch_is_awaited_row_by_row():
    class Rows:
        async def predict(self, row):
            await asyncio.sleep(0)
            return row + 1

    server = VersionedModelServer(events=Stream())
    server.load_model("v1", Rows())
    assert asyncio.run(server.apredict_batch([1, 2], "v1")) == [2, 3]
    assert asyncio.run(server.apredict_batch(np.array([1, 2]), "v1")).tolist() == [2, 3]
    with pytest.raises(TypeError, match="use apredict"):
        server.predict_batch([1], "v1")
    with pytest.raises(TypeError):
        asyncio.run(server.apredict_batch([1, "a"], "v1"))


def test_cancelled_batch_is_counted_out():
    class Slow:
        async def predict(self, row):
            await asyncio.sleep(60)

    server = VersionedModelServer(events=Stream())
    server.load_model("v1", Slow())

    async def cancel():
        task = asyncio.create_task(server.acall_batch([1, 2], "v1"))
        await asyncio.sleep(0)
        assert server.in_flight == {"v1": 1}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert server.in_flight == {"v1": 0}


def test_key_that_cannot_be_routed_leaves_nothing_counted():
    class Unspeakable:
        def __str__(self):
            raise OSError

    server = serving()
    server.route(canary={"v2": 0.5})
    with pytest.raises(OSError):
        server.call_batch([{}] * 20, keys=[*range(19), Unspeakable()])
    assert server.in_flight == {"v1": 0, "v2": 0}
