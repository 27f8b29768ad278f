"""Count the columns that one library, by its defaults, calls drifted where nothing moved.

``python alarms.py PEER RUNS [SECONDS] [MOST_ROWS]`` in an environment that has the peer; prints
one line of JSON a shape and size: the share of columns and of tables (any of 20 columns), of so
many runs or as many as fit into so many seconds of processor time.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np  # noqa: E402
from shapes import COLUMNS, SHAPES, SIZES, is_category, table  # noqa: E402


def evidently(reference: Any, current: Any, category: bool) -> list[bool]:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = list(reference)
    kind = "categorical_columns" if category else "numerical_columns"
    told = DataDefinition(**{kind: names})
    pair = [Dataset.from_pandas(pd.DataFrame(data), told) for data in (current, reference)]
    run = Report([DataDriftPreset()]).run(*pair).dict()
    found = []
    for metric in run["metrics"]:
        config = metric["config"]
        if "ValueDrift" in config.get("type", ""):
            value, limit = float(metric["value"]), float(config["threshold"])
            p = "p_value" in config["method"]
            found.append(value < limit if p else value >= limit)
    return found


def nannyml(reference: Any, current: Any, category: bool) -> list[bool]:
    import nannyml as nml
    import pandas as pd

    names, rows, size = list(reference), len(reference["x0"]), len(current["x0"])
    frames = [pd.DataFrame(data) for data in (reference, current)]
    if category:
        frames = [frame.astype("category") for frame in frames]
    kind = {f"treat_as_{'categorical' if category else 'numerical'}": names}
    # Its thresholds come from chunks of the reference: as large as a batch, but ten of them at
    # least, which is its own default.  Its verdict is that on the first chunk of the batch.
    chunk = min(size, rows // 10)
    calculator = nml.UnivariateDriftCalculator(column_names=names, chunk_size=chunk, **kind)
    result = calculator.fit(frames[0]).calculate(frames[1])
    told = result.filter(period="analysis").to_df()
    method = "jensen_shannon"
    return [bool(told[name, method, "alert"].iloc[0]) for name in names]


def alibi(reference: Any, current: Any, category: bool) -> list[bool]:
    from alibi_detect.cd import TabularDrift

    old, new = (np.column_stack(list(data.values())) for data in (reference, current))
    codes = dict.fromkeys(range(COLUMNS)) if category else None
    told = TabularDrift(old, p_val=0.05, categories_per_feature=codes).predict(new)["data"]
    return [bool(p < told["threshold"]) for p in told["p_val"]]


def whylogs(reference: Any, current: Any, category: bool) -> list[bool]:
    import pandas as pd
    import whylogs as why
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    frames = [pd.DataFrame(data) for data in (reference, current)]
    if category:
        frames = [frame.astype(str) for frame in frames]
    views = [why.log(frame).view() for frame in frames]
    told = calculate_drift_scores(views[1], views[0], with_thresholds=True)
    return [bool(score and score["drift_category"] == "DRIFT") for score in told.values()]


def rates(peer: str, shape: str, size: tuple[int, int], most: int, seconds: float) -> Any:
    """What is told of one shape and size, or why the peer cannot."""
    told: dict[str, Any] = {"peer": peer, "shape": shape, "rows": size[0], "current": size[1]}
    columns = tables = runs = 0
    began = time.process_time()
    while runs < most and time.process_time() - began <= seconds:
        try:
            found = globals()[peer](*table(shape, runs, *size), is_category(shape))
        except Exception as error:
            # What a peer cannot do is a result.
            return told | {"failed": f"{type(error).__name__}: {error}"[:120]}
        columns += sum(found)
        tables += any(found)
        runs += 1
    return told | {"runs": runs, "column": columns / runs / COLUMNS, "table": tables / runs}


def main(peer: str, runs: int, seconds: float = float("inf"), most_rows: int = 100_000) -> None:
    for shape in SHAPES:
        for size in SIZES:
            if size[0] <= most_rows:
                line = json.dumps(rates(peer, shape, size, runs, seconds))
                sys.stdout.write(line + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
