import asyncio
import inspect
import itertools
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml._settings import retune, settings_of
from prodml.errors import BadConfiguration, CircuitOpen, DeadlineExceeded, RejectedAnswer
from prodml.resilience import CircuitBreaker, FallbackChain, Retry, Rung, Timeout
from prodml.resilience.chaos import Chaos, ChaosStats
from prodml.resilience.compose import compose
from prodml.testing import ManualClock, check_flow

RATES = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


def answers(value):
    return value


async def answers_later(value):
    return value


def items(count):
    yield from range(1, count + 1)
    return "end"


async def items_later(count):
    for item in range(1, count + 1):
        yield item


def collect(stream):
    async def all_of():
        return [item async for item in stream]

    return asyncio.run(all_of())


def outcome(predict, value):
    """What becomes of one call."""
    try:
        answer = predict(value)
    except ConnectionError:
        return "error"
    return "bad" if answer != value else "ok"


def outcomes(chaos, calls=200):
    predict = chaos(answers)
    return [outcome(predict, number) for number in range(calls)]


# -- nothing but what was told ---------------------------------------------------------------


def test_without_rates_it_keeps_the_contract_of_flows():
    check_flow(Chaos)
    check_flow(lambda: Chaos(error_rate=1.0, delay_rate=1.0, bad_rate=1.0, active=False))


def test_a_decorated_function_keeps_its_signature():
    assert inspect.signature(Chaos(error_rate=1.0)(answers)) == inspect.signature(answers)


@given(error_rate=RATES, delay_rate=RATES, bad_rate=RATES, seed=st.integers(0, 2**32))
def test_one_seed_gives_the_same_faults_in_every_run(error_rate, delay_rate, bad_rate, seed):
    def run():
        clock = ManualClock()
        chaos = Chaos(
            error_rate=error_rate,
            delay_rate=delay_rate,
            delay=lambda rng: rng.expovariate(1.0),
            bad_rate=bad_rate,
            rng=random.Random(seed),
            clock=clock,
        )
        return outcomes(chaos, 30), clock.slept, chaos.stats()

    assert run() == run()


@given(seed=st.integers(0, 2**32), rates=st.tuples(RATES, RATES, RATES))
def test_one_rate_does_not_move_the_faults_of_another(seed, rates):
    def injected(**settings):
        clock = ManualClock()
        chaos = Chaos(rng=random.Random(seed), clock=clock, **settings)
        return outcomes(chaos, 30), list(clock.slept)

    def which(told, what):
        return [number for number, said in enumerate(told) if said == what]

    error_rate, delay_rate, bad_rate = rates
    errors = which(injected(error_rate=error_rate)[0], "error")
    spoiled = which(injected(bad_rate=bad_rate)[0], "bad")
    slept = injected(delay_rate=delay_rate)[1]
    all_of_it = injected(error_rate=error_rate, delay_rate=delay_rate, bad_rate=bad_rate)
    assert which(all_of_it[0], "error") == errors
    assert which(all_of_it[0], "bad") == [n for n in spoiled if n not in errors]
    assert all_of_it[1] == slept


def test_a_delay_that_draws_much_moves_no_other_fault():
    def run(delay):
        chaos = Chaos(
            error_rate=0.5,
            delay_rate=0.5,
            delay=delay,
            rng=random.Random(3),
            clock=ManualClock(),
        )
        return outcomes(chaos)

    def many(rng):
        return sum(rng.random() for _ in range(10))

    assert run(1.0) == run(many) == run(lambda rng: rng.random())


def test_the_rates_are_met():
    chaos = Chaos(error_rate=0.3, bad_rate=0.2, rng=random.Random(1))
    told = outcomes(chaos, 2000)
    assert 0.27 < told.count("error") / 2000 < 0.33
    # Of the calls that have an answer.
    assert 0.17 < told.count("bad") / told.count("ok") * 0.8 < 0.23
    assert chaos.stats() == ChaosStats(
        calls=2000, errors=told.count("error"), spoiled=told.count("bad")
    )


@pytest.mark.parametrize(("rate", "said"), [(0.0, "ok"), (1.0, "error")])
def test_none_is_none_and_all_is_all(rate, said):
    assert set(outcomes(Chaos(error_rate=rate), 500)) == {said}


# -- errors -------------------------------------------------------------------------------


def test_a_failing_call_is_not_made():
    calls = []
    with pytest.raises(ConnectionError, match="injected fault"):
        Chaos(error_rate=1.0)(calls.append)(1)
    assert calls == []


