"""Which versions stay: rules, and why each version is kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from prodml.errors import BadConfiguration
from prodml.registry.version import ModelVersion

__all__ = ["Pruned", "Retention"]

_DAY: Final = 86_400.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Keep a version if any rule keeps it; what an alias points at is always kept.

    Parameters
    ----------
    last
        The newest so many versions stay.
    newer_than
        Versions younger than so many seconds stay.
    tags
        Versions with one of these tags stay; None keeps every tagged one, ``()`` none.
    aliased_within
        What an alias pointed at within so many seconds stays: one may want to return to it,
        and somebody may just be loading it.

    Raises
    ------
    BadConfiguration
        A number is negative.

    Examples
    --------
    >>> Retention(last=5, tags=["audit"]).aliased_within / 86_400
    30.0
    """

    last: int = 10
    newer_than: float = 30 * _DAY
    tags: Sequence[str] | None = None
    aliased_within: float = 30 * _DAY

    def __post_init__(self) -> None:
        for name in ("last", "newer_than", "aliased_within"):
            value = getattr(self, name)
            if not value >= 0:
                raise BadConfiguration(f"{name} must not be negative, it is {value!r}")
        if isinstance(self.tags, str):
            raise BadConfiguration(f"tags must be a list, not {self.tags!r}")

    def kept(
        self, versions: Sequence[ModelVersion], aliased: Mapping[str, str], now: float
    ) -> dict[str, str]:
        """Reason by version that stays.

        Parameters
        ----------
        versions
            Those that are not retired, oldest first.
        aliased
            Alias by version that one points at, or did within the window.
        now
            Epoch seconds.
        """
        reasons: dict[str, str] = {}
        for place, version in enumerate(reversed(versions)):
            age = now - version.created
            if version.version in aliased:
                reasons[version.version] = f"alias {aliased[version.version]}"
            elif self._tagged(version.tags):
                reasons[version.version] = f"tagged {', '.join(version.tags)}"
            elif place < self.last:
                reasons[version.version] = f"one of the last {self.last}"
            elif age < self.newer_than:
                reasons[version.version] = f"{age / _DAY:.1f} days old"
        return reasons

    def _tagged(self, tags: Iterable[str]) -> bool:
        return bool(set(tags) & set(tags if self.tags is None else self.tags))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a pruning has done, or would do.

    Parameters
    ----------
    retired
        Versions without bytes from now on, as ``"churn@3"``.
    kept
        Why each of the others stays.
    removed
        Digests of the artifacts that went; of a dry run, of those that would.
    freed
        Their bytes.

    Examples
    --------
    >>> bool(Pruned(retired=(), kept={}, removed=(), freed=0, dry_run=False))
    False
    """

    retired: tuple[str, ...]
    kept: Mapping[str, str]
    removed: tuple[str, ...]
    freed: int
    dry_run: bool

    def __bool__(self) -> bool:
        """Whether anything was found to remove."""
        return bool(self.retired or self.removed)
