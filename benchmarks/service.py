"""The whole prediction: what `PredictionService` adds to the model.

The limit is an absolute one: at most 5 microseconds over the model with one listener.  It is
expressed as a ratio to a loop of known length that takes 5 microseconds in the same run.
"""

import time

from benchmarks.runner import Case, main
from prodml import CircuitBreaker, PredictionCache, PredictionService, Schema
from prodml.events import PredictionServed, Stream

ROW = {"age": 41.0, "clicks": 3, "country": "NO"}


def model(features):
    return 0.5


def listening(**parts):
    stream = Stream()
    stream.subscribe(PredictionServed, lambda fact: None)
    service = PredictionService(model, events=stream, **parts)
    return lambda: service.predict(ROW)


def five_microseconds():
    """A loop that takes five microseconds here and now, so that ratios mean microseconds."""
    turns = 1
    while _took(turns) < 5e-6:
        turns = max(turns + 1, int(turns * 1.05))
    return lambda: _spin(turns)


def _spin(turns):
    for _ in range(turns):
        pass


def _took(turns):
    best = 1.0
    for _ in range(50):
        began = time.perf_counter()
        _spin(turns)
        best = min(best, time.perf_counter() - began)
    return best


def cases():
    schema = Schema.infer([ROW, {"age": 20.0, "clicks": 0, "country": "SE"}])
    return [
        Case(
            "PredictionService, one listener (model included: 0.05 microseconds)",
            "5 microseconds",
            {
                "5 microseconds": five_microseconds(),
                "model alone": lambda: model(ROW),
                "service": listening(),
                "with breaker": listening(breaker=CircuitBreaker("bench")),
                "with schema": listening(schema=schema),
                "with cache, a hit": listening(cache=PredictionCache()),
                "with schema, breaker, fallback": listening(
                    schema=schema, breaker=CircuitBreaker("all"), fallback=lambda features: 0.0
                ),
            },
            limits={"service": 1.0},
        )
    ]


if __name__ == "__main__":
    main(cases())
