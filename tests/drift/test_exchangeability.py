from collections import Counter

import numpy as np
import pytest

from prodml.drift import Finding, exchangeability
from prodml.drift.exchangeability import _runs, repeats
from prodml.errors import BadConfiguration


def names(batch, reference=None, **settings):
    return {(found.name, found.feature) for found in exchangeability(batch, reference, **settings)}


def test_rows_in_any_order_have_no_findings():
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        batch = {
            "x": rng.normal(size=300),
            "zeros": rng.normal(size=300) * (rng.random(300) < 0.1),
            "level": rng.choice(list("abc"), size=300, p=[0.6, 0.3, 0.1]),
            "rare": rng.random(300) < 0.01,
        }
        found += bool(
            exchangeability(batch, {"x": rng.normal(size=900)}, alpha=0.05, min_effect=1e-9)
        )
    assert found <= 7  # in one of two thousand runs of this test at exactly 5 %


def test_sorted_rows_are_an_artefact_of_the_order_and_so_are_groups_at_the_end():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    assert ("trend", "x") in names({"x": np.sort(values)})
    late = np.where(np.arange(400) < 280, "home", "institution")
    found = exchangeability({"where": late, "x": values})
    assert {one.feature for one in found} == {"where"}
    assert {one.name for one in found} == {"halves", "runs"}
    assert "order of the rows, not drift?" in found[0].reason


def test_runs_are_seen_where_the_halves_are_alike():
    blocks = np.repeat(np.arange(40) % 2, 10)
    found = exchangeability({"shift": [f"s{b}" for b in blocks]})
    assert [one.name for one in found] == ["runs"]
    assert found[0].effect == pytest.approx(0.4, abs=0.05)


def test_the_mean_and_variance_of_runs_are_those_of_all_orders():
    rng = np.random.default_rng(1)
    codes = np.repeat([0, 1, 2], [12, 20, 8])
    alike = []
    for _ in range(2000):
        rng.shuffle(codes)
        alike.append((codes[1:] == codes[:-1]).sum())
    z = []
    for _ in range(600):
        rng.shuffle(codes)
        z.append(_runs("x", codes)[0].p_value < 0.05)
    assert np.mean(z) == pytest.approx(0.05, abs=0.035)
    p = _runs("x", np.sort(codes))[0].p_value
    expected = (len(codes) - 3 - np.mean(alike)) / np.std(alike)
    from scipy.stats import norm

    assert norm.isf(p / 2) == pytest.approx(expected, rel=0.1)


def test_rows_that_came_twice_are_copies_and_usual_repeats_are_not():
    rng = np.random.default_rng(2)
    reference = {"x": rng.normal(size=1000), "level": rng.choice(list("ab"), size=1000)}
    new = {"x": rng.normal(size=200), "level": rng.choice(list("ab"), size=200)}
    assert names(new, reference) == set()
    twice = {name: np.concatenate((part[:150], part[:50])) for name, part in new.items()}
    found = exchangeability(twice, reference)
    assert [one.name for one in found] == ["duplicates"]
    assert found[0].effect == pytest.approx(0.25, abs=0.01)
    assert found[0].reason.startswith("50 of 200 rows are copies of earlier ones")
    coarse = {"a": rng.integers(0, 5, 2000), "b": rng.integers(0, 2, 2000)}
    batch = {"a": rng.integers(0, 5, 500), "b": rng.integers(0, 2, 500)}
    assert names(batch, coarse) == set()


def test_one_row_repeated_is_named():
    rng = np.random.default_rng(3)
    reference = {"x": rng.normal(size=500)}
    stuck = {"x": np.concatenate((rng.normal(size=100), np.full(60, 7.5)))}
    found = [f for f in exchangeability(stuck, reference) if f.name == "duplicates"]
    assert "one row came 60 times: 7.5" in found[0].reason


def test_a_batch_larger_than_the_reference_is_no_copy_of_itself():
    rng = np.random.default_rng(4)
    assert names({"x": rng.normal(size=3000)}, {"x": rng.normal(size=100)}) == set()


@pytest.mark.parametrize(
    "values",
    [
        [],
        [1.0],
        [1.0] * 100,
        [None] * 100,
        [float("nan")] * 100,
        [float("inf")] * 100,
        ["a"] * 100,
        [str(i) for i in range(100)],
        [{"not": "hashable"}] * 100,
        [True, False] * 3,
    ],
)
def test_columns_without_an_order_to_speak_of_are_silent(values):
    assert exchangeability({"x": values}) == ()


