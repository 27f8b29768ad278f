import asyncio
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prodml._call import Invoke, Pause, protect, run
from prodml._settings import retune, settings_of
from prodml.errors import BadConfiguration, DeadlineExceeded, RateLimited
from prodml.events import CircuitOpened, Stream
from prodml.resilience import CircuitBreaker, Deadline, Retry
from prodml.resilience.rate_limit import RateLimiter
from prodml.stores import MemoryStore
from prodml.testing import ManualClock, Recorder, check_guard


@pytest.fixture
def clock():
    return ManualClock()


def admitted(limiter, tries=1000):
    """How many calls in a row are admitted at this moment."""
    for number in range(tries):
        try:
            limiter.enter()
        except RateLimited:
            return number
    return tries


# -- the limit ----------------------------------------------------------------------------


def test_a_burst_is_admitted_and_then_the_rate(clock):
    limiter = RateLimiter(10, burst=3, clock=clock)
    assert admitted(limiter) == 3
    clock.advance(0.1)
    assert admitted(limiter) == 1
    clock.advance(0.25)
    assert admitted(limiter) == 2
    clock.advance(0.05)
    assert admitted(limiter) == 1
    clock.advance(3600.0)
    assert admitted(limiter) == 3


def test_a_rejection_tells_when_the_next_permit_is_due(clock):
    limiter = RateLimiter(4, burst=1, name="api", clock=clock)
    limiter.enter()
    clock.advance(0.0625)
    with pytest.raises(RateLimited) as refused:
        limiter.call(int)
    assert (refused.value.name, refused.value.retry_after) == ("api", 0.1875)
    assert (limiter.admitted, limiter.rejected) == (1, 1)


@pytest.mark.parametrize(("rate", "burst"), [(100, 100), (2.5, 2), (0.1, 1)])
def test_without_a_burst_the_rate_itself_may_come_at_once(clock, rate, burst):
    assert admitted(RateLimiter(rate, clock=clock)) == burst


def test_rejected_calls_use_nothing_up(clock):
    limiter = RateLimiter(1, burst=1, clock=clock)
    limiter.enter()
    for _ in range(100):
        assert admitted(limiter) == 0
    clock.advance(1.0)
    assert admitted(limiter) == 1


@settings(max_examples=200, deadline=None)
@given(
    st.floats(1e-3, 1e6),
    st.sampled_from([1.0, 60.0, 86_400.0]),
    st.integers(1, 50),
    st.lists(st.floats(0.0, 3.0), max_size=60),
)
def test_it_decides_as_a_token_bucket_in_exact_arithmetic_does(rate, per, burst, gaps):
    clock = ManualClock()
    limiter = RateLimiter(rate, per=per, burst=burst, clock=clock)
    speed = Fraction(rate) / Fraction(per)
    tokens, last = Fraction(burst), Fraction(clock.monotonic())
    for gap in gaps:
        clock.advance(gap * per / rate)
        now = Fraction(clock.monotonic())
        tokens, last = min(Fraction(burst), tokens + (now - last) * speed), now
        went = admitted(limiter, 1)
        # Where a rounding of the clock decides, both are right; go on as the limiter did.
        close = abs(tokens - 1) <= 8 * Fraction(math.ulp(clock.monotonic())) * speed
        assert went == (tokens >= 1) or close
        tokens -= went


@pytest.mark.parametrize("rate", [3, 7, 10, 0.3, 1000 / 7])
def test_whoever_waits_as_long_as_it_was_told_is_admitted_and_roundings_never_add_up(clock, rate):
    limiter = RateLimiter(rate, burst=1, clock=clock)
    limiter.enter()
    began = clock.monotonic()
    for _ in range(5000):
        with pytest.raises(RateLimited) as refused:
            limiter.enter()
        clock.advance(refused.value.retry_after)
        limiter.enter()
    assert clock.monotonic() - began == pytest.approx(5000 / rate, rel=1e-9)


