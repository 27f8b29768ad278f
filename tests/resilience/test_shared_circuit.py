"""Workers that share a circuit, each step of the exchange made by hand."""

import gc
import json
import os
import threading
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prodml._settings import settings_of
from prodml.errors import BadConfiguration, CircuitOpen, Conflict, StoreUnavailable
from prodml.events import CircuitClosed, CircuitOpened, Stream
from prodml.resilience import CircuitBreaker, CircuitState, SharedCircuit
from prodml.stores import MemoryStore
from prodml.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
KEY = "prodml:circuit:dependency"


class Counting(MemoryStore):
    """A store in memory that counts its commands and may be cut off."""

    def __init__(self, clock):
        super().__init__(clock=clock)
        self.commands, self.down = 0, False

    def _reached(self):
        self.commands += 1
        if self.down:
            raise StoreUnavailable("memory", "cut off")

    def read(self, key):
        self._reached()
        return super().read(key)

    def commit(self, key, value, revision, **others):
        self._reached()
        return super().commit(key, value, revision, **others)

    def acquire(self, name, owner, ttl):
        self._reached()
        return super().acquire(name, owner, ttl)

    def renew(self, lease, ttl):
        self._reached()
        return super().renew(lease, ttl)


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    """No thread of its own: the tests say when a worker looks into the store."""
    monkeypatch.setattr(SharedCircuit, "_work", lambda self: None)


@pytest.fixture
def store(clock):
    return Counting(clock)


@pytest.fixture
def worker(clock, events, store):
    def build(name="dependency", **changed):
        usual = {"failure_threshold": 1, "success_threshold": 1, "reset_timeout": 10.0}
        shared = {"store": store, "sync_interval": 0.5, "clock": clock, "events": events}
        return CircuitBreaker(name, **(shared | usual | changed))

    return build


def fail(breaker):
    def down():
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        breaker.call(down)


def sync(*workers, rounds=2):
    for _ in range(rounds):
        for worker in workers:
            worker.sync()


def opened(clock, *workers):
    fail(workers[0])
    sync(*workers)
    assert {worker.state for worker in workers} == {OPEN}


def due(clock, *workers, seconds=10.0):
    """Let the open time end; every worker has calls waiting, the first looks first."""
    clock.advance(seconds)
    assert admitted(*workers) == []
    sync(*workers)


def admitted(*workers):
    """Those of the workers that let a call through now."""
    tokens = []
    for number, worker in enumerate(workers):
        try:
            tokens.append((number, worker.enter()))
        except CircuitOpen:
            continue
    return tokens


def test_what_one_has_found_out_the_others_know(worker, clock):
    here, there = worker(), worker()
    fail(here)
    assert there.state is CLOSED
    clock.advance(3.0)
    sync(here, there)
    shot = there.snapshot()
    assert (shot.state, shot.reason) == (OPEN, here.snapshot().reason)
    assert shot.retry_after == here.snapshot().retry_after == pytest.approx(7.0)


def test_breakers_of_another_name_are_not_concerned(worker, clock):
    here, other = worker(), worker("other")
    opened(clock, here)
    sync(other)
    assert other.state is CLOSED


def test_calls_give_no_command_to_the_store(worker, store, clock):
    breaker = worker()
    for _ in range(100):
        breaker.call(int)
    fail(breaker)
    for _ in range(100):
        with pytest.raises(CircuitOpen):
            breaker.call(int)
    clock.advance(10.0)
    for _ in range(100):
        with pytest.raises(CircuitOpen):
            breaker.call(int)
    assert store.commands == 0


def test_after_the_open_time_one_worker_makes_the_trial_calls(worker, clock):
    workers = [worker() for _ in range(4)]
    opened(clock, *workers)
    assert admitted(*workers) == []
    clock.advance(10.0)
    sync(*workers)
    assert len(admitted(*workers)) == 1
    assert admitted(*workers) == []


def test_the_success_of_one_closes_all(worker, clock, facts):
    here, there = worker(), worker()
    opened(clock, here, there)
    clock.advance(10.0)
    with pytest.raises(CircuitOpen):
        there.call(int)
    sync(here, there)
    there.call(int)
    assert (there.state, here.state) == (CLOSED, OPEN)
    sync(there, here)
    assert here.state is CLOSED
    assert here.call(int) == 0
    assert len(facts.of(CircuitOpened)) == len(facts.of(CircuitClosed)) == 2


def test_the_failure_of_a_trial_keeps_all_open(worker, clock, store):
    here, there = worker(), worker()
    opened(clock, here, there)
    due(clock, here, there)
    ((number, token),) = admitted(here, there)
    (here, there)[number].fail(token, ConnectionError())
    sync(here, there)
    assert (here.state, there.state) == (OPEN, OPEN)
    clock.advance(9.9)
    sync(here, there)
    assert admitted(here, there) == []
    due(clock, here, there, seconds=0.2)
    assert len(admitted(here, there)) == 1


