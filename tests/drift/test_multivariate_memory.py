"""What a check of many rows adds: pages of them, never the matrix."""

import tracemalloc

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from prodml.drift import (
    CorrelationDrift,
    DistanceDrift,
    DomainClassifier,
    MultivariateDetector,
    PCAReconstruction,
)
from prodml.drift.multivariate.encoding import Encoder
from prodml.events import Stream

ROWS, COLUMNS = 100_000, 20


def added(check, current):
    check.detect_drift(current[:2000])
    tracemalloc.start()
    check.detect_drift(current)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (PCAReconstruction, 8),
        (CorrelationDrift, 20),
        (DistanceDrift, 22),
        (lambda data: DomainClassifier(data, model=DecisionTreeClassifier(max_leaf_nodes=8)), 12),
        (lambda data: MultivariateDetector(data, events=Stream()), 24),
    ],
)
def test_a_check_of_100_000_rows_by_20_adds_less_than_its_matrix_would(method, most):
    rng = np.random.default_rng(0)
    check = method(rng.normal(size=(4000, COLUMNS)))
    # One matrix of doubles is 16 MB; encoding it at once took 70.
    assert added(check, rng.normal(size=(ROWS, COLUMNS))) < most


def test_blocks_add_no_more():
    rng = np.random.default_rng(0)
    day = np.arange(4000) // 100
    check = MultivariateDetector(
        rng.normal(size=(4000, COLUMNS)), blocks=day, methods=("pca", "energy"), events=Stream()
    )
    assert added(check, rng.normal(size=(ROWS, COLUMNS))) < 24


def test_pages_are_the_whole():
    rng = np.random.default_rng(0)
    data = {
        "x": rng.normal(size=9000),
        "y": np.where(rng.random(9000) < 0.1, np.nan, rng.normal(size=9000)),
        "c": rng.choice(["a", "b", None], size=9000).tolist(),
    }
    encoder, before = Encoder.fit(data)
    pages = []
    sheet = encoder.read(data, pages.append)
    assert len(pages) == 3
    assert np.array_equal(np.vstack(pages), encoder.read(data).values)
    assert sheet.missing == before.missing
    assert sheet.missing["y"] == pytest.approx(np.isnan(data["y"]).mean())
    assert sheet.values.shape == (0, 6)
    assert encoder.survey(data).findings == ()


def test_new_levels_without_number_take_no_more_memory():
    encoder, _ = Encoder.fit({"c": ["a", "b"] * 250})
    levels = [f"{at:030d}" for at in range(200_000)]
    tracemalloc.start()
    sheet = encoder.survey({"c": levels})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sheet.findings[0].startswith("c: new levels 0")
    assert sheet.findings[0].endswith("100 %")
    assert peak < 5e6


def test_a_page_of_a_wide_table_has_fewer_rows():
    rng = np.random.default_rng(0)
    wide = PCAReconstruction(rng.normal(size=(600, 300)))
    assert added(wide, rng.normal(size=(20_000, 300))) < 8
