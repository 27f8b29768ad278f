"""The bets are fair, what is counted adds up, and the budget holds on seeded runs."""

import itertools
import math

import numpy as np
import pytest
from benchmarks._drift_simulation import SHAPES, Looks, lumpy, most_evidence, shifted
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import binom

from prodml.drift.bets import level_bets, number_bets
from prodml.drift.sample import Levels, levels_of, numbers_of
from prodml.drift.sequential import Grains, Ledger, watched
from prodml.drift.tracks import level_track, number_track, status_track

cells = st.lists(st.integers(1, 40), min_size=2, max_size=5).map(lambda k: np.array([k], float))


def with_one_more(counts):
    return np.array([counts + one for one in np.eye(counts.shape[1], dtype=int)[:, None]])


# -- the bets ---------------------------------------------------------------------------------


@given(cells, st.data())
@settings(max_examples=60, deadline=None)
def test_bets_on_numbers_are_a_martingale_if_gaps_are_dirichlet(k, data):
    """The mean wealth after one more row, over where it falls, is the wealth before it."""
    bets = number_bets(k)
    size = k.shape[1]
    counts = np.array([data.draw(st.lists(st.integers(0, 60), min_size=size, max_size=size))])
    chance = (k + counts)[0] / (k + counts).sum()
    before = math.exp(bets.log_wealth(counts[None])[0])
    after = np.exp(bets.log_wealth(with_one_more(counts)))
    assert chance @ after == pytest.approx(before, rel=1e-9)


def test_bets_begin_with_one_and_are_fair_over_all_outcomes():
    k, rows = np.array([[3.0, 1.0, 2.0]]), 7
    outcomes = np.array(
        [c for c in itertools.product(range(rows + 1), repeat=3) if sum(c) == rows]
    )[:, None]
    log_chance = (
        gammaln(rows + 1)
        + gammaln(k.sum())
        - gammaln(k.sum() + rows)
        + (gammaln(k + outcomes) - gammaln(k) - gammaln(outcomes + 1)).sum(axis=(1, 2))
    )
    assert np.exp(log_chance).sum() == pytest.approx(1.0)
    for bets in (number_bets(k), level_bets(k)):
        assert bets.log_wealth(np.zeros((1, 1, 3)))[0] == pytest.approx(0.0)
        assert np.exp(log_chance + bets.log_wealth(outcomes)).sum() == pytest.approx(1.0)


def test_doubt_makes_a_group_less_certain():
    k, counts = np.array([[90.0, 10.0]]), np.array([[[60, 40]]])
    sure, doubted = (level_bets(k, np.array([1.0, d])) for d in (1.0, 20.0))
    assert doubted.log_wealth(counts)[0] < sure.log_wealth(counts)[0] - 1


@pytest.mark.parametrize(("n", "m"), [(60, 40), (60, 400), (300, 300)])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.02, 0.005, 0.0005])
def test_bets_on_levels_are_not_worth_more_than_one_whatever_the_share(n, m, share):
    """For fixed levels there is no exact law: the mean over all references is counted out."""
    mean = 0.0
    for hits in range(n + 1):
        chance = binom.pmf(hits, n, share)
        if chance < 1e-9:
            continue
        counts = {level: c for level, c in (("a", n - hits), ("b", hits)) if c}
        track = level_track([Levels(counts, n)])
        x = np.arange(m + 1)
        seen = np.array(
            [track.count(Levels({"a": int(m - i), "b": int(i)}, m)) for i in x], dtype=np.int64
        )
        mean += chance * float((binom.pmf(x, m, share) * np.exp(track.wealth(seen[:, None]))).sum())
    assert 0.2 < mean <= 1.0


# -- what is counted ------------------------------------------------------------------------------


def test_cells_of_numbers_are_the_gaps_between_ranks():
    track = number_track([numbers_of(np.random.default_rng(0).normal(size=500))])
    # 500 values leave 501 gaps, and the outermost cells hold one each.
    assert track.bets.cells.sum() == 501
    assert track.bets.cells[0, 0] == track.bets.cells[0, -1] == 1
    assert track.shares.sum() == pytest.approx(1.0)


