"""Versions come and go: tried before they are asked, drained before they are closed."""

import logging
import math
import os
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from prodml._call import Invoke, Kind, Pause, Steps, arun, kind_of, run
from prodml._deadline import CURRENT, restore
from prodml._workers import Workers
from prodml.errors import DrainTimeout, RejectedAnswer
from prodml.events import ModelLoaded, ModelRefused, ModelUnloaded
from prodml.serving.board import Board
from prodml.serving.golden import Golden
from prodml.serving.memory import watch
from prodml.serving.routing import Table
from prodml.serving.slot import Slot, method_of

__all__ = ["Check", "Loading", "Unloaded"]

_LOG = logging.getLogger("prodml.serving")
# The same thread again and again if it is free: what it allocated for a model that has gone,
# ``malloc`` gives to the next one that it loads, and to no other thread.
_LOADERS = Workers(max_idle=1)
os.register_at_fork(after_in_child=_LOADERS.forget)
# Both are made on a worker, where no task waits for them.
_TRIM_SECONDS = 600.0
_CLOSE_SECONDS = 600.0

Check: TypeAlias = Golden | Callable[[Any], object]
"""Golden rows, or a function of the model: false (other than None) or raising refuses it."""


@dataclass(frozen=True, slots=True)
class Unloaded:
    """How a version went.

    Parameters
    ----------
    version
        Which.
    waited
        Seconds until its last request had ended and it was closed.
    returned
        Bytes by which the process's memory shrank meanwhile, other work included; None where
        the system does not tell.
    held
        Whether somebody still refers to the model, so that its memory cannot go: a kept
        route, a kept traceback, a variable.

    Examples
    --------
    >>> Unloaded("v1", 0.0, 0, held=False).version
    'v1'
    """

    version: str
    waited: float
    returned: int | None
    held: bool


