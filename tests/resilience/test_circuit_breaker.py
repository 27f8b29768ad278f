import math
import threading

import pytest

from prodml._settings import retune, settings_of
from prodml._window import Tally
from prodml.errors import BadConfiguration, BulkheadFull, CircuitOpen, DeadlineExceeded
from prodml.events import SettingsChanged
from prodml.resilience import CircuitBreaker, CircuitState

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
