"""Archives on disk: atomic, exclusive, crash-safe; damage is seen."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodml.errors import CorruptRecord, StoreUnavailable
from prodml.events import Stream
from prodml.registry import ModelRegistry
from prodml.registry.files import Directory, StoreArchive, digest_of
from prodml.stores import MemoryStore, SQLiteStore

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


@pytest.fixture(params=["directory", "memory", "sqlite"])
def archive(request, tmp_path):
    if request.param == "directory":
        yield Directory(tmp_path / "models")
        return
    store = MemoryStore() if request.param == "memory" else SQLiteStore(f"{tmp_path}/m.db")
    yield StoreArchive(store)
    store.close()


def test_artifact_is_kept_under_its_digest(archive):
    digest = digest_of(b"weights")
    for _ in range(2):
        archive.put(digest, b"weights")
    assert archive.get(digest) == b"weights"


def test_missing_artifact_is_corrupt(archive):
    with pytest.raises(CorruptRecord, match="missing"):
        archive.get("0" * 64)


def test_missing_record_is_corrupt(archive):
    with pytest.raises(CorruptRecord, match="missing"):
        archive.record("models/churn", 1)


def test_record_is_added_once(archive):
    assert archive.add("models/churn", 1, b"first")
    assert not archive.add("models/churn", 1, b"second")
    assert archive.record("models/churn", 1) == b"first"


def test_records_are_counted_by_list(archive):
    for number in (1, 2, 3):
        archive.add("models/churn", number, b"%d" % number)
    archive.add("models/fraud", 1, b"x")
    assert (archive.count("models/churn"), archive.count("models/none")) == (3, 0)
    assert archive.topics("models") == ["churn", "fraud"]
    assert archive.topics("aliases/churn") == []


def test_only_one_thread_adds_a_record(archive):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: archive.add("models/churn", 1, b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert archive.record("models/churn", 1) == b"%d" % won.index(True)


def test_damaged_artifact_in_a_store_is_mended():
    archive = StoreArchive(MemoryStore())
    archive.store.commit("registry/artifacts/" + digest_of(b"a"), b"damaged", 0)
    archive.put(digest_of(b"a"), b"a")
    assert archive.get(digest_of(b"a")) == b"a"


def test_same_artifact_from_two_processes_at_once_is_kept_once():
    class Raced(MemoryStore):
        def read(self, key):
            return (None, 0)

    archive = StoreArchive(Raced())
    for _ in range(2):
        archive.put(digest_of(b"a"), b"a")
    assert MemoryStore.read(archive.store, "registry/artifacts/" + digest_of(b"a")) == (b"a", 1)


# -- on disk ----------------------------------------------------------------------------


def record_file(tmp_path):
    Directory(tmp_path).add("models/churn", 1, b'{"size": 1}')
    return tmp_path / "records" / "models" / "churn" / "00000001.json"


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\n{}"])
def test_damaged_record_is_seen(tmp_path, damage):
    record_file(tmp_path).write_bytes(damage)
    with pytest.raises(CorruptRecord, match="checksum"):
        Directory(tmp_path).record("models/churn", 1)


def test_every_flipped_byte_of_a_record_is_seen(tmp_path):
    file = record_file(tmp_path)
    good = file.read_bytes()
    for index in range(len(good)):
        bad = bytearray(good)
        bad[index] ^= 1
        file.write_bytes(bytes(bad))
        with pytest.raises(CorruptRecord):
            Directory(tmp_path).record("models/churn", 1)


def test_strange_files_are_not_records(tmp_path):
    folder = record_file(tmp_path).parent
    (folder / "notes.txt").write_text("hello")
    (folder / "99999999.json~").write_text("backup")
    (folder.parent / "stray").write_text("no list")
    assert Directory(tmp_path).count("models/churn") == 1
    assert Directory(tmp_path).topics("models") == ["churn"]


def test_nothing_temporary_is_left_behind(tmp_path):
    archive = Directory(tmp_path)
    archive.put(digest_of(b"a"), b"a")
    archive.add("models/churn", 1, b"x")
    archive.add("models/churn", 1, b"y")
    assert list((tmp_path / "tmp").iterdir()) == []


@posix
def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        file = record_file(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_registry_appears_with_the_first_write(tmp_path):
    registry = ModelRegistry(tmp_path / "deep" / "models", events=Stream())
    assert registry.models() == ()
    assert list(tmp_path.iterdir()) == []
    registry.register("churn", b"x")
    assert registry.models() == ("churn",)


@pytest.mark.parametrize(
    "call",
    [
        lambda archive: archive.put("0" * 64, b"x"),
        lambda archive: archive.get("0" * 64),
        lambda archive: archive.add("models/churn", 1, b"x"),
        lambda archive: archive.count("models/churn"),
        lambda archive: archive.record("models/churn", 1),
        lambda archive: archive.topics("models"),
    ],
)
def test_place_that_is_no_directory_is_unavailable(tmp_path, call):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="file"):
        call(Directory(tmp_path / "file"))


# -- crashes ----------------------------------------------------------------------------


def verify(path):
    """Everything that is listed must load, and aliases must tell one unbroken story."""
    registry = ModelRegistry(path, events=Stream())
    for version in registry.versions("churn"):
        assert registry.load("churn", version)["version"] >= 0
    told = None
    for move in registry.history("churn", "champion"):
        assert move.old == told
        told = move.new
    assert registry.aliases("churn") == ({"champion": told} if told else {})
    return registry


@posix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("when", ["before", "after"])
def test_death_at_any_step_leaves_a_readable_registry(tmp_path, when):
    """Die, without any clean-up, at the first, second, ... call that touches the disk."""
    from pathlib import Path

    step = 0
    while True:
        step += 1
        child = os.fork()
        if child == 0:
            left = [step]

            def dying(call, left=left):
                def wrapped(*args, **kwargs):
                    left[0] -= 1
                    last = left[0] == 0
                    if last and when == "before":
                        os._exit(9)
                    result = call(*args, **kwargs)
                    if last:
                        os._exit(9)
                    return result

                return wrapped

            for owner, name in ((os, "fsync"), (os, "link"), (Path, "replace"), (Path, "open"),
                                (Path, "unlink"), (Path, "mkdir")):  # fmt: skip
                setattr(owner, name, dying(getattr(owner, name)))
            registry = ModelRegistry(tmp_path / "models", events=Stream())
            ref = registry.register("churn", {"version": step})
            registry.alias("churn", "champion", ref.version)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        verify(tmp_path / "models")
        if ended == 0:
            break
        assert ended == 9
    assert step > 10
    assert verify(tmp_path / "models").resolve("churn", "champion").version


WRITER = """
    import sys
    from prodml.registry import ModelRegistry
    registry = ModelRegistry(sys.argv[1])
    number = 0
    while True:
        ref = registry.register("churn", {"version": number})
        registry.alias("churn", "champion", ref.version)
        number += 1
        if number == 1:
            print("ready", flush=True)
