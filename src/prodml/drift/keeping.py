"""The state of a monitor in its store: a store that stalls must not hold up a check."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from prodml.stores import Store

__all__ = ["Keeper"]

_LOG = logging.getLogger("prodml.drift")


@dataclass(slots=True, eq=False, kw_only=True)
class Keeper:
    """Writes the newest state on a thread that lives while there is something to write.

    Parameters
    ----------
    store, key
        Where it is kept.
    state
        The state, as it is when it is written.
    patience
        Seconds that :meth:`save` waits for the write; one that takes longer goes on, and
        until it ends nobody waits for it again.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> store = MemoryStore()
    >>> Keeper(store=store, key="k", state=lambda: b"v").save()
    >>> store.get("k")
    b'v'
    """

    store: Store
    key: str
    state: Callable[[], bytes]
    patience: float = 1.0
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)
    _wanted: bool = field(default=False, init=False, repr=False)
    _overdue: bool = field(default=False, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def save(self) -> None:
        """Write the state as it is now, or soon; never raises."""
        with self._lock:
            self._wanted = True
            thread = self._thread
            if thread is None or not thread.is_alive():
                # One that a fork left behind is not alive either.
                thread = self._thread = _started(self._work)
            if self._overdue and thread is not None:
                return
        if thread is None:
            # An interpreter that is going down starts no threads.
            self._work()
            return
        thread.join(self.patience)
        with self._lock:
            if self._thread is thread and thread.is_alive():
                self._overdue = True
                _LOG.warning("%s: the store takes longer than %g s", self.key, self.patience)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread, self._overdue = None, False
                    return
                self._wanted = False
            try:
                self.store.set(self.key, self.state())
            except Exception:
                _LOG.exception("%s could not keep its state", self.key)


def _started(work: Callable[[], None]) -> threading.Thread | None:
    thread = threading.Thread(target=work, name="prodml-drift-state", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
