import threading
import tracemalloc
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from prodml._settings import retune, settings_of
from prodml.drift import DriftDetector, DriftLevel, Reference
from prodml.drift.blocks import block_codes
from prodml.errors import BadConfiguration
from prodml.events import DriftCleared, DriftDetected, Event, Stream
from prodml.testing import ManualClock

NONE, NEGLIGIBLE, DRIFT, INCONCLUSIVE = DriftLevel


def rng(seed=0):
    return np.random.default_rng(seed)


def detector_of(reference, *args, **kwargs):
    return DriftDetector(reference, *args, **{"events": Stream(), **kwargs})


def compared(old, new, **kwargs):
    """Verdict on one feature."""
    return detector_of({"x": old}, **kwargs).detect_drift({"x": new})["x"]


def normal(n, seed=0, **kwargs):
    return rng(seed).normal(size=n, **kwargs)


# -- evidence and size ----------------------------------------------------------------------


def test_a_shift_is_found_in_the_right_feature():
    current = normal((1000, 3), 1) + np.array([0, 0, 0.5])
    report = detector_of(normal((2000, 3)), ["age", "fare", "delay"]).detect_drift(current)
    assert report.drifted == ("delay",)
    assert report["delay"].p_adjusted < 1e-10
    assert report["delay"].effect == pytest.approx(0.2, abs=0.05)
    assert report["delay"].reason.startswith("median +0.3")


def test_a_million_rows_do_not_alarm_about_nothing():
    found = compared(normal(1_000_000), normal(1_000_000, 1) + 0.005)
    assert found.p_adjusted < 0.05
    assert found.level is NEGLIGIBLE
    assert "below the floor of 5 %" in found.reason


def test_the_floor_is_a_setting():
    old, new = normal(100_000), normal(100_000, 1) + 0.05
    assert compared(old, new).level is NEGLIGIBLE
    assert compared(old, new, min_effect=0.01).level is DRIFT


def test_alpha_can_be_chosen_for_one_check():
    detector = detector_of({"x": normal(1000)}, min_effect=0.0)
    current = {"x": normal(300, 1) + 0.2}
    assert detector.detect_drift(current).drift_detected
    strict = detector.detect_drift(current, alpha=1e-6)
    assert not strict.drift_detected
    assert strict.alpha == 1e-6


def test_many_features_are_corrected_together():
    report = detector_of(normal((2000, 20))).detect_drift(normal((1000, 20), 1))
    raw = np.array([f.p_value for f in report.values()])
    assert all(f.p_adjusted >= f.p_value for f in report.values())
    assert (raw < 0.25).any()
    loose = detector_of(normal((2000, 20)), correction="none").detect_drift(normal((1000, 20), 1))
    assert all(f.p_adjusted == f.p_value for f in loose.values())


def test_the_verdict_does_not_flip_with_the_number_of_rows():
    levels = [
        {f.level for f in detector_of(normal((n, 5))).detect_drift(normal((900, 5), 1)).values()}
        for n in (1000, 1001)
    ]
    assert levels == [{NONE}, {NONE}]


