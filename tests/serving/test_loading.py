"""Coming and going: nothing is asked before it is proven, nothing is closed before it is idle."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from prodml._deadline import narrow, remaining, restore
from prodml.errors import BadConfiguration, DrainTimeout, GoldenMismatch, RejectedAnswer
from prodml.events import ModelLoaded, ModelRefused, ModelUnloaded, Stream
from prodml.serving import Golden, VersionedModelServer
from prodml.testing import ManualClock, Recorder

PATIENCE = 10.0


class Answers:
    """Answers with its version; dies when asked after closing."""

    def __init__(self, version="v2"):
        self.version, self.closed = version, 0

    def predict(self, features):
        assert not self.closed
        return self.version

    def close(self):
        self.closed += 1


class Awaited(Answers):
    """Async through and through; remembers the loops that it was used in."""

    def __init__(self, version="v2"):
        super().__init__(version)
        self.loops = []

    async def predict(self, features):
        await asyncio.sleep(0)
        self.loops.append(asyncio.get_running_loop())
        assert not self.closed
        return self.version

    async def close(self):
        await asyncio.sleep(0)
        self.loops.append(asyncio.get_running_loop())
        self.closed += 1


def serving(*versions, **settings):
    settings.setdefault("events", Stream())
    server = VersionedModelServer(**settings)
    for version in versions or ("v1",):
        server.load_model(version, Answers(version))
    server.set_default_version((versions or ("v1",))[0])
    return server


def until(true, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


# -- in the background ------------------------------------------------------------------


def test_version_is_out_of_reach_until_all_of_it_has_gone_well():
    server, go, seen = serving(), threading.Event(), []

    def factory():
        assert go.wait(PATIENCE)
        return Answers()

    def check(model):
        seen.append((server.states, server.versions))
        return True

    loaded = server.load("v2", factory, warm_up=[1, 2], check=check)
    assert server.states == {"v1": "ready", "v2": "loading"}
    assert (server.predict({}), server.ready()) == ("v1", True)
    for refused in (
        lambda: server.predict({}, "v2"),
        lambda: server.set_default_version("v2"),
        lambda: server.route(canary={"v2": 0.5}),
        lambda: server.unload_model("v2"),
    ):
        with pytest.raises(LookupError):
            refused()
    go.set()
    assert loaded.result(PATIENCE) == "v2"
    assert seen == [({"v1": "ready", "v2": "loading"}, ("v1",))]
    assert server.predict({}, "v2") == "v2"


def test_same_version_is_not_loaded_twice_at_once():
    server, go = serving(), threading.Event()
    loaded = server.load("v2", lambda: go.wait(PATIENCE) and Answers())
    for again in (
        lambda: server.load("v2", Answers),
        lambda: server.load_model("v2", Answers()),
        lambda: asyncio.run(server.aload_model("v2", Answers())),
    ):
        with pytest.raises(BadConfiguration, match="already loading"):
            again()
    go.set()
    assert loaded.result(PATIENCE) == "v2"
    with pytest.raises(BadConfiguration, match="already loaded"):
        server.load("v2", Answers)


@pytest.mark.parametrize(
    ("factory", "settings", "error"),
    [
        (lambda: 1 / 0, {}, ZeroDivisionError),
        (lambda: 7, {}, BadConfiguration),
        (lambda: lambda row: 1 / row, {"warm_up": [1, 0]}, ZeroDivisionError),
        (lambda: abs, {"check": lambda model: False}, RejectedAnswer),
        (lambda: abs, {"check": lambda model: 1 / 0}, ZeroDivisionError),
        (lambda: abs, {"check": Golden(rows=[-1], answers=[2])}, GoldenMismatch),
        (lambda: (_ for _ in ()).throw(SystemExit(1)), {}, SystemExit),
    ],
)
def test_bad_artefact_never_takes_traffic(factory, settings, error):
    server = serving()
    heard = Recorder(server.events, ModelRefused)
    table = server.routing()
    loaded = server.load("v2", factory, **settings)
    assert isinstance(loaded.exception(PATIENCE), error)
    assert (server.states, server.routing()) == ({"v1": "ready"}, table)
    refused = server.history[-1]
    assert (refused.action, refused.version) == ("refused", "v2")
    assert error.__name__ in refused.reason
    assert [fact.version for fact in heard.facts] == ["v2"]
    server.load("v2", Answers).result(PATIENCE)


def test_refused_model_of_a_factory_is_closed_and_forgotten():
    server, made = serving(), []

    def factory():
        model = Answers()
        made.append((weakref.ref(model), model.__dict__))
        return model

    loaded = server.load("v2", factory, check=lambda model: False)
    assert isinstance(loaded.exception(PATIENCE), RejectedAnswer)
    ((model, state),) = made
    assert state["closed"] == 1
    # Although the future is kept, and with it the error and its traceback.
    assert model() is None
    assert "check of version 'v2'" in str(loaded.exception())


def test_refused_model_that_will_not_close_is_still_refused():
    class Sticky(Answers):
        def close(self):
            raise OSError

    loaded = serving().load("v2", Sticky, check=lambda model: False)
    assert isinstance(loaded.exception(PATIENCE), RejectedAnswer)


def test_model_that_was_handed_in_is_not_closed_when_it_is_refused():
    server, model = serving(), Answers()
    with pytest.raises(RejectedAnswer):
        server.load_model("v2", model, check=lambda model: False)
    assert model.closed == 0


def test_loading_cannot_be_cancelled_halfway():
    server, go = serving(), threading.Event()
    loaded = server.load("v2", lambda: go.wait(PATIENCE) and Answers())
    assert not loaded.cancel()
    go.set()
    assert loaded.result(PATIENCE) == "v2"


def test_thread_that_cannot_start_leaves_nothing(monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    server = serving()
    monkeypatch.setattr("prodml.serving.loading._LOADERS.submit", refuse)
    with pytest.raises(RuntimeError):
        server.load("v2", Answers)
    monkeypatch.undo()
    assert server.states == {"v1": "ready"}
    assert server.load("v2", Answers).result(PATIENCE) == "v2"


def test_loaded_version_may_be_promoted_by_a_callback():
    server = serving()
    loaded = server.load("v2", Answers)
    loaded.add_done_callback(lambda future: server.set_default_version(future.result()))
    until(lambda: server.default_version == "v2")


def test_nothing_fails_while_a_slow_version_loads():
    """S3: every request of the time that a load takes is answered by what serves."""
    server = serving()

    def slow():
        time.sleep(0.3)
        weights = np.random.default_rng(0).normal(size=(100, 100))
        return lambda features: float(np.linalg.svd(weights)[1][0]) > 0

    loaded = server.load("v2", slow, warm_up=[{}] * 3, check=lambda model: model({}))
    answers = []
    while not loaded.done():
        answers.append(server.predict({}))
    assert loaded.result() == "v2"
    assert set(answers) == {"v1"}
    assert len(answers) > 1000


def test_commands_have_more_time_than_the_request_that_gives_them():
    server, clock = serving("v1", "v2", "v3"), ManualClock()
    model = server.resolve("v2")
    model.release()
    reset = narrow(1.0, clock)
    try:
        clock.advance(2.0)
        server.load_model("v4", abs, warm_up=[1], check=lambda model: True)
        server.load("v5", lambda: abs, warm_up=[1]).result(PATIENCE)
        server.unload_model("v2")
        assert model.model.closed
        assert remaining() == -1.0
    finally:
        restore(reset)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_loads_on_a_thread_of_its_own():
    server = serving()
    server.load("v2", Answers).result(PATIENCE)
    child = os.fork()
    if child == 0:
        loaded = server.load("v3", Answers)
        os._exit(0 if loaded.result(PATIENCE) == "v3" else 1)
    assert os.waitpid(child, 0)[1] == 0


# -- async models -----------------------------------------------------------------------


def test_async_model_is_proven_in_the_callers_loop():
    server, model = serving(), Awaited()

    async def use():
        await server.aload_model(
            "v2", model, warm_up=[1], check=Golden(rows=[1, 2], answers=["v2", "v2"])
        )
        return asyncio.get_running_loop()

    loop = asyncio.run(use())
    assert set(model.loops) == {loop}
    assert len(model.loops) == 3
    assert asyncio.run(server.apredict({}, "v2")) == "v2"


def test_async_model_that_fails_its_check_is_refused():
    server = serving()
    with pytest.raises(GoldenMismatch):
        asyncio.run(server.aload_model("v2", Awaited(), check=Golden(rows=[1], answers=["v3"])))
    with pytest.raises(RejectedAnswer):
        asyncio.run(server.aload_model("v2", Awaited(), check=lambda model: False))
    assert server.states == {"v1": "ready"}


def test_async_check_is_awaited():
    async def check(model):
        return await model.predict({}) == "v3"

    server = serving()
    with pytest.raises(RejectedAnswer):
        asyncio.run(server.aload_model("v2", Awaited(), check=check))
    asyncio.run(server.aload_model("v2", Awaited("v3"), check=check))
    assert "v2" in server.versions


def test_async_model_is_loaded_in_the_background():
    server = serving()
    golden = Golden(rows=[1, 2], answers=["v2", "v2"])
    assert server.load("v2", Awaited, warm_up=[1], check=golden).result(PATIENCE) == "v2"
    refused = server.load("v3", lambda: Awaited("v3"), check=golden)
    assert isinstance(refused.exception(PATIENCE), GoldenMismatch)


def test_async_model_is_not_warmed_up_by_a_plain_load():
    server = serving()
    with pytest.raises(TypeError, match="use apredict"):
        server.load_model("v2", Awaited(), warm_up=[1])
    server.load_model("v2", Awaited())


def test_cancelled_load_leaves_nothing():
    class Slow:
        async def predict(self, features):
            await asyncio.sleep(60)

    server = serving()

    async def cancel():
        task = asyncio.create_task(server.aload_model("v2", Slow(), warm_up=[1]))
        await asyncio.sleep(0)
        assert server.states["v2"] == "loading"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert server.states == {"v1": "ready"}


# -- going ------------------------------------------------------------------------------


def test_awaited_unload_waits_without_holding_up_the_loop():
    server, model = serving(), Awaited()
    server.load_model("v2", model)

    async def use():
        request = asyncio.create_task(server.apredict({}, "v2"))
        await asyncio.sleep(0)
        gone = await server.aunload_model("v2")
        assert request.done()
        return gone.version, asyncio.get_running_loop()

    version, loop = asyncio.run(use())
    assert (version, model.closed, set(model.loops)) == ("v2", 1, {loop})


def test_plain_unload_closes_an_async_model_in_a_loop_of_its_own():
    server, model = serving(), Awaited()
    server.load_model("v2", model)
    server.unload_model("v2")
    assert model.closed == 1

    async def inside_a_loop():
        server.load_model("v3", model)
        server.unload_model("v3")

    asyncio.run(inside_a_loop())
    assert model.closed == 2
    assert len(set(model.loops)) == 2


def test_aclose_is_preferred_where_one_awaits():
    class Both(Answers):
        async def aclose(self):
            self.closed += 10

    server, models = serving(), [Both(), Both()]
    server.load_model("v2", models[0])
    server.unload_model("v2")
    server.load_model("v2", models[1])
    asyncio.run(server.aunload_model("v2"))
    assert [model.closed for model in models] == [1, 10]


def test_close_that_is_a_number_is_left_alone():
    class Stock:
        close = 3.5

        def predict(self, features):
            return self.close

    server = serving()
    server.load_model("v2", Stock())
    assert server.unload_model("v2").version == "v2"


def test_model_that_another_version_serves_too_stays_open():
    server, model = serving(), Answers()
    server.load_model("a", model)
    server.load_model("b", model)
    server.unload_model("a")
    assert (model.closed, server.predict({}, "b")) == (0, "v2")
    server.unload_model("b")
    assert model.closed == 1


def test_cancelled_unload_puts_the_version_back():
    server = serving("v1", "v2")
    route = server.resolve("v2")

    async def cancel():
        task = asyncio.create_task(server.aunload_model("v2"))
        await asyncio.sleep(0.01)
        assert server.states["v2"] == "unloading"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert server.states["v2"] == "ready"
    assert server.predict({}, "v2") == "v2"
    route.release()


def test_awaited_unload_in_vain_puts_the_version_back():
    server = serving("v1", "v2")
    route = server.resolve("v2")
    with pytest.raises(DrainTimeout):
        asyncio.run(server.aunload_model("v2", timeout=0.01))
    assert server.predict({}, "v2") == "v2"
    route.release()


# -- memory -----------------------------------------------------------------------------


ALONE = """
from prodml.events import ModelUnloaded, Stream
from prodml.serving import VersionedModelServer

