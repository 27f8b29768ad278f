"""``python -m benchmarks [name ...]``: measure and write the page of tables."""

import importlib
import sys
from pathlib import Path

from benchmarks.runner import markdown, measure, record

ROOT = Path(__file__).parent
PAGE = ROOT.parent / "docs" / "reference" / "benchmarks.md"
BEGIN, END = "<!-- tables -->", "<!-- end -->"


def modules(wanted: list[str]) -> list[str]:
    found = sorted(p.stem for p in ROOT.glob("*.py") if not p.stem.startswith("_"))
    return [name for name in found if name != "runner" and (not wanted or name in wanted)]


def main() -> None:
    sections: list[str] = []
    everything = []
    for name in modules(sys.argv[1:]):
        module = importlib.import_module(f"benchmarks.{name}")
        results = [result for case in module.cases() for result in measure(case)]
        everything += results
        title = module.__doc__.strip().splitlines()[0].rstrip(".")
        sections.append(f"## {title}\n\n{markdown(results)}")
        simulated = getattr(module, "table", None)
        if simulated is not None:
            sections[-1] += f"\n{simulated()}"
        sys.stdout.write(sections[-1] + "\n")
    record(everything, ROOT / "out" / "results.json")
    if len(sys.argv) == 1:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(sections) + f"\n{END}{after}")


if __name__ == "__main__":
    main()
