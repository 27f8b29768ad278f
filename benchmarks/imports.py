"""What an import costs, against `import numpy`.

Processor time of fresh interpreters, start-up taken off.
"""

import resource
import subprocess
import sys

from benchmarks.runner import Case, main


def importing(statement):
    def run():
        subprocess.run([sys.executable, "-c", statement], check=True)

    return run


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cases():
    statements = {
        "import numpy": "import numpy",
        "start-up alone": "pass",
        "import prodml": "import prodml",
        "from prodml import CircuitBreaker": "from prodml import CircuitBreaker",
        "from prodml import PredictionService": "from prodml import PredictionService",
        "from prodml import DriftDetector": "from prodml import DriftDetector",
    }
    return [
        Case(
            "Fresh interpreter and one import",
            "import numpy",
            {name: importing(statement) for name, statement in statements.items()},
            rounds=7,
            target=0.0,
            clock=children,
        )
    ]


if __name__ == "__main__":
    main(cases())
