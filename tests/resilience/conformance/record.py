"""A pytest plugin that notes how every check ended: ``-p <this module> --record FILE``.

It hears of tests in any folder, so a module elsewhere adds rows to the table with the same
marker: ``@pytest.mark.check("Redis 1", "a lost server leaves the local breaker")``.
"""

import json
from pathlib import Path

import pytest
from tests.resilience.conformance.catalogue import TITLES

ENDINGS = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--record", metavar="FILE", help="where to note how every check ended")


def pytest_configure(config):
    config.stash[ENDINGS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    for mark in item.iter_markers("check"):
        number, *title = mark.args
        form = getattr(item, "callspec", None) and item.callspec.params.get("form")
        ending = item.config.stash[ENDINGS].setdefault(
            f"{item.nodeid} {number}",
            {
                "check": str(number),
                "title": title[0] if title else TITLES.get(number, ""),
                "form": str(form or ""),
                "outcome": "pass",
                "seen": "",
            },
        )
        if report.failed:
            ending["outcome"] = "FAIL"
            ending["seen"] = ending["seen"] or message(call.excinfo.value)
        elif report.skipped:
            ending["outcome"] = "n/a"
    return report


def message(error):
    """Say in a line what was seen; an assertion speaks for itself."""
    text = str(error).splitlines()[0] if str(error) else ""
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


def pytest_sessionfinish(session):
    if path := session.config.getoption("--record"):
        Path(path).write_text(json.dumps(list(session.config.stash[ENDINGS].values())))
