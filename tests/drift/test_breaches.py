"""What validation refused or repaired, in the drift report."""

import numpy as np
import pytest

from prodml.drift import DriftDetector, DriftLevel
from prodml.events import Stream
from prodml.validation import Field, Schema, SchemaStats

RNG = np.random.default_rng(0)
TRAIN = {"age": RNG.uniform(20, 60, size=2000), "fare": RNG.normal(size=2000)}


def of_validation(report, name):
    return [item for item in report[name].evidence if item.aspect == "validation"]


def test_rows_that_were_repaired_or_turned_away_are_found_though_the_rest_looks_fine():
    schema = Schema(
        {"age": Field(float, minimum=0, maximum=120, on={"range": "clip"}), "fare": Field(float)},
        on={"missing": "quarantine"},
    )
    rows = [{"age": a, "fare": f} for a, f in zip(*(TRAIN[n][:400] for n in TRAIN), strict=True)]
    for row in rows[:60]:
        row["age"] = 500.0
    for row in rows[60:100]:
        row["fare"] = None
    good = schema.validate_batch(rows).valid_rows
    detector = DriftDetector(TRAIN, min_effect=0.05, events=Stream())
    report = detector.detect_drift(good, counts=schema.take_stats())
    (age,), (fare,) = of_validation(report, "age"), of_validation(report, "fare")
    assert (age.level, age.reason) == (DriftLevel.DRIFT, "breaks range 0 % -> 15 % (clip)")
    assert (fare.level, fare.reason) == (
        DriftLevel.DRIFT,
        "breaks missing 0 % -> 10 % (quarantine)",
    )
    assert "fare" in report.drifted
    assert not of_validation(detector.detect_drift(good), "age")


def test_a_share_that_the_reference_has_too_is_no_drift():
    usual = SchemaStats(rows=2000, breaches={("age", "range", "clip"): 200})
    detector = DriftDetector(TRAIN, counts=usual, events=Stream())
    today = SchemaStats(rows=500, breaches={("age", "range", "clip"): 52})
    assert detector.detect_drift(TRAIN, counts=today)["age"].level is DriftLevel.NONE
    none = detector.detect_drift(TRAIN, counts=SchemaStats(rows=500))
    (found,) = of_validation(none, "age")
    assert (found.level, found.reason) == (
        DriftLevel.DRIFT, "breaks range 10 % -> 0 % (none now)",
    )  # fmt: skip


@pytest.mark.parametrize("rows", [0, 29])
def test_few_counted_rows_say_nothing(rows):
    few = SchemaStats(rows=rows, breaches={("age", "range", "clip"): rows} if rows else {})
    report = DriftDetector(TRAIN, events=Stream()).detect_drift(TRAIN, counts=few)
    assert not of_validation(report, "age")


def test_shares_of_nulls_are_counted_by_batch_and_left_out():
    counts = SchemaStats(rows=500, batches=3, breaches={("age", "null_share", "warn"): 3})
    report = DriftDetector(TRAIN, events=Stream()).detect_drift(TRAIN, counts=counts)
    assert not of_validation(report, "age")


def test_the_same_level_holds_over_counts_and_columns_together():
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(60):
        batch = {name: rng.choice(values, size=200) for name, values in TRAIN.items()}
        hits = {(n, "range", "clip"): int(rng.binomial(200, 0.05)) for n in TRAIN}
        usual = SchemaStats(rows=2000, breaches=dict.fromkeys(hits, 100))
        detector = DriftDetector(TRAIN, counts=usual, min_effect=0.0, events=Stream())
        alarms += detector.detect_drift(
            batch, counts=SchemaStats(rows=200, breaches=hits)
        ).drift_detected
    assert alarms <= 9
