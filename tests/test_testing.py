import asyncio

import pytest

from prodml._call import Flow, Guard, Invoke, Pause
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BadConfiguration, ContractBroken
from prodml.events import CircuitClosed, CircuitHalfOpened, Stream
from prodml.stores import MemoryStore
from prodml.testing import (
    ManualClock,
    Recorder,
    check_durable_store,
    check_flow,
    check_guard,
    check_sink,
    check_store,
)


class Open(Guard[None]):
    def enter(self): ...
    def leave(self, token, result): ...
    def fail(self, token, error): ...


class Leaky(Open):
    """Never gives a permit back when a call is abandoned."""

    def __init__(self):
        self.permits = 50

    def enter(self):
        if not self.permits:
            raise ContractBroken("no permit left")
        self.permits -= 1

    def leave(self, token, result):
        self.permits += 1

    def fail(self, token, error):
        self.permits += isinstance(error, Exception)


class Swallowing(Open):
    def __call__(self, fn):
        def shell(*args, **kwargs):
            try:
                return fn(*args, **kwargs)
            except Exception:
                return None

        return shell


class Bare(Flow):
    clock = SYSTEM_CLOCK

    def steps(self, fn, args, kwargs):
        return (yield Invoke(fn, args, kwargs))


class Dreaming(Bare):
    def steps(self, fn, args, kwargs):
        yield Pause(0.0)
        return (yield Invoke(fn, args, kwargs))


class Wrong(Bare):
    def start(self, fn, args, kwargs):
        return "wrong", None


def test_contracts_hold_for_sound_parts():
    check_guard(Open)
    check_flow(Bare)


@pytest.mark.parametrize("make", [Leaky, Swallowing])
def test_a_broken_guard_is_found(make):
    with pytest.raises(ContractBroken):
        check_guard(make)


@pytest.mark.parametrize("make", [Dreaming, Wrong])
def test_a_broken_flow_is_found(make):
    with pytest.raises(ContractBroken):
        check_flow(make)


def broken_store(**methods):
    clock = ManualClock()
    cls = type("Broken", (MemoryStore,), methods)
    return (lambda: cls(clock=clock)), clock.advance


@pytest.mark.parametrize(
    "methods",
    [
        {"get": lambda self, key: b""},
        {"delete": lambda self, key: True},
        {"set": lambda self, key, value, *, ttl=None: MemoryStore.set(self, key, value)},
        {"set": lambda self, key, value, *, ttl=None: None},
        {"read": lambda self, key: (None, 1)},
        {"rows": lambda self, topic, after=0, limit=None: []},
        {"_held": lambda self, lease: lease},
        {"acquire": lambda self, name, owner, ttl: None},
        {"renew": lambda self, lease, ttl: lease},
    ],
)
def test_a_broken_store_is_found(methods):
    make, advance = broken_store(**methods)
    with pytest.raises(ContractBroken):
        check_durable_store(make, advance=advance)


def test_a_store_without_time_is_checked_for_the_rest():
    check_store(MemoryStore)


def test_a_listener_that_raises_or_changes_a_fact_is_found():
    facts = [CircuitHalfOpened(at=0.0, source="db")]
    with pytest.raises(ContractBroken, match="must not raise"):
        check_sink(lambda fact: 1 / 0, facts)
    with pytest.raises(ContractBroken, match="must not change"):
        check_sink(lambda fact: setattr(fact, "source", "x"), facts)


def test_manual_time_moves_only_when_told():
    clock = ManualClock(start=50.0)
    asyncio.run(_sleep(clock))
    clock.step_wall(-10.0)
    assert (clock.time(), clock.monotonic(), clock.slept) == (42.0, 1002.0, [2.0])
    with pytest.raises(BadConfiguration, match="backwards"):
        clock.advance(-1)


async def _sleep(clock):
    await clock.asleep(2.0)


def test_a_recorder_keeps_facts_until_stopped():
    stream = Stream()
    recorder = Recorder(stream)
    stream.emit(CircuitHalfOpened(at=0.0, source="db"))
    recorder.stop()
    stream.emit(CircuitHalfOpened(at=0.0, source="db"))
    assert recorder.names == ["CircuitHalfOpened"]
    assert recorder.of(CircuitClosed) == []
