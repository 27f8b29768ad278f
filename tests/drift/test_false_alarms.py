"""How often one check of twenty features alarms when nothing has moved.

The tables are those that other libraries are asked about (``benchmarks/_drift_peers``).  The
ordinary suite looks at a share of them; ``nox -s soak`` at 1,000 of each, and at as many of a
million rows as an hour allows.  ``PRODML_SOAK_RUNS`` says how many instead.
"""

import os
import time

import numpy as np
import pytest
from benchmarks._drift_peers.ours import MODES, drifted, report
from benchmarks._drift_peers.shapes import COLUMNS, SHAPES, SIZES, is_category, table
from scipy.stats import binom

from prodml.drift import DriftDetector
from prodml.events import Stream

ALPHA = 0.05
RUNS = int(os.environ.get("PRODML_SOAK_RUNS", "1000"))
MILLION = SIZES[-1]
HOUR = 3600.0


def at_most(runs, level=ALPHA):
    """``level`` and two standard errors of a rate of so many runs, as a count."""
    return runs * (level + 2 * (level * (1 - level) / runs) ** 0.5)


def alarms(shape, size, seeds, **settings):
    """Tables without drift in which any column alarms, by mode."""
    found = dict.fromkeys(MODES, 0)
    for seed in seeds:
        old, new = table(shape, seed, *size)
        for mode, exact in MODES.items():
            found[mode] += report(shape, old, new, exact=exact, **settings).drift_detected
    return found


@pytest.mark.parametrize("category", [False, True], ids=["numbers", "levels"])
def test_a_family_without_drift_seldom_alarms(category):
    shapes = [shape for shape in SHAPES if is_category(shape) is category]
    found = dict.fromkeys(MODES, 0)
    for shape in shapes:
        for size, runs in zip(SIZES, (2, 8), strict=False):
            for mode, count in alarms(shape, size, range(runs)).items():
                found[mode] += count
    assert all(found[mode] <= at_most(10 * len(shapes)) for mode in MODES)


def test_the_level_is_that_of_the_family_and_not_of_a_feature():
    # The same tables, every feature for itself: what the correction is there for.
    found = alarms("normal", (1000, 1000), range(12), correction="none", min_effect=0.0)
    assert all(found[mode] > at_most(12) for mode in MODES)


def test_evidence_alone_keeps_the_level_without_the_floor():
    # Where many rows make the floor idle, p-values have to be right by themselves.
    for shape in ("normal", "20 levels"):
        found = alarms(shape, (1000, 1000), range(10), min_effect=0.0, min_new_levels=0.0)
        assert all(found[mode] <= binom.ppf(1 - 1e-3, 10, ALPHA) for mode in MODES)


@pytest.mark.parametrize("mode", MODES)
def test_how_many_tests_there_are_does_not_hang_on_what_they_find(mode):
    # A range counted only where something lies beyond it would take its alarms for nothing:
    # 6.2 in a hundred tables of (5000, 100) instead of 5.
    counts, beyond = set(), 0
    for shape in ("normal", "20 levels"):
        for seed in range(6):
            tested = [
                evidence
                for feature in report(
                    shape, *table(shape, seed, 5000, 100), exact=MODES[mode]
                ).values()
                for evidence in feature.evidence
                if not np.isnan(evidence.p_value)
            ]
            counts.add(len(tested))
            beyond += sum(e.aspect == "range" and e.p_value < 1.0 for e in tested)
    assert counts == {2 * COLUMNS}
    assert 1 < beyond < 60


def test_missing_values_that_come_and_go_by_chance_do_not_alarm():
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        old, new = (rng.normal(size=(n, COLUMNS)) for n in (1000, 500))
        for values in (old, new):
            values[rng.random(values.shape) < 0.03] = np.nan
        found += DriftDetector(old, events=Stream()).detect_drift(new).drift_detected
    assert found <= binom.ppf(1 - 1e-4, 20, ALPHA)


def test_dependent_features_keep_the_level_too():
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        old, new = (
            np.sqrt(0.8) * rng.normal(size=(n, 1)) + np.sqrt(0.2) * rng.normal(size=(n, COLUMNS))
            for n in (2000, 1000)
        )
        found += DriftDetector(old, events=Stream()).detect_drift(new).drift_detected
    assert found <= binom.ppf(1 - 1e-4, 40, ALPHA)


def seeds(size):
    """As many as are asked for; of a million rows, as many as an hour over all shapes allows."""
    end = time.monotonic() + HOUR / len(SHAPES)
    for seed in range(RUNS):
        if size == MILLION and seed and time.monotonic() > end:
            return
        yield seed


@pytest.mark.soak
@pytest.mark.timeout(2 * HOUR)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}-{size[1]}")
def test_a_family_of_twenty_without_drift_keeps_its_level(size):
    runs, total = 0, dict.fromkeys(MODES, 0)
    for shape in SHAPES:
        asked = list[int]()
        found = alarms(shape, size, (asked.append(seed) or seed for seed in seeds(size)))
        runs += len(asked)
        for mode in MODES:
            total[mode] += found[mode]
            # One cell of 32 may lie two standard errors off by chance; all together may not.
            most = binom.ppf(1 - 1e-3, len(asked), ALPHA)
            assert found[mode] <= most, f"{shape}, {mode}: {found[mode]} of {len(asked)}"
    assert all(total[mode] <= at_most(runs) for mode in MODES), (total, runs)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES[:3], ids=lambda size: f"{size[0]}-{size[1]}")
@pytest.mark.parametrize("mode", MODES)
def test_evidence_without_a_floor_keeps_its_level(shape, size, mode):
    runs = min(RUNS, 500)
    settings = {"exact": MODES[mode], "min_effect": 0.0, "min_new_levels": 0.0}
    found = sum(bool(drifted(shape, seed, size, **settings)) for seed in range(runs))
    assert found <= at_most(runs), f"{found} of {runs}"
