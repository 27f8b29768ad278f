import math
import threading
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from prodml.drift import cells as cells_file
from prodml.drift.cells import Cells
from prodml.drift.layout import PARTS, Layout
from prodml.drift.overlap import cell_gap, cell_wasserstein
from prodml.drift.smirnov import largest_gap
from prodml.errors import BadConfiguration
from tests.drift.shapes import SHAPES

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TRICKY = st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308, 1.0, 1 + 1e-12, 255.0, 256.0])
VALUES = st.lists(st.one_of(FINITE, TRICKY, st.integers(-300, 300).map(float)), max_size=60)
ANY = st.lists(st.one_of(st.floats(), TRICKY), max_size=60)
LAYOUTS = st.builds(
    Layout,
    st.one_of(TRICKY, st.floats(-1e3, 1e3)),
    st.integers(-40, 40).map(lambda power: 2.0**power),
    st.lists(st.one_of(TRICKY, st.floats(-10, 10)), max_size=5).map(tuple),
)


def by_hand(values, layout, shift=0):
    """Counts by code, one value after the other."""
    plain = Cells(layout=layout, shift=shift)
    found = {}
    for value in values:
        code = int(plain.codes_of(np.array([value]))[0])
        found[code] = found.get(code, 0) + 1
    return dict(sorted(found.items()))


def counts_of(cells):
    return dict(zip(cells.codes.tolist(), cells.counts.tolist(), strict=True))


# -- where a value lies -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(VALUES, LAYOUTS)
def test_codes_rise_with_the_values(values, layout):
    codes = layout.codes(np.sort(values))
    assert (np.diff(codes) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(VALUES, LAYOUTS)
def test_edges_cut_exactly_where_codes_do(values, layout):
    codes = np.unique(layout.codes(values))
    for code, edge in zip(codes.tolist(), layout.upper(codes).tolist(), strict=True):
        upto = [int(layout.codes([value])[0]) <= code for value in values]
        assert upto == [value <= edge for value in values]


@settings(max_examples=60, deadline=None)
@given(VALUES, LAYOUTS)
def test_a_point_shares_its_code_with_nothing(values, layout):
    codes = layout.codes(values)
    for point in layout.points.tolist():
        own = int(layout.codes([point])[0])
        assert [x for x, code in zip(values, codes.tolist(), strict=True) if code == own] == [
            x for x in values if x == point
        ]


def test_cells_are_less_than_a_hundredth_wide():
    layout = Layout()
    low, high = layout.spans(np.unique(layout.codes(np.geomspace(1e-20, 1e20, 10_000))))
    assert ((high - low) / low).max() <= 2**-7


@pytest.mark.parametrize(
    ("values", "centre", "scale"),
    [
        ([], 0.0, 1.0),
        ([np.nan, np.inf], 0.0, 1.0),
        ([7.0] * 9, 7.0, 4.0),
        ([0.0] * 9, 0.0, 1.0),
        ([0.0] * 90 + [8.0] * 10, 0.0, 0.5),
        ([1e308, -1e308], -1e308, 1.0),
    ],
)
def test_a_layout_fits_whatever_it_sees(values, centre, scale):
    layout = Layout.of(values)
    assert (layout.centre, layout.scale) == (centre, scale)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"scale": 3.0},
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": math.inf},
        {"scale": "wide"},
        {"centre": math.nan},
        {"centre": None},
        {"atoms": (math.inf,)},
        {"atoms": tuple(range(25))},
        {"atoms": 5},
    ],
)
def test_nonsense_is_no_layout(kwargs):
    with pytest.raises(BadConfiguration, match=next(iter(kwargs))):
        Layout(**kwargs)


# -- counting ---------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(ANY, LAYOUTS)
def test_every_row_is_counted_once(values, layout):
    cells = Cells.of(values, layout)
    finite = [x for x in values if math.isfinite(x)]
    assert counts_of(cells) == by_hand(finite, layout)
    assert cells.rows == len(values)
    assert cells.missing == sum(map(math.isnan, values))
    assert (cells.above, cells.below) == (values.count(math.inf), values.count(-math.inf))
    assert cells.fractional == sum(not x.is_integer() for x in finite)
    if finite:
        assert (cells.minimum, cells.maximum) == (min(finite), max(finite))
    else:
        assert math.isnan(cells.minimum)
        assert math.isnan(cells.maximum)


