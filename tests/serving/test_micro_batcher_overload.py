"""Who is let in, who is refused, and what becomes of those who come too late."""

import asyncio

import pytest
from tests.serving.held import Held, Queue, until

from prodml._deadline import CURRENT, remaining
from prodml.errors import DeadlineExceeded, Overloaded, Rejected
from prodml.resilience import Deadline
from prodml.serving import MicroBatcher
from prodml.testing import ManualClock


class Slow:
    """Takes 10 ms and 1 ms a row, on a clock of its own."""

    def __init__(self, clock):
        self.clock, self.held, self.hold = clock, Held(), False

    def __call__(self, rows):
        if self.hold:
            return self.held(rows)
        self.clock.advance(0.010 + 0.001 * len(rows))
        return list(rows)


def taught(**settings):
    """A batcher that knows what its model takes; then the model is held."""
    clock = ManualClock()
    slow = Slow(clock)
    batcher = MicroBatcher(slow, clock=clock, max_rows=10, name="churn", **settings)
    for rows in [1, 10] * 10:
        batcher.submit_many(range(rows))
    slow.hold = True
    return batcher, slow, clock


def test_the_wait_is_predicted_from_what_batches_took():
    batcher, slow, clock = taught()
    assert batcher.stats().predicted_wait == 0.0
    queue = Queue(batcher, slow.held)
    # The batch of one that runs takes 11 ms in all; one of ten takes 20.
    assert batcher.stats().predicted_wait == pytest.approx(0.011, rel=0.01)
    clock.advance(0.004)
    assert batcher.stats().predicted_wait == pytest.approx(0.007, rel=0.01)
    queue.rows(*range(9))
    assert batcher.stats().predicted_wait == pytest.approx(0.007, rel=0.01)
    queue.rows(9)
    assert batcher.stats().predicted_wait == pytest.approx(0.027, rel=0.01)
    queue.rows(*range(10))
    assert batcher.stats().predicted_wait == pytest.approx(0.047, rel=0.01)
    queue.go()


def test_who_would_wait_too_long_is_refused_and_told_when_to_come_again():
    batcher, slow, _ = taught(budget=0.025)
    queue = Queue(batcher, slow.held)
    waiting = queue.rows(*range(10))
    with pytest.raises(Overloaded) as caught:
        batcher.predict(7)
    error = caught.value
    assert error.name == "churn"
    assert error.waiting == 10
    assert error.budget == 0.025
    assert error.wait == pytest.approx(0.031, rel=0.01)
    assert error.retry_after == pytest.approx(0.006, rel=0.05)
    assert isinstance(error, Rejected)
    with pytest.raises(Overloaded):
        asyncio.run(batcher.apredict(7))
    assert batcher.stats().shed == 2
    queue.go()
    assert [future.result(20.0) for future in waiting] == [row * 2 for row in range(10)]


def test_whose_last_row_would_wait_too_long_is_refused():
    batcher, slow, _ = taught(budget=0.025)
    queue = Queue(batcher, slow.held)
    with pytest.raises(Overloaded):
        batcher.submit_many(range(11))
    assert queue.add(batcher.submit_many, range(10), rows=10)
    queue.go()


def test_a_model_that_hangs_is_seen_while_it_hangs():
    batcher, slow, clock = taught(budget=0.025)
    queue = Queue(batcher, slow.held)
    queue.rows(1)
    clock.advance(0.011 + 0.026)
    with pytest.raises(Overloaded):
        batcher.predict(2)
    queue.go()


def test_nobody_is_refused_while_nobody_is_about():
    clock = ManualClock()
    slow = Slow(clock)
    batcher = MicroBatcher(slow, clock=clock, budget=0.0, max_queue=1)
    assert [batcher.predict(row) for row in range(50)] == list(range(50))
    assert batcher.submit_many(range(200)) == list(range(200))
    assert batcher.stats().shed == 0


def test_a_full_queue_refuses_whoever_does_not_fit():
    batcher, slow, _ = taught(max_queue=5)
    queue = Queue(batcher, slow.held)
    three = queue.add(batcher.submit_many, [1, 2, 3], rows=3)
    with pytest.raises(Overloaded, match="3 rows waiting, the queue is full") as caught:
        batcher.submit_many([1, 2, 3])
    assert caught.value.budget is None
    assert caught.value.retry_after == pytest.approx(0.011, rel=0.01)
    two = queue.add(batcher.submit_many, [4, 5], rows=2)
    with pytest.raises(Overloaded):
        batcher.predict(1)
    assert batcher.stats().shed == 2
    queue.go()
    assert (three.result(20.0), two.result(20.0)) == ([2, 4, 6], [8, 10])


def test_tasks_fill_the_queue_too():
    batcher = MicroBatcher(lambda rows: rows, max_queue=5)

    async def main():
        calls = (batcher.apredict(row) for row in range(8))
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(main())
    assert answers[:5] == list(range(5))
    assert [type(answer) for answer in answers[5:]] == [Overloaded] * 3


# -- deadlines ----------------------------------------------------------------------------


