"""The breaker against a reference that is slow, sequential and obvious."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from prodml.errors import CircuitOpen
from prodml.events import Stream
from prodml.resilience import CircuitBreaker
from prodml.testing import ManualClock, Recorder

RESET, LEASE, SLICES = 10.0, 4.0, 10
OUTCOMES = ("success", "failure", "ignored", "cancelled")
ERRORS = {"failure": OSError, "ignored": KeyError, "cancelled": GeneratorExit}


def none_or(*values):
    return st.sampled_from((None, *values))


def has_a_rule(rules):
    return any(
        rules[name] is not None for name in ("failure_threshold", "failure_rate", "slow_after")
    )


RULES = st.fixed_dictionaries(
    {
        "failure_threshold": none_or(1, 2, 3),
        "success_threshold": st.sampled_from((1, 2)),
        "failure_rate": none_or(0.5, 1.0),
        "slow_after": none_or(2.0),
        "slow_rate": st.sampled_from((0.5, 1.0)),
        "window": st.sampled_from((3, 5)),
        "window_seconds": none_or(20.0),
        "min_calls": st.sampled_from((2, 3)),
        "trial_limit": st.sampled_from((1, 2)),
    }
).filter(has_a_rule)


class Reference:
    def __init__(self, rules):
        self.rules, self.facts = SimpleNamespace(**rules), []
        self.mode, self.period = "enforcing", -1
        self.opened = self.rejected = self.would_open = self.waved = self.waved_well = 0
        # Calls waved through since the last switch.
        self.wave = set()
        self.become("closed")

    def become(self, state, until=0.0):
        self.period, self.state, self.until = self.period + 1, state, until
        self.row, self.successes, self.outcomes, self.trials = 0, 0, [], {}
        self.opened += state == "open" and self.mode != "shadow"
        self.would_open += state == "open" and self.mode == "shadow"

    def tell(self, fact):
        if self.mode != "shadow":
            self.facts.append(fact)

    def seen(self, now):
        return "half_open" if self.state == "open" and now >= self.until else self.state

    def in_flight(self, now):
        return {number: ends for number, ends in self.trials.items() if ends > now}

    def retry_after(self, now):
        flying = self.in_flight(now)
        if self.state == "open":
            return max(0.0, self.until - now)
        return min(flying.values()) - now if len(flying) >= self.rules.trial_limit else 0.0

    def admit(self, number, now):
        """How the call passes; None if it is rejected."""
        if self.mode == "disabled":
            return "unwatched"
        if self.seen(now) != self.state:
            self.become("half_open")
            self.tell("CircuitHalfOpened")
        if self.state == "closed":
            return "counted"
        if self.state == "half_open" and len(self.in_flight(now)) < self.rules.trial_limit:
            self.trials[number] = now + LEASE
            return "trial"
        if self.mode == "shadow":
            self.waved += 1
            self.wave.add(number)
            return "waved"
        self.rejected += 1
        return None

    def end(self, call, outcome, now):
        if call.number in self.wave:
            self.waved_well += outcome == "success"
        if call.period != self.period or call.how not in ("counted", "trial"):
            return
        if call.how == "trial" and call.number not in self.in_flight(now):
            return
        self.trials.pop(call.number, None)
        if outcome not in ("success", "failure"):
            return
        after = self.rules.slow_after
        failed, slow = outcome == "failure", after is not None and now - call.begun >= after
        judge = self.judge_trial if call.how == "trial" else self.judge
        judge(failed, slow, now)

    def judge(self, failed, slow, now):
        self.outcomes.append((now, failed, slow))
        self.row = self.row + 1 if failed else 0
        if (failed or slow) and self.must_open(now):
            self.open(now)

    def judge_trial(self, failed, slow, now):
        if failed or slow:
            self.open(now)
            return
        self.successes += 1
        if self.successes >= self.rules.success_threshold:
            self.become("closed")
            self.tell("CircuitClosed")

    def open(self, now):
        self.become("open", now + RESET)
        self.tell("CircuitOpened")

    def tally(self, now):
        rules = self.rules
        if rules.failure_rate is None and rules.slow_after is None:
            return (0, 0, 0)
        if rules.window_seconds is None:
            kept = self.outcomes[-rules.window :]
        else:
            width = rules.window_seconds / SLICES
            kept = [o for o in self.outcomes if o[0] // width > now // width - SLICES]
        return (len(kept), sum(o[1] for o in kept), sum(o[2] for o in kept))

    def must_open(self, now):
        rules, (total, failures, slow) = self.rules, self.tally(now)
        if rules.failure_threshold is not None and self.row >= rules.failure_threshold:
            return True
        if total < rules.min_calls:
            return False
        return (rules.failure_rate is not None and failures / total >= rules.failure_rate) or (
            rules.slow_after is not None and slow / total >= rules.slow_rate
        )

    def switch(self, mode):
        if mode != self.mode:
            self.facts.append("SettingsChanged")
        was, self.mode = (self.mode, self.state), mode
        if mode == "forced open":
            self.become("open", math.inf)
            self.tell("CircuitOpened")
            return
        self.become("closed")
        self.would_open = self.waved = self.waved_well = 0
        self.wave = set()
        if was[0] != "shadow" and was[1] != "closed":
            self.facts.append("CircuitClosed")


class BreakerMachine(RuleBasedStateMachine):
    calls = Bundle("calls")

    @initialize(rules=RULES)
    def make(self, rules):
        self.clock, events = ManualClock(), Stream()
        self.facts = Recorder(events)
        self.breaker = CircuitBreaker(
            reset_timeout=RESET,
            trial_lease=LEASE,
            ignore=(KeyError,),
            clock=self.clock,
            events=events,
            **rules,
        )
        self.reference, self.number = Reference(rules), 0

    def admit(self):
        self.number += 1
        now = self.clock.monotonic()
        how = self.reference.admit(self.number, now)
        if how is None:
            with pytest.raises(CircuitOpen) as rejected:
                self.breaker.enter()
            assert rejected.value.retry_after == self.reference.retry_after(now)
            return None
        token = self.breaker.enter()
        return SimpleNamespace(
            number=self.number, period=self.reference.period, how=how, begun=now, token=token
        )

    def conclude(self, call, outcome):
        if call is None:
            return
        if outcome == "success":
            self.breaker.leave(call.token, 0)
        else:
            self.breaker.fail(call.token, ERRORS[outcome]())
        self.reference.end(call, outcome, self.clock.monotonic())

    @rule(target=calls)
    def begin(self):
        return self.admit()

    @rule(call=calls, outcome=st.sampled_from(OUTCOMES))
    def end(self, call, outcome):
        self.conclude(call, outcome)

    @rule(
        outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=4), took=st.sampled_from((0.0, 2.0))
    )
    def run(self, outcomes, took):
        for outcome in outcomes:
            call = self.admit()
            self.clock.advance(took)
            self.conclude(call, outcome)

    @rule(seconds=st.sampled_from((0.5, LEASE, RESET, 25.0)))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(mode=st.sampled_from(("forced open", "disabled", "shadow", "enforcing", "enforcing")))
    def switch(self, mode):
        {
            "forced open": lambda: self.breaker.force_open("by hand"),
            "disabled": self.breaker.disable,
            "shadow": self.breaker.shadow,
            "enforcing": self.breaker.reset,
        }[mode]()
        self.reference.switch(mode)

    @invariant()
    def same_as_the_reference(self):
        now, shot, reference = self.clock.monotonic(), self.breaker.snapshot(), self.reference
        tally = (shot.window.total, shot.window.failures, shot.window.slow)
        assert shot.state.value == self.breaker.state.value == reference.seen(now)
        assert (shot.mode, shot.era) == (reference.mode, reference.period)
        assert shot.trials == len(reference.in_flight(now)) <= reference.rules.trial_limit
        assert (shot.consecutive, shot.successes) == (reference.row, reference.successes)
        assert tally == reference.tally(now)
        assert shot.retry_after == reference.retry_after(now)
        assert (shot.opened, shot.rejected) == (reference.opened, reference.rejected)
        assert (shot.would_open, shot.would_reject) == (reference.would_open, reference.waved)
        assert shot.would_reject_succeeded == reference.waved_well
        assert self.facts.names == reference.facts


TestBreakerModel = BreakerMachine.TestCase
TestBreakerModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
