import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml._window import FAILED, OK, SLOW, CountWindow, Tally, TimeWindow
from prodml.errors import BadConfiguration

OUTCOMES = st.sampled_from([OK, FAILED, SLOW, FAILED | SLOW])


def count(outcomes):
    return Tally(
        total=len(outcomes),
        failures=sum(bool(outcome & FAILED) for outcome in outcomes),
        slow=sum(bool(outcome & SLOW) for outcome in outcomes),
    )


@given(st.integers(1, 7), st.lists(OUTCOMES, max_size=30))
def test_a_count_window_holds_the_last_outcomes(size, outcomes):
    window = CountWindow(size)
    for outcome in outcomes:
        window.add(outcome)
    assert window.tally() == count(outcomes[-size:])


@given(
    st.sampled_from([1, 4, 10]),
    st.lists(st.tuples(OUTCOMES, st.integers(0, 5)), max_size=30),
    st.integers(0, 20),
)
def test_a_time_window_holds_the_slices_that_have_not_expired(buckets, calls, wait):
    window, now, noted = TimeWindow(float(buckets), buckets), 100, []
    for outcome, pause in calls:
        now += pause
        noted.append((now, outcome))
        window.add(outcome, now + 0.5)
    end = now + wait
    assert window.tally(end + 0.5) == count([o for at, o in noted if at > end - buckets])


def test_failures_expire_though_nobody_touches_their_slice():
    window = TimeWindow(3.0)
    for _ in range(50):
        window.add(FAILED, 0.0)
    window.add(OK, 4.0)
    assert window.tally(4.0) == Tally(1, 0, 0)


def test_a_thread_that_was_held_up_cannot_wipe_a_newer_slice():
    window = TimeWindow(10.0)
    window.add(FAILED, 15.0)
    window.add(OK, 5.0)
    assert window.tally(15.0) == Tally(1, 1, 0)


def test_rates_of_nothing_are_zero():
    assert (Tally().failure_rate, Tally().slow_rate) == (0.0, 0.0)
    assert (Tally(4, 1, 2).failure_rate, Tally(4, 1, 2).slow_rate) == (0.25, 0.5)


@pytest.mark.parametrize("window", [CountWindow(10_000), TimeWindow(1000.0)], ids=["count", "time"])
def test_no_outcome_of_many_threads_is_lost(window):
    start = threading.Barrier(8)

    def feed(outcome):
        start.wait()
        for _ in range(1000):
            window.add(outcome, 5.0)

    threads = [threading.Thread(target=feed, args=(n % 2,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert window.tally(5.0) == Tally(8000, 4000, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CountWindow(0),
        lambda: TimeWindow(0.0),
        lambda: TimeWindow(float("nan")),
        lambda: TimeWindow(1.0, 0),
    ],
)
def test_an_empty_window_is_refused(make):
    with pytest.raises(BadConfiguration):
        make()
