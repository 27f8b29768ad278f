"""Bells: woken from anywhere, never missed, rung twice is rung once."""

import asyncio
import threading
import time

import pytest

from prodml._call.turns import TaskBell, ThreadBell, ring


def test_a_thread_is_woken_from_another():
    bell = ThreadBell()
    threading.Timer(0.01, ring, [[bell]]).start()
    bell.wait(None)


def test_a_ring_before_the_wait_is_not_lost_and_two_are_one():
    bell = ThreadBell()
    ring([bell, bell])
    bell.wait(None)
    began = time.monotonic()
    bell.wait(0.02)
    assert time.monotonic() - began >= 0.015


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001])
def test_a_thread_waits_no_longer_than_it_may(seconds):
    ThreadBell().wait(seconds)


def test_no_wait_is_too_long_for_the_machine():
    bell = ThreadBell()
    ring([bell])
    bell.wait(1e300)


def woken(ringing):
    """How long a task sleeps by a bell that ``ringing(bell)`` is to ring."""

    async def main():
        bell = TaskBell(asyncio.get_running_loop())
        ringing(bell)
        await asyncio.wait_for(bell.wait(None), 10.0)
        # Nothing has been left over: the next wait waits.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bell.wait(None), 0.01)

    asyncio.run(main())


def test_a_task_is_woken_from_its_loop():
    woken(lambda bell: bell.home.call_soon(ring, [bell]))


def test_a_task_is_woken_from_another_thread():
    def from_thread(bell):
        threading.Timer(0.01, ring, [[bell]]).start()

    woken(from_thread)


def test_a_task_is_woken_from_another_loop():
    async def other(bell):
        ring([bell])

    def from_loop(bell):
        threading.Timer(0.01, lambda: asyncio.run(other(bell))).start()

    woken(from_loop)


def test_a_ring_before_the_wait_of_a_task_is_not_lost():
    woken(lambda bell: ring([bell, bell]))


def test_a_task_that_was_rung_already_lets_others_run_all_the_same():
    ran = []

    async def main():
        loop = asyncio.get_running_loop()
        bell = TaskBell(loop)
        ring([bell])
        loop.call_soon(ran.append, "other")
        await bell.wait(None)
        return list(ran)

    assert asyncio.run(main()) == ["other"]


def test_a_task_waits_no_longer_than_it_may():
    async def main():
        bell = TaskBell(asyncio.get_running_loop())
        await bell.wait(0.005)
        await bell.wait(-1.0)

    asyncio.run(asyncio.wait_for(main(), 10.0))


def test_a_timer_that_is_not_needed_any_more_rings_no_bell():
    async def main():
        loop = asyncio.get_running_loop()
        bell = TaskBell(loop)
        loop.call_soon(ring, [bell])
        await bell.wait(0.01)
        bell.still()
        await asyncio.sleep(0.02)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bell.wait(None), 0.01)

    asyncio.run(main())


def test_a_closed_loop_is_passed_over():
    loop = asyncio.new_event_loop()
    lost, bell = TaskBell(loop), ThreadBell()
    loop.close()
    ring([lost, bell])
    bell.wait(None)


def test_tasks_of_one_loop_are_woken_by_one_call():
    async def main():
        loop = asyncio.get_running_loop()
        bells = [TaskBell(loop) for _ in range(20)]
        calls, original = [], loop.call_soon_threadsafe

        def counted(*args, **kwargs):
            calls.append(args)
            return original(*args, **kwargs)

        waiting = [asyncio.ensure_future(bell.wait(None)) for bell in bells]
        loop.call_soon_threadsafe = counted
        try:
            thread = threading.Thread(target=ring, args=[bells])
            thread.start()
            await asyncio.gather(*waiting)
            thread.join()
        finally:
            del loop.call_soon_threadsafe
        return len(calls)

    assert asyncio.run(main()) == 1
