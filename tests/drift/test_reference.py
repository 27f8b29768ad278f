import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise, permutations

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import DriftDetector, DriftLevel, Reference
from prodml.drift import sample as sample_file
from prodml.drift.cells import Cells
from prodml.drift.layout import Layout
from prodml.drift.packed import packed, unpacked
from prodml.drift.sample import Levels, Numbers, levels_of
from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import Stream
from prodml.validation import Schema
from tests.drift.shapes import SHAPES


def rng(seed=0):
    return np.random.default_rng(seed)


def table(n, seed=0):
    made = rng(seed)
    x = made.normal(size=n)
    x[made.random(n) < 0.05] = np.nan
    return {
        "x": x,
        "count": made.integers(0, 40, size=n),
        "plan": made.choice(["basic", "pro", "gold"], size=n),
        "at": np.datetime64("2026-01-01", "s") + made.integers(0, 10**6, size=n),
    }


def part(columns, start, end):
    return {name: values[start:end] for name, values in columns.items()}


# -- one pass, in parts, in any order ---------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_parts_of_one_pass_give_what_the_whole_gives(exact):
    whole = table(3000)
    cuts = [0, 700, 701, 2000, 3000]
    parts = (part(whole, a, b) for a, b in pairwise(cuts))
    layouts = Reference.fit(part(whole, 0, 700), exact=False).layouts
    at_once = Reference.fit(whole, exact=exact, layouts=None if exact else layouts)
    assert Reference.fit(parts, exact=exact).to_dict() == at_once.to_dict()


@pytest.mark.parametrize("exact", [True, False])
def test_references_add_up_to_the_same_bits_in_any_order(exact):
    first = Reference.fit(table(500), exact=exact)
    parts = [first, *(Reference.empty(first).update(table(300, seed)) for seed in (1, 2))]
    sums = [a + b + c for a, b, c in permutations(parts)]
    sums += [a + (b + c) for a, b, c in permutations(parts)]
    texts = {json.dumps(found.to_dict()) for found in sums}
    assert len(texts) == 1
    assert sums[0].columns["plan"].sample.size == 1100


def test_exact_and_counted_parts_make_a_counted_whole():
    counted = Reference.fit(table(500), exact=False)
    kept = Reference.fit(table(300, 1))
    one, other = counted + kept, kept + counted
    assert one.to_dict() == other.to_dict()
    assert not one.exact
    expected = counted + Reference.empty(counted).update(table(300, 1))
    assert one.to_dict() == expected.to_dict()


def test_a_reference_does_not_change_when_rows_are_added():
    first = Reference.fit(table(100), exact=False)
    before = first.to_dict()
    assert first.update(table(50, 1)).columns["x"].sample.rows == 150
    assert first.to_dict() == before


def test_layouts_make_parts_of_other_machines_fit():
    here = Reference.fit(table(400), exact=False)
    there = Reference.fit(
        table(400, 1), exact=False, layouts={**here.layouts}, kinds={"at": "time"}
    )
    assert (here + there).columns["x"].sample.rows == 800
    assert Reference.fit(table(400)).layouts.keys() == here.layouts.keys()
    other = Reference.fit({**table(400, 1), "x": rng(5).normal(50, 9, size=400)}, exact=False)
    with pytest.raises(BadConfiguration, match="layouts of the first"):
        here + other


def test_an_empty_reference_starts_from_layouts_alone():
    empty = Reference.empty({"x": Layout(), "plan": None})
    found = empty.update({"x": [1.0, None], "plan": ["a", "b"]})
    assert found.columns["x"].sample.missing == 1
    assert found.columns["plan"].sample.counts == {"a": 1, "b": 1}
    assert empty.columns["x"].cells.tolist() == []


