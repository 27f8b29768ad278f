"""A real DuckDB: rows are made in it, counted in it or read in parts, and never collected."""

import pytest

from prodml.drift import DriftDetector, Reference
from prodml.drift.lazy import counted
from prodml.drift.parts import parts_of
from tests.integration.scale_rows import SQL, here, reference, same, same_at_edges

duckdb = pytest.importorskip("duckdb")

SIZES = pytest.mark.parametrize(
    "size", [200_000, pytest.param(10_000_000, marks=pytest.mark.soak)], ids=["200k", "10M"]
)


def relation(size, columns=SQL):
    connection = duckdb.connect(config={"memory_limit": "512MB", "threads": 2})
    return connection.sql(f"SELECT {columns} FROM (SELECT range AS id FROM range({size}))")


@pytest.mark.timeout(600)
@SIZES
def test_counts_pushed_down_are_those_of_numpy(size):
    like = reference()
    same_at_edges(counted(relation(size), like), here(like, size))


@pytest.mark.timeout(600)
@SIZES
def test_counts_of_parts_are_those_of_numpy_in_every_cell(size):
    like = reference()
    state = Reference.empty(like)
    for part in parts_of(relation(size)):
        state = state.update(part)
    same(state, here(like, size))


def test_a_detector_takes_a_relation():
    watch = DriftDetector(reference())
    assert watch.detect_drift(relation(200_000)).drifted == ()
    moved = SQL.replace("% 2000 - 1000", "% 2000 - 800").replace("'level '", "'new '")
    report = watch.detect_drift(relation(200_000, moved))
    assert set(report.drifted) == {"whole", "level"}
    assert report["whole"].bound <= 0.012


def test_a_reference_is_fitted_to_a_relation():
    like = reference()
    same(Reference.fit(relation(200_000), layouts=like.layouts), here(like, 200_000))
    assert DriftDetector(relation(200_000)).detect_drift(relation(150_000)).drifted == ()
