"""Shells written out by hand, because while all is well there is next to nothing to do.

A :class:`CalmGuard` says what a healthy call has to do in its ``era``, which the shell reads
with one attribute: the difference to a guard whose methods are called is the larger part of
the price of a closed breaker.  A :class:`Recovery` does nothing at all until a call fails, so
several of them and one calm guard make a single wrapper.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import CoroutineType
from typing import Any, Generic, Protocol, TypeVar, cast

from prodml._call.flow import FLOW_SHELLS, Flow
from prodml._call.guard import GUARD_SHELLS, Guard
from prodml._call.kinds import AsyncInSync, Kind, kind_of, refuse_coroutine
from prodml._call.steps import Invoke, Outcome, Steps
from prodml._call.walk import arun, run
from prodml._deadline import USED, expired

__all__ = ["CalmGuard", "Era", "Recovery", "fused"]

TokenT = TypeVar("TokenT")
_Fn = Callable[..., Any]


class Era(Protocol):
    """What a calm guard asks of a call for the time being.

    ``admits`` says that the era itself is the call's token.  ``start`` reads a clock when
    durations matter.  ``quiet`` says that a success is nothing to be told; otherwise
    ``note(began)`` tells it in short, and where that is None the guard wants to hear all.
    """

    admits: bool
    quiet: bool
    start: Callable[[], float] | None
    note: Callable[[float], object] | None


class CalmGuard(Guard[TokenT], Generic[TokenT]):
    """A guard that has next to nothing to do while all is well.

    Subclasses keep their present :class:`Era` in ``era`` and make the token of a call
    that the era admitted at ``began`` by :meth:`token_of`.
    """

    __slots__: tuple[str, ...] = ()

    era: Any

    def token_of(self, era: Any, began: float) -> TokenT:
        """Token of a call that ``era`` admitted at ``began``."""
        raise NotImplementedError

    @property
    def _shells(self) -> "Mapping[Kind, Callable[[Guard[Any], _Fn], _Fn]]":
        return _CALM_SHELLS


def _calm_plain(guard: Guard[Any], fn: _Fn) -> _Fn:
    calm = cast("CalmGuard[Any]", guard)

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        era = calm.era
        if era.admits:
            token, start = None, era.start
            began = 0.0 if start is None else start()
        else:
            began, token = 0.0, calm.enter()
        try:
            result = fn(*args, **kwargs)
            if type(result) is CoroutineType:
                refuse_coroutine(result)
        except BaseException as error:
            calm.fail(token or calm.token_of(era, began), error)
            raise
        if token is not None:
            calm.leave(token, result)
        elif not era.quiet:
            note = era.note
            if note is None:
                calm.leave(calm.token_of(era, began), result)
            else:
                note(began)
        return result

    return guarded


def _calm_coroutine(guard: Guard[Any], fn: _Fn) -> _Fn:
    calm = cast("CalmGuard[Any]", guard)

    @functools.wraps(fn)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        era = calm.era
        if era.admits:
            token, start = None, era.start
            began = 0.0 if start is None else start()
        else:
            began, token = 0.0, calm.enter()
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            calm.fail(token or calm.token_of(era, began), error)
            raise
        if token is not None:
            calm.leave(token, result)
        elif not era.quiet:
            note = era.note
            if note is None:
                calm.leave(calm.token_of(era, began), result)
            else:
                note(began)
        return result

    return guarded


_CALM_SHELLS: Mapping[Kind, Callable[[Guard[Any], _Fn], _Fn]] = {
    **GUARD_SHELLS,
    Kind.PLAIN: _calm_plain,
    Kind.COROUTINE: _calm_coroutine,
}


# -- what acts on failure only ------------------------------------------------------------


class Recovery(Flow):
    """A flow that lets a first attempt pass as it is and acts only when it has failed.

    Subclasses implement :meth:`recover`; one that has to be told of each call gives a
    function as ``paid``, one that has to look at each answer sets ``watchful``.
    """

    __slots__: tuple[str, ...] = ()

    def recover(self, call: Invoke, error: Exception) -> Steps:
        """Steps after ``call`` has failed with ``error`` for the first time."""
        raise NotImplementedError

    @property
    def paid(self) -> Callable[[], object] | None:
        """Called before each call, if there is one."""
        return None

    @property
    def watchful(self) -> bool:
        """Whether a success needs a look too, so that every call goes the long way."""
        return False

    def steps(self, fn: _Fn, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
        """Make the first attempt, and what follows from its failure."""
        paid = self.paid
        if paid is not None:
            paid()
        call = Invoke(fn, args, kwargs)
        result, error = yield call
        return (result, None) if error is None else (yield from self.recover(call, error))

    @property
    def _shells(self) -> "Mapping[Kind, Callable[[Flow, _Fn], _Fn]]":
        return FLOW_SHELLS if self.watchful else _RECOVERY_SHELLS


def _recovering_plain(flow: Flow, fn: _Fn) -> _Fn:
    return fused((cast("Recovery", flow),), None, fn)


_RECOVERY_SHELLS: Mapping[Kind, Callable[[Flow, _Fn], _Fn]] = {
    **FLOW_SHELLS,
    Kind.PLAIN: _recovering_plain,
    Kind.COROUTINE: _recovering_plain,
}


def fused(recoveries: Sequence[Recovery], guard: CalmGuard[Any] | None, fn: _Fn) -> _Fn:
    """One wrapper for ``recoveries``, outermost first, around ``guard`` around ``fn``.

    ``fn`` is plain or a coroutine function.  It behaves as the same decorators stacked one
    upon the other, and is their sum only when something has gone wrong.
    """
    parts = _Parts(recoveries, guard, fn)
    if kind_of(fn) is Kind.COROUTINE:
        return _fused_coroutine(parts, fn)
    return _recovering(parts, fn) if guard is None else _fused_plain(parts, guard, fn)


class _Parts:
    """The wrappers that a fused one stands for, to be used when something goes wrong."""

    __slots__: tuple[str, ...] = ("clock", "guarded", "layers", "paid", "whole")

    def __init__(
        self, recoveries: Sequence[Recovery], guard: CalmGuard[Any] | None, fn: _Fn
    ) -> None:
        # Innermost first: each with what it stands around.
        self.layers: list[tuple[Recovery, _Fn]] = []
        self.guarded: _Fn = fn if guard is None else guard(fn)
        inner = self.guarded
        for recovery in reversed(recoveries):
            self.layers.append((recovery, inner))
            inner = FLOW_SHELLS[kind_of(fn)](recovery, inner)
        self.whole: _Fn = inner
        self.clock = recoveries[0].clock
        payers = [recovery.paid for recovery in recoveries if recovery.paid is not None]
        self.paid: Callable[[], object] | None = _all(payers)

    def settle(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> Steps:
        """Steps of all recoveries after the first attempt has failed with ``error``."""
        outcome: Outcome = (None, error)
        for recovery, inner in self.layers:
            if outcome[1] is None:
                break
            try:
                outcome = yield from recovery.recover(Invoke(inner, args, kwargs), outcome[1])
            except Exception as broken:
                outcome = None, broken
        return outcome

    def told(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make the first attempt behind a guard that is not calm."""
        try:
            return self.guarded(*args, **kwargs)
        except Exception as error:
            failure = error
        try:
            return self.settled(args, kwargs, failure)
        finally:
            del failure

    def settled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> Any:
        """Walk through :meth:`settle` in this thread."""
        try:
            return run(self.settle(args, kwargs, error), self.clock)
        finally:
            del error


