"""Everything that talks to Redis also works on 6.2, the oldest server that is promised."""

import asyncio

import pytest
import redis

from prodml import PredictionCache, cached_prediction
from prodml.integrations.redis import RedisStore
from prodml.testing import check_store

pytestmark = pytest.mark.server


def test_it_really_is_an_old_server(oldest_url):
    with redis.Redis.from_url(oldest_url) as client:
        assert client.info()["redis_version"].startswith("6.2")


def test_the_store_keeps_its_contract(oldest_url):
    store = RedisStore(oldest_url)
    check_store(lambda: store)
    store.close()


def test_a_prediction_is_shared_dropped_and_awaited(oldest_url):
    calls = []

    def predict(features):
        calls.append(features["x"])
        return features["x"] / 2

    def worker():
        cache = PredictionCache(oldest_url)
        return cache, cached_prediction(cache, version="v1", function="half")(predict)

    first, one = worker()
    second, two = worker()
    assert one({"x": 3}) == two({"x": 3}) == 1.5
    assert calls == [3]
    assert first.drop("v1")
    third, three = worker()
    assert three({"x": 3}) == 1.5
    assert calls == [3, 3]
    assert asyncio.run(third.aget({"x": 3}, "v1", function="half")) == 1.5
    for cache in (first, second, third):
        cache.close()
