"""Features that the request did not bring along."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, TypeAlias, cast, final

from prodml._call import Invoke, Step, Steps, arun, protect, run
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, StaleFeatures
from prodml.events import EVENTS, FeatureSourceFailed, FeatureSourceRecovered, Stream
from prodml.features.view import Aged, FeatureView
from prodml.types import MISS, Features, is_missing

__all__ = ["Completed", "FeatureService", "ViewStats"]


@dataclass(slots=True)
class Completed:
    """A row after its missing features were looked up.

    Parameters
    ----------
    features
        The row; the very object that came in if nothing was added.
    degraded
        Whether any feature was defaulted or could not be had at all.
    errors
        What went wrong: the source's error, a rejection by its guard, ``StaleFeatures``.
    defaulted
        Features that got their default.
    stale
        Features whose value was too old to use.
    missing
        Features that are still missing, for there is no default.

    Examples
    --------
    >>> Completed({"a": 1}).degraded
    False
    """

    features: Features
    degraded: bool = False
    errors: tuple[Exception, ...] = ()
    defaulted: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class ViewStats:
    """What one view has been asked and could answer.

    Parameters
    ----------
    calls, failures
        Calls of the source, and those that ended in an error (rejections included).
    filled, defaulted, stale, missing
        Features that were filled in, defaulted, too old, and not to be had.

    Examples
    --------
    >>> ViewStats(calls=4, failures=1).failures
    1
    """

    calls: int = 0
    failures: int = 0
    filled: int = 0
    defaulted: int = 0
    stale: int = 0
    missing: int = 0


_UNKNOWN: tuple[Any, float | None] = (MISS, None)


class _Row:
    """One row on its way through the views."""

    __slots__: tuple[str, ...] = ("defaulted", "errors", "features", "found", "missing", "stale")

    def __init__(self, features: Features) -> None:
        self.features: Features = features
        self.found: dict[str, Any] = {}
        self.errors: list[Exception] = []
        self.defaulted: list[str] = []
        self.stale: list[str] = []
        self.missing: list[str] = []

    def wanted(self, view: FeatureView) -> tuple[str, ...]:
        get = self.features.get
        return tuple(name for name in view.features if is_missing(get(name, MISS)))

    def entity(self, view: FeatureView) -> dict[str, Any]:
        # A key may itself come from an earlier view: flight -> plane -> age of the plane.
        return view.key_of({**self.features, **self.found} if self.found else self.features)

    def settle(
        self,
        view: FeatureView,
        names: Sequence[str],
        answer: Any,
        error: Exception | None,
        now: float,
    ) -> ViewStats:
        """Take what came for ``names``, or what stands in for it; count the rest."""
        if error is not None:
            self.errors.append(error)
        try:
            values = dict(_aged(answer))
        except (TypeError, ValueError) as wrong:
            self.errors.append(wrong)
            values = {}
        told = ViewStats()
        for name in names:
            value, at = values.get(name, _UNKNOWN)
            if at is not None and view.max_age is not None and now - at > view.max_age:
                self.errors.append(StaleFeatures(name, now - at, view.max_age))
                self.stale.append(name)
                told.stale += 1
                value = MISS
            if not is_missing(value):
                self.found[name] = value
            elif name in view.defaults:
                self.found[name] = view.defaults[name]
                self.defaulted.append(name)
                told.defaulted += 1
            else:
                self.missing.append(name)
                told.missing += 1
        return told

    def completed(self) -> Completed:
        return Completed(
            features={**self.features, **self.found} if self.found else self.features,
            degraded=bool(self.defaulted or self.missing),
            errors=tuple(self.errors),
            defaulted=tuple(self.defaulted),
            stale=tuple(self.stale),
            missing=tuple(self.missing),
        )


_Ask: TypeAlias = tuple[_Row, tuple[str, ...], Features]
"""A row, the names it lacks, its entity."""


@final
@dataclass(slots=True, eq=False, init=False)
class FeatureService:
    """Look up what a request lacks, by entity, and never let a source break the request.

    Only missing features are looked up: absent, None or NaN.  Falsy values (``0``, ``""``,
    ``False``) are values and are never replaced.  A source that is down, slow, rejected by
    its guard, or has only stale values costs the default and marks the row ``degraded``;
    without a default the feature stays as it was and is named in ``missing``, and validation
    decides.

    Parameters
    ----------
    views
        Where features come from, asked in this order; a later view may be keyed by what an
        earlier one found.
    clock
        Tells how old a value is, against the ``at`` of :class:`~prodml.features.Aged`.
    events
        Hears :class:`~prodml.events.FeatureSourceFailed` when a source begins to fail, and
        :class:`~prodml.events.FeatureSourceRecovered` when it answers again.
    name
        Source of those facts.

    Raises
    ------
    BadConfiguration
        Two views of one name, or one feature in two views.

    Notes
    -----
    Views are asked one after another.  A value from the future (clocks differ) is fresh.

    Examples
    --------
    >>> def weather(entity, names):
    ...     raise ConnectionError("feed is down")
    >>> service = FeatureService(FeatureView("weather", features=("wind",), entity=("origin",),
    ...                                      source=weather, defaults={"wind": 5.0}))
    >>> row = service.complete({"origin": "JFK"})
    >>> row.features, row.degraded, row.errors
    ({'origin': 'JFK', 'wind': 5.0}, True, (ConnectionError('feed is down'),))
    """

    views: tuple[FeatureView, ...]
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    name: str = "features"
    _stats: dict[str, ViewStats] = field(default_factory=dict[str, ViewStats], repr=False)
    _streaks: dict[str, int] = field(default_factory=dict[str, int], repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __init__(
        self,
        *views: FeatureView,
        clock: Clock = SYSTEM_CLOCK,
        events: Stream = EVENTS,
        name: str = "features",
    ) -> None:
        self.views = views
        self.clock = clock
        self.events = events
        self.name = name
        self._stats = {view.name: ViewStats() for view in views}
        self._streaks = dict.fromkeys(self._stats, 0)
        self._lock = Lock()
        if len(self._stats) < len(views):
            raise BadConfiguration("two views have the same name")
        names = [feature for view in views for feature in view.features]
        twice = sorted({feature for feature in names if names.count(feature) > 1})
        if twice:
            raise BadConfiguration(f"features in two views: {twice}")

    def complete(self, features: Features) -> Completed:
        """``features`` with what was missing; the mapping itself is never changed.

        Examples
        --------
        >>> service = FeatureService(FeatureView("user", features=("visits",), entity=("id",),
        ...                                      source=lambda entity, names: {"visits": 3}))
        >>> service.complete({"id": 7}).features
        {'id': 7, 'visits': 3}
        >>> service.complete({"id": 7, "visits": 0}).features
        {'id': 7, 'visits': 0}
        """
        return cast("Completed", run(self.steps(features), self.clock))

    def acomplete(self, features: Features) -> Coroutine[Any, Any, Completed]:
        """:meth:`complete`, awaited.

        Examples
        --------
        >>> import asyncio
        >>> async def visits(entity, names):
        ...     return {"visits": 3}
        >>> service = FeatureService(FeatureView("user", features=("visits",), entity=("id",),
        ...                                      source=visits))
        >>> asyncio.run(service.acomplete({"id": 7})).features
        {'id': 7, 'visits': 3}
        """
        return arun(self.steps(features), self.clock)

    def complete_batch(self, rows: Sequence[Features]) -> list[Completed]:
        """Complete every row, in order, with one call a distinct entity and view.

        A source with ``fetch_many(entities, names)`` is called once a view.

        Examples
        --------
        >>> service = FeatureService(FeatureView("user", features=("visits",), entity=("id",),
        ...                                      source=lambda entity, names: {"visits": 3}))
        >>> [row.features["visits"] for row in service.complete_batch([{"id": 7}, {"id": 7}])]
        [3, 3]
        >>> service.stats()["user"].calls
        1
        """
        return cast("list[Completed]", run(self.batch_steps(rows), self.clock))

    def steps(self, features: Features) -> Steps:
        """:meth:`complete` as a part of a flow; ends in ``(Completed, None)``."""
        row = _Row(features)
        for view in self.views:
            wanted = row.wanted(view)
            if wanted:
                yield from self._look_up(view, [row], [wanted])
        return row.completed(), None

    def batch_steps(self, rows: Sequence[Features]) -> Steps:
        """:meth:`complete_batch` as a part of a flow; ends in ``(list[Completed], None)``."""
        pending = [_Row(features) for features in rows]
        for view in self.views:
            lacking = [(row, wanted) for row in pending if (wanted := row.wanted(view))]
            if lacking:
                yield from self._look_up(view, [row for row, _ in lacking], [w for _, w in lacking])
        return [row.completed() for row in pending], None

    def stats(self) -> Mapping[str, ViewStats]:
        """Counters by view since the service was made.

        Examples
        --------
        >>> FeatureService().stats()
        {}
        """
        with self._lock:
            return {name: replace(told) for name, told in self._stats.items()}

    # -- one view -----------------------------------------------------------------------

    def _look_up(
        self, view: FeatureView, rows: Sequence[_Row], wanted: Sequence[tuple[str, ...]]
    ) -> Steps:
        asks: list[_Ask] = []
        for row, names in zip(rows, wanted, strict=True):
            try:
                asks.append((row, names, row.entity(view)))
            except LookupError as unknown:
                self._settle(view, row, names, None, unknown)
        groups = _grouped(asks)
        many = getattr(view.source, "fetch_many", None)
        if many is not None and len(groups) > 1:
            yield from self._fetch_many(view, many, groups)
            return None, None
        for group in groups:
            names = _union(group)
            amany = getattr(view.source, "afetch", None)
            step = Invoke(view.fetch, (group[0][2], names), timeout=view.timeout, acall=amany)
            answer, error = yield from self._call(view, step)
            for row, own, _ in group:
                self._settle(view, row, own, answer, error)
        return None, None

    def _fetch_many(
        self, view: FeatureView, many: Callable[..., Any], groups: Sequence[Sequence[_Ask]]
    ) -> Steps:
        names = _union([ask for group in groups for ask in group])
        entities = [group[0][2] for group in groups]
        amany = getattr(view.source, "afetch_many", None)
        step = Invoke(many, (entities, names), timeout=view.timeout, acall=amany)
        answers, error = yield from self._call(view, step)
        each, error = _one_each(answers, len(groups)) if error is None else ([], error)
        for group, answer in zip(groups, each or [None] * len(groups), strict=True):
            for row, own, _ in group:
                self._settle(view, row, own, answer, error)
        return None, None

    def _call(self, view: FeatureView, step: Step) -> Steps:
        if view.guard is None:
            answer, error = yield step
        else:
            answer, error = yield from protect(view.guard, step)
        self._note(view, error)
        return answer, error

    def _settle(
        self,
        view: FeatureView,
        row: _Row,
        names: Sequence[str],
        answer: Any,
        error: Exception | None,
    ) -> None:
        outcome = row.settle(view, names, answer, error, self.clock.time())
        with self._lock:
            told = self._stats[view.name]
            told.filled += len(names) - outcome.defaulted - outcome.missing
            told.defaulted += outcome.defaulted
            told.stale += outcome.stale
            told.missing += outcome.missing

    def _note(self, view: FeatureView, error: Exception | None) -> None:
        with self._lock:
            told = self._stats[view.name]
            told.calls += 1
            told.failures += error is not None
            before = self._streaks[view.name]
            self._streaks[view.name] = 0 if error is None else before + 1
        if error is not None and before == 0:
            self.events.emit(
                FeatureSourceFailed(
                    at=self.clock.time(), source=self.name, view=view.name, reason=repr(error)
                )
            )
        elif error is None and before:
            self.events.emit(
                FeatureSourceRecovered(
                    at=self.clock.time(), source=self.name, view=view.name, failures=before
                )
            )


def _aged(answer: Any) -> Iterator[tuple[str, tuple[Any, float | None]]]:
    """Name, value and time of each feature in ``answer``, which a source may nest twice."""
    at = None
    if isinstance(answer, Aged):
        answer, at = answer.value, answer.at
    if answer is None:
        return
    if not isinstance(answer, Mapping):
        raise TypeError(f"a source must return a mapping of features, not {answer!r}")
    for name, value in cast("Features", answer).items():
        known, since = (value.value, value.at) if isinstance(value, Aged) else (value, at)
        yield name, (known, None if since is None else float(since))


def _one_each(answers: Any, count: int) -> tuple[list[Any], Exception | None]:
    try:
        each = list(answers)
    except TypeError as error:
        return [], error
    if len(each) != count:
        return [], ValueError(f"{len(each)} answers for {count} entities")
    return each, None


def _union(asks: Sequence[_Ask]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, names, _ in asks for name in names))


def _grouped(asks: Sequence[_Ask]) -> list[list[_Ask]]:
    """Asks by entity; 1, 1.0 and True are three entities."""
    groups: dict[Any, list[_Ask]] = {}
    for ask in asks:
        key = tuple((type(value), value) for value in ask[2].values())
        try:
            groups.setdefault(key, []).append(ask)
        except TypeError:
            groups[id(ask)] = [ask]
    return list(groups.values())
