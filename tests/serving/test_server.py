"""The versioned server: asking, swapping, unloading, rolling back."""

import asyncio
import threading
import time

import pytest

from prodml.errors import (
    BadConfiguration,
    DeadlineExceeded,
    DrainTimeout,
    RejectedAnswer,
    UnknownVersion,
)
from prodml.events import (
    DefaultVersionChanged,
    ModelLoaded,
    ModelRefused,
    ModelUnloaded,
    RolledBack,
    Stream,
    TrafficRouted,
    VersionQuarantined,
)
from prodml.serving import VersionedModelServer
from prodml.testing import ManualClock, Recorder


class Answers:
    """Answers with its version; knows whether it was closed, and refuses then."""

    def __init__(self, version):
        self.version, self.closed = version, False

    def predict(self, features):
        assert not self.closed
        return self.version

    def close(self):
        assert not self.closed
        self.closed = True


def until(true, seconds=10.0):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def serving(*versions, **settings):
    settings.setdefault("events", Stream())
    server = VersionedModelServer(**settings)
    for version in versions:
        server.load_model(version, Answers(version))
    if versions:
        server.set_default_version(versions[0])
    return server


def test_lecture_snippet_runs():
    server = VersionedModelServer()
    server.load_model("v1.0", Answers("v1.0"))
    server.load_model("v2.0", Answers("v2.0"))
    server.set_default_version("v2.0")
    assert server.predict({}) == "v2.0"
    assert server.predict({}, version="v1.0") == "v1.0"
    server.unload_model("v1.0")
    assert server.versions == ("v2.0",)


def test_unknown_version_names_the_known_ones():
    with pytest.raises(UnknownVersion, match=r"models has no version 'v9'; known: v1, v2"):
        serving("v1", "v2").predict({}, version="v9")


def test_empty_server_says_what_to_call():
    with pytest.raises(LookupError) as caught:
        VersionedModelServer().predict({})
    assert "known: none" in str(caught.value)
    assert "set_default_version" in caught.value.__notes__[0]


def test_server_without_default_still_answers_pinned_requests():
    server = VersionedModelServer()
    server.load_model("v1", Answers("v1"))
    assert server.predict({}, "v1") == "v1"
    with pytest.raises(UnknownVersion):
        server.resolve()


@pytest.mark.parametrize("version", ["", None, 3])
def test_version_must_be_text(version):
    with pytest.raises(BadConfiguration, match="non-empty string"):
        VersionedModelServer().load_model(version, abs)


@pytest.mark.parametrize("model", [3, Answers, object()])
def test_model_that_cannot_be_asked_is_refused(model):
    with pytest.raises(BadConfiguration, match="predict"):
        VersionedModelServer().load_model("v1", model)


def test_callable_is_a_model():
    server = VersionedModelServer()
    server.load_model("v1", lambda features: features["x"] + 1)
    assert server.predict({"x": 1}, "v1") == 2


def test_loaded_version_is_not_replaced_under_its_name():
    server = serving("v1")
    with pytest.raises(BadConfiguration, match="already loaded"):
        server.load_model("v1", Answers("other"))


def test_unknown_shadow_mode_is_refused():
    with pytest.raises(BadConfiguration, match="inline"):
        VersionedModelServer(shadow="process")


# -- becoming routable ------------------------------------------------------------------


def test_warm_up_and_check_run_before_the_version_is_routable():
    server, seen = serving(), []

    def model(features):
        seen.append((features, server.versions))
        return features

    server.load_model("v1", model, warm_up=[1, 2], check=lambda m: m(3) == 3)
    assert seen == [(1, ()), (2, ()), (3, ())]
    assert server.versions == ("v1",)


@pytest.mark.parametrize("verdict", [False, 0])
def test_failing_check_leaves_the_table_unchanged(verdict):
    server = serving("v1")
    before = server.history
    heard = Recorder(server.events, ModelRefused)
    with pytest.raises(RejectedAnswer, match="check of version 'v2'"):
        server.load_model("v2", Answers("v2"), check=lambda model: verdict)
    assert (server.versions, server.states) == (("v1",), {"v1": "ready"})
    assert server.history[:-1] == before
    refused = server.history[-1]
    assert (refused.action, refused.version, refused.default) == ("refused", "v2", "v1")
    assert "the check of version 'v2' failed" in refused.reason
    assert [(fact.version, fact.reason) for fact in heard.facts] == [("v2", refused.reason)]


