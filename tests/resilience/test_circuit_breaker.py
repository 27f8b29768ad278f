import asyncio
import contextlib
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml._settings import retune, settings_of
from prodml._window import Tally
from prodml.errors import BadConfiguration, BulkheadFull, CircuitOpen, DeadlineExceeded
from prodml.events import CircuitOpened, SettingsChanged, Stream
from prodml.resilience import (
    CircuitBreaker,
    CircuitState,
    Deadline,
    Exponential,
    Timeout,
    compose,
)
from prodml.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def well():
    return "well"


def fail():
    raise ConnectionError("down")


def call(breaker, *bodies):
    for body in bodies:
        try:
            breaker.call(body)
        except ConnectionError:
            continue


def half_open(breaker, clock):
    call(breaker, fail, fail, fail)
    clock.advance(10.0)


def test_the_states_have_the_values_of_the_field():
    assert [state.value for state in CircuitState] == ["closed", "open", "half_open"]


# -- rules ------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1, 2, 5])
def test_it_opens_at_exactly_the_threshold(make, threshold):
    breaker = make(failure_threshold=threshold)
    call(breaker, *[fail] * (threshold - 1))
    assert breaker.state is CLOSED
    call(breaker, fail)
    assert breaker.state is OPEN


def test_a_rate_opens_it_once_there_are_enough_calls(make):
    breaker = make(failure_threshold=None, failure_rate=0.5, window=10, min_calls=4)
    call(breaker, fail, well, fail)
    assert breaker.state is CLOSED
    call(breaker, fail)
    assert breaker.state is OPEN
    assert breaker.snapshot().reason == "3 of 4 calls failed, the last: ConnectionError"


def test_a_rate_forgets_calls_beyond_the_window(make):
    breaker = make(failure_threshold=None, failure_rate=0.5, window=4, min_calls=4)
    call(breaker, fail, well, well, well, well, fail)
    assert breaker.state is CLOSED
    assert breaker.snapshot().window == Tally(4, 1, 0)


def test_a_rate_forgets_calls_of_long_ago(make, clock):
    breaker = make(failure_threshold=None, failure_rate=0.5, window_seconds=10.0, min_calls=4)
    call(breaker, fail, fail, fail)
    clock.advance(11.0)
    call(breaker, well, fail, fail)
    assert breaker.state is CLOSED
    call(breaker, fail)
    assert breaker.state is OPEN


def test_either_rule_opens_it(make):
    breaker = make(failure_rate=0.5, window=10, min_calls=10)
    call(breaker, fail, fail, fail)
    assert breaker.state is OPEN


def test_a_success_notes_itself_in_the_window_in_every_mood(make):
    breaker = make(failure_rate=0.9, window=10, min_calls=10)
    call(breaker, well, fail, well, well)
    assert breaker.snapshot().window == Tally(4, 1, 0)
    assert breaker.snapshot().consecutive == 0


def slow_by(clock, seconds):
    return lambda: clock.advance(seconds)


def test_slow_calls_open_it(make, clock):
    breaker = make(slow_after=2.0, slow_rate=0.5, window=10, min_calls=4)
    call(breaker, well, well, slow_by(clock, 2.0))
    assert breaker.state is CLOSED
    call(breaker, slow_by(clock, 3.0))
    assert breaker.state is OPEN
    assert breaker.snapshot().reason == "2 of 4 calls took 2 s or more"


def test_a_slow_failure_is_both(make, clock):
    breaker = make(slow_after=2.0, window=10, min_calls=10)

    def slow_failure():
        clock.advance(2.0)
        fail()

    call(breaker, slow_failure, slow_by(clock, 1.9))
    assert breaker.snapshot().window == Tally(2, 1, 1)


def test_a_slow_trial_is_a_failed_one(make, clock):
    breaker = make(slow_after=2.0, window=10, min_calls=10)
    half_open(breaker, clock)
    call(breaker, slow_by(clock, 2.5))
    assert breaker.state is OPEN
    assert breaker.snapshot().reason == "trial call was slow"


