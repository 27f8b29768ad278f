import asyncio
import os
import subprocess
import sys

import numpy as np
import pytest

from prodml.cache import MISS, PredictionCache, cached_prediction
from prodml.cache.disk import DiskTier
from prodml.cache.disk_layer import DiskLayer, ends_of
from prodml.cache.stats import Counts
from prodml.cache.tier import StoreTier
from prodml.testing import ManualClock
from tests.cache.stores import BulkMemoryStore, DeadStore


def cache_on(path, store=None, **settings):
    """What ``PredictionCache(store, disk=path)`` shall be."""
    cache = PredictionCache(store, **settings)
    below, disk = cache._tier, DiskTier(path, "4 MiB", clock=cache.clock)
    cache._tier = DiskLayer(disk, below, ends=ends_of(cache._sealer))
    return cache


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def restart(path):
    made = []

    def restart(store=None, **settings):
        if made:
            made[-1].close()
        made.append(cache_on(path, store, **settings))
        return made[-1]

    yield restart
    made[-1].close()


def test_a_restarted_process_answers_what_its_predecessor_knew(restart):
    restart().set({"a": 1}, "v1", 0.5)
    cache = restart()
    assert cache.get({"a": 1}, "v1") == 0.5
    assert cache.get({"a": 2}, "v1") is MISS
    assert (cache.stats().store_hits, cache.stats().misses) == (1, 1)


def test_a_dropped_version_stays_dropped(restart):
    cache = restart()
    cache.set({"a": 1}, "v1", 0.5)
    assert cache.drop("v1")
    assert cache.get({"a": 1}, "v1") is MISS
    cache.set({"a": 2}, "v1", 0.25)
    cache = restart()
    assert cache.get({"a": 1}, "v1") is MISS
    assert cache.get({"a": 2}, "v1") == 0.25


def test_a_drop_survives_a_kill(path):
    code = """
import os, signal, sys
from tests.cache.test_disk_layer import cache_on
cache = cache_on(sys.argv[1])
cache.set({"a": 1}, "v1", 0.5)
cache._tier._disk.flush()
cache.drop("v1")
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
    cache = cache_on(path)
    assert cache.get({"a": 1}, "v1") is MISS
    cache.close()


def test_another_process_on_the_same_file_hears_of_a_drop_within_a_second(path):
    clock = ManualClock()
    one, other = cache_on(path, clock=clock), cache_on(path, clock=clock)
    one.set({"a": 1}, "v1", 0.5)
    one._tier._disk.flush()
    clock.advance(2.0)
    assert other.get({"a": 1}, "v1") == 0.5
    one.drop("v1")
    clock.advance(1.0)
    assert other.get({"a": 1}, "v1") is MISS
    one.close()
    other.close()


def test_what_the_store_gave_is_kept(restart):
    store = BulkMemoryStore()
    PredictionCache(store).set({"a": 1}, "v1", 0.5)
    assert restart(store).get({"a": 1}, "v1") == 0.5
    # The store is gone, and the process begins anew.
    cache = restart(DeadStore())
    assert cache.get({"a": 1}, "v1") == 0.5


def test_with_the_store_away_a_restart_does_not_bring_back_what_was_dropped(restart):
    store = BulkMemoryStore()
    cache = restart(store)
    cache.set({"a": 1}, "v1", 0.5)
    cache.drop("v1")
    cache.set({"a": 2}, "v1", 0.25)
    cache = restart(DeadStore())
    assert cache.get({"a": 1}, "v1") is MISS
    assert cache.get({"a": 2}, "v1") == 0.25


def test_a_drop_elsewhere_is_heard_from_the_store(restart):
    store, clock = BulkMemoryStore(), ManualClock()
    cache = restart(store, clock=clock)
    cache.set({"a": 1}, "v1", 0.5)
    PredictionCache(store).drop("v1")
    clock.advance(1.0)
    assert cache.get({"a": 1}, "v1") is MISS
    assert restart(store, clock=clock).get({"a": 1}, "v1") is MISS


def test_what_is_on_the_disk_is_not_asked_of_the_store(restart):
    store = BulkMemoryStore()
    rows = np.arange(8.0).reshape(4, 2)
    for _ in range(2):
        cache = restart(store, memory=None)
        score = cached_prediction(cache, version="v1", batch=True, function="f")(
            lambda rows: rows.sum(axis=1)
        )
        store.trips.clear()
        np.testing.assert_array_equal(score(rows), [1, 5, 9, 13])
    assert store.trips == ["setdefault"]
    np.testing.assert_array_equal(score(np.vstack([rows, rows[:1] + 9])), [1, 5, 9, 13, 19])
    # One row is not there; its container is told again with it.
    assert store.trips == ["setdefault", "get", "set_many"]


def test_entries_end_on_the_disk_when_they_end(restart):
    clock = ManualClock()
    restart(clock=clock, ttl=10.0, stale_if_error=100.0, jitter=0.0).set({"a": 1}, "v1", 0.5)
    clock.advance(9.0)
    assert restart(clock=clock, ttl=10.0).get({"a": 1}, "v1") == 0.5
    clock.advance(2.0)
    assert restart(clock=clock, ttl=10.0).get({"a": 1}, "v1") is MISS


def test_bytes_of_others_are_misses(restart, path):
    cache = restart(secret="one")
    cache.set({"a": 1}, "v1", 0.5)
    name = cache.explain({"a": 1}, "v1").key
    cache.close()
    disk = DiskTier(path)
    disk.set(name, disk.get(name)[:-1] + b"?")
    disk.close()
    cache = restart(secret="one")
    assert cache.get({"a": 1}, "v1") is MISS
    assert cache.stats().corrupt == 1


def test_tasks_use_the_disk_too(path):
    async def main():
        cache = cache_on(path)
        await cache.aset({"a": 1}, "v1", 0.5)
        await cache.adrop("v1")
        await cache.aset({"a": 2}, "v1", 0.25)
        await cache.aclose()
        again = cache_on(path)
        found = await again.aget({"a": 1}, "v1"), await again.aget({"a": 2}, "v1")
        await again.aclose()
        return found

    assert asyncio.run(main()) == (MISS, 0.25)


def test_flights_and_leases_go_to_the_store(path):
    from prodml._call import run

    layer = DiskLayer(DiskTier(path), None, ends=lambda envelope: None)
    assert run(layer.claim("n", "t", 1.0)) == (None, True)
    assert run(layer.watch("n")) == (None, None)
    assert run(layer.prolong("n", "t", 1.0)) is True
    assert run(layer.unclaim("n", "t")) is None
    assert (layer.leases, layer.store, layer.down()) == (False, None, False)
    store = BulkMemoryStore()
    below = StoreTier(store, PredictionCache(store)._tier._guard, Counts())
    assert DiskLayer(DiskTier(path), below, ends=lambda envelope: None).store is store


def test_a_first_epoch_never_takes_the_place_of_a_drop(path):
    one, other = DiskTier(path), DiskTier(path)
    with one._writing:
        one.propose("epoch", b"proposal")
        assert one.token("epoch") == b"proposal"
        assert other.pin("epoch", b"the drop")
    assert one.flush()
    assert one.token("epoch") == other.token("epoch") == b"the drop"
    one.close()
    other.close()
