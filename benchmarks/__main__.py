"""``python -m benchmarks [name ...]``: measure and write the page of tables.

With names, only their sections of the page are measured and written anew.
"""

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


def sections(page: str) -> dict[str, str]:
    """Sections between the marks, by title."""
    tables = page.partition(BEGIN)[2].partition(END)[0]
    found = [f"## {text}".strip() for text in tables.split("\n## ")[1:]]
    return {text.splitlines()[0]: text for text in found}


def written(page: str, new: dict[str, str]) -> str:
    """The page with ``new`` sections in place of those of the same title."""
    kept = sections(page) | new
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    ordered = "\n\n".join(kept[title] for title in sorted(kept))
    return f"{before}{BEGIN}\n\n{ordered}\n\n{END}{after}"


def main() -> None:
    new: dict[str, str] = {}
    everything = []
    for name in modules(sys.argv[1:]):
        module = importlib.import_module(f"benchmarks.{name}")
        results = [result for case in module.cases() for result in measure(case)]
        if not results:
            # What cannot be measured here keeps the tables that it has.
            continue
        everything += results
        title = "## " + module.__doc__.strip().splitlines()[0].rstrip(".")
        text = f"{title}\n\n{markdown(results)}"
        simulated = getattr(module, "table", None)
        if simulated is not None:
            text += f"\n{simulated()}"
        new[title] = text.strip()
        sys.stdout.write(new[title] + "\n\n")
    record(everything, ROOT / "out" / "results.json")
    PAGE.write_text(written(PAGE.read_text(), new))


if __name__ == "__main__":
    main()
