"""What the processes of one host share: never torn, whoever is killed, stopped or forked."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, Conflict, CorruptRecord, StoreUnavailable
from prodml.events import Stream
from prodml.serving import Member, ServingFleet, VersionedModelServer
from prodml.serving.fleet_memory import HostPlace, Memory, _glimpse
from prodml.serving.fleet_record import Record, reconciled
from prodml.serving.fleet_watch import Ears
from prodml.stores import MemoryStore
from prodml.testing import ManualClock

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def path(tmp_path):
    return Path(Memory.at(tmp_path / "memory", 4096).where)


@pytest.fixture
def place(tmp_path):
    def build(**changed):
        return HostPlace(tmp_path / "fleet", **({"ttl": 5.0, "patience": 1.0} | changed))

    return build


def python(code, *words, **settings):
    env = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.Popen(command, env=env, **settings)


def eventually(condition, seconds=20.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.002)


# -- one value ------------------------------------------------------------------------------


def test_a_value_is_replaced_whole_and_everybody_sees_it(path):
    one, other = Memory(path), Memory(path)
    assert one.read() == other.read() == (None, 0)
    for revision, value in enumerate([b"first", b"", b"x" * one.room, b"last"], 1):
        assert one.write(value) == revision
        assert other.read() == (value, revision)
        assert other.word[1] == revision


class Killed(BaseException):
    pass


class Dying:
    """A mapping whose owner is killed before its nth store."""

    def __init__(self, mapped, stores):
        self.mapped, self.stores = mapped, stores

    def __getitem__(self, key):
        return self.mapped[key]

    def __setitem__(self, key, value):
        if self.stores == 0:
            raise Killed
        self.stores -= 1
        self.mapped[key] = value


@pytest.mark.parametrize("stores", range(6))
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_writer_killed_between_any_two_stores_has_done_all_or_nothing(path, stores, before):
    for number in range(before):
        Memory(path).write(b"before %d" % number)
    was = Memory(path).read()
    victim = Memory(path)
    mapped, word = victim._mapped, victim.word
    dying = Dying(mapped, stores)
    victim._mapped = dying

    class Word:
        def __getitem__(self, place):
            return word[place]

        def __setitem__(self, place, value):
            dying.mapped = word
            dying[place] = value

    victim.word = Word()
    try:
        victim.write(b"a longer value than before")
    except Killed:
        assert Memory(path).read() == was
    else:
        assert stores == 5
        assert Memory(path).read() == (b"a longer value than before", before + 1)
    assert Memory(path).write(b"next") == Memory(path).read()[1]
    assert Memory(path).read()[0] == b"next"


def test_readers_of_other_processes_never_see_a_torn_value(path):
    writer = python(
        """
        import sys
        from pathlib import Path
        from prodml.serving.fleet_memory import Memory
        memory, number = Memory(Path(sys.argv[1])), 0
        while True:
            number += 1
            memory.write(bytes([number % 256]) * (number % memory.room))
        """,
        path,
    )
    memory, last, seen = Memory(path), 0, set()
    try:
        eventually(lambda: memory.read()[1] > 0)
        ends = time.monotonic() + 1.0
        while time.monotonic() < ends:
            value, revision = memory.read()
            assert value == bytes([revision % 256]) * (revision % memory.room)
            assert revision >= last
            last = revision
            seen.add(revision)
    finally:
        writer.kill()
        writer.wait()
    assert len(seen) > 5


def test_what_the_machine_tore_is_as_good_as_nothing(path):
    memory = Memory(path)
    memory.write(b"one")
    memory._mapped[4096 + 4096 + 20 : 4096 + 4096 + 21] = b"?"
    memory._mapped[4096 + 20 : 4096 + 21] = b"?"
    memory.write(b"two")
    memory._mapped[4096 + 16 : 4096 + 17] = b"?"
    assert Memory(path).read() == (None, 2)
    assert (memory.write(b"three"), memory.read()) == (3, (b"three", 3))


@pytest.mark.parametrize("content", [b"", b"something else" * 1000])
def test_a_file_of_somebody_else_is_refused(tmp_path, content):
    (tmp_path / "memory").write_bytes(content)
    with pytest.raises(CorruptRecord):
        Memory(tmp_path / "memory")


# -- one record -----------------------------------------------------------------------------


def test_a_record_is_committed_by_revision(place):
    one, other = place(), place()
    assert one.read() == (None, 0)
    assert one.commit(b"a", 0) == 1
    with pytest.raises(Conflict):
        other.commit(b"b", 0)
    assert other.read() == (b"a", 1)
    with pytest.raises(BadConfiguration, match="bytes"):
        other.commit(bytes(200_000), 1)
    assert other.read() == (b"a", 1)


def test_a_record_is_never_written_where_nobody_looks_any_more(place, tmp_path):
    one = place()
    one.commit(b"a", 0)
    shutil.rmtree(tmp_path / "fleet")
    other = place()
    other.commit(b"b", 0)
    other.commit(b"c", 1)
    with pytest.raises(Conflict):
        one.commit(b"d", 1)
    assert one.read() == (b"c", 2)


def test_many_processes_commit_and_nothing_is_lost(place, tmp_path):
    code = """
        import sys
        from pathlib import Path
        from prodml.errors import Conflict
        from prodml.serving.fleet_memory import HostPlace
        place = HostPlace(Path(sys.argv[1]), ttl=5.0, patience=30.0)
        done = 0
        while done < 100:
            value, revision = place.read()
            try:
                place.commit(b"%d" % (int(value or b"0") + 1), revision)
                done += 1
            except Conflict:
                pass
    """
    processes = [python(code, tmp_path / "fleet") for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert place().read() == (b"400", 400)


HOLDING = """
    import sys, time
    from pathlib import Path
    from prodml.serving.fleet_memory import HostPlace
    with HostPlace(Path(sys.argv[1]), ttl=5.0, patience=1.0)._locked():
        print("held", flush=True)
        time.sleep(60)