@settings(max_examples=60, deadline=None)
@given(ANY, ANY, ANY, st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_parts_add_up_to_the_same_bits_in_any_order(a, b, c, shifts):
    layout = Layout(0.5, 0.25, (1.0, 7.0))
    parts = [
        Cells.of(part, layout).coarser(shift) for part, shift in zip((a, b, c), shifts, strict=True)
    ]
    sums = [x + y + z for x, y, z in permutations(parts)]
    sums += [x + (y + z) for x, y, z in permutations(parts)]
    assert all(found == sums[0] for found in sums)
    assert sums[0] == Cells.of(a + b + c, layout).coarser(max(shifts))


@settings(max_examples=60, deadline=None)
@given(VALUES, LAYOUTS, st.integers(0, 12), st.integers(0, 12))
def test_wider_cells_hold_what_the_narrow_ones_held(values, layout, less, more):
    cells = Cells.of(values, layout)
    wide = cells.coarser(less + more)
    assert counts_of(wide) == by_hand(values, layout, less + more)
    assert wide == cells.coarser(less).coarser(less + more)
    assert wide.coarser(0) is wide


@pytest.mark.parametrize("centre", [0.0, -0.0])
@pytest.mark.parametrize("scale", [1.0, 2.0**40])
def test_the_centre_shares_its_cell_with_nothing_however_near(centre, scale):
    layout = Layout(centre, scale)
    values = [-0.0, 0.0, -0.0, 5e-324, -5e-324, 1e-42, 1e-42, -1e-42, -1e-42]
    found = Cells.of(values, layout)
    assert counts_of(found) == by_hand(values, layout)
    assert sorted(found.counts.tolist()) == [3, 3, 3]
    assert counts_of(Cells.of([-0.0], layout)) == by_hand([0.0], layout)


@pytest.mark.parametrize("cls", [np.float32, np.int8, np.uint64, np.int64, bool])
def test_every_type_of_number_is_counted(cls):
    values = np.arange(100).astype(cls)
    assert Cells.of(values, Layout()) == Cells.of(values.astype(float), Layout())


def test_a_column_of_a_matrix_and_many_chunks_are_counted_like_the_rest():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(50_000, 3))
    matrix[::100, 1] = np.nan
    whole = Cells.of(matrix[:, 1], Layout())
    assert whole == sum(
        (Cells.of(part, Layout()) for part in np.array_split(matrix[:, 1].copy(), 7)),
        Cells(layout=Layout()),
    )


def test_threads_do_not_share_their_counters():
    values = [np.random.default_rng(seed).normal(size=200_000) for seed in range(4)]
    expected = [Cells.of(part, Layout()) for part in values]
    found = {}

    def work(i):
        for _ in range(5):
            found[i] = Cells.of(values[i], Layout())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(4)] == expected


def test_other_cells_are_refused_and_unlike_anything_else():
    one, other = Cells.of([1.0], Layout()), Cells.of([1.0], Layout(1.0))
    with pytest.raises(BadConfiguration, match="one layout"):
        one + other
    timed = Cells(layout=Layout(), rows=1, missing=1, temporal=True)
    with pytest.raises(BadConfiguration):
        one + timed
    assert one != other
    assert one != "cells"
    assert hash(one) == hash(Cells.of([1.0], Layout()))
    assert cells_file.__all__ == ["Cells", "merged"]


# -- what is read off the counts --------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0, 3])
def test_moments_and_quantiles_are_within_their_bounds(shape, shift):
    values = SHAPES[shape](np.random.default_rng(1), 5000)
    cells = Cells.of(values).coarser(shift)
    slack = 1e-6 * np.abs(values).max()
    assert abs(cells.mean - values.mean()) <= cells.errors[0] + slack
    assert abs(cells.std - values.std()) <= cells.errors[1] + slack
    ascending = np.sort(values)
    for share in (0.0, 0.01, 0.3, 0.5, 0.9, 1.0):
        truth = ascending[max(0, math.ceil(share * 5000) - 1)]
        low, high = cells.interval(share)
        assert low - abs(low) * 1e-6 <= truth <= high + abs(high) * 1e-6
        assert low <= cells.quantile(share) <= high


def test_nothing_has_no_moments():
    empty = Cells(layout=Layout())
    assert math.isnan(empty.mean)
    assert math.isnan(empty.errors[1])
    assert empty.edges().tolist() == []


