"""One circuit for many workers, without a word on the way of a call.

Each worker counts for itself and decides for itself; what it has found out it tells the
others through a store, on a thread of its own::

    store   prodml:circuit:NAME         the last transition that anybody made, with a revision
            prodml:circuit:NAME:trial   a lease: whose worker may make trial calls

A worker that opens writes it down, and the others open within ``sync_interval``.  When the
open time is over, workers that have calls waiting compete for the lease; the winner goes half
open, all others stay open.  What its trial calls find out is written down again.  The lease is
prolonged while trial calls come and go, so a worker that was killed, hangs or is idle loses it
by itself.

A store that does not answer is as good as none: each worker goes by its own breaker until it
answers again.
"""

import json
import math
import os
import threading
import weakref
from typing import Any, Final, Protocol

from prodml.clock import Clock
from prodml.errors import Conflict, LeaseLost
from prodml.resilience._era import Era
from prodml.resilience.circuit_state import CircuitSnapshot, CircuitState
from prodml.stores import Lease, SharedStore

__all__ = ["SharedCircuit"]

_PREFIX: Final = "prodml:circuit:"


class _Breaker(Protocol):
    """What of a breaker is shared."""

    name: str
    clock: Clock
    era: Era
    sync_interval: float

    @property
    def lease(self) -> float: ...

    @property
    def sharing(self) -> bool: ...

    def snapshot(self) -> CircuitSnapshot: ...

    def follow(
        self, state: CircuitState, open_seconds: float, reason: str, attempt: int = 0
    ) -> None: ...


