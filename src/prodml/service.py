"""One prediction, from the request to the answer, as one readable flow.

::

    validate -> fill in features -> route -> cache -> bulkhead, breaker, timeout -> model
             -> check the answer -> (failed? next rung of the ladder) -> shadow copy -> one fact

Every stage is optional.  The flow is written once and walked by threads (``predict``) and
tasks (``apredict``) alike; ``predict_batch`` takes many rows through the same stages with
one model call a version.
"""

import itertools
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast, final

from prodml._call import Guard, Invoke, Steps, arun, protect, run
from prodml._deadline import narrow, restore
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import AllFallbacksFailed, BadConfiguration, RejectedAnswer
from prodml.events import EVENTS, PredictionFailed, PredictionServed, Stream
from prodml.serving import Key, Route
from prodml.serving.batch_model import listed, rows_of
from prodml.types import MISS, Features, Prediction, RowCheck

# Loaded when one is built.
if TYPE_CHECKING:
    from prodml.cache import Answer, PredictionCache
    from prodml.features import FeatureService
    from prodml.resilience import FallbackChain
    from prodml.serving import VersionedModelServer

__all__ = ["PredictionService"]

Breakers: TypeAlias = Guard[Any] | Callable[[str], Guard[Any]]


class _Ids:
    """Request ids unique across processes and forks, at a tenth of the price of a UUID."""

    def __init__(self) -> None:
        self._prefix: str = ""
        self._next: Callable[[], int] = itertools.count(1).__next__
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self._prefix = os.urandom(8).hex()

    def __call__(self) -> str:
        return f"{self._prefix}-{self._next():x}"


_new_id = _Ids()


class _Request:
    """What one request has gathered on its way."""

    __slots__: tuple[str, ...] = (
        "age",
        "began",
        "cached",
        "degraded",
        "errors",
        "features",
        "id",
        "key",
        "name",
        "rescued",
        "route",
        "source",
        "stale",
        "tier",
        "value",
    )

    def __init__(
        self, features: Any, request_id: str | None, key: Key | None, began: float
    ) -> None:
        self.features: Any = features
        self.id: str = request_id or _new_id()
        self.key: Key | None = key
        self.began: float = began
        self.value: Any = MISS
        self.cached: bool = False
        self.degraded: bool = False
        self.errors: tuple[Exception, ...] = ()
        self.name: bytes | None = None
        self.rescued: bool = False
        self.route: Route | None = None
        self.source: str = "model"
        self.tier: str = ""
        self.age: float = 0.0
        self.stale: bool = False

    def take(self, answer: "Answer") -> None:
        """Take over what the cache says, and where it has it from."""
        self.value, self.cached, self.tier = answer.value, answer.cached, answer.tier
        self.age, self.stale = answer.age, answer.stale
        self.source = "cache" if answer.cached else "model"


