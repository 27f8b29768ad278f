import math
import random
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.cache import MISS, PredictionCache
from prodml.cache.batch import table_of
from prodml.cache.keys import Namer, canonical
from prodml.cache.rounding import MeasuredError, Rounding, RoundingAudit, RoundingNamer
from prodml.errors import BadConfiguration

ROUNDING = Rounding({"amount": 2}, quantize={"age": 5.0})


@dataclass
class Applicant:
    amount: float
    age: int


@pytest.mark.parametrize(
    "settings",
    [
        {"round": {"a": 1.0}},
        {"round": {"a": True}},
        {"round": {-1: 1}},
        {"round": {None: 1}},
        {"quantize": {"a": 0}},
        {"quantize": {"a": -1.0}},
        {"quantize": {"a": math.inf}},
        {"quantize": {"a": math.nan}},
        {"quantize": {"a": "5"}},
        {"quantize": {"a": 10**400}},
        {"round": {"a": 1}, "quantize": {"a": 1}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadConfiguration):
        Rounding(**settings)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (9.987, 9.99),
        (-0.001, 0.0),
        (-0.0, 0.0),
        (3, 3),
        (True, True),
        (None, None),
        ("9.987", "9.987"),
        (math.inf, math.inf),
        (Decimal("9.987"), Decimal("9.987")),
        (np.float32(0.251), 0.25),
        (np.float64(0.251), 0.25),
        (np.int64(3), 3),
        (np.bool_(True), np.bool_(True)),
        (1e308, 1e308),
    ],
)
def test_digits_round_numbers_and_leave_the_rest_alone(value, shown):
    found = ROUNDING.row({"amount": value})["amount"]
    assert canonical(found) == canonical(shown)


@pytest.mark.parametrize(
    ("step", "value", "shown"),
    [
        (5, 41, 40),
        (5.0, 41, 40),
        (5, 41.0, 40.0),
        (10, 5, 0),
        (10, 15, 20),
        (10, 15.0, 20.0),
        (10, -5, 0),
        (10, -0.1, 0.0),
        (0.25, 0.3, 0.25),
        (0.25, 3, 3),
        (2.5, 4, 5),
        (2.5, 2**60 + 1, 2**60 + 1),
        (3, 2**80, 2**80 - 1),
        (0.5, 1e308, 1e308),
        (0.5, math.nan, math.nan),
        (5, -math.inf, -math.inf),
        (5, False, False),
    ],
)
def test_steps_take_numbers_to_the_nearest_multiple_and_keep_their_kind(step, value, shown):
    found = Rounding(quantize={"a": step}).row({"a": value})["a"]
    assert canonical(found) == canonical(shown)


def test_digits_below_zero_round_integers_too():
    rounding = Rounding({"a": -2, "b": -308})
    assert rounding.row({"a": 1251, "b": 1.7e308}) == {"a": 1300, "b": 1.7e308}


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.1, 0.25, 1, 5, 7.5]))
def test_a_quantised_number_is_at_most_half_a_step_off(value, step):
    shown = Rounding(quantize={"a": step}).row({"a": value})["a"]
    assert abs(shown - value) <= step / 2 * (1 + 1e-9) + 4 * math.ulp(value)


@given(st.integers(), st.integers(1, 1000))
def test_a_quantised_integer_is_the_nearest_multiple(value, step):
    shown = Rounding(quantize={"a": step}).row({"a": value})["a"]
    assert type(shown) is int
    assert shown % step == 0
    assert 2 * abs(shown - value) <= step


def test_the_row_that_was_given_stays_as_it_was():
    row, array = {"amount": 9.987}, np.array([9.987])
    ROUNDING.row(row)
    Rounding({0: 1}).row(array)
    assert (row, array[0]) == ({"amount": 9.987}, 9.987)


