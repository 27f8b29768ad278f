"""Each guard by itself: what it calls worse, what cancels, what it does with bad values."""

import math
import random
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from prodml.rollout import (
    Disagreement,
    ErrorRate,
    Floor,
    Latency,
    Metric,
    PairedLoss,
    Verdict,
)
from prodml.rollout.odds import ODDS
from prodml.rollout.share import share_bets

losses = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=50)


def told(guard, pairs):
    for challenger, stable in pairs:
        guard.observe(challenger, stable)
    return guard.judge()


def looks(guard, stream, observe, every=20):
    """Occasions until the guard says WORSE, looked at now and then; None if it never does."""
    for place, value in enumerate(stream, 1):
        observe(guard, value)
        if place % every == 0 and guard.judge().verdict is Verdict.WORSE:
            return guard.count
    return None


# -- paired losses ----------------------------------------------------------------------


def noisy(rng, mean, sd=0.112):
    """A pair of Brier-like losses with this mean difference."""
    d = min(1.0, max(-1.0, rng.gauss(mean, sd)))
    return 0.5 + d / 2, 0.5 - d / 2


def pair(guard, losses):
    guard.observe(*losses)


def test_equal_losses_are_fine_when_there_are_enough():
    guard = PairedLoss(enough=10)
    assert told(guard, [(0.2, 0.2)] * 9).verdict is Verdict.UNKNOWN
    assert told(guard, [(0.2, 0.2)]).verdict is Verdict.FINE


def test_a_loss_that_cannot_be_told_counts_as_a_full_one():
    assert told(PairedLoss(enough=1), [(math.nan, 0.1)] * 60).verdict is Verdict.WORSE
    assert told(PairedLoss(enough=1), [(0.1, math.nan)]).verdict is Verdict.FINE


@settings(deadline=None)
@given(losses)
def test_the_wealth_of_equal_arms_never_grows_on_average(pairs):
    # For each pair the mean over (a, b) and (b, a) of every factor is at most one.
    for a, b in pairs:
        one, other = PairedLoss(tolerance=0.0), PairedLoss(tolerance=0.0)
        one.observe(a, b)
        other.observe(b, a)
        for place in range(8):
            gained = [math.exp(guard.tally[f"w{place}"]) for guard in (one, other)]
            assert sum(gained) / 2 <= 1.0 + 1e-12


def test_a_harmless_challenger_is_rarely_called_worse_however_often_one_looks():
    wrong = 0
    for seed in range(60):
        rng = random.Random(seed)
        pairs = (noisy(rng, 0.0) for _ in range(600))
        wrong += looks(PairedLoss(alpha=0.05, tolerance=0.0), pairs, pair, every=5) is not None
    assert wrong <= 8


def test_the_harm_of_a_bad_release_is_found_within_two_days_of_flights():
    found = []
    for seed in range(20):
        rng = random.Random(seed)
        pairs = (noisy(rng, 0.0155) for _ in range(1800))
        found.append(looks(PairedLoss(tolerance=0.002), pairs, pair, every=25))
    assert sum(place is not None for place in found) >= 19
    assert sorted(place or 9999 for place in found)[10] <= 950


@pytest.mark.soak
def test_false_alarms_stay_below_alpha_over_many_runs():
    wrong = 0
    for seed in range(2000):
        rng = random.Random(seed)
        pairs = (noisy(rng, 0.0) for _ in range(3000))
        wrong += looks(PairedLoss(alpha=0.05, tolerance=0.0), pairs, pair, every=10) is not None
    assert wrong / 2000 <= 0.05 + 2 * (0.05 * 0.95 / 2000) ** 0.5


# -- error rates ------------------------------------------------------------------------


def traffic(rng, canary_rate, stable_rate, share=0.1, requests=20_000):
    for _ in range(requests):
        canary = rng.random() < share
        yield canary, rng.random() >= (canary_rate if canary else stable_rate)


def request(guard, seen):
    canary, ok = seen
    guard.observe(canary=canary, ok=ok)


def test_a_canary_request_without_stable_ones_says_nothing():
    guard = ErrorRate(enough=1)
    for _ in range(50):
        guard.observe(canary=True, ok=False)
    assert (guard.count, guard.judge().verdict) == (0, Verdict.UNKNOWN)


def test_an_incident_upstream_hits_both_arms_and_rolls_nothing_back():
    wrong = 0
    for seed in range(30):
        rng = random.Random(seed)
        calm = traffic(rng, 0.005, 0.005, requests=3000)
        storm = traffic(rng, 0.5, 0.5, requests=3000)
        wrong += looks(ErrorRate(alpha=0.05), [*calm, *storm], request) is not None
    assert wrong <= 4


def test_a_canary_that_shields_from_failures_of_stable_is_fine():
    rng = random.Random(3)
    guard = ErrorRate()
    assert looks(guard, traffic(rng, 0.0, 0.2, requests=9000), request) is None
    assert guard.judge().verdict is Verdict.FINE


