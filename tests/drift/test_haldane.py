"""The tail of chi-square where few rows are expected in many levels."""

import numpy as np
import pytest
from scipy.stats import chi2

from prodml.drift.haldane import chi_square_tail

# Ten levels with five expected rows each, and one with half of the rows.
SHARES = np.array([0.05] * 10 + [0.5])
RARE = 0.0025


def statistics(sizes, shares, runs, seed=0):
    rng = np.random.default_rng(seed)
    a, b = (rng.multinomial(size, shares, size=runs).astype(float) for size in sizes)
    n, m = sizes
    both = (a + b) / (n + m)
    with np.errstate(invalid="ignore"):
        parts = (a - n * both) ** 2 / (n * both) + (b - m * both) ** 2 / (m * both)
    return np.nansum(parts, axis=1), both


def test_small_p_values_come_as_often_as_they_should():
    sizes = (5000, 100)
    found, both = statistics(sizes, SHARES, 60_000)
    plain = (chi2.sf(found, len(SHARES) - 1) <= RARE).mean()
    worst = np.flatnonzero(found > chi2.isf(RARE * 4, len(SHARES) - 1))
    ours = sum(chi_square_tail(found[i], both[i], sizes) <= RARE for i in worst) / len(found)
    assert plain > 1.3 * RARE
    assert 0.75 * RARE < ours < 1.2 * RARE


def test_samples_of_one_size_keep_the_chi_square_distribution():
    for statistic in (0.0, 3.0, 30.0):
        expected = chi2.sf(statistic, len(SHARES) - 1)
        assert chi_square_tail(statistic, SHARES, (300, 300)) == pytest.approx(expected, rel=1e-9)
    assert chi_square_tail(7.0, np.full(5, 0.2), (1e9, 1e7)) == pytest.approx(
        chi2.sf(7.0, 4), rel=1e-4
    )


def test_the_tail_falls_with_the_statistic_and_lies_in_the_unit_interval():
    tails = [chi_square_tail(x, SHARES, (5000.0, 100.0)) for x in np.linspace(0, 400, 200)]
    assert (np.diff(tails) <= 0).all()
    assert tails[0] <= 1.0
    assert tails[-1] >= 0.0
    two = [chi_square_tail(x, np.array([0.999, 0.001]), (1e4, 30.0)) for x in (0.0, 1.0, 50.0)]
    assert two[0] <= 1.0
    assert two[0] >= two[1] >= two[2] >= 0.0
