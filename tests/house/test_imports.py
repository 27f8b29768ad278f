"""What an import costs, counted in modules: deterministic, unlike milliseconds."""

import subprocess
import sys

import pytest

ROOMS = ["cache", "resilience", "serving", "features", "validation", "recording", "registry"]

# Modules that take long themselves, or bring many others along.
HEAVY = {
    "asyncio",
    "csv",
    "decimal",
    "email",
    "hashlib",
    "html",
    "importlib.metadata",
    "importlib.resources",
    "json",
    "logging",
    "msgspec",
    "multiprocessing",
    "narwhals",
    "pandas",
    "pathlib",
    "polars",
    "pyarrow",
    "random",
    "redis",
    "scipy",
    "sklearn",
    "socket",
    "sqlite3",
    "ssl",
    "statistics",
    "structlog",
    "subprocess",
    "tempfile",
    "tenacity",
    "unittest",
    "urllib",
    "uuid",
    "zoneinfo",
}

# By headline name: what comes first, the heavy modules that it may load besides, the rooms
# above the cellar that it may enter, and the most modules of ours.
COSTS = {
    "CircuitBreaker": ("", {"logging", "random"}, {"resilience"}, 38),
    "Retry": ("", {"logging", "random"}, {"resilience"}, 36),
    "FallbackChain": ("", {"logging"}, {"resilience"}, 30),
    "PredictionService": ("", {"logging"}, {"service", "serving"}, 34),
    "VersionedModelServer": ("", {"logging", "random"}, {"serving"}, 52),
    "MicroBatcher": ("", {"logging"}, {"serving"}, 39),
    "FeatureService": ("", {"logging"}, {"features"}, 32),
    "PredictionCache": (
        "",
        {"decimal", "hashlib", "json", "logging", "pathlib", "random", "urllib", "uuid"},
        {"cache"},
        57,
    ),
    "cached_prediction": (
        "",
        {"decimal", "hashlib", "json", "logging", "pathlib", "random", "urllib", "uuid"},
        {"cache"},
        67,
    ),
    "PredictionLogger": (
        "",
        {"decimal", "hashlib", "logging", "pathlib", "urllib", "uuid"},
        {"recording"},
        22,
    ),
    "Schema": ("", {"decimal"}, {"validation"}, 27),
    "RetrainingOrchestrator": ("", {"json", "logging", "zoneinfo"}, {"retraining"}, 21),
    "DriftDetector": ("import numpy", {"decimal"}, {"drift"}, 29),
    "PredictionDriftMonitor": ("import numpy", {"random", "decimal", "statistics"}, {"drift"}, 24),
}
CELLAR = {"clock", "errors", "events", "stores", "types"}


def loaded(statement, first=""):
    """Modules that ``statement`` adds in a fresh interpreter, after ``first``."""
    code = (
        f"{first}\nimport sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_prodml_loads_next_to_nothing():
    modules = loaded("import prodml")
    assert len(modules) <= 12, modules


@pytest.mark.parametrize("name", COSTS)
def test_a_headline_name_loads_what_it_needs_and_no_more(name):
    first, may, rooms, most = COSTS[name]
    modules = loaded(f"from prodml import {name}", first)
    heavy = {module for module in modules if {module, module.split(".")[0]} & HEAVY}
    assert {module for module in heavy if module.split(".")[0] not in may} == set()
    ours = [module for module in modules if module.startswith("prodml")]
    entered = {module.split(".")[1] for module in ours if "." in module}
    assert {room for room in entered if room[0] != "_"} - CELLAR <= rooms
    assert len(ours) <= most, ours


@pytest.mark.parametrize("name", ["DriftDetector", "PredictionDriftMonitor"])
def test_drift_loads_no_page_no_store_and_no_other_detector(name):
    modules = set(loaded(f"from prodml import {name}"))
    later = {"document", "page", "picture", "stored", "terminal", "timeline", "multivariate"}
    assert {f"prodml.drift.{file}" for file in later} & modules == set()
    assert len({"prodml.drift.detector", "prodml.drift.prediction"} & modules) == 1


def test_a_room_loads_none_of_its_files():
    assert {"prodml.drift.detector", "numpy"} & set(loaded("import prodml.drift")) == set()
    assert [m for m in loaded("import prodml.serving") if m.startswith("prodml.serving.")] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_first_floor_room_loads_no_third_party_and_no_asyncio(room):
    tops = {name.split(".")[0] for name in loaded(f"from prodml.{room} import *")}
    heavy = {"numpy", "scipy", "redis", "tenacity", "structlog", "msgspec", "narwhals", "asyncio"}
    assert tops & (heavy | {"pandas", "polars", "sklearn"}) == set()


def test_no_room_loads_scipy_stats():
    rooms = ("drift", "retraining", "rollout", "service")
    modules = loaded("\n".join(f"from prodml.{room} import *" for room in rooms))
    assert "prodml.drift.multivariate.auc" in modules
    assert "scipy.stats" not in modules


def test_everything_imports_with_only_the_core_present():
    """Optional packages may be missing: importing every module must not need them."""
    code = """
import importlib, pkgutil, sys
class Absent:
    names = {"pandas", "polars", "pyarrow", "sklearn", "fastapi", "prometheus_client",
             "opentelemetry", "mlflow", "dask", "duckdb", "fakeredis", "cryptography",
             "skops", "onnx", "onnxruntime"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import prodml
for found in pkgutil.walk_packages(prodml.__path__, "prodml."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