def test_an_ignored_error_is_not_even_slow(make, clock):
    breaker = make(slow_after=2.0, window=10, min_calls=10, ignore=(KeyError,))

    def slow_refusal():
        clock.advance(5.0)
        raise KeyError

    with pytest.raises(KeyError):
        breaker.call(slow_refusal)
    assert breaker.snapshot().window == Tally()


def test_results_can_be_failures(make, clock):
    breaker = make(failed=lambda status: status >= 500)
    for _ in range(3):
        assert breaker(lambda: 503)() == 503
    assert breaker.state is OPEN
    clock.advance(10.0)
    assert breaker(lambda: 200)() == 200
    assert breaker.state is CLOSED


def test_a_result_that_the_predicate_cannot_read_is_a_failure(make):
    breaker = make(failed=lambda status: status >= 500)
    for _ in range(3):
        assert breaker(lambda: None)() is None
    assert breaker.state is OPEN


def test_a_rejection_from_inside_is_no_verdict(make):
    breaker = make(failure_threshold=1)
    breaker.fail(breaker.enter(), BulkheadFull("pool", 1))
    assert breaker.state is CLOSED


def test_a_timeout_from_inside_is_a_failure(make):
    breaker = make(failure_threshold=1)
    breaker.fail(breaker.enter(), DeadlineExceeded("model", 1.0))
    assert breaker.state is OPEN


