"""The words that rooms share: features, predictions, models, protocols."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from numbers import Real
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

__all__ = [
    "MISS",
    "BatchModel",
    "Closable",
    "DriftLevel",
    "FeatureSource",
    "Features",
    "Miss",
    "Model",
    "ModelRef",
    "Prediction",
    "RowCheck",
    "is_missing",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Features: TypeAlias = Mapping[str, Any]
"""One row: feature name to value."""


class Miss(Enum):
    """The type of :data:`MISS`, so that type checkers can narrow it away.

    Examples
    --------
    >>> bool(MISS), MISS is Miss.MISS
    (False, True)
    """

    MISS = "MISS"

    def __bool__(self) -> bool:
        return False


MISS: Final = Miss.MISS
"""Nothing is there.  ``None`` is a value, so absence needs a word of its own."""

_NEVER_MISSING: frozenset[type] = frozenset({bool, bytes, dict, int, list, set, str, tuple})
_NULLS: frozenset[str] = frozenset({"NAType", "NaTType", "Miss", "NoneType"})


def is_missing(value: object) -> bool:
    """Whether ``value`` stands for "not known": ``MISS``, None, NaN, NaT or pandas' NA.

    Falsy values (``0``, ``""``, ``False``, an empty list) are values.  Scalars of numpy are
    recognised without importing numpy; an array is a value, whatever it holds.

    Examples
    --------
    >>> [is_missing(value) for value in (None, float("nan"), MISS, 0, "", False)]
    [True, True, True, False, False, False]
    """
    cls = type(value)
    if cls is float:
        return value != value  # noqa: PLR0124 - only NaN differs from itself
    if cls in _NEVER_MISSING:
        return False
    if isinstance(value, float):
        # Numpy's own among them: asking whether they are a Real takes a microsecond.
        return bool(value != value)  # noqa: PLR0124
    if cls.__name__ in _NULLS:
        return True
    # A signalling NaN of ``decimal`` and the NaT of numpy are the two that are no Real.
    if cls.__name__ == "Decimal":
        return bool(cast("Any", value).is_nan())
    if isinstance(value, Real) or cls.__name__ in {"datetime64", "timedelta64"}:
        return bool(value != value)  # noqa: PLR0124
    return False


class DriftLevel(Enum):
    """What a check found; the one vocabulary of the rooms that watch.

    A large sample makes every difference significant, a small one makes every difference
    look large; so drift is said only where there is evidence *and* size.

    Examples
    --------
    >>> DriftLevel.DRIFT.value, DriftLevel("none")
    ('drift', <DriftLevel.NONE: 'none'>)
    """

    NONE = "none"
    """No evidence of a change."""
    NEGLIGIBLE = "negligible"
    """Evidence of a change, but smaller than the floor: it does not alarm."""
    DRIFT = "drift"
    """Evidence of a change at least as large as the floor."""
    INCONCLUSIVE = "inconclusive"
    """Too little data, or data that cannot be compared; the reason says which."""


@dataclass(slots=True)
class Prediction(Generic[T]):
    """One answer and where it came from.

    Parameters
    ----------
    value
        What the model, the cache or a rung answered.
    request_id
        The caller's id, or one made for the call; joins the late label to the prediction.
    version
        Model version that computed ``value``; empty when no model did.
    source
        ``"model"``, ``"cache"`` or the name of the rung that answered.
    degraded
        True when a feature was defaulted or a rung below the first answered.
    cached
        True when no model ran for this request.
    latency_ms
        Milliseconds from the call to the answer.
    errors
        What went wrong on the way: one error a failed stage or rung, in order.
    tier
        Which tier of the cache answered: ``"memory"``, ``"store"`` (the shared one or the
        disk), ``"flight"`` for a computation that another request had under way, or empty.
    age
        Seconds since ``value`` was computed.
    stale
        Whether its time in the cache was over: it was served while another is computed, or
        because none could be.

    Examples
    --------
    >>> Prediction(0.7, "r1", "v2").source
    'model'
    """

    value: T
    request_id: str
    version: str = ""
    source: str = "model"
    degraded: bool = False
    cached: bool = False
    latency_ms: float = 0.0
    errors: tuple[BaseException, ...] = ()
    tier: str = ""
    age: float = 0.0
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A registered model version.

    Examples
    --------
    >>> str(ModelRef(name="churn", version="3", digest="ab12"))
    'churn@3'
    """

    name: str
    version: str
    digest: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    created: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@runtime_checkable
class Model(Protocol):
    """Anything with ``predict``: one row in, one answer out, or a batch for a batch."""

    def predict(self, features: Any, /) -> Any:
        """Answer for ``features``."""
        ...


@runtime_checkable
class BatchModel(Protocol):
    """A model that answers many rows in one call."""

    def predict_batch(self, rows: Sequence[Features], /) -> Sequence[Any]:
        """One answer a row, in order."""
        ...


@runtime_checkable
class Closable(Protocol):
    """Something that holds a resource."""

    def close(self) -> None:
        """Give the resource back; a second call does nothing."""
        ...


class RowCheck(Protocol):
    """What a serving path asks of a schema."""

    def validate(self, row: Features, /) -> Features:
        """Return the accepted row, or raise :class:`~prodml.errors.InvalidFeatures`."""
        ...


class FeatureSource(Protocol[T_co]):
    """What a feature service asks of a backend: features by entity."""

    def fetch(self, entity: Mapping[str, Any], names: Sequence[str], /) -> Mapping[str, T_co]:
        """Features by name; leave out what is not known."""
        ...
