import contextlib
import copy
import json
import math
import pickle
from collections import ChainMap, defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml import _settings
from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.types import MISS
from prodml.validation import Field, Schema, Violation, kinds
from prodml.validation.field import breach

SCHEMA = Schema(
    {
        "age": Field(int, minimum=0, maximum=120),
        "income": Field(float),
        "plan": Field(str, categories=("basic", "pro")),
        "note": Field(str, required=False, nullable=True),
    }
)
GOOD = {"age": 31, "income": 0.0, "plan": "pro"}


def clone(**settings):
    return Schema(SCHEMA.fields, **settings)


def rules(violations):
    return {(violation.field, violation.rule) for violation in violations}


def test_a_good_row_comes_back_itself():
    assert SCHEMA.validate(GOOD) is GOOD
    assert SCHEMA.check(GOOD) == ()


def test_every_violation_is_reported_at_once():
    with pytest.raises(InvalidFeatures) as caught:
        SCHEMA.validate({"age": -1, "income": math.inf, "plan": "gold", "note": 5})
    expected = {("age", "range"), ("income", "finite"), ("plan", "category"), ("note", "type")}
    assert rules(caught.value.violations) == expected


def test_a_violation_tells_field_rule_value_and_expectation():
    (violation,) = SCHEMA.check({**GOOD, "age": 130})
    assert violation == Violation("age", "range", 130, "0 to 120")


def test_the_error_reads_well_and_pickles():
    with pytest.raises(InvalidFeatures, match="age: '31' breaks type, expected int") as caught:
        SCHEMA.validate({**GOOD, "age": "31"})
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.violations == caught.value.violations


def test_absence_is_shown_as_such():
    (violation,) = SCHEMA.check({"age": 31, "income": 1.0})
    assert (violation.field, violation.value) == ("plan", MISS)


@pytest.mark.parametrize("row", [5, None, "text", [1, 2]])
def test_what_is_no_row_is_the_callers_fault(row):
    with pytest.raises(InvalidFeatures, match="a mapping"):
        SCHEMA.validate(row)


@pytest.mark.parametrize("extra", ["allow", "reject", "drop"])
@pytest.mark.parametrize(
    "make", [MappingProxyType, lambda row: ChainMap({}, row), pd.Series, lambda row: {**row}]
)
def test_any_mapping_is_a_row(make, extra):
    row = make(GOOD)
    assert clone(extra=extra).validate(row) is row


def test_a_defaultdict_is_not_filled_by_looking():
    row = defaultdict(int, age=31)
    assert rules(SCHEMA.check(row)) == {("income", "missing"), ("plan", "missing")}
    assert dict(row) == {"age": 31}


def test_a_second_row_of_the_same_types_is_judged_as_strictly():
    schema = clone()
    schema.validate(GOOD)
    for bad in ({"age": 121}, {"age": True}, {"income": math.nan}, {"income": math.inf}):
        with pytest.raises(InvalidFeatures):
            schema.validate({**GOOD, **bad})


