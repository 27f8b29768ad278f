"""Drift on real data whose truth is known, with the detector as it comes."""

import pytest

from prodml.drift import DriftDetector, DriftLevel, Reference
from prodml.events import DriftDetected, Stream
from tests.real_data import CAR_LOAN_FEATURES, car_loan, flight_delays, nyc_flights

MOVED = {"car_value", "salary_range", "loan_length", "repaid_loan_on_prev_car"}
STABLE = {"size_of_downpayment", "driver_tenure", "debt_to_income_ratio"}
CHUNKS = range(10)
FIRST = 5  # the chunk in which the loans begin to drift
ROUTES = ["carrier", "origin", "dest", "distance"]
DELAYS = ["dep_time", "dep_delay", "arr_delay", "air_time", *ROUTES]
NEW = {"ABQ", "ACK", "ANC", "BGR", "CHO", "ILM", "LEX", "LGA", "MVY", "SBN", "TVC"}


def watched(data, **kwargs):
    return DriftDetector(data, events=Stream(), **kwargs)


def loans(*, dirty=False, exact=True):
    """A report for every chunk of 5,000 loans."""
    reference, analysis, _ = car_loan(dirty=dirty)
    detector = watched(Reference.fit(reference[CAR_LOAN_FEATURES], exact=exact))
    rows = analysis[CAR_LOAN_FEATURES]
    return [detector.detect_drift(rows.iloc[5000 * i : 5000 * (i + 1)]) for i in CHUNKS]


def levels(report, feature, aspect):
    return [e.level for e in report[feature].evidence if e.aspect == aspect]


@pytest.mark.parametrize("exact", [True, False])
def test_loans_alarm_from_chunk_five_in_exactly_the_features_that_moved(exact):
    assert set(CAR_LOAN_FEATURES) == MOVED | STABLE
    reports = loans(exact=exact)
    assert [set(report.drifted) for report in reports] == [set()] * FIRST + [MOVED] * 5
    # Not by a hair: what moved lies well beyond the floor of 0.05, what did not well below it.
    for report in reports[FIRST:]:
        assert min(report[name].effect for name in MOVED) > 0.08
        assert max(report[name].effect for name in STABLE) < 0.025
    assert not any(report.inconclusive for report in reports)


def test_loans_state_one_fact_for_one_change():
    reference, analysis, _ = car_loan()
    events, heard = Stream(), []
    events.subscribe(DriftDetected, heard.append)
    detector = DriftDetector(reference[CAR_LOAN_FEATURES], events=events)
    for i in CHUNKS:
        detector.detect_drift(analysis[CAR_LOAN_FEATURES].iloc[5000 * i : 5000 * (i + 1)])
        assert len(heard) == (i >= FIRST)
    assert set(heard[0].effects) == MOVED


def test_loans_that_lose_values_and_gain_levels_say_so_from_chunk_five():
    reports = loans(dirty=True)
    worse = {"salary_range", "driver_tenure", "size_of_downpayment"}
    assert [set(report.drifted) for report in reports] == [set()] * FIRST + [MOVED | worse] * 5
    for i, report in enumerate(reports):
        late = DriftLevel.DRIFT if i >= FIRST else DriftLevel.NONE
        for name in ("salary_range", "driver_tenure"):
            assert levels(report, name, "missing") == [late]
        # A few unseen levels are there from the beginning: certain, and below one in a hundred.
        unseen = DriftLevel.DRIFT if i >= FIRST else DriftLevel.NEGLIGIBLE
        assert levels(report, "size_of_downpayment", "levels") == [unseen]
    assert "missing 10" in reports[FIRST]["salary_range"].reason
    # The values of the tenure that are there have not moved.
    assert levels(reports[FIRST], "driver_tenure", "distribution") == [DriftLevel.NONE]


def month(frame):
    return frame["DATE"].str[5:7].astype(int)


@pytest.mark.parametrize("by_day", [False, True])
def test_an_airline_is_gone_from_july_and_nothing_else_moves(by_day):
    earlier, later = flight_delays()
    names = ["AIRLINE", "AIR_TIME", "DISTANCE", "TAXI_OUT"]
    winter = earlier[month(earlier) <= 3]
    detector = watched(winter[names], blocks=list(winter["DATE"]) if by_day else None)
    reports = {}
    for at in range(4, 13):
        year = earlier if at <= 6 else later
        reports[at] = detector.detect_drift(year.loc[month(year) == at, names])
    assert {at: report.drifted for at, report in reports.items()} == {
        at: ("AIRLINE",) if at >= 7 else () for at in range(4, 13)
    }
    assert reports[7]["AIRLINE"].vanished_levels == ("US",)
    # Air times are certain to move with the seasons: the floor on the effect is what keeps quiet.
    told = [report["AIR_TIME"].level for report in reports.values()]
    assert DriftLevel.NEGLIGIBLE in told


def test_without_a_floor_the_seasons_of_air_times_would_alarm():
    earlier, later = flight_delays()
    detector = watched(earlier[["AIRLINE", "AIR_TIME"]], min_effect=0.0)
    july = later.loc[month(later) == 7, ["AIRLINE", "AIR_TIME"]]
    assert set(detector.detect_drift(july).drifted) == {"AIRLINE", "AIR_TIME"}


def test_every_new_destination_of_the_year_is_named():
    flights = nyc_flights()
    detector = watched(flights.loc[flights["month"] <= 2, ROUTES])
    strict = watched(detector.reference, min_new_levels=0.0005)
    seen = set()
    for at in range(3, 13):
        rows = flights.loc[flights["month"] == at, ROUTES]
        report = detector.detect_drift(rows)
        seen |= set(report["dest"].new_levels)
        # Rare ones: all of them together are less than one flight in a hundred.
        assert levels(report, "dest", "levels") == [DriftLevel.NEGLIGIBLE]
        assert report["carrier"].level is not DriftLevel.DRIFT
        assert levels(strict.detect_drift(rows), "dest", "levels") == [DriftLevel.DRIFT]
    assert seen == NEW


def february(detector):
    """The days of February on which a detector fitted on January alarms."""
    flights = nyc_flights()
    flights = flights[flights["month"] == 2]
    reports = {
        day: detector.detect_drift(flights.loc[flights["day"] == day, DELAYS])
        for day in range(1, 29)
    }
    return {day: report for day, report in reports.items() if report.drift_detected}


def test_counted_in_days_the_storm_is_all_that_alarms_in_february():
    flights = nyc_flights()
    january = flights[flights["month"] == 1]
    alarmed = february(watched(january[DELAYS], blocks=january["day"].to_numpy()))
    assert set(alarmed) == {8, 9}
    for report in alarmed.values():
        assert "missing" in report["dep_time"].reason
        (missing,) = (e for e in report["dep_time"].evidence if e.aspect == "missing")
        assert missing.level is DriftLevel.DRIFT
        assert 0.45 < missing.effect < 0.60
        assert {"dep_time", "dep_delay", "arr_delay", "air_time"} == set(report.drifted)


def test_counted_in_rows_the_weather_of_nearly_every_day_is_drift():
    flights = nyc_flights()
    alarmed = february(watched(flights.loc[flights["month"] == 1, DELAYS]))
    assert {8, 9} <= set(alarmed)
    assert len(alarmed) >= 25