"""


def test_a_writer_that_hangs_is_waited_for_so_long_and_a_killed_one_not_at_all(place, tmp_path):
    holder = python(HOLDING, tmp_path / "fleet", stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match="lock"):
        place(patience=0.1).commit(b"a", 0)
    assert place().read() == (None, 0)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert place().commit(b"a", 0) == 1


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(place):
    one = place()
    with one._locked():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        assert place(patience=0.2).commit(b"a", 0) == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_child_closes_its_copy_of_what_its_parent_holds(place):
    one = place()
    one.commit(b"a", 0)
    handle = one._memory._handle
    one.forget()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(handle)
    with place()._locked(), pytest.raises(StoreUnavailable):
        one._patience = 0.05
        one.commit(b"b", 1)
    assert one.commit(b"b", 1) == 2


def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable):
        HostPlace(tmp_path / "file" / "fleet", ttl=5.0, patience=0.1).read()


# -- workers --------------------------------------------------------------------------------


def test_a_bell_rings_and_a_full_one_harms_nobody(place):
    one = place()
    bell = one.listen("w")
    one.nudge()
    assert os.read(bell.fileno(), 10) == b"\1"
    full = os.open(bell._path, os.O_WRONLY | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(full, bytes(65536))
    one.nudge()
    assert bell.drain()
    with pytest.raises(BlockingIOError):
        os.read(bell.fileno(), 1)
    os.close(full)
    bell.close()


def test_the_dead_are_buried_by_whoever_rings_and_the_living_are_not(place, tmp_path):
    worker = python(
        """
        import sys, time
        from pathlib import Path
        from prodml.serving import Member
        from prodml.serving.fleet_memory import HostPlace
        place = HostPlace(Path(sys.argv[1]), ttl=5.0, patience=1.0)
        bell = place.listen("victim")
        place.beat("victim", Member(version="v1"))
        print("there", flush=True)
        time.sleep(60)
        """,
        tmp_path / "fleet",
        stdout=subprocess.PIPE,
    )
    assert worker.stdout.readline() == b"there\n"
    one = place()
    bell = one.listen("me")
    one.beat("me", Member(version="v2"))
    assert {name: m.version for name, m in one.workers().items()} == {"victim": "v1", "me": "v2"}
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert set(one.workers()) == {"me"}
    one.nudge()
    left = {found.name for found in (tmp_path / "fleet").iterdir()}
    assert left == {"me.bell", "me.beat"}
    bell.close()
    one.leave("me")
    assert not list((tmp_path / "fleet").iterdir())


def test_a_silent_worker_is_not_counted(place):
    clock = ManualClock()
    one = place(clock=clock)
    bell = one.listen("me")
    one.beat("me", Member())
    assert set(one.workers()) == {"me"}
    clock.advance(6.0)
    assert one.workers() == {}
    one.beat("me", Member())
    assert set(one.workers()) == {"me"}
    bell.close()


# -- fleets on it ---------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path):
    made = []

    def build(**settings):
        server = VersionedModelServer(name="churn", events=Stream())
        for version in ("v1", "v2"):
            server.load_model(version, lambda features, version=version: version)
        server.set_default_version("v1")
        usual = {"folder": tmp_path, "worker": f"w{len(made)}", "poll": 0.05, "ttl": 20.0}
        made.append(ServingFleet(server, **(usual | {"events": Stream()} | settings)))
        return made[-1]

    yield build
    for each in made:
        each.close()


def test_workers_of_a_host_agree_by_the_bell(fleet):
    here, there = fleet(poll=60.0, ttl=100.0).start(), fleet(poll=60.0, ttl=100.0).start()
    eventually(lambda: len(here.converged()) == 2)
    assert here.promote("v2", wait=True).complete
    assert there.server.default_version == "v2"
    assert here.rollback(reason="no", wait=True).complete
    assert there.server.default_version == "v1"


def test_a_request_that_looks_is_answered_by_the_newest_table(fleet):
    here, there = fleet(), fleet()
    there.sync()
    # As if its thread had no turn.
    there._worker.started = True
    for version in ("v2", "v1", "v2"):
        here.promote(version)
        assert there.server.default_version != version
        there.look()
        assert there.server.predict({}) == version


def test_a_bell_that_was_not_rung_is_made_good_by_the_next_poll(fleet):
    here, there = fleet().start(), fleet().start()
    here._truth.nudge = lambda: None
    here.promote("v2")
    eventually(lambda: there.server.default_version == "v2")


def test_a_bell_that_is_rung_while_it_is_taken_down_is_heard(fleet):
    here, there = fleet(poll=60.0, ttl=100.0), fleet(poll=60.0, ttl=100.0)
    ears, attend = Ears([there._truth]), Ears.attend

    def attending(*args, anew=False):
        if anew:
            here.promote("v1")
        attend(ears, *args, anew=anew)

    ears.attend = attending
    there.sync()
    here.promote("v2")
    # News that nobody rang for, and more of it while the bell is renewed.
    pause = there._worker.turn(ears, [])
    assert (there.generation, pause) == (1, 0.0)
    assert there._worker.turn(ears, ears.wait(0.0)) in {0.0, 60.0}
    assert there.generation == 2
    ears.close()


def test_a_folder_that_is_cleared_away_comes_back_by_itself(fleet, tmp_path):
    here, there = fleet().start(), fleet().start()
    here.promote("v2", wait=True)
    shutil.rmtree(tmp_path / "churn")
    late = fleet()
    eventually(lambda: late.sync() and late.generation == 1)
    eventually(lambda: len(late.converged()) == 3 and late.converged().complete)
    late.promote("v1", wait=True)
    assert there.server.default_version == "v1"
    there._truth.nudge = late._truth.nudge = lambda: None
    late.promote("v2")
    there.look()
    assert there.server.default_version == "v2"


def test_whoever_closes_leaves_the_record_and_nothing_else(fleet, tmp_path):
    here, there = fleet().start(), fleet().start()
    here.promote("v2", wait=True)
    here.close()
    there.close()
    assert [path.name for path in (tmp_path / "churn").iterdir()] == ["memory"]
    assert fleet().start().server.default_version == "v2"


def test_closed_in_the_midst_of_a_look_it_follows_no_more(fleet):
    here, there = fleet(poll=60.0, ttl=100.0).start(), fleet(poll=60.0, ttl=100.0).start()
    glance, word = there._worker.glance, there._worker.glance.word
    there.close()
    # As the thread leaves it that was looking about when it was closed.
    glance.word, glance.seen = word, int(word[1])
    here.promote("v2")
    there.look()
    assert there.server.default_version == "v1"
    assert glance.word[1] == glance.seen


def test_with_a_store_the_folder_is_the_quick_way(fleet):
    store = MemoryStore()
    here, there = (fleet(store=store, poll=60.0, ttl=100.0).start() for _ in range(2))
    here.promote("v2")
    there.look()
    assert there.server.default_version == "v2"
    assert here.rollback(reason="no", wait=True).complete
    assert there.server.default_version == "v1"


def test_an_old_folder_says_nothing_to_a_store_that_can_be_asked(fleet):
    old = fleet()
    for version in ("v2", "v1", "v2"):
        old.promote(version)
    old.close()
    store = MemoryStore()
    here = fleet(store=store).start()
    there = fleet(store=store).start()
    assert (here.server.default_version, here.generation) == ("v1", 0)
    here.look()
    here.sync()
    assert (here.server.default_version, here.generation) == ("v1", 0)
    here.promote("v1", reason="begun anew")
    there.look()
    there.sync()
    assert there.history[-1].reason == "begun anew"
    assert (there.server.default_version, there.generation) == ("v1", 1)


def test_a_folder_of_another_birth_is_not_believed_but_overwritten(fleet, tmp_path):
    store, old = MemoryStore(), fleet(folder=tmp_path / "elsewhere")
    here = fleet(store=store)
    here.promote("v1", reason="new")
    for version in ("v2", "v1", "v2"):
        old.promote(version, reason="old")
    host = here._worker._host
    host.commit(old._truth.read()[0], host.read()[1])
    here._worker.started = True
    here.look()
    assert (here.server.default_version, here.generation) == ("v1", 1)
    here.sync()
    assert here._worker._host.read()[0] == store.read("prodml:fleet:churn")[0]


class Away(MemoryStore):
    away = False

    def read(self, key):
        if self.away:
            raise ConnectionError("no route")
        return super().read(key)


def test_without_its_store_a_late_joiner_has_the_table_of_its_host(fleet):
    store = Away()
    fleet(store=store).start().promote("v2")
    store.away = True
    late = fleet(store=store).start()
    assert late.snapshot().condition == "cut off"
    assert (late.server.default_version, late.generation) == ("v2", 1)
    store.away = False
    eventually(lambda: late.snapshot().condition == "connected")
    assert late.generation == 1


def test_two_fleets_in_one_folder_leave_each_other_in_peace(fleet, monkeypatch):
    stores = MemoryStore(), MemoryStore()
    for store, last in zip(stores, ("v2", "v1"), strict=True):
        before = fleet(store=store, folder=None)
        before.promote("v2")
        before.promote(last)
        before.close()
    looks = []
    read = MemoryStore.read
    monkeypatch.setattr(MemoryStore, "read", lambda s, key: looks.append(key) or read(s, key))
    here, there = (fleet(store=store, poll=0.2).start() for store in stores)
    time.sleep(1.0)
    assert here.server.default_version == "v2"
    assert there.server.default_version == "v1"
    # Five polls each, and not one after the other as fast as the machine can.
    assert looks.count("prodml:fleet:churn") < 40


def test_a_long_reason_does_not_make_a_worker_invisible(fleet):
    def loader(version):
        raise ValueError("\N{FACE WITH TEARS OF JOY}" * 5000)

    here, there = fleet(), fleet(loader=loader)
    there.server.unload_model("v2")
    with here, there:
        agreement = here.promote("v2", wait=True)
        assert not agreement.complete
        assert agreement.behind == ("w1",)
        assert agreement.cannot["w1"].startswith(
            "not loaded: v2: ValueError: \N{FACE WITH TEARS OF JOY}"
        )


def test_a_link_that_leads_nowhere_is_unavailable(tmp_path):
    (tmp_path / "memory").symlink_to(tmp_path / "nowhere")
    place = HostPlace(tmp_path, ttl=1.0, patience=0.1)
    with pytest.raises(StoreUnavailable, match="memory is unavailable: it is there and is not"):
        place.read()
    assert [path.name for path in tmp_path.iterdir()] == ["memory"]


# -- which record holds ---------------------------------------------------------------------


@st.composite
def chains(draw):
    """Records of up to three births, some of them twins of the same generation."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        last = Record.first({})
        for number in range(draw(st.integers(1, 4))):
            for _ in range(draw(st.integers(1, 2))):
                at = float(draw(st.integers(0, 2)))
                by = f"who {number}"
                found.append(last.next({}, at=at, by=by, action="promoted", reason=""))
            last = found[-1]
    return found


