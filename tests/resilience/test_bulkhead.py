import asyncio
import contextlib
import pickle
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prodml._call import Invoke, protect, run
from prodml._settings import retune, settings_of
from prodml.errors import BadConfiguration, BulkheadFull, DeadlineExceeded
from prodml.resilience import Bulkhead, Deadline
from prodml.testing import ManualClock, check_guard


def until(true):
    """Wait for what other threads are about to do."""
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.0005)


async def auntil(true):
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends, "it never happened"
        await asyncio.sleep(0)


def empty(bulkhead):
    return (bulkhead.in_flight, bulkhead.waiting) == (0, 0)


@contextlib.contextmanager
def started(*threads):
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


# -- without a queue --------------------------------------------------------------------


def test_a_full_bulkhead_rejects_at_once():
    bulkhead = Bulkhead(2, name="gpu")
    with bulkhead, bulkhead:
        with pytest.raises(BulkheadFull) as full:
            bulkhead.call(int)
        assert (full.value.name, full.value.limit) == ("gpu", 2)
        assert (full.value.waiting, full.value.waited) == (0, None)
        assert bulkhead.in_flight == 2
    assert (bulkhead.in_flight, bulkhead.rejected) == (0, 1)


@pytest.mark.parametrize("queue", [0, 4])
@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_place_is_free_again_however_the_call_ends(error, queue):
    bulkhead = Bulkhead(1, queue=queue)

    def ending():
        raise error

    for _ in range(3):
        with pytest.raises(type(error)):
            bulkhead(ending)()
    assert bulkhead(len)([]) == 0


def test_cancelled_tasks_leave_no_place_taken():
    bulkhead = Bulkhead(2)

    async def main():
        @bulkhead
        async def hang():
            await asyncio.sleep(30)

        tasks = [asyncio.create_task(hang()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    endings = asyncio.run(main())
    assert sum(isinstance(ending, BulkheadFull) for ending in endings) == 3
    assert bulkhead.in_flight == 0


@pytest.mark.parametrize("queue", [0, 5])
def test_threads_never_exceed_the_limit(queue):
    bulkhead, start, inside, most = Bulkhead(3, queue=queue), threading.Barrier(16), [], []

    def work():
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    def hammer():
        start.wait()
        for _ in range(200):
            try:
                bulkhead.call(work)
            except BulkheadFull:
                continue

    with started(*[threading.Thread(target=hammer) for _ in range(16)]):
        pass
    assert max(most) <= 3
    assert empty(bulkhead)


# -- settings ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_a_limit_is_a_positive_whole_number(limit):
    with pytest.raises(BadConfiguration, match="limit"):
        Bulkhead(limit)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"queue": -1}, "queue"),
        ({"queue": 1.5}, "queue"),
        ({"queue": 1, "max_wait": 0.0}, "max_wait"),
        ({"queue": 1, "max_wait": float("inf")}, "max_wait"),
        ({"max_wait": 1.0}, "needs a queue"),
    ],
)
def test_settings_without_sense_are_refused(bad, word):
    with pytest.raises(BadConfiguration, match=word):
        Bulkhead(1, **bad)


def test_the_bulkhead_is_its_settings():
    bulkhead = Bulkhead(2, queue=3, max_wait=0.5, name="gpu")
    expected = {"limit": 2, "queue": 3, "max_wait": 0.5, "name": "gpu"}
    assert settings_of(bulkhead) == expected
    retune(bulkhead, queue=0, max_wait=None)
    with pytest.raises(BadConfiguration, match="handed out"):
        retune(bulkhead, limit=3)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (BulkheadFull("gpu", 2), "bulkhead 'gpu' is full: 2 calls in flight"),
        (BulkheadFull("gpu", 2, 8), "bulkhead 'gpu' is full: 2 calls in flight, 8 waiting"),
        (
            BulkheadFull("gpu", 2, 7, 0.5),
            "bulkhead 'gpu' is full: 2 calls in flight, no place within 0.5 s",
        ),
    ],
)
def test_a_rejection_says_whether_it_has_waited_and_survives_a_process_pool(error, sentence):
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert str(again) == sentence


