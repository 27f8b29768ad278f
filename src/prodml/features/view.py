"""Where a group of features comes from, and what stands in when it does not come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeAlias, cast

from prodml._call import Guard
from prodml.errors import BadConfiguration
from prodml.types import Features, FeatureSource

__all__ = ["Aged", "FeatureView", "Source"]

Source: TypeAlias = FeatureSource[Any] | Callable[[Features, Sequence[str]], Any]


@dataclass(slots=True)
class Aged:
    """``value`` as it was at ``at``, seconds since the epoch (UTC).

    A source wraps one feature's value, or the whole mapping it returns.  A value that is not
    wrapped is as fresh as the call.

    Examples
    --------
    >>> Aged({"wind": 7.0}, at=1_700_000_000.0).value
    {'wind': 7.0}
    """

    value: Any
    at: float


@dataclass(slots=True, eq=False)
class FeatureView:
    """A group of features that one source knows by one entity.

    Parameters
    ----------
    name
        Names the view in errors, facts and counters.
    features
        Feature names that the source provides.
    entity
        Names of the row's values that identify the entity, for example ``("origin",)``.
    source
        An object with ``fetch(entity, names)``, or a function called like that: a mapping of
        the entity's keys and the names wanted go in, a mapping of name to value comes out
        (:class:`Aged` where the age matters; names that are not known are left out; None
        if the entity is not known).  ``async def`` serves awaiting callers only, unless the
        object offers both ``fetch`` and ``afetch``.  ``fetch_many(entities, names)``, if it
        is there, answers a batch in one call, one mapping an entity, in order.
    max_age
        Seconds after which a value is stale and not used; None: never.
    defaults
        Value by feature for when the source has none that may be used.
    guard
        Stands before every call of the source: a circuit breaker, a bulkhead.
    timeout
        Seconds for one call of the source; None: no limit but the request's own.

    Raises
    ------
    BadConfiguration
        No features, no entity, a default for a feature that is not in the view, a source
        that cannot be called, a time that is not positive.

    Examples
    --------
    >>> view = FeatureView("weather", features=("wind",), entity=("origin",),
    ...                    source=lambda entity, names: {"wind": 7.0}, defaults={"wind": 5.0})
    >>> view.fetch({"origin": "JFK"}, ("wind",))
    {'wind': 7.0}
    """

    name: str
    _: KW_ONLY
    features: Sequence[str]
    entity: Sequence[str]
    source: Source
    max_age: float | None = None
    defaults: Features = field(default_factory=dict[str, Any])
    guard: Guard[Any] | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for setting in ("features", "entity"):
            names = getattr(self, setting)
            if isinstance(names, str) or not names:
                raise BadConfiguration(f"{self.name}: {setting} must be names, not {names!r}")
            setattr(self, setting, tuple(names))
        strange = sorted(set(self.defaults) - set(self.features))
        if strange:
            raise BadConfiguration(f"{self.name}: defaults for features not in the view: {strange}")
        if not callable(getattr(self.source, "fetch", self.source)):
            raise BadConfiguration(
                f"{self.name}: source must have fetch(entity, names) or be such a function, "
                f"not {self.source!r}"
            )
        for setting in ("max_age", "timeout"):
            seconds = getattr(self, setting)
            if seconds is not None and not seconds > 0:
                raise BadConfiguration(
                    f"{self.name}: {setting} must be above 0 or None, not {seconds!r}"
                )

    @property
    def fetch(self) -> Callable[[Features, Sequence[str]], Any]:
        """The source's call for one entity."""
        fetch: Any = getattr(self.source, "fetch", self.source)
        return cast("Callable[[Features, Sequence[str]], Any]", fetch)

    def key_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Entity of ``row``.

        Raises
        ------
        LookupError
            The row lacks a key of the entity.
        """
        try:
            return {name: row[name] for name in self.entity}
        except KeyError as error:
            message = f"{self.name}: the row has no {error.args[0]!r} to look features up by"
            raise LookupError(message) from None
