"""Recording: what one logged prediction costs its caller, and what reading it back costs."""

import atexit
import json
import os
import random
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np
import structlog

from benchmarks.runner import Case, main
from prodml.events import PredictionServed
from prodml.recording import PredictionLog, PredictionLogger
from prodml.recording.codec import plain
from prodml.types import Prediction

RNG = random.Random(20)
NUMBERS = {f"feature_{n:02d}": RNG.random() * 100 if n % 4 else n for n in range(20)}
MIXED = NUMBERS | {
    f"feature_{n:02d}": RNG.choice(["red", "green", "blue"]) for n in range(0, 20, 5)
}
NUMPY = {name: np.float64(value) for name, value in NUMBERS.items()}
METADATA = {"status": "success"}
READ = 2_000


def entry():
    return {
        "request_id": "req-81f3aa02",
        "timestamp": datetime.now(UTC).isoformat(),
        "features": NUMBERS,
        "prediction": 0.7312,
        "model_version": "v3",
        "latency_ms": 3.21,
        "metadata": METADATA,
    }


def opening(path):
    def log():
        with path.open("a") as file:
            file.write(json.dumps(entry()) + "\n")

    return log


def only_dumps():
    json.dumps(entry())


def by_hand(path):
    encode = msgspec.json.Encoder().encode
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    return lambda: os.write(descriptor, encode(entry()) + b"\n")


def structured(path):
    encode = msgspec.json.Encoder().encode
    log = structlog.wrap_logger(
        structlog.BytesLogger(path.open("ab")),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=lambda event, **_: encode(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=True,
    ).bind()
    return lambda: log.info(
        "prediction",
        request_id="req-81f3aa02",
        features=NUMBERS,
        prediction=0.7312,
        model_version="v3",
        latency_ms=3.21,
        metadata=METADATA,
    )


def logged(directory, features, **settings):
    log = PredictionLogger(directory, keep_bytes="256 MiB", **settings)
    return lambda: log.log_prediction("req-81f3aa02", features, 0.7312, "v3", 3.21, METADATA)


def heard(directory):
    log = PredictionLogger(directory, keep_bytes="256 MiB")
    prediction = Prediction(0.7312, "req-81f3aa02", "v3", latency_ms=3.21)
    return lambda: log(
        PredictionServed(at=1.7e9, source="churn", prediction=prediction, features=NUMBERS)
    )


def read(directory):
    with PredictionLogger(directory) as log:
        for number in range(READ):
            log.log_prediction(f"req-{number}", NUMBERS, 0.7312, "v3", 3.21, METADATA)
    return PredictionLog(directory), next(directory.glob("*.jsonl"))


def loads(path):
    def work():
        with path.open() as file:
            for line in file:
                json.loads(line)

    return work


def cases() -> list[Case]:
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    log, file = read(place / "read")
    hand = "msgspec and one write by hand"
    return [
        Case(
            "log one prediction of 20 features",
            "open, json.dumps, close a record",
            {
                "open, json.dumps, close a record": opening(place / "naive.jsonl"),
                "json.dumps alone": only_dumps,
                "structlog with msgspec, cached": structured(place / "structlog.jsonl"),
                hand: by_hand(place / "hand.jsonl"),
                "PredictionLogger": logged(place / "numbers", NUMBERS),
            },
            limits={"PredictionLogger": 0.3},
            target=0.02,
        ),
        Case(
            "log one prediction, by what is in the row",
            hand,
            {
                hand: by_hand(place / "hand.jsonl"),
                "numbers": logged(place / "by-numbers", NUMBERS),
                "numbers and text": logged(place / "by-mixed", MIXED),
                "numpy numbers": logged(place / "by-numpy", NUMPY),
                "numbers, a name redacted": logged(place / "by-redact", NUMBERS, redact=("ssn",)),
                "as a fact": heard(place / "by-fact"),
                "spelling out only, no log": lambda: plain(NUMPY),
            },
            limits={"numbers": 1.4},
            target=0.02,
        ),
        Case(
            "read 2,000 predictions back",
            "json.loads a line",
            {
                "json.loads a line": loads(file),
                "iterate": lambda: sum(1 for _ in log),
                "get one": lambda: log.get("req-1000"),
                "gaps": lambda: list(log.gaps()),
            },
            inner=READ,
            rounds=9,
            target=0.02,
        ),
    ]


if __name__ == "__main__":
    main(cases())
