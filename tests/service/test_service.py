import asyncio
import math
import threading
import time

import numpy as np
import pytest

from prodml import (
    CircuitBreaker,
    FallbackChain,
    FeatureService,
    PredictionCache,
    PredictionService,
    Rung,
    Schema,
    VersionedModelServer,
)
from prodml.errors import (
    AllFallbacksFailed,
    BadConfiguration,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    InvalidFeatures,
    RejectedAnswer,
    UnknownVersion,
)
from prodml.events import Event, PredictionFailed, PredictionServed, ShadowScored, Stream
from prodml.features import FeatureView
from prodml.resilience import Bulkhead
from prodml.resilience.chaos import Chaos
from prodml.testing import ManualClock, Recorder
from prodml.types import MISS


class Echo:
    """Answers with its factor times x, and counts."""

    def __init__(self, factor=1):
        self.factor = factor
        self.calls = 0

    def predict(self, features):
        self.calls += 1
        return self.factor * features["x"]


class Async(Echo):
    async def apredict(self, features):
        await asyncio.sleep(0)
        return self.predict(features)


class Batch(Echo):
    def __init__(self, factor=1):
        super().__init__(factor)
        self.sizes = []

    def predict_batch(self, rows):
        self.sizes.append(len(rows))
        return np.array([self.factor * row["x"] for row in rows])


def broken(features):
    raise ConnectionError("away")


def colours(service, features, **kwargs):
    """The same request through threads and tasks."""
    return [
        service.predict(features, **kwargs),
        asyncio.run(service.apredict(features, **kwargs)),
    ]


# -- one request ------------------------------------------------------------------------


def test_a_bare_model_is_enough():
    for p in colours(PredictionService(Echo(2)), {"x": 3}):
        assert (p.value, p.version, p.source) == (6, "v1", "model")
        assert (p.degraded, p.cached, p.errors) == (False, False, ())
        assert p.latency_ms >= 0.0


def test_request_ids_are_kept_or_made_and_never_repeat():
    service = PredictionService(Echo())
    assert service.predict({"x": 1}, "mine").request_id == "mine"
    made = {service.predict({"x": 1}).request_id for _ in range(1000)}
    assert len(made) == 1000


def test_the_models_own_error_passes_untouched_without_a_ladder():
    error = KeyError("x")
    service = PredictionService(Chaos(error_rate=1.0, error=error)(Echo().predict))
    with pytest.raises(KeyError) as caught:
        service.predict({})
    assert caught.value is error


def test_an_async_model_is_awaited():
    p = asyncio.run(PredictionService(Async(2)).apredict({"x": 3}))
    assert p.value == 6


def test_the_callers_row_is_never_changed():
    row = {"x": 1}
    schema = Schema.infer([{"x": 1.0}, {"x": 2.0}])
    PredictionService(Echo(), schema=schema, cache=PredictionCache()).predict(row)
    assert row == {"x": 1}


# -- stages -----------------------------------------------------------------------------


def test_bad_features_are_the_callers_fault_and_nobody_else_hears_of_them():
    model, breaker = Echo(), CircuitBreaker(failure_threshold=1)
    service = PredictionService(
        model,
        schema=Schema.infer([{"x": 1.0}, {"x": 2.0}]),
        breaker=breaker,
        fallback=lambda features: 0.0,
    )
    with pytest.raises(InvalidFeatures, match="x"):
        service.predict({"x": "many"})
    assert model.calls == 0
    assert breaker.snapshot().consecutive == 0


def feature_service(source):
    view = FeatureView(
        "clicks", features=("clicks",), entity=("user",), source=source, defaults={"clicks": 0}
    )
    return FeatureService(view)


def test_missing_features_are_filled_in():
    service = PredictionService(
        lambda features: features["clicks"],
        features=feature_service(lambda entity, names: {"clicks": 7}),
    )
    for p in colours(service, {"user": 1}):
        assert (p.value, p.degraded) == (7, False)


def test_a_dead_feature_source_degrades_the_answer_and_keeps_it_out_of_the_cache():
    def source(entity, names):
        raise ConnectionError("feature store is away")

    cache = PredictionCache()
    service = PredictionService(
        lambda features: features["clicks"], features=feature_service(source), cache=cache
    )
    for p in [*colours(service, {"user": 1}), service.predict_batch([{"user": 1}])[0]]:
        assert (p.value, p.degraded, p.cached) == (0, True, False)
        assert isinstance(p.errors[0], ConnectionError)
    assert cache.get({"user": 1, "clicks": 0}, "v1") is MISS


