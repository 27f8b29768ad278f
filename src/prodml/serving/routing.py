"""Which version answers: one immutable table, replaced whole.

Everything that routing knows lies in one :class:`Table`: the loaded versions, the default,
the split, the shadows, the quarantine and the audited history.  A change builds a new
table and stores it with one assignment, so a reader sees all of a change or none of it.

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

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from hashlib import blake2b
from random import Random
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from prodml._call import Kind, kind_of
from prodml.clock import utc
from prodml.errors import BadConfiguration, UnknownVersion

__all__ = ["Arm", "Change", "Key", "Route", "Slot", "Split", "Table"]

Arm: TypeAlias = Literal["stable", "canary", "pinned"]
"""Why a version answers: it is the default, a canary share, or was asked for by name."""

Key: TypeAlias = str | bytes | int
"""What routing sticks to: a user, a session, an entity.  ``5`` and ``"5"`` are the same."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_UNIT = 2**64
_HISTORY = 1000


def _empty() -> Mapping[str, Any]:
    return _EMPTY


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the audited history.

    ``at`` is seconds since the epoch (UTC); ``action`` one of ``loaded``, ``default``,
    ``routed``, ``rolled back``, ``released``, ``unloaded``; ``version`` what it happened
    to (empty for ``routed``); ``default`` the default version afterwards.

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

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A loaded version: its model, how to ask it, and a mark per request inside it."""

    version: str
    model: Any
    predict: Callable[[Any], Any]
    apredict: Callable[[Any], Awaitable[Any]] | None
    synchronous: bool = True
    busy: list[None] = field(default_factory=list[None])

    @classmethod
    def of(cls, version: str, model: Any) -> "Slot":
        """Find out once how ``model`` answers: by ``predict``, or by being called.

        Examples
        --------
        >>> Slot.of("v1", abs).predict(-1)
        1
        """
        given: object = version
        # None would read as "the default", and 3 would never equal the "3" of a header.
        if not isinstance(given, str) or not given:
            raise BadConfiguration(f"version must be a non-empty string, not {version!r}")
        predict: Any = getattr(model, "predict", model)
        apredict: Any = getattr(model, "apredict", None)
        if isinstance(model, type) or not callable(predict):
            raise BadConfiguration(
                f"model of version {version!r} must have a predict method or be callable; "
                f"{model!r} is not (pass an instance, not a class)"
            )
        if kind_of(predict) is Kind.COROUTINE:
            awaited: Any = predict if apredict is None else apredict
            return cls(version, model, partial(_refuse, version), awaited, False)
        return cls(version, model, predict, apredict)


def _refuse(version: str, features: Any) -> Any:  # noqa: ARG001
    raise TypeError(f"the model of version {version!r} is async: use apredict")


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
    model: Any
    predict: Callable[[Any], Any]
    apredict: Callable[[Any], Awaitable[Any]] | None
    busy: list[None]

    @classmethod
    def to(cls, slot: Slot, arm: Arm) -> "Route":
        """Route of ``arm`` to the version in ``slot``."""
        return cls(arm, slot.version, slot.model, slot.predict, slot.apredict, slot.busy)

    def predict_batch(self, rows: Any) -> Any:
        """Answers for ``rows``, in order.

        By the model's ``predict_batch`` if it has one; an array or frame (anything with a
        ``shape``) goes to ``predict`` whole, as scikit-learn means it; any other sequence
        is answered row by row.
        """
        batch = getattr(self.model, "predict_batch", None)
        if batch is not None:
            return batch(rows)
        if hasattr(rows, "shape"):
            return self.predict(rows)
        return [self.predict(row) for row in rows]

    def release(self) -> None:
        """Count the request out; exactly once per ``resolve``."""
        self.busy.pop()


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Shares of traffic by canary version; the rest is stable.

    A key's place is a keyed BLAKE2b hash [1]_ of (salt, version, key): the same in every
    process, and independent between versions and salts, which a CRC or ``hash()`` is not.
    Arms are asked in order of version; arm *i* takes a key with probability
    ``share_i / (1 - shares before it)``.  Raising a share therefore never takes a key out
    of that canary and never sends a key back to stable.

    References
    ----------
    .. [1] Aumasson, Neves, Wilcox-O'Hearn, Winnerlein (2013), *BLAKE2: simpler, smaller,
       fast as MD5*, section 2.8 (keyed hashing); RFC 7693.

    Examples
    --------
    >>> stable = Route.to(Slot.of("v1", abs), "stable")
    >>> canary = Route.to(Slot.of("v2", abs), "canary")
    >>> split = Split.of(stable, [(canary, 0.05)], salt="churn")
    >>> sum(split.by_key(user) is canary for user in range(10_000))
    495
    """

    stable: Route
    arms: tuple[tuple[Route, Any, bytes], ...]
    shares: tuple[tuple[Route, float], ...]

    @classmethod
    def of(cls, stable: Route, canaries: Sequence[tuple[Route, float]], *, salt: str) -> "Split":
        """Lay out ``canaries`` (route, share) in order of version."""
        arms: list[tuple[Route, Any, bytes]] = []
        left = 1.0
        ordered = tuple(sorted(canaries, key=lambda canary: canary[0].version))
        for route, share in ordered:
            likely = min(share / left, 1.0) if left > 0.0 else 0.0
            arms.append((route, _keyed(salt, route.version), _threshold(likely)))
            left -= share
        return cls(stable, tuple(arms), ordered)

    def by_key(self, key: Key) -> Route:
        """Always the same route for the same ``key``."""
        data = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
        for route, keyed, threshold in self.arms:
            hashed = keyed.copy()
            hashed.update(data)
            # Big-endian bytes sort like the numbers they stand for.
            if hashed.digest() < threshold:
                return route
        return self.stable

    def by_chance(self, rng: Random) -> Route:
        """Any route, with the probability of its share."""
        drawn = rng.random()
        for route, share in self.shares:
            if drawn < share:
                return route
            drawn -= share
        return self.stable