def test_what_warm_up_raises_passes_untouched():
    server = VersionedModelServer()
    with pytest.raises(ZeroDivisionError):
        server.load_model("v1", lambda features: 1 / features, warm_up=[1, 0])
    assert server.versions == ()


def test_check_that_returns_nothing_passes():
    server = VersionedModelServer()
    server.load_model("v1", abs, check=lambda model: None)
    assert server.versions == ("v1",)


# -- unloading --------------------------------------------------------------------------


def test_unloading_closes_the_model_once():
    server = serving("v1", "v2")
    model = server.resolve("v2")
    model.release()
    server.unload_model("v2")
    assert model.model.closed
    with pytest.raises(UnknownVersion):
        server.unload_model("v2")


def test_default_version_is_not_unloaded():
    with pytest.raises(ValueError, match="it is the default version"):
        serving("v1").unload_model("v1")


@pytest.mark.parametrize(
    ("split", "role"), [({"canary": {"v2": 0.1}}, "canary"), ({"shadow": ["v2"]}, "shadow")]
)
def test_routed_version_is_not_unloaded(split, role):
    server = serving("v1", "v2")
    server.route(**split)
    with pytest.raises(BadConfiguration, match=role):
        server.unload_model("v2")
    server.route()
    server.unload_model("v2")


def test_busy_version_stays_open_when_time_is_over_and_drains_later():
    server = serving("v1", "v2", clock=ManualClock())
    route = server.resolve("v2")
    with pytest.raises(DrainTimeout, match="1 requests in flight after 5 s") as caught:
        server.unload_model("v2", timeout=5.0)
    assert (caught.value.version, caught.value.in_flight) == ("v2", 1)
    assert isinstance(caught.value, DeadlineExceeded)
    assert server.in_flight == {"v1": 0, "v2": 1}
    assert not route.model.closed
    assert server.predict({}, "v2") == "v2"
    assert [change.action for change in server.history][-1] == "kept"
    route.release()
    assert server.unload_model("v2", timeout=0.0).waited == 0.0
    assert route.model.closed
    server.load_model("v2", Answers("v2"))


def test_version_is_out_of_reach_while_its_requests_end():
    server = serving("v1", "v2")
    route = server.resolve("v2")
    unloading = threading.Thread(target=server.unload_model, args=("v2", None))
    unloading.start()
    until(lambda: server.states["v2"] == "unloading")
    with pytest.raises(UnknownVersion):
        server.predict({}, "v2")
    with pytest.raises(BadConfiguration, match="still unloading"):
        server.load_model("v2", Answers("v2"))
    assert not route.model.closed
    route.release()
    unloading.join(10)
    assert route.model.closed
    assert server.states == {"v1": "ready"}


def test_two_unloads_of_one_version_close_it_once():
    server = serving("v1", "v2")
    route, ended = server.resolve("v2"), []

    def unload():
        ended.append(server.unload_model("v2", None).version)

    threads = [threading.Thread(target=unload) for _ in range(2)]
    threads[0].start()
    until(lambda: server.states["v2"] == "unloading")
    threads[1].start()
    until(threads[1].is_alive)
    route.release()
    for thread in threads:
        thread.join(10)
    assert route.model.closed
    assert ended in (["v2"], ["v2", "v2"])
    assert server.in_flight == {"v1": 0}


def test_one_of_two_unloads_may_give_up_without_harm_to_the_other():
    server = serving("v1", "v2")
    route = server.resolve("v2")
    patient = threading.Thread(target=server.unload_model, args=("v2", None))
    patient.start()
    until(lambda: server.states["v2"] == "unloading")
    with pytest.raises(DrainTimeout):
        server.unload_model("v2", timeout=0.0)
    assert server.states["v2"] == "ready"
    route.release()
    patient.join(10)
    assert route.model.closed
    assert server.versions == ("v1",)


def test_model_without_close_is_just_let_go():
    server = serving("v1")
    server.load_model("v2", abs)
    server.unload_model("v2")
    assert server.versions == ("v1",)