@given(
    st.lists(st.floats(-5, 5).map(lambda x: round(x, 1)), min_size=30, max_size=200),
    st.lists(st.floats(-9, 9), max_size=50),
)
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_cell(reference, batch):
    old, new = numbers_of(reference), numbers_of(batch)
    track = number_track([old])
    counts = track.count(new)
    assert counts.sum() == len(batch)
    assert (counts >= 0).all()
    for edge, upto in zip(track.cuts[0], np.cumsum(counts), strict=False):
        assert upto == sum(x <= edge for x in batch)
    np.testing.assert_allclose(track.count(old) / old.size, track.shares[0])


def test_lumps_are_cells_of_their_own_and_rounding_stays_in_them():
    values = np.where(np.arange(1000) % 10 < 9, 0.0, np.linspace(-1, 1, 1000))
    track = number_track([numbers_of(values)])
    top = int(track.shares[0].argmax())
    assert track.shares[0, top] == pytest.approx(0.9, abs=0.002)
    one = number_track([numbers_of(np.ones(100))])
    assert one.count(numbers_of([1.0 + 1e-12, 1.0 - 1e-12, 1.0])).tolist() == [0, 3, 0]
    assert one.count(numbers_of([1.1, 0.9, 1.0])).tolist() == [1, 1, 1]


def test_levels_are_kept_or_rare_or_new():
    reference = levels_of([f"l{i}" for i in range(60) for _ in range(60 - i)])
    track = level_track([reference])
    assert len(track.labels) == 42
    counts = track.count(levels_of(["l0", "l59", "l45", "other", None]))
    assert (counts[0], counts[-2], counts[-1], counts.sum()) == (1, 2, 1, 4)


def test_new_levels_are_expected_as_often_as_levels_that_occur_once():
    track = level_track([levels_of(["a"] * 50 + [f"once {i}" for i in range(50)])])
    assert track.bets.cells[0, -1] == 50.5
    assert track.bets.doubts[-1] == pytest.approx(1 + 50 / 50.5)


def test_status_counts_every_row():
    track = status_track([numbers_of([1.0] * 99 + [None])])
    counts = track.count(numbers_of([1.0, None, math.inf, "x", math.nan]))
    assert counts.tolist() == [1, 1, 1, 2]


def test_the_counts_by_cell_of_a_histogram_serve_like_the_values():
    cells_of = pytest.importorskip("prodml.drift.cells").Cells
    rng = np.random.default_rng(0)
    values, batch = rng.normal(size=5000), rng.normal(size=500) + 0.3
    exact, coarse = number_track([numbers_of(values)]), number_track([cells_of.of(values)])
    assert coarse.shares.shape[1] >= 15
    assert coarse.shares.sum() == pytest.approx(1.0)
    layout = cells_of.of(values).layout
    by_values = coarse.count(numbers_of(batch))
    assert by_values.tolist() == coarse.count(cells_of.of(batch, layout)).tolist()
    wealth = [float(t.wealth(t.count(numbers_of(batch))[None, None])[0]) for t in (exact, coarse)]
    assert wealth[1] == pytest.approx(wealth[0], rel=0.15)


# -- what is kept ------------------------------------------------------------------------------


GRAINS = Grains.over(100.0, 1.0)
batches = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5), st.integers(0, 5)), max_size=40)


def ledger_of(rows):
    ledger = Ledger(GRAINS, (1, 2))
    for time, a, b in rows:
        ledger.add(time + 0.5, np.array([[a, b]]))
    return ledger


@given(batches.map(sorted))
@settings(max_examples=60, deadline=None)
def test_a_ledger_says_what_has_come_since_each_start(rows):
    starts = ledger_of(rows).starts()
    for time, counts in zip(starts.times, starts.counts, strict=True):
        since = [row for row in rows if row[0] >= time]
        assert counts.tolist() == [[sum(r[1] for r in since), sum(r[2] for r in since)]]
    last = rows[-1][0] if rows else 0
    assert set(starts.times) >= {row[0] for row in rows if row[0] > last - 24}


