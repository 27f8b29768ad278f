"""What a fleet promises, one worker after the other, by hand."""

import gc
import os
import threading
import time

import pytest

from prodml.clock import SYSTEM_CLOCK
from prodml.errors import (
    BadConfiguration,
    Conflict,
    CorruptRecord,
    StoreUnavailable,
    UnknownVersion,
)
from prodml.events import Event, FleetCutOff, FleetReconnected, RoutingRefused, Stream
from prodml.serving import Agreement, FleetSnapshot, Member, ServingFleet, VersionedModelServer
from prodml.stores import MemoryStore, SQLiteStore
from prodml.testing import ManualClock

KEY = "prodml:fleet:churn"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(clock):
    return MemoryStore(clock=clock)


@pytest.fixture
def fleet(clock, store):
    """Build workers; all of them are closed in the end."""
    made = []

    def build(*versions, where=None, **settings):
        server = VersionedModelServer(name="churn", events=Stream(), clock=clock)
        for version in versions or ("v1", "v2"):
            server.load_model(version, lambda features, version=version: version)
        server.set_default_version("v1")
        usual = {"store": where or store, "worker": f"w{len(made)}", "clock": clock}
        made.append(ServingFleet(server, **(usual | {"events": Stream()} | settings)))
        return made[-1]

    yield build
    for each in made:
        each.close()


def heard(fleet):
    facts = []
    fleet.events.subscribe(Event, facts.append)
    return facts


def eventually(condition, seconds=20.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.002)


# -- commands -------------------------------------------------------------------------------


def test_a_promotion_reaches_everybody_and_names_who_and_why(fleet):
    here, there = fleet(), fleet()
    here.promote("v2", reason="better on last week", by="ann")
    assert here.server.predict({}) == "v2"
    assert there.server.predict({}) == "v1"
    there.sync()
    assert there.server.predict({}) == "v2"
    said = "generation 1, promoted by ann: better on last week"
    assert [str(change) for change in there.history] == [said]
    assert [f.server.history[-1].reason for f in (here, there)] == [said, said]


def test_every_part_of_a_route_reaches_everybody(fleet):
    here, there = fleet("v1", "v2", "v3"), fleet("v1", "v2", "v3")
    here.route(
        canary={"v2": 0.25},
        shadow=["v3"],
        salt="s",
        overrides={"x-arm": {"new": "v2"}},
        cohorts={"staff": ("v2", ["ann"])},
        variants={"B": ("v3", 0.1)},
    )
    there.sync()
    assert there.server.routing() == here.server.routing()
    assert there.server.routing()["canary"] == {"v2": 0.25}
    assert there.server.routing()["default"] == "v1"


def test_a_rollback_goes_back_everywhere_and_a_release_lets_it_serve_again(fleet):
    here, there = fleet(), fleet()
    here.promote("v2")
    there.sync()
    there.rollback(reason="complaints", by="bob")
    here.sync()
    assert here.server.predict({}) == "v1"
    assert dict(here.server.quarantined) == {"v2": "complaints"}
    with pytest.raises(BadConfiguration, match="quarantine"):
        here.promote("v2")
    assert here.generation == 2
    here.release("v2", reason="mended")
    there.promote("v2")
    assert [change.action for change in there.history] == [
        *("promoted", "rolled back", "released", "promoted")
    ]
    assert [change.generation for change in there.history] == [1, 2, 3, 4]


def test_a_change_of_many_commands_is_one_generation(fleet):
    here, there = fleet("v1", "v2", "v3"), fleet("v1", "v2", "v3")

    def edit(server):
        server.set_default_version("v2")
        server.route(canary={"v3": 0.5})

    here.change(edit, reason="both")
    there.sync()
    assert (there.generation, there.server.default_version) == (1, "v2")
    assert dict(there.server.canary) == {"v3": 0.5}