def test_design_effects_stay_the_gravest():
    label = np.repeat(np.arange(20), 10)
    lumpy = Reference.fit({"x": label.astype(float)}, blocks=label)
    smooth = Reference.fit({"x": rng().normal(size=200)}, blocks=label)
    both = lumpy + smooth
    assert both.columns["x"].design == (smooth + lumpy).columns["x"].design
    assert both.columns["x"].design["distribution"] > 5.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Reference.fit(iter([])), "no parts"),
        (lambda: Reference.fit(iter([table(50)]), blocks=[1] * 50), "blocks"),
        (lambda: Reference.fit(table(50), layouts={"y": Layout()}), "'y'"),
        (lambda: Reference.fit(table(50), layouts={"x": 5}), "Layout"),
        (lambda: Reference.empty({"x": 5}), "Layout"),
        (lambda: Reference.fit(table(50)).update({"x": [1.0]}), "no column 'count'"),
        (lambda: Reference.fit(table(50)).update(5), "no table"),
        (lambda: Reference.fit({"x": [1.0]}) + Reference.fit({"y": [1.0]}), "same features"),
        (lambda: Reference.fit({"x": [1.0]}) + Reference.fit({"x": ["a"]}), "categorical"),
        (
            lambda: (
                Reference.fit({"x": [1.0]}, kinds={"x": "numeric"})
                + Reference.fit({"x": [datetime(2026, 1, 1)]}, kinds={"x": "numeric"})
            ),
            "points in time",
        ),
    ],
)
def test_nonsense_is_refused_by_name(make, told):
    with pytest.raises(BadConfiguration, match=told):
        make()


def test_more_levels_than_can_be_counted_are_an_identifier_in_any_order(monkeypatch):
    monkeypatch.setattr(sample_file, "MOST_LEVELS", 100)
    parts = [levels_of([f"u{i % 90 + k}" for i in range(200)]) for k in (0, 50, 90)]
    sums = [a + b + c for a, b, c in permutations(parts)]
    assert all(found == sums[0] for found in sums)
    assert sums[0].uncounted
    reference = Reference.fit({"id": [f"u{i}" for i in range(200)]})
    found = DriftDetector(reference + reference, events=Stream()).detect_drift(
        {"id": [f"v{i}" for i in range(100)]}
    )["id"]
    assert found.level is DriftLevel.INCONCLUSIVE
    assert "too many levels to count" in found.reason


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "arrow"])
@pytest.mark.parametrize("exact", [True, False])
def test_what_is_saved_is_loaded(tmp_path, ending, exact):
    reference = Reference.fit(table(2000), exact=exact)
    path = tmp_path / f"reference.{ending}"
    reference.save(path)
    loaded = Reference.load(path)
    assert loaded.to_dict() == reference.to_dict()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    current = {**table(1000, 1), "x": rng(3).normal(0.5, 1, size=1000)}
    found = [DriftDetector(r, events=Stream()).detect_drift(current) for r in (reference, loaded)]
    assert found[0].drifted == found[1].drifted == ("x",)
    assert found[1]["x"].statistic == pytest.approx(found[0]["x"].statistic, abs=0.01)


def test_a_small_sample_stays_exact_and_a_large_one_is_counted():
    assert Reference.from_dict(Reference.fit(table(500)).to_dict()).exact
    assert not Reference.from_dict(Reference.fit(table(50_000)).to_dict()).exact


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exact", [True, False])
def test_a_column_takes_no_more_than_64_kb(shape, exact, tmp_path):
    reference = Reference.fit({"x": SHAPES[shape](rng(), 100_000)}, exact=exact)
    for ending in ("json", "arrow"):
        path = tmp_path / f"x.{ending}"
        reference.save(path)
        assert path.stat().st_size <= 64_000
    stored = Reference.load(path)
    assert stored.columns["x"].sample.rows == 100_000


