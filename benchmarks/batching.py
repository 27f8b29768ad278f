"""Micro-batching: what it costs who is alone, and what it saves a crowd.

``python -m benchmarks batching`` writes the tables.  In process, without a network: over HTTP
see ``benchmarks/serving_http.py``.  CPU time of the process throughout; the model is a gradient
boosting of 60 trees on one core, asked for one row at a time or in batches.
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

# Before the first import of anything that computes on several cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.runner import Case, main
from prodml.events import Stream
from prodml.serving import MicroBatcher, VersionedModelServer

INNER = 200
ROUNDS = 10
BARE, OURS, SERVER = "bare call", "MicroBatcher", "MicroBatcher before a server"
ONE, BATCHED = "one by one", "MicroBatcher"

Row = Any
Ask = Callable[[Row], Awaitable[Any]]


def nothing(rows: list[Row]) -> list[Row]:
    return rows


def boosting() -> tuple[Any, np.ndarray]:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, labels = make_classification(2000, 20, random_state=0)
    return HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(rows, labels), rows


def server(model: Callable[[list[Row]], list[Row]]) -> VersionedModelServer:
    class Model:
        def predict_batch(self, rows: list[Row]) -> list[Row]:
            return model(rows)

        def predict(self, row: Row) -> Row:
            return model([row])[0]

    made = VersionedModelServer(events=Stream())
    made.load_model("v1", Model())
    made.set_default_version("v1")
    return made


# -- alone --------------------------------------------------------------------------------


def loop(predict: Callable[[Row], Any]) -> Callable[[], None]:
    def work() -> None:
        for _ in range(INNER):
            predict(1)

    return work


class Loop:
    """An event loop that stays, so that its start is in no figure."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def alone(self, ask: Ask) -> Callable[[], None]:
        async def many() -> None:
            for _ in range(INNER):
                await ask(1)

        return lambda: self.loop.run_until_complete(many())

    def crowd(self, ask: Ask, rows: list[Row], tasks: int) -> Callable[[], None]:
        """So many clients, each asking again as soon as it has its answer."""

        async def client(number: int) -> None:
            for turn in range(ROUNDS):
                await ask(rows[(number + turn) % len(rows)])
                # As a server does between two requests of a connection.
                await asyncio.sleep(0)

        async def many() -> None:
            await asyncio.gather(*(client(number) for number in range(tasks)))

        return lambda: self.loop.run_until_complete(many())


def awaited(call: Callable[[Row], Any]) -> Ask:
    async def ask(row: Row) -> Any:
        return call(row)

    return ask


def threads(predict: Callable[[Row], Any], rows: list[Row], count: int) -> Callable[[], None]:
    def client(number: int) -> None:
        for turn in range(ROUNDS):
            predict(rows[(number + turn) % len(rows)])

    def work() -> None:
        crowd = [threading.Thread(target=client, args=(number,)) for number in range(count)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()

    return work


def cases() -> list[Case]:
    home, (model, data) = Loop(), boosting()
    rows = list(data[:256])

    def single(row: Row) -> Any:
        return model.predict(row[None])[0]

    def batcher() -> MicroBatcher:
        return MicroBatcher(model.predict, stack=True, inline=1.0)

    first = rows[0]
    plain, routed = MicroBatcher(nothing), MicroBatcher(server(nothing))
    alone = batcher()
    found = [
        Case(
            "One caller, no model: what is added, threads",
            BARE,
            {
                BARE: loop(lambda row: nothing([row])[0]),
                OURS: loop(plain.predict),
                SERVER: loop(routed.predict),
            },
            inner=INNER,
            limits_ns={OURS: 10_000},
        ),
        Case(
            "One caller, no model: what is added, event loop",
            BARE,
            {
                BARE: home.alone(awaited(lambda row: nothing([row])[0])),
                OURS: home.alone(plain.apredict),
                SERVER: home.alone(routed.apredict),
            },
            inner=INNER,
            limits_ns={OURS: 20_000},
        ),
        Case(
            "One caller, gradient boosting, event loop",
            BARE,
            {
                BARE: home.alone(awaited(lambda _: single(first))),
                OURS: home.alone(lambda _: alone.apredict(first)),
            },
            {OURS: 1.1},
            INNER,
            rounds=9,
        ),
    ]
    for tasks, floor in ((16, 2.4), (64, 3.5)):
        found.append(
            Case(
                f"{tasks} tasks, gradient boosting: answers per CPU second",
                ONE,
                {
                    ONE: home.crowd(awaited(single), rows, tasks),
                    BATCHED: home.crowd(batcher().apredict, rows, tasks),
                },
                inner=ROUNDS * tasks,
                rounds=9,
                clock=time.process_time,
                per_second=True,
                floors={BATCHED: floor},
            )
        )
    found.append(
        Case(
            "16 threads, gradient boosting: answers per CPU second",
            ONE,
            {
                ONE: threads(single, rows, 16),
                BATCHED: threads(batcher().predict, rows, 16),
            },
            inner=ROUNDS * 16,
            rounds=9,
            clock=time.process_time,
            per_second=True,
            floors={BATCHED: 2.0},
        )
    )
    return found


if __name__ == "__main__":
    main(cases())
