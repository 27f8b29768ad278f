import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import threading
import unittest.mock
from concurrent.futures import Future

import pytest

from prodml._call import (
    NO_RESULT,
    Flow,
    Guard,
    Invoke,
    Kind,
    Pause,
    Wait,
    abandoned,
    arun,
    blocks,
    kind_of,
    protect,
    run,
)
from prodml._call.kinds import name_of
from prodml._deadline import narrow, restore
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import DeadlineExceeded
from prodml.testing import ManualClock, check_flow, check_guard


class Log(Guard[int]):
    """Writes down what it hears."""

    def __init__(self):
        self.heard = []

    def enter(self):
        self.heard.append("enter")
        return len(self.heard)

    def leave(self, token, result):
        self.heard.append(("leave", result))

    def fail(self, token, error):
        self.heard.append(("gone" if abandoned(error) else "fail", type(error).__name__))


class Twice(Flow):
    """Calls again when the first call fails."""

    clock = SYSTEM_CLOCK

    def steps(self, fn, args, kwargs):
        outcome = yield Invoke(fn, args, kwargs)
        if outcome[1] is None:
            return outcome
        return (yield Invoke(fn, args, kwargs))


class Gone(BaseException):
    pass


def fails_once():
    calls = []

    def work(value):
        calls.append(value)
        if len(calls) == 1:
            raise ConnectionError("first")
        return value

    return work, calls


# -- kinds ------------------------------------------------------------------------------


async def coroutine():
    pass


def generator():
    yield


async def async_generator():
    yield


class Callables:
    async def __call__(self):
        pass

    def method(self):
        yield


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (len, Kind.PLAIN),
        (lambda: None, Kind.PLAIN),
        (coroutine, Kind.COROUTINE),
        (functools.partial(coroutine), Kind.COROUTINE),
        (functools.partial(functools.partial(async_generator)), Kind.ASYNC_GENERATOR),
        (generator, Kind.GENERATOR),
        (Callables(), Kind.COROUTINE),
        (Callables().method, Kind.GENERATOR),
    ],
)
def test_kind_is_seen_through_partials_methods_and_callable_objects(fn, kind):
    assert kind_of(fn) is kind


@pytest.mark.parametrize("thing", [3, int, staticmethod(len), classmethod(len), None])
def test_what_cannot_be_protected_is_refused_at_decoration(thing):
    with pytest.raises(TypeError, match="cannot protect"):
        Log()(thing)


# -- guards -----------------------------------------------------------------------------


def test_guard_contract_holds_for_the_simplest_guard():
    check_guard(Log)


@pytest.mark.parametrize(
    ("error", "heard"),
    [(ValueError(), "fail"), (KeyboardInterrupt(), "gone"), (asyncio.CancelledError(), "gone")],
)
def test_each_ending_of_a_plain_call_is_told_apart(error, heard):
    log = Log()

    @log
    def work():
        raise error

    with pytest.raises(type(error)):
        work()
    assert log.heard == ["enter", (heard, type(error).__name__)]


def test_the_same_endings_are_heard_in_call_and_with():
    log = Log()
    with pytest.raises(ValueError):
        log.call(int, "x")
    with pytest.raises(Gone), log:
        raise Gone
    assert log.heard == ["enter", ("fail", "ValueError"), "enter", ("gone", "Gone")]


def test_call_refuses_a_coroutine_instead_of_counting_it_as_a_success():
    log = Log()
    with pytest.raises(TypeError, match="acall"):
        log.call(coroutine)
    assert log.heard[-1][0] == "fail"


def test_async_endings_are_heard():
    log = Log()

    async def scene():
        with pytest.raises(KeyError):
            await log.acall(fail_async)
        with pytest.raises(KeyError):
            await log(fail_async)()
        async with log:
            pass

    async def fail_async():
        raise KeyError

    asyncio.run(scene())
    assert log.heard[1::2] == [("fail", "KeyError"), ("fail", "KeyError"), ("leave", NO_RESULT)]


