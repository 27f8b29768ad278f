"""One call, made in this thread, in this task, or on a worker with a time limit."""

import inspect
from typing import Any

from prodml._call.kinds import Kind, kind_of, name_of, refuse_coroutine
from prodml._call.steps import Invoke
from prodml._deadline import expired, remaining
from prodml._workers import WORKERS
from prodml.errors import DeadlineExceeded

__all__ = ["ainvoke", "invoke", "refuse_late"]


def refuse_late(*, begun: bool = False) -> None:
    """Raise if the request's deadline has passed: what would begin now is too late."""
    limit = expired()
    if limit is not None:
        raise DeadlineExceeded("the request", limit.seconds, begun)


def invoke(step: Invoke) -> Any:
    """Make the call of ``step`` in this thread, or on a worker if it is limited."""
    refuse_late()
    if step.timeout is None:
        result = step.fn(*step.args, **step.kwargs)
    else:
        limit = _clamped(step.timeout)
        result = WORKERS.run(step.fn, step.args, step.kwargs, limit, name_of(step.fn))
    refuse_coroutine(result)
    return result


async def ainvoke(step: Invoke) -> Any:
    """Make the call of ``step`` in this task, or on a worker if it is plain and limited."""
    refuse_late()
    fn = step.acall or step.fn
    if step.timeout is None:
        result = fn(*step.args, **step.kwargs)
        return (await result) if inspect.isawaitable(result) else result
    from prodml._call.limit import limited

    if step.acall is not None or kind_of(fn) is Kind.COROUTINE:
        call = fn(*step.args, **step.kwargs)
    else:
        call = _ainvoke_on_worker(step)
    return await limited(call, _clamped(step.timeout), fn)


async def _ainvoke_on_worker(step: Invoke) -> Any:
    import asyncio

    job = WORKERS.submit(step.fn, step.args, step.kwargs)
    try:
        result = await asyncio.shield(asyncio.wrap_future(job.future))
    except BaseException:
        WORKERS.abandon(job)
        raise
    return (await result) if inspect.isawaitable(result) else result


def _clamped(seconds: float) -> float:
    left = remaining()
    return seconds if left is None else min(seconds, left)
