import asyncio
import contextvars
import functools
import inspect
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml._call import Race
from prodml._settings import retune, settings_of
from prodml.errors import BadConfiguration, BulkheadFull, DeadlineExceeded
from prodml.resilience import Bulkhead, CircuitBreaker, Deadline, Retry, RetryBudget, Timeout
from prodml.resilience.compose import compose
from prodml.resilience.hedge import Hedge, HedgeStats
from prodml.testing import ManualClock, check_flow

REQUEST = contextvars.ContextVar("request", default="none")


@pytest.fixture
def release():
    """Let calls that hang on a thread go at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def unlimited():
    return RetryBudget(ratio=1.0, floor=0.0, clock=ManualClock())


def broke():
    """A budget that never affords a hedge."""
    return RetryBudget(ratio=1e-9, floor=0.0, clock=ManualClock())


class InTurn:
    """A budget that affords a hedge when the first call is under way, and those two calls.

    Threads begin in any order; a hedge that waits for the first call is surely the second.
    """

    def __init__(self, first, second):
        self.turns = iter([first, second])
        self.begun = threading.Event()

    def deposit(self):
        pass

    def withdraw(self):
        return self.begun.wait(60)

    def take(self):
        turn = next(self.turns)
        self.begun.set()
        return turn()


class Slow:
    """A dependency that dawdles until its call is hedged, or until nobody will hedge it."""

    def __init__(self, hedge):
        self.hedge = hedge
        self.made = 0

    @property
    def settled(self):
        stats = self.hedge.stats()
        return stats.hedged + stats.refused >= stats.calls

    async def __call__(self):
        self.made += 1
        while not self.settled:
            await asyncio.sleep(0)
        return "answer"


# -- the contract -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        Hedge,
        lambda: Hedge(60.0),
        lambda: Hedge(0.0, budget=broke()),
        lambda: Hedge(attempts=1),
        lambda: Hedge(min_calls=1),
    ],
)
def test_a_hedge_keeps_the_contract_of_flows(make):
    check_flow(make)


def test_a_decorated_function_keeps_its_signature():
    def lookup(user_id: int, *, fresh: bool = False) -> str:
        """Look it up."""
        return f"{user_id} {fresh}"

    hedged = Hedge(60.0)(lookup)
    assert inspect.signature(hedged) == inspect.signature(lookup)
    assert hedged(7, fresh=True) == "7 True"


# -- winning ------------------------------------------------------------------------------


def test_a_call_that_hangs_is_answered_by_its_hedge(release):
    turns = InTurn(release.wait, lambda: "hedge")
    hedge = Hedge(0.0, budget=turns)
    assert hedge(turns.take)() == "hedge"
    assert hedge.stats() == HedgeStats(calls=1, hedged=1, won=1)


def test_a_task_that_hangs_is_answered_by_its_hedge_and_cancelled():
    hedge, cancelled = Hedge(0.0, budget=unlimited()), []
    turns = iter(["hangs", "answers"])

    async def ask():
        if next(turns) == "answers":
            return "hedge"
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def scene():
        assert await hedge(ask)() == "hedge"
        await asyncio.sleep(0)

    asyncio.run(scene())
    assert cancelled == [1]
    assert hedge.stats() == HedgeStats(calls=1, hedged=1, won=1)


def test_the_first_call_may_still_win(release):
    hedge_is_on = threading.Event()

    def first():
        assert hedge_is_on.wait(60)
        return "first"

    def second():
        hedge_is_on.set()
        release.wait(60)

    turns = InTurn(first, second)
    hedge = Hedge(0.0, budget=turns)
    assert hedge(turns.take)() == "first"
    assert hedge.stats() == HedgeStats(calls=1, hedged=1, won=0)


@pytest.mark.parametrize("attempts", [2, 3, 5])
def test_there_are_never_more_calls_side_by_side_than_attempts(attempts):
    hedge = Hedge(0.0, attempts=attempts, budget=RetryBudget(burst=100.0, floor=100.0))
    made = []

    async def ask():
        made.append(1)
        for _ in range(100):
            await asyncio.sleep(0)
        return "answer"

    assert asyncio.run(hedge.acall(ask)) == "answer"
    assert len(made) == attempts
    assert hedge.stats() == HedgeStats(calls=1, hedged=attempts - 1)


def test_a_quick_call_is_made_once():
    hedge, calls = Hedge(60.0), []
    assert [hedge(calls.append)(number) for number in range(10)] == [None] * 10
    assert calls == list(range(10))
    assert hedge.stats() == HedgeStats(calls=10)


def test_one_attempt_is_a_plain_call_in_the_callers_own_thread():
    hedge = Hedge(0.0, attempts=1)
    assert hedge(threading.get_ident)() == threading.get_ident()
    assert hedge.stats() == HedgeStats()


def test_calls_on_workers_see_the_callers_context():
    token = REQUEST.set("r-1")
    try:
        assert Hedge(60.0)(REQUEST.get)() == "r-1"
        assert Hedge(60.0)(threading.get_ident)() != threading.get_ident()
    finally:
        REQUEST.reset(token)


# -- losing -------------------------------------------------------------------------------


def test_if_all_fail_the_first_calls_own_error_is_raised():
    numbers = iter(range(2))
    hedge = Hedge(0.0, budget=unlimited())

    async def ask():
        number = next(numbers)
        while not hedge.stats().hedged:
            await asyncio.sleep(0)
        if number == 0:
            for _ in range(10):
                await asyncio.sleep(0)
            raise ConnectionError("own")
        raise BulkheadFull("inner", 1)

    with pytest.raises(ConnectionError, match="own"):
        asyncio.run(hedge(ask)())
    assert hedge.stats() == HedgeStats(calls=1, hedged=1)


def test_a_quick_failure_is_not_hedged_but_may_be_retried_outside():
    hedge, answers = Hedge(60.0), iter([ConnectionError("lost"), "again"])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Retry(attempts=2, wait=0.0)(hedge(ask))() == "again"
    assert hedge.stats() == HedgeStats(calls=2)


def test_a_rejected_hedge_does_not_spoil_the_first_call():
    hedge, bulkhead = Hedge(0.0, budget=unlimited()), Bulkhead(1, name="replica")

    async def ask():
        while not bulkhead.rejected:
            await asyncio.sleep(0)
        return "first"

    assert asyncio.run(hedge(bulkhead(ask))()) == "first"
    assert (bulkhead.rejected, bulkhead.in_flight) == (1, 0)


def test_a_cancelled_loser_is_no_verdict_and_gives_its_place_back():
    hedge = Hedge(0.0, budget=unlimited())
    breaker, bulkhead = CircuitBreaker("replica", failure_threshold=1), Bulkhead(2)
    turns = iter([3600, 0])

    async def ask():
        await asyncio.sleep(next(turns))
        return "answer"

    async def scene():
        assert await compose(hedge, breaker, bulkhead)(ask)() == "answer"
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert (breaker.snapshot().consecutive, bulkhead.in_flight) == (0, 0)


def test_cancelling_the_caller_cancels_every_call_and_counts_nothing():
    hedge, ended = Hedge(0.0, budget=unlimited()), []

    async def ask():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(1)

    async def scene():
        task = asyncio.create_task(hedge(ask)())
        while not hedge.stats().hedged:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [1, 1]

    asyncio.run(scene())
    assert hedge.stats() == HedgeStats(calls=1, hedged=1)


def test_the_wait_ends_with_the_deadline(release):
    hedge = Hedge(3600.0)
    with Deadline(0.01), pytest.raises(DeadlineExceeded):
        hedge(release.wait)(60)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(Timeout(0.01)(hedge(functools.partial(asyncio.sleep, 3600)))())
    assert hedge.stats() == HedgeStats(calls=2)


# -- streams ------------------------------------------------------------------------------


def test_the_opening_of_a_generator_is_hedged_and_read_on_here(release):
    turns = InTurn(release.wait, lambda: None)
    hedge = Hedge(0.0, budget=turns)

    @hedge
    def tokens():
        turns.take()
        yield "first"
        yield threading.get_ident()

    assert list(tokens()) == ["first", threading.get_ident()]
    assert hedge.stats() == HedgeStats(calls=1, hedged=1, won=1)


def test_the_opening_of_an_async_generator_is_hedged_and_the_losers_closed():
    hedge, turns, closed = Hedge(0.0, budget=unlimited()), iter(["hangs", "opens"]), []

    @hedge
    async def tokens():
        turn = next(turns)
        try:
            if turn == "hangs":
                await asyncio.sleep(3600)
            yield turn
            yield "more"
        finally:
            closed.append(turn)

    async def scene():
        return [token async for token in tokens()]

    assert asyncio.run(scene()) == ["opens", "more"]
    assert sorted(closed) == ["hangs", "opens"]


# -- the budget ---------------------------------------------------------------------------


@settings(max_examples=30)
@given(calls=st.integers(1, 60), tenths=st.integers(1, 10))
def test_hedges_add_no_more_than_the_budgets_share(calls, tenths):
    clock = ManualClock()
    hedge = Hedge(0.0, budget=RetryBudget(ratio=tenths / 10, floor=0.0, burst=100.0, clock=clock))
    slow = Slow(hedge)
    hedged = hedge(slow)

    async def scene():
        for _ in range(calls):
            assert await hedged() == "answer"

    asyncio.run(scene())
    stats = hedge.stats()
    # Each call is slow, so each wants a hedge; what is not afforded is not made.
    assert stats.hedged == calls * tenths // 10
    assert stats.refused == calls - stats.hedged
    assert calls <= slow.made <= calls + stats.hedged


def test_without_a_budget_given_a_tenth_of_the_calls_may_be_hedged():
    clock = ManualClock()
    hedge = Hedge(0.0, clock=clock)
    slow = Slow(hedge)

    async def scene(calls):
        for _ in range(calls):
            await hedge(slow)()

    asyncio.run(scene(100))
    # One to begin with, as the second that has passed earns one.
    assert hedge.stats().hedged == 11
    clock.advance(1.0)
    asyncio.run(scene(1))
    assert hedge.stats().hedged == 12


def test_two_hedges_have_budgets_of_their_own_unless_they_share_one():
    shared = RetryBudget(ratio=0.1, floor=0.0, clock=ManualClock())
    first, second = Hedge(60.0, budget=shared), Hedge(60.0, budget=shared)
    for hedge in [first, second] * 5:
        hedge(len)("x")
    assert shared.balance == pytest.approx(1.0)
    assert Hedge(60.0)._budget is not Hedge(60.0)._budget


# -- the learned delay --------------------------------------------------------------------


def take(hedge, clock, *latencies):
    """Make one call for each of the latencies, in seconds of the clock."""
    for latency in latencies:
        hedge(clock.advance)(latency)


# So long that no hedge is made in the meantime, whatever the machine is doing.
LATENCIES = st.lists(st.integers(1000, 2000), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(
    latencies=LATENCIES,
    quantile=st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99]),
    window=st.integers(1, 20),
    data=st.data(),
)
def test_the_delay_is_the_quantile_of_the_latest_calls(latencies, quantile, window, data):
    clock = ManualClock()
    min_calls = data.draw(st.integers(1, window))
    hedge = Hedge(quantile=quantile, window=window, min_calls=min_calls, clock=clock)
    for made in range(1, len(latencies) + 1):
        take(hedge, clock, latencies[made - 1])
        if made < min_calls:
            assert hedge.delay is None
            continue
        latest = sorted(latencies[:made][-window:])
        delay = hedge.delay
        below, upto = (sum(x < delay for x in latest), sum(x <= delay for x in latest))
        assert below < quantile * len(latest) + 1e-6
        assert upto >= quantile * len(latest) - 1e-6


def test_until_enough_is_known_no_hedge_is_made():
    clock = ManualClock()
    hedge = Hedge(min_calls=3, clock=clock)
    take(hedge, clock, 1000, 1000)
    assert hedge.delay is None
    step = next(hedge.steps(len, ("x",), {}))
    assert isinstance(step, Race)
    assert step.delay() == math.inf
    take(hedge, clock, 1000)
    assert step.delay() == hedge.delay == 1000.0


def test_the_delay_follows_a_dependency_that_becomes_slower():
    clock = ManualClock()
    hedge = Hedge(quantile=0.5, window=100, min_calls=10, clock=clock)
    take(hedge, clock, *[1000] * 100)
    seen = {hedge.delay}
    for _ in range(100):
        take(hedge, clock, 2000)
        seen.add(hedge.delay)
    assert seen == {1000.0, 2000.0}
    assert hedge.delay == 2000.0


def test_failures_teach_nothing():
    clock = ManualClock()
    hedge = Hedge(min_calls=1, clock=clock)
    for _ in range(5):
        with pytest.raises(ValueError):
            hedge.call(int, "x")
    assert hedge.delay is None


def test_an_answer_by_a_hedge_teaches_how_long_the_caller_has_waited(release):
    clock = ManualClock()
    turns = InTurn(release.wait, lambda: clock.advance(7.0))
    hedge = Hedge(0.0, min_calls=1, budget=turns, clock=clock)
    hedge(turns.take)()
    retune(hedge, after=None)
    assert hedge.delay == 7.0


def test_memory_is_bounded_by_the_window():
    clock = ManualClock()
    hedge = Hedge(window=5, min_calls=5, clock=clock)
    take(hedge, clock, *[1000] * 50)
    assert len(hedge._latencies) == 5


# -- settings -----------------------------------------------------------------------------


def test_a_running_hedge_is_retuned():
    clock = ManualClock()
    hedge = Hedge(min_calls=10, window=10, clock=clock)
    take(hedge, clock, *range(1000, 1005))
    assert hedge.delay is None
    retune(hedge, min_calls=5, quantile=0.5)
    assert hedge.delay == 1002.0
    retune(hedge, quantile=0.99)
    assert hedge.delay == 1004.0
    retune(hedge, min_calls=6)
    assert hedge.delay is None
    take(hedge, clock, 1005)
    assert hedge.delay == 1005.0
    retune(hedge, after=2.0)
    assert hedge.delay == 2.0
    with pytest.raises(BadConfiguration, match="window cannot change"):
        retune(hedge, window=20)


def test_the_settings_are_plain_data():
    assert settings_of(Hedge(0.1)) == {
        "after": 0.1,
        "quantile": 0.95,
        "window": 1000,
        "min_calls": 100,
        "attempts": 2,
        "budget": None,
        "name": "hedge",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"after": -1},
        {"after": math.nan},
        {"after": math.inf},
        {"after": "1"},
        {"quantile": 0},
        {"quantile": 1},
        {"quantile": math.nan},
        {"quantile": "0.5"},
        {"quantile": None},
        {"window": 0},
        {"min_calls": 0},
        {"min_calls": 11, "window": 10},
        {"attempts": 0},
        {"attempts": 2.5},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        Hedge(**wrong)


# -- many at once -------------------------------------------------------------------------


def test_threads_count_exactly():
    hedge = Hedge(60.0, min_calls=1)
    hedged = hedge(abs)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(hedged, range(-400, 0))) == list(range(400, 0, -1))
    assert hedge.stats() == HedgeStats(calls=400)


def test_counters_only_grow():
    hedge = Hedge(0.0, budget=RetryBudget(ratio=0.5, floor=0.0))
    slow, seen = Slow(hedge), []

    async def scene():
        for _ in range(20):
            await hedge(slow)()
            seen.append(hedge.stats())

    asyncio.run(scene())
    for before, after in pairwise(seen):
        assert after.calls == before.calls + 1
        assert after.hedged + after.refused == after.calls
        assert before.hedged <= after.hedged
        assert before.won <= after.won <= after.hedged
