"""Model versions, their aliases, and who was champion when."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, EnvironmentMismatch
from prodml.events import EVENTS, AliasMoved, ModelRegistered, Stream, VersionsRetired
from prodml.registry.aliases import Aliases, AliasMove, AliasWatch, epoch
from prodml.registry.bundle import Bundle
from prodml.registry.catalogue import Catalogue
from prodml.registry.environment import Environment, EnvironmentWarning, packages_of
from prodml.registry.files import Archive, Directory
from prodml.registry.lineage import Family, Lineage, split
from prodml.registry.pruning import prune
from prodml.registry.records import check_name, check_plain
from prodml.registry.retention import Pruned, Retention
from prodml.registry.serializers import (
    BundleSerializer,
    BytesSerializer,
    JSONSerializer,
    Serializer,
)
from prodml.registry.signing import Signer, Verifier
from prodml.registry.stored import StoreArchive
from prodml.registry.version import ModelVersion, digest_of_files, listed
from prodml.stores import DurableStore, open_durable_store
from prodml.types import MISS, Miss, ModelRef

__all__ = ["ModelRegistry"]

Place: TypeAlias = str | os.PathLike[str] | DurableStore | Archive

_JSON = JSONSerializer()
_BYTES = BytesSerializer()
_BUNDLE = BundleSerializer()


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
        Known when loading, beside ``bytes``, ``bundle`` and ``json``; the first is the
        default for models that are none of these.
    signer
        Signs every manifest that is registered here.
    trusted
        Public keys: only what one of them has signed is loaded, and nothing if there are
        none.  None, the default, asks for no signature.
    environment
        What a load does when Python or a package has another version than at registration:
        ``"warn"``, ``"raise"`` or ``"ignore"``.
    packages
        Distributions whose versions are recorded, beside those that the model's class and
        the serializer come from.

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
    signer: Signer | None = None
    trusted: Sequence[Verifier] | None = None
    environment: Literal["warn", "raise", "ignore"] = "warn"
    packages: Sequence[str] = ()
    name: str = "registry"
    clock: Clock = SYSTEM_CLOCK
    events: Stream = EVENTS
    family: Family = field(init=False, repr=False)
    _archive: Archive = field(init=False, repr=False)
    _aliases: Aliases = field(init=False, repr=False)
    _catalogue: Catalogue = field(init=False, repr=False)
    _known: dict[str, Serializer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.environment not in {"warn", "raise", "ignore"}:
            raise BadConfiguration(
                f'environment must be "warn", "raise" or "ignore", not {self.environment!r}'
            )
        if isinstance(self.packages, str):
            raise BadConfiguration(f"packages must be a list, not {self.packages!r}")
        if self.trusted is not None:
            self.trusted = _keys(self.trusted)
        self._archive = _opened(self.store)
        self._aliases = Aliases(self._archive, self.clock)
        self._catalogue = Catalogue(self._archive, self._aliases)
        self.family = Family(self._catalogue.lineages)
        known: Sequence[Serializer] = (_BYTES, _BUNDLE, _JSON, *self.serializers)
        self._known = {serializer.name: serializer for serializer in known}

    # -- versions -----------------------------------------------------------------------

    def register(
        self,
        name: str,
        model: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        serializer: Serializer | None = None,
        lineage: Lineage | None = None,
        tags: Sequence[str] = (),
    ) -> ModelRef:
        """Keep ``model`` as the next version of ``name``; on the disk when this returns.

        Parameters
        ----------
        metadata
            Plain JSON data: metrics, settings, notes.
        serializer
            How the model becomes bytes; by default ``bytes`` for bytes, ``bundle`` for a
            :class:`Bundle`, ``json`` for plain data, else the first of ``serializers``.
        lineage
            Data, code and parents; the parents must be registered.
        tags
            Words that retention goes by; see :meth:`tag`.

        Raises
        ------
        BadConfiguration
            A name that is not ``[A-Za-z0-9._-]``, metadata that is not plain data, or a
            model that no known serializer takes; nothing was written.
        UnknownVersion
            A parent is not registered; nothing was written.
        """
        check_name(name)
        given = check_plain("metadata", metadata or {})
        words = _words(tags)
        lineage = lineage or Lineage()
        for parent in lineage.parents:
            self._catalogue.number(*split(str(parent)))
        serializer, data = self._dumped(model, serializer)
        files = listed(data)
        version = ModelVersion(
            name=name,
            version="",
            digest=digest_of_files(files, isinstance(data, Bundle)),
            files=files,
            bundle=isinstance(data, Bundle),
            serializer=serializer.name,
            environment=Environment.here(self._needed(model, serializer)),
            lineage=lineage,
            metadata=given,
            created=self.clock.time(),
            registered_tags=words,
        )
        self._catalogue.stage(version, data)
        with self._archive.writing():
            ref = self._catalogue.add(version, data, self.signer).ref
        self.events.emit(ModelRegistered(at=self.clock.time(), source=self.name, ref=ref))
        return ref

    def load(
        self, name: str, version_or_alias: str, *, serializer: Serializer | None = None
    ) -> Any:
        """Model of a version, decoded from the very bytes that were checked.

        In this order: the manifest's checksum, its signature if keys are trusted, that it is
        the manifest of this version, the environment, the size and the SHA-256 of every
        file; then the serializer gets those bytes.

        Parameters
        ----------
        serializer
            Used for this call instead of those that the registry knows.

        Raises
        ------
        UnknownVersion
            There is no such version or alias; ``RetiredVersion`` if its bytes were removed.
        CorruptRecord
            The bytes are not those that were registered; no serializer has seen them.
        UntrustedModel
            No trusted key has signed it, or it needs types that are not allowed.
        EnvironmentMismatch
            Versions differ, and ``environment`` is ``"raise"``.
        BadConfiguration
            It was written by a serializer that this registry was not given.
        """
        number = self._catalogue.number(name, version_or_alias)
        version = self._catalogue.version(name, number, self.trusted)
        where = f"{name}@{version_or_alias}"
        known = self._known if serializer is None else {serializer.name: serializer}
        decoder = known.get(version.serializer)
        if decoder is None:
            raise BadConfiguration(
                f"{where} was written by serializer {version.serializer!r}; known here: "
                f"{', '.join(known)}; pass it to load or in ModelRegistry(serializers=[...])"
            )
        self._compare(where, version.environment)
        return decoder.load(self._catalogue.files(version))

    def verify(self, name: str, version_or_alias: str) -> ModelVersion:
        """Check everything that :meth:`load` checks, but the environment, and decode nothing."""
        number = self._catalogue.number(name, version_or_alias)
        version = self._catalogue.version(name, number, self.trusted)
        self._catalogue.files(version)
        return version

    def resolve(
        self, name: str, version_or_alias: str, *, at: float | datetime | None = None
    ) -> ModelRef:
        """Which version this is, or which it was at ``at`` (epoch seconds or aware datetime).

        A retired version is still told: its bytes are gone, its record stays.

        Examples
        --------
        >>> registry = ModelRegistry("memory://")
        >>> for bias in (1, 2):
        ...     _ = registry.alias("churn", "champion", registry.register("churn", bias).version)
        >>> registry.resolve("churn", "champion").version
        '2'
        """
        number = self._catalogue.number(name, version_or_alias, epoch("at", at))
        return self._catalogue.version(name, number).ref

    def at(self, name: str, alias: str, when: float | datetime) -> ModelRef:
        """Who served as ``alias`` at ``when``: :meth:`resolve` with a time.

        Raises
        ------
        UnknownVersion
            The alias pointed at nothing then.
        """
        return self.resolve(name, alias, at=when)

    def describe(self, name: str, version_or_alias: str) -> ModelVersion:
        """Everything that is known about a version."""
        return self._catalogue.version(name, self._catalogue.number(name, version_or_alias))

    def metadata(self, name: str, version_or_alias: str) -> Mapping[str, Any]:
        """What was said about a version when it was registered."""
        return self.resolve(name, version_or_alias).metadata

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of ``name`` that can be loaded, oldest first; empty if there are none."""
        return self._catalogue.live(name)

    def models(self) -> tuple[str, ...]:
        """Names with at least one version, sorted."""
        return self._catalogue.models()

    def tag(self, name: str, version: str, *tags: str) -> None:
        """Replace the tags of a version; without any it has none.

        Raises
        ------
        UnknownVersion
            There is no such version.

        Examples
        --------
        >>> registry = ModelRegistry("memory://")
        >>> _ = registry.register("churn", b"weights")
        >>> registry.tag("churn", "1", "audit")
        >>> registry.describe("churn", "1").tags
        ('audit',)
        """
        words = _words(tags)
        with self._archive.writing():
            self._catalogue.pinned(name, version)
            said = self._catalogue.marks(name).with_tags(version, words)
            change = f"tags of {version}: {', '.join(words) or 'none'}"
            self._catalogue.mark(name, said, self.clock.time(), change)

    def prune(
        self, name: str | None = None, retention: Retention | None = None, *, dry_run: bool = False
    ) -> Pruned:
        """Remove the bytes of versions that no rule keeps; records and histories stay.

        What killed processes left behind goes too.  Safe beside readers, registrations and
        alias moves: writers wait for each other, and a reader that comes too late gets
        ``RetiredVersion``, never half a model.

        Parameters
        ----------
        name
            A model; None for all of them.
        retention
            The rules; ``Retention()`` by default.
        dry_run
            Only tell what would happen.

        Raises
        ------
        CorruptRecord
            A manifest cannot be read, so nobody knows what it needs; nothing was removed.

        Examples
        --------
        >>> registry = ModelRegistry("memory://")
        >>> for bias in range(3):
        ...     _ = registry.register("churn", bias)
        >>> move = registry.alias("churn", "champion", "1")
        >>> rules = Retention(last=1, newer_than=0)
        >>> pruned = registry.prune("churn", rules)
        >>> pruned.retired, pruned.kept["churn@1"], registry.versions("churn")
        (('churn@2',), 'alias champion', ('1', '3'))
        """
        names = self.models() if name is None else (name,)
        now = self.clock.time()
        pruned = prune(self._catalogue, names, retention or Retention(), now, dry_run)
        if pruned.retired and not dry_run:
            fact = VersionsRetired(at=now, source=self.name, versions=pruned.retired)
            self.events.emit(fact)
        return pruned

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
            There is no such version; ``RetiredVersion`` if its bytes were removed.

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
        move = self._move(name, alias, version, expected, reason)
        assert move is not None
        return move

    def unalias(
        self, name: str, alias: str, *, expected: str | Miss | None = MISS, reason: str = ""
    ) -> AliasMove | None:
        """Let ``alias`` point at nothing; its history stays.  None if it never pointed.

        Raises
        ------
        Conflict
            The alias is not at ``expected``; nothing has changed.
        """
        return self._move(name, alias, None, expected, reason)

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias of ``name``."""
        return self._aliases.now(name)

    def history(
        self,
        name: str,
        alias: str,
        *,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
    ) -> tuple[AliasMove, ...]:
        """Every move of ``alias``, oldest first; empty if it was never set.

        With ``since`` and ``until`` (epoch seconds or aware datetimes), those that were in
        force at some time between them: who served last Tuesday, all day.
        """
        return self._aliases.history(name, alias, epoch("since", since), epoch("until", until))

    def watch(self, name: str, alias: str) -> AliasWatch:
        """Something to ask cheaply whether the alias has moved."""
        watch = AliasWatch(name, alias, self._aliases)
        watch.generation()
        return watch

    # -- inside -------------------------------------------------------------------------

    def _move(
        self, name: str, alias: str, new: str | None, expected: str | Miss | None, reason: str
    ) -> AliasMove | None:
        # Outside the lock first: a wrong name must not make a directory.
        self._aliases.generation(name, alias)
        if new is not None:
            self._catalogue.pinned(name, new)
        with self._archive.writing():
            if new is not None:
                self._catalogue.pinned(name, new)
            move, moved = self._aliases.move(name, alias, new, expected, reason)
        if move is not None and moved:
            self.events.emit(
                AliasMoved(
                    at=move.at, source=self.name, name=name, alias=alias, old=move.old, new=new
                )
            )
        return move

    def _dumped(
        self, model: Any, serializer: Serializer | None
    ) -> tuple[Serializer, bytes | Bundle]:
        if serializer is not None:
            return serializer, serializer.dump(model)
        if isinstance(model, bytes | bytearray | memoryview):
            return _BYTES, _BYTES.dump(model)
        if isinstance(model, Bundle):
            return _BUNDLE, model
        try:
            return _JSON, _JSON.dump(model)
        except BadConfiguration as error:
            if self.serializers:
                return self.serializers[0], self.serializers[0].dump(model)
            raise BadConfiguration(
                f"no serializer for {type(model).__name__} ({error}): pass serializer=, for "
                "example SkopsSerializer(), ONNXSerializer() or PickleSerializer(trusted=True)"
            ) from None

    def _needed(self, model: Any, serializer: Serializer) -> set[str]:
        return {*self.packages, *getattr(serializer, "packages", ()), *packages_of(model)}

    def _compare(self, where: str, recorded: Environment) -> None:
        differences = () if self.environment == "ignore" else recorded.differences()
        if not differences:
            return
        if self.environment == "raise":
            raise EnvironmentMismatch(where, differences)
        told = f"{where} was registered with {'; '.join(differences)}"
        warnings.warn(told, EnvironmentWarning, stacklevel=3)


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


def _keys(trusted: Any) -> tuple[Verifier, ...]:
    if not isinstance(trusted, Sequence) or not all(hasattr(key, "verify") for key in trusted):
        raise BadConfiguration("trusted must be a list of keys, such as [PublicKey(pem)]")
    return tuple(trusted)


def _words(tags: Sequence[Any]) -> tuple[str, ...]:
    if isinstance(tags, str) or not all(isinstance(tag, str) and tag for tag in tags):
        raise BadConfiguration(f"tags must be a list of words, not {tags!r}")
    return tuple(sorted({*tags}))
