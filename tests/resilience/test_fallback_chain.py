import asyncio
import math
import threading

import pytest

from prodml._call import run
from prodml._settings import retune
from prodml.errors import (
    AllFallbacksFailed,
    BadConfiguration,
    CircuitOpen,
    DeadlineExceeded,
    RejectedAnswer,
)
from prodml.resilience import Bulkhead, CircuitState, Deadline, FallbackChain, Rung, RungStats
from prodml.types import MISS


class Model:
    def __init__(self, answer):
        self.answer = answer

    def predict(self, features):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


DOWN = Model(ConnectionError("down"))


def sync(chain, features):
    return chain(features)


def awaiting(chain, features):
    return asyncio.run(chain.acall(features))


@pytest.fixture(params=[sync, awaiting], ids=lambda ask: ask.__name__)
def ask(request):
    return request.param


@pytest.mark.parametrize("value", [0.0, None, False, "", 0.7], ids=repr)
def test_the_first_rung_that_answers_wins_falsy_or_not(ask, value):
    served = ask(FallbackChain(Rung("first", Model(value)), Rung("second", DOWN)), {})
    assert (served.value, served.rung, served.degraded) == (value, "first", False)
    assert served.errors == {}


def test_a_lower_rung_is_degraded_and_says_why(ask):
    served = ask(FallbackChain(Rung("first", DOWN), Rung("second", lambda row: row["x"])), {"x": 3})
    assert (served.value, served.rung, served.degraded) == (3, "second", True)
    assert served.errors == {"first": DOWN.answer}


@pytest.mark.parametrize("default", [0.0, None, False, [], 0.5], ids=repr)
def test_a_default_is_a_value_falsy_or_not(ask, default):
    served = ask(FallbackChain(Rung("first", DOWN), default=default), {})
    assert (served.value, served.rung, served.degraded) == (default, "default", True)


def test_a_default_alone_is_a_chain_and_always_degraded(ask):
    served = ask(FallbackChain(default=0), {})
    assert (served.value, served.rung, served.degraded) == (0, "default", True)


def test_a_default_may_be_computed_from_the_features(ask):
    chain = FallbackChain(Rung("first", DOWN), default=lambda row: row["x"] * 0)
    assert ask(chain, {"x": 3}).value == 0


async def async_default(row):
    await asyncio.sleep(0)
    return row["x"]


def test_a_default_may_be_asynchronous():
    chain = FallbackChain(Rung("first", DOWN), default=async_default)
    assert awaiting(chain, {"x": 3}).value == 3


def test_all_failed_holds_every_cause_in_order(ask):
    errors = [ValueError("a"), KeyError("b"), OSError("c")]

    def default(_):
        raise errors[2]

    rungs = [Rung(name, Model(error)) for name, error in zip("ab", errors, strict=False)]
    with pytest.raises(AllFallbacksFailed) as failed:
        ask(FallbackChain(*rungs, default=default, name="ladder"), {})
    assert failed.value.exceptions == tuple(errors)
    assert failed.value.message == "ladder: no answer from a, b, default"


@pytest.mark.parametrize("gone", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit()])
def test_interrupts_pass_and_the_guard_lets_go(ask, gone):
    bulkhead = Bulkhead(1)
    chain = FallbackChain(Rung("first", Model(gone), breaker=bulkhead), default=0)
    with pytest.raises(type(gone)):
        ask(chain, {})
    assert bulkhead.in_flight == 0


# -- accept -----------------------------------------------------------------------------


def test_an_answer_that_is_not_accepted_is_a_failure_of_the_rung(ask):
    chain = FallbackChain(Rung("first", Model(math.nan), accept=math.isfinite), default=0.5)
    served = ask(chain, {})
    assert served.value == 0.5
    assert isinstance(served.errors["first"], RejectedAnswer)


def test_a_check_may_raise_its_own_reason(ask):
    reason = ValueError("not a probability")

    def check(_):
        raise reason

    served = ask(FallbackChain(Rung("first", Model(7), accept=check), default=0.5), {})
    assert served.errors["first"] is reason


@pytest.mark.parametrize("verdict", [None, True, 1, "yes"])
def test_a_check_that_says_nothing_accepts(ask, verdict):
    rung = Rung("first", Model(0), accept=lambda _: verdict)
    assert ask(FallbackChain(rung), {}).value == 0


def test_the_guard_hears_of_a_refused_answer_as_of_a_failure(ask, make):
    breaker = make()
    rung = Rung("first", Model(math.nan), breaker=breaker, accept=math.isfinite)
    chain = FallbackChain(rung, default=0.5)
    for _ in range(3):
        assert ask(chain, {}).value == 0.5
    assert breaker.state is CircuitState.OPEN
    assert isinstance(ask(chain, {}).errors["first"], CircuitOpen)


