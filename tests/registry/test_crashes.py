"""kill -9 between any two writes, and in the middle of one: nothing torn, nothing lost.

A child process carries out a scenario and kills itself at its n-th touch of disk or store,
for every n.  What is left must be exactly what the scenario had reached before or after one
of its steps, and the next registration must work.
"""

import fcntl
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prodml.events import Stream
from prodml.registry import Bundle, ModelRegistry, Retention, audit
from prodml.stores import SQLiteStore
from prodml.testing import ManualClock

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CALLS = [
    (os, "open"), (os, "write"), (os, "fsync"), (os, "link"), (os, "replace"), (os, "unlink"),
    (os, "mkdir"), (os, "utime"), (fcntl, "flock"),
]  # fmt: skip
RULES = Retention(last=2, newer_than=0, aliased_within=0, tags=())


def steps(registry):
    """The scenario; every step is one change that must happen wholly or not at all."""
    yield lambda: registry.register("churn", Bundle({"a": b"three", "b": b"common"}))
    yield lambda: registry.alias("churn", "champion", "3", expected="2")
    yield lambda: registry.tag("churn", "3", "audit")
    yield lambda: registry.unalias("churn", "canary")
    yield lambda: registry.register("churn", {"number": 4})
    yield lambda: registry.prune("churn", RULES)


def opened(place):
    return ModelRegistry(place, clock=ManualClock(1_700_000_100.0), events=Stream())


def prepared(place):
    registry = opened(place)
    registry.register("churn", b"one")
    registry.register("churn", Bundle({"a": b"two", "b": b"common"}))
    registry.alias("churn", "champion", "2")
    registry.alias("churn", "canary", "2")
    registry._archive.tidy()


def state(place):
    """Everything that the registry says; loading every version that it lists."""
    registry = opened(place)
    versions = {version: registry.load("churn", version) for version in registry.versions("churn")}
    return (
        {version: dict(m) if isinstance(m, Bundle) else m for version, m in versions.items()},
        registry.aliases("churn"),
        {version: registry.describe("churn", version).tags for version in versions},
        [move.number for move in registry.history("churn", "champion")],
    )


def killing(left, when):
    """Wrap every call that touches the disk: the ``left``-th one is the last."""

    def wrap(owner, name):
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and when == "torn" and name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            if left[0] == 0 and when != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **kwargs)
            finally:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, wrapped)

    for owner, name in CALLS:
        wrap(owner, name)
    connect = SQLiteStore._connect

    def traced(self):
        connection = connect(self)

        def statement(_):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        connection.set_trace_callback(statement)
        return connection

    SQLiteStore._connect = traced


def killed_at(step, when, place):
    """Run the scenario in a child that dies at touch ``step``; whether it died."""
    child = os.fork()
    if child == 0:
        killing([step], when)
        for change in steps(opened(place)):
            change()
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in {0, -signal.SIGKILL}
    return ended != 0


def reached(place):
    """Every state that the scenario goes through, in order."""
    states = [state(place)]
    for change in steps(opened(place)):
        change()
        states.append(state(place))
    return states


def unlisted(folder):
    """Artifacts in a SQLite file that no pruning would ever find."""
    if not (folder / "models.db").exists():
        return set()
    with closing(sqlite3.connect(folder / "models.db")) as db:
        kept = {key.rpartition("/")[2] for (key,) in db.execute("SELECT key FROM entries")}
    return kept - {artifact.digest for artifact in opened(sqlite(folder))._archive.artifacts()}


def check_every_death(folder, when, url, stride=1, start=1):
    template = folder / "template"
    template.mkdir()
    prepared(url(template))
    shutil.copytree(template, folder / "whole")
    states = reached(url(folder / "whole"))
    assert len({repr(each) for each in states}) == len(states)
    step, last = start, 0
    while True:
        here = folder / "here"
        shutil.copytree(template, here)
        died = killed_at(step, when, url(here))
        now = states.index(state(url(here)))
        assert now >= last, "a later death left less behind"
        last = now
        registry = opened(url(here))
        assert audit(registry).problems == ()
        assert unlisted(here) == set()
        version = registry.register("churn", {"after": step}).version
        registry.alias("churn", "champion", version)
        assert registry.load("churn", "champion") == {"after": step}
        registry.prune("churn", RULES)
        assert audit(registry).problems == ()
        shutil.rmtree(here)
        if not died:
            break
        step += stride
    assert last == len(states) - 1
    return step


def directory(folder):
    return folder / "models"


def sqlite(folder):
    return f"sqlite:///{folder}/models.db"


@pytest.mark.parametrize("when", ["before", "torn", "after"])
def test_death_at_any_touch_of_the_disk_leaves_a_whole_registry(quick_path, when):
    """A share of the deaths, another one in each mode; ``soak`` has all of them."""
    start = 1 + ["before", "torn", "after"].index(when)
    assert check_every_death(quick_path, when, directory, stride=5, start=start) > 60


def test_death_at_any_statement_leaves_a_whole_registry(quick_path):
    assert check_every_death(quick_path, "before", sqlite, stride=7) > 60


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", ["before", "torn", "after"])
def test_every_death_at_the_disk(quick_path, when):
    check_every_death(quick_path, when, directory)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_death_in_a_store(quick_path, when):
    check_every_death(quick_path, when, sqlite)


def test_scenario_reuses_what_lies_there(quick_path):
    """Or the deaths would not cover dedupe, retirement and removal."""
    prepared(quick_path / "models")
    states = reached(quick_path / "models")
    assert list(states[0][0]) == ["1", "2"]
    assert list(states[-1][0]) == ["3", "4"]
    assert len(list(Path(quick_path, "models", "artifacts").glob("*/*"))) == 3