def test_levels_that_there_is_no_room_for_are_summed_in_a_rest():
    levels = [f"level {i:06d} {'x' * 20}" for i in range(20_000)]
    column = [*levels, *levels[:100] * 50]
    reference = Reference.fit({"k": column})
    plain = reference.to_dict()
    assert len(json.dumps(plain, separators=(",", ":"))) <= 64_000
    stored = Reference.from_dict(plain)
    sample = stored.columns["k"].sample
    assert sample.size == len(column)
    assert sample.rest > 10_000
    assert all(sample.counts[level] == 51 for level in levels[:100])
    detector = DriftDetector(stored, events=Stream())
    same = rng().choice(column, size=12_000).tolist()
    assert not detector.detect_drift({"k": same}).drift_detected
    moved = [f"new {i}" for i in range(10_000)]
    found = detector.detect_drift({"k": [*same, *moved]})["k"]
    assert found.drift_detected
    assert "levels that the reference does not list" in found.reason


def test_levels_of_every_plain_type_come_back():
    levels = ["a", True, 1.5, 7, Decimal("2.50"), date(2026, 1, 1), b"\x00", ""]
    levels.append(datetime(2026, 1, 1, tzinfo=UTC))
    reference = Reference.fit({"k": levels * 2}, kinds={"k": "categorical"})
    back = Reference.from_dict(json.loads(json.dumps(reference.to_dict())))
    assert back.columns["k"].sample == reference.columns["k"].sample
    strange = Reference.fit({"k": [(1, 2), "a"]}).to_dict()["columns"][0]["sample"]
    assert strange["rest"] == 1


def flipped(plain, path, value):
    changed = copy.deepcopy(plain)
    place = changed
    for step in path[:-1]:
        place = place[step]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


FIT = {
    "x": Reference.fit({"x": np.r_[rng().normal(size=500), [0.0] * 200]}, exact=False).to_dict(),
    "v": Reference.fit({"v": [1.0, 2.0, 2.5]}).to_dict(),
    "k": Reference.fit({"k": ["a", "b", "b"]}).to_dict(),
}
SAMPLE = ("columns", 0, "sample")


@pytest.mark.parametrize(
    ("which", "path", "value"),
    [
        ("x", ("format",), "another"),
        ("x", ("version",), 2),
        ("x", ("version",), KeyError),
        ("x", ("columns",), "none"),
        ("x", ("columns", 0, "name"), 5),
        ("x", ("columns", 0, "kind"), "categorical"),
        ("x", ("columns", 0, "kind"), "ordinal"),
        ("x", ("columns", 0, "design"), {"missing": 0.5}),
        ("x", ("columns", 0, "design"), {"missing": math.nan}),
        ("x", (*SAMPLE, "type"), "pickle"),
        ("x", (*SAMPLE, "scale"), 3.0),
        ("x", (*SAMPLE, "centre"), math.inf),
        ("x", (*SAMPLE, "atoms"), list(range(99))),
        ("x", (*SAMPLE, "rows"), -1),
        ("x", (*SAMPLE, "rows"), 10),
        ("x", (*SAMPLE, "rows"), 700.0),
        ("x", (*SAMPLE, "shift"), 60),
        ("x", (*SAMPLE, "fractional"), 10**6),
        ("x", (*SAMPLE, "minimum"), None),
        ("x", (*SAMPLE, "maximum"), None),
        ("x", (*SAMPLE, "minimum"), 1e9),
        ("x", (*SAMPLE, "temporal"), "no"),
        ("x", (*SAMPLE, "counts"), [1]),
        ("x", (*SAMPLE, "counts", 0), -1),
        ("x", (*SAMPLE, "counts", 0), 999),
        ("x", (*SAMPLE, "counts", 0), True),
        ("x", (*SAMPLE, "cells", 3), 0),
        ("x", (*SAMPLE, "cells", 3), 1 << 20),
        ("x", (*SAMPLE, "parts"), [10**6]),
        ("x", (*SAMPLE, "marks"), "all"),
        ("v", (*SAMPLE, "values"), [3.0, 2.0, 2.5]),
        ("v", (*SAMPLE, "values"), ["1", "2", "3"]),
        ("v", (*SAMPLE, "values"), [1.0, 2.0, math.nan]),
        ("v", (*SAMPLE, "values"), [[1.0], [2.0], [3.0]]),
        ("v", (*SAMPLE, "rows"), 4),
        ("v", (*SAMPLE, "above"), 4),
        ("k", (*SAMPLE, "rows"), 4),
        ("k", (*SAMPLE, "levels", 0), ["q", "a", 1]),
        ("k", (*SAMPLE, "levels", 0), ["i", "a", 1]),
        ("k", (*SAMPLE, "levels", 0), ["b", "a", 1]),
        ("k", (*SAMPLE, "levels", 0), ["s", "a"]),
        ("k", (*SAMPLE, "levels", 0), ["d", "a", 2]),
        ("k", (*SAMPLE, "levels", 1), ["s", "b", 1]),
        ("k", (*SAMPLE, "rest"), -1),
    ],
)
def test_what_was_not_written_here_is_a_corrupt_record(which, path, value):
    with pytest.raises(CorruptRecord):
        Reference.from_dict(flipped(FIT[which], path, value))


