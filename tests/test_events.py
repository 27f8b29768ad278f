import inspect
import logging
import threading

import pytest

from prodml import events
from prodml.errors import BadConfiguration
from prodml.events import Background, CircuitClosed, CircuitHalfOpened, Event, Stream

FACTS = [
    cls
    for _, cls in inspect.getmembers(events, inspect.isclass)
    if issubclass(cls, Event) and cls is not Event
]


def fact(source="db"):
    return CircuitHalfOpened(at=12.0, source=source)


@pytest.mark.parametrize("cls", FACTS)
def test_every_fact_is_slotted_documented_and_has_time_and_source(cls):
    assert "__slots__" in cls.__dict__
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "only the generated signature"
    assert {"at", "source"} <= set(inspect.signature(cls).parameters)
    assert cls.level in {"debug", "info", "warning", "error"}


def test_facts_are_named_in_the_past_tense_or_for_a_state():
    past = ("ed", "Arrived", "Burning", "Due", "Loaded", "Moved")
    assert [cls.__name__ for cls in FACTS if not cls.__name__.endswith(past)] == [
        "FleetCutOff",
        "RolledBack",
    ]


def test_a_fact_tells_itself():
    told = fact().to_dict()
    assert told == {"event": "CircuitHalfOpened", "at": 12.0, "source": "db"}
    assert fact().when.isoformat() == "1970-01-01T00:00:12+00:00"


def test_subscribers_of_a_class_hear_it_and_its_subclasses_only():
    stream, exact, everything = Stream(), [], []
    stream.subscribe(CircuitHalfOpened, exact.append)
    stream.subscribe(Event, everything.append)
    closed = CircuitClosed(at=0.0, source="db", reason="ok")
    stream.emit(fact())
    stream.emit(closed)
    assert exact == [fact()]
    assert everything == [fact(), closed]


def test_wants_follows_subscriptions():
    stream = Stream()
    assert not stream.wants(CircuitHalfOpened)
    leave = stream.subscribe(Event, print)
    assert stream.wants(CircuitHalfOpened)
    leave()
    leave()
    assert not stream.wants(CircuitHalfOpened)


def test_unsubscribing_one_of_two_equal_handlers_leaves_the_other():
    stream, heard = Stream(), []
    first = stream.subscribe(Event, heard.append)
    stream.subscribe(Event, heard.append)
    first()
    stream.emit(fact())
    assert heard == [fact()]


def test_a_failing_handler_hurts_neither_the_caller_nor_the_next(caplog):
    stream, heard = Stream(), []
    stream.subscribe(Event, lambda event: 1 / 0)
    stream.subscribe(Event, heard.append)
    with caplog.at_level(logging.ERROR, "prodml.events"):
        for _ in range(100):
            stream.emit(fact())
    assert len(heard) == stream.failures == 100
    assert len(caplog.records) == 7  # 1, 2, 4, ... 64: no flood


def test_an_interrupt_in_a_handler_passes():
    stream = Stream()

    def interrupt(event):
        raise KeyboardInterrupt

    stream.subscribe(Event, interrupt)
    with pytest.raises(KeyboardInterrupt):
        stream.emit(fact())


def test_subscribing_while_others_emit_loses_no_route():
    stream, stop = Stream(), threading.Event()
    thread = threading.Thread(target=lambda: [stream.emit(fact()) for _ in iter(stop.is_set, True)])
    thread.start()
    for _ in range(200):
        heard = []
        leave = stream.subscribe(CircuitHalfOpened, heard.append)
        stream.emit(fact("mine"))
        assert fact("mine") in heard
        leave()
    stop.set()
    thread.join()


def test_a_slow_handler_behind_background_never_holds_up_the_caller():
    release, heard = threading.Event(), []

    def slow(event):
        release.wait()
        heard.append(event)

    background = Background(slow, size=2)
    for _ in range(10):
        background(fact())
    release.set()
    background.close()
    assert len(heard) + background.dropped == 10
    assert 2 <= len(heard) <= 3


def test_background_survives_a_failing_handler(caplog):
    heard = []

    def stumble(event):
        heard.append(event)
        if len(heard) == 1:
            raise ValueError

    background = Background(stumble)
    background(fact())
    background(fact())
    background.close()
    background.close()
    background(fact())
    assert (len(heard), background.dropped) == (2, 1)
    assert "background listener" in caplog.text


def test_background_that_never_ran_closes_and_nonsense_is_refused():
    Background(print).close()
    with pytest.raises(BadConfiguration):
        Background(print, size=0)