def test_threads_that_fail_together_open_it_once(make, facts):
    breaker, start = make(failure_rate=0.5, window=10, min_calls=10), threading.Barrier(16)

    def hammer():
        start.wait()
        for _ in range(50):
            try:
                breaker(fail)()
            except (ConnectionError, CircuitOpen):
                continue

    threads = [threading.Thread(target=hammer) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert facts.names == ["CircuitOpened"]
    assert breaker.snapshot().opened == 1


# -- eras and leases ----------------------------------------------------------------------


def test_a_late_success_does_not_close_it_while_the_real_trial_still_runs(breaker, clock):
    late = breaker.enter()
    half_open(breaker, clock)
    trial = breaker.enter()
    breaker.leave(late, "well")
    assert breaker.state is HALF_OPEN
    breaker.fail(trial, ConnectionError())
    assert breaker.state is OPEN


def test_late_failures_after_the_opening_change_nothing(breaker, clock):
    late = [breaker.enter() for _ in range(4)]
    call(breaker, fail, fail, fail)
    for token in late:
        clock.advance(2.0)
        breaker.fail(token, ConnectionError())
    clock.advance(2.0)
    assert breaker.state is HALF_OPEN
    assert breaker.snapshot().opened == 1


def test_a_trial_of_an_earlier_half_open_time_does_not_count_in_a_later_one(make, clock):
    breaker = make(trial_limit=2, success_threshold=2)
    half_open(breaker, clock)
    early, failing = breaker.enter(), breaker.enter()
    breaker.fail(failing, ConnectionError())
    clock.advance(10.0)
    breaker.enter()
    breaker.leave(early, "well")
    assert (breaker.snapshot().successes, breaker.snapshot().trials) == (0, 1)


@pytest.mark.parametrize("ending", ["leave", "fail"])
def test_a_trial_of_an_earlier_half_open_time_neither_closes_nor_opens_it(make, clock, ending):
    breaker = make(trial_limit=2, trial_lease=60.0)
    half_open(breaker, clock)
    early, failing = breaker.enter(), breaker.enter()
    breaker.fail(failing, ConnectionError())
    clock.advance(10.0)
    breaker.enter()
    getattr(breaker, ending)(early, ConnectionError())
    assert (breaker.state, breaker.snapshot().trials) == (HALF_OPEN, 1)


def test_a_hung_trial_loses_its_slot_when_its_lease_ends(make, clock):
    breaker = make(trial_lease=5.0)
    half_open(breaker, clock)
    hung = breaker.enter()
    clock.advance(4.0)
    with pytest.raises(CircuitOpen) as rejected:
        breaker.enter()
    assert rejected.value.retry_after == 1.0
    clock.advance(1.0)
    trial = breaker.enter()
    breaker.fail(hung, ConnectionError())
    assert breaker.state is HALF_OPEN
    breaker.leave(trial, "well")
    assert breaker.state is CLOSED


def test_a_trial_that_comes_back_after_its_lease_decides_nothing(make, clock):
    breaker = make(trial_lease=5.0)
    half_open(breaker, clock)
    hung = breaker.enter()
    clock.advance(5.0)
    breaker.leave(hung, "well")
    assert (breaker.state, breaker.snapshot().trials) == (HALF_OPEN, 0)


@pytest.mark.parametrize(("reset", "lease"), [(10.0, 10.0), (0.0, 60.0)])
def test_a_lease_is_as_long_as_the_open_time_unless_said(make, clock, reset, lease):
    breaker = make(reset_timeout=reset)
    half_open(breaker, clock)
    breaker.enter()
    assert breaker.snapshot().retry_after == lease


def test_a_reset_timeout_of_zero_is_zero(make):
    breaker = make(reset_timeout=0.0)
    call(breaker, fail, fail, fail)
    assert breaker.state is HALF_OPEN
    assert breaker.call(well) == "well"


def test_a_token_asked_for_while_another_thread_closes_is_of_the_closed_era(make, clock):
    for settings in ({}, {"slow_after": 1.0}):
        breaker = make(**settings)
        half_open(breaker, clock)
        stale = breaker.era
        call(breaker, well)
        assert breaker._token(breaker.era, clock.monotonic()).era is breaker.era
        assert stale is not breaker.era


# -- modes ----------------------------------------------------------------------------------


def test_forced_open_it_stays_open_until_reset(breaker, clock, facts):
    breaker.force_open("INC-42")
    clock.advance(1e6)
    with pytest.raises(CircuitOpen) as rejected:
        breaker.call(well)
    assert rejected.value.retry_after == math.inf
    assert (breaker.state, breaker.snapshot().reason) == (OPEN, "INC-42")
    breaker.reset()
    assert breaker.call(well) == "well"
    assert facts.names == ["SettingsChanged", "CircuitOpened", "SettingsChanged", "CircuitClosed"]


def test_disabled_it_neither_rejects_nor_counts(make, facts):
    breaker = make(failure_rate=0.5, window=4, min_calls=2)
    call(breaker, fail, fail)
    breaker.disable()
    call(breaker, *[fail] * 10, well)
    assert (breaker.state, breaker.snapshot().mode) == (CLOSED, "disabled")
    assert breaker.snapshot().window == Tally()
    breaker.reset()
    call(breaker, fail, fail)
    assert breaker.state is OPEN
    opened, changed = "CircuitOpened", "SettingsChanged"
    assert facts.names == [opened, changed, "CircuitClosed", changed, opened]


def test_a_shadow_counts_what_it_would_have_rejected(breaker, clock, facts):
    breaker.shadow()
    call(breaker, fail, fail, fail, well, fail, well)
    shadow = breaker.snapshot()
    assert (shadow.state, shadow.would_reject, shadow.would_reject_succeeded) == (OPEN, 3, 2)
    clock.advance(10.0)
    call(breaker, well)
    assert breaker.state is CLOSED
    assert breaker.snapshot().rejected == 0
    assert facts.names == ["SettingsChanged"]


def test_leaving_the_shadow_enforces_again(breaker, facts):
    breaker.shadow()
    call(breaker, fail, fail, fail, well, well)
    assert breaker.snapshot().would_reject == 2
    breaker.reset()
    assert (breaker.state, breaker.snapshot().would_reject) == (CLOSED, 0)
    call(breaker, fail, fail, fail)
    with pytest.raises(CircuitOpen):
        breaker.call(well)
    assert "CircuitClosed" not in facts.names


def test_a_call_that_spans_a_reset_counts_for_nothing(breaker):
    token = breaker.enter()
    breaker.reset()
    breaker.fail(token, ConnectionError())
    assert breaker.snapshot().consecutive == 0


def test_resetting_twice_states_nothing(breaker, facts):
    breaker.reset()
    breaker.reset()
    assert facts.names == []


# -- facts, snapshot, settings --------------------------------------------------------------


def test_transitions_are_facts(breaker, clock, facts):
    half_open(breaker, clock)
    call(breaker, well)
    assert facts.names == ["CircuitOpened", "CircuitHalfOpened", "CircuitClosed"]
    opened, half, closed = facts.facts
    assert {fact.source for fact in facts.facts} == {"dependency"}
    assert (opened.reason, opened.retry_after) == (
        "3 failures in a row, the last: ConnectionError",
        10.0,
    )
    assert half.at == closed.at == clock.time() == opened.at + 10.0
    assert closed.reason == "1 trial calls succeeded"


def test_facts_are_stated_without_the_lock(breaker, events):
    free = []

    def try_lock(_):
        def other():
            free.append(breaker._lock.acquire(timeout=5))
            breaker._lock.release()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    from prodml.events import Event

    events.subscribe(Event, try_lock)
    call(breaker, fail, fail, fail)
    breaker.force_open("x")
    breaker.reset()
    assert free == [True] * 5


def test_a_snapshot_tells_all(breaker, clock):
    call(breaker, fail, fail, fail)
    clock.advance(4.0)
    with pytest.raises(CircuitOpen):
        breaker.call(well)
    shot = breaker.snapshot()
    assert (shot.state, shot.retry_after, shot.rejected, shot.opened) == (OPEN, 6.0, 1, 1)
    assert (shot.mode, shot.era, shot.name) == ("enforcing", 1, "dependency")


def test_retuning_takes_effect_at_once(make):
    breaker = make()
    call(breaker, fail, fail)
    assert isinstance(retune(breaker, failure_threshold=1), SettingsChanged)
    call(breaker, fail)
    assert breaker.state is OPEN
    retune(breaker, reset_timeout=0.0)
    assert breaker.state is OPEN


def test_its_settings_can_be_listed(make):
    assert settings_of(make())["reset_timeout"] == 10.0


@pytest.mark.parametrize(
    "settings",
    [
        {"failure_threshold": 0},
        {"failure_threshold": 2.5},
        {"success_threshold": 0},
        {"reset_timeout": -1.0},
        {"reset_timeout": math.nan},
        {"reset_timeout": math.inf},
        {"reset_timeout": "60"},
        {"reset_timeout": None},
        {"slow_rate": None},
        {"failure_rate": 0.0},
        {"failure_rate": 50},
        {"slow_rate": 1.5},
        {"window_seconds": 0.0},
        {"trial_limit": 0},
        {"trial_lease": 0.0},
        {"on": (BaseException,)},
        {"on": (KeyboardInterrupt,)},
        {"ignore": ("ValueError",)},
        {"failure_threshold": None},
        {"min_calls": 20, "window": 10, "failure_rate": 0.5},
    ],
    ids=str,
)
def test_nonsense_is_refused_while_building(settings):
    with pytest.raises(BadConfiguration) as refused:
        CircuitBreaker("x", **settings)
    assert str(next(iter(settings))) in str(refused.value)


# -- how long it stays open -------------------------------------------------------------------


def reopen(breaker, clock):
    """Let the open time end and the trial call fail; return the seconds it took to end."""
    waited = breaker.snapshot().retry_after
    clock.advance(waited)
    call(breaker, fail)
    return waited


def test_the_open_time_may_grow_until_it_closes(make, clock):
    growing = Exponential(1.0, factor=3.0, cap=20.0, jitter=0.0)
    breaker = make(reset_timeout=growing)
    call(breaker, fail, fail, fail)
    assert [reopen(breaker, clock) for _ in range(5)] == pytest.approx([1, 3, 9, 20, 20])
    assert breaker.snapshot().attempt == 6
    clock.advance(20.0)
    call(breaker, well)
    assert (breaker.state, breaker.snapshot().attempt) == (CLOSED, 0)
    call(breaker, fail, fail, fail)
    assert breaker.snapshot().retry_after == pytest.approx(1.0)


@pytest.mark.parametrize(
    "strategy",
    [lambda _: 1 / 0, lambda _: -1.0, lambda _: math.nan, lambda _: math.inf, lambda _: "x"],
)
def test_a_strategy_that_makes_no_sense_means_a_minute(make, strategy):
    breaker = make(reset_timeout=strategy)
    call(breaker, fail, fail, fail)
    assert breaker.snapshot().retry_after == 60.0


def test_a_strategy_may_use_the_breaker(make):
    breaker = make(reset_timeout=lambda attempt: attempt + len(breaker.snapshot().name))
    call(breaker, fail, fail, fail)
    assert breaker.snapshot().retry_after == 1 + len("dependency")


class Busy(ConnectionError):
    def __init__(self, retry_after):
        super().__init__()
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("asked", "stays"),
    [(5.0, 10.0), (25.0, 25.0), (1e9, 300.0), ("soon", 10.0), (math.nan, 10.0), (-3, 10.0)],
)
def test_the_servers_retry_after_prolongs_the_open_time(make, asked, stays):
    breaker = make(failure_threshold=1)

    def busy():
        raise Busy(asked)

    call(breaker, busy)
    assert breaker.snapshot().retry_after == pytest.approx(stays)


