"""Threads for calls that may hang.

Plain Python code cannot be interrupted, so a call with a time limit runs on a thread of
its own while the caller waits.  A worker that does not come back is written off and
replaced; it never starves another call.  The caller's context variables go with the call.
"""

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from prodml.errors import BulkheadFull, DeadlineExceeded

__all__ = ["WORKERS", "Job", "Workers"]


class Job:
    """One call on a worker: its future, and whether its caller has gone away."""

    __slots__: tuple[str, ...] = ("_context", "abandoned", "args", "fn", "future", "kwargs")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.fn: Callable[..., Any] = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: Mapping[str, Any] = kwargs
        self.future: Future[Any] = Future()
        self.abandoned: bool = False
        self._context: contextvars.Context = contextvars.copy_context()

    def run(self) -> None:
        """Make the call and settle the future."""
        try:
            result = self._context.run(self.fn, *self.args, **self.kwargs)
        except BaseException as error:
            self.future.set_exception(error)
            # The traceback refers to this frame: it would keep job, future and error.
            del self
        else:
            self.future.set_result(result)


class Workers:
    """A pool that grows with hung calls and shrinks when they return.

    Parameters
    ----------
    max_abandoned
        Hung calls tolerated at once; beyond it new calls are refused with
        :class:`~prodml.errors.BulkheadFull` rather than piling up threads.
    max_idle
        Threads kept for the next call.
    """

    def __init__(self, *, max_abandoned: int = 64, max_idle: int = 8) -> None:
        self.max_abandoned: int = max_abandoned
        self.max_idle: int = max_idle
        self._abandoned: int = 0
        self._idle: deque[SimpleQueue[Job]] = deque()
        self._lock: threading.Lock = threading.Lock()

    @property
    def abandoned(self) -> int:
        """Calls that were given up and still hang."""
        return self._abandoned

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Job:
        """Start the call at once on an idle or a new thread."""
        job = Job(fn, args, kwargs)
        with self._lock:
            if self._abandoned >= self.max_abandoned:
                raise BulkheadFull("timeout workers", self.max_abandoned)
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = SimpleQueue[Job]()
            threading.Thread(
                target=self._work, args=(inbox,), name="prodml-worker", daemon=True
            ).start()
        inbox.put(job)
        return job

    def run(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        seconds: float,
    ) -> Any:
        """Call and wait at most ``seconds``; then raise ``DeadlineExceeded`` and let it hang."""
        job = self.submit(fn, args, kwargs)
        try:
            return job.future.result(max(seconds, 0.0))
        except TimeoutError:
            # The callee may raise a TimeoutError of its own; only ours means a hung call.
            if not self.abandon(job):
                return job.future.result()
            name = getattr(fn, "__qualname__", repr(fn))
            raise DeadlineExceeded(name, seconds) from None
        except BaseException:
            self.abandon(job)
            raise
        finally:
            # Future, error, traceback and this frame would keep each other.
            del job

    def abandon(self, job: Job) -> bool:
        """Write ``job`` off unless it is done; return whether it was still running."""
        with self._lock:
            if job.future.done() or job.abandoned:
                return False
            job.abandoned = True
            self._abandoned += 1
            return True

    def forget(self) -> None:
        """Start afresh in a forked child, where the threads do not exist."""
        self._abandoned = 0
        self._idle = deque()
        self._lock = threading.Lock()

    def _work(self, inbox: SimpleQueue[Job]) -> None:
        while True:
            job = inbox.get()
            job.run()
            with self._lock:
                self._abandoned -= job.abandoned
                # Nothing of the call may stay alive in an idle thread.
                del job
                if len(self._idle) >= self.max_idle:
                    return
                self._idle.append(inbox)


WORKERS: Workers = Workers()
"""The process-wide pool."""

os.register_at_fork(after_in_child=WORKERS.forget)
