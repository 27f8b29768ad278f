import asyncio
import threading

import pytest

from prodml.errors import BadConfiguration, BulkheadFull
from prodml.resilience import Bulkhead


def test_a_full_bulkhead_rejects_at_once():
    bulkhead = Bulkhead(2, name="gpu")
    with bulkhead, bulkhead:
        with pytest.raises(BulkheadFull) as full:
            bulkhead.call(int)
        assert (full.value.name, full.value.limit) == ("gpu", 2)
        assert bulkhead.in_flight == 2
    assert (bulkhead.in_flight, bulkhead.rejected) == (0, 1)


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_place_is_free_again_however_the_call_ends(error):
    bulkhead = Bulkhead(1)

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


def test_threads_never_exceed_the_limit():
    bulkhead, start, inside, most = Bulkhead(3), threading.Barrier(16), [], []

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

    threads = [threading.Thread(target=hammer) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    assert bulkhead.in_flight == 0


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_a_limit_is_a_positive_whole_number(limit):
    with pytest.raises(BadConfiguration, match="limit"):
        Bulkhead(limit)