def test_setting_the_wall_clock_changes_nothing(clock):
    limiter = RateLimiter(1, burst=2, clock=clock)
    assert admitted(limiter) == 2
    clock.step_wall(86_400.0)
    assert admitted(limiter) == 0
    clock.step_wall(-200_000.0)
    clock.advance(1.0)
    assert admitted(limiter) == 1


def test_threads_together_are_admitted_as_one(clock):
    limiter, start = RateLimiter(1, burst=500, clock=clock), threading.Barrier(8)

    def hammer(_):
        start.wait()
        return admitted(limiter, 200)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(hammer, range(8))) == 500
    assert limiter.admitted == 500


def test_threads_and_event_loops_share_one_limit(clock):
    limiter, start = RateLimiter(1, burst=300, clock=clock), threading.Barrier(4)

    async def awaiting():
        went = 0
        for _ in range(100):
            try:
                went += await limiter.acall(asyncio.sleep, 0, 1)
            except RateLimited:
                await asyncio.sleep(0)
        return went

    def work(number):
        start.wait()
        return asyncio.run(awaiting()) if number % 2 else admitted(limiter, 100)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 300


# -- settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": -1}, "rate"),
        ({"rate": math.inf}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"rate": 1e-12}, "no rate"),
        ({"rate": 1e300, "per": 1e-300}, "no rate"),
        ({"per": 0.0}, "per"),
        ({"burst": 0}, "burst"),
        ({"burst": 1.5}, "burst"),
        ({"max_wait": -1.0}, "max_wait"),
        ({"max_wait": math.inf}, "max_wait"),
        ({"on_outage": "panic"}, "on_outage"),
        ({"store": MemoryStore()}, "needs a name"),
        ({"store": MemoryStore(), "name": "api"}, "no method take"),
        ({"store": "gopher://host", "name": "api"}, "gopher"),
    ],
)
def test_settings_without_sense_are_refused(bad, word):
    with pytest.raises(BadConfiguration, match=word):
        RateLimiter(**({"rate": 1.0} | bad))


def test_a_limiter_keeps_the_contract_of_guards():
    check_guard(lambda: RateLimiter(1e6))

    class Generous:
        def take(self, *_):
            return True, 0.0

    check_guard(lambda: RateLimiter(1e6, name="api", store=Generous()))


def test_a_new_rate_goes_on_with_what_is_saved_up_or_owed(clock):
    limiter = RateLimiter(1, per=3600.0, burst=4, clock=clock)
    assert admitted(limiter) == 4
    clock.advance(1800.0)
    # Half a permit is there; the other half takes half a second from now on, not half an hour.
    retune(limiter, rate=1.0, per=1.0)
    clock.advance(0.5)
    assert admitted(limiter) == 1
    retune(limiter, burst=2)
    clock.advance(60.0)
    assert admitted(limiter) == 2
    clock.advance(60.0)
    retune(limiter, rate=2.0)
    assert admitted(limiter) == 2
    expected = {"rate": 2.0, "per": 1.0, "burst": 2, "max_wait": 0.0}
    assert settings_of(limiter).items() >= expected.items()


def test_the_store_of_a_limiter_is_for_good(clock):
    with pytest.raises(BadConfiguration, match="make another limiter"):
        retune(RateLimiter(1, clock=clock), store="redis://host")


def test_a_retry_outside_does_not_try_a_rejection_again(clock):
    limiter = RateLimiter(1, burst=1, clock=clock)
    guarded = Retry(attempts=5, wait=0.0)(limiter(lambda: 0))
    assert guarded() == 0
    with pytest.raises(RateLimited):
        guarded()
    assert limiter.rejected == 1


# -- waiting ------------------------------------------------------------------------------


def test_a_call_waits_for_its_permit_if_that_is_due_soon(clock):
    limiter = RateLimiter(4, burst=1, max_wait=0.5, clock=clock)
    assert [limiter.call(abs, n) for n in range(3)] == [0, 1, 2]
    assert clock.slept == [0.25, 0.25]


