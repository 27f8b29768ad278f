"""Every fact of the house, and the stream that carries them.

A fact is something that has happened, named in the past tense.  Transitions are facts;
frequent things are counters, read on scrape.  The one exception is
:class:`PredictionServed` (with :class:`PredictionFailed` and :class:`ShadowScored`): ask
:meth:`Stream.wants` before building one.

Facts are slotted dataclasses that type checkers treat as frozen: freezing them at run
time would triple their price on the serving path.  Handlers run on the emitting thread;
one that raises is logged and cannot hurt the caller; a slow one belongs behind
:class:`Background`.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, TypeAlias, TypeVar, cast, dataclass_transform

from prodml.clock import utc
from prodml.errors import BadConfiguration
from prodml.types import Features, ModelRef, Prediction

__all__ = [
    "EVENTS",
    "AliasMoved",
    "Background",
    "CallRetried",
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitOpened",
    "DefaultVersionChanged",
    "DriftCleared",
    "DriftDetected",
    "Event",
    "FeatureSourceFailed",
    "FeatureSourceRecovered",
    "FleetCutOff",
    "FleetReconnected",
    "FollowingFailed",
    "GateFailed",
    "GatePassed",
    "IncidentOpened",
    "IncidentResolved",
    "LabelsArrived",
    "ModelLoaded",
    "ModelPromoted",
    "ModelRefused",
    "ModelRegistered",
    "ModelUnloaded",
    "PerformanceDropped",
    "PredictionDriftDetected",
    "PredictionFailed",
    "PredictionServed",
    "RecordsDropped",
    "RetrainingRequested",
    "RetrainingSuppressed",
    "RolledBack",
    "RolloutStarted",
    "RolloutStepped",
    "RoutingRefused",
    "ScheduleDue",
    "SettingsChanged",
    "ShadowScored",
    "Stream",
    "TrafficRouted",
    "TrainingFailed",
    "TrainingFinished",
    "TrainingStarted",
    "VersionQuarantined",
    "VersionsRetired",
]

_LOG = logging.getLogger("prodml.events")

C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def _fact(cls: C) -> C:
    return cast("C", dataclass(slots=True, kw_only=True)(cls))


@_fact
class Event:
    """Something that happened at ``at`` (seconds since the epoch, UTC) in component ``source``.

    Examples
    --------
    >>> Event(at=0.0, source="demo").when.isoformat()
    '1970-01-01T00:00:00+00:00'
    """

    level: ClassVar[str] = "info"

    at: float
    source: str

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)

    def to_dict(self) -> dict[str, Any]:
        """Shallow dictionary with the fact's name under ``"event"``."""
        return {"event": type(self).__name__} | {
            f.name: getattr(self, f.name) for f in fields(self)
        }


E = TypeVar("E", bound=Event)

# -- serving ----------------------------------------------------------------------------


@_fact
class PredictionServed(Event):
    """A request got its answer.  ``key`` is the entity that routing sticks to, if any."""

    level: ClassVar[str] = "debug"
    prediction: Prediction[Any]
    features: Features
    key: str | None = None
    arm: str = "stable"


@_fact
class PredictionFailed(Event):
    """A request got an error instead of an answer."""

    level: ClassVar[str] = "warning"
    request_id: str
    features: Any
    error: BaseException
    latency_ms: float
    version: str = ""
    key: str | None = None
    arm: str = "stable"


@_fact
class ShadowScored(Event):
    """A shadow version answered a copy of a request; ``error`` is set if it failed."""

    level: ClassVar[str] = "debug"
    request_id: str
    version: str
    value: Any
    stable_version: str
    stable_value: Any
    latency_ms: float
    error: BaseException | None = None


@_fact
class ModelLoaded(Event):
    """A version became routable."""

    version: str


@_fact
class ModelRefused(Event):
    """A version failed to load, to warm up or to pass its check; no request has seen it."""

    level: ClassVar[str] = "error"
    version: str
    reason: str


@_fact
class ModelUnloaded(Event):
    """A version was drained and let go; ``returned`` bytes of memory came back, if known."""

    version: str
    returned: int | None = None


@_fact
class DefaultVersionChanged(Event):
    """Requests without a version now go to ``new``."""

    old: str | None
    new: str
    reason: str


@_fact
class TrafficRouted(Event):
    """The split changed: share by canary version, shadow versions, and all of it in words."""

    canary: Mapping[str, float]
    shadow: tuple[str, ...]
    traffic: str = ""


@_fact
class RolledBack(Event):
    """A version was taken out of traffic and an earlier one put back."""

    level: ClassVar[str] = "error"
    old: str
    new: str
    reason: str


@_fact
class VersionQuarantined(Event):
    """``version`` may not serve again until somebody releases it."""

    level: ClassVar[str] = "error"
    version: str
    reason: str


@_fact
class FleetCutOff(Event):
    """A worker cannot reach the place of its fleet's table, and serves on by the last one."""

    level: ClassVar[str] = "warning"
    reason: str


