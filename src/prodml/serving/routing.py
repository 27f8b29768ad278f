"""Which version answers: one immutable table, replaced whole.

Everything that routing knows lies in one :class:`Table`: the loaded versions, the default,
the traffic, the quarantine and the audited history.  A change builds a new table and stores
it with one assignment, so a reader sees all of a change or none of it.

**In-flight accounting without a lock.**  Each loaded version owns a list, ``busy``, with
one mark for every request inside its model::

    reader                                     writer (one at a time)
    1  table = server.table                    1  server.table = table without the version
    2  route = table's choice                  2  wait until busy.copy() is empty
    3  route.busy.append(mark)                 3  close the model
    4  server.table is table?  no: pop, again
    5  predict, then route.busy.pop()

A reader's append comes either before the writer's copy, and then the writer waits for the
pop; or after it, and then step 4 sees the new table and the reader goes away without
touching the model.  Both operations are atomic under the global interpreter lock; in a
free-threaded build both take the list's own lock, which also orders the two tables'
store and load around them.  Reference counts would not do: a kept traceback keeps a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from types import MappingProxyType
from typing import Any, TypeAlias
from zlib import crc32

from prodml.clock import utc
from prodml.errors import BadConfiguration, UnknownVersion
from prodml.serving.slot import Key, Route, Slot, require_version
from prodml.serving.split import NOT_ZERO, Split, key_bytes
from prodml.serving.traffic import Traffic

__all__ = ["Change", "Headers", "Key", "Table"]

Headers: TypeAlias = Mapping[str, str]
"""What a request says of itself, by name; names are the same in any case."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_HISTORY = 1000


