import asyncio
import json
import random

import numpy as np
import pytest

from prodml._settings import retune, settings_of
from prodml.cache import MISS, Backoff, PredictionCache, cached_prediction
from prodml.errors import BadConfiguration
from prodml.stores import MemoryStore, register_scheme
from prodml.testing import ManualClock
from tests.cache.stores import AwaitedStore, BulkMemoryStore, DeadStore

ROW = {"age": 41, "country": "DE"}


@pytest.mark.parametrize("value", [None, 0, 0.0, "", False, [], {}, (), b"", np.float64(0)])
def test_falsy_values_are_values(value):
    cache = PredictionCache(MemoryStore())
    assert cache.set(ROW, "v1", value)
    assert cache.get(ROW, "v1", default="absent") == value
    assert type(cache.get(ROW, "v1")) is type(value)


def test_what_is_not_there_is_the_default():
    cache = PredictionCache()
    assert cache.get(ROW, "v1") is MISS
    assert cache.get(ROW, "v1", default=None) is None
    assert cache.stats().misses == 2


def test_the_version_the_namespace_and_the_function_are_part_of_the_key():
    store = MemoryStore()
    cache = PredictionCache(store)
    cache.set(ROW, "v1", 1)
    cache.set(ROW, "v1", 2, function="churn")
    assert cache.get(ROW, "v2") is MISS
    assert cache.get(ROW, "v1", function="fraud") is MISS
    assert cache.get(ROW, "v1", function="churn") == 2
    assert PredictionCache(store, namespace="tenant").get(ROW, "v1") is MISS


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (1, "1"), ("v1", b"v1")])
def test_versions_that_python_finds_equal_are_two(one, other):
    cache = PredictionCache()
    cache.set(ROW, one, "one")
    assert cache.get(ROW, other) is MISS
    assert cache.get(ROW, one) == "one"


@pytest.mark.parametrize("version", [None, MISS, ["v1"], print])
def test_without_a_version_that_has_a_name_there_is_no_cache(version):
    cache = PredictionCache()
    assert not cache.set(ROW, version, 1)
    assert cache.get(ROW, version) is MISS
    assert cache.stats().uncacheable == 2


class Cursed(dict):
    def items(self):
        raise RuntimeError("not today")


@pytest.mark.parametrize("features", [{"a": print}, Cursed(a=1, b=2), object()])
def test_features_that_cannot_be_named_are_a_miss_and_a_count(features):
    cache = PredictionCache()
    assert not cache.set(features, "v1", 1)
    assert cache.get(features, "v1") is MISS
    assert cache.stats().uncacheable == 2


def test_callers_cannot_change_what_is_kept():
    cache, value = PredictionCache(), {"scores": [1, 2]}
    cache.set(ROW, "v1", value)
    value["scores"].append(3)
    cache.get(ROW, "v1")["scores"].append(4)
    assert cache.get(ROW, "v1") == {"scores": [1, 2]}


def test_an_array_handed_out_can_be_written_to_by_nobody():
    cache = PredictionCache()
    cache.set(ROW, "v1", np.zeros(2))
    with pytest.raises(ValueError, match="read-only"):
        cache.get(ROW, "v1")[:] = 7
    np.testing.assert_array_equal(cache.get(ROW, "v1"), [0, 0])


def test_an_answer_that_cannot_be_encoded_is_not_kept():
    cache = PredictionCache()
    assert not cache.set(ROW, "v1", object())
    assert cache.stats().unstorable == 1


def test_an_entry_ends_with_its_time_to_live():
    clock = ManualClock()
    cache = PredictionCache(MemoryStore(clock=clock), ttl=10.0, jitter=0.0, clock=clock)
    cache.set(ROW, "v1", 1)
    clock.advance(9.9)
    assert cache.get(ROW, "v1") == 1
    clock.advance(0.2)
    assert cache.get(ROW, "v1") is MISS


