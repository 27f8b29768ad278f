import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.rollout import ErrorRate, PairedLoss, Verdict

losses = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=50)


def told(guard, pairs):
    for challenger, stable in pairs:
        guard.observe(challenger, stable)
    return guard.judge()


def noisy(rng, mean, sd=0.112):
    """A pair of Brier-like losses with this mean difference."""
    d = min(1.0, max(-1.0, rng.gauss(mean, sd)))
    return 0.5 + d / 2, 0.5 - d / 2


def first_worse(guard, pairs, every=25):
    for place, (challenger, stable) in enumerate(pairs, 1):
        guard.observe(challenger, stable)
        if place % every == 0 and guard.judge().verdict is Verdict.WORSE:
            return place
    return None


def test_without_data_nothing_is_known():
    assert PairedLoss().judge().verdict is Verdict.UNKNOWN
    assert ErrorRate().judge().verdict is Verdict.UNKNOWN


def test_equal_losses_are_fine_when_there_are_enough():
    guard = PairedLoss(enough=10)
    assert told(guard, [(0.2, 0.2)] * 9).verdict is Verdict.UNKNOWN
    assert told(guard, [(0.2, 0.2)]).verdict is Verdict.FINE


def test_a_new_step_asks_for_fresh_pairs_but_keeps_the_evidence():
    guard = PairedLoss(enough=10)
    told(guard, [(0.2, 0.2)] * 10)
    guard.begin_step()
    assert guard.judge().verdict is Verdict.UNKNOWN
    assert told(guard, [(1.0, 0.0)] * 60).verdict is Verdict.WORSE
    guard.begin_step()
    assert guard.judge().verdict is Verdict.WORSE


def test_harm_once_shown_stays_shown():
    guard = PairedLoss(enough=1)
    told(guard, [(1.0, 0.0)] * 60)
    assert told(guard, [(0.0, 1.0)] * 500).verdict is Verdict.WORSE


def test_a_loss_that_cannot_be_told_counts_as_a_full_one():
    guard = PairedLoss(enough=1)
    assert told(guard, [(math.nan, 0.1)] * 60).verdict is Verdict.WORSE
    assert told(PairedLoss(enough=1), [(0.1, math.nan)]).verdict is Verdict.FINE


@given(losses)
def test_state_survives_a_round_trip(pairs):
    guard, again = PairedLoss(enough=5), PairedLoss(enough=5)
    told(guard, pairs)
    again.load(guard.to_dict())
    assert again.judge() == guard.judge() or not pairs
    assert told(again, [(0.5, 0.4)]) == told(guard, [(0.5, 0.4)])


@given(losses)
def test_the_wealth_of_equal_arms_never_grows_on_average(pairs):
    # For each pair the mean over (a, b) and (b, a) of every factor is at most one.
    for a, b in pairs:
        for stake in (0.05, 0.5, 0.95):
            assert ((1 + stake * (a - b)) + (1 + stake * (b - a))) / 2 <= 1.0 + 1e-12


def test_a_harmless_challenger_is_rarely_called_worse_however_often_one_looks():
    wrong = 0
    for seed in range(100):
        rng = random.Random(seed)
        pairs = [noisy(rng, 0.0) for _ in range(800)]
        wrong += first_worse(PairedLoss(alpha=0.05), pairs, every=5) is not None
    assert wrong <= 10


def test_the_harm_of_a_bad_release_is_found_within_two_days_of_flights():
    found = []
    for seed in range(20):
        rng = random.Random(seed)
        pairs = (noisy(rng, 0.0155) for _ in range(1800))
        found.append(first_worse(PairedLoss(tolerance=0.002), pairs))
    assert sum(place is not None for place in found) >= 19
    assert sorted(place or 9999 for place in found)[10] <= 900


@pytest.mark.soak
def test_false_alarms_stay_below_alpha_over_many_runs():
    wrong = 0
    for seed in range(2000):
        rng = random.Random(seed)
        pairs = (noisy(rng, 0.0) for _ in range(3000))
        wrong += first_worse(PairedLoss(alpha=0.05), pairs, every=10) is not None
    assert wrong / 2000 <= 0.05 + 2 * (0.05 * 0.95 / 2000) ** 0.5


# -- error rates ------------------------------------------------------------------------


def traffic(rng, canary_rate, stable_rate, share=0.1, requests=20_000):
    for _ in range(requests):
        canary = rng.random() < share
        rate = canary_rate if canary else stable_rate
        yield canary, rng.random() >= rate


def canaries_until_worse(guard, stream):
    for canary, ok in stream:
        guard.observe(canary=canary, ok=ok)
        if canary and guard.judge().verdict is Verdict.WORSE:
            return guard.count
    return None


def test_a_canary_request_without_a_stable_one_says_nothing():
    guard = ErrorRate(enough=1)
    guard.observe(canary=True, ok=False)
    assert guard.count == 0


def test_an_incident_upstream_hits_both_arms_and_rolls_nothing_back():
    wrong = 0
    for seed in range(30):
        rng = random.Random(seed)
        guard = ErrorRate(alpha=0.05)
        calm = traffic(rng, 0.005, 0.005, requests=3000)
        storm = traffic(rng, 0.5, 0.5, requests=3000)
        wrong += canaries_until_worse(guard, [*calm, *storm]) is not None
    assert wrong <= 4


def test_a_broken_canary_is_found_within_a_hundred_requests():
    rng = random.Random(1)
    found = [canaries_until_worse(ErrorRate(), traffic(rng, 0.10, 0.005)) for _ in range(15)]
    assert None not in found
    assert sorted(found)[7] <= 130


@pytest.mark.parametrize("guard", [PairedLoss, ErrorRate])
@pytest.mark.parametrize(
    "wrong", [{"tolerance": -0.1}, {"alpha": 0.0}, {"alpha": 1.0}, {"enough": 0}]
)
def test_nonsense_is_refused(guard, wrong):
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        guard(**wrong)
