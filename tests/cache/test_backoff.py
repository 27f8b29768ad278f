import asyncio

import pytest

from prodml.cache import Backoff
from prodml.errors import BadConfiguration, CircuitOpen, RateLimited
from prodml.testing import ManualClock, check_guard


def _fails(backoff, error=None):
    with pytest.raises(type(error or ConnectionError())):
        with backoff:
            raise error or ConnectionError


def test_it_keeps_the_contract_of_guards():
    check_guard(Backoff)


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
