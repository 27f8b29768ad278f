import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from prodml._call import Invoke, run
from prodml.cache import (
    MISS,
    CachedBatches,
    CachedCalls,
    PredictionCache,
    Uncached,
    cached_prediction,
    canonical,
)
from prodml.errors import BadConfiguration
from prodml.testing import ManualClock, check_flow
from tests.cache.stores import BulkMemoryStore, DeadStore

ROW = {"age": 41, "country": "DE"}


class Model:
    """Counts its calls; can be held at the door and can fail."""

    def __init__(self, answer=0.5):
        self.calls = []
        self.answer = answer
        self.door = threading.Event()
        self.door.set()

    def predict(self, features, model_version="v1", threshold=0.5):
        self.calls.append(features)
        assert self.door.wait(10)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _cached(model, cache=None, **settings):
    cache = cache if cache is not None else PredictionCache()

    @cached_prediction(cache, **settings)
    def predict(features, model_version, threshold=0.5):
        return model.predict(features, model_version, threshold)

    return predict


@pytest.mark.parametrize("flow", [CachedCalls, CachedBatches])
def test_it_keeps_the_contract_of_flows(flow):
    check_flow(partial(flow, PredictionCache(), version="v1"))


def test_the_lectures_form_computes_once_a_row_and_version():
    model = Model()
    predict = _cached(model)
    assert [predict(ROW, "v1"), predict(dict(reversed(ROW.items())), "v1")] == [0.5, 0.5]
    assert len(model.calls) == 1
    predict(ROW, "v2")
    assert len(model.calls) == 2


@pytest.mark.parametrize("answer", [None, 0, "", False, []])
def test_a_falsy_answer_is_computed_once(answer):
    model = Model(answer)
    predict = _cached(model)
    assert predict(ROW, "v1") == predict(ROW, "v1") == answer
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1: "x"}, {"1": "x"}),
        ({True: 1}, {"true": 1}),
        ({None: 1}, {"null": 1}),
        ({"a": 1}, {"a": True}),
    ],
)
def test_rows_that_json_confuses_are_two(one, other):
    model = Model()
    predict = _cached(model)
    predict(one, "v1")
    predict(other, "v1")
    assert len(model.calls) == 2


def test_other_arguments_are_part_of_the_key():
    model = Model()
    predict = _cached(model)
    predict(ROW, "v1", 0.5)
    predict(ROW, "v1")
    assert len(model.calls) == 1
    predict(ROW, "v1", threshold=0.9)
    assert len(model.calls) == 2


def test_two_functions_never_share_an_answer_unless_they_share_a_name():
    cache = PredictionCache()
    fraud, churn = _cached(Model("fraud"), cache), _cached(Model("churn"), cache)
    assert (fraud(ROW, "v1"), churn(ROW, "v1")) == ("fraud", "churn")
    one, two = (_cached(Model(n), cache, function="same") for n in (1, 2))
    assert (one(ROW, "v1"), two(ROW, "v1")) == (1, 1)


def test_the_version_may_be_fixed_or_asked_for():
    cache, calls, active = PredictionCache(), [], ["v1"]

    @cached_prediction(cache, version=lambda: active[0])
    def predict(features):
        calls.append(active[0])
        return active[0]

    assert [predict(ROW), predict(ROW)] == ["v1", "v1"]
    active[0] = "v2"
    assert predict(ROW) == "v2"
    assert calls == ["v1", "v2"]
    cache.drop("v2")
    predict(features=ROW)
    assert calls == ["v1", "v2", "v2"]


def test_when_nobody_knows_the_version_the_call_goes_through():
    def unknown():
        raise LookupError

    cache = PredictionCache()
    predict = cached_prediction(cache, version=unknown)(len)
    assert (predict(ROW), predict(ROW)) == (2, 2)
    assert cache.stats().uncacheable == 2


def test_a_function_without_version_is_refused_at_once():
    with pytest.raises(BadConfiguration, match="version"):
        cached_prediction(PredictionCache())(lambda features: features)