def test_without_a_time_to_live_an_entry_stays():
    clock = ManualClock()
    cache = PredictionCache(MemoryStore(clock=clock), ttl=None, clock=clock)
    cache.set(ROW, "v1", 1)
    clock.advance(1e9)
    assert cache.get(ROW, "v1") == 1
    assert cache.explain(ROW, "v1").expires_in is None


def test_lives_are_shortened_by_up_to_the_jitter():
    clock = ManualClock()
    cache = PredictionCache(ttl=100.0, jitter=0.5, clock=clock, rng=random.Random(1))
    lives = []
    for number in range(200):
        cache.set({"n": number}, "v1", 1)
        lives.append(cache.explain({"n": number}, "v1").expires_in)
    assert 50 <= min(lives) < 60
    assert 90 < max(lives) <= 100


def test_a_second_process_reads_what_the_first_has_kept():
    store, clock = BulkMemoryStore(), ManualClock()
    PredictionCache(store, clock=clock).set(ROW, "v1", {"score": 0.5})
    other = PredictionCache(store, clock=clock)
    assert other.get(ROW, "v1") == {"score": 0.5}
    assert other.get(ROW, "v1") == {"score": 0.5}
    assert (other.stats().store_hits, other.stats().memory_hits) == (1, 1)


def test_memory_does_not_prolong_what_the_store_has_kept():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    PredictionCache(store, ttl=10.0, jitter=0.0, clock=clock).set(ROW, "v1", 1)
    clock.advance(6.0)
    late = PredictionCache(store, ttl=10.0, clock=clock)
    assert late.get(ROW, "v1") == 1
    clock.advance(5.0)
    assert late.get(ROW, "v1") is MISS


def test_without_memory_every_hit_is_the_stores():
    cache = PredictionCache(MemoryStore(), memory=None)
    cache.set(ROW, "v1", 1)
    assert (cache.get(ROW, "v1"), cache.get(ROW, "v1")) == (1, 1)
    assert cache.stats().store_hits == 2


def test_dropping_a_version_is_one_operation_however_many_keys():
    store = BulkMemoryStore()
    cache = PredictionCache(store)
    for number in range(100):
        cache.set({"n": number}, "v1", 1)
    cache.set(ROW, "v2", 2)
    store.trips.clear()
    assert cache.drop("v1")
    assert store.trips == ["set"]
    assert cache.get({"n": 5}, "v1") is MISS
    assert cache.get(ROW, "v2") == 2


def test_a_drop_is_seen_by_the_others_within_a_second():
    store, clock = BulkMemoryStore(), ManualClock()
    here, there = (PredictionCache(store, clock=clock) for _ in range(2))
    here.set(ROW, "v1", "old")
    assert there.get(ROW, "v1") == "old"
    here.drop("v1")
    clock.advance(1.0)
    assert there.get(ROW, "v1") is MISS
    here.set(ROW, "v1", "new")
    assert there.get(ROW, "v1") == "new"


@pytest.mark.parametrize("make", [MemoryStore, BulkMemoryStore])
def test_a_version_dropped_and_forgotten_by_the_store_stays_dropped(make):
    store, clock = make(), ManualClock()
    cache = PredictionCache(store, clock=clock)
    cache.set(ROW, "v1", "old")
    cache.drop("v1")
    epoch = next(key for key, (value, _) in store._values.items() if len(value) == 8)
    store.delete(epoch)
    assert PredictionCache(store, clock=clock).get(ROW, "v1") is MISS


def test_a_drop_that_the_store_missed_is_told_when_it_is_back():
    clock = ManualClock()

    class Moody(BulkMemoryStore):
        down = False

        def set(self, key, value, *, ttl=None):
            if self.down:
                raise ConnectionError
            super().set(key, value, ttl=ttl)

    store = Moody()
    here, there = (PredictionCache(store, clock=clock) for _ in range(2))
    here.set(ROW, "v1", "old")
    store.down = True
    assert not here.drop("v1")
    assert here.get(ROW, "v1") is MISS
    store.down = False
    clock.advance(1.0)
    here.get(ROW, "v1")
    assert there.get(ROW, "v1") is MISS