def test_cancelling_a_guarded_coroutine_is_no_verdict():
    log = Log()

    async def scene():
        task = asyncio.create_task(log(asyncio.sleep)(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    assert log.heard == ["enter", ("gone", "CancelledError")]


def test_nested_with_blocks_of_one_guard_close_in_order():
    log = Log()
    other = Log()
    with log, other, log:
        pass
    assert log.heard == ["enter", "enter", ("leave", NO_RESULT), ("leave", NO_RESULT)]
    assert other.heard == ["enter", ("leave", NO_RESULT)]


def test_with_blocks_may_be_left_out_of_order():
    first, second = Log(), Log()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert first.heard == second.heard == ["enter", ("leave", NO_RESULT)]


def test_leaving_a_guard_that_was_not_entered_here_is_an_error():
    with pytest.raises(RuntimeError, match="without having been entered"):
        Log().__exit__(None, None, None)


def test_with_blocks_of_two_tasks_do_not_mix():
    log = Log()

    async def block():
        async with log:
            await asyncio.sleep(0)

    async def scene():
        await asyncio.gather(block(), block())

    asyncio.run(scene())
    assert log.heard == ["enter", "enter", ("leave", NO_RESULT), ("leave", NO_RESULT)]


# -- generators -------------------------------------------------------------------------


def talk():
    """Yields what it is sent; survives a thrown KeyError."""
    said = yield "hello"
    while said != "bye":
        try:
            said = yield said
        except KeyError:
            said = yield "caught"
    return "end"


async def atalk():
    said = yield "hello"
    while said != "bye":
        try:
            said = yield said
        except KeyError:
            said = yield "caught"


@pytest.mark.parametrize("pattern", [Log, Twice])
def test_a_generator_still_hears_send_throw_and_returns(pattern):
    stream = pattern()(talk)()
    assert next(stream) == "hello"
    assert stream.send("echo") == "echo"
    assert stream.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        stream.send("bye")
    assert stop.value.value == "end"


@pytest.mark.parametrize("pattern", [Log, Twice])
def test_an_async_generator_still_hears_send_and_throw(pattern):
    async def scene():
        stream = pattern()(atalk)()
        assert await anext(stream) == "hello"
        assert await stream.asend("echo") == "echo"
        assert await stream.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await stream.asend("bye")

    asyncio.run(scene())


@pytest.mark.parametrize("pattern", [Log, Twice])
def test_closing_a_stream_closes_the_source(pattern):
    closed = []

    def source():
        try:
            yield 1
            yield 2
        finally:
            closed.append("plain")

    async def asource():
        try:
            yield 1
            yield 2
        finally:
            closed.append("async")

    async def scene():
        stream = pattern()(asource)()
        await anext(stream)
        await stream.aclose()

    stream = pattern()(source)()
    next(stream)
    stream.close()
    asyncio.run(scene())
    assert closed == ["plain", "async"]


def test_a_consumer_that_breaks_out_is_no_verdict_and_a_failing_source_is_one():
    log = Log()

    @log
    def source(fail):
        yield 1
        if fail:
            raise OSError

    for _ in source(fail=False):
        break
    gc.collect()
    with pytest.raises(OSError):
        list(source(fail=True))
    assert [entry[0] for entry in log.heard if entry != "enter"] == ["gone", "fail"]


def test_a_failing_async_source_is_a_failure():
    log = Log()

    @log
    async def source():
        yield 1
        raise OSError

    async def scene():
        with pytest.raises(OSError):
            async for _ in source():
                pass

    asyncio.run(scene())
    assert log.heard == ["enter", ("fail", "OSError")]


def test_a_flow_covers_the_opening_of_a_generator_only():
    opened = []

    @Twice()
    def source(fail_at):
        opened.append(fail_at)
        if fail_at == "opening" and len(opened) == 1:
            raise OSError
        yield 1
        if fail_at == "later":
            raise OSError

    assert list(source("opening")) == [1]
    with pytest.raises(OSError):
        list(source("later"))
    assert opened == ["opening", "opening", "later"]


def test_an_empty_generator_passes_through_a_flow_with_its_return_value():
    @Twice()
    def empty():
        return "nothing"
        yield

    with pytest.raises(StopIteration) as stop:
        next(empty())
    assert stop.value.value == "nothing"


# -- flows ------------------------------------------------------------------------------


def test_flow_contract_holds_for_the_simplest_flow():
    check_flow(Twice)


def test_a_flow_sees_errors_as_values_and_the_shell_raises_the_last():
    work, calls = fails_once()
    assert Twice()(work)(7) == 7
    assert calls == [7, 7]
    with pytest.raises(ZeroDivisionError):
        Twice().call(divmod, 1, 0)


def test_stop_iteration_of_the_callee_reaches_the_caller_as_it_is():
    with pytest.raises(StopIteration):
        Twice().call(next, iter(()))


def test_a_flow_never_repeats_an_abandoned_call_and_is_closed():
    closed = []

    class Careful(Twice):
        def steps(self, fn, args, kwargs):
            try:
                return (yield Invoke(fn, args, kwargs))
            finally:
                closed.append(True)

    def gone():
        raise Gone

    async def agone():
        raise Gone

    with pytest.raises(Gone):
        Careful()(gone)()
    with pytest.raises(Gone):
        asyncio.run(Careful().acall(agone))
    assert closed == [True, True]


def test_a_coroutine_in_a_synchronous_flow_is_a_mistake_that_no_retry_papers_over():
    calls = []

    class Mistaken(Twice):
        def steps(self, fn, args, kwargs):
            calls.append(1)
            yield Invoke(coroutine)
            raise AssertionError("the shell must not come back")

    with pytest.raises(TypeError, match="awaiting form"):
        Mistaken()(len)("x")
    assert calls == [1]


def test_pauses_go_by_the_given_clock_in_both_colours():
    def steps():
        yield Pause(2.0)
        return "done", None

    clock = ManualClock()
    assert run(steps(), clock) == "done"
    assert asyncio.run(arun(steps(), clock)) == "done"
    assert clock.slept == [2.0, 2.0]


def test_the_awaiting_shell_prefers_the_twin_and_awaits_what_is_awaitable():
    async def twin():
        return "twin"

    def steps():
        first, _ = yield Invoke(len, ("x",))
        second, _ = yield Invoke(twin)
        third, _ = yield Invoke(len, acall=twin)
        return (first, second, third), None

    assert asyncio.run(arun(steps())) == (1, "twin", "twin")


def test_errors_are_outcomes_for_the_awaiting_shell_too():
    def steps():
        _, error = yield Invoke(int, ("x",))
        return type(error).__name__, None

    assert asyncio.run(arun(steps())) == "ValueError"


def test_start_may_answer_without_any_step():
    class Knows(Twice):
        def start(self, fn, args, kwargs):
            return "known", None

    async def scene():
        return await Knows()(coroutine)(), await Knows().acall(coroutine)

    assert Knows()(len)("x") == Knows().call(len, "x") == "known"
    assert asyncio.run(scene()) == ("known", "known")


def test_raised_errors_do_not_keep_their_frames_alive():
    error = None

    def work():
        raise ValueError("x")

    gc.collect()
    gc.disable()
    try:
        try:
            Twice().call(work)
        except ValueError as caught:
            error = caught
        frames = sys_frames(error)
        assert not any("error" in frame.f_locals for frame in frames if "_conclude" in str(frame))
    finally:
        gc.enable()


def sys_frames(error):
    trace, frames = error.__traceback__, []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames


# -- protect ----------------------------------------------------------------------------


def test_protect_tells_the_guard_each_ending():
    log = Log()
    assert run(protect(log, Invoke(len, ("xy",)))) == 2
    with pytest.raises(ValueError):
        run(protect(log, Invoke(int, ("x",))))
    with pytest.raises(Gone):
        run(protect(log, Invoke(_raise_gone)))
    assert [entry[0] for entry in log.heard if entry != "enter"] == ["leave", "fail", "gone"]


def _raise_gone():
    raise Gone


def test_a_rejection_is_an_outcome_and_the_call_is_not_made():
    class Closed(Log):
        def enter(self):
            raise DeadlineExceeded("x", 1.0)

    with pytest.raises(DeadlineExceeded):
        run(protect(Closed(), Invoke(_raise_gone)))


def test_a_request_that_is_too_late_is_not_the_callees_failure():
    clock, log = ManualClock(), Log()
    reset = narrow(1.0, clock)
    try:
        clock.advance(2.0)
        with pytest.raises(DeadlineExceeded):
            run(protect(log, Invoke(len, ("x",))))
    finally:
        restore(reset)
    assert log.heard == []


# -- time limits ------------------------------------------------------------------------


def limited(fn, seconds, **kwargs):
    result, error = yield Invoke(fn, timeout=seconds, **kwargs)
    return result, error


def test_a_call_within_its_limit_returns_in_both_colours():
    assert run(limited(lambda: 5, 5.0)) == 5
    assert asyncio.run(arun(limited(lambda: 5, 5.0))) == 5


def test_a_hung_call_is_given_up_in_both_colours():
    release = threading.Event()
    try:
        with pytest.raises(DeadlineExceeded):
            run(limited(release.wait, 0.01))
        with pytest.raises(DeadlineExceeded):
            asyncio.run(arun(limited(release.wait, 0.01)))
        with pytest.raises(DeadlineExceeded):
            asyncio.run(arun(limited(functools.partial(asyncio.sleep, 60), 0.01)))
    finally:
        release.set()


def test_the_callees_own_timeout_error_is_its_answer():
    def work():
        raise TimeoutError("mine")

    async def awork():
        raise TimeoutError("mine")

    for outcome in (
        lambda: run(limited(work, 5.0)),
        lambda: asyncio.run(arun(limited(work, 5.0))),
        lambda: asyncio.run(arun(limited(awork, 5.0))),
    ):
        with pytest.raises(TimeoutError, match="mine") as caught:
            outcome()
        assert type(caught.value) is TimeoutError


def test_no_call_begins_after_the_deadline_in_both_colours():
    clock = ManualClock()
    calls = []
    reset = narrow(1.0, clock)
    try:
        clock.advance(1.5)
        with pytest.raises(DeadlineExceeded):
            run(limited(calls.append, None))
        with pytest.raises(DeadlineExceeded):
            asyncio.run(arun(limited(calls.append, None)))
    finally:
        restore(reset)
    assert calls == []


def test_a_deadline_clamps_a_longer_timeout():
    release = threading.Event()
    reset = narrow(0.01, SYSTEM_CLOCK)
    try:
        with pytest.raises(DeadlineExceeded):
            run(limited(release.wait, 60.0))
    finally:
        restore(reset)
        release.set()


# -- waiting ----------------------------------------------------------------------------


def waiting(future, timeout=None):
    return (yield Wait(future, timeout))


@pytest.mark.parametrize("go", [run, lambda steps: asyncio.run(arun(steps))])
def test_waiting_gives_the_result_the_error_or_gives_up(go):
    done, failed, never, late = Future(), Future(), Future(), Future()
    done.set_result(3)
    failed.set_exception(KeyError("k"))
    late.set_exception(TimeoutError("theirs"))
    assert go(waiting(done)) == 3
    with pytest.raises(KeyError):
        go(waiting(failed))
    with pytest.raises(DeadlineExceeded):
        go(waiting(never, 0.001))
    with pytest.raises(TimeoutError, match="theirs"):
        go(waiting(late, 1.0))
    assert not never.cancelled()


def test_cancelling_one_waiter_leaves_the_future_for_the_others():
    future = Future()

    async def scene():
        task = asyncio.create_task(arun(waiting(future)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        future.set_result("for the rest")
        return await arun(waiting(future))

    assert asyncio.run(scene()) == "for the rest"


def test_decorators_return_plain_functions_that_bind_as_methods():
    class Service:
        factor = 2

        @Log()
        @Twice()
        def predict(self, x):
            return self.factor * x

    assert inspect.isfunction(Service.__dict__["predict"])
    assert Service().predict(4) == 8


# -- blocks ---------------------------------------------------------------------------------


class Tokens(Guard[int]):
    """Gives a number to each call and writes down which one left."""

    def __init__(self):
        self.given, self.left = 0, []

    def enter(self):
        self.given += 1
        return self.given

    def leave(self, token, result):
        self.left.append(token)

    def fail(self, token, error):
        self.left.append(-token)


def block_in(guard):
    with guard:
        yield


def test_a_block_may_end_in_another_context_than_it_began():
    guard = Tokens()
    steps = block_in(guard)
    contextvars.copy_context().run(next, steps)
    contextvars.copy_context().run(next, steps, None)
    assert guard.left == [1]


def test_blocks_in_two_generators_keep_their_tokens_apart():
    guard = Tokens()
    first, second = block_in(guard), block_in(guard)
    next(first)
    next(second)
    next(first, None)
    assert guard.left == [1]
    second.close()
    assert guard.left == [1, -2]


def test_an_exit_stack_leaves_in_turn():
    guard = Tokens()

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(guard)
            stack.enter_context(guard)
            with guard:
                pass
        return guard.left

    assert asyncio.run(main()) == [3, 2, 1]


def test_no_block_is_kept_once_it_has_ended():
    guard = Tokens()
    for _ in range(3):
        with guard, contextlib.suppress(KeyError), guard:
            raise KeyError
    assert blocks._BLOCKS.get(id(guard)) is None


def test_a_mock_of_a_coroutine_function_is_one():
    assert kind_of(unittest.mock.AsyncMock()) is Kind.COROUTINE
    assert kind_of(unittest.mock.Mock()) is Kind.PLAIN


@pytest.mark.parametrize("colour", ["decorated", "call"])
def test_a_plain_function_that_makes_a_coroutine_is_a_mistake_and_says_so(colour):
    async def fetch():
        return 1

    guard = Log()
    with pytest.raises(TypeError, match="async"):
        guard(lambda: fetch())() if colour == "decorated" else guard.call(lambda: fetch())
    assert guard.heard[1] == ("fail", "AsyncInSync")


def test_names_are_the_same_for_every_call():
    class Callable:
        def __call__(self): ...

    assert [name_of(x) for x in (len, functools.partial(len), Callable(), "the request")] == [
        "len",
        "len",
        "test_names_are_the_same_for_every_call.<locals>.Callable",
        "the request",
    ]