def test_a_retry_after_can_be_ignored(make):
    breaker = make(failure_threshold=1, retry_after_cap=0.0)

    def busy():
        raise Busy(25.0)

    call(breaker, busy)
    assert breaker.snapshot().retry_after == 10.0


def test_the_fact_says_how_long_it_stays_open(make, facts):
    breaker = make(failure_threshold=1, reset_timeout=Exponential(7.0, jitter=0.0))
    call(breaker, fail)
    assert facts.of(CircuitOpened)[0].retry_after == pytest.approx(7.0)


def test_a_rejection_says_why(breaker):
    call(breaker, fail, fail, fail)
    with pytest.raises(CircuitOpen, match="3 failures in a row, the last: ConnectionError") as no:
        breaker.call(well)
    assert no.value.reason == breaker.snapshot().reason


def test_a_call_that_comes_while_a_failed_trial_is_judged_does_not_close_it(make, clock):
    """The strategy takes its time: the slot must not be free before the verdict is in."""
    intruder = []

    def plan(attempt):
        if attempt > 1:
            thread = threading.Thread(target=lambda: intruder.append(attempt_call()))
            thread.start()
            thread.join(10)
        return 10.0

    def attempt_call():
        try:
            return breaker.call(well)
        except CircuitOpen:
            return "rejected"

    breaker = make(failure_threshold=1, reset_timeout=plan)
    call(breaker, fail)
    clock.advance(10.0)
    call(breaker, fail)
    assert (intruder, breaker.state) == (["rejected"], OPEN)


