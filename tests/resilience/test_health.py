import asyncio
import json
import math
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.resilience import Bulkhead, CircuitBreaker, CircuitState, FallbackChain, Retry, Rung
from prodml.resilience.adaptive_limit import AdaptiveLimiter
from prodml.resilience.health import Health, HealthReport, HealthStatus, PartHealth
from prodml.testing import Recorder

READY, DEGRADED, DOWN = HealthStatus
STATUSES = st.sampled_from(HealthStatus)


def opened(breaker):
    """The breaker, opened by calls that failed."""
    for _ in range(3):
        with pytest.raises(ValueError):
            breaker.call(int, "x")
    assert breaker.state is CircuitState.OPEN
    return breaker


def status_of(part):
    return Health(part).report().parts[0].status


# -- breakers -----------------------------------------------------------------------------


def test_a_breaker_is_ready_degraded_or_down_by_its_state(make, clock):
    breaker = make()
    assert status_of(breaker) is READY
    opened(breaker)
    assert status_of(breaker) is DOWN
    clock.advance(10.0)
    assert breaker.state is CircuitState.HALF_OPEN
    assert status_of(breaker) is DEGRADED
    breaker.call(int, "1")
    assert status_of(breaker) is READY


def test_a_process_becomes_ready_again_without_a_call_when_the_open_time_is_over(make, clock):
    """A process that is not ready gets no calls, so no call can be what makes it ready."""
    health = Health(opened(make()))
    assert not health.report().ready
    clock.advance(10.0)
    assert health.report().ready


def test_what_an_operator_has_said_counts(make):
    breaker = make()
    breaker.force_open("INC-42")
    part = Health(breaker).report().parts[0]
    assert (part.status, part.reason) == (DOWN, "open: INC-42")
    assert part.details["retry_after"] is None
    breaker.disable()
    assert status_of(breaker) is READY


def test_a_breaker_in_shadow_rejects_nothing_so_it_is_ready(make):
    breaker = make()
    breaker.shadow()
    part = Health(opened(breaker)).report().parts[0]
    assert (part.status, part.reason, part.details["state"]) == (READY, "", "open")


def test_the_report_says_why_and_when(make, clock):
    breaker = opened(make())
    clock.advance(4.0)
    part = Health(breaker).report().parts[0]
    assert part.name == "dependency"
    assert "3 failures in a row" in part.reason
    assert part.details == {"state": "open", "mode": "enforcing", "retry_after": 6.0}


def test_asking_admits_nothing_and_changes_nothing(make, clock, facts):
    breaker = opened(make())
    clock.advance(10.0)
    heard, before = list(facts.names), breaker.snapshot()
    bulkhead = Bulkhead(1, name="gpu")
    chain = FallbackChain(Rung("first", len, breaker=breaker), default=0)
    health = Health(breaker, bulkhead, chain)
    for _ in range(100):
        health.report()
    assert breaker.snapshot() == before
    assert facts.names == heard
    assert (bulkhead.in_flight, bulkhead.rejected) == (0, 0)
    assert {(s.answered, s.failed) for s in chain.stats().values()} == {(0, 0)}
    # The one trial call is still there for the first caller.
    assert breaker.call(len, "abc") == 3


# -- chains -------------------------------------------------------------------------------


@given(st.lists(STATUSES, max_size=4), st.booleans())
def test_a_chain_is_as_well_as_the_first_of_its_rungs_that_can_answer(rungs, default):
    if not rungs and not default:
        return
    chain = FallbackChain(
        *(Rung(str(number), len, breaker=stand_in(rung)) for number, rung in enumerate(rungs)),
        **({"default": None} if default else {}),
    )
    status = status_of(chain)
    if rungs and rungs[0] is READY:
        assert status is READY
    elif default or set(rungs) - {DOWN}:
        assert status is DEGRADED
    else:
        assert status is DOWN