@pytest.mark.parametrize(
    "most", [20_001, pytest.param(4_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
@pytest.mark.parametrize(
    ("shift", "expected"), [(0.0, {NONE}), (0.1, {NONE, NEGLIGIBLE}), (0.6, {DRIFT})]
)
def test_no_number_of_rows_is_a_border_of_the_verdict(shift, expected, most):
    sizes = [199, 200, 201, 999, 1000, 1001, most]
    # As evenly spread as a sample can be: what chance adds is the same for all sizes.
    middles = {n: ndtri((np.arange(n) + 0.5) / n) for n in sizes}
    moved = {m: Reference.fit({"x": x + shift}) for m, x in middles.items()}
    for n in sizes:
        detector = detector_of(Reference.fit({"x": middles[n]}))
        found = [detector.detect_drift(moved[m])["x"] for m in sizes]
        assert {one.level for one in found} <= expected
        evidence = [next(e for e in one.evidence if e.measure == "ks") for one in found]
        assert max(e.effect for e in evidence) - min(e.effect for e in evidence) < 0.012
        p_values = [e.p_value for e in evidence]
        # More rows are more evidence, but for the step from the exact tail to its limit.
        assert all(after <= 1.3 * before**0.9 for before, after in pairwise(p_values))


# -- bad data is a finding --------------------------------------------------------------------


def test_one_nan_does_not_hide_a_shift():
    old, new = normal(500), normal(500, 1) + 5
    new[0] = np.nan
    assert compared(old, new).drift_detected
    old[0] = np.nan
    assert compared(old, new).drift_detected


def test_one_wild_value_in_the_reference_does_not_hide_a_shift():
    old, new = normal(2000), normal(1000, 1) + 1
    old[0], new[0] = 1e9, 1e12
    found = compared(old, new)
    assert found.effect == pytest.approx(0.38, abs=0.05)
    assert found.psi > 0.5


def test_a_rise_of_missing_values_is_drift_by_itself():
    old, new = normal(1000), normal(1000, 1)
    old[:20], new[:510] = np.nan, np.nan
    found = compared(old, new)
    assert found.drift_detected
    assert "missing 2 % -> 51 %" in found.reason
    assert (found.reference_missing, found.current_missing) == (0.02, 0.51)


@pytest.mark.parametrize("bad", [[np.nan] * 100, [None] * 100])
def test_a_column_of_nothing_is_drift(bad):
    found = compared(normal(100), bad)
    assert found.drift_detected
    assert "missing 0 % -> 100 %" in found.reason


def test_nothing_in_both_is_inconclusive():
    assert compared([None] * 100, [None] * 100).level is INCONCLUSIVE


def test_infinite_values_are_counted_and_named():
    new = normal(500, 1)
    new[:25], new[25:50] = np.inf, -np.inf
    found = compared(normal(500), new)
    assert found.drift_detected
    assert "infinite 0 % -> 10 %" in found.reason
    assert np.isfinite(found.current_mean)


def test_a_constant_that_stays_is_no_drift_and_one_that_moves_is():
    assert compared([1.0] * 100, [1.0] * 100).level is NONE
    assert compared([1.0] * 100, [2.0] * 100).level is DRIFT


def test_rounding_is_no_drift():
    found = compared([1.0] * 100, [1.0 + 1e-12] * 100)
    assert found.level is NEGLIGIBLE
    assert "differences within rounding" in found.reason


@pytest.mark.parametrize("whole", [False, True])
def test_a_shift_far_from_zero_is_no_rounding(whole):
    def rows(middle, n, seed):
        found = 1e9 + middle + rng(seed).normal(0.0, 10.0, n)
        return found.astype(np.int64) if whole else found

    found = compared(rows(0.0, 5000, 0), rows(30.0, 3000, 1))
    assert found.level is DRIFT
    # The numbers have the digits that tell them apart.
    assert "1e+09" not in found.reason
    through_float32 = rows(0.0, 3000, 2).astype(np.float32)
    assert compared(rows(0.0, 5000, 0), through_float32).level is NEGLIGIBLE


@pytest.mark.parametrize("exact", [True, False])
def test_times_beyond_nanoseconds_are_what_they_are(exact):
    days = np.array(["2024-01-01", "9999-12-31"] * 20, dtype="M8[D]")
    sample = Reference.fit({"t": days}, exact=exact).columns["t"].sample
    assert sample.maximum == 253402214400.0
    fine = np.array(["2024-01-01T00:00:00.000001"] * 40, dtype="M8[ns]")
    coarse = Reference.fit({"t": fine.astype("M8[us]")}, exact=exact).columns["t"].sample
    assert Reference.fit({"t": fine}, exact=exact).columns["t"].sample.maximum == coarse.maximum


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exact", [True, False])
def test_the_largest_floats_have_a_picture_and_a_mean(exact):
    values = rng().choice([-1.7e308, -1e308, 5e-324, 1e308, 1.7e308], 500)
    reference = Reference.fit({"x": values}, exact=exact)
    found = DriftDetector(reference, events=Stream()).detect_drift({"x": values[:400]})["x"]
    assert found.level is NONE
    assert np.isfinite(found.profile.edges).all()
    assert np.isfinite(found.reference_mean)


def test_one_row_is_inconclusive():
    found = compared(normal(1000), [3.0])
    assert found.level is INCONCLUSIVE
    assert "1 in current; at least 30 are needed" in found.reason


@pytest.mark.parametrize("empty", [[], {}, {"x": []}, np.empty((0, 1)), pl.DataFrame({"x": []})])
def test_a_batch_without_rows_is_inconclusive(empty):
    report = detector_of({"x": normal(100)}).detect_drift(empty)
    assert report.inconclusive == ("x",)
    assert not report.drift_detected


def test_a_vanished_column_is_drift_and_a_new_one_is_named():
    report = detector_of({"a": normal(100), "b": normal(100)}).detect_drift(
        {"a": normal(100), "c": normal(100)}
    )
    assert report.drifted == ("b",)
    assert report["b"].reason == "the column is gone"
    assert report.new_columns == ("c",)
    assert "new columns: c" in report.headline


def test_an_array_of_another_width_is_drift_in_every_feature():
    report = detector_of(normal((100, 2))).detect_drift(normal((100, 3)))
    assert report.drifted == ("x0", "x1")
    assert report["x0"].reason == "current has 3 columns instead of 2"


def test_a_column_that_cannot_be_read_costs_only_its_own_verdict():
    detector = detector_of({"a": normal(500), "b": normal(500)})
    report = detector.detect_drift({"a": 5, "b": normal(500) + 1})
    assert report["a"].level is INCONCLUSIVE
    assert report["a"].reason.startswith("cannot be read: TypeError")
    assert report.drifted == ("b",)


def test_columns_are_matched_by_name_not_by_place():
    a, b = normal(500), normal(500) + 9
    report = detector_of({"a": a, "b": b}).detect_drift({"b": b, "a": a})
    assert not report.drift_detected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (normal(100), ["n/a"] * 100),
        (normal(100), [object()] * 100),
        (["a", "b"] * 50, normal(100).tolist()),
        (normal(100), [datetime(2026, 1, 1)] * 100),
        ([True, False] * 50, ["yes", "no"] * 50),
    ],
)
def test_a_change_of_type_is_drift(old, new):
    assert compared(old, new).drift_detected


def test_whole_numbers_and_floats_and_decimals_are_one_type():
    values = rng().integers(0, 50, size=300).tolist()
    for cls in (int, float, Decimal, np.float32):
        assert compared(values, [cls(v) for v in values]).level is NONE
    assert compared([Decimal(v) for v in values], [v + 25 for v in values]).drift_detected


def test_booleans_are_categories():
    found = compared([True] * 50 + [False] * 50, [True] * 95 + [False] * 5)
    assert (found.kind, found.level) == ("categorical", DRIFT)


def test_values_that_cannot_be_hashed_count_by_their_text():
    assert compared([[1], [2]] * 50, [[1], [2]] * 50).level is NONE
    assert compared([[1], [2]] * 50, [[1], [3]] * 50).drift_detected


def test_a_point_in_time_always_moves_so_it_is_not_judged():
    days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(100)]
    found = compared(days, [day + timedelta(days=100) for day in days])
    assert (found.kind, found.level) == ("time", INCONCLUSIVE)
    assert "derive what the model uses" in found.reason


