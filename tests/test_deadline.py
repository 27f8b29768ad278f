from prodml import _deadline
from prodml.testing import ManualClock


def test_without_a_deadline_there_is_no_limit():
    assert _deadline.remaining() is None
    assert _deadline.expired() is None


def test_time_left_follows_the_clock_and_may_be_overdue():
    clock = ManualClock()
    reset = _deadline.narrow(10.0, clock)
    clock.advance(4.0)
    assert _deadline.remaining() == 6.0
    assert _deadline.expired() is None
    clock.advance(7.0)
    assert _deadline.remaining() == -1.0
    assert _deadline.expired().seconds == 10.0
    _deadline.restore(reset)
    assert _deadline.remaining() is None


def test_an_inner_deadline_can_only_narrow():
    clock = ManualClock()
    outer = _deadline.narrow(10.0, clock)
    wider = _deadline.narrow(60.0, clock)
    assert _deadline.remaining() == 10.0
    narrower = _deadline.narrow(2.0, clock)
    assert _deadline.remaining() == 2.0
    for reset in (narrower, wider, outer):
        _deadline.restore(reset)
    assert _deadline.remaining() is None
