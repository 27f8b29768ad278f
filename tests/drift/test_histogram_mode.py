"""The detector on a reference that is counted in cells, and what was new beside it."""

import json
import math
import tracemalloc
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, wasserstein_distance

from prodml.drift import DriftDetector, DriftLevel, Reference
from prodml.drift.cells import Cells
from prodml.drift.layout import Layout
from prodml.drift.numeric import Counted
from prodml.drift.overlap import cell_gap
from prodml.drift.transport import sorted_wasserstein
from prodml.errors import BadConfiguration
from prodml.events import Stream
from prodml.testing import ManualClock
from tests.drift.shapes import SHAPES
from tests.drift.test_detector import JUNK

NONE, NEGLIGIBLE, DRIFT, INCONCLUSIVE = DriftLevel


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(n, seed=0, **kwargs):
    return rng(seed).normal(size=n, **kwargs)


def detector_of(reference, *, exact=False, kinds=None, **kwargs):
    fitted = Reference.fit(reference, exact=exact, kinds=kinds)
    return DriftDetector(fitted, **{"events": Stream(), **kwargs})


def compared(old, new, **kwargs):
    return detector_of({"x": old}, **kwargs).detect_drift({"x": new})["x"]


def distribution(found):
    return next(e for e in found.evidence if e.aspect == "distribution")


# -- counted like sorted ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_verdicts_do_not_depend_on_how_the_reference_is_kept(shape, shift):
    old = SHAPES[shape](rng(), 5000)
    moved = (np.quantile(old, 0.75) - np.quantile(old, 0.25) or 1.0) * shift
    new = SHAPES[shape](rng(1), 2000) + moved
    counted, exact = (compared(old, new, exact=exact) for exact in (False, True))
    assert counted.level is exact.level
    truth, found = distribution(exact), distribution(counted)
    assert found.statistic <= truth.statistic <= found.statistic + found.bound + 1e-12
    assert found.p_value >= truth.p_value
    assert counted.psi == pytest.approx(exact.psi, abs=0.15 * (1 + exact.psi))
    assert counted.jensen_shannon == pytest.approx(exact.jensen_shannon, abs=0.05)
    slack = counted.wasserstein_bound + 1e-6 * np.abs(old).max()
    assert counted.wasserstein == pytest.approx(exact.wasserstein, abs=slack)


def test_the_bound_is_shown_and_the_reason_is_told_from_cells():
    found = compared(normal(100_000), normal(50_000, 1) + 0.41 * 1.35)
    assert found.level is DRIFT
    assert found.reason.startswith("median +0.4")
    assert 0.0 < found.bound < 0.01
    assert found.to_dict()["bound"] == found.to_dict()["evidence"][0]["bound"] == found.bound
    still = compared(normal(5000), normal(5000, 1))
    assert " to " in still.reason
    assert compared(normal(5000), normal(5000, 1), exact=True).bound == 0.0


def test_the_p_value_is_that_of_the_statistic_without_its_bound():
    old, new = normal(3000), normal(3000, 1) + 0.05
    found = compared(old, new)
    assert found.p_value == pytest.approx(ks_2samp(old, new, method="asymp").pvalue, rel=0.5)


def test_a_cell_that_hides_anything_is_inconclusive_and_never_no_drift():
    # All of current lies on one value that shares a cell with a third of the reference.
    reference = Reference.fit({"x": 1002 + normal(5000) * 0.1}, layouts={"x": Layout(0.0, 1.0)})
    found = DriftDetector(reference, events=Stream()).detect_drift({"x": [1002.0] * 3000})["x"]
    assert found.level is INCONCLUSIVE
    assert "cells too coarse" in found.reason
    assert distribution(found).bound > 0.3


def test_moments_and_quantiles_come_from_the_cells():
    old, new = normal(20_000, loc=5.0), normal(10_000, 1, loc=5.0)
    new[:100] = np.nan
    found = compared(old, new)
    assert found.reference_mean == pytest.approx(old.mean(), abs=1e-3)
    assert found.current_std == pytest.approx(np.nanstd(new), abs=5e-3)
    assert found.current_missing == 0.01
    shares = [0.05, 0.25, 0.5, 0.75, 0.95]
    assert found.reference_quantiles == pytest.approx(np.quantile(old, shares), abs=0.02)
    exact = compared(old, new, exact=True)
    assert exact.current_quantiles == pytest.approx(np.nanquantile(new, shares), abs=0.01)
    assert sum(found.profile.reference) == pytest.approx(1.0)


