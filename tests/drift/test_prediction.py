import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.drift import DriftLevel, PredictionDriftMonitor
from prodml.errors import BadConfiguration
from prodml.events import PredictionDriftDetected, PredictionServed, Stream
from prodml.testing import ManualClock
from prodml.types import Prediction


def monitor_of(values=(), *, window=200, baseline=None, **settings):
    monitor = PredictionDriftMonitor(window, events=settings.pop("events", Stream()), **settings)
    normal = np.random.default_rng(0).normal(0.3, 0.1, size=5000)
    monitor.set_baseline(normal if baseline is None else baseline)
    feed(monitor, values)
    return monitor


def feed(monitor, values):
    for value in values:
        monitor.add_prediction(value)


def served(value):
    return PredictionServed(at=0.0, source="api", prediction=Prediction(value, "r"), features={})


def test_cached_copies_are_left_out_unless_asked_for():
    copy = PredictionServed(
        at=0.0, source="api", prediction=Prediction(0.25, "r", cached=True), features={}
    )
    counts = []
    for settings in ({"skip_cached": False}, {}):
        monitor = monitor_of(**settings)
        for event in (served(0.25), copy, copy):
            monitor.observe(event)
        counts.append(monitor.get_statistics()["count"])
    assert counts == [3, 1]


def heard_by(stream):
    heard = []
    stream.subscribe(PredictionDriftDetected, heard.append)
    return heard


def test_the_same_distribution_is_no_drift():
    values = np.random.default_rng(1).normal(0.3, 0.1, size=1000)
    result = monitor_of(values, window=1000).check_drift(threshold=0.1)
    assert not result
    assert abs(result.shift) < 4 * result.standard_error


def test_a_shift_is_drift_with_its_numbers():
    result = monitor_of([0.5] * 200).check_drift(threshold=0.1)
    assert result.level is DriftLevel.DRIFT
    assert result.shift == pytest.approx(2.0, abs=0.05)
    assert result.threshold == 0.1
    assert "mean 0.2995" in result.reason
    assert "-> 0.5" in result.reason


def test_a_drop_counts_as_much_as_a_rise():
    result = monitor_of([0.1] * 200).check_drift()
    assert result
    assert result.shift < 0


def test_a_shift_within_the_sampling_error_of_the_window_is_no_alarm():
    baseline = [0.0, 1.0] * 500
    result = monitor_of([0.0, 1.0] * 14 + [1.0] * 6, window=40, baseline=baseline).check_drift(0.1)
    assert result.shift > 0.1
    assert result.level is DriftLevel.NONE
    assert "within the sampling error" in result.reason


def test_a_certain_but_small_shift_is_negligible():
    baseline = [0.0, 1.0] * 10_000
    values = [0.0, 1.0] * 9_000 + [1.0] * 1_000
    result = monitor_of(values, window=20_000, baseline=baseline).check_drift(threshold=0.2)
    assert result.level is DriftLevel.NEGLIGIBLE
    assert not result


def test_a_short_baseline_widens_the_sampling_error():
    long, short = (
        monitor_of([0.5] * 100, baseline=[0.0, 1.0] * size).check_drift() for size in (5000, 5)
    )
    assert short.standard_error == pytest.approx(math.sqrt(1 / 100 + 1 / 10))
    assert long.standard_error < short.standard_error


def test_too_few_predictions_are_inconclusive():
    result = monitor_of([5.0] * 29).check_drift()
    assert result.level is DriftLevel.INCONCLUSIVE
    assert not result
    assert "29 predictions" in result.reason


def test_an_empty_window_is_inconclusive():
    assert monitor_of().check_drift().level is DriftLevel.INCONCLUSIVE


def test_old_predictions_leave_the_window():
    monitor = monitor_of([0.9] * 200)
    assert monitor.check_drift()
    feed(monitor, np.random.default_rng(2).normal(0.3, 0.1, size=200))
    assert not monitor.check_drift()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "spam", [0.1, 0.9], 10**400])
def test_answers_that_are_no_finite_number_are_drift_when_they_pile_up(bad):
    monitor = monitor_of(np.random.default_rng(3).normal(0.3, 0.1, size=190))
    feed(monitor, [bad] * 4)
    assert not monitor.check_drift()
    feed(monitor, [bad] * 4)
    result = monitor.check_drift()
    assert result
    assert result.invalid == 8
    assert "no finite number" in result.reason


def test_one_nan_does_not_hide_a_shift():
    assert monitor_of([*[0.9] * 100, math.nan, *[0.9] * 99]).check_drift()


def test_bad_answers_that_the_baseline_had_too_are_no_news():
    baseline = [0.0, 1.0, math.nan] * 1000
    assert not monitor_of([0.0, 1.0, math.nan] * 66, baseline=baseline).check_drift()


def test_bad_answers_leave_the_window_too():
    monitor = monitor_of([math.nan] * 50 + [0.3] * 200)
    assert monitor.get_statistics()["invalid"] == 0
    assert monitor.get_statistics()["count"] == 200


def test_a_missing_baseline_is_an_error_with_a_name():
    with pytest.raises(BadConfiguration, match="set_baseline"):
        PredictionDriftMonitor().check_drift()