"""


def spawn(script, *args):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_loop(path, rounds):
    for number in range(rounds):
        with spawn(WRITER, path) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.003 * (number % 17))
            writer.send_signal(signal.SIGKILL)
        registry = verify(path)
        assert len(registry.versions("churn")) > number


@posix
def test_killed_writers_leave_a_readable_registry(tmp_path):
    kill_loop(tmp_path / "models", 6)


@posix
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_killed_writers_leave_a_readable_registry(tmp_path):
    # Places of their own, or checking everything again after each kill grows quadratically.
    for place in range(10):
        kill_loop(tmp_path / str(place), 17)


def test_several_processes_get_versions_of_their_own(tmp_path):
    script = """
        import sys
        from prodml.registry import ModelRegistry
        registry = ModelRegistry(sys.argv[1])
        for number in range(15):
            print(registry.register("churn", {"version": number}).version)
    """
    writers = [spawn(script, tmp_path) for _ in range(4)]
    printed = [writer.communicate(timeout=60)[0].split() for writer in writers]
    assert sorted(int(version) for lines in printed for version in lines) == list(range(1, 61))
    verify(tmp_path)


def test_compare_and_swap_lets_exactly_one_process_win_each_step(tmp_path):
    registry = ModelRegistry(tmp_path, events=Stream())
    for number in range(31):
        registry.register("churn", {"version": number})
    registry.alias("churn", "champion", "1")
    script = """
        import sys
        from prodml.errors import Conflict
        from prodml.registry import ModelRegistry
        registry = ModelRegistry(sys.argv[1])
        while (now := registry.resolve("churn", "champion").version) != "31":
            try:
                registry.alias("churn", "champion", str(int(now) + 1), expected=now)
            except Conflict:
                continue
            print(int(now) + 1)
    """
    movers = [spawn(script, tmp_path) for _ in range(3)]
    printed = [mover.communicate(timeout=60)[0].split() for mover in movers]
    assert sorted(int(version) for lines in printed for version in lines) == list(range(2, 32))
    verify(tmp_path)


@posix
def test_readers_never_see_half_a_move(tmp_path):
    with spawn(WRITER, tmp_path) as writer:
        assert writer.stdout.readline() == "ready\n"
        registry = ModelRegistry(tmp_path)
        for _ in range(300):
            assert registry.load("churn", "champion")["version"] >= 0
        writer.kill()
    verify(tmp_path)
