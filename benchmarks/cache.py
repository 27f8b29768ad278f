"""Prediction cache: what an answer from memory costs, and what a computed one costs on top.

``python -m benchmarks.cache`` prints the tables.  The baselines are measured in the same
rounds: a dictionary behind the same exact key, and the usual recipe (sorted JSON, MD5) with
a dictionary where Redis would be.
"""

import asyncio
import atexit
import functools
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.runner import Case, main
from prodml.cache import MISS, PredictionCache, cached_prediction
from prodml.cache.keys import Namer

INNER = 100
Predict = Callable[[Any, str], Any]


def rows(count: int = 64, width: int = 20) -> list[dict[str, Any]]:
    """Rows as services see them: mostly floats, some counts, a label, a flag."""
    rng = random.Random(0)
    return [
        {f"feature_{i}": rng.random() if i % 3 else rng.randrange(100) for i in range(width - 2)}
        | {"country": rng.choice(["DE", "FR", "US"]), "new": rng.random() < 0.5}
        for _ in range(count)
    ]


def model(features: Any, model_version: str) -> float:
    return 0.5


def by_hand() -> Predict:
    """The same exact key, a dictionary, and nothing else: no bound, no end, no counting."""
    name, kept = Namer().name, dict[bytes, float]()

    def predict(features: Any, model_version: str) -> Any:
        key = model_version.encode() + name(features)
        value = kept.get(key, MISS)
        if value is MISS:
            value = kept[key] = model(features, model_version)
        return value

    return predict


def usual_recipe() -> Predict:
    kept: dict[str, float] = {}

    def predict(features: Any, model_version: str) -> Any:
        text = json.dumps(features, sort_keys=True)
        key = hashlib.md5(f"{model_version}/{text}".encode()).hexdigest()
        value = kept.get(key)
        if value is None:
            value = kept[key] = model(features, model_version)
        return value

    return predict


def with_cachetools() -> Predict | None:
    try:
        import cachetools
    except ImportError:
        return None
    name = Namer().name
    kept: Any = cachetools.TTLCache(maxsize=100_000, ttl=3600)
    return cachetools.cached(kept, key=lambda f, v: v.encode() + name(f), lock=None)(model)


def loop(predict: Predict, given: list[Any]) -> Callable[[], None]:
    def many() -> None:
        for place in range(INNER):
            predict(given[place % len(given)], "v1")

    many()
    return many


@functools.cache
def runner() -> asyncio.Runner:
    shared = asyncio.Runner()
    atexit.register(shared.close)
    return shared


def aloop(predict: Any, given: list[Any]) -> Callable[[], None]:
    async def many() -> None:
        for place in range(INNER):
            await predict(given[place % len(given)], "v1")

    return lambda: runner().run(many())


def fresh(make: Callable[[], Predict]) -> Callable[[], None]:
    """Every row is new: what is paid where nothing is gained."""
    given = rows(INNER)

    def many() -> None:
        predict = make()
        for row in given:
            predict(row, "v1")

    return many


def cached(**settings: Any) -> Predict:
    return cached_prediction(PredictionCache(**settings))(model)


def hits() -> Case:
    given = rows()
    candidates = {
        "dictionary, same key": loop(by_hand(), given),
        "cached_prediction": loop(cached(), given),
        "JSON, MD5, dictionary": loop(usual_recipe(), given),
    }
    peer = with_cachetools()
    if peer is not None:
        candidates["cachetools TTLCache, same key"] = loop(peer, given)
    return Case(
        name="answer from memory, row of 20 values",
        baseline="dictionary, same key",
        candidates=candidates,
        limits={"cached_prediction": 2.0},
        inner=INNER,
    )


def hits_of_tasks() -> Case:
    given = rows()
    hand = by_hand()

    @cached_prediction(PredictionCache())
    async def ours(features: Any, model_version: str) -> float:
        return model(features, model_version)

    async def bare(features: Any, model_version: str) -> Any:
        return hand(features, model_version)

    return Case(
        name="answer from memory, awaited",
        baseline="dictionary, same key",
        candidates={"dictionary, same key": aloop(bare, given), "cached": aloop(ours, given)},
        limits={"cached": 2.0},
        inner=INNER,
    )


def misses() -> Case:
    return Case(
        name="new row: looked up, computed alone, kept",
        baseline="JSON, MD5, dictionary",
        candidates={
            "dictionary, same key": fresh(by_hand),
            "cached_prediction": fresh(cached),
            "JSON, MD5, dictionary": fresh(usual_recipe),
        },
        inner=INNER,
    )


def batches() -> Case:
    """256 rows of an array, all known: one by one and as a batch."""
    given = np.random.default_rng(0).normal(size=(256, 20))

    def score(table: Any, model_version: str) -> Any:
        return table.sum(axis=1)

    cache = PredictionCache()
    batch = cached_prediction(cache, batch=True, function="batch")(score)
    one = cached_prediction(cache, function="one")(lambda row, model_version: row.sum())
    recipe = usual_recipe()
    lists = given.tolist()

    def run_batch() -> None:
        batch(given, "v1")

    def run_ones() -> None:
        for row in given:
            one(row, "v1")

    def run_recipe() -> None:
        for row in lists:
            recipe(row, "v1")

    return Case(
        name="256 known rows of 20 numbers",
        baseline="JSON, MD5, dictionary",
        candidates={
            "as one batch": run_batch,
            "row by row": run_ones,
            "JSON, MD5, dictionary": run_recipe,
        },
        inner=256,
    )


def cases() -> list[Case]:
    return [hits(), hits_of_tasks(), misses(), batches()]


if __name__ == "__main__":
    main(cases())