def stand_in(status):
    """A breaker that is in one state for good."""
    breaker = CircuitBreaker("stand-in", failure_threshold=1, reset_timeout=0.0)
    if status is DOWN:
        breaker.force_open("drill")
    if status is DEGRADED:
        with pytest.raises(ValueError):
            breaker.call(int, "x")
        assert breaker.state is CircuitState.HALF_OPEN
    return breaker


def test_a_rung_without_a_breaker_has_nothing_against_it():
    assert status_of(FallbackChain(Rung("only", len))) is READY


def test_a_chain_says_which_rung_answers_and_why_not_a_better_one(make):
    broken = make()
    broken.force_open("INC-42")
    chain = FallbackChain(
        Rung("primary", len, breaker=broken), Rung("simple", lambda features: 0.4), default=0.5
    )
    chain({})
    part = Health(chain).report().parts[0]
    assert part.reason == "answers come from 'simple'; 'primary' is open: INC-42"
    assert part.details["primary"]["failed"] == 1
    assert part.details["simple"] == {
        "status": "ready",
        "reason": "",
        "answered": 1,
        "failed": 0,
        "skipped": 0,
    }
    assert list(part.details) == ["primary", "simple", "default"]


def test_a_chain_without_a_way_to_an_answer_says_so(make):
    broken = make()
    broken.force_open("INC-42")
    report = Health(FallbackChain(Rung("only", len, breaker=broken), name="ladder")).report()
    assert (report.status, report.http_status) == (DOWN, 503)
    part = report.parts[0]
    assert (part.name, part.reason) == (
        "ladder",
        "no rung can answer; 'only' is open: INC-42",
    )
    assert list(part.details) == ["only"]


def test_a_default_alone_is_always_degraded():
    part = Health(FallbackChain(default=0)).report().parts[0]
    assert (part.status, part.reason) == (DEGRADED, "answers come from 'default'")


def test_a_rung_behind_a_full_bulkhead_is_busy_not_broken():
    bulkhead = Bulkhead(1, name="gpu")
    chain = FallbackChain(Rung("primary", len, breaker=bulkhead))
    with bulkhead:
        assert status_of(chain) is DEGRADED
    assert status_of(chain) is READY


def test_a_rung_that_cannot_be_asked_does_not_hide_the_others():
    class Mute:
        @property
        def snapshot(self):
            raise RuntimeError("no")

    chain = FallbackChain(Rung("primary", len), Rung("simple", len))
    chain.rungs[0].breaker = Mute()
    part = Health(chain).report().parts[0]
    assert part.status is DEGRADED
    assert part.details["primary"]["reason"] == "not to be asked: RuntimeError('no')"


# -- limits and functions -------------------------------------------------------------------


@pytest.mark.parametrize(
    "limiter", [Bulkhead(1, name="x"), AdaptiveLimiter(1.0, start=1, name="x")], ids=type
)
def test_what_is_full_is_degraded_not_down(limiter):
    assert status_of(limiter) is READY
    with limiter:
        part = Health(limiter).report().parts[0]
        assert (part.status, part.reason) == (DEGRADED, "full: 1 calls in flight")
        assert part.details == {"in_flight": 1, "limit": 1}
    assert status_of(limiter) is READY


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (True, READY),
        (None, READY),
        ("v3", READY),
        (False, DOWN),
        (0, DOWN),
        ("", DOWN),
        (READY, READY),
        (DEGRADED, DEGRADED),
        (DOWN, DOWN),
    ],
)
def test_a_function_says_how_it_is(said, status):
    def model_loaded():
        return said

    part = Health(model_loaded).report().parts[0]
    assert (part.name, part.status, bool(part.reason)) == (
        "model_loaded",
        status,
        status is not READY,
    )


def test_a_part_that_raises_is_reported_and_the_others_are_asked(breaker):
    def broken():
        raise KeyError("model")

    report = Health(breaker, optional=[broken]).report()
    assert report.status is DEGRADED
    assert [part.status for part in report.parts] == [READY, DOWN]
    assert report.parts[1].reason == "not to be asked: KeyError('model')"


