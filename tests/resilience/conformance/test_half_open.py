"""Whom a half-open breaker admits, whom it believes, and how it gets on from there."""

import asyncio
import collections
import threading

import pytest
from tests.resilience.conformance.calls import (
    Background,
    ending,
    fail,
    half_open,
    rejects,
    trip,
    well,
)
from tests.resilience.conformance.forms import ASYNC_DEF, AWAITED, DEF
from tests.resilience.conformance.subjects import Business, Lacking

CROWD = 16


@pytest.mark.check(0)
def test_a_trial_that_succeeds_closes_it(form, subject):
    half_open(form, subject)
    assert form.run(subject, well) == "well"
    assert subject.says("closed")
    assert form.run(subject, well) == "well"


@pytest.mark.check(0)
def test_a_trial_that_fails_opens_it_again(form, subject):
    half_open(form, subject)
    trip(form, subject, 1)
    assert rejects(form, subject)
    subject.pass_time(subject.reset)
    assert form.run(subject, well) == "well"
    assert subject.says("closed")


def rush(form, subject):
    """Let 16 threads come at once; how many were inside before the first came out?"""
    start, arrived, out = threading.Barrier(CROWD), threading.Semaphore(0), threading.Event()
    inside = []

    def trial():
        inside.append(1)
        arrived.release()
        return out.wait(60)

    def ask():
        start.wait(subject.patience)
        try:
            form.run(subject, trial)
        except subject.rejection:
            arrived.release()

    calls = [Background(ask) for _ in range(CROWD)]
    for _ in range(CROWD):
        if not arrived.acquire(timeout=subject.patience):
            # Others wait at a lock that a trial holds: nobody else comes in meanwhile.
            break
    count = len(inside)
    out.set()
    for call in calls:
        call.result(subject.patience)
    return count


@pytest.mark.check(2)
@pytest.mark.parametrize("cap", [1, 3])
def test_no_more_trials_than_the_cap_when_16_threads_come_at_once(form, build, cap):
    # Peers that have a cap at all ask for as many successes.
    subject = build(trials=cap, successes=cap)
    half_open(form, subject)
    count = rush(form, subject)
    assert count == cap, f"{count} of {CROWD} at once"


def crowd_of_half_open(form, build, rounds):
    subjects = [build() for _ in range(rounds)]
    for subject in subjects:
        trip(form, subject)
    for subject in subjects:
        subject.pass_time(subject.reset)
    return subjects


@pytest.mark.check(2)
@pytest.mark.parametrize("form", [DEF], ids=str, indirect=True)
def test_one_trial_at_a_time_in_many_rounds_of_16_threads(form, build, cls, restless, overlapping):
    subjects = crowd_of_half_open(form, build, cls.rounds)
    start, end = threading.Barrier(CROWD), threading.Barrier(CROWD)
    inside = collections.Counter()

    def hammer():
        for number, subject in enumerate(subjects):
            start.wait(subject.patience)
            rejected = False
            try:
                # The trial waits for the rejected, so that none comes after it.
                form.run(subject, lambda: (inside.update([number]), end.wait(subject.patience)))  # noqa: B023
            except subject.rejection:
                rejected = True
            if rejected:
                end.wait(subject.patience)

    for thread in [Background(hammer) for _ in range(CROWD)]:
        thread.result(60)
    assert set(inside.values()) == {1}, f"up to {max(inside.values())} of {CROWD} at once"


async def rush_of_tasks(form, subject):
    out, inside = asyncio.Event(), []

    async def trial():
        inside.append(1)
        await out.wait()

    tasks = [asyncio.create_task(form.arun(subject, trial)) for _ in range(CROWD)]
    for _ in range(10):
        await asyncio.sleep(0)
    count = len(inside)
    out.set()
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert answer is None or isinstance(answer, subject.rejection), repr(answer)
    return count


@pytest.mark.check(3)
@pytest.mark.parametrize("form", AWAITED, ids=str, indirect=True)
@pytest.mark.parametrize("cap", [1, 3])
def test_no_more_trials_than_the_cap_when_16_tasks_come_at_once(form, build, cap):
    subject = build(trials=cap, successes=cap)
    half_open(form, subject)
    count = asyncio.run(rush_of_tasks(form, subject))
    assert count == cap, f"{count} of {CROWD} at once"