def test_missing_times_are_judged():
    days = np.arange("2026-01-01", "2026-04-11", dtype="M8[D]")
    gone = days.copy()
    gone[:50] = np.datetime64("NaT", "D")
    assert compared(days, gone).drift_detected


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.decimals(),
    st.datetimes(),
    st.dates(),
    st.timedeltas(),
    st.binary(max_size=2),
    st.lists(st.integers(), max_size=2),
    st.complex_numbers(),
)


@settings(max_examples=60)
@given(st.lists(JUNK, max_size=60), st.lists(JUNK, max_size=60), st.integers(1, 40))
def test_whatever_a_column_holds_there_is_a_verdict_with_a_reason(old, new, min_rows):
    found = compared(old, new, min_rows=min_rows)
    assert found.reason
    assert found.level is not NONE or 0.0 <= found.p_adjusted <= 1.0
    assert 0.0 <= found.effect <= 1.0


# -- categories -----------------------------------------------------------------------------


def test_a_new_level_is_named_with_its_share():
    old = ["JFK", "EWR"] * 5000
    new = ["JFK", "EWR"] * 940 + ["LGA"] * 120
    found = compared(old, new)
    assert found.drift_detected
    assert found.new_levels == ("LGA",)
    assert "new level LGA 6 %" in found.reason


