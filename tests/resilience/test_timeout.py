import asyncio
import contextvars
import threading

import pytest

from prodml._settings import retune
from prodml.errors import BadConfiguration, DeadlineExceeded
from prodml.resilience import Deadline, Timeout
from prodml.testing import ManualClock

REQUEST = contextvars.ContextVar("request", default="none")


@pytest.fixture
def release():
    """Let hung workers go at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_call_in_time_answers():
    assert Timeout(30.0)(lambda x, *, y: (x, y))(1, y=0) == (1, 0)


def test_a_hung_call_is_given_up(release):
    with pytest.raises(DeadlineExceeded) as late:
        Timeout(0.01)(release.wait)(60)
    assert isinstance(late.value, TimeoutError)


def test_a_hung_coroutine_is_cancelled_in_its_own_task():
    seen = []

    async def hang():
        seen.append(asyncio.current_task())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main():
        with pytest.raises(DeadlineExceeded):
            await Timeout(0.01)(hang)()
        assert seen == [asyncio.current_task(), "cancelled"]

    asyncio.run(main())


def test_the_callees_own_timeout_error_is_its_answer():
    def own():
        raise TimeoutError("mine")

    async def aown():
        raise TimeoutError("mine")

    for attempt in (Timeout(30.0)(own), lambda: asyncio.run(Timeout(30.0)(aown)())):
        with pytest.raises(TimeoutError, match="mine") as raised:
            attempt()
        assert not isinstance(raised.value, DeadlineExceeded)


def test_context_variables_go_with_the_call():
    token = REQUEST.set("r-1")
    try:
        assert Timeout(30.0)(REQUEST.get)() == "r-1"
    finally:
        REQUEST.reset(token)


def test_hung_workers_do_not_starve_healthy_calls(release):
    for _ in range(20):
        with pytest.raises(DeadlineExceeded):
            Timeout(0.001)(release.wait)(60)
    assert [Timeout(30.0)(lambda n=n: n)() for n in range(20)] == list(range(20))


def test_cancelling_the_caller_is_no_timeout():
    async def main():
        task = asyncio.create_task(Timeout(60.0)(asyncio.sleep)(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_everything_below_sees_how_much_is_left():
    assert 0 < Timeout(30.0)(Deadline.remaining)() <= 30.0
    assert Deadline.remaining() is None


def test_the_earlier_end_wins(release):
    with pytest.raises(DeadlineExceeded):
        Timeout(60.0)(Timeout(0.01)(release.wait))(60)
    with Deadline(0.01), pytest.raises(DeadlineExceeded):
        Timeout(60.0)(release.wait)(60)


def test_of_a_generator_the_opening_is_limited(release):
    @Timeout(0.01)
    def numbers(hang):
        if hang:
            release.wait(60)
        yield 1
        assert Deadline.remaining() is None
        yield 2

    assert list(numbers(hang=False)) == [1, 2]
    with pytest.raises(DeadlineExceeded):
        next(numbers(hang=True))


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "1", None])
def test_a_time_is_a_positive_number(seconds):
    with pytest.raises(BadConfiguration, match="seconds"):
        Timeout(seconds)


# -- cancellation from outside and from the limit, together ---------------------------------------


def outcome_of(steps):
    """What a task ends with, and how many cancellations are left standing."""

    async def main():
        task = asyncio.create_task(steps())
        await asyncio.wait([task])
        if task.cancelled():
            return "cancelled"
        return type(task.exception()) if task.exception() else task.result()

    return asyncio.run(main())


def cancelling_left():
    return asyncio.current_task().cancelling()


def test_the_limits_own_cancellation_is_taken_back():
    async def steps():
        with pytest.raises(DeadlineExceeded):
            await Timeout(0.001)(asyncio.sleep)(60)
        return cancelling_left()

    assert outcome_of(steps) == 0


def test_a_callee_that_answers_all_the_same_is_heard_and_nothing_stays_behind():
    async def stubborn():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "answer"

    async def steps():
        answer = await Timeout(0.001)(stubborn)()
        await asyncio.sleep(0)
        return answer, cancelling_left()

    assert outcome_of(steps) == ("answer", 0)


def test_a_callee_that_fails_while_it_is_cut_off_fails():
    async def cleaning_up():
        try:
            await asyncio.sleep(60)
        finally:
            raise KeyError("clean-up")

    async def steps():
        with pytest.raises(KeyError):
            await Timeout(0.001)(cleaning_up)()
        return cancelling_left()

    assert outcome_of(steps) == 0


def test_when_both_come_together_the_cancellation_from_outside_wins():
    async def steps():
        task = asyncio.current_task()
        # Both are due in the same turn of the loop.
        asyncio.get_running_loop().call_later(0.001, task.cancel)
        await Timeout(0.001)(asyncio.sleep)(60)

    assert outcome_of(steps) == "cancelled"


@pytest.mark.parametrize("inner", [0.001, 60.0])
def test_it_nests_with_asyncio_timeout(inner):
    async def steps():
        async with asyncio.timeout(0.001 if inner == 60.0 else 60.0):
            await Timeout(inner)(asyncio.sleep)(60)

    expected = TimeoutError if inner == 60.0 else DeadlineExceeded
    assert outcome_of(steps) is expected


@pytest.mark.parametrize("limits", [(0.001, 60.0), (60.0, 0.001), (0.001, 0.001)])
def test_it_nests_with_itself(limits):
    async def steps():
        outer, inner = limits
        with pytest.raises(DeadlineExceeded):
            await Timeout(outer)(Timeout(inner)(asyncio.sleep))(60)
        return cancelling_left()

    assert outcome_of(steps) == 0


def test_in_time_no_timer_is_left_behind():
    async def quick():
        return 1

    async def steps():
        loop = asyncio.get_running_loop()
        before = len(loop._scheduled)
        for _ in range(10):
            await Timeout(3600.0)(quick)()
        alive = [handle for handle in loop._scheduled if not handle.cancelled()]
        return len(alive) - before

    assert outcome_of(steps) == 0


def test_a_retuned_limit_holds_for_the_next_call(release):
    timeout = Timeout(60.0)
    waiting, awaiting = timeout(release.wait), timeout(asyncio.sleep)
    retune(timeout, seconds=0.001)
    with pytest.raises(DeadlineExceeded):
        waiting(60)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(awaiting(60))


def test_the_error_names_the_function_and_not_its_address(release):
    class Model:
        def __call__(self):
            return release.wait(60)

    @Timeout(0.001)
    def stream():
        yield release.wait(60)

    for call, name in ((Timeout(0.001)(Model()), "Model"), (lambda: next(stream()), "stream")):
        with pytest.raises(DeadlineExceeded) as late:
            call()
        assert str(late.value).split(" exceeded")[0].endswith(name)


def test_a_plain_function_that_gives_a_coroutine_is_a_mistake():
    async def fetch():
        return 1

    with pytest.raises(TypeError, match="async"):
        Timeout(30.0).call(fetch)
    with pytest.raises(TypeError, match="async"):
        Timeout(30.0)(lambda: fetch())()


def test_a_clock_that_breaks_leaves_no_alarm_behind():
    class Broken(ManualClock):
        def monotonic(self):
            raise OSError("no clock")

    async def steps():
        with pytest.raises(OSError, match="no clock"):
            await Timeout(0.001, clock=Broken())(asyncio.sleep)(0)
        await asyncio.sleep(0.01)
        return "well"

    assert outcome_of(steps) == "well"