def test_whole_numbers_near_the_centre_are_exact():
    values = np.random.default_rng(0).integers(-100, 100, size=3000).astype(float)
    cells = Cells.of(values)
    assert cells.mean == pytest.approx(values.mean(), abs=1e-12)
    assert cells.errors == (0.0, 0.0)


@settings(max_examples=100, deadline=None)
@given(VALUES.filter(len), VALUES.filter(len), LAYOUTS, st.integers(0, 9))
def test_the_truth_lies_between_the_statistic_and_its_bound(old, new, layout, shift):
    truth = largest_gap(np.sort(old), np.sort(new)).lattice / (len(old) * len(new))
    cells = Cells.of(old, layout).coarser(shift), Cells.of(new, layout)
    gap = cell_gap(*cells)
    found = gap.lattice / (len(old) * len(new))
    assert found <= truth + 1e-12
    assert truth <= found + gap.bound + 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [50, 1000, 20_000])
def test_the_bound_holds_and_is_small_on_every_shape(shape, n):
    rng = np.random.default_rng(n)
    old, new = (SHAPES[shape](rng, size) for size in (n, n // 2))
    contained(old, new, 0.05 if n >= 1000 else 1.0)


def contained(old, new, largest):
    reference = Cells.of(old)
    gap = cell_gap(reference, Cells.of(new, reference.layout))
    truth = largest_gap(np.sort(old), np.sort(new)).lattice / (len(old) * len(new))
    found = gap.lattice / (len(old) * len(new))
    assert found <= truth <= found + gap.bound + 1e-12
    assert gap.bound <= largest
    distance, error = cell_wasserstein(reference, Cells.of(new, reference.layout))
    slack = 1e-6 * max(np.abs(old).max(), np.abs(new).max())
    assert abs(distance - wasserstein_distance(old, new)) <= error + slack


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_holds_for_a_million_rows(shape):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        contained(SHAPES[shape](rng, 1_000_000), SHAPES[shape](rng, 1_000_000), 0.035)


# -- counts that others made ------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(VALUES.filter(len), VALUES.filter(len), st.integers(2, 20), st.integers(0, 6))
def test_counts_at_edges_are_a_state_with_a_bound(old, new, k, shift):
    reference = Cells.of(old).coarser(shift)
    edges = reference.edges(k)
    upto = [sum(x <= edge for x in new) for edge in edges.tolist()]
    found = Cells.at_edges(
        reference.layout, edges, upto, rows=len(new), minimum=min(new), maximum=max(new)
    )
    assert found.size == len(new)
    if not shift:
        assert found.cumulative(edges).tolist() == upto
    truth = largest_gap(np.sort(old), np.sort(new)).lattice / (len(old) * len(new))
    gap = cell_gap(reference, found)
    statistic = gap.lattice / (len(old) * len(new))
    assert statistic <= truth + 1e-12
    assert truth <= statistic + gap.bound + 1e-12
    assert (found + found).size == 2 * len(new)


def test_edges_of_quantiles_show_the_shares_exactly():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 5000))
    reference = Cells.of(old)
    edges = reference.edges(100)
    found = Cells.at_edges(
        reference.layout,
        edges,
        [int((new <= edge).sum()) for edge in edges],
        rows=5000,
        minimum=float(new.min()),
        maximum=float(new.max()),
    )
    fine = Cells.of(new, reference.layout)
    outer = reference.edges(10, outer=True)
    assert found.cumulative(outer).tolist() == fine.cumulative(outer).tolist()
    assert found.quantile(0.5) == pytest.approx(fine.quantile(0.5), abs=0.05)


@pytest.mark.parametrize("upto", [[3, 1], [1], [1, 99], [1, 2, 3]])
def test_counts_at_edges_must_make_sense(upto):
    with pytest.raises(BadConfiguration, match="at_or_below"):
        Cells.at_edges(Layout(), [0.0, 1.0], upto, rows=10)


def test_codes_of_points_lie_in_the_cell_of_the_point():
    layout = Layout(0.0, 1.0, (1.0, 1.001, 1.002))
    codes = layout.codes([0.999, 1.0, 1.0005, 1.001, 1.0015, 1.002, 1.003])
    cell = int(layout.cells(np.array([1.0]))[0])
    assert (codes[1:] - cell * PARTS).tolist() == [1, 2, 3, 4, 5, 6]
