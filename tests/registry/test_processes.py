"""Real processes at once, and killed ones: no torn read, nothing acknowledged is lost (S12)."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from prodml.events import Stream
from prodml.registry import ModelRegistry, audit

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")

# Moves the alias by compare-and-swap for ever, and says what it has done once it is done.
MOVER = """
    import json, sys, time
    from prodml.errors import Conflict
    from prodml.registry import ModelRegistry
    registry = ModelRegistry(sys.argv[1])
    who, turn = sys.argv[2], 0
    while True:
        turn += 1
        seen = registry.aliases("churn").get("champion")
        new = str(1 + (int(seen or 0) + turn) % 8)
        try:
            move = registry.alias("churn", "champion", new, expected=seen, reason=f"{who}/{turn}")
        except Conflict:
            continue
        print(json.dumps([move.number, move.new, move.reason]), flush=True)
        time.sleep(0.001)
"""

# Reads the alias and what it points at until it has seen some moves, and prints which.
READER = """
    import json, sys
    from prodml.registry import ModelRegistry
    registry = ModelRegistry(sys.argv[1])
    watch, reads, last, seen = registry.watch("churn", "champion"), int(sys.argv[2]), 0, {}
    read = 0
    while read < reads or len(seen) < 6:
        read += 1
        move = watch.changed()
        ref = registry.resolve("churn", "champion")
        assert move.number >= last, (move, last)
        last = move.number
        seen[last] = [move.new, move.reason]
        assert ref.metadata == {"number": int(ref.version)}, ref
        if read % 50 == 0:
            assert registry.load("churn", ref.version) == {"weights": [int(ref.version)] * 50}
    print(json.dumps(seen))
"""


def spawn(script, *args):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def filled(place):
    registry = ModelRegistry(place, events=Stream())
    for number in range(1, 9):
        registry.register("churn", {"weights": [number] * 50}, {"number": number})
    registry.alias("churn", "champion", "1")
    return registry


def told_by(mover):
    """The next move that a mover says it has made."""
    line = mover.stdout.readline()
    if not line:
        pytest.fail(mover.stderr.read())
    return json.loads(line)


def acknowledged(mover):
    """What a mover printed; the last line of a killed one may be half a line."""
    lines = mover.stdout.read().splitlines()
    mover.communicate()
    return [json.loads(line) for line in lines if line.endswith("]")]


def check_no_torn_read(place, readers, reads):
    """``readers`` processes read ``reads`` times each while movers come, move and are killed."""
    registry = filled(place)
    told, kills = [], 0
    movers = [spawn(MOVER, place, f"m{n}") for n in range(2)]
    for mover in movers:
        told.append(told_by(mover))
    reading = [spawn(READER, place, reads) for _ in range(readers)]
    while kills == 0 or any(reader.poll() is None for reader in reading):
        victim = movers.pop(0)
        # Killed at some moment of its third move or one soon after.
        told += [told_by(victim) for _ in range(2)]
        time.sleep(0.0007 * (kills % 13))
        victim.send_signal(signal.SIGKILL)
        told += acknowledged(victim)
        kills += 1
        movers.append(spawn(MOVER, place, f"k{kills}"))
    for mover in movers:
        mover.kill()
        told += acknowledged(mover)
    seen = {}
    for reader in reading:
        out, err = reader.communicate()
        assert reader.returncode == 0, err
        seen |= {int(number): tuple(move) for number, move in json.loads(out).items()}
    history = {move.number: move for move in registry.history("churn", "champion")}
    assert [move.old for move in list(history.values())[1:]] == [
        move.new for move in list(history.values())[:-1]
    ]
    for number, (new, reason) in seen.items():
        assert (history[number].new, history[number].reason) == (new, reason)
    # What was acknowledged is there, though whoever was told of it was killed.
    for number, new, reason in told:
        assert (history[number].new, history[number].reason) == (new, reason)
    assert audit(registry).problems == ()
    assert registry.alias("churn", "champion", "1" if history[len(history)].new != "1" else "2")
    return {"reads": readers * reads, "moves": len(history), "kills": kills, "seen": len(seen)}


@pytest.fixture(params=["directory", "sqlite"])
def place(request, quick_path):
    if request.param == "directory":
        return quick_path / "models"
    return f"sqlite:///{quick_path}/models.db"


def test_no_read_is_torn_while_writers_move_and_are_killed(place):
    figures = check_no_torn_read(place, readers=2, reads=1500)
    assert figures["kills"] >= 1
    assert figures["seen"] > 5


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_no_read_of_a_hundred_thousand_is_torn(place, capsys):
    """S12."""
    figures = check_no_torn_read(place, readers=4, reads=25_000)
    assert figures["reads"] == 100_000
    assert figures["kills"] >= 20
    with capsys.disabled():
        sys.stdout.write(f"\nS12 {place!s:.12}: {figures}\n")


REGISTRAR = """
    import sys
    from prodml.registry import ModelRegistry
    registry = ModelRegistry(sys.argv[1])
    for number in range(int(sys.argv[3])):
        ref = registry.register("churn", {"by": sys.argv[2], "number": number})
        print(ref.version, number, flush=True)