def _threshold(share: float) -> bytes:
    number = round(share * _UNIT)
    # The whole does not fit into the eight bytes of a digest; nine sort above them all.
    return b"\xff" * 9 if number >= _UNIT else number.to_bytes(8, "big")


def _keyed(salt: str, version: str) -> Any:
    secret = f"{len(salt)}:{salt}{version}".encode("utf-8", "surrogatepass")
    return blake2b(digest_size=8, key=blake2b(secret, digest_size=32).digest())


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table:
    """All of routing at one moment; the methods return the next table or refuse.

    ``past`` is the chain of defaults that a rollback walks back along, oldest first.

    Examples
    --------
    >>> table = Table(name="models").with_slot(Slot.of("v1", abs)).with_default("v1")
    >>> table.choose(None, None, Random(0)).arm
    'stable'
    """

    name: str
    slots: Mapping[str, Slot] = field(default_factory=_empty)
    draining: Mapping[str, Slot] = field(default_factory=_empty)
    default: str | None = None
    past: tuple[str, ...] = ()
    canary: Mapping[str, float] = field(default_factory=_empty)
    salt: str = ""
    shadow: tuple[str, ...] = ()
    quarantined: Mapping[str, str] = field(default_factory=_empty)
    history: tuple[Change, ...] = ()
    pinned: dict[str, Route] = field(init=False)
    stable: Route | None = field(init=False)
    split: Split | None = field(init=False)
    whole: Route | None = field(init=False)
    plain: Route | None = field(init=False)

    def __post_init__(self) -> None:
        stable = None if self.default is None else Route.to(self.slots[self.default], "stable")
        split = None
        if stable is not None and self.canary:
            arms = [(Route.to(self.slots[v], "canary"), s) for v, s in self.canary.items()]
            split = Split.of(stable, arms, salt=self.salt)
        pinned = {version: Route.to(slot, "pinned") for version, slot in self.slots.items()}
        object.__setattr__(self, "pinned", pinned)
        object.__setattr__(self, "stable", stable)
        object.__setattr__(self, "split", split)
        # Where all requests without a version go: decided here, not once a request.
        whole = None if split else stable
        object.__setattr__(self, "whole", whole)
        # And nobody wants a copy of them.
        object.__setattr__(self, "plain", None if self.shadow else whole)

    def choose(self, version: str | None, key: Key | None, rng: Random) -> Route:
        """Route of one request; raises :class:`~prodml.errors.UnknownVersion`."""
        route = self.whole if version is None else self.pinned.get(version)
        if route is not None:
            return route
        if version is not None:
            raise self.unknown(version)
        if self.split is None:
            raise self.unknown("(default)")
        return self.split.by_chance(rng) if key is None else self.split.by_key(key)

    def unknown(self, version: str) -> UnknownVersion:
        """Build the error for a missing ``version``, with advice if there is no default."""
        error = UnknownVersion(self.name, version, tuple(self.slots))
        if self.default is None:
            error.add_note(
                f"{self.name} has no default version: call load_model(version, model), "
                "then set_default_version(version)"
            )
        return error

    def note(self, at: float, action: str, version: str = "", reason: str = "") -> "Table":
        """Add an entry to the history; the oldest of a thousand goes."""
        change = Change(at=at, action=action, version=version, default=self.default, reason=reason)
        return replace(self, history=(*self.history, change)[-_HISTORY:])

    def with_slot(self, slot: Slot) -> "Table":
        """Make a version routable."""
        if slot.version in self.slots or slot.version in self.draining:
            raise BadConfiguration(
                f"{self.name} has already loaded version {slot.version!r}: unload it first, "
                "or give the new model a version of its own (caches and logs go by version)"
            )
        return replace(self, slots=_with(self.slots, slot.version, slot))

    def with_default(self, version: str) -> "Table":
        """Send requests without a version to ``version``; it stops being canary or shadow."""
        self._require(version)
        if version == self.default:
            return self
        past = self.past if self.default is None else (*self.past, self.default)
        return replace(self._out_of_split(version), default=version, past=past[-_HISTORY:])

    def with_split(self, canary: Mapping[str, float], shadow: Sequence[str], salt: str) -> "Table":
        """Replace the split and the shadows."""
        if canary or shadow:
            self._check_split(canary, shadow)
        shares = {version: float(share) for version, share in canary.items() if share > 0.0}
        shadows = tuple(dict.fromkeys(shadow))
        return replace(self, canary=MappingProxyType(shares), shadow=shadows, salt=salt)

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

    def rolled_back(self, version: str, reason: str) -> "Table":
        """Take ``version`` out of traffic, quarantine it, and restore the last good default."""
        if version not in self.slots:
            raise self.unknown(version)
        if version in self.quarantined and not self.serves(version):
            return self
        quarantined = _with(self.quarantined, version, reason)
        out = replace(self._out_of_split(version), quarantined=quarantined)
        if version != self.default:
            return out
        for index in reversed(range(len(self.past))):
            earlier = self.past[index]
            if earlier in self.slots and earlier not in quarantined:
                there = replace(out, default=earlier, past=self.past[:index])
                return there._out_of_split(earlier)  # noqa: SLF001
        raise BadConfiguration(
            f"cannot roll {self.name} back from {version!r}: no earlier default is still "
            "loaded and free of quarantine"
        )

    def released(self, version: str) -> "Table":
        """Lift a quarantine."""
        if version not in self.quarantined and version not in self.slots:
            raise self.unknown(version)
        return replace(self, quarantined=_less(self.quarantined, version))

    def suspects(self) -> tuple[str, ...]:
        """List what a rollback without a version takes out: the canaries, else the default."""
        if self.canary:
            return tuple(self.canary)
        if self.default is None:
            raise self.unknown("(default)")
        return (self.default,)

    def serves(self, version: str) -> bool:
        """Whether ``version`` has any part in traffic."""
        return any(version in used for _, used in self._roles())

    def _roles(self) -> tuple[tuple[str, Sequence[str]], ...]:
        default = () if self.default is None else (self.default,)
        return (
            ("the default version: set another one first", default),
            ("in the canary split: route without it first", tuple(self.canary)),
            ("a shadow version: route without it first", self.shadow),
        )

    def _out_of_split(self, version: str) -> "Table":
        shadow = tuple(other for other in self.shadow if other != version)
        return replace(self, canary=_less(self.canary, version), shadow=shadow)

    def _require(self, version: str) -> None:
        if version not in self.slots:
            raise self.unknown(version)
        if version in self.quarantined:
            why = self.quarantined[version] or "no reason given"
            raise BadConfiguration(
                f"version {version!r} of {self.name} is quarantined ({why}): "
                "call release(version) to let it serve again"
            )

    def _check_split(self, canary: Mapping[str, float], shadow: Sequence[str]) -> None:
        if isinstance(shadow, str):
            raise BadConfiguration(f"shadow must be a list of versions, not the text {shadow!r}")
        if self.default is None:
            raise BadConfiguration(f"{self.name} has no default version to split traffic from")
        for version in (*canary, *shadow):
            self._require(version)
            if version == self.default:
                raise BadConfiguration(f"version {version!r} is the default already")
        for version, share in canary.items():
            if not 0.0 <= share <= 1.0:
                raise BadConfiguration(f"canary share of {version!r} must be 0..1, not {share!r}")
        total = sum(canary.values())
        if total > 1.0 + 1e-9:
            raise BadConfiguration(f"canary shares add up to {total:.6g}; at most 1 is possible")
        for version in shadow:
            if not self.slots[version].synchronous:
                raise BadConfiguration(f"shadow version {version!r} is async; shadows are called")


def _with(mapping: Mapping[str, Any], name: str, value: Any) -> Mapping[str, Any]:
    return MappingProxyType({**mapping, name: value})


def _less(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return MappingProxyType({k: v for k, v in mapping.items() if k != name})
