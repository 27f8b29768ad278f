"""Requests that come at the same time are answered by one call of the model."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeAlias, final

from prodml._call.turns import atake_turns, take_turns
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, Stream
from prodml.serving.batch_desk import Desk
from prodml.serving.batch_line import Line, Request
from prodml.serving.batch_model import Stack, router_of, rows_of, stacker
from prodml.serving.batch_run import Runner
from prodml.serving.reply import BatchReply, Reply
from prodml.serving.slot import Key

__all__ = ["BatchStats", "MicroBatcher"]

_Headers: TypeAlias = Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class BatchStats:
    """What a batcher has done, and how it stands.

    Parameters
    ----------
    rows, batches
        Rows that went to the model, and how many times the model was asked for a batch.
    shed
        Requests refused with :class:`~prodml.errors.Overloaded`.
    late
        Requests whose deadline passed before they had their answer; those whose batch had not
        begun by then were not computed.
    bisected, extra
        Batches that failed and were split, and the calls that this took.
    poisoned, failed
        Requests found to be what broke their batch; requests that got the model's error.
    waiting
        Rows in the queue now.
    predicted_wait
        Seconds that a row arriving now would wait for its batch to begin.

    Examples
    --------
    >>> BatchStats(rows=96, batches=8).mean_rows
    12.0
    """

    rows: int = 0
    batches: int = 0
    shed: int = 0
    late: int = 0
    bisected: int = 0
    extra: int = 0
    poisoned: int = 0
    failed: int = 0
    waiting: int = 0
    predicted_wait: float = 0.0

    @property
    def mean_rows(self) -> float:
        """Rows a batch; 0 before the first."""
        return self.rows / self.batches if self.batches else 0.0


@final
@dataclass(kw_only=True, slots=True, eq=False)
class MicroBatcher:
    """Gather concurrent requests into batches; never wait for company.

    Who comes while nobody is being served is served at once, alone, in its own thread or
    event loop.  Who comes while a batch runs waits in line, and the next batch takes all that
    stand there, up to ``max_rows``.  There is no time window: batches grow with the load
    and only with it.  Nor is there a thread that waits for work: one of the callers does it
    for all.

    Threads and the tasks of any number of event loops share one line, first come, first
    served, row by row.

    Parameters
    ----------
    model
        A function from a list of rows to as many answers; an object with ``predict_batch``;
        with ``stack`` also one with ``predict`` (scikit-learn); or a
        :class:`VersionedModelServer`, whose split, sticky keys and shadows then hold for each
        request, and no model call mixes versions.
    max_rows
        Rows in one model call, at least 1.
    budget
        Seconds that a request may wait for its batch to begin.  One that would wait longer, by
        what batches have taken so far, is refused at once with ``Overloaded``.  None refuses
        nobody for this.
    max_queue
        Rows that may wait.  A request is refused when it would make them more.  An idle batcher
        takes a request of any size.
    stack
        How the list of rows becomes what the model takes: ``True`` makes one array (n rows of
        shape s become shape (n, s)), ``pandas.DataFrame`` a frame of dictionaries; any
        function of a list will do.  None passes the list.
    inline
        An awaiting caller lets batches that should take less than this many seconds run in the
        event loop's own thread, which costs nothing; longer ones go to a worker thread, so that
        the loop goes on.  ``math.inf``: always in the loop; 0: never.
    name
        Names the batcher in errors and facts.

    Raises
    ------
    BadConfiguration
        A setting is out of range, or ``model`` is nothing that can be asked.

    Notes
    -----
    *Gathering in a loop.*  An awaiting caller that finds nobody at work lets the event loop
    make three passes first, which is what a socket that can be read now needs to become a
    row in line: some microseconds if nothing is ready.  After four batches of a single request
    only every eighth does so, since there seems to be no crowd.

    *What the model sees.*  A copy of the context in which the batcher was made, whoever does
    the work: no caller's context variables, since a batch has several.  The one exception is
    the deadline: the latest of the rows' deadlines, or none if one row has none.  Callers keep
    their own context.

    *A row that breaks its batch* fails alone: the batch is halved until the culprit is found,
    and the others get their answers.  ``n`` requests cost at most ``2 n - 2`` more calls; if
    eight parts have failed and none was answered, it is not the rows, and all fail after 14 more
    calls.  ``Rejected`` errors of the model (a circuit is open) fail the batch as it is, except
    ``InvalidFeatures``.  The model must bear being asked twice for a row.

    *A wrong number of answers* is a ``RejectedAnswer`` for every row of that call.

    *Deadlines.*  A request that has one does not wait longer, is refused if it would, and is not
    computed when its time is over before its batch begins.

    *Going away.*  A cancelled task leaves the line; if its rows are being computed, their
    answers are dropped.  A thread that is interrupted while it works for others puts their
    rows back in front, and another one goes on.

    *Nesting.*  A model that asks its own batcher is answered at once, by one call whatever
    ``max_rows``, if it does so in the same thread or with the context passed on.

    *Forks.*  A child begins with an empty line.

    Examples
    --------
    >>> batcher = MicroBatcher(lambda rows: [2 * row for row in rows])
    >>> batcher.predict(21), batcher.submit_many([1, 2, 3])
    (42, [2, 4, 6])
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(8) as pool:
    ...     sum(pool.map(batcher.predict, range(100)))
    9900
    """

    model: Any = field(kw_only=False)
    max_rows: int = 64
    budget: float | None = None
    max_queue: int = 1000
    stack: Stack | None = field(default=None, metadata={"fixed": "rows are on their way"})
    inline: float = 0.02
    name: str = field(default="batcher", metadata={"fixed": "errors and facts go by it"})
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _desk: Desk = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _at_least_one("max_rows", self.max_rows)
        _at_least_one("max_queue", self.max_queue)
        _not_negative("inline", self.inline)
        if self.budget is not None:
            _not_negative("budget", self.budget)
        stack = stacker(self.stack)
        router = router_of(self.model, self.name, stacked=stack is not None)
        line = Line()
        self._desk = Desk(
            router=router,
            line=line,
            runner=Runner(router, stack, line=line, clock=self.clock, name=self.name),
            clock=self.clock,
            name=self.name,
            max_rows=self.max_rows,
            max_queue=self.max_queue,
            budget=self.budget,
            inline=self.inline,
        )

    def predict(self, features: Any, version: str | None = None, key: Key | None = None) -> Any:
        """Answer for one row, from any thread.

        Parameters
        ----------
        features
            One row, as the model or ``stack`` wants it.
        version, key
            As for :meth:`VersionedModelServer.predict`; a plain model has no versions.

        Raises
        ------
        Overloaded
            Too much waits already.
        DeadlineExceeded
            The request's time was over before the answer came.
        UnknownVersion
            ``version`` is not loaded.
        RejectedAnswer
            The model did not give one answer a row.
        Rejected
            The batcher is closed.
        """
        return self._wait((features,), version, key).result()[0]

    def apredict(
        self, features: Any, version: str | None = None, key: Key | None = None
    ) -> Coroutine[Any, Any, Any]:
        """:meth:`predict`, awaited, in any event loop."""
        return self._await((features,), version, key, None, _one)

    def call(
        self,
        features: Any,
        version: str | None = None,
        key: Key | None = None,
        headers: _Headers = None,
    ) -> Reply:
        """Answer as :meth:`predict` does, and say who answered.

        Examples
        --------
        >>> MicroBatcher(lambda rows: rows).call("a")
        Reply(value='a', version='', arm='stable')
        """
        return _reply(self._wait((features,), version, key, headers))

    def acall(
        self,
        features: Any,
        version: str | None = None,
        key: Key | None = None,
        headers: _Headers = None,
    ) -> Coroutine[Any, Any, Reply]:
        """:meth:`call`, awaited."""
        return self._await((features,), version, key, headers, _reply)

    def submit_many(
        self, rows: Sequence[Any], version: str | None = None, key: Key | None = None
    ) -> list[Any]:
        """Answers for the rows of one request, in order.

        They count as so many rows, go to one version, and fail together.  More than
        ``max_rows`` take several batches.
        """
        return self._wait(rows_of(rows), version, key).result()

    def asubmit_many(
        self, rows: Sequence[Any], version: str | None = None, key: Key | None = None
    ) -> Coroutine[Any, Any, list[Any]]:
        """:meth:`submit_many`, awaited."""
        return self._await(rows_of(rows), version, key, None, Request.result)

    def call_batch(
        self,
        rows: Sequence[Any],
        version: str | None = None,
        key: Key | None = None,
        headers: _Headers = None,
    ) -> BatchReply:
        """Answer as :meth:`submit_many` does, and say who answered.

        Examples
        --------
        >>> MicroBatcher(lambda rows: rows).call_batch(["a", "b"]).value
        ['a', 'b']
        """
        return _replies(self._wait(rows_of(rows), version, key, headers))

    def acall_batch(
        self,
        rows: Sequence[Any],
        version: str | None = None,
        key: Key | None = None,
        headers: _Headers = None,
    ) -> Coroutine[Any, Any, BatchReply]:
        """:meth:`call_batch`, awaited."""
        return self._await(rows_of(rows), version, key, headers, _replies)

    def stats(self) -> BatchStats:
        """Counters since the start, and the queue as it is."""
        desk = self._desk
        counts = desk.runner.counts
        return BatchStats(
            rows=counts.rows,
            batches=counts.batches,
            shed=desk.shed,
            late=counts.late,
            bisected=counts.bisected,
            extra=counts.extra,
            poisoned=counts.poisoned,
            failed=counts.failed,
            waiting=desk.line.rows,
            predicted_wait=desk.wait(),
        )

    def close(self, timeout: float | None = 30.0) -> bool:
        """Refuse new requests, and see to it that those who wait are answered.

        Returns whether all were within ``timeout`` seconds (None: however long it takes);
        those that still wait by then get a ``Rejected``.  The model is not closed.
        """
        return self._desk.drain(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(
        self,
        rows: Sequence[Any],
        version: str | None,
        key: Key | None,
        headers: _Headers = None,
    ) -> Request:
        desk = self._desk
        request = desk.enter(rows, version, key, headers, awaiting=False)
        if not request.done:
            take_turns(desk, request)
        return request

    def _await(
        self,
        rows: Sequence[Any],
        version: str | None,
        key: Key | None,
        headers: _Headers,
        finish: Callable[[Request], Any],
    ) -> Coroutine[Any, Any, Any]:
        desk = self._desk
        enter = partial(desk.enter, rows, version, key, headers, awaiting=True)
        return atake_turns(desk, enter, finish)

    def _retuned(self) -> None:
        desk = self._desk
        desk.max_rows, desk.max_queue = self.max_rows, self.max_queue
        desk.budget, desk.inline = self.budget, self.inline


def _at_least_one(name: str, value: Any) -> None:
    if not (isinstance(value, int) and value >= 1):
        raise BadConfiguration(f"{name} must be a whole number of rows >= 1, not {value!r}")


def _not_negative(name: str, value: Any) -> None:
    if not (isinstance(value, int | float) and value >= 0.0):
        raise BadConfiguration(f"{name} must be a number of seconds >= 0, not {value!r}")


def _one(request: Request) -> Any:
    return request.result()[0]


def _reply(request: Request) -> Reply:
    return Reply(_one(request), request.route.version, request.route.arm)


def _replies(request: Request) -> BatchReply:
    count, route = len(request.rows), request.route
    return BatchReply(request.result(), (route.version,) * count, (route.arm,) * count)