def test_an_edit_that_fails_changes_nothing(fleet, store):
    here = fleet()

    def edit(server):
        server.set_default_version("v2")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        here.change(edit)
    assert store.read(KEY) == (None, 0)
    assert (here.generation, here.server.default_version) == (0, "v1")


@pytest.mark.parametrize(
    "command",
    [
        lambda fleet: fleet.promote("v9"),
        lambda fleet: fleet.route(canary={"v9": 0.5}),
        lambda fleet: fleet.rollback("v9"),
    ],
)
def test_a_version_that_is_not_here_is_refused_before_anything_is_written(fleet, store, command):
    here = fleet()
    with pytest.raises(UnknownVersion):
        command(here)
    assert store.read(KEY) == (None, 0)


def test_a_command_that_changes_nothing_writes_nothing(fleet, store):
    here = fleet()
    here.promote("v2")
    before = store.read(KEY)
    assert here.promote("v2").generation == 1
    assert store.read(KEY) == before


def test_the_first_command_of_a_fleet_is_written_even_if_it_changes_nothing(fleet):
    here, there = fleet(), fleet()
    here.promote("v1", reason="as it is")
    there.sync()
    assert there.generation == 1


def test_a_promotion_expects_what_the_caller_has_seen(fleet):
    here, there = fleet(), fleet()
    seen = here.generation
    there.promote("v2")
    with pytest.raises(Conflict):
        here.promote("v1", expect=seen)
    assert there.server.default_version == "v2"
    here.promote("v1", expect=1)
    assert here.generation == 2


def test_two_who_promote_at_once_come_one_after_the_other(fleet, store):
    here, there = fleet(), fleet()
    commit, raced = store.commit, []

    def racing(key, value, revision, **settings):
        if key == KEY and not raced:
            raced.append(there)
            there.promote("v1", reason="faster")
        return commit(key, value, revision, **settings)

    store.commit = racing
    # The other one waits for the lease that this one holds; it is the one who goes first.
    store.acquire, acquire = (lambda name, owner, ttl: acquire(name, "same", ttl)), store.acquire
    here.promote("v2", reason="slower")
    assert [change.reason for change in here.history] == ["faster", "slower"]
    assert here.server.default_version == "v2"


def test_a_lease_that_somebody_died_with_delays_the_next_command_only(fleet, store, clock):
    here = fleet(patience=2.0)
    store.acquire(KEY, "dead", 1.5)
    began = clock.monotonic()
    here.promote("v2")
    assert 1.0 < clock.monotonic() - began < 2.0


def test_a_lease_that_is_never_given_back_is_a_conflict(fleet, store):
    here = fleet()
    store.acquire(KEY, "stubborn", 60.0)
    with pytest.raises(Conflict):
        here.promote("v2")
    assert (store.read(KEY), here.generation) == ((None, 0), 0)


# -- workers that cannot --------------------------------------------------------------------


def test_a_worker_without_the_version_keeps_its_table_whole_and_says_so(fleet):
    here, there = fleet("v1", "v2", "v3"), fleet("v1", "v2")
    facts = heard(there)
    here.route(canary={"v2": 0.5}, reason="before")
    there.sync()
    before = there.server.routing()

    def edit(server):
        server.set_default_version("v2")
        server.route(canary={"v3": 0.5})

    agreement = here.change(edit, wait=True, timeout=0.0)
    assert not agreement.complete
    assert agreement.behind == ("w1",)
    there.sync()
    there.sync()
    agreement = here.converged()
    assert agreement["w1"] == Member(
        generation=1,
        heard=2,
        version="v1",
        cannot="not loaded: v3",
        birth=agreement["w0"].birth,
    )
    assert agreement.cannot == {"w1": "not loaded: v3"}
    assert not agreement.complete
    assert agreement.settled
    assert there.server.routing() == before
    refused = [fact for fact in facts if isinstance(fact, RoutingRefused)]
    assert [(fact.generation, fact.reason) for fact in refused] == [(2, "not loaded: v3")]
    there.server.load_model("v3", abs)
    there.sync()
    assert here.converged().complete
    assert there.server.routing() == here.server.routing()


