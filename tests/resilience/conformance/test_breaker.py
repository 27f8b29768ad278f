"""What breakers in the wild get wrong, checked in every form that protects code."""

import asyncio
import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodml.errors import CircuitOpen
from prodml.events import CircuitClosed, CircuitOpened
from prodml.resilience import CircuitState


class Business(Exception):
    """An answer of the dependency, though not a pleasant one."""


class Gone(BaseException):
    """Ends a call from outside."""


def fail():
    raise ConnectionError("down")


def ending(error):
    def body():
        raise error

    return body


def trip(form, breaker, times=3):
    for _ in range(times):
        with pytest.raises(ConnectionError):
            form(breaker, fail)


def half_open(form, breaker, clock):
    trip(form, breaker)
    clock.advance(10.0)
    assert breaker.state is CircuitState.HALF_OPEN


def test_failures_in_a_row_open_it(form, breaker):
    trip(form, breaker, 2)
    assert breaker.state is CircuitState.CLOSED
    trip(form, breaker, 1)
    assert breaker.state is CircuitState.OPEN


def test_a_success_starts_the_row_afresh(form, breaker):
    trip(form, breaker, 2)
    assert form(breaker, lambda: 0) == 0
    trip(form, breaker, 2)
    assert breaker.state is CircuitState.CLOSED


def test_an_open_breaker_does_not_run_the_code(form, breaker):
    trip(form, breaker)
    ran = []
    with pytest.raises(CircuitOpen) as rejected:
        form(breaker, lambda: ran.append(1))
    assert ran == []
    assert (rejected.value.name, rejected.value.retry_after) == ("dependency", 10.0)


def test_the_caller_sees_its_own_error_on_the_call_that_opens_it(form, breaker):
    error = ConnectionError("mine")
    for _ in range(3):
        with pytest.raises(ConnectionError) as raised:
            form(breaker, ending(error))
        assert raised.value is error


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), Gone()], ids=repr
)
def test_abandoned_calls_never_open_it(form, breaker, error):
    for _ in range(6):
        with pytest.raises(type(error)):
            form(breaker, ending(error))
    assert breaker.state is CircuitState.CLOSED
    assert breaker.snapshot().consecutive == 0


def test_an_abandoned_trial_decides_nothing_and_frees_its_slot(form, breaker, clock):
    half_open(form, breaker, clock)
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            form(breaker, ending(asyncio.CancelledError()))
        assert breaker.snapshot().trials == 0
    assert breaker.state is CircuitState.HALF_OPEN
    form(breaker, lambda: "well")
    assert breaker.state is CircuitState.CLOSED


def test_an_ignored_error_of_a_trial_decides_nothing_and_frees_its_slot(form, make, clock):
    breaker = make(ignore=(Business,))
    half_open(form, breaker, clock)
    for _ in range(3):
        with pytest.raises(Business):
            form(breaker, ending(Business()))
    assert breaker.state is CircuitState.HALF_OPEN
    form(breaker, lambda: "well")
    assert breaker.state is CircuitState.CLOSED


def test_an_error_outside_on_is_no_verdict(form, make, clock):
    breaker = make(on=(ConnectionError,))
    half_open(form, breaker, clock)
    with pytest.raises(Business):
        form(breaker, ending(Business()))
    assert breaker.state is CircuitState.HALF_OPEN


def test_a_failed_trial_opens_it_for_the_whole_time_again(form, breaker, clock):
    half_open(form, breaker, clock)
    trip(form, breaker, 1)
    clock.advance(9.9)
    assert breaker.state is CircuitState.OPEN
    clock.advance(0.2)
    assert breaker.state is CircuitState.HALF_OPEN


def test_as_many_successes_close_it_as_are_asked_for(form, make, clock):
    breaker = make(success_threshold=2)
    half_open(form, breaker, clock)
    form(breaker, lambda: 1)
    assert breaker.state is CircuitState.HALF_OPEN
    form(breaker, lambda: 1)
    assert breaker.state is CircuitState.CLOSED


def test_a_call_from_before_the_opening_does_not_close_it(form, breaker):
    def slow():
        trip(form, breaker)
        return "late"

    assert form(breaker, slow) == "late"
    assert breaker.state is CircuitState.OPEN


def test_a_call_from_before_the_opening_decides_nothing_half_open(form, make, clock):
    breaker = make(ignore=(Business,))

    def slow():
        half_open(form, breaker, clock)
        with pytest.raises(Business):
            form(breaker, ending(Business()))
        return "late"

    form(breaker, slow)
    assert breaker.state is CircuitState.HALF_OPEN
    assert breaker.snapshot().successes == 0


def test_a_late_failure_does_not_prolong_the_open_time(form, breaker, clock):
    def slow_failure():
        trip(form, breaker)
        clock.advance(8.0)
        fail()

    with pytest.raises(ConnectionError):
        form(breaker, slow_failure)
    clock.advance(2.0)
    assert breaker.state is CircuitState.HALF_OPEN


