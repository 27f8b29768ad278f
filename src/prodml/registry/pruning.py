"""Carrying out a retention: what goes is marked first and removed then."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Final

from prodml.registry.aliases import Aliases
from prodml.registry.catalogue import Catalogue
from prodml.registry.retention import Pruned, Retention
from prodml.registry.version import ModelVersion

__all__: list[str] = []

# Artifacts without a version may belong to a registration under way: those get an hour.
# It is a courtesy, not what makes pruning safe: a registration writes again what is gone.
_GRACE: Final = 3600.0


def prune(
    catalogue: Catalogue, names: Sequence[str], retention: Retention, now: float, dry_run: bool
) -> Pruned:
    """Retire what no rule keeps, and remove what nobody needs any more.

    Everything happens under the lock, and in an order that survives a crash at any point:
    read every manifest (or remove nothing), mark the retired versions, remove the bytes.
    """
    retired: list[ModelVersion] = []
    kept: dict[str, str] = {}
    with nullcontext() if dry_run else catalogue.archive.writing():
        # Of every model: artifacts are shared.
        known = {model: catalogue.every(model, retired=False) for model in catalogue.models()}
        for name in names:
            live = known.get(name, [])
            reasons = retention.kept(live, _aliased(catalogue.aliases, name, retention, now), now)
            kept |= {f"{name}@{version}": why for version, why in reasons.items()}
            known[name] = [version for version in live if version.version in reasons]
            retired += [version for version in live if version.version not in reasons]
        if not dry_run:
            _mark(catalogue, retired, now)
        sizes = _unneeded(catalogue, retired, chain.from_iterable(known.values()))
        if not dry_run:
            for digest in sizes:
                catalogue.archive.remove(digest)
            catalogue.archive.tidy()
    return Pruned(
        retired=tuple(f"{version.name}@{version.version}" for version in retired),
        kept=kept,
        removed=tuple(sizes),
        freed=sum(sizes.values()),
        dry_run=dry_run,
    )


def _aliased(aliases: Aliases, name: str, retention: Retention, now: float) -> dict[str, str]:
    """Alias by version that one points at, or pointed at within the window."""
    found: dict[str, str] = {}
    for alias in aliases.known(name):
        for move in aliases.history(name, alias, now - retention.aliased_within, None):
            if move.new is not None:
                found.setdefault(move.new, alias)
        current = aliases.at(name, alias, None)
        if current is not None:
            found[current] = alias
    return found


def _mark(catalogue: Catalogue, retired: Iterable[ModelVersion], now: float) -> None:
    by_name: dict[str, list[int]] = {}
    for version in retired:
        by_name.setdefault(version.name, []).append(int(version.version))
    for name, numbers in by_name.items():
        change = f"retired {', '.join(map(str, numbers))}"
        catalogue.mark(name, catalogue.marks(name).with_retired(numbers), now, change)


def _unneeded(
    catalogue: Catalogue, retired: Iterable[ModelVersion], live: Iterable[ModelVersion]
) -> dict[str, int]:
    """Size by digest of what no version needs and no registration may be waiting for."""
    own, needed = set(_digests(retired)), set(_digests(live))
    return {
        artifact.digest: artifact.size
        for artifact in catalogue.archive.artifacts()
        if artifact.digest not in needed and (artifact.digest in own or artifact.age > _GRACE)
    }


def _digests(versions: Iterable[ModelVersion]) -> Iterator[str]:
    for version in versions:
        for file in version.files:
            yield file.sha256