def test_a_bulkhead_with_a_queue_keeps_the_contract_of_guards():
    check_guard(lambda: Bulkhead(2, queue=100))


# -- the queue, step by step, against a model ---------------------------------------------


class Caller:
    """A call that has asked for a place and is walked by hand."""

    def __init__(self, bulkhead):
        self.steps = bulkhead.admit()
        self.wait = None if self.steps is None else next(self.steps)

    @property
    def handed(self):
        return self.wait.future.done()

    def ends(self, outcome):
        with pytest.raises(StopIteration) as stop:
            self.steps.send(outcome)
        return stop.value.value


class QueueMachine(RuleBasedStateMachine):
    """The model: who is inside, who has been handed a place, who waits, in order."""

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.limit, self.queue = 2, 3
        self.bulkhead = Bulkhead(self.limit, queue=self.queue, clock=self.clock)
        self.inside, self.handed, self.line = 0, [], []
        self.rejected = 0

    def give_back(self):
        """One place is free: in the model it goes to the first in line."""
        if self.line:
            self.handed.append(self.line.pop(0))

    @rule()
    def arrive(self):
        if self.inside + len(self.handed) < self.limit:
            assert self.bulkhead.admit() is None
            self.inside += 1
        elif len(self.line) < self.queue:
            self.line.append(Caller(self.bulkhead))
        else:
            self.rejected += 1
            with pytest.raises(BulkheadFull) as full:
                run(self.bulkhead.admit())
            assert full.value.waiting == len(self.line)
            assert full.value.waited is None

    @precondition(lambda self: self.inside)
    @rule(well=st.booleans())
    def go(self, well):
        self.inside -= 1
        if well:
            self.bulkhead.leave(None, "result")
        else:
            self.bulkhead.fail(None, ValueError())
        self.give_back()

    @precondition(lambda self: self.handed)
    @rule(late=st.booleans(), index=st.integers(0, 9))
    def wake(self, late, index):
        """Also when the time was over just as the place was handed over."""
        caller = self.handed.pop(index % len(self.handed))
        over = (None, DeadlineExceeded("waiting", 1.0))
        assert caller.ends(over if late else (None, None)) == (None, None)
        self.inside += 1

    @precondition(lambda self: self.handed)
    @rule(index=st.integers(0, 9))
    def cancel_with_a_place_in_hand(self, index):
        self.handed.pop(index % len(self.handed)).steps.close()
        self.give_back()

    @precondition(lambda self: self.line)
    @rule(index=st.integers(0, 9))
    def cancel(self, index):
        self.line.pop(index % len(self.line)).steps.close()

    @precondition(lambda self: self.line)
    @rule(index=st.integers(0, 9), seconds=st.floats(0.0, 10.0))
    def time_out(self, index, seconds):
        caller = self.line.pop(index % len(self.line))
        self.clock.advance(seconds)
        result, error = caller.ends((None, DeadlineExceeded("waiting", seconds)))
        assert result is None
        assert isinstance(error, BulkheadFull)
        assert error.waited >= seconds - 1e-9
        self.rejected += 1

    @rule(queue=st.integers(0, 4))
    def retune(self, queue):
        retune(self.bulkhead, queue=queue)
        self.queue = queue

    @invariant()
    def agrees_with_the_model(self):
        assert self.bulkhead.in_flight == self.inside + len(self.handed) <= self.limit
        assert self.bulkhead.waiting == len(self.line)
        assert self.bulkhead.rejected == self.rejected
        assert all(caller.handed for caller in self.handed)
        assert not any(caller.handed for caller in self.line)

    def teardown(self):
        for caller in self.line:
            caller.steps.close()
        for caller in self.handed:
            caller.steps.close()
        for _ in range(self.inside):
            self.bulkhead.leave(None, None)
        assert empty(self.bulkhead)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_the_queue_agrees_with_a_model = QueueMachine.TestCase


