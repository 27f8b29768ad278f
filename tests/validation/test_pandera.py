"""Pandera's own verdict on random frames is the oracle."""

import math
import warnings
from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.integrations.pandera import from_pandera, to_pandera
from prodml.validation import Field, NotExpressed, Rule, Schema

with warnings.catch_warnings():
    # It loads whatever it finds installed, and passes on what that has to say.
    warnings.simplefilter("ignore")
    pandera = pytest.importorskip("pandera.pandas")
    pandera_polars = pytest.importorskip("pandera.polars")
    # The first frame makes it load the rest.
    pandera.DataFrameSchema({}).validate(pd.DataFrame())
    pandera_polars.DataFrameSchema({}).validate(pl.DataFrame())
    type("First", (pandera.DataFrameModel,), {"__annotations__": {"a": int}}).to_schema()

BACKENDS = {"pandas": pandera, "polars": pandera_polars}
SCHEMA = Schema(
    {
        "ratio": Field(float, minimum=0, maximum=1),
        "note": Field(float, nullable=True, required=False),
        "count": Field(int, minimum=-2),
        "flag": Field(bool),
        "plan": Field(str, categories=("a", "bb"), nullable=True),
        "code": Field(str, pattern=r"[A-Z]{2}\d*", max_length=4),
        "at": Field(datetime, minimum=datetime(2024, 1, 1)),
    },
    extra="reject",
)
TEXTS = st.sampled_from(["a", "bb", "AB", "AB1", "AB12", "AB123", "AB\n", "xAB", ""])
CELLS = {
    "ratio": st.one_of(st.floats(0, 1), st.floats(0, 1), st.sampled_from([2.0, math.inf])),
    "note": st.one_of(st.none(), st.floats(-1, 1), st.just(math.inf)),
    "count": st.integers(-3, 40),
    "flag": st.booleans(),
    "plan": st.one_of(st.none(), st.sampled_from(["a", "bb"]), st.just("c")),
    "code": st.one_of(st.sampled_from(["AB", "AB1"]), TEXTS),
    "at": st.datetimes(datetime(2023, 12, 1), datetime(2030, 1, 1)),
}
ROWS = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=4)
POLARS = {
    "ratio": pl.Float64,
    "note": pl.Float64,
    "count": pl.Int64,
    "flag": pl.Boolean,
    "plan": pl.String,
    "code": pl.String,
    "at": pl.Datetime("us"),
}


def pandas_frame(rows):
    frame = pd.DataFrame(rows, columns=list(CELLS))
    dtypes = {"ratio": "float64", "note": "float64", "plan": "str", "at": "datetime64[us]"}
    return frame.astype(dtypes)


def polars_frame(rows):
    return pl.DataFrame(rows, schema=POLARS)


FRAMES = {"pandas": pandas_frame, "polars": polars_frame}


def accepts(theirs, frame):
    from pandera.errors import SchemaErrors

    try:
        theirs.validate(frame, lazy=True)
    except SchemaErrors:
        return False
    return True


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_pandera_gives_the_same_verdict(backend, rows):
    frame = FRAMES[backend](rows)
    theirs = to_pandera(SCHEMA, backend=backend)
    verdict = SCHEMA.validate_batch(frame).ok
    assert accepts(theirs, frame) == verdict
    assert from_pandera(theirs).validate_batch(frame).ok == verdict


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_schema_goes_through_pandera_and_back(backend):
    again = from_pandera(to_pandera(SCHEMA, backend=backend))
    assert again.diff(SCHEMA) == {}
    assert again.diff(SCHEMA).whole == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_pandera_cannot_say_is_told_and_comes_back(backend):
    schema = Schema(
        {
            "a": Field(int, maximum=9, on={"range": "clip"}, max_null_share=0.1),
            "b": Field(float, unique=True, nullable=True),
        },
        on={"missing": "warn"},
        rules=[Rule("a < b", name="order")],
        unique=[("a", "b"), ("b", "a")],
    )
    with pytest.warns(NotExpressed) as told:
        theirs = to_pandera(schema, backend=backend)
    said = {str(each.message).split(":")[0] + str(each.message).split(":")[1] for each in told}
    assert said == {
        "schema on",
        "schema rules",
        "schema unique",
        "a on",
        "a max_null_share",
        "b unique",
    }
    again = from_pandera(theirs)
    assert again.to_dict() == schema.to_dict()


