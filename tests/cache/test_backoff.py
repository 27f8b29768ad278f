import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodml.cache import Backoff
from prodml.errors import BadConfiguration, CircuitOpen, RateLimited
from prodml.testing import ManualClock, check_guard


def _fails(backoff, error=None):
    with pytest.raises(type(error or ConnectionError())):
        with backoff:
            raise error or ConnectionError


def test_it_keeps_the_contract_of_guards():
    check_guard(lambda: Backoff(failure_threshold=1000))


def test_by_default_one_failure_starts_a_pause():
    backoff = Backoff()
    assert not backoff.down
    _fails(backoff)
    assert backoff.down
    with pytest.raises(CircuitOpen):
        backoff.enter()


def test_whoever_only_looks_does_not_use_up_the_try():
    clock = ManualClock()
    backoff = Backoff(clock=clock)
    _fails(backoff)
    clock.advance(1.0)
    assert not backoff.down
    assert not backoff.down
    backoff.enter()
    # The try is under way: all others skip.
    assert backoff.down
    backoff.leave(None, "answer")
    assert not backoff.down


def test_of_many_threads_one_tries():
    clock = ManualClock()
    backoff = Backoff(clock=clock)
    _fails(backoff)
    start = threading.Barrier(8)

    def tries(_):
        start.wait()
        try:
            backoff.enter()
        except CircuitOpen:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        for _ in range(50):
            clock.advance(1.0)
            assert sum(pool.map(tries, range(8))) == 1


def test_failures_in_a_row_start_a_pause_and_one_try_ends_it():
    clock = ManualClock()
    backoff = Backoff(failure_threshold=2, pause=1.0, clock=clock)
    _fails(backoff)
    _fails(backoff)
    with pytest.raises(CircuitOpen) as caught:
        backoff.enter()
    assert caught.value.retry_after == 1.0
    clock.advance(1.0)
    assert backoff.call(abs, -1) == 1
    assert backoff.call(abs, -2) == 2


def test_one_caller_tries_after_a_pause_and_the_others_go_on_skipping():
    clock = ManualClock()
    backoff = Backoff(failure_threshold=1, clock=clock)
    _fails(backoff)
    clock.advance(1.0)
    backoff.enter()
    with pytest.raises(CircuitOpen):
        backoff.enter()


def test_a_success_starts_the_count_anew():
    backoff = Backoff(failure_threshold=2)
    _fails(backoff)
    backoff.call(abs, 1)
    _fails(backoff)
    assert backoff.call(abs, 1) == 1


@pytest.mark.parametrize("error", [RateLimited("x", 1.0), KeyboardInterrupt()])
def test_rejected_and_abandoned_calls_say_nothing_about_the_store(error):
    backoff = Backoff(failure_threshold=1)
    _fails(backoff, error)
    assert backoff.call(abs, 1) == 1


def test_tasks_use_it_too():
    async def main():
        async with Backoff():
            return 1

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize("settings", [{"failure_threshold": 0}, {"pause": 0.0}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(BadConfiguration, match=next(iter(settings))):
        Backoff(**settings)
