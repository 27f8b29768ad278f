"""A real Dask: counted by partitions, added in a tree."""

import pytest

from prodml.drift import DriftDetector, Reference
from prodml.errors import BadConfiguration
from tests.integration.scale_rows import NAMES, here, reference, rows, same

dataframe = pytest.importorskip("dask.dataframe")

SIZES = pytest.mark.parametrize(
    "size", [200_000, pytest.param(10_000_000, marks=pytest.mark.soak)], ids=["200k", "10M"]
)


def made(start, size, part):
    import pandas as pd

    return pd.DataFrame(rows(start, min(start + part, size)))


def frame(size, parts=20):
    part = -(-size // parts)
    return dataframe.from_map(
        made, range(0, size, part), size=size, part=part, meta=made(0, size, 2)
    )


@pytest.mark.timeout(600)
@SIZES
def test_counts_of_partitions_are_those_of_numpy(size):
    from prodml.integrations import dask

    like = reference()
    same(dask.counted(frame(size), like), here(like, size))


def test_a_reference_is_fitted_by_partitions():
    from prodml.integrations import dask

    like = reference()
    same(dask.fit(frame(200_000), layouts=like.layouts), here(like, 200_000))
    found = dask.fit(frame(200_000), ["whole", "level"])
    assert found.names == ("whole", "level")
    assert found.columns["whole"].sample.rows == 200_000
    # Other layouts, the same rows: the cells lie about alike.
    assert abs(found.columns["whole"].sample.layout.centre) < 20


def test_empty_partitions_and_a_single_one_do_not_matter():
    from prodml.integrations import dask

    like = reference()
    some = frame(20_000, 4)
    same(
        dask.counted(some[some["whole"] > 990], like), dask.counted(some[some["whole"] > 990], like)
    )
    none = dask.counted(some[some["whole"] > 5000], like)
    assert {column.sample.rows for column in none.columns.values()} == {0}
    assert dask.fit(some[some["whole"] > 990]).columns["whole"].sample.minimum == 991
    with pytest.raises(BadConfiguration, match="no partition"):
        dask.fit(some[some["whole"] > 5000])


def test_columns_that_are_not_there():
    from prodml.integrations import dask

    with pytest.raises(BadConfiguration, match="none of the features"):
        dask.counted(frame(1000)[["level"]].rename(columns={"level": "other"}), reference())
    with pytest.raises(BadConfiguration, match="'fare'"):
        dask.fit(frame(1000), ["fare"])
    assert dask.counted(frame(1000)[["level"]], reference()).names == ("level",)


def test_a_detector_and_a_reference_take_a_frame():
    watch = DriftDetector(frame(200_000))
    assert watch.reference.names == NAMES
    report = watch.detect_drift(frame(150_000)[["x", "zeros", "level"]])
    assert report.drifted == ("whole",)
    assert report["whole"].reason == "the column is gone"
    same(Reference.fit(frame(1000), layouts=reference().layouts), here(reference(), 1000))


def test_a_reference_takes_the_rows_of_a_frame_without_collecting_them(monkeypatch):
    like = reference()
    some = frame(20_000, 4)
    monkeypatch.setattr(dataframe.DataFrame, "compute", lambda *_: pytest.fail("collected"))
    same(Reference.empty(like).update(some), here(like, 20_000))
    # Added to a sorted sample, counts make counts of it.
    exact = Reference.fit(rows(0, 1000))
    assert exact.update(some).columns["x"].sample.rows == 21_000
    with pytest.raises(BadConfiguration, match="same features"):
        like.update(some[["x", "level"]])