def test_repeated_requests_come_from_the_cache_by_resolved_version():
    server, one, two = VersionedModelServer(), Echo(1), Echo(2)
    server.load_model("v1", one)
    server.load_model("v2", two)
    server.set_default_version("v1")
    service = PredictionService(server, cache=PredictionCache())
    first, again = service.predict({"x": 5}), service.predict({"x": 5})
    assert (first.cached, again.cached, again.source) == (False, True, "cache")
    server.set_default_version("v2")
    swapped = service.predict({"x": 5})
    assert (again.value, again.version, one.calls) == (5, "v1", 1)
    assert (swapped.value, swapped.version, swapped.cached) == (10, "v2", False)


def test_an_unacceptable_answer_is_a_failure_for_breaker_cache_and_ladder():
    breaker, cache = CircuitBreaker(failure_threshold=2), PredictionCache()
    service = PredictionService(
        lambda features: math.nan,
        accept=math.isfinite,
        breaker=breaker,
        cache=cache,
        fallback=lambda features: 0.0,
    )
    for p in colours(service, {"x": 1}):
        assert (p.value, p.source, p.degraded) == (0.0, "fallback", True)
        assert isinstance(p.errors[0], RejectedAnswer)
    assert breaker.state.value == "open"
    assert cache.get({"x": 1}, "v1") is MISS
    assert isinstance(service.predict({"x": 1}).errors[0], CircuitOpen)


def test_an_accept_that_raises_refuses_too():
    def check(value):
        raise ValueError("odd")

    p = PredictionService(Echo(), accept=check, default=None).predict({"x": 1})
    assert (p.value, p.source) == (None, "default")
    assert str(p.errors[0]) == "odd"


def test_a_breaker_may_be_made_for_each_version():
    server, made = VersionedModelServer(), {}
    server.load_model("bad", broken)
    server.load_model("good", Echo())
    server.set_default_version("good")

    def make(version):
        made[version] = CircuitBreaker(version, failure_threshold=1)
        return made[version]

    service = PredictionService(server, breaker=make, default=-1)
    assert service.predict({"x": 1}, version="bad").value == -1
    assert service.predict({"x": 1}).value == 1
    assert {v: b.state.value for v, b in made.items()} == {"bad": "open", "good": "closed"}


def test_a_full_bulkhead_rejects_before_the_model():
    bulkhead, model = Bulkhead(1), Echo()
    service = PredictionService(model, bulkhead=bulkhead)
    with bulkhead, pytest.raises(BulkheadFull):
        service.predict({"x": 1})
    assert (model.calls, service.predict({"x": 1}).value) == (0, 1)


def test_a_hung_model_is_given_up_and_the_ladder_answers():
    release = threading.Event()
    service = PredictionService(
        lambda features: release.wait(), timeout=0.01, fallback=lambda features: "late"
    )
    try:
        for p in colours(service, {}):
            assert (p.value, p.source) == ("late", "fallback")
            assert isinstance(p.errors[0], DeadlineExceeded)
    finally:
        release.set()


def test_no_model_is_called_after_the_deadline_of_the_request():
    clock = ManualClock()

    def slow_source(entity, names):
        clock.advance(2.0)
        return {"clicks": 1}

    model = Echo()
    service = PredictionService(
        model,
        features=feature_service(slow_source),
        deadline=1.0,
        default="none",
        clock=clock,
    )
    p = service.predict({"user": 1, "x": 1})
    assert (p.value, model.calls) == ("none", 0)
    assert isinstance(p.errors[-1], DeadlineExceeded)


# -- the ladder -------------------------------------------------------------------------


def test_rungs_answer_in_order_and_every_error_is_kept():
    service = PredictionService(
        broken,
        fallback=[Rung("small", broken), Rung("table", lambda features: 0)],
        default=0.5,
    )
    p = service.predict({})
    assert (p.value, p.source, p.version, len(p.errors)) == (0, "table", "", 2)


