"""Rows of one day are alike: whole days are dealt out, and the level holds."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.tree import DecisionTreeClassifier

from prodml.drift import (
    CorrelationDrift,
    DistanceDrift,
    DomainClassifier,
    DriftLevel,
    MultivariateDetector,
    PCAReconstruction,
    PredictionDriftDetector,
)
from prodml.drift.multivariate.auc import delong
from prodml.drift.multivariate.dealing import Held, dealt, share_as_far
from prodml.drift.multivariate.encoding import Encoder
from prodml.errors import BadConfiguration
from prodml.events import Stream

SMALL = DecisionTreeClassifier(max_leaf_nodes=8, random_state=0)


def energy(data, **kwargs):
    return DistanceDrift(data, permutations=99, max_rows=200, **kwargs)


def kernel(data, **kwargs):
    return DistanceDrift(data, method="mmd", permutations=99, max_rows=200, **kwargs)


def classifier(data, **kwargs):
    return DomainClassifier(data, model=SMALL, max_rows=300, **kwargs)


METHODS = {
    "pca": PCAReconstruction,
    "energy": energy,
    "mmd": kernel,
    "correlation": CorrelationDrift,
    "classifier": classifier,
}
each_method = pytest.mark.parametrize("method", METHODS)


def days(seed, count, rows=30, alike=0.3, turn=1.0):
    """Days that have a level, a width and a dependence of their own."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(count), rows)

    def column():
        own, wide = rng.normal(size=count)[day], np.exp(alike * rng.normal(size=count))[day]
        return math.sqrt(alike) * own + math.sqrt(1 - alike) * wide * rng.normal(size=len(day))

    x = column()
    rho = turn * np.clip(0.5 + alike * rng.normal(size=count)[day], -0.95, 0.95)
    return {"x": x, "y": rho * x + np.sqrt(1 - rho**2) * column(), "z": column()}, day


# Runs, days of the reference and of current.
RUNS = {
    "pca": (14, 14, 2),
    "energy": (14, 14, 2),
    "mmd": (14, 14, 2),
    "correlation": (40, 24, 12),
    "classifier": (16, 12, 10),
}


@each_method
def test_the_level_holds_for_days_that_differ_and_only_if_days_are_dealt(method):
    runs, before, after = RUNS[method]
    most = stats.binom.ppf(1 - 1e-4, runs, 0.05)
    alarms = {"days": 0, "rows": 0}
    for seed in range(runs):
        old, day = days(seed, before, rows=60, alike=0.4)
        new, today = days(1000 + seed, after, rows=60, alike=0.4)
        alarms["rows"] += METHODS[method](old).detect_drift(new).p_value < 0.05
        found = METHODS[method](old, blocks=day).detect_drift(new, blocks=today)
        assert found.level is not DriftLevel.INCONCLUSIVE
        alarms["days"] += found.p_value < 0.05
    assert alarms["days"] <= most
    assert alarms["rows"] > most


@each_method
def test_drift_is_found_across_days_and_named(method):
    old, day = days(0, 60, alike=0.1)
    new, today = days(1, 40, alike=0.1, turn=-1.0)
    check = METHODS[method](old, blocks=[f"day {at}" for at in day])
    found = check.detect_drift(new, blocks=today)
    assert found.drift_detected
    if method != "classifier":
        assert "40 of 100 blocks" in found.reason
    if method == "correlation":
        assert found.pairs[0].name == "x ~ y"
    # The same each time, whatever the labels are called and whatever order rows come in.
    assert check.detect_drift(new, blocks=today.astype(str)) == found


@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "correlation"])
def test_a_batch_without_labels_is_one_block_among_those_of_the_reference(method):
    old, day = days(0, 40, rows=40, alike=0.1)
    check = METHODS[method](old, blocks=day)
    calm = check.detect_drift(days(1, 1, rows=40, alike=0.1)[0])
    assert calm.level is DriftLevel.NONE
    turned = days(2, 1, rows=40, alike=0.1)[0]
    turned["y"] = 9.0 - 9.0 * turned["x"]
    found = check.detect_drift(turned)
    assert found.drift_detected
    assert found.p_value == 1 / 41
    assert "1 of 41 blocks" in found.reason


@pytest.mark.soak
@pytest.mark.parametrize("method", ["pca", "energy", "mmd", "correlation"])
def test_a_single_day_alarms_as_rarely_as_asked(method):
    alarms = 0
    for seed in range(300):
        old, day = days(seed, 40, alike=0.2)
        new, _ = days(1000 + seed, 1, alike=0.2)
        alarms += METHODS[method](old, blocks=day).detect_drift(new).p_value < 0.05
    assert alarms <= stats.binom.ppf(1 - 1e-3, 300, 2 / 41)


@pytest.mark.soak
def test_the_level_of_the_classifier_holds_at_the_fewest_days_it_takes():
    alarms = 0
    for seed in range(200):
        old, day = days(seed, 12)
        new, today = days(1000 + seed, 10)
        found = classifier(old, blocks=day).detect_drift(new, blocks=today)
        alarms += found.p_value < 0.05
    assert alarms <= stats.binom.ppf(1 - 1e-3, 200, 0.05)