@pytest.mark.parametrize(
    ("baseline", "told"),
    [
        ([], "at least 2 finite predictions, not 0 of 0"),
        ([0.1, math.nan], "not 1 of 2"),
        ([0.5] * 9, "all of its 9 finite predictions are 0.5"),
        ([1e300, -1e300], "must vary"),
    ],
)
def test_a_baseline_that_gives_no_unit_is_refused(baseline, told):
    with pytest.raises(BadConfiguration, match=told):
        PredictionDriftMonitor().set_baseline(baseline)


@pytest.mark.parametrize(
    "settings",
    [
        {"window_size": 1},
        {"window_size": 10.5},
        {"min_samples": 0},
        {"check_every": 0},
        {"alpha": 0.0},
        {"alpha": math.nan},
        {"threshold": -0.1},
        {"threshold": math.inf},
        {"max_invalid": 1.5},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings):
    with pytest.raises(BadConfiguration, match=next(iter(settings))):
        PredictionDriftMonitor(**settings)


def test_a_threshold_of_a_check_must_be_a_number():
    with pytest.raises(BadConfiguration, match="threshold"):
        monitor_of().check_drift(threshold=math.nan)


def test_a_window_smaller_than_the_sample_floor_lowers_the_floor():
    assert monitor_of([0.9] * 10, window=10).check_drift().level is DriftLevel.DRIFT


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60), st.integers(2, 20))
def test_statistics_are_those_of_the_window(values, window):
    found, last = monitor_of(values, window=window).get_statistics(), np.array(values[-window:])
    scale = np.abs(last).max() or 1.0
    assert found["count"] == len(last)
    assert (found["min"], found["max"]) == (last.min(), last.max())
    assert found["mean"] == pytest.approx(last.mean(), rel=1e-9, abs=1e-12 * scale)
    assert found["std"] == pytest.approx(last.std(ddof=1), rel=1e-6, abs=1e-7 * scale)


def test_statistics_name_the_baseline():
    found = monitor_of(baseline=[1.0, 2.0, 3.0]).get_statistics()
    assert (found["baseline_mean"], found["baseline_std"]) == (2.0, 1.0)


def test_statistics_of_nothing_are_nan_and_never_raise():
    found = PredictionDriftMonitor().get_statistics()
    assert found["count"] == 0
    assert all(math.isnan(found[k]) for k in ("mean", "std", "min", "max", "baseline_mean"))


def test_drift_is_stated_once_until_it_has_gone():
    stream, clock = Stream(), ManualClock()
    heard = heard_by(stream)
    monitor = monitor_of([0.9] * 200, events=stream, clock=clock, name="score")
    monitor.check_drift()
    monitor.check_drift()
    assert [(fact.source, fact.at) for fact in heard] == [("score", clock.time())]
    assert heard[0].shift > 5
    feed(monitor, [0.2, 0.4] * 100)
    monitor.check_drift()
    feed(monitor, [0.9] * 200)
    monitor.check_drift()
    assert len(heard) == 2


def test_too_little_data_does_not_end_an_alarm():
    stream = Stream()
    heard = heard_by(stream)
    monitor = monitor_of([0.9] * 200, events=stream, max_invalid=1.0)
    monitor.check_drift()
    feed(monitor, [math.nan] * 199)
    assert monitor.check_drift().level is DriftLevel.INCONCLUSIVE
    feed(monitor, [0.9] * 200)
    monitor.check_drift()
    assert len(heard) == 1


def test_a_new_baseline_ends_an_alarm():
    stream = Stream()
    heard = heard_by(stream)
    monitor = monitor_of([0.9] * 200, events=stream)
    monitor.check_drift()
    monitor.set_baseline([0.2, 0.4] * 50)
    monitor.check_drift()
    assert len(heard) == 2


def test_served_predictions_are_heard_and_checked_by_themselves():
    stream = Stream()
    heard = heard_by(stream)
    monitor = monitor_of(events=stream, check_every=50)
    stream.subscribe(PredictionServed, monitor.observe)
    for _ in range(49):
        stream.emit(served(0.9))
    assert heard == []
    stream.emit(served(0.9))
    assert len(heard) == 1


def test_listening_without_a_baseline_collects_and_never_fails():
    stream, monitor = Stream(), PredictionDriftMonitor(100, check_every=1)
    stream.subscribe(PredictionServed, monitor.observe)
    stream.emit(served(0.5))
    assert stream.failures == 0
    assert monitor.get_statistics()["count"] == 1


def test_the_number_can_be_taken_out_of_an_answer():
    monitor = PredictionDriftMonitor(value=lambda answer: answer["score"])
    monitor.observe(served({"score": 0.25}))
    monitor.observe(served({"class": "spam"}))
    found = monitor.get_statistics()
    assert (found["mean"], found["invalid"]) == (0.25, 1)


def test_threads_lose_no_prediction():
    monitor = monitor_of(window=5000)
    feeders = [threading.Thread(target=feed, args=(monitor, [float(i)] * 1000)) for i in range(4)]
    for thread in feeders:
        thread.start()
    for thread in feeders:
        thread.join()
    found = monitor.get_statistics()
    assert (found["count"], found["mean"]) == (4000, pytest.approx(1.5))


@pytest.mark.parametrize("window", [200, 1000])
def test_thirty_checks_without_drift_seldom_alarm(window):
    rng, alarms = np.random.default_rng(4), 0
    for _ in range(20):
        monitor = monitor_of(window=window, baseline=rng.normal(size=5000))
        for _ in range(30):
            feed(monitor, rng.normal(size=window // 5).tolist())
            alarms += bool(monitor.check_drift())
    # 600 dependent checks at a level of 0.001.
    assert alarms <= 6
