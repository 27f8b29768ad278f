"""One library's check of 25 columns against a loop of scipy's test, in this process.

``python speed.py PEER [ROWS] [ROUNDS]`` in an environment that has the library; prints one line
of JSON: seconds of processor time of the loop and of each check, round by round.

The loop is what is often written by hand: ``ks_2samp``, a mean and a standard deviation of the
twenty numeric columns.  Each library is fitted beforehand where it can be, and then does what
its documentation shows first.
"""

import json
import random
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

warnings.simplefilter("ignore")

NUMBERS = [f"number {i}" for i in range(20)]
CODES = [f"code {i}" for i in range(5)]
LEVELS = [f"level {i:02d}" for i in range(12)]
Checks = dict[str, Callable[[], object]]


def batch(seed: int, rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    numbers = {name: rng.normal(size=rows) for name in NUMBERS}
    return numbers | {name: np.array(LEVELS)[rng.integers(0, 12, size=rows)] for name in CODES}


def frames(old: Any, new: Any) -> tuple[Any, Any]:
    import pandas as pd

    return tuple(pd.DataFrame({n: list(v) if n in CODES else v for n, v in data.items()})
                 for data in (old, new))  # fmt: skip


def loop(old: Any, new: Any) -> Callable[[], object]:
    from scipy.stats import ks_2samp

    def work() -> None:
        for name in NUMBERS:
            ks_2samp(old[name], new[name])
            new[name].mean(), new[name].std()

    return work


def prodml(old: Any, new: Any) -> Checks:
    from prodml.drift import DriftDetector, Reference
    from prodml.events import Stream

    a, b = frames(old, new)
    exact, counted = (
        DriftDetector(Reference.fit(a, exact=exact), events=Stream()) for exact in (True, False)
    )
    return {
        "detect_drift, sorted": lambda: exact.detect_drift(b),
        "detect_drift, sorted, and its page": lambda: exact.detect_drift(b).to_html(),
        "detect_drift, counted": lambda: counted.detect_drift(b),
    }


def evidently(old: Any, new: Any) -> Checks:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    told = DataDefinition(numerical_columns=NUMBERS, categorical_columns=CODES)
    a, b = (Dataset.from_pandas(frame, told) for frame in frames(old, new))
    return {"Report([DataDriftPreset()])": lambda: Report([DataDriftPreset()]).run(b, a).dict()}


def nannyml(old: Any, new: Any) -> Checks:
    import nannyml as nml

    a, b = frames(old, new)
    b[CODES] = b[CODES].astype("category")
    a[CODES] = a[CODES].astype("category")
    fitted = nml.UnivariateDriftCalculator(column_names=[*NUMBERS, *CODES]).fit(a)
    return {"UnivariateDriftCalculator.calculate": lambda: fitted.calculate(b).to_df()}


def alibi(old: Any, new: Any) -> Checks:
    from alibi_detect.cd import TabularDrift

    def matrix(data: Any) -> Any:
        codes = [np.unique(data[name], return_inverse=True)[1] for name in CODES]
        return np.column_stack([data[name] for name in NUMBERS] + codes)

    codes = dict.fromkeys(range(len(NUMBERS), len(NUMBERS) + len(CODES)))
    detector, current = TabularDrift(matrix(old), categories_per_feature=codes), matrix(new)
    return {"TabularDrift.predict": lambda: detector.predict(current)}


def frouros(old: Any, new: Any) -> Checks:
    from frouros.detectors.data_drift import ChiSquareTest, KSTest

    fitted = {name: KSTest() if name in NUMBERS else ChiSquareTest() for name in old}
    for name, detector in fitted.items():
        detector.fit(X=old[name])
    return {
        "KSTest, ChiSquareTest": lambda: [
            detector.compare(X=new[name]) for name, detector in fitted.items()
        ]
    }


def deepchecks(old: Any, new: Any) -> Checks:
    from deepchecks.tabular import Dataset
    from deepchecks.tabular.checks import FeatureDrift

    a, b = (Dataset(frame, cat_features=CODES) for frame in frames(old, new))
    # It would look at 100,000 rows in any case.
    return {"FeatureDrift.run": lambda: FeatureDrift().run(a, b, with_display=False).value}


def measure(checks: Checks, rounds: int) -> dict[str, list[float]]:
    """Each once a round, in random order, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in checks}
    order, rng = list(checks), random.Random(0)
    for name in order:
        checks[name]()
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            began = time.process_time()
            checks[name]()
            times[name].append(time.process_time() - began)
    return times


def main(peer: str, rows: int = 100_000, rounds: int = 5) -> None:
    old, new = batch(0, rows), batch(1, rows)
    checks: Checks = globals()[peer](old, new)
    times = measure({"loop": loop(old, new), **checks}, rounds)
    sys.stdout.write(json.dumps({"peer": peer, "rows": rows, "times": times}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