def test_error_of_close_passes_after_the_version_is_gone():
    server = serving("v1")
    heard = Recorder(server.events, ModelUnloaded)
    model = Answers("v2")
    model.closed = True
    server.load_model("v2", model)
    with pytest.raises(AssertionError):
        server.unload_model("v2")
    assert len(heard.facts) == 1
    assert server.in_flight == {"v1": 0}


# -- counting ---------------------------------------------------------------------------


def test_request_is_counted_while_the_model_works():
    server, seen = VersionedModelServer(), []
    server.load_model("v1", lambda features: seen.append(server.in_flight))
    server.set_default_version("v1")
    server.predict({})
    server.predict({}, "v1")
    assert seen == [{"v1": 1}, {"v1": 1}]
    assert server.in_flight == {"v1": 0}


def test_failing_model_is_counted_out():
    server = VersionedModelServer()
    server.load_model("v1", lambda features: 1 / 0)
    server.set_default_version("v1")
    for version in (None, "v1"):
        with pytest.raises(ZeroDivisionError):
            server.predict({}, version)
    assert server.in_flight == {"v1": 0}


def test_lease_counts_from_entering_to_leaving():
    server = serving("v1")
    lease = server.lease(key="ann")
    assert server.in_flight == {"v1": 0}
    with lease:
        assert (lease.version, lease.arm, lease.predict({})) == ("v1", "stable", "v1")
        assert lease.model.version == "v1"
        assert server.in_flight == {"v1": 1}
    assert server.in_flight == {"v1": 0}


def test_lease_outside_its_block_is_refused():
    lease = serving("v1").lease()
    with pytest.raises(RuntimeError, match="inside its with block"):
        lease.predict({})
    with lease, pytest.raises(RuntimeError, match="held already"):
        lease.__enter__()


# -- default and rollback ---------------------------------------------------------------


def test_setting_the_default_again_changes_nothing():
    server = serving("v1")
    before = server.history
    server.set_default_version("v1")
    assert server.history is before


def test_history_tells_who_when_and_why():
    clock = ManualClock()
    server = serving("v1", "v2", clock=clock)
    clock.advance(60)
    server.set_default_version("v2", reason="better")
    last = server.history[-1]
    assert (last.action, last.version, last.default, last.reason) == (
        "default", "v2", "v2", "better",
    )  # fmt: skip
    assert last.at == clock.time()
    assert [change.action for change in server.history] == [
        "loaded", "loaded", "default", "default",
    ]  # fmt: skip


def test_rollback_returns_to_the_previous_default_and_quarantines():
    server = serving("v1", "v2")
    server.set_default_version("v2")
    assert server.rollback(reason="errors") == "v1"
    assert server.predict({}) == "v1"
    assert dict(server.quarantined) == {"v2": "errors"}
    with pytest.raises(BadConfiguration, match=r"quarantined \(errors\)"):
        server.set_default_version("v2")


def test_second_rollback_walks_further_back():
    server = serving("v1", "v2", "v3")
    server.set_default_version("v2")
    server.set_default_version("v3")
    assert (server.rollback(), server.rollback()) == ("v2", "v1")


def test_named_rollback_may_be_repeated():
    server = serving("v1", "v2", "v3")
    server.set_default_version("v2")
    server.set_default_version("v3")
    assert server.rollback("v3") == server.rollback("v3") == "v2"
    assert [change.version for change in server.history if change.action == "rolled back"] == ["v3"]


def test_rollback_skips_versions_that_are_gone():
    server = serving("v1", "v2", "v3")
    server.set_default_version("v2")
    server.set_default_version("v3")
    server.unload_model("v2")
    assert server.rollback() == "v1"


def test_rollback_without_an_earlier_default_changes_nothing():
    server = serving("v1")
    with pytest.raises(BadConfiguration, match="no earlier default"):
        server.rollback()
    assert (server.default_version, dict(server.quarantined)) == ("v1", {})


def test_rollback_of_an_empty_server_is_an_unknown_version():
    with pytest.raises(UnknownVersion):
        VersionedModelServer().rollback()
    with pytest.raises(UnknownVersion):
        VersionedModelServer().rollback("v1")


