import math
import pickle
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from prodml.errors import BadConfiguration
from prodml.types import MISS
from prodml.validation import Field, Violation
from prodml.validation.field import breach, kind_of_type

NOW = datetime(2024, 1, 1, tzinfo=UTC)

ACCEPTED = [
    ("float", 1.5),
    ("float", 1),
    ("float", np.float32(1.5)),
    ("float", np.float64(1.5)),
    ("float", np.int8(1)),
    ("float", Fraction(1, 3)),
    ("int", 1),
    ("int", np.int64(1)),
    ("int", np.uint8(1)),
    ("int", 3.0),
    ("int", np.float32(3)),
    ("int", 10**400),
    ("bool", True),
    ("bool", np.True_),
    ("str", ""),
    ("str", np.str_("x")),
    ("bytes", b"x"),
    ("datetime", NOW),
    ("datetime", pd.Timestamp(NOW)),
    ("datetime", np.datetime64("2024-01-01")),
    ("date", date(2024, 1, 1)),
    ("date", np.datetime64("2024-01-01")),
    ("any", object()),
    ("any", np.zeros(3)),
    ("any", 0),
]
WRONG = [
    ("float", True),
    ("float", np.True_),
    ("float", "1.5"),
    ("float", Decimal("1.5")),
    ("float", 1j),
    ("float", np.zeros(3)),
    ("int", True),
    ("int", 1.5),
    ("int", np.float32(1.5)),
    ("int", math.inf),
    ("int", "1"),
    ("bool", 1),
    ("bool", np.int64(1)),
    ("str", b"x"),
    ("str", 5),
    ("bytes", "x"),
    ("datetime", date(2024, 1, 1)),
    ("datetime", "2024-01-01"),
    ("date", NOW),
]
NULLS = [None, math.nan, np.float32("nan"), np.float64("nan"), pd.NaT, pd.NA, Decimal("nan")]
NULLS += [Decimal("snan"), np.datetime64("NaT", "s")]


@pytest.mark.parametrize(("kind", "value"), ACCEPTED)
def test_a_value_of_the_kind_is_accepted(kind, value):
    assert breach(Field(kind), value) is None


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_a_value_of_another_kind_breaks_type(kind, value):
    assert breach(Field(kind), value) == "type"


@pytest.mark.parametrize(
    "kind", ["any", "bool", "bytes", "date", "datetime", "float", "int", "str"]
)
@pytest.mark.parametrize("value", NULLS)
def test_none_and_nan_of_every_make_are_missing(kind, value):
    assert breach(Field(kind), value) == "missing"
    assert breach(Field(kind, nullable=True), value) is None


def test_absence_is_missing_unless_the_field_is_optional():
    assert breach(Field(int), MISS) == "missing"
    assert breach(Field(int, nullable=True), MISS) == "missing"
    assert breach(Field(int, required=False), MISS) is None
    assert breach(Field(int, required=False), None) == "missing"


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float32("inf")])
def test_infinity_is_a_breach_of_its_own(value):
    assert breach(Field(float, minimum=0, maximum=1), value) == "finite"


@pytest.mark.parametrize(("value", "rule"), [(-1, "range"), (0, None), (1, None), (2, "range")])
def test_both_bounds_belong_to_the_range(value, rule):
    assert breach(Field(int, minimum=0, maximum=1), value) == rule


@pytest.mark.parametrize("kind", [str, "any"])
def test_only_listed_categories_are_accepted(kind):
    field = Field(kind, categories=("a", ""))
    found = [breach(field, value) for value in ("a", "", "b")]
    assert found == [None, None, "category"]


def test_an_array_is_no_category():
    assert breach(Field(categories=(1, 2)), np.zeros(3)) == "category"


def test_zero_empty_and_false_are_values():
    fields = [(Field(int), 0), (Field(float), 0.0), (Field(str), ""), (Field(bool), False)]
    assert [breach(field, value) for field, value in fields] == [None] * 4


def test_python_types_name_kinds():
    types = {bool: "bool", bytes: "bytes", date: "date", datetime: "datetime", float: "float"}
    types |= {int: "int", str: "str", object: "any", np.float32: "float"}
    assert {cls: Field(cls).kind for cls in types} == types


def test_kinds_of_types_made_at_run_time_are_found_every_time():
    made = [type(f"Made{i}", (int,), {}) for i in range(1100)]
    assert {kind_of_type(cls) for cls in made * 2} == {"int"}


