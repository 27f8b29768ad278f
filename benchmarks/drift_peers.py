"""Drift, other libraries: what a check of 25 columns costs against the same loop.

``python -m benchmarks.drift_peers --evidently PYTHON --nannyml PYTHON ...`` (each an interpreter
whose environment has that library, see the dependency groups ``drift-*``) prints the table.
Every library is measured in a process of its own, beside a loop of ``scipy.stats.ks_2samp``, a
mean and a standard deviation of the 20 numeric columns, on the same tables of 100,000 rows: the
ratios to that loop are what can be compared.  Processor time of all threads; one thread is asked
for where that can be said.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.runner import Result, markdown

PEERS = ("evidently", "nannyml", "alibi", "frouros", "deepchecks")
ROOT = Path(__file__).parent
# Nobody is told what is measured here.
SILENT = {
    "DO_NOT_TRACK": "1",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "NANNYML_DISABLE_USAGE_LOGGING": "1",
    "DEEPCHECKS_DISABLE_LATEST": "true",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def cases() -> list[Result]:
    """No goals of its own: needs other environments, so only its own command runs it."""
    return []


def asked(python: str, peer: str, rows: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of the loop and of each check, in an environment of the peer's."""
    script = str(ROOT / "_drift_peers" / "speed.py")
    own = {"PYTHONPATH": str(ROOT.parent / "src")} if peer == "prodml" else {}
    command = [python, script, peer, str(rows), str(rounds)]
    environment = os.environ | SILENT | own
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"{peer} is left out: {done.stderr.strip()[-500:]}\n")
        return {}
    times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])["times"]
    return times


def results(peer: str, times: dict[str, list[float]], rows: int) -> list[Result]:
    """Each check against the loop of the same round of the same process."""
    found: list[Result] = []
    for name, seconds in times.items():
        if name == "loop":
            continue
        ratios = sorted(own / base for own, base in zip(seconds, times["loop"], strict=True))
        quarter = len(ratios) // 4
        found.append(
            Result(
                case=f"a check of {rows:,} rows, 20 numeric and 5 categorical columns",
                candidate=f"{peer}: `{name}`",
                baseline="scipy loop",
                ns=statistics.median(seconds) * 1e9,
                ratio=statistics.median(ratios),
                low=ratios[quarter],
                high=ratios[-1 - quarter],
                limit=None,
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", help=f"interpreter of an environment with {peer}")
    settings = vars(parser.parse_args())
    rows, rounds = settings["rows"], settings["rounds"]
    found = results("prodml", asked(sys.executable, "prodml", rows, rounds), rows)
    for peer in PEERS:
        if settings[peer]:
            found += results(peer, asked(settings[peer], peer, rows, rounds), rows)
    sys.stdout.write(markdown(sorted(found, key=lambda result: result.ratio)))


if __name__ == "__main__":
    main()