def test_what_cannot_be_named_goes_through_and_is_counted():
    cache, model = PredictionCache(), Model()
    predict = _cached(model, cache)
    predict({"a": print}, "v1")
    predict({"a": print}, "v1")
    assert (len(model.calls), cache.stats().uncacheable) == (2, 2)


def test_an_answer_that_cannot_be_kept_is_handed_on():
    answer = object()
    predict = _cached(Model(answer))
    assert predict(ROW, "v1") is answer
    assert predict(ROW, "v1") is answer


def test_a_wrong_call_raises_what_the_function_raises():
    with pytest.raises(TypeError, match="predict"):
        _cached(Model())()


def test_an_error_is_never_kept():
    model = Model(ValueError("no"))
    predict = _cached(model)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            predict(ROW, "v1")
    model.answer = 1
    assert predict(ROW, "v1") == 1


def test_the_first_answer_may_be_changed_without_harm():
    predict = _cached(Model([1, 2]))
    predict(ROW, "v1").append(3)
    assert predict(ROW, "v1") == [1, 2]


def test_entries_of_a_function_are_found_and_explained_by_it():
    cache = PredictionCache()
    predict = _cached(Model(), cache)
    assert cache.get(ROW, "v1", function=predict) is MISS
    predict(ROW, "v1", 0.5)
    extra_free = cached_prediction(cache, version="v1", function="f")(lambda features: 7)
    extra_free(ROW)
    assert cache.get(ROW, "v1", function="f") == 7
    assert cache.explain(ROW, "v1", function="f").tier == "memory"


def test_two_functions_made_by_one_factory_are_two():
    cache = PredictionCache()

    def make(answer):
        return cached_prediction(cache, version="v1")(lambda features: answer)

    assert [make(1)(ROW), make(2)(ROW)] == [1, 2]


def _waiters(cache):
    flights = list(cache._flights._flights.values())
    return len(flights[0]._condition._waiters) if flights else 0


@pytest.mark.parametrize("answer", [0.5, {"scores": [1]}])
def test_fifty_threads_compute_once(answer):
    cache, model = PredictionCache(BulkMemoryStore()), Model(answer)
    predict = _cached(model, cache)
    predict({"warm": 1}, "v1")
    model.door.clear()
    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(predict, ROW, "v1") for _ in range(50)]
        while _waiters(cache) < 49:
            pass
        model.door.set()
        answers = [future.result(10) for future in futures]
    assert len(model.calls) == 2
    assert answers == [answer] * 50
    assert len({id(a) for a in answers}) == (50 if isinstance(answer, dict) else 1)
    assert cache.stats().coalesced == 49


def test_fifty_tasks_compute_once():
    cache, calls = PredictionCache(), []

    @cached_prediction(cache)
    async def predict(features, model_version):
        calls.append(features)
        await asyncio.sleep(0.01)
        return 0.5

    async def main():
        return await asyncio.gather(*(predict(ROW, "v1") for _ in range(50)))

    assert asyncio.run(main()) == [0.5] * 50
    assert len(calls) == 1
    assert asyncio.run(predict(ROW, "v1")) == 0.5
    assert len(calls) == 1


def test_a_thread_and_a_task_share_entries():
    cache = PredictionCache()
    plain = cached_prediction(cache, version="v1", function="f")(lambda features: 1)

    @cached_prediction(cache, version="v1", function="f")
    async def awaited(features):
        return 2

    assert plain(ROW) == 1
    assert asyncio.run(awaited(ROW)) == 1


def test_callers_of_an_answer_that_cannot_be_copied_each_compute():
    cache, model = PredictionCache(), Model()
    predict = _cached(model, cache)
    model.door.clear()
    with ThreadPoolExecutor(4) as pool:
        model.answer = object()
        futures = [pool.submit(predict, ROW, "v1") for _ in range(4)]
        while _waiters(cache) < 3:
            pass
        model.door.set()
        assert [future.result(10) for future in futures] == [model.answer] * 4
    assert len(model.calls) == 4


def test_a_function_that_asks_for_itself_does_not_wait_for_itself():
    depth = []

    @cached_prediction(PredictionCache(), version="v1")
    def predict(features):
        depth.append(1)
        return predict(features) + 1 if len(depth) < 3 else 0

    assert predict(ROW) == 2


