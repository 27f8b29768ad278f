"""What a model was made of, and what was made of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from prodml.errors import BadConfiguration
from prodml.registry.records import VERSION, check_name, check_plain
from prodml.types import ModelRef

__all__ = ["Family", "Lineage"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Data, code and parents of a version.

    Parameters
    ----------
    data
        Digest or snapshot by name of a data set, such as ``{"train": "sha256:ab12..."}``.
    code
        Commit of the code that trained.
    parents
        Versions that this one was made from (fine-tuned, distilled, an ensemble's members),
        as ``"churn@3"`` or a ``ModelRef``; they must be in the same registry.
    run
        Id of the job that trained.

    Raises
    ------
    BadConfiguration
        A parent is not ``name@version``, or a data set's name or value is no text.

    Examples
    --------
    >>> Lineage(data={"train": "2024-05"}, code="9f2c1e", parents=["churn@3"]).parents
    ('churn@3',)
    """

    data: Mapping[str, str] = field(default_factory=dict[str, str])
    code: str = ""
    parents: Sequence[str | ModelRef] = ()
    run: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.parents, str | ModelRef):
            raise BadConfiguration(f"parents must be a list, not {self.parents!r}")
        texts = (*self.data, *self.data.values(), self.code, self.run)
        if not all(isinstance(text, str) for text in texts):
            raise BadConfiguration("data, code and run of a lineage must be text")
        # Frozen for everybody else.
        object.__setattr__(self, "data", check_plain("data of a lineage", self.data))
        object.__setattr__(self, "parents", tuple(str(parent) for parent in self.parents))
        for parent in self.parents:
            split(str(parent))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is written."""
        return {
            "data": dict(self.data),
            "code": self.code,
            "parents": list(map(str, self.parents)),
            "run": self.run,
        }


def split(ref: str) -> tuple[str, str]:
    """Name and version of ``"churn@3"``."""
    name, _, version = ref.partition("@")
    check_name(name)
    if not VERSION.fullmatch(version):
        raise BadConfiguration(f"a parent is name@version, such as churn@3, not {ref!r}")
    return name, version


@final
@dataclass(frozen=True, slots=True)
class Family:
    """Queries up and down the chain; a registry has one as ``registry.family``.

    Every query reads all manifests once, retired ones included: a poisoned data set matters
    for what was made of it, whether or not the bytes are still there.

    Examples
    --------
    >>> from prodml.registry import ModelRegistry
    >>> registry = ModelRegistry("memory://")
    >>> base = registry.register("base", b"1", lineage=Lineage(data={"train": "2024-05"}))
    >>> tuned = registry.register("churn", b"2", lineage=Lineage(parents=[base]))
    >>> registry.family.ancestors("churn", "1"), registry.family.descendants("base", "1")
    (('base@1',), ('churn@1',))
    >>> registry.family.made_from(data="2024-05")
    ('base@1', 'churn@1')
    """

    lineages: Callable[[], Iterator[tuple[str, Lineage]]]

    def ancestors(self, name: str, version: str) -> Sequence[str]:
        """What ``name@version`` was made from, nearest first, as ``"churn@3"``."""
        parents = {ref: list(map(str, lineage.parents)) for ref, lineage in self.lineages()}
        return _reached([f"{name}@{version}"], parents)

    def descendants(self, name: str, version: str) -> Sequence[str]:
        """What was made from ``name@version``, nearest first."""
        return _reached([f"{name}@{version}"], _children(self.lineages()))

    def made_from(self, *, data: str | None = None, code: str | None = None) -> Sequence[str]:
        """Versions with this data set (its name or its value) or code, and all made from them.

        With both, the versions that have both, and what was made from those.
        """
        if data is None and code is None:
            raise BadConfiguration("made_from needs data= or code=")
        found = list(self.lineages())
        roots = [ref for ref, lineage in found if _uses(lineage, data, code)]
        return (*roots, *_reached(roots, _children(found)))


def _uses(lineage: Lineage, data: str | None, code: str | None) -> bool:
    same_data = data is None or data in {*lineage.data, *lineage.data.values()}
    return same_data and (code is None or code == lineage.code)


def _children(lineages: Iterable[tuple[str, Lineage]]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {}
    for ref, lineage in lineages:
        for parent in map(str, lineage.parents):
            children.setdefault(parent, []).append(ref)
    return children


def _reached(start: Sequence[str], edges: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Everything beyond ``start``, breadth first, each once."""
    seen = dict.fromkeys(start)
    line = list(start)
    for ref in line:
        for following in edges.get(ref, ()):
            if following not in seen:
                seen[following] = None
                line.append(following)
    return tuple(line[len(start) :])
