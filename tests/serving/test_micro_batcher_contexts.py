"""Whose context variables the model sees, and whose the callers keep."""

import asyncio
import threading
from contextvars import ContextVar

import pytest
from tests.serving.held import Held, Queue

from prodml.serving import MicroBatcher

WHO = ContextVar("who", default="nobody")


def seeing(seen, held=None):
    def model(rows):
        seen.append(WHO.get())
        WHO.set("the model")
        return rows if held is None else held(rows)

    return model


def as_somebody(name, call, *args):
    WHO.set(name)
    answer = call(*args)
    return WHO.get(), answer


def test_the_model_sees_the_context_that_the_batcher_was_made_in():
    seen = []
    token = WHO.set("the maker")
    try:
        batcher = MicroBatcher(seeing(seen))
    finally:
        WHO.reset(token)
    WHO.set("somebody")
    try:
        assert batcher.predict(1) == 1
        assert WHO.get() == "somebody"
        assert batcher.submit_many([1, 2]) == [1, 2]
    finally:
        WHO.set("nobody")
    # And nothing of what it sets is left for the next batch.
    assert seen == ["the maker"] * 2


def test_threads_keep_their_own():
    seen, held = [], Held()
    batcher = MicroBatcher(seeing(seen, held))
    queue = Queue(batcher, held)
    waiting = [queue.add(as_somebody, f"t{n}", batcher.predict, n) for n in range(5)]
    queue.go()
    assert [future.result(20.0) for future in waiting] == [(f"t{n}", n * 2) for n in range(5)]
    assert seen == ["nobody"] * 2


@pytest.mark.parametrize("inline", [float("inf"), 0.0])
def test_tasks_keep_their_own(inline):
    seen = []
    batcher = MicroBatcher(seeing(seen), inline=inline)

    async def one(number):
        WHO.set(f"task {number}")
        answer = await batcher.apredict(number)
        return WHO.get(), answer

    async def main():
        return await asyncio.gather(*(asyncio.create_task(one(n)) for n in range(10)))

    for _ in range(2):
        assert asyncio.run(main()) == [(f"task {n}", n) for n in range(10)]
    # Not even what the model itself has set in the batch before.
    assert set(seen) == {"nobody"}


def test_a_thread_local_is_whose_thread_it_is():
    local = threading.local()
    batcher = MicroBatcher(lambda rows: [getattr(local, "name", None) for _ in rows])
    local.name = "mine"
    assert batcher.predict(1) == "mine"
