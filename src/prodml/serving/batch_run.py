"""Asking the model: one call for all rows, and finding the row that breaks it."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Final, final

from prodml._call.turns import ring
from prodml._deadline import CURRENT, USED, Limit
from prodml.clock import Clock
from prodml.errors import DeadlineExceeded, InvalidFeatures, Rejected, RejectedAnswer
from prodml.serving.batch_cost import Cost
from prodml.serving.batch_line import Line, Request, Turn
from prodml.serving.batch_model import BatchRoute, Router, listed

__all__ = ["Counts", "Runner"]

# So many groups of one batch, and not one that was answered: it is not the rows.
_HOPELESS: Final = 8
# The batcher whose model is being asked, in the context of that call.
_INSIDE: ContextVar[object] = ContextVar("prodml_batcher", default=None)


@dataclass(slots=True)
class Counts:
    """What has happened, as plain numbers."""

    rows: int = 0
    batches: int = 0
    late: int = 0
    bisected: int = 0
    extra: int = 0
    failed: int = 0
    poisoned: int = 0


class _Group:
    """Requests that go to one version in one call, and how that has failed.

    The error stays here only until it is dealt with: its traceback refers to frames that
    refer to this.
    """

    __slots__: tuple[str, ...] = ("error", "half", "requests", "route")

    def __init__(
        self, route: BatchRoute, requests: Sequence[Request], *, half: bool = False
    ) -> None:
        self.route: BatchRoute = route
        self.requests: Sequence[Request] = requests
        self.half: bool = half
        self.error: Exception | None = None

    @property
    def splits(self) -> bool:
        """Whether fewer may fare better.  A refusal was no fault of theirs, save one kind."""
        refused = isinstance(self.error, Rejected) and not isinstance(self.error, InvalidFeatures)
        return len(self.requests) > 1 and not refused

    def halves(self) -> "tuple[_Group, _Group]":
        """Both parts, to be asked anew."""
        self.error = None
        middle = len(self.requests) // 2
        return (
            _Group(self.route, self.requests[:middle], half=True),
            _Group(self.route, self.requests[middle:], half=True),
        )


@final
class Runner:
    """Asks the model for the rows of a turn, in a context that is nobody's.

    A call that raises is repeated by halves, level by level, until what fails is one
    request: its error is the model's about its own rows.  With ``n`` requests in the call a
    good row is computed at most ``log2(n)`` times more, and there are at most ``2 n - 2``
    more calls.  When eight groups have failed and none was answered the model is down, or as
    good as down, and every request gets the error of its group: 14 more calls at most.
    """

    __slots__: tuple[str, ...] = (
        "_clock",
        "_context",
        "_line",
        "_me",
        "_mirror",
        "_name",
        "_stack",
        "cost",
        "counts",
    )

    def __init__(
        self,
        router: Router,
        stack: Callable[[list[Any]], Any] | None,
        *,
        line: Line,
        clock: Clock,
        name: str,
    ) -> None:
        # Copies for the shadows, if the router has any.
        self._mirror: Callable[..., None] | None = getattr(router, "mirror", None)
        self._stack: Callable[[list[Any]], Any] | None = stack
        self._line: Line = line
        self._clock: Clock = clock
        self._name: str = name
        self._me: object = object()
        self._context = copy_context()
        self._context.run(self._prepare)
        self.cost: Cost = Cost()
        self.counts: Counts = Counts()

    def inside(self) -> bool:
        """Whether this is called by the model that is being asked."""
        return _INSIDE.get() is self._me

    def run(self, turn: Turn) -> None:
        """Answer the rows of a turn, and learn what they cost."""
        counts, rows = self.counts, turn.rows
        counts.batches += rows > 0
        requests = turn.requests
        if USED:
            requests = self._in_time(requests)
            rows = sum(request.stop - request.start for request in requests)
        counts.rows += rows
        if self.answer(requests) and rows:
            self.cost.learn(rows, self._clock.monotonic() - turn.began)

    def run_alone(self, turn: Turn, request: Request) -> None:
        """Answer one request that nobody shares the turn with."""
        self.counts.batches += 1
        self.counts.rows += turn.rows
        if self.answer_alone(request):
            self.cost.learn(turn.rows, self._clock.monotonic() - turn.began)

    def answer_alone(self, request: Request) -> bool:
        """Ask for the rows of one request that is in no line; return whether it went well."""
        rows, route = list(request.rows), request.route
        try:
            asked, answers = self._context.copy().run(self._told, route, rows, request.limit)
            request.error = _wrong(answers, len(request.rows))
        except Exception as error:
            asked, answers, request.error = rows, rows, error
        request.done = True
        if request.error is not None:
            self.counts.failed += 1
            request.trace = request.error.__traceback__
            return False
        # A copy, for the model may keep its list and use it again.
        request.answers = list(answers)
        if self._mirror is not None and request.rows:
            self._mirror(route, asked, answers, batch=True)
        return True

    def answer(self, requests: Sequence[Request]) -> bool:
        """Ask each version for its rows; return whether none has failed."""
        by_route: dict[BatchRoute, list[Request]] = {}
        for request in requests:
            by_route.setdefault(request.route, []).append(request)
        groups = [_Group(route, some) for route, some in by_route.items()]
        failed = [group for group in groups if not self._ask(group)]
        for group in failed:
            self._isolate(group)
        return not failed

    def give_up(self, turn: Turn, error: BaseException) -> None:
        """Fail what has no answer yet."""
        left = [request for request in turn.requests if request.running]
        self._settle(left, (), RuntimeError(f"the model raised {error!r}"))

    def too_late(self, request: Request, *, begun: bool) -> DeadlineExceeded:
        """Count a request whose time is over, and say so."""
        seconds = 0.0 if request.limit is None else request.limit.seconds
        with self._line.lock:
            self.counts.late += 1
        return DeadlineExceeded(self._name, seconds, begun)

    def _in_time(self, requests: list[Request]) -> list[Request]:
        for request in [request for request in requests if request.late]:
            self._settle([request], (), self.too_late(request, begun=request.start > 0))
        return [request for request in requests if request.running]

    def _ask(self, group: "_Group") -> bool:
        """Ask for the rows of a group and give it its answers; return whether the model did."""
        route, requests = group.route, group.requests
        rows = [row for request in requests for row in request.rows[request.start : request.stop]]
        limit, count = (_latest(requests) if USED else None), len(rows)
        try:
            asked, answers = self._context.copy().run(self._told, route, rows, limit)
        except Exception as error:
            group.error = error
            return False
        wrong = _wrong(answers, count)
        self._settle(requests, answers, wrong)
        if self._mirror is not None and wrong is None and count:
            self._mirror(route, asked, answers, batch=True)
        return True

    def _told(self, route: BatchRoute, rows: list[Any], limit: Limit | None) -> tuple[Any, Any]:
        """Rows as the model got them, and its answers; runs in a context of its own."""
        if not rows:
            return rows, rows
        if limit is not None:
            CURRENT.set(limit)
        asked = rows if self._stack is None else self._stack(rows)
        return asked, listed(route.predict_batch(asked))

    def _isolate(self, group: "_Group") -> None:
        failed = [group]
        hopeless = group.splits
        self.counts.bisected += hopeless
        while failed:
            halves: list[_Group] = []
            for one in failed:
                halves += one.halves() if one.splits else self._fail(one)
            self.counts.extra += len(halves)
            failed = [half for half in halves if not self._ask(half)]
            hopeless = hopeless and len(failed) == len(halves)
            if hopeless and len(failed) >= _HOPELESS:
                for one in failed:
                    self._fail(one)
                return

    def _fail(self, group: "_Group") -> Sequence["_Group"]:
        """Tell a group its error, and that nothing is left to be asked."""
        error, group.error = group.error, None
        self.counts.failed += len(group.requests)
        self.counts.poisoned += group.half and len(group.requests) == 1
        try:
            self._settle(group.requests, (), error)
        finally:
            # Its traceback may refer to this frame.
            del error
        return ()

    def _settle(
        self, requests: Sequence[Request], answers: Sequence[Any], error: Exception | None = None
    ) -> None:
        ring(self._line.settle(requests, answers, error))

    def _prepare(self) -> None:
        """What the model sees: no deadline of whoever has made the batcher, and where it is."""
        CURRENT.set(None)
        _INSIDE.set(self._me)


def _wrong(answers: list[Any] | None, rows: int) -> RejectedAnswer | None:
    if answers is not None and len(answers) == rows:
        return None
    what = "no sequence of answers" if answers is None else f"{len(answers)} answers"
    return RejectedAnswer(f"{what} for {rows} rows")


def _latest(requests: Sequence[Request]) -> Limit | None:
    """Deadline of the batch: while anybody still wants his answer it is worth going on."""
    limits = [request.limit for request in requests if request.limit is not None]
    if len(limits) < len(requests):
        return None
    return max(limits, key=Limit.left)