@final
@dataclass(slots=True, eq=False)
class PredictionService:
    """A model with everything around it that production asks for; each part is optional.

    Parameters
    ----------
    model
        A :class:`VersionedModelServer`, or one model: an object with ``predict`` or a
        function of the features.  One model is served as version ``version``.
    fallback
        What answers when the model does not: a model or function, a :class:`Rung`, a
        sequence of rungs, or a :class:`FallbackChain`.
    default
        The last resort: a value or a function of the features.  Falsy values are values.
    schema
        Checks the request's features; breaches raise ``InvalidFeatures``, the caller's
        fault, which no breaker and no fallback hears of.
    features
        Fills in features that the request left out; what it had to default makes the
        answer ``degraded``.
    cache
        Answers repeated requests by ``name``, resolved version and features: services that
        share a cache need different names.  Degraded answers are neither taken from it nor
        kept.
    accept
        Looks at the model's answer: raising, or a falsy verdict other than None, counts as
        a failure.  :class:`~prodml.validation.AnswerCheck` is one.
    bulkhead, breaker
        Guards before the model.  ``breaker`` is one guard for all versions, or a function
        of the version that makes one for each.
    timeout
        Seconds for the model's call.
    deadline
        Seconds for the whole request, or for the whole batch; every layer below sees what is
        left.
    logger
        Hears every fact, like a subscriber of ``events``: a :class:`PredictionLogger`.

    Raises
    ------
    BadConfiguration
        A time that is not positive, or a model that cannot be served.

    Notes
    -----
    What listens (log, metrics, monitors) can neither fail nor change a prediction.
    Without ``fallback`` and ``default`` the model's own error passes untouched.

    Examples
    --------
    >>> def broken(features):
    ...     raise ConnectionError("model server is away")
    >>> service = PredictionService(broken, fallback=lambda features: 0.5)
    >>> p = service.predict({"age": 41}, request_id="r1")
    >>> p.value, p.source, p.degraded, p.errors
    (0.5, 'fallback', True, (ConnectionError('model server is away'),))
    """

    model: Any
    _: KW_ONLY
    fallback: Any = None
    default: Any = MISS
    schema: RowCheck | None = None
    features: "FeatureService | None" = None
    cache: "PredictionCache | None" = None
    accept: Callable[[Any], object] | None = None
    bulkhead: Guard[Any] | None = None
    breaker: Breakers | None = None
    timeout: float | None = None
    deadline: float | None = None
    logger: Callable[[Any], None] | None = None
    version: str = "v1"
    name: str = "prediction-service"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    server: "VersionedModelServer" = field(init=False, repr=False)
    _ladder: "FallbackChain[Any] | None" = field(init=False, repr=False)
    _breakers: dict[str, Guard[Any]] = field(default_factory=dict, init=False, repr=False)
    _log: Stream = field(default_factory=Stream, init=False, repr=False)

    def __post_init__(self) -> None:
        for limit in ("timeout", "deadline"):
            seconds = getattr(self, limit)
            if seconds is not None and not seconds > 0:
                raise BadConfiguration(f"{limit} must be positive seconds or None, not {seconds}")
        self.server = self._serving(self.model)
        self._ladder = self._rungs(self.fallback)
        if self.logger is not None:
            self._log.subscribe(PredictionServed, self.logger)
            self._log.subscribe(PredictionFailed, self.logger)

    # -- asking -------------------------------------------------------------------------

    def predict(
        self,
        features: Features,
        request_id: str | None = None,
        *,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Prediction[Any]:
        """Answer one request.

        Parameters
        ----------
        features
            One row: feature name to value.  Never changed.
        request_id
            Joins the late label to the prediction; made if None.
        version
            Asks this version, whatever the routing says.
        key
            Entity that the split between versions sticks to.
        headers
            The request's headers, for overrides of the routing.

        Raises
        ------
        InvalidFeatures
            The schema refuses the row.
        UnknownVersion
            ``version`` is not loaded, or nothing is.
        AllFallbacksFailed
            The model and every rung failed; holds each cause in order.
        """
        return cast(
            "Prediction[Any]",
            run(self.steps(features, request_id, version, key, headers), self.clock),
        )

    def apredict(
        self,
        features: Features,
        request_id: str | None = None,
        *,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Prediction[Any]]:
        """Answer one request, awaiting what is asynchronous on the way; see :meth:`predict`."""
        return arun(self.steps(features, request_id, version, key, headers), self.clock)

    def predict_batch(
        self,
        rows: Sequence[Features],
        request_ids: Sequence[str] | None = None,
        *,
        version: str | None = None,
        keys: Sequence[Key] | None = None,
    ) -> list[Prediction[Any]]:
        """Answer many requests through the same stages, with one model call a version.

        A row that fails does not take the others with it: its prediction has the value
        ``MISS``, the source ``"failed"`` and the cause in ``errors``.

        Parameters
        ----------
        rows
            Rows as in :meth:`predict`.
        request_ids, keys
            One a row, or None.

        Raises
        ------
        TypeError
            ``rows`` is a frame or a mapping, whose items are columns.
        ValueError
            Not one id or key a row.

        Examples
        --------
        >>> service = PredictionService(lambda features: 1 / features["x"])
        >>> [p.value for p in service.predict_batch([{"x": 1}, {"x": 2}])]
        [1.0, 0.5]
        """
        steps = self.batch_steps(rows, request_ids, version, keys)
        return cast("list[Prediction[Any]]", run(steps, self.clock))

    def apredict_batch(
        self,
        rows: Sequence[Features],
        request_ids: Sequence[str] | None = None,
        *,
        version: str | None = None,
        keys: Sequence[Key] | None = None,
    ) -> Coroutine[Any, Any, list[Prediction[Any]]]:
        """:meth:`predict_batch`, awaiting what is asynchronous on the way."""
        return arun(self.batch_steps(rows, request_ids, version, keys), self.clock)

    # -- one request --------------------------------------------------------------------

    def steps(
        self,
        features: Features,
        request_id: str | None = None,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Steps:
        """Steps of one request, for a flow around the service."""
        request = _Request(features, request_id, key, self.clock.monotonic())
        return self._in_time(self._walk(request, version, headers))

    def _in_time(self, walk: Steps) -> Steps:
        return walk if self.deadline is None else self._within(self.deadline, walk)

    def _within(self, seconds: float, walk: Steps) -> Steps:
        reset = narrow(seconds, self.clock)
        try:
            return (yield from walk)
        finally:
            restore(reset)

    def _walk(
        self, request: _Request, version: str | None, headers: Mapping[str, str] | None
    ) -> Steps:
        if self.schema is not None or self.features is not None:
            error = yield from self._prepare(request)
            if error is not None:
                return None, self._failed(request, error)
        try:
            request.route = route = self.server.resolve(version, request.key, headers)
        except Exception as unknown:
            return None, self._failed(request, unknown)
        try:
            error = yield from self._ask(request, route)
        finally:
            route.release()
        if error is not None:
            error = yield from self._degrade(request, error)
            if error is not None:
                return None, self._failed(request, error)
        elif not request.degraded:
            self.server.mirror(route, request.features, request.value, request.id)
        return self._served(request), None

    def _prepare(self, request: _Request) -> Any:
        """Check the features and fill in what is missing; return what forbids to go on."""
        breach = self._breach(request)
        if breach is not None:
            return breach
        if self.features is not None:
            completed, error = yield from self.features.steps(request.features)
            if error is not None:
                return error
            request.features = completed.features
            request.degraded = completed.degraded
            request.errors = tuple(completed.errors)
        return None

    def _ask(self, request: _Request, route: Route) -> Any:
        """Answer from the cache or the model; return what went wrong."""
        if self.cache is None or request.degraded:
            request.value, error = yield from self._model_steps(request.features, route)
            return error
        cache, version, error = self.cache, route.version, None
        answer, key = cache.recall(request.features, version, function=self.name)
        if answer is None:
            compute = partial(self._model_steps, request.features, route)
            behind = partial(self._behind, request.features, version)
            answer, error = yield from cache.answer_steps(key, compute, behind)
        if error is None:
            cache.tell(self.name, version, answer)
            request.take(answer)
        return error

    def _behind(self, features: Any, version: str) -> Callable[[], Steps]:
        """The model's call for a renewal, which outlives the request and its route."""
        return partial(self._renewed, deepcopy(features), version)

    def _renewed(self, features: Any, version: str) -> Steps:
        try:
            route = self.server.resolve(version)
        except Exception as unloaded:
            return None, unloaded
        try:
            return (yield from self._model_steps(features, route))
        finally:
            route.release()

    def _model_steps(self, features: Any, route: Route) -> Steps:
        """Steps of the model's call behind its guards, answer checked."""
        steps = self._call_steps(
            Invoke(route.predict, (features,), timeout=self.timeout, acall=route.apredict)
        )
        return self._guarded(steps, route.version)

    def _guarded(self, steps: Steps, version: str) -> Steps:
        if self.breaker is not None:
            steps = protect(self._breaker_of(version), steps)
        return steps if self.bulkhead is None else protect(self.bulkhead, steps)

    def _call_steps(self, step: Invoke) -> Steps:
        value, error = yield step
        return value, self._refusal(value) if error is None else error

    def _refusal(self, value: Any) -> Exception | None:
        if self.accept is None:
            return None
        try:
            verdict = self.accept(value)
        except Exception as error:
            return error
        sound = verdict is None or bool(verdict)
        return None if sound else RejectedAnswer("accept said no", value)

    def _degrade(self, request: _Request, error: Exception) -> Any:
        """Go down the ladder; return what is left to raise."""
        request.errors = (*request.errors, error)
        if self._ladder is None:
            return error
        served, gone = yield from self._ladder.steps(request.features)
        if gone is not None:
            failed = cast("AllFallbacksFailed", gone)
            causes = [*request.errors, *failed.exceptions]
            return AllFallbacksFailed(f"{self.name}: no answer", causes)
        request.value, request.source, request.degraded = served.value, served.rung, True
        # A rung may be called "model" or "failed": the name alone says nothing.
        request.rescued = True
        request.errors = (*request.errors, *served.errors.values())
        return None

    # -- many requests ------------------------------------------------------------------

    def batch_steps(
        self,
        rows: Sequence[Features],
        request_ids: Sequence[str] | None = None,
        version: str | None = None,
        keys: Sequence[Key] | None = None,
    ) -> Steps:
        """Steps of many requests, for a flow around the service."""
        return self._in_time(self._walk_batch(rows, request_ids, version, keys))

    def _walk_batch(
        self,
        rows: Sequence[Features],
        request_ids: Sequence[str] | None,
        version: str | None,
        keys: Sequence[Key] | None,
    ) -> Steps:
        began = self.clock.monotonic()
        rows = rows_of(rows)
        ids = _one_each("request_ids", request_ids, len(rows))
        own = _one_each("keys", keys, len(rows))
        requests = [_Request(*told, began) for told in zip(rows, ids, own, strict=True)]
        live = yield from self._prepare_batch(requests)
        try:
            groups = self._route_batch(live, version)
            for group in groups:
                yield from self._ask_batch(group)
        finally:
            for request in live:
                if request.route is not None:
                    request.route.release()
        for request in requests:
            if request.value is MISS and request.errors and request.source != "failed":
                yield from self._rescue(request)
        self._mirror_batch(groups)
        return [self._told(request) for request in requests], None

    def _prepare_batch(self, requests: list[_Request]) -> Any:
        live: list[_Request] = []
        for request in requests:
            error = self._breach(request)
            if error is None:
                live.append(request)
            else:
                _give_up(request, error)
        if self.features is not None and live:
            rows = [request.features for request in live]
            completed, error = yield from self.features.batch_steps(rows)
            for request, done in zip(live, completed or [], strict=error is None):
                request.features, request.degraded = done.features, done.degraded
                request.errors = tuple(done.errors)
        return live

    def _breach(self, request: _Request) -> Exception | None:
        if self.schema is not None:
            try:
                request.features = self.schema.validate(request.features)
            except Exception as error:
                return error
        return None

    def _route_batch(self, live: list[_Request], version: str | None) -> list[list[_Request]]:
        groups: dict[int, list[_Request]] = {}
        for request in live:
            try:
                request.route = self.server.resolve(version, request.key)
            except Exception as unknown:
                _give_up(request, unknown)
            else:
                groups.setdefault(id(request.route), []).append(request)
        return list(groups.values())

    def _ask_batch(self, group: list[_Request]) -> Any:
        """Answer the requests of one route: cached rows first, then one call for the rest."""
        route = cast("Route", group[0].route)
        keys = [] if self.cache is None else (yield from self._recall(self.cache, group, route))
        asked = _distinct([r for r in group if r.value is MISS], keys)
        if not asked:
            return
        began = self.clock.monotonic()
        told = yield from self._call_batch(route, [twins[0].features for twins in asked])
        for twins, (value, refused) in zip(asked, told, strict=True):
            for request in twins:
                request.value = value if request is twins[0] else _copied(value)
                if refused is not None:
                    request.errors = (*request.errors, refused)
        if self.cache is not None:
            cost = (self.clock.monotonic() - began) / len(asked)
            values = [MISS if r.cached else r.value for r in group if not r.degraded]
            yield from self.cache.store_steps(keys, values, cost=cost)

    def _call_batch(self, route: Route, rows: list[Any]) -> Any:
        """One call of the model; a value or ``MISS`` and why, for each row."""
        told, error = yield from self._guarded(self._judged(route, rows), route.version)
        return [(MISS, error)] * len(rows) if told is None else told

    def _judged(self, route: Route, rows: list[Any]) -> Steps:
        """The answers, each with why it is refused; it failed if all of them are."""
        answers, error = yield from self._batch_of(route, rows)
        if error is not None:
            return None, error
        values = listed(answers)
        if values is None or len(values) != len(rows):
            count = "no sequence of" if values is None else len(values)
            return None, RejectedAnswer(f"{count} answers for {len(rows)} rows", answers)
        refusals = [self._refusal(value) for value in values]
        told = [(MISS if no else value, no) for value, no in zip(values, refusals, strict=True)]
        return told, refusals[0] if all(refusals) else None

    def _batch_of(self, route: Route, rows: list[Any]) -> Steps:
        if self.timeout is None:
            return route.batch_steps(rows)
        slot = route.slot
        awaited: Any = slot.abatch
        if slot.apredict is not None and slot.batch is None and awaited is None:
            # All rows in turn are the one call that the time is for.
            awaited = partial(_row_by_row, route, self.clock)
        return _once(Invoke(route.predict_batch, (rows,), timeout=self.timeout, acall=awaited))

    def _recall(self, cache: "PredictionCache", group: list[_Request], route: Route) -> Any:
        """Fill in what the cache holds; return the keys of the rows that may be cached."""
        sound = [request for request in group if not request.degraded]
        rows = (request.features for request in sound)
        answers, keys = cache.recall_many(rows, route.version, function=self.name)
        answers, _ = yield from cache.fetch_steps(keys, answers)
        for request, answer, key in zip(sound, answers, keys, strict=True):
            request.name = None if key is None else key.tail
            if answer is not None:
                request.take(answer)
            cache.tell(self.name, route.version, answer)
        return keys

    def _rescue(self, request: _Request) -> Any:
        error = request.errors[-1]
        request.errors = request.errors[:-1]
        gone = yield from self._degrade(request, error)
        if gone is error:
            request.source = "failed"
        elif gone is not None:
            _give_up(request, gone)

    def _mirror_batch(self, groups: list[list[_Request]]) -> None:
        for group in groups:
            sound = [r for r in group if r.source in {"model", "cache"} and not r.degraded]
            if sound:
                self.server.mirror(
                    cast("Route", group[0].route),
                    [request.features for request in sound],
                    [request.value for request in sound],
                    [request.id for request in sound],
                    batch=True,
                )

    # -- telling ------------------------------------------------------------------------

    def _told(self, request: _Request) -> Prediction[Any]:
        if request.rescued or request.source != "failed":
            return self._served(request)
        self._failed(request, request.errors[-1])
        latency = (self.clock.monotonic() - request.began) * 1e3
        return Prediction(
            MISS, request.id, source="failed", latency_ms=latency, errors=request.errors
        )

    def _served(self, request: _Request) -> Prediction[Any]:
        route = request.route
        computed = route is not None and not request.rescued
        prediction = Prediction(
            request.value,
            request.id,
            route.version if route is not None and computed else "",
            request.source,
            request.degraded,
            request.cached,
            (self.clock.monotonic() - request.began) * 1e3,
            request.errors,
            request.tier,
            request.age,
            request.stale,
        )
        if self.logger is not None or self.events.wants(PredictionServed):
            fact = PredictionServed(
                at=self.clock.time(),
                source=self.name,
                prediction=prediction,
                features=request.features,
                key=None if request.key is None else str(request.key),
                arm="stable" if route is None else route.arm,
            )
            self.events.emit(fact)
            self._log.emit(fact)
        return prediction

    def _failed(self, request: _Request, error: Exception) -> Exception:
        if self.logger is not None or self.events.wants(PredictionFailed):
            route = request.route
            fact = PredictionFailed(
                at=self.clock.time(),
                source=self.name,
                request_id=request.id,
                features=request.features,
                error=error,
                latency_ms=(self.clock.monotonic() - request.began) * 1e3,
                version="" if route is None else route.version,
                key=None if request.key is None else str(request.key),
                arm="stable" if route is None else route.arm,
            )
            self.events.emit(fact)
            self._log.emit(fact)
        return error

    # -- building -----------------------------------------------------------------------

    def _serving(self, model: Any) -> "VersionedModelServer":
        from prodml.serving import VersionedModelServer

        if isinstance(model, VersionedModelServer):
            return model
        server = VersionedModelServer(name=self.name, clock=self.clock, events=Stream())
        server.load_model(self.version, model)
        server.set_default_version(self.version)
        return server

    def _rungs(self, fallback: Any) -> "FallbackChain[Any] | None":
        several: Any = () if fallback is None else fallback
        rungs: Sequence[Any] = several if isinstance(several, Sequence) else (several,)
        if not rungs and self.default is MISS:
            return None
        from prodml.resilience import FallbackChain, Rung

        if isinstance(fallback, FallbackChain):
            if self.default is not MISS:
                raise BadConfiguration("give the default to the FallbackChain, not to both")
            return fallback
        ladder = [r if isinstance(r, Rung) else Rung("fallback", r) for r in rungs]
        return FallbackChain(*ladder, default=self.default, name=self.name, clock=self.clock)

    def _breaker_of(self, version: str) -> Guard[Any]:
        if isinstance(self.breaker, Guard):
            return self.breaker
        guard = self._breakers.get(version)
        if guard is None:
            # Two threads may make one each; the first to be stored serves both.
            make = cast("Callable[[str], Guard[Any]]", self.breaker)
            guard = self._breakers.setdefault(version, make(version))
        return guard


def _distinct(missing: list[_Request], keys: Sequence[object]) -> list[list[_Request]]:
    """Requests whose features have the same name in the cache are asked for once."""
    if not keys:
        return [[request] for request in missing]
    groups: dict[object, list[_Request]] = {}
    for request in missing:
        groups.setdefault(request if request.name is None else request.name, []).append(request)
    return list(groups.values())


def _copied(value: Any) -> Any:
    """A twin's own copy of an answer that it might change; the same one if it has no copies."""
    try:
        return deepcopy(value)
    except Exception:
        return value


def _one_each(what: str, given: Sequence[Any] | None, rows: int) -> Sequence[Any]:
    if given is not None and len(given) != rows:
        raise ValueError(f"{len(given)} {what} for {rows} rows")
    return [None] * rows if given is None else given


def _row_by_row(route: Route, clock: Clock, rows: Any) -> Coroutine[Any, Any, Any]:
    return arun(route.batch_steps(rows), clock)


def _once(step: Invoke) -> Steps:
    return (yield step)


def _give_up(request: _Request, error: Exception) -> None:
    request.errors = (*request.errors, error)
    request.source = "failed"
