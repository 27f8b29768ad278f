"""The numbered versions of every model: reading, adding, and what their files are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from prodml.errors import BadConfiguration, CorruptRecord, RetiredVersion, UnknownVersion
from prodml.registry.aliases import Aliases
from prodml.registry.bundle import Bundle
from prodml.registry.files import Archive
from prodml.registry.lineage import Lineage
from prodml.registry.marks import Marks, read_marks, write_marks
from prodml.registry.records import (
    ALIAS,
    VERSION,
    canonical,
    check_name,
    parsed,
    sealed,
    unsealed,
)
from prodml.registry.signing import Signer, Verifier, check_signed, signed
from prodml.registry.version import ModelVersion, StoredFile, manifest_of, version_of

__all__: list[str] = []


@final
@dataclass(slots=True)
class Catalogue:
    """Versions by model, over an archive."""

    archive: Archive
    aliases: Aliases

    # -- reading ------------------------------------------------------------------------

    def models(self) -> tuple[str, ...]:
        """Names with at least one version, retired ones included."""
        return tuple(name for name in self.archive.topics("models") if self.count(name))

    def count(self, name: str) -> int:
        """How many versions were ever registered."""
        check_name(name)
        return self.archive.count(f"models/{name}")

    def live(self, name: str) -> tuple[str, ...]:
        """Versions that are not retired, oldest first."""
        count, retired = self.count(name), self.marks(name).retired
        return tuple(str(number) for number in range(1, count + 1) if number not in retired)

    def marks(self, name: str) -> Marks:
        """What was said about the versions later."""
        return read_marks(self.archive, name)

    def version(
        self,
        name: str,
        number: int,
        trusted: Sequence[Verifier] | None = None,
        known: Marks | None = None,
    ) -> ModelVersion:
        """Version ``number``, from the bytes that were checked.

        Raises
        ------
        CorruptRecord
            They are damaged, or those of another version.
        UntrustedModel
            There are trusted keys, and none of them has signed.
        """
        where = f"{name}@{number}"
        record = unsealed(where, self.archive.record(f"models/{name}", number))
        manifest, *rest = record.split(b"\n")
        signatures = [parsed(where, line) for line in rest if line]
        if trusted is not None:
            check_signed(where, manifest, signatures, trusted)
        version = version_of(where, manifest, [str(entry.get("key")) for entry in signatures])
        if (version.name, version.version) != (name, str(number)):
            raise CorruptRecord(where, f"it is {version.name}@{version.version}")
        said = self.marks(name) if known is None else known
        tags = said.tags.get(version.version, version.registered_tags)
        return replace(version, tags=tags, retired=number in said.retired)

    def every(self, name: str, *, retired: bool) -> list[ModelVersion]:
        """All versions, oldest first, with or without the retired ones."""
        known = self.marks(name)
        numbers = range(1, self.count(name) + 1)
        wanted = [number for number in numbers if retired or number not in known.retired]
        return [self.version(name, number, known=known) for number in wanted]

    def lineages(self) -> Iterator[tuple[str, Lineage]]:
        """Lineage by ``name@version``, of everything."""
        for name in self.models():
            for version in self.every(name, retired=True):
                yield f"{name}@{version.version}", version.lineage

    def number(self, name: str, wanted: str, when: float | None = None) -> int:
        """Number of a version, or of what an alias points at or pointed at."""
        found = self._pinned(name, wanted)
        if found is None and ALIAS.fullmatch(wanted):
            target = self.aliases.at(name, wanted, when)
            found = None if target is None else int(target)
        if found is None:
            raise UnknownVersion(name, wanted, (*self.live(name), *self.aliases.now(name)))
        return found

    def pinned(self, name: str, version: str) -> int:
        """Number of a version that still has its bytes."""
        number = self._pinned(name, version)
        if number is None:
            raise UnknownVersion(name, version, self.live(name))
        if number in self.marks(name).retired:
            raise RetiredVersion(name, version, self.live(name))
        return number

    def files(self, version: ModelVersion) -> bytes | Bundle:
        """The files of a version, every one verified.

        Raises
        ------
        RetiredVersion
            Retention has removed them.
        CorruptRecord
            They are missing, or not what was registered.
        """
        where = f"{version.name}@{version.version}"
        try:
            found = {file.path: self._file(where, file) for file in version.files}
        except CorruptRecord:
            # Asked only now: whoever loads what is there need not read the marks again.
            if int(version.version) in self.marks(version.name).retired:
                known = self.live(version.name)
                raise RetiredVersion(version.name, version.version, known) from None
            raise
        return Bundle(found) if version.bundle else found[version.files[0].path]

    # -- writing ------------------------------------------------------------------------

    def stage(self, version: ModelVersion, data: bytes | Bundle) -> None:
        """Bring the files of a version to where they belong, before the lock."""
        self._each(self.archive.stage, version, data)

    def add(
        self, version: ModelVersion, data: bytes | Bundle, signer: Signer | None
    ) -> ModelVersion:
        """Number a version and make it known, under the lock."""
        # A pruning may have come between the staging and the lock.
        self._each(self.archive.put, version, data)
        topic = f"models/{version.name}"
        while True:
            number = self.archive.count(topic) + 1
            numbered = replace(version, version=str(number))
            manifest = manifest_of(numbered)
            lines = [manifest]
            if signer is not None:
                lines.append(canonical(signed(manifest, signer)))
            if self.archive.add(topic, number, sealed(b"\n".join(lines))):
                return replace(numbered, signed_by=(signer.key_id,) if signer else ())

    def mark(self, name: str, said: Marks, at: float, change: str) -> None:
        """Change the marks of ``name``, under the lock they were read under."""
        if said != self.marks(name):
            write_marks(self.archive, name, said, at, change)

    # -- inside -------------------------------------------------------------------------

    def _pinned(self, name: str, version: object) -> int | None:
        if not isinstance(version, str):
            raise BadConfiguration(f"a version of {name} is text, such as '1', not {version!r}")
        count = self.count(name)
        return int(version) if VERSION.fullmatch(version) and int(version) <= count else None

    def _file(self, where: str, file: StoredFile) -> bytes:
        try:
            data = self.archive.get(file.sha256, file.size)
        except CorruptRecord as error:
            raise CorruptRecord(where, f"{file.path!r}: {error}") from None
        return file.verified(where, data)

    def _each(
        self, keep: Callable[[str, bytes], Any], version: ModelVersion, data: bytes | Bundle
    ) -> None:
        files = data if isinstance(data, Bundle) else {version.files[0].path: data}
        for file in version.files:
            keep(file.sha256, files[file.path])
