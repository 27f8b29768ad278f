import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodml import (
    Lifecycle,
    ModelRegistry,
    PredictionCache,
    RetrainingOrchestrator,
    VersionedModelServer,
)
from prodml._machine import Command
from prodml.errors import BadConfiguration, Conflict, InvalidFeatures
from prodml.events import (
    DriftDetected,
    LabelsArrived,
    PerformanceDropped,
    PredictionFailed,
    PredictionServed,
    RolledBack,
    ShadowScored,
    Stream,
)
from prodml.retraining import DataGrowth
from prodml.rollout import Disagreement, ErrorRate, Latency, PairedLoss, Rollout
from prodml.stores import MemoryStore
from prodml.testing import ManualClock, Recorder
from prodml.types import MISS, Prediction


class Model:
    def __init__(self, p=0.5):
        self.p = p
        self.closed = False

    def predict(self, features):
        return self.p

    def close(self):
        self.closed = True


class Scene:
    """A server with version 1, and a lifecycle over it."""

    def __init__(self, **changes):
        self.clock, self.events = ManualClock(), Stream()
        self.server = VersionedModelServer(shadow="inline", clock=self.clock, events=self.events)
        self.server.load_model("1", Model())
        self.server.set_default_version("1")
        self.lifecycle = Lifecycle(
            self.server,
            "late",
            rollout=self.rollout,
            clock=self.clock,
            events=self.events,
            **changes,
        )
        self.leave = self.lifecycle.subscribe()

    def rollout(self, version, stable):
        return Rollout(
            version,
            stable,
            steps=(0.5,),
            step_seconds=0,
            guards=[PairedLoss(enough=10)],
            clock=self.clock,
            events=self.events,
        )

    def serve(self, label, count=10):
        """Answer requests of the stable arm, then let their labels arrive."""
        for i in range(count):
            route = self.server.resolve()
            while route.arm != "stable":
                route.release()
                route = self.server.resolve()
            value = route.predict({})
            route.release()
            self.server.mirror(route, {}, value, f"r{i}")
        joined = [self.lifecycle.truth(f"r{i}", label) for i in range(count)]
        self.lifecycle.tick()
        return sum(joined)


def test_a_good_challenger_goes_from_shadow_over_canary_to_the_default():
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    assert scene.server.shadow_versions == ("2",)
    scene.serve(label=1)
    assert scene.server.canary == {"2": 0.5}
    assert scene.serve(label=1) == 10, "the stable arm is still copied"
    assert scene.server.default_version == "2"
    assert (scene.server.canary, scene.server.shadow_versions) == ({}, ())


def test_a_bad_challenger_is_taken_out_and_quarantined():
    scene = Scene()
    recorder = Recorder(scene.events)
    scene.lifecycle.introduce("2", Model(1.0))
    scene.serve(label=0, count=60)
    assert scene.lifecycle.rollout_phase == "rolled back"
    assert scene.server.default_version == "1"
    assert "2" in scene.server.quarantined
    assert len(recorder.of(RolledBack)) == 1


def test_the_registrys_champion_follows_promotions_with_its_history():
    registry = ModelRegistry("memory://")
    for p in (0.5, 0.9):
        registry.register("late", {"p": p})
    registry.alias("late", "champion", "1")
    scene = Scene(registry=registry)
    scene.lifecycle.introduce("2", Model(0.9))
    scene.serve(label=1)
    scene.serve(label=1)
    assert registry.resolve("late", "champion").version == "2"
    assert len(registry.history("late", "champion")) == 2


def test_the_last_but_one_stays_for_a_rollback_and_older_ones_are_closed():
    scene, models = Scene(), {v: Model(0.9) for v in ("2", "3")}
    for version, model in models.items():
        model.p += 0.03 * int(version)
        scene.lifecycle.introduce(version, model)
        scene.serve(label=1)
        scene.serve(label=1)
    assert scene.server.versions == ("2", "3")
    assert not models["2"].closed


def test_predictions_of_versions_that_go_are_dropped():
    cache = PredictionCache()
    scene, known = Scene(cache=cache), {"x": 1}
    cache.set(known, "1", 0.5)
    for version in ("2", "3"):
        scene.lifecycle.introduce(version, Model(0.9 + 0.03 * int(version)))
        cache.set(known, version, 0.5)
        scene.serve(label=1)
        scene.serve(label=1)
    assert [cache.get(known, version) is MISS for version in ("1", "2", "3")] == [
        *(True, False),
        False,
    ]
    scene.lifecycle.introduce("4", Model(0.0))
    cache.set(known, "4", 0.5)
    scene.serve(label=1, count=60)
    assert "4" in scene.server.quarantined
    assert cache.get(known, "4") is MISS


