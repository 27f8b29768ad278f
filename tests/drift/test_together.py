"""A matrix counted in one pass, and what is found once for two tests, against the slow way."""

import math
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import DriftDetector, Reference, counting, strips
from prodml.drift.cells import Cells
from prodml.drift.layout import Layout
from prodml.drift.measures import divergences, jensen_shannon_of_shares, psi_of_shares
from prodml.drift.overlap import cell_gap, cell_wasserstein
from prodml.drift.strips import in_strips
from prodml.drift.table import table_of
from prodml.events import Stream
from tests.drift.shapes import SHAPES
from tests.drift.test_cells import LAYOUTS, TRICKY

SPECIAL = st.sampled_from([math.nan, math.inf, -math.inf, 1e39, -1e39, 1e300, -1e300, 3.5e38])
NUMBERS = st.one_of(TRICKY, SPECIAL, st.floats(-9, 9), st.integers(-9, 9).map(float))
TABLES = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=40
    )
)


def matrix(rows, columns=7, seed=0, scale=1.0):
    """One shape a column, row by row."""
    rng = np.random.default_rng(seed)
    shapes = list(SHAPES.values())
    return np.ascontiguousarray(
        np.stack([shapes[i % len(shapes)](rng, rows) * scale for i in range(columns)], axis=1)
    )


# -- one pass over the rows -------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data(), TABLES, st.booleans())
def test_columns_counted_together_are_those_counted_alone(data, table, whole):
    rows = np.array(table)
    places = data.draw(st.lists(st.sampled_from(range(rows.shape[1])), min_size=1, unique=True))
    layouts = [data.draw(LAYOUTS) for _ in places]
    together = counting.tallied_together(rows, sorted(places), layouts, [whole] * len(places))
    for place, layout, found in zip(sorted(places), layouts, together, strict=True):
        assert Cells(layout=layout, **found) == Cells.of(rows[:, place], layout, whole=whole)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, max_size=60), LAYOUTS)
def test_nothing_is_counted_where_its_code_does_not_say(values, layout):
    found = Cells.of(values, layout)
    finite = np.array([value for value in values if math.isfinite(value)])
    codes, counts = np.unique(layout.codes(finite), return_counts=True)
    assert found.codes.tolist() == codes.tolist()
    assert found.counts.tolist() == counts.tolist()
    assert found.missing == sum(map(math.isnan, values))
    assert (found.above, found.below) == (values.count(math.inf), values.count(-math.inf))


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8", "i4", "u8", "u1"])
def test_many_chunks_of_any_type_are_counted_like_columns(kind):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(2 * counting._CHUNK + 777, 3)) * 40 + 100).astype(kind)
    layouts = [Layout.of(column) for column in rows.T]
    together = counting.tallied_together(rows, [0, 1, 2], layouts, [True] * 3)
    for layout, found, column in zip(layouts, together, rows.T, strict=True):
        assert Cells(layout=layout, **found) == Cells.of(column.copy(), layout)