def test_a_dead_store_changes_no_prediction():
    predict = _cached(Model(), PredictionCache(DeadStore(), clock=ManualClock()))
    assert [predict({"n": n}, "v1") for n in range(10)] == [0.5] * 10


# -- the seam ---------------------------------------------------------------------------


def _compute(answer, calls):
    def steps():
        return (yield Invoke(lambda: calls.append(1) or answer))

    return steps


def test_a_flow_is_told_whether_its_answer_was_cached():
    cache, calls = PredictionCache(), []
    ask = lambda: run(cache.compute_steps(ROW, "v1", _compute(7, calls), function="f"))
    assert [ask(), ask()] == [(7, False), (7, True)]
    assert len(calls) == 1


def test_an_answer_marked_as_uncached_is_handed_on_and_not_kept():
    cache, calls = PredictionCache(), []
    ask = lambda: run(cache.compute_steps(ROW, "v1", _compute(Uncached(7), calls)))
    assert [ask(), ask()] == [(7, False), (7, False)]
    assert run(cache.compute_steps({"a": print}, "v1", _compute(Uncached(7), calls))) == (7, False)
    assert len(calls) == 3


def test_a_lookup_finds_in_memory_or_gives_a_key_to_go_on_with():
    cache = PredictionCache()
    value, key = cache.lookup(ROW, "v1")
    assert value is MISS
    assert run(cache.complete_steps(key, _compute(7, []))) == (7, False)
    assert cache.lookup(ROW, "v1") == (7, None)
    assert cache.lookup({"a": print}, "v1") == (MISS, None)


def test_many_rows_are_looked_up_fetched_and_kept_together():
    store = BulkMemoryStore()
    cache = PredictionCache(store)
    rows = [{"n": 1}, {"n": 2}, {"a": print}, {"n": 3}]
    answers, keys = cache.recall_many(rows, "v1")
    assert answers == [None] * 4
    assert keys[2] is None
    assert run(cache.store_steps(keys, [1, 2, 3, MISS])) == 2
    other = PredictionCache(store)
    answers, keys = other.recall_many(rows, "v1")
    store.trips.clear()
    fetched = run(other.fetch_steps(keys, answers))
    assert [answer and (answer.value, answer.tier) for answer in fetched] == [
        *((1, "store"), (2, "store")),
        *(None, None),
    ]
    assert store.trips == ["setdefault", "get_many"]
    answers, keys = other.recall_many(rows, "v1")
    assert [answer and answer.tier for answer in answers] == ["memory", "memory", None, None]


def test_many_rows_computed_while_their_version_is_dropped_are_not_found_after_it():
    cache = PredictionCache(BulkMemoryStore())
    answers, keys = cache.recall_many([{"n": 1}], "v1")
    run(cache.fetch_steps(keys, answers))
    cache.drop("v1")
    assert run(cache.store_steps(keys, [1])) == 1
    assert cache.get({"n": 1}, "v1") is MISS


@pytest.mark.parametrize("store", [None, "shared"])
def test_a_row_computed_while_its_version_is_dropped_is_not_found_after_it(store):
    cache, calls = PredictionCache(store and BulkMemoryStore()), []

    @cached_prediction(cache, version="v1")
    def predict(features):
        calls.append(features)
        if len(calls) == 1:
            cache.drop("v1")
        return len(calls)

    assert [predict(ROW), predict(ROW), predict(ROW)] == [1, 2, 2]


def test_an_error_of_an_uncacheable_call_is_its_own():
    def compute():
        return (yield Invoke(partial(int, "x")))

    with pytest.raises(ValueError, match="invalid"):
        run(PredictionCache().compute_steps(np, "v1", compute))


def test_many_functions_may_pass_through_one_flow():
    flow = CachedCalls(PredictionCache(), version="v1")
    answers = [flow.call(lambda row, number=number: number, 1) for number in range(300)]
    assert answers == list(range(300))


# -- found by a review ----------------------------------------------------------------------


