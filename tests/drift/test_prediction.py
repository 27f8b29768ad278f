import math
import threading
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.drift import DriftLevel, PredictionDrift, PredictionDriftMonitor
from prodml.drift.prediction_evidence import at_every_look
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
    assert "within what chance explains" in result.reason
    assert result.aspect == "location"


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


@pytest.mark.parametrize("baseline", [[], [0.5]])
def test_a_baseline_of_nothing_is_refused(baseline):
    with pytest.raises(BadConfiguration, match=f"at least 2 predictions, not {len(baseline)}"):
        PredictionDriftMonitor().set_baseline(baseline)


@pytest.mark.parametrize("baseline", [[math.nan] * 100, [1e300, -1e300], [None, "spam"]])
def test_a_baseline_without_a_finite_number_is_a_finding(baseline):
    result = monitor_of([0.5] * 100, baseline=baseline).check_drift()
    assert result.level is DriftLevel.INCONCLUSIVE
    assert result.reason == "the baseline has no finite number"


def test_what_differs_from_a_constant_baseline_is_drift():
    baseline = [0.5] * 1000
    assert monitor_of([0.5] * 200, baseline=baseline).check_drift().level is DriftLevel.NONE
    for other in (0.5 + 1e-12, -3.0):
        result = monitor_of([other] * 200, baseline=baseline).check_drift()
        assert result
        assert result.shift == math.copysign(math.inf, other - 0.5)
    few = monitor_of([0.5] * 199 + [0.6], baseline=baseline).check_drift()
    assert few.level is DriftLevel.NONE


def test_a_wider_or_narrower_spread_at_the_same_mean_is_drift():
    rng = np.random.default_rng(9)
    for factor, word in ((1.5, "wider"), (0.6, "narrower")):
        result = monitor_of(rng.normal(0.3, 0.1 * factor, 1000), window=1000).check_drift()
        assert (result.level, result.aspect) == (DriftLevel.DRIFT, "spread")
        assert word in result.reason
        assert result.spread == pytest.approx(factor, rel=0.1)


def test_another_shape_of_the_same_mean_and_deviation_is_drift():
    rng = np.random.default_rng(10)
    two = 0.3 + 0.1 * rng.choice([-1.0, 1.0], 1000) + rng.normal(0, 0.001, 1000)
    result = monitor_of(two, window=1000).check_drift()
    assert abs(result.shift) < 0.1
    assert (result.level, result.aspect) == (DriftLevel.DRIFT, "shape")
    assert "other quantiles" in result.reason


def test_values_outside_of_the_range_are_drift_when_they_pile_up():
    rng = np.random.default_rng(11)
    values = rng.normal(0.3, 0.1, 1000)
    values[::40] = rng.choice([-9.0, 9.0], 25)
    result = monitor_of(values, window=1000, min_spread=10.0).check_drift()
    assert (result.level, result.aspect) == (DriftLevel.DRIFT, "range")
    assert "lie outside of" in result.reason
    assert not monitor_of(values[:60], window=1000, min_spread=10.0).check_drift()


def test_one_huge_outlier_neither_alarms_nor_hides_an_alarm():
    rng = np.random.default_rng(12)
    calm = [*rng.normal(0.3, 0.1, 999), 1e9]
    assert not monitor_of(calm, window=1000).check_drift()
    assert monitor_of([*rng.normal(0.4, 0.1, 999), 1e9], window=1000).check_drift()
    baseline = [*rng.normal(0.3, 0.1, 4999), 1e9]
    # Its standard deviation is that of the outlier: no shift is large, but the spread says it.
    assert monitor_of(rng.normal(0.9, 0.1, 1000), window=1000, baseline=baseline).check_drift()


def test_predictions_leave_by_age():
    clock = ManualClock()
    monitor = monitor_of(window=1000, window_seconds=60.0, clock=clock)
    feed(monitor, [0.9] * 50)
    clock.advance(30.0)
    feed(monitor, [0.5] * 40)
    clock.advance(30.0)
    assert monitor.get_statistics()["count"] == 40
    clock.advance(29.9)
    assert monitor.get_statistics()["count"] == 40
    clock.advance(0.1)
    assert monitor.get_statistics()["count"] == 0
    assert monitor.check_drift().level is DriftLevel.INCONCLUSIVE


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, math.nan, 7.5]), st.floats(0, 20)), max_size=60),
    st.integers(2, 30),
)
def test_a_window_by_count_and_time_is_the_last_that_are_young(steps, window):
    clock, monitor, model = ManualClock(), None, []
    monitor = PredictionDriftMonitor(window, window_seconds=50.0, clock=clock, events=Stream())
    for value, wait in steps:
        monitor.add_prediction(value)
        model.append((value, clock.monotonic()))
        clock.advance(wait)
        young = [v for v, at in model[-window:] if clock.monotonic() - at < 50.0]
        found = monitor.get_statistics()
        assert found["count"] == sum(map(math.isfinite, young))
        assert found["invalid"] == sum(map(math.isnan, young))


