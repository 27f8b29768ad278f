import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodml._call import Invoke, run
from prodml._call.spawn import BEHIND
from prodml._deadline import narrow, restore
from prodml.cache import MISS, PredictionCache, cached_prediction
from prodml.cache.backoff import Backoff
from prodml.cache.lease import HEARTBEATS, Heartbeats
from prodml.cache.stats import Counts
from prodml.cache.tier import StoreTier
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BulkheadFull, DeadlineExceeded, RememberedFailure
from prodml.testing import ManualClock
from tests.cache.stores import AwaitedStore, LeasingStore

ROW = {"n": 1}


class Process:
    """A cache and a model, as another process would have them."""

    def __init__(self, store, answer=42, **settings):
        self.cache = PredictionCache(store, **({"early": 0.0} | settings))
        self.calls, self.answer = 0, answer
        self.entered, self.go = threading.Event(), threading.Event()
        decorate = cached_prediction(self.cache, version="v1", function="m")
        self.predict = decorate(self.model)
        self.apredict = decorate(self.amodel)

    def model(self, features):
        self.calls += 1
        self.entered.set()
        assert self.go.wait(10)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def amodel(self, features):
        return await asyncio.to_thread(self.model, features)

    def at_once(self):
        self.go.set()
        return self


@pytest.fixture
def pool():
    with ThreadPoolExecutor(30) as pool:
        yield pool


def _watching(store, count=1):
    while store.asked.count("watch") < count:
        time.sleep(0.001)


def test_one_process_computes_and_the_others_get_its_answer(pool):
    store = LeasingStore()
    here, there = Process(store), Process(store, "never").at_once()
    leader = pool.submit(here.predict, ROW)
    assert here.entered.wait(10)
    waiters = [pool.submit(there.predict, ROW) for _ in range(12)]
    _watching(store)
    here.go.set()
    assert [waiter.result(10) for waiter in waiters] == [42] * 12
    assert leader.result(10) == 42
    assert (here.calls, there.calls) == (1, 0)
    assert store.leases == {}
    assert there.cache.stats().coalesced == 11


def test_a_task_waits_as_a_thread_does(pool):
    store = LeasingStore()
    here, there = Process(store), Process(store, "never").at_once()
    leader = pool.submit(here.predict, ROW)
    assert here.entered.wait(10)

    async def main():
        waiters = [asyncio.create_task(there.apredict(ROW)) for _ in range(12)]
        await asyncio.to_thread(_watching, store)
        here.go.set()
        return await asyncio.gather(*waiters)

    assert asyncio.run(main()) == [42] * 12
    assert leader.result(10) == 42
    assert there.calls == 0


def test_a_failure_reaches_those_who_wait_and_nobody_later(pool):
    store = LeasingStore()
    here, there = Process(store, ValueError("no")), Process(store).at_once()
    leader = pool.submit(here.predict, ROW)
    assert here.entered.wait(10)
    waiters = [pool.submit(there.predict, ROW) for _ in range(12)]
    _watching(store)
    here.go.set()
    assert isinstance(leader.exception(10), ValueError)
    for waiter in waiters:
        error = waiter.exception(10)
        assert isinstance(error, RememberedFailure)
        assert (error.kind, error.text) == ("ValueError", "no")
    assert there.calls == 0
    assert there.predict(ROW) == 42


def test_a_failure_is_remembered_in_every_process():
    clock = ManualClock()
    store = LeasingStore(clock=clock)
    here = Process(store, ValueError("no"), negative_ttl=10.0, clock=clock).at_once()
    there = Process(store, negative_ttl=10.0, clock=clock).at_once()
    with pytest.raises(ValueError, match="no"):
        here.predict(ROW)
    for _ in range(2):
        with pytest.raises(RememberedFailure, match="ValueError: no"):
            there.predict(ROW)
    assert there.calls == 0
    clock.advance(10.0)
    assert there.predict(ROW) == 42


def test_an_old_answer_stands_in_for_a_failure_elsewhere(pool):
    clock = ManualClock()
    store = LeasingStore(clock=clock)
    settings = {"ttl": 100.0, "jitter": 0.0, "stale_if_error": 60.0, "clock": clock}
    here, there = Process(store, **settings).at_once(), Process(store, **settings).at_once()
    assert (here.predict(ROW), there.predict(ROW)) == (42, 42)
    clock.advance(110.0)
    here.answer = ConnectionError("down")
    here.go.clear()
    here.entered.clear()
    leader = pool.submit(here.predict, ROW)
    assert here.entered.wait(10)
    clock.sleep = time.sleep
    waiter = pool.submit(there.predict, ROW)
    _watching(store)
    here.go.set()
    assert (leader.result(10), waiter.result(10)) == (42, 42)
    assert there.calls == 0


