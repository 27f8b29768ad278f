"""A look before the steps: what it answers, and that its guard hears how each one ended."""

import asyncio

import pytest

from prodml._call import Flow, Guard, Invoke, Peek
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import CircuitOpen
from prodml.types import MISS


class Book(Guard[int]):
    """Writes down what it hears."""

    def __init__(self, *, closed=False):
        self.heard, self.closed = [], closed

    def enter(self):
        if self.closed:
            raise CircuitOpen("book", 1.0)
        self.heard.append("enter")
        return 7

    def leave(self, token, result):
        self.heard.append(("leave", token, result))

    def fail(self, token, error):
        self.heard.append(("fail", token, type(error)))


class Look(Peek):
    def __init__(self, guard, get, aget, told):
        super().__init__(guard, get, aget, "key")
        self.told = told

    def judged(self, result):
        return MISS if result is None else result

    def broken(self, error):
        self.told.append(type(error))

    def rest(self):
        def steps():
            return (yield Invoke(lambda: "computed"))

        return steps()


class Peeking(Flow):
    clock = SYSTEM_CLOCK

    def __init__(self, guard=None, get=None, aget=None):
        self.guard, self.told = guard or Book(), []
        self.get, self.aget = get, aget

    def start(self, fn, args, kwargs):
        return None, Look(self.guard, self.get, self.aget, self.told)


def _raise(error):
    def get(arg):
        raise error

    return get


def _awaited(get):
    async def aget(arg):
        await asyncio.sleep(0)
        return get(arg)

    return aget


async def _afn():
    raise AssertionError("not called")


def _asked(get, colour, guard=None):
    """The answer of a flow whose look does ``get``, and the flow."""
    if colour == "thread":
        flow = Peeking(guard, get)
        return flow(lambda: None)(), flow
    flow = Peeking(guard, None if colour == "task" else get, _awaited(get))
    if colour == "task of a plain store":
        flow.aget = None
    return asyncio.run(flow(_afn)()), flow


COLOURS = pytest.mark.parametrize("colour", ["thread", "task", "task of a plain store"])


@COLOURS
def test_what_is_found_is_the_answer(colour):
    answer, flow = _asked({"key": 0}.get, colour)
    assert answer == 0
    assert flow.guard.heard == ["enter", ("leave", 7, 0)]


@COLOURS
def test_what_is_not_found_takes_the_steps(colour):
    answer, flow = _asked({}.get, colour)
    assert answer == "computed"
    assert flow.guard.heard == ["enter", ("leave", 7, None)]


@COLOURS
def test_a_failed_look_takes_the_steps_and_is_told(colour):
    answer, flow = _asked(_raise(ConnectionError()), colour)
    assert answer == "computed"
    assert flow.guard.heard == ["enter", ("fail", 7, ConnectionError)]
    assert flow.told == [ConnectionError]


@COLOURS
def test_a_look_that_may_not_pass_takes_the_steps(colour):
    answer, flow = _asked(_raise(AssertionError()), colour, Book(closed=True))
    assert answer == "computed"
    assert flow.guard.heard == []
    assert flow.told == [CircuitOpen]


@COLOURS
def test_an_interrupted_look_gives_its_permit_back_and_goes_on(colour):
    flow = Peeking(None, _raise(KeyboardInterrupt()), None)
    if colour == "task":
        flow = Peeking(None, None, _awaited(_raise(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        flow(lambda: None)() if colour == "thread" else asyncio.run(flow(_afn)())
    assert flow.guard.heard == ["enter", ("fail", 7, KeyboardInterrupt)]
    assert flow.told == []


def test_a_cancelled_look_gives_its_permit_back():
    async def forever(arg):
        await asyncio.sleep(3600)

    async def main(flow):
        task = asyncio.ensure_future(flow(_afn)())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    flow = Peeking(None, None, forever)
    asyncio.run(main(flow))
    assert flow.guard.heard == ["enter", ("fail", 7, asyncio.CancelledError)]


def test_a_thread_without_a_call_of_its_colour_takes_the_steps():
    flow = Peeking(None, None, _awaited({"key": 0}.get))
    assert flow(lambda: None)() == "computed"
    assert flow.guard.heard == []


def test_call_and_acall_look_too():
    flow = Peeking(None, {"key": 0}.get)
    assert flow.call(lambda: None) == 0
    assert asyncio.run(flow.acall(_afn)) == 0