def test_nobody_waits_in_vain(clock):
    limiter = RateLimiter(4, burst=1, max_wait=0.5, clock=clock)
    limiter.enter()
    waiters = [limiter.admit() for _ in range(2)]
    assert [next(waiter).seconds for waiter in waiters] == [0.25, 0.5]
    with pytest.raises(RateLimited) as refused:
        limiter.admit()
    assert refused.value.retry_after == 0.75
    assert clock.slept == []


def test_nobody_waits_longer_than_the_request_has(clock):
    limiter = RateLimiter(1, burst=1, max_wait=10.0, clock=clock)
    limiter.enter()
    with Deadline(0.5, clock=clock):
        with pytest.raises(RateLimited) as refused:
            limiter.enter()
        assert refused.value.retry_after == 1.0
    with Deadline(2.0, clock=clock):
        limiter.enter()
    assert clock.slept == [1.0]


def test_a_late_request_is_not_kept_from_a_permit_that_is_due(clock):
    limiter = RateLimiter(1, burst=1, max_wait=10.0, clock=clock)
    with Deadline(1.0, clock=clock):
        clock.advance(2.0)
        limiter.enter()
    assert limiter.admitted == 1


def test_a_waiter_that_goes_away_gives_its_permit_back(clock):
    limiter = RateLimiter(1, burst=1, max_wait=10.0, clock=clock)
    limiter.enter()
    for _ in range(100):
        steps = limiter.admit()
        assert next(steps).seconds == 1.0
        steps.close()
    assert limiter.admitted == 1


def test_nobody_is_moved_up_when_one_in_the_middle_goes_away(clock):
    limiter = RateLimiter(1, burst=1, max_wait=10.0, clock=clock)
    limiter.enter()
    waiters = [limiter.admit() for _ in range(3)]
    assert [next(waiter).seconds for waiter in waiters] == [1.0, 2.0, 3.0]
    waiters[0].close()
    newcomer = limiter.admit()
    assert next(newcomer).seconds == 4.0
    newcomer.close()
    # All of them go, first come, first gone: nothing stays reserved.
    waiters[1].close()
    waiters[2].close()
    assert next(limiter.admit()).seconds == 1.0


def test_what_is_kept_does_not_grow_while_every_call_waits(clock):
    limiter = RateLimiter(8, burst=1, max_wait=1.0, clock=clock)
    for _ in range(1000):
        limiter.enter()
    assert len(clock.slept) == 999
    assert len(limiter._schedule.slots) == 1


def test_a_pause_that_fails_gives_the_permit_back(clock):
    limiter = RateLimiter(1, burst=1, max_wait=10.0, clock=clock)
    limiter.enter()
    steps, error = limiter.admit(), OSError("no clock")
    next(steps)
    with pytest.raises(StopIteration) as stop:
        steps.send((None, error))
    assert stop.value.value == (None, error)
    assert next(limiter.admit()).seconds == 1.0