def test_when_all_fail_every_cause_is_told():
    service = PredictionService(broken, fallback=FallbackChain(Rung("small", lambda row: int("x"))))
    for ask in (service.predict, lambda row: asyncio.run(service.apredict(row))):
        with pytest.raises(AllFallbacksFailed) as caught:
            ask({"x": 1})
        assert [type(e) for e in caught.value.exceptions] == [ConnectionError, ValueError]


@pytest.mark.parametrize("falsy", [None, 0, False, "", 0.0])
def test_falsy_answers_and_defaults_are_values(falsy):
    assert PredictionService(lambda features: falsy).predict({}).value is falsy
    p = PredictionService(broken, default=falsy).predict({})
    assert (p.value, p.source) == (falsy, "default")


def test_cancellation_is_no_reason_to_fall_back():
    def interrupt(features):
        raise KeyboardInterrupt

    server = VersionedModelServer()
    server.load_model("v1", interrupt)
    server.set_default_version("v1")
    with pytest.raises(KeyboardInterrupt):
        PredictionService(server, default=0).predict({})
    assert server.in_flight == {"v1": 0}


def test_an_unknown_version_is_told_and_not_papered_over():
    service = PredictionService(Echo(), default=0)
    with pytest.raises(UnknownVersion, match="v9"):
        service.predict({"x": 1}, version="v9")


# -- facts ------------------------------------------------------------------------------


def test_one_fact_a_request_tells_what_happened():
    stream, clock = Stream(), ManualClock()
    recorder = Recorder(stream)
    service = PredictionService(Echo(), events=stream, clock=clock, name="svc")
    p = service.predict({"x": 2}, key=41)
    fact = recorder.of(PredictionServed)[0]
    assert len(recorder.facts) == 1
    assert fact.prediction is p
    assert (fact.features, fact.key, fact.arm) == ({"x": 2}, "41", "stable")
    assert (fact.source, fact.at) == ("svc", clock.time())


def test_a_failure_is_a_fact_too():
    stream = Stream()
    recorder = Recorder(stream)
    with pytest.raises(ConnectionError):
        PredictionService(broken, events=stream).predict({"x": 2}, "r1")
    fact = recorder.of(PredictionFailed)[0]
    assert (fact.request_id, fact.version, fact.features) == ("r1", "v1", {"x": 2})


def test_a_listener_that_raises_changes_nothing():
    stream, heard = Stream(), []

    def hostile(fact):
        heard.append(fact)
        raise RuntimeError("listener")

    stream.subscribe(Event, hostile)
    service = PredictionService(Echo(), events=stream, logger=hostile)
    assert [p.value for p in colours(service, {"x": 3})] == [3, 3]
    assert service.predict_batch([{"x": 4}])[0].value == 4
    assert len(heard) == 6


def test_shadow_versions_score_copies_of_stable_answers():
    stream = Stream()
    recorder = Recorder(stream, ShadowScored)
    server = VersionedModelServer(shadow="inline", events=stream)
    for version in ("v1", "v2"):
        server.load_model(version, Echo(int(version[1])))
    server.set_default_version("v1")
    server.route(shadow=["v2"])
    service = PredictionService(server, events=stream)
    service.predict({"x": 5}, "a")
    service.predict_batch([{"x": 6}, {"x": 7}], ["b", "c"])
    told = [(f.request_id, f.stable_value, f.value) for f in recorder.of(ShadowScored)]
    assert told == [("a", 5, 10), ("b", 6, 12), ("c", 7, 14)]


# -- many requests ----------------------------------------------------------------------


def test_a_batch_is_one_model_call_and_keeps_its_order():
    model = Batch(2)
    told = PredictionService(model).predict_batch([{"x": i} for i in range(50)])
    assert [p.value for p in told] == [2 * i for i in range(50)]
    assert model.sizes == [50]


def test_a_row_that_fails_does_not_take_the_others_with_it():
    schema = Schema.infer([{"x": 1.0}, {"x": 9.0}])
    told = PredictionService(Batch(), schema=schema).predict_batch([{"x": 2}, {"x": "?"}, {"x": 3}])
    assert [p.value for p in told] == [2, MISS, 3]
    assert (told[1].source, type(told[1].errors[0])) == ("failed", InvalidFeatures)


