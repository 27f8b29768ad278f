"""Cramér-von Mises, Anderson-Darling, G, and the distances of categories, against oracles."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import xlogy

from prodml.drift import (
    DriftDetector,
    Reference,
    anderson_darling,
    cramer_von_mises,
    cramers_v,
    g_test,
    hellinger,
    jensen_shannon,
    l_infinity,
    psi,
    total_variation,
)
from prodml.drift.anderson_darling import _tail_of_limit
from prodml.drift.categories import g_tail
from prodml.drift.cramer_von_mises import _tail_of_limit as _cvm_tail
from prodml.drift.measures import (
    hellinger_of_shares,
    jensen_shannon_of_shares,
    psi_of_shares,
)
from prodml.errors import BadConfiguration
from prodml.events import Stream

SEEDS = st.integers(0, 10**6)
COUNTS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=2, max_size=8)
SIZES = st.integers(2, 60)


def pair(n, m, seed, *, ties):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n), rng.normal(size=m) + rng.choice([0.0, 0.5, 3.0])
    return (x.round(1), y.round(1)) if ties else (x, y)


@settings(deadline=None)
@given(SIZES, SIZES, SEEDS)
def test_cramer_von_mises_is_scipys_without_ties(n, m, seed):
    x, y = pair(n, m, seed, ties=False)
    expected, found = stats.cramervonmises_2samp(x, y), cramer_von_mises(x, y)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-12)
    # scipy ends its series when a term is below 1e-7 of the sum.
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=2e-8)


@pytest.mark.parametrize("test", [anderson_darling, cramer_von_mises])
@pytest.mark.parametrize("sizes", [(15, 12), (300, 100)])
@pytest.mark.parametrize(
    "tied",
    [
        lambda draw, n: draw.integers(0, 2, n),
        lambda draw, n: draw.random(n) < 0.3,
        lambda draw, n: draw.poisson(2.0, n),
        lambda draw, n: np.where(draw.random(n) < 0.9, 0.0, draw.normal(size=n)),
    ],
)
def test_ties_make_no_p_value_too_small(test, sizes, tied):
    draw = np.random.default_rng(0)
    pairs = [[tied(draw, n) for n in sizes] for _ in range(400)]
    found = [test(x, y).p_value for x, y in pairs if len(set(x) | set(y)) > 1]
    for alpha in (0.01, 0.05, 0.2):
        most = alpha + 2 * math.sqrt(alpha * (1 - alpha) / len(found))
        assert np.mean(np.array(found) <= alpha) <= most


# Both limits are weighted sums of squares; these are the squares of their transforms [1, 2].
# 1: Anderson and Darling (1952), 1 / (j (j + 1)).  2: Smirnov (1936), 1 / (j pi)^2.
TRANSFORMS = {
    _tail_of_limit: lambda t: -2j * np.pi * t / np.cos(np.pi / 2 * np.sqrt(1 + 8j * t)),
    _cvm_tail: lambda t: np.sqrt(2j * t) / np.sin(np.sqrt(2j * t)),
}


@pytest.mark.parametrize("tail", TRANSFORMS)
def test_the_limits_are_those_of_their_characteristic_functions(tail):
    step = 0.02
    t = (np.arange(50_000) + 0.5) * step
    squared = TRANSFORMS[tail](t)
    # The root is the one that turns steadily from 1.
    value = np.sqrt(np.abs(squared)) * np.exp(0.5j * np.unwrap(np.angle(squared)))
    for x in (0.05, 0.2, 0.5, 1.0, 2.5, 2.9, 5.0, 11.0):
        expected = 0.5 + step / np.pi * (np.imag(value * np.exp(-1j * t * x)) / t).sum()
        assert tail(x) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_no_p_value_is_below_the_chance_of_one_order():
    found = anderson_darling([-1.0, -2.0], np.arange(50.0))
    assert found.p_value == pytest.approx(1 / math.comb(52, 2))


def test_the_tail_of_cramer_von_mises_falls_without_a_step_and_is_never_zero():
    x = np.linspace(0.01, 40.0, 4000)
    tails = np.array([_cvm_tail(z) for z in x])
    assert (np.diff(tails) <= 0.0).all()
    assert tails[0] <= 1.0
    assert tails[-1] > 0.0
    assert _cvm_tail(2.999999) == pytest.approx(_cvm_tail(3.000001), rel=1e-4)
    assert _cvm_tail(0.0) == 1.0


@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 7), (19, 13)])
def test_small_samples_have_the_exact_p_value_of_cramer_von_mises(n, m):
    x, y = pair(n, m, n * m, ties=False)
    found = cramer_von_mises(x, y)
    assert found.method == "cramer-von mises, exact"
    expected = stats.cramervonmises_2samp(x, y, method="exact").pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(SIZES, SIZES, SEEDS, st.booleans())
def test_the_anderson_darling_statistic_is_scipys(n, m, seed, ties):
    x, y = pair(n, m, seed, ties=ties)
    if n + m < 6 or len(set(x) | set(y)) < 2:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stats.anderson_ksamp([x, y])
    found = anderson_darling(x, y)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    if 0.01 < expected.pvalue < 0.2 and min(n, m) > 20 and not ties:
        # Interpolated between seven points of a table, and ours is the limit.
        assert found.p_value == pytest.approx(expected.pvalue, rel=0.2)


@pytest.mark.parametrize(
    ("z", "tail"), [(1.248, 0.25), (1.933, 0.1), (2.492, 0.05), (3.070, 0.025), (3.878, 0.01)]
)
def test_the_tail_of_anderson_darling_is_that_of_the_published_table(z, tail):
    # Stephens (1974), case 0.
    assert _tail_of_limit(z) == pytest.approx(tail, rel=0.01)


def test_the_tail_of_anderson_darling_falls_without_a_step_where_the_formula_changes():
    z = np.linspace(0.05, 80.0, 4000)
    tails = np.array([_tail_of_limit(x) for x in z])
    assert (np.diff(tails) <= 0.0).all()
    assert tails[0] <= 1.0
    assert tails[-1] > 0.0
    assert _tail_of_limit(11.999999) == pytest.approx(_tail_of_limit(12.000001), rel=2e-3)
    assert _tail_of_limit(0.0) == 1.0


@pytest.mark.parametrize("test", [cramer_von_mises, anderson_darling])
def test_the_level_holds_where_nothing_moved(test):
    rng = np.random.default_rng(3)
    p = np.array([test(rng.normal(size=40), rng.normal(size=25)).p_value for _ in range(1500)])
    for alpha in (0.05, 0.2):
        assert (p <= alpha).mean() <= alpha + 3 * math.sqrt(alpha / 1500)
        assert (p <= alpha).mean() >= alpha - 4 * math.sqrt(alpha / 1500)


def test_anderson_darling_sees_the_tail_that_ks_does_not():
    from prodml.drift import ks

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=2000), rng.normal(size=2000)
    # Three rows in a hundred go from the middle to where nobody was.
    y = np.sort(y)
    y[970:1030] = 6.0
    assert anderson_darling(x, y).p_value < 0.1 * ks(x, y).p_value


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (lambda: cramer_von_mises([1.0], [1.0, 2.0]), "two values"),
        (lambda: cramer_von_mises([1.0, math.nan], [1.0, 2.0]), "NaN"),
        (lambda: anderson_darling([1.0], [2.0, 3.0]), "four values"),
        (lambda: anderson_darling([1.0, 1.0], [1.0, 1.0]), "all values are 1"),
        (lambda: anderson_darling([], [1.0, 1.0]), "at least one"),
        (lambda: g_test([1, 2], [1, 2, 3]), "cannot be compared"),
        (lambda: g_test([0, 0], [1, 2]), "at least one count"),
        (lambda: l_infinity([1], []), "cannot be compared"),
    ],
)
def test_samples_that_cannot_be_tested_are_refused(test, words):
    with pytest.raises(ValueError, match=words):
        test()


@given(COUNTS)
def test_g_is_that_of_scipy(table):
    a, b = ([pair[i] for pair in table] for i in (0, 1))
    if not (sum(a) and sum(b)):
        return
    kept = np.array([a, b])[:, [i for i in range(len(a)) if a[i] + b[i]]]
    found = g_test(a, b)
    if kept.shape[1] == 1:
        assert (found.statistic, found.p_value) == (0.0, 1.0)
        return
    expected = stats.chi2_contingency(kept, correction=False, lambda_="log-likelihood")
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("sizes", "levels"), [((1000, 300), 50), ((1000, 250), 27)])
def test_small_p_values_of_g_come_as_often_as_they_should(sizes, levels):
    rng, runs = np.random.default_rng(0), 6000
    a, b = (rng.multinomial(size, np.full(levels, 1 / levels), size=runs) for size in sizes)
    both = a + b
    expected = [both * size / sum(sizes) for size in sizes]
    found = 2 * sum(
        xlogy(part, part / due).sum(axis=1) for part, due in zip((a, b), expected, strict=True)
    )
    shares = both / sum(sizes)
    ours = np.array([g_tail(found[i], shares[i], sizes) for i in range(runs)])
    plain = stats.chi2.sf(found, levels - 1)
    assert (plain <= 0.05).mean() > 1.15 * 0.05
    for alpha in (0.05, 0.01):
        assert (ours <= alpha).mean() == pytest.approx(alpha, abs=3 * math.sqrt(alpha / runs))


def test_many_rows_leave_g_the_chi_square_distribution():
    for statistic in (0.0, 3.0, 90.0):
        found = g_tail(statistic, np.full(5, 0.2), (1e9, 1e8))
        assert found == pytest.approx(stats.chi2.sf(statistic, 4), rel=1e-6)


@given(COUNTS)
def test_distances_of_categories_by_their_definitions(table):
    a, b = (np.array([pair[i] for pair in table], dtype=float) for i in (0, 1))
    if not (a.sum() and b.sum()):
        return
    p, q = a / a.sum(), b / b.sum()
    counts = a.astype(int).tolist(), b.astype(int).tolist()
    assert l_infinity(*counts) == pytest.approx(np.abs(p - q).max(), abs=1e-12)
    assert total_variation(*counts) == pytest.approx(np.abs(p - q).sum() / 2, abs=1e-12)
    assert 0.0 <= cramers_v(*counts) <= 1.0


def test_cramers_v_has_no_bias_where_nothing_moved():
    rng = np.random.default_rng(0)
    shares = np.full(20, 0.05)
    found = [
        cramers_v(rng.multinomial(200, shares).tolist(), rng.multinomial(200, shares).tolist())
        for _ in range(300)
    ]
    # Without the correction it would be sqrt(19 / 400), 0.22, on average.
    assert np.mean(found) < 0.06
    # All but half a row in ten: by the formula of the paper.
    phi = stats.chi2_contingency([[90, 10], [50, 50]], correction=False).statistic / 200
    small = (max(0.0, phi - 1 / 199) / (min(2 - 1 / 199, 2 - 1 / 199) - 1)) ** 0.5
    assert cramers_v([90, 10], [50, 50]) == pytest.approx(small, rel=1e-12)


def some_counts(table):
    """Two rows of counts of levels that occur, if both have any and there are several."""
    counts = np.array(table).T
    counts = counts[:, counts.sum(axis=0) > 0]
    return counts if counts.sum(axis=1).all() and counts.shape[1] > 1 else None


@given(COUNTS)
def test_cramers_v_by_the_formula_of_the_paper_from_scipys_chi_square(table):
    counts = some_counts(table)
    if counts is None or counts.sum() < 3:
        return
    n, k = counts.sum(), counts.shape[1]
    phi = stats.chi2_contingency(counts, correction=False).statistic / n
    squared = max(0.0, phi - (k - 1) / (n - 1))
    least = min(2 - 1 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    expected = min(1.0, math.sqrt(squared / least)) if least > 0 else 0.0
    # Below the root: where nothing moved, rounding is all there is.
    assert cramers_v(*counts) ** 2 == pytest.approx(expected**2, rel=1e-9, abs=1e-12)


@given(COUNTS)
def test_hellinger_by_its_definition(table):
    counts = some_counts(table)
    if counts is None:
        return
    p, q = counts / counts.sum(axis=1, keepdims=True)
    expected = max(0.0, 1.0 - np.sqrt(p * q).sum())
    assert hellinger_of_shares(*counts) ** 2 == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=60), SEEDS, st.integers(2, 12))
def test_binned_distances_count_in_quantiles_of_the_reference(x, seed, bins):
    y = np.random.default_rng(seed).normal(size=40)
    edges = np.unique(np.quantile(x, np.arange(1, bins) / bins, method="inverted_cdf"))
    if edges[0] == min(x):
        edges = [np.nextafter(edges[0], -np.inf), *edges]
    inside = [-np.inf, *edges, np.inf]
    # Cells are open below and closed above, as ``x <= edge`` cuts.
    counts = [counted_between(values, inside) for values in (x, y)]
    assert hellinger(x, y, bins=bins) == hellinger_of_shares(*counts)
    assert psi(x, y, bins=bins) == psi_of_shares(*counts)
    assert jensen_shannon(x, y, bins=bins) == jensen_shannon_of_shares(*counts)


def counted_between(values, inside):
    return [sum(low < value <= high for value in values) for low, high in pairwise(inside)]


@given(COUNTS)
def test_the_stability_index_and_jensen_shannon_by_their_definitions(table):
    counts = some_counts(table)
    if counts is None:
        return
    raised = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)
    index = stats.entropy(*raised) + stats.entropy(*raised[::-1])
    bias = (counts.shape[1] - 1) * (1 / counts.sum(axis=1)).sum()
    assert psi_of_shares(*counts) == pytest.approx(index, rel=1e-9, abs=1e-12)
    assert psi_of_shares(*counts, unbiased=True) == pytest.approx(
        max(0.0, index - bias), rel=1e-9, abs=1e-12
    )
    p, q = counts / counts.sum(axis=1, keepdims=True)
    middle = (p + q) / 2
    divergence = (stats.entropy(p, middle, base=2) + stats.entropy(q, middle, base=2)) / 2
    found = jensen_shannon_of_shares(*counts) ** 2
    assert found == pytest.approx(divergence, rel=1e-9, abs=1e-12)
    fair = jensen_shannon_of_shares(*counts, unbiased=True) ** 2
    less = bias / (8 * math.log(2))
    assert fair == pytest.approx(max(0.0, divergence - less), rel=1e-9, abs=1e-12)


def test_jensen_shannon_without_its_bias_is_zero_on_average_where_nothing_moved():
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=5000), rng.normal(size=100)) for _ in range(300)]
    plain = np.mean([jensen_shannon(*p) ** 2 for p in pairs])
    fair = np.mean([jensen_shannon(*p, unbiased=True) ** 2 for p in pairs])
    expected = 9 * (1 / 5000 + 1 / 100) / (8 * math.log(2))
    assert plain == pytest.approx(expected, rel=0.15)
    # What is cut at zero leaves a little.
    assert fair < 0.35 * plain
    assert jensen_shannon_of_shares([10, 0], [0, 10], unbiased=True) > 0.95


# -- chosen in the detector ---------------------------------------------------------------


def detected(tests, **settings):
    rng = np.random.default_rng(7)
    old = {"x": rng.normal(size=900), "c": rng.integers(0, 4, size=900).astype(str)}
    new = {"x": rng.normal(0.4, 1.0, size=300), "c": rng.integers(0, 3, size=300).astype(str)}
    report = DriftDetector(old, tests=tests, events=Stream(), **settings).detect_drift(new)
    return old, new, {name: report[name].evidence for name in report}


def distribution(evidence):
    return next(item for item in evidence if item.aspect == "distribution")


@pytest.mark.parametrize("test", [cramer_von_mises, anderson_darling])
def test_a_detector_weighs_numbers_by_the_test_that_is_named(test):
    old, new, found = detected({"x": test.__name__})
    wanted, item = test(old["x"], new["x"]), distribution(found["x"])
    assert (item.measure, item.statistic) == (test.__name__, pytest.approx(wanted.statistic))
    assert item.p_value == pytest.approx(wanted.p_value, rel=1e-12)
    # The size is told in the same unit whatever the test.
    assert item.effect == distribution(detected({})[2]["x"]).effect


def test_a_detector_weighs_categories_by_g():
    old, new, found = detected({"c": "g_test"})
    counts = [[int((side["c"] == level).sum()) for level in "0123"] for side in (old, new)]
    item = distribution(found["c"])
    assert (item.measure, item.statistic) == ("g_test", pytest.approx(g_test(*counts).statistic))
    assert distribution(detected({"c": "chi_square"})[2]["c"]).measure == "chi2"


@pytest.mark.parametrize("test", ["cramer_von_mises", "anderson_darling", "g_test"])
def test_blocks_weaken_the_evidence_of_every_test(test):
    days = np.repeat(np.arange(30), 30)
    name = "c" if test == "g_test" else "x"
    rng = np.random.default_rng(1)
    shared = rng.normal(size=30)[days]
    old = {"x": shared + rng.normal(size=900), "c": (shared > 0).astype(int).astype(str)}
    new = {"x": old["x"][:300] + 0.2, "c": old["c"][:300]}
    p = [
        distribution(
            DriftDetector(old, tests={name: test}, blocks=blocks, events=Stream())
            .detect_drift(new)[name]
            .evidence
        ).p_value
        for blocks in (None, days)
    ]
    assert p[0] < p[1]


def test_constants_have_nothing_to_rank_and_have_not_moved():
    settings = {"tests": {"x": "anderson_darling"}, "events": Stream()}
    report = DriftDetector({"x": [1.0] * 50}, **settings).detect_drift({"x": [1.0] * 40})
    assert distribution(report["x"].evidence).p_value == 1.0
    moved = DriftDetector({"x": [1.0] * 50}, **settings).detect_drift({"x": [2.0] * 40})
    assert moved.drifted == ("x",)


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ({"y": "ks"}, "no feature"),
        ({"x": "g_test"}, "anderson_darling"),
        ({"c": "ks"}, "g_test"),
        ({"x": "t-test"}, "not 't-test'"),
    ],
)
def test_a_test_that_does_not_fit_is_refused(tests, words):
    with pytest.raises(BadConfiguration, match=words):
        detected(tests)


def test_a_counted_reference_has_no_ranks():
    reference = Reference.fit({"x": np.arange(100.0)}, exact=False)
    with pytest.raises(BadConfiguration, match="sorted reference"):
        DriftDetector(reference, tests={"x": "anderson_darling"})
    assert DriftDetector(reference, tests={"x": "ks"}).tests == {"x": "ks"}
