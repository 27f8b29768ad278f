"""What a batch costs: learnt, robust against a pause, quick to believe a change."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.serving.batch_cost import Cost


def learnt(observations):
    cost = Cost()
    for rows, seconds in observations:
        cost.learn(rows, seconds)
    return cost


def test_nothing_is_known_at_first():
    assert Cost().of(64) == 0.0


@pytest.mark.parametrize(("base", "slope"), [(1e-3, 1e-5), (5e-4, 2e-3), (0.0, 1e-3), (0.02, 0.0)])
def test_a_line_is_found(base, slope):
    rng = random.Random(0)
    sizes = [rng.randint(1, 64) for _ in range(200)]
    cost = learnt((n, (base + slope * n) * rng.uniform(0.9, 1.1)) for n in sizes)
    for rows in (1, 16, 64):
        assert cost.of(rows) == pytest.approx(base + slope * rows, rel=0.15, abs=2e-4)


def test_one_size_teaches_no_slope_and_keeps_the_one_that_is_known():
    known = learnt((n, 1e-3 + 1e-4 * n) for n in [1, 64] * 20)
    before = known.of(64)
    for _ in range(1000):
        known.learn(1, 1.1e-3)
    assert known.of(64) == pytest.approx(before, rel=0.05)
    assert learnt([(1, 1e-3)] * 50).of(64) == pytest.approx(1e-3)


def test_the_first_large_batch_teaches_the_slope():
    cost = learnt([(1, 1.1e-3)] * 50 + [(64, 7.4e-3)])
    assert cost.of(64) == pytest.approx(7.4e-3, rel=0.2)
    assert cost.of(1) == pytest.approx(1.1e-3, rel=0.2)


def test_one_pause_moves_little():
    cost = learnt([(8, 1e-3)] * 50)
    cost.learn(8, 10.0)
    assert cost.of(8) <= 1.3e-3


def test_a_model_that_has_become_slower_is_believed_within_a_few_batches():
    cost = learnt([(8, 1e-3)] * 50)
    for _ in range(15):
        cost.learn(8, 0.1)
    assert cost.of(8) >= 0.05


def test_a_model_that_has_become_faster_is_believed_as_well():
    cost = learnt([(8, 0.1)] * 50)
    for _ in range(40):
        cost.learn(8, 1e-3)
    assert cost.of(8) <= 5e-3


def test_a_clock_that_saw_nothing_can_still_be_taught():
    cost = learnt([(1, 0.0)] * 50)
    for _ in range(30):
        cost.learn(1, 0.1)
    assert cost.of(1) >= 0.05


@given(
    st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(0.0, 1e6, allow_subnormal=False)), max_size=60
    )
)
def test_it_is_never_negative_and_never_beyond_all_bounds(observations):
    cost = learnt(observations)
    assert cost.base >= 0.0
    assert cost.slope >= 0.0
    longest = max((seconds for _, seconds in observations), default=0.0)
    assert cost.of(1) <= longest * 1.0001 + 1e-9