def test_a_prediction_tells_tier_age_and_staleness_of_a_cached_answer():
    clock, broken, facts = ManualClock(), False, []

    def model(features):
        if broken:
            raise ConnectionError
        return features["x"]

    cache = PredictionCache(ttl=10.0, jitter=0.0, early=0.0, stale_if_error=60.0, clock=clock)
    service = PredictionService(
        model, cache=cache, clock=clock, logger=facts.append, events=Stream()
    )
    seen = [service.predict({"x": 1})]
    clock.advance(4.0)
    seen.append(service.predict({"x": 1}))
    broken = True
    clock.advance(8.0)
    seen += [service.predict({"x": 1}), *service.predict_batch([{"x": 1}])]
    assert [(p.source, p.tier, p.age, p.stale) for p in seen[:3]] == [
        ("model", "", 0.0, False),
        ("cache", "memory", 4.0, False),
        ("cache", "memory", 12.0, True),
    ]
    assert seen[3].source == "failed", "many rows are computed when their time is over"


def test_a_batch_tells_where_its_rows_came_from():
    clock = ManualClock()
    cache = PredictionCache(clock=clock)
    service = PredictionService(lambda features: features["x"], cache=cache, clock=clock)
    service.predict({"x": 1})
    clock.advance(3.0)
    with cache.trace() as trace:
        told = service.predict_batch([{"x": 1}, {"x": 2}])
    assert [(p.source, p.tier, p.age) for p in told] == [
        ("cache", "memory", 3.0),
        ("model", "", 0.0),
    ]
    assert [answer.tier for answer in trace.answers] == ["memory", ""]


def test_twins_of_a_batch_do_not_share_an_answer_that_can_change():
    service = PredictionService(lambda features: [features["x"]], cache=PredictionCache())
    one, other = service.predict_batch([{"x": 1}, {"x": 1}])
    one.value.append("mine")
    assert other.value == [1]


def test_a_bypassed_cache_is_as_none():
    calls = []
    cache = PredictionCache()
    service = PredictionService(lambda features: len(calls.append(features) or calls), cache=cache)
    service.predict({"x": 1})
    with cache.bypass():
        assert not service.predict({"x": 1}).cached
        assert [p.value for p in service.predict_batch([{"x": 1}, {"x": 1}])] == [3, 4]
    assert service.predict({"x": 1}).value == 1
    with cache.bypass(keep=True):
        assert service.predict_batch([{"x": 1}])[0].value == 5
    assert service.predict({"x": 1}).value == 5


def test_a_renewal_behind_the_request_counts_as_in_flight():
    clock, inside = ManualClock(), []
    cache = PredictionCache(ttl=10.0, jitter=0.0, early=0.0, stale=60.0, clock=clock)

    def model(features):
        inside.append(service.server.in_flight["v1"])
        return len(inside)

    service = PredictionService(model, cache=cache, clock=clock)
    service.predict({"x": 1})
    clock.advance(15.0)
    assert service.predict({"x": 1}).stale
    for _ in range(1000):
        if len(inside) == 2 and not service.server.in_flight["v1"]:
            break
        time.sleep(0.005)
    assert inside == [1, 1], "the renewal holds the version while it computes"
    assert service.server.in_flight["v1"] == 0


def test_cached_rows_of_a_batch_are_not_computed_again():
    model = Batch()
    service = PredictionService(model, cache=PredictionCache())
    service.predict_batch([{"x": 1}, {"x": 2}])
    told = service.predict_batch([{"x": 2}, {"x": 3}, {"x": 1}])
    assert model.sizes == [2, 1]
    assert [(p.value, p.cached) for p in told] == [(2, True), (3, False), (1, True)]
    assert service.predict({"x": 3}).cached


def test_equal_rows_of_a_batch_are_computed_once():
    model = Batch()
    told = PredictionService(model, cache=PredictionCache()).predict_batch([{"x": 1}] * 5)
    assert [p.value for p in told] == [1] * 5
    assert model.sizes == [1]


def test_a_failing_batch_goes_down_the_ladder_row_by_row():
    told = PredictionService(broken, fallback=lambda row: -row["x"]).predict_batch(
        [{"x": 1}, {"x": 2}], ["a", "b"]
    )
    assert [(p.request_id, p.value, p.source) for p in told] == [
        ("a", -1, "fallback"),
        ("b", -2, "fallback"),
    ]


def test_refused_answers_of_a_batch_are_replaced_one_by_one():
    service = PredictionService(
        Batch(), accept=lambda value: value < 5, fallback=lambda row: "small"
    )
    assert [p.value for p in service.predict_batch([{"x": 1}, {"x": 9}])] == [1, "small"]


