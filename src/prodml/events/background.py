"""A thread of its own for a handler that is slow."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from prodml.errors import BadConfiguration
from prodml.events.fact import Event
from prodml.events.stream import Handler

__all__ = ["Background"]

_LOG = logging.getLogger("prodml.events")


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
    >>> from prodml.events import CircuitHalfOpened
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
