import asyncio
import contextlib
import gc
import math
import weakref

import pytest

from prodml._settings import retune
from prodml.errors import BadConfiguration, BulkheadFull, DeadlineExceeded
from prodml.events import CallRetried
from prodml.resilience import Deadline, DecorrelatedJitter, Retry, RetryBudget


class Script:
    """Plays its outcomes one by one: raises errors, returns the rest."""

    def __init__(self, *outcomes):
        self.outcomes, self.calls = list(outcomes), 0

    def __call__(self):
        self.calls += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def plain(retry, script):
    return retry(lambda: script())()


def coroutine(retry, script):
    @retry
    async def fetch():
        return script()

    return asyncio.run(fetch())


def generator(retry, script):
    @retry
    def stream():
        answer = script()
        yield answer

    return next(iter(stream()))


def async_generator(retry, script):
    @retry
    async def stream():
        yield script()

    async def main():
        return await anext(stream())

    return asyncio.run(main())


def call(retry, script):
    return retry.call(script)


@pytest.fixture(
    params=[plain, coroutine, generator, async_generator, call], ids=lambda form: form.__name__
)
def form(request):
    return request.param


@pytest.fixture
def make(clock, events):
    return lambda **settings: Retry(**({"wait": 2.0, "clock": clock, "events": events} | settings))


LOST = ConnectionError("lost")


def test_it_tries_again_until_it_works(form, make, clock):
    script = Script(LOST, ConnectionResetError(), 0)
    assert form(make(), script) == 0
    assert clock.slept == [2.0, 2.0]


def test_the_last_error_is_raised_itself_with_a_note(form, make):
    error = ConnectionError("third")
    script = Script(LOST, LOST, error)
    with pytest.raises(ConnectionError) as raised:
        form(make(), script)
    assert raised.value is error
    assert error.__notes__ == ["attempt 3 of 3; no attempts left"]


def test_other_errors_are_not_retried_or_marked(form, make):
    error = ValueError("bug")
    script = Script(error, 1)
    with pytest.raises(ValueError) as raised:
        form(make(), script)
    assert raised.value is error
    assert script.calls == 1
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("gone", [KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_cancellation_is_never_swallowed(form, make, gone):
    script = Script(LOST, gone, 1)
    with pytest.raises(type(gone)):
        form(make(on=(Exception,)), script)
    assert script.calls == 2


def test_a_rejection_is_never_retried(form, make, clock):
    script = Script(BulkheadFull("pool", 1), 1)
    with pytest.raises(BulkheadFull):
        form(make(on=(Exception,)), script)
    assert clock.slept == []


def test_a_timeout_is_retried_if_asked_for(form, make):
    assert form(make(on=TimeoutError), Script(DeadlineExceeded("model", 1.0), 1)) == 1


def test_each_wait_is_a_fact(form, make, facts, clock):
    form(make(wait=lambda attempt: attempt * 3.0), Script(LOST, LOST, 1))
    assert [(fact.attempt, fact.wait, fact.error) for fact in facts.of(CallRetried)] == [
        (1, 3.0, LOST),
        (2, 6.0, LOST),
    ]
    assert clock.slept == [3.0, 6.0]


def test_one_error_object_raised_again_and_again_collects_one_note(make):
    error = ConnectionError("the only one")
    for _ in range(3):
        with pytest.raises(ConnectionError):
            make()(Script(error, error, error))()
    assert len(error.__notes__) == 1


class Busy(ConnectionError):
    def __init__(self, retry_after):
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(5.0, 5.0), (60.0, 60.0), (0.5, 2.0), ("120", 2.0), (None, 2.0), (math.nan, 2.0), (-3, 2.0)],
)
def test_a_longer_retry_after_is_honoured(make, clock, asked, waited):
    make()(Script(Busy(asked), 1))()
    assert clock.slept == [waited]


def test_a_retry_after_beyond_the_cap_is_not_waited_for(make, clock):
    error = Busy(61.0)
    with pytest.raises(Busy):
        make()(Script(error, 1))()
    assert clock.slept == []
    assert "more than retry_after_cap" in error.__notes__[0]


def test_a_wait_that_ends_after_the_deadline_is_not_begun(form, make, clock):
    error = ConnectionError()
    with pytest.raises(ConnectionError) as raised:
        form(make(attempts=10, deadline=5.0), Script(LOST, LOST, error, 1))
    assert raised.value is error
    assert clock.slept == [2.0, 2.0]
    assert "deadline" in error.__notes__[0]


def test_a_wait_that_ends_with_the_deadline_is_not_begun(form, make, clock):
    with Deadline(2.0, clock=clock), pytest.raises(ConnectionError):
        form(make(), Script(LOST, 1))
    assert clock.slept == []


def test_an_outer_deadline_counts_too(form, make, clock):
    script = Script(LOST, LOST, LOST, 1)
    with Deadline(3.0, clock=clock), pytest.raises(ConnectionError):
        form(make(attempts=10), script)
    assert clock.slept == [2.0]


def test_a_late_call_is_not_begun(form, make, clock):
    script = Script(1)
    with Deadline(3.0, clock=clock):
        clock.advance(3.0)
        with pytest.raises(DeadlineExceeded):
            form(make(), script)
    assert script.calls == 0


def test_a_spent_budget_stops_retries(form, make, clock):
    budget = RetryBudget(floor=1.0, ratio=0.1, clock=clock)
    script = Script(LOST, LOST, 1)
    with pytest.raises(ConnectionError):
        form(make(budget=budget, wait=0.0), script)
    assert (script.calls, budget.refused) == (2, 1)


