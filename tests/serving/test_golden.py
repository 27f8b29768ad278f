"""Golden rows, and the comparison of answers behind them."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, GoldenMismatch, RejectedAnswer
from prodml.serving import Golden
from prodml.serving.difference import apart


def compare(expected, answer, rtol=0.0, atol=0.0):
    return apart(expected, answer, rtol=rtol, atol=atol)


# -- answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "answer", "agree", "distance"),
    [
        (1, 1.0, True, 0.0),
        (1.0, 1.5, False, 0.5),
        (np.float32(1), 1.5, False, 0.5),
        (math.nan, math.nan, True, 0.0),
        (math.nan, 1.0, False, math.inf),
        (1.0, math.nan, False, math.inf),
        (math.inf, math.inf, True, 0.0),
        (math.inf, -math.inf, False, math.inf),
        (True, 1, True, 0.0),
        (1 + 2j, 1 + 2j, True, 0.0),
        ("spam", "spam", True, 0.0),
        ("spam", "ham", False, math.inf),
        ("1", 1, False, math.inf),
        (None, None, True, 0.0),
        (None, 1.0, False, math.inf),
        ([1, 2], [1, 4], False, 2.0),
        ([1, 2], (1, 2), True, 0.0),
        ([1, 2], [1], False, math.inf),
        ({"a": 1, "b": [1, 2]}, {"b": [1, 5], "a": 1}, False, 3.0),
        ({"a": 1}, {"b": 1}, False, math.inf),
        (np.array([1.0, 2.0]), np.array([1.0, 2.5]), False, 0.5),
        (np.array([1.0, 2.0]), [1.0, 2.0], True, 0.0),
        (np.array([1.0, 2.0]), np.array([[1.0, 2.0]]), False, math.inf),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True, 0.0),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0]), False, math.inf),
        (np.array([np.inf]), np.array([np.inf]), True, 0.0),
        (np.array([1], dtype=np.uint8), np.array([3], dtype=np.uint8), False, 2.0),
        (np.array(["a", "b"]), np.array(["a", "c"]), False, math.inf),
        (np.array(["a", "b"]), np.array(["a", "b"]), True, 0.0),
        (np.array([]), np.array([]), True, 0.0),
        (pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0]), True, 0.0),
    ],
)
def test_answers_are_compared_part_by_part(expected, answer, agree, distance):
    assert compare(expected, answer) == (agree, pytest.approx(distance))


def test_tolerances_are_those_of_numpy():
    assert compare(100.0, 101.0, rtol=0.01)[0]
    assert not compare(100.0, 101.1, rtol=0.01)[0]
    assert compare(0.0, 0.1, atol=0.1)[0]
    assert compare({"p": [0.5]}, {"p": [0.6]}, atol=0.1 + 1e-12)[0]


FLOATS = st.floats(allow_nan=True, width=32)


@given(FLOATS, FLOATS, st.floats(0, 1), st.floats(0, 1))
def test_one_number_agrees_as_numpy_says(expected, answer, rtol, atol):
    with np.errstate(over="ignore", invalid="ignore"):
        close = bool(np.isclose(answer, expected, rtol=rtol, atol=atol, equal_nan=True))
    assert compare(expected, answer, rtol, atol)[0] == close
    assert compare(np.array([expected]), np.array([answer]), rtol, atol)[0] == close


@given(st.lists(st.tuples(FLOATS, FLOATS), max_size=5))
def test_list_and_array_say_the_same(pairs):
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    listed = compare(one, other, 0.1, 0.1)
    with np.errstate(over="ignore"):
        arrays = compare(np.array(one), np.array(other), 0.1, 0.1)
    assert listed == (arrays[0], pytest.approx(arrays[1]))


# -- golden rows ------------------------------------------------------------------------


def test_rows_may_be_mappings_and_answers_anything():
    golden = Golden(rows=[{"x": 1}, {"x": 2}], answers=[{"p": 0.1}, {"p": 0.2}])
    golden(lambda row: {"p": row["x"] / 10})
    with pytest.raises(GoldenMismatch):
        golden(lambda row: {"p": row["x"]})


def test_array_goes_to_the_model_whole():
    calls = []

    class Doubles:
        def predict(self, rows):
            calls.append(rows.shape)
            return rows[:, 0] * 2

    Golden(rows=np.array([[1.0], [2.0]]), answers=[2.0, 4.0])(Doubles())
    assert calls == [(2, 1)]


def test_mismatch_tells_which_rows_and_how_far():
    golden = Golden(rows=[1, 2, 3], answers=[1.0, 2.0, 3.0], atol=0.5, rtol=0.0)
    with pytest.raises(GoldenMismatch) as caught:
        golden(lambda row: row + (0.4, 9.0, 1.0)[row - 1])
    worst = caught.value.mismatches
    assert [(m.row, m.expected, m.answer, m.apart) for m in worst] == [
        (1, 2.0, 11.0, 9.0),
        (2, 3.0, 4.0, 1.0),
    ]
    assert str(caught.value) == (
        "answer rejected: 2 of 3 golden rows answered otherwise (rtol=0, atol=0.5); "
        "row 1: expected 2.0, answered 11.0"
    )
    assert isinstance(caught.value, RejectedAnswer)
    assert pickle.loads(pickle.dumps(caught.value)).mismatches == worst


def test_ten_worst_are_told():
    rows = list(range(50))
    with pytest.raises(GoldenMismatch) as caught:
        Golden(rows=rows, answers=rows)(lambda row: 2 * row)
    assert [m.row for m in caught.value.mismatches] == list(range(49, 39, -1))


def test_allowed_share_may_differ():
    rows = list(range(1, 11))
    golden = Golden(rows=rows, answers=rows, allowed=0.2)
    golden(lambda row: row if row > 2 else 0)
    with pytest.raises(GoldenMismatch, match="3 of 10"):
        golden(lambda row: row if row > 3 else 0)


def test_wrong_number_of_answers_is_a_mismatch():
    class Short:
        def predict_batch(self, rows):
            return rows[1:]

    with pytest.raises(GoldenMismatch, match="1 answers for 2 golden rows"):
        Golden(rows=[1, 2], answers=[1, 2])(Short())


def test_answers_of_a_trusted_model_are_recorded():
    golden = Golden.of(lambda row: row / 2, [1, 2], atol=0.1)
    assert (golden.answers, golden.atol) == ([0.5, 1.0], 0.1)
    golden(lambda row: row / 2 + 0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"rows": [], "answers": []},
        {"rows": [1], "answers": [1, 2]},
        {"rtol": -1.0},
        {"atol": math.nan},
        {"allowed": 1.0},
        {"allowed": -0.1},
    ],
)
def test_golden_rows_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadConfiguration):
        Golden(**({"rows": [1], "answers": [1]} | settings))


@pytest.mark.parametrize("wrong", [7, 29, 57, 58])
def test_just_the_share_that_is_allowed_may_differ(wrong):
    golden = Golden(rows=range(100), answers=list(range(100)), allowed=wrong / 100)
    golden.compare([-1] * wrong + list(range(wrong, 100)))
    with pytest.raises(GoldenMismatch):
        golden.compare([-1] * (wrong + 1) + list(range(wrong + 1, 100)))
