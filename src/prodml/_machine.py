"""Machines: what follows from what has happened, as a table.

A machine is pure.  ``step(state, fact)`` returns the next state and the commands to carry
out; it reads no clock and calls nobody, so the facts of a log replayed into it give the
same decisions, and the state survives in a store.  The table is the documentation too:
:meth:`Machine.diagram` draws it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from prodml.errors import BadConfiguration, ContractBroken

__all__ = ["Command", "Machine", "Phased", "Row", "Step"]


class Phased(Protocol):
    """A machine's state: a frozen record that knows the phase it is in."""

    @property
    def phase(self) -> Enum:
        """Where in the table the machine stands."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """Something to be done by whoever runs the machine.  Subclasses name it."""


S = TypeVar("S", bound=Phased)

Step: TypeAlias = tuple[S, Sequence[Command]]
"""The next state and what to do, in order."""


@dataclass(frozen=True, slots=True)
class Row(Generic[S]):
    """In ``phase``, when ``fact`` is heard, ``act`` leads to one of ``targets``."""

    phase: Enum
    fact: type[Any]
    targets: tuple[Enum, ...]
    act: Callable[[S, Any], Step[S]]


class Machine(Generic[S]):
    """A table of transitions.

    A fact without a row for the current phase changes nothing: late and repeated facts
    are normal.

    Raises
    ------
    BadConfiguration
        Two rows for the same phase and fact.

    Examples
    --------
    >>> class Light(Enum):
    ...     OFF = "off"
    ...     ON = "on"
    >>> @dataclass(frozen=True)
    ... class Lamp:
    ...     phase: Light = Light.OFF
    >>> class Pressed: ...
    >>> machine = Machine("lamp", [
    ...     Row(Light.OFF, Pressed, (Light.ON,), lambda lamp, fact: (Lamp(Light.ON), [])),
    ...     Row(Light.ON, Pressed, (Light.OFF,), lambda lamp, fact: (Lamp(Light.OFF), [])),
    ... ])
    >>> machine.replay(Lamp(), [Pressed(), Pressed(), Pressed()])[0].phase.value
    'on'
    """

    __slots__: tuple[str, ...] = ("_table", "name", "rows")

    def __init__(self, name: str, rows: Iterable[Row[S]]) -> None:
        self.name: str = name
        self.rows: tuple[Row[S], ...] = tuple(rows)
        self._table: dict[tuple[Enum, type[Any]], Row[S]] = {}
        for row in self.rows:
            if (row.phase, row.fact) in self._table:
                raise BadConfiguration(
                    f"machine {name!r} has two rows for {row.phase.name} and {row.fact.__name__}"
                )
            self._table[row.phase, row.fact] = row

    def step(self, state: S, fact: Any) -> Step[S]:
        """Next state and commands; ``(state, [])`` when the fact means nothing here."""
        row = self._table.get((state.phase, type(fact)))
        if row is None:
            return state, ()
        after, commands = row.act(state, fact)
        if after.phase not in row.targets:
            raise ContractBroken(
                f"machine {self.name!r}: {type(fact).__name__} in {row.phase.name} "
                f"led to {after.phase.name}, which its row does not name"
            )
        return after, commands

    def replay(self, state: S, facts: Iterable[Any]) -> Step[S]:
        """State after ``facts`` and all commands on the way."""
        told: list[Command] = []
        for fact in facts:
            state, commands = self.step(state, fact)
            told.extend(commands)
        return state, told

    def diagram(self) -> str:
        """The table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2"]
        for row in self.rows:
            lines.extend(
                f"    {row.phase.name} --> {target.name}: {row.fact.__name__}"
                for target in row.targets
            )
        return "\n".join(lines)
