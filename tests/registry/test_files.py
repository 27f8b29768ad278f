"""Archives: atomic, exclusive; damage is seen; one writer at a time."""

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prodml.errors import (
    BadConfiguration,
    CorruptRecord,
    LeaseLost,
    StoreUnavailable,
    UnknownVersion,
)
from prodml.events import Stream
from prodml.registry import ModelRegistry, audit, disk, files, stored
from prodml.registry.files import Directory
from prodml.registry.lock import FileLock, LeaseLock
from prodml.registry.records import digest_of
from prodml.registry.stored import StoreArchive
from prodml.stores import MemoryStore, SQLiteStore
from prodml.testing import ManualClock

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
A = digest_of(b"a")


@pytest.fixture(params=["directory", "memory", "sqlite"])
def archive(request, tmp_path):
    if request.param == "directory":
        yield Directory(tmp_path / "models")
        return
    store = MemoryStore() if request.param == "memory" else SQLiteStore(f"{tmp_path}/m.db")
    yield StoreArchive(store)
    store.close()


def keep(archive, data):
    archive.stage(digest_of(data), data)
    with archive.writing():
        archive.put(digest_of(data), data)


def test_artifact_is_kept_under_its_digest(archive):
    for _ in range(2):
        keep(archive, b"weights")
    assert archive.get(digest_of(b"weights"), 7) == b"weights"
    assert [(a.digest, a.size) for a in archive.artifacts()] == [(digest_of(b"weights"), 7)]


def test_no_more_is_read_than_was_asked_for_and_one(archive):
    keep(archive, b"weights")
    assert archive.get(digest_of(b"weights"), 3) == b"weig"


def test_artifact_that_was_removed_can_be_put_again(archive):
    keep(archive, b"a")
    with archive.writing():
        archive.remove(A)
        archive.remove(A)
        with pytest.raises(CorruptRecord, match="missing"):
            archive.get(A, 1)
        assert list(archive.artifacts()) == []
        archive.put(A, b"a")
    assert archive.get(A, 1) == b"a"


def test_missing_artifact_is_corrupt(archive):
    with pytest.raises(CorruptRecord, match="missing"):
        archive.get("0" * 64, 1)


def test_missing_record_is_corrupt(archive):
    with pytest.raises(CorruptRecord, match="missing"):
        archive.record("models/churn", 1)


def test_record_is_added_once(archive):
    assert archive.add("models/churn", 1, b"first")
    assert not archive.add("models/churn", 1, b"second")
    assert archive.record("models/churn", 1) == b"first"


def test_records_are_counted_by_list(archive):
    for number in (1, 2, 3):
        assert archive.count("models/churn") == number - 1
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


def test_writers_take_turns(archive):
    inside = []

    def write(_):
        with archive.writing():
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.001)
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))


def test_two_archives_of_one_place_take_turns(archive):
    place = archive.path if isinstance(archive, Directory) else archive.store
    other = type(archive)(place, patience=0.01)
    with archive.writing():
        with pytest.raises(StoreUnavailable, match="another writer"):
            other.writing().__enter__()
    with other.writing():
        pass


def test_an_error_inside_frees_the_lock(archive):
    with pytest.raises(ZeroDivisionError), archive.writing():
        raise ZeroDivisionError
    with archive.writing():
        pass


# -- locks ------------------------------------------------------------------------------


@posix
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    lock = FileLock(tmp_path / "lock", patience=0.05)
    read, write = os.pipe()
    with lock.held():
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        with lock.held():  # the child still has its copy of the handle
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def test_lock_in_no_directory_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable), FileLock(tmp_path / "none" / "lock").held():
        pass


def test_lease_of_the_dead_is_waited_for():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    store.acquire("registry", "somebody killed", 30.0)
    began = clock.monotonic()
    with LeaseLock(store, "registry", ttl=30.0, clock=clock).held() as lease:
        assert lease.token == 2
    assert 30.0 <= clock.monotonic() - began < 31.0


def test_writer_that_slept_through_its_lease_changes_nothing():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    slow, fast = StoreArchive(store), StoreArchive(store)
    with pytest.raises(LeaseLost), slow.writing():
        clock.advance(31)
        with fast.writing():
            fast.put(A, b"a")
            assert fast.add("models/churn", 1, b"fast")
        slow.add("models/churn", 2, b"slow")
    with pytest.raises(LeaseLost), slow.writing():
        clock.advance(31)
        with fast.writing():
            pass
        slow.remove(A)
    assert fast.get(A, 1) == b"a"
    assert fast.count("models/churn") == 1


# -- stores -----------------------------------------------------------------------------


def test_damaged_artifact_in_a_store_is_mended():
    archive = StoreArchive(MemoryStore())
    keep(archive, b"a")
    archive.store.set(f"registry/artifacts/{A}", b"damaged")
    keep(archive, b"a")
    assert archive.get(A, 1) == b"a"


def test_store_that_lost_an_artifact_but_not_its_name_gets_it_again():
    """As if killed between the two writes."""
    archive = StoreArchive(MemoryStore())
    keep(archive, b"a")
    archive.store.delete(f"registry/artifacts/{A}")
    assert list(archive.artifacts()) == []
    keep(archive, b"a")
    assert archive.get(A, 1) == b"a"


