"""What prodml promises beyond the checks that any breaker can be held to."""

import asyncio
import contextlib
import threading

import pytest
from tests.resilience.conformance.calls import ending, fail, half_open, trip, well
from tests.resilience.conformance.subjects import Business

from prodml.errors import CircuitOpen
from prodml.events import CircuitClosed, CircuitOpened
from prodml.resilience import CircuitState


class Gone(BaseException):
    """Ends a call from outside."""


def test_a_rejection_says_who_and_for_how_long(form, subject):
    trip(form, subject)
    with pytest.raises(CircuitOpen) as rejected:
        form.run(subject, well)
    assert (rejected.value.name, rejected.value.retry_after) == ("dependency", 10.0)


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), Gone()], ids=repr
)
def test_abandoned_calls_are_not_counted(form, subject, error):
    for _ in range(6):
        with pytest.raises(type(error)):
            form.run(subject, ending(error))
    assert subject.breaker.state is CircuitState.CLOSED
    assert subject.breaker.snapshot().consecutive == 0


def test_an_abandoned_trial_decides_nothing_and_frees_its_slot(form, subject):
    half_open(form, subject)
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            form.run(subject, ending(asyncio.CancelledError()))
        assert subject.breaker.snapshot().trials == 0
    assert subject.breaker.state is CircuitState.HALF_OPEN
    assert form.run(subject, well) == "well"
    assert subject.breaker.state is CircuitState.CLOSED


def test_an_error_outside_on_is_no_verdict(form, build):
    subject = build(on=(ConnectionError,))
    half_open(form, subject)
    with pytest.raises(Business):
        form.run(subject, ending(Business()))
    assert subject.breaker.state is CircuitState.HALF_OPEN


def test_a_failed_trial_opens_it_for_the_whole_time_again(form, subject):
    half_open(form, subject)
    trip(form, subject, 1)
    subject.clock.advance(9.9)
    assert subject.breaker.state is CircuitState.OPEN
    subject.clock.advance(0.2)
    assert subject.breaker.state is CircuitState.HALF_OPEN


def test_as_many_successes_close_it_as_are_asked_for(form, build):
    subject = build(successes=2)
    half_open(form, subject)
    form.run(subject, well)
    assert subject.breaker.state is CircuitState.HALF_OPEN
    form.run(subject, well)
    assert subject.breaker.state is CircuitState.CLOSED


def test_a_call_from_before_the_opening_decides_nothing_half_open(form, build):
    subject = build(ignore=(Business,))

    def slow():
        half_open(form, subject)
        with pytest.raises(Business):
            form.run(subject, ending(Business()))
        return "late"

    assert form.run(subject, slow) == "late"
    assert subject.breaker.state is CircuitState.HALF_OPEN
    assert subject.breaker.snapshot().successes == 0


def test_the_open_time_is_kept_to_the_second_whatever_the_wall_clock(form, subject):
    trip(form, subject)
    subject.clock.step_wall(-3600.0)
    subject.clock.advance(10.0)
    assert form.run(subject, well) == "well"


def test_the_facts_survive_a_listener_that_raises(form, subject):
    subject.events.subscribe(CircuitOpened, lambda _: 1 / 0)
    subject.events.subscribe(CircuitClosed, lambda _: 1 / 0)
    half_open(form, subject)
    assert form.run(subject, well) == "well"
    assert subject.breaker.state is CircuitState.CLOSED


def test_a_listener_that_uses_the_breaker_meets_the_new_state(form, subject):
    heard = []

    def listener(_):
        heard.append(subject.breaker.snapshot().state)
        with contextlib.suppress(CircuitOpen):
            form.run(subject, lambda: heard.append("ran"))

    subject.events.subscribe(CircuitOpened, listener)
    trip(form, subject)
    assert heard == [CircuitState.OPEN]


def test_calls_of_several_kinds_share_the_cap(build):
    subject = build(trials=2, successes=20)
    breaker = subject.breaker

    async def afail():
        fail()

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
        subject.clock.advance(10.0)
        tasks = [asyncio.create_task(way()) for way in (trial, consume) for _ in range(8)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(main())
    assert sum(answer is None for answer in answers) == 2
    assert sum(isinstance(answer, CircuitOpen) for answer in answers) == 14


@pytest.fixture
def crowded(build):
    """A half-open breaker that two trials at once never close."""
    subject = build(trials=2, successes=10_000)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            subject.breaker.call(fail)
    subject.clock.advance(10.0)
    return subject.breaker


def test_the_cap_holds_in_1000_rounds_of_16_threads(crowded, restless):
    rounds, start, end = 1000, threading.Barrier(16), threading.Barrier(16)
    admitted = []

    def hammer():
        for _ in range(rounds):
            start.wait(30)
            token = None
            with contextlib.suppress(CircuitOpen):
                token = crowded.enter()
            end.wait(30)
            if token is not None:
                admitted.append(token)
                crowded.leave(token, None)

    threads = [threading.Thread(target=hammer) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 2 * rounds


def test_the_cap_holds_in_1000_rounds_of_16_tasks(crowded):
    @crowded
    async def trial():
        await asyncio.sleep(0)

    async def main():
        return [
            await asyncio.gather(*[trial() for _ in range(16)], return_exceptions=True)
            for _ in range(1000)
        ]

    assert {sum(answer is None for answer in answers) for answers in asyncio.run(main())} == {2}


def test_a_generator_hands_on_what_is_sent_and_returned(subject):
    @subject.breaker
    def echo():
        return (yield "first")

    items = echo()
    assert next(items) == "first"
    with pytest.raises(StopIteration) as stop:
        items.send("sent")
    assert stop.value.value == "sent"


@pytest.mark.parametrize("thing", [dict, staticmethod(len), 7], ids=repr)
def test_what_cannot_be_protected_is_refused_at_once(subject, thing):
    with pytest.raises(TypeError):
        subject.breaker(thing)
