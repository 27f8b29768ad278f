"""Real processes: several observe and one judges; any may be killed at any time."""

import json
import os
import signal
import subprocess
import sys
from itertools import groupby

import pytest

from prodml.rollout import RollBack, RolloutPhase
from tests.rollout import worker

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.rollout.worker", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def lines(process, timeout=60):
    told, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0
    return [json.loads(line) for line in told.splitlines()]


def four_observe_and_a_fifth_ticks(store, rate):
    rollout = worker.fleet(store)
    rollout.tick()
    processes = [start("observe", store, seed, 1500, rate) for seed in range(4)]
    while any(process.poll() is None for process in processes):
        rollout.tick()
    assert sum(sum(lines(process)) for process in processes) == 6_000
    return rollout


def judged(store):
    """One harmless and one harmful canary, over whatever store."""
    rollout = four_observe_and_a_fifth_ticks(store, 0.005)
    rollout.tick()
    found = rollout.findings()
    assert found["paired loss"].numbers["in_all"] == 6_000
    assert 530 < found["error rate"].numbers["in_all"] < 670
    assert rollout.phase is RolloutPhase.CANARY
    return rollout


def test_what_four_processes_see_a_fifth_judges(tmp_path):
    judged(f"sqlite:///{tmp_path}/ops.db")


@pytest.mark.server
def test_what_four_processes_see_a_fifth_judges_through_redis(redis_url):
    judged(redis_url)


def test_harm_that_four_processes_see_together_rolls_back(tmp_path):
    store = f"sqlite:///{tmp_path}/ops.db"
    rollout = worker.fleet(store)
    rollout.tick()
    # Some ten canary requests each: too few to show harm alone, enough together.
    processes = [start("observe", store, seed, 100, 0.2) for seed in range(4)]
    assert [sum(lines(process)) for process in processes] == [100] * 4
    alone = [rollout._watch.judge([row]) for row in rollout._rows.others()]
    assert all(found["error rate"].numbers["evidence"] < 1 for found in alone)
    [command] = rollout.tick()
    assert isinstance(command, RollBack)
    assert command.reason.startswith("error rate: ")


def test_a_worker_that_is_killed_loses_what_it_had_not_handed_in_and_nothing_else(tmp_path):
    store = f"sqlite:///{tmp_path}/ops.db"
    rollout = worker.fleet(store)
    rollout.tick()
    process = start("pairs", store)
    told = [json.loads(process.stdout.readline()) for _ in range(80)]
    process.send_signal(signal.SIGKILL)
    told += [json.loads(line) for line in process.stdout.read().splitlines()]
    process.wait(10)
    process.stdout.close()
    most = dict(told)
    kept = rollout.findings()["paired loss"].numbers
    assert most["handed in"] <= kept["in_all"] <= most["saw"]
    assert kept["worse by"] == pytest.approx(0.25)


@pytest.mark.timeout(300)
def test_killed_between_any_two_writes_a_rollout_goes_on_and_no_command_is_lost(tmp_path):
    stories = lines(start("story", tmp_path), timeout=100)
    good = ["StartShadow", "SetCanary", "SetCanary", "StopShadow", "Promote"]
    bad = ["StartShadow", "SetCanary", "SetCanary", "RollBack"]
    for told in stories:
        kinds = [kind for kind, _ in groupby(told["commands"])]
        wanted = bad if told["harm"] else good
        # Commands may be told again after a death, from the first of their phase on.
        assert [kind for kind, _ in groupby(wanted)] == without_repetition(kinds)
        assert told["phase"] == ("rolled back" if told["harm"] else "promoted")
        last = "FoundWorse" if told["harm"] else "FoundFine"
        assert told["facts"] == ["Began", "FoundFine", "FoundFine", last]
        assert told["steps"] == ["canary", "canary", told["phase"]]
    deaths = [told for told in stories if told["died"]]
    assert len(deaths) >= 25
    assert {told["moment"] for told in deaths} == {"before", "after"}


def without_repetition(kinds):
    """What is told, the last commands told twice taken once."""
    found = []
    for kind in kinds:
        if kind not in found:
            found.append(kind)
    return found


def test_a_forked_worker_counts_what_it_sees_itself_and_nothing_of_its_parent(tmp_path):
    store = f"sqlite:///{tmp_path}/ops.db"
    script = f"""
import os
from tests.rollout import worker
rollout = worker.fleet({store!r})
rollout.tick()
rollout.observe_pairs([(0.5, 0.5)] * 5)
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        rollout.observe_pairs([(0.5, 0.5)] * 11)
        rollout.flush()
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
rollout.flush()
worker.say(rollout.findings()["paired loss"].numbers["in_all"])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["38"]