@pytest.mark.parametrize("steps", [[4096 * 3 + 7], [1, 4095, 1, 5000], [100] * 90])
def test_batches_do_not_show(steps):
    rng = np.random.default_rng(13)
    monitor, fed = monitor_of(window=700), []
    for count in steps:
        values = np.where(rng.random(count) < 0.1, np.nan, rng.normal(0.3, 0.1, count)).tolist()
        feed(monitor, values)
        fed += values
        last = np.array(fed[-700:])
        finite = last[np.isfinite(last)]
        found = monitor.get_statistics()
        assert (found["count"], found["invalid"]) == (len(finite), len(last) - len(finite))
        assert found["mean"] == pytest.approx(finite.mean())
        cells = monitor._baseline.cells(last)
        assert monitor._cells.tolist() == cells.tolist()


def test_a_baseline_set_late_sees_the_whole_window():
    monitor = PredictionDriftMonitor(100, events=Stream())
    feed(monitor, [0.9] * 60 + [math.nan] * 10)
    monitor.set_baseline(np.random.default_rng(0).normal(0.3, 0.1, 5000))
    result = monitor.check_drift()
    assert (result.count, result.invalid, result.aspect) == (60, 10, "invalid")
    monitor.set_baseline([0.9, 0.9, math.nan] * 500)
    assert not monitor.check_drift()


def test_every_look_is_paid_for():
    p = [at_every_look(1e-8, lengths) for lengths in (1.0, 10.0, 100.0)]
    assert p[0] >= 8e-8
    assert p[1] == pytest.approx(p[0] * 55)
    assert p[2] == pytest.approx(p[0] * 5050)
    assert at_every_look(0.0, 1.0) == 0.0
    assert at_every_look(1.0, 1.0) == 1.0


def test_asking_at_every_prediction_costs_little_more_than_asking_once():
    values = np.random.default_rng(14).normal(0.33, 0.1, 2000).tolist()
    often, once = monitor_of(window=500), monitor_of(window=500)
    for value in values:
        often.add_prediction(value)
        last = often.check_drift()
    feed(once, values)
    assert once.check_drift().p_once == last.p_once
    # Eleven lengths are paid for, the window filling up included, and two of a single look.
    assert once.check_drift().p_value <= last.p_value <= 50.0 * once.check_drift().p_value


def test_a_result_is_ready_for_json():
    import json

    kept = json.loads(json.dumps(monitor_of().check_drift().to_dict(), allow_nan=False))
    assert kept["shift"] is None
    assert kept["level"] == "inconclusive"


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
        {"max_outside": -0.1},
        {"min_shape": 2.0},
        {"min_spread": math.nan},
        {"window_seconds": 0.0},
        {"window_seconds": math.inf},
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
    feed(monitor, np.random.default_rng(1).normal(0.3, 0.1, 200))
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


LOOKS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(0.0, 1.5, n),
    "rare": lambda rng, n: (rng.random(n) < 0.02) * 1.0,
    "missing": lambda rng, n: np.where(rng.random(n) < 0.05, np.nan, rng.random(n)),
    "constant": lambda _, n: np.ones(n),
}


