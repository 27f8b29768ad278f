import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, fisher_exact, kstwobign, wasserstein_distance
from scipy.stats import ks_2samp as scipy_ks

from prodml.drift import chi_square, jensen_shannon, ks, psi, rate_change, wasserstein
from prodml.drift.measures import counts_in, psi_of_shares, reference_cells
from prodml.drift.smirnov import largest_gap, tolerant_gap
from prodml.errors import BadConfiguration

FLOATS = st.lists(st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), min_size=1, max_size=60)
COUNTS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=2, max_size=8)
SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "far": lambda rng, n: rng.normal(1e9, 1.0, size=n),
    "lognormal": lambda rng, n: rng.lognormal(0, 3, size=n),
    "cauchy": lambda rng, n: rng.standard_cauchy(size=n),
    "zeros": lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.1),
    "integers": lambda rng, n: rng.integers(0, 1000, size=n).astype(float),
    "two modes": lambda rng, n: rng.normal(size=n) + 1e6 * (rng.random(n) < 0.5),
    "constant": lambda rng, n: np.ones(n),
}


# -- Kolmogorov-Smirnov -------------------------------------------------------------------


@given(FLOATS, FLOATS)
def test_the_ks_statistic_is_the_largest_gap_at_any_value(x, y):
    at = np.array([*x, *y])[:, None]
    gaps = np.abs((np.array(x) <= at).mean(axis=1) - (np.array(y) <= at).mean(axis=1))
    assert ks(x, y).statistic == pytest.approx(gaps.max(), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(20_000, 9_001), (5_000, 100), (700, 12_000)])
def test_the_ks_statistic_is_scipys_for_any_shape_and_size(shape, size):
    rng = np.random.default_rng(0)
    x, y = SHAPES[shape](rng, size[0]), SHAPES[shape](rng, size[1]) + 0.01
    assert ks(x, y).statistic == pytest.approx(scipy_ks(x, y, method="asymp").statistic, abs=1e-12)


@given(st.integers(1, 25), st.integers(1, 40), st.integers(0, 10**6))
def test_small_samples_have_the_exact_p_value(n, m, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n), rng.normal(size=m) + rng.choice([0.0, 1.0])
    expected = scipy_ks(x, y, method="exact")
    assert ks(x, y).method == "ks, exact"
    assert ks(x, y).p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("n", "m"), [(200, 5000), (150, 151), (31, 20_000)])
def test_the_exact_p_value_holds_for_unequal_samples(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), rng.normal(size=m) + 0.2
    expected = scipy_ks(x, y, method="exact").pvalue
    assert ks(x, y).p_value == pytest.approx(expected, rel=1e-9)


def test_large_samples_have_the_limit_of_kolmogorov():
    rng = np.random.default_rng(0)
    found = ks(rng.normal(size=3000), rng.normal(size=1000) + 0.05)
    assert found.method == "ks, limit"
    expected = kstwobign.sf(found.statistic * np.sqrt(750.0))
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_the_limit_is_cautious_where_it_begins():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=400), rng.normal(size=210) + 0.2
    exact = scipy_ks(x, y, method="exact").pvalue
    assert exact <= ks(x, y).p_value <= 1.2 * exact


def test_a_far_tail_keeps_its_digits():
    x, y = np.arange(100.0), np.arange(100.0) + 1000.0
    assert ks(x, y).p_value == pytest.approx(scipy_ks(x, y, method="exact").pvalue, rel=1e-9)
    assert 0.0 < ks(x, y).p_value < 1e-55


@given(FLOATS, FLOATS)
def test_ks_does_not_care_which_sample_comes_first(x, y):
    assert ks(x, y).statistic == ks(y, x).statistic
    assert ks(x, y).p_value == pytest.approx(ks(y, x).p_value, rel=1e-9)


@given(FLOATS)
def test_a_sample_against_itself_shows_nothing(x):
    assert ks(x, x).statistic == 0.0
    assert ks(x, x).p_value == 1.0
    assert wasserstein(x, x) == 0.0


@given(FLOATS, FLOATS)
def test_the_gap_lies_where_it_is_said_to_lie(x, y):
    gap = largest_gap(np.sort(np.array(x)), np.sort(np.array(y)))
    assert np.mean(np.array(x) <= gap.at) == pytest.approx(gap.reference_share, abs=1e-12)
    assert np.mean(np.array(y) <= gap.at) == pytest.approx(gap.current_share, abs=1e-12)
    found = abs(gap.reference_share - gap.current_share)
    assert found == pytest.approx(gap.lattice / (len(x) * len(y)), abs=1e-12)


def test_rounding_to_single_precision_is_forgiven_and_a_shift_is_not():
    x = np.sort(np.random.default_rng(0).normal(100, 1, size=500))
    assert tolerant_gap(x, np.sort(x.astype(np.float32).astype(np.float64)), 0.05) == 0.0
    assert tolerant_gap(x, x + 0.5, 0.05) > 0.05