def test_a_guarded_generator_collected_while_the_lock_is_held_ends_as_abandoned(make, clock):
    breaker = make()
    half_open(breaker, clock)

    @breaker
    def items():
        yield 1

    stream = items()
    next(stream)
    with breaker._lock:
        stream.close()
    assert breaker.snapshot().trials == 0


# -- which errors -----------------------------------------------------------------------------


def test_a_predicate_tells_failures_from_other_errors(make):
    breaker = make(on=lambda error: "down" in str(error))

    def other():
        raise ConnectionError("not today")

    call(breaker, *[other] * 5)
    assert breaker.snapshot().consecutive == 0
    call(breaker, fail, fail, fail)
    assert breaker.state is OPEN


def test_a_predicate_that_raises_says_failure(make):
    breaker = make(on=lambda error: error.status >= 500)
    call(breaker, fail, fail, fail)
    assert breaker.state is OPEN


@pytest.mark.parametrize("on", [BaseException, (KeyboardInterrupt,), "errors", 7])
def test_what_names_no_exceptions_is_refused(make, on):
    with pytest.raises(BadConfiguration):
        make(on=on)


# -- late verdicts ------------------------------------------------------------------------------


def test_bad_late_verdicts_in_a_row_open_it_though_every_call_succeeded(make):
    breaker = make()
    for _ in range(2):
        token = breaker.enter()
        breaker.leave(token, 0.5)
        assert breaker.report(token, False)
    assert breaker.state is CLOSED
    assert breaker.report(breaker.era, False)
    assert (breaker.state, breaker.snapshot().reason) == (OPEN, "3 bad late verdicts in a row")