def test_a_new_level_of_a_few_rows_is_below_the_floor_and_still_named():
    found = compared(["a", "b"] * 5000, ["a", "b"] * 4985 + ["LGA"] * 30)
    assert found.level is NEGLIGIBLE
    assert "new level LGA 0.3 %" in found.reason


def test_one_row_of_a_new_level_is_no_evidence():
    found = compared(["a", "b"] * 500, ["a", "b"] * 499 + ["c"])
    assert found.level is NONE
    assert found.new_levels == ("c",)


def test_a_vanished_level_is_found():
    found = compared(["a", "b", "c"] * 300, ["a", "b"] * 450)
    assert found.drift_detected
    assert found.vanished_levels == ("c",)


def test_identifiers_are_recognised_and_not_judged():
    found = compared([f"u{i}" for i in range(500)], [f"v{i}" for i in range(500)])
    assert found.level is INCONCLUSIVE
    assert "an identifier?" in found.reason


def test_codes_are_categories_only_if_one_says_so():
    codes = rng().integers(0, 5, size=1000)
    swapped = np.where(codes == 0, 4, np.where(codes == 4, 0, codes))
    table = np.column_stack([codes, normal(1000)])
    detector = detector_of(table, ["carrier", "fare"], categorical=("carrier",))
    assert detector.detect_drift(table)["carrier"].kind == "categorical"
    assert not detector.detect_drift(np.column_stack([swapped, table[:, 1]])).drift_detected
    assert compared(codes, codes).kind == "numeric"


def test_codes_with_nan_count_the_nan_as_missing():
    codes = np.array([1.0, 2.0, np.nan] * 100)
    found = compared(codes, codes, categorical=("x",))
    assert found.current_missing == pytest.approx(1 / 3)
    assert found.new_levels == ()


def test_many_levels_that_differ_by_chance_have_a_small_effect():
    old, new = rng(0).integers(0, 105, size=27_000), rng(1).integers(0, 105, size=6_000)
    assert compared(old, new, categorical=("x",)).effect < 0.03


# -- forms of tables ------------------------------------------------------------------------


FORMS = {
    "mapping": lambda data: data,
    "rows": lambda data: [
        dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)
    ],
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "lazy": lambda data: pl.DataFrame(data).lazy(),
    "pyarrow": pa.table,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_table_gives_the_same_verdicts(form):
    old = {"x": normal(300).tolist(), "k": ["a", "b", None] * 100}
    new = {"x": (normal(200) + 1).tolist(), "k": ["a", "b"] * 66 + [None] * 68}
    report = detector_of(old).detect_drift(FORMS[form](new))
    expected = detector_of(FORMS[form](old)).detect_drift(new)
    assert report.drifted == expected.drifted == ("x",)
    for name in old:
        assert report[name].p_value == expected[name].p_value
        assert report[name].kind == expected[name].kind


def test_columns_without_names_of_their_own_are_numbered():
    frame = pd.DataFrame(rng().normal(size=(200, 2)))
    report = detector_of(frame).detect_drift(frame.add([0.0, 2.0]))
    assert report.drifted == ("1",)
    assert report["1"].name in report.to_html()


def test_columns_of_frames_keep_their_nulls_and_types():
    frame = pl.DataFrame(
        {
            "n": [1, None, 3] * 20,
            "d": [datetime(2026, 1, 1)] * 60,
            "b": [True, False, None] * 20,
            "c": pl.Series(["u", "v", "w"] * 20, dtype=pl.Categorical),
        }
    )
    report = detector_of(frame).detect_drift(frame)
    assert [f.kind for f in report.values()] == ["numeric", "time", "categorical", "categorical"]
    assert report["n"].current_missing == report["b"].current_missing == pytest.approx(1 / 3)


def test_nullable_zoned_and_rare_types_of_frames_are_read():
    zone = pd.date_range("2026-01-01", periods=60, tz="Europe/Berlin")
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3] * 20, dtype="Int64"),
            "z": zone,
            "d": pd.to_timedelta(range(60), unit="s"),
            "s": pd.array(["a", None, "b"] * 20, dtype="string"),
        }
    )
    report = detector_of(frame).detect_drift(frame)
    assert [f.kind for f in report.values()] == ["numeric", "time", "numeric", "categorical"]
    assert report["n"].current_missing == report["s"].current_missing == pytest.approx(1 / 3)
    assert not report.drift_detected


