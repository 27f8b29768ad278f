"""A server that follows an alias: what moves it, and what cannot."""

import logging
import os
import threading
from itertools import pairwise

import pytest

from prodml import ModelRegistry, VersionedModelServer
from prodml.errors import (
    BadConfiguration,
    CorruptRecord,
    RejectedAnswer,
    StoreUnavailable,
    UnknownVersion,
)
from prodml.events import FollowingFailed, Stream
from prodml.following import Follower, follow
from prodml.registry import Retention
from prodml.testing import ManualClock, Recorder


def model_of(data):
    return lambda features: data["bias"]


class Scene:
    def __init__(self, folder="memory://", **settings):
        self.clock, self.events = ManualClock(), Stream()
        self.heard = Recorder(self.events)
        self.registry = ModelRegistry(folder, clock=self.clock, events=Stream())
        self.server = VersionedModelServer(clock=self.clock, events=Stream())
        self.settings = {
            "prepare": model_of, "clock": self.clock, "events": self.events,
        } | settings  # fmt: skip

    def follower(self):
        return Follower(self.server, self.registry, "churn", **self.settings)

    def promote(self, bias, reason=""):
        version = self.registry.register("churn", {"bias": bias}).version
        self.registry.alias("churn", "champion", version, reason=reason)
        return version

    @property
    def failures(self):
        return [(fact.version, fact.reason) for fact in self.heard.of(FollowingFailed)]


def test_the_server_goes_where_the_alias_points():
    scene = Scene()
    follower = scene.follower()
    assert follower.tick() is None
    scene.promote(1, reason="gate 17 passed")
    assert (follower.tick(), scene.server.predict({})) == ("1", 1)
    assert scene.server.history[-1].reason == "churn@champion moved: gate 17 passed"
    assert follower.tick() is None
    for bias in (2, 3, 4):
        scene.promote(bias)
    assert (follower.tick(), scene.server.predict({})) == ("4", 4)
    assert scene.server.versions == ("1", "4")
    assert (follower.generation, follower.error, scene.failures) == (4, None, [])


def test_moving_the_alias_back_loads_nothing():
    scene = Scene()
    follower = scene.follower()
    for bias in (1, 2):
        scene.promote(bias)
        follower.tick()
    scene.registry.alias("churn", "champion", "1", reason="kpi drop")
    follower.prepare = pytest.fail
    assert (follower.tick(), scene.server.predict({})) == ("1", 1)


def test_version_that_is_the_default_already_is_left_alone():
    scene = Scene()
    scene.server.load_model("1", lambda features: "own")
    scene.server.set_default_version("1")
    before = scene.server.history
    scene.promote(1)
    follower = scene.follower()
    assert follower.tick() == "1"
    assert scene.server.history == before
    assert scene.server.predict({}) == "own"


def test_dropped_alias_changes_nothing():
    scene = Scene()
    follower = scene.follower()
    scene.promote(1)
    follower.tick()
    scene.registry.unalias("churn", "champion")
    assert follower.tick() is None
    assert (scene.server.predict({}), follower.generation, follower.error) == (1, 2, None)


def test_warm_up_and_check_are_handed_on():
    asked = []
    scene = Scene(
        prepare=lambda data: lambda row: asked.append(row) or data["bias"],
        warm_up=[{"warm": 1}],
        check=lambda model: model({"golden": 1}) < 5,
    )
    follower = scene.follower()
    scene.promote(1)
    assert follower.tick() == "1"
    assert asked == [{"warm": 1}, {"golden": 1}]
    scene.promote(9)
    assert follower.tick() is None
    assert isinstance(follower.error, RejectedAnswer)
    assert (scene.server.versions, scene.server.predict({})) == (("1",), 1)
    assert [version for version, _ in scene.failures] == ["2"]


# -- what goes wrong --------------------------------------------------------------------


def test_damaged_model_is_not_served(tmp_path):
    scene = Scene(tmp_path)
    follower = scene.follower()
    scene.promote(1)
    follower.tick()
    scene.promote(2)
    digest = scene.registry.resolve("churn", "champion").digest
    (tmp_path / "artifacts" / digest[:2] / digest).write_bytes(b'{"bias":9}')
    assert follower.tick() is None
    assert isinstance(follower.error, CorruptRecord)
    assert scene.server.predict({}) == 1
    assert scene.failures == [("2", f"CorruptRecord: {follower.error}")]
    fact = scene.heard.of(FollowingFailed)[0]
    assert (fact.source, fact.model, fact.alias, fact.level) == (
        "follower", "churn", "champion", "error",
    )  # fmt: skip


def test_failing_version_is_tried_again_after_a_growing_pause():
    tries = []

    def prepare(data):
        tries.append(scene.clock.monotonic())
        raise RuntimeError("no memory")

    scene = Scene(prepare=prepare, retry_after=10.0)
    follower = scene.follower()
    scene.promote(1)
    for _ in range(4000):
        follower.tick()
        scene.clock.advance(1)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[:8] == [10, 20, 40, 80, 160, 320, 320, 320]
    assert scene.failures == [("1", "RuntimeError: no memory")]