@pytest.mark.check(3)
@pytest.mark.parametrize("form", [ASYNC_DEF], ids=str, indirect=True)
def test_one_trial_at_a_time_in_many_rounds_of_16_tasks(form, build, cls):
    async def main():
        return [
            await rush_of_tasks(form, subject)
            for subject in crowd_of_half_open(form, build, cls.rounds)
        ]

    counts = asyncio.run(main())
    assert set(counts) == {1}, f"up to {max(counts)} of {CROWD} at once"


@pytest.mark.check(10)
def test_a_call_from_before_the_opening_does_not_close_it(form, subject, overlapping):
    def slow():
        trip(form, subject)
        return "late"

    assert form.run(subject, slow) == "late"
    assert subject.says("open"), f"{subject.state()} by a call from before the opening"
    assert rejects(form, subject)


@pytest.mark.check(11)
def test_a_call_from_before_the_opening_does_not_answer_for_the_trial(
    form, subject, overlapping, hold
):
    old = hold(subject)
    half_open(form, subject)
    trial = hold(subject)
    assert old.end() == "late"
    assert not subject.says("closed"), "closed while the trial still runs"
    with pytest.raises(subject.trips_with):
        trial.end(fail)
    assert rejects(form, subject), "the trial failed, and calls are let through"


@pytest.mark.check(12)
def test_an_ignored_error_of_a_trial_decides_nothing_and_frees_its_slot(form, build):
    subject = build(ignore=(Business,))
    half_open(form, subject)
    for _ in range(3):
        with pytest.raises(Business):
            form.run(subject, ending(Business()))
        assert subject.says("half_open"), f"{subject.state()} by an ignored error"
    assert form.run(subject, well) == "well"
    assert subject.says("closed")


@pytest.mark.check(13)
@pytest.mark.parametrize("form", AWAITED, ids=str, indirect=True)
def test_a_cancelled_trial_decides_nothing_and_frees_its_slot(form, subject):
    async def cancelled():
        task = asyncio.create_task(form.arun(subject, lambda: asyncio.sleep(30)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    half_open(form, subject)
    for _ in range(3):
        asyncio.run(cancelled())
        assert not subject.says("closed"), "closed by a cancelled trial"
    assert not rejects(form, subject), "rejects after cancelled trials"
    assert subject.says("closed")


@pytest.mark.check(14)
def test_a_trial_that_never_returns_loses_its_slot(form, subject, hold):
    half_open(form, subject)
    hold(subject)
    subject.pass_time(3 * subject.reset)
    following = Background(lambda: rejects(form, subject))
    assert not following.result(subject.patience), "rejects three reset times later"


@pytest.mark.check(15)
def test_a_trial_of_an_earlier_period_does_not_count_in_a_later_one(form, build, overlapping, hold):
    subject = build(trials=2, successes=2)
    half_open(form, subject)
    old = hold(subject)
    trip(form, subject, 1)
    if subject.state() != "open":
        raise Lacking("a failed trial ends the period only when the others have ended")
    subject.pass_time(subject.reset)
    current = hold(subject)
    assert old.end() == "late"
    assert current.end(well) == "well"
    assert not subject.says("closed"), "closed by one success of its period"
    assert form.run(subject, well) == "well"
    assert subject.says("closed")


@pytest.mark.check(19)
def test_a_late_failure_does_not_prolong_the_open_time(form, subject, overlapping):
    def slow_failure():
        trip(form, subject)
        subject.pass_time(0.8 * subject.reset)
        fail()

    with pytest.raises(subject.trips_with):
        form.run(subject, slow_failure)
    subject.pass_time(0.2 * subject.reset)
    assert subject.says("half_open"), "the open time began again"
    assert not rejects(form, subject), "the open time began again"


@pytest.mark.check(20)
def test_the_wall_clock_may_be_set_back(form, subject, monkeypatch):
    trip(form, subject)
    subject.step_wall(-3600.0, monkeypatch)
    subject.pass_time(subject.reset)
    assert not rejects(form, subject), "rejects for another hour"


@pytest.mark.check(20)
def test_a_time_window_forgets_by_itself(form, build):
    subject = build(span=30.0)
    trip(form, subject, 2)
    subject.pass_time(33.0)
    trip(form, subject, 1)
    assert subject.says("closed"), f"{subject.state()} by failures from before the window"
    subject.pass_time(1.0)
    trip(form, subject, 2)
    assert subject.says("open")


@pytest.mark.check(22)
def test_a_retry_outside_an_open_breaker_fails_at_once(form, subject):
    trip(form, subject)
    with pytest.raises(subject.rejection):
        subject.retrying(lambda: form.run(subject, well))
    assert subject.slept == [], f"sleeps {sum(subject.slept):.3g} s"
    assert subject.says("open")