def test_rows_may_be_sequences_and_a_flat_list_is_one_column():
    rows = [[float(i), "a"] for i in range(50)]
    assert list(detector_of(rows, ["x", "k"]).detect_drift(rows)) == ["x", "k"]
    with pytest.raises(TypeError, match="all be mappings"):
        detector_of(rows).detect_drift([rows[0], {"x": 1.0}])
    with pytest.raises(TypeError, match="dimensions"):
        detector_of(rows).detect_drift(np.zeros((2, 2, 2)))


def test_masked_text_and_series_are_columns():
    masked = np.ma.masked_array(["a", "b"] * 50, mask=[True] + [False] * 99)
    assert compared(masked, masked).current_missing == 0.01
    assert compared(pd.Series(normal(100)), pl.Series(normal(100))).level is NONE
    assert compared(range(100), range(100)).level is NONE


def test_times_and_durations_can_be_judged_as_numbers():
    days = [datetime(2026, 1, 1).date() + timedelta(days=i) for i in range(100)]
    later = [day + timedelta(days=50) for day in days]
    assert compared(days, later, kinds={"x": "numeric"}).drift_detected
    ticks = [np.datetime64(day) for day in later]
    assert compared(days, ticks, kinds={"x": "numeric"}).drift_detected
    waits = [timedelta(seconds=i) for i in range(100)]
    assert compared(waits, [np.timedelta64(i, "s") for i in range(100)]).level is NONE


def test_whole_numbers_beyond_floats_are_infinite():
    found = compared([1, 2] * 50, [10**400, -(10**400)] * 50)
    assert "infinite 0 % -> 100 %" in found.reason


def test_masked_structured_and_flat_arrays_are_tables_too():
    masked = np.ma.masked_array(np.arange(100.0), mask=[True] * 10 + [False] * 90)
    assert compared(masked, masked).current_missing == 0.1
    structured = np.array([(1.0, "a")] * 50, dtype=[("x", "f8"), ("k", "U1")])
    assert list(detector_of(structured).detect_drift(structured)) == ["x", "k"]
    assert list(detector_of(np.arange(50.0)).detect_drift(np.arange(50.0))) == ["x0"]


def test_rows_may_lack_a_field():
    rows = [{"a": 1.0, "b": 2.0}] * 50
    report = detector_of(rows).detect_drift([{"a": 1.0}] * 50)
    assert report["b"].reason == "the column is gone"
    report = detector_of(rows).detect_drift([{"a": 1.0}] * 49 + [{"a": 1.0, "b": 2.0}])
    assert report["b"].current_missing == 0.98


def test_what_is_no_table_at_all_is_a_type_error():
    with pytest.raises(TypeError):
        detector_of({"x": normal(50)}).detect_drift(42)


# -- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"correction": "fdr"}, "correction"),
        ({"min_effect": -0.1}, "min_effect"),
        ({"min_new_levels": 2}, "min_new_levels"),
        ({"min_rows": 0}, "min_rows"),
        ({"categorical": "x"}, "categorical"),
        ({"categorical": ("y",)}, "no feature"),
        ({"kinds": {"x": "ordinal"}}, "ordinal"),
        ({"feature_names": ["y"]}, "no column 'y'"),
        ({"blocks": [1] * 50}, "at least 10"),
        ({"blocks": list(range(49))}, "49 labels for 50 rows"),
    ],
)
def test_nonsense_is_refused_by_name(kwargs, told):
    with pytest.raises(BadConfiguration, match=told):
        detector_of({"x": normal(50)}, **kwargs)


@pytest.mark.parametrize("reference", [42, {}, [], [{"a": 1}, 5]])
def test_a_reference_that_is_no_table_is_refused(reference):
    with pytest.raises(BadConfiguration, match="reference"):
        detector_of(reference)


def test_names_must_fit_an_array():
    with pytest.raises(BadConfiguration, match="2 columns instead of 1"):
        detector_of(normal((50, 2)), ["a"])


def test_alpha_of_a_check_is_validated():
    with pytest.raises(BadConfiguration, match="alpha"):
        detector_of({"x": normal(50)}).detect_drift({"x": []}, alpha=1.0)


def test_the_reference_is_fitted_once_and_can_be_shared():
    fitted = Reference.fit({"x": normal(100)})
    first, second = detector_of(fitted), detector_of(fitted, alpha=0.01)
    assert first.reference is second.reference is fitted