def test_a_model_that_comes_under_an_old_name_gets_no_old_answers():
    cache = PredictionCache()
    cache.set({"x": 1}, "2", "the broken one's")
    Scene(cache=cache).lifecycle.introduce("2", Model(0.9))
    assert cache.get({"x": 1}, "2") is MISS


def test_a_promotion_that_is_tried_again_keeps_the_version_before():
    registry, refused = ModelRegistry("memory://"), []
    for p in (0.5, 0.9):
        registry.register("late", {"p": p})

    class Refusing:
        def alias(self, name, alias, version):
            if not refused:
                refused.append(version)
                raise ConnectionError
            return registry.alias(name, alias, version)

    scene = Scene(registry=Refusing())
    scene.lifecycle.introduce("2", Model(0.9))
    scene.serve(label=1)
    with pytest.raises(ConnectionError):
        scene.serve(label=1)
    scene.lifecycle.tick()
    assert scene.server.versions == ("1", "2")
    assert registry.resolve("late", "champion").version == "2"


def test_a_second_challenger_supersedes_the_first():
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    scene.lifecycle.introduce("3", Model(0.9))
    assert "superseded" in scene.server.quarantined["2"]
    assert scene.server.shadow_versions == ("3",)


def test_shadow_answers_of_the_one_before_are_not_joined_to_the_next():
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    route = scene.server.resolve()
    scene.server.mirror(route, {}, 0.5, "old")
    route.release()
    scene.lifecycle.introduce("3", Model(0.9))
    assert scene.lifecycle.truth("old", 1) is False


def test_without_a_rollout_a_label_joins_nothing_and_a_tick_does_nothing():
    scene = Scene()
    assert scene.lifecycle.truth("r", 1) is False
    assert scene.lifecycle.tick() == []
    assert (scene.lifecycle.current, scene.lifecycle.rollout_phase) == (None, None)
    assert scene.lifecycle.check() is None


def test_waiting_pairs_are_bounded():
    scene = Scene(pairs=5)
    scene.lifecycle.introduce("2", Model(0.9))
    assert scene.serve(label=1, count=8) == 5


def test_answers_of_strangers_are_not_paired():
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    told = {"at": 0.0, "source": "s", "request_id": "r", "value": 1, "stable_version": "1"}
    told |= {"stable_value": 1, "latency_ms": 0.0}
    scene.events.emit(ShadowScored(**told, version="9"))
    assert scene.lifecycle.truth("r", 1) is False


def test_a_shadow_that_cannot_answer_is_rolled_back():
    class Broken(Model):
        def predict(self, features):
            raise ConnectionError

    scene = Scene()
    scene.lifecycle.introduce("2", Broken())
    assert scene.serve(label=1, count=60) == 60
    assert scene.lifecycle.rollout_phase == "rolled back"


def served(scene, arm, source="model", latency_ms=0.0):
    cached = source == "cache"
    prediction = Prediction(0.5, "r", "1", source=source, cached=cached, latency_ms=latency_ms)
    scene.events.emit(
        PredictionServed(at=0.0, source="s", prediction=prediction, features={}, arm=arm)
    )


def failed(scene, arm, error, version="2"):
    scene.events.emit(
        PredictionFailed(
            at=0.0,
            source="s",
            request_id="r",
            features={},
            error=error,
            latency_ms=0.0,
            version=version,
            arm=arm,
        )
    )


def canary_scene(guard=None):
    scene = Scene()
    scene.lifecycle.rollout = lambda version, stable: Rollout(
        version,
        stable,
        shadow=False,
        guards=[guard or ErrorRate(enough=1000)],
        clock=scene.clock,
        events=scene.events,
    )
    scene.lifecycle.introduce("2", Model())
    return scene


@pytest.mark.parametrize("how", ["failed", "degraded"])
def test_a_canary_that_fails_where_stable_does_not_is_rolled_back(how):
    scene = canary_scene()
    for _ in range(40):
        served(scene, "stable")
        if how == "failed":
            failed(scene, "canary", ConnectionError())
        else:
            served(scene, "canary", source="fallback")
    scene.lifecycle.tick()
    assert scene.lifecycle.rollout_phase == "rolled back"


def test_callers_faults_and_pinned_requests_say_nothing_about_a_canary():
    scene = canary_scene()
    for _ in range(60):
        served(scene, "stable")
        served(scene, "pinned", source="fallback")
        failed(scene, "canary", InvalidFeatures(["x"]))
        failed(scene, "pinned", ConnectionError())
        failed(scene, "canary", ConnectionError(), version="")
    scene.lifecycle.tick()
    assert scene.lifecycle.rollout_phase == "canary"


