"""Several fleets in one process, stepped in any order over a store that fails in every way."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from prodml.errors import BadConfiguration, Conflict, ProdmlError, StoreUnavailable, UnknownVersion
from prodml.events import Stream
from prodml.serving import ServingFleet, VersionedModelServer
from prodml.serving.fleet_record import Record
from prodml.stores import MemoryStore
from prodml.testing import ManualClock

VERSIONS = ("v1", "v2", "v3")
KEY = "prodml:fleet:churn"


class Fickle(MemoryStore):
    """A store that is away, loses answers, or has stopped and does everything when it wakes."""

    def __init__(self, clock):
        super().__init__(clock=clock)
        self.mode = "up"
        self.coming = []
        self.queue = []

    def _ask(self, work):
        self._clock.advance(0.001)
        if self.coming:
            self.mode = self.coming.pop(0)
        if self.mode == "down":
            raise StoreUnavailable("test", "down")
        if self.mode == "frozen":
            self.queue.append(work)
            raise StoreUnavailable("test", "frozen")
        if self.mode == "losing":
            self.mode = "up"
            work()
            raise StoreUnavailable("test", "answer lost")
        return work()

    def thaw(self):
        self.mode, queue, self.queue = "up", self.queue, []
        self.coming = []
        for work in queue:
            try:
                work()
            except ProdmlError:
                # Nobody waits for these answers.
                continue

    def wipe(self):
        self._states.clear()
        self._values.clear()
        self._leases.clear()

    def get(self, key):
        return self._ask(lambda: MemoryStore.get(self, key))

    def set(self, key, value, *, ttl=None):
        return self._ask(lambda: MemoryStore.set(self, key, value, ttl=ttl))

    def delete(self, key):
        return self._ask(lambda: MemoryStore.delete(self, key))

    def read(self, key):
        return self._ask(lambda: MemoryStore.read(self, key))

    def commit(self, key, value, revision, *, rows=(), lease=None):
        return self._ask(lambda: MemoryStore.commit(self, key, value, revision, lease=lease))

    def acquire(self, name, owner, ttl):
        return self._ask(lambda: MemoryStore.acquire(self, name, owner, ttl))

    def release(self, lease):
        return self._ask(lambda: MemoryStore.release(self, lease))

    def there(self):
        """What is in it, whatever its mode."""
        return Record.decoded(MemoryStore.read(self, KEY)[0], "test")


def model(version):
    return lambda features: version


class Worker:
    def __init__(self, store, clock, number):
        self.server = VersionedModelServer(name="churn", events=Stream(), clock=clock)
        for version in ("v1", "v2"):
            self.server.load_model(version, model(version))
        self.server.set_default_version("v1")
        self.before = self.server.routing()
        self.fleet = ServingFleet(
            self.server,
            store=store,
            worker=f"w{number}",
            clock=clock,
            events=Stream(),
            patience=0.1,
        )
        self.generation = self.heard = 0


class Fleets(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.store = Fickle(self.clock)
        self.workers = []
        self.numbers = 0
        self.failed = set()
        self.done = []
        self.wiped = False
        self.noted = []
        for _ in range(3):
            self.join()

    def join(self):
        self.numbers += 1
        self.workers.append(Worker(self.store, self.clock, self.numbers))

    def pick(self, number):
        return self.workers[number % len(self.workers)]

    def command(self, number, give):
        worker, name = self.pick(number), f"command {len(self.failed) + len(self.done)}"
        before = worker.fleet.generation
        try:
            give(worker.fleet, name)
        except StoreUnavailable as error:
            record = self.store.there()
            if record is not None and record.change.reason == name:
                # It had come about when the store went silent, and the caller is told of that.
                self.noted.append(error.__notes__)
            else:
                self.failed.add(name)
            assert worker.fleet.generation == before
        except (Conflict, UnknownVersion, BadConfiguration):
            self.failed.add(name)
        else:
            self.done.append(name)

    numbers_ = st.integers(0, 5)

    @rule(number=numbers_, version=st.sampled_from(VERSIONS))
    def promote(self, number, version):
        self.command(number, lambda fleet, name: fleet.promote(version, reason=name))

    @rule(number=numbers_)
    def rollback(self, number):
        self.command(number, lambda fleet, name: fleet.rollback(reason=name))

    @rule(number=numbers_, version=st.sampled_from(VERSIONS), share=st.sampled_from([0.1, 0.5]))
    def route(self, number, version, share):
        self.command(number, lambda fleet, name: fleet.route(canary={version: share}, reason=name))

    @rule(number=numbers_, version=st.sampled_from(VERSIONS))
    def release(self, number, version):
        self.command(number, lambda fleet, name: fleet.release(version, reason=name))

    @rule(number=numbers_)
    def sync(self, number):
        self.pick(number).fleet.sync()

    @rule(seconds=st.sampled_from([0.01, 0.5, 7.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(number=numbers_)
    def load(self, number):
        server = self.pick(number).server
        if "v3" not in server.versions:
            server.load_model("v3", model("v3"))

    @rule(number=numbers_)
    def restart(self, number):
        self.workers.remove(self.pick(number))
        self.join()

    @rule(mode=st.sampled_from(["down", "frozen", "losing"]), after=st.integers(0, 4))
    def fail(self, mode, after):
        """Fail in the middle of whatever comes next."""
        if self.store.mode == "up":
            self.store.coming = ["up"] * after + [mode]

    @rule()
    def recover(self):
        self.store.thaw()

    @rule()
    def forget_everything(self):
        self.store.wipe()
        self.wiped = True

    @invariant()
    def generations_only_grow(self):
        for worker in self.workers:
            member = worker.fleet.snapshot().member
            assert member.generation >= worker.generation
            assert member.heard >= max(member.generation, worker.heard)
            worker.generation, worker.heard = member.generation, member.heard

    @invariant()
    def every_table_is_whole(self):
        for worker in self.workers:
            applied = worker.fleet._worker.position.applied
            table = worker.before if applied is None else applied.table
            assert {**worker.server.routing()} == {**table}

    @invariant()
    def what_failed_stays_failed(self):
        records = [worker.fleet._worker.position.heard for worker in self.workers]
        for record in (*records, self.store.there()):
            reasons = {change.reason for change in record.history} if record else set()
            assert not reasons & self.failed

    def teardown(self):
        assert all(self.noted)
        self.store.thaw()
        for worker in self.workers:
            if "v3" not in worker.server.versions:
                worker.server.load_model("v3", model("v3"))
        # Those who were replaced are silent since.
        self.clock.advance(7.0)
        # Once to tell what the store has forgotten, once to hear it, once to be sure.
        for _ in range(3):
            for worker in self.workers:
                worker.fleet.sync()
        last = self.store.there()
        assert last or not any(worker.heard for worker in self.workers)
        tables = [worker.server.routing() for worker in self.workers]
        if last is not None:
            assert all(table == tables[0] == last.table for table in tables)
            assert {w.fleet.generation for w in self.workers} == {last.generation}
            agreement = self.workers[0].fleet.converged()
            assert agreement.complete
            assert set(agreement) >= {w.fleet.worker for w in self.workers}
        elif not self.wiped:
            assert not self.done
        if self.done and last is not None and not self.wiped:
            reasons = [change.reason for change in last.history]
            told = [name for name in reasons if name in self.done]
            assert told == sorted(told, key=self.done.index)


def asked_in_the_middle(mode, after):
    """A command during which the store begins to fail, and the record when it is back."""
    clock = ManualClock()
    store = Fickle(clock)
    worker = Worker(store, clock, 1)
    worker.fleet.promote("v2", reason="before")
    store.coming = ["up"] * after + [mode]
    try:
        worker.fleet.promote("v1", reason="during")
        error = None
    except StoreUnavailable as raised:
        error = raised
    while_away = store.there().change.reason
    store.thaw()
    return error, while_away, store.there().change.reason, worker


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("mode", ["down", "frozen"])
def test_a_command_that_failed_does_not_come_about_later(mode, after):
    error, while_away, later, worker = asked_in_the_middle(mode, after)
    assert later == while_away
    if error is None:
        assert later == "during"
    else:
        assert bool(getattr(error, "__notes__", ())) == (after > 1)
        assert worker.fleet.generation == 1


@pytest.mark.parametrize("after", range(6))
def test_a_lost_answer_is_asked_for_again(after):
    error, _, later, worker = asked_in_the_middle("losing", after)
    assert (error, later, worker.fleet.generation) == (None, "during", 2)


TestFleets = Fleets.TestCase
TestFleets.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_fleets_for_long():
    many = settings(max_examples=3000, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(Fleets, settings=many)
