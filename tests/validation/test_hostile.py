"""Values and rows that nobody means well with: a verdict each, never an exception."""

import copy
import pickle
import sys
import threading
from contextlib import suppress
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml import _settings
from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.validation import Field, HeldRow, Quarantine, Rule, Schema, Violation


def _raises(*_):
    raise RuntimeError("no")


class Stubborn:
    __eq__ = __lt__ = __gt__ = __hash__ = __len__ = __float__ = _raises


class StubbornText(str):
    __slots__ = ()
    __eq__ = __hash__ = __len__ = _raises


class StubbornInt(int):
    __lt__ = __gt__ = _raises


class NoOffset(tzinfo):
    """A zone that knows none: such a moment compares as one without."""

    def utcoffset(self, _):
        return None


class NoZone(tzinfo):
    utcoffset = _raises


VALUES = [
    Stubborn(),
    StubbornText("a"),
    StubbornInt(1),
    datetime(2024, 1, 1, tzinfo=NoOffset()),
    datetime(2024, 1, 1, tzinfo=NoZone()),
    np.timedelta64(1, "s"),
    np.array([1, 2]),
    np.array([]),
    np.array(1.0),
    np.void(b"a"),
    np.float64("nan"),
    np.datetime64("NaT"),
    pd.NA,
    pd.Series([1]),
    Decimal("sNaN"),
    Fraction(1, 3),
    10**5000,
    -(10**5000),
    1j,
    "\ud800",
    [Stubborn()],
    {},
    object,
    ...,
]
FIELDS = [
    Field(float, minimum=0, maximum=5, on={"range": "clip"}),
    Field(int, minimum=0, maximum=5, on={"type": "quarantine"}),
    Field(float, categories=(0.5, 1)),
    Field(str, categories=("a", "b")),
    Field(str, pattern="a+", max_length=3, on={"type": "quarantine"}),
    Field(bool),
    Field(bytes, max_length=3),
    Field(datetime, minimum=datetime(2020, 1, 1)),
    Field(datetime, minimum=datetime(2020, 1, 1, tzinfo=UTC)),
    Field(date, minimum=date(2020, 1, 1)),
    Field("any", categories=(1, "a", (1, 2))),
    Field("any", unique=True, nullable=True),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("rules", [(), ("abs(a) * 2 + 1 == a % 2 or a in (1, 'a')",)])
def test_any_value_gets_a_verdict_from_rows_and_columns_alike(value, rules):
    for field in FIELDS:
        schema = Schema({"a": field}, rules=rules)
        found = schema.check({"a": value})
        assert all(str(violation) for violation in found)
        refused = None
        try:
            schema.validate({"a": value})
        except InvalidFeatures as error:
            refused = error
        assert refused is None or str(refused)
        column = np.empty(1, dtype=object)
        column[0] = value
        told = {(violation.field, violation.rule) for violation in found}
        for batch in ([{"a": value}], {"a": [value]}, {"a": column}):
            assert {*schema.validate_batch(batch).where} == told


def test_a_number_of_more_digits_than_python_writes_is_shown_by_its_type():
    (found,) = Schema({"a": Field(int, maximum=1)}).check({"a": 10**5000})
    assert isinstance(found, Violation)
    assert str(found) == "a: <int, not shown: ValueError> breaks range, expected at most 1"
    with pytest.raises(InvalidFeatures, match="breaks range"):
        Schema({"a": Field(int, maximum=1)}).validate({"a": 10**5000})


def test_a_span_of_time_is_no_whole_number():
    # Numpy makes it a subclass of its signed integers.
    (found,) = Schema({"a": Field(int)}).check({"a": np.timedelta64(5, "s")})
    assert found.rule == "type"


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        (Field(float, categories=(0.1,)), np.float32(0.1), "category"),
        (Field(float, categories=(0.5,)), np.float32(0.5), None),
        (Field(float, minimum=2**53 + 1), np.float64(2**53), "range"),
        (Field(float, categories=(2**53 + 1,)), np.float64(2**53), "category"),
    ],
)
def test_numbers_of_numpy_are_compared_at_full_width(field, value, rule):
    schema = Schema({"a": field})
    assert [each.rule for each in schema.check({"a": value})] == ([rule] if rule else [])
    batch = schema.validate_batch({"a": np.array([value])})
    assert {key[1] for key in batch.where} == ({rule} if rule else set())


def test_imputed_values_are_not_shared():
    schema = Schema({"a": Field("any", default=[], on={"missing": "impute"})})
    schema.validate({})["a"].append(1)
    schema.validate_batch([{}]).valid_rows[0]["a"].append(1)
    schema.validate_batch({"a": [None]}).valid_rows["a"][0].append(1)
    assert schema.validate({}) == {"a": []}


def test_a_bound_that_is_no_category_is_no_repair():
    with pytest.raises(BadConfiguration, match="no categories"):
        Field(int, maximum=9, categories=(1, 2), on={"range": "clip"})
    schema = Schema({"a": Field(int, maximum=9, categories=(1, 2))}, on={"range": "clip"})
    with pytest.raises(InvalidFeatures, match="range"):
        schema.validate({"a": 99})


