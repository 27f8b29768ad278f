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