def test_cached_answers_say_nothing_about_a_canary():
    scene = canary_scene()
    for _ in range(60):
        served(scene, "stable", source="cache")
        served(scene, "canary", source="cache")
    assert scene.lifecycle.current.findings()["error rate"].numbers["in_all"] == 0


def test_a_canary_that_is_slow_is_rolled_back_by_the_latency_of_its_answers():
    scene = canary_scene(Latency(q=0.9, enough=1000))
    for place in range(300):
        served(scene, "stable", latency_ms=10.0 + place % 10)
        served(scene, "canary", latency_ms=30.0 + place % 10)
    scene.lifecycle.tick()
    assert scene.lifecycle.rollout_phase == "rolled back"


def test_a_shadow_that_answers_differently_is_rolled_back_without_any_label():
    scene = Scene()
    scene.lifecycle.rollout = lambda version, stable: Rollout(
        version, stable, guards=[Disagreement(below=0.1)], clock=scene.clock, events=scene.events
    )
    scene.lifecycle.introduce("2", Model(0.6))
    for i in range(30):
        route = scene.server.resolve()
        scene.server.mirror(route, {}, route.predict({}), f"r{i}")
        route.release()
    scene.lifecycle.tick()
    assert scene.lifecycle.rollout_phase == "rolled back"


def test_a_command_that_could_not_be_carried_out_is_tried_again():
    class Away:
        calls = 0

        def alias(self, name, alias, version):
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError("registry is away")

    registry = Away()
    scene = Scene(registry=registry)
    scene.lifecycle.introduce("2", Model(1.0))
    with pytest.raises(ConnectionError):
        scene.serve(label=0, count=60)
    assert "2" in scene.server.quarantined, "what matters most came first"
    assert [type(c).__name__ for c in scene.lifecycle.tick()] == ["RollBack"]
    assert (registry.calls, scene.lifecycle.tick()) == (2, [])


def test_of_two_workers_with_the_same_reason_one_trains():
    class Busy:
        def check_triggers(self, metrics):
            return True

        def trigger_retraining(self, decision):
            raise Conflict("retraining/late", "idle", "busy")

    assert Scene(orchestrator=Busy()).lifecycle.check() is True


def test_facts_become_metrics_until_one_leaves():
    scene = Scene()
    emit = scene.events.emit
    emit(DriftDetected(at=0.0, source="d", score=0.3, effects={}, reason=""))
    emit(LabelsArrived(at=0.0, source="l", count=5, total=500))
    emit(PerformanceDropped(at=0.0, source="p", metric="accuracy", reference=0.9, current=0.7))
    assert scene.lifecycle.metrics == {"drift_score": 0.3, "labels": 500.0, "accuracy": 0.7}
    scene.leave()
    emit(LabelsArrived(at=0.0, source="l", count=5, total=505))
    assert scene.lifecycle.metrics["labels"] == 500.0


def test_a_trigger_that_fires_brings_a_challenger_into_shadow():
    scene = Scene()
    scene.lifecycle.orchestrator = RetrainingOrchestrator(
        "late",
        train=lambda context: Model(0.9),
        triggers=[DataGrowth()],
        on_challenger=scene.lifecycle.challenge,
        store=MemoryStore(),
        clock=scene.clock,
        events=scene.events,
    )
    assert not scene.lifecycle.check()
    scene.lifecycle.observe(labels=100)
    assert scene.lifecycle.check()
    assert scene.server.shadow_versions == ("late-1",)


def test_a_command_that_nobody_knows_is_refused():
    class Odd(Command):
        pass

    with pytest.raises(BadConfiguration, match="cannot carry out"):
        Scene().lifecycle._carry_out(Odd())


def test_an_empty_server_has_nothing_to_compare_with():
    with pytest.raises(BadConfiguration, match="no default version"):
        Lifecycle(VersionedModelServer(), "m").introduce("1", Model())
    with pytest.raises(BadConfiguration, match="pairs"):
        Lifecycle(VersionedModelServer(), "m", pairs=0)


def test_the_default_rollout_uses_the_lifecycles_clock_and_stream():
    scene = Scene()
    scene.lifecycle.rollout = None
    scene.lifecycle.introduce("2", Model())
    assert scene.lifecycle.current.clock is scene.clock
    assert scene.lifecycle.current.events is scene.events


# -- what a review found ----------------------------------------------------------------


class Refusing:
    """Aliases of a registry that is away."""

    def alias(self, name, alias, version):
        raise ConnectionError


@pytest.mark.parametrize("model", [Model(0.9), None])
def test_a_challenger_that_cannot_be_loaded_supersedes_nobody(model):
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    with pytest.raises(BadConfiguration):
        scene.lifecycle.introduce("2" if model else "3", model)
    assert (scene.lifecycle.rollout_phase, scene.server.shadow_versions) == ("shadow", ("2",))
    assert dict(scene.server.quarantined) == {}
    scene.serve(label=1)
    assert scene.server.canary == {"2": 0.5}


