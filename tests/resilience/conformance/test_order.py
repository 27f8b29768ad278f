"""Policies together: what one of them decides, no other undoes."""

import time

import pytest

from prodml.errors import AllFallbacksFailed, BulkheadFull, CircuitOpen, DeadlineExceeded
from prodml.resilience import Bulkhead, CircuitState, FallbackChain, Retry, Rung, Timeout


def down(_=None):
    raise ConnectionError("down")


def test_a_retry_outside_a_breaker_forced_open_fails_at_once(form, subject):
    subject.breaker.force_open("maintenance")
    with pytest.raises(CircuitOpen):
        subject.retrying(lambda: form.run(subject, lambda: 1))
    assert subject.slept == []


def test_a_fallback_behind_a_retry_and_an_open_breaker_answers_without_sleep(breaker, clock):
    breaker.force_open("maintenance")
    guarded = Retry(attempts=5, on=(Exception,), wait=10.0, clock=clock)(breaker(down))
    served = FallbackChain(Rung("model", guarded), default=0)(None)
    assert (served.value, clock.slept) == (0, [])
    assert isinstance(served.errors["model"], CircuitOpen)


def test_the_breaker_stops_a_retry_that_opens_it(breaker, clock, events):
    calls = []

    def failing():
        calls.append(1)
        raise ConnectionError

    retry = Retry(attempts=10, on=(Exception,), wait=1.0, clock=clock, events=events)
    with pytest.raises(CircuitOpen):
        retry(breaker(failing))()
    assert len(calls) == 3


def test_a_rejection_by_a_bulkhead_is_no_failure_of_the_dependency(form, subject):
    bulkhead = Bulkhead(1)
    with bulkhead:
        for _ in range(6):
            with pytest.raises(BulkheadFull):
                form.run(subject, lambda: bulkhead.call(int))
    assert subject.breaker.state is CircuitState.CLOSED


def test_a_timeout_is_a_failure_of_the_dependency(form, subject):
    hung = Timeout(0.005)(lambda: time.sleep(0.05))
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            form.run(subject, hung)
    assert subject.breaker.state is CircuitState.OPEN


def test_every_cause_is_in_the_error_rejections_included(breaker):
    breaker.force_open("maintenance")
    chain = FallbackChain(Rung("guarded", len, breaker=breaker), Rung("bare", down))
    with pytest.raises(AllFallbacksFailed) as failed:
        chain("x")
    assert [type(cause) for cause in failed.value.exceptions] == [CircuitOpen, ConnectionError]
