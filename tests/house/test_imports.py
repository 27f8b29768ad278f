"""What an import costs, counted in modules: deterministic, unlike milliseconds."""

import subprocess
import sys

import pytest

ROOMS = ["cache", "resilience", "serving", "features", "validation", "recording", "registry"]


def loaded(statement):
    """Modules that ``statement`` adds in a fresh interpreter."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_prodml_loads_next_to_nothing():
    modules = loaded("import prodml")
    assert len(modules) <= 12, modules


@pytest.mark.parametrize("room", ROOMS)
def test_a_first_floor_room_loads_no_third_party_and_no_asyncio(room):
    tops = {name.split(".")[0] for name in loaded(f"import prodml.{room}")}
    heavy = {"numpy", "scipy", "redis", "tenacity", "structlog", "msgspec", "narwhals", "asyncio"}
    assert tops & (heavy | {"pandas", "polars", "sklearn"}) == set()


def test_no_room_loads_scipy_stats():
    modules = loaded("import prodml.drift, prodml.retraining, prodml.rollout, prodml.service")
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