@pytest.mark.parametrize("cls", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("bounds", [{}, {"maximum": 1e300}, {"minimum": 0, "maximum": 9}])
def test_infinities_of_every_width_are_caught_after_a_good_row(cls, bounds):
    schema = Schema({"a": Field(float, **bounds)})
    schema.validate({"a": cls(1)})
    assert rules(schema.check({"a": cls(math.inf)})) == {("a", "finite")}
    assert rules(schema.check({"a": cls(math.nan)})) == {("a", "missing")}
    array = np.array([1, math.inf], dtype=cls)
    assert schema.validate_batch({"a": array}).where == {("a", "finite"): [1]}


def test_a_narrow_float_is_compared_at_full_width():
    schema = Schema({"a": Field(float, maximum=0.1)})
    assert rules(schema.check({"a": np.float32(0.1)})) == {("a", "range")}
    assert not schema.validate_batch({"a": np.float32([0.1])}).ok


# -- unknown fields ----------------------------------------------------------------------


def test_unknown_fields_pass_by_default():
    row = {**GOOD, "colour": "red"}
    assert SCHEMA.validate(row) is row


@pytest.mark.parametrize("times", [1, 2])
def test_unknown_fields_can_be_refused(times):
    schema = clone(extra="reject")
    for _ in range(times):
        assert schema.validate(GOOD) is GOOD
        assert rules(schema.check({**GOOD, "colour": 1})) == {("colour", "extra")}


def test_unknown_fields_can_be_dropped_without_touching_the_input():
    row = {**GOOD, "colour": "red"}
    assert clone(extra="drop").validate(row) == GOOD
    assert "colour" in row


def test_unknown_names_do_not_fill_the_counters():
    schema = clone(extra="drop")
    for i in range(50):
        schema.validate({**GOOD, f"junk{i}": 1})
    assert schema.stats().breaches == {("*", "extra", "drop"): 50}


# -- policies ----------------------------------------------------------------------------


def test_clip_moves_a_number_to_its_bound_in_a_copy():
    schema = clone(on={"range": "clip"})
    row = {**GOOD, "age": 999}
    assert schema.validate(row)["age"] == 120
    assert row["age"] == 999


def test_infinity_clips_to_the_bound():
    field = Field(float, minimum=0, maximum=1, on={"finite": "clip"})
    assert Schema({"p": field}).validate({"p": -math.inf}) == {"p": 0}


@pytest.mark.parametrize("default", [0, 40])
@pytest.mark.parametrize("row", [{}, {"age": None}, {"age": math.nan}])
def test_impute_puts_the_default_in(row, default):
    schema = Schema({"age": Field(int, default=default, on={"missing": "impute"})})
    assert schema.validate(row) == {"age": default}


def test_a_welcome_null_is_not_imputed():
    schema = Schema({"age": Field(int, nullable=True, default=4, on={"missing": "impute"})})
    assert schema.validate({"age": None}) == {"age": None}


def test_warn_accepts_the_row_itself_and_counts():
    schema = clone(on={"category": "warn"})
    row = {**GOOD, "plan": "gold"}
    assert schema.validate(row) is row
    assert schema.stats().breaches == {("plan", "category", "warn"): 1}


def test_one_violation_that_rejects_outweighs_those_that_amend():
    schema = clone(on={"range": "clip"})
    with pytest.raises(InvalidFeatures) as caught:
        schema.validate({**GOOD, "age": 999, "plan": "gold"})
    assert rules(caught.value.violations) == {("plan", "category")}


def test_check_shows_violations_whatever_their_action():
    schema = clone(on={"range": "clip"})
    assert rules(schema.check({**GOOD, "age": 999})) == {("age", "range")}
    assert schema.stats().rows == 0


def test_the_fields_own_policy_goes_first():
    field = Field(int, maximum=9, on={"range": "reject"})
    with pytest.raises(InvalidFeatures):
        Schema({"n": field}, on={"range": "clip"}).validate({"n": 10})


@pytest.mark.parametrize("on", [{"missing": "impute"}, {"finite": "clip"}])
def test_an_action_that_is_impossible_for_a_field_rejects(on):
    with pytest.raises(InvalidFeatures):
        clone(on=on).validate({"age": 31, "income": math.inf})


# -- counters ----------------------------------------------------------------------------


def test_the_counters_add_up():
    schema = clone(on={"range": "clip"})
    for row in (GOOD, GOOD, {**GOOD, "age": 999}):
        schema.validate(row)
    for row in (GOOD, {**GOOD, "age": 999}, {}):
        schema.validate_batch([row])
    told = schema.stats()
    assert (told.rows, told.rejected, told.amended, told.accepted) == (6, 1, 2, 5)
    assert told.breaches["age", "range", "clip"] == 2
    assert told.breaches["plan", "missing", "reject"] == 1


def test_threads_lose_no_violation():
    schema = clone()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: schema.validate_batch([{}]), range(300)))
    assert schema.stats().rejected == 300
    assert schema.stats().breaches["age", "missing", "reject"] == 300


# -- laws --------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(-5, 5),
    st.sampled_from([math.nan, math.inf, -math.inf, np.float32(0.5), np.int8(3), pd.NaT, pd.NA]),
    st.sampled_from(["", "a", "z", b"a", MISS, (), 10**30]),
)
FIELDS = st.builds(
    lambda kind, required, nullable, bounds, levels: Field(
        kind,
        required=required,
        nullable=nullable,
        minimum=bounds[0] if kind in {"float", "int"} else None,
        maximum=bounds[1] if kind in {"float", "int"} else None,
        categories=levels,
    ),
    st.sampled_from(["any", "bool", "float", "int", "str", "datetime"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(None, None), (-1, 3), (0, None), (None, 2)]),
    st.sampled_from([None, None, ("a", 1, 2.0)]),
)
NAMES = st.sampled_from("abc")
ROWS = st.dictionaries(st.sampled_from("abcd"), VALUES)


@given(
    st.dictionaries(NAMES, FIELDS),
    st.lists(ROWS, max_size=8),
    st.sampled_from(["allow", "reject", "drop"]),
)
def test_the_fast_path_accepts_exactly_what_field_by_field_judgement_accepts(fields, rows, extra):
    schema = Schema(fields, extra=extra)
    for row in rows * 2:
        sound = all(breach(field, row.get(name, MISS)) is None for name, field in fields.items())
        known = extra == "allow" or row.keys() <= fields.keys()
        assert (schema.check(row) == ()) == (sound and known)


