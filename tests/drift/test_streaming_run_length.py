"""The run length asked is the run length got, whatever the unit and the distribution."""

import math

import numpy as np
import pytest

from prodml.drift import ADWIN, KSWIN, PageHinkley, RankCUSUM
from prodml.drift.streaming.rank_cusum import _tilt, edges_of, scores_of
from prodml.drift.streaming.run_length import log_threshold, threshold_of, tilt
from prodml.errors import BadConfiguration
from tests.drift.streams import DRAWS, delays, detections, run_lengths

# Asked here is a tenth of the default: the ordinary suite has seconds.
QUICK = {
    "rank-cusum": lambda: RankCUSUM(arl=1000.0),
    "page-hinkley": lambda: PageHinkley(arl=1000.0),
    "adwin": lambda: ADWIN(arl=1000.0),
}
FULL = {
    "RankCUSUM": (RankCUSUM, 300),
    "RankCUSUM spread": (lambda: RankCUSUM(on="spread"), 300),
    "PageHinkley": (PageHinkley, 200),
    "ADWIN": (ADWIN, 60),
    "KSWIN": (lambda: KSWIN(window_size=100, stat_size=30), 12),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("make", QUICK.values(), ids=QUICK)
def test_the_run_length_asked_is_got(make, draw):
    lengths = run_lengths(make, draw, runs=25, cap=4000)
    # Cut at four times what is asked, the mean of an exponential run of 1,000 is 982.
    assert lengths.mean() + 2.0 * lengths.std() / 5.0 >= 900


RARE = {
    "rank-cusum": (lambda: RankCUSUM(arl=1000.0, shift=1.0), 0.02, 1000),
    "page-hinkley": (lambda: PageHinkley(arl=3000.0, mode="up"), 0.1, 3000),
}


@pytest.mark.parametrize(("make", "rate", "asked"), RARE.values(), ids=RARE)
def test_rare_errors_run_as_long_though_each_is_a_large_step(make, rate, asked):
    def draw(rng, n):
        return (rng.random(n) < rate) * 1.0

    lengths = run_lengths(make, draw, runs=25, cap=4 * asked)
    assert lengths.mean() + 2.0 * lengths.std() / 5.0 >= 0.9 * asked


@pytest.mark.parametrize("make", [RankCUSUM, PageHinkley, ADWIN])
def test_units_do_not_matter(make):
    values = np.random.default_rng(3).normal(0, 1, 6000)
    values[4000:] += 0.7
    found = detections(make(), values.tolist())
    assert found
    for shifted in (100.0 + 20.0 * values, -7.0 + 1e-6 * values, 1e5 * values):
        assert detections(make(), shifted.tolist()) == found


def test_ranks_know_no_tail():
    values = np.random.default_rng(4).normal(0, 1, 5000)
    values[3000:] += 0.6
    for on in ("location", "spread"):
        found = detections(RankCUSUM(on=on), values.tolist())
        assert detections(RankCUSUM(on=on), np.exp(values).tolist()) == found


def test_one_outlier_is_no_change():
    rng = np.random.default_rng(6)
    for make in (RankCUSUM, PageHinkley):
        detector = make()
        detections(detector, rng.normal(0, 1, 500).tolist())
        assert not detector.update(1e9)
        detections(detector, rng.normal(0, 1, 100).tolist())
        assert detector.detections == 0


def test_half_a_standard_deviation_is_found_sooner_than_a_window_would():
    found = delays(RankCUSUM, DRAWS["N(0,1)"], lambda r, n: r.normal(0.5, 1, n), runs=20)
    assert np.median(found) <= 90
    assert found.max() < 4000


def test_a_doubled_error_rate_is_found():
    found = delays(
        RankCUSUM, DRAWS["Bernoulli(0.1)"], lambda r, n: (r.random(n) < 0.2) * 1.0, runs=20
    )
    assert np.median(found) <= 200


def test_a_wider_distribution_is_found_by_the_spread_alone():
    def wider(rng, n):
        return rng.normal(0.0, 1.5, n)

    found = delays(lambda: RankCUSUM(on="spread"), DRAWS["N(0,1)"], wider, runs=10)
    assert np.median(found) <= 100


def test_what_differs_from_a_constant_is_found():
    detector = RankCUSUM()
    assert detections(detector, [0.5] * 400) == []
    assert detections(detector, [0.500001] * 20)[0] < 10


def test_a_fitted_detector_is_ready_at_once():
    detector = RankCUSUM()
    detector.fit(np.random.default_rng(0).normal(0, 1, 1000))
    assert detections(detector, [2.5] * 20)[0] < 12
    with pytest.raises(BadConfiguration, match="at least 20 finite values, not 19"):
        detector.fit([1.0] * 19 + [math.nan] * 9)


def test_after_a_change_the_new_level_is_the_usual_one():
    rng = np.random.default_rng(8)
    values = [*rng.normal(0, 1, 1000), *rng.normal(3, 1, 3000)]
    found = detections(RankCUSUM(arl=1e6), values)
    assert len(found) == 1
    assert 1000 <= found[0] < 1020


@pytest.mark.parametrize(("length", "fall"), [(20_000.0, 0.125), (2_000.0, 0.5), (1e7, 0.01)])
def test_the_threshold_solves_its_equation(length, fall):
    b = log_threshold(length, fall)
    assert (math.expm1(b) - b) / fall == pytest.approx(length, rel=1e-9)


def test_siegmund_is_on_the_safe_side_of_the_known_run_length():
    # k = 0.5, h = 4.77 has a two-sided run length of 370 (Montgomery, table of CUSUM).
    assert threshold_of(2 * 370.0, 0.5) > 4.77
    # With the overshoot of 1.166 taken off it is the table's.
    assert threshold_of(2 * 370.0, 0.5) - 1.166 == pytest.approx(4.77, abs=0.05)


def test_the_tilt_makes_the_mean_of_the_exponential_one():
    counts = [0, 900, 100, 0]
    scores = scores_of(counts)
    t = _tilt(scores, counts, 0.25)
    mean = sum(n * math.exp(t * (z - 0.25)) for n, z in zip(counts, scores, strict=True)) / 1000
    assert mean == pytest.approx(1.0, abs=1e-6)
    assert t == pytest.approx(tilt(0.25, 8.0 / 3.0), rel=0.05)
    assert tilt(0.25, -3.0) == tilt(0.25) == 0.5


def test_cells_hold_atoms_apart():
    edges = edges_of([0.0] * 90 + [1.0] * 10, 64)
    assert edges == [0.0, 1.0, math.nextafter(1.0, 2.0)]
    assert len(edges_of(sorted(np.random.default_rng(0).random(5000).tolist()), 64)) == 66


@pytest.mark.soak
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize(("make", "runs"), FULL.values(), ids=FULL)
def test_ten_thousand_asked_is_nine_thousand_got(make, runs, draw):
    lengths = run_lengths(make, draw, runs=runs)
    assert lengths.mean() + lengths.std() / math.sqrt(runs) >= 9_000


@pytest.mark.soak
@pytest.mark.parametrize("make", [RankCUSUM, PageHinkley])
def test_normal_streams_of_two_units_run_alike(make):
    one, other = (
        run_lengths(make, DRAWS[name], runs=200).mean() for name in ("N(0,1)", "N(100,20)")
    )
    assert other == pytest.approx(one, rel=0.1)


@pytest.mark.parametrize("draw", [DRAWS["N(0,1)"], DRAWS["lognormal"], DRAWS["Bernoulli(0.1)"]])
@pytest.mark.parametrize("on", ["location", "spread"])
def test_a_run_is_not_cut_short_by_what_two_hundred_values_have_not_shown(on, draw):
    rng, early = np.random.default_rng(7), 0
    for _ in range(200):
        detector = RankCUSUM(on=on)
        early += bool(detections(detector, draw(rng, 600).tolist()))
    # An exponential run of 10,000 ends there in 5.8 of a hundred; the first 200 values only teach.
    assert early <= 200 * 0.04 + 3 * math.sqrt(200 * 0.04)


def test_a_spread_that_changes_soon_is_found():
    found = delays(
        lambda: RankCUSUM(on="spread"),
        DRAWS["N(0,1)"],
        lambda rng, n: rng.normal(0.0, 1.5, n),
        runs=20,
        calm=300,
    )
    assert found.max() < 1000