def test_nobody_is_in_line_before_the_steps_begin():
    bulkhead = Bulkhead(1, queue=1)
    with bulkhead:
        bulkhead.admit().close()
        assert bulkhead.waiting == 0


def test_a_place_that_came_free_on_the_way_to_the_queue_is_taken():
    bulkhead = Bulkhead(1, queue=1)
    bulkhead.enter()
    steps = bulkhead.admit()
    bulkhead.leave(None, None)
    assert run(steps) is None
    assert (bulkhead.in_flight, bulkhead.waiting) == (1, 0)


def test_a_generator_that_is_collected_inside_the_lock_gives_its_place_back():
    bulkhead = Bulkhead(1, queue=1)
    bulkhead.enter()
    with bulkhead._lock:
        bulkhead.fail(None, GeneratorExit())
    assert bulkhead.in_flight == 0


# -- threads, tasks, and both -------------------------------------------------------------


def queued_thread(bulkhead, note):
    def work():
        with bulkhead:
            note()

    before = bulkhead.waiting
    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: bulkhead.waiting > before)
    return thread.join


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def submit(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def queued_task(self, bulkhead, note):
        async def work():
            async with bulkhead:
                note()

        before = bulkhead.waiting
        future = self.submit(work())
        until(lambda: bulkhead.waiting > before)
        return lambda: future.result(30)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def loops():
    both = Loop(), Loop()
    yield both
    for loop in both:
        loop.close()


def test_first_come_is_first_served_over_threads_and_two_event_loops(loops):
    bulkhead, order, ends = Bulkhead(1, queue=30), [], []
    bulkhead.enter()
    for number in range(30):

        def note(number=number):
            order.append(number)

        if number % 3:
            ends.append(loops[number % 3 - 1].queued_task(bulkhead, note))
        else:
            ends.append(queued_thread(bulkhead, note))
    bulkhead.leave(None, None)
    for end in ends:
        end()
    assert order == list(range(30))
    assert empty(bulkhead)


class Gauge:
    """How many are inside, counted by a lock of its own."""

    def __init__(self):
        self.now = self.most = self.done = 0
        self.lock = threading.Lock()

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1
            self.done += 1


def hammer(bulkhead, gauge, rng, rounds):
    for _ in range(rounds):
        try:
            with bulkhead, gauge:
                time.sleep(rng.choice([0, 0.0001]))
        except BulkheadFull:
            time.sleep(0.0001)


async def storm(bulkhead, gauge, rng, rounds):
    """Tasks that are cancelled at any moment: waiting, just handed a place, inside."""

    async def work():
        async with bulkhead:
            with gauge:
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)

    for _ in range(rounds):
        tasks = [asyncio.create_task(work()) for _ in range(12)]
        for task in rng.sample(tasks, 8):
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("max_wait", [None, 0.001])
def test_threads_and_two_event_loops_share_one_limit_and_leak_nothing(loops, max_wait):
    bulkhead, gauge = Bulkhead(3, queue=10, max_wait=max_wait), Gauge()
    threads = [
        threading.Thread(target=hammer, args=(bulkhead, gauge, random.Random(n), 150))
        for n in range(4)
    ]
    # 2 * 125 * 8 cancellations.
    with started(*threads):
        storms = [
            loop.submit(storm(bulkhead, gauge, random.Random(n), 125))
            for n, loop in enumerate(loops)
        ]
        for end in storms:
            end.result(60)
    assert gauge.most <= 3
    assert gauge.done > 100
    assert empty(bulkhead)
    assert [bulkhead.call(int) for _ in range(3)] == [0, 0, 0]


def test_a_queue_that_is_retuned_under_load_forgets_nobody(loops):
    bulkhead, gauge = Bulkhead(2, queue=20), Gauge()
    threads = [
        threading.Thread(target=hammer, args=(bulkhead, gauge, random.Random(n), 100))
        for n in range(6)
    ]
    with started(*threads):
        while any(thread.is_alive() for thread in threads):
            retune(bulkhead, queue=0)
            retune(bulkhead, queue=20)
    assert gauge.most <= 2
    assert empty(bulkhead)


