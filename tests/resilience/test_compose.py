import asyncio
import math

import pytest

from prodml._call import Guard
from prodml.errors import BadConfiguration, CircuitOpen
from prodml.resilience import (
    Bulkhead,
    CircuitBreaker,
    Deadline,
    FallbackChain,
    FullJitter,
    Retry,
    Rung,
    Timeout,
    compose,
)


class Own(Guard[None]):
    def enter(self): ...
    def leave(self, token, result): ...
    def fail(self, token, error): ...


FULL = (Deadline(1.0), Retry(), CircuitBreaker("db"), Bulkhead(4), Timeout(0.1))


def test_it_reads_outermost_first(clock, events):
    breaker = CircuitBreaker("db", failure_threshold=1, clock=clock, events=events)
    retry = Retry(attempts=2, on=(Exception,), wait=1.0, clock=clock, events=events)
    calls = []

    @compose(retry, breaker)
    def failing():
        calls.append(1)
        raise ConnectionError

    with pytest.raises(CircuitOpen):
        failing()
    assert (len(calls), clock.slept) == (1, [1.0])


def test_it_works_in_both_colours():
    async def answer(x):
        return x

    composed = compose(*FULL)
    assert composed(abs)(-3) == composed.call(abs, -3) == 3
    assert asyncio.run(composed(answer)(3)) == 3

    async def main():
        return await composed.acall(answer, 3)

    assert asyncio.run(main()) == 3


@pytest.mark.parametrize(
    "layers",
    [
        (CircuitBreaker(), Retry()),
        (Bulkhead(1), Retry()),
        (Retry(), Retry()),
        (Retry(), Deadline(1.0)),
        (Timeout(1.0), CircuitBreaker()),
        (Timeout(1.0), Bulkhead(1), CircuitBreaker()),
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers),
)
def test_an_order_that_does_not_work_is_refused_with_the_reason(layers):
    with pytest.raises(BadConfiguration, match=r"^\w+ outside \w+: .{20,}"):
        compose(*layers)


@pytest.mark.parametrize("layers", [(), (len,), (Retry,)], ids=str)
def test_what_is_no_policy_is_refused(layers):
    with pytest.raises(BadConfiguration, match="compose"):
        compose(*layers)


@pytest.mark.parametrize(
    ("layers", "seconds"),
    [
        ((Timeout(0.1),), 0.1),
        ((Timeout(0.1), Timeout(0.5)), 0.1),
        ((CircuitBreaker(), Timeout(0.1)), 0.1),
        ((CircuitBreaker(),), math.inf),
        ((Deadline(1.0),), math.inf),
        ((Retry(wait=0.2, retry_after_cap=0.0), Timeout(0.1)), 3 * 0.1 + 2 * 0.2),
        ((Retry(wait=FullJitter(cap=2.0), retry_after_cap=0.0), Timeout(1.0)), 7.0),
        ((Retry(wait=0.0, retry_after_cap=5.0), Timeout(1.0)), 13.0),
        ((Retry(wait=lambda _: 1.0), Timeout(0.1)), math.inf),
        ((Retry(deadline=0.5), Timeout(0.1)), 0.5),
        ((Retry(deadline=0.5, wait=lambda _: 1.0), Timeout(0.1)), 0.5),
        ((Deadline(0.5), Retry(), Timeout(0.1)), 0.5),
    ],
)
def test_it_knows_the_worst_case(layers, seconds):
    assert compose(*layers).worst_case == pytest.approx(seconds)


def test_it_explains_itself():
    assert compose(*FULL, Own()).explain().splitlines() == [
        "1. Deadline(1 s): may raise DeadlineExceeded",
        "2. Retry(3 attempts): may raise nothing itself",
        "3. CircuitBreaker('db'): may raise CircuitOpen",
        "4. Bulkhead('bulkhead'): may raise BulkheadFull",
        "5. Timeout(0.1 s): may raise DeadlineExceeded",
        "6. Own: may raise nothing itself",
        "A call takes at most 1 s.",
    ]


def test_it_says_when_nothing_limits_a_call():
    assert compose(Retry()).explain().endswith("A call takes as long as it likes.")
