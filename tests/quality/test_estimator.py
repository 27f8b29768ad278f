"""Performance without labels: estimates, intervals, alarms, late labels, bad data."""

import json
import math
import threading
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom
from sklearn.base import BaseEstimator

from prodml._settings import settings_of
from prodml.errors import BadConfiguration
from prodml.events import LabelsArrived, PerformanceDropped, Stream
from prodml.quality import Bias, PerformanceEstimator
from prodml.types import DriftLevel

BINARY = ("auc", "accuracy", "precision", "recall", "f1", "specificity", "brier", "log_loss")


def scored(seed, n, a=1.0, b=1.0, skew=1.0):
    """Probabilities that are off by ``skew``, and labels by the true chance."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(a, b, size=n)
    return chance**skew, (rng.random(n) < chance).astype(int)


def fitted(metrics=("auc",), n=8000, seed=0, skew=1.0, **kwargs):
    events = kwargs.pop("events", Stream())
    estimator = PerformanceEstimator(metrics=metrics, events=events, **kwargs)
    return estimator.fit(*scored(seed, n, skew=skew))


def test_every_metric_is_estimated_under_covariate_shift_though_scores_are_not_calibrated():
    estimator = fitted(BINARY, skew=2.0, confidence=0.999)
    p, y = scored(1, 4000, a=3.0, b=3.0, skew=2.0)
    report = estimator.estimate(p, ids=range(4000))
    late = estimator.settle(range(4000), y)
    for name in BINARY:
        low, high = report[name].interval
        assert low <= late.realised[name] <= high, name
        assert report[name].drift_detected, name
    # Scores taken at their word are far off.
    naive = fitted(BINARY, skew=2.0, calibration="none").estimate(p)
    assert abs(naive["accuracy"].value - late.realised["accuracy"]) > 0.02
    assert abs(report["accuracy"].value - late.realised["accuracy"]) < 0.02


@pytest.mark.parametrize("name", BINARY)
def test_an_interval_covers_the_realised_metric_as_often_as_it_says(name):
    estimator = fitted((name,), n=20_000, confidence=0.9)
    inside = 0
    for seed in range(1, 61):
        p, y = scored(seed, 500)
        low, high = estimator.estimate(p, ids=range(500))[name].interval
        real = _realised(name, p, y)
        inside += low <= real <= high
    assert binom.cdf(inside, 60, 0.9) > 1e-4
    assert inside < 60 or name == "log_loss"


def _realised(name, p, y):
    from prodml.quality.metric import CLASSIFICATION, Chances, ScoreRows

    rows = ScoreRows(np.column_stack((1 - p, p)), (p >= 0.5).astype(int))
    return CLASSIFICATION[name].of(rows, Chances(np.eye(2)[y]))[0]


def test_chunks_like_the_reference_seldom_alarm():
    estimator = fitted(BINARY, n=10_000, alpha=0.05, min_effect=0.0)
    alarms = sum(estimator.estimate(scored(seed, 1000)[0]).drift_detected for seed in range(1, 101))
    assert alarms <= binom.ppf(1 - 1e-4, 100, 0.05)


@pytest.mark.soak
@pytest.mark.parametrize("rows", [200, 1000, 5000])
def test_the_level_of_the_alarm_holds_over_references_too(rows):
    alarms = 0
    for seed in range(150):
        estimator = fitted(("auc", "f1"), n=5000, seed=seed, alpha=0.05, min_effect=0.0)
        alarms += estimator.estimate(scored(10_000 + seed, rows)[0]).drift_detected
    assert alarms <= binom.ppf(1 - 1e-3, 150, 0.05)


def test_a_change_below_the_floor_is_negligible_and_one_to_the_better_is_no_alarm():
    p, _ = scored(1, 8000, a=0.9, b=0.9)
    better = fitted(("accuracy",)).estimate(p)["accuracy"]
    assert better.level is DriftLevel.DRIFT
    assert not better.worse
    assert better.alarm is False
    small = fitted(("accuracy",), min_effect=0.5).estimate(p)["accuracy"]
    assert small.level is DriftLevel.NEGLIGIBLE
    assert small.alarm is False


def test_three_classes_in_any_form():
    rng = np.random.default_rng(0)

    def classes(n, sharp):
        chance = rng.dirichlet([sharp] * 3, n)
        return chance, [("cat", "cow", "dog")[rng.choice(3, p=row)] for row in chance]

    estimator = PerformanceEstimator(
        metrics=("auc", "accuracy", "brier", "log_loss"), events=Stream()
    ).fit(*classes(4000, 1.0))
    chance, y = classes(2000, 3.0)
    report = estimator.estimate(chance.tolist(), ids=range(2000))
    late = estimator.settle(range(2000), y)
    assert report.alarms == ("auc", "accuracy", "brier", "log_loss")
    for name, metric in report.items():
        assert metric.interval[0] <= late.realised[name] <= metric.interval[1], name
    with pytest.raises(BadConfiguration, match="two classes only"):
        PerformanceEstimator(metrics=("f1",)).fit(*classes(1000, 1.0))


def test_labels_of_two_classes_may_be_anything():
    p, y = scored(0, 3000)
    words = np.where(y == 1, "bad", "good").tolist()
    plain = fitted(("recall",), n=3000)
    named = PerformanceEstimator(metrics=("recall",), positive="bad", events=Stream())
    named.fit(p, words)
    new = scored(1, 500)[0]
    assert named.estimate(new).value == plain.estimate(new).value
    two = PerformanceEstimator(metrics=("recall",), classes=("good", "bad"), events=Stream())
    two.fit(np.column_stack((1 - p, p)), words)
    assert two.estimate(np.column_stack((1 - new, new))).value == plain.estimate(new).value
    mixed = PerformanceEstimator(metrics=("recall",), positive="x").fit(
        p, [("x" if one else 0) for one in y]
    )
    assert mixed.estimate(new).value == plain.estimate(new).value


# -- regression -------------------------------------------------------------------------


def noisy(seed, n, scale=1.0):
    """Errors that grow with the prediction."""
    rng = np.random.default_rng(seed)
    x = np.abs(rng.normal(size=n)) * scale
    return x, x + x * rng.normal(size=n)


def test_errors_of_numbers_are_estimated_where_they_depend_on_the_prediction():
    names = ("mae", "mse", "rmse")
    estimator = PerformanceEstimator(metrics=names, events=Stream()).fit(*noisy(0, 20_000))
    same = estimator.estimate(noisy(1, 2000)[0])
    assert same.alarm is False
    x, y = noisy(2, 4000, scale=0.5)
    report = estimator.estimate(x, ids=range(4000))
    late = estimator.settle(range(4000), y)
    for name in names:
        assert report[name].interval[0] <= late.realised[name] <= report[name].interval[1], name
        assert report[name].drift_detected
        assert not report[name].worse


def test_a_regressor_learns_errors_that_depend_on_a_feature():
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(0)

    def rows(n, share):
        risky = (rng.random(n) < share).astype(float)
        prediction = rng.normal(size=n)
        return prediction, prediction + rng.normal(size=n) * (1 + 4 * risky), risky[:, None]

    x, y, features = rows(5000, 0.2)
    tree = DecisionTreeRegressor(max_leaf_nodes=8, random_state=0)
    estimator = PerformanceEstimator(metrics=("mae",), loss_model=tree, events=Stream())
    estimator.fit(x, y, features)
    x, y, features = rows(2000, 0.6)
    report = estimator.estimate(x, features, ids=range(2000))
    late = estimator.settle(range(2000), y)
    assert report.alarm
    assert report.interval[0] <= late.realised["mae"] <= report.interval[1]
    # The prediction alone says nothing about the risk.
    blind = PerformanceEstimator(metrics=("mae",), events=Stream()).fit(x, y)
    assert blind.estimate(x).alarm is False
    with pytest.raises(TypeError, match="0 features instead of the 1"):
        estimator.estimate(x)
    with pytest.raises(TypeError, match="rows of features"):
        estimator.estimate(x, features[:5])
    broken = estimator.estimate(x, np.full_like(features, np.inf))
    assert broken.level is DriftLevel.INCONCLUSIVE
    assert "loss model" in broken.reason


# -- late labels ------------------------------------------------------------------------


def concept(seed, n):
    """The model still says what it said; a third of the labels are turned."""
    p, y = scored(seed, n)
    flip = np.random.default_rng(seed + 1000).random(n) < 0.2
    return p, np.where(flip, 1 - y, y)


def test_late_labels_mend_what_no_estimate_without_labels_can_see():
    estimator = fitted(("accuracy",))
    p, y = concept(1, 3000)
    before = estimator.estimate(p, ids=range(3000))
    assert before.alarm is False
    late = estimator.settle(range(3000), y)
    assert late.joined == 3000
    assert late.realised["accuracy"] < before.interval[0]
    assert late.estimated["accuracy"] == pytest.approx(before.value, abs=0.01)
    p, y = concept(2, 3000)
    after = estimator.estimate(p, ids=range(3000))
    real = _realised("accuracy", p, y)
    assert after.alarm is True
    assert after["accuracy"].bias == late.bias["accuracy"] < -0.08
    assert after.interval[0] <= real <= after.interval[1]
    assert abs(after.value - real) < abs(before.value - real) / 5


def test_without_concept_drift_labels_change_little():
    estimator = fitted(("accuracy", "auc"), min_labels=200)
    biases, wrong = [], 0
    for seed in range(1, 31):
        p, y = scored(seed, 200)
        report = estimator.estimate(p, ids=range(200))
        wrong += report.drift_detected
        biases.append(estimator.settle(range(200), y).bias["accuracy"])
    # Noise of one settlement: 0.03; believed: a small part of it.
    assert max(map(abs, biases)) < 0.015
    assert wrong <= 2


def test_labels_trickle_in_any_order_and_are_counted():
    estimator = fitted(("accuracy",), min_labels=100, max_pending=150)
    p, y = scored(1, 200)
    estimator.estimate(p, ids=[f"r{i}" for i in range(200)])
    order = np.random.default_rng(0).permutation(200)
    late = None
    for at in np.array_split(order, 20):
        late = estimator.settle([f"r{i}" for i in at], y[at])
        assert late.joined + late.unknown == 10
    assert late.evicted == 50
    assert late.waiting == 0
    # 150 joined; those that were enough to learn from are no longer held.
    assert late.held <= 50
    assert late.bias["accuracy"] != 0.0
    again = estimator.settle(["r199", "never", ["no", "id"]], [1, 1, 1])
    assert (again.joined, again.unknown) == (0, 3)
    assert again.realised == {}


def test_a_label_that_is_none_leaves_its_prediction_waiting():
    estimator = fitted(("accuracy",))
    estimator.estimate([0.5] * 40, ids=range(40))
    late = estimator.settle([0, 1, 2, 3], [None, math.nan, 7, 1])
    assert (late.invalid, late.joined, late.waiting) == (3, 1, 39)
    assert estimator.settle([0], [1]).joined == 1


def test_small_chunks_are_inconclusive_but_their_labels_count():
    estimator = fitted(("accuracy",), min_labels=60)
    p, y = scored(1, 60)
    for at in range(60):
        report = estimator.estimate([p[at]], ids=[at])
        assert report.alarm is None
    assert estimator.settle(range(60), y).joined == 60


def test_rows_that_cannot_be_used_do_not_shift_the_ids():
    estimator = fitted(("accuracy",))
    p = np.full(100, 0.9)
    p[::2] = np.nan
    estimator.estimate(p, ids=range(100))
    late = estimator.settle(range(100), np.arange(100) % 2)
    assert (late.joined, late.unknown) == (50, 50)
    assert late.realised["accuracy"] == 1.0


def test_memory_of_predictions_is_bounded():
    estimator = fitted(("accuracy",), max_pending=1000)
    p = scored(1, 5000)[0]
    for start in range(0, 50_000, 5000):
        estimator.estimate(p, ids=range(start, start + 5000))
    late = estimator.settle([], [])
    assert (late.waiting, late.evicted) == (1000, 49_000)


def test_bias_is_shrunk_by_the_evidence_and_forgets():
    bias = Bias(prior=0.01, memory=1000)
    assert (bias.value, bias.variance) == (0.0, 0.0)
    bias.learn(0.02, 0.02**2, 100)
    assert bias.value == pytest.approx(0.02 * 0.01**2 / (0.01**2 + 0.02**2))
    assert bias.variance == pytest.approx(1 / (1 / 0.01**2 + 1 / 0.02**2))
    for _ in range(50):
        bias.learn(-0.3, 0.02**2, 1000)
    # What was learnt long ago is gone, and a large bias is believed nearly whole.
    assert bias.value == pytest.approx(-0.3, rel=0.02)
    exact = Bias(prior=0.0, memory=10)
    exact.learn(0.0, 0.0, 1)
    assert exact.value == 0.0


# -- bad data ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunk", [[], [math.nan] * 100, [None] * 100, [0.5] * 29, [1.7] * 100, np.empty((0, 2))]
)
def test_a_chunk_without_enough_rows_is_inconclusive_and_never_silent(chunk):
    report = fitted(("auc", "f1")).estimate(chunk)
    assert report.level is DriftLevel.INCONCLUSIVE
    assert report.alarm is None
    assert all(metric.alarm is None and math.isnan(metric.value) for metric in report.values())
    assert "at least 30 are needed" in report.reason
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["metrics"]["auc"]["value"] is None


def test_bad_rows_are_counted_and_named():
    p = scored(1, 400)[0]
    p[:100], p[100:130] = np.nan, 3.0
    report = fitted().estimate(p)
    assert (report.rows, report.used) == (400, 270)
    assert report.findings == (
        "100 of 400 rows without probabilities",
        "30 of 400 rows are no probabilities",
    )
    assert report.findings[0] in report.reason


def test_a_metric_that_is_not_defined_is_inconclusive_alone():
    report = fitted(("accuracy", "precision")).estimate([0.1] * 200)
    assert report["precision"].level is DriftLevel.INCONCLUSIVE
    assert "not defined" in report["precision"].reason
    assert report["accuracy"].level is not DriftLevel.INCONCLUSIVE
    assert report.drift_detected
    assert report.alarm is None


def test_what_are_no_numbers_is_a_type_error():
    estimator = fitted()
    for bad in (["a"] * 50, np.zeros((50, 3)), np.zeros((2, 2, 2)), 0.5):
        with pytest.raises(TypeError):
            estimator.estimate(bad)
    with pytest.raises(TypeError, match="100 rows but 3 ids"):
        estimator.estimate([0.5] * 100, ids=range(3))
    with pytest.raises(TypeError, match="1 ids but 2 labels"):
        estimator.settle([1], [0, 1])
    with pytest.raises(BadConfiguration, match="fit the estimator"):
        PerformanceEstimator().estimate([0.5] * 100)


def test_a_reference_that_cannot_be_fitted_is_refused():
    p, y = scored(0, 1000)
    for bad in (
        (p, y[:5]),
        (p[:50], y[:50]),
        (p, [None] * 1000),
        (p, np.zeros(1000)),
        (p, np.arange(1000) % 3),
        (["x"] * 1000, y),
        ([math.nan] * 1000, y),
    ):
        with pytest.raises(BadConfiguration):
            PerformanceEstimator().fit(*bad)
    with pytest.raises(BadConfiguration, match="positive"):
        PerformanceEstimator(positive="yes").fit(p, y)
    rare = (np.arange(1000) < 3).astype(int)
    with pytest.raises(BadConfiguration, match="not defined in enough chunks"):
        PerformanceEstimator(metrics=("auc",)).fit(p, rare)
    with pytest.raises(BadConfiguration, match="one prediction a row"):
        PerformanceEstimator(metrics=("mae",)).fit(np.zeros((1000, 2)), y)


@pytest.mark.parametrize(
    "bad",
    [
        {"metrics": ()},
        {"metrics": ("auc", "mae")},
        {"metrics": ("auc", "auc")},
        {"metrics": ("gini",)},
        {"threshold": 1.0},
        {"calibration": "magic"},
        {"alpha": 0},
        {"confidence": "high"},
        {"chunks": 4},
        {"min_rows": 1},
        {"min_labels": 0},
        {"max_pending": 0},
        {"memory": 0.5},
        {"bins": 0},
        {"min_effect": -1.0},
        {"min_effect": math.nan},
    ],
)
def test_a_bad_setting_is_refused_by_name(bad):
    with pytest.raises(BadConfiguration, match=next(iter(bad))):
        PerformanceEstimator(**bad)


def test_settings_can_be_read_and_a_single_metric_be_text():
    estimator = PerformanceEstimator(metrics="auc")
    assert estimator.metrics == ("auc",)
    assert settings_of(estimator)["alpha"] == 0.01
    report = fitted(BINARY[:2]).estimate(scored(1, 100)[0])
    for name in ("value", "interval"):
        with pytest.raises(ValueError, match="ask for report"):
            getattr(report, name)
    assert "PerformanceReport performance" in repr(report)


# -- facts and threads ------------------------------------------------------------------


def test_facts_are_stated_on_transitions():
    events, heard = Stream(), []
    for kind in (PerformanceDropped, LabelsArrived):
        events.subscribe(kind, heard.append)
    estimator = fitted(("accuracy",), events=events, name="loans")
    hard, fine = scored(1, 2000, a=5.0, b=5.0)[0], scored(2, 2000)[0]
    for chunk in (fine, hard, hard, [], hard, fine, hard):
        estimator.estimate(chunk)
    assert [type(fact) for fact in heard] == [PerformanceDropped, PerformanceDropped]
    assert heard[0].metric == "accuracy"
    assert heard[0].current < heard[0].reference
    estimator.estimate(fine, ids=range(2000))
    estimator.settle(range(5), [0, 1, 0, 1, 0])
    assert (heard[-1].count, heard[-1].total, heard[-1].source) == (5, 5, "loans")


def test_threads_may_estimate_and_settle_at_once():
    estimator = fitted(("accuracy",), min_labels=50)
    p, y = scored(1, 100)
    joined = []

    def work(number):
        for step in range(10):
            ids = [(number, step, i) for i in range(100)]
            estimator.estimate(p, ids=ids)
            joined.append(estimator.settle(ids, y).joined)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(joined) == 4000
    assert estimator.settle([], []).waiting == 0


def test_the_same_input_gives_the_same_output():
    p = scored(1, 500)[0]
    reports = [fitted(BINARY).estimate(p).to_dict() for _ in range(2)]
    for report in reports:
        report["at"] = 0.0
    assert reports[0] == reports[1]


def test_arrow_and_nullable_columns_are_read():
    scores, labels = scored(0, 3000)
    expected = fitted(("accuracy",), n=3000).estimate(scores).value
    estimator = PerformanceEstimator(metrics=["accuracy"], events=Stream())
    estimator.fit(pa.array(scores), pa.array(labels.tolist()))
    assert estimator.estimate(pa.array(scores)).value == expected
    report = estimator.estimate(pa.array([0.5, None]), ids=pa.array(["a", "b"]))
    assert report.findings == ("1 of 2 rows without probabilities",)
    assert estimator.settle(pa.array(["a"]), pa.array([True])).joined == 1


def test_an_id_that_cannot_be_remembered_leaves_everything_as_it_was():
    estimator = fitted()
    with pytest.raises(TypeError):
        estimator.estimate([0.1, 0.2], ids=["a", ["b"]])
    assert estimator.settle(["a"], [1]).joined == 0


def test_more_predictions_than_may_wait_take_no_more_memory():
    estimator = fitted(max_pending=10)
    scores = np.full(50_000, 0.5)
    tracemalloc.start()
    estimator.estimate(scores)
    without = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    estimator.estimate(scores, ids=np.arange(50_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < without + (6 << 20)
    assert estimator.settle([0], [1]).evicted == 49_990


def test_errors_too_large_for_a_number_are_refused_and_never_silent():
    x = np.random.default_rng(0).normal(size=3000)
    with pytest.raises(BadConfiguration, match="smaller units"):
        PerformanceEstimator(metrics=["mse"]).fit(x * 1e200, x * 2e200)

    class Wild(BaseEstimator):
        def fit(self, x, y):
            return self

        def predict(self, x):
            return np.where(np.abs(x[:, 0]) > 50.0, np.inf, 1.0)

    estimator = PerformanceEstimator(metrics=["mae"], loss_model=Wild()).fit(x, x + 1.0)
    report = estimator.estimate(x * 100.0)
    assert report.alarm is None
    assert "a class is never predicted" not in report.reason


def test_labels_of_a_rare_class_wait_until_there_is_one():
    estimator = fitted(("auc",), min_labels=20, memory=1000)
    for batch in range(4):
        ids = range(20 * batch, 20 * batch + 20)
        estimator.estimate(np.linspace(0.01, 0.99, 20), ids=ids)
        late = estimator.settle(ids, [1] * 20 if batch < 3 else [0] * 10 + [1] * 10)
    # 20 and 40 labels of one class teach no AUC; 80 of both do, and none was thrown away.
    assert late.held == 0
    assert late.bias["auc"] != 0.0
    estimator = fitted(("auc",), min_labels=20, memory=50)
    estimator.estimate(np.full(60, 0.5), ids=range(60))
    assert [estimator.settle(range(k, k + 20), [1] * 20).held for k in (0, 20, 40)] == [20, 0, 20]
