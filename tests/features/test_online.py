import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.features import Aged, FeatureService, FeatureView, OnlineStore
from prodml.testing import ManualClock

JFK = {"origin": "JFK"}
TIMES = st.integers(0, 40).map(float)
PUTS = st.lists(st.tuples(st.sampled_from("ab"), TIMES, st.integers()))


def naive_as_of(puts, at):
    """The last put of each name among those not after ``at``, later puts winning ties."""
    found = {}
    for name, time, value in puts:
        if time <= at and (name not in found or time >= found[name][1]):
            found[name] = (value, time)
    return {name: Aged(value, time) for name, (value, time) in found.items()}


@given(PUTS, TIMES)
def test_a_lookup_equals_the_naive_model_and_never_sees_the_future(puts, at):
    store = OnlineStore(retention=1000)
    for name, time, value in puts:
        store.put("v", JFK, {name: value}, at=time)
    found = store.as_of("v", JFK, at)
    assert found == naive_as_of(puts, at)
    assert all(value.at <= at for value in found.values())


@given(PUTS, TIMES, st.floats(0.5, 20))
def test_within_its_retention_a_lookup_is_exact(puts, at, retention):
    store = OnlineStore(retention=retention)
    for name, time, value in puts:
        store.put("v", JFK, {name: value}, at=time)
    found = store.as_of("v", JFK, at)
    for name, expected in naive_as_of(puts, at).items():
        newest = max(time for other, time, _ in puts if other == name)
        if at >= newest - retention:
            assert found[name] == expected


@given(st.lists(TIMES, min_size=1), st.floats(0.5, 20))
def test_history_is_bounded_by_the_retention(times, retention):
    store = OnlineStore(retention=retention)
    for time in times:
        store.put("v", JFK, {"a": time}, at=time)
    (row,) = store._rows.values()
    kept = row["a"].times
    assert kept == sorted(kept)
    assert sum(time <= max(times) - retention for time in kept) <= 1


def test_a_value_put_late_finds_its_place():
    store = OnlineStore()
    store.put("v", JFK, {"a": "new"}, at=20.0)
    store.put("v", JFK, {"a": "late"}, at=10.0)
    assert store.as_of("v", JFK, 15.0) == {"a": Aged("late", 10.0)}
    assert store.as_of("v", JFK, 25.0) == {"a": Aged("new", 20.0)}


@pytest.mark.parametrize("value", [0, "", False, None])
def test_falsy_values_are_kept(value):
    store = OnlineStore()
    store.put("v", JFK, {"a": value}, at=1.0)
    assert store.as_of("v", JFK, 1.0) == {"a": Aged(value, 1.0)}


def test_fetch_tells_the_age_and_does_not_see_what_is_dated_ahead():
    clock = ManualClock()
    store = OnlineStore(clock=clock)
    store.put("v", JFK, {"a": 1, "b": 2})
    store.put("v", JFK, {"a": 9}, at=clock.time() + 10)
    clock.advance(5)
    assert store.fetch("v", JFK, ["a"]) == {"a": Aged(1, clock.time() - 5)}
    clock.advance(5)
    assert store.fetch("v", JFK, ["a"])["a"].value == 9


def test_views_and_entities_are_apart():
    store = OnlineStore()
    store.put("v", {"id": 1}, {"a": 1}, at=1.0)
    assert store.as_of("w", {"id": 1}, 5.0) == {}
    assert store.as_of("v", {"id": True}, 5.0) == {}
    assert store.as_of("v", {"id": "1"}, 5.0) == {}
    assert len(store) == 1


def test_the_order_of_an_entitys_keys_does_not_matter():
    store = OnlineStore()
    store.put("v", {"x": 1, "y": "b"}, {"a": 1}, at=1.0)
    assert store.as_of("v", {"y": "b", "x": 1}, 1.0) == {"a": Aged(1, 1.0)}


def test_a_forgotten_entity_is_gone():
    store = OnlineStore()
    store.put("v", JFK, {"a": 1}, at=1.0)
    assert store.forget("v", JFK)
    assert store.as_of("v", JFK, 1.0) == {}
    assert not store.forget("v", JFK)


def test_a_store_serves_a_view_and_goes_stale():
    clock = ManualClock()
    store = OnlineStore(clock=clock)
    store.put("weather", JFK, {"wind": 7.0})
    weather = FeatureView(
        "weather",
        features=("wind",),
        entity=("origin",),
        source=store.source("weather"),
        max_age=3600,
        defaults={"wind": 5.0},
    )
    service = FeatureService(weather, clock=clock)
    assert service.complete(JFK).features["wind"] == 7.0
    clock.advance(3601)
    done = service.complete(JFK)
    assert (done.features["wind"], done.stale) == (5.0, ("wind",))


def test_threads_that_put_and_look_up_see_whole_histories():
    store = OnlineStore(retention=10)

    def work(i):
        store.put("v", JFK, {"a": i}, at=float(i % 50))
        return store.as_of("v", JFK, 100.0)["a"]

    with ThreadPoolExecutor(8) as pool:
        assert all(found.value % 50 == found.at for found in pool.map(work, range(500)))


@pytest.mark.parametrize("retention", [0, -1, math.nan])
def test_a_retention_that_is_not_positive_is_refused(retention):
    with pytest.raises(BadConfiguration, match="retention"):
        OnlineStore(retention=retention)


@pytest.mark.parametrize("at", [math.nan, math.inf])
def test_a_time_that_is_not_finite_is_refused(at):
    with pytest.raises(ValueError, match="finite"):
        OnlineStore().put("v", JFK, {"a": 1}, at=at)