def test_several_successes_are_asked_for_under_one_lease(worker, clock):
    here, there = worker(success_threshold=3), worker(success_threshold=3)
    opened(clock, here, there)
    due(clock, here, there)
    for _ in range(3):
        clock.advance(6.0)
        ((number, token),) = admitted(here, there)
        assert number == 0
        here.leave(token, None)
        sync(here, there)
    assert (here.state, there.state) == (CLOSED, CLOSED)


def test_a_worker_that_died_with_the_trial_call_wedges_nobody(worker, clock):
    here, there = worker(), worker()
    opened(clock, here, there)
    due(clock, here, there)
    ((number, _),) = admitted(here, there)
    assert number == 0
    clock.advance(9.9)
    sync(there)
    assert admitted(there) == []
    due(clock, there, seconds=0.2)
    assert len(admitted(there)) == 1


def test_a_trial_call_that_hangs_loses_the_lease_and_changes_nothing_later(worker, clock):
    here, there = worker(), worker()
    opened(clock, here, there)
    due(clock, here, there)
    ((_, hung),) = admitted(here)
    tokens = []
    for _ in range(21):
        assert tokens == []
        clock.advance(0.5)
        here.sync()
        there.sync()
        tokens += admitted(there)
    assert len(tokens) == 1
    here.leave(hung, None)
    sync(here, there)
    assert (here.state, there.state) == (OPEN, HALF_OPEN)
    assert admitted(here) == []


def test_a_worker_whose_trial_call_hangs_may_try_another_one(worker, clock):
    here, there = worker(), worker()
    opened(clock, here, there)
    due(clock, here, there)
    ((_, hung),) = admitted(here)
    clock.advance(0.5)
    sync(here, there)
    clock.advance(9.5)
    ((_, token),) = admitted(here)
    here.leave(hung, None)
    assert here.state is HALF_OPEN
    here.leave(token, None)
    assert here.state is CLOSED


def test_a_worker_without_calls_gives_way(worker, clock):
    idle, busy = worker(), worker()
    opened(clock, idle, busy)
    clock.advance(10.0)
    sync(idle)
    with pytest.raises(CircuitOpen):
        busy.call(int)
    sync(busy, idle)
    assert len(admitted(busy)) == 1


def test_without_the_store_each_goes_by_its_own_breaker(worker, clock, store):
    here, there = worker(), worker()
    store.down = True
    sync(here, there)
    fail(here)
    sync(here, there)
    assert (here.state, there.state) == (OPEN, CLOSED)
    assert here.snapshot().shared == "cut off"
    clock.advance(10.0)
    assert here.state is HALF_OPEN
    here.call(int)
    assert here.state is CLOSED


def test_what_was_found_out_meanwhile_is_told_when_the_store_is_back(worker, clock, store):
    here, there = worker(), worker()
    sync(here, there)
    store.down = True
    sync(here, there)
    fail(here)
    store.down = False
    sync(here, there)
    assert there.state is OPEN
    assert here.snapshot().shared == "connected"


def test_a_store_that_lost_its_memory_is_told_again(worker, clock, store):
    here, there = worker(), worker()
    opened(clock, here)
    store._states.clear()
    sync(here, there)
    assert there.state is OPEN


def test_two_that_open_at_once_do_not_prolong_the_open_time(worker, clock):
    here, there = worker(), worker()
    fail(here)
    clock.advance(4.0)
    fail(there)
    sync(here, there)
    due(clock, here, there, seconds=6.0)
    assert len(admitted(here, there)) == 1


def test_who_starts_late_takes_off_the_time_that_has_passed(worker, clock):
    here = worker()
    opened(clock, here)
    clock.advance(7.0)
    late = worker()
    sync(late)
    assert late.snapshot().retry_after == pytest.approx(3.0)


def test_the_wall_clock_of_another_host_may_be_wrong(worker, clock):
    here = worker()
    opened(clock, here)
    for step, left in ((86_400.0, 0.0), (-200_000.0, 10.0)):
        clock.step_wall(step)
        late = worker()
        sync(late)
        assert late.snapshot().retry_after == pytest.approx(left)


@pytest.mark.parametrize(
    "record",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"state": "half_open", "seconds": 1, "at": 0, "reason": "", "attempt": 1}',
        b'{"state": "open", "seconds": 1e999, "at": 0, "reason": "", "attempt": 1}',
        b'{"state": "open", "seconds": ' + b"9" * 400 + b', "at": 0, "reason": "", "attempt": 1}',
        b"[" * 100_000,
        b'{"state": "open", "seconds": "many", "at": 0, "reason": "", "attempt": 1}',
        b'{"state": "open", "seconds": 1, "at": 0, "reason": 7, "attempt": 1}',
    ],
)
def test_what_is_no_record_is_not_believed(worker, store, record):
    breaker = worker()
    store.commit(KEY, record, 0)
    sync(breaker)
    assert breaker.state is CLOSED
    fail(breaker)
    sync(breaker)
    assert json.loads(store.read(KEY)[0])["state"] == "open"


