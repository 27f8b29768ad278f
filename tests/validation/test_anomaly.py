import math
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.validation import AnomalyDetector, BatchAnomaly, RowAnomaly

RNG = np.random.default_rng(7)
AGE = RNG.normal(40, 8, 3000)
REFERENCE = {
    "age": AGE,
    "tenure": AGE / 4 + RNG.normal(0, 1, 3000),
    "plan": RNG.choice(["a", "b", "c"], 3000, p=[0.7, 0.29, 0.01]).tolist(),
    "note": np.where(RNG.random(3000) < 0.3, np.nan, 1.0),
}
USUAL = {"age": 41.0, "tenure": 10.2, "plan": "a", "note": 1.0}
DETECTOR = AnomalyDetector(REFERENCE)


def test_an_everyday_row_is_no_anomaly():
    found = DETECTOR.score(USUAL)
    assert found.p_value > 0.2
    assert math.isclose(found.score, 1 - found.p_value)
    assert len(found.contributions) == 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"age": 140.0}, "age"),
        ({"age": math.inf}, "age"),
        ({"age": None}, "age"),
        ({"age": "old"}, "age"),
        ({"age": 10**400}, "age"),
        ({"plan": "new"}, "plan"),
        ({"plan": None}, "plan"),
        ({"plan": ["a"]}, "plan"),
        ({"age": 25.0, "tenure": 15.0}, "(together)"),
    ],
)
def test_an_odd_value_is_seen_and_named(change, field):
    found = DETECTOR.score({**USUAL, **change})
    assert found.p_value < 0.02
    assert field in {name for name, _ in found.contributions[:2]}


def test_what_is_often_missing_may_be_missing():
    assert DETECTOR.score({**USUAL, "note": None}).p_value > 0.1


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(),
    st.sampled_from(["a", "b", "zzz", "", (), [], {}, 1j, 10**400, np.float32(3), pd.NA, pd.NaT]),
)