def test_a_schema_of_theirs_becomes_one_of_ours():
    check = pandera.Check
    theirs = pandera.DataFrameSchema(
        {
            "a": pandera.Column(int, [check.gt(0), check.lt(9)]),
            "b": pandera.Column(float, check.in_range(0, 1, include_max=False)),
            "c": pandera.Column(str, [check.str_matches("x+"), check.str_length(1, 3)]),
            "d": pandera.Column(str, check.isin(["u", "v"]), required=False),
            "e": pandera.Column(str, check.eq("k")),
        },
        strict=True,
        unique=["a", "b"],
    )
    ours = from_pandera(theirs)
    good = {"a": 1, "b": 0.0, "c": "xyz", "d": "u", "e": "k"}
    assert ours.check(good) == ()
    bad = {"a": [0, 9], "b": [1.0, -0.1], "c": ["y", "xxxx", ""], "d": ["w"], "e": ["l"], "z": [1]}
    for name, values in bad.items():
        for value in values:
            assert len(ours.check({**good, name: value})) == 1, (name, value)
    assert ours.unique == [("a", "b")]


def test_what_is_not_checked_here_is_told():
    theirs = pandera.DataFrameSchema(
        {
            "a": pandera.Column(int, pandera.Check(lambda s: s > 0, name="mine"), coerce=True),
            "b": pandera.Column("timedelta64[ns]"),
        },
        checks=pandera.Check(lambda frame: frame["a"] > 1),
        index=pandera.Index(int),
    )
    with pytest.warns(NotExpressed) as told:
        ours = from_pandera(theirs)
    text = " ".join(str(each.message) for each in told)
    for word in ("schema: checks", "schema: index", "a: coerce", "a: check mine", "b: dtype"):
        assert word in text
    assert ours.fields["b"].kind == "any"


def test_a_model_of_theirs_and_its_default():
    class Loan(pandera.DataFrameModel):
        age: int = pandera.Field(ge=18, default=30)

    ours = from_pandera(Loan)
    assert ours.validate({}) == {"age": 30}
    with pytest.raises(ValueError, match="at least 18"):
        ours.validate({"age": 3})


@pytest.mark.parametrize("backend", BACKENDS)
def test_kinds_that_a_backend_lacks_are_told(backend):
    schema = Schema({"raw": Field("bytes", max_length=3), "day": Field("date"), "any": Field()})
    with pytest.warns(NotExpressed) as told:
        theirs = to_pandera(schema, backend=backend)
    assert len(told) == (3 if backend == "pandas" else 1)
    assert {name: field.kind for name, field in from_pandera(theirs).fields.items()} == {
        "raw": "bytes",
        "day": "date",
        "any": "any",
    }


def test_an_unknown_backend_is_refused():
    with pytest.raises(BadConfiguration, match="spark"):
        to_pandera(SCHEMA, backend="spark")


# -- what pandera gets wrong --------------------------------------------------------------


def test_a_million_nulls_are_one_finding_and_not_a_row_each():
    frame = pl.DataFrame({"a": np.full(1_000_000, np.nan)})
    batch = Schema({"a": Field(float, max_null_share=0.5)}).validate_batch(frame)
    assert batch.violations == {"a": {"missing": 1_000_000}}
    assert len(batch.findings) == 1
    assert str(batch).count("\n") == 2