def test_a_count_that_was_interrupted_leaves_nothing_behind(monkeypatch):
    values = np.random.default_rng(0).normal(size=3 * counting._CHUNK)
    whole = Cells.of(values, Layout())
    add, left = counting._Tally.add, iter([None, None])

    def interrupted(self, chunk):
        add(self, chunk)
        if next(left, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(counting._Tally, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Cells.of(values + 5.0, Layout())
    monkeypatch.undo()
    assert Cells.of(values, Layout()) == whole


# -- a table in strips ------------------------------------------------------------------------


def columns_of(rows):
    return {f"x{i}": rows[:, i].copy() for i in range(rows.shape[1])}


@pytest.mark.parametrize("width", [1, 7, 33, 70])
def test_a_matrix_gets_the_report_of_its_columns(width):
    reference = Reference.fit(matrix(3000, width), exact=False)
    rows = matrix(2000, width, seed=1)
    rows[::9, 0] = np.nan
    detector = DriftDetector(reference, events=Stream())
    together, alone = detector.detect_drift(rows), detector.detect_drift(columns_of(rows))
    assert [f.to_dict() for f in together.values()] == [f.to_dict() for f in alone.values()]
    assert [f.profile for f in together.values()] == [f.profile for f in alone.values()]


def test_what_is_not_counted_in_cells_is_handed_on():
    rows = np.random.default_rng(0).integers(0, 9, size=(2000, 5)).astype(float)
    kinds = {"x1": "categorical", "x3": "time"}
    reference = Reference.fit(rows, exact=False, kinds=kinds)
    table = in_strips(table_of(rows, reference.names), reference)
    assert list(table.columns) == [f"x{i}" for i in range(5)]
    assert len(table.columns) == 5
    assert "x1" in table.columns
    assert "y" not in table.columns
    assert isinstance(table.columns["x0"], Cells)
    assert table.columns["x4"] == Cells.of(rows[:, 4], reference.columns["x4"].sample.layout)
    assert table.columns["x1"].tolist() == rows[:, 1].tolist()
    detector = DriftDetector(reference, events=Stream())
    report = detector.detect_drift(rows)
    assert not report.drifted
    assert report["x1"].kind == "categorical"


def test_numbers_of_a_matrix_are_no_points_in_time():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(days=i) for i in range(600)]
    reference = Reference.fit({"at": times, "y": np.arange(600.0)}, exact=False)
    rows = np.random.default_rng(0).normal(size=(2000, 2)) + start.timestamp()
    found = DriftDetector(reference, events=Stream()).detect_drift(rows)["at"]
    assert "of a wrong type 0 % -> 100 %" in found.reason


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((9, 2)),
        np.asfortranarray(np.zeros((2000, 2))),
        np.zeros((2000, 2), dtype=bool),
        np.zeros((2000, 4))[:, ::2],
        {"x0": [1.0], "x1": [2.0]},
    ],
)
def test_other_tables_stay_as_they_are(data):
    reference = Reference.fit(np.zeros((600, 2)), exact=False)
    table = table_of(data, reference.names)
    assert in_strips(table, reference) is table


def test_two_columns_of_one_name_are_no_matrix():
    table = table_of(np.zeros((2000, 2)), ["a", "a"])
    assert table.matrix is None


def test_one_strip_is_held_at_a_time(monkeypatch):
    monkeypatch.setattr(strips, "_WIDTH", 2)
    counted = []
    monkeypatch.setattr(
        strips,
        "tallied_together",
        lambda rows, places, *of: (
            counted.append(list(places)) or counting.tallied_together(rows, places, *of)
        ),
    )
    rows = matrix(1000, 5)
    reference = Reference.fit(rows, exact=False)
    table = in_strips(table_of(rows, reference.names), reference)
    assert counted == []
    for name in reference.names:
        assert table.columns[name] == reference.columns[name].sample
    assert counted == [[0, 1], [2, 3], [4]]


