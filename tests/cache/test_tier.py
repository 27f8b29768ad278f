from prodml._call import run
from prodml.cache.backoff import Backoff
from prodml.cache.stats import Counts
from prodml.cache.tier import StoreTier
from prodml.errors import CorruptRecord
from prodml.stores import MemoryStore
from tests.cache.stores import BulkMemoryStore, DeadStore


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