def test_a_rollout_that_cannot_be_made_loads_nothing_and_supersedes_nobody():
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    scene.lifecycle.rollout = lambda version, stable: Rollout(version, stable, steps=())
    with pytest.raises(BadConfiguration):
        scene.lifecycle.introduce("3", Model(0.9))
    assert (scene.server.versions, scene.server.shadow_versions) == (("1", "2"), ("2",))


@pytest.mark.parametrize("why", ["routed", "busy", "close"])
def test_an_old_version_that_will_not_go_does_not_hold_up_the_promotion(why):
    class Stuck(Model):
        def close(self):
            raise OSError

    scene, released = Scene(), []
    scene.server.load_model("0", Stuck() if why == "close" else Model())
    if why == "routed":
        scene.server.route(cohorts={"staff": ("0", ["ann"])})
    if why == "busy":
        released.append(scene.server.resolve("0"))
    scene.lifecycle.introduce("2", Model(0.9))
    scene.serve(label=1)
    scene.serve(label=1)
    assert (scene.server.default_version, scene.lifecycle.tick()) == ("2", [])
    assert ("0" in scene.server.versions) == (why != "close")


def test_a_roll_back_that_is_tried_again_does_not_miss_a_version_that_was_unloaded():
    scene = Scene(registry=Refusing())
    scene.lifecycle.introduce("2", Model(1.0))
    with pytest.raises(ConnectionError):
        scene.serve(label=0, count=60)
    scene.server.unload_model("2")
    scene.lifecycle.registry = None
    assert [type(command).__name__ for command in scene.lifecycle.tick()] == ["RollBack"]


def test_a_share_that_cannot_be_set_does_not_stand_before_the_roll_back():
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    scene.server.rollback("2", reason="an operator knows better")
    scene.lifecycle.current.observe_pairs([(0.1, 0.1)] * 10)
    for _ in range(2):
        with pytest.raises(BadConfiguration, match="quarantined"):
            scene.lifecycle.tick()
    scene.lifecycle.introduce("3", Model(0.9))
    assert scene.server.shadow_versions == ("3",)
    assert scene.lifecycle.current.version == "3"


def test_what_the_one_before_owes_is_done_before_the_next_begins():
    scene = Scene(registry=Refusing())
    scene.lifecycle.introduce("2", Model(0.9))
    scene.serve(label=1)
    with pytest.raises(ConnectionError):
        scene.serve(label=1)
    told = []
    scene.lifecycle.registry = type(
        "Back", (), {"alias": lambda self, *told_: told.append(told_)}
    )()
    scene.lifecycle.introduce("3", Model(0.9))
    assert told == [("late", "champion", "2")]
    assert scene.lifecycle.current.stable == "2"


def test_a_challenger_may_come_while_another_thread_carries_out_commands():
    entered, go = threading.Event(), threading.Event()

    class Slow:
        def alias(self, name, alias, version):
            entered.set()
            assert go.wait(10)

    scene = Scene(registry=Slow())
    scene.lifecycle.introduce("2", Model(0.9))
    scene.serve(label=1)
    with ThreadPoolExecutor(2) as pool:
        promoting = pool.submit(scene.serve, label=1)
        assert entered.wait(10)
        coming = pool.submit(scene.lifecycle.introduce, "3", Model(0.9))
        time.sleep(0.02)
        go.set()
        assert promoting.result(10) == 10
        coming.result(10)
    assert scene.server.default_version == "2"
    assert (scene.lifecycle.current.version, scene.lifecycle.current.stable) == ("3", "2")


def test_a_label_that_makes_no_sense_leaves_the_answers_for_a_better_one():
    scene = Scene()
    scene.lifecycle.introduce("2", Model(0.9))
    route = scene.server.resolve()
    scene.server.mirror(route, {}, 0.5, "r")
    route.release()
    with pytest.raises(TypeError):
        scene.lifecycle.truth("r", None)
    assert scene.lifecycle.truth("r", 1) is True
    assert scene.lifecycle.truth("r", 1) is False


def test_a_rung_called_model_is_no_answer_of_the_canary():
    scene = canary_scene()
    for _ in range(40):
        served(scene, "stable")
        prediction = Prediction(0.5, "r", "", source="model", degraded=True)
        scene.events.emit(
            PredictionServed(at=0.0, source="s", prediction=prediction, features={}, arm="canary")
        )
    scene.lifecycle.tick()
    assert scene.lifecycle.rollout_phase == "rolled back"