def test_a_feature_that_a_row_lacks_is_counted():
    rounding = Rounding({"amuont": 2})
    assert rounding.row({"amount": 9.987}) == {"amount": 9.987}
    rounding.row([1.0])
    rounding.row(np.zeros(1))
    rounding.columns(["amount"], [[1.0]])
    assert rounding.absent == {"amuont": 4}


def test_equal_settings_are_equal_whatever_is_done_to_what_they_were_made_of():
    given = {"a": 2}
    one, other = Rounding(given), Rounding({"a": 2})
    given["b"] = 1
    assert (one, hash(one), one.settings) == (other, hash(other), other.settings)
    assert Rounding(quantize={"a": 5}) == Rounding(quantize={"a": 5.0})


SAME = [
    ({"amount": 9.987, "age": 41}, {"age": 42, "amount": 9.991}),
    (Applicant(9.987, 41), Applicant(9.991, 42)),
    (pd.Series({"amount": 9.987, "age": 41.0}), {"amount": 9.991, "age": 42.0}),
    (
        pd.DataFrame({"amount": [9.987], "age": [41]}),
        pl.DataFrame({"amount": [9.991], "age": [42]}),
    ),
]
DIFFERENT = [
    ({"amount": 9.987}, {"amount": 9.98}),
    ({"amount": 1}, {"amount": 1.0}),
    ({"amount": 1, "x": 0.1}, {"amount": 1, "x": 0.11}),
    (Applicant(1.0, 1), {"amount": 1.0, "age": 1}),
    (Applicant(1.0, 1), ["tests.cache.test_rounding.Applicant", {"amount": 1.0, "age": 1}]),
    (
        pd.DataFrame({"amount": [9.987]}, index=["a"]),
        pd.DataFrame({"amount": [9.987]}, index=["b"]),
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_rows_that_are_rounded_alike_share_a_key(one, other):
    assert canonical(ROUNDING(one)) == canonical(ROUNDING(other))
    assert Namer().name(ROUNDING(one)) == RoundingNamer(ROUNDING).name(one)
    assert canonical(ROUNDING(one)) == Namer().name(ROUNDING(one)) != canonical(one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_rows_that_are_rounded_otherwise_do_not(one, other):
    assert canonical(ROUNDING(one)) != canonical(ROUNDING(other))


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda items: np.array(items, object)])
def test_lists_and_arrays_go_by_place(make):
    rounding = Rounding({0: 1}, quantize={2: 10})
    near = [rounding(make([0.31, 0.31, 41.0])), rounding(make([0.29, 0.31, 39.0]))]
    assert canonical(near[0]) == canonical(near[1])
    assert canonical(near[0]) != canonical(rounding(make([0.31, 0.29, 41.0])))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "u1", "i8", "?", "U4", "O"])
def test_rows_of_an_array_are_named_as_each_of_them_is(kind):
    rows = np.array([[1, 104], [3, 127], [0, 0]]).astype(kind)
    rounding = Rounding(quantize={1: 10})
    bodies = RoundingNamer(rounding).vectors(rows)
    assert bodies == [canonical(rounding(row)) for row in rows]
    assert rounding.array(rows).dtype == rows.dtype


def test_an_array_of_one_row_in_two_dimensions_goes_by_its_columns():
    rounding = Rounding({1: 1})
    near = [np.array([[0.31, 0.31]]), np.array([[0.31, 0.29]])]
    assert canonical(rounding(near[0])) == canonical(rounding(near[1]))
    cube = np.zeros((2, 2, 2))
    assert canonical(rounding(cube)) == canonical(rounding(cube.copy()))


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_rows_of_a_frame_are_named_as_mappings_are(make):
    frame = make({"amount": [9.987, 9.991, 9.98], "age": [41, 42, 41], "x": [1, 1, 1]})
    table = table_of(frame, RoundingNamer(ROUNDING))
    rows = [{"amount": 9.99, "age": 40, "x": 1}, {"amount": 9.98, "age": 40, "x": 1}]
    first, second = (canonical(ROUNDING(row)) for row in rows)
    assert table.bodies == [first, first, second]
    assert table.take([1])["amount"].to_list() == [9.991]


