"""The table against a few lines of plain code, and as it is drawn."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prodml.rollout import ROLLOUT, RolloutPhase, RolloutState
from prodml.rollout.machine import (
    Aborted,
    Began,
    FoundFine,
    FoundWorse,
    Froze,
    Thawed,
    commands_for,
)

DOCS = Path(__file__).parents[2] / "docs"


class Reference(RuleBasedStateMachine):
    """The table against a few lines of plain code."""

    def __init__(self):
        super().__init__()
        self.state = RolloutState(version="v2", stable="v1", steps=(0.1, 0.5))
        self.phase, self.step, self.held = "pending", 0, ""

    def feed(self, fact):
        before = self.state
        self.state, commands = ROLLOUT.step(self.state, fact)
        if self.state.phase is not RolloutPhase.FROZEN:
            assert list(commands) == ([] if self.state is before else commands_for(self.state))

    @rule(at=st.floats(0, 10))
    def begin(self, at):
        self.feed(Began(at))
        if self.phase == "pending":
            self.phase = "shadow"

    @rule()
    def fine(self):
        self.feed(FoundFine(0.0, "ok"))
        if self.phase == "shadow":
            self.phase = "canary"
        elif self.phase == "canary":
            self.phase = "canary" if self.step == 0 else "promoted"
            self.step = 1

    @rule(fact=st.sampled_from([FoundWorse(0.0, "bad"), Aborted(0.0, "stop")]))
    def end(self, fact):
        self.feed(fact)
        begun = self.phase != "pending" or isinstance(fact, Aborted)
        if begun and self.phase not in {"promoted", "rolled back"}:
            self.phase = "rolled back"

    @rule()
    def freeze(self):
        share = self.state.share
        self.feed(Froze(0.0, "hold"))
        if self.phase in {"pending", "shadow", "canary"}:
            self.held, self.phase = self.phase, "frozen"
            assert self.state.share == share

    @rule()
    def thaw(self):
        self.feed(Thawed(0.0))
        if self.phase == "frozen":
            self.phase = self.held

    @invariant()
    def agree(self):
        assert self.state.phase.value == self.phase
        if self.phase == "canary":
            assert self.state.share == (0.1, 0.5)[self.step]


Reference.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestReference = Reference.TestCase


@pytest.mark.parametrize("page", ["how-to/rollout.md", "explanation/rollout-states.md"])
def test_the_page_shows_the_table(page):
    text = (DOCS / page).read_text()
    assert "rollout-states.svg" in text
    assert page.startswith("how-to") or ROLLOUT.diagram() in text


def test_the_drawing_has_every_phase_and_every_fact_of_the_table():
    root = ET.parse(DOCS / "assets/rollout-states.svg").getroot()
    drawn = " ".join(" ".join(text.itertext()) for text in root.iter() if text.text).lower()
    for row in ROLLOUT.rows:
        assert row.phase.value in drawn
        assert row.fact.__name__.lower() in drawn
