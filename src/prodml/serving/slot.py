"""A loaded version, and the routes that lead to it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from prodml._call import Invoke, Kind, Steps, kind_of
from prodml._call.kinds import AsyncInSync
from prodml.errors import BadConfiguration
from prodml.serving.onnx import adapted

__all__ = ["ARMS", "Arm", "Key", "Route", "Slot", "method_of", "require_version"]

Arm: TypeAlias = str
"""Why a version answers: ``"stable"`` (it is the default), ``"canary"``, ``"pinned"`` (asked for
by name), ``"override"`` (by a header), or the name of a variant or of a cohort."""

ARMS: frozenset[str] = frozenset({"stable", "canary", "pinned", "override"})

Key: TypeAlias = str | bytes | int
"""What routing sticks to: a user, a session, an entity.  ``5`` and ``"5"`` are the same."""


def require_version(version: object) -> None:
    """Refuse what is no name of a version."""
    # None would read as "the default", and 3 would never equal the "3" of a header.
    if not isinstance(version, str) or not version:
        raise BadConfiguration(f"version must be a non-empty string, not {version!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A loaded version: its model, how to ask it, and a mark per request inside it."""

    version: str
    model: Any
    predict: Callable[[Any], Any]
    apredict: Callable[[Any], Awaitable[Any]] | None
    batch: Callable[[Any], Any] | None = None
    abatch: Callable[[Any], Awaitable[Any]] | None = None
    synchronous: bool = True
    busy: list[None] = field(default_factory=list[None])

    @classmethod
    def of(cls, version: str, model: Any) -> "Slot":
        """Find out once how ``model`` answers: by ``predict``, by being called, or in batches.

        Examples
        --------
        >>> Slot.of("v1", abs).predict(-1)
        1
        """
        require_version(version)
        model = adapted(model)
        batch, abatch = _colours(
            method_of(model, "predict_batch"), method_of(model, "apredict_batch")
        )
        single = model if batch is None or callable(model) else partial(_single, batch)
        predict: Any = getattr(model, "predict", single)
        if isinstance(model, type) or not callable(predict):
            raise BadConfiguration(
                f"model of version {version!r} must have a predict method or be callable; "
                f"{model!r} is not (pass an instance, not a class)"
            )
        plain, awaited = _colours(predict, method_of(model, "apredict"))
        refuse = partial(_refuse, version)
        return cls(version, model, plain or refuse, awaited, batch, abatch, plain is not None)

    def batch_steps(self, rows: Any) -> Steps:
        """Steps to the answers for ``rows``, in order; see :meth:`Route.predict_batch`."""
        if self.batch is not None or self.abatch is not None:
            return (yield Invoke(self.predict_batch, (rows,), acall=self.abatch))
        if self.apredict is None:
            return (yield Invoke(self.predict_batch, (rows,)))
        if hasattr(rows, "shape"):
            return (yield Invoke(self.predict, (rows,), acall=self.apredict))
        answers: list[Any] = []
        for row in rows:
            answer, error = yield Invoke(self.predict, (row,), acall=self.apredict)
            if error is not None:
                return None, error
            answers.append(answer)
        return answers, None

    def predict_batch(self, rows: Any) -> Any:
        """Answers for ``rows``, in order; see :meth:`Route.predict_batch`."""
        if self.batch is not None:
            return self.batch(rows)
        if hasattr(rows, "shape"):
            return self.predict(rows)
        return [self.predict(row) for row in rows]


def method_of(model: Any, name: str) -> Any:
    """Method ``name`` of ``model``, or None; a model of prices may have a ``close`` of 3.5."""
    found = getattr(model, name, None)
    return found if callable(found) else None


def _colours(plain: Any, awaited: Any) -> tuple[Any, Any]:
    """Sort a plain and an awaited way out: an ``async def`` may stand in the plain one's place."""
    if plain is not None and kind_of(plain) is Kind.COROUTINE:
        return None, plain if awaited is None else awaited
    return plain, awaited


def _single(batch: Any, row: Any) -> Any:
    """Answer one row by a model that knows only batches."""
    return batch([row])[0]


def _refuse(version: str, features: Any) -> Any:  # noqa: ARG001
    raise AsyncInSync(f"the model of version {version!r} is async: use apredict")


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One decision of the table: ``version`` answers as ``arm``.

    Obtained from ``server.resolve``, which has counted the request in; give it back with
    :meth:`release` exactly once, in a ``finally``.  The object is shared by all requests
    with the same decision and stays valid for reading (``version``, ``arm``) after the
    release; ``model`` and the calls are safe only before it.

    Examples
    --------
    >>> route = Route.to(Slot.of("v1", abs), "stable")
    >>> route.version, route.arm, route.predict(-1), route.predict_batch([-1, 2])
    ('v1', 'stable', 1, [1, 2])
    """

    arm: Arm
    version: str
    predict: Callable[[Any], Any]
    apredict: Callable[[Any], Awaitable[Any]] | None
    busy: list[None]
    slot: Slot

    @classmethod
    def to(cls, slot: Slot, arm: Arm) -> "Route":
        """Route of ``arm`` to the version in ``slot``."""
        return cls(arm, slot.version, slot.predict, slot.apredict, slot.busy, slot)

    @property
    def model(self) -> Any:
        """The model itself, for any of its methods."""
        return self.slot.model

    def predict_batch(self, rows: Any) -> Any:
        """Answers for ``rows``, in order.

        By the model's ``predict_batch`` if it has one; an array or frame (anything with a
        ``shape``) goes to ``predict`` whole, as scikit-learn means it; any other sequence
        is answered row by row.
        """
        return self.slot.predict_batch(rows)

    def batch_steps(self, rows: Any) -> Steps:
        """Steps to the same answers, for a flow; an awaiting shell prefers ``apredict_batch``."""
        return self.slot.batch_steps(rows)

    def release(self) -> None:
        """Count the request out; exactly once per ``resolve``."""
        self.busy.pop()
