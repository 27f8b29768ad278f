"""Multivariate drift: numbers against plain formulas, bad data, verdicts, facts."""

import datetime as dt
import json
import math
import tracemalloc
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from prodml.clock import SYSTEM_CLOCK
from prodml.drift import (
    CorrelationDrift,
    DistanceDrift,
    DomainClassifier,
    DriftLevel,
    MultivariateDetector,
    PCAReconstruction,
    PredictionDriftDetector,
    auc_interval,
    correlation_change,
    energy_distance,
    mmd,
)
from prodml.errors import BadConfiguration
from prodml.events import DriftCleared, DriftDetected, Stream
from prodml.types import Prediction

CLOSE = {"rel": 1e-9, "abs": 1e-12}
SMALL = DecisionTreeClassifier(max_leaf_nodes=16, random_state=0)


def draw(shape, rng, n):
    if shape == "levels":
        return {f"c{i}": rng.integers(0, 6 * i + 2, size=n).astype(str) for i in range(5)}
    z = rng.normal(size=(n, 5))
    z[:, 1] += z[:, 0]
    if shape == "lognormal":
        z = np.exp(1.5 * z)
    if shape == "zeros":
        z *= rng.random(z.shape) < 0.1
    if shape == "missing":
        z[rng.random(z.shape) < 0.1] = np.nan
    return {f"x{i}": z[:, i] for i in range(5)}


def classifier(data, **kwargs):
    return DomainClassifier(data, model=SMALL, **kwargs)


def energy(data, **kwargs):
    return DistanceDrift(data, permutations=99, max_rows=150, **kwargs)


def kernel(data, **kwargs):
    return DistanceDrift(data, method="mmd", permutations=99, max_rows=150, **kwargs)


METHODS = {
    "pca": PCAReconstruction,
    "energy": energy,
    "mmd": kernel,
    "correlation": CorrelationDrift,
    "classifier": classifier,
}
each_method = pytest.mark.parametrize("method", METHODS)


def normal(seed=0, n=600, p=3):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, p))
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    return {f"x{i}": z[:, i] for i in range(p)}


# -- numbers ----------------------------------------------------------------------------


def naive_delong(x, y):
    psi = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    v, w = psi.mean(axis=1), psi.mean(axis=0)
    return psi.mean(), v.var(ddof=1) / len(x) + w.var(ddof=1) / len(y)


few_numbers = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=40).map(np.array)


@given(few_numbers, few_numbers)
@settings(deadline=None)
def test_auc_and_its_error_are_delongs(x, y):
    found = auc_interval(np.concatenate((x, y)), [1] * len(x) + [0] * len(y))
    auc, variance = naive_delong(x, y)
    assert found.auc == pytest.approx(auc, **CLOSE)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-7, abs=1e-8)
    labels = np.repeat([1, 0], [len(x), len(y)])
    assert found.auc == pytest.approx(roc_auc_score(labels, np.concatenate((x, y))), **CLOSE)


def test_the_interval_is_the_normal_one_and_covers_as_often_as_it_says():
    inside = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scores = np.concatenate((rng.normal(1.0, size=80), rng.normal(size=120)))
        found = auc_interval(scores, [1] * 80 + [0] * 120, 0.9)
        half = stats.norm.ppf(0.95) * found.standard_error
        assert found.low == pytest.approx(found.auc - half, **CLOSE)
        inside += found.low <= stats.norm.cdf(1 / math.sqrt(2)) <= found.high
    assert stats.binom.cdf(inside, 300, 0.9) > 1e-3


def test_an_auc_needs_two_groups_of_finite_scores():
    for scores, labels in (([1.0, 2.0, 3.0], [1, 0, 0]), ([1.0, math.nan] * 2, [0, 0, 1, 1])):
        with pytest.raises(ValueError):
            auc_interval(scores, labels)
    with pytest.raises(ValueError, match="one label a score"):
        auc_interval([1.0], [1, 0])


points = st.integers(2, 12).flatmap(
    lambda n: st.lists(
        st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=n, max_size=n
    ).map(lambda rows: np.array(rows, dtype=float))
)


