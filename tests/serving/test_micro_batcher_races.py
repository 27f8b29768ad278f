"""Real threads and event loops: nobody is lost, whoever goes away."""

import asyncio
import random
import sys
import threading

import pytest
from tests.serving.held import Held, Queue, start, until

from prodml.serving import MicroBatcher


@pytest.fixture
def _switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


# -- going away ---------------------------------------------------------------------------


def test_a_cancelled_task_leaves_the_line():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)

    async def main():
        tasks = [asyncio.ensure_future(batcher.apredict(row)) for row in (1, 2, 3)]
        await asyncio.sleep(0.001)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert batcher.stats().waiting == 2
        queue.held.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    two, cancelled, six = asyncio.run(main())
    assert (two, six) == (2, 6)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert held.calls == [[0], [1, 3]]


def test_a_cancelled_task_that_was_to_lead_leaves_it_to_the_next():
    batcher = MicroBatcher(lambda rows: rows)

    async def main():
        first = asyncio.ensure_future(batcher.apredict(1))
        rest = [asyncio.ensure_future(batcher.apredict(row)) for row in (2, 3)]
        # They stand in line, and the first lets others come.
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.wait_for(asyncio.gather(*rest), 20.0)

    assert asyncio.run(main()) == [2, 3]


def test_the_row_of_a_task_that_is_cancelled_while_it_is_computed_is_dropped():
    first, second = Held(), Held()
    now = [first]
    batcher = MicroBatcher(lambda rows: now[0](rows))
    queue = Queue(batcher, first)
    leader = queue.add(batcher.predict, 1)
    now[0] = second

    async def main():
        task = asyncio.ensure_future(batcher.apredict(2))
        await asyncio.sleep(0)
        # The thread stands before it, but is not the only one that is called.
        assert batcher.stats().waiting == 2
        batcher._desk.line.waiting[1].called = False
        first.go.set()
        while not second.entered.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    inline, batcher._desk.inline = batcher._desk.inline, 0.0
    assert asyncio.run(main())
    batcher._desk.inline = inline
    assert second.calls == [[1, 2]]
    second.go.set()
    assert leader.result(20.0) == 2
    assert batcher.predict(3) == 6


def test_a_coroutine_that_is_never_run_holds_no_place():
    batcher = MicroBatcher(lambda rows: rows)
    batcher.apredict(1).close()
    assert batcher.stats().waiting == 0


def test_a_loop_that_is_stopped_with_tasks_in_line_holds_nobody_up():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)
    loop = asyncio.new_event_loop()
    stuck = [loop.create_task(batcher.apredict(row)) for row in (1, 2)]
    loop.run_until_complete(asyncio.sleep(0.001))
    # It runs no more; its tasks stand first in line.
    plain = queue.add(batcher.predict, 3)
    queue.go()
    assert plain.result(20.0) == 6
    assert batcher.predict(4) == 8
    assert held.calls[1] == [1, 2, 3]
    assert loop.run_until_complete(asyncio.gather(*stuck)) == [2, 4]
    loop.close()


def test_a_loop_that_is_closed_with_tasks_in_line_holds_nobody_up():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)
    loop = asyncio.new_event_loop()
    stuck = loop.create_task(batcher.apredict(1))
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    plain = queue.add(batcher.predict, 3)
    queue.go()
    assert plain.result(20.0) == 6
    stuck._log_destroy_pending = False
    del stuck


# -- leaders that die ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_who_is_interrupted_while_he_works_for_others_hands_over(kind):
    first, second = Held(), Held(error=kind("stop"))
    now = [first]
    batcher = MicroBatcher(lambda rows: now[0](rows))
    queue = Queue(batcher, first)
    waiting = queue.rows(1, 2, 3)
    now[0] = second
    queue.go()
    assert second.entered.wait(20.0)
    late = queue.add(batcher.predict, 4)
    second.go.set()
    with pytest.raises(kind, match="stop"):
        waiting[0].result(20.0)
    assert [future.result(20.0) for future in (*waiting[1:], late)] == [4, 6, 8]
    # In front again, in their order, before whoever came meanwhile.
    assert second.calls == [[1, 2, 3], [2, 3, 4]]
    stats = batcher.stats()
    assert (stats.waiting, stats.failed) == (0, 0)


def test_every_leader_is_interrupted_and_yet_all_come_to_an_end():
    held = Held()

    def model(rows):
        if rows == [0]:
            return held(rows)
        raise SystemExit(rows[0])

    batcher = MicroBatcher(model)
    queue = Queue(batcher, held)
    waiting = queue.rows(1, 2, 3, 4)
    queue.go()
    for row, future in enumerate(waiting, start=1):
        with pytest.raises(SystemExit) as caught:
            future.result(20.0)
        assert caught.value.code == row


def test_who_is_alone_and_interrupted_gives_the_turn_back():
    error = [KeyboardInterrupt()]

    def model(rows):
        if error:
            raise error.pop()
        return rows

    batcher = MicroBatcher(model)
    with pytest.raises(KeyboardInterrupt):
        batcher.predict(1)
    assert batcher.predict(1) == 1


