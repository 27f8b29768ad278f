import asyncio
import contextvars
import functools
import gc
import math
import sys
import threading
import weakref
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml import CircuitBreaker
from prodml._call import Flow, Invoke, Race, arun, race, run
from prodml._call.kinds import AsyncInSync
from prodml._deadline import narrow, remaining, restore
from prodml._workers import Workers
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BulkheadFull, DeadlineExceeded
from prodml.testing import ManualClock

REQUEST = contextvars.ContextVar("request", default="none")
NEVER, AT_ONCE = math.inf, 0.0


def raced(*calls, delay=AT_ONCE):
    """Steps of a race of ``calls``, each a function without arguments; tells who won."""
    made = [Invoke(call) for call in calls]
    spare = iter([*made[1:], None])
    pair, error = yield Race(made[0], lambda: delay, lambda: next(spare))
    return (None, error) if error is not None else ((made.index(pair[0]), pair[1]), None)


class Gone(BaseException):
    pass


class Racing(Flow):
    """Makes every call twice, the second time as soon as the first is ``begun``."""

    clock = SYSTEM_CLOCK

    def __init__(self):
        self.begun = threading.Event()
        self.begun.set()

    def steps(self, fn, args, kwargs):
        spare = iter([Invoke(fn, args, kwargs), None])

        def again():
            assert self.begun.wait(60)
            return next(spare)

        pair, error = yield Race(Invoke(fn, args, kwargs), lambda: AT_ONCE, again)
        return (None, error) if error is not None else (pair[1], None)

    def in_turn(self, first, second):
        """Make ``first`` the turn of the first call, though threads begin in any order."""
        self.begun.clear()
        turns = iter([first, second])

        def turn():
            mine = next(turns)
            self.begun.set()
            return mine()

        return turn


@pytest.fixture
def workers(monkeypatch):
    """Workers of this test alone."""
    own = Workers(max_threads=1)
    monkeypatch.setattr(race, "WORKERS", own)
    return own


