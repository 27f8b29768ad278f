"""Model versions, their aliases, and who was champion when."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any, TypeAlias, cast, final

from prodml.clock import SYSTEM_CLOCK, Clock, utc
from prodml.errors import BadConfiguration, Conflict, CorruptRecord, UnknownVersion
from prodml.events import EVENTS, AliasMoved, ModelRegistered, Stream
from prodml.registry.files import Archive, Directory, StoreArchive, digest_of
from prodml.registry.serializers import BytesSerializer, JSONSerializer, Serializer
from prodml.stores import DurableStore, open_durable_store
from prodml.types import MISS, Miss, ModelRef

__all__ = ["AliasMove", "ModelRegistry"]

Place: TypeAlias = str | os.PathLike[str] | DurableStore | Archive

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
_JSON = JSONSerializer()
_BYTES = BytesSerializer()


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """Alias ``alias`` went from version ``old`` to ``new`` at ``at`` (epoch seconds, UTC).

    Examples
    --------
    >>> AliasMove(alias="champion", old=None, new="1", at=0.0).when.year
    1970
    """

    alias: str
    old: str | None
    new: str
    at: float
    reason: str = ""

    @property
    def when(self) -> datetime:
        """``at`` as an aware UTC datetime."""
        return utc(self.at)


@final
@dataclass(slots=True, eq=False)
class ModelRegistry:
    """Keep model versions by name, point aliases at them, and load what was registered.

    Versions are ``"1"``, ``"2"``, ... per name.  Nothing is overwritten: artifacts lie under
    their SHA-256, versions and alias moves are numbered records that exactly one process
    can add.  So several processes may register and move aliases at once, a reader never
    sees half a change, and a process killed at any point leaves a readable registry.

    Parameters
    ----------
    store
        A directory (made when first written), ``"sqlite:///models.db"``, ``"memory://"``,
        a ``DurableStore``, or an :class:`~prodml.registry.files.Archive`.
    serializers
        Known when loading, beside ``bytes`` and ``json``; the first is the default for
        models that are neither bytes nor plain data.

    Raises
    ------
    StoreUnavailable
        From every method, when the place cannot be read or written.
    CorruptRecord
        When what lies there is not what was written.

    Examples
    --------
    >>> registry = ModelRegistry("memory://")
    >>> ref = registry.register("churn", {"bias": 0.2}, {"auc": 0.91})
    >>> move = registry.alias("churn", "champion", ref.version)
    >>> registry.load("churn", "champion"), str(registry.resolve("churn", "champion"))
    ({'bias': 0.2}, 'churn@1')
    """

    store: Place
    _: KW_ONLY
    serializers: Sequence[Serializer] = ()
    name: str = "registry"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    _archive: Archive = field(init=False, repr=False)
    _known: dict[str, Serializer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._archive = _opened(self.store)
        known: Sequence[Serializer] = (_BYTES, _JSON, *self.serializers)
        self._known = {serializer.name: serializer for serializer in known}

    # -- versions -----------------------------------------------------------------------

    def register(
        self,
        name: str,
        model: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        serializer: Serializer | None = None,
    ) -> ModelRef:
        """Keep ``model`` as the next version of ``name``; on the disk when this returns.

        Parameters
        ----------
        metadata
            Plain JSON data: metrics, lineage, versions of libraries.
        serializer
            How the model becomes bytes; by default ``bytes`` for bytes, ``json`` for plain
            data, else the first of ``serializers``.

        Raises
        ------
        BadConfiguration
            A name that is not ``[A-Za-z0-9._-]``, metadata that is not plain data, or a
            model that no known serializer takes; nothing was written.
        """
        _check_name(_NAME, "model name", name)
        given = dict(metadata or {})
        _JSON.dump(given)
        serializer, data = self._dumped(model, serializer)
        digest = digest_of(data)
        self._archive.put(digest, data)
        entry: dict[str, Any] = {
            "name": name,
            "digest": digest,
            "size": len(data),
            "serializer": serializer.name,
            "metadata": given,
            "created": self.clock.time(),
        }
        number = self._add(f"models/{name}", entry)
        ref = _ref(entry, number)
        self.events.emit(ModelRegistered(at=self.clock.time(), source=self.name, ref=ref))
        return ref

    def load(
        self, name: str, version_or_alias: str, *, serializer: Serializer | None = None
    ) -> Any:
        """Model of a version, decoded from the very bytes whose size and SHA-256 were checked.

        Parameters
        ----------
        serializer
            Used for this call instead of those that the registry knows.

        Raises
        ------
        UnknownVersion
            There is no such version or alias.
        CorruptRecord
            The bytes are not those that were registered; no serializer has seen them.
        BadConfiguration
            They were written by a serializer that this registry was not given.
        """
        entry = self._entry(name, self._number(name, version_or_alias))
        data = self._archive.get(entry["digest"])
        where = f"{name}@{version_or_alias}"
        if len(data) != entry["size"]:
            raise CorruptRecord(where, f"{len(data)} bytes instead of {entry['size']}")
        if digest_of(data) != entry["digest"]:
            raise CorruptRecord(where, f"the SHA-256 is not {entry['digest']}")
        known = self._known if serializer is None else {serializer.name: serializer}
        decoder = known.get(entry["serializer"])
        if decoder is None:
            raise BadConfiguration(
                f"{where} was written by serializer {entry['serializer']!r}; known here: "
                f"{', '.join(known)}; pass it to load or in ModelRegistry(serializers=[...])"
            )
        return decoder.load(data)

    def resolve(
        self, name: str, version_or_alias: str, *, at: float | datetime | None = None
    ) -> ModelRef:
        """Which version this is, or which it was at ``at`` (epoch seconds or aware datetime).

        Examples
        --------
        >>> registry = ModelRegistry("memory://")
        >>> for bias in (1, 2):
        ...     _ = registry.alias("churn", "champion", registry.register("churn", bias).version)
        >>> registry.resolve("churn", "champion").version
        '2'
        """
        number = self._number(name, version_or_alias, at)
        return _ref(self._entry(name, number), number)

    def metadata(self, name: str, version_or_alias: str) -> Mapping[str, Any]:
        """What was said about a version when it was registered."""
        return self.resolve(name, version_or_alias).metadata

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of ``name``, oldest first; empty if there are none."""
        _check_name(_NAME, "model name", name)
        count = self._archive.count(f"models/{name}")
        return tuple(str(number) for number in range(1, count + 1))

    def models(self) -> tuple[str, ...]:
        """Names with at least one version, sorted."""
        return tuple(name for name in self._archive.topics("models") if self.versions(name))

    # -- aliases ------------------------------------------------------------------------

    def alias(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        expected: str | Miss | None = MISS,
        reason: str = "",
    ) -> AliasMove:
        """Point ``alias`` at ``version`` and add the move to its history.

        Parameters
        ----------
        expected
            Compare-and-swap: the version that the alias must point at now, None if it must
            not exist yet.  Without it the move is unconditional.

        Returns
        -------
        AliasMove
            The move; the last one if the alias points there already.

        Raises
        ------
        Conflict
            The alias is not at ``expected``; nothing has changed.
        UnknownVersion
            There is no such version.

        Examples
        --------
        >>> registry = ModelRegistry("memory://")
        >>> for bias in (1, 2):
        ...     _ = registry.register("churn", bias)
        >>> registry.alias("churn", "champion", "1", expected=None).old is None
        True
        >>> registry.alias("churn", "champion", "2", expected=None)
        Traceback (most recent call last):
        prodml.errors.Conflict: 'churn@champion' changed: expected None, found '1'
        """
        _check_name(_ALIAS, "alias", alias)
        self._entry(name, self._number(name, version, pinned=True))
        topic = f"aliases/{name}/{alias}"
        while True:
            count = self._archive.count(topic)
            last = self._move(topic, count)
            old = None if last is None else last.new
            if expected is not MISS and expected != old:
                raise Conflict(f"{name}@{alias}", expected, old)
            if last is not None and old == version:
                return last
            move = AliasMove(alias=alias, old=old, new=version, at=self.clock.time(), reason=reason)
            if self._archive.add(topic, count + 1, _encoded(_fields(move))):
                break
        fact = AliasMoved(
            at=move.at, source=self.name, name=name, alias=alias, old=old, new=version
        )
        self.events.emit(fact)
        return move

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias of ``name``."""
        _check_name(_NAME, "model name", name)
        found: dict[str, str] = {}
        for alias in self._archive.topics(f"aliases/{name}"):
            topic = f"aliases/{name}/{alias}"
            move = self._move(topic, self._archive.count(topic))
            if move is not None:
                found[alias] = move.new
        return found

    def history(self, name: str, alias: str) -> tuple[AliasMove, ...]:
        """Every move of ``alias``, oldest first; empty if it was never set."""
        _check_name(_NAME, "model name", name)
        _check_name(_ALIAS, "alias", alias)
        topic = f"aliases/{name}/{alias}"
        count = self._archive.count(topic)
        moves = [self._move(topic, number) for number in range(1, count + 1)]
        return tuple(move for move in moves if move is not None)

    # -- inside -------------------------------------------------------------------------

    def _dumped(self, model: Any, serializer: Serializer | None) -> tuple[Serializer, bytes]:
        if serializer is not None:
            return serializer, serializer.dump(model)
        if isinstance(model, bytes | bytearray | memoryview):
            return _BYTES, _BYTES.dump(model)
        try:
            return _JSON, _JSON.dump(model)
        except BadConfiguration as error:
            if self.serializers:
                return self.serializers[0], self.serializers[0].dump(model)
            raise BadConfiguration(
                f"no serializer for {type(model).__name__} ({error}): pass serializer=, for "
                "example one of skops or ONNX, or PickleSerializer(trusted=True)"
            ) from None

    def _add(self, topic: str, entry: Mapping[str, Any]) -> int:
        data = _encoded(entry)
        while True:
            number = self._archive.count(topic) + 1
            if self._archive.add(topic, number, data):
                return number

    def _number(
        self,
        name: str,
        wanted: str,
        at: float | datetime | None = None,
        *,
        pinned: bool = False,
    ) -> int:
        _check_name(_NAME, "model name", name)
        versions = self.versions(name)
        if wanted in versions:
            return int(wanted)
        found = None
        if not pinned and _ALIAS.fullmatch(wanted):
            found = self._pointed(name, wanted, _epoch(at))
        if found is None:
            known = versions if pinned else (*versions, *self.aliases(name))
            raise UnknownVersion(name, wanted, known)
        return int(found)

    def _pointed(self, name: str, alias: str, until: float | None) -> str | None:
        """Version that ``alias`` points at, or pointed at when it was ``until``."""
        moves = self._latest(name, alias) if until is None else self.history(name, alias)
        for move in reversed(moves):
            if until is None or move.at <= until:
                return move.new
        return None

    def _latest(self, name: str, alias: str) -> tuple[AliasMove, ...]:
        topic = f"aliases/{name}/{alias}"
        move = self._move(topic, self._archive.count(topic))
        return () if move is None else (move,)

    def _entry(self, name: str, number: int) -> dict[str, Any]:
        topic = f"models/{name}"
        return _decoded(f"{topic}/{number}", self._archive.record(topic, number))

    def _move(self, topic: str, number: int) -> AliasMove | None:
        if number == 0:
            return None
        return AliasMove(**_decoded(f"{topic}/{number}", self._archive.record(topic, number)))


def _opened(place: Place) -> Archive:
    if isinstance(place, str):
        if "://" in place:
            return StoreArchive(open_durable_store(place))
        return Directory(place)
    if isinstance(place, os.PathLike):
        return Directory(place)
    if hasattr(place, "topics"):
        return cast("Archive", place)
    return StoreArchive(open_durable_store(place))


def _epoch(at: float | datetime | None) -> float | None:
    if not isinstance(at, datetime):
        return at
    if at.tzinfo is None:
        raise BadConfiguration(f"at must have a time zone: {at!r} means another time elsewhere")
    return at.timestamp()


def _check_name(pattern: re.Pattern[str], what: str, name: str) -> None:
    if not pattern.fullmatch(name):
        raise BadConfiguration(f"{what} must match {pattern.pattern}, not {name!r}")


def _ref(entry: Mapping[str, Any], number: int) -> ModelRef:
    return ModelRef(
        name=entry["name"],
        version=str(number),
        digest=entry["digest"],
        metadata=entry["metadata"],
        created=entry["created"],
    )


def _fields(move: AliasMove) -> dict[str, Any]:
    return {
        "alias": move.alias,
        "old": move.old,
        "new": move.new,
        "at": move.at,
        "reason": move.reason,
    }


def _encoded(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode()


def _decoded(where: str, data: bytes) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(data))
    except ValueError as error:
        raise CorruptRecord(where, str(error)) from error