def within(clock, seconds, call, *args):
    """Make a call that has so many seconds of ``clock``."""
    with Deadline(seconds, clock=clock):
        return call(*args)


def test_who_is_too_late_already_is_not_let_in():
    clock = ManualClock()
    batcher = MicroBatcher(lambda rows: rows, clock=clock)

    def late():
        clock.advance(2.0)
        with pytest.raises(DeadlineExceeded) as caught:
            batcher.predict(1)
        assert not caught.value.begun

    within(clock, 1.0, late)
    assert batcher.stats().rows == 0


def test_a_row_whose_time_is_over_before_its_batch_begins_is_not_computed():
    clock = ManualClock()
    held = Held()
    batcher = MicroBatcher(held, clock=clock, name="churn")
    queue = Queue(batcher, held)
    # One of them is called when the turn is free, the other is found in the line.
    first = queue.add(within, clock, 50.0, batcher.predict, 1)
    patient = queue.add(within, clock, 500.0, batcher.predict, 2)
    second = queue.add(within, clock, 50.0, batcher.predict, 3)
    clock.advance(60.0)
    queue.go()
    for hurried in (first, second):
        with pytest.raises(DeadlineExceeded, match="churn exceeded its 50 s") as caught:
            hurried.result(20.0)
        assert not caught.value.begun
    assert patient.result(20.0) == 4
    assert held.calls == [[0], [2]]
    assert batcher.stats().late == 2
    assert batcher.stats().rows == 2


@pytest.mark.parametrize("awaiting", [False, True])
def test_nobody_waits_longer_than_he_has(awaiting):
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)

    def call():
        with Deadline(0.02):
            return asyncio.run(batcher.apredict(1)) if awaiting else batcher.predict(1)

    with pytest.raises(DeadlineExceeded) as caught:
        call()
    assert not caught.value.begun
    assert batcher.stats().waiting == 0
    queue.go()
    assert held.calls == [[0]]


def test_nor_for_a_batch_that_has_begun():
    held = Held()
    batcher = MicroBatcher(held)
    other = Held()
    queue = Queue(batcher, held)
    waiting = queue.add(lambda: within(batcher.clock, 0.1, batcher.predict, 1))
    batcher._desk.router._ask = other
    queue.add(batcher.predict, 2)
    queue.go()
    assert other.entered.wait(20.0)
    assert other.calls == [[1, 2]]
    # The first of them leads and cannot be stopped; a follower gives up in time.
    other.go.set()
    assert waiting.result(20.0) == 2


def test_a_follower_gives_up_while_his_row_is_computed():
    first, second = Held(), Held()
    models = iter([first, second])
    model = next(models)
    batcher = MicroBatcher(lambda rows: model(rows))
    queue = Queue(batcher, first)
    leader = queue.add(batcher.predict, 1)
    follower = queue.add(within, batcher.clock, 0.2, batcher.predict, 2)
    model = next(models)
    queue.go()
    assert second.entered.wait(20.0)
    with pytest.raises(DeadlineExceeded) as caught:
        follower.result(20.0)
    assert caught.value.begun
    second.go.set()
    assert leader.result(20.0) == 2


def test_who_would_only_wait_in_vain_is_refused_at_once():
    batcher, slow, clock = taught()
    queue = Queue(batcher, slow.held)
    queue.rows(*range(10))
    with pytest.raises(Overloaded) as caught:
        within(clock, 0.030, batcher.predict, 1)
    assert caught.value.budget == pytest.approx(0.030)
    queue.add(within, clock, 0.040, batcher.predict, 1)
    queue.go()


def test_the_model_has_as_long_as_the_most_patient():
    clock = ManualClock()
    held, seen = Held(), []

    def model(rows):
        seen.append(remaining())
        return held(rows)

    batcher = MicroBatcher(model, clock=clock)
    queue = Queue(batcher, held)
    queue.add(within, clock, 50.0, batcher.predict, 1)
    queue.add(within, clock, 70.0, batcher.predict, 2)
    queue.go()
    until(lambda: len(seen) == 2)
    assert seen == [None, 70.0]
    assert within(clock, 5.0, batcher.predict, 3) == 6
    assert seen[2:] == [5.0]


def test_and_as_long_as_it_likes_if_one_has_no_deadline():
    clock = ManualClock()
    held, seen = Held(), []

    def model(rows):
        seen.append(CURRENT.get())
        return held(rows)

    batcher = within(clock, 1.0, lambda: MicroBatcher(model, clock=clock))
    queue = Queue(batcher, held)
    queue.add(within, clock, 50.0, batcher.predict, 1)
    queue.rows(2)
    queue.go()
    until(lambda: len(seen) == 2)
    assert seen == [None, None]


def test_a_task_that_goes_away_leaves_no_timer_behind():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)

    async def main():
        with Deadline(1000.0):
            task = asyncio.ensure_future(batcher.apredict(1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        loop = asyncio.get_running_loop()
        return [timer for timer in loop._scheduled if not timer.cancelled()]

    assert asyncio.run(main()) == []
    queue.go()
