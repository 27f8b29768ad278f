import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from prodml.drift import adjust, benjamini_hochberg, bonferroni, holm
from prodml.errors import BadConfiguration

P_VALUES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=50)


@given(P_VALUES)
def test_benjamini_hochberg_is_scipys(p_values):
    expected = false_discovery_control(p_values, method="bh")
    np.testing.assert_allclose(benjamini_hochberg(p_values), expected, rtol=1e-12, atol=1e-12)


@given(P_VALUES)
def test_holm_and_bonferroni_are_those_of_statsmodels(p_values):
    for mine, method in ((holm, "holm"), (bonferroni, "bonferroni")):
        expected = multipletests(p_values, method=method)[1]
        np.testing.assert_allclose(mine(p_values), expected, rtol=1e-12, atol=1e-12)


@given(P_VALUES)
def test_a_corrected_p_value_is_never_smaller_and_keeps_the_order(p_values):
    raw = np.array(p_values)
    weights = np.arange(1, len(p_values) + 1)
    assert (adjust(p_values, "bh", weights) >= raw).all()
    for correction in ("bh", "holm", "bonferroni", "none"):
        found = adjust(p_values, correction)
        assert (found >= raw * (1 - 1e-15)).all()
        assert (np.diff(found[np.argsort(raw, kind="stable")]) >= -1e-15).all()


@given(P_VALUES)
def test_holm_is_between_the_others(p_values):
    assert (benjamini_hochberg(p_values) <= holm(p_values) + 1e-15).all()
    assert (holm(p_values) <= bonferroni(p_values) + 1e-15).all()


def test_no_correction_gives_a_copy():
    raw = np.array([0.1, 0.2])
    found = adjust(raw, "none")
    found[0] = 1.0
    assert raw[0] == 0.1


def test_nothing_to_correct_is_no_error():
    assert adjust([]).tolist() == []


@pytest.mark.parametrize("bad", [[0.1, float("nan")], [-0.1], [1.1]])
def test_what_is_no_p_value_is_refused_instead_of_read_as_no_drift(bad):
    with pytest.raises(ValueError, match="none may be NaN"):
        adjust(bad)


def test_an_unknown_correction_is_refused_with_the_known_ones():
    with pytest.raises(BadConfiguration, match="bh, holm, bonferroni, none"):
        adjust([0.1], "fdr")


WEIGHTED = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.floats(0.01, 10.0)), min_size=1, max_size=20
).map(lambda pairs: ([p for p, _ in pairs], [w for _, w in pairs]))


@given(WEIGHTED)
def test_weights_are_rejections_at_any_level_by_their_papers(case):
    # Directly from the definitions: reject the largest set (BH), step down (Holm).
    p, w = map(np.array, case)
    m, share = len(p), w / w.sum()
    weighted = p / (share * m)
    for level in (0.01, 0.05, 0.3):
        ordered = np.sort(weighted)
        passed = np.flatnonzero(ordered <= level * np.arange(1, m + 1) / m)
        limit = ordered[passed[-1]] if len(passed) else -1.0
        clear = np.abs(adjust(p, "bh", w) - level) > 1e-12
        reject = (weighted <= limit) & (p < level)
        assert ((adjust(p, "bh", w) < level) == reject)[clear].all()
        left, rejected = 1.0, np.zeros(m, dtype=bool)
        for i in np.argsort(weighted, kind="stable"):
            if p[i] * left / share[i] > level:
                break
            rejected[i], left = True, left - share[i]
        clear = np.abs(adjust(p, "holm", w) - level) > 1e-9
        assert ((adjust(p, "holm", w) < level) == rejected)[clear].all()
        assert (adjust(p, "bonferroni", w) == np.minimum(1.0, p / share)).all()


@given(P_VALUES, st.sampled_from(["bh", "holm", "bonferroni", "none"]))
def test_equal_weights_weigh_nothing(p_values, correction):
    found = adjust(p_values, correction, [7.0] * len(p_values))
    np.testing.assert_allclose(found, adjust(p_values, correction), rtol=1e-12)


def test_weights_keep_the_level_of_the_family():
    rng = np.random.default_rng(0)
    weights = np.tile([3.0, 1.0], 20)
    for correction in ("bh", "holm", "bonferroni"):
        alarms = sum((adjust(rng.random(40), correction, weights) < 0.2).any() for _ in range(2000))
        assert 0.15 * 2000 < alarms < 0.2 * 2000 + 3 * (2000 * 0.16) ** 0.5


@pytest.mark.parametrize("bad", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [[1.0, 1.0]]])
def test_weights_that_are_none_are_refused(bad):
    with pytest.raises(BadConfiguration, match="2 numbers above 0, one a p-value"):
        adjust([0.1, 0.2], "bh", bad)