class SharedCircuit:
    """What a :class:`CircuitBreaker` with a ``store`` says to the other workers, and hears.

    Parameters
    ----------
    breaker
        Whose state is shared, under its name.
    store
        Nothing is connected before the first call.

    Notes
    -----
    Clocks of hosts are never compared, but for one thing: a worker that meets an open
    circuit when it starts takes off the seconds since the opening, within zero and the open
    time.  A ``force_open``, ``disable`` or ``shadow`` concerns one process; ``reset`` closes
    the circuit of all.

    Examples
    --------
    >>> from prodml.resilience import CircuitBreaker
    >>> from prodml.stores import MemoryStore
    >>> store = MemoryStore()
    >>> here = CircuitBreaker("db", failure_threshold=1, store=store)
    >>> there = CircuitBreaker("db", failure_threshold=1, store=store)
    >>> try:
    ...     here.call(int, "x")
    ... except ValueError:
    ...     here.sync()
    >>> there.sync()
    >>> there.state.value, there.snapshot().reason
    ('open', '1 failures in a row, the last: ValueError')
    >>> here.unshare(), there.unshare()
    (None, None)
    """

    def __init__(self, breaker: _Breaker, store: SharedStore) -> None:
        self.started: bool = False
        self._breaker: weakref.ref[_Breaker] = weakref.ref(breaker)
        self._store: SharedStore = store
        self._key: str = _PREFIX + breaker.name
        self._owner: str = os.urandom(8).hex()
        self._revision: int = 0
        self._news: Era | None = None
        self._insists: bool = False
        self._reachable: bool = True
        self._closed: bool = False
        self._lease: Lease | None = None
        self._lease_ends: float = -math.inf
        self._tried: int = 0
        self._rejected: int = 0
        self._wanted: bool = False
        self._conflicts: int = 0
        self._afresh: bool = False
        # When the look that is under way began.
        self._asked: float = math.inf
        self._lock: threading.Lock = threading.Lock()
        self._turn: threading.Lock = threading.Lock()
        self._wake: threading.Event = threading.Event()
        _LINKS.add(self)

    # -- what the breaker asks and says, never waiting --------------------------------------

    @property
    def condition(self) -> str:
        """``"connected"`` or ``"cut off"``."""
        alone = not self._reachable or self._closed or self._hangs
        return "cut off" if alone else "connected"

    @property
    def _hangs(self) -> bool:
        """Whether the look that is under way takes too long: as good as no store."""
        breaker = self._breaker()
        if breaker is None:
            return False
        return breaker.clock.monotonic() - self._asked > 2.0 * breaker.sync_interval

    @property
    def may_try(self) -> bool:
        """Whether this worker may make trial calls: it has the lease, or nobody to ask."""
        breaker = self._breaker()
        if breaker is None or not self._reachable or self._closed or self._hangs:
            return True
        return breaker.clock.monotonic() < self._lease_ends

    def start(self) -> None:
        """Begin to listen, on a daemon thread."""
        if self.started:
            return
        with self._lock:
            if self.started:
                return
            self.started = True
        try:
            threading.Thread(target=self._work, name="prodml-shared-circuit", daemon=True).start()
        except RuntimeError:
            # No more threads are to be had: alone, until the next change of state.
            self.started = self._reachable = False

    def tell(self, era: Era, *, insists: bool = False) -> None:
        """Have the others told that ``era`` has begun."""
        breaker = self._breaker()
        if breaker is None or era.state is CircuitState.HALF_OPEN:
            return
        present = breaker.era
        if present is era or present.state is CircuitState.HALF_OPEN:
            # Else it is over already: who ended it tells what came after.
            self._news, self._insists = era, insists
            self._wake.set()

    def _record(self, breaker: _Breaker, era: Era) -> bytes:
        # When it is written, not when it happened: the store may have been away meanwhile.
        now = breaker.clock.monotonic()
        left = max(0.0, era.until - now) if era.state is CircuitState.OPEN else 0.0
        record = {
            "state": era.state.value,
            "seconds": left,
            "at": breaker.clock.time(),
            "reason": era.reason,
            "attempt": breaker.snapshot().attempt,
        }
        return json.dumps(record).encode()

    def want(self) -> None:
        """Say that a call was rejected which might have been a trial."""
        # It does not wake the thread: many calls a second must not be many commands a second.
        self._wanted = True

    def hear(self) -> None:
        """Follow what the store says, as a worker that has just started."""
        self._afresh = True
        self._wake.set()

    def close(self) -> None:
        """Stop listening and give the lease back."""
        self._closed = True
        self._wake.set()
        with self._turn:
            lease, self._lease = self._lease, None
            if lease is not None:
                self._try(lambda: self._store.release(lease))

    # -- the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed:
            breaker = self._breaker()
            if breaker is None:
                return
            self.sync()
            pause = self._pause(breaker)
            # A breaker that nobody uses any more must not live on in this frame.
            del breaker
            self._wake.wait(pause)
            self._wake.clear()

    def _pause(self, breaker: _Breaker) -> float:
        left = breaker.era.until - breaker.clock.monotonic()
        waits = breaker.era.state is CircuitState.OPEN and left > 0.0
        return min(breaker.sync_interval, left) if waits else breaker.sync_interval

    def sync(self) -> None:
        """Hear what the others have found out, tell them what is new, compete for the lease."""
        breaker = self._breaker()
        if breaker is not None and breaker.sharing and not self._closed:
            with self._turn:
                self._asked = breaker.clock.monotonic()
                self._reachable = self._try(lambda: self._exchange(breaker))
                self._asked = math.inf

    def _try(self, work: Any) -> bool:
        try:
            work()
        except Conflict:
            # Somebody was faster, which is heard at once; but not again and again.
            self._conflicts += 1
            if self._conflicts == 1:
                self._wake.set()
        except Exception:
            # Whatever is wrong with the store: the breaker goes on alone.
            self._lease, self._lease_ends = None, -math.inf
            return False
        else:
            self._conflicts = 0
        return True

    def _exchange(self, breaker: _Breaker) -> None:
        value, revision = self._store.read(self._key)
        if self._afresh:
            self._afresh, self._revision, self._news = False, 0, None
        heard = _decoded(value) if revision != self._revision else None
        news = self._news
        if value is None and news is None and breaker.era.state is not CircuitState.CLOSED:
            # The store has lost its memory; the worker that was open has not.
            self.tell(breaker.era)
            news = self._news
        opened = heard is not None and heard["state"] == CircuitState.OPEN.value
        if heard is not None and (news is None or (opened and not self._insists)):
            self._drop(news)
            self._follow(breaker, heard)
        elif news is not None:
            revision = self._store.commit(self._key, self._record(breaker, news), revision)
            self._drop(news)
        self._revision = revision
        self._hold(breaker)

    def _drop(self, news: Era | None) -> None:
        # What was told in the meantime stays.
        if self._news is news:
            self._news = None

    def _follow(self, breaker: _Breaker, heard: dict[str, Any]) -> None:
        seconds = float(heard["seconds"])
        age = breaker.clock.time() - float(heard["at"]) if self._revision == 0 else 0.0
        left = min(seconds, max(0.0, seconds - age))
        breaker.follow(CircuitState(heard["state"]), left, heard["reason"], heard["attempt"])

    # -- the lease of the trial calls ---------------------------------------------------------

    def _hold(self, breaker: _Breaker) -> None:
        era, now = breaker.era, breaker.clock.monotonic()
        rejected = breaker.snapshot().rejected
        busy, self._rejected = self._wanted or rejected != self._rejected, rejected
        self._wanted = False
        if era.state is CircuitState.HALF_OPEN:
            self._keep(breaker, era, now)
        elif era.state is CircuitState.OPEN and now >= era.until:
            # Workers that have calls waiting go first.
            grace = 0.0 if busy else 2.0 * breaker.sync_interval
            if now >= self._lease_ends and now >= era.until + grace:
                self._take(breaker, now)
        elif self._lease is not None:
            lease, self._lease, self._lease_ends = self._lease, None, -math.inf
            self._store.release(lease)

    def _take(self, breaker: _Breaker, now: float) -> None:
        lease = self._store.acquire(f"{self._key}:trial", self._owner, _ttl(breaker))
        if lease is not None:
            self._lease, self._tried = lease, 0
            # From before the question was asked: it must not last longer here than there.
            self._lease_ends = now + _ttl(breaker)

    def _keep(self, breaker: _Breaker, era: Era, now: float) -> None:
        if self._lease is None:
            # Half open since the time without a store.
            self._take(breaker, now)
        elif era.tried != self._tried:
            self._tried = era.tried
            try:
                self._lease = self._store.renew(self._lease, _ttl(breaker))
                self._lease_ends = now + _ttl(breaker)
            except LeaseLost:
                self._lease, self._lease_ends = None, -math.inf
        if now >= self._lease_ends:
            why = "another worker makes the trial calls"
            breaker.follow(CircuitState.OPEN, 0.0, why, breaker.snapshot().attempt)

    # -- fork -------------------------------------------------------------------------------

    def forget(self) -> None:
        """Start afresh in a forked child, where the thread does not exist."""
        self.started = False
        self._owner = os.urandom(8).hex()
        self._lease, self._lease_ends = None, -math.inf
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._wake = threading.Event()
        breaker = self._breaker()
        if breaker is not None and breaker.era.state is CircuitState.CLOSED:
            breaker.era.admits = False


def _ttl(breaker: _Breaker) -> float:
    # It is prolonged at each look, so it has to last beyond the next one.
    return max(breaker.lease, 3.0 * breaker.sync_interval)


def _decoded(value: bytes | None) -> dict[str, Any] | None:
    """Record in ``value``, or None if it is not one: a foreign value must not open a circuit."""
    if value is None:
        return None
    try:
        record = json.loads(value)
        known = CircuitState(record["state"]) is not CircuitState.HALF_OPEN
        finite = math.isfinite(float(record["seconds"])) and math.isfinite(float(record["at"]))
        typed = isinstance(record["reason"], str) and isinstance(record["attempt"], int)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return record if known and finite and typed else None


_LINKS: "weakref.WeakSet[SharedCircuit]" = weakref.WeakSet()


def _forget_all() -> None:
    for link in list(_LINKS):
        link.forget()


os.register_at_fork(after_in_child=_forget_all)