def test_a_loader_brings_what_is_not_there_and_the_worker_goes_on_meanwhile(fleet):
    begin, loaded = threading.Event(), []

    def loader(version):
        loaded.append(version)
        begin.wait(20)
        return lambda features: version

    here, there = fleet("v1", "v2"), fleet("v1", loader=loader)
    here.promote("v2")
    there.sync()
    assert there.snapshot().member == Member(
        generation=0, heard=1, version="v1", cannot="loading: v2", loading=True
    )
    assert not here.converged().settled
    assert there.server.predict({}) == "v1"
    begin.set()
    eventually(lambda: there.sync() and here.converged().complete)
    assert there.server.predict({}) == "v2"
    assert loaded == ["v2"]


def test_a_loader_may_load_into_the_server_itself(fleet):
    here = fleet("v1", "v2")
    there = fleet("v1", loader=lambda version: there.server.load_model(version, abs, warm_up=[1]))
    here.promote("v2")
    eventually(lambda: there.sync() and there.generation == 1)


def test_with_a_loader_one_may_promote_what_is_nowhere_yet(fleet):
    here = fleet("v1", loader=lambda version: lambda features: version)
    assert here.promote("v2").generation == 1
    eventually(lambda: here.sync() and here.server.predict({}) == "v2")


def test_a_loader_that_fails_is_tried_again_later_and_later(fleet, clock):
    calls = []

    def loader(version):
        calls.append(clock.monotonic())
        if len(calls) < 4:
            raise OSError("no such bucket")
        return abs

    here, there = fleet("v1", "v2", ttl=100.0), fleet("v1", loader=loader, ttl=100.0)
    began = clock.monotonic()
    here.promote("v2")
    for times in range(1, 4):
        eventually(lambda: there.sync() and there.snapshot().member.cannot.endswith("bucket"))
        clock.advance(0.75 * 2.0 ** (times - 1))
        there.sync()
        assert len(calls) == times
        assert here.converged().cannot == {"w1": "not loaded: v2: OSError: no such bucket"}
        assert here.converged().settled
        clock.advance(0.25 * 2.0 ** (times - 1))
    eventually(lambda: there.sync() and there.generation == 1)
    assert [round(call - began) for call in calls] == [0, 1, 3, 7]


def test_a_loader_that_wants_to_exit_has_failed(fleet):
    calls = []

    def loader(version):
        calls.append(version)
        raise SystemExit("no such bucket")

    here = fleet()
    there = fleet("v1", loader=loader)
    there.start()
    here.promote("v2")
    there.sync()
    eventually(
        lambda: there.snapshot().member.cannot == "not loaded: v2: SystemExit: no such bucket"
    )
    assert not there.snapshot().member.loading
    assert calls == ["v2"]


def test_a_loader_that_brings_nothing_is_told_so(fleet):
    here, there = fleet("v1", "v2"), fleet("v1", loader=lambda version: None)
    here.promote("v2")
    eventually(lambda: there.sync() and "UnknownVersion" in there.snapshot().member.cannot)


def test_a_table_that_makes_no_sense_here_is_refused_whole(fleet, store):
    here, there = fleet(), fleet()
    here.promote("v2")
    value, revision = store.read(KEY)
    store.commit(KEY, value.replace(b'"canary":{}', b'"canary":{"v1":7}'), revision)
    there.sync()
    assert there.server.default_version == "v1"
    assert there.snapshot().member.cannot.startswith("BadConfiguration")


def test_what_a_process_changes_alone_is_seen_and_left_in_peace(fleet):
    here, there = fleet(), fleet()
    here.promote("v2")
    there.sync()
    there.server.rollback(reason="the store is away")
    there.sync()
    assert there.server.default_version == "v1"
    assert here.converged().cannot == {"w1": "changed in this process alone"}
    here.promote("v1")
    there.sync()
    assert here.converged().complete