def test_a_batch_of_wrong_length_is_refused_whole():
    class Short:
        def predict_batch(self, rows):
            return [1]

        def predict(self, row):
            return 1

    told = PredictionService(Short(), default=0).predict_batch([{"x": 1}, {"x": 2}])
    assert [p.value for p in told] == [0, 0]
    assert "1 answers for 2 rows" in str(told[0].errors[0])


def test_rows_of_a_batch_follow_the_split_by_key():
    server = VersionedModelServer()
    for version in ("v1", "v2"):
        server.load_model(version, Batch(int(version[1])))
    server.set_default_version("v1")
    server.route(canary={"v2": 0.5})
    service = PredictionService(server)
    keys = [str(i) for i in range(200)]
    told = service.predict_batch([{"x": 1}] * 200, keys=keys)
    alone = [service.predict({"x": 1}, key=key).version for key in keys]
    assert [p.version for p in told] == alone
    assert 60 < alone.count("v2") < 140
    assert server.in_flight == {"v1": 0, "v2": 0}


def test_an_empty_batch_is_an_empty_answer_and_an_unknown_version_fails_each_row():
    service = PredictionService(Echo())
    assert service.predict_batch([]) == []
    told = service.predict_batch([{"x": 1}], version="v9")
    assert isinstance(told[0].errors[0], UnknownVersion)


# -- building ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"deadline": -1.0}, {"timeout": math.nan}])
def test_times_must_be_positive(wrong):
    with pytest.raises(BadConfiguration, match="positive"):
        PredictionService(Echo(), **wrong)


def test_two_defaults_are_one_too_many():
    chain = FallbackChain(Rung("a", broken), default=0)
    with pytest.raises(BadConfiguration, match="default"):
        PredictionService(Echo(), fallback=chain, default=1)


def test_a_server_is_used_as_it_is():
    server = VersionedModelServer()
    assert PredictionService(server).server is server


def test_the_deadline_of_a_batch_is_one_for_all_its_rows():
    """The model takes it up and fails: no rung is asked any more, the default is given."""
    clock, asked = ManualClock(), []

    def slow(features):
        clock.advance(3.0)
        raise ConnectionError

    service = PredictionService(slow, fallback=asked.append, default=0, deadline=2.0, clock=clock)
    answers = service.predict_batch([{"x": 1}, {"x": 2}])
    assert [(answer.value, answer.source) for answer in answers] == [(0, "default")] * 2
    assert asked == []


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_many_requests_are_awaited_with_a_model_that_answers_batches_asynchronously(timeout):
    class Model:
        async def predict(self, features):
            raise AssertionError("all at once")

        async def apredict_batch(self, rows):
            await asyncio.sleep(0)
            return [row["x"] * 2 for row in rows]

    service = PredictionService(Model(), cache=PredictionCache(), timeout=timeout)

    async def main():
        first = await service.apredict_batch([{"x": 1}, {"x": 2}, {"x": 1}], ["a", "b", "c"])
        return first, await service.apredict_batch([{"x": 2}])

    first, again = asyncio.run(main())
    assert [(p.request_id, p.value) for p in first] == [("a", 2), ("b", 4), ("c", 2)]
    assert (again[0].value, again[0].cached) == (4, True)


def test_many_requests_are_awaited_row_by_row_with_an_async_model():
    class Model:
        async def predict(self, features):
            await asyncio.sleep(0)
            return features["x"]

    service = PredictionService(Model())
    told = asyncio.run(service.apredict_batch([{"x": 1}, {"x": 2}]))
    assert [p.value for p in told] == [1, 2]


def test_headers_override_the_routing():
    server = VersionedModelServer()
    for version in ("v1", "v2"):
        server.load_model(version, lambda features, version=version: version)
    server.set_default_version("v1")
    server.route(overrides={"x-arm": {"new": "v2"}})
    service = PredictionService(server)
    assert service.predict({}, headers={"X-Arm": "new"}).value == "v2"
    assert asyncio.run(service.apredict({}, headers={"x-arm": "new"})).value == "v2"
    assert service.predict({}, headers={"x-arm": "old"}).value == "v1"


# -- what a review found ----------------------------------------------------------------