def _all(payers: Sequence[Callable[[], object]]) -> Callable[[], object] | None:
    if len(payers) < 2:
        return payers[0] if payers else None

    def paid() -> None:
        for payer in payers:
            payer()

    return paid


def _recovering(parts: _Parts, fn: _Fn) -> _Fn:
    whole, paid = parts.whole, parts.paid

    @functools.wraps(fn)
    def recovering(*args: Any, **kwargs: Any) -> Any:
        if USED and expired() is not None:
            # It is too late, which the long way says.
            return whole(*args, **kwargs)
        if paid is not None:
            paid()
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            failure = error
        else:
            if type(result) is CoroutineType:
                refuse_coroutine(result)
            return result
        try:
            return parts.settled(args, kwargs, failure)
        finally:
            # The traceback refers to this frame: error and frame would keep each other.
            del failure

    return recovering


def _fused_plain(parts: _Parts, calm: CalmGuard[Any], fn: _Fn) -> _Fn:  # noqa: C901 - one frame
    whole, paid = parts.whole, parts.paid

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if USED and expired() is not None:
            # It is too late, which the long way says.
            return whole(*args, **kwargs)
        if paid is not None:
            paid()
        era = calm.era
        if not era.admits:
            return parts.told(args, kwargs)
        start = era.start
        began = 0.0 if start is None else start()
        try:
            result = fn(*args, **kwargs)
            if type(result) is CoroutineType:
                refuse_coroutine(result)
        except BaseException as error:
            calm.fail(calm.token_of(era, began), error)
            if _passes(error):
                raise
            failure = cast("Exception", error)
        else:
            if not era.quiet:
                note = era.note
                if note is None:
                    calm.leave(calm.token_of(era, began), result)
                else:
                    note(began)
            return result
        try:
            return parts.settled(args, kwargs, failure)
        finally:
            # The traceback refers to this frame: error and frame would keep each other.
            del failure

    return guarded


def _passes(error: BaseException) -> bool:
    """Whether no recovery may answer it: the call was abandoned, or the program is wrong."""
    return not isinstance(error, Exception) or isinstance(error, AsyncInSync)


def _fused_coroutine(parts: _Parts, fn: _Fn) -> _Fn:
    whole, paid, guarded = parts.whole, parts.paid, parts.guarded

    @functools.wraps(fn)
    async def recovering(*args: Any, **kwargs: Any) -> Any:
        if USED and expired() is not None:
            return await whole(*args, **kwargs)
        if paid is not None:
            paid()
        try:
            return await guarded(*args, **kwargs)
        except Exception as error:
            failure = error
        try:
            return await arun(parts.settle(args, kwargs, failure), parts.clock)
        finally:
            del failure

    return recovering