@given(points, points)
@settings(deadline=None)
def test_energy_distance_is_its_definition(x, y):
    found = energy_distance(x, y, permutations=1)
    between = 2 * cdist(x, y).mean()
    assert found.statistic == pytest.approx(
        between - cdist(x, x).mean() - cdist(y, y).mean(), rel=1e-9, abs=1e-9
    )
    assert 0.0 <= found.effect <= 1.0
    flat = energy_distance(x[:, :1], y[:, :1], permutations=1).statistic
    assert flat == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-7, abs=1e-9)


@given(points, points, st.floats(0.5, 4.0))
@settings(deadline=None)
def test_mmd_is_its_definition(x, y, width):
    def k(a, b):
        return np.exp(-(cdist(a, b) ** 2) / (2 * width**2))

    m, n = len(x), len(y)
    found = mmd(x, y, bandwidth=width, permutations=1).statistic
    expected = (
        (k(x, x).sum() - m) / (m * (m - 1))
        + (k(y, y).sum() - n) / (n * (n - 1))
        - 2 * k(x, y).mean()
    )
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_distances_do_not_depend_on_the_blocks_they_are_summed_in():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1e4, 1.0, size=(700, 3)), rng.normal(1e4, 1.0, size=(500, 3))
    expected = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert energy_distance(x, y, permutations=1).statistic == pytest.approx(expected, rel=1e-7)
    pooled = np.vstack((x, y))
    width = np.median(cdist(pooled, pooled)[np.triu_indices(1200, 1)])
    own = mmd(x, y, permutations=1).statistic
    assert own == pytest.approx(mmd(x, y, bandwidth=width, permutations=1).statistic, abs=1e-5)


@pytest.mark.parametrize("measure", [mmd, energy_distance])
def test_a_permutation_p_value_is_the_share_of_all_dealings(measure):
    # 3 + 3 rows: 20 dealings, and so many permutations that all of them come up.
    x, y = np.array([[0.0], [1.0], [2.5]]), np.array([[2.0], [4.0], [7.0]])
    both = np.vstack((x, y))
    from itertools import combinations

    real = measure(x, y, permutations=1, **({"bandwidth": 2.0} if measure is mmd else {}))
    farther = 0
    for chosen in combinations(range(6), 3):
        rest = [i for i in range(6) if i not in chosen]
        extra = {"bandwidth": 2.0} if measure is mmd else {}
        dealt = measure(both[list(chosen)], both[rest], permutations=1, **extra)
        farther += dealt.statistic >= real.statistic - 1e-9
    extra = {"bandwidth": 2.0} if measure is mmd else {}
    found = measure(x, y, permutations=9999, **extra)
    assert found.p_value == pytest.approx(farther / 20, abs=0.02)


@pytest.mark.parametrize("measure", [mmd, energy_distance])
def test_a_permutation_p_value_is_never_zero_and_the_same_each_time(measure):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(9.0, size=(60, 2))
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = measure(x, y, permutations=99)
    assert first.p_value == 0.01
    assert first.effect > 0.6
    assert measure(x, y, permutations=99) == first
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    same = measure(x, x, permutations=99)
    assert same.p_value > 0.5
    equal = measure(np.ones((30, 2)), np.ones((30, 2)), permutations=99)
    assert (equal.p_value, equal.effect) == (1.0, 0.0)


