import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodml._call import Invoke, arun, run
from prodml._deadline import narrow, restore
from prodml.cache.single_flight import ALONE, HANDOVER, SingleFlight
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import DeadlineExceeded
from prodml.testing import ManualClock


class Model:
    """Counts its calls; answers when told to."""

    def __init__(self, answer=42):
        self.calls = 0
        self.answer = answer
        self.entered = threading.Event()
        self.go = threading.Event()

    def predict(self):
        self.calls += 1
        self.entered.set()
        assert self.go.wait(10)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def work(self):
        return (yield Invoke(self.predict))


def _waiting(flights, key, count):
    """Wait until ``count`` callers hang on the flight."""
    while True:
        flight = flights._flights.get(key)
        if flight is not None and len(flight._condition._waiters) >= count:
            return


def _fly(flights, model):
    return run(flights.steps(b"k", model.work))


def test_fifty_threads_share_one_computation():
    flights, model = SingleFlight(30.0), Model()
    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(_fly, flights, model) for _ in range(50)]
        _waiting(flights, b"k", 49)
        model.go.set()
        results = [future.result(10) for future in futures]
    assert model.calls == 1
    assert sorted(results) == [(42, False)] * 49 + [(42, True)]
    assert len(flights) == 0


def test_a_failing_leader_fails_all_at_once_and_the_next_caller_tries_anew():
    flights, model = SingleFlight(30.0), Model(ValueError("no"))
    with ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(_fly, flights, model) for _ in range(10)]
        _waiting(flights, b"k", 9)
        model.go.set()
        errors = [future.exception(10) for future in futures]
    assert model.calls == 1
    assert all(error is model.answer for error in errors)
    with pytest.raises(ValueError, match="no"):
        _fly(flights, model)
    assert model.calls == 2


class Interrupted(BaseException):
    pass


def test_an_interrupted_leader_hands_over_to_one_who_waits():
    flights, model = SingleFlight(30.0), Model(Interrupted())
    with ThreadPoolExecutor(10) as pool:
        leader = pool.submit(_fly, flights, model)
        model.entered.wait(10)
        heir = Model()
        heir.go.set()
        others = [pool.submit(_fly, flights, heir) for _ in range(9)]
        _waiting(flights, b"k", 9)
        model.go.set()
        assert isinstance(leader.exception(10), Interrupted)
        results = [other.result(10)[0] for other in others]
    assert results == [42] * 9
    assert model.calls == 1
    assert heir.calls >= 1


def test_a_cancelled_task_hands_over():
    async def main():
        flights, begun, calls = SingleFlight(30.0), asyncio.Event(), []

        async def predict():
            calls.append(1)
            begun.set()
            await asyncio.sleep(0.01 if len(calls) > 1 else 60)
            return 42

        def work():
            return (yield Invoke(predict))

        leader = asyncio.create_task(arun(flights.steps(b"k", work)))
        await begun.wait()
        others = [asyncio.create_task(arun(flights.steps(b"k", work))) for _ in range(5)]
        await asyncio.sleep(0.01)
        leader.cancel()
        answers = [(await other)[0] for other in others]
        return answers, len(calls), leader.cancelled() or leader.cancelling()

    answers, calls, cancelled = asyncio.run(main())
    assert (answers, calls) == ([42] * 5, 2)
    assert cancelled


