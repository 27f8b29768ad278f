"""The whole prediction: what `PredictionService` adds to the model.

The baseline does by hand, once and for one thread, what the service does: an id, two looks
at the clock, the answer's record, and one fact for one listener.
"""

import itertools
import time

from benchmarks.runner import Case, main
from prodml import CircuitBreaker, PredictionCache, PredictionService, Schema
from prodml.events import PredictionServed, Stream
from prodml.types import Prediction

ROW = {"age": 41.0, "clicks": 3, "country": "NO"}


def model(features):
    return 0.5


def listening(**parts):
    stream = Stream()
    stream.subscribe(PredictionServed, lambda fact: None)
    service = PredictionService(model, events=stream, **parts)
    return lambda: service.predict(ROW)


def by_hand():
    heard = []
    count = itertools.count().__next__

    def predict():
        began = time.monotonic()
        prediction = Prediction(
            model(ROW), f"r-{count():x}", "v1", latency_ms=(time.monotonic() - began) * 1e3
        )
        fact = PredictionServed(at=time.time(), source="x", prediction=prediction, features=ROW)
        heard[:] = [fact]
        return prediction

    return predict


def cases():
    schema = Schema.infer([ROW, {"age": 20.0, "clicks": 0, "country": "SE"}])
    return [
        Case(
            "PredictionService with one listener (a model of 50 ns included)",
            "by hand",
            {
                "by hand": by_hand(),
                "model alone": lambda: model(ROW),
                "service": listening(),
                "with breaker": listening(breaker=CircuitBreaker("bench")),
                "with schema": listening(schema=schema),
                "with cache, a hit": listening(cache=PredictionCache()),
                "with schema, breaker, fallback": listening(
                    schema=schema, breaker=CircuitBreaker("all"), fallback=lambda features: 0.0
                ),
            },
            limits_ns={"service": 5000.0},
        )
    ]


if __name__ == "__main__":
    main(cases())
