"""One name for each level and one sort for all values, whichever row came first."""

import enum
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.drift import DriftDetector, DriftLevel, Reference
from prodml.drift.packed import packed, unpacked
from prodml.drift.reading import levels_in, of_one_sort, sum_of_levels
from prodml.drift.sample import Levels
from prodml.events import Stream

NUMBERS = [0, 1, 2, True, False, 0.0, 1.0, 1.5, -0.0, Decimal(1), Decimal("1.50"), Decimal("0.1")]
MIXED = st.lists(st.sampled_from([*NUMBERS, "a", "1", None]), max_size=12)


class Plan(str, enum.Enum):  # noqa: UP042 - its text is not its value
    PRO = "pro"


def written(levels):
    reference = Reference.fit({"k": ["a"]})
    column = reference.columns["k"]
    return json.dumps(
        Reference({"k": type(column)(name="k", kind="categorical", sample=levels)}).to_dict()
    )


@given(MIXED, MIXED, MIXED)
def test_parts_of_mixed_types_add_up_to_the_same_bits(a, b, c):
    whole = written(levels_in([*a, *b, *c]))
    parts = [levels_in(part) for part in (a, b, c)]
    for one, two, three in permutations(parts):
        assert written(sum_of_levels(sum_of_levels(one, two), three)) == whole
        assert written(sum_of_levels(one, sum_of_levels(two, three))) == whole


@pytest.mark.parametrize(
    ("values", "plain"),
    [
        (list(np.array([1, 2])), [1, 2]),
        (list(np.array([True, False])), [True, False]),
        (list(np.array(["a", "b"])), ["a", "b"]),
        (list(np.array([b"a", b"b"])), [b"a", b"b"]),
        ([np.float32(0.5), np.float16(2.0)], [0.5, 2]),
        ([Plan.PRO, "pro"], ["pro"]),
        ([enum.IntEnum("Code", ["ONE"]).ONE, 2], [1, 2]),
        (
            [pd.Timestamp("2026-01-02"), datetime(2026, 1, 3)],
            [datetime(2026, 1, day) for day in (2, 3)],
        ),
        ([np.datetime64("2026-01-02")], [date(2026, 1, 2)]),
    ],
)
def test_levels_survive_the_file_and_the_wire_whatever_library_made_them(values, plain):
    reference = Reference.fit({"k": values * 40}, kinds={"k": "categorical"})
    again = Reference.from_dict(json.loads(json.dumps(reference.to_dict())))
    for found in (reference, again, unpacked(packed(reference))):
        sample = found.columns["k"].sample
        assert set(sample.counts) == set(plain)
        assert set(map(type, sample.counts)) == set(map(type, plain))
        assert sample.rest == 0
    current = {"k": values * 50}
    assert DriftDetector(again, events=Stream()).detect_drift(current)["k"].level is DriftLevel.NONE


def test_what_has_no_plain_value_stays_as_it_is():
    odd = [
        np.timedelta64(5, "ns"),
        pd.Timestamp("2026-01-01") + pd.Timedelta(1, "ns"),
        (1, 2),
        1e300,
    ]
    assert list(levels_in(odd).counts) == odd
    huge = levels_in([10**400, float("inf")])
    assert set(huge.counts) == {10**400, float("inf")}


def test_more_levels_than_can_be_counted_are_an_identifier_however_they_come(monkeypatch):
    for place in ("sample", "reading"):
        monkeypatch.setattr(f"prodml.drift.{place}.MOST_LEVELS", 5)
    many, five = list("abcdef"), list("abcde")
    assert levels_in([*many, None]) == Levels({}, 7, 1, rest=6)
    assert len(levels_in(five).counts) == 5
    whole = Reference.fit({"k": many})
    parts = Reference.fit(iter([{"k": five}, {"k": ["f"]}]))
    assert whole.columns["k"].sample == parts.columns["k"].sample


NIGHT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("stray", [NIGHT, date(2026, 1, 1), np.datetime64("2026-01-01")])
def test_one_time_among_numbers_is_one_wrong_value(exact, stray):
    numbers = np.random.default_rng(0).normal(size=(2, 1000)).tolist()
    for old, new in ((numbers[0], [*numbers[1], stray]), ([*numbers[0], stray], numbers[1])):
        reference = Reference.fit({"x": old}, exact=exact)
        found = DriftDetector(reference, events=Stream()).detect_drift({"x": new})["x"]
        assert found.level is DriftLevel.NONE
        assert {e.aspect for e in found.evidence} >= {"distribution", "type"}
    assert Reference.fit({"x": [*numbers[0], stray]}).columns["x"].sample.invalid == 1


def test_one_number_among_times_is_one_wrong_value():
    times = [NIGHT + timedelta(hours=h) for h in range(50)]
    sample = Reference.fit({"at": [*times, 5.0, None, float("nan")]}).columns["at"].sample
    assert (sample.temporal, sample.size, sample.invalid, sample.missing) == (True, 50, 1, 2)
    marked = of_one_sort([*times, 5.0], times=False)
    assert marked[-1] == 5.0
    assert of_one_sort([1, 2.0, timedelta(1)]) == [1, 2.0, timedelta(1)]