def test_too_few_blocks_for_a_small_p_value_are_inconclusive_and_say_how_many_would_do():
    old, day = days(0, 15)
    new, _ = days(1, 1)
    for method in ("pca", "energy", "mmd", "correlation"):
        found = METHODS[method](old, blocks=day).detect_drift(new)
        assert found.level is DriftLevel.INCONCLUSIVE
        assert math.isnan(found.p_value)
        assert "16 ways" in found.reason
        assert "21 blocks would do" in found.reason
    found = classifier(days(0, 60)[0], blocks=days(0, 60)[1]).detect_drift(new)
    assert found.level is DriftLevel.INCONCLUSIVE
    assert "1 of 61 blocks" in found.reason
    assert "at least 10" in found.reason


def test_several_methods_ask_for_as_many_blocks_as_their_correction_needs():
    old, day = days(0, 40)
    new, today = days(1, 2)
    detector = MultivariateDetector(old, blocks=day, events=Stream())
    # 1 / 41 is below alpha, three times as much is not.
    alone = detector.detect_drift({name: values[:30] for name, values in new.items()})
    assert alone.inconclusive == ("pca", "energy", "correlation")
    assert "61 blocks would do" in alone["pca"].reason
    both = detector.detect_drift(new, blocks=today)
    assert both.inconclusive == ()
    plain = MultivariateDetector(old, blocks=day, correction="none", events=Stream())
    assert plain.detect_drift(new).inconclusive == ()