def test_cancelled_tasks_give_their_permits_back():
    limiter = RateLimiter(0.01, burst=1, max_wait=1e6)

    async def main():
        await limiter.aenter()
        for _ in range(50):
            tasks = [asyncio.create_task(limiter.acall(asyncio.sleep, 0)) for _ in range(20)]
            await asyncio.sleep(0)
            random.Random(1).shuffle(tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert next(limiter.admit()).seconds <= 100.0
    assert not limiter._schedule.slots


class WaitingMachine(RuleBasedStateMachine):
    """The model: tokens that may be owed, in exact arithmetic, and who waits until when."""

    RATE, BURST, PATIENCE = 8, 3, Fraction(1)

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.limiter = RateLimiter(
            self.RATE, burst=self.BURST, max_wait=float(self.PATIENCE), clock=self.clock
        )
        self.tokens = Fraction(self.BURST)
        self.line = []
        self.given, self.turned_away = [], 0

    @property
    def now(self):
        return Fraction(self.clock.monotonic())

    @rule(sixteenths=st.integers(1, 16))
    def advance(self, sixteenths):
        self.clock.advance(sixteenths / 16)
        self.tokens = min(Fraction(self.BURST), self.tokens + Fraction(sixteenths, 16) * self.RATE)

    @rule()
    def arrive(self):
        wait = max(Fraction(0), (1 - self.tokens) / self.RATE)
        if wait > self.PATIENCE:
            self.turned_away += 1
            with pytest.raises(RateLimited) as refused:
                self.limiter.admit()
            assert refused.value.retry_after == float(wait)
            return
        steps = self.limiter.admit()
        self.tokens -= 1
        if wait:
            step = next(steps)
            assert isinstance(step, Pause)
            assert step.seconds == float(wait)
            self.line.append((self.now + wait, steps))
        else:
            assert steps is None
            self.given.append(self.now)

    @precondition(lambda self: self.line and self.line[0][0] <= self.now)
    @rule()
    def wake(self):
        due, steps = self.line.pop(0)
        with pytest.raises(StopIteration) as stop:
            steps.send((None, None))
        assert stop.value.value == (None, None)
        self.given.append(due)

    @precondition(lambda self: self.line and self.line[-1][0] > self.now)
    @rule()
    def the_last_goes_away(self):
        self.line.pop()[1].close()
        self.tokens += 1

    @precondition(lambda self: len(self.line) > 1 and self.line[0][0] > self.now)
    @rule()
    def all_go_away(self):
        for _, steps in self.line:
            steps.close()
        self.tokens += len(self.line)
        self.line.clear()

    @invariant()
    def agrees_with_the_model(self):
        assert self.limiter.rejected == self.turned_away
        assert self.limiter.admitted == len(self.given) + len(self.line)

    def teardown(self):
        """However it came about: nowhere more than the burst and the rate allow."""
        given = sorted(self.given)
        for first, since in enumerate(given):
            for number, at in enumerate(given[first:], 1):
                assert number <= self.BURST + self.RATE * (at - since)


WaitingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_waiting_agrees_with_a_model = WaitingMachine.TestCase


def test_a_permit_that_was_due_long_ago_is_not_given_back_after_a_newer_one(clock):
    limiter = RateLimiter(1, burst=1, max_wait=10.0, clock=clock)
    limiter.enter()
    late = limiter.admit()
    next(late)
    # Its time is over, but its task has not been resumed yet; meanwhile another call passes.
    clock.advance(2.5)
    limiter.enter()
    late.close()
    assert next(limiter.admit()).seconds == 1.0


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_whoever_goes_away_at_random_lets_nobody_exceed_the_limit(rng, burst):
    clock = ManualClock()
    limiter = RateLimiter(1, burst=burst, max_wait=5.0, clock=clock)
    given, line = [], []
    for _ in range(80):
        clock.advance(rng.choice([0.0, 0.0, 0.25, 0.5, 1.0, 2.5]))
        while line and line[0][0] <= clock.monotonic() and rng.random() < 0.7:
            due, steps = line.pop(0)
            with pytest.raises(StopIteration):
                steps.send((None, None))
            given.append(due)
        if line and rng.random() < 0.3:
            line.pop(rng.randrange(len(line)))[1].close()
            continue
        try:
            steps = limiter.admit()
        except RateLimited:
            continue
        if steps is None:
            given.append(clock.monotonic())
        else:
            line.append((clock.monotonic() + next(steps).seconds, steps))
    given.sort()
    for first, since in enumerate(given):
        for number, at in enumerate(given[first:], 1):
            assert number <= burst + (at - since)


# -- every form ---------------------------------------------------------------------------


def plain(limiter):
    return limiter(lambda: ["a", "b"])()


def generator(limiter):
    @limiter
    def items():
        yield "a"
        yield "b"

    return list(items())


def block(limiter):
    with limiter:
        return ["a", "b"]


def flow(limiter):
    return run(protect(limiter, Invoke(list, ("ab",))), limiter.clock)


async def coroutine(limiter):
    @limiter
    async def items():
        return ["a", "b"]

    return await items()


async def async_generator(limiter):
    @limiter
    async def items():
        yield "a"
        yield "b"

    return [item async for item in items()]


async def async_block(limiter):
    async with limiter:
        return ["a", "b"]


async def single(limiter):
    async def items():
        return ["a", "b"]

    return await limiter.acall(items)


PLAIN = [plain, generator, block, flow]
AWAITING = [coroutine, async_generator, async_block, single]


def ask(form, limiter):
    return asyncio.run(form(limiter)) if form in AWAITING else form(limiter)


@pytest.mark.parametrize("form", PLAIN + AWAITING)
def test_every_form_waits_and_is_rejected(clock, form):
    limiter = RateLimiter(4, burst=1, max_wait=0.25, clock=clock)
    assert ask(form, limiter) == ask(form, limiter) == ["a", "b"]
    assert clock.slept == [0.25]
    retune(limiter, max_wait=0.0)
    with pytest.raises(RateLimited):
        ask(form, limiter)


# -- with a store -------------------------------------------------------------------------


class OneForAll:
    """A store in this process; ``down`` makes it fail."""

    def __init__(self, clock):
        self.own = RateLimiter(1, burst=2, max_wait=100.0, clock=clock)
        self.asked, self.waiters, self.down = [], [], False

    def take(self, key, interval, burst, patience):
        self.asked.append((key, interval, burst, patience))
        if self.down:
            raise ConnectionError("no route")
        retune(self.own, max_wait=patience)
        try:
            steps = self.own.admit()
        except RateLimited as refused:
            return False, refused.retry_after
        # As in a server, a permit that is reserved stays so.
        self.waiters.append(steps)
        return True, 0.0 if steps is None else next(steps).seconds

    def close(self):
        self.asked.append("closed")


class Awaited:
    """The same for tasks."""

    def __init__(self, plain):
        self.plain = plain

    async def take(self, *args):
        await asyncio.sleep(0)
        return self.plain.take(*args)

    async def close(self):
        self.plain.close()


class Both(OneForAll):
    @property
    def twin(self):
        return Awaited(self)


def shared(store, clock, **changes):
    given = {"name": "api", "burst": 2, "clock": clock, "events": Stream()} | changes
    return RateLimiter(1, store=store, **given)


@pytest.mark.parametrize("form", PLAIN + AWAITING)
def test_every_form_asks_the_store_and_limiters_share_it(clock, form):
    store = Both(clock)
    one, two = shared(store, clock), shared(store, clock)
    assert ask(form, one) == ask(form, two) == ["a", "b"]
    for limiter in (one, two):
        with pytest.raises(RateLimited) as refused:
            ask(form, limiter)
        assert refused.value.retry_after == 1.0
    assert store.asked == [("prodml:rate:api", 1.0, 2, 0.0)] * 4
    assert (one.admitted, one.rejected, one.outages) == (1, 1, 0)


@pytest.mark.parametrize("form", PLAIN + AWAITING)
def test_every_form_waits_for_a_shared_permit(clock, form):
    limiter = shared(Both(clock), clock, max_wait=1.0)
    for _ in range(3):
        assert ask(form, limiter) == ["a", "b"]
    assert clock.slept == [1.0]


def test_the_store_is_told_how_long_the_request_may_wait(clock):
    store = OneForAll(clock)
    limiter = shared(store, clock, max_wait=5.0)
    with Deadline(2.0, clock=clock):
        limiter.enter()
    assert store.asked[0][3] == 2.0


def test_a_permit_that_would_come_after_the_end_of_the_request_is_refused(clock):
    class Slow(OneForAll):
        def take(self, key, interval, burst, patience):
            clock.advance(1.5)
            return True, 1.0

    limiter = shared(Slow(clock), clock, max_wait=5.0)
    with Deadline(2.0, clock=clock), pytest.raises(RateLimited):
        limiter.enter()
    assert (clock.slept, limiter.admitted, limiter.rejected) == ([], 0, 1)


def test_a_late_request_is_no_outage(clock):
    store = OneForAll(clock)
    limiter = shared(store, clock)
    with Deadline(1.0, clock=clock):
        clock.advance(2.0)
        with pytest.raises(DeadlineExceeded):
            limiter.enter()
    assert (store.asked, limiter.outages) == ([], 0)


@pytest.mark.parametrize("form", PLAIN + AWAITING)
def test_a_store_that_fails_open_leaves_the_limit_of_this_process(clock, form):
    store, events = Both(clock), Stream()
    facts = Recorder(events)
    limiter = shared(store, clock, events=events, max_wait=0.5)
    store.down = True
    assert ask(form, limiter) == ask(form, limiter) == ["a", "b"]
    with pytest.raises(RateLimited) as refused:
        ask(form, limiter)
    assert refused.value.retry_after == 1.0
    clock.advance(0.5)
    assert ask(form, limiter) == ["a", "b"]
    assert clock.slept == [0.5]
    assert (limiter.admitted, limiter.rejected, limiter.outages) == (3, 1, 4)
    # One call had to find out; for the others the breaker knew.
    assert len(store.asked) == 1
    assert [fact.source for fact in facts.of(CircuitOpened)] == ["api-store"]


@pytest.mark.parametrize("form", PLAIN + AWAITING)
def test_a_store_that_fails_closed_rejects_every_call(clock, form):
    store = Both(clock)
    limiter = shared(store, clock, on_outage="closed")
    store.down = True
    for cause in ("no route", "is open"):
        with pytest.raises(RateLimited) as refused:
            ask(form, limiter)
        assert refused.value.retry_after == 1.0
        assert cause in str(refused.value.__cause__)
    assert len(store.asked) == 1
    assert (limiter.admitted, limiter.rejected, limiter.outages) == (0, 2, 2)


def test_a_store_that_is_back_is_asked_again(clock):
    store = OneForAll(clock)
    limiter = shared(store, clock)
    store.down = True
    assert admitted(limiter) == 2
    store.down = False
    assert admitted(limiter) == 0
    clock.advance(1.0)
    assert admitted(limiter) == 2
    assert store.asked[-1] == ("prodml:rate:api", 1.0, 2, 0.0)


def test_a_breaker_of_ones_own_stands_before_the_store(clock):
    store = OneForAll(clock)
    breaker = CircuitBreaker("mine", failure_threshold=2, clock=clock, events=Stream())
    limiter = shared(store, clock, breaker=breaker)
    store.down = True
    for _ in range(2):
        limiter.enter()
    assert breaker.snapshot().opened == 1
    assert limiter.breaker is breaker


def test_a_store_for_tasks_alone_is_an_outage_to_threads(clock):
    limiter = shared(Awaited(OneForAll(clock)), clock)
    assert asyncio.run(single(limiter)) == ["a", "b"]
    assert limiter.outages == 0
    assert plain(limiter) == ["a", "b"]
    assert limiter.outages == 1


def test_a_store_for_threads_alone_serves_tasks_too(clock):
    limiter = shared(OneForAll(clock), clock)
    assert asyncio.run(single(limiter)) == ["a", "b"]
    assert limiter.outages == 0


def test_closing_reaches_the_store_of_either_colour(clock):
    store = Both(clock)
    limiter = shared(store, clock)
    limiter.close()
    asyncio.run(_closed(limiter))
    RateLimiter(1, clock=clock).close()
    assert store.asked == ["closed", "closed"]


async def _closed(limiter):
    await limiter.aclose()


def test_a_shared_limiter_can_be_retuned_and_shows_no_password():
    limiter = RateLimiter(1, name="api", store="redis://:hunter2@no.such.host:1/0")
    retune(limiter, rate=2.0, max_wait=1.0)
    assert "hunter2" not in repr(limiter) + repr(limiter.store) + repr(settings_of(limiter))
    assert "store" not in settings_of(limiter)
