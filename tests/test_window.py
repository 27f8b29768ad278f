import sys
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


@pytest.mark.parametrize("slow_after", [None, 2.0])
@given(
    st.booleans(),
    st.lists(st.tuples(OUTCOMES, st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0])), max_size=40),
)
def test_the_short_way_notes_what_the_long_way_notes(slow_after, by_count, calls):
    def fed(short):
        window = CountWindow(6) if by_count else TimeWindow(5.0, 5)
        now, tallies = [100.0], []
        note = window.healthy(lambda: now[0], slow_after, lambda began: window.add(SLOW, now[0]))
        for outcome, pause, took in calls:
            now[0] += pause
            began = now[0]
            now[0] += took
            late = slow_after is not None and took >= slow_after
            if outcome != OK:
                window.add(outcome, now[0])
            elif short:
                note(began)
            else:
                window.add(SLOW if late else OK, now[0])
            tallies.append(window.tally(now[0]))
        return tallies

    assert fed(True) == fed(False)


@pytest.mark.parametrize("window", [CountWindow(80_000), TimeWindow(1e9)], ids=["count", "time"])
def test_no_success_of_many_threads_is_lost_though_none_takes_a_lock(window):
    note = window.healthy(lambda: 5.0, None, print)
    start, usual = threading.Barrier(8), sys.getswitchinterval()

    def feed():
        start.wait()
        for number in range(2000):
            note(0.0)
            if number % 100 == 0:
                window.tally(5.0)

    threads = [threading.Thread(target=feed) for _ in range(8)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert window.tally(5.0) == Tally(16_000, 0, 0)


def test_a_success_in_a_new_slice_begins_it():
    window, now = TimeWindow(10.0), [0.0]
    note = window.healthy(lambda: now[0], None, print)
    for now[0] in (0.5, 0.6, 3.0, 9.9):
        note(0.0)
    assert [window.tally(at).total for at in (9.9, 10.2, 12.9, 13.5, 25.0)] == [4, 2, 2, 1, 0]