def test_memory_of_a_distance_does_not_grow_with_the_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100_000, 4)), rng.normal(size=(100_000, 4))
    tracemalloc.start()
    result = mmd(x, y, permutations=99, max_rows=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.rows == (1000, 1000)
    # Not the 320 GB of all pairs, nor the 32 MB of the pairs of the sample.
    assert peak < 24e6


def test_a_distance_refuses_what_it_cannot_take():
    good = np.zeros((5, 2))
    for bad in (np.zeros(5), np.zeros((1, 2)), np.zeros((5, 3)), np.full((5, 2), np.nan)):
        with pytest.raises(ValueError):
            mmd(good, bad)
    for setting in ({"permutations": 0}, {"max_rows": 1}, {"bandwidth": 0.0}):
        with pytest.raises(BadConfiguration, match=next(iter(setting))):
            mmd(good, good, **setting)


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(4, 500), st.integers(4, 500))
@settings(deadline=None)
def test_a_change_of_correlation_is_fishers_z(before, after, n, m):
    p = correlation_change(before, n, after, m)
    a, b = np.clip([before, after], -1 + 1e-12, 1 - 1e-12)
    z = (np.arctanh(b) - np.arctanh(a)) / math.sqrt(1 / (n - 3) + 1 / (m - 3))
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9, abs=1e-300)
    wide = (1 + a * a / 2) / (n - 3) + (1 + b * b / 2) / (m - 3)
    ranks = correlation_change(before, n, after, m, method="spearman")
    expected = 2 * stats.norm.sf(abs(np.arctanh(b) - np.arctanh(a)) / math.sqrt(wide))
    assert ranks == pytest.approx(expected, rel=1e-7, abs=1e-300)


def test_a_larger_change_with_less_evidence_does_not_cost_the_verdict():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 3000))
    check = CorrelationDrift({"a": a, "b": b, "c": c})
    few = np.concatenate([0.5 * b[:60] + a[:60], np.full(2940, np.nan)])
    found = check.detect_drift({"a": a, "b": 0.25 * a + b, "c": few})
    strongest = min(found.pairs, key=lambda pair: pair.p_adjusted)
    assert max(found.pairs, key=lambda pair: abs(pair.after - pair.before)) is not strongest
    assert found.p_value == strongest.p_adjusted
    assert found.judged(3 * found.p_value, 0.05).drift_detected


def test_numbers_without_squares_are_refused():
    huge = np.random.default_rng(0).normal(size=(50, 2)) * 1e200
    for measure in (energy_distance, mmd):
        with pytest.raises(ValueError, match="no squares"):
            measure(huge, huge)
    with pytest.raises(BadConfiguration, match="bandwidth"):
        mmd(huge / 1e200, huge / 1e200, bandwidth=1e-200)


def test_answers_that_are_no_vectors_of_numbers_are_missing_and_no_exception():
    check = PredictionDriftDetector([[0.1, 0.9]] * 50, events=Stream())
    for bad in ([["a", "b"]] * 50, np.array([["a", "b"]] * 50), [[None, "x"]] * 50):
        assert check.detect_drift(bad)["class"].drift_detected
    for reference in ([["a", "b"]] * 50, np.zeros((50, 0)), np.zeros((50, 2, 2))):
        with pytest.raises(BadConfiguration):
            PredictionDriftDetector(reference)
    with pytest.raises(BadConfiguration, match="different names"):
        PredictionDriftDetector([[0.1, 0.9]] * 50, classes="aa")


def test_a_change_of_correlation_needs_correlations():
    for bad in ((0.5, 3, 0.5, 100), (1.5, 100, 0.5, 100), (math.nan, 100, 0.5, 100)):
        with pytest.raises(ValueError):
            correlation_change(*bad)


@pytest.mark.parametrize(
    ("method", "oracle"), [("spearman", stats.spearmanr), ("pearson", stats.pearsonr)]
)
def test_correlations_are_scipys_over_the_rows_that_have_both(method, oracle):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 9, size=200).astype(float)
    b = a + rng.normal(size=200)
    a[:20], b[15:30] = np.nan, np.inf
    check = CorrelationDrift({"a": a, "b": b}, method=method)
    pair = check.detect_drift({"a": a, "b": b}).pairs[0]
    both = np.isfinite(a) & np.isfinite(b)
    assert pair.before == pytest.approx(oracle(a[both], b[both]).statistic, **CLOSE)
    assert pair.after == pair.before
    assert pair.p_adjusted == 1.0


# -- drift and no drift -----------------------------------------------------------------


@each_method
def test_a_change_of_dependence_alone_is_found(method):
    old, new = normal(0), normal(1)
    check = METHODS[method](old)
    assert check.detect_drift(new).level is DriftLevel.NONE
    new["x1"] = -new["x1"]
    result = check.detect_drift(new)
    # Each column alone looks as before.
    assert result.drift_detected
    if method == "classifier":
        assert result.interval[0] > 0.5
    assert result.p_value < 0.05
    assert result.effect >= result.floor
    assert json.loads(json.dumps(result.to_dict()))["level"] == "drift"
    if result.moved:
        assert not any("x2" in name for name in list(result.moved)[:1])


