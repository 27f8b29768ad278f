"""What the default detector sees, and what it leaves alone."""

import numpy as np
import pytest
from benchmarks._drift_peers.ours import MODES
from benchmarks._drift_peers.power import BY_HAND, seen, shifted

from prodml.drift import DriftDetector, DriftLevel, Reference
from prodml.events import Stream


def test_a_shift_by_a_tenth_is_seen_as_often_as_by_corrected_tests():
    runs = 24
    counts = seen(0.1, (2000, 1000), runs)
    assert 2 < counts[BY_HAND] < 22
    for mode in MODES:
        assert counts[mode] >= counts[BY_HAND] - 0.05 * runs


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shift", [0.1, 0.15, 0.2])
def test_power_is_that_of_corrected_tests_less_five_points(shift):
    runs = 1000
    counts = seen(shift, (2000, 1000), runs)
    assert 0.1 * runs < counts[BY_HAND]
    for mode in MODES:
        assert counts[mode] >= counts[BY_HAND] - 0.05 * runs


@pytest.mark.parametrize("exact", MODES.values(), ids=MODES)
def test_a_two_hundredth_of_a_deviation_in_a_million_rows_is_certain_and_negligible(exact):
    rng = np.random.default_rng(0)
    detector = DriftDetector(
        Reference.fit({"x": rng.normal(size=1_000_000)}, exact=exact), events=Stream()
    )
    for shift in (0.005, 0.02):
        feature = detector.detect_drift({"x": rng.normal(size=1_000_000) + shift})["x"]
        assert feature.level is DriftLevel.NEGLIGIBLE
        assert feature.p_adjusted < 0.05
        assert feature.effect < 0.3 * feature.floor
        assert not feature.drift_detected
        assert "below the floor" in feature.reason
    # The floor is no deafness: what moves rows enough is drift.
    feature = detector.detect_drift({"x": rng.normal(size=1_000_000) + 0.15})["x"]
    assert feature.level is DriftLevel.DRIFT


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("exact", MODES.values(), ids=MODES)
def test_a_two_hundredth_never_alarms_among_twenty(exact):
    for seed in range(5):
        old, new = shifted(seed, 0.005, 1_000_000, 1_000_000)
        detector = DriftDetector(Reference.fit(old, exact=exact), events=Stream())
        assert not detector.detect_drift(new).drift_detected


@pytest.mark.parametrize("exact", MODES.values(), ids=MODES)
@pytest.mark.parametrize("rows", [100, 900, 1100, 20_000])
def test_what_is_large_is_found_at_any_size(exact, rows):
    # One rule for every number of rows: no verdict turns where a test would be exchanged.
    old, new = shifted(7, 1.0, 5000, rows)
    detector = DriftDetector(Reference.fit(old, exact=exact), events=Stream())
    report = detector.detect_drift(new)
    assert report.drifted[0] == "x0"
    assert report["x0"].effect > 0.25


@pytest.mark.parametrize("exact", MODES.values(), ids=MODES)
def test_levels_that_change_places_are_found_and_small_changes_left_alone(exact):
    rng = np.random.default_rng(3)
    names = np.array(["bus", "car", "rail", "walk"])
    old = {"way": rng.choice(names, 100_000, p=[0.4, 0.3, 0.2, 0.1])}
    detector = DriftDetector(Reference.fit(old, exact=exact), events=Stream())
    slight = detector.detect_drift({"way": rng.choice(names, 100_000, p=[0.42, 0.28, 0.2, 0.1])})
    assert slight["way"].level is DriftLevel.NEGLIGIBLE
    plain = detector.detect_drift({"way": rng.choice(names, 2_000, p=[0.3, 0.4, 0.2, 0.1])})
    assert plain["way"].level is DriftLevel.DRIFT
