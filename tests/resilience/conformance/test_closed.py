"""What opens a closed breaker, what must not, and what callers see of it."""

import asyncio
import contextlib
import threading

import pytest
from tests.resilience.conformance.calls import Background, ending, half_open, rejects, trip, well
from tests.resilience.conformance.forms import AWAITED, FORMS, STREAMS

ITSELF = [pytest.param(form, marks=pytest.mark.check(form.check), id=form.name) for form in FORMS]


class Gone(BaseException):
    """Ends a call from outside."""


@pytest.mark.parametrize("form", ITSELF, indirect=True)
def test_failures_open_it_and_then_the_code_is_not_run(form, subject):
    trip(form, subject)
    assert subject.says("open"), f"{subject.state()} after three failures"
    assert rejects(form, subject), "an open breaker runs the code"
    assert subject.says("open"), f"an open breaker runs the code and is {subject.state()}"


@pytest.mark.check(1)
def test_calls_are_not_serialised(form, subject):
    together = threading.Barrier(8)

    def body():
        try:
            return together.wait(subject.patience)
        except threading.BrokenBarrierError:
            return None

    calls = [Background(lambda: form.run(subject, body)) for _ in range(8)]
    answers = {call.result(2 * subject.patience) for call in calls}
    assert answers == set(range(8)), "calls wait for each other"


@pytest.mark.check(5)
@pytest.mark.parametrize("form", AWAITED, ids=str, indirect=True)
def test_cancelled_calls_never_open_it(form, subject):
    async def main():
        for _ in range(6):
            task = asyncio.create_task(form.arun(subject, lambda: asyncio.sleep(30)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert subject.says("closed"), f"{subject.state()} after 6 cancellations"


@pytest.mark.check(6)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Gone])
def test_interrupted_calls_never_open_it(form, subject, error):
    for _ in range(6):
        with pytest.raises(error):
            form.run(subject, ending(error()))
    assert subject.says("closed"), f"{subject.state()} after 6 interrupts"


def numbers():
    yield from range(10)


async def anumbers():
    for number in range(10):
        yield number


async def stop_early(items, closing):
    if closing == "close":
        await anext(items)
        await items.aclose()
    else:
        async for _ in items:
            break
        del items
        # The loop closes what nobody holds any more.
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.mark.check(9)
@pytest.mark.parametrize("closing", ["close", "break"])
@pytest.mark.parametrize("form", STREAMS, ids=str, indirect=True)
def test_a_consumer_that_stops_early_is_no_failure(form, subject, closing):
    async def main():
        for _ in range(6):
            await stop_early(subject.protect(anumbers)(), closing)

    if form.arun is not None:
        asyncio.run(main())
    else:
        for _ in range(6):
            items = subject.protect(numbers)()
            next(items)
            if closing == "close":
                items.close()
            del items
    assert subject.says("closed"), f"{subject.state()} after 6 consumers stopped early"


@pytest.mark.check(17)
def test_the_caller_sees_its_own_error_on_the_call_that_opens_it(form, subject):
    error = ConnectionError("mine")
    for _ in range(3):
        with pytest.raises(Exception) as raised:
            form.run(subject, ending(error))
        assert raised.value is error, f"the caller sees {raised.typename}"


@pytest.mark.check(18)
def test_a_listener_that_raises_changes_nothing(form, build):
    heard = []

    def listener():
        heard.append(1)
        raise ZeroDivisionError("in a listener")

    subject = build(listener=listener)
    half_open(form, subject)
    assert form.run(subject, well) == "well"
    assert subject.says("closed")
    assert len(heard) >= 2


@pytest.mark.check(18)
def test_a_listener_may_use_the_breaker(form, build):
    heard = []

    def listener():
        heard.append(1)
        # Once is enough: its own call may be news again.
        if len(heard) == 1:
            with contextlib.suppress(subject.rejection):
                form.run(subject, well)

    subject = build(listener=listener)
    Background(lambda: trip(form, subject)).result(subject.patience)
    assert heard


@pytest.mark.check(21)
@pytest.mark.parametrize("failures", [1, 3, 5])
def test_it_opens_after_exactly_as_many_failures_as_set(form, build, failures):
    subject = build(failures=failures)
    trip(form, subject, failures - 1)
    assert subject.says("closed"), f"{subject.state()} after {failures - 1} of {failures}"
    trip(form, subject, 1)
    assert subject.says("open"), f"{subject.state()} after {failures} of {failures}"


@pytest.mark.check(21)
def test_a_success_starts_the_row_afresh(form, subject):
    trip(form, subject, 2)
    assert form.run(subject, lambda: 0) == 0
    trip(form, subject, 2)
    assert subject.says("closed")