def test_a_reset_closes_all_and_a_forced_opening_only_here(worker, clock):
    here, there = worker(), worker()
    opened(clock, here, there)
    here.reset()
    sync(here, there)
    assert there.state is CLOSED
    here.force_open("INC-42")
    sync(here, there)
    assert (here.state, there.state) == (OPEN, CLOSED)
    fail(there)
    there.reset()
    sync(there, here)
    assert here.snapshot().reason == "INC-42"


def test_the_end_of_a_local_drill_leaves_the_circuit_of_the_others_alone(worker, clock):
    here, there = worker(), worker()
    here.force_open("drill")
    fail(there)
    sync(there)
    for switch in (here.disable, here.reset):
        switch()
        sync(here, there)
        assert there.state is OPEN
    assert here.state is OPEN
    assert here.snapshot().mode == "enforcing"


def test_an_operator_who_has_just_started_closes_the_circuit_of_all(worker, clock):
    here = worker()
    opened(clock, here)
    operator = worker()
    operator.reset()
    sync(operator, here)
    assert (operator.state, here.state) == (CLOSED, CLOSED)


def test_a_reset_wins_over_an_opening_that_was_not_heard_yet(worker, clock):
    here, operator = worker(), worker()
    sync(here, operator)
    fail(here)
    sync(here, rounds=1)
    operator.reset()
    sync(operator, here)
    assert (operator.state, here.state) == (CLOSED, CLOSED)


def test_a_lease_shorter_than_the_interval_does_not_keep_it_from_closing(worker, clock, facts):
    settings = {"reset_timeout": 0.3, "sync_interval": 0.5, "success_threshold": 2}
    breaker = worker(**settings)
    fail(breaker)
    for _ in range(8):
        clock.advance(0.25)
        breaker.sync()
        for _, token in admitted(breaker):
            breaker.leave(token, None)
    assert breaker.state is CLOSED
    assert len(facts.of(CircuitOpened)) == 1


def test_news_told_late_tell_how_much_is_left(worker, clock, store):
    here, there = worker(), worker()
    sync(here, there)
    store.down = True
    fail(here)
    sync(here)
    clock.advance(8.0)
    store.down = False
    sync(here, there)
    assert there.snapshot().retry_after == pytest.approx(2.0)


def test_news_of_a_state_that_is_over_are_not_told(worker, clock):
    here, there = worker(), worker()
    fail(here)
    stale = here.era
    here.reset()
    here._link.tell(stale)
    sync(here, there)
    assert there.state is CLOSED


def test_a_store_that_hangs_leaves_a_local_breaker(worker, clock, store, monkeypatch):
    here, hanging, release = worker(), threading.Event(), threading.Event()
    opened(clock, here)

    def hang(key):
        hanging.set()
        release.wait(20)
        raise StoreUnavailable("memory", "hung")

    monkeypatch.setattr(store, "read", hang)
    look = threading.Thread(target=here.sync)
    look.start()
    assert hanging.wait(10)
    clock.advance(10.0)
    assert len(admitted(here)) == 1
    assert here.snapshot().shared == "cut off"
    release.set()
    look.join(10)


def test_conflict_after_conflict_does_not_make_it_look_without_end(worker, store, monkeypatch):
    here = worker()

    def conflict(*_args, **_kwargs):
        raise Conflict(KEY, 0, 1)

    monkeypatch.setattr(store, "commit", conflict)
    fail(here)
    for woken in (True, False, False):
        here._link._wake.clear()
        here.sync()
        assert here._link._wake.is_set() is woken
    monkeypatch.undo()
    here.sync()
    assert json.loads(store.read(KEY)[0])["state"] == "open"