def test_a_broken_canary_is_found_within_sixty_requests():
    found = []
    for seed in range(25):
        stream = traffic(random.Random(seed), 0.10, 0.005)
        found.append(looks(ErrorRate(), stream, request))
    assert None not in found
    assert sorted(found)[12] <= 60


def test_a_tolerance_is_what_the_canary_may_fail_of_what_stable_answers():
    # 7 % against 1 %: within a tolerance of 7 %, and beyond one of 1 %.
    kept, found = [], []
    for seed in range(8):
        stream = [*traffic(random.Random(seed), 0.07, 0.01, requests=8000)]
        kept.append(looks(ErrorRate(tolerance=0.07), stream, request))
        found.append(looks(ErrorRate(tolerance=0.01), stream, request))
    assert kept == [None] * 8
    assert None not in found


# -- latency ----------------------------------------------------------------------------


def slow(rng, factor, share=0.1, requests=8000, base=1.0):
    for _ in range(requests):
        canary = rng.random() < share
        yield canary, rng.lognormvariate(-3, 0.8) * base * (factor if canary else 1.0)


def timed(guard, seen):
    guard.observe(seen[1], canary=seen[0])


def test_a_canary_within_the_factor_is_fine_and_one_beyond_is_found():
    within, beyond = [], []
    for seed in range(8):
        for factor, found in ((1.2, within), (2.0, beyond)):
            found.append(looks(Latency(), slow(random.Random(seed), factor), timed))
    assert within == [None] * 8
    assert None not in beyond
    assert sorted(beyond)[4] <= 500


def test_a_slow_hour_of_the_whole_system_cancels():
    wrong = 0
    for seed in range(12):
        rng = random.Random(seed)
        hours = [*slow(rng, 1.0, requests=3000), *slow(rng, 1.0, requests=3000, base=6.0)]
        wrong += looks(Latency(), hours, timed) is not None
    assert wrong <= 1


def test_without_a_quantile_of_stable_there_is_nothing_to_compare_with():
    guard = Latency(enough=1)
    for _ in range(99):
        guard.observe(0.1, canary=False)
        guard.observe(9.0, canary=True)
    assert guard.count == 0
    for _ in range(30):
        guard.observe(0.1, canary=False)
        guard.observe(9.0, canary=True)
    assert guard.judge().verdict is Verdict.WORSE
    assert guard.judge().numbers["limit"] == 0.1


def test_latencies_that_are_no_numbers_are_left_out():
    guard = Latency(enough=1)
    for _ in range(200):
        guard.observe(0.1, canary=False)
        guard.observe(math.nan, canary=True)
        guard.observe(math.inf, canary=True)
    assert guard.count == 0


# -- disagreement -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (1.0, 1.0 + 1e-7),
        (0, 1e-9),
        (math.nan, math.nan),
        (math.inf, math.inf),
        ("cat", "cat"),
        ([0.1, 0.9], (0.1, 0.9)),
        (np.array([0.1, 0.9]), np.array([0.1, 0.9 + 1e-8])),
        (np.float32(0.5), 0.5),
        ({"p": 0.5, "label": "a"}, {"label": "a", "p": 0.5 + 1e-8}),
        (None, None),
        (Decimal("1.5"), Decimal("1.50")),
    ],
)
def test_answers_that_are_the_same(mine, theirs):
    assert not Disagreement().differ(mine, theirs)
    assert not Disagreement().differ(theirs, mine)


class Stubborn:
    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = object.__hash__


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (1.0, 1.1),
        (1.0, math.nan),
        (math.inf, 1.0),
        (math.inf, -math.inf),
        ("cat", "dog"),
        ([0.1], [0.1, 0.9]),
        (np.array([0.1, 0.9]), np.array([0.1, 0.8])),
        ({"p": 0.5}, {"p": 0.5, "label": "a"}),
        (True, 0.5),
        (None, 0.0),
        (Stubborn(), 1.0),
    ],
)
def test_answers_that_differ(mine, theirs):
    assert Disagreement().differ(mine, theirs)
    assert Disagreement().differ(theirs, mine)


def test_the_share_of_different_answers_decides():
    guard = Disagreement(below=0.05, enough=200)
    assert told(guard, [(0.0, 0.0)] * 192 + [(0.0, 1.0)] * 8).verdict is Verdict.FINE
    assert told(guard, [(0.0, 1.0)] * 40).verdict is Verdict.WORSE


def test_what_differs_is_the_users_to_say_and_what_it_raises_counts_as_different():
    guard = Disagreement(differs=lambda mine, theirs: mine["label"] != theirs["label"])
    assert not guard.differ({"label": "a", "p": 0.1}, {"label": "a", "p": 0.9})
    assert guard.differ({}, {"label": "a"})