@_fact
class FleetReconnected(Event):
    """A worker can reach the place of its fleet's table again."""


@_fact
class RoutingRefused(Event):
    """A worker cannot serve by its fleet's table of ``generation``, and stays with its own."""

    level: ClassVar[str] = "error"
    generation: int
    reason: str


@_fact
class FeatureSourceFailed(Event):
    """The source of feature view ``view`` began to fail; defaults stand in."""

    level: ClassVar[str] = "warning"
    view: str
    reason: str


@_fact
class FeatureSourceRecovered(Event):
    """The source of feature view ``view`` answered again after ``failures`` failed calls."""

    view: str
    failures: int


# -- resilience -------------------------------------------------------------------------


@_fact
class CircuitOpened(Event):
    """The breaker rejects calls for ``retry_after`` seconds."""

    level: ClassVar[str] = "error"
    reason: str
    retry_after: float


@_fact
class CircuitHalfOpened(Event):
    """The breaker admits trial calls."""


@_fact
class CircuitClosed(Event):
    """The breaker admits every call again."""

    reason: str


@_fact
class CallRetried(Event):
    """Attempt ``attempt`` failed; the next follows in ``wait`` seconds."""

    level: ClassVar[str] = "warning"
    attempt: int
    wait: float
    error: BaseException | None


# -- registry, records ------------------------------------------------------------------


@_fact
class ModelRegistered(Event):
    """A model version entered the registry."""

    ref: ModelRef


@_fact
class AliasMoved(Event):
    """Alias ``alias`` of model ``name`` now points to ``new``, or to nothing."""

    name: str
    alias: str
    old: str | None
    new: str | None


@_fact
class VersionsRetired(Event):
    """Retention has removed the bytes of ``versions`` (``"churn@3"``)."""

    versions: tuple[str, ...]


@_fact
class FollowingFailed(Event):
    """A server stays where it is: it could not follow ``alias`` of ``model`` to ``version``.

    ``version`` is empty when the registry could not be asked.
    """

    level: ClassVar[str] = "error"
    model: str
    alias: str
    version: str
    reason: str


@_fact
class RecordsDropped(Event):
    """``count`` records were not written: ``reason``."""

    level: ClassVar[str] = "error"
    count: int
    reason: str


@_fact
class LabelsArrived(Event):
    """``count`` late labels joined their predictions; ``total`` so far."""

    count: int
    total: int


# -- watching ---------------------------------------------------------------------------


@_fact
class DriftDetected(Event):
    """Features moved by more than their floor: effect by feature."""

    level: ClassVar[str] = "warning"
    score: float
    effects: Mapping[str, float]
    reason: str


@_fact
class DriftCleared(Event):
    """No feature is beyond its floor any more; ``features`` are those that were."""

    features: tuple[str, ...] = ()


@_fact
class PredictionDriftDetected(Event):
    """The distribution of predictions moved by ``shift`` reference standard deviations."""

    level: ClassVar[str] = "warning"
    shift: float
    threshold: float
    reason: str


@_fact
class PerformanceDropped(Event):
    """``metric`` fell from ``reference`` to ``current``."""

    level: ClassVar[str] = "warning"
    metric: str
    reference: float
    current: float


# -- deciding ---------------------------------------------------------------------------


@_fact
class ScheduleDue(Event):
    """The calendar asks for a training."""

    due: float


@_fact
class RetrainingRequested(Event):
    """A trigger fired and nothing suppressed it."""

    model: str
    trigger: str
    reason: str
    evidence: Mapping[str, Any]
    job: str


@_fact
class RetrainingSuppressed(Event):
    """A trigger fired but was held back, so that silence is never a riddle."""

    model: str
    trigger: str
    reason: str
    suppressed_by: str


@_fact
class TrainingStarted(Event):
    """Job ``job`` runs."""

    model: str
    job: str


@_fact
class TrainingFinished(Event):
    """Job ``job`` produced a challenger."""

    model: str
    job: str
    seconds: float


@_fact
class TrainingFailed(Event):
    """Job ``job`` ended without a model."""

    level: ClassVar[str] = "error"
    model: str
    job: str
    reason: str


@_fact
class GatePassed(Event):
    """The challenger may go on: ``metric`` of both on the same rows."""

    model: str
    job: str
    gate: str
    champion: float | None
    challenger: float
    reason: str


@_fact
class GateFailed(Event):
    """The challenger is refused: ``metric`` of both on the same rows."""

    level: ClassVar[str] = "warning"
    model: str
    job: str
    gate: str
    champion: float | None
    challenger: float
    reason: str


@_fact
class RolloutStarted(Event):
    """``version`` begins its way to promotion."""

    version: str
    stable: str


@_fact
class RolloutStepped(Event):
    """``version`` entered ``phase`` with ``share`` of the traffic, because of ``reason``."""

    version: str
    phase: str
    share: float
    reason: str


@_fact
class ModelPromoted(Event):
    """``version`` is the champion."""

    version: str
    previous: str | None


@_fact
class IncidentOpened(Event):
    """Somebody should look."""

    level: ClassVar[str] = "error"
    incident: str
    severity: str
    summary: str