def test_a_cancelled_waiter_leaves_the_flight_alone():
    async def main():
        flights, go = SingleFlight(30.0), asyncio.Event()

        async def predict():
            await go.wait()
            return 42

        def work():
            return (yield Invoke(predict))

        leader, waiter = (asyncio.create_task(arun(flights.steps(b"k", work))) for _ in range(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.sleep(0)
        go.set()
        return await leader

    assert asyncio.run(main()) == (42, True)


def test_a_thread_and_a_task_share_one_computation():
    flights, model = SingleFlight(30.0), Model()

    async def main():
        waiter = asyncio.create_task(arun(flights.steps(b"k", model.work)))
        await asyncio.sleep(0.01)
        model.go.set()
        return await waiter

    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(_fly, flights, model)
        model.entered.wait(10)
        assert asyncio.run(main()) == (42, False)
        assert leader.result(10) == (42, True)
    assert model.calls == 1


def test_a_computation_that_asks_for_its_own_key_is_told_to_go_alone():
    flights = SingleFlight(30.0)

    def inner():
        return run(flights.steps(b"k", outer))

    def outer():
        return (yield Invoke(inner))

    assert run(flights.steps(b"k", outer)) == ((ALONE, False), True)


def test_a_task_that_awaits_its_own_key_is_told_to_go_alone():
    flights = SingleFlight(30.0)

    async def inner():
        return await asyncio.create_task(arun(flights.steps(b"k", outer)))

    def outer():
        return (yield Invoke(inner))

    assert asyncio.run(arun(flights.steps(b"k", outer))) == ((ALONE, False), True)


def test_a_plain_call_inside_the_leaders_event_loop_does_not_block_it():
    async def main():
        flights, go = SingleFlight(30.0), asyncio.Event()

        def work():
            return (yield Invoke(go.wait))

        leader = asyncio.create_task(arun(flights.steps(b"k", work)))
        await asyncio.sleep(0)
        answer = run(flights.steps(b"k", work))
        go.set()
        await leader
        return answer

    assert asyncio.run(main()) == (ALONE, False)


def test_who_has_waited_long_enough_goes_alone():
    flights, model = SingleFlight(0.01), Model()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(_fly, flights, model)
        model.entered.wait(10)
        assert _fly(flights, model) == (ALONE, False)
        model.go.set()
        assert leader.result(10) == (42, True)


def test_a_waiters_own_deadline_ends_the_wait_with_an_error():
    flights, model = SingleFlight(30.0), Model()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(_fly, flights, model)
        model.entered.wait(10)
        reset = narrow(0.02, SYSTEM_CLOCK)
        with pytest.raises(DeadlineExceeded):
            _fly(flights, model)
        restore(reset)
        model.go.set()
        assert leader.result(10) == (42, True)


def test_a_leaders_own_deadline_is_not_the_waiters():
    flights, late = SingleFlight(30.0), Model(DeadlineExceeded("the request", 1.0))
    heir = Model()
    heir.go.set()

    def lead():
        clock = ManualClock()
        narrow(1.0, clock)
        steps = flights.steps(b"k", late.work)
        step = next(steps)
        clock.advance(2.0)
        late.entered.set()
        late.go.wait(10)
        assert isinstance(step, Invoke)
        try:
            steps.send((None, late.answer))
        except StopIteration as stop:
            return stop.value

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(lead)
        late.entered.wait(10)
        waiter = pool.submit(_fly, flights, heir)
        _waiting(flights, b"k", 1)
        late.go.set()
        assert leader.result(10)[1] is late.answer
        assert waiter.result(10) == (42, True)


def test_different_keys_fly_apart():
    flights, one, other = SingleFlight(30.0), Model(1), Model(2)
    other.go.set()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(_fly, flights, one)
        one.entered.wait(10)
        assert run(flights.steps(b"other", other.work)) == (2, True)
        one.go.set()
        leader.result(10)


def test_who_needs_not_wait_leads_or_goes():
    flights, model = SingleFlight(30.0), Model()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(_fly, flights, model)
        model.entered.wait(10)
        assert run(flights.only(b"k", model.work)) == (ALONE, False)
        model.go.set()
        leader.result(10)
    assert run(flights.only(b"k", model.work)) == (42, True)
    assert len(flights) == 0


def test_work_that_is_of_no_use_to_others_hands_over():
    flights, model, heir = SingleFlight(30.0), Model(HANDOVER), Model()
    heir.go.set()
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(lambda: run(flights.only(b"k", model.work)))
        model.entered.wait(10)
        waiter = pool.submit(_fly, flights, heir)
        _waiting(flights, b"k", 1)
        model.go.set()
        assert leader.result(10) == (HANDOVER, True)
        assert waiter.result(10) == (42, True)


def test_fifty_threads_and_fifty_tasks_share_one_computation():
    flights, model = SingleFlight(30.0), Model()

    async def main(pool):
        tasks = [asyncio.create_task(arun(flights.steps(b"k", model.work))) for _ in range(50)]
        threads = [pool.submit(_fly, flights, model) for _ in range(50)]
        await asyncio.to_thread(_waiting, flights, b"k", 50)
        model.go.set()
        return await asyncio.gather(*tasks, *map(asyncio.wrap_future, threads))

    with ThreadPoolExecutor(52) as pool:
        first = pool.submit(_fly, flights, model)
        model.entered.wait(10)
        answers = asyncio.run(main(pool))
        assert first.result(10) == (42, True)
    assert answers == [(42, False)] * 100
    assert model.calls == 1