class Large:
    def __init__(self):
        self.weights = [bytes(1000) for _ in range(20_000)]

    def predict(self, features):
        return 0.5

events, heard = Stream(), []
events.subscribe(ModelUnloaded, heard.append)
server = VersionedModelServer(events=events)
server.load("v2", Large).result(60)
gone = server.unload_model("v2")
assert not gone.held
assert gone.returned is None or gone.returned > 10_000_000, gone
assert [fact.returned for fact in heard] == [gone.returned]
"""


def test_what_was_returned_is_told():
    # In a process of its own: what others have left behind is filled before anything is returned.
    subprocess.run([sys.executable, "-c", ALONE], check=True, timeout=PATIENCE * 4)


def test_model_in_a_cycle_is_collected():
    class Cyclic(Answers):
        def __init__(self):
            super().__init__()
            self.me = self

    server = serving()
    server.load("v2", Cyclic).result(PATIENCE)
    gc.disable()
    try:
        assert not server.unload_model("v2").held
    finally:
        gc.enable()


def test_somebody_who_keeps_the_model_is_told_on():
    server = serving()
    server.load("v2", Answers).result(PATIENCE)
    route = server.resolve("v2")
    route.release()
    assert server.unload_model("v2").held
    assert route.version == "v2"


def test_model_without_weak_references_goes_too():
    class Slotted:
        __slots__ = ()

        def predict(self, features):
            return 1

    server = serving()
    server.load_model("v2", Slotted())
    assert not server.unload_model("v2").held


# -- keeping ----------------------------------------------------------------------------


def promote(server, *versions):
    for version in versions:
        if version not in server.versions:
            server.load_model(version, Answers(version))
        server.set_default_version(version)


def test_earlier_defaults_beyond_those_kept_are_unloaded():
    server = serving(keep=1)
    promote(server, "v2", "v3")
    until(lambda: server.states == {"v2": "ready", "v3": "ready"})
    assert server.rollback() == "v2"
    with pytest.raises(BadConfiguration, match="no earlier default"):
        server.rollback()


def test_all_are_kept_by_default():
    server = serving()
    promote(server, *(f"v{n}" for n in range(2, 9)))
    assert len(server.versions) == 8


def test_version_with_a_part_in_traffic_or_never_a_default_is_not_retired():
    server = serving(keep=0)
    server.load_model("spare", Answers("spare"))
    server.load_model("v2", Answers("v2"))
    server.route(overrides={"x-arm": {"old": "v1"}})
    promote(server, "v2", "v3")
    until(lambda: set(server.states) == {"v1", "v3", "spare"})


def test_version_is_retired_when_its_last_request_has_ended():
    server = serving(keep=0)
    route = server.resolve()
    promote(server, "v2")
    until(lambda: server.states == {"v1": "unloading", "v2": "ready"})
    assert route.predict({}) == "v1"
    route.release()
    until(lambda: server.states == {"v2": "ready"})
    assert route.model.closed == 1


def test_coming_back_to_a_version_keeps_it():
    server = serving(keep=1)
    promote(server, "v2", "v1", "v2")
    until(lambda: server.states == {"v1": "ready", "v2": "ready"})
    assert server.rollback() == "v1"


def test_keep_must_not_be_negative():
    with pytest.raises(BadConfiguration, match="keep"):
        VersionedModelServer(keep=-1)


@pytest.mark.filterwarnings("error")
def test_retiring_in_vain_is_no_trouble(caplog):
    server = serving(keep=0)

    class Sticky(Answers):
        def close(self):
            raise OSError("stuck")

    server.load_model("v2", Sticky("v2"))
    with caplog.at_level("INFO", "prodml.serving"):
        promote(server, "v2", "v3")
        until(lambda: server.states == {"v3": "ready"})
        until(lambda: "has not retired" in caplog.text)


# -- in the midst of it -----------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True])
def test_a_listener_that_interrupts_does_not_undo_what_is_loaded(behind):
    server, model = serving(), Answers()

    def interrupt(fact):
        raise KeyboardInterrupt

    server.events.subscribe(ModelLoaded, interrupt)
    if behind:
        assert isinstance(server.load("v2", lambda: model).exception(PATIENCE), KeyboardInterrupt)
    else:
        with pytest.raises(KeyboardInterrupt):
            server.load_model("v2", model)
    assert [change.action for change in server.history if change.version == "v2"] == ["loaded"]
    assert server.predict({}, "v2") == "v2"


def test_refused_model_whose_close_is_cancelled_still_settles_the_future():
    class Cancelled(Answers):
        def close(self):
            raise asyncio.CancelledError

    refused = serving().load("v2", Cancelled, check=lambda model: False)
    assert isinstance(refused.exception(PATIENCE), RejectedAnswer)


def test_a_factory_does_not_inherit_the_deadline_of_the_request_that_gives_the_command():
    server, left = serving(), []

    def factory():
        left.append(remaining())
        return Answers()

    reset = narrow(1e-9, server.clock)
    try:
        loading = server.load("v2", factory, warm_up=[1])
    finally:
        restore(reset)
    assert loading.result(PATIENCE) == "v2"
    assert left == [None]


def test_an_async_model_that_was_not_awaited_is_refused_with_a_reason():
    server = serving()
    with pytest.raises(TypeError, match="async"):
        server.load_model("v2", Awaited(), warm_up=[1])
    assert "not awaited" in server.history[-1].reason


def test_a_version_that_is_interrupted_in_its_close_has_gone_and_that_is_a_fact():
    class Interrupted(Answers):
        def close(self):
            raise KeyboardInterrupt

    class Slow(Answers):
        async def close(self):
            await asyncio.sleep(60)

    server = serving()
    heard = Recorder(server.events)
    server.load_model("v2", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        server.unload_model("v2")
    server.load_model("v3", Slow())
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(server.aunload_model("v3"), 0.05))
    assert server.versions == ("v1",)
    assert [fact.version for fact in heard.of(ModelUnloaded)] == ["v2", "v3"]


def test_model_that_another_version_is_about_to_serve_stays_open():
    server, model = serving(), Answers()
    server.load_model("v2", model)

    def check(same):
        server.unload_model("v2")
        return same is model

    server.load_model("v3", model, check=check)
    assert (server.predict({}, "v3"), model.closed) == ("v2", 0)
    server.unload_model("v3")
    assert model.closed == 1


def test_no_thread_for_retiring_is_no_failure_of_the_change(monkeypatch, caplog):
    server = serving("v1", "v2", keep=0)
    server.set_default_version("v1")

    def none_left(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("prodml.serving.versions.WORKERS", SimpleNamespace(submit=none_left))
    server.set_default_version("v2")
    assert (server.default_version, server.versions) == ("v2", ("v1", "v2"))
    assert "has not retired version 'v1'" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_waits_for_nothing_that_only_its_parent_has():
    server, inside, go = serving("v1", "v2", "v4"), threading.Event(), threading.Event()

    def slow(features):
        inside.set()
        assert go.wait(PATIENCE)
        return Answers("v3")

    server.load_model("slow", slow)
    asking = threading.Thread(target=server.predict, args=({}, "slow"))
    asking.start()
    assert inside.wait(PATIENCE)
    loading = server.load("v3", lambda: slow({}))
    route = server.resolve("v4")
    unloading = threading.Thread(target=server.unload_model, args=("v4", None))
    unloading.start()
    while server.states["v4"] != "unloading":
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert server.in_flight == dict.fromkeys(("v1", "v2", "slow", "v4"), 0)
            server.unload_model("slow", timeout=0.0)
            server.unload_model("v4", timeout=0.0)
            server.load_model("v3", Answers("v3"))
            # It is this thread's own, and may be given back.
            route.release()
            status = 0 if server.versions == ("v1", "v2", "v3") else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert server.in_flight["slow"] == 1
    go.set()
    route.release()
    for thread in (asking, unloading):
        thread.join(PATIENCE)
    assert loading.result(PATIENCE) == "v3"
    assert server.versions == ("v1", "v2", "slow", "v3")
