import os
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, Conflict, CorruptRecord, StoreUnavailable
from prodml.stores import (
    MemoryStore,
    Outbox,
    SQLiteStore,
    open_async_store,
    open_durable_store,
    open_store,
    register_client,
    register_scheme,
)
from prodml.testing import ManualClock, check_durable_store


@pytest.fixture(params=["memory", "sqlite"])
def make(request, tmp_path):
    opened = []

    def make(clock=None):
        settings = {} if clock is None else {"clock": clock}
        if request.param == "memory":
            return MemoryStore(**settings)
        opened.append(SQLiteStore(str(tmp_path / f"{len(opened)}.db"), **settings))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def test_both_stores_keep_the_contract(make):
    clock = ManualClock()
    check_durable_store(lambda: make(clock), advance=clock.advance)


def test_only_one_of_many_threads_wins_a_revision(make):
    store, barrier, won = make(), threading.Barrier(8), []

    def contend(number):
        barrier.wait()
        try:
            store.commit("state", str(number).encode(), 0)
        except Conflict:
            return
        won.append(number)

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("state") == (str(won[0]).encode(), 1)
    assert len(won) == 1


def test_sequence_numbers_have_no_gaps_under_threads(make):
    store = make()

    def write():
        for _ in range(25):
            store.append("t", b"x")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seq for seq, _ in store.rows("t")] == list(range(1, 101))


def test_a_memory_entry_ignores_the_wall_clock():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    store.set("k", b"v", ttl=10.0)
    clock.step_wall(3600.0)
    assert store.get("k") == b"v"


def test_two_handles_on_one_file_see_each_other(tmp_path):
    path = str(tmp_path / "ops.db")
    one, two = SQLiteStore(path), SQLiteStore(path)
    one.commit("job", b"a", 0)
    assert two.read("job") == (b"a", 1)
    with pytest.raises(Conflict, match="expected 0, found 1"):
        two.commit("job", b"b", 0)
    one.close()
    two.close()


def test_a_closed_store_opens_again(tmp_path):
    store = SQLiteStore(str(tmp_path / "ops.db"))
    store.set("k", b"v")
    store.close()
    assert store.get("k") == b"v"
    store.close()


def test_a_constructor_opens_nothing(tmp_path):
    SQLiteStore(str(tmp_path / "ops.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_a_corrupt_record(tmp_path):
    path = tmp_path / "ops.db"
    path.write_bytes(b"not a database, certainly not" * 100)
    with pytest.raises(CorruptRecord, match=r"ops\.db"):
        SQLiteStore(str(path)).get("k")


def test_an_unreachable_file_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable, match="missing"):
        SQLiteStore(str(tmp_path / "missing" / "ops.db")).get("k")


def test_a_locked_file_is_unavailable_after_the_busy_timeout(tmp_path):
    path = str(tmp_path / "ops.db")
    store = SQLiteStore(path, busy_timeout=0.01)
    store.set("k", b"v")
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.set("k", b"w")
    blocker.execute("ROLLBACK")
    blocker.close()
    assert store.get("k") == b"v"
    store.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_the_file_anew(tmp_path):
    store = SQLiteStore(str(tmp_path / "ops.db"))
    store.append("t", b"parent")
    child = os.fork()
    if child == 0:
        store.append("t", b"child")
        store.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [value for _, value in store.rows("t")] == [b"parent", b"child"]
    store.close()


KILLED = """
import os, signal, sys
from prodml.stores import SQLiteStore
store = SQLiteStore(sys.argv[1])
revision = 0
while True:
    revision = store.commit("state", str(revision + 1).encode(), revision,
                            rows=[("facts", str(revision + 1).encode())])
    if revision == 30:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_state_and_rows_agree(tmp_path):
    path = str(tmp_path / "ops.db")
    ended = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    store = SQLiteStore(path)
    value, revision = store.read("state")
    assert ended.returncode == -9
    assert (value, revision) == (b"30", 30)
    assert [int(row) for _, row in store.rows("facts")] == list(range(1, 31))
    store.close()


# -- outbox -----------------------------------------------------------------------------


def test_an_outbox_delivers_in_order_and_once_when_nothing_fails(make):
    store, heard = make(), []
    for n in range(250):
        store.append("facts", str(n).encode())
    outbox = Outbox(store, "facts", "log")
    assert outbox.relay(lambda seq, value: heard.append(int(value))) == 250
    assert outbox.relay(print) == 0
    assert heard == list(range(250))


def test_a_handler_that_fails_hears_the_row_again(make):
    store, heard = make(), []
    store.append("facts", b"a")
    store.append("facts", b"b")

    def stumble(seq, value):
        heard.append(value)
        if heard == [b"a", b"b"]:
            raise OSError

    outbox = Outbox(store, "facts", "log")
    with pytest.raises(OSError):
        outbox.relay(stumble)
    assert outbox.relay(stumble) == 1
    assert heard == [b"a", b"b", b"b"]


@given(st.lists(st.integers(0, 5), max_size=20))
def test_consumers_have_cursors_of_their_own(batches):
    store, total = MemoryStore(), 0
    fast, slow, seen = Outbox(store, "t", "fast"), Outbox(store, "t", "slow"), []
    for size in batches:
        for _ in range(size):
            total += 1
            store.append("t", str(total).encode())
        fast.relay(lambda seq, value: seen.append(seq))
    assert seen == list(range(1, total + 1))
    assert slow.relay(lambda seq, value: None) == total


# -- opening ----------------------------------------------------------------------------


def test_urls_open_the_stores_they_name(tmp_path):
    assert isinstance(open_store("memory://"), MemoryStore)
    store = open_durable_store(f"sqlite:///{tmp_path}/ops.db")
    assert store.path == f"{tmp_path}/ops.db"


def test_a_store_is_its_own_store():
    store = MemoryStore()
    assert open_store(store) is open_durable_store(store) is store


@pytest.mark.parametrize("target", ["ftp://x", "nonsense", 3, object()])
def test_an_unknown_target_names_what_is_known(target):
    with pytest.raises(BadConfiguration, match="sqlite://"):
        open_store(target)


def test_a_registered_scheme_or_client_opens_by_text_or_function():
    register_scheme("mine", "prodml.stores:_test_opener")
    register_client("fractions", lambda client: MemoryStore(), lambda client: "async")
    from fractions import Fraction

    with pytest.raises(AttributeError):
        open_store("mine://x")
    assert isinstance(open_store(Fraction(1)), MemoryStore)
    assert open_async_store(Fraction(1)) == "async"
    with pytest.raises(BadConfiguration):
        open_async_store("mine://x")


def test_a_plain_store_cannot_keep_a_machine():
    class Plain:
        def get(self, key): ...
        def set(self, key, value, *, ttl=None): ...
        def delete(self, key): ...

    plain = Plain()
    assert open_store(plain) is open_async_store(plain) is plain
    with pytest.raises(BadConfiguration, match="sqlite:///"):
        open_durable_store(plain)


def test_a_forgotten_store_closes_its_file(tmp_path):
    store = SQLiteStore(str(tmp_path / "ops.db"))
    store.set("k", b"v")
    connection = store._connection
    del store
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
