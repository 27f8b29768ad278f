"""Who is let in, who does the work, and where."""

from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, final

from prodml._call.turns import Bell, ring, take_turns
from prodml._deadline import CURRENT, USED, Limit
from prodml._workers import WORKERS
from prodml.clock import Clock
from prodml.errors import DeadlineExceeded, Overloaded, Rejected
from prodml.serving.batch_line import Line, Request, Turn
from prodml.serving.batch_model import OneModel, Router
from prodml.serving.batch_run import Runner
from prodml.serving.slot import Key

__all__ = ["Desk"]

# From a socket that can be read to the task that its request becomes.
_PASSES: Final = 3
# After so many batches of one only every so many-th looks for company.
_HOPES: Final = 4
_LOOKS: Final = 8


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Desk:
    """Admits requests and carries out the turns; see :mod:`prodml._call.turns`."""

    router: Router
    line: Line
    runner: Runner
    clock: Clock
    name: str
    max_rows: int
    max_queue: int
    budget: float | None
    inline: float
    shed: int = 0
    # Batches of a single request since the last of several.
    _lonely: int = 0

    def enter(
        self,
        rows: Sequence[Any],
        version: str | None,
        key: Key | None,
        headers: Mapping[str, str] | None,
        *,
        awaiting: bool,
    ) -> Request:
        """Begin a request, and answer it at once if nobody else is about."""
        limit = _limit() if USED else None
        resolve = self.router.resolve
        route = resolve(version, key) if headers is None else resolve(version, key, headers)
        request = Request(rows, route, limit)
        if not rows or (self.line.turn is not None and self.runner.inside()):
            self._apart(request)
        elif self.line.turn is None and self._may_begin(len(rows), awaiting=awaiting):
            self._at_once(request)
        return request

    def _apart(self, request: Request) -> None:
        """No line for what the model asks itself: it would wait for its own end."""
        try:
            self.runner.answer_alone(request)
        finally:
            request.route.release()

    def _may_begin(self, rows: int, *, awaiting: bool) -> bool:
        """Whether to serve a request alone.  In a loop others may be ready at the same time."""
        if not awaiting:
            return rows <= self.max_rows
        lonely = self._lonely
        if lonely < _HOPES or not lonely % _LOOKS:
            return False
        return rows <= self.max_rows and self.runner.cost.of(rows) < self.inline

    def _at_once(self, request: Request) -> None:
        line, turn = self.line, Turn(self.clock.monotonic())
        turn.rows = len(request.rows)
        try:
            if line.seize(turn):
                self._lonely += 1
                self.runner.run_alone(turn, request)
        finally:
            # Asked this way, because an interruption may come anywhere.
            if line.turn is turn:
                line.end(turn)
                request.route.release()
                if line.waiting:
                    ring(line.call())

    # -- admission ------------------------------------------------------------------------

    def join(self, seat: Request, bell: Bell) -> None:
        """Let a request into the line, or refuse it."""
        line = self.line
        try:
            with line.lock:
                # One without rows only waits for those before it.
                if seat.rows and (line.closed or line.turn is not None or line.waiting):
                    self._admit(seat)
                line.join(seat, bell)
        except Rejected:
            seat.route.release()
            raise
        except BaseException:
            self.leave(seat)
            raise

    def _admit(self, request: Request) -> None:
        line, limit, budget = self.line, request.limit, self.budget
        rows = len(request.rows)
        if line.closed:
            raise Rejected(f"{self.name} is closed")
        if line.rows + rows > self.max_queue:
            self.shed += 1
            raise Overloaded(self.name, self.wait(rows), self._left(), line.rows)
        if limit is not None:
            left = limit.left()
            budget = left if budget is None else min(left, budget)
        if budget is None:
            return
        wait = self.wait(rows)
        if wait > budget:
            self.shed += 1
            raise Overloaded(self.name, wait, wait - budget, line.rows, budget)

    def wait(self, rows: int = 1) -> float:
        """Seconds until the last of so many new rows would go to the model."""
        full = (self.line.rows + rows - 1) // self.max_rows
        return self._left() + full * self.runner.cost.of(self.max_rows)

    def _left(self) -> float:
        """Seconds until the turn is free.

        One that takes longer than expected is thought to take as long again as it is late:
        so a model that hangs is seen at once, not when it has come back.
        """
        turn = self.line.turn
        if turn is None:
            return 0.0
        return abs(self.runner.cost.of(turn.rows) - (self.clock.monotonic() - turn.began))

    # -- turns ----------------------------------------------------------------------------

    def gathers(self, seat: Request) -> bool:
        """Let come who can be read already."""
        seat.passes += 1
        return seat.passes <= _PASSES and self.line.rows < self.max_rows

    def advance(self, seat: Request) -> bool:
        """Work if nobody does; return whether ``seat`` has its answers."""
        if seat.done:
            return True
        if seat.late:
            raise self.runner.too_late(seat, begun=seat.stop > 0)
        if not seat.called or (seat.bell.home is not None and self._leaves_loop(seat)):
            return False
        turn = Turn(self.clock.monotonic())
        try:
            if not self.line.begin(turn, seat, self.max_rows):
                return seat.done
            self._lonely = 0 if len(turn.requests) > 1 else self._lonely + 1
            self.runner.run(turn)
        finally:
            self.line.end(turn)
        if not seat.done:
            # Others stand before it: whoever is first goes on, perhaps itself.
            ring(self.line.call())
        return seat.done

    def patience(self, seat: Request) -> float | None:
        """No longer than the request has."""
        return None if seat.limit is None else seat.limit.left()

    def leave(self, seat: Request) -> None:
        """Out of the line, and pass the turn on."""
        called = self.line.leave(seat)
        if called:
            ring(called)

    def drain(self, timeout: float | None) -> bool:
        """Wait until all who wait have been answered; who has not been in time is refused."""
        line, limit = self.line, None
        if timeout is not None:
            limit = Limit(self.clock.monotonic() + timeout, self.clock, timeout)
        with line.lock:
            line.closed = True
            if line.turn is None and not line.waiting:
                return True
        try:
            # Without rows, it is answered when all before it are.
            take_turns(self, Request((), OneModel(self.name, list), limit))
        except DeadlineExceeded:
            ring(line.give_up(Rejected(f"{self.name} was closed before it came to this")))
            return False
        return True

    # -- out of the loop ------------------------------------------------------------------

    def _leaves_loop(self, seat: Request) -> bool:
        """Whether a worker goes on, because the next batch would hold up the loop too long."""
        rows = min(self.line.rows, self.max_rows)
        if self.line.turn is not None or self.runner.cost.of(rows) < self.inline:
            return False
        # From now on it is the worker who has been called.
        seat.called = False
        try:
            # In no caller's context: it may work for many.
            Context().run(WORKERS.submit, self._work, (), {})
        except (RuntimeError, Rejected):
            # There is no thread to be had.
            seat.called = True
        return not seat.called

    def _work(self) -> None:
        """Work until nobody waits any more."""
        while True:
            turn = Turn(self.clock.monotonic())
            try:
                if not self.line.begin(turn, None, self.max_rows):
                    return
                self._lonely = 0 if len(turn.requests) > 1 else self._lonely + 1
                self.runner.run(turn)
            except BaseException as error:
                # Nobody is there who could be interrupted, or asked to exit.
                self.runner.give_up(turn, error)
            finally:
                self.line.end(turn)


def _limit() -> Limit | None:
    limit = CURRENT.get()
    if limit is not None and limit.left() <= 0.0:
        raise DeadlineExceeded("the request", limit.seconds, begun=False)
    return limit