def test_two_columns_of_one_name_are_corrupt():
    plain = copy.deepcopy(FIT["k"])
    plain["columns"] *= 2
    with pytest.raises(CorruptRecord, match="two columns"):
        Reference.from_dict(plain)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["json", "arrow"]))
def test_any_bytes_are_a_reference_or_corrupt(tmp_path_factory, data, ending):
    path = tmp_path_factory.mktemp("any") / f"x.{ending}"
    path.write_bytes(data)
    with pytest.raises(CorruptRecord):
        Reference.load(path)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_any_json_in_a_column_is_corrupt(junk):
    for path in (("columns",), ("columns", 0), SAMPLE, (*SAMPLE, "counts"), (*SAMPLE, "cells")):
        if junk in ([], ()) and path == ("columns",):
            continue
        with pytest.raises(CorruptRecord):
            Reference.from_dict(flipped(FIT["x"], path, junk))


def test_half_a_file_is_corrupt_and_a_failed_save_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    reference = Reference.fit(table(100))
    reference.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        reference.update(table(50)).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(CorruptRecord):
        Reference.load(path)


def test_arrow_without_pyarrow_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BadConfiguration, match="pyarrow"):
        Reference.fit(table(10)).save(tmp_path / "r.arrow")


# -- the same artefact is the schema ----------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_a_schema_is_read_off(exact):
    schema = Reference.fit(table(2000), exact=exact).schema(name="flights", extra="reject")
    assert isinstance(schema, Schema)
    assert schema.name == "flights"
    good = {"x": None, "count": 7, "plan": "pro", "at": datetime(2026, 1, 5)}
    assert list(schema.check(good)) == []
    bad = {"x": 99.0, "count": 2.5, "plan": "lead", "at": None, "more": 1}
    assert {(v.field, v.rule) for v in schema.check(bad)} == {
        ("x", "range"),
        ("count", "type"),
        ("plan", "category"),
        ("at", "missing"),
        ("more", "extra"),
    }


def test_a_schema_says_only_what_is_known():
    columns = {
        "flag": [True, False] * 30,
        "mixed": [1.0, "n/a"] * 30,
        "empty": [None] * 60,
        "ids": [f"u{i}" for i in range(120)][:60],
        "codes": [1, 2] * 30,
    }
    reference = Reference.fit(columns, kinds={"codes": "categorical", "mixed": "numeric"})
    fields = reference.schema().fields
    assert [fields[name].kind for name in columns] == ["bool", "any", "any", "str", "any"]
    assert fields["ids"].categories is not None
    many = Reference.fit({"ids": [f"u{i}" for i in range(200)]}).schema().fields["ids"]
    assert many.categories is None


