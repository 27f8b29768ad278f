"""A rollout decides for all workers, a fleet carries out: in Redis, in several processes."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from prodml.events import Stream
from prodml.serving import ServingFleet

pytestmark = pytest.mark.server

SOURCE = str(Path(__file__).parents[2] / "src")

# Serves, tells its rollout how each request ended, ticks now and then, and carries out what
# it is told through the fleet.  ``v2`` fails as often as it is told to.
WORKER = """
    import json, random, signal, sys, time
    from prodml.errors import StoreUnavailable
    from prodml.events import Stream
    from prodml.rollout import (ErrorRate, Promote, RollBack, Rollout, SetCanary, StartShadow,
                                StopShadow)
    from prodml.serving import ServingFleet, VersionedModelServer

    url, seed, failing = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    rng, ends = random.Random(seed), []
    signal.signal(signal.SIGTERM, lambda *_: ends.append(1))

    def model(version, share):
        def predict(features):
            if rng.random() < share:
                raise RuntimeError(version)
            return version
        return predict

    server = VersionedModelServer(name="churn", events=Stream(), rng=random.Random(seed + 100))
    server.load_model("v1", model("v1", 0.01))
    server.load_model("v2", model("v2", failing))
    server.set_default_version("v1")
    fleet = ServingFleet(server, store=url, poll=0.2, ttl=20.0, events=Stream()).start()
    rollout = Rollout("v2", "v1", shadow=False, steps=(0.2, 0.5), step_seconds=0.2,
                      guards=[ErrorRate(enough=300)], store=url, events=Stream())

    def carry_out(command):
        match command:
            case StartShadow(version=version):
                fleet.route(shadow=[version], reason="shadow")
            case SetCanary(version=version, share=share):
                fleet.route(canary={version: share}, reason="canary")
            case StopShadow():
                fleet.route(reason="shadow ended")
            case Promote(version=version):
                fleet.promote(version, reason="all guards are fine")
            case RollBack(version=version, reason=reason):
                fleet.rollback(version, reason=reason)

    print("ready", flush=True)
    requests = 0
    while not ends:
        route = server.resolve()
        try:
            route.predict({})
            ok = True
        except RuntimeError:
            ok = False
        finally:
            route.release()
        rollout.observe_outcome(route.arm, ok=ok)
        requests += 1
        if requests % 50 == 0:
            try:
                for command in rollout.tick():
                    carry_out(command)
            except StoreUnavailable:
                pass
            time.sleep(0.005)
    fleet.close()
    told = {"default": server.default_version, "canary": dict(server.canary),
            "quarantined": list(server.quarantined), "generation": fleet.generation,
            "phase": rollout.phase.value, "actions": [c.action for c in fleet.history]}
    print(json.dumps(told), flush=True)
"""


def rolled_out(url, failing):
    """What each of three workers says when the rollout is over everywhere."""
    env = {**os.environ, "PYTHONPATH": SOURCE}
    code = textwrap.dedent(WORKER)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, str(seed), str(failing)],
            stdout=subprocess.PIPE,
            env=env,
        )
        for seed in range(3)
    ]
    boss = ServingFleet(name="churn", store=url, events=Stream())
    try:
        for worker in workers:
            assert worker.stdout.readline() == b"ready\n"
        ends = time.monotonic() + 60.0
        while True:
            agreement = boss.converged()
            record = json.loads(boss._truth.read()[0] or b'{"history": [[0, 0, "", ""]]}')
            over = record["history"][-1][3] in {"promoted", "rolled back"}
            if over and agreement.complete and len(agreement) == 3:
                break
            assert time.monotonic() < ends, agreement
            time.sleep(0.02)
        for worker in workers:
            worker.terminate()
        return [json.loads(worker.communicate(timeout=30)[0]) for worker in workers]
    finally:
        boss.close()
        for worker in workers:
            worker.kill()
            worker.communicate()


@pytest.mark.soak
def test_a_good_version_becomes_the_default_of_all(redis_url):
    told = rolled_out(redis_url, 0.0)
    assert [each["default"] for each in told] == ["v2"] * 3
    assert all(each["canary"] == {} for each in told)
    # Two canary steps, and the end of the split; nobody has said anything twice.
    assert told[0]["actions"] == ["routed", "routed", "routed", "promoted"]
    assert [each["generation"] for each in told] == [4] * 3


def test_a_bad_version_is_taken_out_everywhere(redis_url):
    told = rolled_out(redis_url, 0.3)
    assert [each["default"] for each in told] == ["v1"] * 3
    assert [each["quarantined"] for each in told] == [["v2"]] * 3
    assert all(each["canary"] == {} for each in told)
    assert {each["actions"][-1] for each in told} == {"rolled back"}