def test_a_reference_that_changes_later_changes_nothing():
    old = normal((500, 1))
    detector = detector_of(old)
    old += 100
    assert not detector.detect_drift(normal((500, 1), 1)).drift_detected


def test_settings_can_be_seen_and_retuned():
    detector = detector_of({"x": normal(100_000)})
    assert settings_of(detector)["min_effect"] == 0.05
    retune(detector, min_effect=0.01)
    assert detector.detect_drift({"x": normal(100_000, 1) + 0.05}).drift_detected
    with pytest.raises(BadConfiguration, match="fitted already"):
        retune(detector, categorical=("x",))


# -- blocks -----------------------------------------------------------------------------------


def test_rows_of_one_day_are_not_independent_evidence():
    days, size = 30, 100
    label = np.repeat(np.arange(days), size)
    old = normal(days * size) + normal(days, 5)[label]
    new = normal(2 * size, 1) + np.repeat([0.8, 0.4], size)
    assert compared(old, new).drift_detected
    assert not compared(old, new, blocks=label).drift_detected


def test_blocks_that_are_no_different_change_little():
    label = np.repeat(np.arange(30), 100)
    assert compared(normal(3000), normal(1000, 1) + 0.5, blocks=label).drift_detected


def test_rows_without_a_block_are_one_block():
    codes = block_codes([*map(float, range(10)), float("nan"), None, float("nan")])
    assert codes.tolist() == [*range(10), 10, 10, 10]