@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "classifier"])
def test_tiny_drift_in_many_rows_is_negligible(method):
    kwargs = {"min_effect": 0.9}
    check = METHODS[method](normal(0, 2000), **kwargs)
    moved = normal(1, 2000)
    moved["x0"] = moved["x0"] + 1.0
    result = check.detect_drift(moved)
    assert result.level is DriftLevel.NEGLIGIBLE
    assert not result.drift_detected
    assert "below the floor of 0.9" in result.reason


@each_method
def test_a_check_has_no_memory_and_takes_any_table(method):
    import polars as pl

    old, new = normal(0), normal(1, 200)
    check = METHODS[method](old)
    first = check.detect_drift(new)
    rows = [dict(zip(new, row, strict=True)) for row in zip(*new.values(), strict=True)]
    for table in (new, pl.DataFrame(new), rows, np.column_stack(list(new.values()))):
        again = check.detect_drift(table)
        assert again.statistic == pytest.approx(first.statistic, rel=1e-12)
        assert again.p_value == first.p_value


def false_alarms(method, shape, runs, size=(300, 100)):
    alarms = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        check = METHODS[method](draw(shape, rng, size[0]))
        result = check.detect_drift(draw(shape, rng, size[1]))
        assert result.level is not DriftLevel.INCONCLUSIVE
        # Whatever the effect: the level is the test's, not the floor's.
        alarms += result.p_adjusted < 0.05
    return alarms


SHAPES = ["normal", "lognormal", "zeros", "missing", "levels"]


@each_method
@pytest.mark.parametrize("shape", ["normal", "missing", "levels"])
def test_without_drift_alarms_are_rare(method, shape):
    if (method, shape) == ("correlation", "levels"):
        pytest.skip("categories have no correlation")
    runs = 8 if method == "classifier" else 20
    assert false_alarms(method, shape, runs) <= stats.binom.ppf(1 - 1e-4, runs, 0.05)


@pytest.mark.soak
@each_method
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(500, 100), (500, 500), (2000, 200)])
def test_without_drift_alarms_are_as_rare_as_asked(method, shape, size):
    if (method, shape) == ("correlation", "levels"):
        pytest.skip("categories have no correlation")
    # The correlation of two columns that are mostly zero is less normal than its theory.
    level = 0.09 if (method, shape) == ("correlation", "zeros") else 0.05
    runs = 200 if method == "classifier" else 600
    assert false_alarms(method, shape, runs, size) <= stats.binom.ppf(1 - 1e-3, runs, level)


@pytest.mark.soak
def test_the_default_classifier_holds_its_level():
    for shape in SHAPES:
        alarms = 0
        for seed in range(60):
            rng = np.random.default_rng(seed)
            check = DomainClassifier(draw(shape, rng, 500))
            alarms += check.detect_drift(draw(shape, rng, 300)).p_value < 0.05
        assert alarms <= stats.binom.ppf(1 - 1e-3, 60, 0.05), shape


def test_drift_at_the_end_of_a_chunk_is_seen():
    # Folds that are not shuffled score those rows by a model that never saw any like them.
    old, new = normal(0), normal(1)
    new["x0"][-120:] += 6.0
    result = classifier(old).detect_drift(new)
    assert result.drift_detected
    assert result.effect > 0.1
    # And the order of rows alone is nothing.
    calm = normal(2)
    ordered = {name: values[np.argsort(calm["x0"])] for name, values in calm.items()}
    assert classifier(old).detect_drift(ordered).level is DriftLevel.NONE


def test_frequent_levels_are_chosen_by_both_samples():
    # Chosen by the reference alone they are more frequent there by choice: a false alarm.
    alarms = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        old, new = ({"c": rng.integers(0, 60, size=400).astype(str)} for _ in range(2))
        alarms += energy(old).detect_drift(new).p_value < 0.05
    assert alarms <= 4


