"""What a batcher may stand in front of, and how rows go in and answers come out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast, final

from prodml._call import Kind, kind_of
from prodml._call.kinds import refuse_coroutine
from prodml.errors import BadConfiguration, UnknownVersion
from prodml.serving.slot import Key

__all__ = ["BatchRoute", "OneModel", "Router", "Stack", "listed", "router_of", "rows_of", "stacker"]

# What can be iterated, but not row by row.
_COLUMNS: Final = (str, bytes, Mapping)

Stack: TypeAlias = Callable[[list[Any]], Any] | bool
"""How the rows of a batch become what the model takes; True makes one array of them."""


class BatchRoute(Protocol):
    """One version that answers; a :class:`~prodml.serving.Route` is one."""

    @property
    def version(self) -> str:
        """Who answers."""
        ...

    @property
    def arm(self) -> str:
        """Why."""
        ...

    def predict_batch(self, rows: Any, /) -> Any:
        """Answers for rows."""
        ...

    def release(self) -> None:
        """Count the request out."""
        ...


class Router(Protocol):
    """What decides who answers; a :class:`~prodml.serving.VersionedModelServer` is one."""

    def resolve(
        self,
        version: str | None = None,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> BatchRoute:
        """Route of a request, which is counted in."""
        ...


@final
class OneModel:
    """A function of rows, as a router with a single route.

    Examples
    --------
    >>> OneModel("double", lambda rows: [2 * row for row in rows]).resolve().predict_batch([1, 2])
    [2, 4]
    """

    __slots__: tuple[str, ...] = ("_ask", "arm", "name", "version")

    def __init__(self, name: str, ask: Callable[[Any], Any]) -> None:
        self.name: str = name
        self.version: str = ""
        self.arm: str = "stable"
        self._ask: Callable[[Any], Any] = ask

    def resolve(
        self,
        version: str | None = None,
        key: Key | None = None,  # noqa: ARG002
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> BatchRoute:
        """Find the only one there is, which has no version."""
        if version is not None:
            raise UnknownVersion(self.name, version)
        return self

    def predict_batch(self, rows: Any, /) -> Any:
        """Answers for rows."""
        return self._ask(rows)

    def release(self) -> None:
        """Count nothing."""


def router_of(model: Any, name: str, *, stacked: bool) -> Router:
    """Find out once how ``model`` answers many rows.

    Examples
    --------
    >>> router_of(lambda rows: rows, "same", stacked=False).resolve().version
    ''
    """
    if isinstance(model, type):
        raise BadConfiguration(f"model must be an object or a function, not the class {model!r}")
    if callable(getattr(model, "resolve", None)):
        return model  # type: ignore[no-any-return]
    ask: Any = getattr(model, "predict_batch", None)
    if ask is None and hasattr(model, "predict"):
        if not stacked:
            raise BadConfiguration(
                f"{type(model).__name__} has predict but no predict_batch: say how rows become "
                "what it takes, by stack=True (one array, as scikit-learn wants) or "
                "stack=pandas.DataFrame, or pass a function of a list of rows"
            )
        ask = model.predict
    ask = model if ask is None else ask
    if not callable(ask):
        raise BadConfiguration(f"model must be a function or have predict_batch, not {model!r}")
    if kind_of(ask) is not Kind.PLAIN:
        raise BadConfiguration(f"model must be a plain function of rows; {ask!r} is not")
    return OneModel(name, ask)


def stacker(stack: Stack | None) -> Callable[[list[Any]], Any] | None:
    """Check ``stack`` and make a function of it, or None if rows stay a list.

    Examples
    --------
    >>> stacker(True)([[1, 2.5], [3, 4]]).shape
    (2, 2)
    """
    if stack is None or stack is False:
        return None
    if stack is True:
        return _as_array
    if not callable(stack):
        raise BadConfiguration(f"stack must be True or a function of a list, not {stack!r}")
    return stack


def _as_array(rows: list[Any]) -> Any:
    import numpy as np

    stacked = np.asarray(rows)
    # One row of text would turn the numbers of all others into text.
    return np.asarray(rows, dtype=object) if stacked.dtype.kind in "US" else stacked


def listed(told: Any) -> list[Any] | None:
    """Answers as a list, one a row; None if that is not what they are.

    A mapping, a text or a frame can be iterated, but not row by row.

    Examples
    --------
    >>> listed((1, 2)), listed({"a": 1}), listed("ab")
    ([1, 2], None, None)
    """
    kind = type(told)
    if kind is list:
        return cast("list[Any]", told)
    # By name, because numpy may not be there; most models answer so.
    if kind.__name__ == "ndarray":
        return list(told) if told.shape else None
    refuse_coroutine(told)
    if isinstance(told, str | bytes | Mapping | set | frozenset) or hasattr(told, "columns"):
        return None
    return list(told) if hasattr(told, "__iter__") and getattr(told, "shape", True) else None


def rows_of(rows: Any) -> Sequence[Any]:
    """Rows of one request as a list.

    Raises
    ------
    TypeError
        A frame or a mapping, whose items are columns.

    Examples
    --------
    >>> rows_of(range(3))
    [0, 1, 2]
    """
    if isinstance(rows, _COLUMNS) or hasattr(rows, "columns"):
        raise TypeError(
            f"rows must be a sequence of rows, not {type(rows).__name__}: pass a list or an array"
        )
    return list(rows)
