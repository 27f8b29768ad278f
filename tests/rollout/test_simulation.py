"""The promise of S5, by simulation: seldom wrong, soon right, however often one looks."""

import math

import numpy as np
import pytest
from benchmarks._rollout_simulation import BLOCK, LIMIT, Cell, caught, evidence, guarded, log_wealth
from scipy.stats import binom

from prodml.rollout import ErrorRate, Seen
from prodml.rollout.odds import odds_bets
from prodml.rollout.rollout import ERA

LOOKS = (5, 20, 100, 1000)
SHARES = (0.05, 0.10)


def most_wrong(rollouts, share=0.01):
    """So many of the rollouts are wrong, at most, once in ten thousand runs of the test."""
    return binom.isf(1e-4, rollouts, share) / rollouts


def requests(rng, count, share, canary, stable):
    arms = rng.random(count) < share
    bad = rng.random(count) < np.where(arms, canary, stable)
    return arms.tolist(), bad.tolist()


@pytest.mark.parametrize(("canary", "stable"), [(0.02, 0.005), (0.3, 0.3), (0.6, 0.05)])
def test_the_arrays_are_the_guard(canary, stable):
    rng, guard, look = np.random.default_rng(1), ErrorRate(), 100
    blocks, told, eras, era = [], [], {}, 1
    before = [0, 0, 0, 0]
    for arm, bad in zip(*requests(rng, 26_000, 0.1, canary, stable), strict=True):
        was = guard.count
        guard.observe(canary=arm, ok=not bad)
        if guard.count == was:
            continue
        now = [int(guard.tally[name]) for name in ("n", "bad", "m", "worse")]
        blocks.append([a - b for a, b in zip(now, before, strict=True)])
        before = now
        seen = added_up(eras, era, guard)
        if sum(tally["n"] for tally in seen.values()) % look == 0:
            told.append(guard.judge(Seen(seen)).numbers["evidence"] * LIMIT)
            if guard.count >= ERA:
                eras, era, before = seen, era + 1, [0, 0, 0, 0]
                guard.renew(step=False)
    _, bad, stables, worse = np.array(blocks).T
    wealth = log_wealth(BLOCK, bad, stables, worse)[None]
    drawn = evidence(wealth, look)[0][: len(told)]
    # A drawn rollout knows how many eras there will be: their weight is not in play yet.
    assert np.allclose(np.maximum(told, -1.0), np.maximum(drawn, -1.0), atol=0.2)
    assert np.allclose(np.array(told)[:9], evidence(wealth[:, : ERA // BLOCK], look)[0][:9])
    whole = [w for _, w in odds_bets(Seen(added_up(eras, era, guard)).whole)]
    assert np.allclose(wealth.sum(axis=1)[0], whole)


def added_up(eras, era, guard):
    return {**eras, era: dict(guard.tally)}


@pytest.mark.parametrize("look", [20, 100])
@pytest.mark.parametrize("rate", [0.005, 0.03])
def test_a_harmless_canary_is_rolled_back_at_most_once_in_a_hundred(look, rate):
    found = guarded(Cell(rate, rate, 0.10, look), rollouts=300)
    assert caught(found) <= most_wrong(300)


@pytest.mark.parametrize("look", [20, 100])
def test_four_times_the_errors_are_found_within_650_requests(look):
    found = guarded(Cell(0.02, 0.005, 0.10, look), rollouts=200)
    assert np.median(found) <= 650
    assert caught(found) >= 0.99


def test_twenty_times_the_errors_are_found_within_60_requests():
    assert np.median(guarded(Cell(0.10, 0.005, 0.10, 20), rollouts=200)) <= 60


def test_harm_that_begins_late_is_found_as_soon_as_if_it_were_new():
    cell = Cell(0.10, 0.005, 0.10, 20, good=5000)
    late = guarded(cell, rollouts=40) - cell.good
    assert 0 < np.median(late) <= 150
    assert np.median(late) < np.median(guarded(cell, rollouts=40, eras=False) - cell.good)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("look", LOOKS)
def test_s5_in_full(look, share):
    for rate in (0.005, 0.03):
        assert caught(guarded(Cell(rate, rate, share, look))) <= 0.01
    found = guarded(Cell(0.02, 0.005, share, look))
    assert caught(found) == 1.0
    assert np.median(found) <= max(650, look)
    assert np.median(guarded(Cell(0.10, 0.005, share, look))) <= max(60, look)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_false_alarms_stay_below_alpha_at_large_shares_too(share):
    for rate in (0.001, 0.005, 0.2, 0.9):
        assert caught(guarded(Cell(rate, rate, share, 20))) <= most_wrong(4000)


def test_the_limit_is_that_of_the_guard():
    assert math.isclose(LIMIT, -math.log(ErrorRate().alpha))
