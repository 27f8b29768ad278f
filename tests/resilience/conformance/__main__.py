"""Hold every breaker to the checks and write the table of docs/reference/conformance.md.

``python -m tests.resilience.conformance [NAME ...]`` prints the table of some subjects;
without names it takes all of them and writes the page.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.resilience.conformance.forms import FORMS
from tests.resilience.conformance.subjects import PEERS, subject_class

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).parent
PAGE = ROOT / "docs" / "reference" / "conformance.md"
BEGIN, END = "<!-- conformance -->", "<!-- end -->"


def places(name):
    """Test files to run: for prodml also those elsewhere that add rows to the table."""
    elsewhere = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if FOLDER not in path.parents and "mark.check(" in path.read_text()
    ]
    return [str(FOLDER), *(elsewhere if name == "prodml" else [])]


def run(name):
    """Endings of all checks of one subject, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "endings.json"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "--tb=no", "-m", "check and not soak"),
                *("-p", "tests.resilience.conformance.record", "--record", str(record)),
                *("--subject", name, "--timeout", "60"),
                # What a peer warns of is not among the checks.
                *(() if name == "prodml" else ("-W", "ignore")),
                *places(name),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or not record.exists():
            raise SystemExit(f"{name}: pytest ended with {done.returncode}\n{done.stdout}")
        return json.loads(record.read_text())


def cell(endings):
    """``pass`` if every form passes that exists, else the forms that fail."""
    if not endings:
        return "not run"
    failed = {ending["form"] for ending in endings if ending["outcome"] == "FAIL"}
    judged = {ending["form"] for ending in endings if ending["outcome"] != "n/a"}
    if not judged:
        return "n/a"
    if not failed:
        return "pass"
    if failed == judged:
        return "**FAIL**"
    return f"**FAIL** ({', '.join(form.name for form in FORMS if form.name in failed)})"


def place(check):
    return (0, int(check), "") if check.isdigit() else (1, 0, check)


def row(*cells):
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def table(results):
    titles = {e["check"]: e["title"] for endings in results.values() for e in endings}
    of = {
        (name, check): [e for e in endings if e["check"] == check]
        for name, endings in results.items()
        for check in titles
    }
    yield row("", "check", *results)
    yield row("--:", "---", *("---" for _ in results))
    for check in sorted(titles, key=place):
        yield row(check, titles[check], *(cell(of[name, check]) for name in results))
    yield row("", "failed, of those judged", *(total(name, titles, of) for name in results))
    yield row("", "forms protected", *(forms(endings) for endings in results.values()))


def total(name, checks, of):
    cells = [cell(of[name, check]) for check in checks]
    judged = [text for text in cells if text not in ("n/a", "not run")]
    return f"{sum(text != 'pass' for text in judged)} of {len(judged)}"


def forms(endings):
    """Forms that hold at least what check 17 asks of every one of them."""
    judged = {e["form"] for e in endings if e["check"] == "17" and e["outcome"] != "n/a"}
    if judged == {form.name for form in FORMS}:
        return "all 8"
    return ", ".join(form.name for form in FORMS if form.name in judged)


def observed(results):
    """What was seen of each failure, a line a check, the first form speaking for all."""
    for name, endings in results.items():
        seen = {e["check"]: e["seen"] for e in reversed(endings) if e["outcome"] == "FAIL"}
        if seen:
            lines = [f"{check}: {seen[check]}" for check in sorted(seen, key=place)]
            yield f"**{name}**\n\n" + "\n".join(f"- {line}" for line in lines)


def report(results):
    versions = (
        f"{subject_class(name).distribution} {version(subject_class(name).distribution)}"
        for name in results
    )
    return "\n\n".join(
        [
            f"Versions: {', '.join(versions)}.",
            "\n".join(table(results)),
            "## What was seen",
            *observed(results),
        ]
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.resilience.conformance")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"prodml, {', '.join(PEERS)}")
    names = parser.parse_args().names
    results = {}
    for name in names or ("prodml", *PEERS):
        results[name] = run(name)
        print(name, "done", file=sys.stderr)
    print(report(results))
    if not names:
        head, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{report(results)}\n\n{END}{rest.split(END)[1]}")
    return any(ending["outcome"] == "FAIL" for ending in results.get("prodml", []))


if __name__ == "__main__":
    sys.exit(main())