def test_an_interrupt_in_the_check_lets_the_guard_go(ask):
    def check(_):
        raise KeyboardInterrupt

    bulkhead = Bulkhead(1)
    with pytest.raises(KeyboardInterrupt):
        ask(FallbackChain(Rung("first", Model(1), breaker=bulkhead, accept=check)), {})
    assert bulkhead.in_flight == 0


def test_the_guard_hears_of_success(ask, make, clock):
    breaker = make()
    rung = Rung("first", Model(1), breaker=breaker)
    for _ in range(3):
        breaker.fail(breaker.enter(), OSError())
    clock.advance(10.0)
    assert ask(FallbackChain(rung), {}).value == 1
    assert breaker.state is CircuitState.CLOSED


# -- time -------------------------------------------------------------------------------


def test_a_hung_rung_is_left_behind(ask):
    hang = threading.Event()
    rung = Rung("first", lambda _: hang.wait(60), timeout=0.01)
    served = ask(FallbackChain(rung, default=0), {})
    hang.set()
    assert served.value == 0
    assert isinstance(served.errors["first"], DeadlineExceeded)


def test_rungs_without_time_are_skipped_and_the_default_answers(ask, clock, make):
    called, breaker = [], make(failure_threshold=1)
    chain = FallbackChain(Rung("first", called.append, breaker=breaker), default=lambda _: 0)
    with Deadline(1.0, clock=clock):
        clock.advance(1.0)
        served = ask(chain, {})
    assert (served.value, called) == (0, [])
    assert isinstance(served.errors["first"], DeadlineExceeded)
    assert chain.stats()["first"] == RungStats(skipped=1)
    assert breaker.state is CircuitState.CLOSED


def test_a_rung_that_needs_more_than_is_left_is_skipped(ask, clock):
    slow, quick = Rung("slow", Model(1), needs=0.5), Rung("quick", Model(2), needs=0.1)
    with Deadline(0.3, clock=clock):
        assert ask(FallbackChain(slow, quick), {}).rung == "quick"
    assert ask(FallbackChain(slow, quick), {}).rung == "slow"


def test_it_says_how_long_it_took(ask, clock):
    chain = FallbackChain(Rung("first", lambda _: clock.advance(0.25)), clock=clock)
    assert ask(chain, {}).elapsed == 0.25


# -- colours, stats, flows --------------------------------------------------------------


class BothColours(Model):
    async def apredict(self, features):
        await asyncio.sleep(0)
        return "awaited"


def test_an_awaiting_caller_gets_the_awaiting_model():
    chain = FallbackChain(Rung("first", BothColours("called")))
    assert (sync(chain, {}).value, awaiting(chain, {}).value) == ("called", "awaited")


def test_an_asynchronous_model_in_a_synchronous_call_is_a_mistake_not_a_fallback():
    chain = FallbackChain(Rung("first", async_default), default=0)
    with pytest.raises(TypeError, match="async"):
        chain({"x": 1})


def test_every_rung_counts_what_became_of_it(ask):
    answers = iter([ValueError(), 1, 2])

    def moody(_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    chain = FallbackChain(Rung("moody", moody), default=0)
    for _ in range(3):
        ask(chain, {})
    assert chain.stats() == {
        "moody": RungStats(answered=2, failed=1),
        "default": RungStats(answered=1),
    }


def test_a_flow_can_ask_it_on_the_way():
    chain = FallbackChain(Rung("first", DOWN))

    def outer():
        served, error = yield from chain.steps({})
        assert served is None
        return type(error).__name__, None

    assert run(outer()) == "AllFallbacksFailed"


def test_threads_lose_no_count():
    chain = FallbackChain(Rung("first", Model(1)))

    def hammer():
        for _ in range(200):
            chain({})

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chain.stats()["first"].answered == 1600


def test_no_default_is_miss():
    assert FallbackChain(Rung("first", DOWN)).default is MISS


def test_a_chain_is_replaced_not_retuned_and_a_rung_is_retuned():
    rung = Rung("first", Model(1), timeout=1.0)
    with pytest.raises(BadConfiguration, match="name"):
        retune(FallbackChain(rung), name="other")
    retune(rung, timeout=2.0)
    assert rung.invoke({}).timeout == 2.0


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (FallbackChain, "at least one"),
        (lambda: FallbackChain(Rung("a", len), Rung("a", len)), "differ"),
        (lambda: FallbackChain(Rung("default", len)), "default"),
        (lambda: Rung("a", 7), "predict"),
        (lambda: Rung("a", Model), "predict"),
        (lambda: Rung("a", len, timeout=0), "timeout"),
        (lambda: Rung("a", len, needs=-1), "needs"),
    ],
)
def test_nonsense_is_refused_while_building(build, says):
    with pytest.raises(BadConfiguration, match=says):
        build()
