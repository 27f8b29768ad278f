"""The manifest of a version: everything that was said and measured when it was registered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from prodml.errors import BadConfiguration, CorruptRecord
from prodml.registry.bundle import Bundle
from prodml.registry.environment import Environment
from prodml.registry.lineage import Lineage
from prodml.registry.records import DIGEST, canonical, digest_of, parsed
from prodml.types import ModelRef

__all__ = ["ModelVersion", "StoredFile"]

FORMAT: Final = 1
# The one file of a model that is no bundle.
WHOLE: Final = "model"


@final
@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a version.

    Examples
    --------
    >>> StoredFile.of("model", b"weights").size
    7
    """

    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: str, data: bytes) -> "StoredFile":
        """The entry of ``data`` under ``path``."""
        return cls(path, len(data), digest_of(data))

    def verified(self, where: str, data: bytes) -> bytes:
        """``data`` if it is what was registered.

        Raises
        ------
        CorruptRecord
            Its size or its SHA-256 is another.
        """
        if len(data) != self.size:
            much = "more" if len(data) > self.size else str(len(data))
            raise CorruptRecord(where, f"{self.path!r} has {much} bytes instead of {self.size}")
        if digest_of(data) != self.sha256:
            raise CorruptRecord(where, f"the SHA-256 of {self.path!r} is not {self.sha256}")
        return data


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A registered version, as ``registry.describe`` tells it.

    Parameters
    ----------
    digest
        SHA-256 of the bytes; of a bundle, of its list of files.
    bundle
        Whether it is several files.
    created
        Epoch seconds, UTC.
    tags
        Those it has now; ``registered_tags`` are those it began with.
    signed_by
        Ids of the keys that signed the manifest; nothing is said about their being valid.
    retired
        Whether retention has removed the bytes.

    Examples
    --------
    >>> from prodml.registry import ModelRegistry
    >>> registry = ModelRegistry("memory://")
    >>> _ = registry.register("churn", {"bias": 0.2}, tags=["audit"])
    >>> version = registry.describe("churn", "1")
    >>> str(version.ref), version.serializer, version.tags, version.size
    ('churn@1', 'json', ('audit',), 12)
    """

    name: str
    version: str
    digest: str
    files: tuple[StoredFile, ...]
    bundle: bool
    serializer: str
    environment: Environment
    lineage: Lineage
    metadata: Mapping[str, Any]
    created: float
    registered_tags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    retired: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def ref(self) -> ModelRef:
        """The reference that the rest of the house passes around."""
        return ModelRef(
            name=self.name,
            version=self.version,
            digest=self.digest,
            metadata=self.metadata,
            created=self.created,
        )


def listed(data: bytes | Bundle) -> tuple[StoredFile, ...]:
    """Entries of the files of a model."""
    files = data if isinstance(data, Bundle) else {WHOLE: data}
    return tuple(StoredFile.of(path, files[path]) for path in files)


def digest_of_files(files: Sequence[StoredFile], bundle: bool) -> str:
    """The digest of a version."""
    return digest_of(canonical(_plain(files))) if bundle else files[0].sha256


def manifest_of(version: ModelVersion) -> bytes:
    """The bytes that are written, and signed."""
    return canonical(
        {
            "format": FORMAT,
            "name": version.name,
            "version": version.version,
            "files": _plain(version.files),
            "bundle": version.bundle,
            "serializer": version.serializer,
            "environment": {
                "python": version.environment.python,
                "packages": dict(version.environment.packages),
            },
            "lineage": version.lineage.to_dict(),
            "metadata": dict(version.metadata),
            "tags": list(version.registered_tags),
            "created": version.created,
        }
    )


def version_of(where: str, manifest: bytes, signed_by: Sequence[str] = ()) -> ModelVersion:
    """What a manifest says.

    Raises
    ------
    CorruptRecord
        It is of another format, or not what this library writes.
    """
    entry = parsed(where, manifest)
    if entry.get("format") != FORMAT:
        raise CorruptRecord(where, f"format {entry.get('format')!r}, known here: {FORMAT}")
    try:
        files = tuple(_file(where, file) for file in entry["files"])
        # The rules for paths hold for manifests too: whoever writes one may mean harm.
        distinct = len(Bundle({file.path: b"" for file in files}))
        if distinct != len(files) or (distinct > 1 and not entry["bundle"]):
            raise CorruptRecord(where, "its files are not those of one model")
        return ModelVersion(
            name=entry["name"],
            version=entry["version"],
            digest=digest_of_files(files, entry["bundle"]),
            files=files,
            bundle=entry["bundle"],
            serializer=entry["serializer"],
            environment=Environment(**entry["environment"]),
            lineage=Lineage(**entry["lineage"]),
            metadata=entry["metadata"],
            created=float(entry["created"]),
            registered_tags=tuple(entry["tags"]),
            signed_by=tuple(signed_by),
        )
    except (KeyError, TypeError, ValueError, AttributeError, BadConfiguration) as error:
        raise CorruptRecord(where, f"not a manifest: {error!r}") from error


def _plain(files: Sequence[StoredFile]) -> list[dict[str, object]]:
    return [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]


def _file(where: str, entry: Mapping[str, Any]) -> StoredFile:
    size, sha256 = entry["size"], entry["sha256"]
    # The digest becomes a path.
    if type(size) is not int or size < 0 or not DIGEST.fullmatch(sha256):
        raise CorruptRecord(where, f"not a file of a model: {dict(entry)!r}")
    return StoredFile(entry["path"], size, sha256)
