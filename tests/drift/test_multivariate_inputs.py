"""Multivariate drift on inputs that nobody would choose."""

import datetime as dt
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import (
    CorrelationDrift,
    DistanceDrift,
    DomainClassifier,
    DriftLevel,
    MultivariateDetector,
    PCAReconstruction,
    PredictionDriftDetector,
    auc_interval,
    energy_distance,
)
from prodml.errors import BadConfiguration
from prodml.events import Stream
from tests.drift.test_multivariate import METHODS, each_method, normal

# -- rows without any value -------------------------------------------------------------


@pytest.mark.parametrize("method", ["energy", "mmd", "classifier"])
@pytest.mark.parametrize("where", ["current", "reference"])
def test_rows_without_any_value_take_no_place_in_a_draw(method, where):
    # 60 rows of 5000 hold something: a draw of 150 from all would hold two of them.
    sparse = {name: np.full(5000, np.nan) for name in ("x0", "x1", "x2")}
    for name, values in normal(1, 60).items():
        sparse[name][:4980:83] = values + 3.0
    old, new = (normal(0), sparse) if where == "current" else (sparse, normal(0))
    result = METHODS[method](old).detect_drift(new)
    assert result.drift_detected
    assert result.p_value < 0.02
    assert result.effect > 0.6


# -- what is given is not kept, and not changed -----------------------------------------


@each_method
def test_a_reference_that_is_changed_later_changes_nothing(method):
    old, new = normal(0, 120), normal(1, 120)
    expected = METHODS[method](normal(0, 120)).detect_drift(new)
    check = METHODS[method](old)
    for values in old.values():
        values[:] = 77.0
    assert check.detect_drift(new) == expected


@each_method
def test_nothing_that_is_given_is_changed(method):
    old, new = normal(0, 120), normal(1, 120)
    kept = [{name: values.copy() for name, values in table.items()} for table in (old, new)]
    METHODS[method](old).detect_drift(new)
    for table, before in zip((old, new), kept, strict=True):
        assert all(np.array_equal(table[name], before[name]) for name in table)


@each_method
def test_columns_are_matched_by_name(method):
    old, new = normal(0), normal(1)
    check = METHODS[method](old)
    turned = {name: new[name] for name in reversed(list(new))}
    assert check.detect_drift(turned) == check.detect_drift(new)


@each_method
def test_a_column_that_is_not_compared_may_be_gone(method):
    old = {**normal(0), "day": np.arange(600).astype("M8[h]")}
    check = METHODS[method](old, blocks=np.arange(600) // 30)
    assert check.detect_drift(normal(1), blocks=np.arange(600) // 30).level is DriftLevel.NONE
    check = METHODS[method](old)
    assert check.detect_drift(normal(1)).level is DriftLevel.NONE


# -- columns of every sort --------------------------------------------------------------


def test_columns_that_are_the_same_do_not_alarm_over_their_last_digits():
    x = np.random.default_rng(0).normal(size=1200)
    old, new = x[:800], x[800:]
    check = PCAReconstruction({"a": old, "b": 3.0 * old})
    single = {"a": new.astype(np.float32), "b": (3.0 * new).astype(np.float32)}
    assert check.detect_drift(single).level is DriftLevel.NONE
    # But when they part, it is seen.
    assert check.detect_drift({"a": new, "b": 3.0 * new[::-1]}).drift_detected


def test_one_column_has_nothing_to_hang_together_with():
    with pytest.raises(BadConfiguration, match="two columns that vary"):
        PCAReconstruction({"a": np.arange(100.0)})
    with pytest.raises(BadConfiguration, match="two columns that vary"):
        PCAReconstruction({"a": np.arange(100.0), "b": np.ones(100)})


@each_method
def test_whole_numbers_beyond_single_precision_are_numbers(method):
    rng = np.random.default_rng(0)

    def table(n):
        wide = rng.integers(-(1 << 62), 1 << 62, size=(n, 3))
        return {f"x{i}": wide[:, i] for i in range(3)}

    check = METHODS[method](table(400))
    assert check.detect_drift(table(300)).level is DriftLevel.NONE
    assert check.detect_drift({"x0": [1 << 70] * 300, "x1": [0] * 300, "x2": [0] * 300}).level in {
        DriftLevel.DRIFT,
        DriftLevel.INCONCLUSIVE,
    }


@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "classifier"])
def test_a_constant_too_large_to_be_added_is_seen_to_change(method):
    huge = np.full(600, 1.7e308)
    check = METHODS[method]({**normal(0), "k": huge})
    assert check.detect_drift({**normal(1), "k": huge}).level is DriftLevel.NONE
    assert check.detect_drift({**normal(1), "k": huge / 2.0}).drift_detected


@each_method
def test_columns_of_different_lengths_are_no_reference(method):
    ragged = {"x0": np.ones(100), "x1": np.arange(60.0), "x2": np.arange(100.0)}
    with pytest.raises(BadConfiguration, match="different lengths"):
        METHODS[method](ragged)