@pytest.fixture
def release():
    """Let calls that hang on a thread go at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def tell(value):
    return lambda: value


def fail(error):
    def failing():
        raise error

    return failing


def atell(value):
    async def telling():
        return value

    return telling


def afail(error):
    async def failing():
        raise error

    return failing


# -- what counts ------------------------------------------------------------------------


def endings(count):
    """Who ends together with whom, in which order, and whether well."""
    order = st.permutations(range(count))
    cuts = st.lists(st.booleans(), min_size=count, max_size=count)
    return st.tuples(order, cuts, st.lists(st.booleans(), min_size=count, max_size=count))


@given(st.integers(1, 6).flatmap(endings))
def test_the_first_answer_counts_and_errors_only_when_all_have_failed(scene):
    order, cuts, well = scene
    calls = [Invoke(tell(number)) for number in range(len(order))]
    contest = race._Contest(Race(calls[0], lambda: NEVER, lambda: None))
    futures = [Future() for _ in calls]
    contest.running.update(zip(futures, calls, strict=True))

    outcome, batch = None, []
    for number, cut in zip(order, [*cuts[:-1], True], strict=True):
        batch.append(number)
        if not cut:
            continue
        for ended in batch:
            future = futures[ended]
            future.set_result(ended) if well[ended] else future.set_exception(KeyError(ended))
        outcome = contest.hear({futures[ended] for ended in batch})
        answers = [ended for ended in batch if well[ended]]
        if answers:
            assert outcome == ((calls[min(answers)], min(answers)), None)
            return
        batch = []
    assert outcome[0] is None
    assert outcome[1] is futures[0].exception()


def test_a_quick_answer_is_the_only_call():
    def alone(call):
        return raced(call, fail(AssertionError("nobody asked")), delay=60.0)

    assert run(alone(tell(7))) == (0, 7)
    assert asyncio.run(arun(alone(atell(7)))) == (0, 7)


def test_falsy_answers_are_answers():
    assert run(raced(tell(None), delay=60.0)) == (0, None)
    assert asyncio.run(arun(raced(atell(0.0), delay=60.0))) == (0, 0.0)


def test_an_infinite_delay_never_asks_for_another():
    asked = []
    race_ = Race(Invoke(tell(1)), lambda: NEVER, lambda: asked.append(1))
    assert race.race(race_)[0][1] == 1
    assert asyncio.run(race.arace(race_))[0][1] == 1
    assert asked == []


def test_a_hedge_that_answers_while_the_first_hangs_wins_on_threads(release):
    assert run(raced(release.wait, tell("hedge"))) == (1, "hedge")


def test_a_hedge_that_answers_while_the_first_hangs_wins_in_tasks():
    ended = []

    async def hangs():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def scene():
        assert await arun(raced(hangs, atell("hedge"))) == (1, "hedge")
        await asyncio.sleep(0)
        assert ended == ["cancelled"]

    asyncio.run(scene())
    assert not race._LOSERS


def test_a_failure_before_the_delay_is_over_is_told_at_once():
    error = ConnectionError("down")
    for outcome in (
        lambda: run(raced(fail(error), tell("hedge"), delay=60.0)),
        lambda: asyncio.run(arun(raced(afail(error), atell("hedge"), delay=60.0))),
    ):
        with pytest.raises(ConnectionError) as caught:
            outcome()
        assert caught.value is error


def test_the_answer_of_a_hedge_counts_though_the_first_call_has_failed():
    second_is_on = threading.Event()
    first_failed = threading.Event()

    def first():
        assert second_is_on.wait(60)
        first_failed.set()
        raise ConnectionError

    def second():
        second_is_on.set()
        assert first_failed.wait(60)
        return "hedge"

    assert run(raced(first, second)) == (1, "hedge")


def test_the_answer_of_a_hedge_counts_though_the_first_task_has_failed():
    async def scene():
        first_failed = asyncio.Event()
        second_is_on = asyncio.Event()

        async def first():
            await second_is_on.wait()
            first_failed.set()
            raise ConnectionError

        async def second():
            second_is_on.set()
            await first_failed.wait()
            await asyncio.sleep(0)
            return "hedge"

        return await arun(raced(first, second))

    assert asyncio.run(scene()) == (1, "hedge")


def test_if_all_fail_the_first_calls_own_error_is_told_whoever_failed_first():
    hedge_failed = threading.Event()
    own = ConnectionError("own")

    def first():
        assert hedge_failed.wait(60)
        raise own

    def hedge():
        hedge_failed.set()
        raise BulkheadFull("inner", 1)

    async def scene():
        failed = asyncio.Event()

        async def afirst():
            await failed.wait()
            raise own

        async def ahedge():
            failed.set()
            raise BulkheadFull("inner", 1)

        await arun(raced(afirst, ahedge))

    for outcome in (lambda: run(raced(first, hedge)), lambda: asyncio.run(scene())):
        with pytest.raises(ConnectionError) as caught:
            outcome()
        assert caught.value is own


def test_no_more_calls_are_asked_for_once_there_are_no_more():
    asked, second_asked = [], threading.Event()

    def again():
        asked.append(1)
        second_asked.set()

    def first():
        assert second_asked.wait(60)
        return "first"

    outcome = race.race(Race(Invoke(first), lambda: AT_ONCE, again))
    assert outcome[0][1] == "first"
    assert asked == [1]


def test_a_hedge_is_due_by_the_last_start_not_by_the_last_thing_heard(monkeypatch):
    clock = ManualClock()
    monkeypatch.setattr(race, "SYSTEM_CLOCK", clock)
    call = Invoke(tell(1))
    contest = race._Contest(Race(call, lambda: 10.0, lambda: call))
    clock.advance(6.0)
    assert contest.patience() == 4.0
    assert contest.another() is None
    clock.advance(4.0)
    assert contest.patience() == 0.0
    assert contest.another() is call
    assert contest.patience() == 10.0


def test_nobody_waits_longer_than_a_lock_can():
    call = Invoke(tell(1))
    contest = race._Contest(Race(call, lambda: 1e300, lambda: call))
    assert threading.Lock().acquire(timeout=contest.patience())


# -- the request's end --------------------------------------------------------------------


def test_a_race_that_is_too_late_is_not_begun(workers, monkeypatch):
    clock, calls = ManualClock(), []
    monkeypatch.setattr(workers, "submit", fail(AssertionError("no worker is needed")))
    reset = narrow(1.0, clock)
    try:
        clock.advance(2.0)
        for outcome in (
            lambda: run(raced(lambda: calls.append(1))),
            lambda: asyncio.run(arun(raced(lambda: calls.append(1)))),
        ):
            with pytest.raises(DeadlineExceeded):
                outcome()
    finally:
        restore(reset)
    assert calls == []


def test_the_deadline_ends_the_race_without_another_call(release):
    ended = []

    async def hangs():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task")

    def outcomes():
        yield lambda: run(raced(release.wait, fail(AssertionError("too late")), delay=3600.0))
        late = afail(AssertionError("too late"))
        yield lambda: asyncio.run(arun(raced(hangs, late, delay=3600.0)))

    for outcome in outcomes():
        reset = narrow(0.01, SYSTEM_CLOCK)
        try:
            with pytest.raises(DeadlineExceeded):
                outcome()
        finally:
            restore(reset)
    assert ended == ["task"]


def test_an_early_awakening_makes_no_hedge(monkeypatch):
    """A deadline on another clock wakes the race before the hedge is due."""
    clock = ManualClock()
    call = Invoke(tell(1))
    contest = race._Contest(Race(call, lambda: 3600.0, lambda: call))
    reset = narrow(0.5, clock)
    try:
        assert contest.patience() == 0.5
        assert contest.another() is None
    finally:
        restore(reset)


def test_every_call_sees_the_request_and_its_deadline(release):
    def seen():
        return REQUEST.get(), remaining() is not None

    async def aseen():
        return seen()

    token, reset = REQUEST.set("r-1"), narrow(60.0, SYSTEM_CLOCK)
    try:
        assert run(raced(release.wait, seen)) == (1, ("r-1", True))
        hangs = functools.partial(asyncio.sleep, 3600)
        assert asyncio.run(arun(raced(hangs, aseen))) == (1, ("r-1", True))
    finally:
        restore(reset)
        REQUEST.reset(token)


def test_a_limited_call_keeps_its_limit_in_a_race(release):
    def limited(fn):
        pair, error = yield Race(Invoke(fn, timeout=0.01), lambda: NEVER, lambda: None)
        return pair, error

    with pytest.raises(DeadlineExceeded):
        run(limited(release.wait))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(arun(limited(functools.partial(asyncio.sleep, 3600))))


# -- cancelled, interrupted ---------------------------------------------------------------


def test_cancelling_the_caller_ends_every_call_before_it_goes_on():
    ended = []

    async def hangs():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    async def scene():
        task = asyncio.create_task(arun(raced(hangs, hangs)))
        while len(running()) < 3:
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [1, 1]

    def running():
        return asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(scene())


def test_a_caller_that_is_cancelled_twice_does_not_wait():
    async def scene():
        stubborn, leave = asyncio.Event(), asyncio.Event()

        async def hangs():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                stubborn.set()
                await leave.wait()
                raise

        task = asyncio.create_task(arun(raced(hangs, delay=NEVER)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await stubborn.wait()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        leave.set()

    asyncio.run(scene())
    assert not race._LOSERS


def test_a_call_that_cancels_itself_ends_the_race_as_it_would_end_the_call():
    ended = []

    async def hangs():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("other")

    async def gives_up():
        await asyncio.sleep(0)
        raise asyncio.CancelledError("mine")

    async def scene():
        with pytest.raises(asyncio.CancelledError):
            await arun(raced(hangs, gives_up))
        assert asyncio.current_task().cancelling() == 0
        assert ended == ["other"]

    asyncio.run(scene())


def test_an_interrupt_of_a_call_passes_and_closes_the_flow(release):
    closed = []

    def steps(*calls):
        try:
            return (yield from raced(*calls))
        finally:
            closed.append(1)

    async def abandons():
        raise Gone

    with pytest.raises(KeyboardInterrupt):
        run(steps(release.wait, fail(KeyboardInterrupt())))
    with pytest.raises(Gone):
        asyncio.run(arun(steps(functools.partial(asyncio.sleep, 3600), abandons)))
    assert closed == [1, 1]


def test_an_interrupt_of_the_waiting_caller_writes_the_calls_off(workers, release, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(race.concurrent.futures, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(raced(release.wait))
    assert workers.abandoned == 1


# -- losers -------------------------------------------------------------------------------


def test_a_loser_on_a_thread_is_written_off_until_it_returns(workers):
    gate, left = threading.Event(), threading.Event()

    def loser():
        gate.wait(60)
        left.set()

    assert run(raced(loser, tell("hedge"))) == (1, "hedge")
    assert workers.abandoned == 1
    gate.set()
    assert left.wait(60)
    # Its thread counts it out just before it waits for the next call, on this very thread.
    while workers.abandoned:
        threading.Event().wait(0.001)
    assert run(raced(tell("next"), delay=NEVER)) == (0, "next")


def test_nobody_hears_of_a_losers_error():
    heard = []

    async def dies_when_cancelled():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("while being cancelled") from None

    async def scene():
        asyncio.get_running_loop().set_exception_handler(lambda _, report: heard.append(report))
        together = asyncio.Event()

        async def fails():
            await together.wait()
            raise KeyError("lost")

        async def answers():
            await together.wait()
            return 1

        async def later():
            together.set()
            await asyncio.sleep(3600)

        assert await arun(raced(dies_when_cancelled, atell(1))) == (1, 1)
        assert await arun(raced(answers, fails, later)) == (0, 1)
        await asyncio.sleep(0)

    asyncio.run(scene())
    gc.collect()
    assert heard == []
    assert not race._LOSERS


def test_an_error_is_let_go_of_with_its_race():
    """No cycle of error, frames and race is left for the garbage collector."""

    class Heavy(Exception):
        pass

    async def fails():
        raise Heavy

    async def scene():
        try:
            await arun(raced(fails, delay=NEVER))
        except Heavy as error:
            left = weakref.ref(error)
        for _ in range(3):
            await asyncio.sleep(0)
        return left() is None

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(scene())
    finally:
        gc.enable()


def test_of_two_answers_at_once_the_earlier_calls_counts():
    async def scene():
        together = asyncio.Event()

        async def answers(value):
            await together.wait()
            return value

        async def last():
            together.set()
            await asyncio.sleep(3600)

        calls = [functools.partial(answers, number) for number in range(8)]
        return await arun(raced(*calls, last))

    assert asyncio.run(scene()) == (0, 0)


def test_a_cancelled_loser_is_no_verdict_for_the_breaker_behind():
    breaker = CircuitBreaker("replica", failure_threshold=1)
    turns = iter([functools.partial(asyncio.sleep, 3600), atell("hedge")])

    @Racing()
    @breaker
    async def ask():
        return await next(turns)()

    async def scene():
        assert await ask() == "hedge"
        await asyncio.sleep(0)

    asyncio.run(scene())
    snapshot = breaker.snapshot()
    assert (snapshot.consecutive, snapshot.opened) == (0, 0)


# -- workers ------------------------------------------------------------------------------


def test_without_a_worker_the_call_is_made_here(workers, release):
    workers.abandon(workers.submit(release.wait, (), {}))
    assert run(raced(threading.get_ident, tell("hedge"))) == (0, threading.get_ident())


def test_a_hedge_without_a_worker_does_not_lose_the_first_calls_answer(workers, release):
    refused = threading.Event()

    def again():
        workers.abandon(workers.submit(release.wait, (), {}))
        refused.set()
        return Invoke(tell("hedge"))

    def first():
        assert refused.wait(60)
        return "first"

    outcome = race.race(Race(Invoke(first), lambda: AT_ONCE, again))
    assert outcome[0][1] == "first"


def test_the_callees_own_full_bulkhead_is_its_error():
    with pytest.raises(BulkheadFull, match="inner"):
        run(raced(fail(BulkheadFull("inner", 3)), delay=NEVER))


def test_a_coroutine_on_a_thread_is_a_mistake_that_nothing_papers_over():
    calls = []

    def steps():
        calls.append(1)
        yield Race(Invoke(atell(1)), lambda: NEVER, lambda: None)
        raise AssertionError("the shell must not come back")

    with pytest.raises(AsyncInSync, match="awaiting form"):
        run(steps())
    assert calls == [1]


# -- streams ------------------------------------------------------------------------------


def test_a_raced_generator_goes_on_where_the_winner_stands(release):
    racing = Racing()
    turn = racing.in_turn(release.wait, tell(None))

    @racing
    def source():
        turn()
        said = yield "first"
        yield said
        return "end"

    stream = source()
    assert next(stream) == "first"
    assert stream.send("echo") == "echo"
    with pytest.raises(StopIteration) as stop:
        next(stream)
    assert stop.value.value == "end"


def test_the_stream_that_a_loser_opens_on_a_thread_is_closed():
    gate, closed, seen = threading.Event(), threading.Event(), []
    racing = Racing()
    turn = racing.in_turn(lambda: gate.wait(60), tell(None))

    @racing
    def source():
        loser = turn()
        REQUEST.set("as opened")
        try:
            yield threading.get_ident()
        finally:
            if loser:
                # It ends where it began: its context variables are still its own.
                seen.append((REQUEST.get(), threading.get_ident()))
                closed.set()

    stream = source()
    winner = next(stream)
    gate.set()
    assert closed.wait(60)
    stream.close()
    assert winner != threading.get_ident()
    assert [request for request, _ in seen] == ["as opened"]
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_a_stream_that_opens_at_the_very_end_of_the_race_is_closed(monkeypatch, caplog):
    """Both have answered when the race looks: one future is settled and nobody's."""
    opened = [threading.Event(), threading.Event()]
    numbers, closed, true_wait = iter(range(2)), [], race.concurrent.futures.wait

    def waits_for_both(running, *_):
        if len(running) == 2:
            return true_wait(running, 60)
        return true_wait(running, 0)

    monkeypatch.setattr(race.concurrent.futures, "wait", waits_for_both)

    @Racing()
    def source():
        number = next(numbers)
        opened[number].set()
        assert opened[1].wait(60)
        try:
            yield number
        finally:
            closed.append(number)
            if len(closed) == 1:
                raise ValueError("heard only if it is closed, not if it is collected")

    stream = source()
    winner = next(stream)
    assert closed == [1 - winner]
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]
    stream.close()


