import contextlib
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.cache.disk import DiskTier
from prodml.errors import BadConfiguration
from prodml.testing import ManualClock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "cache.db"


@pytest.fixture
def make(path):
    made = []

    def make(where=None, size="4 MiB", **settings):
        made.append(DiskTier(where or path, size, **settings))
        return made[-1]

    yield make
    for tier in made:
        tier.close()


def filled(tier, count=10, size=20, prefix="n"):
    tier.set_many({f"{prefix}{i}": b"%05d" % i + bytes(size) for i in range(count)})
    assert tier.flush()
    return tier


def bytes_on_disk(path):
    return sum(
        p.stat().st_size for p in path.parent.glob(f"{path.name}*") if "damaged" not in p.name
    )


def until(true, seconds=10.0):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def python(code, *args):
    """Start a process that runs ``code``."""
    lines = "import os, sys, time\nfrom prodml.cache.disk import DiskTier\n"
    command = [sys.executable, "-c", lines + textwrap.dedent(code), *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_what_one_process_wrote_the_next_one_finds(make):
    filled(make()).close()
    again = make()
    assert again.get_many(["n3", "other", "n9"]) == [
        b"00003" + bytes(20),
        None,
        b"00009" + bytes(20),
    ]
    assert again.get("n0") == b"00000" + bytes(20)
    stats = again.stats()
    assert (stats.hits, stats.misses, stats.skipped, stats.errors) == (3, 1, 0, 0)


def test_what_waits_to_be_written_is_found(make):
    tier = make()
    tier.set("name", b"value")
    assert tier.get("name") == b"value"
    assert tier.stats().misses == 0


def test_nothing_is_made_by_looking(make, path):
    tier = make()
    assert tier.get_many(["a", "b"]) == [None, None]
    assert tier.token("a") is None
    assert tier.flush()
    assert not path.parent.exists()


def test_a_file_made_after_the_first_look_is_seen(make):
    tier = make()
    assert tier.get("n1") is None
    filled(tier)
    assert tier.get("n1") is not None


@pytest.mark.parametrize("count", [1, 7, 8, 64, 65, 200])
def test_any_number_of_names_is_found_in_order(make, count):
    tier = filled(make(), count=count)
    names = [f"n{i}" for i in reversed(range(count))]
    found = tier.get_many([*names, "x", names[0]])
    assert [int(value[:5]) for value in found[:count]] == list(reversed(range(count)))
    assert found[count:] == [None, found[0]]


def test_an_entry_ends_with_its_time_to_live(make):
    clock = ManualClock()
    tier = make(clock=clock)
    tier.set("short", b"1", ttl=10.0)
    tier.set("long", b"2", ttl=100.0)
    tier.set("ever", b"3")
    for flush in (False, True):
        assert not flush or tier.flush()
        assert tier.get_many(["short", "long", "ever"]) == [b"1", b"2", b"3"]
    clock.advance(11.0)
    assert tier.get_many(["short", "long", "ever"]) == [None, b"2", b"3"]
    filled(tier, count=1)
    assert tier.stats().expired == 1
    with sqlite3.connect(tier.path) as db:
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (3,)
    db.close()


@pytest.mark.parametrize("value", [20, 500, 3000, 20_000])
def test_the_file_stays_within_its_size_and_loses_the_oldest(make, path, value):
    size = 2 * 2**20
    tier, largest = make(size=size), 0
    count = max(2, min(1000, size // 16 // value))
    rounds = max(30, 3 * size // (value + 300) // count)
    for at in range(rounds):
        tier.set_many({f"{at:05d}-{i:032d}": os.urandom(value) for i in range(count)})
        assert tier.flush()
        largest = max(largest, bytes_on_disk(path))
    assert largest <= size
    stats = tier.stats()
    assert stats.expelled > 0
    assert (stats.dropped, stats.errors) == (0, 0)
    there = [tier.get(f"{at:05d}-{0:032d}") is not None for at in range(rounds)]
    # The oldest are gone, the newest are there, and nothing in between is missing.
    assert not there[0]
    assert there[-1]
    assert there == sorted(there)
    with sqlite3.connect(path) as db:
        kept = db.execute("SELECT sum(length(value)) FROM entries").fetchone()[0]
    db.close()
    assert kept > size * (0.5 if value > 100 else 0.1)


def test_a_smaller_size_makes_the_file_smaller(make, path):
    tier = make(size="8 MiB")
    for prefix in "abcde":
        filled(tier, count=800, size=1000, prefix=prefix)
    tier.close()
    before = bytes_on_disk(path)
    tier = make(size="1 MiB")
    filled(tier, count=1, prefix="new")
    tier.close()
    assert before > 3 * 2**20
    assert bytes_on_disk(path) <= 2**20
    assert make().get("new0") is not None


def test_a_full_queue_drops_and_counts_and_delays_nobody(make):
    tier = make(size="1 MiB")
    with tier._writing:
        began = time.monotonic()
        for i in range(100):
            tier.set(f"n{i}", bytes(4096))
        assert time.monotonic() - began < 0.5
        assert tier.stats().dropped > 50
    assert tier.flush()
    assert tier.stats().written + tier.stats().dropped == 100


def test_an_entry_too_large_for_the_file_is_dropped(make):
    tier = make(size="1 MiB")
    tier.set("large", bytes(2**20))
    assert tier.get("large") is None
    assert tier.stats().dropped == 1


@pytest.mark.parametrize("size", [0, "1 KiB", "much", 2**20 - 1, True])
def test_a_size_that_makes_no_sense_is_refused(tmp_path, size):
    with pytest.raises(BadConfiguration):
        DiskTier(tmp_path / "x", size)


# -- damage -----------------------------------------------------------------------------


def smashed(path, where):
    data = bytearray(path.read_bytes())
    if where == "head":
        data[:100] = os.urandom(100)
    elif where == "all":
        data[:] = os.urandom(len(data))
    elif where == "pages":
        data[4096:] = os.urandom(len(data) - 4096)
    elif where == "cut":
        del data[len(data) // 2 :]
    elif where == "text":
        data = b"this is no database\n" * 100
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("where", ["head", "all", "pages", "text", "cut"])
@pytest.mark.parametrize("reads_first", [True, False])
def test_a_damaged_file_is_renamed_and_begun_anew(make, path, where, reads_first):
    filled(make(), count=3000, size=200).close()
    smashed(path, where)
    tier = make()
    if reads_first:
        assert set(map(type, tier.get_many([f"n{i}" for i in range(3000)]))) <= {bytes, type(None)}
    tier.set_many({f"n{i}": b"new" for i in range(3000)})
    assert tier.flush()
    until(lambda: tier.get("n7") == b"new" or tier.set("n7", b"new"))
    stats = tier.stats()
    assert stats.damaged == 1
    assert path.with_name("cache.db.damaged").exists()
    tier.close()
    assert make().get("n7") == b"new"


def test_damage_under_an_open_connection_is_found_and_mended(make, path):
    tier = filled(make(), count=3000, size=200)
    tier.get("n1")
    tier._writer.close()
    smashed(path, "all")
    until(lambda: tier.get("n5") is None)
    filled(tier, prefix="m")
    until(lambda: tier.get("m5") is not None or filled(tier, prefix="m") is None)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_damage_raises_or_invents_names(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("disk") / "cache.db"
    tier = filled(DiskTier(path, "1 MiB"), count=300, size=100)
    tier.close()
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=200)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    tier = DiskTier(path, "1 MiB")
    found = tier.get_many([f"n{i}" for i in range(300)])
    assert set(map(type, found)) <= {bytes, type(None)}
    filled(tier, count=300)
    tier.token("x")
    tier.close()


def test_somebody_elses_database_is_left_alone(make, path):
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    tier = make()
    tier.set("a", b"1")
    assert tier.flush()
    assert tier.get("a") is None
    assert not tier.pin("epoch", b"12345678")
    assert path.read_bytes() == before
    stats = tier.stats()
    assert (stats.written, stats.dropped, stats.damaged) == (0, 1, 0)
    assert stats.errors >= 1


def test_a_path_that_is_a_folder_is_skipped(make, tmp_path):
    tier = make(tmp_path)
    tier.set("a", b"1")
    assert tier.flush()
    assert (tier.get("a"), tier.token("a"), tier.pin("a", b"1")) == (None, None, False)
    assert tier.stats().dropped == 1


def test_after_trouble_the_file_is_left_alone_and_then_tried_again(make, path):
    clock = ManualClock()
    path.parent.mkdir()
    path.mkdir()
    tier = make(clock=clock)
    assert tier.get("a") is None
    path.rmdir()
    tier.set("a", b"1")
    assert tier.get("a") is None
    errors = tier.stats().errors
    clock.advance(6.0)
    filled(tier)
    assert tier.get("n1") is not None
    assert tier.stats().errors == errors == 1


def test_a_file_that_was_deleted_or_exchanged_is_seen(make, path):
    clock = ManualClock()
    tier = filled(make(clock=clock))
    assert tier.get("n1") is not None
    for file in path.parent.glob("cache.db*"):
        file.unlink()
    clock.advance(2.0)
    assert tier.get("n1") is None
    filled(tier)
    assert tier.get("n1") is not None


@pytest.mark.parametrize("name", ["\ud800", 5, None])
def test_a_name_that_sqlite_does_not_take_is_a_miss(make, name):
    tier = filled(make())
    assert tier.get_many([name]) == [None]
    assert tier.get("n1") is not None or tier.stats().errors == 1


# -- tokens -----------------------------------------------------------------------------


def test_a_token_survives_and_is_never_expelled(make):
    tier = make(size="1 MiB")
    assert tier.token("epoch") is None
    assert tier.pin("epoch", b"first---")
    assert tier.pin("epoch", b"second--")
    filled(tier, count=5000, size=1000)
    for again in (tier, make(size="1 MiB")):
        assert again.token("epoch") == b"second--"
    assert tier.stats().expelled + tier.stats().dropped > 0


def test_a_token_may_be_written_later(make):
    tier = make()
    assert tier.pin("epoch", b"token---", durable=False)
    assert tier.token("epoch") == b"token---"
    tier.close()
    assert make().token("epoch") == b"token---"


def test_a_pinned_token_is_not_overwritten_by_one_that_waited(make):
    tier = make()
    for _ in range(50):
        tier.pin("epoch", b"old", durable=False)
        assert tier.pin("epoch", b"new")
        assert tier.token("epoch") == b"new"
    assert tier.flush()
    tier.close()
    assert make().token("epoch") == b"new"


def test_a_token_that_cannot_be_written_costs_the_file(make, monkeypatch):
    from prodml.cache.disk_file import DiskFile

    tier = filled(make())
    pin, failures = DiskFile.pin, [sqlite3.OperationalError("database or disk is full")]
    failures[0].sqlite_errorcode = 13

    def full(file, name, token):
        if failures:
            raise failures.pop()
        pin(file, name, token)

    monkeypatch.setattr(DiskFile, "pin", full)
    assert tier.pin("epoch", b"new")
    assert tier.token("epoch") == b"new"
    # What the dropped version had left behind is gone.
    assert tier.get("n1") is None


def test_two_processes_see_each_others_tokens(make, path):
    tier = make()
    assert tier.token("epoch") is None
    child = python("print(DiskTier(sys.argv[1]).pin('epoch', b'theirs'))", path)
    assert child.communicate()[0] == "True\n"
    until(lambda: tier.token("epoch") == b"theirs", 3.0)


# -- processes --------------------------------------------------------------------------

WRITES = """
    tier = DiskTier(sys.argv[1], "4 MiB")
    at = 0
    while at < int(sys.argv[3]):
        tier.set_many({f"{sys.argv[2]}{i}": b"%08d" % i * 50 for i in range(at, at + 100)})
        tier.flush()
        at += 100
        print(at, flush=True)
"""


@pytest.mark.parametrize("round_", range(3))
def test_a_process_killed_while_it_writes_leaves_a_file_that_can_be_read(make, path, round_):
    child = python(WRITES, path, "k", 10**6)
    told = 0
    while told < 1000 + 700 * round_:
        told = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.communicate()
    tier = make()
    found = tier.get_many([f"k{i}" for i in range(told)])
    assert found == [b"%08d" % i * 50 for i in range(told)]
    filled(tier)
    assert tier.get("n1") is not None
    stats = tier.stats()
    assert (stats.errors, stats.damaged) == (0, 0)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_two_processes_share_one_file(make, path):
    children = [python(WRITES, path, prefix, 2500) for prefix in "ab"]
    tier = make()
    try:
        for prefix, child in zip("ab", children, strict=True):
            while int(child.stdout.readline()) < 2500:
                pass
            filled(tier, count=200, prefix="c")
            until(lambda: tier.get(f"{prefix}2499") is not None)  # noqa: B023
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert None not in tier.get_many([f"c{i}" for i in range(200)])
    stats = tier.stats()
    assert (stats.errors, stats.damaged) == (0, 0)
    assert bytes_on_disk(path) <= 4 * 2**20


def test_a_file_that_another_process_makes_meanwhile_is_no_strange_file(make, path, monkeypatch):
    from prodml.cache import disk_file

    read, made = disk_file._pragma, []

    def meanwhile(db, name):
        found = read(db, name)
        if not made:
            made.append(name)
            # Waits for us, or comes whole: never between two looks.
            with (
                contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other,
                contextlib.suppress(sqlite3.OperationalError),
            ):
                other.executescript(disk_file._SCHEMA)
        return found

    monkeypatch.setattr(disk_file, "_pragma", meanwhile)
    tier = make()
    filled(tier)
    assert made
    assert (tier.get("n1") is not None, tier.stats().errors) == (True, 0)


def test_a_process_that_ends_writes_what_waits(make, path):
    child = python("tier = DiskTier(sys.argv[1]); tier.set('last', b'words')", path)
    child.communicate()
    assert make().get("last") == b"words"


def as_nobody():
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_file_that_cannot_be_written_is_skipped(tmp_path, mode):
    folder = tmp_path / "own"
    folder.mkdir()
    path = folder / "cache.db"
    tier = filled(DiskTier(path))
    tier.close()
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    path.chmod(mode)
    folder.chmod(0o555)
    before = path.read_bytes()
    code = """
        os.setgid(65534); os.setuid(65534)
        tier = DiskTier(sys.argv[1])
        tier.set("new", b"1")
        tier.flush()
        print(tier.get("n1"), tier.get("new"), tier.pin("t", b"t"), tier.token("t"))
        stats = tier.stats()
        print(stats.dropped, stats.errors > 0, stats.damaged)
    """
    out, _ = python(code, path).communicate()
    assert out.splitlines() == ["None None False None", "1 True 0"]
    assert path.read_bytes() == before


def test_a_full_disk_is_skipped_and_a_drop_is_still_kept(path):
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        tier = DiskTier(sys.argv[1], "64 MiB")
        tier.set_many({f"n{i}": bytes(1000) for i in range(200)})
        tier.flush()
        assert tier.get("n1") is not None
        # No file may grow beyond this: what a full disk looks like from here.
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
        for at in range(20):
            tier.set_many({f"m{at}-{i}": os.urandom(1000) for i in range(200)})
            tier.flush()
            assert type(tier.get("n1")) in {bytes, type(None)}
        stats = tier.stats()
        print(stats.dropped > 0, stats.errors > 0, stats.damaged)
        print(tier.pin("epoch", b"new"))
        tier.close()
        print(DiskTier(sys.argv[1]).token("epoch"))
    """
    out, _ = python(code, path).communicate()
    assert out.splitlines() == ["True True 0", "True", "b'new'"]


@pytest.mark.parametrize("method", ["fork"])
def test_a_forked_child_reads_and_writes_for_itself(make, method):
    import multiprocessing

    tier = filled(make())
    assert tier.get("n1") is not None
    tier.set("parents", b"waiting")

    def child(pipe):
        filled(tier, prefix="c")
        pipe.send([tier.get("n1"), tier.get("c3"), tier.stats().errors])
        tier.close()

    here, there = multiprocessing.Pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in processes with threads: that is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context(method).Process(target=child, args=(there,))
        process.start()
    assert here.poll(20)
    n1, c3, errors = here.recv()
    process.join(20)
    assert (n1, c3, errors) == (b"00001" + bytes(20), b"00003" + bytes(20), 0)
    assert process.exitcode == 0
    assert tier.flush()
    until(lambda: tier.get("c3") is not None)
    assert tier.get("parents") == b"waiting"
    assert tier.stats().errors == 0


def test_forks_in_the_middle_of_reads_and_writes_neither_hang_nor_harm(make, path):
    tier, stop = filled(make(size="1 GiB")), threading.Event()

    def busy():
        at = 0
        while not stop.is_set():
            tier.set(f"b{at}", bytes(500))
            tier.get(f"b{at // 2}")
            at += 1

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                try:
                    signal.alarm(20)
                    tier.set("child", b"1")
                    good = tier.flush(10.0)
                    until(lambda: tier.get("n1") is not None)
                    tier.close()
                finally:
                    os._exit(0 if good else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    tier.close()
    assert (tier.stats().errors, tier.stats().damaged) == (0, 0)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


# -- threads ----------------------------------------------------------------------------


def test_many_threads_read_and_write(make):
    tier, errors = make(), []

    def work(prefix):
        try:
            for at in range(100):
                tier.set(f"{prefix}{at}", b"%d" % at)
                assert tier.get(f"{prefix}{at}") == b"%d" % at
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert tier.flush()
    assert tier.get_many([f"{n}{i}" for n in "abcdefgh" for i in range(100)]).count(None) == 0


def test_closing_ends_the_thread_and_the_next_use_opens_again(make):
    tier = filled(make())
    tier.close()
    assert tier._thread is None
    assert tier.get("n1") is not None
    filled(tier, prefix="m")
    assert tier.get("m1") is not None


def test_a_forgotten_tier_is_silent(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tier = filled(DiskTier(path))
        tier.get("n1")
        tier.close()
        tier.get("n1")
        del tier
        gc.collect()


def test_only_the_owner_may_read_the_file(make, path):
    filled(make())
    assert path.stat().st_mode & 0o077 == 0
