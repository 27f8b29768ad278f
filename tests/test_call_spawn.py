import asyncio
import os
import threading
import time

import pytest

from prodml._call import Invoke, Spawn, arun, run
from prodml._call.spawn import BEHIND, Background
from prodml._deadline import narrow, remaining, restore
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BulkheadFull


def beginning(make):
    """Flow that spawns ``make`` and tells what came of that."""
    outcome = yield Spawn(make)
    return outcome, None


def calling(fn):
    def make():
        return (yield Invoke(fn))

    return make


def _settled():
    while len(BEHIND):
        time.sleep(0.001)


def test_a_thread_goes_on_at_once():
    go, done = threading.Event(), threading.Event()

    def slow():
        go.wait(10)
        done.set()

    assert run(beginning(calling(slow))) == (None, None)
    assert not done.is_set()
    go.set()
    assert done.wait(10)
    _settled()


def test_a_task_goes_on_at_once():
    async def main():
        go, heard = asyncio.Event(), []

        async def slow():
            await go.wait()
            heard.append("done")

        assert await arun(beginning(calling(slow))) == (None, None)
        assert heard == []
        go.set()
        while len(BEHIND):
            await asyncio.sleep(0)
        return heard

    assert asyncio.run(main()) == ["done"]


def test_the_requests_deadline_stays_behind():
    heard = []
    reset = narrow(5.0, SYSTEM_CLOCK)
    run(beginning(calling(lambda: heard.append(remaining()))))
    _settled()

    async def main():
        await arun(beginning(calling(lambda: heard.append(remaining()))))
        left = remaining()
        while len(BEHIND):
            await asyncio.sleep(0)
        return left

    assert asyncio.run(main()) is not None
    assert remaining() is not None
    restore(reset)
    assert heard == [None, None]


def test_errors_are_reported_and_reach_nobody(caplog):
    def fail():
        raise ValueError("behind")

    assert run(beginning(calling(fail))) == (None, None)
    _settled()

    async def main():
        await arun(beginning(calling(fail)))
        while len(BEHIND):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert caplog.text.count("ValueError: behind") == 2


def test_too_many_are_refused_as_an_outcome(monkeypatch):
    monkeypatch.setattr(BEHIND, "most", 0)
    made = []
    result, error = run(beginning(made.append))
    assert result is None
    assert isinstance(error, BulkheadFull)
    assert isinstance(asyncio.run(arun(beginning(made.append)))[1], BulkheadFull)
    assert made == []


def test_tasks_of_a_loop_that_is_closed_take_no_place():
    background = Background(most=1)

    async def never():
        await asyncio.sleep(3600)

    async def begin():
        background.aspawn(never)
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    tasks = asyncio.all_tasks(loop)
    with pytest.raises(BulkheadFull):
        background.spawn(print)
    for task in tasks:
        # Closed without having been cancelled: the loop is gone, and so is the task.
        task._log_destroy_pending = False
    loop.close()
    background.spawn(threading.Event)
    while len(background):
        time.sleep(0.001)


def test_a_loop_that_ends_closes_the_flow():
    heard = []

    def make():
        try:
            yield Invoke(lambda: asyncio.sleep(3600))
        finally:
            heard.append("closed")
        return None, None

    async def main():
        await arun(beginning(make))
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert heard == ["closed"]
    assert len(BEHIND) == 0


def test_a_forked_child_begins_with_nothing_under_way():
    go = threading.Event()
    run(beginning(calling(lambda: go.wait(10))))
    child = os.fork()
    if not child:
        os._exit(len(BEHIND))
    assert os.waitpid(child, 0)[1] == 0
    go.set()
    _settled()


def test_no_worker_no_place(monkeypatch):
    from prodml._workers import WORKERS

    def refuse(*_args):
        raise BulkheadFull("timeout workers", 0)

    background = Background()
    monkeypatch.setattr(WORKERS, "submit", refuse)
    with pytest.raises(BulkheadFull):
        background.spawn(print)
    assert len(background) == 0
