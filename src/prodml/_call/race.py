"""Calls side by side, of which the first answer counts."""

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any

from prodml._call.invoke import ainvoke, refuse_late
from prodml._call.steps import Invoke, Outcome, Race
from prodml._deadline import remaining
from prodml._workers import WORKERS, Job

__all__ = ["arace", "race"]


def race(step: Race) -> Outcome:
    """Make the calls on worker threads; leave the losers behind."""
    refuse_late()
    jobs = [_submit(step.call)]
    try:
        return _first_answer(step, jobs)
    finally:
        for job in jobs:
            WORKERS.abandon(job)


def _first_answer(step: Race, jobs: list[Job]) -> Outcome:
    failed: Exception | None = None
    running = {jobs[0].future: jobs[0]}
    more = True
    while running:
        limit = step.delay() if more else None
        done, _ = concurrent.futures.wait(
            running, _sooner(limit), return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            del running[future]
            error = future.exception()
            if error is None:
                return future.result(), None
            if not isinstance(error, Exception):
                raise error
            failed = failed or error
        if not done:
            refuse_late()
            call = step.again() if more else None
            more = call is not None
            if call is not None:
                jobs.append(_submit(call))
                running[jobs[-1].future] = jobs[-1]
    return None, failed


def _submit(call: Invoke) -> Job:
    return WORKERS.submit(call.fn, call.args, call.kwargs)


def _sooner(seconds: float | None) -> float | None:
    """The earlier of ``seconds`` and the request's end."""
    left = remaining()
    if left is None:
        return seconds
    return max(0.0, left if seconds is None else min(seconds, left))


# Cancelled losers, until they have come to their end: a task that nobody refers to may be
# collected before it has run its ``finally``.
_LOSERS: set["asyncio.Task[Any]"] = set()


def _forget(task: "asyncio.Task[Any]") -> None:
    _LOSERS.discard(task)
    # An error that nobody has asked for would be reported as lost.
    if not task.cancelled():
        task.exception()


async def arace(step: Race) -> Outcome:
    """Make the calls as tasks; cancel the losers."""
    refuse_late()
    tasks = [_start(step.call)]
    try:
        return await _first_answer_awaited(step, tasks)
    finally:
        for task in tasks:
            _LOSERS.add(task)
            task.add_done_callback(_forget)
            task.cancel()


async def _first_answer_awaited(step: Race, tasks: list["asyncio.Task[Any]"]) -> Outcome:
    failed: Exception | None = None
    running = {tasks[0]}
    more = True
    while running:
        limit = step.delay() if more else None
        done, running = await asyncio.wait(
            running, timeout=_sooner(limit), return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            error = task.exception()
            if error is None:
                return task.result(), None
            if not isinstance(error, Exception):
                raise error
            failed = failed or error
        if not done:
            refuse_late()
            call = step.again() if more else None
            more = call is not None
            if call is not None:
                tasks.append(_start(call))
                running.add(tasks[-1])
    return None, failed


def _start(call: Invoke) -> "asyncio.Task[Any]":
    attempt: Coroutine[Any, Any, Any] = ainvoke(call)
    return asyncio.get_running_loop().create_task(attempt)