def test_a_good_late_verdict_begins_the_row_anew(breaker):
    for ok in (False, False, True, False, False):
        breaker.report(breaker.era, ok)
    assert breaker.state is CLOSED


def test_late_verdicts_have_a_rate_of_their_own(make):
    breaker = make(failure_threshold=None, failure_rate=0.5, window=8, min_calls=4)
    call(breaker, *[well] * 50)
    for ok in (True, False, True):
        breaker.report(breaker.era, ok)
    assert breaker.snapshot().reports == Tally(3, 1, 0)
    breaker.report(breaker.era, False)
    assert breaker.snapshot().reason == "2 of 4 late verdicts were bad"


def test_a_verdict_on_a_call_of_an_earlier_state_changes_nothing(breaker, clock):
    token = breaker.enter()
    breaker.leave(token, 0.5)
    half_open(breaker, clock)
    assert not breaker.report(token, False)
    call(breaker, well)
    assert breaker.state is CLOSED
    assert not breaker.report(token, False)
    assert breaker.snapshot().consecutive == 0


def test_a_bad_verdict_on_a_trial_call_opens_it_again(make, clock):
    breaker = make(success_threshold=2)
    half_open(breaker, clock)
    token = breaker.enter()
    breaker.leave(token, 0.5)
    assert breaker.report(token, True)
    assert breaker.snapshot().successes == 1
    assert breaker.report(token, False)
    assert breaker.state is OPEN


def test_a_verdict_on_a_trial_in_flight_ends_it(make, clock):
    breaker = make(success_threshold=2)
    half_open(breaker, clock)
    for _ in range(2):
        token = breaker.enter()
        assert breaker.report(token, True)
        breaker.leave(token, 0.5)
    assert breaker.state is CLOSED


def test_verdicts_while_open_or_disabled_change_nothing(breaker):
    breaker.disable()
    assert not breaker.report(breaker.enter(), False)
    breaker.force_open("drill")
    assert not breaker.report(breaker.era, False)


def test_shadow_counts_how_often_it_would_have_opened(breaker, clock, facts):
    breaker.shadow()
    call(breaker, fail, fail, fail, well, fail)
    clock.advance(10.0)
    call(breaker, fail)
    shot = breaker.snapshot()
    assert (shot.would_open, shot.opened) == (2, 0)
    assert (shot.would_reject, shot.would_reject_succeeded) == (2, 1)
    assert facts.names == ["SettingsChanged"]


def test_a_disabled_breaker_lets_everything_pass_whatever_is_reported(make):
    breaker = make(failure_threshold=1)
    breaker.disable()
    token = breaker.enter()
    for verdict in (token, breaker.era):
        assert not breaker.report(verdict, False)
    call(breaker, fail, fail)
    assert breaker.call(well) == "well"


def test_disabling_it_while_a_call_is_being_admitted_holds(make, monkeypatch):
    breaker = make(failure_threshold=1)
    call(breaker, fail)
    breaker.reset()
    breaker.era.admits = False
    times = iter([breaker.disable])
    monkeypatch.setattr(breaker.clock, "monotonic", lambda: next(times, lambda: None)() or 0.0)
    breaker.leave(breaker.enter(), 1)
    monkeypatch.undo()
    call(breaker, fail, fail)
    assert breaker.call(well) == "well"


class NoHeader(ConnectionError):
    @property
    def retry_after(self):
        return float({}["Retry-After"])


def test_an_error_that_cannot_tell_its_retry_after_opens_it_all_the_same(make):
    breaker = make(failure_threshold=1)

    def busy():
        raise NoHeader

    with pytest.raises(NoHeader):
        breaker.call(busy)
    assert breaker.state is OPEN


@pytest.mark.parametrize("colour", ["plain", "awaited"])
def test_a_request_whose_time_is_over_says_nothing_of_the_dependency(make, clock, colour):
    breaker, called = make(failure_threshold=1), []

    async def afetch():
        called.append(1)

    fetch = (lambda: called.append(1)) if colour == "plain" else afetch
    guarded = compose(breaker, Timeout(1.0, clock=clock))(fetch)
    for _ in range(3):
        with Deadline(1.0, clock=clock):
            clock.advance(2.0)
            with pytest.raises(DeadlineExceeded) as late:
                guarded() if colour == "plain" else asyncio.run(guarded())
            assert not late.value.begun
    assert (called, breaker.state, breaker.snapshot().consecutive) == ([], CLOSED, 0)