def test_answers_of_days_are_weighed_by_day():
    alarms = {"rows": 0, "days": 0}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        old, new = (np.repeat(rng.normal(size=count), 50) for count in (40, 2))
        old, new = (side + rng.normal(size=len(side)) for side in (old, new))
        for name, blocks in (("rows", None), ("days", np.arange(2000) // 50)):
            check = PredictionDriftDetector(old, blocks=blocks, events=Stream())
            alarms[name] += check.detect_drift(new).drift_detected
    assert alarms["rows"] >= 9
    assert alarms["days"] <= 3
    with pytest.raises(BadConfiguration, match="blocks"):
        PredictionDriftDetector(np.arange(100.0), blocks=range(9))


# -- the arithmetic ---------------------------------------------------------------------


class Plain:
    """Encodes nothing."""

    names = ("a", "b")

    def raw(self, data):
        return data

    def pair(self, old, new):
        return tuple(self.sheet(np.column_stack(list(side.values()))) for side in (old, new))

    def sheet(self, values):
        some = np.ones(len(values), dtype=bool)
        return Encoder.fit({"a": [1.0]})[1].__class__(values, self.names, {}, {}, len(some), some)


def deal(seed=0, blocks=8, new=2, rows=3, permutations=499):
    rng = np.random.default_rng(seed)
    old = {name: rng.normal(size=10 * rows) for name in "ab"}
    current = {name: rng.normal(size=new * rows) for name in "ab"}
    held = Held.of(old, np.arange(10 * rows) // rows, np.ones(10 * rows, bool), 99, rng)
    labels = np.arange(new * rows) // rows
    coder = Plain()
    sheet = coder.sheet(np.empty((new * rows, 2)))
    return dealt(held, coder, current, sheet, labels, permutations=permutations, seed=0)


def test_few_dealings_are_all_dealt_and_many_are_drawn():
    few = deal()
    assert few.ways.shape == (12, math.comb(12, 2))
    assert {tuple(np.flatnonzero(way)) for way in few.ways.T} == set(combinations(range(12), 2))
    assert np.flatnonzero(few.ways[:, 0]).tolist() == [0, 1]
    many = deal(new=6, permutations=50)
    assert many.ways.shape == (16, 51)
    assert (many.ways.sum(axis=0) == 6).all()
    assert np.flatnonzero(many.ways[:, 0]).tolist() == list(range(6))


def test_a_distance_by_block_is_the_distance_of_the_rows_dealt():
    from prodml.drift.multivariate import distance

    rows = deal()
    pairs = distance._block_pairs(rows, distance._root)
    found = distance._of_distance(pairs, 6)
    expected = []
    for way in rows.ways.T:
        new = way[rows.codes]
        x, y = rows.rows[new], rows.rows[~new]
        expected.append(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())
    assert found.statistic == pytest.approx(expected[0], rel=1e-9)
    assert found.p_value == pytest.approx(np.mean(np.array(expected) >= expected[0] - 1e-12))
    assert found.rows == (6, 30)


def test_a_change_of_correlation_by_block_is_fishers_of_the_rows_dealt():
    from prodml.drift.multivariate.correlation import _changes

    rows = deal(rows=6)
    gaps = rows.rows.copy()
    gaps[::5, 0] = np.nan
    found = _changes(rows, gaps, rows.ways.T.astype(float))
    for way, change in zip(rows.ways.T, found, strict=True):
        new, both = way[rows.codes], ~np.isnan(gaps[:, 0])
        z = [np.arctanh(np.corrcoef(gaps[side & both].T)[0, 1]) for side in (new, ~new)]
        error = sum(1 / ((side & both).sum() - 3) for side in (new, ~new))
        assert change == pytest.approx(abs(z[0] - z[1]) / math.sqrt(error), rel=1e-9)


def test_an_auc_by_block_varies_as_obuchowski_says():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.3, 1.0, size=12), rng.normal(size=15)
    of_x, of_y = np.arange(12) // 3, np.arange(15) // 5
    auc, variance = delong(x, y, (of_x, of_y))
    above = (x[:, None] > y[None, :]).astype(float)
    expected = 0.0
    for parts, codes in ((above.mean(axis=1), of_x), (above.mean(axis=0), of_y)):
        sums = np.bincount(codes, parts - parts.mean())
        expected += len(sums) / (len(sums) - 1) * (sums**2).sum() / len(parts) ** 2
    assert auc == pytest.approx(above.mean())
    assert variance == pytest.approx(expected)
    # Blocks of one row are rows.
    assert delong(x, y, (np.arange(12), np.arange(15))) == pytest.approx(delong(x, y))


def test_the_share_of_dealings_counts_the_real_one():
    assert share_as_far(np.array([1.0, 2.0, 3.0, 0.0])) == 0.75
    assert share_as_far(np.array([9.0, 2.0])) == 0.5
    # The same dealing added up in another order.
    assert share_as_far(np.array([0.3, 0.1 + 0.2, 0.3 - 1e-16]), 1.0) == 1.0


# -- labels -----------------------------------------------------------------------------


@each_method
def test_bad_labels_of_blocks_are_refused(method):
    old, day = days(0, 12)
    new, today = days(1, 12)
    for bad, told in (
        (day[:5], "5 labels"),
        (day // 3, "at least 10"),
        ([None, *day[1:]], "without a block"),
        (np.where(day == 0, np.nan, day), "without a block"),
    ):
        with pytest.raises(BadConfiguration, match=told):
            METHODS[method](old, blocks=bad)
    check = METHODS[method](old, blocks=day)
    with pytest.raises(TypeError, match="3 labels of blocks for 360 rows"):
        check.detect_drift(new, blocks=today[:3])
    with pytest.raises(TypeError, match="without a block"):
        check.detect_drift(new, blocks=[None] * len(today))
    with pytest.raises(BadConfiguration, match="blocks of current need those of the reference"):
        METHODS[method](old).detect_drift(new, blocks=today)
    assert check.reference is None
    assert check.blocks is None


def test_more_level_than_dealings_is_refused():
    old, day = days(0, 12)
    with pytest.raises(BadConfiguration, match=r"alpha must be above 0\.002"):
        PCAReconstruction(old, blocks=day, alpha=0.001)


@each_method
def test_blocks_take_missing_values_levels_and_empty_rows(method):
    old, day = days(0, 30)
    new, today = days(1, 20)
    rng = np.random.default_rng(0)
    for table in (old, new):
        rows = len(table["x"])
        table["x"][rng.random(rows) < 0.2] = np.nan
        table["level"] = rng.choice(["a", "b", None], size=rows).tolist()
        for name in table:
            for at in range(0, rows, 7):
                table[name][at] = None if name == "level" else np.nan
    check = METHODS[method](old, blocks=day)
    assert check.detect_drift(new, blocks=today).level is DriftLevel.NONE
    assert check.detect_drift([]).level is DriftLevel.INCONCLUSIVE
    assert check.detect_drift({"x": new["x"]}, blocks=today).drift_detected


def test_blocks_without_number_and_of_one_row_are_rows():
    rng = np.random.default_rng(0)
    old = {f"x{i}": rng.normal(size=3000) for i in range(3)}
    new = {f"x{i}": rng.normal(0.4, 1.0, size=1500) for i in range(3)}
    check = DistanceDrift(old, blocks=range(3000))
    assert check.detect_drift(new, blocks=range(1500)).drift_detected
    assert check._held.sizes.sum() <= 2000


def test_a_small_block_of_current_is_not_judged_by_the_size_of_others():
    # Six rows lie further from all others than twenty do, and that is no drift.
    alarms = 0
    for seed in range(30):
        old, day = days(seed, 40, rows=20, alike=0.0)
        new, _ = days(500 + seed, 1, rows=6, alike=0.0)
        check = DistanceDrift(old, blocks=day, min_rows=6, max_rows=400)
        alarms += check.detect_drift(new).p_value < 0.05
    assert alarms <= stats.binom.ppf(1 - 1e-4, 30, 2 / 41)


def test_the_interval_of_a_classifier_is_as_wide_as_days_differ():
    old, day = days(0, 40, alike=0.9)
    new, today = days(1, 30, alike=0.9)
    low, high = classifier(old, blocks=day).detect_drift(new, blocks=today).interval
    by_row = classifier(old).detect_drift(new).interval
    assert high - low > 2.0 * (by_row[1] - by_row[0])
