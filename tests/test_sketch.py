import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml._sketch import Moments, Quantiles
from prodml.errors import BadConfiguration

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60)


def moments_of(numbers):
    moments = Moments()
    for number in numbers:
        moments.add(number)
    return moments


def sketch_of(numbers):
    sketch = Quantiles()
    for number in numbers:
        sketch.add(number)
    return sketch


@given(values)
def test_moments_equal_numpys(numbers):
    moments = moments_of(numbers)
    assert moments.mean == pytest.approx(np.mean(numbers), rel=1e-9, abs=1e-9)
    assert moments.variance == pytest.approx(np.var(numbers, ddof=1), rel=1e-9, abs=1e-6)
    assert (moments.minimum, moments.maximum) == (min(numbers), max(numbers))


@given(values, values)
def test_merged_moments_equal_those_of_everything(left, right):
    merged, whole = moments_of(left).merge(moments_of(right)), moments_of(left + right)
    assert merged.count == whole.count
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-9)
    assert merged.std == pytest.approx(whole.std, rel=1e-9, abs=1e-4)


def test_moments_of_a_large_offset_keep_their_precision():
    assert moments_of([1e9 + x for x in (4, 7, 13, 16)]).variance == pytest.approx(30.0)


def test_too_few_values_have_no_spread():
    assert math.isnan(moments_of([1.0]).std)
    assert math.isnan(Moments().variance)
    assert Moments().merge(Moments()).count == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(bad):
    assert moments_of([1.0, bad, 2.0]).count == 2
    assert sketch_of([1.0, bad, 2.0]).count == 2


@given(values, st.floats(0.0, 1.0))
def test_a_quantile_is_within_its_relative_error(numbers, q):
    truth = sorted(numbers)[math.floor(q * (len(numbers) - 1))]
    assert sketch_of(numbers).quantile(q) == pytest.approx(truth, rel=0.0101, abs=1e-11)


@given(values, values)
def test_merging_sketches_is_the_sketch_of_everything_in_any_order(left, right):
    whole = sketch_of(left + right)
    for merged in (
        sketch_of(left).merge(sketch_of(right)),
        sketch_of(right).merge(sketch_of(left)),
    ):
        assert (merged.cells, merged.negative, merged.zeros, merged.count) == (
            whole.cells,
            whole.negative,
            whole.zeros,
            whole.count,
        )


def test_an_empty_sketch_answers_nan():
    assert math.isnan(Quantiles().quantile(0.5))


@pytest.mark.parametrize("call", [lambda: Quantiles(0.0), lambda: Quantiles().quantile(1.1)])
def test_nonsense_is_refused(call):
    with pytest.raises(BadConfiguration):
        call()


def test_sketches_of_different_accuracy_do_not_merge():
    with pytest.raises(BadConfiguration, match=r"0\.05"):
        Quantiles(0.01).merge(Quantiles(0.05))
