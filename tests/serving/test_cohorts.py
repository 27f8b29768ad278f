"""S6: cohorts at 10^5 keys: shares, independence, monotony, whatever the keys look like.

The bounds are those of chance: the share of a cohort of 100,000 keys has a standard deviation
of 0.07 points at 5 % and 0.16 at 50 %, the overlap of two 5 % cohorts one of 0.016 points.
"""

import statistics
from functools import cache
from random import Random
from uuid import UUID

import pytest

from prodml.serving.slot import Route, Slot
from prodml.serving.split import Split

N = 100_000
KINDS_OF_KEY = ("users", "numbers", "padded", "thousands", "uuids", "emails")


@cache
def keys_of(kind):
    rng = Random(6)
    make = {
        "numbers": lambda n: str(n),
        "padded": lambda n: f"{n:09d}",
        "users": lambda n: f"user-{n}",
        "thousands": lambda n: str(1000 * n),
        "uuids": lambda n: str(UUID(int=rng.getrandbits(128))),
        "emails": lambda n: f"{rng.choice('abcdef')}.{n}@example.com",
    }[kind]
    return [make(n) for n in range(N)]


def cohort(keys, share, salt="churn", version="v2"):
    stable = Route.to(Slot.of("v1", abs), "stable")
    canary = Route.to(Slot.of(version, abs), "canary")
    split = Split.of(stable, [(canary, share)], salt=salt)
    return {key for key in keys if split.by_key(key) is canary}


# One kind of key in the ordinary suite; all of them by ``nox -s soak``.
KINDS = ["users", *(pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS_OF_KEY[1:])]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
def test_share_is_within_a_third_of_a_point(share):
    assert len(cohort(keys_of("users"), share)) / N == pytest.approx(share, abs=0.003)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS_OF_KEY)
@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
def test_share_is_within_what_chance_allows(kind, share):
    sd = (share * (1 - share) / N) ** 0.5
    assert len(cohort(keys_of(kind), share)) / N == pytest.approx(share, abs=4 * sd)


@pytest.mark.parametrize("kind", KINDS)
def test_two_rollouts_overlap_as_chance_would_have_it(kind):
    keys = keys_of(kind)
    one, other = cohort(keys, 0.05), cohort(keys, 0.05, version="v3")
    assert 0.0020 <= len(one & other) / N <= 0.0030
    one, other = cohort(keys, 0.05, salt="first"), cohort(keys, 0.05, salt="second")
    assert 0.0020 <= len(one & other) / N <= 0.0030


def test_over_many_salts_shares_and_overlaps_scatter_as_chance_does():
    keys = keys_of("users")[:5_000]
    cohorts = [cohort(keys, 0.05, salt=f"salt-{n}") for n in range(40)]
    shares = [len(members) / 5_000 for members in cohorts]
    assert statistics.mean(shares) == pytest.approx(0.05, abs=0.002)
    assert statistics.stdev(shares) == pytest.approx(0.0031, rel=0.4)
    overlaps = [
        len(one & other) / 5_000 for n, one in enumerate(cohorts) for other in cohorts[n + 1 :]
    ]
    assert statistics.mean(overlaps) == pytest.approx(0.0025, abs=0.0002)
    assert statistics.stdev(overlaps) == pytest.approx(0.0007, rel=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_raising_the_share_never_moves_anybody_out(kind):
    keys = keys_of(kind)
    steps = [cohort(keys, share) for share in (0.0, 0.05, 0.25, 1.0)]
    assert steps[0] == set()
    assert steps[1] < steps[2] < steps[3] == set(keys)
