import json
import math

import numpy as np
import pytest

from prodml.drift import Calibration, DriftMonitor, Reference, calibrate
from prodml.errors import BadConfiguration
from prodml.events import Stream

DAYS, ROWS = 40, 60


def lumpy(seed=0, share=0.4, days=DAYS):
    """Rows of a day share its weather; ``calm`` ones do not; ``off`` is missing by the day."""
    rng = np.random.default_rng(seed)
    n = days * ROWS
    weather = np.repeat(rng.normal(size=days), ROWS)
    down = np.repeat(rng.random(days) < 0.15, ROWS) & (rng.random(n) < 0.5)
    return {
        "wind": np.sqrt(share) * weather + np.sqrt(1 - share) * rng.normal(size=n),
        "calm": rng.normal(size=n),
        "off": np.where(down, np.nan, rng.normal(size=n)),
        "sky": np.where(weather + rng.normal(size=n) > 0, "grey", "blue"),
    }


DAY = np.repeat(np.arange(DAYS), ROWS)


@pytest.fixture(scope="module")
def found():
    return calibrate(lumpy(), blocks=[f"day {d}" for d in DAY])


def test_rows_that_share_their_day_count_for_less(found):
    assert (found.days, found.rows_per_day) == (DAYS, ROWS)
    assert found.design["wind"]["distribution"] > 10
    assert found.design["sky"]["distribution"] > 10
    assert found.design["calm"]["distribution"] < 3
    assert found.design["off"]["missing"] > 10


def test_it_says_what_the_reference_s_own_days_would_have_done(found):
    assert found.alarmed_as_rows["wind"] > 0.5
    assert found.alarmed_as_rows["off"] > 0.0
    assert found.alarmed_as_rows["calm"] == 0.0
    assert set(found.alarmed.values()) == {0.0}
    assert found.unsettled == ()
    assert "wind" in str(found)
    assert f"{DAYS} days" in str(found)


def test_it_says_what_can_be_seen_and_the_monitor_sees_it(found):
    for seen in found.visible.values():
        shares = [x for x in seen.values() if not math.isnan(x)]
        assert shares == sorted(shares, reverse=True)
        assert all(0.0 < share < 1.0 for share in shares)
    assert found.visible["calm"][7] < found.visible["wind"][30]
    # A shift as large as is said to be found in seven days is found in about seven days.
    effect, delays = found.visible["calm"][7], []
    from scipy.stats import norm

    shift = 2 * norm.ppf(0.5 + effect / 2)
    for seed in range(3):
        rng = np.random.default_rng(seed + 100)
        monitor = DriftMonitor(lumpy(seed), calibration=found, events=Stream(), order=False)
        for day in range(25):
            batch = {name: raw[:ROWS] for name, raw in lumpy(seed + 50 + day, days=1).items()}
            batch["calm"] = rng.normal(size=ROWS) + shift
            if "calm" in monitor.check(batch, at=day * 86400.0).drifted:
                delays.append(day + 1)
                break
    assert len(delays) == 3
    assert 2 <= np.median(delays) <= 14


def test_a_monitor_with_blocks_calibrates_itself_and_weather_does_not_alarm(found):
    monitor = DriftMonitor(lumpy(), blocks=DAY, events=Stream(), order=False)
    assert monitor.calibration.to_dict() == found.to_dict()
    plain = DriftMonitor(lumpy(), events=Stream(), order=False)
    alarms = [0, 0]
    for day in range(20):
        batch = lumpy(seed=200 + day, days=1)
        for place, one in enumerate((monitor, plain)):
            alarms[place] += one.check(batch, at=day * 86400.0).drift_detected
    assert alarms[0] == 0
    assert alarms[1] > 8


def test_a_reference_that_moves_itself_is_named():
    trend = np.repeat(np.arange(DAYS) * 0.5, ROWS) + np.random.default_rng(0).normal(size=len(DAY))
    found = calibrate({"age of the fleet": trend}, blocks=DAY)
    assert found.factors["age of the fleet"] > 1.0 or found.unsettled == ("age of the fleet",)
    still = calibrate({"x": np.random.default_rng(0).normal(size=len(DAY))}, blocks=DAY)
    assert still.factors == {"x": 1.0}
    assert still.alarmed_as_rows == {"x": 0.0}


def test_seasons_take_out_what_they_explain():
    rng = np.random.default_rng(0)
    days = 70
    day = np.repeat(np.arange(days), 60)
    weekend = np.where(day % 7 >= 5, "weekend", "week")
    x = rng.normal(size=len(day)) + 2.0 * (weekend == "weekend")
    plain = calibrate({"x": x}, blocks=day)
    matched = calibrate({"x": x}, blocks=day, seasonal=weekend)
    assert matched.design["x"]["distribution"] < plain.design["x"]["distribution"] / 3
    assert matched.visible["x"][7] < 0.2


def test_it_survives_json(found):
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.design == found.design
    assert str(again) == str(found)
    monitor = DriftMonitor(lumpy(), calibration=again, events=Stream())
    assert not monitor.check(lumpy(seed=9, days=1)).drift_detected


def test_a_column_that_cannot_be_watched_is_calibrated_as_such():
    n = 20 * 50
    found = calibrate(
        {"id": [f"r{i}" for i in range(n)], "none": [None] * n, "one": [1.0] * n},
        blocks=np.repeat(np.arange(20), 50),
    )
    assert math.isnan(found.visible["id"][7])
    assert found.alarmed == {"id": 0.0, "none": 0.0, "one": 0.0}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"blocks": [0] * 100}, "at least 10 different labels"),
        ({"blocks": list(range(20)) * 4}, "labels"),
        ({"folds": 1}, "folds"),
        ({"false_alarms": "seldom"}, "false_alarms"),
        ({"every": "often"}, "every"),
        ({"seasonal": ["a"] * 7}, "7"),
    ],
)
def test_what_is_wrong_is_named(settings, told):
    blocks = list(range(20)) * 5
    with pytest.raises(BadConfiguration, match=told):
        calibrate({"x": [float(i % 13) for i in range(100)]}, **({"blocks": blocks} | settings))


def test_a_fitted_reference_has_no_days():
    with pytest.raises(BadConfiguration, match="give the data itself"):
        calibrate(Reference.fit({"x": [1.0] * 100}), blocks=list(range(20)) * 5)
    with pytest.raises(BadConfiguration, match="give one of them"):
        DriftMonitor(lumpy(), blocks=DAY, calibration=calibrate({"x": [1.0] * 2400}, blocks=DAY))
