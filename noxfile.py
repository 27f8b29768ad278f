"""Every check of the house: ``nox -l`` lists them, ``nox`` runs what a change must pass."""

import os
import shutil
from itertools import chain
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
GROUPS = PYPROJECT["dependency-groups"]


def versions() -> list[str]:
    """Classifiers decide; what is not on this machine is left out, 3.11 never is."""
    named = nox.project.python_versions(PYPROJECT)
    return [v for v in named if v == "3.11" or interpreter(v) != v]


def interpreter(version: str) -> str:
    """Path of an interpreter, looked for behind version managers' shims as well."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(root.glob(f"{version}.*/bin/python{version}"))
    if found:
        return str(found[-1])
    return shutil.which(f"python{version}") or version


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(PYPROJECT, name)


PYTHONS = [interpreter(version) for version in versions()]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole suite with branch coverage, on every interpreter found."""
    session.install("-e", ".[test]", *session.posargs)
    env = {"COVERAGE_PROCESS_START": "pyproject.toml"}
    session.run("coverage", "run", "-m", "pytest", env=env)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report", "--fail-under=95", "--skip-covered", "-m")


@nox.session(python=PYTHONS[0])
def known(session: nox.Session) -> None:
    """The suite on the versions of constraints.txt, to tell our fault from a dependency's."""
    session.install("-e", ".[test]", "-c", "constraints.txt")
    session.run("pytest", "-x", *session.posargs)


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """mypy --strict, pyright strict, and every public symbol known."""
    session.install("-e", ".[test]", *group("types"))
    session.run("mypy", "--strict", "src/prodml", "tests/typing_surface.py")
    session.run("pyright")
    session.run("pyright", "tests/typing_surface.py")
    session.run("pyright", "--verifytypes", "prodml", "--ignoreexternal")


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Ruff and spelling."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell", "src", "docs", "tests", "examples", "README.md", "CHANGELOG.md")


@nox.session(python=PYTHONS[0])
def house(session: nox.Session) -> None:
    """The rules of the house alone: floors, names, sizes, contracts."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests/house", "tests/contracts", *session.posargs)


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The pages as HTML, with the API reference; a warning is an error."""
    session.install("-e", ".", *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "site")


@nox.session(python=PYTHONS[0])
def bench(session: nox.Session) -> None:
    """Ratios against pinned peers, written to docs/reference/benchmarks.md."""
    session.install("-e", ".[test]", *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


def other(session: nox.Session, name: str, *packages: str) -> str:
    """Interpreter of a second environment, for what cannot live in the session's own."""
    folder = Path(session.create_tmp()) / name
    session.run("python", "-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    session.run(python, "-m", "pip", "install", "-q", *packages, external=True)
    return python


@nox.session(name="bench-http", python=PYTHONS[0])
def bench_http(session: nox.Session) -> None:
    """The HTTP tables alone; needs ``wrk``.  ``-- --rounds 1 --seconds 1`` only tries it."""
    session.install("-e", ".[demo]", *group("http"))
    peers = other(session, "peers", *group("http-peers"))
    bento = other(session, "bento", *group("http-bento"))
    servers = ("--peers", peers, "--bento", bento)
    session.run("python", "-m", "benchmarks.serving_http", *servers, *session.posargs)


@nox.session(name="bench-drift", python=PYTHONS[0])
def bench_drift(session: nox.Session) -> None:
    """A check against other drift libraries; ``-- --rounds 1 --rows 5000`` only tries it."""
    session.install("-e", ".[test]")
    peers = ("alibi", "deepchecks", "evidently", "frouros", "nannyml")
    found = [(f"--{name}", other(session, name, *group(f"drift-{name}"))) for name in peers]
    session.run("python", "-m", "benchmarks.drift_peers", *chain(*found), *session.posargs)


@nox.session(name="drift-alarms", python=PYTHONS[0])
def drift_alarms(session: nox.Session) -> None:
    """What other drift libraries and ours say where nothing moved; an hour, ``-- 5`` for less."""
    session.install("-e", ".[test]")
    runs = session.posargs or ("20", "60")
    silent = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1", "OMP_NUM_THREADS": "1"}
    for name in ("alibi", "evidently", "nannyml", "whylogs"):
        python = other(session, name, *group(f"drift-{name}"))
        script = "benchmarks/_drift_peers/alarms.py"
        session.run(python, script, name, *runs, env=silent, external=True)
    session.run("python", "-m", "benchmarks._drift_peers.ours", env={"PYTHONPATH": "."})
    session.run("python", "-m", "benchmarks._drift_peers.power", env={"PYTHONPATH": "."})


@nox.session(python=PYTHONS[0])
@nox.parametrize(
    ("package", "test"),
    [
        nox.param("mlserver==1.7.1", "mlserver_client", id="mlserver"),
        nox.param("kserve==0.21.0", "kserve_client", id="kserve"),
        nox.param("schemathesis>=4.32", "schemathesis", id="schemathesis"),
        nox.param("ray[serve]==2.60.0", "ray_adapter", id="ray"),
    ],
)
def clients(session: nox.Session, package: str, test: str) -> None:
    """Other people's clients and checkers, each in its own environment, against the ASGI app."""
    tools = ("pandas", "pytest", "pytest-randomly", "pytest-timeout", "uvicorn", "uvloop<0.22")
    session.install("-e", ".", package, *tools)
    # Warnings inside other people's packages are theirs.
    quiet = ("-o", "filterwarnings=", "-W", "ignore")
    session.run("pytest", *quiet, f"tests/open_inference/test_{test}.py", *session.posargs)


@nox.session(python=PYTHONS[0])
def mlflow(session: nox.Session) -> None:
    """The adapter against a real MLflow on SQLite, in an environment of its own."""
    tools = ("hypothesis", "pytest", "pytest-randomly", "pytest-timeout", "scikit-learn")
    session.install("-e", ".[mlflow,skops]", *tools)
    quiet = ("-o", "filterwarnings=", "-W", "ignore")
    session.run("pytest", *quiet, "tests/registry/test_mlflow.py", *session.posargs)


@nox.session(name="peers-conformance", python=PYTHONS[0])
def peers_conformance(session: nox.Session) -> None:
    """The breaker checks, on prodml and its peers, written to docs/reference/conformance.md."""
    session.install(".[test]", *group("peers"))
    session.run("python", "-m", "tests.resilience.conformance", *session.posargs)


@nox.session(python=PYTHONS[0])
def soak(session: nox.Session) -> None:
    """Long-running confirmations: large simulations and many seeds."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "soak", "--timeout=3600", *session.posargs)


@nox.session(python=PYTHONS[0])
def scale(session: nox.Session) -> None:
    """Ten million rows in DuckDB, Dask and Spark; without Java, Spark is left out."""
    session.install("-e", ".[test]", *group("scale"))
    files = [f"tests/integration/test_drift_{name}.py" for name in ("duckdb", "dask", "spark")]
    session.run("pytest", "-m", "soak or not soak", "--timeout=3600", *files, *session.posargs)


@nox.session(python=PYTHONS[0])
def demo(session: nox.Session) -> None:
    """The main job: a year at three airports."""
    session.install(".[demo]")
    session.run("python", "examples/flights", *session.posargs)
