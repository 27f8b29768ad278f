import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.retraining import (
    DataGrowth,
    Drift,
    Novelty,
    Performance,
    Schedule,
    Situation,
    TriggerType,
)

DAY = 86400.0


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def now(time=0.0, trained=0.0, **metrics):
    return Situation(now=time, trained_at=trained, metrics=metrics)


@pytest.mark.parametrize(
    ("trigger", "metrics", "kind"),
    [
        (Performance(below=0.8), {"accuracy": 0.79}, TriggerType.PERFORMANCE_DEGRADATION),
        (Drift(above=0.05), {"drift_score": 0.06}, TriggerType.DATA_DRIFT),
        (Novelty(above=0.3), {"novelty": 0.31}, TriggerType.NOVELTY),
    ],
)
def test_a_metric_beyond_its_limit_fires_with_its_numbers(trigger, metrics, kind):
    firing = trigger.firing(now(**metrics))
    assert firing.type is kind
    assert firing.evidence["value"] == next(iter(metrics.values()))


@pytest.mark.parametrize(
    ("trigger", "metrics"),
    [
        (Performance(below=0.8), {"accuracy": 0.8}),
        (Drift(above=0.05), {"drift_score": 0.05}),
        (Novelty(above=0.3), {"novelty": 0.0}),
    ],
)
def test_a_metric_at_its_limit_does_not(trigger, metrics):
    assert trigger.firing(now(**metrics)) is None


def test_a_metric_that_is_nan_is_no_good_news():
    assert Performance().firing(now(accuracy=math.nan)) is not None
    assert Drift().firing(now(drift_score=math.nan)) is not None


def test_too_few_labels_are_not_believed():
    trigger = Performance(minimum_labels=100)
    assert trigger.needs == ("accuracy", "labels")
    assert trigger.firing(now(accuracy=0.1, labels=99)) is None
    assert trigger.firing(now(accuracy=0.1, labels=100)) is not None


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(1.01, 10))
def test_growth_fires_exactly_when_data_grew_by_the_factor(before, value, factor):
    situation = Situation(
        now=0.0, trained_at=0.0, metrics={"labels": value}, trained_on={"labels": before}
    )
    fired = DataGrowth(factor=factor).firing(situation) is not None
    assert fired == (value > 0 and value >= factor * before)


def test_the_first_rows_are_growth_from_nothing():
    assert DataGrowth().firing(now(labels=1.0)).type is TriggerType.DATA_GROWTH


def test_an_interval_counts_from_the_last_training():
    weekly = Schedule(every=7 * DAY)
    assert weekly.firing(now(6.99 * DAY)) is None
    assert weekly.firing(now(7 * DAY)).type is TriggerType.SCHEDULED
    assert weekly.firing(now(9 * DAY, trained=5 * DAY)) is None


def test_however_many_times_were_missed_cron_fires_once():
    mondays = Schedule(cron="0 3 * * 1")
    late, trained = at("2024-03-27T12:00"), at("2024-01-03T00:00")
    assert mondays.firing(now(late, trained)) is not None
    assert mondays.firing(now(late, late)) is None
    assert mondays.firing(now(at("2024-04-01T02:59"), late)) is None
    assert mondays.firing(now(at("2024-04-01T03:00"), late)) is not None


def test_cron_follows_the_clocks_of_its_zone():
    # 03:00 in Oslo is 02:00 UTC in winter and 01:00 UTC in summer.
    nightly = Schedule(cron="0 3 * * *", timezone="Europe/Oslo")
    winter, summer = at("2024-01-15T00:00"), at("2024-07-15T00:00")
    assert nightly.firing(now(winter + 2 * 3600 - 1, winter)) is None
    assert nightly.firing(now(winter + 2 * 3600, winter)) is not None
    assert nightly.firing(now(summer + 3600 - 1, summer)) is None
    assert nightly.firing(now(summer + 3600, summer)) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"every": 1.0, "cron": "* * * * *"},
        {"every": 0},
        {"cron": "every monday"},
        {"cron": "0 3 * * *", "timezone": "Mars/Base"},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadConfiguration):
        Schedule(**wrong)


def test_a_factor_that_cannot_be_reached_is_refused():
    with pytest.raises(BadConfiguration, match="factor"):
        DataGrowth(factor=1.0)
