"""Who waits for the model, who has the turn, and what became of each.

The line is plain state under one lock: nothing here waits, reads a clock or calls a model.

*The turn* is held by at most one caller.  While it is free and somebody waits, some of the
waiting have been *called*: the first of each home, a home being one event loop or all threads
together.  A called one on its way takes the turn, or passes the call on when it goes away; who
finds the turn taken leaves the call to the one that has it.  So a caller that never wakes
again, on a loop that was stopped say, can hold up only those of its own loop.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, final

from prodml._call.turns import Bell, ThreadBell
from prodml._deadline import Limit
from prodml.serving.batch_model import BatchRoute

__all__ = ["Line", "Request", "Turn"]

# Of those who have not joined a line yet.
_NO_BELL: Final = ThreadBell()


@final
class Request:
    """The rows of one caller.

    Rows ``start`` to ``stop`` are in the turn while ``running``; those after ``stop`` wait.
    """

    __slots__: tuple[str, ...] = (
        "answers",
        "bell",
        "called",
        "done",
        "error",
        "gone",
        "limit",
        "passes",
        "route",
        "rows",
        "running",
        "start",
        "stop",
        "trace",
    )

    def __init__(self, rows: Sequence[Any], route: BatchRoute, limit: Limit | None) -> None:
        self.rows: Sequence[Any] = rows
        self.route: BatchRoute = route
        self.limit: Limit | None = limit
        self.bell: Bell = _NO_BELL
        self.start: int = 0
        self.stop: int = 0
        self.running: bool = False
        self.called: bool = False
        self.gone: bool = False
        self.done: bool = False
        self.passes: int = 0
        self.answers: list[Any] = []
        self.error: Exception | None = None
        self.trace: Any = None

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return self.limit is not None and self.limit.left() <= 0.0

    def result(self) -> list[Any]:
        """Return the answers, or raise the error."""
        error, self.error = self.error, None
        if error is None:
            return self.answers
        try:
            # Several may raise the same one: it would grow by every caller's frames.
            raise error.with_traceback(self.trace)
        finally:
            # The traceback refers to this frame: the two would keep each other.
            del error, self


@final
class Turn:
    """Rows that go to the model together, since when, and in whose thread or task."""

    __slots__: tuple[str, ...] = ("began", "leader", "requests", "rows")

    def __init__(self, began: float) -> None:
        self.began: float = began
        self.leader: Request | None = None
        self.requests: list[Request] = []
        self.rows: int = 0


@final
class Line:
    """Requests in order of arrival, and the turn.

    Examples
    --------
    >>> from prodml._call.turns import ThreadBell
    >>> from prodml.serving.batch_model import OneModel
    >>> line, one = Line(), OneModel("same", list)
    >>> request = Request(["a"], one, None)
    >>> line.join(request, ThreadBell())
    >>> turn = Turn(0.0)
    >>> line.begin(turn, request, 64), turn.rows, line.rows
    (True, 1, 0)
    >>> _ = line.settle([request], ["A"])
    >>> line.end(turn)
    >>> request.result(), line.leave(request)
    (['A'], [])
    """

    __slots__: tuple[str, ...] = (
        "__weakref__",
        "_homes",
        "closed",
        "lock",
        "rows",
        "turn",
        "waiting",
    )

    def __init__(self) -> None:
        # Reentrant, because a coroutine that is collected while this thread holds the lock
        # leaves the line in the midst of what stands below.
        self.lock: Any = threading.RLock()
        self.waiting: deque[Request] = deque()
        # Rows that wait, which is not the same as requests.
        self.rows: int = 0
        self.turn: Turn | None = None
        self.closed: bool = False
        # Requests in ``waiting`` by home.
        self._homes: dict[object, int] = {}
        _LINES.add(self)

    def forget(self) -> None:
        """Start afresh in a forked child, where nobody waits and nobody works."""
        self.lock = threading.RLock()
        self.waiting = deque()
        self.rows = 0
        self.turn = None
        self._homes = {}

    def join(self, request: Request, bell: Bell) -> None:
        """Stand at the end."""
        with self.lock:
            home = bell.home
            request.bell = bell
            # A thread looks at once.  Of a loop only the first does, after it has let the
            # other tasks join it.
            request.called = self.turn is None and (home is None or home not in self._homes)
            self.waiting.append(request)
            self.rows += len(request.rows)
            self._homes[home] = self._homes.get(home, 0) + 1

    def seize(self, turn: Turn) -> bool:
        """Take the turn if it is free and nobody waits for it; ``end`` follows."""
        with self.lock:
            if self.turn is not None or self.waiting or self.closed:
                return False
            self.turn = turn
            return True

    def begin(self, turn: Turn, request: Request | None, size: int) -> bool:
        """Take the turn, with at most ``size`` rows from the front, if it is free.

        ``end`` follows, whether or not this was interrupted.
        """
        with self.lock:
            free = self.turn is None and len(self.waiting) > 0
            if request is not None:
                request.called = free
            if not free:
                return False
            self.turn, turn.leader = turn, request
            while self.waiting and turn.rows < size:
                self._take(turn, self.waiting[0], size - turn.rows)
            return True

    def _take(self, turn: Turn, request: Request, room: int) -> None:
        # In this order, so that ``end`` can undo it at any point.
        request.start = request.stop
        turn.requests.append(request)
        request.running = True
        taken = min(room, len(request.rows) - request.stop)
        request.stop += taken
        turn.rows += taken
        self.rows -= taken
        if request.stop == len(request.rows):
            self.waiting.popleft()
            self._count(request, -1)

    def settle(
        self, requests: Iterable[Request], answers: Sequence[Any], error: Exception | None = None
    ) -> list[Bell]:
        """Give requests of the turn their answers, or their error; return whom to wake."""
        done: list[Bell] = []
        place = 0
        trace = None if error is None else error.__traceback__
        with self.lock:
            # Who works here is awake; so he is only as long as he has the turn.
            leader = None if self.turn is None else self.turn.leader
            for request in requests:
                first, place = place, place + request.stop - request.start
                request.running = False
                if request.gone:
                    request.route.release()
                    continue
                if error is not None:
                    self._fail(request, error, trace)
                else:
                    request.answers += answers[first:place]
                    request.done = request.done or request.stop == len(request.rows)
                if request.done and request is not leader:
                    done.append(request.bell)
        return done

    def _fail(self, request: Request, error: Exception, trace: Any) -> None:
        request.error, request.trace = error, trace
        request.done = True
        self._drop(request)

    def end(self, turn: Turn) -> None:
        """Give the turn back, if it was got; what has no answer stands in front again."""
        with self.lock:
            if self.turn is not turn:
                return
            for request in reversed(turn.requests):
                if request.running:
                    self._put_back(request)
            self.turn = None

    def _put_back(self, request: Request) -> None:
        request.running = False
        if request.gone:
            request.route.release()
        if request.gone or request.done:
            return
        self.rows += request.stop - request.start
        request.stop = request.start
        # The rest of its rows may have been waiting there all the time.
        if not self.waiting or self.waiting[0] is not request:
            self.waiting.appendleft(request)
            self._count(request, 1)

    def leave(self, request: Request) -> list[Bell]:
        """Go away, however it ended; return who must be called."""
        if request.done and not (request.called or request.running):
            # It is in no list any more, so nobody else looks at it.
            request.route.release()
            return []
        with self.lock:
            request.gone = True
            if not request.done:
                self._drop(request)
            if not request.running:
                request.route.release()
            return self.call() if request.called else []

    def call(self) -> list[Bell]:
        """Call the first of each home, if the turn is free; return whom to wake."""
        with self.lock:
            if self.turn is not None or not self.waiting:
                return []
            first: dict[object, Request] = {}
            for request in self.waiting:
                first.setdefault(request.bell.home, request)
                if len(first) == len(self._homes):
                    break
            for request in first.values():
                request.called = True
            return [request.bell for request in first.values()]

    def give_up(self, error: Exception) -> list[Bell]:
        """Tell all who wait that there will be no answer; return whom to wake."""
        with self.lock:
            waiting = list(self.waiting)
            for request in waiting:
                self._fail(request, error, None)
            return [request.bell for request in waiting]

    def _drop(self, request: Request) -> None:
        """Take out the rows that wait, if any do; those in the turn stay there."""
        if request.stop < len(request.rows) or not request.rows:
            self._step_out(request)

    def _step_out(self, request: Request) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
            self.rows -= len(request.rows) - request.stop
            self._count(request, -1)

    def _count(self, request: Request, by: int) -> None:
        home = request.bell.home
        count = self._homes.get(home, 0) + by
        if count:
            self._homes[home] = count
        else:
            del self._homes[home]


_LINES: weakref.WeakSet[Line] = weakref.WeakSet()


def _forget_all() -> None:
    for line in _LINES:
        line.forget()


os.register_at_fork(after_in_child=_forget_all)