def test_one_attempt_is_no_retry(form, make):
    script = Script(LOST, 1)
    with pytest.raises(ConnectionError):
        form(make(attempts=1), script)
    assert script.calls == 1


def test_a_negative_wait_is_none(make, clock):
    make(wait=lambda _: -5.0)(Script(LOST, 1))()
    assert clock.slept == [0.0]


def test_a_generator_is_retried_at_its_opening_only(make):
    opened = []

    @make()
    def stream():
        opened.append(1)
        yield 1
        raise LOST

    items = stream()
    assert next(items) == 1
    with pytest.raises(ConnectionError):
        next(items)
    assert opened == [1]


def test_a_plain_function_that_gives_a_coroutine_is_a_mistake_and_says_so(make):
    async def fetch(): ...

    with pytest.raises(TypeError, match="async"):
        make()(lambda: fetch())()


def test_retuning_a_decorated_function_takes_effect(make):
    retry = make()
    script = Script(LOST, LOST, LOST, LOST, 1)
    guarded = retry(script)
    retune(retry, attempts=5, wait=0.0)
    assert guarded() == 1
    with pytest.raises(BadConfiguration, match="deadline"):
        retune(retry, deadline=30.0)


def test_neither_error_nor_frames_are_kept(make):
    class Own(ConnectionError):
        pass

    references = []

    def failing():
        error = Own()
        references.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.disable()
    try:
        with contextlib.suppress(Own):
            make()(failing)()
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "settings",
    [
        {"attempts": 0},
        {"on": (BaseException,)},
        {"on": "ConnectionError"},
        {"wait": -1.0},
        {"deadline": 0.0},
        {"retry_after_cap": -1.0},
    ],
    ids=str,
)
def test_nonsense_is_refused_while_building(settings):
    with pytest.raises(BadConfiguration, match=next(iter(settings))):
        Retry(**settings)


# -- results and predicates ---------------------------------------------------------------------


def test_a_result_may_be_worth_another_attempt(form, make, clock, facts):
    script = Script(None, "", "answer")
    assert form(make(on_result=lambda result: not result), script) == "answer"
    assert (script.calls, clock.slept) == (3, [2.0, 2.0])
    assert "on_result" in str(facts.of(CallRetried)[0].error)


def test_when_no_attempt_is_left_the_last_result_is_returned(form, make):
    script = Script(1, 2, 3)
    assert form(make(on_result=lambda result: True), script) == 3
    assert script.calls == 3


def test_errors_and_results_share_the_attempts(form, make):
    script = Script(LOST, None, LOST, "late")
    with pytest.raises(ConnectionError):
        form(make(on_result=lambda result: result is None), script)
    assert script.calls == 3


def test_a_predicate_that_cannot_read_the_result_asks_for_nothing(form, make):
    script = Script(5)
    assert form(make(on_result=lambda result: result.status > 500), script) == 5


def test_a_predicate_tells_which_errors(form, make):
    script = Script(OSError("try again"), OSError("never"))
    with pytest.raises(OSError, match="never"):
        form(make(on=lambda error: "again" in str(error)), script)
    assert script.calls == 2


@pytest.mark.parametrize("gone", [KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_no_predicate_is_asked_about_cancellation(form, make, gone):
    with pytest.raises(type(gone)):
        form(make(on=lambda error: True, on_result=lambda result: False), Script(gone, 1))


def test_decorrelated_waits_build_on_each_other(make, clock):
    class Widest:
        def uniform(self, low, high):
            return high

    wait = DecorrelatedJitter(base=1.0, cap=20.0, rng=Widest())
    with pytest.raises(ConnectionError):
        make(attempts=6, wait=wait)(Script(*[LOST] * 6))()
    assert clock.slept == [3.0, 9.0, 20.0, 20.0, 20.0]


def test_each_call_pays_into_the_budget_once_however_it_ends(form, make, clock):
    budget = RetryBudget(ratio=0.25, floor=0.0, burst=100.0, clock=clock)
    retry = make(budget=budget)
    for ending in (1, LOST, 1, ValueError()):
        with contextlib.suppress(ConnectionError, ValueError):
            form(retry, Script(ending, ending, ending))
    assert budget.balance == pytest.approx(1.0)


def test_a_stream_whose_first_item_is_not_good_enough_is_closed(make):
    closed = []

    def stream(name):
        try:
            yield name
        finally:
            closed.append(name)

    async def astream(name):
        try:
            yield name
        finally:
            closed.append(name)

    names = iter("abcd")
    retry = make(on_result=lambda item: item in "ac")
    assert list(retry(_named(stream, names))()) == ["b"]
    assert closed == ["a", "b"]

    async def main():
        return [item async for item in retry(_anamed(astream, names))()]

    assert asyncio.run(main()) == ["d"]
    assert closed == ["a", "b", "c", "d"]


def _named(stream, names):
    def opened():
        yield from stream(next(names))

    return opened


def _anamed(stream, names):
    async def opened():
        source = stream(next(names))
        try:
            async for item in source:
                yield item
        finally:
            await source.aclose()

    return opened


def test_a_wait_beyond_all_clocks_is_refused_or_cut(make, clock):
    with pytest.raises(BadConfiguration):
        Retry(wait=1e12)
    with pytest.raises(ConnectionError):
        make(attempts=2, wait=lambda _: 1e300)(Script(LOST, LOST))()
    assert clock.slept == [365 * 86_400.0]
