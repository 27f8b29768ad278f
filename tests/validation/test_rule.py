import inspect
import math
import pickle
from array import array
from collections import deque
from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.validation import Field, Rule, Schema
from prodml.validation.expression import parse

NUMBERS = {name: Field(float, nullable=True, required=False) for name in "abc"}


def rules(violations):
    return [(violation.field, violation.rule) for violation in violations]


# -- expressions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "row", "holds"),
    [
        ("tenure <= age - 16", {"tenure": 4, "age": 20}, True),
        ("tenure <= age - 16", {"tenure": 5, "age": 20}, False),
        ("0 <= a / b <= 1", {"a": 1, "b": 2}, True),
        ("0 <= a / b <= 1", {"a": 3, "b": 2}, False),
        ("b == 0 or a / b > 1", {"a": 1, "b": 0}, True),
        ("b != 0 and a / b > 1", {"a": 1, "b": 0}, False),
        ("plan in ('pro', 'basic')", {"plan": "pro"}, True),
        ("plan not in ['pro', 'basic']", {"plan": "pro"}, False),
        ("not vip or plan == 'pro'", {"vip": True, "plan": "basic"}, False),
        ("abs(-a) % 3 == 2 and a // 2 == 2 and a * 2 == 10", {"a": 5}, True),
        ("end >= begin", {"begin": datetime(2024, 1, 2), "end": datetime(2024, 1, 1)}, False),
    ],
)
def test_an_expression_means_what_it_says(text, row, holds):
    assert parse(text).holds(row) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a <",
        "1 < 2",
        "__import__('os').system('true')",
        "a.b < 1",
        "a[0] < 1",
        "(lambda: a)() < 1",
        "[x for x in a]",
        "a ** 9 > 1",
        "a << 9 > 1",
        "a @ b",
        "+a > 1",
        "f'{a}' == 'x'",
        "len(a) > 1",
        "abs(a, b) > 1",
        "abs(x=a) > 1",
        "a in b",
        "a in ()",
        "a is b",
        "a < b'x'",
        "a < 1j",
        "a < None",
        "a if b else c",
        "(a := 1) < 2",
        "a; b",
        "(" * 300 + "a" + ")" * 300,
    ],
)
def test_everything_else_is_refused_while_building(text):
    with pytest.raises(BadConfiguration, match="rule"):
        Rule(text)


@pytest.mark.parametrize("operator", ["*", "%"])
def test_text_is_never_multiplied_into_something_huge(operator):
    rule = Rule(f"a {operator} b != 'x'")
    assert "cannot be multiplied" in rule.error({"a": "%9d", "b": 10**9})