@pytest.mark.parametrize("exact", [True, False])
def test_a_million_rows_do_not_alarm_about_nothing(exact):
    found = compared(normal(200_000), normal(200_000, 1) + 0.015, exact=exact)
    assert found.p_adjusted < 0.05
    assert found.level is NEGLIGIBLE


@settings(max_examples=60, deadline=None)
@given(st.lists(JUNK, max_size=60), st.lists(JUNK, max_size=60), st.integers(1, 40))
def test_whatever_a_column_holds_there_is_a_verdict_with_a_reason(old, new, min_rows):
    found = compared(old, new, min_rows=min_rows)
    assert found.reason
    assert found.level is not NONE or 0.0 <= found.p_adjusted <= 1.0
    assert 0.0 <= found.effect <= 1.0
    json.dumps(found.to_dict(), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([[], [math.nan], [math.inf], [1.0], [True], [Decimal("1.5")], ["a"], [[1]]]),
    st.sampled_from([[], [math.nan], [-math.inf], [2.0], [False], [None], ["b"], [{"k": 1}]]),
    st.booleans(),
)
def test_junk_costs_only_its_own_verdict(old, new, exact):
    good = normal(200)
    reference = Reference.fit({"junk": old * 50, "good": good}, exact=exact)
    report = DriftDetector(reference, events=Stream()).detect_drift(
        {"junk": new * 50, "good": good + 2}
    )
    assert "good" in report.drifted
    assert report["junk"].level is not NONE or report["junk"].p_adjusted >= 0.05


def test_times_and_numbers_do_not_mix_in_cells_either():
    days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(100)]
    found = compared(days, normal(100))
    assert found.drift_detected
    assert "of a wrong type 0 % -> 100 %" in found.reason
    assert Counted is not None


def test_frames_of_text_are_wrong_numbers():
    polars = pytest.importorskip("polars")
    found = compared(normal(100), polars.Series(["n/a"] * 100))
    assert found.drift_detected


# -- range, types, freshness ------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_values_beyond_the_range_are_found_before_the_shape_moves(exact):
    old, new = rng().uniform(0, 1, size=5000), rng(1).uniform(0, 1, size=2000)
    new[:40] = 7.0
    found = compared(old, new, exact=exact)
    assert found.level is DRIFT
    assert found.measure == "beyond"
    assert "beyond" in found.reason
    assert "2.1 %" in found.reason or "2 %" in found.reason
    new[10:40] = 0.5
    assert compared(old, new, exact=exact).level is NEGLIGIBLE


@pytest.mark.parametrize("exact", [True, False])
def test_new_extremes_of_the_same_distribution_are_no_evidence(exact):
    alarms = sum(
        compared(
            rng(seed).standard_cauchy(200), rng(seed + 1000).standard_cauchy(400), exact=exact
        ).drift_detected
        for seed in range(60)
    )
    assert alarms <= 8


@pytest.mark.parametrize("exact", [True, False])
def test_fractions_among_whole_numbers_are_a_change_of_type(exact):
    whole = rng().integers(0, 50, size=1000).astype(float)
    mixed = rng(1).integers(0, 50, size=1000).astype(float)
    mixed[:100] += 0.25
    found = compared(whole, mixed, exact=exact)
    assert found.drift_detected
    assert "whole numbers became fractions: 0 % -> 10 %" in found.reason
    assert compared(mixed, whole, exact=exact).level is not DRIFT


def test_text_that_becomes_numbers_says_so():
    found = compared(["a", "b"] * 100, [1.5, 2.5] * 100)
    assert found.drift_detected
    assert "type text -> number" in found.reason


