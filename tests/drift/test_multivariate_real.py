"""Multivariate drift on data whose truth is known: car loans, drifting from chunk 5 of 10."""

import pytest
from sklearn.tree import DecisionTreeClassifier

from prodml.drift import (
    CorrelationDrift,
    DistanceDrift,
    DomainClassifier,
    DriftLevel,
    MultivariateDetector,
    PCAReconstruction,
)
from prodml.events import DriftDetected, Stream
from tests.real_data import CAR_LOAN_FEATURES, car_loan, flight_delays

DRIFTING = [False] * 5 + [True] * 5


def chunks(frame):
    return [frame[CAR_LOAN_FEATURES].iloc[at : at + 5000] for at in range(0, 50_000, 5000)]


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [
        (PCAReconstruction, {}),
        (DistanceDrift, {"max_rows": 400, "permutations": 99}),
        (DistanceDrift, {"method": "mmd", "max_rows": 400, "permutations": 99}),
        (
            DomainClassifier,
            {"model": DecisionTreeClassifier(max_leaf_nodes=16, random_state=0), "max_rows": 1500},
        ),
    ],
)
def test_car_loans_alarm_in_exactly_the_chunks_that_drifted(method, kwargs):
    reference, analysis, _ = car_loan()
    check = method(reference[CAR_LOAN_FEATURES], **kwargs)
    results = [check.detect_drift(chunk) for chunk in chunks(analysis)]
    assert [result.drift_detected for result in results] == DRIFTING
    assert all(result.level is not DriftLevel.INCONCLUSIVE for result in results)


def test_the_classifier_names_what_moved_and_nothing_that_did_not():
    reference, analysis, _ = car_loan()
    check = DomainClassifier(reference[CAR_LOAN_FEATURES], max_rows=2000)
    result = check.detect_drift(chunks(analysis)[5])
    assert result.interval[0] > 0.85
    assert next(iter(result.moved)) == "car_value"
    # Where the drift is said to be none.
    stable = ("size_of_downpayment", "driver_tenure", "debt_to_income_ratio")
    most = result.moved["car_value"]
    assert all(result.moved.get(name, 0.0) < most / 4 for name in stable), result.moved


def test_correlations_of_car_loans_keep_within_the_floor():
    reference, analysis, _ = car_loan()
    check = CorrelationDrift(reference[CAR_LOAN_FEATURES])
    # The columns move, their ranks go together as before.
    assert not any(check.detect_drift(chunk).drift_detected for chunk in chunks(analysis))


def test_a_whole_family_states_one_fact_for_car_loans():
    reference, analysis, _ = car_loan()
    events, heard = Stream(), []
    events.subscribe(DriftDetected, heard.append)
    detector = MultivariateDetector(
        reference[CAR_LOAN_FEATURES], methods=("pca", "correlation"), events=events
    )
    reports = [detector.detect_drift(chunk) for chunk in chunks(analysis)]
    assert [report.drift_detected for report in reports] == DRIFTING
    assert len(heard) == 1


def test_missing_values_and_unseen_levels_alarm_from_the_row_on():
    reference, analysis, _ = car_loan(dirty=True)
    check = PCAReconstruction(reference[CAR_LOAN_FEATURES])
    results = [check.detect_drift(chunk) for chunk in chunks(analysis)]
    assert [result.drift_detected for result in results] == DRIFTING
    assert any("salary_range: missing" in finding for finding in results[5].findings)
    assert any("size_of_downpayment: new levels" in finding for finding in results[5].findings)


def test_an_airline_that_disappears_is_what_the_classifier_names_in_july():
    reference, current = flight_delays()
    names = ["AIRLINE", "DISTANCE", "TAXI_OUT"]
    month = current["DATE"].astype(str).str[5:7].astype(int)
    check = DomainClassifier(reference[names], max_rows=3000)
    july = check.detect_drift(current.loc[month == 7, names])
    assert july.drift_detected
    assert next(iter(july.moved)) == "AIRLINE"
    # There is no flight of May in this half.
    may = check.detect_drift(current.loc[month == 5, names])
    assert may.level is DriftLevel.INCONCLUSIVE
    assert may.findings == ()
