import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.features import FeatureService, FeatureView, WindowedMean
from prodml.testing import ManualClock

JFK, LGA = {"origin": "JFK"}, {"origin": "LGA"}
TIMES = st.integers(0, 60).map(float)
SEEN = st.lists(st.tuples(TIMES, st.floats(-1e6, 1e6)))


def naive_mean(seen, start, end):
    values = [Fraction(value) for time, value in seen if start <= time <= end]
    return float(sum(values) / len(values)) if values else None


@given(SEEN, TIMES, st.tuples(st.integers(0, 10), st.integers(1, 30)))
def test_the_mean_is_that_of_the_window_in_whatever_order_things_arrived(seen, at, window):
    ends, length = window
    delay = WindowedMean("d", window_start=ends + length, window_end=ends, retention=math.inf)
    for time, value in seen:
        delay.observe(JFK, value, at=time)
    expected = naive_mean(seen, at - ends - length, at - ends)
    found = delay.mean(JFK, at=at)
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(SEEN.filter(bool), st.floats(0, 30))
def test_after_pruning_a_query_from_now_on_is_still_exact(seen, later):
    delay = WindowedMean("d", window_start=10, window_end=2)
    for time, value in seen:
        delay.observe(JFK, value, at=time)
    at = max(time for time, _ in seen) + later
    expected = naive_mean(seen, at - 10, at - 2)
    assert delay.mean(JFK, at=at) == (
        None if expected is None else pytest.approx(expected, rel=1e-12, abs=1e-12)
    )


@given(SEEN, TIMES)
def test_no_window_sees_the_future(seen, at):
    delay = WindowedMean("d", window_start=10, window_end=2, retention=math.inf)
    for time, value in seen:
        delay.observe(JFK, value, at=time)
    before = delay.mean(JFK, at=at)
    delay.observe(JFK, 1e6, at=at - 1)
    delay.observe(JFK, 1e6, at=at + 1)
    assert delay.mean(JFK, at=at) == before


def test_small_values_after_a_huge_one_keep_their_digits():
    delay = WindowedMean("d", window_start=10, retention=math.inf)
    for time, value in enumerate([1e16, 0.1, 0.2, 0.3]):
        delay.observe(JFK, value, at=time * 20.0)
    assert delay.mean(JFK, at=60.0) == pytest.approx(0.3, rel=1e-12)


def test_both_ends_of_the_window_belong_to_it():
    delay = WindowedMean("d", window_start=3, window_end=1)
    for time in (6.0, 7.0, 8.0, 9.0, 10.0):
        delay.observe(JFK, time, at=time)
    assert (delay.mean(JFK, at=10.0), delay.count(JFK, at=10.0)) == (8.0, 3)


def test_memory_is_bounded_by_the_retention():
    delay = WindowedMean("d", window_start=10)
    for time in range(1000):
        delay.observe(JFK, 1.0, at=float(time))
    (series,) = delay._series.values()
    assert len(series.times) < 30
    assert len(series.highs) == len(series.lows) == len(series.times) + 1


def test_entities_are_apart():
    delay = WindowedMean("d", window_start=10)
    delay.observe(JFK, 5.0, at=1.0)
    assert delay.mean(LGA, at=1.0) is None
    assert delay.count(LGA, at=1.0) == 0


@pytest.mark.parametrize(("value", "at"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_no_number_is_counted_and_ignored(value, at):
    delay = WindowedMean("d", window_start=10)
    delay.observe(JFK, 3.0, at=1.0)
    delay.observe(JFK, value, at=at)
    assert (delay.mean(JFK, at=1.0), delay.ignored) == (3.0, 1)


def test_too_few_observations_make_no_mean():
    delay = WindowedMean("d", window_start=10, min_count=2)
    delay.observe(JFK, 0.0, at=1.0)
    assert delay.mean(JFK, at=1.0) is None
    delay.observe(JFK, 0.0, at=2.0)
    assert delay.mean(JFK, at=2.0) == 0.0


def test_it_is_a_source_for_a_view():
    clock = ManualClock()
    delay = WindowedMean("delay", window_start=3 * 3600, window_end=3600, clock=clock)
    view = FeatureView("delays", features=("delay",), entity=("origin",), source=delay)
    service = FeatureService(view, clock=clock)
    delay.observe(JFK, 30.0, at=clock.time())
    assert service.complete(JFK).missing == ("delay",)
    clock.advance(3600)
    assert service.complete(JFK).features["delay"] == 30.0
    assert delay.fetch(JFK, ["other"]) == {}


def test_threads_lose_no_observation():
    delay = WindowedMean("d", window_start=1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: delay.observe(JFK, 1.0, at=float(i % 100)), range(800)))
    assert delay.count(JFK, at=100.0) == 800


@pytest.mark.parametrize(
    "settings",
    [
        {"window_start": 1, "window_end": 1},
        {"window_start": 5, "window_end": -1},
        {"window_start": math.nan},
        {"window_start": 5, "retention": 4},
        {"window_start": 5, "min_count": 0},
    ],
)
def test_a_window_that_makes_no_sense_is_refused(settings):
    with pytest.raises(BadConfiguration):
        WindowedMean("d", **settings)