def test_the_wall_clock_may_be_set_back(form, breaker, clock):
    trip(form, breaker)
    clock.step_wall(-3600.0)
    clock.advance(10.0)
    assert form(breaker, lambda: "well") == "well"


def test_a_listener_that_raises_changes_nothing(form, breaker, events, clock):
    events.subscribe(CircuitOpened, lambda _: 1 / 0)
    events.subscribe(CircuitClosed, lambda _: 1 / 0)
    half_open(form, breaker, clock)
    assert form(breaker, lambda: "well") == "well"
    assert breaker.state is CircuitState.CLOSED


def test_a_listener_may_use_the_breaker(form, breaker, events):
    heard = []

    def listener(_):
        heard.append(breaker.snapshot().state)
        with contextlib.suppress(CircuitOpen):
            form(breaker, lambda: heard.append("ran"))

    events.subscribe(CircuitOpened, listener)
    trip(form, breaker)
    assert heard == [CircuitState.OPEN]


def test_calls_are_not_serialised(form, breaker):
    inside = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(form, breaker, lambda: inside.wait(10)) for _ in range(8)]
        assert sorted(call.result() for call in calls) == list(range(8))


@pytest.mark.parametrize("cap", [1, 3])
def test_no_more_trials_than_the_cap_when_16_threads_come_at_once(form, make, clock, cap):
    breaker = make(trial_limit=cap, success_threshold=20)
    half_open(form, breaker, clock)
    start, counted, all_in = threading.Barrier(16), threading.Semaphore(0), threading.Event()

    def trial():
        counted.release()
        return all_in.wait(10)

    def ask():
        start.wait(10)
        try:
            return form(breaker, trial)
        except CircuitOpen:
            counted.release()
            return False

    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(ask) for _ in range(16)]
        for _ in range(16):
            assert counted.acquire(timeout=10)
        all_in.set()
    assert sum(call.result() for call in calls) == cap


def test_no_more_trials_than_the_cap_when_16_tasks_come_at_once(make, clock):
    breaker = make(trial_limit=2, success_threshold=20)

    async def main():
        go = asyncio.Event()

        @breaker
        async def trial():
            await go.wait()

        @breaker
        async def stream():
            yield await go.wait()

        async def consume():
            async for _ in stream():
                pass

        for _ in range(3):
            with pytest.raises(ConnectionError):
                await breaker.acall(afail)
        clock.advance(10.0)
        tasks = [asyncio.create_task(way()) for way in (trial, consume) for _ in range(8)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(main())
    assert sum(answer is None for answer in answers) == 2
    assert sum(isinstance(answer, CircuitOpen) for answer in answers) == 14


async def afail():
    raise ConnectionError("down")


@pytest.fixture
def restless():
    """Let the interpreter change threads as often as it can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_the_cap_holds_in_many_rounds_of_16_threads(make, clock, restless):
    breaker = make(trial_limit=2, success_threshold=10_000)
    trip(lambda guard, body: guard.call(body), breaker)
    clock.advance(10.0)
    rounds, start, end = 1000, threading.Barrier(16), threading.Barrier(16)
    admitted = []

    def hammer():
        for _ in range(rounds):
            start.wait(30)
            token = None
            with contextlib.suppress(CircuitOpen):
                token = breaker.enter()
            end.wait(30)
            if token is not None:
                admitted.append(token)
                breaker.leave(token, None)

    threads = [threading.Thread(target=hammer) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 2 * rounds


def test_the_cap_holds_in_many_rounds_of_16_tasks(make, clock):
    breaker = make(trial_limit=2, success_threshold=10_000)
    trip(lambda guard, body: guard.call(body), breaker)
    clock.advance(10.0)

    @breaker
    async def trial():
        await asyncio.sleep(0)

    async def main():
        return [
            await asyncio.gather(*[trial() for _ in range(16)], return_exceptions=True)
            for _ in range(1000)
        ]

    assert {sum(answer is None for answer in answers) for answers in asyncio.run(main())} == {2}


@pytest.mark.parametrize("closing", ["close", "break"])
def test_a_consumer_that_stops_early_is_no_failure(breaker, closing):
    @breaker
    def numbers():
        yield from range(10)

    for _ in range(6):
        items = numbers()
        if closing == "close":
            next(items)
            items.close()
        else:
            for _item in items:
                break
            del items
    assert breaker.state is CircuitState.CLOSED


def test_a_consumer_that_closes_an_async_generator_is_no_failure(breaker):
    @breaker
    async def numbers():
        for number in range(10):
            yield number

    async def main():
        for _ in range(6):
            items = numbers()
            await anext(items)
            await items.aclose()

    asyncio.run(main())
    assert breaker.state is CircuitState.CLOSED


def test_cancelled_tasks_never_open_it(breaker):
    @breaker
    async def healthy_but_slow():
        await asyncio.sleep(30)

    async def main():
        for _ in range(6):
            task = asyncio.create_task(healthy_but_slow())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("thing", [dict, staticmethod(len), 7], ids=repr)
def test_what_cannot_be_protected_is_refused_at_once(breaker, thing):
    with pytest.raises(TypeError):
        breaker(thing)