def test_what_cannot_be_read_costs_nothing_else():
    class Odd:
        def __iter__(self):
            raise TypeError("no")

    found = exchangeability({"odd": Odd(), "x": np.arange(100.0)})
    assert {one.feature for one in found} == {"x"}


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.choice(["a", "b"], size=300, p=[0.99, 0.01]).tolist(),
        lambda rng: rng.choice(["a", "b"], size=60, p=[0.9, 0.1]).tolist(),
        lambda rng: rng.integers(0, 20, 100).astype(str).tolist(),
        lambda rng: rng.normal(size=100) * (rng.random(100) < 0.1),
        lambda rng: rng.normal(size=40),
    ],
    ids=["one in a hundred", "one in ten", "twenty levels", "90 % zeros", "forty numbers"],
)
def test_rare_levels_in_any_order_have_no_findings_whatever_their_size(draw):
    """At a level of 1 %, size apart: normal tails gave 3 to 5 % for rare levels."""
    found = [
        bool(exchangeability({"x": draw(np.random.default_rng(i))}, alpha=0.01, min_effect=1e-9))
        for i in range(400)
    ]
    assert sum(found) <= 10  # in one of four hundred runs at exactly 1 %


def test_a_batch_larger_than_the_reference_may_have_more_copies():
    """Copies of values that are many grow with the square of the rows."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        reference = {"x": rng.integers(0, 20_000, 1000)}
        assert exchangeability({"x": rng.integers(0, 20_000, 10_000)}, reference) == ()


@pytest.mark.parametrize("rows", [300, 25_000, 60_000])
def test_a_file_delivered_twice_is_seen_however_long_it_is(rows):
    rng = np.random.default_rng(0)
    part, reference = rng.normal(size=rows), {"x": rng.normal(size=rows)}
    found = exchangeability({"x": np.concatenate((part, part))}, reference)
    assert [one.name for one in found] == ["duplicates"]
    assert found[0].effect == pytest.approx(0.5, abs=0.05)
    assert exchangeability({"x": rng.normal(size=2 * rows)}, reference) == ()


def test_of_long_batches_a_part_is_looked_at_and_the_same_is_seen():
    rng = np.random.default_rng(0)
    n = 400_000
    sizes = {"noise": rng.normal(size=n), "rising": rng.normal(size=n) + np.arange(n) / n}
    runs = {"turns": np.tile(["a", "b"], n // 2), "swap": rng.normal(size=n)}
    runs["swap"][::2] -= 3.0
    assert names(sizes) == {("trend", "rising"), ("halves", "rising")}
    assert names(runs) == {("runs", "turns"), ("runs", "swap")}


def test_rows_that_come_in_the_order_of_their_time_are_in_order():
    rng = np.random.default_rng(0)
    when = np.datetime64("2026-01-01", "s") + np.sort(rng.integers(0, 86400, 500))
    assert exchangeability({"when": when, "x": rng.normal(size=500)}) == ()


def test_a_pattern_as_regular_as_the_look_is_seen_by_its_neighbours():
    assert names({"x": np.tile([0.0, 1.0], 100_000)}) == {("runs", "x")}


def test_a_column_that_fails_when_it_is_told_costs_the_others_nothing():
    class Odd:
        def __str__(self):
            raise RuntimeError("no")

    found = exchangeability({"odd": [Odd()] * 100, "x": np.arange(100.0)})
    assert {one.feature for one in found} == {"x"}


def test_settings_are_checked():
    for wrong in ({"alpha": 0.0}, {"alpha": 1.0}, {"min_effect": 0.0}):
        with pytest.raises(BadConfiguration, match=next(iter(wrong))):
            exchangeability({"x": [1.0]}, **wrong)
    with pytest.raises(TypeError):
        exchangeability(7)


def test_a_finding_is_ready_for_json():
    found = exchangeability({"x": np.arange(100.0)})[0]
    assert isinstance(found, Finding)
    assert found.to_dict()["name"] == "trend"
    assert repeats({"x": [1, 1, 2], "y": [None, None, 3]}) == Counter({2: 1, 1: 1})