# -- bad data ---------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("where", ["current", "reference"])
def test_one_missing_value_hides_nothing(method, where):
    old, new = normal(0), normal(1)
    new["x1"] = -new["x1"]
    (new if where == "current" else old)["x0"][3] = np.nan
    check = METHODS[method](old)
    assert check.detect_drift(new).drift_detected


@each_method
def test_one_wild_value_in_the_reference_blinds_nobody(method):
    old, new = normal(0), normal(1)
    old["x0"][5] = 1e9
    check = METHODS[method](old)
    assert check.detect_drift(normal(2)).level is not DriftLevel.DRIFT
    new["x1"] = -new["x1"]
    assert check.detect_drift(new).drift_detected
    new["x0"][5] = 1e9
    assert check.detect_drift(new).drift_detected


@each_method
def test_a_vanished_column_is_certain_and_named(method):
    check = METHODS[method](normal(0))
    new = normal(1)
    del new["x1"]
    result = check.detect_drift(new)
    assert result.drift_detected
    assert "x1: the column is gone" in result.reason
    assert math.isnan(result.p_value)
    wide = check.detect_drift(np.zeros((100, 7)))
    assert wide.drift_detected
    assert "columns are gone" in wide.reason


@each_method
@pytest.mark.parametrize("empty", [[], "nothing", "few"])
def test_too_little_data_is_inconclusive(method, empty):
    new = normal(1)
    if empty == "nothing":
        empty = {name: [None] * 100 for name in new}
    elif empty == "few":
        empty = {name: values[:29] for name, values in new.items()}
    result = METHODS[method](normal(0)).detect_drift(empty)
    assert result.level is DriftLevel.INCONCLUSIVE
    assert not result.drift_detected
    assert result.what


@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "classifier"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_many_missing_or_infinite_values_are_drift_and_counted(method, bad):
    new = normal(1)
    new["x2"][:300] = bad
    result = METHODS[method](normal(0)).detect_drift(new)
    assert result.drift_detected
    word = "missing" if np.isnan(bad) else "infinite"
    assert f"x2: {word} 0 % -> 50 %" in result.reason


def test_a_correlation_names_what_it_could_not_use():
    new = normal(1)
    new["x2"][:300] = np.inf
    new["x0"] = np.ones(600)
    result = CorrelationDrift(normal(0)).detect_drift(new)
    assert "x2: 300 of 600 values missing or infinite" in result.findings
    assert "x0 ~ x1: constant or too few rows with both" in result.findings
    assert [pair.name for pair in result.pairs] == ["x1 ~ x2"]


@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "classifier"])
def test_a_constant_that_changes_is_drift_and_one_that_does_not_is_none(method):
    old, new = {**normal(0), "k": np.ones(600)}, {**normal(1), "k": np.ones(600)}
    check = METHODS[method](old)
    assert check.detect_drift(new).level is DriftLevel.NONE
    # Read back in single precision.
    assert check.detect_drift({**new, "k": np.full(600, 1 + 1e-12)}).level is not DriftLevel.DRIFT
    assert check.detect_drift({**new, "k": np.full(600, 2.0)}).drift_detected


@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "classifier"])
def test_new_levels_are_seen_and_named(method):
    rng = np.random.default_rng(0)

    def table(seed, names):
        return {**normal(seed), "plan": rng.choice(names, size=600).tolist()}

    check = METHODS[method](table(0, ["a", "b", "b", "c"]))
    result = check.detect_drift(table(1, ["a", "b", "d", "e"]))
    assert result.drift_detected
    assert "plan: new levels" in result.reason


