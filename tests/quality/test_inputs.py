"""Estimates and late labels on inputs that nobody would choose."""

import json
import math

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.isotonic import IsotonicRegression

from prodml._settings import retune
from prodml.errors import BadConfiguration
from prodml.events import Stream
from prodml.quality import Bias, PerformanceEstimator
from prodml.quality.calibration import isotonic
from prodml.types import DriftLevel
from tests.quality.test_estimator import BINARY, fitted, noisy, scored

# -- which column is which class --------------------------------------------------------


def test_the_positive_class_is_its_column_and_not_only_its_label():
    p, y = scored(0, 4000)
    words = np.where(y == 1, "bad", "good")
    new = scored(1, 500)[0]
    both = np.column_stack((1 - p, p))
    # Sorted labels: bad, good; the columns of the matrix are in that order.
    sheet, today = both[:, ::-1], np.column_stack((new, 1 - new))
    for positive, score, label in (("bad", p, y), ("good", 1 - p, 1 - y)):
        plain = PerformanceEstimator(metrics=("recall", "auc"), events=Stream()).fit(score, label)
        named = PerformanceEstimator(
            metrics=("recall", "auc"), positive=positive, events=Stream()
        ).fit(sheet, words)
        wanted = plain.estimate(new if positive == "bad" else 1 - new)
        found = named.estimate(today)
        for name in ("recall", "auc"):
            assert found[name].reference == pytest.approx(wanted[name].reference)
            assert found[name].value == pytest.approx(wanted[name].value)


def test_the_order_of_classes_that_is_given_stays_when_one_is_positive():
    p, y = scored(0, 4000)
    words = np.where(y == 1, "yes", "no")
    estimator = PerformanceEstimator(
        metrics=("auc",), classes=("yes", "no"), positive="yes", events=Stream()
    ).fit(np.column_stack((p, 1 - p)), words)
    new = scored(1, 500)[0]
    expected = fitted(("auc",), n=4000).estimate(new)["auc"]
    found = estimator.estimate(np.column_stack((new, 1 - new)))["auc"]
    assert found.reference == pytest.approx(expected.reference)
    assert found.value == pytest.approx(expected.value)


def test_a_label_that_is_none_of_the_classes_is_refused_in_a_reference():
    p, y = scored(0, 1000)
    words = np.where(y == 1, "yes", "no").tolist()
    words[7] = "maybe"
    with pytest.raises(BadConfiguration, match="maybe"):
        PerformanceEstimator(classes=("no", "yes")).fit(p, words)
    with pytest.raises(BadConfiguration, match="classes"):
        PerformanceEstimator(classes=("yes", "yes")).fit(p, words)
    with pytest.raises(BadConfiguration, match="classes"):
        PerformanceEstimator(classes=(["yes"], ["no"])).fit(p, words)
    with pytest.raises(BadConfiguration, match="reference"):
        PerformanceEstimator().fit(p, None)


# -- ids --------------------------------------------------------------------------------


def test_a_row_without_an_id_waits_for_no_label():
    estimator = fitted(("accuracy",))
    report = estimator.estimate([0.9] * 4, ids=["a", None, math.nan, None])
    assert report.rows == 4
    late = estimator.settle([None, math.nan, "a"], [1, 0, 1])
    assert (late.joined, late.unknown, late.waiting) == (1, 2, 0)


def test_ids_beyond_two_to_the_53_are_told_apart():
    estimator = fitted(("accuracy",))
    ids = np.array([2**53, 2**53 + 1, 2**53 + 2], dtype=np.int64)
    estimator.estimate([0.9, 0.1, 0.9], ids=ids)
    late = estimator.settle([2**53 + 1], [0])
    assert (late.joined, late.realised["accuracy"], late.waiting) == (1, 1.0, 2)


