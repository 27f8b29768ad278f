"""Drift at scale: ten million rows of four columns on every engine.

``python -m benchmarks.drift_scale [rows] [engine ...]`` prints the tables.  Each engine counts
once, in a process of its own.  Memory is the most that its processes together hold beyond what
they hold when everything is imported and the session runs.  An engine that is not installed is
left out.
"""

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.scale_rows import NAMES, SQL, reference, rows

from benchmarks.runner import Counted, markdown, measure
from prodml.drift import Reference
from prodml.drift.lazy import counted

ROOT = Path(__file__).parents[1]
SIZE = 10_000_000
PART = 500_000


def in_numpy(like: Reference, path: str, size: int) -> Callable[[], Any]:
    def run() -> Reference:
        state = Reference.empty(like)
        for start in range(0, size, PART):
            state = state.update(rows(start, min(start + PART, size)))
        return state

    return run


def in_parquet(like: Reference, path: str, size: int) -> Callable[[], Any]:
    return lambda: counted(Path(path), like)


def in_polars(like: Reference, path: str, size: int) -> Callable[[], Any]:
    import polars as pl

    return lambda: counted(pl.scan_parquet(path), like)


def in_polars_parts(like: Reference, path: str, size: int) -> Callable[[], Any]:
    import polars as pl

    return lambda: Reference.empty(like).update(pl.scan_parquet(path))


def _duckdb(size: int) -> Any:
    import duckdb

    connection = duckdb.connect(config={"memory_limit": "512MB", "threads": 2})
    return connection.sql(f"SELECT {SQL} FROM (SELECT range AS id FROM range({size}))")


def in_duckdb(like: Reference, path: str, size: int) -> Callable[[], Any]:
    relation = _duckdb(size)
    return lambda: counted(relation, like)


def in_duckdb_parts(like: Reference, path: str, size: int) -> Callable[[], Any]:
    relation = _duckdb(size)
    return lambda: Reference.empty(like).update(relation)


def in_dask(like: Reference, path: str, size: int) -> Callable[[], Any]:
    import dask.dataframe as dd

    from prodml.integrations import dask

    return lambda: dask.counted(dd.read_parquet(path), like)


def in_spark(like: Reference, path: str, size: int) -> Callable[[], Any]:
    from pyspark.sql import SparkSession

    from prodml.integrations import spark

    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "1g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    columns = [line.rstrip(",") for line in SQL.strip().splitlines()]
    frame = session.range(0, size, 1, 16).selectExpr(*columns)
    # Workers that have imported everything, as they have after the first job of a day.
    spark.counted(frame.limit(1000), like)
    return lambda: spark.counted(frame, like)


ENGINES: dict[str, tuple[str, Callable[[Reference, str, int], Callable[[], Any]]]] = {
    "numpy": ("numpy, made part by part", in_numpy),
    "parquet": ("Parquet in parts, by pyarrow", in_parquet),
    "polars": ("polars, 100 edges pushed down", in_polars),
    "polars-parts": ("polars, in parts", in_polars_parts),
    "duckdb": ("DuckDB, 100 edges pushed down", in_duckdb),
    "duckdb-parts": ("DuckDB, in parts", in_duckdb_parts),
    "dask": ("Dask, by partitions, on threads", in_dask),
    "spark": ("Spark local[2], mapInArrow", in_spark),
}


def tree_bytes(root: int) -> int:
    """Resident memory of a process and all below it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    total, group = 0, {root}
    for _ in range(8):
        group |= {pid for pid, parent in parents.items() if parent in group}
    for pid in group:
        try:
            # Shared pages are split among those that share them, as forked workers do.
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += 1024 * int(text.partition("\nPss:")[2].split()[0])
    return total


def child(engine: str, path: str, size: int) -> None:
    """Count, and say how long it took and who was there before."""
    like = reference()
    run = ENGINES[engine][1](like, path, size)
    before, most, done = tree_bytes(os.getpid()), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], tree_bytes(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    state = run()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    seen = {name: state.columns[name].sample.rows for name in NAMES}
    assert set(seen.values()) == {size}, seen
    sys.stdout.write(json.dumps({"seconds": seconds, "mb": max(0, most[0] - before) / 1e6}) + "\n")


def write(path: Path, size: int) -> None:
    """The rows as Parquet, made in parts."""
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    for start in range(0, size, PART):
        table = pa.table(rows(start, min(start + PART, size)))
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=PART)
    assert writer is not None
    writer.close()


def figures(engine: str, path: Path, size: int) -> tuple[float, float]:
    """Seconds, and megabytes more."""
    command = [sys.executable, "-m", "benchmarks.drift_scale", "--child", engine, str(path)]
    done = subprocess.run(
        [*command, str(size)], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found["seconds"], found["mb"]


def present(engine: str) -> bool:
    package = {"parquet": "pyarrow", "spark": "pyspark"}.get(engine, engine.partition("-")[0])
    java = engine != "spark" or shutil.which("java") is not None
    return java and importlib.util.find_spec(package) is not None


@contextmanager
def written(size: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write(path, size)
        yield path


def cases(size: int = SIZE, engines: Sequence[str] = ()) -> Iterator[Counted]:
    chosen = [engine for engine in engines or ENGINES if present(engine)]
    with written(size) as path:
        once = functools.cache(functools.partial(figures, path=path, size=size))
        for place, unit in enumerate(("seconds", "MB more")):
            yield Counted(
                name=f"{unit}, {size:,} rows of {len(NAMES)} columns",
                unit=unit,
                candidates={
                    ENGINES[engine][0]: lambda engine=engine, place=place: once(engine)[place]
                    for engine in chosen
                },
            )


def main(size: int, engines: list[str]) -> None:
    results = [result for case in cases(size, engines) for result in measure(case)]
    sys.stdout.write(markdown(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        arguments = sys.argv[1:]
        size_asked = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else SIZE
        main(size_asked, arguments)