def test_two_cancelled_waiters_take_no_place_with_them():
    bulkhead = Bulkhead(3, queue=10)

    async def main():
        for _ in range(3):
            bulkhead.enter()
        waiters = [asyncio.create_task(bulkhead.acall(asyncio.sleep, 0)) for _ in range(2)]
        await auntil(lambda: bulkhead.waiting == 2)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert (bulkhead.in_flight, bulkhead.waiting) == (3, 0)
        for _ in range(3):
            bulkhead.leave(None, None)
        return await asyncio.gather(*(bulkhead.acall(asyncio.sleep, 0, n) for n in range(9)))

    assert asyncio.run(main()) == list(range(9))
    assert empty(bulkhead)


@pytest.mark.parametrize("turns", range(5))
def test_a_place_handed_to_a_task_that_is_then_cancelled_goes_to_the_next(turns):
    """Whatever the loop has done in between: nothing, told the waiter, resumed it."""
    bulkhead = Bulkhead(1, queue=10)

    async def main():
        await bulkhead.aenter()
        first = asyncio.create_task(bulkhead.acall(asyncio.sleep, 30))
        await auntil(lambda: bulkhead.waiting == 1)
        second = asyncio.create_task(bulkhead.acall(asyncio.sleep, 0, "second"))
        await auntil(lambda: bulkhead.waiting == 2)
        bulkhead.leave(None, None)
        assert bulkhead.waiting == 1
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(main()) == "second"
    assert empty(bulkhead)


def test_wait_for_around_a_waiting_call_loses_no_place():
    bulkhead = Bulkhead(1, queue=50)

    async def main():
        async def hurried():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bulkhead.acall(asyncio.sleep, 0.001), 0.004)

        for _ in range(10):
            await asyncio.gather(*(hurried() for _ in range(20)))

    asyncio.run(main())
    assert empty(bulkhead)


def test_a_loop_that_ends_takes_its_waiters_out_of_the_queue():
    bulkhead = Bulkhead(1, queue=10)
    bulkhead.enter()
    kept = []

    async def main():
        kept.extend(asyncio.create_task(bulkhead.acall(asyncio.sleep, 0)) for _ in range(3))
        await auntil(lambda: bulkhead.waiting == 3)

    asyncio.run(main())
    assert (bulkhead.in_flight, bulkhead.waiting) == (1, 0)


def test_a_newcomer_does_not_take_the_place_of_one_that_was_just_handed_it():
    bulkhead = Bulkhead(1, queue=1)

    async def main():
        await bulkhead.aenter()
        waiter = asyncio.create_task(bulkhead.acall(asyncio.sleep, 0, "waiter"))
        await auntil(lambda: bulkhead.waiting == 1)
        bulkhead.leave(None, None)
        # The loop has not run: the waiter does not know yet, but the place is its own.
        newcomer = asyncio.create_task(bulkhead.acall(asyncio.sleep, 0, "newcomer"))
        late = bulkhead(len)
        with pytest.raises(BulkheadFull):
            late("in this very moment")
        return await asyncio.gather(newcomer, waiter)

    assert asyncio.run(main()) == ["newcomer", "waiter"]