def test_codes_have_no_correlation_whatever_detector_asks():
    old = {**normal(0), "code": np.random.default_rng(0).integers(0, 9, size=600)}
    kinds = {"code": "categorical"}
    check = CorrelationDrift(old, kinds=kinds)
    assert check.feature_names == ("x0", "x1", "x2")
    report = MultivariateDetector(old, kinds=kinds, events=Stream()).detect_drift(old)
    assert "code: categorical, has no correlation" in report["correlation"].findings
    with pytest.raises(BadConfiguration, match="kinds names 'y'"):
        CorrelationDrift(old, kinds={"y": "numeric"})


def test_a_correlation_may_be_asked_of_truth_values():
    flag = np.random.default_rng(0).random(400) < 0.5
    check = CorrelationDrift({"a": flag, "b": ~flag}, kinds={"a": "numeric", "b": "numeric"})
    assert check.detect_drift({"a": flag, "b": flag}).drift_detected


# -- sizes ------------------------------------------------------------------------------


def test_the_size_of_an_energy_distance_is_not_inflated_by_few_rows():
    squares = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = energy_distance(rng.normal(size=(60, 3)), rng.normal(size=(40, 3)), permutations=1)
        squares.append(found.effect**2)
    # The plain distance of two samples alike is positive by chance: here 0.11 on average.
    assert np.mean(squares) ** 0.5 < 0.08


# -- settings ---------------------------------------------------------------------------


def test_a_model_that_is_no_classifier_is_refused_when_it_is_given():
    from sklearn.linear_model import LinearRegression

    for bad in ("tree", LinearRegression(), object()):
        with pytest.raises(BadConfiguration, match="model"):
            DomainClassifier(normal(0), model=bad)


def test_an_auc_needs_labels():
    with pytest.raises(ValueError, match="labels"):
        auc_interval([0.1, 0.2, 0.3, 0.4], [0.0, 1.0, math.nan, 1.0])


def test_distances_take_the_reference_they_were_given_in_any_thread():
    import threading

    check, new = DistanceDrift(normal(0), permutations=99, max_rows=150), normal(1)
    found = []

    def look():
        found.append(check.detect_drift(new))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == found[0] for result in found)


# -- answers ----------------------------------------------------------------------------


def frames(values):
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    columns = {"cat": values[:, 0], "dog": values[:, 1]}
    return pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)


def test_a_frame_of_probabilities_is_vectors_of_them():
    rng = np.random.default_rng(0)
    old, new = rng.dirichlet([3.0, 3.0], 400), rng.dirichlet([6.0, 2.0], 400)
    expected = PredictionDriftDetector(old, events=Stream()).detect_drift(new)
    for reference, current in zip(frames(old), frames(new), strict=True):
        check = PredictionDriftDetector(reference, events=Stream())
        report = check.detect_drift(current)
        assert list(report) == ["p(0)", "p(1)", "class", "confidence"]
        assert report.drifted == expected.drifted
        assert report["p(0)"].effect == expected["p(0)"].effect


def test_one_number_a_row_is_a_number_whatever_its_shape():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=400), rng.normal(size=400)
    for reference in (old, old[:, None], old[:, None].tolist()):
        check = PredictionDriftDetector(reference, events=Stream())
        for current in (new, new[:, None], new[:, None].tolist()):
            report = check.detect_drift(current)
            assert list(report) == ["answer"]
            assert not report.drift_detected


@pytest.mark.parametrize("bad", [{"a": [1.0] * 50}, "answers", b"answers"])
def test_what_is_no_row_of_answers_is_refused(bad):
    with pytest.raises(BadConfiguration):
        PredictionDriftDetector(bad)
    check = PredictionDriftDetector([1.0, 2.0] * 50, events=Stream())
    with pytest.raises(TypeError):
        check.detect_drift(bad)


# -- anything ---------------------------------------------------------------------------

cells = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.decimals(allow_nan=True, allow_infinity=False, places=2)
    | st.sampled_from(["a", "b", "", (1, 2), b"x"])
    | st.dates(min_value=dt.date(1900, 1, 1), max_value=dt.date(2100, 1, 1))
)


@st.composite
def tables(draw):
    """Columns of few different cells, of which any may be anything."""
    rows = draw(st.sampled_from([0, 1, 40, 70]))
    seed = draw(st.integers(0, 1 << 30))
    rng = np.random.default_rng(seed)
    columns = {}
    for name in "abc":
        few = draw(st.lists(cells, min_size=1, max_size=4))
        columns[name] = [few[at] for at in rng.integers(0, len(few), size=rows)]
        if draw(st.booleans()):
            columns[name] = rng.normal(size=rows) * 10.0 ** draw(st.integers(-300, 300))
    return columns


@pytest.mark.filterwarnings("error")
@each_method
@given(old=tables(), new=tables(), blocks=st.booleans())
@settings(deadline=None, max_examples=25)
def test_any_table_gets_a_verdict_that_can_be_written_down(method, old, new, blocks):
    kwargs = {"blocks": [at // 4 for at in range(len(old["a"]))]} if blocks else {}
    try:
        check = METHODS[method](old, **kwargs)
    except BadConfiguration:
        return
    result = check.detect_drift(new)
    assert result.reason
    assert json.dumps(result.to_dict(), allow_nan=False)
    if result.level in {DriftLevel.NONE, DriftLevel.NEGLIGIBLE}:
        assert 0.0 <= result.p_value <= 1.0