@dataclass(kw_only=True, slots=True, eq=False)
class Loading(Board):
    """The commands that load and unload.

    Examples
    --------
    >>> loading = Loading()
    >>> loading.load("v1", lambda: abs, warm_up=[-1]).result(timeout=10)
    'v1'
    >>> loading.unload_model("v1").held
    True
    """

    def load_model(
        self,
        version: str,
        model: Any,
        *,
        warm_up: Iterable[Any] = (),
        check: Check | None = None,
    ) -> None:
        """Make ``model`` routable as ``version``, after it has shown that it works.

        Parameters
        ----------
        warm_up
            Rows that the model answers before anybody else asks it.
        check
            Golden rows, or a function called with the model; a false result (other than None)
            or an exception refuses it.

        Raises
        ------
        GoldenMismatch
            Golden rows were answered otherwise.
        RejectedAnswer
            ``check`` said no.
        BadConfiguration
            The version is loaded or loading already, or the model cannot be asked.
        Exception
            Whatever ``warm_up`` or ``check`` raised.  In every case no request has seen the
            model, and the history has an entry.

        Examples
        --------
        >>> from prodml.serving import VersionedModelServer
        >>> server = VersionedModelServer()
        >>> server.load_model("v1", abs, warm_up=[0], check=lambda model: model(-2) == 3)
        Traceback (most recent call last):
        prodml.errors.RejectedAnswer: answer rejected: the check of version 'v1' failed
        >>> server.versions
        ()
        """
        run(_unhurried(self._load_steps(version, model, warm_up, check)), self.clock)

    def aload_model(
        self,
        version: str,
        model: Any,
        *,
        warm_up: Iterable[Any] = (),
        check: Check | None = None,
    ) -> Coroutine[Any, Any, None]:
        """:meth:`load_model`, awaited: an async model is warmed up in the caller's event loop."""
        return arun(_unhurried(self._load_steps(version, model, warm_up, check)), self.clock)

    def load(
        self,
        version: str,
        factory: Callable[[], Any],
        *,
        warm_up: Iterable[Any] = (),
        check: Check | None = None,
    ) -> "Future[str]":
        """Load behind everybody's back: make the model, warm it up, check it, let it be routed to.

        One step: until all of it has gone well no request can reach the version, and what
        serves goes on serving.  A model that is refused is closed and its memory handed back.

        Parameters
        ----------
        factory
            Makes the model, on a thread that does nothing else.  What reads and computes in C
            beside the interpreter lock disturbs nobody; long pure Python shares the lock with
            requests.
        warm_up, check
            As for :meth:`load_model`; an async model is asked in an event loop of the thread.

        Returns
        -------
        concurrent.futures.Future
            Settled with the version, or with what went wrong.  Cannot be cancelled.

        Raises
        ------
        BadConfiguration
            At once: the version is loaded or loading already.

        Examples
        --------
        >>> from prodml.serving import VersionedModelServer
        >>> server = VersionedModelServer()
        >>> loaded = server.load("v1", lambda: abs, warm_up=[-1], check=lambda f: f(-2) == 2)
        >>> server.set_default_version(loaded.result(timeout=10))
        """
        self._swap(lambda table: table.reserved(version))
        future: Future[str] = Future()
        future.set_running_or_notify_cancel()
        try:
            _LOADERS.submit(self._load_behind, (version, factory, warm_up, check, future), {})
        except BaseException:
            self._swap(lambda table: table.unreserved(version))
            raise
        return future

    def unload_model(self, version: str, timeout: float | None = 30.0) -> Unloaded:
        """Take ``version`` out, wait for its requests to end, close the model, free its memory.

        Parameters
        ----------
        timeout
            Seconds to wait for requests inside the model; None waits for ever.

        Returns
        -------
        Unloaded
            How long it took and what memory came back.

        Raises
        ------
        BadConfiguration
            It has a part in traffic; nothing has changed.
        UnknownVersion
            It is not loaded.
        DrainTimeout
            Requests are still inside.  The version is back and answers whoever names it; it
            was out of reach while this call waited.

        Notes
        -----
        The model's ``close`` is called, or its ``aclose`` awaited (in an event loop of a worker
        thread; :meth:`aunload_model` awaits it in the caller's).  A model that another version
        serves too stays open.  What ``close`` raises passes, after the version has gone.
        """
        gone: Unloaded = run(_unhurried(self._unload_steps(version, timeout)), self.clock)
        return gone

    def aunload_model(
        self, version: str, timeout: float | None = 30.0
    ) -> Coroutine[Any, Any, Unloaded]:
        """:meth:`unload_model`, awaited: the wait and an async ``close`` hold up nobody."""
        return arun(_unhurried(self._unload_steps(version, timeout)), self.clock)

    # -- coming -------------------------------------------------------------------------

    def _load_steps(self, version: str, model: Any, warm_up: Iterable[Any], check: Any) -> Steps:
        self._swap(lambda table: table.reserved(version, model))
        with self._arriving(version):
            slot = Slot.of(version, model)
            _, error = yield from _proof(slot, warm_up, check)
            if error is not None:
                raise error
            self._arrive(slot)
        self._tell_arrival(version)
        return None, None

    def _load_behind(
        self,
        version: str,
        factory: Callable[[], Any],
        warm_up: Iterable[Any],
        check: Any,
        future: "Future[str]",
    ) -> None:
        made: list[Any] = []
        # The thread has the context of whoever gave the command, but not his deadline.
        CURRENT.set(None)
        try:
            self._make(version, factory, warm_up, check, made)
            self._tell_arrival(version)
        except BaseException as error:
            # A traceback keeps what its frames have seen, and somebody may keep the future.
            traceback.clear_frames(error.__traceback__)
            self._discard(made)
            future.set_exception(error)
        else:
            future.set_result(version)

    def _make(
        self,
        version: str,
        factory: Callable[[], Any],
        warm_up: Iterable[Any],
        check: Any,
        made: list[Any],
    ) -> None:
        with self._arriving(version):
            made.append(factory())
            slot = Slot.of(version, made[0])
            walk = run if slot.synchronous else _in_own_loop
            walk(_proof(slot, warm_up, check))
            self._arrive(slot)
        # From here on it is the server's.
        made.clear()

    @contextmanager
    def _arriving(self, version: str) -> Generator[None]:
        """See to it that a version that does not arrive leaves nothing but an entry."""
        try:
            yield
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, GeneratorExit):
                reason = "abandoned: cancelled, interrupted, or async and not awaited"
            self._change(lambda table: table.unreserved(version), "refused", version, reason)
            at = self.clock.time()
            self.events.emit(ModelRefused(at=at, source=self.name, version=version, reason=reason))
            raise

    def _arrive(self, slot: Slot) -> None:
        self._change(lambda table: table.with_slot(slot), "loaded", slot.version)

    def _tell_arrival(self, version: str) -> None:
        """State that a version is loaded: whatever comes of that, it is."""
        self.events.emit(ModelLoaded(at=self.clock.time(), source=self.name, version=version))

    def _discard(self, made: list[Any]) -> None:
        """Close what a factory has made in vain."""
        if made:
            farewell = watch(made[0])
            try:
                run(_close_steps(made.pop()), self.clock)
            except BaseException:
                # Also one that is told to exit: somebody waits for the future.
                _LOG.exception("%s could not close a refused model", self.name)
            farewell.give_back()

    # -- going --------------------------------------------------------------------------

    def _unload_steps(self, version: str, timeout: float | None) -> Steps:
        began = self.clock.monotonic()
        farewell, error = yield from self._farewell_steps(version, timeout, began)
        if isinstance(error, DrainTimeout):
            return None, error
        waited, returned, held = self.clock.monotonic() - began, None, False
        if farewell is not None:
            told, _ = yield Invoke(farewell.give_back, timeout=_TRIM_SECONDS)
            returned, held = told or (None, False)
            self._tell_departure(version, returned)
        return Unloaded(version, waited, returned, held), error

    def _farewell_steps(self, version: str, timeout: float | None, began: float) -> Steps:
        """Drain and close; nothing may keep the model afterwards, so it is a frame of its own.

        The result is None for all but one of several callers.
        """
        while True:
            slot = self._swap(lambda table: table.without(version))[1].draining[version]
            try:
                idle = yield from self._idle_steps(slot, timeout, began)
            except BaseException:
                self._keep(slot, "nobody waits for its requests any more")
                raise
            if not idle:
                late = DrainTimeout(self.name, version, len(slot.busy), timeout or 0.0)
                self._keep(slot, str(late))
                return None, late
            old, new = self._change(partial(Table.drained, slot=slot), "unloaded", version)
            if old is not new:
                closed = None if _is_shared(slot, new) else slot.model
                del old, new
                farewell = watch(slot.model)
                try:
                    _, error = yield from _close_steps(closed)
                except BaseException:
                    # Interrupted in its close, it has gone all the same.
                    self._tell_departure(version, None)
                    raise
                return farewell, error
            # Somebody else has closed it, or has given up waiting and put it back.
            if new.slots.get(version) is not slot:
                return None, None

    def _tell_departure(self, version: str, returned: int | None) -> None:
        at = self.clock.time()
        self.events.emit(ModelUnloaded(at=at, source=self.name, version=version, returned=returned))

    def _keep(self, slot: Slot, reason: str) -> None:
        self._change(lambda table: table.kept(slot), "kept", slot.version, reason)

    def _idle_steps(self, slot: Slot, timeout: float | None, began: float) -> Any:
        pause = 0.0005
        # copy() takes the list's own lock in a free-threaded build; len() would not.
        while slot.busy.copy():
            left = math.inf if timeout is None else began + timeout - self.clock.monotonic()
            if left <= 0.0:
                return False
            yield Pause(min(pause, left))
            pause = min(pause * 2, 0.05)
        return True