def test_an_error_is_an_instance_a_class_or_made_anew():
    own = KeyError("x")
    with pytest.raises(KeyError) as caught:
        Chaos(error_rate=1.0, error=own)(answers)(1)
    assert caught.value is own
    with pytest.raises(TimeoutError):
        Chaos(error_rate=1.0, error=TimeoutError)(answers)(1)
    numbers = itertools.count()
    numbered = Chaos(error_rate=1.0, error=lambda: OSError(next(numbers)))(answers)
    for number in range(3):
        with pytest.raises(OSError) as caught:
            numbered(1)
        assert caught.value.args == (number,)


def test_an_instance_that_is_raised_again_does_not_grow():
    own = KeyError("x")
    failing = Chaos(error_rate=1.0, error=own)(answers)
    depths = []
    for _ in range(5):
        with pytest.raises(KeyError):
            failing(1)
        depths.append(_depth(own.__traceback__))
    assert len(set(depths)) == 1


def _depth(trace):
    return 0 if trace is None else 1 + _depth(trace.tb_next)


def test_the_functions_own_error_passes_untouched():
    own = ValueError("mine")

    def fails():
        raise own

    chaos = Chaos(bad_rate=1.0)
    with pytest.raises(ValueError) as caught:
        chaos(fails)()
    assert caught.value is own
    assert chaos.stats().spoiled == 0


# -- delays -------------------------------------------------------------------------------


def test_delays_pass_on_the_clock_in_threads_and_tasks():
    clock = ManualClock()
    chaos = Chaos(delay_rate=1.0, delay=2.5, clock=clock)
    assert chaos(answers)(1) == 1
    assert asyncio.run(chaos(answers_later)(2)) == 2
    assert list(chaos(items)(1)) == [1]
    assert collect(chaos(items_later)(1)) == [1]
    assert clock.slept == [2.5] * 4
    assert chaos.stats() == ChaosStats(calls=4, delayed=4)


def test_a_delay_comes_before_an_error():
    clock = ManualClock()
    chaos = Chaos(delay_rate=1.0, delay=3.0, error_rate=1.0, clock=clock)
    with pytest.raises(ConnectionError):
        chaos(answers)(1)
    assert clock.slept == [3.0]
    assert chaos.stats() == ChaosStats(calls=1, errors=1, delayed=1)


def test_a_drawn_delay_is_never_negative():
    clock = ManualClock()
    Chaos(delay_rate=1.0, delay=lambda rng: -1.0, clock=clock)(answers)(1)
    assert clock.slept == [0.0]


def test_a_timeout_outside_cuts_a_delay_off():
    chaos = Chaos(delay_rate=1.0, delay=3600.0)

    async def scene():
        await Timeout(0.01)(chaos(answers_later))(1)

    with pytest.raises(DeadlineExceeded):
        asyncio.run(scene())


# -- bad answers --------------------------------------------------------------------------


def test_a_bad_answer_is_nan_a_value_or_made_from_the_true_one():
    assert math.isnan(Chaos(bad_rate=1.0)(answers)(1))
    assert Chaos(bad_rate=1.0, bad=None)(answers)(1) is None
    assert Chaos(bad_rate=1.0, bad=lambda answer: -answer)(answers)(7) == -7
    spoiled = Chaos(bad_rate=1.0, bad=lambda y: np.full_like(y, np.nan))(answers)(np.zeros(3))
    assert np.isnan(spoiled).all()


def test_a_bad_answer_can_be_made_for_coroutines_too():
    chaos = Chaos(bad_rate=1.0, bad="bad")
    assert asyncio.run(chaos(answers_later)(1)) == "bad"
    assert asyncio.run(chaos.acall(answers_later, 1)) == "bad"
    assert chaos.call(answers, 1) == "bad"
    assert chaos.stats() == ChaosStats(calls=3, spoiled=3)


def test_of_a_stream_the_first_item_is_spoiled_and_the_rest_is_as_it_was():
    chaos = Chaos(bad_rate=1.0, bad=lambda item: item * 100)
    stream = chaos(items)(3)
    assert next(stream) == 100
    assert [next(stream), next(stream)] == [2, 3]
    with pytest.raises(StopIteration) as stop:
        next(stream)
    assert stop.value.value == "end"
    assert collect(chaos(items_later)(3)) == [100, 2, 3]
    assert chaos.stats() == ChaosStats(calls=2, spoiled=2)


def test_a_stream_without_items_has_nothing_to_spoil():
    chaos = Chaos(bad_rate=1.0, bad="bad")
    assert list(chaos(items)(0)) == []
    assert collect(chaos(items_later)(0)) == []
    assert chaos.stats() == ChaosStats(calls=2)


