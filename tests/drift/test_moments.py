import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.drift.moments import SlidingMoments

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80)


def filled(size, values, batch=1):
    sliding = SlidingMoments()
    for first in range(0, len(values), batch):
        sliding.extend(np.array(values[first : first + batch], dtype=float))
        sliding.drop(max(0, len(sliding) - size))
    return sliding


@given(VALUES, st.integers(1, 20), st.integers(1, 30))
def test_moments_are_those_of_the_last_values(values, size, batch):
    sliding, last = filled(size, values, batch), np.array(values[-size:])
    found = sliding.moments()
    assert sliding.values().tolist() == last.tolist()
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
    assert SlidingMoments().moments().count == 0
    assert math.isnan(SlidingMoments().moments().std)


def test_values_can_leave_without_others_coming():
    sliding = filled(5, [1.0, 2.0, 3.0])
    assert sliding.drop(1).tolist() == [1.0]
    assert len(sliding) == 2
    assert sliding.moments().mean == 2.5


def test_two_levels_far_apart_keep_the_spread_of_the_newer_one():
    rng = np.random.default_rng(2)
    newer = 1e9 + rng.normal(size=600)
    found = filled(600, [*rng.normal(size=600), *newer], batch=1200)
    assert found.moments().std == pytest.approx(newer.std(ddof=1), rel=1e-6)


def test_what_is_not_finite_has_a_place_and_no_moments():
    sliding = filled(4, [1.0, math.nan, math.inf, 3.0, math.nan])
    assert len(sliding) == 4
    assert (sliding.moments().count, sliding.moments().mean) == (1, 3.0)
    sliding.drop(3)
    assert sliding.moments().count == 0


def test_stamps_say_how_many_are_too_old():
    sliding = SlidingMoments()
    sliding.extend(np.arange(4.0), np.array([1.0, 2.0, 2.0, 5.0]))
    sliding.extend(np.arange(2.0), np.array([5.0, 9.0]))
    assert [sliding.until(stamp) for stamp in (0.5, 2.0, 5.0, 10.0)] == [0, 3, 5, 6]
    sliding.drop(2)
    assert [sliding.until(stamp) for stamp in (0.5, 2.0, 5.0, 10.0)] == [0, 1, 3, 4]
