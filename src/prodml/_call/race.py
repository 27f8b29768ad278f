"""Calls side by side, of which the first answer counts.

A call that is not needed any more is a *loser*.  A task is cancelled; a thread cannot be
interrupted, so it is left behind and written off.  Either way nobody waits for a loser,
nobody hears its error, and a stream that it has opened is closed.
"""

import concurrent.futures
import math
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prodml._call.invoke import ainvoke, invoke, refuse_late
from prodml._call.kinds import AsyncInSync
from prodml._call.steps import Invoke, Outcome, Race
from prodml._call.stream import OpenItems, OpenStream
from prodml._deadline import remaining
from prodml._workers import WORKERS, Job
from prodml.clock import SYSTEM_CLOCK
from prodml.errors import BulkheadFull

if TYPE_CHECKING:
    import asyncio

__all__ = ["arace", "race"]

RunT = TypeVar("RunT", "Future[Any]", "asyncio.Task[Any]")

# A lock cannot wait for ever; who wakes up early just waits again.
_LONGEST_WAIT = 86_400.0


class _Contest(Generic[RunT]):
    """The calls under way, what they have come to, and when the next one is due."""

    __slots__: tuple[str, ...] = ("due", "failed", "over", "running", "step")

    def __init__(self, step: Race) -> None:
        self.step: Race = step
        # In the order in which they were made.
        self.running: dict[RunT, Invoke] = {}
        self.failed: Exception | None = None
        self.over: bool = False
        self.due: float = SYSTEM_CLOCK.monotonic() + step.delay()

    def patience(self) -> float:
        """Seconds to wait for an answer before something else may have to be done."""
        left = remaining()
        until = self.due - SYSTEM_CLOCK.monotonic()
        return max(0.0, min(until, _LONGEST_WAIT, math.inf if left is None else left))

    def hear(self, ended: Collection[RunT]) -> Outcome | None:
        """Judge the calls that have ended; return the outcome of the race if there is one."""
        for run in [run for run in self.running if run in ended]:
            call = self.running.pop(run)
            # Of a task that was cancelled by its own code this raises: it passes.
            error = run.exception()
            if error is None:
                return (call, run.result()), None
            if not isinstance(error, Exception) or isinstance(error, AsyncInSync):
                raise error
            # The first call is the one that would have been made anyway: its error counts.
            if self.failed is None or call is self.step.call:
                self.failed = error
        return None if self.running else (None, self.failed)

    def another(self) -> Invoke | None:
        """Return the next call if it is due; raise if the request's time is over."""
        refuse_late(begun=True)
        if SYSTEM_CLOCK.monotonic() < self.due:
            return None
        call = self.step.again()
        self.due = math.inf if call is None else SYSTEM_CLOCK.monotonic() + self.step.delay()
        return call

    def forget(self) -> None:
        """Let go of every error: its traceback refers to its call, and so to this contest."""
        self.failed = None
        self.running = {}


# -- on threads ---------------------------------------------------------------------------


def race(step: Race) -> Outcome:
    """Make the calls on worker threads; leave the losers behind."""
    refuse_late()
    contest = _Contest["Future[Any]"](step)
    jobs: list[Job] = []
    try:
        _submit(step.call, contest, jobs)
    except BulkheadFull:
        # No worker is to be had, so it is called as if there were no race.
        return (step.call, invoke(step.call)), None
    try:
        return _first_answer(contest, jobs)
    finally:
        contest.over = True
        for job in jobs:
            WORKERS.abandon(job)
        for future in contest.running:
            future.add_done_callback(_forget_future)
        contest.forget()


def _first_answer(contest: "_Contest[Future[Any]]", jobs: list[Job]) -> Outcome:
    while True:
        ended, _ = concurrent.futures.wait(contest.running, contest.patience(), FIRST_COMPLETED)
        outcome = contest.hear(ended)
        if outcome is not None:
            return outcome
        call = contest.another()
        if call is not None:
            try:
                _submit(call, contest, jobs)
            except BulkheadFull:
                # The calls under way may still answer; more of them there cannot be.
                contest.due = math.inf


def _submit(call: Invoke, contest: "_Contest[Future[Any]]", jobs: list[Job]) -> None:
    job = WORKERS.submit(_attempt, (call, contest), {}, call.fn)
    jobs.append(job)
    contest.running[job.future] = call


def _attempt(call: Invoke, contest: "_Contest[Future[Any]]") -> Any:
    answer = invoke(call)
    if contest.over:
        _discard(answer)
    return answer


def _forget_future(future: "Future[Any]") -> None:
    # It may have passed the question whether the race is over just before it was.
    if future.exception() is None:
        _discard(future.result())


def _discard(answer: Any) -> None:
    """Close the stream that a loser has opened: nobody will read on."""
    if isinstance(answer, OpenItems):
        answer.source.close()


# -- as tasks -----------------------------------------------------------------------------

# Losers until they have come to their end: a task that nobody refers to may be collected
# before it has run its ``finally``.
_LOSERS: set["asyncio.Task[Any]"] = set()


async def arace(step: Race) -> Outcome:
    """Make the calls as tasks; cancel the losers."""
    from asyncio import CancelledError

    refuse_late()
    contest = _Contest["asyncio.Task[Any]"](step)
    try:
        return await _first_answer_awaited(contest)
    except CancelledError:
        # As a task group does: when the caller is gone, nothing of the call goes on.
        await _ended(contest)
        raise
    finally:
        contest.over = True
        for task in contest.running:
            _leave_behind(task)
        contest.forget()


async def _first_answer_awaited(contest: "_Contest[asyncio.Task[Any]]") -> Outcome:
    from asyncio import get_running_loop, wait

    call: Invoke | None = contest.step.call
    while True:
        if call is not None:
            task = get_running_loop().create_task(_attempt_awaited(call, contest))
            contest.running[task] = call
        ended, _ = await wait(
            contest.running, timeout=contest.patience(), return_when=FIRST_COMPLETED
        )
        outcome = contest.hear(ended)
        if outcome is not None:
            return outcome
        call = contest.another()


async def _attempt_awaited(call: Invoke, contest: "_Contest[asyncio.Task[Any]]") -> Any:
    answer = await ainvoke(call)
    if contest.over and isinstance(answer, OpenStream):
        # It would not be cancelled.
        await answer.source.aclose()
    return answer


async def _ended(contest: "_Contest[asyncio.Task[Any]]") -> None:
    contest.over = True
    for task in contest.running:
        task.cancel()
    if contest.running:
        from asyncio import wait

        await wait(contest.running)


def _leave_behind(task: "asyncio.Task[Any]") -> None:
    if not task.done():
        _keep(task)
        task.cancel()
    elif not task.cancelled() and task.exception() is None:
        # Its answer came together with the one that counts.
        answer = task.result()
        if isinstance(answer, OpenStream):
            _keep(task.get_loop().create_task(_closed(answer)))


async def _closed(stream: OpenStream) -> None:
    await stream.source.aclose()


def _keep(task: "asyncio.Task[Any]") -> None:
    _LOSERS.add(task)
    task.add_done_callback(_forget_task)


def _forget_task(task: "asyncio.Task[Any]") -> None:
    _LOSERS.discard(task)
    # An error that nobody has asked for would be reported as lost.
    if not task.cancelled():
        task.exception()
