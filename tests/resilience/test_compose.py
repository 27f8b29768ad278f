import asyncio
import math
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml._call import Guard
from prodml.errors import BadConfiguration, CircuitOpen
from prodml.events import Stream
from prodml.resilience import (
    AdaptiveLimiter,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Deadline,
    DecorrelatedJitter,
    Exponential,
    Fallback,
    FallbackChain,
    FullJitter,
    Hedge,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    compose,
)
from prodml.testing import ManualClock


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
        (AdaptiveLimiter(1.0), Retry()),
        (AdaptiveLimiter(1.0).below(0.5), Retry()),
        (Bulkhead(1), Hedge(0.1)),
        (AdaptiveLimiter(1.0), Hedge(0.1)),
        (RateLimiter(1.0), Retry()),
        (RateLimiter(1.0), Hedge(0.1)),
        (Hedge(0.1), Retry()),
        (Hedge(0.1), Hedge(0.1)),
        (Retry(), Fallback(0)),
        (CircuitBreaker(), Fallback(0)),
        (Timeout(1.0), Fallback(0)),
        (Hedge(0.1), Fallback(0)),
        (Deadline(1.0), Fallback(0)),
        (Retry(), FallbackChain(default=0)),
        (Chaos(), CircuitBreaker()),
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
        ((Retry(wait=DecorrelatedJitter(cap=2.0), retry_after_cap=0.0), Timeout(1.0)), 7.0),
        ((Retry(wait=Exponential(1.0, cap=2.0), retry_after_cap=0.0), Timeout(1.0)), 7.0),
        ((Bulkhead(4, queue=2, max_wait=0.3), Timeout(0.1)), 0.4),
        ((Bulkhead(4, queue=2), Timeout(0.1)), math.inf),
        ((RateLimiter(1.0, max_wait=2.0), Timeout(0.1)), 2.1),
        ((Fallback(0), Timeout(0.1)), 0.1),
        ((Hedge(0.2, attempts=3), Timeout(1.0)), 1.4),
        ((Hedge(attempts=2), Timeout(1.0)), 2.0),
    ],
)
def test_it_knows_the_worst_case(layers, seconds):
    assert compose(*layers).worst_case == pytest.approx(seconds)


def test_it_explains_itself():
    assert compose(*FULL, Own()).explain().splitlines() == [
        "1. Deadline(1 s): may raise DeadlineExceeded",
        "2. Retry(3 attempts, waits of at most 60 s): may raise nothing itself",
        "3. CircuitBreaker('db'): may raise CircuitOpen",
        "4. Bulkhead('bulkhead'): may raise BulkheadFull",
        "5. Timeout(0.1 s): may raise DeadlineExceeded",
        "6. Own: may raise nothing itself",
        "A call takes at most 1 s.",
    ]


def test_it_says_when_nothing_limits_a_call():
    assert compose(Retry()).explain().endswith("A call takes as long as it likes.")


# -- one wrapper ----------------------------------------------------------------------------


def test_it_is_one_wrapper_around_the_function():
    def answer(x: int) -> int:
        """Documented."""
        return x

    async def aanswer(x: int) -> int:
        return x

    for fn in (answer, aanswer):
        wrapped = compose(Fallback(0), *FULL)(fn)
        assert wrapped.__wrapped__ is fn
        assert (wrapped.__name__, wrapped.__doc__) == (fn.__name__, fn.__doc__)


def test_fallback_retry_and_breaker_add_one_frame():
    def frames():
        return [frame.name for frame in traceback.extract_stack()]

    alone = frames()
    together = compose(Fallback(0), Retry(), CircuitBreaker("db"))(frames)()
    assert len(together) == len(alone) + 1


def outer(clock, budget):
    """Layers that may stand around a breaker."""
    quiet = {"clock": clock, "events": Stream()}
    return {
        "fallback": Fallback("other", clock=clock),
        "picky fallback": Fallback("other", on=(CircuitOpen,), clock=clock),
        "retry": Retry(attempts=3, wait=1.0, budget=budget, **quiet),
        "retry results": Retry(attempts=2, wait=1.0, on_result=lambda r: r == "odd", **quiet),
        "retry in time": Retry(attempts=3, wait=1.0, deadline=2.5, **quiet),
        "deadline": Deadline(3.0, clock=clock),
    }