def ever_alarmed(draw, rng, *, window, baseline, checks, alpha):
    # Without floors the evidence is on its own.
    floors = {"threshold": 0.0, "min_spread": 0.0, "max_outside": 0.0, "max_invalid": 0.0}
    floors["min_shape"] = 0.0
    monitor = PredictionDriftMonitor(window, alpha=alpha, events=Stream(), **floors)
    monitor.set_baseline(draw(rng, baseline))
    for _ in range(checks):
        feed(monitor, draw(rng, window // 4).tolist())
        if monitor.check_drift():
            return True
    return False


@pytest.mark.parametrize("draw", LOOKS.values(), ids=LOOKS)
def test_thirty_looks_without_drift_hardly_ever_alarm(draw):
    rng = np.random.default_rng(4)
    settings = {"window": 400, "baseline": 2000, "checks": 30, "alpha": 0.05}
    # The lecture's monitor alarmed in 35 of a hundred.
    assert sum(ever_alarmed(draw, rng, **settings) for _ in range(25)) <= 4


@pytest.mark.soak
@pytest.mark.parametrize("draw", LOOKS.values(), ids=LOOKS)
def test_a_thousand_looks_keep_the_level(draw):
    rng = np.random.default_rng(5)
    settings = {"window": 400, "baseline": 2000, "checks": 1000, "alpha": 0.05}
    alarms = sum(ever_alarmed(draw, rng, **settings) for _ in range(100))
    assert alarms <= 5 + 2 * math.sqrt(5)


def test_a_window_that_empties_between_looks_does_not_use_up_the_evidence():
    rng, clock = np.random.default_rng(3), ManualClock()
    monitor = monitor_of(window=1000, window_seconds=60.0, clock=clock)
    for _ in range(100):
        feed(monitor, rng.normal(0.3, 0.1, 500).tolist())
        clock.advance(3600.0)
        assert monitor.check_drift().level is DriftLevel.INCONCLUSIVE
    feed(monitor, rng.normal(0.33, 0.1, 500).tolist())
    result = monitor.check_drift()
    # A hundred looks are paid for; counted by values they were fifty thousand lengths.
    assert result.p_value <= 1e7 * result.p_once
    assert result.drift_detected


def test_a_window_that_drains_is_paid_for_as_one_that_fills():
    rng, clock = np.random.default_rng(4), ManualClock()
    monitor = monitor_of(window=1000, window_seconds=100.0, clock=clock)
    for value in rng.normal(0.3, 0.1, 200).tolist():
        monitor.add_prediction(value)
        clock.advance(0.25)
    monitor.check_drift()
    before = monitor._lengths
    for _ in range(150):
        clock.advance(1.0)
        monitor.check_drift()
    assert before + 3.0 < monitor._lengths < before + 12.0


def test_one_finite_answer_in_the_baseline_proves_nothing_and_gives_numbers():
    monitor = monitor_of([0.5 + i / 1000 for i in range(200)], baseline=[0.3, math.nan])
    result = monitor.check_drift()
    assert not result.drift_detected
    assert 0.0 < result.p_once <= result.p_value <= 1.0


@pytest.mark.parametrize("known", [50, 200])
def test_a_few_bad_answers_in_a_small_baseline_are_no_surprise(known):
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(100):
        values = rng.normal(size=known + 1000)
        values[rng.random(len(values)) < 0.05] = math.nan
        monitor = monitor_of(values[known:].tolist(), window=1000, baseline=values[:known])
        alarms += monitor.check_drift().aspect == "invalid"
    assert alarms <= 1
    feed(monitor, [math.nan] * 300)
    assert monitor.check_drift().aspect == "invalid"


def test_no_prediction_raises():
    class Stubborn:
        def __float__(self):
            raise RuntimeError("not a number")

    monitor = PredictionDriftMonitor()
    feed(monitor, [Stubborn(), Decimal("sNaN"), 10**400, "x", [1.0]])
    assert monitor.get_statistics()["invalid"] == 5
    with pytest.raises(BadConfiguration, match="not None"):
        monitor.set_baseline(None)


def test_answers_of_one_number_are_numbers():
    answers = np.random.default_rng(1).normal(0.3, 0.1, (500, 1))
    monitor = monitor_of(baseline=answers)
    assert monitor.get_statistics()["baseline_mean"] == pytest.approx(answers.mean())
    feed(monitor, [np.array([0.25]), np.array([[0.25]]), np.array([0.1, 0.9])])
    found = monitor.get_statistics()
    assert (found["count"], found["invalid"], found["mean"]) == (2, 1, 0.25)
    assert isinstance(monitor.check_drift(), PredictionDrift)


@pytest.mark.parametrize("unit", [1e-90, 1e-12, 1e12, 1e90])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_units_and_offsets_do_not_matter(unit, offset):
    rng = np.random.default_rng(2)
    baseline, later = rng.normal(size=3000), rng.normal(0.5, 1.0, 300)
    plain = monitor_of(later, baseline=baseline).check_drift()
    other = monitor_of(unit * later + unit * offset, baseline=unit * baseline + unit * offset)
    found = other.check_drift()
    assert (found.level, found.aspect) == (plain.level, plain.aspect)
    assert found.shift == pytest.approx(plain.shift, rel=1e-5)
    assert found.p_once == pytest.approx(plain.p_once, rel=1e-9)


def test_memory_is_that_of_the_window():
    clock = ManualClock()
    monitor = monitor_of(window=500, window_seconds=60.0, clock=clock)
    for _ in range(4):
        feed(monitor, [0.3] * 20_000)
        clock.advance(1.0)
    held = len(monitor._window.values()) + len(monitor._incoming) + len(monitor._stamps)
    assert held <= 500 + 2 * 4096
    assert monitor.get_statistics()["count"] == 500


@pytest.mark.parametrize("size", [3, 5, 10, 20, 60])
def test_a_small_baseline_is_no_reason_to_alarm(size):
    draws = (
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: rng.beta(0.5, 0.5, n),
        lambda rng, n: np.round(rng.normal(size=n)),
        lambda rng, n: rng.standard_cauchy(n),
    )
    alarms = []
    for draw in draws:
        rng = np.random.default_rng(21)
        for _ in range(50):
            monitor = monitor_of(draw(rng, 200), baseline=draw(rng, size))
            alarms.append(bool(monitor.check_drift()))
    # The level is one in a hundred; of baselines of 5, a third alarmed.
    assert sum(alarms) <= 6
    shifted = np.random.default_rng(22).normal(9.0, 1.0, 200)
    baseline = np.random.default_rng(23).normal(size=size)
    assert size < 10 or monitor_of(shifted, baseline=baseline).check_drift()