def test_an_epoch_that_is_none_is_replaced():
    store, clock = BulkMemoryStore(), ManualClock()
    here = PredictionCache(store, clock=clock)
    here.set(ROW, "v1", 1)
    epoch = next(key for key, (value, _) in store._values.items() if len(value) == 8)
    store._values[epoch] = (b"rubbish" * 100, None)
    other = PredictionCache(store, clock=clock)
    other.set(ROW, "v1", 2)
    clock.advance(1.0)
    assert other.get(ROW, "v1") == 2
    assert other.stats().corrupt == 1
    assert len(store._values[epoch][0]) == 8


def test_a_store_that_fails_is_a_miss_and_is_left_alone_for_a_while():
    clock, store = ManualClock(), DeadStore()
    cache = PredictionCache(store, clock=clock)
    for number in range(20):
        assert cache.get({"n": number}, "v1") is MISS
    assert store.calls == 1
    stats = cache.stats()
    assert (stats.store_errors, stats.uncacheable) == (1, 0)
    assert stats.store_skipped >= 19
    clock.advance(1.0)
    cache.get(ROW, "v1")
    assert store.calls == 2


def test_memory_serves_on_while_the_store_is_down():
    clock = ManualClock()
    cache = PredictionCache(DeadStore(), clock=clock)
    cache.set(ROW, "v1", 1)
    for _ in range(5):
        clock.advance(5.0)
        assert cache.get(ROW, "v1") == 1


def test_a_breaker_of_ones_own_stands_before_the_store():
    guard = Backoff(failure_threshold=1, pause=60.0)
    cache = PredictionCache(DeadStore(), breaker=guard)
    cache.get(ROW, "v1")
    assert guard._failures == 1


@pytest.mark.parametrize("rubbish", [b"", b"\x01", b"rubbish" * 10, b"\x80\x04K*."])
def test_a_corrupt_entry_is_a_counted_miss_and_is_written_anew(rubbish):
    store = BulkMemoryStore()
    cache = PredictionCache(store, memory=None)
    cache.set(ROW, "v1", 1)
    store._values[cache.explain(ROW, "v1").key] = (rubbish, None)
    assert cache.get(ROW, "v1") is MISS
    assert cache.stats().corrupt == 1
    cache.set(ROW, "v1", 2)
    assert cache.get(ROW, "v1") == 2


def test_an_entry_moved_to_another_key_is_corrupt():
    store = BulkMemoryStore()
    cache = PredictionCache(store, memory=None)
    cache.set(ROW, "v1", 1)
    key, other = (cache.explain(row, "v1").key for row in (ROW, {"age": 7}))
    store._values[other] = store._values[key]
    assert cache.get({"age": 7}, "v1") is MISS


def test_who_lacks_the_secret_reads_and_writes_nothing():
    store = BulkMemoryStore()
    PredictionCache(store, secret="one secret").set(ROW, "v1", 1)
    stranger = PredictionCache(store, secret=b"another one")
    assert stranger.get(ROW, "v1") is MISS
    assert stranger.explain(ROW, "v1").key != PredictionCache().explain(ROW, "v1").key


def test_long_secrets_are_told_apart_to_the_end():
    keys = {PredictionCache(secret="x" * 100 + end).explain(ROW, "v1").key for end in "ab"}
    assert len(keys) == 2


def test_the_store_sees_nothing_but_digests():
    store = BulkMemoryStore()
    PredictionCache(store, namespace="tenant").set({"name": "alice"}, "secret-version", 1)
    assert all(key.startswith("prodml:") and len(key) == 39 for key in store._values)


def test_large_features_take_little_memory():
    cache = PredictionCache()
    cache.set({"image": bytes(100_000)}, "v1", 1)
    assert cache.stats().bytes < 2000
    assert cache.get({"image": bytes(100_000)}, "v1") == 1
    assert cache.get({"image": bytes(99_999) + b"x"}, "v1") is MISS