def test_a_version_that_moves_during_a_call_does_not_keep_the_answer_of_the_next():
    active, moved = "v1", []

    def model(features):
        nonlocal active
        told = active
        if not moved:
            moved.append(told)
            active = told = "v2"
        return f"answer of {told}"

    cache = PredictionCache()
    predict = cached_prediction(cache, version=lambda: active)(model)
    assert predict(ROW) == "answer of v2"
    active = "v1"
    assert predict(ROW) == "answer of v1"


def test_a_version_that_moves_during_a_batch_does_not_keep_the_answers_of_the_next():
    active, moved = "v1", []

    def model(rows):
        nonlocal active
        if not moved:
            moved.append(active)
            active = "v2"
        return [f"answer of {active}" for _ in rows]

    cache = PredictionCache()
    predict = cached_prediction(cache, version=lambda: active, batch=True)(model)
    assert predict([ROW]) == ["answer of v2"]
    active = "v1"
    assert predict([ROW]) == ["answer of v1"]


def test_a_row_that_changes_while_its_call_awaits_keeps_no_answer_under_the_old_name():
    cache = PredictionCache()

    @cached_prediction(cache, version="v1")
    async def predict(features):
        await asyncio.sleep(0)
        return features["a"] * 10

    async def main():
        row = {"a": 1}
        task = asyncio.ensure_future(predict(row))
        await asyncio.sleep(0)
        row["a"] = 2
        return [await task, await predict({"a": 1}), await predict({"a": 2})]

    assert asyncio.run(main()) == [20, 10, 20]


def test_a_second_drop_is_not_undone_by_the_telling_of_the_first():
    store = BulkMemoryStore()
    clock = ManualClock()
    cache = PredictionCache(store, clock=clock)
    cache.get(ROW, "v1")
    epoch = cache._epoch(canonical("v1"))
    epoch.pending = True
    steps = cache._settle(epoch)
    clock.advance(10.0)
    next(steps)
    epoch.token, told = b"8 bytes!", epoch.token
    with pytest.raises(StopIteration):
        steps.send((None, None))
    assert epoch.pending, "the newer drop is still to be told"
    assert told != epoch.token


def test_a_larger_answer_that_cannot_be_kept_ends_the_one_before():
    cache = PredictionCache(memory=4000)
    assert cache.set(ROW, "v1", "small")
    cache.set(ROW, "v1", "large" * 1000)
    assert cache.get(ROW, "v1") is MISS


def test_a_cached_generator_is_opened_again_with_a_store():
    @cached_prediction(PredictionCache(BulkMemoryStore()), version="v1")
    def stream(features):
        yield features["age"]

    for _ in range(3):
        assert list(stream({"age": 41})) == [41]


def test_answers_that_are_not_kept_are_not_shared_if_they_can_change():
    active, entered, release = "v1", threading.Event(), threading.Event()

    @cached_prediction(PredictionCache(), version=lambda: active)
    def predict(features):
        nonlocal active
        entered.set()
        assert release.wait(10)
        active = "v2"
        return [1]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(predict, ROW)
        assert entered.wait(10)
        second = pool.submit(predict, ROW)
        release.set()
        assert first.result(10) is not second.result(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("where", ["in flight", "memory"])
def test_a_forked_child_waits_for_nobody(where):
    cache, entered, release = PredictionCache(), threading.Event(), threading.Event()

    @cached_prediction(cache, version="v1")
    def predict(features):
        if os.getpid() == parent:
            entered.set()
            assert release.wait(20)
        return 0.5

    parent = os.getpid()
    leader = threading.Thread(target=predict, args=(ROW,))
    leader.start()
    assert entered.wait(10)
    if where == "memory":
        cache._memory._lock.acquire()
    child = os.fork()
    if not child:
        os._exit(0 if predict(ROW) == 0.5 and predict(ROW) == 0.5 else 1)
    if where == "memory":
        cache._memory._lock.release()
    release.set()
    leader.join(10)
    ends = time.monotonic() + 10
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < ends:
        time.sleep(0.01)
    if status[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert status == (child, 0)
