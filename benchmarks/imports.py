"""What an import costs, against `import numpy`.

Processor time of fresh interpreters, their start-up included.  They find bytecode, as they do
where a package is installed: all is compiled before, into a folder of this run, whatever the
checkout and the environment say about keeping it.
"""

import os
import resource
import subprocess
import sys
import tempfile

from benchmarks.runner import Case, main

# By statement: the largest ratio that is accepted.
LIMITS = {
    "import prodml": 0.2,
    "from prodml import CircuitBreaker": 0.7,
    "from prodml import cached_prediction": 1.0,
    "from prodml import PredictionService": 0.8,
    "from prodml import DriftDetector": 1.3,
}
# What a detector needs for its first batch is loaded with the detector.
BUILT = "from prodml import DriftDetector; DriftDetector({'x': [1.0, 2.0]})"
BYTECODE = tempfile.TemporaryDirectory()


def importing(statement):
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": BYTECODE.name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run():
        subprocess.run([sys.executable, "-c", statement], check=True, env=environment)

    return run


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cases():
    statements = {"import numpy": "import numpy", "start-up alone": "pass"}
    statements |= {statement: statement for statement in LIMITS}
    statements["and a DriftDetector is built"] = BUILT
    return [
        Case(
            "Fresh interpreter and one import",
            "import numpy",
            {name: importing(statement) for name, statement in statements.items()},
            limits=LIMITS,
            rounds=15,
            target=0.0,
            clock=children,
        )
    ]


if __name__ == "__main__":
    main(cases())