def test_artifact_is_listed_before_it_is_there():
    """Or whoever is killed in between leaves bytes that no pruning ever finds."""

    class Dying(MemoryStore):
        def set(self, key, value, *, ttl=None):
            super().set(key, value, ttl=ttl)
            raise KeyboardInterrupt

    archive = StoreArchive(Dying())
    with pytest.raises(KeyboardInterrupt):
        keep(archive, b"a")
    assert [artifact.digest for artifact in archive.artifacts()] == [A]


def test_what_sqlite_cannot_hold_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_LARGEST", 100)
    registry = ModelRegistry(f"sqlite:///{tmp_path}/m.db", events=Stream())
    with pytest.raises(BadConfiguration, match="keep the registry in a directory"):
        registry.register("churn", b"x" * 101)
    assert registry.models() == ()
    assert list(registry._archive.artifacts()) == []


def test_sqlite_in_memory_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = ModelRegistry(SQLiteStore(":memory:"), events=Stream())
    registry.register("churn", b"x")
    assert registry.load("churn", "1") == b"x"
    assert list(tmp_path.iterdir()) == []


# -- on disk ----------------------------------------------------------------------------


def record_file(tmp_path):
    ModelRegistry(tmp_path, events=Stream()).register("churn", {"version": 1})
    return tmp_path / "records" / "models" / "churn" / "00000001.json"


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\n{}"])
def test_damaged_record_is_seen(tmp_path, damage):
    record_file(tmp_path).write_bytes(damage)
    with pytest.raises(CorruptRecord, match="checksum"):
        ModelRegistry(tmp_path).load("churn", "1")


def test_every_flipped_byte_of_a_record_is_seen(tmp_path):
    file = record_file(tmp_path)
    good = file.read_bytes()
    registry = ModelRegistry(tmp_path)
    for index in range(len(good)):
        bad = bytearray(good)
        bad[index] ^= 1
        file.write_bytes(bytes(bad))
        with pytest.raises(CorruptRecord):
            registry.load("churn", "1")


def test_strange_files_are_not_records(tmp_path):
    folder = record_file(tmp_path).parent
    (folder / "notes.txt").write_text("hello")
    (folder / "99999999.json~").write_text("backup")
    (folder.parent / "stray").write_text("no list")
    (tmp_path / "artifacts" / "ab").mkdir(exist_ok=True)
    (tmp_path / "artifacts" / "ab" / "README").write_text("not ours")
    assert Directory(tmp_path).count("models/churn") == 1
    assert Directory(tmp_path).topics("models") == ["churn"]
    assert len(Directory(tmp_path).artifacts()) == 1


def test_strange_folders_are_no_models_and_no_aliases(tmp_path):
    registry = ModelRegistry(tmp_path, events=Stream())
    registry.register("churn", b"one")
    registry.alias("churn", "champion", "1")
    for place in ("models", "aliases/churn"):
        # Of a file server, of an editor, of a backup.
        for name in ("@eaDir", ".ipynb_checkpoints", "churn (copy)"):
            (tmp_path / "records" / place / name).mkdir()
    assert registry.models() == ("churn",)
    assert registry.aliases("churn") == {"champion": "1"}
    assert registry.family.made_from(code="abc") == ()
    assert not registry.prune()
    assert audit(registry).problems == ()
    with pytest.raises(UnknownVersion, match="known: 1, champion"):
        registry.load("churn", "nobody")


def test_a_list_that_began_anew_is_counted_anew(tmp_path):
    archive = Directory(tmp_path)
    for number in (1, 2):
        archive.add("models/churn", number, b"x")
    assert archive.count("models/churn") == 2
    for file in (tmp_path / "records" / "models" / "churn").iterdir():
        file.unlink()
    assert archive.count("models/churn") == 0


def test_counting_again_lists_nothing(tmp_path, monkeypatch):
    archive, other = Directory(tmp_path), Directory(tmp_path)
    archive.add("models/churn", 1, b"x")
    assert archive.count("models/churn") == 1
    monkeypatch.setattr(os, "listdir", pytest.fail)
    assert archive.count("models/churn") == 1
    other.add("models/churn", 2, b"x")
    assert archive.count("models/churn") == 2


def test_damaged_artifact_is_mended(tmp_path):
    archive = Directory(tmp_path)
    keep(archive, b"a")
    (tmp_path / "artifacts" / A[:2] / A).write_bytes(b"b")
    keep(archive, b"a")
    assert archive.get(A, 1) == b"a"


def test_staged_artifact_is_young_again(tmp_path):
    archive = Directory(tmp_path)
    keep(archive, b"a")
    os.utime(tmp_path / "artifacts" / A[:2] / A, (0, 0))
    assert archive.artifacts()[0].age > 1e9
    archive.stage(A, b"a")
    assert archive.artifacts()[0].age < 60


def test_artifact_of_another_user_is_shared_all_the_same(tmp_path, monkeypatch):
    archive = Directory(tmp_path)
    keep(archive, b"a")

    def refused(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refused)
    keep(archive, b"a")
    assert archive.get(A, 1) == b"a"