@_fact
class IncidentResolved(Event):
    """It is over."""

    incident: str
    summary: str


# -- house ------------------------------------------------------------------------------


@_fact
class SettingsChanged(Event):
    """Settings of a running component changed: (old, new) by name."""

    level: ClassVar[str] = "warning"
    changes: Mapping[str, tuple[Any, Any]]


Handler: TypeAlias = Callable[[Any], None]
Unsubscribe: TypeAlias = Callable[[], None]


class Stream:
    """Carries facts from those who state them to those who listen.

    Safe for any number of threads.  Subscribing to a class hears its subclasses too, so
    subscribing to :class:`Event` hears everything.

    Examples
    --------
    >>> stream = Stream()
    >>> heard = []
    >>> unsubscribe = stream.subscribe(CircuitClosed, heard.append)
    >>> stream.emit(CircuitClosed(at=0.0, source="db", reason="2 trial calls succeeded"))
    >>> heard[0].source, stream.wants(CircuitOpened)
    ('db', False)
    >>> unsubscribe()
    >>> stream.wants(CircuitClosed)
    False
    """

    __slots__: tuple[str, ...] = ("_failures", "_handlers", "_lock", "_routes")

    def __init__(self) -> None:
        self._handlers: tuple[tuple[type[Event], Handler], ...] = ()
        self._routes: dict[type[Event], tuple[Handler, ...]] = {}
        self._lock: threading.Lock = threading.Lock()
        self._failures: int = 0

    @property
    def failures(self) -> int:
        """How often a handler raised."""
        return self._failures

    def subscribe(self, kind: type[E], handler: Callable[[E], None]) -> Unsubscribe:
        """Call ``handler`` with every fact of class ``kind``; return the way out."""
        entry = (kind, cast("Handler", handler))
        with self._lock:
            self._handlers = (*self._handlers, entry)
            self._routes = {}

        def unsubscribe() -> None:
            with self._lock:
                self._handlers = tuple(e for e in self._handlers if e is not entry)
                self._routes = {}

        return unsubscribe

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody listens to ``kind``: ask before building a frequent fact."""
        route = self._routes.get(kind)
        return bool(self._route(kind) if route is None else route)

    def emit(self, event: Event) -> None:
        """Hand ``event`` to everybody who listens; never raises what a handler raised."""
        route = self._routes.get(type(event))
        for handler in self._route(type(event)) if route is None else route:
            try:
                handler(event)
            except Exception:
                self._report(handler)

    def _route(self, kind: type[Event]) -> tuple[Handler, ...]:
        # Under the lock, or a route computed before a subscription could be stored after it.
        with self._lock:
            route = tuple(handler for wanted, handler in self._handlers if issubclass(kind, wanted))
            self._routes[kind] = route
            return route

    def _report(self, handler: Handler) -> None:
        with self._lock:
            self._failures += 1
            count = self._failures
        # A handler that fails on every prediction must not flood the log as well.
        if count & (count - 1) == 0:
            _LOG.exception("listener %r failed (%d failures so far)", handler, count)


class Background:
    """Run a slow handler on a thread of its own behind a bounded queue.

    Parameters
    ----------
    handler
        Called with one fact at a time, on one daemon thread that starts with the first fact.
    size
        Facts that may wait; when the queue is full new ones are dropped and counted.

    Examples
    --------
    >>> heard = []
    >>> background = Background(heard.append, size=10)
    >>> background(CircuitHalfOpened(at=0.0, source="db"))
    >>> background.close()
    >>> len(heard), background.dropped
    (1, 0)
    """

    __slots__: tuple[str, ...] = ("_closed", "_dropped", "_handler", "_lock", "_queue", "_thread")

    def __init__(self, handler: Callable[[Any], None], *, size: int = 10_000) -> None:
        if size < 1:
            raise BadConfiguration(f"size must be at least 1, not {size}")
        self._handler: Handler = handler
        self._queue: queue.Queue[Event | None] = queue.Queue(size + 1)
        self._lock: threading.Lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dropped: int = 0
        self._closed: bool = False

    @property
    def dropped(self) -> int:
        """Facts that found the queue full or the handler closed."""
        return self._dropped

    def __call__(self, event: Event) -> None:
        """Queue ``event``; never waits."""
        with self._lock:
            if self._closed or self._queue.qsize() >= self._queue.maxsize - 1:
                self._dropped += 1
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._queue.put_nowait(event)

    def close(self, timeout: float = 5.0) -> None:
        """Handle what waits, for at most ``timeout`` seconds, and stop."""
        with self._lock:
            already, self._closed = self._closed, True
            thread = self._thread
        if thread is not None and not already:
            # One place is kept free for this, so it never blocks.
            self._queue.put_nowait(None)
        if thread is not None:
            thread.join(timeout)

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._handler(event)
            except Exception:
                _LOG.exception("background listener %r failed", self._handler)


EVENTS: Stream = Stream()
"""The process-wide stream that components use unless told otherwise."""
