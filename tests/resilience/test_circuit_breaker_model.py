"""The breaker against a reference that is slow, sequential and obvious."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from prodml.errors import CircuitOpen
from prodml.events import Stream
from prodml.resilience import CircuitBreaker
from prodml.testing import ManualClock

THRESHOLD, SUCCESSES, RESET, LIMIT, LEASE = 2, 2, 10.0, 2, 4.0


class Reference:
    def __init__(self):
        self.period, self.state = 0, "closed"
        self.row = self.successes = 0
        self.until = 0.0
        self.trials = {}

    def become(self, state, now):
        self.period, self.state = self.period + 1, state
        self.row = self.successes = 0
        self.until, self.trials = now + RESET, {}

    def pass_time(self, now):
        self.trials = {number: ends for number, ends in self.trials.items() if ends > now}

    def visible(self, now):
        return "half_open" if self.state == "open" and now >= self.until else self.state

    def admit(self, number, now):
        if self.visible(now) != self.state:
            self.become("half_open", now)
        if self.state == "half_open" and len(self.trials) < LIMIT:
            self.trials[number] = now + LEASE
            return True
        return self.state == "closed"

    def end(self, number, period, outcome, now):
        if period != self.period or outcome == "open":
            return
        if self.state == "closed":
            if outcome != "none":
                self.row = self.row + 1 if outcome == "failure" else 0
            if self.row >= THRESHOLD:
                self.become("open", now)
        elif self.trials.pop(number, None) is not None:
            self.successes += outcome == "success"
            if outcome == "failure":
                self.become("open", now)
            elif self.successes >= SUCCESSES:
                self.become("closed", now)


class BreakerMachine(RuleBasedStateMachine):
    calls = Bundle("calls")

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(
            failure_threshold=THRESHOLD,
            success_threshold=SUCCESSES,
            reset_timeout=RESET,
            trial_limit=LIMIT,
            trial_lease=LEASE,
            ignore=(KeyError,),
            clock=self.clock,
            events=Stream(),
        )
        self.reference, self.number = Reference(), 0

    @rule(target=calls)
    def begin(self):
        self.number += 1
        expected = self.reference.admit(self.number, self.clock.monotonic())
        try:
            token = self.breaker.enter()
        except CircuitOpen:
            assert not expected
            return None
        assert expected
        return (self.number, self.reference.period, token)

    @rule(call=calls, outcome=st.sampled_from(["success", "failure", "ignored", "cancelled"]))
    def end(self, call, outcome):
        if call is None:
            return
        number, period, token = call
        if outcome == "success":
            self.breaker.leave(token, 0)
        else:
            errors = {"failure": OSError(), "ignored": KeyError(), "cancelled": GeneratorExit()}
            self.breaker.fail(token, errors[outcome])
        verdict = outcome if outcome in ("success", "failure") else "none"
        self.reference.end(number, period, verdict, self.clock.monotonic())

    @rule(seconds=st.sampled_from([0.5, 4.0, 10.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.reference.pass_time(self.clock.monotonic())

    @precondition(lambda self: self.reference.state == "closed")
    @rule()
    def trip(self):
        for _ in range(THRESHOLD):
            call = self.begin_and_fail()
            if call is None:
                return

    def begin_and_fail(self):
        call = self.begin()
        self.end(call, "failure")
        return call

    @invariant()
    def same_as_the_reference(self):
        now, shot = self.clock.monotonic(), self.breaker.snapshot()
        assert self.breaker.state.value == self.reference.visible(now)
        assert shot.era == self.reference.period
        assert shot.trials == len(self.reference.trials) <= LIMIT
        assert (shot.consecutive, shot.successes) == (self.reference.row, self.reference.successes)


TestBreakerModel = BreakerMachine.TestCase
TestBreakerModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