def test_nothing_temporary_is_left_behind(tmp_path):
    archive = Directory(tmp_path)
    keep(archive, b"a")
    archive.add("models/churn", 1, b"x")
    archive.add("models/churn", 1, b"y")
    (tmp_path / "records" / "models" / "fraud").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        archive.add("models/fraud", 1, b"z")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_killed_writers_left_goes_after_a_day(tmp_path):
    clock = ManualClock()
    archive = Directory(tmp_path, clock=clock)
    archive.add("models/churn", 1, b"x")
    for name, age in (("old", 86_401), ("young", 86_000)):
        (tmp_path / "tmp" / name).write_bytes(b"half")
        os.utime(tmp_path / "tmp" / name, (0, clock.time() - age))
    with archive.writing():
        archive.tidy()
    assert [file.name for file in (tmp_path / "tmp").iterdir()] == ["young"]


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
    assert registry.prune(dry_run=True).retired == ()
    assert registry.watch("churn", "champion").changed() is None
    assert list(tmp_path.iterdir()) == []
    registry.register("churn", b"x")
    assert registry.models() == ("churn",)


@posix
def test_reading_needs_no_right_to_write(tmp_path, monkeypatch):
    ModelRegistry(tmp_path, events=Stream()).register("churn", b"x")
    ModelRegistry(tmp_path, events=Stream()).alias("churn", "champion", "1")
    real = os.open

    def reading(path, flags, *args, **kwargs):
        assert flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", reading)
    registry = ModelRegistry(tmp_path)
    assert registry.load("churn", "champion") == b"x"
    assert registry.describe("churn", "champion").tags == ()
    assert registry.prune(dry_run=True).retired == ()


def test_everything_is_forced_before_it_has_its_name(tmp_path, monkeypatch):
    """Content, then name, then the folder that holds the name: in this order."""
    steps = []
    monkeypatch.setattr(
        disk, "force", lambda handle: steps.append(os.readlink(f"/proc/self/fd/{handle}"))
    )
    real_link, real_replace = os.link, Path.replace
    monkeypatch.setattr(os, "link", lambda a, b: steps.append("link") or real_link(a, b))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: steps.append("replace") or real_replace(self, to)
    )
    registry = ModelRegistry(tmp_path / "models", events=Stream())
    registry.register("churn", b"one")
    steps.clear()
    registry.register("churn", b"two")
    told = ["tmp" if Path(step).parent.name == "tmp" else Path(step).name for step in steps]
    two = digest_of(b"two")
    made = told.index("replace")
    assert told[0] == "tmp"
    assert told[made : made + 2] == ["replace", two[:2]]
    assert told[-3:] == ["tmp", "link", "churn"]


if not Path("/proc/self/fd").exists():
    del test_everything_is_forced_before_it_has_its_name


@pytest.mark.parametrize(
    "call",
    [
        lambda archive: archive.stage("0" * 64, b"x"),
        lambda archive: archive.put("0" * 64, b"x"),
        lambda archive: archive.get("0" * 64, 1),
        lambda archive: archive.add("models/churn", 1, b"x"),
        lambda archive: archive.count("models/churn"),
        lambda archive: archive.record("models/churn", 1),
        lambda archive: archive.topics("models"),
        lambda archive: archive.writing().__enter__(),
    ],
)
def test_place_that_is_no_directory_is_unavailable(tmp_path, call):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="file"):
        call(Directory(tmp_path / "file"))


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    registry = ModelRegistry(tmp_path, events=Stream())
    registry.register("churn", b"one")
    real = os.write

    def full(handle, data):
        if len(data) > 4:
            return real(handle, data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        registry.register("churn", b"two, which is longer")
    monkeypatch.undo()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert registry.versions("churn") == ("1",)
    assert registry.load("churn", "1") == b"one"
    assert registry.register("churn", b"two, which is longer").version == "2"


@pytest.mark.parametrize("step", ["make_folder", "move"])
def test_a_disk_without_room_for_a_name_keeps_no_nameless_file(tmp_path, monkeypatch, step):
    registry = ModelRegistry(tmp_path, events=Stream())
    registry.register("churn", b"one")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, step, full)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="No space left"):
            registry.register("churn", b"two")
    assert list((tmp_path / "tmp").iterdir()) == []
    monkeypatch.undo()
    assert registry.register("churn", b"two").version == "2"


def test_threads_register_and_move_at_once(archive):
    place = archive.path if isinstance(archive, Directory) else archive
    registry = ModelRegistry(place, events=Stream())
    start = threading.Barrier(6)

    def work(n):
        start.wait()
        for step in range(5):
            ref = registry.register("churn", {"from": [n, step]})
            registry.alias("churn", "champion", ref.version)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    loaded = [registry.load("churn", version)["from"] for version in registry.versions("churn")]
    assert sorted(loaded) == [[n, step] for n in range(6) for step in range(5)]
    history = registry.history("churn", "champion")
    assert [move.old for move in history[1:]] == [move.new for move in history[:-1]]
