"""The same rows on every engine, made in parts: integers and square roots, exact anywhere."""

import numpy as np

from prodml.drift import Reference

NAMES = ("x", "zeros", "whole", "level")

# Understood by DuckDB and by Spark.
SQL = """
CASE WHEN id % 97 = 0 THEN NULL ELSE sqrt(CAST((id * 7919) % 1000003 AS DOUBLE)) END AS x,
CASE WHEN id % 10 < 9 THEN CAST(0 AS DOUBLE) ELSE CAST((id * 17) % 1009 AS DOUBLE) / 8 END AS zeros,
CAST((id * 7919) % 2000 - 1000 AS BIGINT) AS whole,
concat('level ', CAST(id % 7 AS STRING)) AS level
"""
LEVELS = np.array([f"level {i}" for i in range(7)])


def rows(start, stop):
    """Rows ``start`` to ``stop`` as numpy makes them."""
    i = np.arange(start, stop, dtype=np.int64)
    return {
        "x": np.where(i % 97 == 0, np.nan, np.sqrt((i * 7919 % 1000003).astype(float))),
        "zeros": np.where(i % 10 < 9, 0.0, (i * 17 % 1009).astype(float) / 8),
        "whole": i * 7919 % 2000 - 1000,
        "level": LEVELS[i % 7],
    }


def reference():
    return Reference.fit(rows(0, 100_000), exact=False)


def here(like, count, part=500_000):
    """Counted by numpy, part after part."""
    state = Reference.empty(like)
    for start in range(0, count, part):
        state = state.update(rows(start, min(start + part, count)))
    return state


def same(found, expected):
    """All cells, levels and counts are equal."""
    assert found.names == expected.names
    for name in found.names:
        assert found.columns[name].sample == expected.columns[name].sample, name


def same_at_edges(found, expected):
    """Equal where an engine was asked, and in all that is exact anyway."""
    for name in found.names:
        own, full = found.columns[name].sample, expected.columns[name].sample
        if name == "level":
            assert own == full
            continue
        edges = own.layout.upper(own.marks)
        assert own.cumulative(edges).tolist() == full.cumulative(edges).tolist()
        for what in ("rows", "missing", "above", "below", "fractional", "minimum", "maximum"):
            assert getattr(own, what) == getattr(full, what), (name, what)
