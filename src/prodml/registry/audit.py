"""Reading everything that a registry keeps, to say what is damaged: its ``fsck``."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import final

from prodml.errors import CorruptRecord, RetiredVersion, UntrustedModel
from prodml.registry.catalogue import Catalogue
from prodml.registry.registry import ModelRegistry
from prodml.registry.version import ModelVersion

__all__ = ["Audit", "audit"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit has read, and what it found.

    Parameters
    ----------
    versions, moves
        Manifests and alias moves that are whole.
    artifacts
        Files of models that are kept.
    orphans
        Digests that no live version needs: a killed registration, or a pruning under way.
        They are no damage; the next ``prune`` removes them.
    problems
        One sentence each; empty if all is well.

    Examples
    --------
    >>> audit(ModelRegistry("memory://")).problems
    ()
    """

    versions: int
    moves: int
    artifacts: int
    orphans: tuple[str, ...]
    problems: tuple[str, ...]


def audit(registry: ModelRegistry) -> Audit:
    """Read every record and every artifact of ``registry`` and check them all.

    Manifests against their checksums and, if the registry trusts keys, their signatures;
    files against size and SHA-256; aliases for an unbroken story that ends at a version
    whose bytes are there.

    Raises
    ------
    StoreUnavailable
        The place cannot be read.

    Examples
    --------
    >>> registry = ModelRegistry("memory://")
    >>> _ = registry.register("churn", b"weights")
    >>> _ = registry.alias("churn", "champion", "1")
    >>> found = audit(registry)
    >>> found.versions, found.moves, found.artifacts, found.problems
    (1, 1, 1, ())
    """
    catalogue = registry._catalogue  # noqa: SLF001 - files of one room know each other
    problems: list[str] = []
    versions: list[ModelVersion] = []
    moves = 0
    for name in catalogue.models():
        for number in range(1, catalogue.count(name) + 1):
            read = _attempt(problems, _reader(registry, name, number))
            versions += [read] if read is not None else []
        moves += _check_aliases(catalogue, name, problems)
    kept = {artifact.digest for artifact in catalogue.archive.artifacts()}
    needed = {file.sha256 for version in versions if not version.retired for file in version.files}
    return Audit(
        versions=len(versions),
        moves=moves,
        artifacts=len(kept),
        orphans=tuple(sorted(kept - needed)),
        problems=tuple(problems),
    )


def _reader(registry: ModelRegistry, name: str, number: int) -> Callable[[], ModelVersion]:
    catalogue = registry._catalogue  # noqa: SLF001

    def read() -> ModelVersion:
        version = catalogue.version(name, number, registry.trusted)
        # A pruning under way may retire it before its bytes are read.
        with suppress(RetiredVersion):
            if not version.retired:
                catalogue.files(version)
        return version

    return read


def _attempt(problems: list[str], read: Callable[[], ModelVersion]) -> ModelVersion | None:
    try:
        return read()
    except (CorruptRecord, UntrustedModel) as error:
        problems.append(str(error))
        return None


def _check_aliases(catalogue: Catalogue, name: str, problems: list[str]) -> int:
    moves = 0
    for alias in catalogue.aliases.known(name):
        try:
            history = catalogue.aliases.history(name, alias, None, None)
        except CorruptRecord as error:
            problems.append(str(error))
            continue
        moves += len(history)
        told = [None, *(move.new for move in history)]
        for move, before in zip(history, told, strict=False):
            if move.old != before:
                problems.append(
                    f"{name}@{alias}: move {move.number} does not follow the one before"
                )
        problems.extend(_dangling(catalogue, name, alias, told[-1]))
    return moves


def _dangling(catalogue: Catalogue, name: str, alias: str, target: str | None) -> Iterator[str]:
    if target is None or target in catalogue.live(name):
        return
    # Unless the alias has moved on since, and retention went after it.
    if target == catalogue.aliases.at(name, alias, None):
        yield f"{name}@{alias} points at {target}, which is not there"