def test_an_interrupt_is_not_swallowed():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Health(interrupted).report()


def test_parts_are_known_by_what_they_can_say():
    snapshot = SimpleNamespace(
        state=CircuitState.OPEN, mode="enforcing", reason="drill", retry_after=1.0
    )
    own = SimpleNamespace(name="mine", snapshot=lambda: snapshot)
    assert status_of(own) is DOWN
    assert status_of(SimpleNamespace(in_flight=3, limit=4)) is READY


def test_a_property_is_not_asked_before_its_time():
    class Remote:
        limit = 4

        @property
        def in_flight(self):
            raise ConnectionError("not yet")

    part = Health(Remote()).report().parts[0]
    assert (part.name, part.status) == ("Remote", DOWN)


async def awaited():
    return True


@pytest.mark.parametrize(
    "part", [Retry(), 3, None, CircuitBreaker, awaited, "db"], ids=lambda part: str(part)[:20]
)
def test_what_says_nothing_about_health_is_refused(part):
    with pytest.raises(BadConfiguration, match="health is read off"):
        Health(part)


def test_two_parts_of_one_name_are_refused():
    with pytest.raises(BadConfiguration, match="different names: db, db"):
        Health(CircuitBreaker("db"), optional=[CircuitBreaker("db")])


# -- the whole ----------------------------------------------------------------------------


@given(st.lists(STATUSES, max_size=5), st.lists(STATUSES, max_size=5))
def test_a_required_part_counts_as_it_is_and_an_optional_one_only_degrades(required, optional):
    def part(name, status):
        def said():
            return status

        said.__name__ = name
        return said

    report = Health(
        *(part(f"r{number}", status) for number, status in enumerate(required)),
        optional=[part(f"o{number}", status) for number, status in enumerate(optional)],
    ).report()
    if DOWN in required:
        assert report.status is DOWN
    elif set(required) | set(optional) <= {READY}:
        assert report.status is READY
    else:
        assert report.status is DEGRADED
    assert report.ready is (DOWN not in required)
    assert report.http_status == (200 if report.ready else 503)
    assert report.live
    assert [part.required for part in report.parts] == [True] * len(required) + [False] * len(
        optional
    )


def test_a_report_is_plain_values_that_json_knows(make):
    broken = make()
    broken.force_open("INC-42")
    chain = FallbackChain(Rung("primary", len, breaker=broken), default=math.nan)
    report = Health(chain, Bulkhead(2, name="gpu"), optional=[broken]).report()
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told == report.to_dict()
    assert (told["status"], told["live"], told["ready"]) == ("degraded", True, True)
    assert [part["name"] for part in told["parts"]] == ["fallback-chain", "gpu", "dependency"]


def test_nothing_to_ask_is_nothing_against_it():
    assert Health().report() == HealthReport(READY)


def test_a_report_stays_as_it_was(breaker):
    report = Health(breaker).report()
    opened(breaker)
    assert report.parts == (
        PartHealth(
            "dependency",
            READY,
            details={"state": "closed", "mode": "enforcing", "retry_after": 0.0},
        ),
    )
    with pytest.raises(AttributeError):
        report.status = DOWN


def test_threads_and_tasks_may_ask_while_calls_are_made(make, events):
    recorder = Recorder(events)
    breaker = make(failure_threshold=None, failure_rate=1.0, window=10, min_calls=10)
    health = Health(breaker, Bulkhead(8, name="gpu"))
    stop = threading.Event()
    statuses = []

    def probe():
        while not stop.is_set():
            statuses.append(health.report().status)

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        for _ in range(500):
            breaker.call(len, "abc")
    finally:
        stop.set()
        prober.join(60)

    async def scene():
        return health.report().status

    assert set(statuses) <= {READY}
    assert asyncio.run(scene()) is READY
    assert recorder.names == []
