"""Metrics of labels are scikit-learn's; metrics of chances are their expectation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.isotonic import IsotonicRegression

from prodml.quality.calibration import Calibrator, binned, isotonic
from prodml.quality.loss import BinnedLoss, losses_of
from prodml.quality.metric import (
    CLASSIFICATION,
    REGRESSION,
    Chances,
    Losses,
    NumberRows,
    ScoreRows,
)

ORACLES = {
    "auc": lambda y, p, hat: sk.roc_auc_score(y, p),
    "accuracy": lambda y, p, hat: sk.accuracy_score(y, hat),
    "precision": lambda y, p, hat: sk.precision_score(y, hat),
    "recall": lambda y, p, hat: sk.recall_score(y, hat),
    "f1": lambda y, p, hat: sk.f1_score(y, hat),
    "specificity": lambda y, p, hat: sk.recall_score(y, hat, pos_label=0),
    "brier": lambda y, p, hat: sk.brier_score_loss(y, p),
    "log_loss": lambda y, p, hat: sk.log_loss(y, p),
}


def rows_of(p):
    scores = np.column_stack((1 - p, p))
    return ScoreRows(scores, (p >= 0.5).astype(int))


def chances_of(c):
    return Chances(np.column_stack((1.0 - c, c)))


@st.composite
def labelled(draw):
    n = draw(st.integers(4, 40))
    p = np.array(draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))) / 20
    y = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    p[:2], y[:2] = (0.9, 0.1), (1, 0)
    return p, y


@given(labelled(), st.sampled_from(sorted(CLASSIFICATION)))
@settings(deadline=None)
def test_with_labels_a_metric_is_scikit_learns(data, name):
    p, y = data
    value, noise = CLASSIFICATION[name].of(rows_of(p), chances_of(y.astype(float)))
    assert value == pytest.approx(ORACLES[name](y, p, (p >= 0.5).astype(int)), rel=1e-9, abs=1e-12)
    # Nothing is left to chance.
    assert noise == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["auc", "accuracy", "brier", "log_loss"])
def test_three_classes_are_scikit_learns(name):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([1.0, 2.0, 1.0], 300)
    y = np.array([rng.choice(3, p=row) for row in scores])
    rows = ScoreRows(scores, scores.argmax(axis=1))
    found = CLASSIFICATION[name].of(rows, Chances(np.eye(3)[y]))[0]
    expected = {
        "auc": lambda: sk.roc_auc_score(y, scores, multi_class="ovr", average="macro"),
        "accuracy": lambda: sk.accuracy_score(y, scores.argmax(axis=1)),
        "brier": lambda: ((np.eye(3)[y] - scores) ** 2).sum(axis=1).mean(),
        "log_loss": lambda: sk.log_loss(y, scores),
    }[name]()
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", sorted(CLASSIFICATION))
@pytest.mark.parametrize("classes", [2, 3])
def test_an_expected_metric_and_its_noise_are_those_of_drawn_labels(name, classes):
    formula = CLASSIFICATION[name]
    if formula.binary_only and classes > 2:
        pytest.skip("for two classes only")
    rng = np.random.default_rng(1)
    scores = rng.dirichlet(np.ones(classes), 400)
    rows = ScoreRows(scores, scores.argmax(axis=1))
    chances = rng.dirichlet(np.ones(classes), 400)
    value, noise = formula.of(rows, Chances(chances))
    cumulative = chances.cumsum(axis=1)
    drawn = []
    for _ in range(400):
        y = (rng.random((400, 1)) > cumulative).sum(axis=1)
        drawn.append(formula.of(rows, Chances(np.eye(classes)[y]))[0])
    assert value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    assert noise == pytest.approx(np.std(drawn), rel=0.15)


@given(labelled(), st.sampled_from(sorted(CLASSIFICATION)), st.integers(0, 3))
@settings(deadline=None)
def test_a_gradient_is_the_slope(data, name, at):
    p, _ = data
    c = np.linspace(0.2, 0.7, len(p))
    formula = CLASSIFICATION[name]
    slope = formula.grade(np.column_stack((1 - c, c)), rows_of(p))[1]
    step = np.zeros(len(p))
    step[at] = 1e-6
    up, down = (formula.of(rows_of(p), chances_of(c + sign * step))[0] for sign in (1, -1))
    assert slope[at, 1] - slope[at, 0] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-6)


def test_what_is_not_defined_is_nan_and_not_zero():
    low = rows_of(np.full(50, 0.2))
    assert np.isnan(CLASSIFICATION["precision"].of(low, chances_of(np.full(50, 0.2)))[0])
    assert np.isnan(CLASSIFICATION["recall"].of(low, chances_of(np.zeros(50)))[0])
    assert np.isnan(CLASSIFICATION["auc"].of(low, chances_of(np.ones(50)))[0])


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=30))
@settings(deadline=None)
def test_errors_of_numbers_are_scikit_learns(pairs):
    predictions, labels = (np.array(x) for x in zip(*pairs, strict=True))
    losses = losses_of(predictions, labels)
    outcome = Losses(losses, np.zeros_like(losses))
    found = {n: f.of(NumberRows(predictions), outcome)[0] for n, f in REGRESSION.items()}
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(labels, predictions))
    assert found["mse"] == pytest.approx(sk.mean_squared_error(labels, predictions))
    assert found["rmse"] == pytest.approx(found["mse"] ** 0.5)


@given(labelled())
@settings(deadline=None)
def test_isotonic_calibration_is_scikit_learns(data):
    p, y = data
    curve = isotonic(p, y.astype(float))
    grid = np.linspace(-0.1, 1.1, 50)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    assert curve(grid) == pytest.approx(oracle.predict(grid), abs=1e-9)


@given(labelled(), st.integers(1, 10))
@settings(deadline=None)
def test_binned_calibration_keeps_the_mean_and_stays_within_bounds(data, bins):
    p, y = data
    curve = binned(p, y.astype(float), bins)
    assert len(curve.scores) <= bins
    assert np.all(np.diff(curve.scores) > 0)
    assert curve(np.linspace(0, 1, 50)).min() >= 0.0
    assert curve(np.linspace(0, 1, 50)).max() <= 1.0


def test_calibrated_chances_add_up_to_one_even_where_no_curve_sees_a_chance():
    scores = np.array([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    hits = np.zeros((3, 3))
    calibrator = Calibrator.fit("isotonic", scores, hits)
    assert calibrator(scores).sum(axis=1) == pytest.approx(np.ones(3))


def test_expected_errors_are_means_of_bins():
    rng = np.random.default_rng(0)
    by = rng.normal(size=1000)
    losses = losses_of(by, np.zeros(1000))
    model = BinnedLoss.fit(by, losses, 10)
    found = model(NumberRows(by))
    assert found.values.mean(axis=0) == pytest.approx(losses.mean(axis=0))
    bins = model.place(by)
    assert len(np.unique(bins)) == 10
    for k in range(10):
        assert model.means[k] == pytest.approx(losses[bins == k].mean(axis=0))
        assert model.variances[k] == pytest.approx(losses[bins == k].var(axis=0), abs=1e-12)
    # One prediction for all rows: one bin.
    assert BinnedLoss.fit(np.ones(50), losses[:50], 10).means.shape == (1, 2)
