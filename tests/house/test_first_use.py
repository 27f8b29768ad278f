"""What an object needs is loaded when it is built: no call waits for an import."""

import subprocess
import sys

import pytest

ASYNC = """
import asyncio
async def ask():
    global before
    before = set(sys.modules)
    await {call}
"""

# By what is built: how, and the calls that may load nothing.
CALLS = {
    "circuit breaker": (
        """
from prodml import CircuitBreaker
@CircuitBreaker("db", failure_threshold=2)
def ask(x):
    return 1 / x
""",
        """
ask(1)
for _ in range(4):
    try:
        ask(0)
    except Exception:
        pass
""",
    ),
    "circuit breaker in a task": (
        """
from prodml import CircuitBreaker
@CircuitBreaker("db")
async def answer(x):
    return x
"""
        + ASYNC.format(call="answer(1)"),
        "asyncio.run(ask())",
    ),
    "circuit that is shared": (
        """
from prodml import CircuitBreaker
from prodml.stores import MemoryStore
ask = CircuitBreaker("db", store=MemoryStore())(abs)
""",
        "ask(1)",
    ),
    "patterns together": (
        """
from prodml.resilience import Bulkhead, CircuitBreaker, Fallback, Retry, Timeout, compose
@compose(Fallback(None), Retry(attempts=2), CircuitBreaker("db"), Bulkhead(2), Timeout(5.0))
def ask(item):
    return 9.5
""",
        "ask('tea')",
    ),
    "hedge": (
        """
import time
from prodml.resilience import Hedge
@Hedge(after=0.01)
def ask(x):
    time.sleep(0.05)
    return x
""",
        "ask(1)",
    ),
    "fallback chain": (
        """
from prodml import FallbackChain, Rung
chain = FallbackChain(Rung("model", lambda x: 1 / x), default=3)
""",
        "assert (chain(1).value, chain(0).value) == (1, 3)",
    ),
    "service": (
        """
from prodml import PredictionService
service = PredictionService(lambda features: 1.0)
""",
        "service.predict({'a': 1}); service.predict_batch([{'a': 1}, {'a': 2}])",
    ),
    "service in a task": (
        """
from prodml import PredictionService
async def model(features):
    return 1.0
service = PredictionService(model)
"""
        + ASYNC.format(call="service.apredict({'a': 1})"),
        "asyncio.run(ask())",
    ),
    "service with all that there is": (
        """
import tempfile
from prodml import CircuitBreaker, FeatureService, PredictionCache, PredictionService, Schema
from prodml import PredictionLogger
from prodml.features import FeatureView
view = FeatureView(
    "user",
    entity=("id",),
    source=lambda keys: {key: {"age": 3} for key in keys},
    features={"age": 0},
)
service = PredictionService(
    lambda features: 1 / features["a"],
    fallback=lambda features: 0.5,
    cache=PredictionCache(),
    breaker=CircuitBreaker("model"),
    features=FeatureService(view),
    schema=Schema.infer([{"a": i, "id": i} for i in range(5)]),
    logger=PredictionLogger(tempfile.mkdtemp()),
    timeout=5.0,
    deadline=5.0,
)
""",
        """
for a in (1, 1, 0):
    service.predict({"a": a, "id": 3})
service.predict_batch([{"a": 1, "id": 1}, {"a": 2, "id": 2}])
""",
    ),
    "cache": (
        """
from prodml import PredictionCache, cached_prediction
@cached_prediction(PredictionCache())
def ask(features, model_version):
    return 1.0
""",
        "ask({'a': 1, 'b': 'x'}, 'v1'); ask({'a': 1, 'b': 'x'}, 'v1')",
    ),
    "cache that answers late": (
        """
from prodml import PredictionCache, cached_prediction
from prodml.testing import ManualClock
clock = ManualClock()
@cached_prediction(PredictionCache(ttl=1.0, jitter=0.0, stale=9.0, clock=clock), version="v1")
def ask(features):
    return 1.0
ask({"a": 1})
clock.advance(2.0)
""",
        "ask({'a': 1})",
    ),
    "cache with a store and a file": (
        """
import tempfile
from prodml import PredictionCache, cached_prediction
from prodml.stores import MemoryStore
cache = PredictionCache(MemoryStore(), disk=f"{tempfile.mkdtemp()}/answers.db")
@cached_prediction(cache, version="v1", batch=True)
def ask(rows):
    return [1.0 for row in rows]
""",
        "ask([{'a': 1}, {'a': 2}]); ask([{'a': 1}, {'a': 3}])",
    ),
    "server": (
        """
from prodml import VersionedModelServer
server = VersionedModelServer()
for version in ("v1", "v2", "v3"):
    server.load_model(version, lambda features: 1.0)
server.set_default_version("v1")
server.route(canary={"v2": 0.5}, shadow=["v3"])
""",
        "[server.predict({'a': 1}, key=str(i)) for i in range(9)]; server.predict_batch([{}] * 3)",
    ),
    "batcher": (
        """
from prodml import MicroBatcher
batcher = MicroBatcher(lambda rows: [1.0] * len(rows))
""",
        "batcher.predict({'a': 1})",
    ),
    "logger": (
        """
import tempfile
from prodml import PredictionLogger
log = PredictionLogger(tempfile.mkdtemp())
""",
        "log.log_prediction('r', {'a': 1, 'b': 'x'}, 0.5, 'v1', 2.0); log.truth('r', 1)",
    ),
    "schema": (
        """
from prodml import Schema
schema = Schema.infer([{"a": float(i), "b": "x"} for i in range(20)])
""",
        """
schema.validate({"a": 1.0, "b": "x"})
try:
    schema.validate({"a": "odd", "b": "x"})
except ValueError as error:
    str(error)
schema.validate_batch([{"a": 1.0, "b": "x"}] * 5)
""",
    ),
    "store in a file": (
        "from prodml.stores import SQLiteStore\nstore = SQLiteStore(':memory:')",
        "store.set('k', b'v'); store.get('k')",
    ),
    "drift of arrays": (
        """
import numpy as np
from prodml import DriftDetector
rows = np.random.default_rng(0).normal(size=(400, 3))
detector = DriftDetector(rows)
""",
        "assert detector.detect_drift(rows + 1.0).drift_detected",
    ),
    "drift of rows against what was stored": (
        """
from prodml import DriftDetector
from prodml.drift import Reference
rows = [{"a": float(i), "b": "xy"[i % 2]} for i in range(300)]
detector = DriftDetector(Reference.from_dict(Reference.fit(rows).to_dict()))
""",
        "assert detector.detect_drift([{'a': 9.0, 'b': 'z'}] * 200).drift_detected",
    ),
    "drift of predictions": (
        """
from prodml import PredictionDriftMonitor
monitor = PredictionDriftMonitor(window_size=50)
monitor.set_baseline([i / 100 for i in range(100)])
""",
        "[monitor.add_prediction(0.9) for _ in range(60)]; monitor.check_drift()",
    ),
}
TOLD = "print({*sys.modules} - before)"


@pytest.mark.parametrize("built", CALLS)
def test_the_first_call_loads_nothing(built):
    build, call = CALLS[built]
    code = f"import sys\n{build}\nbefore = set(sys.modules)\n{call}\n{TOLD}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