def test_a_losers_stream_that_fails_to_close_harms_nobody():
    gate, closed = threading.Event(), threading.Event()
    racing = Racing()
    turn = racing.in_turn(lambda: gate.wait(60), tell(None))

    @racing
    def source():
        slow = turn()
        try:
            yield "item"
        finally:
            if slow:
                closed.set()
                raise ValueError("while closing")

    assert list(source()) == ["item"]
    gate.set()
    assert closed.wait(60)


def forgotten_streams():
    """Streams that are collected before they were closed, in this loop from here on."""
    forgotten = []
    sys.set_asyncgen_hooks(finalizer=forgotten.append)
    return forgotten


async def _stream_scene(first_turn, *, log):
    turns, forgotten = iter([first_turn, None]), forgotten_streams()

    @Racing()
    async def source():
        turn = next(turns)
        name = "hedge" if turn is None else "first"
        try:
            if turn is not None:
                await turn()
            yield name
            yield "more"
        finally:
            log.append(f"{name} closed")

    seen = [item async for item in source()]
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert forgotten == []
    return seen


def test_an_opening_that_is_cancelled_is_closed():
    log = []
    seen = asyncio.run(_stream_scene(functools.partial(asyncio.sleep, 3600), log=log))
    assert seen == ["hedge", "more"]
    assert sorted(log) == ["first closed", "hedge closed"]