# -- what others build on ---------------------------------------------------------------------


def test_samples_are_sorted_numbers_counts_by_cell_or_counts_by_level():
    frame = pl.DataFrame({"x": [2.0, 1.0, None], "k": ["a", "b", "b"]})
    exact, counted = Reference.fit(frame), Reference.fit(frame, exact=False)
    assert exact.columns["x"].sample.values.tolist() == [1.0, 2.0]
    assert isinstance(exact.columns["x"].sample, Numbers)
    assert isinstance(counted.columns["x"].sample, Cells)
    assert isinstance(counted.columns["k"].sample, Levels)
    assert counted.columns["k"].sample.counts == {"a": 1, "b": 2}
    assert (exact.exact, counted.exact) == (True, False)
    assert exact.counted().columns["x"].sample == counted.columns["x"].sample
    assert exact.names == counted.names == ("x", "k")


def torn(data, seed):
    made, found = rng(seed), bytearray(data)
    for place in made.integers(0, len(found), made.integers(1, 4)).tolist():
        found[place] = int(made.integers(0, 256))
    return bytes(found[: made.integers(1, len(found))] if seed % 5 == 0 else found)


def test_a_torn_arrow_file_is_a_corrupt_record(tmp_path):
    Reference.fit(table(300)).save(tmp_path / "whole.arrow")
    data, refused = (tmp_path / "whole.arrow").read_bytes(), 0
    for seed in range(300):
        (tmp_path / "torn.arrow").write_bytes(torn(data, seed))
        try:
            Reference.load(tmp_path / "torn.arrow")
        except CorruptRecord:
            refused += 1
    assert refused > 100


def test_parts_of_cells_that_no_point_divides_are_refused():
    stored = Reference.fit({"x": rng().normal(size=300)}, exact=False).to_dict()
    sample = stored["columns"][0]["sample"]
    sample["parts"], sample["part"] = [0], [5]
    with pytest.raises(CorruptRecord, match="no point divides"):
        Reference.from_dict(stored)


def test_packed_counts_come_back_and_torn_ones_are_corrupt_records():
    levels = [10**30, True, "a", Decimal("1.5"), date(2020, 1, 1), b"x"] * 50
    reference = Reference.fit(
        {"x": rng().normal(size=300), "m": levels}, kinds={"m": "categorical"}
    )
    data = packed(reference)
    counted, again = reference.counted(), unpacked(data)
    assert all(again.columns[n].sample == counted.columns[n].sample for n in again.names)
    for seed in range(1500):
        try:
            found = unpacked(torn(data, seed))
        except CorruptRecord:
            continue
        # What is taken can be added and written.
        assert (found + found).to_dict()
    for bad in ([{}], [{"levels": [["decimal", "x", 1]]}], {"a": 1}, [[]]):
        with pytest.raises(CorruptRecord):
            unpacked(msgspec.msgpack.encode(bad))


# -- what a fresh reading found ---------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "arrow"])
def test_a_file_with_one_changed_byte_is_the_same_reference_or_none(tmp_path, ending):
    path = tmp_path / f"r.{ending}"
    reference = Reference.fit({**table(200), "y": rng(2).normal(size=200)}, exact=False)
    (reference + reference).save(path)
    data, whole, refused = path.read_bytes(), Reference.load(path).to_dict(), 0
    for seed in range(400):
        changed = bytearray(data)
        place = int(rng(seed).integers(len(data)))
        changed[place] = ord("7") if changed[place] != ord("7") else ord("3")
        path.write_bytes(changed)
        try:
            assert Reference.load(path).to_dict() == whole
        except CorruptRecord:
            refused += 1
    assert refused > 250