def test_without_another_thread_the_call_passes(worker, monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    here = worker()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        assert here.call(int) == 0
    assert here.snapshot().shared == "cut off"


def test_one_in_shadow_neither_tells_nor_follows(worker, clock):
    here, there = worker(), worker()
    here.shadow()
    fail(here)
    sync(here, there)
    assert there.state is CLOSED
    fail(there)
    sync(there, here)
    assert here.snapshot().would_open == 1


def test_a_cancelled_trial_frees_its_slot_for_the_same_worker(worker, clock):
    here, there = worker(), worker()
    opened(clock, here, there)
    due(clock, here, there)
    ((_, token),) = admitted(here)
    here.fail(token, GeneratorExit())
    assert len(admitted(here)) == 1


def test_closing_gives_the_lease_back_and_goes_on_alone(worker, clock):
    here, there = worker(), worker()
    opened(clock, here, there)
    due(clock, here, there)
    here.unshare()
    sync(there)
    due(clock, there, seconds=0.1)
    assert len(admitted(there)) == 1
    assert here.state is HALF_OPEN


def test_a_store_that_cannot_be_shared_is_refused_at_once():
    with pytest.raises(BadConfiguration):
        CircuitBreaker("db", store="nowhere://x")


def test_a_store_of_five_methods_will_do():
    class Own:
        def __init__(self):
            self.kept = MemoryStore()
            for method in ("read", "commit", "acquire", "renew", "release"):
                setattr(self, method, getattr(self.kept, method))

    store = Own()
    here, there = CircuitBreaker("db", store=store), CircuitBreaker("db", store=store)
    here.reset()
    here.sync()
    there.sync()
    assert there.snapshot().shared == "connected"


def test_a_password_in_the_url_is_not_told():
    breaker = CircuitBreaker("db", store="redis://:secret@cache.example:6379/0")
    assert "secret" not in repr(breaker)
    assert "secret" not in repr(settings_of(breaker))


class Bytes:
    def get(self, key): ...
    def set(self, key, value, *, ttl=None): ...
    def delete(self, key): ...


def test_a_store_of_bytes_alone_is_refused():
    with pytest.raises(BadConfiguration, match="SharedStore"):
        CircuitBreaker("db", store=Bytes())


def test_a_forked_child_listens_anew(worker):
    breaker = worker()
    breaker.call(int)
    link = breaker._link
    assert link.started
    assert breaker.era.admits
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        before = (link.started, breaker.era.admits)
        breaker.call(int)
        os.write(writing, json.dumps([before, link.started]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(reading, 100)) == [[False, False], True]
    os.close(reading)
    os.close(writing)


def test_the_thread_ends_with_its_breaker(monkeypatch, clock):
    monkeypatch.undo()
    breaker = CircuitBreaker("db", store=MemoryStore(clock=clock), sync_interval=0.005)
    breaker.call(int)
    thread = next(t for t in threading.enumerate() if t.name == "prodml-shared-circuit")
    gone = weakref.ref(breaker)
    del breaker
    gc.collect()
    thread.join(10)
    assert gone() is None
    assert not thread.is_alive()


WORKERS = 3


class Fleet(RuleBasedStateMachine):
    """Whoever admits a trial call holds the lease, as long as the store can be reached."""

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.store = Counting(self.clock)
        self.workers = [
            CircuitBreaker(
                "dependency",
                failure_threshold=2,
                success_threshold=2,
                reset_timeout=4.0,
                trial_lease=3.0,
                store=self.store,
                sync_interval=0.5,
                clock=self.clock,
                events=Stream(),
            )
            for _ in range(WORKERS)
        ]
        self.calls = []

    @rule(number=st.integers(0, WORKERS - 1))
    def begin(self, number):
        worker = self.workers[number]
        before = worker.state
        try:
            token = worker.enter()
        except CircuitOpen:
            assert before is not CLOSED
            return
        assert before is not OPEN
        self.calls.append((worker, token))
        if before is HALF_OPEN and worker.snapshot().shared == "connected":
            held = self.store._leases[f"{KEY}:trial"]
            assert held.owner == worker._link._owner
            assert held.expires >= self.clock.time()

    @rule(index=st.integers(0, 50), ending=st.sampled_from(["well", "badly", "cancelled"]))
    def end(self, index, ending):
        if not self.calls:
            return
        worker, token = self.calls.pop(index % len(self.calls))
        if ending == "well":
            worker.leave(token, None)
        else:
            worker.fail(token, OSError() if ending == "badly" else GeneratorExit())

    @rule(number=st.integers(0, WORKERS - 1))
    def look(self, number):
        self.workers[number].sync()

    @rule(seconds=st.sampled_from([0.5, 3.0, 4.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(down=st.booleans())
    def cut(self, down):
        self.store.down = down

    @rule()
    def restart(self):
        self.store._states.clear()

    @invariant()
    def no_worker_has_more_trials_than_the_cap(self):
        assert all(worker.snapshot().trials <= 1 for worker in self.workers)

    def teardown(self):
        """Nobody is wedged: with a store, time and calls that end well, all of them close."""
        self.store.down = False
        sync(*self.workers)
        for _ in range(20):
            self.clock.advance(1.0)
            for worker in self.workers:
                for _, token in admitted(worker):
                    worker.leave(token, None)
            sync(*self.workers)
        assert {worker.state for worker in self.workers} == {CLOSED}


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