TERMS = st.recursive(
    st.sampled_from(["a", "b", "c", "0", "1", "2.5", "-1"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        inner.map(lambda term: f"abs({term})"),
        inner.map(lambda term: f"(-{term})"),
    ),
    max_leaves=4,
)
TESTS = st.recursive(
    st.tuples(TERMS, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), TERMS).map(" ".join),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
        ),
        inner.map(lambda test: f"not ({test})"),
    ),
    max_leaves=3,
).filter(lambda text: any(name in text.replace("abs", "").replace("and", "") for name in "abc"))
CELLS = st.one_of(
    st.none(),
    st.integers(-4, 4),
    st.floats(-4, 4),
    st.sampled_from([2**53, 2**53 + 1, -(2**62), 1e308, math.inf, -math.inf, math.nan, 1e-320]),
)
TABLE = st.lists(st.fixed_dictionaries(dict.fromkeys("abc", CELLS)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(TESTS, TABLE)
@example("a == b", [{"a": 2**53, "b": 2**53 + 1, "c": 0}])
@example("a * b > 0", [{"a": 2**62, "b": 4, "c": 0}])
@example("a - b == c", [{"a": math.inf, "b": math.inf, "c": 0.0}])
@example("a / b > 1 or c == 0", [{"a": 1, "b": 0, "c": 0}])
@example("c <= abs(a + c)", [{"a": 0, "b": 0, "c": 0.0}, {"a": 0.0, "b": 0, "c": 2**53 + 1}])
def test_columns_get_the_verdict_of_rows(text, rows):
    schema = Schema(NUMBERS, rules=[Rule(text, name="r")], on={"finite": "warn"})
    one_by_one = schema.validate_batch(rows)
    alone = [{found for found in rules(schema.check(row)) if found[0] == "r"} for row in rows]
    columns = {name: [row[name] for row in rows] for name in "abc"}
    arrays = {name: np.array(values, dtype=float) for name, values in columns.items()}
    floats = [{name: float(arrays[name][i]) for name in "abc"} for i in range(len(rows))]
    assert schema.validate_batch(columns).where == one_by_one.where
    expected = schema.validate_batch(floats).where
    for table in (arrays, pd.DataFrame(arrays), pl.DataFrame(arrays), pa.table(arrays)):
        assert schema.validate_batch(table).where == expected
    told = [{key for key, hit in one_by_one.where.items() if i in hit} for i in range(len(rows))]
    assert [{key for key in keys if key[0] == "r"} for keys in told] == alone


@pytest.mark.parametrize("cls", [np.float32, np.int8, np.uint8, np.int64, np.float64])
def test_narrow_numbers_are_judged_at_full_width(cls):
    schema = Schema({"a": Field(float), "b": Field(float)}, rules=["a + b <= 0.1 or a + b == 200"])
    rows = [{"a": cls(100), "b": cls(100)}, {"a": cls(0), "b": cls(0)}]
    arrays = {name: np.array([row[name] for row in rows]) for name in "ab"}
    assert schema.validate_batch(rows).ok
    assert schema.validate_batch(arrays).ok


# -- functions ----------------------------------------------------------------------------


def workday(row):
    return row["day"] < 5 or not row["open"]


def workdays(columns):
    return (columns["day"] < 5) | ~columns["open"]


FIELDS = {"day": Field(int), "open": Field(bool), "note": Field(required=False, nullable=True)}
DAYS = {"day": np.array([1, 6, 6]), "open": np.array([True, True, False])}


@pytest.mark.parametrize("batch", [None, workdays, lambda _: 1 / 0, lambda _: np.array([1.0])])
@pytest.mark.parametrize("fields", [(), ("day", "open")])
def test_a_function_is_a_rule_and_its_batch_form_a_short_cut(batch, fields):
    schema = Schema(FIELDS, rules=[Rule(workday, batch=batch, fields=fields)])
    assert schema.validate_batch(DAYS).where == {("workday", "rule"): [1]}
    assert rules(schema.check({"day": 6, "open": True})) == [("workday", "rule")]


def test_the_batch_form_is_what_a_table_is_judged_by():
    asked = []

    def whole(columns):
        asked.append(len(columns["day"]))
        return columns["day"] < 5

    Schema(FIELDS, rules=[Rule(workday, batch=whole)]).validate_batch(DAYS)
    assert asked == [3]


def test_a_function_is_shown_the_fields_that_it_asked_for():
    seen = []
    schema = Schema(FIELDS, rules=[Rule(lambda row: seen.append(set(row)) or 1, fields=["day"])])
    schema.validate({"day": 1, "open": True})
    schema.validate_batch(DAYS)
    assert seen == [{"day"}] * 4


@pytest.mark.parametrize("table", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_a_rule_that_raises_is_a_violation_and_no_exception(table):
    schema = Schema({"a": Field(int), "b": Field(int)}, rules=[Rule("a / b > 1", name="ratio")])
    with pytest.raises(InvalidFeatures) as caught:
        schema.validate({"a": 1, "b": 0})
    (violation,) = caught.value.violations
    assert (violation.field, violation.rule) == ("ratio", "rule_error")
    assert violation.value == {"a": 1, "b": 0}
    assert "ZeroDivisionError" in violation.expected
    batch = schema.validate_batch(table({"a": [1, 4, 1], "b": [0, 2, 2]}))
    assert batch.where == {("ratio", "rule_error"): [0], ("ratio", "rule"): [2]}
    assert batch.valid.tolist() == [False, True, False]


# -- together with fields -----------------------------------------------------------------


def test_a_rule_is_skipped_where_a_field_is_missing_or_refused_for_itself():
    schema = Schema(
        {"a": Field(int, required=False, nullable=True), "b": Field(int, maximum=9)},
        rules=["a < b"],
    )
    for row in ({"b": 1}, {"a": None, "b": 1}):
        assert schema.check(row) == ()
    assert rules(schema.check({"a": 99, "b": 10})) == [("b", "range")]
    batch = schema.validate_batch({"a": [None, 99], "b": [1, 10]})
    assert batch.where == {("b", "range"): [1]}


@pytest.mark.parametrize("make", [lambda rows: rows, pl.DataFrame, pd.DataFrame])
def test_a_rule_looks_at_the_row_as_it_would_be_accepted(make):
    schema = Schema(
        {"age": Field(int, maximum=100, on={"range": "clip"}), "tenure": Field(int)},
        rules=["tenure <= age"],
    )
    batch = schema.validate_batch(make([{"age": 999, "tenure": 200}, {"age": 999, "tenure": 9}]))
    assert batch.valid.tolist() == [False, True]


def test_a_rule_can_warn():
    schema = Schema({"a": Field(int), "b": Field(int)}, rules=[Rule("a < b", action="warn")])
    row = {"a": 3, "b": 1}
    assert schema.validate(row) is row
    assert schema.validate_batch([row]).ok
    assert schema.validate_batch({"a": [3], "b": [1]}).ok
    assert schema.stats().breaches == {("a < b", "rule", "warn"): 3}


def test_what_is_no_row_breaks_no_rule():
    assert rules(Schema({"a": Field(int)}, rules=["a > 1"]).check(5)) == [("", "type")]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rules": ["a < z"]}, "z"),
        ({"rules": ["a < b", "a < b"]}, "names of their own"),
        ({"rules": [Rule("a < b", name="a")]}, "names of their own"),
        ({"unique": [("a", "z")]}, "z"),
        ({"unique": ["ab"]}, "unique"),
        ({"null_alpha": 0}, "null_alpha"),
    ],
)
def test_a_schema_refuses_rules_that_could_never_speak(settings, named):
    with pytest.raises(BadConfiguration, match=named):
        Schema({"a": Field(int), "b": Field(int)}, **settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rule(5),
        lambda: Rule("a < b", action="clip"),
        lambda: Rule("a < b", batch=workdays),
        lambda: Rule("a < b", fields=["a"]),
        lambda: Rule(workday, fields="day"),
    ],
)
def test_a_rule_refuses_nonsense(make):
    with pytest.raises(BadConfiguration):
        make()