def test_a_reference_without_a_sum_is_read_as_it_is():
    old = {key: value for key, value in FIT["x"].items() if key != "sha256"}
    assert Reference.from_dict(old).to_dict() == FIT["x"]
    for wrong in (None, "", [], "0" * 64):
        with pytest.raises(CorruptRecord):
            Reference.from_dict({**old, "sha256": wrong})
    with pytest.raises(CorruptRecord, match="another sha256"):
        Reference.from_dict(flipped(FIT["x"], (*SAMPLE, "centre"), 0.25))


def test_threads_that_save_to_one_path_leave_one_whole_file(tmp_path):
    path = tmp_path / "r.json"
    references = [Reference.fit({"x": rng(seed).normal(size=3000)}) for seed in range(4)]
    known = [json.dumps(reference.to_dict()) for reference in references]

    def save(reference):
        for _ in range(10):
            reference.save(path)
            assert json.dumps(Reference.load(path).to_dict()) in known

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, references))
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("exact", [True, False])
def test_a_first_part_without_values_decides_nothing(exact):
    parts = [{"x": [None] * 5}, {"x": [None, 1.7e9, 1.7e9 + 5.0]}, {"x": [1.7e9 + 9.0]}]
    found = Reference.fit(iter(parts), exact=exact).columns["x"]
    assert (found.kind, found.sample.rows, found.sample.missing) == ("numeric", 9, 6)
    assert (found.sample.minimum, found.sample.maximum) == (1.7e9, 1.7e9 + 9.0)
    if not exact:
        assert len(found.sample.codes) == 3
    codes = Reference.fit(iter(parts), exact=exact, kinds={"x": "categorical"}).columns["x"]
    assert codes.sample.counts == {1.7e9: 1, 1.7e9 + 5.0: 1, 1.7e9 + 9.0: 1}
    never = Reference.fit(iter(parts[:1] * 3), exact=exact).columns["x"]
    assert (never.kind, never.sample.rows) == ("categorical", 15)


def test_columns_that_cannot_be_read_are_named_and_names_are_different():
    for bad in (5, np.zeros((9, 2))):
        with pytest.raises(BadConfiguration, match=r"'b' cannot be read: \w+Error"):
            Reference.fit({"a": [1.0], "b": bad})
        with pytest.raises(BadConfiguration, match="'b' cannot be read"):
            Reference.fit({"a": [1.0], "b": [2.0]}).update({"a": [1.0], "b": bad})
    for names in ("ab", ["a", "a"]):
        with pytest.raises(BadConfiguration, match="different names"):
            Reference.fit({"a": [1.0], "b": [2.0]}, names)
    twice = pa.table([[1.0], [2.0]], names=["a", "a"])
    with pytest.raises(BadConfiguration, match="unique column names"):
        Reference.fit(twice)
    with pytest.raises(TypeError, match="one name"):
        DriftDetector({"a": [1.0]}, events=Stream()).detect_drift(twice)


@pytest.mark.parametrize("exact", [True, False])
def test_references_with_the_same_rows_are_equal(exact):
    one, other = (Reference.fit(table(200), exact=exact) for _ in range(2))
    assert one == other
    assert one != Reference.fit(table(201), exact=exact)


def test_times_of_day_and_durations_are_levels_in_a_file_too():
    levels = [
        time(7, 30, tzinfo=UTC),
        time(23, 59, 59, 999_999),
        timedelta(days=-1, microseconds=3),
    ]
    reference = Reference.fit({"k": levels * 3}, kinds={"k": "categorical"})
    again = Reference.from_dict(json.loads(json.dumps(reference.to_dict())))
    assert again.columns["k"].sample == reference.columns["k"].sample


def test_a_million_levels_take_no_more_than_64_kb(tmp_path):
    levels = [f"niveau é {i}" for i in range(1_000_000)]
    reference = Reference.fit({"k": levels, "x": list(range(1_000_000))})
    for ending in ("json", "arrow"):
        reference.save(tmp_path / f"r.{ending}")
        assert (tmp_path / f"r.{ending}").stat().st_size <= 2 * 64_000
    assert reference.columns["k"].sample.uncounted