@settings(max_examples=40)
@given(
    st.dictionaries(st.sampled_from("ab"), st.sampled_from([1, 99, None, "x", "long", [1]])),
    st.sampled_from(["allow", "reject", "drop"]),
)
def test_the_callers_row_is_never_changed(row, extra):
    schema = Schema(
        {
            "a": Field(int, maximum=5, default=2, on={"range": "clip", "missing": "impute"}),
            "b": Field(str, max_length=2, default="y", on={"length": "impute", "type": "warn"}),
        },
        extra=extra,
    )
    given_row = {**row, "z": 1}
    before = copy.deepcopy(given_row)
    for way in (schema.validate, schema.check, lambda each: schema.validate_batch([each])):
        with suppress(InvalidFeatures):
            way(given_row)
        assert given_row == before


# -- counts and quarantine under threads ----------------------------------------------------


def test_counts_add_up_while_threads_validate_and_another_takes_them():
    schema = Schema(
        {"a": Field(int, maximum=9, on={"range": "clip"}), "b": Field(str)},
        on={"type": "quarantine"},
        quarantine=Quarantine(20),
    )
    rows = [{"a": 1, "b": "t"}, {"a": 99, "b": "t"}, {"a": 1, "b": 5}, {"a": "x", "b": 5}]
    taken, done = [], threading.Event()

    def work():
        for turn in range(1500):
            with suppress(InvalidFeatures):
                schema.validate(rows[turn % 4])
        for _ in range(20):
            schema.validate_batch(rows)

    def take():
        while not done.is_set():
            taken.append(schema.take_stats())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(3)]
        taker = threading.Thread(target=take)
        for thread in (taker, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        done.set()
        taker.join()
    finally:
        sys.setswitchinterval(interval)
    total = sum(taken, schema.take_stats())
    each = 3 * (1500 // 4 + 20)
    assert (total.rows, total.amended, total.rejected, total.quarantined) == (
        4 * each,
        each,
        2 * each,
        2 * each,
    )
    assert total.breaches == {
        ("a", "range", "clip"): each,
        ("a", "type", "quarantine"): each,
        ("b", "type", "quarantine"): 2 * each,
    }
    assert len(schema.quarantine) + schema.quarantine.dropped == total.quarantined


def test_a_retuned_quarantine_keeps_the_newest_of_what_it_has():
    quarantine = Quarantine(3)
    for number in range(5):
        quarantine.add(HeldRow({"a": number}, ()))
    _settings.retune(quarantine, capacity=2)
    assert ([held.row["a"] for held in quarantine], quarantine.dropped) == ([3, 4], 3)
    _settings.retune(quarantine, capacity=9)
    for number in range(5):
        quarantine.add(HeldRow({"a": number}, ()))
    assert (len(quarantine), quarantine.dropped) == (7, 3)


def test_a_schema_that_is_retuned_while_its_first_row_comes_is_the_new_one():
    schema = Schema({"a": Field(int)})
    policy = schema._policy
    make = policy.accepts

    class Slow(type(policy)):
        __slots__ = ()

        def accepts(self):
            made = make()
            retuning.start()
            retuning.join(0.2)
            return made

    retuning = threading.Thread(target=lambda: _settings.retune(schema, extra="reject"))
    schema._policy = Slow(schema.fields, "allow", {}, ())
    schema.validate({"a": 1, "z": 1})
    retuning.join()
    with pytest.raises(InvalidFeatures):
        schema.validate({"a": 1, "z": 1})


# -- descriptions ---------------------------------------------------------------------------


def test_levels_that_are_moments_come_back_as_what_they_were():
    levels = (datetime(2024, 1, 1), date(2024, 1, 2))
    schema = Schema({"a": Field("any", categories=levels), "b": Field(date, categories=levels[1:])})
    again = Schema.from_dict(schema.to_dict())
    assert again.fields["a"].categories == levels
    assert again.fields["b"].categories == levels[1:]
    assert again.diff(schema) == {}
    assert again.check({"a": "2024-01-01T00:00:00", "b": levels[1]})[0].rule == "category"
    assert pickle.loads(pickle.dumps(schema)).diff(schema) == {}


def test_a_word_that_a_description_does_not_know_is_refused():
    told = Schema({"a": Field(int)}).to_dict()
    with pytest.raises(BadConfiguration, match="'rule', 'strict'"):
        Schema.from_dict(told | {"rule": ["a > 1"], "strict": True})


def test_rules_of_an_empty_batch_are_not_asked():
    schema = Schema({"a": Field(int), "b": Field(int)}, rules=["a < b", Rule(_raises, name="f")])
    for empty in ({"a": [], "b": []}, [], pd.DataFrame({"a": [], "b": []}, dtype=object)):
        assert schema.validate_batch(empty).ok