def test_a_label_that_comes_twice_teaches_once():
    estimator = fitted(("accuracy",), min_labels=50)
    p, y = scored(1, 60)
    estimator.estimate(p, ids=range(60))
    first = estimator.settle(range(60), y)
    again = estimator.settle(range(60), 1 - y)
    assert (again.joined, again.unknown, again.bias) == (0, 60, first.bias)
    estimator.estimate(p[:1], ids=["x"])
    both = estimator.settle(["x", "x"], [1, 0])
    assert (both.joined, both.unknown) == (1, 1)


# -- rows -------------------------------------------------------------------------------


def test_what_is_given_stays_as_it_was_and_is_not_kept():
    p, y = scored(0, 2000)
    before = p.copy(), y.copy()
    estimator = PerformanceEstimator(metrics=BINARY, events=Stream()).fit(p, y)
    new = scored(1, 400)[0]
    expected = {n: m.value for n, m in estimator.estimate(new, ids=range(400)).items()}
    assert (p == before[0]).all()
    assert (y == before[1]).all()
    p[:], y[:] = 0.5, 0
    kept = new.copy()
    assert {n: m.value for n, m in estimator.estimate(new).items()} == expected
    new[:] = 0.5
    late = estimator.settle(range(400), np.ones(400))
    assert late.realised["recall"] == pytest.approx((kept >= 0.5).mean())


def test_probabilities_of_many_classes_must_add_up():
    rng = np.random.default_rng(0)
    chance = rng.dirichlet([1.0] * 3, 3000)
    y = [rng.choice(3, p=row) for row in chance]
    estimator = PerformanceEstimator(metrics=("accuracy",), events=Stream()).fit(chance, y)
    report = estimator.estimate(np.vstack((chance[:100], chance[:50] * 1.1, -chance[:10])))
    assert (report.rows, report.used) == (160, 100)
    assert report.findings == ("60 of 160 rows are no probabilities",)
    # Single precision is close enough.
    assert estimator.estimate(chance[:100].astype(np.float32)).used == 100


def test_a_chunk_of_one_class_is_judged_or_said_not_to_be():
    estimator = fitted(BINARY, n=4000)
    for sure in (0.0, 1.0):
        report = estimator.estimate(np.full(200, sure), ids=range(200))
        assert report["accuracy"].level is not DriftLevel.INCONCLUSIVE
        assert all(
            math.isfinite(metric.value) or metric.level is DriftLevel.INCONCLUSIVE
            for metric in report.values()
        )
        late = estimator.settle(range(200), np.full(200, int(sure)))
        assert late.realised["accuracy"] == 1.0
        assert math.isnan(late.realised["auc"])


def test_errors_are_never_expected_below_zero():
    class Below(BaseEstimator):
        def fit(self, x, y):
            return self

        def predict(self, x):
            return -np.abs(x[:, 0])

    estimator = PerformanceEstimator(metrics=("mae", "rmse"), loss_model=Below(), events=Stream())
    x, y = noisy(0, 2000)
    report = estimator.fit(x, y).estimate(x[:200])
    assert all(metric.value >= 0.0 for metric in report.values())
    assert all(metric.interval[0] >= 0.0 for metric in report.values())


def test_whole_numbers_beyond_two_to_the_53_are_predictions():
    rng = np.random.default_rng(0)
    x = rng.integers(1 << 60, 1 << 61, size=2000)
    y = x + rng.integers(-(1 << 58), 1 << 58, size=2000)
    estimator = PerformanceEstimator(metrics=("mae",), events=Stream()).fit(x, y)
    report = estimator.estimate(x[:300])
    assert report["mae"].reference == pytest.approx(np.abs(y - x).mean(), rel=1e-6)
    assert report.alarm is False


def test_a_column_of_probabilities_is_that_of_the_positive_class():
    p, y = scored(0, 2000)
    new = scored(1, 200)[0]
    flat = PerformanceEstimator(metrics=("recall",), events=Stream()).fit(p, y)
    column = PerformanceEstimator(metrics=("recall",), events=Stream()).fit(p[:, None], y)
    values = {one.estimate(x).value for one in (flat, column) for x in (new, new[:, None])}
    assert len(values) == 1