def test_an_opening_that_will_not_be_cancelled_is_closed_all_the_same():
    log = []

    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            log.append("refused")

    seen = asyncio.run(_stream_scene(stubborn, log=log))
    assert seen == ["hedge", "more"]
    assert sorted(log) == ["first closed", "hedge closed", "refused"]


def test_of_two_streams_that_open_at_once_one_is_closed():
    log, ended = [], []

    async def scene():
        together = asyncio.Event()
        numbers = iter(range(3))

        class Three(Racing):
            def steps(self, fn, args, kwargs):
                spare = iter([Invoke(fn, args, kwargs), Invoke(fn, args, kwargs), None])
                first = Invoke(fn, args, kwargs)
                pair, error = yield Race(first, lambda: AT_ONCE, lambda: next(spare))
                return (None, error) if error is not None else (pair[1], None)

        @Three()
        async def source():
            number = next(numbers)
            try:
                if number == 2:
                    together.set()
                    await asyncio.sleep(3600)
                await together.wait()
                yield number
                await asyncio.sleep(0)
                log.append(f"{number} read on")
            finally:
                ended.append(number)

        forgotten = forgotten_streams()
        assert [item async for item in source()] == [0]
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        assert forgotten == []

    asyncio.run(scene())
    assert log == ["0 read on"]
    assert sorted(ended) == [0, 1, 2]
    assert not race._LOSERS