def test_bad_rows_are_set_aside_without_a_switch_that_must_be_known():
    frame = pd.DataFrame({"a": [1.0, -1.0, 2.0]})
    theirs = pandera.DataFrameSchema(
        {"a": pandera.Column(float, pandera.Check.ge(0))}, drop_invalid_rows=True
    )
    from pandera.errors import SchemaDefinitionError

    # Theirs drops rows only if one knows to ask for lazy validation as well.
    with pytest.raises(SchemaDefinitionError):
        theirs.validate(frame)
    batch = Schema({"a": Field(float, minimum=0)}).validate_batch(frame)
    assert batch.valid_rows["a"].tolist() == [1.0, 2.0]
    assert batch.quarantined["a"].tolist() == [-1.0]


def told_of(column, backend="pandas"):
    """Our field, and what is told to be lost."""
    theirs = BACKENDS[backend].DataFrameSchema({"a": column})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        field = from_pandera(theirs).fields["a"]
    return field, [str(each.message) for each in told if each.category is NotExpressed]


def test_checks_of_one_sort_hold_together():
    check = pandera.Check
    field, told = told_of(pandera.Column(int, [check.isin([1, 2]), check.isin([2, 3])]))
    assert (field.categories, told) == ((2,), [])
    lengths = [check.str_length(2, None), check.str_length(None, 5)]
    field, told = told_of(pandera.Column(str, lengths))
    assert (field.min_length, field.max_length, told) == (2, 5, [])
    patterns = [check.str_matches("a"), check.str_matches("b")]
    field, told = told_of(pandera.Column(str, patterns))
    assert told == ["a: check str_matches: not checked here"]


def test_checks_and_types_without_a_counterpart_are_told():
    check, stamp = pandera.Check, pd.Timestamp("2024-01-01")
    columns = [
        pandera.Column(str, check.ge("b")),
        pandera.Column(None, check.ge(1)),
        pandera.Column("datetime64[ns]", check.gt(stamp)),
        pandera.Column(None, [check.str_length(1, 2)]),
        pandera.Column(pd.IntervalDtype("int64")),
    ]
    for column in columns:
        field, told = told_of(column)
        assert field.kind != "int"
        assert len(told) == 1
    structure = pandera_polars.Column(pl.Struct({"x": pl.Int64}))
    field, told = told_of(structure, "polars")
    assert (field.kind, len(told)) == ("any", 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", ["(?i)ab", "(?x)a b # twice", "a(?=b)b", r"(a)b\1", r"ab\Z"])
def test_a_pattern_is_taken_or_told(backend, pattern):
    schema = Schema({"a": Field(str, pattern=pattern)})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        theirs = to_pandera(schema, backend=backend)
    taken = not any(isinstance(each.message, NotExpressed) for each in told)
    assert taken or backend == "polars" or "?x" in pattern
    frames = {"pandas": pd.DataFrame, "polars": pl.DataFrame}
    for value in ("ab", "AB", "aba", "ba", "ab\n"):
        frame = frames[backend]({"a": [value]})
        try:
            theirs.validate(frame)
            fine = True
        except (pandera.errors.SchemaError, pandera_polars.errors.SchemaError):
            fine = False
        assert fine == schema.validate_batch(frame).ok or not taken
    assert from_pandera(theirs).diff(schema) == {}


def test_bounds_that_every_number_is_within_say_nothing():
    check = pandera.Check
    theirs = {
        "whole": pandera.Column(int, [check.lt(math.inf), check.gt(-math.inf)]),
        "ratio": pandera.Column(float, [check.le(math.inf), check.ge(-math.inf)]),
    }
    ours = from_pandera(pandera.DataFrameSchema(theirs))
    assert {(f.minimum, f.maximum) for f in ours.fields.values()} == {(None, None)}
    with pytest.raises(BadConfiguration, match="finite"):
        from_pandera(pandera.DataFrameSchema({"x": pandera.Column(int, check.gt(math.inf))}))