@pytest.mark.parametrize("answers", [None, 5, "ab", {"a": 1, "b": 2}, [1]])
def test_a_batch_without_one_answer_a_row_fails_behind_its_breaker(answers):
    class Odd(Echo):
        def predict_batch(self, rows):
            return answers

    breaker = CircuitBreaker(failure_threshold=1)
    service = PredictionService(Odd(), default=0.5, breaker=breaker)
    served = service.predict_batch([{"x": 1}, {"x": 2}])
    assert [(p.value, p.source) for p in served] == [(0.5, "default")] * 2
    assert all(isinstance(p.errors[0], RejectedAnswer) for p in served)
    assert breaker.state.value == "open"


def test_a_batch_of_which_every_answer_is_refused_is_a_failure_for_the_breaker():
    breaker = CircuitBreaker(failure_threshold=1)
    service = PredictionService(Batch(), accept=lambda v: v < 3, breaker=breaker)
    some = service.predict_batch([{"x": 1}, {"x": 5}])
    assert [p.source for p in some] == ["model", "failed"]
    assert breaker.state.value == "closed"
    none = service.predict_batch([{"x": 4}, {"x": 5}])
    assert [[str(e) for e in p.errors] for p in none] == [["answer rejected: accept said no"]] * 2
    assert breaker.state.value == "open"


@pytest.mark.parametrize("given", [{"request_ids": ["a"]}, {"keys": ["a", "b", "c"]}])
def test_ids_and_keys_are_one_a_row(given):
    model = Echo()
    with pytest.raises(ValueError, match=f"{next(iter(given))} for 2 rows"):
        PredictionService(model).predict_batch([{"x": 1}, {"x": 2}], **given)
    assert model.calls == 0


def test_a_frame_is_no_batch_of_rows():
    import pandas as pd

    frame = pd.DataFrame({"x": [1, 2]})
    service = PredictionService(Echo())
    with pytest.raises(TypeError, match="not DataFrame"):
        service.predict_batch(frame)
    assert [p.value for p in service.predict_batch(row for row in frame.to_dict("records"))] == [
        1,
        2,
    ]


def test_many_requests_are_awaited_row_by_row_within_the_time_for_the_call():
    async def slow(features):
        await asyncio.sleep(features["x"])
        return 1

    async def ask(*waits):
        return await service.apredict_batch([{"x": x} for x in waits])

    service = PredictionService(slow, timeout=0.1)
    assert [p.value for p in asyncio.run(ask(0, 0))] == [1, 1]
    late = asyncio.run(ask(0, 30))
    assert all(isinstance(p.errors[0], DeadlineExceeded) for p in late)


def test_a_row_that_fails_without_a_ladder_tells_its_error_once():
    def broken(features):
        raise ConnectionError

    (failed,) = PredictionService(broken).predict_batch([{"x": 1}])
    assert [type(error) for error in failed.errors] == [ConnectionError]


@pytest.mark.parametrize("name", ["model", "cache", "failed"])
@pytest.mark.parametrize("batch", [False, True])
def test_what_a_rung_answers_is_not_the_versions_whatever_the_rung_is_called(name, batch):
    def broken(features):
        raise ConnectionError

    service = PredictionService(broken, fallback=Rung(name, lambda features: 2))
    served = service.predict_batch([{}])[0] if batch else service.predict({})
    assert (served.value, served.source, served.version) == (2, name, "")


def test_an_async_model_that_is_not_awaited_is_a_mistake_and_no_reason_to_fall_back():
    async def model(features):
        return 1

    service = PredictionService(model, default=0)
    with pytest.raises(TypeError, match="async: use apredict"):
        service.predict({})
    assert asyncio.run(service.apredict({})).value == 1
    assert service.server.in_flight == {"v1": 0}


def test_an_interruption_while_rows_are_routed_counts_them_out():
    class Key(str):
        __slots__ = ()

        def encode(self, *_):
            raise KeyboardInterrupt

    server = VersionedModelServer(events=Stream())
    for version in ("v1", "v2"):
        server.load_model(version, Echo())
    server.set_default_version("v1")
    server.route(canary={"v2": 0.5})
    with pytest.raises(KeyboardInterrupt):
        PredictionService(server).predict_batch([{"x": 1}] * 2, keys=["a", Key("b")])
    assert server.in_flight == {"v1": 0, "v2": 0}