@pytest.mark.parametrize("exact", [True, False])
def test_a_stale_feed_is_drift_and_a_fresh_one_is_not(exact):
    clock = ManualClock()
    now = datetime.fromtimestamp(clock.time(), UTC)
    times = [now - timedelta(seconds=i) for i in range(100)]
    detector = detector_of({"at": times}, exact=exact, fresh={"at": 3600.0}, clock=clock)
    fresh = detector.detect_drift({"at": times})["at"]
    assert (fresh.level, fresh.reason) == (NONE, "newest 0 s old, within 3.6e+03 s")
    clock.advance(7200.0)
    stale = detector.detect_drift({"at": times})["at"]
    assert stale.drift_detected
    assert (stale.measure, stale.statistic) == ("age", 7200.0)
    assert "more than" in stale.reason
    one = detector.detect_drift({"at": times[:1]})["at"]
    assert one.drift_detected
    assert detector.detect_drift({"at": [None] * 100})["at"].drift_detected
    assert detector.detect_drift({"at": []})["at"].level is INCONCLUSIVE
    assert "no time in current" in detector.detect_drift({"at": []})["at"].reason


def test_seconds_can_be_fresh_and_compared():
    clock = ManualClock()
    seconds = clock.time() - rng().uniform(0, 100, size=200)
    detector = detector_of({"at": seconds}, fresh={"at": 60.0}, clock=clock)
    found = detector.detect_drift({"at": seconds})["at"]
    assert {e.aspect for e in found.evidence} == {"freshness", "distribution", "range"}


@pytest.mark.parametrize(
    ("fresh", "told"),
    [({"y": 1.0}, "'y'"), ({"k": 1.0}, "'k'"), ({"x": 0}, "seconds"), ({"x": "1d"}, "seconds")],
)
def test_freshness_makes_sense_or_is_refused(fresh, told):
    with pytest.raises(BadConfiguration, match=told):
        detector_of({"x": normal(50), "k": ["a"] * 50}, fresh=fresh)


# -- distances --------------------------------------------------------------------------------

SAMPLES = st.lists(
    st.floats(-1e6, 1e6) | st.integers(-5, 5).map(float), min_size=1, max_size=300
).map(sorted)


@settings(max_examples=100, deadline=None)
@given(SAMPLES, SAMPLES)
def test_the_distance_of_sorted_samples_is_that_of_scipy(old, new):
    found = sorted_wasserstein(np.array(old), np.array(new))
    assert found == pytest.approx(wasserstein_distance(old, new), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("sizes", [(30_000, 30_000), (40_000, 25_000), (20_000, 300)])
@pytest.mark.parametrize("shape", ["normal", "whole numbers", "ninety per cent zeros"])
def test_long_stretches_are_summed_like_single_values(shape, sizes, monkeypatch):
    monkeypatch.setattr("prodml.drift.transport._STRETCHES", 500)
    old, new = (np.sort(SHAPES[shape](rng(i), n)) for i, n in enumerate(sizes))
    truth = wasserstein_distance(old, new)
    assert sorted_wasserstein(old, new) == pytest.approx(truth, rel=1e-9)
    assert sorted_wasserstein(new, old) == pytest.approx(truth, rel=1e-9)


def test_exact_mode_gives_scipy_s_numbers():
    old, new = normal(4000), normal(3000, 1) + 0.2
    found = compared(old, new, exact=True)
    assert found.statistic == pytest.approx(ks_2samp(old, new).statistic, rel=1e-12)
    assert found.wasserstein == pytest.approx(wasserstein_distance(old, new), rel=1e-9)


# -- memory -----------------------------------------------------------------------------------


def added(detector, current):
    tracemalloc.start()
    try:
        detector.detect_drift(current)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("exact", [True, False])
def test_columns_are_let_go_one_by_one(exact):
    current = {f"x{i}": normal(100_000, i) for i in range(12)}
    detector = detector_of(current, exact=exact)
    assert added(detector, current) <= 4 * 8 * 100_000


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("exact", [True, False])
def test_a_check_of_a_million_rows_adds_32_megabytes_at_most(exact):
    current = normal((1_000_000, 20))
    assert added(detector_of(current, exact=exact), current) <= 32 * 2**20


@pytest.mark.parametrize("shift", [0, 3])
def test_counts_of_billions_are_compared_without_overflow(shift):
    layout = Layout()
    codes, billions = layout.codes([1.0, 2.0, 3.0]), 4_000_000_000

    def counted(*parts):
        counts = np.array(parts) * billions
        extremes = {"minimum": 1.0, "maximum": 3.0}
        return Cells(layout=layout, codes=codes, counts=counts, rows=counts.sum(), **extremes)

    old, new = counted(2, 2, 2), counted(4, 1, 1)
    found = cell_gap(old, new.coarser(shift))
    assert found.lattice / (old.size * new.size) == pytest.approx(1 / 3)