def test_a_check_of_many_rows_adds_little_memory():
    rows = np.random.default_rng(0).normal(size=(200_000, 20))
    detector = DriftDetector(Reference.fit(rows[:5000], exact=False), events=Stream())
    detector.detect_drift(rows[:600])
    tracemalloc.start()
    try:
        detector.detect_drift(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_threads_that_check_matrices_do_not_disturb_one_another():
    batches = [matrix(3000, 12, seed=i) for i in range(4)]
    detector = DriftDetector(Reference.fit(matrix(4000, 12), exact=False), events=Stream())
    wanted = [[f.to_dict() for f in detector.detect_drift(b).values()] for b in batches]
    again = DriftDetector(Reference.fit(matrix(4000, 12), exact=False), events=Stream())
    wrong = []

    def work(i):
        for _ in range(3):
            found = [f.to_dict() for f in again.detect_drift(batches[i]).values()]
            if found != wanted[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- found once for two tests -----------------------------------------------------------------

SAMPLES = st.lists(
    st.one_of(TRICKY, st.floats(-9, 9), st.integers(-9, 9).map(float)), min_size=1, max_size=40
)


def gap_by_hand(a, b):
    """Lattice and bound, code by code."""
    n, m, best, most = a.size, b.size, 0, 0
    old, new = (dict(zip(c.codes.tolist(), c.counts.tolist(), strict=True)) for c in (a, b))
    below = beneath = 0
    for code in sorted({*old, *new}):
        if code in old and code in new and not (code & 1):
            most = max(most, (below + old[code]) * m - beneath * n)
            most = max(most, (beneath + new[code]) * n - below * m)
        below, beneath = below + old.get(code, 0), beneath + new.get(code, 0)
        best = max(best, abs(below * m - beneath * n))
    return best, max(0, most - best) / (n * m)


@settings(max_examples=60, deadline=None)
@given(SAMPLES, SAMPLES, LAYOUTS)
def test_the_gap_is_that_found_code_by_code(old, new, layout):
    # All fractional: the whole numbers have a test of their own.
    a, b = (Cells.of(values, layout, whole=False) for values in (old, new))
    found = cell_gap(a, b)
    best, bound = gap_by_hand(a, b)
    assert found.lattice == best
    assert found.bound == pytest.approx(bound, abs=1e-12)
    upto = int(a.upto(np.array([found.code]))[0]), int(b.upto(np.array([found.code]))[0])
    assert abs(upto[0] * b.size - upto[1] * a.size) == best
    assert found.reference_share == upto[0] / a.size
    assert found.current_share == upto[1] / b.size


def test_of_equal_gaps_the_first_is_told():
    layout = Layout()
    a, b = Cells.of([1.0, 3.0, 5.0], layout), Cells.of([2.0, 4.0, 6.0], layout)
    assert cell_gap(a, b).code == cell_gap(a.coarser(1), b).code * 2 == a.codes[0]


@settings(max_examples=60, deadline=None)
@given(SAMPLES, SAMPLES, LAYOUTS)
def test_the_distance_is_that_of_values_in_the_middle_of_their_cells(old, new, layout):
    a, b = (Cells.of(values, layout) for values in (old, new))
    points, shares = [], []
    for cells, sign in ((a, 1.0), (b, -1.0)):
        low, high = cells.spans()
        with np.errstate(over="ignore"):
            points += (low + (high - low) / 2).tolist()
        shares += (sign * cells.counts / cells.size).tolist()
    order = sorted(range(len(points)), key=points.__getitem__)
    with np.errstate(over="ignore", invalid="ignore"):
        widths = np.diff([points[i] for i in order])
        wanted = float((np.abs(np.cumsum([shares[i] for i in order])[:-1]) * widths).sum())
    found = cell_wasserstein(a, b)[0]
    if math.isfinite(wanted):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12 * (1 + np.abs(points).max()))


def test_counts_whose_products_are_beyond_64_bits_are_compared_too():
    a, b = Cells.of([1.0, 2.0, 3.0], Layout()), Cells.of([1.0, 2.0, 9.0], Layout())
    many = 1 << 40

    def times(cells):
        rows, counts = cells.rows * many, cells.counts * many
        return Cells(
            layout=cells.layout, codes=cells.codes, counts=counts, rows=rows, minimum=1, maximum=9
        )

    small, large = cell_gap(a, b), cell_gap(times(a), times(b))
    assert large.lattice == small.lattice * many**2
    assert cell_wasserstein(times(a), times(b))[0] == pytest.approx(2.0, abs=0.1)


def test_what_was_found_with_one_reference_is_not_told_of_another():
    layout = Layout()
    current = Cells.of([1.0, 2.0, 3.0], layout)
    one, other = Cells.of([1.0, 2.0, 3.0], layout), Cells.of([7.0, 8.0, 9.0], layout)
    for _ in range(2):
        assert cell_gap(one, current).lattice == 0
        assert cell_gap(other, current).lattice == 9


@settings(max_examples=60, deadline=None)
@given(SAMPLES, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9))
def test_quantiles_asked_together_are_those_asked_alone(values, shares):
    together, alone = Cells.of(values), Cells.of(values)
    assert together.quantiles(shares) == tuple(alone.quantile(share) for share in shares)
    for share, found in zip(shares, together.quantiles(shares), strict=True):
        low, high = together.interval(share)
        assert low <= found <= high


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12).filter(
        lambda pairs: all(map(any, zip(*pairs, strict=True)))
    )
)
def test_few_cells_diverge_as_many_do(pairs):
    a, b = zip(*pairs, strict=True)
    psi, distance = divergences(a, b)
    assert psi == pytest.approx(psi_of_shares(a, b, unbiased=True), abs=1e-12)
    assert distance**2 == pytest.approx(jensen_shannon_of_shares(a, b) ** 2, abs=1e-12)


def test_cells_that_hold_nothing_are_not_counted():
    a, b = (50, 0, 50), (80, 0, 20)
    assert divergences(a, b)[0] == pytest.approx(psi_of_shares(a, b, unbiased=True), abs=1e-12)


# -- where codes end --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), LAYOUTS)
def test_no_larger_float_has_the_code(values, layout):
    codes = np.array([layout.codes(values)[:4]])
    edges = layout.upper(codes)
    assert edges.shape == codes.shape
    for code, edge in zip(codes.ravel().tolist(), edges.ravel().tolist(), strict=True):
        assert int(layout.codes([edge])[0]) == code
        beyond = math.nextafter(edge, math.inf)
        assert math.isinf(beyond) or int(layout.codes([beyond])[0]) > code