@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "classifier"])
def test_every_sort_of_column_has_its_place(method):
    rng = np.random.default_rng(3)

    def table(n):
        numbers = rng.normal(size=(n, 2)).round(3)
        return {
            "x": numbers[:, 0],
            "decimal": [Decimal(str(x)) for x in numbers[:, 1]],
            "flag": rng.random(n) < 0.3,
            "level": [["deep"]] * (n // 2) + ["x"] * (n - n // 2),
            "day": [dt.date(2024, 1, 1) + dt.timedelta(days=i) for i in range(n)],
        }

    check = METHODS[method](table(400))
    result = check.detect_drift(table(200))
    assert result.level is DriftLevel.NONE
    assert "day: time always moves, left out" in result.findings
    words = check.detect_drift({**table(200), "x": ["many"] * 200})
    assert words.drift_detected
    assert "x: 200 values of a wrong type" in words.findings
    times = check.detect_drift({**table(200), "x": table(200)["day"]})
    assert times.drift_detected
    assert "x: missing 0 % -> 100 %" in times.findings


@each_method
def test_what_is_no_table_is_a_type_error(method):
    check = METHODS[method](normal(0))
    with pytest.raises(TypeError):
        check.detect_drift(3)
    with pytest.raises(TypeError, match="different lengths"):
        check.detect_drift({"x0": [1.0] * 50, "x1": [1.0] * 60, "x2": [1.0] * 60})


@each_method
@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": 0.0},
        {"alpha": "x"},
        {"min_effect": 2.0},
        {"min_rows": 1},
        {"feature_names": ["?"]},
    ],
)
def test_a_bad_setting_is_refused_by_name(method, bad):
    with pytest.raises(BadConfiguration, match=next(iter(bad)).replace("feature_names", "column")):
        METHODS[method](normal(0), **bad)


@each_method
@pytest.mark.parametrize("bad", [3, {}, {"day": [dt.date(2024, 1, 1)] * 99}, {"x0": [1.0] * 3}])
def test_a_reference_that_cannot_be_fitted_is_refused(method, bad):
    with pytest.raises(BadConfiguration):
        METHODS[method](bad)


def test_settings_of_one_method_are_refused_by_name():
    for cls, bad in (
        (PCAReconstruction, {"variance": 1.0}),
        (PCAReconstruction, {"kinds": {"x0": "colour"}}),
        (PCAReconstruction, {"kinds": {"y": "numeric"}}),
        (DistanceDrift, {"method": "manhattan"}),
        (DistanceDrift, {"permutations": 5}),
        (DistanceDrift, {"max_rows": 5}),
        (DomainClassifier, {"folds": 1}),
        (DomainClassifier, {"max_rows": 5}),
        (CorrelationDrift, {"method": "kendall"}),
        (CorrelationDrift, {"correction": "luck"}),
    ):
        with pytest.raises(BadConfiguration, match=next(iter(bad))):
            cls(normal(0), **bad)
    with pytest.raises(BadConfiguration, match="two numeric columns"):
        CorrelationDrift({"a": [1.0] * 50, "b": ["x"] * 50})
    with pytest.raises(BadConfiguration, match="nothing to decompose"):
        PCAReconstruction({"a": [1.0] * 90})


def test_without_scikit_learn_the_classifier_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(BadConfiguration, match="pip install scikit-learn"):
        DomainClassifier(normal(0))


def test_a_classifier_without_probabilities_is_fine():
    from sklearn.svm import LinearSVC

    old, new = normal(0), normal(1)
    new["x0"] = new["x0"] + 1.0
    result = DomainClassifier(old, model=LinearSVC()).detect_drift(new)
    assert result.drift_detected
    assert next(iter(result.moved)) == "x0"


# -- several methods --------------------------------------------------------------------


def test_methods_are_corrected_together():
    old, new = normal(0), normal(1)
    new["x2"] = new["x2"] + 0.2
    names = ("pca", "energy", "mmd", "correlation")
    report = MultivariateDetector(old, methods=names, events=Stream()).detect_drift(new)
    raw = {name: report[name].p_value for name in names}
    order = sorted(raw, key=raw.get)
    running = 0.0
    for rank, name in enumerate(order):
        running = max(running, min(1.0, raw[name] * (4 - rank)))
        assert report[name].p_adjusted == pytest.approx(running)
    assert json.loads(json.dumps(report.to_dict()))["methods"].keys() == set(names)