@settings(max_examples=200, deadline=None)
@given(chains(), st.data())
def test_what_holds_is_never_older_than_what_was_heard(records, data):
    pick = st.sampled_from([*records, None])
    heard, found = data.draw(pick), data.draw(pick)
    held = reconciled(heard, found)
    if held is None:
        assert heard is found is None
        return
    assert heard is None or held == heard or held.newer(heard)
    if found is not None:
        assert held.birth == found.birth or held.newer(found)
    # Whoever looks again finds what it has told.
    assert reconciled(held, held) == held
    assert Record.decoded(held.encoded(), "here") == held


@settings(max_examples=100, deadline=None)
@given(chains(), st.permutations(range(4)))
def test_workers_in_any_order_come_to_hold_the_same(records, order):
    truth, heard = None, [records[number % len(records)] for number in range(4)]
    for _ in range(6):
        for number in order:
            heard[number] = truth = reconciled(heard[number], truth)
    assert all(record == truth for record in heard)


def test_a_worker_that_writes_all_the_time_is_seen_at_every_look(tmp_path):
    memory, over = Memory.at(tmp_path / "a.beat", 4096), threading.Event()
    memory.write(b"first")

    def write():
        number = 0
        while not over.is_set():
            number += 1
            memory.write(b"%d" % number * 200)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [_glimpse(tmp_path / "a.beat") for _ in range(3000)]
    finally:
        over.set()
        writer.join()
    assert None not in seen
    assert _glimpse(tmp_path / "b.beat") is None


def test_a_worker_that_makes_itself_a_new_bell_is_not_buried(tmp_path, monkeypatch):
    from prodml.serving import fleet_memory

    reach, places = fleet_memory._reach, []

    def meanwhile(bell):
        # Between the listing of the folder and the look at the bell.
        if not places:
            places.append(here.server)
            bell.rename(bell.with_name("aside"))
            try:
                return reach(bell)
            finally:
                bell.with_name("aside").rename(bell)
        return reach(bell)

    server = VersionedModelServer(name="m", events=Stream())
    server.load_model("v1", abs)
    server.set_default_version("v1")
    here = ServingFleet(server, worker="a", folder=tmp_path).start()
    try:
        monkeypatch.setattr(fleet_memory, "_reach", meanwhile)
        for _ in range(3):
            assert list(here.converged()) == ["a"]
        assert places
    finally:
        here.close()
