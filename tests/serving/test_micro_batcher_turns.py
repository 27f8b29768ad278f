"""Every interleaving at will: the desk under a scheduler that hypothesis moves.

Callers are stepped by hand as the shells would step them.  What happens *while* a batch runs
is drawn too: the model itself lets others arrive, leave, or be interrupted.
"""

from contextvars import copy_context

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prodml._call.turns import ThreadBell
from prodml.clock import SYSTEM_CLOCK
from prodml.serving.batch_desk import Desk
from prodml.serving.batch_line import Line
from prodml.serving.batch_run import Runner

MAX_ROWS = 4
# A busy machine is no defect.
CALM = {"suppress_health_check": [HealthCheck.too_slow]}
HOMES = (None, "loop a", "loop b")


class Bell(ThreadBell):
    """Notes that it was rung."""

    def __init__(self, home):
        self.home, self.rung = home, False

    def ring(self):
        self.rung = True


class Bad(Exception):
    """What a poisoned row makes of its batch."""


class Interrupted(BaseException):
    """Ctrl-C in the thread that works."""


class Counted:
    """A router that counts who is inside."""

    version, arm = "v1", "stable"

    def __init__(self, model):
        self.predict_batch, self.inside = model, 0

    def resolve(self, version, key):
        self.inside += 1
        return self

    def release(self):
        self.inside -= 1


class Caller:
    def __init__(self, number, home, rows, poisoned):
        self.number, self.home = number, home
        self.rows = [(number, place) for place in range(rows)]
        self.poisoned = poisoned
        self.bell, self.request = Bell(home), None
        # "gathering" and "ready" move when stepped, "asleep" when the bell has rung.
        self.state, self.outcome = "gathering", None

    @property
    def moves(self):
        return self.state in {"gathering", "ready"} or (self.state == "asleep" and self.bell.rung)


