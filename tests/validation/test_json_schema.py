"""The reference validator's verdict on random rows is the oracle."""

import json
import math
from datetime import date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.validation import Field, NotExpressed, Rule, Schema

jsonschema = pytest.importorskip("jsonschema")

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-4, 4),
    st.floats(-4, 4),
    st.sampled_from([3.0, 10**30, 1e300]),
    st.sampled_from(["", "a", "ab", "abc", "ab\n", "b", "x" * 9]),
    st.lists(st.integers(), max_size=1),
)
ROWS = st.dictionaries(st.sampled_from("abcd"), CELLS)


@st.composite
def fields(draw):
    kind = draw(st.sampled_from(["any", "bool", "float", "int", "str"]))
    told = {"required": draw(st.booleans()), "nullable": draw(st.booleans())}
    if kind in {"float", "int"}:
        told["minimum"] = draw(st.sampled_from([None, -2, 0.5]))
        told["maximum"] = draw(st.sampled_from([None, 2, 3]))
    if kind == "str":
        told["min_length"] = draw(st.sampled_from([None, 1]))
        told["max_length"] = draw(st.sampled_from([None, 2]))
        told["pattern"] = draw(st.sampled_from([None, "[ab]*", "a|ab"]))
    if kind in {"any", "str"}:
        told["categories"] = draw(st.sampled_from([None, ("a", "ab"), ("abc",)]))
    return Field(kind, **told)


SCHEMAS = st.builds(
    lambda wanted, extra: Schema(wanted, extra=extra),
    st.dictionaries(st.sampled_from("abc"), fields()),
    st.sampled_from(["allow", "reject"]),
)


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.lists(ROWS, min_size=1, max_size=6))
def test_the_reference_validator_agrees(schema, rows):
    document = json.loads(json.dumps(schema.to_json_schema()))
    jsonschema.Draft202012Validator.check_schema(document)
    theirs = jsonschema.Draft202012Validator(document)
    again = Schema.from_json_schema(document)
    assert again.to_dict() == schema.to_dict()
    for row in rows:
        assert theirs.is_valid(row) == (not schema.check(row))


@st.composite
def documents(draw):
    def prop():
        said = draw(
            st.sampled_from(
                [
                    {"type": "integer"},
                    {"type": ["number", "null"]},
                    {"type": ["integer", "number"]},
                    {"type": "string", "pattern": "b"},
                    {"type": "string", "pattern": "^a", "maxLength": 2},
                    {"type": "boolean"},
                    {"enum": ["a", None]},
                    {"const": "ab"},
                    {"enum": [1, 2.5]},
                    {"enum": [0, None]},
                    {"const": True},
                    {"type": "string", "enum": ["a", "abc"]},
                    {"$ref": "#/$defs/small"},
                    {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    {"anyOf": [{"$ref": "#/$defs/small"}, {"type": "null"}]},
                    {},
                    True,
                ]
            )
        )
        if isinstance(said, dict) and said.get("type") in ("integer", ["number", "null"]):
            low = draw(st.sampled_from([{}, {"minimum": 0}, {"exclusiveMinimum": 0}]))
            high = draw(st.sampled_from([{}, {"maximum": 2}, {"exclusiveMaximum": 2}]))
            return {**said, **low, **high}
        return said

    return {
        "type": "object",
        "$defs": {"small": {"type": "integer", "maximum": 2}},
        "properties": {name: prop() for name in draw(st.sets(st.sampled_from("abc"), min_size=1))},
        "required": draw(st.lists(st.sampled_from("abc"), unique=True)),
        "additionalProperties": draw(st.booleans()),
    }


@settings(max_examples=60, deadline=None)
@given(documents(), st.lists(ROWS, min_size=1, max_size=6))
def test_documents_of_others_are_read_as_they_are_meant(document, rows):
    theirs = jsonschema.Draft202012Validator(document)
    # A required name without a property is one that is not forbidden as unknown here.
    strangers = set(document["required"]) - set(document["properties"])
    schema = Schema.from_json_schema(document)
    for row in rows:
        if document["additionalProperties"] is False and strangers & row.keys():
            continue
        assert theirs.is_valid(row) == (not schema.check(row)), (row, schema.check(row))


def test_what_json_schema_cannot_say_is_told_and_comes_back():
    schema = Schema(
        {
            "a": Field(int, maximum=9, default=3, on={"range": "clip"}, unique=True),
            "b": Field(float, max_null_share=0.1, null_share=0.05, nullable=True),
            "at": Field(datetime, minimum=datetime(2024, 1, 1)),
            "day": Field(date, nullable=True),
            "raw": Field("bytes", max_length=3),
        },
        extra="drop",
        on={"missing": "warn"},
        rules=[Rule("a < b", name="order", action="warn")],
        unique=[("a", "b")],
        null_alpha=0.01,
    )
    with pytest.warns(NotExpressed) as told:
        document = json.loads(json.dumps(schema.to_json_schema()))
    assert sorted((w.message.where, w.message.what.split()[0]) for w in told) == [
        ("", "extra"),
        ("", "on"),
        ("", "rules"),
        ("", "unique"),
        ("a", "on"),
        ("a", "unique"),
        ("at", "datetime"),
        ("b", "max_null_share"),
        ("day", "date"),
        ("raw", "bytes"),
    ]
    assert Schema.from_json_schema(document).to_dict() == schema.to_dict()
    assert document["properties"]["at"] | {"x-prodml": 0} == {
        "type": "string",
        "format": "date-time",
        "x-prodml": 0,
    }


@pytest.mark.parametrize("pattern", ["(?P<x>a)", "(?i)ab", r"ab\Z", "a++"])
def test_a_pattern_that_only_python_knows_is_told_and_left_out(pattern):
    schema = Schema({"a": Field(str, pattern=pattern)})
    with pytest.warns(NotExpressed, match="only Python"):
        document = schema.to_json_schema()
    # In another's engine, or within brackets, it would not even compile.
    assert "pattern" not in document["properties"]["a"]
    assert jsonschema.Draft202012Validator(document).is_valid({"a": "anything"})
    assert Schema.from_json_schema(document).diff(schema) == {}


def test_levels_of_two_kinds_that_python_takes_for_one_are_told():
    with pytest.warns(NotExpressed, match="true for 1"):
        Schema.from_json_schema({"properties": {"a": {"enum": [1, True]}}})


def test_levels_of_any_kind_come_back_as_such():
    schema = Schema({"a": Field(categories=(1, 2)), "b": Field(categories=("x",), nullable=True)})
    document = json.loads(json.dumps(schema.to_json_schema()))
    assert Schema.from_json_schema(document).to_dict() == schema.to_dict()


def test_a_word_beside_a_reference_that_says_otherwise_is_told():
    small = {"type": "integer", "maximum": 2, "title": "Small"}
    said = {"$ref": "#/$defs/small", "maximum": 5, "title": "Other"}
    document = {"properties": {"a": said}, "$defs": {"small": small}}
    with pytest.warns(NotExpressed, match="maximum beside") as told:
        Schema.from_json_schema(document)
    assert len(told) == 1


def test_a_pattern_with_flags_is_searched_for_with_them():
    document = {"properties": {"a": {"type": "string", "pattern": "(?i)AB"}}}
    schema = Schema.from_json_schema(document)
    assert schema.check({"a": "xxabyy"}) == ()
    assert schema.check({"a": "xx"})[0].rule == "pattern"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"type": "integer", "multipleOf": 3}, "multipleOf"),
        ({"type": "array"}, "type array"),
        ({"type": "string", "format": "email"}, "format 'email'"),
        ({"type": ["string", "integer"]}, "type integer, string"),
        ({"type": "boolean", "minimum": 3}, "minimum"),
        ({"type": "boolean", "maxLength": 3}, "maxLength"),
        ({"not": {"type": "string"}}, "not"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "anyOf"),
        ({"oneOf": []}, "oneOf"),
    ],
)
def test_keywords_that_are_not_checked_are_told(said, what):
    with pytest.warns(NotExpressed, match=f"a: {what}") as told:
        Schema.from_json_schema({"properties": {"a": said}})
    assert len(told) == 1


