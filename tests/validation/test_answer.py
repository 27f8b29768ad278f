import math
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml import _settings
from prodml.errors import BadConfiguration, RejectedAnswer
from prodml.validation import AnswerCheck

PROBABILITY = AnswerCheck(minimum=0.0, maximum=1.0)
GOOD = [
    0,
    0.0,
    1.0,
    True,
    np.float32(0.5),
    [0.1, 0.9],
    (),
    {"yes": 0.3, "no": 0.7},
    [[0.1, 0.9], [0.5, 0.5]],
    [{"p": 0.1}],
    np.array([0.1, 0.9]),
    np.array([[0, 1]]),
    np.array([True]),
    np.array([]),
    np.float16([0.5]),
    np.array([[0.5, 0.2]], dtype=object),
    pd.Series([0.5]),
    pd.DataFrame({"p": [0.5]}),
    pl.Series([0.5]),
]
BAD = [
    None,
    math.nan,
    math.inf,
    -0.1,
    1.1,
    "0.5",
    np.float32("nan"),
    np.float32("inf"),
    [0.5, None],
    [[0.5], [math.nan]],
    {"yes": math.inf},
    np.array([0.5, math.nan]),
    np.array([0.5, math.inf]),
    np.float16([math.inf]),
    np.array([[0.5, 2]]),
    np.array([0.5, None], dtype=object),
    np.array(["a"]),
    pd.Series([2.0]),
    pl.Series([None, 0.5]),
    [np.array([0.5]), np.array([7.0])],
]


@pytest.mark.parametrize("value", GOOD, ids=repr)
def test_a_possible_answer_is_accepted(value):
    assert PROBABILITY(value) is True


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_an_impossible_answer_is_refused_whole(value):
    with pytest.raises(RejectedAnswer) as caught:
        PROBABILITY(value)
    assert caught.value.value is value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "None is not a value"),
        (math.nan, "nan is not a value"),
        (math.inf, "inf is not finite"),
        (2.0, "2.0 is above 1.0"),
        (np.array([0.0, -3.0]), "-3.0 is below 0.0"),
        ("x", "'x' is not a number"),
        (Decimal(1), "Decimal('1') is not a number"),
    ],
)
def test_the_reason_names_the_culprit(value, reason):
    assert PROBABILITY.reason(value) == reason


@pytest.mark.parametrize("value", [1e308, -1e308, "text", object(), np.array(["a"]), [1, "a"]])
def test_without_bounds_anything_finite_will_do(value):
    assert AnswerCheck()(value) is True


@pytest.mark.parametrize("value", [math.inf, np.array([-math.inf]), np.float32("inf")])
def test_infinities_can_be_let_through(value):
    assert AnswerCheck(finite=False)(value) is True


@pytest.mark.parametrize("value", [math.nan, np.array([math.nan]), None])
def test_nan_is_never_an_answer(value):
    assert AnswerCheck(finite=False).reason(value) is not None


@pytest.mark.parametrize("value", [np.float32("inf"), np.float32([math.inf]), np.float16([1.0])])
def test_narrow_floats_do_not_round_the_bounds(value):
    check = AnswerCheck(minimum=-1e300, maximum=1e300)
    assert (check.reason(value) is None) == bool(np.isfinite(value).all())
    assert AnswerCheck(finite=False, maximum=0.1).reason(np.float32(0.1)) is not None


@pytest.mark.parametrize(
    "value", ["yes", ["yes", "no"], np.array(["no"]), np.array(["no"], object)]
)
def test_allowed_labels_pass(value):
    assert AnswerCheck(allowed={"yes", "no"})(value) is True


@pytest.mark.parametrize("value", ["maybe", ["yes", ""], np.array(["maybe"]), 0, None])
def test_other_labels_are_refused(value):
    assert AnswerCheck(allowed={"yes", "no"}).reason(value) is not None


def test_allowed_numbers_are_looked_up_in_arrays_too():
    check = AnswerCheck(allowed=(0, 1))
    assert check.reason(np.array([0, 1])) is None
    assert check.reason(np.array([0, 2])) == "2 is not allowed"
    assert check.reason(2.0) == "2.0 is not allowed"


@pytest.mark.parametrize(
    ("shape", "value", "fits"),
    [
        ((), 0.5, True),
        ((), [0.5], False),
        ((2,), [0.5, 0.5], True),
        ((2,), np.zeros(3), False),
        ((None, 2), np.zeros((7, 2)), True),
        ((None, 2), [[1, 2], [3, 4]], True),
        ((None, 2), [[1, 2], [3]], False),
        ((None,), [], True),
        ((None, 2), np.zeros(2), False),
    ],
)
def test_the_shape_must_fit(shape, value, fits):
    assert (AnswerCheck(shape=shape).reason(value) is None) == fits


@given(st.floats(), st.floats(-1, 0), st.floats(0, 1))
def test_a_float_fares_as_an_array_of_it_does(value, low, high):
    check = AnswerCheck(minimum=low, maximum=high)
    assert check.reason(value) == check.reason(np.array([value]))
    accepted = low <= value <= high
    assert (check.reason(value) is None) == accepted
    if accepted:
        assert check(value) is True


def test_retuning_moves_the_bounds():
    check = AnswerCheck(maximum=1.0)
    _settings.retune(check, maximum=2.0)
    assert check(1.5) is True


@pytest.mark.parametrize(
    "settings",
    [{"minimum": 2, "maximum": 1}, {"minimum": math.nan}, {"maximum": math.inf}, {"shape": (-1,)}],
)
def test_a_check_that_makes_no_sense_is_refused(settings):
    with pytest.raises(BadConfiguration):
        AnswerCheck(**settings)


@pytest.mark.parametrize("settings", [{"minimum": "x"}, {"maximum": []}, {"shape": 5}])
def test_a_setting_of_a_wrong_type_is_named(settings):
    with pytest.raises(BadConfiguration, match=next(iter(settings))):
        AnswerCheck(**settings)


def test_what_cannot_be_hashed_is_not_allowed():
    assert "not allowed" in str(AnswerCheck(allowed={"a"}).reason(bytearray(b"a")))


@pytest.mark.parametrize(
    "check", [AnswerCheck(maximum=1), AnswerCheck(allowed={1}), AnswerCheck(maximum=2**64)]
)
def test_a_number_of_more_digits_than_python_writes_is_refused_as_others(check):
    with pytest.raises(RejectedAnswer, match="<int, not shown: ValueError> is"):
        check(10**5000)


def test_truths_are_numbers_beside_any_bound():
    check = AnswerCheck(minimum=-(2**70), maximum=2**70)
    assert check(np.array([True, False]))
    assert AnswerCheck(maximum=0.5).reason(np.array([True])) == "1 is above 0.5"
