import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.drift.moments import SlidingMoments

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80)


def filled(size, values):
    sliding = SlidingMoments(size)
    for value in values:
        sliding.add(value)
    return sliding


@given(VALUES, st.integers(1, 20))
def test_moments_are_those_of_the_last_values(values, size):
    found, last = filled(size, values).moments(), np.array(values[-size:])
    scale = np.abs(last).max() or 1.0
    assert found.count == len(last)
    assert found.minimum == last.min()
    assert found.maximum == last.max()
    assert found.mean == pytest.approx(last.mean(), rel=1e-9, abs=1e-12 * scale)
    if len(last) > 1:
        assert found.std == pytest.approx(last.std(ddof=1), rel=1e-6, abs=1e-7 * scale)


def test_a_huge_value_leaves_no_trace_once_it_is_out():
    values = [0.1, 1e15, -1e15, *([0.1, 0.2] * 5)]
    found = filled(10, values).moments()
    assert found.mean == pytest.approx(0.15, rel=1e-12)
    assert found.std == pytest.approx(np.std(values[-10:], ddof=1), rel=1e-9)


def test_values_far_from_zero_keep_their_spread():
    rng = np.random.default_rng(1)
    values = (1e9 + rng.normal(size=5000)).tolist()
    assert filled(1000, values).moments().std == pytest.approx(
        np.std(values[-1000:], ddof=1), rel=1e-6
    )


def test_an_empty_window_has_no_moments():
    assert SlidingMoments(3).moments().count == 0
    assert math.isnan(SlidingMoments(3).moments().std)


def test_values_can_leave_without_others_coming():
    sliding = filled(5, [1.0, 2.0, 3.0])
    sliding.drop()
    assert len(sliding) == 2
    assert sliding.moments().mean == 2.5
