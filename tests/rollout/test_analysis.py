"""Sums, eras, and the evidence that follows from them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.rollout import (
    Disagreement,
    ErrorRate,
    Floor,
    Latency,
    Metric,
    PairedLoss,
    Seen,
    Verdict,
)
from prodml.rollout.analysis import added
from prodml.rollout.record import compact, joined

GUARDS = [
    PairedLoss,
    ErrorRate,
    Latency,
    Disagreement,
    lambda **given: Floor(limit=0.1, **given),
    lambda **given: Metric("clicks", **given),
]
names = st.sampled_from(["n", "w0", "w1"])
tallies = st.dictionaries(names, st.integers(0, 100))
eras = st.dictionaries(st.integers(1, 40), tallies, max_size=20)


@settings(max_examples=50, deadline=None)
@given(eras)
def test_tails_are_suffix_sums_and_their_weights_those_of_all_starts_so_far(seen):
    tails = Seen(seen).tails()
    assert [tail for _, tail in tails] == [
        added(seen[e] for e in sorted(seen, reverse=True) if e >= start) for start in sorted(seen)
    ]
    assert math.isclose(sum(weight for weight, _ in tails), 1 - 0.25 / max(seen, default=0.25))
    assert all(weight > 0 for weight, _ in tails)


@settings(max_examples=50, deadline=None)
@given(eras, st.integers(1, 41))
def test_step_and_whole_are_sums_over_eras(seen, since):
    assert Seen(seen, since).whole == added(seen.values())
    assert Seen(seen, since).step == added(t for e, t in seen.items() if e >= since)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.integers(1, 5), st.dictionaries(names, tallies)), max_size=4))
def test_what_workers_saw_adds_up_in_any_order(parts):
    found = joined(parts, "n")
    assert found == joined(parts[::-1], "n")
    assert added(found.values()) == added(part[e].get("n", {}) for part in parts for e in part)


@settings(max_examples=50, deadline=None)
@given(eras, st.integers(1, 40))
def test_taking_eras_together_loses_nothing_and_mixes_no_steps(seen, since):
    sums = {era: {"guard": tally} for era, tally in seen.items()}
    kept = compact(sums, since)
    assert len(kept) <= 12
    before, after = (Seen(joined([part], "guard"), since) for part in (sums, kept))
    assert {k: v for k, v in before.step.items() if v} == {k: v for k, v in after.step.items() if v}
    assert sum(before.whole.values()) == sum(after.whole.values())
    if seen:
        assert max(kept) == max(seen)


def test_evidence_of_nothing_is_none():
    for make in GUARDS:
        for seen in (None, Seen({}), Seen({}, since=7)):
            finding = make().judge(seen)
            assert finding.verdict is Verdict.UNKNOWN
            assert finding.numbers["evidence"] == 0.0


def test_harm_that_begins_late_is_found_by_the_bets_of_the_last_era():
    good, bad = {"n": 5000, "d": 0.0}, {"n": 30, "d": 30.0}
    for place in range(8):
        good[f"w{place}"], bad[f"w{place}"] = -40.0, 12.0
    guard = PairedLoss(enough=1)
    assert guard.judge(Seen({1: added([good, bad])})).verdict is Verdict.FINE
    assert guard.judge(Seen({1: good, 2: bad})).verdict is Verdict.WORSE


def test_evidence_of_all_steps_adds_up_and_fine_asks_for_the_present_one():
    lost = {"n": 10, "d": 3.0, **{f"w{place}": 2.0 for place in range(8)}}
    guard = PairedLoss(enough=10)
    assert guard.judge(Seen({1: lost})).verdict is Verdict.FINE
    assert guard.judge(Seen({1: lost, 2: {"n": 9, "d": 0.0}}, since=2)).verdict is Verdict.UNKNOWN
    assert guard.judge(Seen({1: lost, 2: lost, 3: lost}, since=3)).verdict is Verdict.WORSE


@pytest.mark.parametrize("make", GUARDS)
@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"enough": 0}, {"name": ""}])
def test_nonsense_is_refused_by_every_guard(make, wrong):
    if make in (Latency, GUARDS[-1]) and "name" in wrong:
        pytest.skip("names itself, or has a name of its own")
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        make(**wrong)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (PairedLoss, {"tolerance": -0.1}),
        (ErrorRate, {"tolerance": 1.0}),
        (Latency, {"q": 1.0}),
        (Latency, {"worse": 0.9}),
        (Latency, {"worse": math.nan}),
        (Disagreement, {"below": 0.0}),
        (Disagreement, {"atol": -1.0}),
        (Disagreement, {"rtol": math.nan}),
        (Floor, {"limit": 1.0}),
        (Floor, {"limit": 0.1, "seconds": 0.0}),
        (Metric, {"name": "m", "tolerance": 1.0}),
        (Metric, {"name": "m", "compare": "median"}),
        (Metric, {"name": "m", "better": "up"}),
        (Metric, {"name": "m", "bounds": (1.0, 0.0)}),
        (Metric, {"name": "m", "bounds": (0.0, math.inf)}),
        (Metric, {"name": "m", "every": 0.0}),
        (Metric, {"name": "m", "lag": -1.0}),
    ],
)
def test_nonsense_is_refused(make, wrong):
    setting = "every" if "lag" in wrong else list(wrong)[-1]
    with pytest.raises(BadConfiguration, match=setting):
        make(**wrong)