def test_rollback_during_a_canary_takes_the_canary_out():
    server = serving("v1", "v2", "v3")
    server.set_default_version("v2")
    server.route(canary={"v3": 0.5})
    assert server.rollback(reason="guard") == "v2"
    assert dict(server.canary) == {}
    assert dict(server.quarantined) == {"v3": "guard"}


def test_rollback_to_a_version_that_is_canary_leaves_it_default_only():
    server = serving("v1", "v2")
    server.set_default_version("v2")
    server.route(canary={"v1": 0.5})
    assert server.rollback("v2") == "v1"
    assert dict(server.canary) == {}


def test_named_shadow_is_rolled_back():
    server = serving("v1", "v2")
    server.route(shadow=["v2"])
    server.rollback("v2")
    assert server.shadow_versions == ()


def test_quarantine_outlives_unloading_until_released():
    server = serving("v1", "v2")
    server.rollback("v2", reason="bad")
    server.unload_model("v2")
    server.load_model("v2", Answers("v2"))
    with pytest.raises(BadConfiguration, match="release"):
        server.route(canary={"v2": 0.1})
    server.release("v2")
    server.route(canary={"v2": 0.1})


def test_release_of_an_unknown_version_is_refused():
    with pytest.raises(UnknownVersion):
        serving("v1").release("v2")


def test_quarantined_version_still_answers_who_asks_for_it():
    server = serving("v1", "v2")
    server.rollback("v2")
    assert server.predict({}, version="v2") == "v2"


# -- facts ------------------------------------------------------------------------------


def test_every_change_is_a_fact():
    events = Stream()
    heard = Recorder(events)
    server = serving("v1", "v2", events=events, name="churn")
    server.route(canary={"v2": 0.1})
    server.set_default_version("v2", reason="good")
    server.rollback(reason="bad")
    server.unload_model("v2")
    assert [type(fact) for fact in heard.facts] == [
        ModelLoaded, ModelLoaded, DefaultVersionChanged, TrafficRouted, DefaultVersionChanged,
        TrafficRouted, VersionQuarantined, RolledBack, DefaultVersionChanged, ModelUnloaded,
    ]  # fmt: skip
    rolled = heard.facts[7]
    assert (rolled.source, rolled.old, rolled.new, rolled.reason) == ("churn", "v2", "v1", "bad")


def test_listener_may_change_the_server():
    server = serving("v1", "v2")
    server.events.subscribe(RolledBack, lambda fact: server.unload_model(fact.old))
    server.set_default_version("v2")
    server.rollback()
    assert server.versions == ("v1",)


# -- awaiting ---------------------------------------------------------------------------


class Awaited:
    async def predict(self, features):
        await asyncio.sleep(0)
        return ("awaited", features)


class BothColours:
    def predict(self, features):
        return "plain"

    async def apredict(self, features):
        return "awaited"


def test_async_model_answers_apredict_and_refuses_predict():
    server = VersionedModelServer()
    server.load_model("v1", Awaited())
    assert asyncio.run(server.apredict(1, version="v1")) == ("awaited", 1)
    with pytest.raises(TypeError, match="use apredict"):
        server.predict(1, version="v1")


def test_model_of_both_colours_answers_in_the_right_one():
    server = VersionedModelServer()
    server.load_model("v1", BothColours())
    server.set_default_version("v1")
    assert server.predict(1) == "plain"
    assert asyncio.run(server.apredict(1)) == "awaited"


def test_plain_model_answers_apredict():
    assert asyncio.run(serving("v1").apredict({}, key="ann")) == "v1"


def test_apredict_passes_the_models_error_and_counts_out():
    server = VersionedModelServer()
    server.load_model("v1", lambda features: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(server.apredict({}, "v1"))
    with pytest.raises(UnknownVersion):
        asyncio.run(server.apredict({}, "v2"))
    assert server.in_flight == {"v1": 0}


def test_cancelled_request_is_counted_out():
    server = VersionedModelServer()

    class Slow:
        async def predict(self, features):
            await asyncio.sleep(60)

    server.load_model("v1", Slow())

    async def cancel():
        task = asyncio.create_task(server.apredict({}, "v1"))
        await asyncio.sleep(0)
        assert server.in_flight == {"v1": 1}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert server.in_flight == {"v1": 0}
