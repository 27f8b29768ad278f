"""The stream that carries facts from those who state them to those who listen."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from prodml.events.fact import Event

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["EVENTS", "Handler", "Stream", "Unsubscribe"]

E = TypeVar("E", bound=Event)
Handler: TypeAlias = Callable[[Any], None]
Unsubscribe: TypeAlias = Callable[[], None]


class Stream:
    """Carries facts from those who state them to those who listen.

    Safe for any number of threads.  Subscribing to a class hears its subclasses too, so
    subscribing to :class:`Event` hears everything.

    Examples
    --------
    >>> from prodml.events import CircuitClosed, CircuitOpened
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
            _log().exception("listener %r failed (%d failures so far)", handler, count)


def _log() -> "Logger":
    # Nobody pays for logging before a listener has failed.
    from logging import getLogger

    return getLogger("prodml.events")


EVENTS: Stream = Stream()
"""The process-wide stream that components use unless told otherwise."""