@pytest.mark.parametrize("answer", [BulkheadFull("model", 1), object()])
def test_what_cannot_be_shared_is_computed_by_each_at_the_same_time(pool, answer):
    store = LeasingStore()
    here, others = Process(store, answer), [Process(store).at_once() for _ in range(3)]
    leader = pool.submit(here.predict, ROW)
    assert here.entered.wait(10)
    for other in others:
        other.go.clear()
    waiters = [pool.submit(other.predict, ROW) for other in others]
    _watching(store, 6)
    here.go.set()
    for other in others:
        assert other.entered.wait(10)
    for other in others:
        other.go.set()
    assert [waiter.result(10) for waiter in waiters] == [42] * 3
    leader.exception(10)


def test_a_leader_that_is_gone_holds_nobody_up_for_long():
    clock = ManualClock()
    store = LeasingStore(clock=clock)
    there = Process(store, clock=clock, lease=2.0).at_once()
    # Whoever claimed was killed: nothing prolongs its lease.
    began, name = clock.monotonic(), None
    value, key = there.cache.lookup(ROW, "v1", function="m")
    assert value is MISS
    run(there.cache._refresh(key.epoch))
    name = there.cache._name(there.cache._preimage(key))
    store.claim(name, "the dead", 2.0)
    assert there.predict(ROW) == 42
    assert 2.0 <= clock.monotonic() - began <= 2.06
    assert max(clock.slept) <= 0.05


def test_patience_ends_and_then_each_computes_for_himself():
    clock = ManualClock()
    store = LeasingStore(clock=clock)
    there = Process(store, clock=clock, flight_timeout=1.0).at_once()
    _claimed_for_ever(there, store)
    began = clock.monotonic()
    assert there.predict(ROW) == 42
    assert 1.0 <= clock.monotonic() - began <= 1.06


def test_the_requests_deadline_ends_the_wait():
    clock = ManualClock()
    store = LeasingStore(clock=clock)
    there = Process(store, clock=clock).at_once()
    _claimed_for_ever(there, store)
    reset = narrow(0.5, clock)
    with pytest.raises(DeadlineExceeded):
        there.predict(ROW)
    restore(reset)
    assert there.calls == 0


def _claimed_for_ever(process, store):
    _, key = process.cache.lookup(ROW, "v1", function="m")
    run(process.cache._refresh(key.epoch))
    name = process.cache._name(process.cache._preimage(key))
    store.claim(name, "somebody", 1e9)


def test_work_longer_than_the_lease_stays_one_computation(pool):
    store = LeasingStore()
    here, there = (Process(store, lease=0.15) for _ in range(2))
    leader = pool.submit(here.predict, ROW)
    assert here.entered.wait(10)
    waiter = pool.submit(there.predict, ROW)
    time.sleep(0.6)
    here.go.set()
    assert (leader.result(10), waiter.result(10)) == (42, 42)
    assert there.calls == 0
    assert store.asked.count("prolong") >= 3


def test_a_cancelled_leader_gives_its_lease_back():
    store = LeasingStore()
    begun = []

    @cached_prediction(PredictionCache(store, lease=60.0), version="v1")
    async def predict(features):
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(60)
        return 42

    async def main():
        leader = asyncio.create_task(predict(ROW))
        while not begun:
            await asyncio.sleep(0)
        leader.cancel()
        return await predict(ROW)

    assert asyncio.run(main()) == 42
    while store.leases:
        time.sleep(0.001)
    assert len(HEARTBEATS) == 0


def test_a_leader_whose_time_is_over_gives_its_lease_back(pool):
    store = LeasingStore()
    here = Process(store, DeadlineExceeded("the request", 0.05), lease=60.0)

    def lead():
        narrow(0.05, SYSTEM_CLOCK)
        return here.predict(ROW)

    leader = pool.submit(lead)
    time.sleep(0.1)
    here.go.set()
    assert isinstance(leader.exception(10), DeadlineExceeded)
    while store.leases:
        time.sleep(0.001)


def test_a_store_that_dies_holds_nobody_up(pool):
    store = LeasingStore()
    here, there = Process(store), Process(store, "mine").at_once()
    leader = pool.submit(here.predict, ROW)
    assert here.entered.wait(10)
    waiter = pool.submit(there.predict, ROW)
    _watching(store)
    store.down = True
    assert waiter.result(10) == "mine"
    here.go.set()
    assert leader.result(10) == 42


@pytest.mark.parametrize("settings", [{"lease": 0.0}, {"breaker": Backoff(failure_threshold=1)}])
def test_without_leases_each_process_computes_for_itself(settings):
    store = LeasingStore()
    store.down = "breaker" in settings
    here = Process(store, **settings).at_once()
    assert here.predict(ROW) == 42
    assert store.asked.count("claim") <= 1
    assert store.leases == {}