def _unhurried(steps: Steps) -> Steps:
    """Walk without the deadline of the request that gave the command, if it was one."""
    reset = CURRENT.set(None)
    try:
        return (yield from steps)
    finally:
        restore(reset)


def _proof(slot: Slot, warm_up: Iterable[Any], check: Any) -> Steps:
    """Steps that find out whether a model may be asked."""
    for row in warm_up:
        _, error = yield Invoke(slot.predict, (row,), acall=slot.apredict)
        if error is not None:
            return None, error
    if isinstance(check, Golden):
        answers, error = yield from slot.batch_steps(check.rows)
        if error is None:
            check.compare(answers)
        return None, error
    if check is None:
        return None, None
    verdict, error = yield Invoke(check, (slot.model,))
    if error is None and verdict is not None and not verdict:
        error = RejectedAnswer(f"the check of version {slot.version!r} failed", verdict)
    return None, error


def _is_shared(slot: Slot, table: Table) -> bool:
    """Whether another version serves the same model, or is about to."""
    others = [other.model for other in (*table.slots.values(), *table.draining.values())]
    return any(model is slot.model for model in (*others, *table.loading.values()))


def _close_steps(model: Any) -> Steps:
    close, aclose = method_of(model, "close"), method_of(model, "aclose")
    if close is not None and kind_of(close) is Kind.COROUTINE:
        close, aclose = None, close
    if close is not None:
        return (yield Invoke(close, acall=aclose))
    if aclose is not None:
        # With a time limit it runs on a worker, where no loop is running yet.
        alone = partial(_in_own_loop, _awaited(aclose))
        return (yield Invoke(alone, acall=aclose, timeout=_CLOSE_SECONDS))
    return None, None


def _awaited(call: Callable[[], Any]) -> Steps:
    return (yield Invoke(call))


def _in_own_loop(steps: Steps) -> Any:
    """Walk in an event loop that lives just as long."""
    import asyncio

    return asyncio.run(arun(steps))