def test_one_long_text_does_not_give_every_row_its_room():
    texts = ["a", "b"] * 5000 + ["x" * 100_000]
    days = [row // 100 for row in range(len(texts))]
    tracemalloc.start()
    Reference.fit({"x": texts}, blocks=days)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # An array of texts would take four gigabytes.
    assert peak < 50 << 20


def test_blocks_count_for_categories_and_missing_values_too():
    label = np.repeat(np.arange(40), 50)
    weather = np.where(rng(3).random(40) < 0.5, "rain", "sun")[label].tolist()
    new = ["rain"] * 70 + ["sun"] * 30
    assert compared(weather, new).drift_detected
    assert not compared(weather, new, blocks=label).drift_detected


# -- facts ------------------------------------------------------------------------------------


def heard_from(stream):
    heard = []
    stream.subscribe(Event, heard.append)
    return heard


def test_drift_is_stated_when_it_begins_and_when_it_ends():
    stream, clock = Stream(), ManualClock()
    heard = heard_from(stream)
    detector = DriftDetector(normal((500, 2)), events=stream, clock=clock, name="flights")
    good, bad = normal((500, 2), 1), normal((500, 2), 1) + np.array([0, 1])
    for batch in (good, bad, bad, good, good, bad):
        detector.detect_drift(batch)
    assert [type(fact) for fact in heard] == [DriftDetected, DriftCleared, DriftDetected]
    first = heard[0]
    assert (first.source, first.at, set(first.effects)) == ("flights", clock.time(), {"x1"})
    assert first.score == first.effects["x1"] > 0.3
    assert "x1: median" in first.reason


def test_another_feature_that_drifts_is_news():
    stream = Stream()
    heard = heard_from(stream)
    detector = DriftDetector(normal((500, 2)), events=stream)
    detector.detect_drift(normal((500, 2), 1) + np.array([0, 1]))
    detector.detect_drift(normal((500, 2), 1) + np.array([1, 1]))
    assert [set(fact.effects) for fact in heard] == [{"x1"}, {"x0", "x1"}]


def test_an_empty_batch_does_not_clear_an_alarm():
    stream = Stream()
    heard = heard_from(stream)
    detector = DriftDetector({"x": normal(500)}, events=stream)
    detector.detect_drift({"x": normal(500, 1) + 1})
    detector.detect_drift([])
    detector.detect_drift({"x": normal(500, 1) + 1})
    assert [type(fact) for fact in heard] == [DriftDetected]


def test_threads_may_check_at_the_same_time():
    stream = Stream()
    heard = heard_from(stream)
    detector = DriftDetector({"x": normal(500)}, events=stream)
    bad = {"x": normal(500, 1) + 1}
    threads = [threading.Thread(target=detector.detect_drift, args=(bad,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 1


# -- what a fresh reading found -------------------------------------------------------------


def test_a_reason_does_not_hang_on_the_order_of_rows():
    old = [f"level {i}" for i in range(12)] * 10
    new = [f"level {i}" for i in range(5, 17)] * 9
    found = [compared(shuffled(old, seed), shuffled(new, seed)).to_dict() for seed in range(5)]
    assert found == found[:1] * 5
    assert found[0]["new_levels"] == [f"level {i}" for i in range(12, 17)]
    assert found[0]["reason"].startswith("new levels level 12, level 13, level 14 and 2 more")


def shuffled(values, seed):
    return [values[i] for i in rng(seed).permutation(len(values))]


def test_levels_that_a_stored_batch_does_not_list_are_not_gone():
    made = rng(0).zipf(1.3, size=(2, 30_000)) % 20_000
    old, today = ([f"level number {i}" for i in row] for row in made.tolist())
    stored = Reference.from_dict(Reference.fit({"k": today}).to_dict())
    assert stored.columns["k"].sample.rest > 0
    detector = detector_of({"k": old})
    assert detector.detect_drift({"k": today})["k"].level is NONE
    assert detector.detect_drift(stored)["k"].level is NONE
    assert detector.detect_drift(stored)["k"].vanished_levels == ()
    # What it lists and the reference does not is new all the same.
    later = Reference.fit({"k": [*today, *["brand new"] * 3000]})
    found = detector.detect_drift(Reference.from_dict(later.to_dict()))["k"]
    assert found.level is DRIFT
    assert "new level brand new" in found.reason or "new levels brand new" in found.reason


def test_identifiers_do_not_fill_a_report():
    found = compared([f"u{i}" for i in range(500)], [f"v{i}" for i in range(500)])
    assert len(found.new_levels) == len(found.vanished_levels) == 100
    assert found.level is INCONCLUSIVE


@pytest.mark.parametrize("exact", [True, False])
def test_a_time_that_is_yet_to_come_is_not_fresh(exact):
    clock = ManualClock()
    now = datetime.fromtimestamp(clock.time(), UTC)
    times = [now - timedelta(hours=h) for h in range(50)]
    reference = Reference.fit({"at": times}, exact=exact)
    detector = detector_of(reference, fresh={"at": 3600.0}, clock=clock)
    for late, level in ((0, NONE), (0.9, NONE), (2, INCONCLUSIVE), (24 * 365 * 7000, INCONCLUSIVE)):
        newest = now + timedelta(hours=late)
        assert detector.detect_drift({"at": [*times, newest]})["at"].level is level
        # A naive time is one of UTC.
        naive = [moment.replace(tzinfo=None) for moment in (*times, newest)]
        assert detector.detect_drift({"at": naive})["at"].level is level
    assert "in the future" in detector.detect_drift({"at": [*times, newest]})["at"].reason


def test_a_mask_hides_values_of_any_number_of_rows():
    hidden = rng(1).random((2000, 3)) < 0.3
    table = np.ma.array(rng(2).normal(size=(2000, 3)), mask=hidden)
    found = Reference.fit(table)
    assert [c.sample.missing for c in found.columns.values()] == hidden.sum(axis=0).tolist()


def test_ragged_rows_are_no_table():
    with pytest.raises(BadConfiguration, match="1 columns in some rows instead of 2"):
        Reference.fit([[1.0, 2.0]] * 50 + [[3.0]])
    report = detector_of(normal((100, 2))).detect_drift([[1.0, 2.0]] * 50 + [[3.0]])
    assert {feature.level for feature in report.values()} == {DRIFT}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"feature_names": ["x"]}, "feature_names"),
        ({"kinds": {"x": "categorical"}}, "'x' is no categorical"),
        ({"categorical": ["x"]}, "'x' is no categorical"),
        ({"categorical": ["z"]}, "'z' is no categorical"),
        ({"blocks": [1] * 100}, "blocks"),
    ],
)
def test_what_only_a_fit_can_heed_is_not_taken_in_vain(settings, told):
    reference = Reference.fit({"x": normal(100), "k": ["a"] * 100})
    with pytest.raises(BadConfiguration, match=told):
        detector_of(reference, **settings)
    same = {"feature_names": ["x", "k"], "kinds": {"x": "numeric"}, "categorical": ["k"]}
    assert detector_of(reference, **same).reference is reference
