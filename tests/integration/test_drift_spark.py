"""A real local Spark: counted where the partitions are, no row collected, pandas not needed.

Starting Spark takes longer than the whole ordinary suite may: ``nox -s scale`` runs this.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

from prodml.drift import DriftDetector, Reference
from prodml.errors import BadConfiguration
from prodml.testing import ManualClock
from tests.integration.scale_rows import NAMES, SQL, here, reference, same

pyspark = pytest.importorskip("pyspark")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
    # Its own tests look for pandas, and warn of a new one; sockets are left to the collector.
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        paths = [SOURCE, *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        settings = {
            "spark.driver.memory": "1g",
            "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
        }
        builder = SparkSession.builder.master("local[2]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


def frame(spark, size, parts=8):
    return spark.range(0, size, 1, parts).selectExpr(*_expressions())


def _expressions():
    return [line.rstrip(",") for line in SQL.strip().splitlines()]


@pytest.mark.parametrize("size", [200_000, 10_000_000], ids=["200k", "10M"])
def test_counts_of_partitions_are_those_of_numpy(spark, size):
    from prodml.integrations import spark as door

    like = reference()
    same(door.counted(frame(spark, size), like), here(like, size))


def test_a_reference_is_fitted_by_partitions(spark):
    from prodml.integrations import spark as door

    like = reference()
    same(door.fit(frame(spark, 200_000), layouts=like.layouts), here(like, 200_000))
    found = door.fit(frame(spark, 200_000))
    assert {name: column.kind for name, column in found.columns.items()} == {
        name: column.kind for name, column in like.columns.items()
    }
    assert found.columns["x"].sample.rows == 200_000
    assert abs(found.columns["whole"].sample.layout.centre) < 50


def test_types_names_and_empty_partitions(spark):
    from prodml.integrations import spark as door

    some = spark.range(0, 1000, 1, 4).selectExpr(
        "id % 3 = 0 AS `is.it`",
        "CAST(id AS DECIMAL(12, 2)) / 4 AS `price`",
        "timestamp_seconds(1700000000 + id) AS `when`",
        "date_add(DATE '2024-01-01', CAST(id % 30 AS INT)) AS `a ``day```",
        "CAST(NULL AS STRING) AS nothing",
        "array(id) AS list",
    )
    found = door.fit(some.where("price < 50"))
    kinds = [column.kind for column in found.columns.values()]
    assert kinds == ["categorical", "numeric", "time", "time", "categorical", "categorical"]
    sample = found.columns["is.it"].sample
    assert (sample.rows, sample.counts) == (200, {True: 67, False: 133})
    assert found.columns["price"].sample.maximum == 49.75
    assert found.columns["when"].sample.minimum == 1_700_000_000.0
    assert found.columns["nothing"].sample.missing == 200
    assert found.columns["list"].sample.counts["[7]"] == 1
    none = door.counted(some.where("price < 0"), found)
    assert {column.sample.rows for column in none.columns.values()} == {0}
    with pytest.raises(BadConfiguration, match="no partition"):
        door.fit(some.where("price < 0"))
    with pytest.raises(BadConfiguration, match="'fare'"):
        door.fit(some, ["fare"])
    with pytest.raises(BadConfiguration, match="none of the features"):
        door.counted(some, reference())


EVERY_TYPE = """
CASE WHEN id % 11 = 0 THEN NULL ELSE 9007199254740993 + id * 3 END AS long
CAST(id % 97 AS DECIMAL(20, 4)) / 100 AS price
CASE id % 5 WHEN 0 THEN double('NaN') WHEN 1 THEN double('Infinity') WHEN 2 THEN double('-0.0')
    ELSE id / 7 END AS rare
CAST(id / 3 AS FLOAT) AS single
timestamp_seconds(1700000000 + id) AS zoned
CAST(timestamp_seconds(1700000000 + id) AS TIMESTAMP_NTZ) AS naive
date_add(DATE '2024-01-01', CAST(id % 30 AS INT)) AS day
INTERVAL '1' SECOND * id AS lasting
CAST(CAST(id % 7 AS STRING) AS BINARY) AS raw
id % 3 = 0 AS truth
concat('é', CAST(id % 9 AS STRING)) AS text
array(id % 3) AS list
named_struct('a', id % 3) AS struct
map('a', id % 3) AS map
CASE WHEN id % 10 = 0 THEN NULL ELSE id % 5 END AS code
CAST(NULL AS INT) AS nothing
"""


def test_every_type_gives_the_bits_and_the_report_of_arrow_here(spark):
    def rows(start, stop):
        lines = EVERY_TYPE.replace("\n    ", " ").strip().splitlines()
        return spark.range(start, stop, 1, 5).selectExpr(*lines)

    kinds = {"code": "categorical"}
    old, new = rows(0, 3000), rows(100, 2500)
    reference = Reference.fit(old.toArrow(), exact=False, kinds=kinds)
    same(Reference.fit(old, kinds=kinds, layouts=reference.layouts), reference)
    # Planned there, the same kinds; nothing but counts is ever fetched.
    found = Reference.fit(old, kinds=kinds).columns
    assert {name: column.kind for name, column in found.items()} == {
        name: column.kind for name, column in reference.columns.items()
    }
    same(reference.update(new), reference.update(new.toArrow()))
    watch = DriftDetector(reference, clock=ManualClock())
    assert watch.detect_drift(new).to_dict() == watch.detect_drift(new.toArrow()).to_dict()


def test_a_detector_takes_a_frame(spark, monkeypatch):
    rows = []
    classic = type(spark.range(1))
    original = classic.collect

    def collect(self):
        rows.append(original(self))
        return rows[-1]

    monkeypatch.setattr(classic, "collect", collect)
    watch = DriftDetector(frame(spark, 200_000))
    assert isinstance(watch.reference, Reference)
    assert watch.reference.names == NAMES
    report = watch.detect_drift(frame(spark, 150_000).drop("whole"))
    assert report.drifted == ("whole",)
    assert report["whole"].reason == "the column is gone"
    # What came back: outlines of eight partitions, then a few states.
    assert [len(found) <= 8 for found in rows] == [True] * 3
    assert {tuple(row.asDict()) for found in rows for row in found} == {("state",)}