def _empty() -> Mapping[str, Any]:
    return _EMPTY


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the audited history.

    ``at`` is seconds since the epoch (UTC); ``action`` one of ``loaded``, ``refused``,
    ``default``, ``routed``, ``applied``, ``rolled back``, ``released``, ``unloaded`` or ``kept``
    (would not drain in time); ``version`` what it happened to (empty for ``routed`` and
    ``applied``); ``default`` the default version afterwards and ``traffic`` the rest of the
    routing, in words.

    Examples
    --------
    >>> Change(at=0.0, action="loaded", version="v1", default=None).when.year
    1970
    """

    at: float
    action: str
    version: str
    default: str | None
    reason: str = ""
    traffic: str = ""

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table:
    """All of routing at one moment; the methods return the next table or refuse.

    ``past`` is the chain of defaults that a rollback walks back along, oldest first.

    Examples
    --------
    >>> table = Table(name="models").with_slot(Slot.of("v1", abs)).with_default("v1")
    >>> table.choose(None, None, None, Random(0)).arm
    'stable'
    """

    name: str
    slots: Mapping[str, Slot] = field(default_factory=_empty)
    draining: Mapping[str, Slot] = field(default_factory=_empty)
    loading: Mapping[str, Any] = field(default_factory=_empty)
    default: str | None = None
    past: tuple[str, ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    quarantined: Mapping[str, str] = field(default_factory=_empty)
    history: tuple[Change, ...] = ()
    pinned: dict[str, Route] = field(init=False)
    stable: Route | None = field(init=False)
    split: Split | None = field(init=False)
    by_header: dict[str, dict[str, Route]] = field(init=False)
    by_cohort: tuple[tuple[frozenset[bytes], Route], ...] = field(init=False)
    whole: Route | None = field(init=False)
    sticky: tuple[int, int, Route, Route] | None = field(init=False)
    copied: Mapping[str, float] | None = field(init=False)

    def __post_init__(self) -> None:
        traffic, slots = self.traffic, self.slots
        stable = None if self.default is None else Route.to(slots[self.default], "stable")
        by_header = {
            name: {value: Route.to(slots[v], "override") for value, v in by_value.items()}
            for name, by_value in traffic.overrides.items()
        }
        by_cohort = tuple(
            (cohort.members, Route.to(slots[cohort.version], name))
            for name, cohort in traffic.cohorts.items()
        )
        put = object.__setattr__
        put(self, "pinned", {version: Route.to(slot, "pinned") for version, slot in slots.items()})
        put(self, "stable", stable)
        put(self, "by_header", by_header)
        put(self, "by_cohort", by_cohort)
        split = self._split(stable)
        put(self, "split", split)
        # Where all requests without a version go: decided here, not once a request.
        put(self, "whole", None if split or by_header or by_cohort else stable)
        # One canary and nothing else, by key: the usual rollout.
        put(self, "sticky", None if split is None or by_header or by_cohort else split.only)
        # Asked after every request: whether there is anything is faster than whether it is empty.
        put(self, "copied", traffic.shadow or None)

    def _split(self, stable: Route | None) -> Split | None:
        traffic = self.traffic
        if stable is None or not (traffic.canary or traffic.variants):
            return None
        arms = [(Route.to(self.slots[v], "canary"), share) for v, share in traffic.canary.items()]
        for name, (version, share) in traffic.variants.items():
            arms.append((Route.to(self.slots[version], name), share))
        return Split.of(stable, arms, salt=traffic.salt)

    # -- reading ------------------------------------------------------------------------

    def choose(
        self, version: str | None, key: Key | None, headers: Headers | None, rng: Random
    ) -> Route:
        """Route of a request that ``pinned`` and ``whole`` do not know; may raise.

        A header comes before a cohort, a cohort before the shares, the shares before the
        default.
        """
        sticky = self.sticky
        if sticky is not None and version is None and type(key) is str:
            # ``Split.by_key`` spelt out.
            multiplier, limit, canary, stable = sticky
            try:
                hashed = crc32(key.encode()) or NOT_ZERO
            except UnicodeEncodeError:
                hashed = crc32(key_bytes(key)) or NOT_ZERO
            return canary if hashed * multiplier & 0xFFFFFFFF < limit else stable
        if version is not None or self.stable is None:
            raise self.unknown("(default)" if version is None else version)
        override = self._override(key, headers)
        if override is not None:
            return override
        if self.split is None:
            return self.stable
        return self.split.by_chance(rng) if key is None else self.split.by_key(key)

    def _override(self, key: Key | None, headers: Headers | None) -> Route | None:
        route = self._by_header(headers) if headers and self.by_header else None
        if route is None and self.by_cohort and key is not None:
            data = key_bytes(key)
            return next((route for members, route in self.by_cohort if data in members), None)
        return route

    def _by_header(self, headers: Headers) -> Route | None:
        for name, routes in self.by_header.items():
            given = headers.get(name)
            if given is None:
                given = next((v for other, v in headers.items() if other.lower() == name), None)
            route = None if given is None else routes.get(given)
            if route is not None:
                return route
        return None

    def unknown(self, version: str) -> UnknownVersion:
        """Build the error for a missing ``version``, with advice if there is no default."""
        error = UnknownVersion(self.name, version, tuple(self.slots))
        if self.default is None:
            error.add_note(
                f"{self.name} has no default version: call load_model(version, model), "
                "then set_default_version(version)"
            )
        return error

    def suspects(self) -> tuple[str, ...]:
        """List what a rollback without a version takes out: the challengers, else the default."""
        if self.default is None:
            raise self.unknown("(default)")
        variants = (version for version, _ in self.traffic.variants.values())
        tried = dict.fromkeys((*self.traffic.canary, *variants))
        return tuple(version for version in tried if version != self.default) or (self.default,)

    def serves(self, version: str) -> bool:
        """Whether ``version`` has any part in traffic."""
        return any(version in used for _, used in self._roles())

    # -- versions -----------------------------------------------------------------------

    def reserved(self, version: str, model: Any = None) -> "Table":
        """Note that ``version`` is about to be loaded, so that nobody else begins the same."""
        require_version(version)
        if version in self.slots or version in self.draining or version in self.loading:
            verb = "is already loading" if version in self.loading else "has already loaded"
            first = "unload it first"
            if version in self.draining:
                verb, first = "is still unloading", "wait until its requests have ended"
            raise BadConfiguration(
                f"{self.name} {verb} version {version!r}: {first}, "
                "or give the new model a version of its own (caches and logs go by version)"
            )
        return replace(self, loading=_with(self.loading, version, model))

    def unreserved(self, version: str) -> "Table":
        """Forget that ``version`` was about to be loaded."""
        return replace(self, loading=_less(self.loading, version))

    def with_slot(self, slot: Slot) -> "Table":
        """Make a version routable."""
        return replace(
            self,
            slots=_with(self.slots, slot.version, slot),
            loading=_less(self.loading, slot.version),
        )

    def without(self, version: str) -> "Table":
        """Take an idle version out; its requests may still have to end."""
        if version in self.draining:
            return self
        if version not in self.slots:
            raise self.unknown(version)
        for role, used in self._roles():
            if version in used:
                raise BadConfiguration(
                    f"cannot unload version {version!r} of {self.name}: it is {role}"
                )
        draining = _with(self.draining, version, self.slots[version])
        return replace(self, slots=_less(self.slots, version), draining=draining)

    def drained(self, slot: Slot) -> "Table":
        """Forget a version whose last request has ended, unless somebody else has."""
        if self.draining.get(slot.version) is not slot:
            return self
        return replace(self, draining=_less(self.draining, slot.version))

    def kept(self, slot: Slot) -> "Table":
        """Put a version back whose requests did not end in time."""
        if self.draining.get(slot.version) is not slot:
            return self
        return self.drained(slot).with_slot(slot)

    def alone(self) -> "Table":
        """Forget requests, loads and unloads of other threads, which a forked child has not.

        What this thread itself is inside of keeps its mark on the slot that it knows.
        """
        slots = {v: replace(slot, busy=[]) for v, slot in {**self.slots, **self.draining}.items()}
        return replace(self, slots=MappingProxyType(slots), draining=_EMPTY, loading=_EMPTY)

    # -- traffic ------------------------------------------------------------------------

    def with_default(self, version: str) -> "Table":
        """Send requests without a version to ``version``; it stops being canary or shadow."""
        self._require(version)
        if version == self.default:
            return self
        past = self.past if self.default is None else (*self.past, self.default)
        traffic = self.traffic.without_split(version)
        return replace(self, default=version, past=past[-_HISTORY:], traffic=traffic)

    def with_traffic(self, traffic: Traffic) -> "Table":
        """Replace the traffic beside the default."""
        versions = traffic.versions()
        if versions and self.default is None:
            raise BadConfiguration(f"{self.name} has no default version to split traffic from")
        for version in versions:
            self._require(version)
            if version == self.default and (version in traffic.canary or version in traffic.shadow):
                raise BadConfiguration(f"version {version!r} is the default already")
        return replace(self, traffic=traffic)

    def rolled_back(self, version: str, reason: str) -> "Table":
        """Take ``version`` out of traffic, quarantine it, and restore the last good default."""
        if version not in self.slots:
            raise self.unknown(version)
        if version in self.quarantined and not self.serves(version):
            return self
        quarantined = _with(self.quarantined, version, reason)
        traffic = self.traffic.without(version)
        if version != self.default:
            return replace(self, traffic=traffic, quarantined=quarantined)
        for index in reversed(range(len(self.past))):
            earlier = self.past[index]
            if earlier in self.slots and earlier not in quarantined:
                return replace(
                    self,
                    default=earlier,
                    past=self.past[:index],
                    traffic=traffic.without_split(earlier),
                    quarantined=quarantined,
                )
        raise BadConfiguration(
            f"cannot roll {self.name} back from {version!r}: no earlier default is still "
            "loaded and free of quarantine"
        )

    def released(self, version: str) -> "Table":
        """Lift a quarantine."""
        if version not in self.quarantined and version not in self.slots:
            raise self.unknown(version)
        return replace(self, quarantined=_less(self.quarantined, version))

    def note(self, at: float, action: str, version: str = "", reason: str = "") -> "Table":
        """Add an entry to the history; the oldest of a thousand goes."""
        change = Change(
            at=at,
            action=action,
            version=version,
            default=self.default,
            reason=reason,
            traffic=str(self.traffic),
        )
        return replace(self, history=(*self.history, change)[-_HISTORY:])

    def _roles(self) -> tuple[tuple[str, frozenset[str]], ...]:
        default = frozenset[str]() if self.default is None else frozenset((self.default,))
        return (
            ("the default version: set another one first", default),
            *self.traffic.roles(),
        )

    def _require(self, version: str) -> None:
        if version not in self.slots:
            raise self.unknown(version)
        if version in self.quarantined:
            why = self.quarantined[version] or "no reason given"
            raise BadConfiguration(
                f"version {version!r} of {self.name} is quarantined ({why}): "
                "call release(version) to let it serve again"
            )


def _with(mapping: Mapping[str, Any], name: str, value: Any) -> Mapping[str, Any]:
    return MappingProxyType({**mapping, name: value})


def _less(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return MappingProxyType({k: v for k, v in mapping.items() if k != name})