def test_bounds_of_an_int_are_whole_and_those_of_numpy_are_plain():
    field = Field(int, minimum=0.5, maximum=np.float32(9.5))
    assert (field.minimum, field.maximum) == (1, 9)
    assert type(Field(float, maximum=np.float32(1)).maximum) is float
    assert type(Field(float, maximum=np.int8(1)).maximum) is int


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "number"}, "kind"),
        ({"kind": list}, "kind"),
        ({"kind": "str", "minimum": 0}, "minimum"),
        ({"kind": "float", "minimum": "0"}, "minimum"),
        ({"kind": "float", "maximum": math.inf}, "maximum"),
        ({"kind": "float", "maximum": math.nan}, "maximum"),
        ({"kind": "float", "minimum": True}, "minimum"),
        ({"kind": "float", "minimum": 2, "maximum": 1}, "above maximum"),
        ({"kind": "str", "categories": "abc"}, "categories"),
        ({"kind": "any", "categories": ([],)}, "hashable"),
        ({"null_share": 1.1}, "null_share"),
        ({"on": {"ranges": "clip"}}, "unknown rule"),
        ({"on": {"range": "cut"}}, "unknown action"),
        ({"on": {"extra": "reject"}}, "unknown rule"),
        ({"on": {"type": "drop"}}, "unknown action"),
        ({"kind": "float", "on": {"range": "clip"}}, "clip needs"),
        ({"kind": "float", "minimum": 0, "on": {"finite": "clip"}}, "clip needs"),
        ({"kind": "float", "minimum": 0, "on": {"type": "clip"}}, "clip needs"),
        ({"kind": "float", "on": {"missing": "impute"}}, "impute needs a default"),
        ({"kind": "float", "maximum": 1, "default": 2}, "default 2 breaks range"),
        ({"kind": "float", "default": None}, "default None breaks missing"),
    ],
)
def test_a_field_refuses_nonsense(settings, named):
    with pytest.raises(BadConfiguration, match=named):
        Field(**settings)


@pytest.mark.parametrize(
    ("field", "rule", "words"),
    [
        (Field(int, maximum=9), "range", "at most 9"),
        (Field(int, minimum=1, maximum=9), "range", "1 to 9"),
        (Field(str, categories=("a", "b")), "category", "one of 'a', 'b'"),
        (Field(int, categories=range(7)), "category", "one of 0, 1, 2, 3, 4, ... (7)"),
        (Field(int), "type", "int"),
        (Field(int), "finite", "a finite number"),
    ],
)
def test_what_a_rule_expects_is_said_in_words(field, rule, words):
    assert field.expected(rule) == words


def test_clipping_leaves_what_is_inside():
    field = Field(float, minimum=0, maximum=1)
    assert [field.clip(value) for value in (-2.0, 0.5, 7.0)] == [0, 0.5, 1]
    assert Field(float, maximum=1).clip(-9.0) == -9.0


def test_fields_and_violations_survive_a_pickle():
    field = Field(float, minimum=0, default=0.5, on={"missing": "impute"})
    violation = Violation("a", "missing", MISS, "a value")
    assert pickle.loads(pickle.dumps(field)) == field
    assert pickle.loads(pickle.dumps(violation)) == violation


def test_a_violation_shortens_what_it_shows():
    text = str(Violation("", "type", "x" * 500, "a mapping"))
    assert text.startswith("row: 'xxx")
    assert len(text) < 120


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        (str, {"min_length": "3"}, "min_length"),
        (str, {"max_length": 1.5}, "max_length"),
        (str, {"max_length": True}, "max_length"),
        (str, {"null_share": "x"}, "null_share"),
        (str, {"max_null_share": []}, "max_null_share"),
        (str, {"categories": 5}, "categories"),
        ("any", {"categories": [([1],)]}, "categories"),
        (str, {"on": 5}, "on"),
        (float, {"minimum": Fraction(10**400)}, "minimum"),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(kind, settings, word):
    with pytest.raises(BadConfiguration, match=word):
        Field(kind, **settings)


def test_a_description_is_a_copy():
    field = Field(int, categories=(1, 2), on={"missing": "warn"})
    told = field.to_dict()
    told["on"]["missing"] = "reject"
    told["categories"].append(3)
    assert field.on == {"missing": "warn"}
    assert field.categories == (1, 2)


def test_days_among_the_categories_are_texts_in_a_description():
    field = Field("date", categories=[date(2024, 1, 1)])
    assert field.to_dict()["categories"] == ["2024-01-01"]
    assert Field(**field.to_dict()) == field
