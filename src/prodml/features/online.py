"""Features in memory, by entity and by the time at which they became known."""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from threading import Lock
from typing import Any, TypeAlias, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.features.view import Aged
from prodml.types import Features

__all__ = ["OnlineStore", "entity_key"]

_Key: TypeAlias = tuple[str, Hashable]


def entity_key(entity: Features) -> Hashable:
    """Key of an entity, whatever the order of its names.

    Examples
    --------
    >>> entity_key({"b": 1, "a": 2}) == entity_key({"a": 2, "b": 1})
    True
    """
    return tuple(sorted((name, type(value).__name__, value) for name, value in entity.items()))


class _History:
    """Values of one feature of one entity, in order of event time."""

    __slots__: tuple[str, ...] = ("times", "values")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.values: list[Any] = []

    def add(self, value: Any, at: float, retention: float) -> None:
        index = bisect_right(self.times, at)
        self.times.insert(index, at)
        self.values.insert(index, value)
        # The last value before the horizon is what was true at the horizon: it stays.
        old = bisect_right(self.times, self.times[-1] - retention) - 1
        if old > 0:
            del self.times[:old], self.values[:old]

    def as_of(self, at: float) -> Aged | None:
        index = bisect_right(self.times, at) - 1
        return None if index < 0 else Aged(self.values[index], self.times[index])


@final
@dataclass(kw_only=True, slots=True, eq=False)
class OnlineStore:
    """A table of features in memory that can answer for any moment it still remembers.

    Parameters
    ----------
    retention
        Seconds of history kept a feature and entity, counted back from its newest value.
        Within it :meth:`as_of` is exact; the newest value never expires.
    clock
        Says what *now* is, for :meth:`fetch` and for values put without a time.

    Raises
    ------
    BadConfiguration
        ``retention`` is not a positive number.

    Notes
    -----
    ``at`` is the time at which a value became known.  A lookup never sees a later one, which
    makes training rows equal to what serving would have seen.  Values put late find their
    place; of two at the same time the later put wins.  O(log n) a lookup.  Memory grows with
    the number of entities: :meth:`forget` those that are gone.  Safe for any number of threads.

    Examples
    --------
    >>> store = OnlineStore()
    >>> store.put("weather", {"origin": "JFK"}, {"wind": 7.0}, at=100.0)
    >>> store.put("weather", {"origin": "JFK"}, {"wind": 9.0}, at=200.0)
    >>> store.as_of("weather", {"origin": "JFK"}, at=150.0)
    {'wind': Aged(value=7.0, at=100.0)}
    """

    retention: float = 86_400.0
    clock: Clock = SYSTEM_CLOCK
    _rows: dict[_Key, dict[str, _History]] = field(init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.retention > 0:
            raise BadConfiguration(f"retention must be above 0 seconds, not {self.retention!r}")
        self._rows = {}

    def put(self, view: str, entity: Features, values: Features, at: float | None = None) -> None:
        """Remember that ``entity`` had ``values`` from ``at`` on.

        Parameters
        ----------
        view
            Name of the group of features.
        entity
            Keys that identify the entity, for example ``{"origin": "JFK"}``.
        values
            Value by feature; features that are not named keep theirs.
        at
            Seconds since the epoch, UTC; now by default.

        Raises
        ------
        ValueError
            ``at`` is not finite.

        Examples
        --------
        >>> OnlineStore().put("user", {"id": 7}, {"visits": 0})
        """
        at = self.clock.time() if at is None else at
        if not isfinite(at):
            raise ValueError(f"at must be finite seconds since the epoch, not {at!r}")
        key = (view, entity_key(entity))
        with self._lock:
            row = self._rows.setdefault(key, {})
            for name, value in values.items():
                history = row.get(name)
                if history is None:
                    history = row[name] = _History()
                history.add(value, at, self.retention)

    def as_of(
        self, view: str, entity: Features, at: float, names: Sequence[str] | None = None
    ) -> dict[str, Aged]:
        """What was known of ``entity`` at ``at``: the latest value of each feature not after it.

        Examples
        --------
        >>> store = OnlineStore()
        >>> store.put("user", {"id": 7}, {"visits": 1}, at=10.0)
        >>> store.as_of("user", {"id": 7}, at=9.0)
        {}
        """
        key = (view, entity_key(entity))
        with self._lock:
            row = self._rows.get(key, {})
            found = {
                name: row[name].as_of(at)
                for name in (row if names is None else names)
                if name in row
            }
        return {name: value for name, value in found.items() if value is not None}

    def fetch(self, view: str, entity: Features, names: Sequence[str]) -> Mapping[str, Aged]:
        """What is known now, each value with its time.

        Examples
        --------
        >>> store = OnlineStore()
        >>> store.put("user", {"id": 7}, {"visits": 1}, at=10.0)
        >>> store.fetch("user", {"id": 7}, ["visits", "spend"])
        {'visits': Aged(value=1, at=10.0)}
        """
        return self.as_of(view, entity, self.clock.time(), names)

    def source(self, view: str) -> Callable[[Features, Sequence[str]], Mapping[str, Aged]]:
        """The lookup of ``view``, as a :class:`~prodml.features.FeatureView` wants it.

        Examples
        --------
        >>> store = OnlineStore()
        >>> store.put("user", {"id": 7}, {"visits": 1}, at=10.0)
        >>> store.source("user")({"id": 7}, ["visits"])
        {'visits': Aged(value=1, at=10.0)}
        """
        return partial(self.fetch, view)

    def forget(self, view: str, entity: Features) -> bool:
        """Drop all that is known of ``entity``; whether there was anything.

        Examples
        --------
        >>> OnlineStore().forget("user", {"id": 7})
        False
        """
        key = (view, entity_key(entity))
        with self._lock:
            return self._rows.pop(key, None) is not None

    def __len__(self) -> int:
        """Entities known, over all views."""
        return len(self._rows)