def test_further_move_is_tried_at_once():
    def prepare(data):
        if data["bias"] == 1:
            raise RuntimeError("bad")
        return model_of(data)

    scene = Scene(prepare=prepare)
    follower = scene.follower()
    scene.promote(1)
    assert follower.tick() is None
    scene.promote(2)
    assert (follower.tick(), follower.error) == ("2", None)


def test_version_that_was_rolled_back_is_not_served_again():
    scene = Scene()
    follower = scene.follower()
    for bias in (1, 2):
        scene.promote(bias)
        follower.tick()
    scene.server.rollback(reason="complaints")
    assert scene.server.predict({}) == 1
    assert follower.tick() is None  # the alias has not moved
    scene.registry.alias("churn", "champion", "1")
    assert follower.tick() == "1"
    scene.registry.alias("churn", "champion", "2")
    assert follower.tick() is None
    assert isinstance(follower.error, BadConfiguration)
    assert (scene.server.predict({}), [version for version, _ in scene.failures]) == (1, ["2"])
    scene.server.release("2")
    scene.clock.advance(31)
    assert (follower.tick(), scene.server.predict({})) == ("2", 2)


def test_registry_that_is_away_is_told_once_and_changes_nothing(tmp_path, caplog):
    scene = Scene(tmp_path / "models")
    follower = scene.follower()
    scene.promote(1)
    follower.tick()
    (tmp_path / "models").rename(tmp_path / "away")
    (tmp_path / "models").write_text("in the way")
    with caplog.at_level(logging.ERROR, "prodml.following"):
        for _ in range(5):
            assert follower.tick() is None
            scene.clock.advance(60)
    assert isinstance(follower.error, StoreUnavailable)
    assert scene.server.predict({}) == 1
    assert [version for version, _ in scene.failures] == [""]
    assert len(caplog.records) == 1
    (tmp_path / "models").unlink()
    (tmp_path / "away").rename(tmp_path / "models")
    assert (follower.tick(), follower.error) == (None, None)
    scene.promote(2)
    assert follower.tick() == "2"


def test_retired_version_cannot_be_followed_but_was_never_pointed_at():
    """Retention keeps what an alias points at, so whoever follows finds the bytes."""
    scene = Scene()
    follower = scene.follower()
    for bias in (1, 2, 3):
        scene.promote(bias)
    scene.registry.prune("churn", Retention(last=0, newer_than=0, aliased_within=0))
    assert follower.tick() == "3"


def test_what_is_no_exception_passes_and_the_next_tick_goes_on():
    def interrupt(data):
        raise KeyboardInterrupt

    scene = Scene(prepare=interrupt)
    follower = scene.follower()
    scene.promote(1)
    with pytest.raises(KeyboardInterrupt):
        follower.tick()
    follower.prepare = model_of
    assert follower.tick() == "1"


def test_two_threads_load_a_version_once():
    entered, leave, loads = threading.Event(), threading.Event(), []

    def prepare(data):
        loads.append(1)
        entered.set()
        leave.wait(10)
        return model_of(data)

    scene = Scene(prepare=prepare)
    follower = scene.follower()
    scene.promote(1)
    thread = threading.Thread(target=follower.tick)
    thread.start()
    assert entered.wait(10)
    assert follower.tick() is None
    leave.set()
    thread.join()
    assert (loads, scene.server.default_version) == ([1], "1")


def test_a_forked_child_follows_though_its_parent_was_at_it():
    entered, leave = threading.Event(), threading.Event()

    def prepare(data):
        entered.set()
        leave.wait(10)
        return model_of(data)

    scene = Scene(prepare=prepare)
    follower = scene.follower()
    scene.promote(1)
    thread = threading.Thread(target=follower.tick)
    thread.start()
    assert entered.wait(10)
    child = os.fork()
    if child == 0:
        follower.prepare = model_of
        os._exit(0 if follower.tick() == scene.server.default_version == "1" else 1)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- at the start -----------------------------------------------------------------------


def test_follow_serves_at_once():
    scene = Scene()
    scene.promote(1)
    follower = follow(scene.server, scene.registry, "churn", **scene.settings)
    assert scene.server.predict({}) == 1
    scene.promote(2)
    assert follower.tick() == "2"


def test_follow_fails_where_there_is_nothing_to_serve():
    scene = Scene()
    with pytest.raises(UnknownVersion):
        follow(scene.server, scene.registry, "churn")
    scene.promote(1)
    with pytest.raises(ZeroDivisionError):
        follow(scene.server, scene.registry, "churn", prepare=lambda data: 1 / 0)


def test_follow_is_content_with_a_model_of_the_servers_own():
    scene = Scene()
    scene.server.load_model("built-in", lambda features: 0)
    scene.server.set_default_version("built-in")
    follower = follow(scene.server, scene.registry, "churn", **scene.settings)
    assert scene.server.predict({}) == 0
    scene.promote(1)
    assert (follower.tick(), scene.server.predict({})) == ("1", 1)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_settings_are_checked(seconds):
    scene = Scene(retry_after=seconds)
    with pytest.raises(BadConfiguration, match="retry_after"):
        scene.follower()
    with pytest.raises(BadConfiguration, match="alias"):
        Follower(scene.server, scene.registry, "churn", "../up")