@pytest.mark.parametrize("limit", [0.001, 0.02, 0.4])
def test_bets_on_a_share_are_likelihood_ratios(limit):
    for bad, count in ((0, 50), (3, 50), (50, 50)):
        told = share_bets({"n": count, "bad": bad}, limit)
        for odds, (_, wealth) in zip(ODDS, told, strict=True):
            larger = odds * limit / (1 - limit + odds * limit)
            ratio = binom(count, larger).logpmf(bad) - binom(count, limit).logpmf(bad)
            assert wealth == pytest.approx(ratio)


# -- floor ------------------------------------------------------------------------------


def test_a_floor_looks_at_the_canary_alone():
    guard = Floor(limit=0.05)
    for _ in range(300):
        guard.observe(canary=False, ok=False)
    assert guard.count == 0
    for place in range(100):
        guard.observe(canary=True, ok=place % 5 != 0)
    assert guard.judge().verdict is Verdict.WORSE


def test_an_answer_that_took_too_long_is_a_bad_one():
    guard = Floor(limit=0.05, seconds=0.5)
    for _ in range(20):
        guard.observe(canary=True, ok=True, seconds=0.6)
    assert guard.judge().verdict is Verdict.WORSE
    fine = Floor(limit=0.05, seconds=0.5, enough=100)
    for seconds in (0.5, None) * 50:
        fine.observe(canary=True, ok=True, seconds=seconds)
    assert fine.judge().verdict is Verdict.FINE


def test_a_canary_at_its_limit_is_rarely_called_worse():
    wrong = 0
    for seed in range(60):
        stream = traffic(random.Random(seed), 0.05, 0.0, share=1.0, requests=2000)
        wrong += looks(Floor(limit=0.05, alpha=0.05), stream, request) is not None
    assert wrong <= 8


# -- metrics ----------------------------------------------------------------------------


def arms(rng, canary, stable, share=0.1, requests=8000):
    for _ in range(requests):
        mine = rng.random() < share
        yield mine, (canary if mine else stable)(rng)


def measured(guard, seen):
    guard.observe(seen[1], canary=seen[0])


def uniform(low, high):
    return lambda rng: rng.uniform(low, high)


@pytest.mark.parametrize(
    ("settings", "good", "bad", "stable"),
    [
        ({"bounds": (0, 10)}, uniform(2, 6), uniform(0, 5), uniform(2, 6)),
        ({"bounds": (0, 10), "better": "lower"}, uniform(2, 6), uniform(4, 7), uniform(2, 6)),
        ({"compare": "sign"}, uniform(-1e9, 6), uniform(-1e9, -6e8), uniform(-1e9, 6)),
        (
            {"compare": "share", "better": "lower"},
            lambda rng: rng.random() < 0.01,
            lambda rng: rng.random() < 0.06,
            lambda rng: rng.random() < 0.01,
        ),
    ],
)
def test_a_metric_finds_what_is_worse_and_leaves_what_is_not(settings, good, bad, stable):
    kept, found = [], []
    for seed in range(5):
        for canary, places in ((good, kept), (bad, found)):
            stream = arms(random.Random(seed), canary, stable)
            places.append(looks(Metric("m", **settings), stream, measured))
    assert sum(place is not None for place in kept) <= 1
    assert None not in found


def test_what_is_accepted_of_a_metric_is_accepted():
    stream = [*arms(random.Random(1), uniform(2, 5.5), uniform(2, 6))]
    for tolerance, verdict in ((0.05, Verdict.FINE), (0.0, Verdict.WORSE)):
        guard = Metric("m", bounds=(0, 10), tolerance=tolerance)
        looks(guard, stream, measured, every=100_000)
        assert guard.judge().verdict is verdict


@pytest.mark.parametrize("compare", ["mean", "share", "sign"])
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_value_that_is_none_counts_against_the_canary_and_is_left_out_for_stable(compare, better):
    guard = Metric("m", compare=compare, better=better, enough=1)
    good = 1.0 if better == "higher" else 0.0
    for _ in range(60):
        guard.observe(math.nan, canary=False)
        guard.observe(good, canary=True)
    assert guard.count == 0
    for _ in range(60):
        guard.observe(good, canary=False)
        guard.observe(math.nan, canary=True)
    assert guard.judge().verdict is Verdict.WORSE


def test_every_value_of_the_canary_is_set_against_fresh_ones_of_stable():
    guard = Metric("m", bounds=(0, 1))
    for value, canary in [(0.2, False), (0.4, False), (0.5, True), (0.1, True), (0.9, True)]:
        guard.observe(value, canary=canary)
    assert (guard.tally["n"], guard.tally["d"]) == (1, pytest.approx(-0.2))
    guard.observe(0.5, canary=False)
    assert (guard.tally["n"], guard.tally["d"]) == (2, pytest.approx(-0.2))
    for _ in range(5000):
        guard.observe(0.0, canary=False)
    guard.observe(0.0, canary=True)
    assert guard.tally["n"] == 3


def test_overwhelming_odds_stay_readable():
    guard = PairedLoss()
    for _ in range(500):
        guard.observe(1.0, 0.0)
    assert "over a million : 1" in guard.judge().reason