@given(batches, st.randoms(use_true_random=False), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_replicas_add_up_in_any_order_to_the_same_ledger(rows, random, cut):
    whole = ledger_of(sorted(rows))
    shuffled = sorted(rows)
    random.shuffle(shuffled)
    left, right = ledger_of(shuffled[:cut]), ledger_of(shuffled[cut:])
    left.merge(right)
    kept = Ledger(GRAINS, (1, 2))
    kept.load(left.to_list())
    assert kept.to_list() == left.to_list()
    newest = max((row[0] for row in rows), default=0)
    for one, two in zip(whole.levels, left.levels, strict=True):
        assert {g: c.tolist() for g, c in one.items()} == {g: c.tolist() for g, c in two.items()}
        assert all(grain > newest - 24 for grain in one) or one is not whole.levels[0]


def test_counts_of_another_shape_are_refused_and_nothing_is_added():
    ledger = ledger_of([(1, 2, 3)])
    for wrong in ([{}], [{"0": [[1]]}, {}], [{"0": [[1, 2, 3]]}, {}]):
        with pytest.raises(ValueError, match="shape"):
            ledger.load(wrong)
    assert ledger.to_list() == ledger_of([(1, 2, 3)]).to_list()


@pytest.mark.parametrize(("period", "every"), [(91, 1), (1440, 1), (131_490, 1), (7, 7), (10, 3)])
def test_no_period_holds_more_starts_than_share_its_budget(period, every):
    grains = Grains.over(period, every)
    total = 0.0
    for level, weight in enumerate(grains.weights):
        size = every * 8**level
        # Alive at the beginning of the period, or begun in it, wherever it begins.
        first, last = 10_000 * size - 23 * size, 10_000 * size + period + 0.5 * size
        total += weight * (grains.at(last, level) - grains.at(first, level) + 1)
    assert total <= 1.0
    assert 24 * grains.every * 8 ** (grains.levels - 1) >= period


def test_a_reference_too_small_or_without_use_says_why():
    small = watched("x", "numeric", [numbers_of([1.0] * 10)], {}, 30)
    assert small.tracks == ()
    assert "10 rows in the reference" in small.problem
    gone = watched("x", "numeric", [numbers_of([None] * 50)], {}, 30)
    assert [track.name for track in gone.tracks] == ["status"]
    names = watched("x", "categorical", [levels_of([str(i) for i in range(50)])], {}, 30)
    assert "identifier" in names.problem


# -- the promise -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_evidence_without_drift_stays_within_the_budget(shape):
    found = [most_evidence(shape, Looks(looks=30), seed) for seed in range(4)]
    # One in 400 is what the budget of a feature of 20 allows.
    assert max(found) < math.log(400)
    assert sum(x > math.log(5) for x in found) <= 3


def test_a_fifth_of_a_standard_deviation_in_one_of_twenty_features_is_found_in_days():
    found = [shifted(0.2, seed, quiet=3, days=25) for seed in range(3)]
    assert min(found) > 0
    assert np.median(found) <= 9


def test_half_a_standard_deviation_is_found_on_the_first_day():
    assert [shifted(0.5, seed, quiet=3, days=3) for seed in range(2)] == [1, 1]


def test_days_that_share_their_weather_do_not_alarm_where_they_are_blocks():
    assert lumpy(0.3, 0, days=2, features=3, calibrated=False).drift_detected
    assert not lumpy(0.3, 0, days=12, features=3).drift_detected


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "plan",
    [
        Looks(),
        Looks(reference=100_000),
        Looks(rows=5, looks=1440, every=60.0, period=86400.0),
    ],
    ids=["daily", "daily, large reference", "each minute"],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_evidence_without_drift_stays_within_the_budget_for_long(shape, plan):
    runs = 1000 if plan.looks < 1000 else 200
    found = np.array([most_evidence(shape, plan, seed) for seed in range(runs)])
    for k in (5, 20, 400):
        assert (found > math.log(k)).sum() <= binom.ppf(1 - 1e-4, runs, 1 / k)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_delays_for_long():
    found = np.array([shifted(0.2, seed) for seed in range(200)])
    assert (found <= 0).sum() <= binom.ppf(1 - 1e-4, 200, 0.05)
    right = found[found > 0]
    assert np.median(right) <= 9
    assert (right <= 60).mean() >= 0.9


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_blocks_for_long(share):
    found = [lumpy(share, seed).drift_detected for seed in range(40)]
    assert sum(found) <= binom.ppf(1 - 1e-3, 40, 0.05)
