from dataclasses import dataclass
from enum import Enum

import pytest

from prodml._machine import Command, Machine, Row
from prodml.errors import BadConfiguration, ContractBroken
from prodml.testing import check_machine


class Phase(Enum):
    IDLE = "idle"
    BUSY = "busy"
    DONE = "done"


@dataclass(frozen=True)
class State:
    phase: Phase = Phase.IDLE
    count: int = 0


@dataclass(frozen=True)
class Started:
    times: int = 1


class Finished: ...


@dataclass(frozen=True)
class Work(Command):
    times: int


def start(state, fact):
    return State(Phase.BUSY, state.count + fact.times), [Work(fact.times)]


def finish(state, fact):
    return State(Phase.DONE, state.count), []


ROWS = [
    Row(Phase.IDLE, Started, (Phase.BUSY,), start),
    Row(Phase.BUSY, Finished, (Phase.DONE,), finish),
]


def test_facts_lead_through_the_table_and_collect_commands():
    machine = Machine("job", ROWS)
    state, commands = machine.replay(State(), [Started(3), Finished(), Finished()])
    assert state == State(Phase.DONE, 3)
    assert commands == [Work(3)]


def test_the_machine_keeps_the_contract():
    check_machine(Machine("job", ROWS), State(), [Started(), Finished()])


def test_a_fact_without_a_row_changes_nothing():
    state = State()
    assert Machine("job", ROWS).step(state, Finished()) == (state, ())


def test_a_transition_the_table_does_not_name_is_a_defect():
    machine = Machine("job", [Row(Phase.IDLE, Started, (Phase.DONE,), start)])
    with pytest.raises(ContractBroken, match="BUSY"):
        machine.step(State(), Started())


def test_two_rows_for_one_case_are_refused():
    with pytest.raises(BadConfiguration, match="two rows for IDLE and Started"):
        Machine("job", [ROWS[0], ROWS[0]])


def test_the_diagram_draws_every_row():
    assert Machine("job", ROWS).diagram() == (
        "stateDiagram-v2\n    IDLE --> BUSY: Started\n    BUSY --> DONE: Finished"
    )
