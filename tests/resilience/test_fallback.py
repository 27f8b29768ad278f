"""Another answer, in all four kinds of function."""

import asyncio

import pytest

from prodml.errors import AllFallbacksFailed, BadConfiguration, CircuitOpen
from prodml.resilience import CircuitBreaker, Deadline, Fallback, FallbackChain, Rung
from prodml.testing import ManualClock


def down(*_args, **_kwargs):
    raise ConnectionError("down")


async def adown(*_args, **_kwargs):
    raise ConnectionError("down")


async def collect(stream):
    return [item async for item in stream]


@pytest.mark.parametrize("answer", [0.5, 0.0, None, False, ""], ids=repr)
def test_a_value_answers_falsy_ones_too(answer):
    assert Fallback(answer)(down)(7) is answer
    assert asyncio.run(Fallback(answer)(adown)(7)) is answer


def test_a_function_gets_the_arguments_of_the_call():
    heard = []

    def note(*args, **kwargs):
        heard.append((args, kwargs))
        return "noted"

    assert Fallback(note)(down)(1, b=2) == "noted"
    assert asyncio.run(Fallback(note)(adown)(3)) == "noted"
    assert heard == [((1,), {"b": 2}), ((3,), {})]


def test_an_asynchronous_function_answers_asynchronous_ones():
    async def other(x):
        await asyncio.sleep(0)
        return x + 1

    assert asyncio.run(Fallback(other)(adown)(1)) == 2
    for plain in (down, (item for item in ()).__next__):
        with pytest.raises(TypeError, match="asynchronous"):
            Fallback(other)(plain)


def test_an_answer_that_succeeds_passes_untouched():
    assert Fallback(0)(len)("abc") == 3


def test_other_errors_pass():
    guarded = Fallback(0, on=(TimeoutError,))(down)
    with pytest.raises(ConnectionError):
        guarded()
    assert Fallback(0, on=lambda error: "down" in str(error))(down)() == 0


@pytest.mark.parametrize("gone", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
def test_what_ends_a_call_from_outside_passes(gone):
    def ending():
        raise gone

    with pytest.raises(gone):
        Fallback(0)(ending)()


def test_when_both_fail_both_are_told():
    def worse(*_):
        raise ValueError("worse")

    with pytest.raises(AllFallbacksFailed) as failed:
        Fallback(worse, name="prices")(down)(1)
    assert [type(cause) for cause in failed.value.exceptions] == [ConnectionError, ValueError]
    assert "prices" in str(failed.value)


def test_a_rejection_is_answered_too():
    breaker = CircuitBreaker("db")
    breaker.force_open("drill")
    assert Fallback("stale")(breaker(down))() == "stale"
    with pytest.raises(CircuitOpen):
        breaker(down)()


def test_a_chain_answers_with_its_value():
    chain = FallbackChain(Rung("first", down), default=lambda features: features["age"] / 100)
    assert Fallback(chain)(down)({"age": 41}) == 0.41
    assert asyncio.run(Fallback(chain)(adown)({"age": 41})) == 0.41


def test_it_answers_at_once_also_when_no_time_is_left():
    clock = ManualClock()

    @Fallback(lambda: "late")
    def slow():
        clock.advance(2.0)
        raise ConnectionError

    with Deadline(1.0, clock=clock):
        assert slow() == "late"
        assert slow() == "late"


def test_of_a_generator_the_opening_is_covered():
    def stream(first):
        if first == "down":
            raise ConnectionError
        yield first
        raise ConnectionError

    def others(first):
        yield from ("a", "b")

    assert list(Fallback("one")(stream)("down")) == ["one"]
    assert list(Fallback(others)(stream)("down")) == ["a", "b"]
    items = Fallback("one")(stream)("up")
    assert next(items) == "up"
    with pytest.raises(ConnectionError):
        next(items)


def test_of_an_asynchronous_generator_too():
    async def stream(first):
        if first == "down":
            raise ConnectionError
        yield first

    async def others(first):
        yield "a"
        yield "b"

    async def one(first):
        return "awaited"

    for to, items in (
        ("one", ["one"]),
        (others, ["a", "b"]),
        (one, ["awaited"]),
        (FallbackChain(default=0), [0]),
    ):
        assert asyncio.run(collect(Fallback(to)(stream)("down"))) == items
        assert asyncio.run(collect(Fallback(to)(stream)("up"))) == ["up"]


def test_single_calls():
    fallback = Fallback(0)
    assert fallback.call(down) == 0

    async def main():
        return await fallback.acall(adown)

    assert asyncio.run(main()) == 0


def test_catching_what_is_no_exception_is_refused():
    with pytest.raises(BadConfiguration):
        Fallback(0, on=(KeyboardInterrupt,))


def test_a_chain_answers_for_the_first_argument_however_it_is_passed():
    chain = FallbackChain(default=lambda features: features * 2)
    assert Fallback(chain)(down)(4, "other") == 8
    assert Fallback(chain)(down)(row=4) == 8
    with pytest.raises(AllFallbacksFailed) as failed:
        Fallback(chain)(down)()
    assert [type(cause) for cause in failed.value.exceptions] == [ConnectionError, IndexError]


def test_a_class_makes_the_other_answer():
    assert Fallback(dict)(down)() == {}
    assert asyncio.run(Fallback(dict)(adown)()) == {}