def test_keywords_of_the_whole_are_told_too():
    with pytest.warns(NotExpressed) as told:
        Schema.from_json_schema(
            {"properties": {}, "minProperties": 1, "additionalProperties": {"type": "integer"}}
        )
    assert {w.message.what.split()[0] for w in told} == {"minProperties", "additionalProperties"}


@pytest.mark.parametrize(
    "document",
    [
        {"type": "array"},
        {},
        {"properties": {"a": False}},
        {"properties": {"a": {"$ref": "other.json"}}},
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"type": "string", "pattern": "("}}},
    ],
)
def test_what_is_no_schema_of_a_row_is_refused(document):
    with pytest.raises(BadConfiguration):
        Schema.from_json_schema(document)


def test_a_schema_of_pydantic_is_read():
    pydantic = pytest.importorskip("pydantic")

    class Loan(pydantic.BaseModel):
        age: int = pydantic.Field(ge=18)
        income: float | None = None
        plan: str = pydantic.Field(max_length=5)

    schema = Schema.from_json_schema(Loan.model_json_schema())
    assert schema.check({"age": 20, "plan": "pro"}) == ()
    assert len(schema.check({"age": 3, "income": "x", "plan": "too long"})) == 3
    assert not math.isnan(schema.fields["age"].minimum)


def test_bounds_that_are_left_out_as_drafts_up_to_4_say_it():
    def bounds(**said):
        document = {"properties": {"a": {"type": "integer", **said}}}
        field = Schema.from_json_schema(document).fields["a"]
        return field.minimum, field.maximum

    assert bounds(minimum=0, exclusiveMinimum=True) == (1, None)
    assert bounds(minimum=0, exclusiveMinimum=False) == (0, None)
    assert bounds(maximum=9, exclusiveMaximum=True) == (None, 8)
    assert bounds(exclusiveMaximum=True) == (None, None)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"properties": {}, "required": 5},
        {"properties": {"a": {"enum": 5}}},
        {"properties": {"a": {"type": "number", "exclusiveMinimum": "x"}}},
        {"properties": {"a": {"type": "string", "pattern": 5}}},
        {"properties": {"a": {"type": ["string", 5]}}},
        {"properties": {"a": {"x-prodml": 5}}},
        {"properties": {}, "x-prodml": 5},
    ],
)
def test_a_document_of_a_wrong_shape_is_refused(document):
    with pytest.raises(BadConfiguration):
        Schema.from_json_schema(document)