def test_the_opening_of_a_stream_fails_before_anything_is_made():
    opened = []

    def source():
        opened.append(1)
        yield 1

    async def asource():
        opened.append(1)
        yield 1

    chaos = Chaos(error_rate=1.0)
    with pytest.raises(ConnectionError):
        list(chaos(source)())
    with pytest.raises(ConnectionError):
        collect(chaos(asource)())
    assert opened == []


def test_what_cannot_be_spoiled_says_so():
    chaos = Chaos(bad_rate=1.0, bad=lambda answer: answer["x"])
    with pytest.raises(TypeError):
        chaos(answers)(7)
    assert chaos.stats().spoiled == 0


def test_a_tuple_is_an_answer_like_any_other():
    assert Chaos(bad_rate=1.0, bad="bad")(answers)((items(1), 1, False)) == "bad"


# -- on and off ---------------------------------------------------------------------------


def test_the_switch_is_asked_at_each_call():
    on = threading.Event()
    chaos = Chaos(error_rate=1.0, active=on.is_set)
    predict = chaos(answers)
    assert predict(1) == 1
    on.set()
    assert outcome(predict, 1) == "error"
    on.clear()
    assert predict(1) == 1
    assert chaos.stats() == ChaosStats(calls=1, errors=1)


def test_a_switch_that_breaks_is_off():
    def broken():
        raise KeyError("no flag")

    assert Chaos(error_rate=1.0, active=broken)(answers)(1) == 1


def test_calls_while_it_is_off_use_up_no_chance():
    def run(pause):
        chaos = Chaos(error_rate=0.5, rng=random.Random(7))
        told = outcomes(chaos, 20)
        retune(chaos, active=False)
        assert outcomes(chaos, pause) == ["ok"] * pause
        retune(chaos, active=True)
        return told + outcomes(chaos, 20)

    assert run(0) == run(50)


def test_a_running_chaos_is_retuned():
    chaos = Chaos()
    predict = chaos(answers)
    assert predict(1) == 1
    assert retune(chaos, error_rate=1.0).source == "chaos"
    assert outcome(predict, 1) == "error"
    assert settings_of(chaos)["error_rate"] == 1.0


# -- what it is for -----------------------------------------------------------------------


def test_policies_outside_cannot_tell_it_from_a_broken_dependency():
    clock = ManualClock()
    breaker = CircuitBreaker("model", failure_threshold=3, clock=clock)
    chaos = Chaos(error_rate=1.0)
    predict = compose(Retry(attempts=2, wait=0.0), breaker, chaos)(answers)
    seen = [type(_error(predict)) for _ in range(3)]
    assert seen == [ConnectionError, CircuitOpen, CircuitOpen]
    retune(chaos, active=False)
    clock.advance(60.0)
    assert predict(1) == 1


def _error(predict):
    with pytest.raises(Exception) as caught:
        predict(1)
    return caught.value


def test_a_chain_refuses_the_nonsense_and_answers_all_the_same():
    chaos = Chaos(bad_rate=0.5, rng=random.Random(7))
    chain = FallbackChain(
        Rung("model", chaos(lambda features: 0.7), accept=math.isfinite), default=0.5
    )
    served = [chain({}) for _ in range(100)]
    assert {s.value for s in served} == {0.7, 0.5}
    refused = [s.errors["model"] for s in served if s.degraded]
    assert len(refused) == chaos.stats().spoiled
    assert {type(error) for error in refused} == {RejectedAnswer}


def test_threads_share_one_sequence_and_count_exactly():
    def faults(threads):
        chaos = Chaos(error_rate=0.3, bad_rate=0.2, rng=random.Random(5))
        predict = chaos(answers)
        with ThreadPoolExecutor(threads) as pool:
            told = list(pool.map(lambda number: outcome(predict, number), range(800)))
        assert chaos.stats() == ChaosStats(
            calls=800, errors=told.count("error"), spoiled=told.count("bad")
        )
        return sorted(told)

    assert faults(1) == faults(8)


# -- settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"error_rate": -0.1},
        {"error_rate": 1.1},
        {"error_rate": math.nan},
        {"error_rate": "0.5"},
        {"delay_rate": 2},
        {"bad_rate": None},
        {"delay": -1.0},
        {"delay": math.inf},
        {"error": "boom"},
        {"error": KeyboardInterrupt},
        {"error": KeyboardInterrupt()},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        Chaos(**wrong)