def test_an_answer_larger_than_the_memory_is_counted():
    cache = PredictionCache(memory="4 KiB")
    cache.set(ROW, "v1", "x" * 10_000)
    assert cache.stats().unstorable == 1
    assert cache.get(ROW, "v1") is MISS


def test_explain_tells_why():
    clock = ManualClock()
    cache = PredictionCache(clock=clock, jitter=0.0)
    assert not cache.explain({"a": print}, "v1").cacheable
    assert cache.explain(ROW, None).reason == "no version, no cache"
    assert str(cache.explain(ROW, "v1")).startswith("not kept: never computed")
    cache.set(ROW, "v1", 1)
    clock.advance(5.0)
    told = cache.explain(ROW, "v1")
    assert (told.tier, told.age, told.expires_in) == ("memory", 5.0, 3595.0)
    assert told.canonical.hex() in str(told)


def test_stats_add_up():
    cache = PredictionCache()
    cache.set(ROW, "v1", 1)
    cache.get(ROW, "v1")
    cache.get(ROW, "v2")
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.hit_ratio, stats.entries) == (1, 1, 0.5, 1)
    assert stats.to_dict()["hit_ratio"] == 0.5
    assert PredictionCache().stats().hit_ratio == 0.0


@pytest.mark.parametrize("make", [MemoryStore, BulkMemoryStore, AwaitedStore])
def test_tasks_use_the_same_cache(make):
    async def main():
        cache = PredictionCache(make(), memory=None)
        assert await cache.aset(ROW, "v1", 1)
        found = await cache.aget(ROW, "v1")
        dropped = await cache.adrop("v1")
        gone = await cache.aget(ROW, "v1", default="gone")
        await cache.aclose()
        return found, dropped, gone

    assert asyncio.run(main()) == (1, True, "gone")


def test_a_store_for_tasks_only_is_a_miss_in_threads():
    cache = PredictionCache(AwaitedStore())
    assert cache.get(ROW, "v1") is MISS
    assert cache.stats().store_errors > 0


def test_a_url_is_resolved_by_the_table_of_schemes():
    store = BulkMemoryStore()
    register_scheme("cachetest", lambda url: store, lambda url: AwaitedStore(store))
    cache = PredictionCache("cachetest://user:hunter2@host")
    cache.set(ROW, "v1", 1)
    assert asyncio.run(PredictionCache("cachetest://x").aget(ROW, "v1")) == 1
    assert "hunter2" not in repr(cache)
    assert "hunter2" not in str(settings_of(cache))


def test_an_embedded_store_serves_tasks_as_it_is(tmp_path):
    async def main():
        cache = PredictionCache(f"sqlite:///{tmp_path / 'cache.db'}", memory=None)
        await cache.aset(ROW, "v1", 1)
        found = await cache.aget(ROW, "v1")
        cache.close()
        return found

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"ttl": 0.0},
        {"jitter": 1.0},
        {"flight_timeout": 0.0},
        {"memory": "much"},
        {"secret": ""},
        {"encryption": "rot13", "secret": "sixteen bytes..."},
        {"encryption": "aes-gcm"},
        {"codec": object()},
    ],
)
def test_settings_without_sense_are_refused_by_name(settings):
    with pytest.raises(BadConfiguration, match=next(iter(settings))):
        PredictionCache(**settings)


def test_an_unknown_store_is_refused_while_building():
    with pytest.raises(BadConfiguration):
        PredictionCache("nosuch://host")


def test_settings_can_be_retuned_while_running():
    cache = PredictionCache(MemoryStore(), secret="do not show me")
    cache.set(ROW, "v1", "x" * 4000)
    fact = retune(cache, memory="2 KiB", ttl=60.0, flight_timeout=1.0)
    assert fact.changes["ttl"] == (3600.0, 60.0)
    assert cache.stats().entries == 0
    assert "do not show me" not in str(settings_of(cache))
    with pytest.raises(BadConfiguration, match="namespace"):
        retune(cache, namespace="other")


