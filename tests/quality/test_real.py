"""Car loans: estimates against what came true, chunk by chunk."""

import pytest
from sklearn.metrics import roc_auc_score

from prodml.events import Stream
from prodml.quality import PerformanceEstimator
from tests.real_data import car_loan


def chunks():
    reference, analysis, labels = car_loan()
    estimator = PerformanceEstimator(metrics=["auc"], events=Stream())
    estimator.fit(reference["y_pred_proba"], reference["repaid"])
    for at in range(0, 50_000, 5000):
        rows = slice(at, at + 5000)
        yield estimator, analysis.iloc[rows], labels.iloc[rows]


def test_the_auc_is_estimated_within_half_a_point_and_alarms_where_it_fell():
    alarms, errors = [], []
    for estimator, rows, labels in chunks():
        report = estimator.estimate(rows["y_pred_proba"])
        realised = roc_auc_score(labels["repaid"], rows["y_pred_proba"])
        errors.append(abs(report.value - realised))
        alarms.append(report.alarm)
        assert report.interval[0] <= realised <= report.interval[1]
    assert max(errors) <= 0.005
    assert alarms == [False] * 5 + [True] * 5


def test_labels_that_come_late_and_shuffled_are_joined_by_id():
    waiting = None
    alarms = []
    for estimator, rows, labels in chunks():
        alarms.append(estimator.estimate(rows["y_pred_proba"], ids=rows["id"]).alarm)
        if waiting is not None:
            shuffled = waiting.sample(frac=1.0, random_state=0)
            late = estimator.settle(shuffled["id"], shuffled["repaid"])
            assert (late.joined, late.unknown, late.waiting) == (5000, 0, 5000)
            assert late.realised["auc"] == pytest.approx(late.estimated["auc"], abs=0.005)
            # Nothing to mend: the relation of features to labels did not change.
            assert abs(late.bias["auc"]) < 0.003
        waiting = labels
    assert alarms == [False] * 5 + [True] * 5
