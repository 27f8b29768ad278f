"""Bets on two arms: against scipy, and exactly fair over all that can happen."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom, nchypergeom_fisher

from prodml.errors import BadConfiguration
from prodml.rollout.odds import ODDS, WEIGHTS, Arms, _log_means, _wealth, odds_bets

few = st.integers(1, 12)
once = settings(max_examples=40, deadline=None)


@once
@given(few, st.integers(1, 60), st.data())
def test_a_bet_is_the_likelihood_ratio_of_fishers_distribution(canary, stable, data):
    bad, worse = data.draw(st.integers(0, canary)), data.draw(st.integers(0, stable))
    failed = bad + worse
    fair = hypergeom(canary + stable, failed, canary).pmf(bad)
    for odds, wealth in zip(ODDS, _wealth(canary, bad, stable, worse, 0.0), strict=True):
        harmful = nchypergeom_fisher(canary + stable, failed, canary, odds).pmf(bad)
        assert math.isclose(math.exp(wealth), harmful / fair, rel_tol=1e-7)


@once
@given(few, few, st.data())
def test_a_bet_on_equal_arms_is_exactly_fair(canary, stable, data):
    failed = data.draw(st.integers(0, canary + stable))
    chances = hypergeom(canary + stable, failed, canary)
    for place in range(len(ODDS)):
        mean = sum(
            chances.pmf(bad) * math.exp(_wealth(canary, bad, stable, failed - bad, 0.0)[place])
            for bad in range(max(0, failed - stable), min(canary, failed) + 1)
        )
        assert math.isclose(mean, 1.0, rel_tol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(0, 90).map(lambda percent: percent / 100),
    st.sampled_from([0.0, 1e-320, 0.003, 0.05, 0.3]),
    st.integers(0, 100).map(lambda percent: percent / 100),
)
def test_no_bet_gains_on_average_while_the_canary_keeps_within_its_tolerance(
    canary, stable, rate, tolerance, good
):
    # All that can happen to a block, with its chance; the canary is at most as bad as it may.
    most = rate + (1 - rate) * tolerance
    mine = binom(canary, good * most).pmf(range(canary + 1))
    theirs = binom(stable, rate).pmf(range(stable + 1))
    for place in range(len(ODDS)):
        mean = math.fsum(
            mine[bad]
            * theirs[worse]
            * math.exp(_wealth(canary, bad, stable, worse, tolerance)[place])
            for bad in range(canary + 1)
            for worse in range(stable + 1)
        )
        assert mean <= 1.0 + 1e-9


def test_weights_sum_to_one():
    assert math.isclose(sum(WEIGHTS), 1.0)


def test_where_a_block_ends_depends_on_its_arms_alone():
    arms = "csscscsssscccsscccsssscccccsscsccssssccccss" * 3
    ends = []
    for bads in ("0" * len(arms), "1" * len(arms), "01101" * len(arms)):
        block, tally = Arms(), {}
        ends.append(
            [
                place
                for place, (arm, bad) in enumerate(zip(arms, bads, strict=False))
                if block.add(tally, canary=arm == "c", bad=bad == "1")
            ]
        )
    assert ends[0] == ends[1] == ends[2] != []


def test_a_block_has_at_least_five_requests_of_each_arm():
    block, tally = Arms(), {}
    closed = [block.add(tally, canary=True, bad=False) for _ in range(5)]
    closed += [block.add(tally, canary=False, bad=True) for _ in range(5)]
    assert closed == [False] * 9 + [True]
    assert (tally["n"], tally["bad"], tally["m"], tally["worse"]) == (5, 0, 5, 5)


def test_a_canary_without_stable_requests_is_not_kept_for_later_ones():
    block, tally = Arms(), {}
    for _ in range(1001):
        block.add(tally, canary=True, bad=True)
    for _ in range(5):
        assert not block.add(tally, canary=False, bad=False)
    assert tally == {}


def test_huge_and_lopsided_blocks_stay_finite():
    for canary, bad, stable, worse in [
        (1000, 1000, 5, 0),
        (1000, 500, 5, 5),
        (5, 5, 200_000, 0),
        (5, 0, 20_000, 19_999),
    ]:
        for tolerance in (0.0, 0.01):
            assert all(map(math.isfinite, _wealth(canary, bad, stable, worse, tolerance)))
    assert all(map(math.isfinite, _log_means(1000, 1000, 1000)))


def test_bets_of_blocks_add_up():
    block, tally = Arms(), {}
    for _ in range(3):
        for canary in (True, False) * 5:
            block.add(tally, canary=canary, bad=canary)
    once = _wealth(5, 5, 5, 0, 0.0)
    assert [wealth for _, wealth in odds_bets(tally)] == pytest.approx([3 * w for w in once])


def test_nonsense_is_refused():
    with pytest.raises(BadConfiguration, match="tolerance"):
        Arms(-0.1)