@given(st.dictionaries(st.sampled_from(["age", "tenure", "plan", "note", "extra"]), VALUES))
def test_any_row_gets_a_score_and_never_an_exception(row):
    found = DETECTOR.score(row)
    assert 0 <= found.score < 1
    assert 0 < found.p_value <= 1
    assert math.isfinite(found.surprise)
    batch = DETECTOR.score_batch([row])
    assert math.isclose(batch.surprises[0], found.surprise, rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(batch.p_values[0], found.p_value)
    assert batch.row(0).contributions[0][0] == found.contributions[0][0]


@pytest.mark.parametrize("row", [None, 5, "text", [1]])
def test_what_is_no_row_is_one_of_missing_values(row):
    assert DETECTOR.score(row).p_value < 0.05


@pytest.mark.parametrize("frame", [dict, pd.DataFrame, pl.DataFrame])
def test_every_container_gets_the_same_scores(frame):
    head = {name: list(values)[:50] for name, values in REFERENCE.items()}
    rows = [dict(zip(head, row, strict=True)) for row in zip(*head.values(), strict=True)]
    batch = DETECTOR.score_batch(frame(head))
    alone = [DETECTOR.score(row).surprise for row in rows]
    assert np.allclose(batch.surprises, alone, rtol=1e-9)
    assert isinstance(batch.row(3), RowAnomaly)


def test_p_values_are_calibrated_on_rows_that_were_not_fitted():
    rng = np.random.default_rng(3)
    shares = []
    for seed in range(40):
        data = rng.lognormal(0, 1, (600, 8))
        detector = AnomalyDetector(data, seed=seed)
        shares.append((detector.score_batch(rng.lognormal(0, 1, (300, 8))).p_values <= 0.1).mean())
    assert abs(np.mean(shares) - 0.1) < 0.02


def test_the_same_reference_gives_the_same_scores():
    again = AnomalyDetector(REFERENCE)
    assert again.score(USUAL) == DETECTOR.score(USUAL)


def test_columns_that_cannot_be_judged_are_named():
    reference = {"a": RNG.random(60), "b": [object()] * 60, "c": [None] * 60}
    detector = AnomalyDetector(reference)
    assert detector.skipped == ("b", "c")
    assert AnomalyDetector(reference, fields=["a"]).skipped == ()


def test_constants_and_columns_of_nulls_do_no_harm():
    reference = {"a": np.ones(100), "b": np.full(100, np.nan), "c": RNG.random(100)}
    detector = AnomalyDetector(reference)
    fine = {"a": 1.0, "b": None, "c": 0.5}
    assert detector.score(fine).p_value > 0.1
    assert detector.score({**fine, "a": 2.0}).p_value < 0.05
    assert detector.score({**fine, "b": 2.0}).p_value < 0.05


@pytest.mark.parametrize(
    ("reference", "settings"),
    [
        ({"a": [1.0] * 49}, {}),
        ({"a": [object()] * 60}, {}),
        ({"a": [1.0] * 60}, {"held_out": 0}),
        ({"a": [1.0] * 60}, {"held_out": 1}),
    ],
)
def test_a_detector_refuses_nonsense(reference, settings):
    with pytest.raises(BadConfiguration):
        AnomalyDetector(reference, **settings)


# -- against scikit-learn's isolation forest ----------------------------------------------


def mixed(good, bad):
    return np.vstack([good, bad]), np.r_[np.zeros(len(good)), np.ones(len(bad))]


def single_outlier(rng):
    bad = rng.normal(size=(150, 10))
    bad[np.arange(150), rng.integers(0, 10, 150)] += 6
    return mixed(rng.normal(size=(3000, 10)), bad)


def broken_correlation(rng):
    good = rng.normal(size=(3000, 6)) @ rng.normal(size=(6, 6))
    return mixed(good, rng.normal(size=(150, 6)) * good.std(axis=0))


def between_two_modes(rng):
    good = np.vstack([rng.normal(-4, 1, (1500, 4)), rng.normal(4, 1, (1500, 4))])
    return mixed(good, rng.normal(0, 1, (150, 4)))


def breast_cancer(_):
    data, benign = pytest.importorskip("sklearn.datasets").load_breast_cancer(return_X_y=True)
    return data, 1 - benign


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (single_outlier, 0.1),
        (broken_correlation, 0.05),
        (between_two_modes, -0.01),
        (breast_cancer, -0.01),
    ],
)
def test_anomalies_are_ranked_about_as_an_isolation_forest_does_or_better(make, least):
    ensemble = pytest.importorskip("sklearn.ensemble")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    data, odd = make(rng)
    good = rng.permutation(np.flatnonzero(odd == 0))
    train, rest = good[: len(good) // 2], good[len(good) // 2 :]
    asked = np.r_[rest, np.flatnonzero(odd == 1)]
    ours = AnomalyDetector(data[train]).score_batch(data[asked]).surprises
    forest = ensemble.IsolationForest(random_state=0).fit(data[train])
    theirs = -forest.score_samples(data[asked])
    gain = metrics.roc_auc_score(odd[asked], ours) - metrics.roc_auc_score(odd[asked], theirs)
    assert gain >= least


def test_settings_that_would_be_ignored_are_refused():
    reference = {"a": np.arange(100.0), "b": np.arange(100.0)}
    for settings, word in (
        ({"fields": ["a", "typo"]}, "typo"),
        ({"held_out": 0.999}, "held_out"),
        ({"top": -1}, "top"),
    ):
        with pytest.raises(BadConfiguration, match=word):
            AnomalyDetector(reference, **settings)


def test_a_level_that_cannot_be_hashed_is_a_new_one():
    detector = AnomalyDetector({"plan": ["a", "b"] * 500})
    found = detector.score({"plan": ([],)})
    assert found == detector.score({"plan": "new"})
    assert detector.score_batch([{"plan": ([],)}]).p_values[0] == found.p_value


def test_huge_numbers_pass_without_a_warning():
    detector = AnomalyDetector({"a": np.array([1e308, -1e308] * 50), "b": np.arange(100.0)})
    assert 0.0 <= detector.score({"a": 1.0, "b": 1.0}).p_value <= 1.0


def test_columns_of_an_array_are_those_of_the_reference():
    data = RNG.normal(size=(400, 3))
    detector = AnomalyDetector(data, ["p", "q", "r"], fields=["p", "r"])
    found = detector.score_batch(data[:5])
    assert isinstance(found, BatchAnomaly)
    named = [dict(zip("pqr", row, strict=True)) for row in data[:5].tolist()]
    assert found.p_values.tolist() == detector.score_batch(named).p_values.tolist()
    assert found.p_values.max() > 0.1
    with pytest.raises(ValueError, match="3 names for 2 columns"):
        detector.score_batch(data[:, :2])
    with pytest.raises(BadConfiguration, match="top"):
        AnomalyDetector(data, top=1.5)


def test_a_detector_travels():
    again = pickle.loads(pickle.dumps(DETECTOR))
    assert again.score(USUAL) == DETECTOR.score(USUAL)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.normal(1e9, 1.0, (n, 3)),
        lambda rng, n: 1e-300 * rng.normal(size=(n, 3)),
        lambda rng, n: (rng.random((n, 4)) < 0.1) * 1.0,
        lambda rng, n: np.where(rng.random((n, 3)) < 0.2, np.nan, rng.normal(size=(n, 3))),
        lambda rng, n: np.ones((n, 2)),
        lambda rng, n: {"a": rng.integers(0, 10**6, n).astype(str).tolist()},
    ],
)
def test_no_more_good_rows_are_called_odd_than_said(draw):
    shares = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        detector = AnomalyDetector(draw(rng, 400), seed=seed)
        shares.append((detector.score_batch(draw(rng, 400)).p_values <= 0.1).mean())
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / math.sqrt(20)
