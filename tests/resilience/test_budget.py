import threading

import pytest

from prodml.errors import BadConfiguration
from prodml.resilience import Retry, RetryBudget


def test_ten_calls_earn_one_retry_at_a_ratio_of_a_tenth(clock):
    budget = RetryBudget(ratio=0.1, floor=0.0, clock=clock)
    for _ in range(9):
        budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    assert not budget.withdraw()
    assert budget.refused == 2


def test_the_floor_earns_with_time(clock):
    budget = RetryBudget(floor=2.0, clock=clock)
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    clock.advance(0.5)
    assert [budget.withdraw() for _ in range(2)] == [True, False]


def test_nothing_is_saved_beyond_the_burst(clock):
    budget = RetryBudget(burst=3.0, clock=clock)
    clock.advance(1000.0)
    budget.deposit()
    assert budget.balance == 3.0


def test_a_dead_dependency_sees_a_tenth_more_calls_and_no_more(clock):
    attempts = []

    def dead():
        attempts.append(1)
        raise ConnectionError

    budget = RetryBudget(ratio=0.1, floor=1.0, clock=clock)
    retry = Retry(attempts=3, wait=0.0, budget=budget, clock=clock)(dead)
    for _ in range(1000):
        with pytest.raises(ConnectionError):
            retry()
    assert 1000 < len(attempts) <= 1000 + 100 + 1


def test_threads_share_it_exactly(clock):
    budget = RetryBudget(ratio=1.0, floor=0.0, burst=800.0, clock=clock)
    granted, start = [], threading.Barrier(8)

    def use():
        start.wait()
        for _ in range(100):
            budget.deposit()
        granted.append(sum(budget.withdraw() for _ in range(200)))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) + round(budget.balance) == 800


@pytest.mark.parametrize(
    "settings", [{"ratio": 0.0}, {"ratio": 2}, {"floor": -1.0}, {"burst": 0.5}], ids=str
)
def test_a_senseless_budget_is_refused(settings):
    with pytest.raises(BadConfiguration, match=next(iter(settings))):
        RetryBudget(**settings)