def test_on_a_worker_an_exit_is_an_error_of_the_batch():
    batcher = MicroBatcher(lambda rows: sys.exit(3), inline=0.0)

    async def main():
        calls = (batcher.apredict(row) for row in range(3))
        return await asyncio.gather(*calls, return_exceptions=True)

    errors = asyncio.run(main())
    assert [str(error) for error in errors] == ["the model raised SystemExit(3)"] * 3
    assert {type(error) for error in errors} == {RuntimeError}


def test_an_interrupted_waiter_goes_away_and_the_others_stay():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)
    desk = batcher._desk
    gone = threading.Event()

    def interrupted():
        request = desk.enter((1,), None, None, None, awaiting=False)
        patience, calls = desk.patience, []

        class Desk:
            join, advance, leave = desk.join, desk.advance, desk.leave

            def patience(self, seat):
                calls.append(patience(seat))
                gone.wait(20.0)
                raise KeyboardInterrupt

        from prodml._call.turns import take_turns

        take_turns(Desk(), request)

    first = queue.add(interrupted)
    second = queue.add(batcher.predict, 2)
    queue.held.go.set()
    # It was called, but goes away: the call is passed on.
    until(lambda: batcher._desk.line.turn is None)
    gone.set()
    with pytest.raises(KeyboardInterrupt):
        first.result(20.0)
    assert second.result(20.0) == 4


# -- crowds -------------------------------------------------------------------------------


def crowd(threads, loops, tasks, rounds, *, seed=0, max_rows=8, inline=0.02, going=0.1):
    """Threads and loops hammer one batcher; some rows are poisoned, some tasks cancelled."""
    running, sizes = threading.Lock(), []

    def model(rows):
        # Two batches at once would find the lock taken.
        assert running.acquire(blocking=False)
        try:
            sizes.append(len(rows))
            if any(row[0] == "bad" for row in rows):
                raise ValueError("bad")
            return [("answer", row) for row in rows]
        finally:
            running.release()

    batcher = MicroBatcher(model, max_rows=max_rows, inline=inline)
    ends = {"right": 0, "bad": 0, "gone": 0}
    lock = threading.Lock()

    def count(end):
        with lock:
            ends[end] += 1

    def by_thread(number):
        rng = random.Random((seed, number).__hash__())
        for turn in range(rounds):
            if rng.random() < 0.05:
                with pytest.raises(ValueError, match="bad"):
                    batcher.predict(("bad", number, turn))
                count("bad")
            elif rng.random() < 0.2:
                rows = [("many", number, turn, part) for part in range(rng.randint(1, 12))]
                assert batcher.submit_many(rows) == [("answer", row) for row in rows]
                count("right")
            else:
                row = ("one", number, turn)
                assert batcher.predict(row) == ("answer", row)
                count("right")

    async def by_task(loop, number):
        rng = random.Random((seed, loop, number).__hash__())
        for turn in range(rounds):
            row = ("bad" if rng.random() < 0.05 else "task", loop, number, turn)
            call = asyncio.ensure_future(batcher.apredict(row))
            if rng.random() < going:
                for _ in range(rng.randint(0, 3)):
                    await asyncio.sleep(0)
                call.cancel()
            try:
                assert await call == ("answer", row)
            except ValueError:
                assert row[0] == "bad"
                count("bad")
            except asyncio.CancelledError:
                count("gone")
            else:
                count("right")

    async def by_loop(loop):
        await asyncio.gather(*(by_task(loop, number) for number in range(tasks)))

    futures = [start(by_thread, number) for number in range(threads)]
    futures += [start(lambda n=n: asyncio.run(by_loop(n))) for n in range(loops)]
    for future in futures:
        future.result(100.0)
    assert sum(ends.values()) == rounds * (threads + loops * tasks)
    assert max(sizes) <= max_rows
    stats = batcher.stats()
    assert stats.waiting == 0
    # A worker gives the turn back after the last answer.
    until(lambda: batcher._desk.line.turn is None)
    assert batcher._desk.line._homes == {}
    assert batcher.close(timeout=20.0)
    return ends, stats


@pytest.mark.usefixtures("_switch_often")
@pytest.mark.parametrize(
    ("threads", "loops", "tasks", "inline"),
    [(8, 0, 0, 0.02), (0, 1, 16, 0.02), (0, 3, 8, 0.02), (4, 2, 8, 0.02), (4, 2, 8, 0.0)],
)
def test_a_crowd(threads, loops, tasks, inline):
    ends, _ = crowd(threads, loops, tasks, 300, inline=inline)
    assert ends["right"] > 0


@pytest.mark.soak
@pytest.mark.usefixtures("_switch_often")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("inline", [0.02, 0.0])
def test_many_crowds(seed, inline):
    crowd(8, 3, 16, 2000, seed=seed, inline=inline, max_rows=1 + seed)
