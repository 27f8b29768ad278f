import pytest

from prodml.events import Stream
from prodml.resilience import CircuitBreaker
from prodml.testing import ManualClock, Recorder


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def events():
    return Stream()


@pytest.fixture
def facts(events):
    return Recorder(events)


@pytest.fixture
def make(clock, events):
    """Build a breaker of three failures, one trial success and 10 seconds."""

    def build(**settings):
        standard = {"failure_threshold": 3, "success_threshold": 1, "reset_timeout": 10.0}
        return CircuitBreaker("dependency", clock=clock, events=events, **(standard | settings))

    return build


@pytest.fixture
def breaker(make):
    return make()
