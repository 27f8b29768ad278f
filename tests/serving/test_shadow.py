"""Shadows: what is copied, what is counted, and that nobody waits for them."""

import asyncio
import os
import threading
from random import Random

import numpy as np
import pandas as pd
import pytest

from prodml.errors import BadConfiguration, RejectedAnswer
from prodml.events import ShadowScored, Stream
from prodml.serving import ShadowDiff, ShadowStats, VersionedModelServer
from prodml.serving.shadow import Shadow, weight
from prodml.testing import ManualClock, Recorder

PATIENCE = 10.0


def serving(shadow_model, **settings):
    server = VersionedModelServer(events=Stream(), **settings)
    server.load_model("v1", lambda features: "stable")
    server.load_model("v2", shadow_model)
    server.set_default_version("v1")
    server.route(shadow=["v2"])
    return server, Recorder(server.events, ShadowScored)


class Gate:
    """A model that answers only when it is let."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()

    def predict(self, features):
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        return features


def test_shadow_scores_a_copy_and_states_the_fact():
    clock = ManualClock()

    def slow(features):
        clock.advance(0.25)
        return features["x"]

    server, heard = serving(slow, clock=clock, name="churn")
    assert server.predict({"x": 1}) == "stable"
    assert server.drain(PATIENCE)
    (fact,) = heard.facts
    assert (fact.version, fact.value, fact.stable_version, fact.stable_value) == (
        "v2", 1, "v1", "stable",
    )  # fmt: skip
    assert (fact.latency_ms, fact.error, fact.source) == (pytest.approx(250.0), None, "churn")


def test_request_does_not_wait_for_the_shadow():
    gate = Gate()
    server, _ = serving(gate)
    assert server.predict({}) == "stable"
    assert gate.entered.wait(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=1)
    assert not server.drain(0.0)
    assert server.in_flight == {"v1": 0, "v2": 1}
    gate.opened.set()
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=1, scored=1)


def test_full_queue_drops_and_counts():
    gate = Gate()
    server, _ = serving(gate, shadow_size=3)
    for _ in range(10):
        server.predict({})
    gate.opened.set()
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=10, scored=3, dropped=7)


def test_failing_shadow_is_a_number_and_a_fact():
    server, heard = serving(lambda features: 1 / 0, shadow="inline")
    assert server.predict({}) == "stable"
    assert server.shadow_stats() == ShadowStats(offered=1, failed=1)
    assert isinstance(heard.facts[0].error, ZeroDivisionError)
    assert heard.facts[0].value is None


def test_copy_is_taken_when_offered():
    gate = Gate()
    server, heard = serving(gate)
    features = {"x": 1}
    server.predict(features)
    features["x"] = 2
    gate.opened.set()
    assert server.drain(PATIENCE)
    assert heard.facts[0].value == {"x": 1}


def test_features_that_cannot_be_copied_are_dropped():
    class Uncopyable:
        def __copy__(self):
            raise OSError

    server, _ = serving(lambda features: 1, shadow="inline")
    assert server.predict(Uncopyable()) == "stable"
    assert server.shadow_stats() == ShadowStats(offered=1, dropped=1)


def test_inline_shadow_scores_before_predict_returns():
    server, heard = serving(lambda features: 7, shadow="inline")
    server.predict({})
    assert [fact.value for fact in heard.facts] == [7]
    assert server._shadow._thread is None
    assert server.shadow_stats().scored == 1


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_pinned_request_is_not_copied(version):
    server, heard = serving(lambda features: 7, shadow="inline")
    server.predict({}, version=version)
    assert heard.facts == []


def test_canary_answers_are_not_copied():
    server, heard = serving(lambda features: 7, shadow="inline")
    server.load_model("v3", abs)
    server.route(canary={"v3": 1.0}, shadow=["v2"])
    server.predict(-1)
    assert heard.facts == []


def test_every_shadow_version_gets_a_copy():
    server, heard = serving(lambda features: 2, shadow="inline")
    server.load_model("v3", lambda features: 3)
    server.route(shadow=["v2", "v3", "v2"])
    server.predict({})
    assert [(fact.version, fact.value) for fact in heard.facts] == [("v2", 2), ("v3", 3)]


def test_flow_of_its_own_offers_with_its_request_id():
    server, heard = serving(lambda features: features, shadow="inline")
    route = server.resolve()
    route.release()
    server.mirror(route, {"x": 1}, 0.5, "r1")
    assert (heard.facts[0].request_id, heard.facts[0].stable_value) == ("r1", 0.5)


def test_async_request_is_copied_too():
    import asyncio

    server, heard = serving(lambda features: 7, shadow="inline")
    assert asyncio.run(server.apredict({})) == "stable"
    assert len(heard.facts) == 1


def test_nobody_listening_costs_no_facts():
    server, heard = serving(lambda features: 7, shadow="inline")
    heard.stop()
    server.predict({})
    assert server.shadow_stats().scored == 1


# -- batches ----------------------------------------------------------------------------


class Doubles:
    calls = 0

    def predict_batch(self, rows):
        self.calls += 1
        return [row * 2 for row in rows]

    def predict(self, row):
        raise AssertionError


def test_batch_is_scored_in_one_call_with_a_fact_a_row():
    model = Doubles()
    server, heard = serving(model, shadow="inline")
    assert server.predict_batch([1, 2, 3]) == ["stable"] * 3
    assert model.calls == 1
    assert [fact.value for fact in heard.facts] == [2, 4, 6]
    assert server.shadow_stats() == ShadowStats(offered=3, scored=3)


def test_batch_carries_its_request_ids():
    server, heard = serving(Doubles(), shadow="inline")
    route = server.resolve()
    route.release()
    server.mirror(route, [1, 2], [0, 0], ["a", "b"], batch=True)
    assert [fact.request_id for fact in heard.facts] == ["a", "b"]


def test_wrong_number_of_shadow_answers_is_a_failure():
    class Short(Doubles):
        def predict_batch(self, rows):
            return rows[1:]

    server, heard = serving(Short(), shadow="inline")
    server.predict_batch([1, 2, 3])
    assert server.shadow_stats() == ShadowStats(offered=3, failed=3)
    assert isinstance(heard.facts[2].error, RejectedAnswer)


def test_batch_beyond_the_queue_is_dropped_whole():
    server, _ = serving(Doubles(), shadow_size=2)
    server.predict_batch([1, 2, 3])
    assert server.shadow_stats() == ShadowStats(offered=3, dropped=3)


def test_stable_answers_of_the_wrong_number_are_dropped():
    server, _ = serving(Doubles(), shadow="inline")
    route = server.resolve()
    route.release()
    server.mirror(route, [1, 2], [0], batch=True)
    assert server.shadow_stats() == ShadowStats(offered=2, dropped=2)


# -- the thread -------------------------------------------------------------------------


def borrowing(borrow, **settings):
    return Shadow(borrow=borrow, events=Stream(), **settings)


def test_version_that_is_gone_when_its_turn_comes_is_dropped():
    gate = Gate()
    server, _ = serving(gate)
    server.predict({})
    assert gate.entered.wait(PATIENCE)
    server.load_model("v3", abs)
    server.route(shadow=["v3"])
    server.predict({})
    server.route()
    server.unload_model("v3")
    gate.opened.set()
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=2, scored=1, dropped=1)


def test_idle_thread_ends_and_the_next_copy_starts_another():
    server, _ = serving(lambda features: 7)
    shadow = borrowing(server.resolve, idle=0.0)
    route = server.resolve()
    route.release()
    for _ in range(2):
        shadow.offer({"v2": 1.0}, route, {}, 1)
        assert shadow.drain(PATIENCE)
        thread = shadow._thread
        if thread is not None:
            thread.join(PATIENCE)
        assert shadow._thread is None
    assert shadow.stats().scored == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_killed_by_a_model_is_replaced():
    calls = []

    def exits_once(features):
        calls.append(threading.current_thread())
        if len(calls) == 1:
            raise BaseException("gone")

    server, _ = serving(exits_once)
    server.predict({})
    assert server.drain(PATIENCE)
    # In one step with the count, or a copy could come between and wait for ever.
    assert server._shadow._thread is None
    calls[0].join(PATIENCE)
    server.predict({})
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=2, scored=1, failed=1)
    assert server.in_flight == {"v1": 0, "v2": 0}


class Awaited:
    """A shadow of two colours of answers, which notes the loops that it ran in."""

    def __init__(self):
        self.loops = []

    async def predict(self, features):
        self.loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        if features == {}:
            raise LookupError("nothing to see")
        return "stable" if features["x"] else "other"


def test_shadow_that_is_awaited_runs_in_one_loop_of_its_own():
    model = Awaited()
    server, heard = serving(model)

    async def serve():
        for x in (1, 0, 1):
            await server.apredict({"x": x})
        await server.apredict({})

    asyncio.run(serve())
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=4, scored=3, failed=1)
    assert server.shadow_diffs()["v2"].disagreed == 1
    assert [type(fact.error) for fact in heard.facts] == [type(None)] * 3 + [LookupError]
    assert len(set(model.loops)) == 1
    assert server.in_flight == {"v1": 0, "v2": 0}


def test_batch_goes_to_a_shadow_that_is_awaited():
    server, _ = serving(Awaited())
    server.predict_batch([{"x": 1}, {"x": 0}])
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=2, scored=2)
    assert server.shadow_diffs()["v2"].disagreed == 1


def test_inline_shadow_that_is_awaited_fails_inside_a_running_loop_and_not_outside():
    server, heard = serving(Awaited(), shadow="inline")
    server.predict({"x": 1})

    async def serve():
        return await server.apredict({"x": 1})

    assert asyncio.run(serve()) == "stable"
    assert server.shadow_stats() == ShadowStats(offered=2, scored=1, failed=1)
    assert isinstance(heard.facts[-1].error, RuntimeError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_starts_a_thread_of_its_own():
    server, _ = serving(lambda features: 7)
    server.predict({})
    assert server.drain(PATIENCE)
    child = os.fork()
    if child == 0:
        server.predict({})
        os._exit(0 if server.drain(PATIENCE) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_size_must_be_positive():
    with pytest.raises(BadConfiguration, match="shadow_size"):
        VersionedModelServer(shadow_size=0)


def test_settings_of_the_queue_are_fixed():
    from prodml._settings import retune

    with pytest.raises(BadConfiguration, match="cannot change"):
        retune(VersionedModelServer(), shadow_size=5)


# -- bounds -----------------------------------------------------------------------------


def test_bytes_are_bounded_too():
    gate = Gate()
    server, _ = serving(gate, shadow_bytes="10 kB")
    for _ in range(5):
        server.predict({"image": bytes(4000)})
    gate.opened.set()
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=5, scored=2, dropped=3)
    assert server._shadow._bytes == 0


def test_copy_that_has_waited_too_long_is_dropped():
    gate, clock = Gate(), ManualClock()
    server, _ = serving(gate, clock=clock, shadow_age=30.0)
    server.predict({})
    assert gate.entered.wait(PATIENCE)
    server.predict({})
    clock.advance(31.0)
    gate.opened.set()
    assert server.drain(PATIENCE)
    assert server.shadow_stats() == ShadowStats(offered=2, scored=1, dropped=1)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (np.zeros(1000), 8000, 8000),
        ({"a": np.zeros(1000), "b": "x"}, 8000, 9000),
        ([bytes(500)] * 3, 1500, 2000),
        (pd.DataFrame(np.zeros((10, 5))), 400, 400),
        (7, 20, 40),
    ],
)
def test_weight_is_about_what_a_copy_keeps(value, least, most):
    assert least <= weight(value) <= most


def test_share_of_the_requests_is_copied():
    server, _ = serving(lambda features: 7, shadow="inline", rng=Random(0))
    server.route(shadow={"v2": 0.25})
    for _ in range(4000):
        server.predict({})
    assert server.shadow_stats().offered / 4000 == pytest.approx(0.25, abs=0.03)
    assert server.shadow_versions == ("v2",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shadow_bytes": 0}, "shadow_bytes"),
        ({"shadow_bytes": "much"}, "shadow_bytes"),
        ({"shadow_age": -1.0}, "shadow_age"),
        ({"shadow_rtol": -1.0}, "shadow_rtol"),
        ({"shadow_atol": float("nan")}, "shadow_atol"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(BadConfiguration, match=message):
        VersionedModelServer(**settings)


# -- differences ------------------------------------------------------------------------


def number(x):
    return float(x)


def compared(stable, shadow, **settings):
    server = VersionedModelServer(events=Stream(), shadow="inline", **settings)
    server.load_model("v1", stable)
    server.load_model("v2", shadow)
    server.set_default_version("v1")
    server.route(shadow=["v2"])
    return server


def test_disagreement_is_counted_beyond_the_tolerance():
    server = compared(lambda x: float(x), lambda x: x + (x % 10 == 0) * 0.5, shadow_atol=0.1)
    for x in range(100):
        server.predict(x)
    diff = server.shadow_diffs()["v2"]
    assert (diff.compared, diff.disagreed, diff.failed) == (100, 10, 0)
    assert diff.rate == 0.1
    assert diff.apart == pytest.approx(0.05)
    low, high = diff.interval()
    assert 0.05 < low < 0.1 < high < 0.18


def test_interval_is_that_of_wilson():
    from statsmodels.stats.proportion import proportion_confint

    for n, k, confidence in [(10, 0, 0.95), (1000, 20, 0.99), (7, 7, 0.9), (1, 0, 0.5)]:
        diff = ShadowDiff(version="v2", compared=n, disagreed=k)
        expected = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
        assert diff.interval(confidence) == pytest.approx(expected, abs=1e-12)


def test_nothing_compared_says_nothing():
    diff = ShadowDiff(version="v2")
    assert diff.rate != diff.rate
    assert diff.interval() == (0.0, 1.0)


def test_ten_largest_differences_are_kept_with_their_rows():
    server = compared(lambda row: 0.0, lambda row: float(row["x"]))
    for x in [*range(50), 7]:
        server.predict({"x": x})
    largest = server.shadow_diffs()["v2"].largest
    assert [found.apart for found in largest] == list(range(49, 39, -1))
    assert largest[0] == (49.0, 0.0, 49.0, {"x": 49}, "")


def test_labels_that_differ_are_infinitely_far_apart():
    server = compared(lambda x: "ham", lambda x: "spam" if x else "ham")
    for x in (0, 1, 1):
        server.predict(x)
    diff = server.shadow_diffs()["v2"]
    assert (diff.disagreed, diff.compared, diff.apart) == (2, 3, 0.0)
    assert [found.apart for found in diff.largest] == [float("inf")] * 2


def test_failures_are_counted_apart():
    server = compared(number, lambda x: 1 / x)
    server.predict(0)
    server.predict(1)
    diff = server.shadow_diffs()["v2"]
    assert (diff.compared, diff.disagreed, diff.failed) == (1, 0, 1)


def test_batches_are_compared_row_by_row_with_their_ids():
    server = compared(np.array, lambda rows: rows + (rows > 1))
    route = server.resolve()
    route.release()
    rows = np.array([1.0, 2.0, 3.0])
    server.mirror(route, rows, route.predict(rows), ["a", "b", "c"], batch=True)
    diff = server.shadow_diffs()["v2"]
    assert (diff.compared, diff.disagreed) == (3, 2)
    assert {(found.request_id, found.features) for found in diff.largest} == {
        ("b", 2.0),
        ("c", 3.0),
    }


def test_large_rows_are_not_kept():
    server = compared(lambda row: 0, lambda row: 1)
    server.predict({"image": bytes(100_000)})
    (found,) = server.shadow_diffs()["v2"].largest
    assert found.features is None


def test_answers_that_refuse_to_be_compared_disagree():
    class Odd:
        def __eq__(self, other):
            raise OSError

        __hash__ = None

    server = compared(lambda x: Odd(), lambda x: Odd())
    server.predict(1)
    assert server.shadow_diffs()["v2"].disagreed == 1


def test_version_loaded_anew_begins_anew():
    server = compared(number, lambda x: x + 1.0)
    server.predict(1)
    server.route()
    server.unload_model("v2")
    server.load_model("v2", number)
    server.route(shadow=["v2"])
    server.predict(1)
    diff = server.shadow_diffs()["v2"]
    assert (diff.compared, diff.disagreed) == (1, 0)


def test_comparisons_of_the_last_eight_versions_are_kept():
    server = VersionedModelServer(events=Stream(), shadow="inline")
    server.load_model("v0", number)
    server.set_default_version("v0")
    for n in range(1, 12):
        server.load_model(f"v{n}", number)
        server.route(shadow=[f"v{n}"])
        server.predict(1)
    assert list(server.shadow_diffs()) == [f"v{n}" for n in range(4, 12)]