def test_rows_of_a_list_are_named_as_each_of_them_is():
    table = table_of([{"amount": 9.987}, {"amount": object()}], RoundingNamer(ROUNDING))
    assert table.bodies == [canonical(ROUNDING({"amount": 9.99})), None]


def test_a_cache_takes_rounded_rows_and_keeps_them_apart_from_exact_ones():
    cache = PredictionCache()
    cache.set(ROUNDING({"amount": 9.987}), "v1", 0.5)
    assert cache.get(ROUNDING({"amount": 9.991}), "v1") == 0.5
    assert cache.get({"amount": 9.99}, "v1") is MISS
    assert cache.get(Rounding({"amount": 3})({"amount": 9.99}), "v1") is MISS


@pytest.mark.parametrize("features", [7, object(), "text", None, {1, 2}])
def test_what_has_no_columns_is_uncacheable_and_counted(features):
    cache = PredictionCache()
    assert cache.lookup(ROUNDING(features), "v1") == (MISS, None)
    assert cache.stats().uncacheable == 1


@pytest.mark.parametrize(
    ("served", "exact", "distance"),
    [
        (0.25, 0.5, 0.25),
        (1, 1.0, 0.0),
        (math.nan, math.nan, 0.0),
        (math.inf, math.inf, 0.0),
        (math.nan, 1.0, math.inf),
        (True, False, math.inf),
        ("cat", "cat", 0.0),
        ("cat", "dog", math.inf),
        (None, None, 0.0),
        (np.float32(0.25), 0.5, 0.25),
        (np.array([0.0, 1.0]), np.array([0.5, 1.0]), 0.5),
        ([1.0], [1.0, 2.0], math.inf),
        ((1.0, 2.0), [1.0, 4.0], 2.0),
        ({"p": 0.25, "label": "a"}, {"p": 0.5, "label": "a"}, 0.25),
        ({"p": 0.25}, {"q": 0.25}, math.inf),
        (pl.Series([1.0]), pd.Series([3.0]), 2.0),
        ([], [], 0.0),
    ],
)
def test_answers_are_as_far_apart_as_their_furthest_numbers(served, exact, distance):
    audit = RoundingAudit()
    audit.add(served, exact)
    error = audit.error
    assert (error.count, error.changed) == (1, distance != 0)
    assert error.incomparable == math.isinf(distance)
    if not error.incomparable:
        assert error.maximum == error.mean == distance
        assert error.p95 == pytest.approx(distance, rel=0.01)


def test_answers_that_cannot_be_compared_are_counted():
    class Sullen:
        def __eq__(self, other):
            raise ValueError("no")

        __hash__ = None

    audit = RoundingAudit()
    audit.add(Sullen(), Sullen())
    assert audit.error.incomparable == 1


def test_the_error_is_that_of_all_answers_compared():
    audit = RoundingAudit()
    assert (audit.error.count, audit.error.changed) == (0, 0)
    assert math.isnan(audit.error.maximum)
    assert math.isnan(audit.error.p95)
    assert math.isnan(MeasuredError().changed_share)
    for number in range(101):
        audit.add(0.0, number / 100)
    error = audit.error
    assert (error.maximum, error.mean) == (1.0, pytest.approx(0.5))
    assert error.p95 == pytest.approx(0.95, rel=0.02)
    assert error.changed_share == pytest.approx(100 / 101)


def test_the_share_decides_how_many_are_compared():
    audit = RoundingAudit(share=0.1, rng=random.Random(1))
    assert 60 <= sum(audit.due() for _ in range(1000)) <= 140
    assert not any(RoundingAudit(share=0.0).due() for _ in range(100))
    assert all(RoundingAudit(share=1.0).due() for _ in range(100))
    with pytest.raises(BadConfiguration):
        RoundingAudit(share=1.5)
