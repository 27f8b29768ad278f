from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import InvalidFeatures
from prodml.types import MISS
from prodml.validation import Field, Rule, Schema, SchemaDiff


def effect(old, new, setting):
    return Schema({"a": old}).diff(Schema({"a": new})).effect("a", setting)


@pytest.mark.parametrize(
    ("old", "new", "setting", "expected"),
    [
        (Field(int), Field(float), "kind", "wider"),
        (Field(float), Field(int), "kind", "narrower"),
        (Field(str), Field(), "kind", "wider"),
        (Field(int), Field(int, required=False), "required", "wider"),
        (Field(int, required=False), Field(int), "required", "narrower"),
        (Field(int, nullable=True), Field(int), "nullable", "narrower"),
        (Field(int), Field(int, minimum=0), "minimum", "narrower"),
        (Field(int, minimum=0), Field(int, minimum=-1), "minimum", "wider"),
        (Field(int, maximum=0), Field(int, maximum=-1), "maximum", "narrower"),
        (Field(int, maximum=0), Field(int), "maximum", "wider"),
        (Field(str, max_length=3), Field(str, max_length=4), "max_length", "wider"),
        (Field(str, min_length=3), Field(str, min_length=4), "min_length", "narrower"),
        (Field(str, pattern="a"), Field(str), "pattern", "wider"),
        (Field(str), Field(str, pattern="a"), "pattern", "narrower"),
        (Field(str, pattern="a"), Field(str, pattern="b"), "pattern", "other"),
        (Field(str, categories=["ab"]), Field(str), "categories", "wider"),
        (Field(categories=("a",)), Field(categories=("b", "a")), "categories", "wider"),
        (Field(categories=("a", "b")), Field(categories=("a", "c")), "categories", "narrower"),
        (Field(int), Field(int, unique=True), "unique", "narrower"),
        (Field(int), Field(int, default=3), "default", "neutral"),
        (Field(int), Field(int, null_share=0.1), "null_share", "neutral"),
        (Field(int), Field(int, on={"type": "warn"}), "on", "wider"),
        (Field(int, on={"type": "warn"}), Field(int), "on", "other"),
        (
            Field(datetime, minimum=datetime(2024, 1, 1)),
            Field(datetime, minimum=datetime(2025, 1, 1)),
            "minimum",
            "narrower",
        ),
        (
            Field(datetime, minimum=datetime(2024, 1, 1)),
            Field(int, minimum=3),
            "minimum",
            "narrower",
        ),
        (
            Field(int, maximum=3),
            Field(datetime, maximum=datetime(2024, 1, 1)),
            "maximum",
            "narrower",
        ),
    ],
)
def test_a_change_widens_or_narrows(old, new, setting, expected):
    assert effect(old, new, setting) == expected


FIELDS = st.builds(
    lambda kind, required, nullable, low, high: Field(
        kind,
        required=required,
        nullable=nullable,
        minimum=low if kind in {"int", "float"} else None,
        maximum=high if kind in {"int", "float"} else None,
    ),
    st.sampled_from(["any", "int", "float", "str"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, -2, 0]),
    st.sampled_from([None, 1, 3]),
)
SCHEMAS = st.builds(
    lambda fields, extra: Schema(fields, extra=extra),
    st.dictionaries(st.sampled_from("ab"), FIELDS),
    st.sampled_from(["allow", "reject"]),
)
ROWS = st.dictionaries(
    st.sampled_from("abc"), st.sampled_from([None, -3, 0, 0.5, 2, 9, "x", float("inf")])
)


@given(SCHEMAS, SCHEMAS, ROWS)
def test_what_is_compatible_refuses_no_row_that_was_accepted(old, new, row):
    if old.diff(new).compatible and not old.check(row):
        assert not new.check(row)


def test_a_diff_is_empty_for_the_same_schema_and_says_so():
    schema = Schema({"a": Field(int)}, rules=["a > 1"], unique=[("a",)])
    diff = schema.diff(Schema(schema.fields, rules=["a > 1"], unique=[("a",)], name="other"))
    assert diff == {}
    assert diff.compatible
    assert str(diff) == "no difference"