def test_rows_beyond_all_numbers_are_counted_without_a_warning(recwarn):
    estimator = fitted(("accuracy",))
    both = np.full((100, 2), 0.5)
    both[:10] = math.inf, -math.inf
    both[10:20] = 1e308
    report = estimator.estimate(both)
    assert (report.rows, report.used) == (100, 80)
    for bad in ([0.5 + 1j] * 50, np.full((50, 2), 0.5 + 0j)):
        with pytest.raises(TypeError, match="complex"):
            estimator.estimate(bad)
    x, y = noisy(0, 2000)
    tiny = PerformanceEstimator(metrics=("rmse",), events=Stream()).fit(x * 1e-160, y * 1e-160)
    assert tiny.estimate(x[:100] * 1e-160).alarm is not None
    assert list(recwarn) == []


# -- learning from labels ---------------------------------------------------------------


def test_labels_without_any_noise_are_outweighed_by_later_ones():
    bias = Bias(prior=0.0, memory=1000)
    for _ in range(20):
        bias.learn(0.0, 0.0, 100)
    assert bias.value == 0.0
    for _ in range(20):
        bias.learn(-0.3, 0.01**2, 100)
    assert bias.value == pytest.approx(-0.3, rel=0.15)


def test_a_model_that_was_perfect_is_watched_by_its_labels():
    x = np.random.default_rng(0).normal(size=2000)
    estimator = PerformanceEstimator(metrics=("mae",), events=Stream()).fit(x, x)
    assert estimator.estimate(x[:500], ids=range(500)).alarm is False
    late = estimator.settle(range(500), x[:500] + 1e10)
    assert late.bias["mae"] == pytest.approx(1e10, rel=0.01)
    report = estimator.estimate(x[:500])
    assert report.alarm is True
    assert report.value == pytest.approx(1e10, rel=0.01)


def test_labels_beyond_all_numbers_are_no_exception_and_never_silent():
    x, y = noisy(0, 2000)
    for far in (1e160, 1e200, 1e300):
        estimator = PerformanceEstimator(metrics=("mae", "rmse"), events=Stream()).fit(x, y)
        estimator.estimate(x[:300], ids=range(300))
        late = estimator.settle(range(300), np.full(300, far))
        assert late.realised["mae"] == pytest.approx(far)
        report = estimator.estimate(x[:300])
        assert report["mae"].alarm is not False
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))
    for far in (1e100, 1e160):
        with pytest.raises(BadConfiguration, match="smaller units"):
            PerformanceEstimator(metrics=("mae",)).fit(x * far, y * far)


def test_a_calibration_curve_keeps_the_ends_of_its_levels_only():
    p, y = scored(0, 5000)
    curve = isotonic(p, y.astype(float))
    assert len(curve.scores) < 300
    oracle = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    assert curve(p) == pytest.approx(oracle.predict(p), abs=1e-12)


# -- settings while it runs -------------------------------------------------------------


def test_settings_that_were_fitted_are_fixed_and_others_take_effect(tmp_path):
    estimator = fitted(("accuracy",), min_labels=10)
    for name, value in (
        ("metrics", ("auc",)),
        ("threshold", 0.4),
        ("calibration", "none"),
        ("chunks", 9),
        ("seed", 1),
    ):
        with pytest.raises(BadConfiguration, match=name):
            retune(estimator, **{name: value})
    estimator.estimate(np.full(100, 0.7), ids=range(100))
    retune(estimator, max_pending=40, memory=50, alpha=0.5)
    late = estimator.settle([0, 99], [1, 1])
    assert (late.unknown, late.joined, late.waiting, late.evicted) == (1, 1, 39, 60)
    estimator.settle(range(60, 99), [0] * 39)
    learnt = estimator.settle([], []).bias["accuracy"]
    estimator.save(tmp_path / "quality.json")
    again = PerformanceEstimator.load(tmp_path / "quality.json")
    assert (again.memory, again.alpha) == (50, 0.5)
    assert again.settle([], []).bias["accuracy"] == learnt