# -- agreement ------------------------------------------------------------------------------


def test_nobody_is_no_agreement():
    assert not Agreement(generation=1, version="v1", workers={}).complete
    assert not Agreement(generation=1, version="v1", workers={}).settled


def test_waiting_returns_when_all_have_agreed(fleet, clock):
    here, there = fleet(), fleet()
    there.sync()
    sleep, syncs = clock.sleep, []

    def sleeping(seconds):
        sleep(seconds)
        syncs.append(there.sync())

    clock.sleep = sleeping
    agreement = here.promote("v2", wait=True, timeout=5.0)
    assert agreement.complete
    assert set(agreement) == {"w0", "w1"}
    assert len(agreement) == len(syncs) + 1 == 2


def test_waiting_ends_at_once_when_the_rest_has_said_no(fleet, clock):
    here, there = fleet("v1", "v2"), fleet("v1")
    there.sync()
    sleep = clock.sleep
    clock.sleep = lambda seconds: (sleep(seconds), there.sync())
    began = clock.monotonic()
    agreement = here.promote("v2", wait=True, timeout=60.0)
    assert agreement.cannot == {"w1": "not loaded: v2"}
    assert clock.monotonic() - began < 1.0


def test_waiting_ends_with_the_timeout_and_names_those_behind(fleet, clock):
    here, there = fleet(), fleet(ttl=100.0)
    there.sync()
    began = clock.monotonic()
    agreement = here.promote("v2", wait=True, timeout=2.0)
    assert clock.monotonic() - began == pytest.approx(2.0, abs=0.1)
    assert agreement.behind == ("w1",)
    assert agreement.cannot == {}


def test_a_silent_worker_is_not_counted_and_comes_back(fleet, clock):
    here, there = fleet(), fleet()
    there.sync()
    clock.advance(6.0)
    assert here.promote("v2", wait=True).complete
    assert set(here.converged()) == {"w0"}
    there.sync()
    assert set(here.converged()) == {"w0", "w1"}
    assert here.converged().complete


def test_names_of_the_dead_do_not_pile_up(fleet, store, clock):
    for number in range(20):
        fleet(worker=f"old-{number}").sync()
    clock.advance(6.0)
    fleet(worker="new").sync()
    assert store.read(f"{KEY}:workers")[0] == b'["new"]'


def test_whoever_closes_is_gone_at_once(fleet):
    here, there = fleet(), fleet()
    there.sync()
    here.sync()
    there.close()
    assert set(here.converged()) == {"w0"}
    assert there.snapshot().condition == "closed"
    there.sync()
    assert set(here.converged()) == {"w0"}


def test_a_promotion_that_is_lost_with_the_store_is_a_conflict(fleet, store, clock):
    old, new = fleet(), fleet()
    old.promote("v2", reason="old")
    old.promote("v1", reason="old")
    old.promote("v2", reason="old")
    value, _ = store.read(KEY)
    del store._states[KEY]
    sleep = clock.sleep

    def restored(seconds):
        sleep(seconds)
        store._states[KEY] = (value, 1)

    clock.sleep = restored
    with pytest.raises(Conflict):
        new.promote("v1", reason="new", wait=True)


# -- who joins, who gives commands only -----------------------------------------------------


def test_a_late_joiner_has_the_table_before_it_has_begun(fleet):
    fleet().promote("v2")
    with fleet() as late:
        assert late.server.predict({}) == "v2"
        assert late.snapshot().condition == "connected"


def test_a_process_without_a_server_gives_commands_and_is_no_worker(fleet, store, clock):
    boss = ServingFleet(name="churn", store=store, clock=clock)
    worker = fleet()
    worker.sync()
    boss.promote("v2")
    worker.sync()
    agreement = boss.converged()
    assert (agreement.complete, list(agreement)) == (True, ["w0"])
    boss.rollback(reason="no")
    worker.sync()
    assert worker.server.default_version == "v1"


