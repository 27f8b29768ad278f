"""Threads for calls that may hang.

Plain Python code cannot be interrupted, so a call with a time limit runs on a thread of
its own while the caller waits.  A worker that does not come back is written off and
replaced; it never starves another call.  The caller's context variables go with the call.

Caller and worker hand over by plain locks, which cost half of what queues and futures do.
"""

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from prodml.errors import BulkheadFull, DeadlineExceeded

__all__ = ["WORKERS", "Job", "Workers"]


class _Call:
    """One call on a worker, how it ended, and whether its caller has gone away."""

    __slots__: tuple[str, ...] = (
        "_context",
        "_ended",
        "abandoned",
        "args",
        "error",
        "fn",
        "kwargs",
        "over",
        "owner",
        "result",
    )

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.fn: Callable[..., Any] = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: Mapping[str, Any] = kwargs
        # Whose call it is, where hung calls are counted.
        self.owner: Any = _owner(fn)
        self.result: Any = None
        self.error: BaseException | None = None
        self.abandoned: bool = False
        self.over: bool = False
        self._context: contextvars.Context = contextvars.copy_context()
        self._ended: threading.Lock = threading.Lock()
        self._ended.acquire()

    def make(self) -> None:
        """Make the call, and keep how it ended."""
        try:
            self.result = self._context.run(self.fn, *self.args, **self.kwargs)
        except BaseException as error:
            self.error = error
            # The traceback refers to this frame: it would keep call, future and error.
            del self

    def tell(self) -> None:
        """Let the caller go on."""
        self._ended.release()

    def wait(self, seconds: float = -1.0) -> bool:
        """Wait for the end, or so many seconds; return whether it has come."""
        return self._ended.acquire(timeout=seconds)


class Job(_Call):
    """A call whose end others wait for by its ``future``."""

    __slots__: tuple[str, ...] = ("future",)

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__(fn, args, kwargs)
        self.future: Future[Any] = Future()

    def tell(self) -> None:
        """Settle the future."""
        result, error = self.result, self.error
        if isinstance(error, StopIteration):
            # Futures and coroutines cannot carry one: it would end whoever waits, or nobody.
            error = RuntimeError(f"the call raised {error!r}")
        # The traceback refers to frames that refer to this job: they would keep each other.
        self.result = self.error = None
        try:
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        finally:
            del error


def _owner(fn: Any) -> Any:
    try:
        hash(fn)
    except TypeError:
        return type(fn)
    return fn


class _Desk:
    """Where an idle worker waits for its next call."""

    __slots__: tuple[str, ...] = ("call", "go")

    def __init__(self) -> None:
        self.call: _Call | None = None
        self.go: threading.Lock = threading.Lock()
        self.go.acquire()


class Workers:
    """A pool that grows with hung calls and shrinks when they return.

    Parameters
    ----------
    max_abandoned
        Hung calls of one function tolerated at once; beyond it new calls of that function are
        refused with :class:`~prodml.errors.BulkheadFull` rather than piling up threads.  Other
        functions are not concerned.
    max_threads
        Hung calls of all functions at which every new call is refused.
    max_idle
        Threads kept for the next call.
    """

    def __init__(
        self, *, max_abandoned: int = 64, max_threads: int = 1024, max_idle: int = 8
    ) -> None:
        self.max_abandoned: int = max_abandoned
        self.max_threads: int = max_threads
        self.max_idle: int = max_idle
        self._abandoned: int = 0
        self._hung: dict[Any, int] = {}
        # The ends of a deque are safe to use from any thread.
        self._idle: deque[_Desk] = deque()
        self._lock: threading.Lock = threading.Lock()

    @property
    def abandoned(self) -> int:
        """Calls that were given up and still hang."""
        return self._abandoned

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        owner: Any = None,
    ) -> Job:
        """Start the call at once on an idle or a new thread; ``owner`` answers for ``fn``."""
        job = Job(fn, args, kwargs)
        if owner is not None:
            job.owner = _owner(owner)
        self._start(job)
        return job

    def run(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        seconds: float,
        name: str = "",
    ) -> Any:
        """Call and wait at most ``seconds``; then raise ``DeadlineExceeded`` and let it hang."""
        call = _Call(fn, args, kwargs)
        self._start(call)
        try:
            in_time = call.wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))
        except BaseException:
            self.abandon(call)
            raise
        if not in_time and self.abandon(call):
            raise DeadlineExceeded(name or getattr(fn, "__qualname__", "the call"), seconds)
        if not in_time:
            # It has ended while nobody looked.
            call.wait()
        try:
            if call.error is not None:
                raise call.error
            return call.result
        finally:
            # Error, traceback, frame and call would keep each other.
            call.error = None
            del call

    def abandon(self, call: _Call) -> bool:
        """Write ``call`` off unless it is over; return whether it was still running."""
        with self._lock:
            if call.over or call.abandoned:
                return False
            call.abandoned = True
            self._abandoned += 1
            self._hung[call.owner] = self._hung.get(call.owner, 0) + 1
            return True

    def forget(self) -> None:
        """Start afresh in a forked child, where the threads do not exist."""
        self._abandoned = 0
        self._hung = {}
        self._idle = deque()
        self._lock = threading.Lock()

    def _start(self, call: _Call) -> None:
        if self._hung:
            self._refuse_too_many(call)
        try:
            desk = self._idle.pop()
        except IndexError:
            desk = _Desk()
            threading.Thread(
                target=self._work, args=(desk,), name="prodml-worker", daemon=True
            ).start()
        desk.call = call
        desk.go.release()

    def _refuse_too_many(self, call: _Call) -> None:
        if self._hung.get(call.owner, 0) >= self.max_abandoned:
            raise BulkheadFull("timeout workers", self.max_abandoned)
        if self._abandoned >= self.max_threads:
            raise BulkheadFull("timeout workers", self.max_threads)

    def _returned(self, call: _Call) -> None:
        """Strike a call off that was given up and has come back after all."""
        self._abandoned -= 1
        left = self._hung[call.owner] - 1
        if left:
            self._hung[call.owner] = left
        else:
            del self._hung[call.owner]

    def _work(self, desk: _Desk) -> None:
        while True:
            desk.go.acquire()
            call, desk.call = desk.call, None
            assert call is not None, "who opens the gate has put a call on the desk"
            call.make()
            with self._lock:
                call.over = True
                if call.abandoned:
                    self._returned(call)
                stays = len(self._idle) < self.max_idle
                if stays:
                    # Before the caller hears of the end, so that its next call comes here.
                    self._idle.append(desk)
            call.tell()
            # Nothing of the call may stay alive in an idle thread.
            del call
            if not stays:
                return


WORKERS: Workers = Workers()
"""The process-wide pool."""

os.register_at_fork(after_in_child=WORKERS.forget)