def test_closing_without_a_store_does_nothing():
    cache = PredictionCache()
    cache.close()
    asyncio.run(cache.aclose())
    PredictionCache(DeadStore()).close()


class Slow(BulkMemoryStore):
    """Lets something happen between a question and its answer."""

    def __init__(self):
        super().__init__()
        self.meanwhile = lambda: None

    def setdefault(self, key, value):
        found = super().setdefault(key, value)
        self.meanwhile()
        return found


def test_a_drop_outruns_an_answer_that_is_on_its_way():
    store, clock = Slow(), ManualClock()
    cache = PredictionCache(store, clock=clock)
    cache.set(ROW, "v1", "old")
    clock.advance(1.0)
    store.meanwhile = lambda: cache.drop("v1")
    cache.get({"age": 1}, "v1")
    store.meanwhile = lambda: None
    clock.advance(1.0)
    assert cache.get(ROW, "v1") is MISS


def test_many_versions_do_not_pile_up():
    cache = PredictionCache()
    for number in range(1100):
        cache.set(ROW, f"v{number}", number)
    assert len(cache._heads) <= 1024
    assert cache.get(ROW, "v0") == 0


def test_versions_may_be_of_any_kind_that_has_a_name():
    cache = PredictionCache()
    for version in (("v", 1), 1.5, b"v1"):
        cache.set(ROW, version, str(version))
        assert cache.get(ROW, version) == str(version)


class Json:
    """A codec of the user's own."""

    def encode(self, value):
        return json.dumps(value).encode()

    def decode(self, body):
        return json.loads(body)


def test_a_codec_of_ones_own_encodes_what_is_kept():
    store = BulkMemoryStore()
    cache = PredictionCache(store, codec=Json())
    assert cache.set(ROW, "v1", {"score": 0.5})
    assert b'{"score": 0.5}' in store._values[cache.explain(ROW, "v1").key][0]
    assert cache.get(ROW, "v1") == {"score": 0.5}
    assert PredictionCache(store, codec=Json()).get(ROW, "v1") == {"score": 0.5}
    assert not cache.set(ROW, "v1", object())
    assert cache.stats().unstorable == 1


def test_what_one_codec_wrote_another_does_not_misread():
    store = BulkMemoryStore()
    PredictionCache(store, codec=Json()).set(ROW, "v1", 5)
    cache = PredictionCache(store)
    assert cache.get(ROW, "v1") is MISS
    assert cache.stats().corrupt == 1


class Forgetful(Json):
    def decode(self, body):
        raise LookupError("gone")


def test_a_codec_that_cannot_read_what_it_wrote_breaks_no_prediction():
    cache = PredictionCache(BulkMemoryStore(), codec=Forgetful())
    predict = cached_prediction(cache, version="v1")(lambda row: {"score": 0.5})
    assert [predict(ROW), predict(ROW)] == [{"score": 0.5}] * 2
    cache.set(ROW, "v1", [1])
    assert cache.get(ROW, "v1") is MISS
    assert cache.stats().corrupt == 2


def test_encrypted_answers_cannot_be_read_in_the_store():
    store = BulkMemoryStore()
    cache = PredictionCache(store, secret="sixteen bytes...", encryption="aes-gcm")
    cache.set(ROW, "v1", "a diagnosis")
    assert all(b"diagnosis" not in value for value, _ in store._values.values())
    other = PredictionCache(store, secret="sixteen bytes...", encryption="aes-gcm")
    assert other.get(ROW, "v1") == "a diagnosis"
    for stranger in ({"secret": "sixteen bytes..."}, {"secret": "other", "encryption": "aes-gcm"}):
        assert PredictionCache(store, **stranger).get(ROW, "v1") is MISS


def test_an_encrypted_cache_can_be_retuned_but_not_decrypted():
    cache = PredictionCache(secret="sixteen bytes...", encryption="aes-gcm", codec=Json())
    retune(cache, ttl=60.0)
    assert settings_of(cache)["encryption"] == "aes-gcm"
    with pytest.raises(BadConfiguration, match="another mode"):
        retune(cache, encryption=None)