def test_a_process_without_a_server_can_roll_back_what_it_has_not_promoted(fleet, store, clock):
    worker = fleet()
    worker.promote("v2")
    ServingFleet(name="churn", store=store, clock=clock).rollback(reason="no")
    worker.sync()
    assert worker.server.default_version == "v1"


def test_fleets_of_different_names_do_not_meet(fleet):
    one, other = fleet(), fleet(name="fraud")
    one.promote("v2")
    other.sync()
    assert other.generation == 0


# -- failing static -------------------------------------------------------------------------


class Down:
    """A store that is away."""

    def read(self, *args, **settings):
        raise ConnectionError("no route")

    commit = acquire = renew = release = get = set = delete = read


def test_without_the_store_a_worker_serves_on_and_commands_fail_without_effect(fleet, clock):
    here = fleet(where=Down())
    facts = heard(here)
    with here:
        assert here.server.predict({}) == "v1"
        before = here.server.routing()
        for command in (lambda: here.promote("v2"), lambda: here.rollback(), here.converged):
            with pytest.raises(StoreUnavailable, match="no route"):
                command()
        assert here.server.routing() == before
        assert here.snapshot().condition == "cut off"
        assert "no route" in here.snapshot().trouble
    assert [type(fact) for fact in facts] == [FleetCutOff]


def test_a_store_that_comes_back_is_heard_and_told_once(fleet, store):
    here = fleet()
    facts = heard(here)
    here.promote("v2")
    here.sync()
    read = store.read
    store.read = Down().read
    for _ in range(3):
        assert not here.sync()
    assert here.snapshot().condition == "cut off"
    store.read = read
    for _ in range(3):
        assert here.sync()
    kinds = [type(fact) for fact in facts]
    assert kinds == [FleetCutOff, FleetReconnected]


def test_a_nudge_is_tried_again_and_its_failure_is_no_failure_of_the_command(fleet, clock):
    class Ringing(MemoryStore):
        rung = 0

        def nudge(self, channel):
            assert channel == KEY
            Ringing.rung += 1
            if Ringing.rung != 2:
                raise ConnectionError("late")

        def listen(self, channel):
            raise ConnectionError("late")

    here = fleet(where=Ringing(clock=clock))
    here.promote("v2")
    assert Ringing.rung == 2
    here.promote("v1")
    assert Ringing.rung == 5
    assert here.server.default_version == "v1"


class Deaf(MemoryStore):
    """A store whose ears are somebody else's, and broken."""

    def __init__(self):
        super().__init__()
        self.ears = []

    def nudge(self, channel):
        for ear in self.ears:
            os.write(ear.writing, b"!")

    def listen(self, channel):
        raise RuntimeError("no subscriptions today")


class Hears(Deaf):
    def listen(self, channel):
        self.ears.append(Broken())
        return self.ears[-1]


class Broken:
    def __init__(self):
        self.reading, self.writing = os.pipe()

    def fileno(self):
        return self.reading

    def drain(self):
        raise RuntimeError("a protocol error")

    def alive(self):
        return True

    def close(self, *, ours=True):
        raise RuntimeError("closed by somebody else")


@pytest.mark.parametrize("kind", [Deaf, Hears])
def test_a_store_with_broken_ears_is_polled(fleet, kind):
    store = kind()
    workers = [fleet(where=store, poll=0.05, clock=SYSTEM_CLOCK).start() for _ in range(2)]
    for version in ("v2", "v1"):
        workers[0].promote(version)
        eventually(lambda wanted=version: workers[1].server.default_version == wanted)


def test_a_store_that_has_forgotten_is_told_again(fleet, store):
    here, there = fleet(), fleet()
    here.promote("v2")
    here.promote("v1")
    store._states.clear()
    there.sync()
    here.sync()
    there.sync()
    assert (there.generation, there.history[-1].generation) == (2, 2)


