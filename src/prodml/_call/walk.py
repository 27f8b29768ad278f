"""Walking through the steps of a flow: in a thread, or in a task."""

from typing import Any, cast

from prodml._call.invoke import ainvoke, invoke
from prodml._call.kinds import AsyncInSync
from prodml._call.race import arace, race
from prodml._call.spawn import BEHIND
from prodml._call.steps import Invoke, Outcome, Pause, Race, Spawn, Step, Steps, Wait
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import DeadlineExceeded

__all__ = ["arun", "run"]


def run(steps: Steps, clock: Clock = SYSTEM_CLOCK) -> Any:
    """Walk through ``steps`` in this thread; return the result or raise the error."""
    try:
        step = next(steps)
        while True:
            step = steps.send(_perform(step, steps, clock))
    except StopIteration as stop:
        result, error = stop.value
    try:
        return _conclude(result, error)
    finally:
        # As in _conclude: the traceback refers to this frame too.
        del error


async def arun(steps: Steps, clock: Clock = SYSTEM_CLOCK) -> Any:
    """Walk through ``steps`` in this task; return the result or raise the error."""
    try:
        step = next(steps)
        while True:
            step = steps.send(await _aperform(step, steps, clock))
    except StopIteration as stop:
        result, error = stop.value
    try:
        return _conclude(result, error)
    finally:
        # As in _conclude: the traceback refers to this frame too.
        del error


def _conclude(result: Any, error: Exception | None) -> Any:
    if error is None:
        return result
    try:
        raise error
    finally:
        # The traceback refers to this frame: without this, frame and error keep each other.
        del error


# -- in a thread --------------------------------------------------------------------------


def _perform(step: Step, steps: Steps, clock: Clock) -> Outcome:
    try:
        if type(step) is Invoke:
            return invoke(step), None
        if type(step) is Pause:
            clock.sleep(step.seconds)
            return None, None
        if type(step) is Race:
            return race(step)
        if type(step) is Spawn:
            BEHIND.spawn(lambda: run(step.make(), clock))
            return None, None
        return _wait(cast("Wait", step)), None
    except AsyncInSync:
        # A mistake in the program: no fallback or retry may paper over it.
        steps.close()
        raise
    except Exception as error:
        return None, error
    except BaseException:
        steps.close()
        raise


def _wait(step: Wait) -> Any:
    try:
        return step.future.result(step.timeout)
    except TimeoutError:
        if step.future.done():
            raise
        raise DeadlineExceeded("waiting", step.timeout or 0.0) from None


# -- in a task ----------------------------------------------------------------------------


async def _aperform(step: Step, steps: Steps, clock: Clock) -> Outcome:
    try:
        if type(step) is Invoke:
            return await ainvoke(step), None
        if type(step) is Pause:
            await clock.asleep(step.seconds)
            return None, None
        if type(step) is Race:
            return await arace(step)
        if type(step) is Spawn:
            BEHIND.aspawn(lambda: arun(step.make(), clock))
            return None, None
        return await _await_future(cast("Wait", step)), None
    except Exception as error:
        return None, error
    except BaseException:
        steps.close()
        raise


async def _await_future(step: Wait) -> Any:
    import asyncio

    from prodml._call.limit import limited

    future = asyncio.shield(asyncio.wrap_future(step.future))
    return await (future if step.timeout is None else limited(future, step.timeout, "waiting"))
