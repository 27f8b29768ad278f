import asyncio
import time

import pytest

from prodml._call import arun, run
from prodml.cache.backoff import Backoff
from prodml.cache.stats import Counts
from prodml.cache.tier import StoreTier
from prodml.errors import CorruptRecord
from prodml.resilience import CircuitBreaker
from prodml.stores import MemoryStore, SQLiteStore
from prodml.testing import ManualClock
from tests.cache.stores import AwaitedStore, BulkMemoryStore, DeadStore


def _tier(store):
    counts = Counts()
    return StoreTier(store, Backoff(failure_threshold=100), counts), counts


def test_a_store_that_can_reads_and_writes_many_in_one_trip():
    store = BulkMemoryStore()
    tier, _ = _tier(store)
    assert run(tier.write({"a": b"1", "b": b"2"}, 60.0)) is True
    assert run(tier.read(["a", "x", "b"])) == [b"1", None, b"2"]
    assert store.trips == ["set_many", "get_many"]


def test_a_plain_store_is_asked_key_by_key():
    tier, _ = _tier(MemoryStore())
    assert run(tier.write({"a": b"1", "b": b"2"}, None)) is True
    assert run(tier.read(["a", "x", "b"])) == [b"1", None, b"2"]


def test_the_first_proposal_settles():
    for store in (MemoryStore(), BulkMemoryStore()):
        tier, _ = _tier(store)
        assert run(tier.settle("e", b"first")) == b"first"
        assert run(tier.settle("e", b"second")) == b"first"


def test_failures_are_misses_and_counts():
    class DeadBulk(DeadStore):
        get_many = set_many = setdefault = DeadStore._fail

    for store in (DeadStore(), DeadBulk()):
        tier, counts = _tier(store)
        assert run(tier.read(["a", "b"])) == [None, None]
        assert run(tier.read(["a"])) == [None]
        assert run(tier.write({"a": b"1", "b": b"2"}, None)) is False
        assert run(tier.settle("e", b"x")) is None
        assert counts.store_errors == store.calls > 0


def test_a_store_that_finds_itself_corrupt_is_counted_so():
    tier, counts = _tier(DeadStore(CorruptRecord("here", "rubbish")))
    assert run(tier.read(["a"])) == [None]
    assert counts.corrupt == 1


# -- an outage that is known --------------------------------------------------------------


def _guards(clock):
    return [Backoff(clock=clock), CircuitBreaker("store", failure_threshold=1, clock=clock)]


@pytest.mark.parametrize("which", [0, 1])
def test_a_known_outage_is_seen_before_anything_is_prepared(which):
    clock, counts, store = ManualClock(), Counts(), DeadStore()
    guard = _guards(clock)[which]
    tier = StoreTier(store, guard, counts)
    assert not tier.down()
    assert run(tier.read(["a"])) == [None]
    assert tier.down()
    # No step is asked for: the answer is there at once.
    for steps in (tier.read(["a"]), tier.read(["a", "b"]), tier.settle("e", b"x")):
        with pytest.raises(StopIteration):
            next(steps)
    with pytest.raises(StopIteration) as ended:
        next(tier.write({"a": b"1"}, None))
    assert ended.value.value == (False, None)
    assert (store.calls, counts.store_errors, counts.store_skipped) == (1, 1, 4)
    clock.advance(1000.0)
    assert not tier.down()
    run(tier.read(["a"]))
    assert store.calls == 2


def test_a_breaker_that_only_watches_is_no_outage():
    breaker = CircuitBreaker("store", failure_threshold=1)
    breaker.shadow()
    tier = StoreTier(DeadStore(), breaker, Counts())
    run(tier.read(["a"]))
    assert not tier.down()


def test_a_known_outage_costs_next_to_nothing():
    tier = StoreTier(DeadStore(), Backoff(pause=60.0), Counts())
    run(tier.read(["a"]))
    began = time.perf_counter()
    for _ in range(1000):
        run(tier.read(["a"]))
    assert (time.perf_counter() - began) / 1000 < 0.0001


# -- a damaged store ----------------------------------------------------------------------


def test_a_damaged_store_is_used_again_when_it_is_whole_again(tmp_path):
    clock, counts = ManualClock(), Counts()
    path = tmp_path / "cache.db"
    tier = StoreTier(SQLiteStore(str(path)), Backoff(clock=clock), counts)
    assert run(tier.write({"a": b"1" * 100}, None))
    run(tier.close())
    path.write_bytes(b"rubbish" * 1000)
    for _ in range(300):
        assert run(tier.read(["a"])) == [None]
    assert (counts.corrupt, counts.store_skipped) == (1, 299)
    path.unlink()
    clock.advance(1.0)
    assert run(tier.write({"a": b"2"}, None))
    assert run(tier.read(["a"])) == [b"2"]


def test_a_store_damaged_while_it_is_open_is_opened_anew(tmp_path):
    clock, counts = ManualClock(), Counts()
    path = tmp_path / "cache.db"
    store = SQLiteStore(str(path))
    tier = StoreTier(store, Backoff(clock=clock), counts)
    assert run(tier.write({f"k{n}": bytes(1000) for n in range(100)}, None))
    store._connection.executescript("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA shrink_memory")
    path.write_bytes(b"rubbish" * 20_000)
    names = [f"k{n}" for n in range(100)]
    run(tier.read(names))
    assert counts.corrupt == 1
    for file in tmp_path.iterdir():
        file.unlink()
    clock.advance(1.0)
    assert run(tier.write({"a": b"2"}, None))
    assert run(tier.read(["a"])) == [b"2"]


# -- who computes -------------------------------------------------------------------------


class LeasingStore(BulkMemoryStore):
    """Lets one claim a name; leases do not end by themselves here."""

    def __init__(self):
        super().__init__()
        self.holders = {}

    def claim(self, name, token, lease):
        return super().get(name), self.holders.setdefault(name, token) == token

    def watch(self, name):
        return super().get(name), self.holders.get(name)

    def prolong(self, name, token, lease):
        return self.holders.get(name) == token

    def unclaim(self, name, token):
        if self.holders.get(name) == token:
            del self.holders[name]


def test_a_store_that_can_lets_one_compute():
    tier, _ = _tier(LeasingStore())
    assert tier.leases
    assert run(tier.claim("k", "one", 5.0)) == (None, True)
    assert run(tier.claim("k", "one", 5.0)) == (None, True)
    assert run(tier.claim("k", "two", 5.0)) == (None, False)
    assert run(tier.watch("k")) == (None, "one")
    run(tier.unclaim("k", "two"))
    assert run(tier.claim("k", "two", 5.0)) == (None, False)
    run(tier.unclaim("k", "one"))
    assert run(tier.claim("k", "two", 5.0)) == (None, True)


def test_other_stores_are_known_not_to():
    for store in (MemoryStore(), BulkMemoryStore(), AwaitedStore()):
        assert not _tier(store)[0].leases


def test_without_the_store_each_computes_for_himself():
    class DeadLeasing(LeasingStore):
        claim = watch = unclaim = prolong = lambda *_: (_ for _ in ()).throw(
            ConnectionError("down")
        )

    tier = StoreTier(DeadLeasing(), Backoff(pause=60.0), Counts())
    for _ in range(2):
        # Found out, and then known.
        assert run(tier.claim("k", "one", 5.0)) == (None, True)
        assert run(tier.watch("k")) == (None, None)
        assert run(tier.unclaim("k", "one")) is None
        assert asyncio.run(arun(tier.watch("k"))) == (None, None)