ORDERS = [
    ("fallback",),
    ("retry",),
    ("fallback", "retry"),
    ("picky fallback", "retry"),
    ("fallback", "picky fallback", "retry"),
    ("fallback", "deadline", "retry"),
    ("fallback", "retry results"),
    ("fallback", "retry in time"),
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@given(
    endings=st.lists(st.sampled_from(["well", "fail", "odd", "value", "gone"]), max_size=30),
    guarded=st.booleans(),
    limit=st.sampled_from([None, 1.5, 10.0]),
)
def test_composed_policies_do_what_stacked_ones_do(order, endings, guarded, limit):
    """Same answers, errors, waits, payments and states; in both colours."""

    def play(build, colour):
        clock, left = ManualClock(), list(endings)
        budget = RetryBudget(ratio=0.5, floor=0.1, clock=clock)
        known = outer(clock, budget)
        breaker = CircuitBreaker(
            "db",
            failure_threshold=2,
            success_threshold=1,
            reset_timeout=3.0,
            slow_after=1.0,
            min_calls=3,
            window=5,
            clock=clock,
            events=Stream(),
        )
        layers = [known[name] for name in order] + [breaker] * guarded

        def body():
            ending = left.pop() if left else "well"
            clock.advance(0.5)
            errors = {"fail": ConnectionError, "value": ValueError, "gone": GeneratorExit}
            if ending in errors:
                raise errors[ending]
            return ending

        call, trace = colour(build(layers), body), []
        for _ in endings:
            clock.advance(0.7)
            try:
                if limit is None:
                    trace.append(call())
                else:
                    with Deadline(limit, clock=clock):
                        clock.advance(1.0)
                        trace.append(call())
            except BaseException as error:
                trace.append(type(error))
            trace.append((clock.monotonic(), breaker.snapshot(), budget.refused))
        return trace

    def stacked(layers):
        def around(fn):
            for layer in reversed(layers):
                fn = layer(fn)
            return fn

        return around

    def composed(layers):
        return compose(*layers)

    plays = [play(build, colour) for build in (stacked, composed) for colour in (plain, coroutine)]
    assert plays[0] == plays[1] == plays[2] == plays[3]


def plain(around, body):
    return around(lambda: body())


def coroutine(around, body):
    async def protected():
        return body()

    guarded = around(protected)

    def call():
        steps = guarded()
        while True:
            try:
                steps.send(None)
            except StopIteration as stop:
                return stop.value

    return call


def test_it_says_that_the_fallbacks_own_time_comes_on_top():
    assert compose(Fallback(0), Timeout(0.1)).explain().endswith("at most 0.1 s.")
    told = compose(Fallback(abs), Retry(wait=lambda _: 1.0), Timeout(0.1)).explain()
    assert "Retry(3 attempts, waits of any length)" in told
    assert told.endswith("as long as it likes, and what its fallback takes.")


def test_layers_with_clocks_of_their_own_wait_by_them(clock, events):
    """The fallback has the machine's clock, the retry a manual one."""
    retry = Retry(attempts=3, wait=3600.0, clock=clock, events=events)
    guarded = compose(Fallback(0), retry, CircuitBreaker("db"))
    assert guarded.call(down) == 0
    assert clock.slept == [3600.0, 3600.0]


def test_what_breaks_inside_a_layer_is_answered_by_those_around_it(clock, events):
    broken = Retry(wait=lambda attempt: 1 / 0, clock=clock, events=events)
    fallback = Fallback(0, clock=clock)
    assert compose(fallback, broken, CircuitBreaker("db")).call(down) == 0


def test_a_plain_function_that_gives_an_awaitable_is_awaited_by_acall():
    breaker = CircuitBreaker("db", failure_threshold=2)

    async def fails():
        raise ConnectionError

    async def main():
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await compose(breaker).acall(lambda: fails())

    asyncio.run(main())
    assert breaker.state.value == "open"


def test_fused_or_not_a_coroutine_out_of_a_plain_function_is_a_mistake():
    async def fetch():
        return 1

    for policy in (compose(Fallback(0), Retry(), CircuitBreaker("db")), compose(Retry()), Retry()):
        with pytest.raises(TypeError, match="async"):
            policy.call(lambda: fetch())


def down():
    raise ConnectionError