def test_what_is_there_needs_no_lease():
    store = LeasingStore()
    Process(store).at_once().predict(ROW)
    store.asked.clear()
    assert Process(store, "never").predict(ROW) == 42
    assert store.asked == []


def test_one_process_renews_for_all(pool):
    clock = ManualClock()
    store = LeasingStore(clock=clock)
    settings = {"ttl": 100.0, "jitter": 0.0, "stale": 60.0, "clock": clock}
    here, there = Process(store, **settings).at_once(), Process(store, **settings).at_once()
    assert (here.predict(ROW), there.predict(ROW)) == (42, 42)
    clock.advance(105.0)
    here.answer = 43
    here.entered.clear()
    here.go.clear()
    assert here.predict(ROW) == 42
    assert here.entered.wait(10)
    assert [there.predict(ROW) for _ in range(5)] == [42] * 5
    here.go.set()
    while len(BEHIND):
        time.sleep(0.001)
    clock.advance(1.0)
    there.predict(ROW)
    while len(BEHIND):
        time.sleep(0.001)
    assert (here.predict(ROW), there.predict(ROW)) == (43, 43)
    assert (here.calls, there.calls) == (2, 0)


# -- heartbeats -----------------------------------------------------------------------------


def _tier(store):
    return StoreTier(store, Backoff(), Counts())


def test_a_lost_lease_is_let_go_of_and_a_hung_holder_too():
    store, beats = LeasingStore(), Heartbeats()
    beats._started = True
    lost = beats.hold(_tier(store), "a", "one", lease=2.0, longest=60.0)
    hung = beats.hold(_tier(store), "b", "two", lease=2.0, longest=0.0)
    store.claim("b", "two", 2.0)
    for held in (lost, hung):
        held.due = 0.0
    beats.beat()
    assert len(beats) == 0
    assert store.asked.count("prolong") == 1


def test_a_store_that_misbehaves_ends_no_thread(caplog):
    class Unsound(LeasingStore):
        def prolong(self, name, token, lease):
            async def never():
                pass

            return never()

    beats = Heartbeats()
    beats._started = True
    beats.hold(_tier(Unsound()), "a", "one", lease=2.0, longest=60.0).due = 0.0
    beats.beat()
    assert len(beats) == 1
    assert "a lease could not be prolonged" in caplog.text


def test_what_is_held_while_the_thread_looks_wakes_it_again():
    beats = Heartbeats()
    beats._started = True

    class Meanwhile(LeasingStore):
        def prolong(self, name, token, lease):
            beats.hold(None, "b", "two", lease=0.3, longest=60.0)
            return True

    beats.hold(_tier(Meanwhile()), "a", "one", lease=60.0, longest=60.0).due = 0.0
    beats._wake.clear()
    beats.beat()
    assert beats._wake.is_set()


def test_a_store_that_is_away_for_a_moment_loses_no_lease():
    store, beats = LeasingStore(), Heartbeats()
    beats._started = True
    held = beats.hold(_tier(store), "a", "one", lease=2.0, longest=60.0)
    store.down, held.due = True, 0.0
    assert beats.beat() == pytest.approx(2 / 3, abs=0.1)
    assert len(beats) == 1


def test_one_thread_serves_many_leases_and_wakes_for_the_shortest():
    store, beats = LeasingStore(), Heartbeats()
    store.claim("short", "s", 0.15)
    beats.hold(_tier(store), "long", "l", lease=600.0, longest=600.0)
    time.sleep(0.02)
    held = beats.hold(_tier(store), "short", "s", lease=0.15, longest=60.0)
    time.sleep(0.4)
    assert store.watch("short") == (None, "s")
    beats.drop(held)


def test_a_forked_child_prolongs_nothing_of_its_parents():
    store, beats = LeasingStore(), Heartbeats()
    beats.hold(_tier(store), "a", "one", lease=60.0, longest=60.0)
    beats.forget()
    assert len(beats) == 0
    assert not beats._started


def test_a_store_for_tasks_only_leaves_each_process_alone():
    async def main():
        process = Process(AwaitedStore()).at_once()
        return await process.apredict(ROW)

    assert asyncio.run(main()) == 42


def test_a_flight_inside_a_flight_of_another_process_does_not_wait_for_itself():
    store = LeasingStore()
    cache = PredictionCache(store, flight_timeout=0.2)
    decorate = cached_prediction(cache, version="v1", function="m")
    calls = []

    @decorate
    def predict(features):
        calls.append(1)
        return predict(features) if len(calls) == 1 else 42

    assert predict(ROW) == 42


def test_steps_invoked_by_a_flow_of_ones_own_share_the_lease():
    store = LeasingStore()

    def compute():
        return (yield Invoke(lambda: 42))

    cache = PredictionCache(store)
    assert run(cache.compute_steps(ROW, "v1", compute)) == (42, False)
    assert store.asked == ["claim", "unclaim"]