"""


def test_processes_that_register_at_once_get_versions_of_their_own(place):
    writers = {str(n): spawn(REGISTRAR, place, n, 12) for n in range(3)}
    told = {}
    for who, writer in writers.items():
        out, err = writer.communicate(timeout=100)
        assert writer.returncode == 0, err
        for line in out.splitlines():
            version, number = line.split()
            assert version not in told
            told[version] = {"by": who, "number": int(number)}
    registry = ModelRegistry(place, events=Stream())
    assert {
        version: registry.load("churn", version) for version in registry.versions("churn")
    } == told
    assert sorted(map(int, told)) == list(range(1, 37))


def test_compare_and_swap_lets_exactly_one_process_win_each_step(place):
    registry = ModelRegistry(place, events=Stream())
    for number in range(21):
        registry.register("churn", {"version": number})
    registry.alias("churn", "champion", "1")
    script = """
        import sys
        from prodml.errors import Conflict
        from prodml.registry import ModelRegistry
        registry = ModelRegistry(sys.argv[1])
        while (now := registry.resolve("churn", "champion").version) != "21":
            try:
                registry.alias("churn", "champion", str(int(now) + 1), expected=now)
            except Conflict:
                continue
            print(int(now) + 1)
    """
    movers = [spawn(script, place) for _ in range(2)]
    printed = [mover.communicate(timeout=100)[0].split() for mover in movers]
    assert sorted(int(version) for lines in printed for version in lines) == list(range(2, 22))
    assert audit(registry).problems == ()


# Registers the same few contents over and over, so that what is wanted is being removed.
PRUNED = """
    import sys
    from prodml.errors import RetiredVersion
    from prodml.registry import Bundle, ModelRegistry
    registry = ModelRegistry(sys.argv[1])
    for turn in range(int(sys.argv[2])):
        files = {"common": b"c", "own": b"%d" % (turn % 12)}
        ref = registry.register("churn", Bundle(files), {"turn": turn % 12})
        try:
            if turn % 5 == 0:
                registry.alias("churn", "champion", ref.version)
            assert dict(registry.load("churn", ref.version)) == files
        except RetiredVersion:
            continue
"""
PRUNER = """
    import sys, time
    from prodml.registry import ModelRegistry, Retention
    registry = ModelRegistry(sys.argv[1])
    rules = Retention(last=2, newer_than=0, aliased_within=5)
    while True:
        pruned = registry.prune("churn", rules)
        print(len(pruned.retired), len(pruned.removed), flush=True)
        time.sleep(0.01)
"""


def check_pruning(place, writers, turns):
    """Registrations, alias moves, readers and prunings at once: nothing that is wanted goes."""
    registry = ModelRegistry(place, events=Stream())
    registry.register("churn", b"first")
    registry.alias("churn", "champion", "1")
    pruner = spawn(PRUNER, place)
    assert pruner.stdout.readline()
    writing = [spawn(PRUNED, place, turns) for _ in range(writers)]
    loads = 0
    while any(writer.poll() is None for writer in writing):
        version = registry.resolve("churn", "champion")
        loaded = registry.load("churn", version.version)
        if version.version != "1":
            assert loaded["own"] == b"%d" % version.metadata["turn"]
        loads += 1
        time.sleep(0.005)
    pruner.kill()
    done = [tuple(map(int, line.split())) for line in pruner.stdout.read().splitlines()[:-1]]
    assert pruner.communicate()[1] == ""
    for writer in writing:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    assert audit(registry).problems == ()
    return loads, sum(retired for retired, _ in done), sum(removed for _, removed in done)


def test_pruning_beside_writers_and_readers_removes_nothing_that_is_wanted(place):
    loads, retired, removed = check_pruning(place, writers=2, turns=30)
    assert min(loads, retired, removed) > 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_much_pruning_removes_nothing_that_is_wanted(place):
    check_pruning(place, writers=4, turns=1000)