def test_a_diff_prints_all_that_changed():
    old = Schema({"age": Field(int, maximum=90), "plan": Field(str)}, extra="reject")
    new = Schema(
        {"age": Field(int, maximum=80), "zip": Field(str, required=False)},
        rules=[Rule("age > 1")],
        on={"range": "clip"},
    )
    diff = old.diff(new)
    assert isinstance(diff, SchemaDiff)
    assert (diff.added, diff.removed, diff.changed) == (["zip"], ["plan"], ["age"])
    assert diff["zip"]["kind"] == (MISS, "str")
    assert diff.effect("zip") == "wider"
    lines = str(diff).splitlines()
    assert lines[0] == "age: maximum 90 -> 80 (narrower)"
    assert "plan: removed (wider)" in lines
    assert "zip: added, optional (wider)" in lines
    assert "extra reject -> allow (wider)" in lines
    assert "on {} -> {'range': 'clip'} (wider)" in lines
    assert any(line.startswith("rules [] ->") and "(narrower)" in line for line in lines)
    assert lines[-1] == "rows that the old schema accepts may be refused"
    with pytest.raises(KeyError):
        diff.effect("nothing")


def test_moments_are_compared_as_moments():
    def compatible(setting, old, new):
        schemas = [Schema({"a": Field("datetime", **{setting: each})}) for each in (old, new)]
        return schemas[0].diff(schemas[1]).compatible

    # Five hours east is the earlier moment, though the text is the larger one.
    east, here = "2024-01-01T00:00:00+05:00", "2024-01-01T00:00:00+00:00"
    assert compatible("minimum", here, east)
    assert not compatible("minimum", east, here)
    assert compatible("maximum", east, here)
    # A bound with a time zone refuses every moment without one.
    assert not compatible("maximum", "2024-01-01T00:00:00", here)
    assert not compatible("minimum", here, "2020-01-01T00:00:00")


KINDS = {"any": {}, "int": {"minimum": 0}, "float": {"maximum": 5}, "str": {"max_length": 2}}
KINDS |= {"datetime": {"minimum": datetime(2024, 1, 1)}, "bool": {}}
VALUES = [None, -1, 3, 9, 2.5, "a", "long", True, datetime(2023, 1, 1), datetime(2025, 1, 1), [1]]
SOFT = st.dictionaries(
    st.sampled_from(["missing", "type"]), st.sampled_from(["warn", "reject", "quarantine"])
)
SIDES = st.builds(
    lambda kind, bounded, required, nullable, on: Field(
        kind, required=required, nullable=nullable, on=on, **(KINDS[kind] if bounded else {})
    ),
    st.sampled_from([*KINDS]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    SOFT,
)
WHOLES = st.fixed_dictionaries(
    {
        "extra": st.sampled_from(["allow", "reject", "drop"]),
        "rules": st.sampled_from([(), ("a == 3 or a != 3",), (Rule("a < 5", action="warn"),)]),
        "on": SOFT,
    }
)


@settings(max_examples=50)
@given(
    st.dictionaries(st.just("b"), SIDES),
    st.dictionaries(st.just("b"), SIDES),
    st.tuples(SIDES, SIDES),
    WHOLES,
    WHOLES,
)
def test_what_is_called_compatible_accepts_whatever_was_accepted(old, new, both, one, other):
    before, after = Schema({"a": both[0], **old}, **one), Schema({"a": both[1], **new}, **other)
    diff = before.diff(after)
    assert isinstance(diff, SchemaDiff)
    assert str(diff)
    if not diff.compatible:
        return
    rows = [{"a": a, "b": b} for a in VALUES for b in VALUES]
    for row in [*rows, {}, *({"a": value} for value in VALUES)]:
        if accepted(before, row):
            assert accepted(after, row)


def accepted(schema, row):
    try:
        schema.validate(row)
    except InvalidFeatures:
        return False
    return True