def test_a_store_that_was_restored_from_an_old_copy_is_told_what_came_after(fleet, store):
    here = fleet()
    here.promote("v2")
    old = store._states[KEY]
    here.promote("v1")
    store._states[KEY] = old
    late = fleet()
    here.sync()
    late.sync()
    assert (late.generation, late.server.default_version) == (2, "v1")


def test_a_worker_from_earlier_days_does_not_overrule_a_fleet_that_began_anew(fleet, store):
    old = fleet()
    for version in ("v2", "v1", "v2"):
        old.promote(version)
    store._states.clear()
    new, other = fleet(), fleet()
    new.promote("v1", reason="begun anew")
    other.sync()
    old.sync()
    assert old.server.default_version == "v1"
    for each in (new, other):
        each.sync()
        assert each.server.default_version == "v1"
        assert each.generation == old.generation == 4
    assert new.converged().complete


def test_a_foreign_value_is_left_alone_and_refuses_commands(fleet, store):
    here = fleet()
    here.promote("v2")
    store._states[KEY] = (b'{"shape": 99}', 7)
    here.sync()
    assert here.server.default_version == "v2"
    with pytest.raises(CorruptRecord):
        here.promote("v1")
    assert store.read(KEY) == (b'{"shape": 99}', 7)


@pytest.mark.parametrize("value", [b"\xff", b"[]", b"7", b'{"shape":1}', b'{"shape":1,"birth":2}'])
def test_garbage_is_no_record(fleet, store, value):
    here = fleet()
    store._states[KEY] = (value, 1)
    here.sync()
    assert "CorruptRecord" in here.snapshot().trouble
    assert here.server.default_version == "v1"


def test_garbage_among_the_workers_harms_nobody(fleet, store):
    here, there = fleet(), fleet()
    here.sync()
    store._states[f"{KEY}:workers"] = (b'{"no": "list"}', 3)
    there.promote("v2")
    here.sync()
    store.set(f"{KEY}:worker:w0", b"garbage")
    assert set(there.converged()) == {"w1"}
    here.sync()
    assert there.converged().complete


# -- threads, forks, settings ---------------------------------------------------------------


def test_nothing_is_asked_before_the_first_use(fleet):
    class Watched(MemoryStore):
        asked = 0

        def read(self, key):
            Watched.asked += 1
            return super().read(key)

    here = fleet(where=Watched())
    assert here.snapshot() == FleetSnapshot(
        worker="w0", condition="not started", member=Member(version="v1")
    )
    threads = threading.active_count()
    time.sleep(0.02)
    assert (Watched.asked, threading.active_count()) == (0, threads)
    here.look()
    eventually(lambda: Watched.asked and here.snapshot().condition == "connected")


def test_a_thread_follows_by_itself_and_ends_with_its_fleet(tmp_path):
    def made():
        server = VersionedModelServer(name="churn", events=Stream())
        for version in ("v1", "v2"):
            server.load_model(version, lambda features, version=version: version)
        server.set_default_version("v1")
        store = SQLiteStore(str(tmp_path / "fleet.db"))
        return ServingFleet(server, store=store, poll=0.02, ttl=5.0, events=Stream())

    here, there = made().start(), made().start()
    assert here.promote("v2", wait=True).complete
    assert there.server.default_version == "v2"
    threads = [thread for thread in threading.enumerate() if thread.name == "prodml-fleet"]
    gc.disable()
    try:
        del there
        eventually(lambda: sum(thread.is_alive() for thread in threads) == len(threads) - 1)
    finally:
        gc.enable()
    here.close()
    here.close()


def test_a_look_never_raises_and_costs_no_thread_twice(fleet):
    here = fleet(where=Down())
    for _ in range(3):
        here.look()
    assert sum(thread.name == "prodml-fleet" for thread in threading.enumerate()) == 1


