"""Who answers: a server of versions, a whole prediction service, or a batcher before them.

Each backend turns one :class:`Question` into one :class:`~prodml.serving.Reply`, whose
value, version and arm come from one reading of the routing table.
"""

import asyncio
import contextvars
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, cast

from prodml._call import arun
from prodml.errors import BulkheadFull
from prodml.service import PredictionService
from prodml.serving import Key, MicroBatcher, Reply, Route, VersionedModelServer
from prodml.types import Prediction

__all__ = [
    "Backend",
    "BatchedBackend",
    "Question",
    "ServerBackend",
    "ServiceBackend",
    "Threads",
]


@dataclass(slots=True)
class Question:
    """What a caller wishes about who answers.

    Parameters
    ----------
    rows
        What is asked; :meth:`Endpoint.infer` fills it in.
    version, key, headers
        As for :meth:`~prodml.serving.VersionedModelServer.call`.
    request_id
        Tells the request in shadow facts and logs.

    Examples
    --------
    >>> Question(key="ann").version is None
    True
    """

    rows: Any = None
    version: str | None = None
    key: Key | None = None
    headers: Mapping[str, str] | None = None
    request_id: str = ""


class Backend(Protocol):
    """Answers questions, in the event loop."""

    async def ask(self, question: Question) -> Reply:
        """Answer all rows by one version."""
        ...


class Threads:
    """A bounded number of threads with a bounded queue before them.

    Examples
    --------
    >>> threads = Threads(2, waiting=10, name="churn")
    >>> threads.submit(abs, -1).result(timeout=5.0)
    1
    >>> threads.close()
    """

    __slots__: tuple[str, ...] = ("_busy", "_count", "_name", "_pool", "_waiting")

    def __init__(self, count: int, *, waiting: int, name: str) -> None:
        self._count: int = count
        self._waiting: int = waiting
        self._name: str = name
        self._busy: list[None] = []
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Future of ``call`` on a thread, in the caller's context; cancelled calls are let end.

        Raises
        ------
        BulkheadFull
            All threads are busy and the queue is full.
        """
        ahead = len(self._busy)
        if ahead >= self._count + self._waiting:
            raise BulkheadFull(self._name, self._count, ahead - self._count)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
        future = self._pool.submit(contextvars.copy_context().run, call, *args)
        self._busy.append(None)
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        """Let the threads end; a later call starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _done(self, _: object) -> None:
        self._busy.pop()


class ServerBackend:
    """A server of versions; plain models answer in the event loop's thread, or in ``threads``.

    Examples
    --------
    >>> server = VersionedModelServer()
    >>> server.load_model("v1", abs)
    >>> asyncio.run(ServerBackend(server).ask(Question([-1, 2], "v1")))
    Reply(value=[1, 2], version='v1', arm='pinned')
    """

    __slots__: tuple[str, ...] = ("_server", "_threads")

    def __init__(self, server: VersionedModelServer, threads: Threads | None = None) -> None:
        self._server: VersionedModelServer = server
        self._threads: Threads | None = threads

    async def ask(self, question: Question) -> Reply:
        """Answer all rows by the version that one reading of the table names."""
        server, rows = self._server, question.rows
        route = server.resolve(question.version, question.key, question.headers)
        plain = route.apredict is None and route.slot.abatch is None
        if plain and self._threads is not None:
            values = await self._on_thread(self._threads, route, rows)
        else:
            try:
                values = route.predict_batch(rows) if plain else await arun(route.batch_steps(rows))
            finally:
                route.release()
        server.mirror(route, rows, values, [question.request_id] * len(rows), batch=True)
        return Reply(values, route.version, route.arm)

    async def _on_thread(self, threads: Threads, route: Route, rows: Any) -> Any:
        try:
            future = threads.submit(route.predict_batch, rows)
        except BaseException:
            route.release()
            raise
        # Not in a ``finally``: a caller that goes away leaves the model busy.
        future.add_done_callback(lambda _: route.release())
        return await asyncio.wrap_future(future)


class BatchedBackend:
    """A batcher before a server: what waits at the same time is answered together.

    Examples
    --------
    >>> server = VersionedModelServer()
    >>> server.load_model("v1", abs)
    >>> asyncio.run(BatchedBackend(MicroBatcher(server)).ask(Question([-1, 2], "v1")))
    Reply(value=[1, 2], version='v1', arm='pinned')
    """

    __slots__: tuple[str, ...] = ("_batcher",)

    def __init__(self, batcher: MicroBatcher) -> None:
        self._batcher: MicroBatcher = batcher

    async def ask(self, question: Question) -> Reply:
        """Answer all rows by one version, together with the rows of other requests."""
        reply = await self._batcher.acall_batch(
            question.rows, question.version, question.key, question.headers
        )
        return Reply(reply.value, reply.version, reply.arm)


class ServiceBackend:
    """A prediction service with all its stages; a failed row fails the request.

    Examples
    --------
    >>> service = PredictionService(lambda features: features["x"] * 2, version="v7")
    >>> asyncio.run(ServiceBackend(service).ask(Question([{"x": 1}, {"x": 2}])))
    Reply(value=[2, 4], version='v7', arm='')
    """

    __slots__: tuple[str, ...] = ("_service",)

    def __init__(self, service: PredictionService) -> None:
        self._service: PredictionService = service

    async def ask(self, question: Question) -> Reply:
        """Answer all rows; the version is empty if several answered, or a fallback."""
        predictions = await self._predictions(question, question.rows)
        for prediction in predictions:
            if prediction.source == "failed":
                raise prediction.errors[-1]
        versions = {prediction.version for prediction in predictions}
        value = [prediction.value for prediction in predictions]
        return Reply(value, versions.pop() if len(versions) == 1 else "", "")

    async def _predictions(self, question: Question, rows: Any) -> list[Prediction[Any]]:
        version, key = question.version, question.key
        if len(rows) == 1:
            request_id = question.request_id or None
            return [await self._service.apredict(rows[0], request_id, version=version, key=key)]
        # Without a key the rows of one request would be drawn apart.
        keys = [os.urandom(8) if key is None else key] * len(rows)
        steps = self._service.batch_steps(rows, None, version, keys)
        return cast("list[Prediction[Any]]", await arun(steps, self._service.clock))