def test_a_waiting_thread_that_is_interrupted_leaves_the_queue():
    bulkhead = Bulkhead(1, queue=1)
    bulkhead.enter()

    def interrupt(*_):
        raise KeyboardInterrupt

    def send():
        until(lambda: bulkhead.waiting == 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with started(threading.Thread(target=send)), pytest.raises(KeyboardInterrupt):
            bulkhead.call(int)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (bulkhead.in_flight, bulkhead.waiting) == (1, 0)


# -- how long -----------------------------------------------------------------------------


def test_a_thread_that_has_waited_in_vain_is_told_so():
    bulkhead = Bulkhead(1, queue=1, max_wait=0.001, name="gpu")
    with bulkhead, pytest.raises(BulkheadFull, match="no place within") as full:
        bulkhead.call(int)
    assert full.value.waited > 0
    assert (bulkhead.rejected, empty(bulkhead)) == (1, True)


def test_a_task_that_has_waited_in_vain_is_told_so():
    bulkhead = Bulkhead(1, queue=1, max_wait=0.001)

    async def main():
        async with bulkhead:
            with pytest.raises(BulkheadFull, match="no place within"):
                await bulkhead.acall(asyncio.sleep, 0)

    asyncio.run(main())
    assert (bulkhead.rejected, empty(bulkhead)) == (1, True)


@pytest.mark.parametrize("max_wait", [None, 60.0])
def test_nobody_waits_longer_than_the_request_has(max_wait):
    bulkhead = Bulkhead(1, queue=1, max_wait=max_wait)
    with bulkhead, Deadline(0.001), pytest.raises(BulkheadFull, match="no place within"):
        bulkhead.call(int)
    clock = ManualClock()
    with bulkhead, Deadline(1.0, clock=clock):
        clock.advance(2.0)
        with pytest.raises(BulkheadFull):
            bulkhead.call(int)
    assert empty(bulkhead)


def test_the_shorter_of_deadline_and_patience_counts():
    clock = ManualClock()
    bulkhead = Bulkhead(1, queue=1, max_wait=2.0)
    bulkhead.enter()
    for seconds, expected in ((1.0, 1.0), (3.0, 2.0)):
        with Deadline(seconds, clock=clock):
            caller = Caller(bulkhead)
            assert caller.wait.timeout == expected
            caller.steps.close()


def test_a_plain_call_in_an_event_loop_is_rejected_rather_than_queued():
    bulkhead = Bulkhead(1, queue=10)

    async def main():
        async with bulkhead:
            # To wait here would stop the very task that holds the place.
            with pytest.raises(BulkheadFull):
                bulkhead.call(int)
            with pytest.raises(BulkheadFull), bulkhead:
                pass
        return bulkhead.call(int)

    assert asyncio.run(main()) == 0
    assert empty(bulkhead)


# -- every form waits ---------------------------------------------------------------------


def plain(bulkhead):
    return bulkhead(lambda: ["a", "b"])()


def generator(bulkhead):
    @bulkhead
    def items():
        yield "a"
        yield "b"

    return list(items())


def block(bulkhead):
    with bulkhead:
        return ["a", "b"]


def flow(bulkhead):
    return run(protect(bulkhead, Invoke(list, ("ab",))))


async def coroutine(bulkhead):
    @bulkhead
    async def items():
        return ["a", "b"]

    return await items()


async def async_generator(bulkhead):
    @bulkhead
    async def items():
        yield "a"
        yield "b"

    return [item async for item in items()]


async def async_block(bulkhead):
    async with bulkhead:
        return ["a", "b"]


async def single(bulkhead):
    async def items():
        return ["a", "b"]

    return await bulkhead.acall(items)


@pytest.mark.parametrize("form", [plain, generator, block, flow])
def test_every_plain_form_waits_for_its_place(form):
    bulkhead = Bulkhead(1, queue=1)
    bulkhead.enter()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(form, bulkhead)
        until(lambda: bulkhead.waiting == 1)
        assert not answer.done()
        bulkhead.leave(None, None)
        assert answer.result(30) == ["a", "b"]
    assert empty(bulkhead)


@pytest.mark.parametrize("form", [coroutine, async_generator, async_block, single])
def test_every_awaiting_form_waits_for_its_place(form):
    bulkhead = Bulkhead(1, queue=1)

    async def main():
        await bulkhead.aenter()
        answer = asyncio.create_task(form(bulkhead))
        await auntil(lambda: bulkhead.waiting == 1)
        bulkhead.leave(None, None)
        return await answer

    assert asyncio.run(main()) == ["a", "b"]
    assert empty(bulkhead)