def test_a_block_has_no_result_to_be_judged(make):
    breaker = make(failure_threshold=1, failed=lambda result: result["status"] >= 500)

    @breaker
    def stream():
        yield 1

    with breaker:
        pass
    assert list(stream()) == [1]
    assert breaker.state is CLOSED
    breaker.call(lambda: {"status": 503})
    assert breaker.state is OPEN


def test_two_generators_with_a_block_each_do_not_swap_their_calls(make, clock):
    breaker = make(success_threshold=1)

    def stream():
        with breaker:
            yield

    stale = stream()
    next(stale)
    half_open(breaker, clock)
    trial = stream()
    next(trial)
    next(stale, None)
    assert breaker.state is HALF_OPEN
    next(trial, None)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("window", [{}, {"window_seconds": 1e6}], ids=["count", "time"])
def test_a_stream_that_fails_while_it_is_collected_under_the_lock_is_counted(make, window):
    breaker = make(failure_rate=0.5, min_calls=50, window=100, failure_threshold=None, **window)

    @breaker
    def stream():
        try:
            yield 1
        finally:
            raise ConnectionError("while closing")

    items = stream()
    next(items)
    done = threading.Event()

    def collect():
        with breaker._lock, breaker.era.window._lock:
            with contextlib.suppress(ConnectionError):
                items.close()
        done.set()

    threading.Thread(target=collect, daemon=True).start()
    assert done.wait(10)
    assert breaker.snapshot().window.failures == 1


def test_whoever_heard_that_it_opened_hears_that_calls_pass_again(breaker, facts):
    for switch in (breaker.shadow, breaker.disable, breaker.reset):
        breaker.force_open("drill")
        switch()
    heard = [name for name in facts.names if name != "SettingsChanged"]
    assert heard == ["CircuitOpened", "CircuitClosed"] * 3


# -- the shells of a calm breaker ---------------------------------------------------------------


def drive(steps):
    try:
        steps.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine was suspended")


RULES = {
    "in a row": {},
    "rate of calls": {"failure_rate": 0.4, "window": 8, "min_calls": 4},
    "rate of time": {"failure_rate": 0.4, "window_seconds": 8.0, "min_calls": 4},
    "slow calls": {"slow_after": 1.0, "slow_rate": 0.5, "window": 8, "min_calls": 4},
    "slow by time": {"slow_after": 1.0, "window_seconds": 8.0, "min_calls": 4},
    "result": {"failed": lambda result: result is None},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@given(
    st.lists(
        st.tuples(st.sampled_from(["well", "fail", "none", "gone"]), st.sampled_from([0, 0.5, 2])),
        max_size=40,
    )
)
def test_decorated_functions_of_both_colours_do_what_enter_and_leave_do(rules, calls):
    def play(run):
        clock = ManualClock()
        settings = {"failure_threshold": 3, "reset_timeout": 5.0, "success_threshold": 1}
        breaker = CircuitBreaker("db", clock=clock, events=Stream(), **(settings | rules))
        return [(step(run, breaker, clock, *each), breaker.snapshot()) for each in calls]

    def step(run, breaker, clock, ending, took):
        def body():
            clock.advance(took)
            if ending == "fail":
                raise ConnectionError
            if ending == "gone":
                raise GeneratorExit
            return None if ending == "none" else "well"

        try:
            return run(breaker, body)
        except (ConnectionError, GeneratorExit, CircuitOpen) as error:
            return type(error)

    def by_hand(breaker, body):
        token = breaker.enter()
        try:
            result = body()
        except BaseException as error:
            breaker.fail(token, error)
            raise
        breaker.leave(token, result)
        return result

    def plain(breaker, body):
        return breaker(body)()

    def coroutine(breaker, body):
        @breaker
        async def protected():
            return body()

        return drive(protected())

    assert play(by_hand) == play(plain) == play(coroutine)