def test_rules_travel():
    schema = Schema(FIELDS, rules=["day < 7", Rule(workday, batch=workdays, action="warn")])
    again = pickle.loads(pickle.dumps(schema))
    assert again.to_dict() == schema.to_dict()
    assert again.validate_batch(DAYS).where == {("workday", "rule"): [1]}
    told = schema.to_dict()
    with pytest.raises(BadConfiguration, match="workday"):
        Schema.from_dict(told)
    again = Schema.from_dict(told, rules={"workday": schema.rules[1]})
    assert again.to_dict() == told
    assert "day < 7" in str(again)
    assert "workday: workday to hold" in str(again)


@pytest.mark.parametrize("text", ["-" * 100_000 + "a > 0", "not " * 100_000 + "a", "(" * 1000])
def test_a_text_that_is_nested_too_deeply_is_refused(text):
    with pytest.raises(BadConfiguration) as error:
        Rule(text)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "(a > 0) + (b > 0) == 2",
        "(a > 0) - (b > 0) == 0",
        "(a > 0) * 3 + (b > 0) >= 3",
        "a / b > 1",
        "b / a > 1",
        "a // b > 1",
    ],
)
@pytest.mark.parametrize("values", [[2.0, 0.0, -1.0], [math.inf, 0.0, 3.0], [2.0, 3.0, 4.0]])
def test_columns_and_scalars_of_numpy_judge_as_pythons_numbers(text, values):
    schema = Schema({"a": Field("any"), "b": Field("any")}, rules=[text])
    columns = {"a": np.array(values), "b": np.array(values[::-1])}
    rows = [dict(zip("ab", pair, strict=True)) for pair in zip(values, values[::-1], strict=True)]
    wanted = [rules(schema.check(row)) for row in rows]
    scalars = [{name: column[i] for name, column in columns.items()} for i in range(len(rows))]
    assert [rules(schema.check(row)) for row in scalars] == wanted
    assert schema.validate_batch(columns).valid.tolist() == [not found for found in wanted]


def test_no_sequence_is_multiplied():
    for value in (deque([1]), array("b", [1]), "x", [1]):
        told = Rule("a * b > 1").error({"a": value, "b": 10**9})
        assert told == "TypeError: texts and sequences cannot be multiplied"


def test_a_rule_about_a_whole_pandas_row_tells_its_values():
    schema = Schema({"a": Field(int), "b": Field(int)}, rules=[Rule(_never, name="never")])
    (found,) = schema.check(pd.DataFrame({"a": [3], "b": [1]}).iloc[0])
    assert found.value == {"a": 3, "b": 1}


def _never(row):
    return False


def test_a_rule_that_is_too_deep_for_the_stack_that_is_left_is_a_violation_and_no_exception():
    schema = Schema({"a": Field(int)}, rules=[Rule("a" + " + a" * 440 + " > 0", name="deep")])

    def within(frames):
        if frames:
            return within(frames - 1)
        alone = rules(schema.check({"a": 1}))
        return alone, [*schema.validate_batch({"a": [1]}).where]

    depth = len(inspect.stack(0))
    assert within(5) == ([], [])
    assert within(950 - 440 - depth + 100) == ([("deep", "rule_error")],) * 2
