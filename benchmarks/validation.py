"""Validation: what a row and a batch cost beside msgspec, pydantic, polars and pandera.

``python -m benchmarks validation`` prints the tables.  A row has twenty fields: twelve floats
and four ints with a range, four texts of four levels.  Peers that are not installed are left
out.
"""

import contextlib
import random
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from benchmarks.runner import Case, main
from prodml.validation import AnomalyDetector, Field, Schema

FLOATS = [f"f{i}" for i in range(12)]
INTS = [f"i{i}" for i in range(4)]
TEXTS = [f"c{i}" for i in range(4)]
LEVELS = ("red", "green", "blue", "black")
ROWS = 100_000

FIELDS = {
    **{name: Field(float, minimum=0, maximum=1) for name in FLOATS},
    **{name: Field(int, minimum=0, maximum=100) for name in INTS},
    **{name: Field(str, categories=LEVELS) for name in TEXTS},
}


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            **{name: rng.random() for name in FLOATS},
            **{name: rng.randint(0, 100) for name in INTS},
            **{name: rng.choice(LEVELS) for name in TEXTS},
        }
        for _ in range(count)
    ]


def row_peers() -> dict[str, Callable[[Any], object]]:
    import msgspec
    import pydantic

    kinds: dict[str, Any] = {
        **{name: Annotated[float, msgspec.Meta(ge=0, le=1)] for name in FLOATS},
        **{name: Annotated[int, msgspec.Meta(ge=0, le=100)] for name in INTS},
        **dict.fromkeys(TEXTS, Literal[LEVELS]),
    }
    struct = msgspec.defstruct("Row", list(kinds.items()))
    strict: dict[str, Any] = {
        **{name: Annotated[float, pydantic.Field(ge=0, le=1)] for name in FLOATS},
        **{name: Annotated[int, pydantic.Field(ge=0, le=100)] for name in INTS},
        **dict.fromkeys(TEXTS, Literal[LEVELS]),
    }
    kind: Any = TypedDict("kind", strict)  # type: ignore[misc]
    kind.__pydantic_config__ = pydantic.ConfigDict(strict=True)
    return {
        "msgspec.convert": lambda row: msgspec.convert(row, struct),
        "pydantic TypedDict, strict": pydantic.TypeAdapter(kind).validate_python,
    }


def over(check: Callable[[Any], object], some: list[dict[str, Any]]) -> Callable[[], object]:
    def work() -> None:
        for row in some:
            with contextlib.suppress(ValueError):
                check(row)

    return work


def straight(check: Callable[[Any], object], some: list[dict[str, Any]]) -> Callable[[], object]:
    def work() -> None:
        for row in some:
            check(row)

    return work


def good_row() -> Case:
    some = rows(200)
    checks = {**row_peers(), "Schema.validate": Schema(FIELDS).validate}
    return Case(
        "good row of 20 fields",
        "msgspec.convert",
        {name: straight(check, some) for name, check in checks.items()},
        {"Schema.validate": 1.3},
        inner=len(some),
        rounds=101,
    )


def bad_row() -> Case:
    some = [{**row, "f3": 7.0, "c1": "pink"} for row in rows(200)]
    peers = row_peers()
    names = {"msgspec.convert": "msgspec.convert, the first one only"}
    candidates = {names.get(name, name): over(check, some) for name, check in peers.items()}
    schema = Schema(FIELDS)
    return Case(
        "bad row of 20 fields, both violations",
        "msgspec.convert, the first one only",
        {
            **candidates,
            "Schema.check": straight(schema.check, some),
            "Schema.validate, raising": over(schema.validate, some),
        },
        inner=len(some),
        rounds=51,
        limits_ns={"Schema.check": 3_000},
    )


def columns(count: int, bad: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    table: dict[str, Any] = {name: rng.random(count) for name in FLOATS}
    table |= {name: rng.integers(0, 101, count) for name in INTS}
    table |= {name: rng.choice(np.array(LEVELS), count).tolist() for name in TEXTS}
    if bad:
        table["f3"] = np.where(rng.random(count) < bad, 7.0, table["f3"])
        odd = rng.random(count) < bad
        table["c1"] = ["pink" if hit else text for text, hit in zip(table["c1"], odd, strict=True)]
    return table


def mask_of(frame: Any) -> Callable[[], object]:
    import polars as pl

    expressions = [pl.col(FLOATS).is_between(0, 1), pl.col(INTS).is_between(0, 100)]
    mask = pl.all_horizontal(*expressions, pl.col(TEXTS).is_in(list(LEVELS)))
    return lambda: frame.select(mask).to_series()


def split_of(frame: Any) -> Callable[[], object]:
    find = mask_of(frame)

    def split() -> tuple[Any, Any]:
        mask: Any = find()
        return frame.filter(mask), frame.filter(~mask)

    return split


def pandera_check(frame: Any) -> dict[str, Callable[[], object]]:
    from prodml.integrations.pandera import to_pandera

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = to_pandera(Schema(FIELDS), backend="polars")
            theirs.validate(frame, lazy=True)
    except ImportError:
        return {}
    return {"pandera": lambda: theirs.validate(frame, lazy=True)}


def batch(title: str, bad: float) -> Case:
    import polars as pl

    table = columns(ROWS, bad)
    base = "polars mask and both filters" if bad else "polars mask"
    frame, schema = pl.DataFrame(table), Schema(FIELDS)
    pandas = frame.to_pandas()
    return Case(
        title,
        base,
        {
            base: split_of(frame) if bad else mask_of(frame),
            "validate_batch, polars": lambda: schema.validate_batch(frame),
            "validate_batch, pandas": lambda: schema.validate_batch(pandas),
            **({} if bad else pandera_check(frame)),
        },
        {"validate_batch, polars": 1.5},
        # Polars works in threads: what counts is when the answer is there.
        clock=time.perf_counter,
        inner=ROWS,
        rounds=15,
    )


def one_row() -> Case:
    import polars as pl

    (row,) = rows(1)
    frame, schema = pl.DataFrame([row]), Schema(FIELDS)
    pandas = frame.to_pandas()
    limits: Mapping[str, float] = {
        "list of one": 20_000,
        "polars": 300_000,
        "pandas": 900_000,
    }
    return Case(
        "batch of one row",
        "list of one",
        {
            "list of one": lambda: schema.validate_batch([row]),
            "polars": lambda: schema.validate_batch(frame),
            "pandas": lambda: schema.validate_batch(pandas),
            **pandera_check(frame),
        },
        rounds=15,
        limits_ns=dict(limits),
    )


def score() -> Case:
    from sklearn.ensemble import IsolationForest

    table = columns(5_000)
    detector = AnomalyDetector(table)
    (row,) = rows(1)
    numbers = np.column_stack([table[name] for name in FLOATS + INTS])
    forest = IsolationForest(random_state=0).fit(numbers)
    one = numbers[:1]
    return Case(
        "anomaly score of one row of 20 fields",
        "AnomalyDetector.score",
        {
            "AnomalyDetector.score": lambda: detector.score(row),
            "IsolationForest, 16 fields": lambda: forest.score_samples(one),
        },
        limits_ns={"AnomalyDetector.score": 30_000},
        rounds=9,
    )


def cases() -> list[Case]:
    return [
        good_row(),
        bad_row(),
        batch("batch of 100,000 good rows, a row", 0.0),
        batch("batch of 100,000 rows, 2 % of them bad, a row", 0.01),
        one_row(),
        score(),
    ]


if __name__ == "__main__":
    main(cases())