class Turns(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.callers = []
        self.computed = []  # rows in order of their first computation
        self.batch_sizes = []
        self.script = []  # what happens while the next batch runs
        self.interrupt = False
        self.working = None  # whose thread or task the batch runs in
        self.outside = copy_context()
        line, one = Line(), Counted(self.model)
        self.route = one
        self.desk = Desk(
            router=one,
            line=line,
            runner=Runner(one, None, line=line, clock=SYSTEM_CLOCK, name="desk"),
            clock=SYSTEM_CLOCK,
            name="desk",
            max_rows=MAX_ROWS,
            max_queue=10_000,
            budget=None,
            inline=float("inf"),
        )
        self.line = line

    # -- the model ------------------------------------------------------------------------

    def model(self, rows):
        assert self.line.turn is not None
        assert 0 < len(rows) <= MAX_ROWS
        self.batch_sizes.append(len(rows))
        script, self.script = self.script, []
        for happens in script:
            self.outside.copy().run(happens)
            assert self.line.turn is not None
        if self.interrupt:
            self.interrupt = False
            raise Interrupted
        # Not before: what was interrupted is computed again.
        self.computed += [row for row in rows if row not in self.computed]
        bad = [number for number, _ in rows if self.callers[number].poisoned]
        if bad:
            raise Bad(bad)
        return [("answer", row) for row in rows]

    # -- what happens ---------------------------------------------------------------------

    def arrives(self, home, rows, poisoned):
        caller = Caller(len(self.callers), home, rows, poisoned)
        self.callers.append(caller)
        idle = self.line.turn is None and not self.line.waiting
        if idle:
            self.working = caller
        try:
            caller.request = self.desk.enter(
                caller.rows, None, None, None, awaiting=home is not None
            )
        except Interrupted as error:
            caller.state, caller.outcome = "over", error
            return
        if not caller.request.done:
            self.desk.join(caller.request, caller.bell)
        else:
            assert idle
            self.over(caller)
        # A thread that finds nobody about is never made to wait.
        if idle and home is None and rows <= MAX_ROWS:
            assert caller.state == "over"

    def steps(self, caller):
        seat = caller.request
        awaits = caller.state == "gathering" and caller.home is not None
        if awaits and seat.called and self.desk.gathers(seat):
            return
        caller.state = "ready"
        caller.bell.rung = False
        if self.line.turn is None:
            self.working = caller
        try:
            done = self.desk.advance(seat)
        except Interrupted as error:
            self.desk.leave(seat)
            caller.state, caller.outcome = "over", error
            return
        if done:
            self.desk.leave(seat)
            self.over(caller)
        else:
            caller.state = "asleep"

    def over(self, caller):
        caller.state = "over"
        try:
            caller.outcome = caller.request.result()
        except Bad as error:
            caller.outcome = error

    def goes(self, caller):
        caller.state, caller.outcome = "over", "gone"
        self.desk.leave(caller.request)

    # -- rules ----------------------------------------------------------------------------

    def drawn(self, data, choices):
        return data.draw(st.sampled_from(choices))

    @rule(home=st.sampled_from(HOMES), rows=st.sampled_from([1, 1, 1, 2, 6]), bad=st.booleans())
    def arrive(self, home, rows, bad):
        self.arrives(home, rows, poisoned=bad and rows < 3)

    @rule(home=st.sampled_from(HOMES), rows=st.sampled_from([1, 1, 3]))
    def arrive_while_the_next_batch_runs(self, home, rows):
        self.script.append(lambda: self.arrives(home, rows, poisoned=False))

    def pick(self, nth, happens, may):
        """Let something happen, while the next batch runs, to the nth caller of some."""

        def now():
            some = [caller for caller in self.callers if caller is not self.working and may(caller)]
            if some:
                happens(some[nth % len(some)])

        self.script.append(now)

    @rule(nth=st.integers(0, 9))
    def go_while_the_next_batch_runs(self, nth):
        self.pick(nth, self.goes, lambda caller: caller.state != "over")

    @rule(nth=st.integers(0, 9))
    def step_while_the_next_batch_runs(self, nth):
        def go_on(caller):
            for _ in range(5):
                if caller.moves:
                    self.steps(caller)

        self.pick(nth, go_on, lambda caller: caller.moves)

    @rule(nth=st.integers(0, 9))
    def go_from_the_next_batch_which_is_interrupted(self, nth):
        self.go_while_the_next_batch_runs(nth)
        self.interrupt = True

    @rule()
    def interrupt_the_next_batch(self):
        self.interrupt = True

    @precondition(lambda self: any(c.moves for c in self.callers))
    @rule(data=st.data())
    def step(self, data):
        self.steps(self.drawn(data, [c for c in self.callers if c.moves]))

    @precondition(lambda self: any(c.state != "over" for c in self.callers))
    @rule(data=st.data())
    def go(self, data):
        self.goes(self.drawn(data, [c for c in self.callers if c.state != "over"]))

    @rule()
    def run_to_the_end(self):
        while moving := [caller for caller in self.callers if caller.moves]:
            self.steps(moving[0])
        assert [c.number for c in self.callers if c.state != "over"] == []

    # -- what always holds ----------------------------------------------------------------

    @invariant()
    def the_turn_is_free_between_steps(self):
        assert self.line.turn is None

    @invariant()
    def somebody_of_each_home_is_awake(self):
        waiting = [c for c in self.callers if c.state != "over"]
        for home in HOMES:
            ours = [c for c in waiting if c.home == home]
            assert not ours or any(c.moves for c in ours), home

    @invariant()
    def the_line_is_who_waits_in_order(self):
        numbers = [request.rows[0][0] for request in self.line.waiting]
        assert numbers == sorted(numbers)
        waiting = [c.number for c in self.callers if c.state != "over" and not c.request.done]
        assert numbers == waiting
        rows = sum(len(r.rows) - r.stop for r in self.line.waiting)
        assert self.line.rows == rows
        homes = [request.bell.home for request in self.line.waiting]
        assert self.line._homes == {home: homes.count(home) for home in set(homes)}

    @invariant()
    def whoever_waits_is_counted_in_and_nobody_else(self):
        assert self.route.inside == sum(caller.state != "over" for caller in self.callers)

    @invariant()
    def first_come_first_served(self):
        assert self.computed == sorted(self.computed)

    @invariant()
    def each_has_its_own_answers(self):
        for caller in self.callers:
            if isinstance(caller.outcome, list):
                assert not caller.poisoned
                assert caller.outcome == [("answer", row) for row in caller.rows]
            elif isinstance(caller.outcome, Bad):
                assert caller.poisoned
                assert set(caller.outcome.args[0]) == {caller.number}

    def teardown(self):
        self.script, self.interrupt = [], False
        self.run_to_the_end()
        assert self.line.rows == 0
        assert not self.line.waiting


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, **CALM)


@pytest.mark.soak
class TestManyTurns(Turns.TestCase):
    settings = settings(max_examples=3000, stateful_step_count=60, deadline=None, **CALM)