def test_a_listener_may_command_the_fleet(fleet):
    here = fleet()
    here.server.events.subscribe(Event, lambda fact: here.promote("v1", reason="I know better"))
    here.promote("v2")
    assert (here.server.default_version, here.generation) == ("v1", 2)


def test_a_store_that_hangs_hangs_neither_requests_nor_whoever_closes(fleet):
    hanging, go = threading.Event(), threading.Event()

    class Hanging(MemoryStore):
        def read(self, key):
            if here._worker.started:
                hanging.set()
                go.wait(30)
            return super().read(key)

    here = fleet(where=Hanging())
    here.start()
    assert hanging.wait(20)
    began = time.monotonic()
    here.look()
    assert here.server.predict({}) == "v1"
    assert time.monotonic() - began < 1.0
    here.close()
    assert time.monotonic() - began < 10.0
    go.set()


def test_what_is_closed_stays_closed(fleet):
    here = fleet()
    with here:
        pass
    here.look()
    with pytest.raises(RuntimeError, match="closed"):
        here.start()


def test_a_child_takes_part_by_itself_under_a_name_of_its_own(tmp_path):
    server = VersionedModelServer(name="churn", events=Stream())
    for version in ("v1", "v2"):
        server.load_model(version, lambda features, version=version: version)
    server.set_default_version("v1")
    settings = {"folder": tmp_path, "poll": 0.05, "ttl": 20.0, "events": Stream()}
    parent = ServingFleet(server, worker="parent", **settings).start()
    go, going = os.pipe()
    child = os.fork()
    if child == 0:
        # Only the number of what went wrong leaves this process.
        code = 1
        try:
            os.read(go, 1)
            code = 2
            assert server.predict({}) == "v1"
            code = 3
            parent.look()
            eventually(lambda: server.predict({}) == "v2")
            code = 4
            both = {"parent", f"parent-{os.getpid()}"}
            eventually(lambda: set(parent.converged()) == both)
            code = 5
            eventually(lambda: parent.converged().complete)
            parent.close()
            code = 0
        finally:
            os._exit(code)
    parent.promote("v2")
    os.write(going, b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(go)
    os.close(going)
    eventually(lambda: set(parent.converged()) == {"parent"})
    parent.promote("v1", wait=True)
    parent.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "needs a place"),
        ({"store": "memory://", "name": "a b"}, "name="),
        ({"store": "memory://", "worker": "a/b"}, "worker="),
        ({"folder": "/dev/shm/app", "name": ".."}, "not dots alone"),
        ({"store": "memory://", "poll": 0.0}, "poll="),
        ({"store": "memory://", "patience": -1.0}, "patience="),
        ({"store": "memory://", "ttl": 1.0}, "ttl="),
        ({"store": "memory://", "poll": float("nan")}, "poll="),
        ({"store": 7}, "no store is registered"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(BadConfiguration, match=told):
        ServingFleet(**({"name": "churn"} | settings))


def test_a_store_without_heartbeats_is_refused():
    class Bare:
        def read(self, key): ...

        commit = acquire = renew = release = read

    with pytest.raises(BadConfiguration, match="heartbeats"):
        ServingFleet(name="churn", store=Bare())


def test_a_store_that_cannot_refuse_a_late_write_is_refused():
    class Simple(MemoryStore):
        def commit(self, key, value, revision):
            raise AssertionError

    with pytest.raises(BadConfiguration, match="lease="):
        ServingFleet(name="churn", store=Simple())


def test_a_store_that_is_locked_for_too_long_is_unavailable(tmp_path):
    here = ServingFleet(name="churn", folder=tmp_path, patience=0.05)
    other = here._truth
    with other._locked(), pytest.raises(StoreUnavailable, match="lock"):
        ServingFleet(name="churn", folder=tmp_path, patience=0.05).promote("v1")
    here.promote("v1")
