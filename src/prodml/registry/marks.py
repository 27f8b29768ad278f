"""What is said about a version after its registration: its tags, and that it is retired.

The list of marks works like an alias: its last record is the state, so to read it costs one
small file however often it has changed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from prodml.errors import CorruptRecord
from prodml.registry.files import Archive
from prodml.registry.records import canonical, parsed, sealed, unsealed

__all__: list[str] = []


@final
@dataclass(frozen=True, slots=True)
class Marks:
    """Retired versions, and the tags of those whose tags have changed."""

    retired: frozenset[int] = frozenset()
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def with_retired(self, numbers: Iterable[int]) -> "Marks":
        """These versions are retired too."""
        return replace(self, retired=self.retired | set(numbers))

    def with_tags(self, version: str, tags: Iterable[str]) -> "Marks":
        """The tags of ``version`` are these now."""
        return replace(self, tags={**self.tags, version: tuple(sorted({*tags}))})


def read_marks(archive: Archive, name: str) -> Marks:
    """The marks of ``name``."""
    topic = f"marks/{name}"
    number = archive.count(topic)
    if number == 0:
        return Marks()
    where = f"{topic}/{number}"
    entry = parsed(where, unsealed(where, archive.record(topic, number)))
    try:
        return Marks(
            frozenset(n for first, last in entry["retired"] for n in range(first, last + 1)),
            {version: tuple(tags) for version, tags in entry["tags"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptRecord(where, f"not marks: {error!r}") from error


def write_marks(archive: Archive, name: str, marks: Marks, at: float, change: str) -> None:
    """Add the marks as a record, under the lock of the archive."""
    topic = f"marks/{name}"
    entry: dict[str, Any] = {
        "retired": _ranges(marks.retired),
        "tags": {version: list(tags) for version, tags in marks.tags.items()},
        "at": at,
        "change": change,
    }
    data = sealed(canonical(entry))
    while not archive.add(topic, archive.count(topic) + 1, data):
        continue


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