@given(st.dictionaries(NAMES, FIELDS), ROWS)
def test_validation_never_changes_its_input(fields, row):
    before = copy.copy(row)
    schema = Schema(fields, extra="drop", on={"range": "clip", "missing": "warn"})
    with contextlib.suppress(InvalidFeatures):
        schema.validate(row)
    assert list(map(id, row.values())) == list(map(id, before.values()))
    assert list(row) == list(before)


# -- the schema itself -------------------------------------------------------------------


def test_a_schema_goes_through_json_and_back():
    schema = Schema(
        {**SCHEMA.fields, "n": Field(int, default=3, null_share=0.25, on={"missing": "impute"})},
        extra="reject",
        on={"range": "clip"},
        name="churn",
    )
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again.to_dict() == schema.to_dict()
    assert again.diff(schema) == {}
    assert (again.extra, again.on, again.name) == ("reject", {"range": "clip"}, "churn")


@pytest.mark.parametrize("told", [{}, {"format": 99}, {"format": 1}, {"format": 1, "fields": 5}])
def test_what_describes_no_schema_is_refused(told):
    with pytest.raises(BadConfiguration):
        Schema.from_dict(told)


def test_a_diff_names_what_changed_came_and_went():
    old = Schema({"age": Field(int, maximum=90), "gone": Field(str)})
    new = Schema({"age": Field(int, maximum=120), "came": Field(str)})
    assert old.diff(new) == {
        "age": {"maximum": (90, 120)},
        "gone": {"kind": ("str", MISS)},
        "came": {"kind": (MISS, "str")},
    }


def test_a_pickled_schema_judges_alike_and_starts_counting_anew():
    schema = clone(extra="reject", on={"range": "clip"})
    schema.validate(GOOD)
    again = pickle.loads(pickle.dumps(schema))
    assert again.to_dict() == schema.to_dict()
    assert again.stats().rows == 0


def test_retuning_changes_the_judgement():
    schema = clone()
    _settings.retune(schema, extra="reject")
    assert len(schema.check({**GOOD, "colour": 1})) == 1


def test_a_schema_prints_one_line_a_field():
    text = str(Schema({"n": Field(int, minimum=0), **SCHEMA.fields}, on={"range": "clip"}))
    assert "  n       int   at least 0\n" in text
    assert "  note    str   may be null, may be absent" in text
    assert str(Schema({})) == "schema (extra fields: allow)"


def test_a_printed_field_shows_its_policies():
    text = str(Schema({"n": Field(int, maximum=1, on={"range": "clip"})}))
    assert text.endswith("n  int   at most 1, range: clip")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fields": {"a": int}}, "Field"),
        ({"fields": {1: Field(int)}}, "text"),
        ({"extra": "ignore"}, "extra"),
        ({"on": {"ranges": "clip"}}, "on"),
        ({"on": {"range": "cut"}}, "on"),
    ],
)
def test_a_schema_refuses_nonsense(settings, named):
    with pytest.raises(BadConfiguration, match=named):
        Schema(**{"fields": {}, **settings})


def test_types_seen_do_not_fill_memory():
    schema = Schema({"n": Field(int)})
    for i in range(1200):
        schema.validate({"n": type(f"Made{i}", (int,), {})(1)})
    assert len(kinds._KNOWN) <= 1024


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"fields": None}, "fields"),
        ({"fields": ["a"]}, "fields"),
        ({"on": 5}, "on"),
        ({"rules": "a > 1"}, "rules"),
        ({"rules": [5]}, "rules"),
        ({"unique": [5]}, "unique"),
        ({"unique": 5}, "unique"),
        ({"rules": 5}, "rules"),
        ({"quarantine": []}, "quarantine"),
        ({"null_alpha": "x"}, "null_alpha"),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(settings, word):
    with pytest.raises(BadConfiguration, match=word):
        Schema(**{"fields": {"a": Field(int)}, **settings})


@pytest.mark.parametrize("told", [None, [], "x", {"format": 1, "fields": []}])
def test_what_is_no_description_is_refused(told):
    with pytest.raises(BadConfiguration):
        Schema.from_dict(told)


def test_fields_cannot_be_changed_under_the_checks():
    schema = Schema({"a": Field(int)})
    with pytest.raises(TypeError):
        schema.fields["a"] = Field(str)
    for other in (copy.copy(schema), copy.deepcopy(schema), pickle.loads(pickle.dumps(schema))):
        assert other.fields == schema.fields