def test_a_family_without_drift_seldom_alarms():
    alarms = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        detector = MultivariateDetector(
            draw("normal", rng, 300), methods=("pca", "correlation"), events=Stream()
        )
        alarms += detector.detect_drift(draw("normal", rng, 200)).drift_detected
    assert alarms <= stats.binom.ppf(1 - 1e-4, 25, 0.05)


def test_facts_are_stated_on_transitions():
    events, heard = Stream(), []
    events.subscribe(DriftDetected, heard.append)
    events.subscribe(DriftCleared, heard.append)
    detector = MultivariateDetector(
        normal(0), methods=("pca", "correlation"), events=events, clock=SYSTEM_CLOCK, name="loans"
    )
    moved = normal(1)
    moved["x1"] = -moved["x1"]
    for batch in (normal(2), moved, moved, [], normal(3)):
        detector.detect_drift(batch)
    assert [type(fact) for fact in heard] == [DriftDetected, DriftCleared]
    assert set(heard[0].effects) == {"pca", "correlation"}
    assert heard[0].source == "loans"
    assert "x0 ~ x1" in heard[0].reason


def test_several_methods_may_be_inconclusive_together():
    detector = MultivariateDetector(normal(0), events=Stream())
    report = detector.detect_drift([])
    assert report.level is DriftLevel.INCONCLUSIVE
    assert report.inconclusive == ("pca", "energy", "correlation")
    assert report.drifted == ()
    assert "30 are needed" in repr(report)
    for bad in ({"methods": ("pca", "tarot")}, {"methods": ()}, {"correction": "luck"}):
        with pytest.raises(BadConfiguration, match=next(iter(bad))):
            MultivariateDetector(normal(0), **bad)


# -- answers ----------------------------------------------------------------------------


def test_numbers_and_classes_are_one_feature():
    rng = np.random.default_rng(0)
    scores = PredictionDriftDetector(rng.normal(size=500), events=Stream())
    assert not scores.detect_drift(rng.normal(size=300)).drift_detected
    assert scores.detect_drift(rng.normal(0.5, 1.0, size=300).tolist()).drifted == ("answer",)
    wrapped = [Prediction(value, "request") for value in rng.normal(0.5, 1.0, size=300)]
    assert scores.detect_drift(wrapped).drifted == ("answer",)
    codes = PredictionDriftDetector(rng.integers(0, 3, 500), codes=True, events=Stream())
    assert codes.detect_drift(rng.integers(0, 3, 300))["answer"].kind == "categorical"


def test_vectors_of_probabilities_are_looked_at_from_all_sides():
    rng = np.random.default_rng(0)
    check = PredictionDriftDetector(
        rng.dirichlet([3.0, 3.0, 3.0], 800), classes=("cat", "dog", "cow"), events=Stream()
    )
    assert not check.detect_drift(rng.dirichlet([3.0, 3.0, 3.0], 400)).drift_detected
    # As sure of each class on average, but less sure each time.
    flat = check.detect_drift(rng.dirichlet([30.0, 30.0, 30.0], 400))
    assert "confidence" in flat.drifted
    assert "class" not in flat.drifted
    assert flat["confidence"].effect > 0.3
    as_lists = check.detect_drift(rng.dirichlet([3.0, 3.0, 3.0], 400).tolist())
    assert not as_lists.drift_detected


def test_answers_of_another_form_are_drift_and_bad_ones_are_counted():
    rng = np.random.default_rng(0)
    good = rng.dirichlet([3.0, 3.0], 400)
    check = PredictionDriftDetector(good, events=Stream())
    assert check.detect_drift(rng.normal(size=400))["class"].reason == "the column is gone"
    assert check.detect_drift(rng.dirichlet([1.0] * 3, 400)).drift_detected
    broken = good.copy()
    broken[:200] = np.nan
    report = check.detect_drift(broken)
    assert "missing 0 % -> 50 %" in report["class"].reason
    ragged = [*good.tolist()[:200], *([[1.0]] * 200)]
    assert "missing 0 % -> 50 %" in check.detect_drift(ragged)["confidence"].reason
    assert check.detect_drift([]).inconclusive == ("p(0)", "p(1)", "class", "confidence")
    with pytest.raises(BadConfiguration, match="no answers"):
        PredictionDriftDetector([])
