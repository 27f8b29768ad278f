"""One worker of a fleet: hears of records, applies them, says how it fares.

Whatever goes wrong with a store or a folder, the worker serves on by the last table it has; it
is tried again at the next poll.  All waiting is done by one daemon thread.  A request that
wants to know at once looks at a number in shared memory, and applies what it finds itself.
"""

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from prodml.clock import Clock
from prodml.errors import Conflict, UnknownVersion
from prodml.events import FleetCutOff, FleetReconnected, RoutingRefused, Stream
from prodml.serving.fleet_loads import Loads
from prodml.serving.fleet_memory import HostPlace
from prodml.serving.fleet_record import Member, Position, Record, reconciled
from prodml.serving.fleet_watch import Ears, Glance, Place
from prodml.serving.server import VersionedModelServer

__all__ = ["FleetWorker"]

_SHORTEST: Final = 0.05


class FleetWorker:
    """What a :class:`~prodml.serving.ServingFleet` does in one process.

    Parameters
    ----------
    server
        None in a process that gives commands only.
    truth
        Where the record is kept.
    host
        Memory of this host, which may be the truth itself.
    poll
        Seconds between two looks when nobody rings.
    loader
        See :class:`~prodml.serving.fleet_loads.Loads`.
    """

    def __init__(
        self,
        server: VersionedModelServer | None,
        truth: Place,
        host: HostPlace | None,
        *,
        name: str,
        worker: str,
        loader: Callable[[str], Any] | None,
        poll: float,
        clock: Clock,
        events: Stream,
    ) -> None:
        self.position: Position = Position()
        self.glance: Glance = Glance()
        self.connected: bool | None = None
        self.trouble: str = ""
        self.started: bool = False
        self.closed: bool = False
        self.poll: float = poll
        self.worker: str = worker
        self._given: str = worker
        self._server: VersionedModelServer | None = server
        self._truth: Place = truth
        self._host: HostPlace | None = host
        self._name: str = name
        self._clock: Clock = clock
        self._events: Stream = events
        self._own: dict[str, Any] | None = None
        self._stale: str = ""
        self._known: dict[str, tuple[bytes | None, Record | None]] = {}
        self._failed: int = 0
        # A circle would keep a fleet that nobody refers to any more, and its thread.
        wake = weakref.WeakMethod(self._wake)
        self._loads: Loads | None = server and Loads(server, loader, clock, lambda: _call(wake))
        self._thread: threading.Thread | None = None
        self._ears: Ears | None = None
        self._renew_locks()
        _WORKERS.add(self)

    def _renew_locks(self) -> None:
        self._starting: threading.Lock = threading.Lock()
        # One look at the truth at a time; never held while a request applies a table.
        self._turn: threading.Lock = threading.Lock()
        # Listeners to facts may come back here on the same thread.
        self._applying: threading.RLock = threading.RLock()
        self._beating: threading.Lock = threading.Lock()

    # -- for requests and commands ----------------------------------------------------------

    def catch_up(self) -> None:
        """Apply what the memory of this host has; never waits, never raises."""
        if self.closed:
            # The thread may have been looking about just then.
            self.glance.rest()
        elif not self.started:
            self._quietly(self._begin)
        elif self._applying.acquire(blocking=False):
            try:
                self._quietly(self._glimpse)
            finally:
                self._applying.release()

    def start(self) -> None:
        """Take part: look once, here and now, and from then on by a thread."""
        if self.closed:
            raise RuntimeError("this fleet is closed; make another one")
        self._begin(first=self.sync)

    def follow(self, record: Record) -> None:
        """Apply the record of a command given here, and tell the others."""
        self._hear(record)
        # It is true already: whoever is not told finds out at the next poll.
        self._quietly(self._offer)
        self._quietly(self._truth.nudge)
        self._quietly(self._beat)

    def sync(self) -> bool:
        """Hear, apply, tell and beat once; return whether the truth answered."""
        with self._turn:
            self.trouble = ""
            try:
                self._exchange()
            except Conflict:
                # Somebody else has told it meanwhile, which is heard soon.
                self._failed = 1
            except Exception as error:
                self._cut_off(error)
            else:
                self._answered()
            self._quietly(self._look_about)
        return bool(self.connected)

    def close(self) -> None:
        """Stop taking part, and say so."""
        self.closed = True
        self.glance.rest()
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)
        # A look that hangs in a store must not hang whoever closes.
        if self._server is not None and self.connected and self._turn.acquire(timeout=1.0):
            try:
                self._quietly(lambda: self._truth.leave(self.worker))
            finally:
                self._turn.release()
        for place in (self._truth, self._host):
            if place is not None:
                self._quietly(place.close)

    def member(self) -> Member:
        """What this worker says of itself."""
        position, server = self.position, self._server
        applied, heard = position.applied, position.heard
        cannot = position.cannot
        if server is not None and not position.due and self._own not in (None, server.routing()):
            cannot = "changed in this process alone"
        return Member(
            generation=applied.generation if applied else 0,
            heard=heard.generation if heard else 0,
            version=server.default_version if server else None,
            cannot=cannot,
            loading=position.loading,
            birth=applied.birth if applied else "",
        )

    # -- hearing and applying ---------------------------------------------------------------

    def _glimpse(self) -> None:
        """Hear what the memory of this host has: no call to the kernel, no lock of another."""
        host = self._host
        if host is None:
            return
        value, self.glance.seen = host.read()
        found, held = self._decoded(value, host), self.position.heard
        if found is None:
            return
        if held is not None:
            trusted = found.birth == held.birth
        elif host is not self._truth and self.connected:
            # What was left from earlier days counts only while the truth cannot be asked.
            trusted = found.birth != self._stale
        else:
            trusted = host is self._truth or self.connected is False
        if trusted:
            self._hear(found)

    def _exchange(self) -> None:
        value, revision = self._truth.read()
        found = self._decoded(value, self._truth)
        held = reconciled(self.position.heard, found)
        if held is not None and held != found:
            # The truth has forgotten, or was begun anew.
            self._truth.tell(held.encoded(), revision)
            self._quietly(self._truth.nudge)
        self._hear(held)
        self._quietly(self._offer)
        self._beat()

    def _decoded(self, value: bytes | None, place: Place) -> Record | None:
        # Most looks find what the last one has found.
        known = self._known.get(place.where)
        if known is not None and known[0] == value:
            return known[1]
        record = Record.decoded(value, place.where)
        self._known[place.where] = (value, record)
        return record

    def _hear(self, record: Record | None) -> None:
        with self._applying:
            self.position = self.position.hearing(record)
            heard = self.position.heard
            if self._server is not None and heard is not None and self.position.due:
                self._apply(self._server, heard)

    def _apply(self, server: VersionedModelServer, record: Record) -> None:
        try:
            server.apply_routing(record.table, reason=str(record.change))
        except UnknownVersion as error:
            assert self._loads is not None, "whoever has a server can load"
            self._refuse(record, *self._loads.lack(error.version))
        except Exception as error:
            self._refuse(record, f"{type(error).__name__}: {error}")
        else:
            self.position = self.position.applying(record)
            self._own = server.routing()

    def _refuse(self, record: Record, why: str, loading: bool = False) -> None:
        before, self.position = self.position, self.position.refusing(why, loading=loading)
        if why != before.cannot and not loading:
            at, generation = self._clock.time(), record.generation
            self._events.emit(
                RoutingRefused(at=at, source=self._name, generation=generation, reason=why)
            )

    def _offer(self) -> None:
        """Put what is held into the memory of this host."""
        host, held = self._host, self.position.heard
        if host is None or host is self._truth or held is None:
            return
        value, revision = host.read()
        found = self._decoded(value, host)
        foreign = found is not None and found.birth != held.birth
        if found is None or foreign or held.newer(found):
            host.commit(held.encoded(), revision)
            # Two fleets that were given one folder would else wake each other without end.
            if not foreign:
                host.nudge()

    def _beat(self) -> None:
        if self._server is not None and not self.closed:
            with self._beating:
                self._truth.beat(self.worker, self.member())

    # -- the thread -------------------------------------------------------------------------

    def turn(self, ears: Ears, rung: Sequence[int]) -> float:
        """After bells have ``rung``: look, and say how long to wait for the next ones."""
        before = self.position.heard
        if rung:
            # First of all, since every call to the kernel lets other threads go first.
            self.catch_up()
        ears.drain(rung)
        ears.attend(self.worker)
        self.sync()
        if not rung and self.position.heard is not before:
            # There was news and nobody rang: a connection may be dead without knowing it.  Look
            # again at once, since the old bell may have been rung while it was taken down.
            ears.attend(self.worker, anew=True)
            return 0.0
        again = _SHORTEST * 2.0 ** min(self._failed - 1, 20)
        return min(self.poll, again) if self._failed else self.poll

    def _begin(self, first: Callable[[], object] | None = None) -> None:
        # A request does not wait for another one, or for a start, that is at it.
        if not self._starting.acquire(blocking=first is not None):
            return
        try:
            if not self.started and not self.closed:
                self._follow(first)
        finally:
            self._starting.release()

    def _follow(self, first: Callable[[], object] | None) -> None:
        places = [place for place in (self._truth, self._host) if place is not None]
        ears = self._ears = Ears(places)
        if first is not None:
            # Listening already, so that nothing is missed; and known to be alive.
            ears.attend(self.worker)
            first()
        if self._host is None:
            self.glance.rest()
        args = (weakref.ref(self), ears)
        thread = threading.Thread(target=_work, args=args, name="prodml-fleet", daemon=True)
        self.started = True
        try:
            thread.start()
        except RuntimeError:
            # No more threads are to be had just now.
            self.started, self._ears = False, None
            ears.close()
            raise
        self._thread = thread

    def _wake(self) -> None:
        ears = self._ears
        if ears is not None:
            ears.wake()

    def _look_about(self) -> None:
        """Let requests look at the memory of this host as it is now."""
        if self._host is not None and not self.closed:
            if self.position.heard is None and self.connected:
                old = self._decoded(self._host.read()[0], self._host)
                self._stale = old.birth if old else ""
            self._glimpse()
            self.glance.word = self._host.word

    def _cut_off(self, error: Exception) -> None:
        self._failed += 1
        self.trouble = f"{type(error).__name__}: {error}"
        before, self.connected = self.connected, False
        if before is not False:
            at = self._clock.time()
            self._events.emit(FleetCutOff(at=at, source=self._name, reason=self.trouble))

    def _answered(self) -> None:
        self._failed = 0
        before, self.connected = self.connected, True
        if before is False:
            self._events.emit(FleetReconnected(at=self._clock.time(), source=self._name))

    def _quietly(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"

    # -- fork -------------------------------------------------------------------------------

    def forget(self) -> None:
        """Begin anew in a forked child, where the thread does not exist."""
        ears, self._ears, self._thread = self._ears, None, None
        if ears is not None:
            ears.abandon()
        self.started, self.connected, self._failed = False, None, 0
        self.worker = f"{self._given}-{os.getpid()}"
        self.glance.rest()
        if not self.closed:
            # So that the child's first look begins.
            self.glance.seen = -1
        self._renew_locks()
        for part in (self._truth, self._host, self._loads):
            if part is not None:
                part.forget()


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    called = method()
    if called is not None:
        called()


def _work(ref: "weakref.ref[FleetWorker]", ears: Ears) -> None:
    rung: Sequence[int] = ()
    while True:
        worker = ref()
        if worker is None or worker.closed:
            break
        pause = worker.turn(ears, rung)
        # A fleet that nobody refers to any more must not live on in this frame.
        del worker
        rung = ears.wait(pause)
    ears.close()


_WORKERS: "weakref.WeakSet[FleetWorker]" = weakref.WeakSet()


def _forget_all() -> None:
    for worker in list(_WORKERS):
        worker.forget()


os.register_at_fork(after_in_child=_forget_all)
