"""How often the default detector alarms when nothing has moved, and how well it sees."""

import numpy as np
import pytest
from scipy.stats import binom, ks_2samp

from prodml.drift import DriftDetector
from prodml.events import Stream

CATEGORICAL = {"two levels": 2, "five levels": 5, "twenty levels": 20}
SIZES = [(5000, 100), (1000, 1000), (20_000, 200)]


def draw(shape, rng, n, columns):
    if shape == "normal":
        return rng.normal(size=(n, columns))
    if shape == "lognormal":
        return rng.lognormal(0, 1.5, size=(n, columns))
    if shape == "zeros":
        return rng.normal(size=(n, columns)) * (rng.random((n, columns)) < 0.1)
    if shape == "missing":
        values = rng.normal(size=(n, columns))
        values[rng.random((n, columns)) < 0.03] = np.nan
        return values
    if shape == "zipf":
        return np.minimum(rng.zipf(1.3, size=(n, columns)), 200)
    return rng.integers(0, CATEGORICAL[shape], size=(n, columns))


def alarms(shape, size, runs, columns=10, **kwargs):
    codes = shape in {*CATEGORICAL, "zipf"}
    names = [f"x{i}" for i in range(columns)]
    found = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        old, new = (draw(shape, rng, n, columns) for n in size)
        detector = DriftDetector(
            old, names, categorical=names if codes else (), events=Stream(), **kwargs
        )
        found += detector.detect_drift(new).drift_detected
    return found


def allowed(runs, level=0.05):
    # Seen in one of ten thousand runs of this test if the level holds exactly.
    return binom.ppf(1 - 1e-4, runs, level)


SHAPES = ["normal", "lognormal", "zeros", "missing", *CATEGORICAL, "zipf"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES[:2])
def test_a_family_without_drift_seldom_alarms(shape, size):
    assert alarms(shape, size, 40) <= allowed(40)


@pytest.mark.soak
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("min_effect", [0.0, 0.05])
@pytest.mark.timeout(1200)
def test_a_family_of_twenty_without_drift_keeps_its_level(shape, size, min_effect):
    found = alarms(shape, size, 500, 20, min_effect=min_effect, min_new_levels=min_effect / 5)
    assert found <= allowed(500)


def test_dependent_features_keep_the_level_too():
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        old, new = (
            np.sqrt(0.8) * rng.normal(size=(n, 1)) + np.sqrt(0.2) * rng.normal(size=(n, 10))
            for n in (2000, 1000)
        )
        found += DriftDetector(old, events=Stream()).detect_drift(new).drift_detected
    assert found <= allowed(60)


def test_a_moderate_shift_is_seen_as_often_as_by_corrected_tests_alone():
    mine = theirs = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        old, new = rng.normal(size=(2000, 10)), rng.normal(size=(1000, 10))
        new[:, 0] += 0.2
        mine += "x0" in DriftDetector(old, events=Stream()).detect_drift(new).drifted
        theirs += ks_2samp(old[:, 0], new[:, 0], method="asymp").pvalue < 0.05 / 10
    assert theirs > 20
    assert mine >= theirs - 2


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_million_rows_without_drift_do_not_alarm():
    assert alarms("normal", (1_000_000, 1_000_000), 10, 5) == 0