# -- counts -------------------------------------------------------------------------------


@given(COUNTS)
def test_chi_square_is_that_of_the_contingency_table(pairs):
    table = np.array(pairs).T
    if not table.sum(axis=1).all():
        return
    kept = table[:, table.sum(axis=0) > 0]
    expected = chi2_contingency(kept, correction=False)
    found = chi_square(*table)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)


def test_a_new_and_a_vanished_level_both_count():
    expected = chi2_contingency([[50, 50, 0], [50, 0, 50]], correction=False)
    found = chi_square([50, 50, 0], [50, 0, 50])
    assert (found.statistic, found.p_value) == pytest.approx((expected[0], expected[1]), rel=1e-9)


def test_chi_square_needs_counts_in_both_samples():
    with pytest.raises(ValueError, match="at least one count"):
        chi_square([1, 2], [0, 0])


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_change_of_rate_is_fishers_exact_test(n, m, data):
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    expected = fisher_exact([[a, n - a], [b, m - b]]).pvalue
    found = rate_change(a, n, b, m)
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.statistic == pytest.approx(b / m - a / n)


def test_very_many_hits_are_tested_by_chi_square():
    found = rate_change(20_000, 50_000, 20_500, 50_000)
    assert found.method == "chi-square"
    expected = chi2_contingency([[20_000, 30_000], [20_500, 29_500]], correction=False).pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_more_hits_than_rows_are_refused():
    with pytest.raises(ValueError, match="11 of 10"):
        rate_change(11, 10, 0, 10)


# -- distances ----------------------------------------------------------------------------


@given(FLOATS, FLOATS)
def test_wasserstein_is_scipys(x, y):
    scale = max(1.0, np.abs(x).max(), np.abs(y).max())
    assert wasserstein(x, y) == pytest.approx(wasserstein_distance(x, y), abs=1e-9 * scale)


@given(FLOATS, FLOATS)
def test_jensen_shannon_is_scipys_on_the_same_cells(x, y):
    edges = reference_cells(np.sort(np.array(x)))
    shares = [counts_in(np.sort(np.array(v)), edges) / len(v) for v in (x, y)]
    # The root of a divergence of 1e-17 is 3e-9.
    assert jensen_shannon(x, y) == pytest.approx(jensenshannon(*shares, base=2), abs=1e-7)
    assert 0.0 <= jensen_shannon(x, y) <= 1.0 + 1e-12


def test_psi_is_its_formula_with_half_a_count_added():
    p, q = np.array([50.5, 50.5]) / 101, np.array([80.5, 20.5]) / 101
    assert psi_of_shares([50, 50], [80, 20]) == pytest.approx(((p - q) * np.log(p / q)).sum())


def test_the_number_of_bins_is_not_ignored():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=1000), rng.normal(size=1000) + 1
    assert psi(x, y, bins=10) != psi(x, y, bins=50)
    assert jensen_shannon(x, y, bins=10) != jensen_shannon(x, y, bins=50)


@pytest.mark.parametrize("n", [100, 500, 5000])
def test_unbiased_psi_is_about_zero_without_drift(n):
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=5000), rng.normal(size=n)) for _ in range(100)]
    assert np.mean([psi(x, y) for x, y in pairs]) > 0.7 * 9 / n
    # Cut at zero, what is left on average is a fraction of the bias.
    assert np.mean([psi(x, y, unbiased=True) for x, y in pairs]) < 0.4 * 9 * (1 / n + 1 / 5000)


def test_one_wild_value_changes_psi_by_next_to_nothing():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=2000), rng.normal(size=2000) + 1
    assert psi(x, [*y[1:], 1e9]) == pytest.approx(psi(x, y), rel=0.01)
    assert psi([*x[1:], 1e9], y) == pytest.approx(psi(x, y), rel=0.01)


def test_psi_of_a_constant_sees_what_lies_below_it():
    assert psi([1.0] * 100, [1.0] * 100) == 0.0
    assert psi([1.0] * 100, [0.0] * 100) > 1.0
    assert psi([1.0] * 100, [2.0] * 100) > 1.0


@pytest.mark.parametrize("measure", [psi, jensen_shannon])
def test_one_bin_is_refused(measure):
    with pytest.raises(BadConfiguration, match="bins"):
        measure([1.0], [1.0], bins=1)


@pytest.mark.parametrize("measure", [ks, psi, jensen_shannon, wasserstein])
@pytest.mark.parametrize("bad", [[], [1.0, float("nan")]])
def test_no_value_and_nan_are_errors_and_not_zero(measure, bad):
    for pair in ((bad, [1.0]), ([1.0], bad)):
        with pytest.raises(ValueError):
            measure(*pair)


def test_infinite_values_have_no_wasserstein_distance():
    with pytest.raises(ValueError, match="infinite"):
        wasserstein([1.0], [float("inf")])
