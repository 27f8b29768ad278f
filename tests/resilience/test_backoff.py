import math
import random

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.resilience import DecorrelatedJitter, Exponential, FullJitter
from prodml.resilience.backoff import waiting


@given(st.integers(1, 5000), st.integers())
def test_a_wait_never_exceeds_its_bound(attempt, seed):
    wait = FullJitter(base=0.1, cap=3.0, rng=random.Random(seed))(attempt)
    assert 0.0 <= wait <= min(3.0, 0.1 * 2.0 ** min(attempt - 1, 50))


def test_the_same_seed_gives_the_same_waits():
    first, second = (FullJitter(rng=random.Random(7)) for _ in range(2))
    assert [first(n) for n in range(1, 9)] == [second(n) for n in range(1, 9)]


def test_waits_are_uniform_over_the_whole_bound():
    wait = FullJitter(base=1.0, rng=random.Random(7))
    waits = [wait(3) for _ in range(4000)]
    assert sum(waits) / 4000 == pytest.approx(2.0, abs=0.1)
    assert min(waits) < 0.05 < 3.95 < max(waits)


@pytest.mark.parametrize("settings", [{"base": 0}, {"cap": -1}, {"base": float("inf")}], ids=str)
def test_a_wait_needs_positive_times(settings):
    with pytest.raises(BadConfiguration):
        FullJitter(**settings)


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        (2, 2.0),
        (0.5, 0.5),
        (lambda attempt: attempt * 10, 30.0),
        (tenacity.wait_fixed(4), 4.0),
        (tenacity.wait_exponential(multiplier=1), 4.0),
        (tenacity.wait_fixed(1) + tenacity.wait_incrementing(start=1, increment=1), 4.0),
        (tenacity.wait_chain(*[tenacity.wait_fixed(n) for n in (5, 6, 7)]), 7.0),
        (tenacity.wait_exception(lambda error: error.args[0]), 9.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wait_is_a_number_a_function_or_a_strategy(wait, seconds):
    assert waiting(wait)(3, ValueError(9), 0.0) == seconds


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf"), "1", None], ids=repr)
def test_another_wait_is_refused(wait):
    with pytest.raises(BadConfiguration, match="wait must be"):
        waiting(wait)


@given(st.integers(1, 5000), st.floats(0.0, 0.9), st.integers())
def test_exponential_times_grow_within_jitter_up_to_the_cap(attempt, jitter, seed):
    growing = Exponential(0.5, factor=1.5, cap=40.0, jitter=jitter, rng=random.Random(seed))
    plain = 40.0 if attempt > 20 else min(40.0, 0.5 * 1.5 ** (attempt - 1))
    assert plain * (1 - jitter) * (1 - 1e-9) <= growing(attempt)
    assert growing(attempt) <= min(40.0, plain * (1 + jitter) * (1 + 1e-9))


def test_a_factor_of_one_stays():
    assert [Exponential(2.0, factor=1.0, jitter=0.0)(n) for n in (1, 2, 10_000)] == [2.0] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {"base": 0.0},
        {"base": 10.0, "cap": 5.0},
        {"base": 1.0, "factor": 0.5},
        {"base": 1.0, "factor": math.inf},
        {"base": 1.0, "jitter": 1.0},
        {"base": 1.0, "jitter": -0.1},
    ],
)
def test_senseless_growth_is_refused(settings):
    with pytest.raises(BadConfiguration):
        Exponential(**settings)


@given(st.floats(0.0, 100.0), st.integers())
def test_a_decorrelated_wait_lies_between_base_and_three_times_the_last(before, seed):
    wait = DecorrelatedJitter(base=0.2, cap=30.0, rng=random.Random(seed))
    assert 0.2 <= wait(1, before) <= min(30.0, 3 * max(before, 0.2))


def test_decorrelated_waits_need_room():
    with pytest.raises(BadConfiguration):
        DecorrelatedJitter(base=2.0, cap=1.0)
