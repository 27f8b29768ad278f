"""Processes for the tests: ``python -m tests.rollout.worker TASK STORE ...`` prints JSON lines.

``observe`` sees requests of both arms and hands them in, ``pairs`` sees pairs for ever (until it
is killed), ``story`` walks rollouts whose processes are killed between any two writes.
"""

import json
import os
import random
import signal
import sys

from prodml.events import Stream
from prodml.integrations.redis import RedisStore
from prodml.rollout import ErrorRate, PairedLoss, Rollout
from prodml.stores import SQLiteStore

GOOD, BAD = [(0.1, 0.1)] * 10, [(1.0, 0.0)] * 60


def say(thing):
    sys.stdout.write(json.dumps(thing) + "\n")
    sys.stdout.flush()


def opened(store, **changes):
    if isinstance(store, str) and "sqlite" not in store:
        # On a machine that is busy with tests an answer may take its time.
        store = RedisStore(store, timeout=10.0)
    given = {"steps": (0.1, 0.5), "step_seconds": 0.0, "guards": [PairedLoss(enough=10)]}
    return Rollout("v2", "v1", store=store, events=Stream(), **given | changes)


# -- observing --------------------------------------------------------------------------


def fleet(store):
    """The rollout that all processes of ``observe`` share, and the one that ticks."""
    return opened(store, shadow=False, guards=[PairedLoss(enough=10**9), ErrorRate(enough=10**9)])


def observe(store, seed, requests, canary_rate):
    rollout, rng = fleet(store), random.Random(int(seed))
    for place in range(int(requests)):
        canary = rng.random() < 0.1
        ok = rng.random() >= (float(canary_rate) if canary else 0.005)
        rollout.observe_outcome("canary" if canary else "stable", ok=ok)
        rollout.observe_pair(0.25, 0.25)
        if place % 100 == 99:
            rollout.flush()
    rollout.flush()
    say(int(requests))


def pairs(store):
    rollout, seen = fleet(store), 0
    while True:
        rollout.observe_pairs([(0.5, 0.25)] * 7)
        seen += 7
        say(["saw", seen])
        rollout.flush()
        say(["handed in", seen])


# -- dying ------------------------------------------------------------------------------


class Dying(SQLiteStore):
    """Kills its process at a write, before it or after."""

    def __init__(self, path, write, moment):
        super().__init__(path)
        self.left, self.moment = write, moment

    def commit(self, *given, **more):
        self.left -= 1
        if self.left == 0 and self.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        revision = super().commit(*given, **more)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return revision


def walk(store, pipe, harm):
    """Tick to the end; tell each command, as who carries it out would hear of it."""
    rollout = opened(store)
    while not rollout.done:
        for command in rollout.tick():
            os.write(pipe, f"{type(command).__name__}\n".encode())
        rollout.observe_pairs(BAD if harm and rollout.share == 0.5 else GOOD)
    for command in rollout.tick():
        os.write(pipe, f"{type(command).__name__}\n".encode())


def lived(path, write, moment, harm):
    """One process that dies at a write, then one that goes on; all commands they were told."""
    ends, pipe = os.pipe()
    child = os.fork()
    if not child:
        walk(Dying(path, write, moment), pipe, harm)
        os._exit(0)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    walk(SQLiteStore(path), pipe, harm)
    os.close(pipe)
    with os.fdopen(ends) as told:
        return died, told.read().split()


def story(folder):
    for harm, moment in ((False, "before"), (False, "after"), (True, "after")):
        died, write = True, 0
        while died:
            write += 1
            path = os.path.join(folder, f"{harm}-{moment}-{write}.db")
            died, commands = lived(path, write, moment, harm)
            report = opened(SQLiteStore(path)).to_dict()
            say(
                {
                    "harm": harm,
                    "moment": moment,
                    "write": write,
                    "died": died,
                    "commands": commands,
                    "phase": report["phase"],
                    "facts": [fact["fact"] for fact in report["facts"]],
                    "steps": [step["decision"] for step in report["steps"]],
                }
            )


if __name__ == "__main__":
    {"observe": observe, "pairs": pairs, "story": story}[sys.argv[1]](*sys.argv[2:])
