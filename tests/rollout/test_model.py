"""Rollouts of several processes over one store, against a small model of what must follow."""

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prodml.errors import StoreUnavailable
from prodml.events import Stream
from prodml.rollout import PairedLoss, Promote, RollBack, Rollout, SetCanary, StartShadow
from prodml.stores import MemoryStore
from prodml.testing import ManualClock

STEPS, ENOUGH, SECONDS, HANDOVER = (0.1, 0.5), 5, 60.0, 30.0
# So many lost pairs show harm, wherever in the rollout they come.
HARM = 80


class Faulty(MemoryStore):
    """Fails before or after a write when told to."""

    fault = ""

    def commit(self, *given, **more):
        if self.fault == "refuse":
            raise StoreUnavailable("store", "refused")
        revision = super().commit(*given, **more)
        if self.fault == "lose":
            raise StoreUnavailable("store", "the answer was lost")
        return revision


class Model(RuleBasedStateMachine):
    """Three workers, any of which may observe, tick, fail, die and start again."""

    workers = st.sampled_from([0, 1, 2])

    @initialize()
    def begin(self):
        self.store, self.clock = Faulty(), ManualClock()
        self.rollouts = [self.make() for _ in range(3)]
        self.phase, self.step, self.held, self.since = "pending", -1, None, 0.0
        # What is safe in the store, and what each worker saw since its last hand-in.
        self.good, self.bad = 0, 0
        self.fresh = [[0, 0] for _ in range(3)]
        self.told = []

    def make(self):
        return Rollout(
            "v2",
            "v1",
            steps=STEPS,
            step_seconds=SECONDS,
            handover=HANDOVER,
            guards=[PairedLoss(enough=ENOUGH)],
            store=self.store,
            clock=self.clock,
            events=Stream(),
        )

    # -- what may happen ----------------------------------------------------------------

    @rule(worker=workers, bad=st.booleans())
    def observe(self, worker, bad):
        pairs = [(1.0, 0.0)] * HARM if bad else [(0.1, 0.1)] * 3
        self.rollouts[worker].observe_pairs(pairs)
        self.fresh[worker][bad] += len(pairs)

    @rule(worker=workers)
    def flush(self, worker):
        self.rollouts[worker].flush()
        self.handed_in(worker)

    @rule(worker=workers)
    def tick(self, worker):
        commands = self.rollouts[worker].tick()
        self.handed_in(worker)
        self.told.append(commands)
        self.follow()

    @rule(worker=workers, fault=st.sampled_from(["refuse", "lose"]))
    def tick_while_the_store_fails(self, worker, fault):
        self.store.fault = fault
        with contextlib.suppress(StoreUnavailable):
            self.rollouts[worker].tick()
        self.store.fault = ""
        # A move whose answer was lost has happened; the next tick brings all into line, and
        # may find harm that was shown before the rollout began.
        self.follow()
        self.tick(worker)

    @rule(worker=workers)
    def die_and_start_again(self, worker):
        self.rollouts[worker] = self.make()
        self.fresh[worker] = [0, 0]

    @rule(seconds=st.sampled_from([10.0, 61.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(worker=workers)
    def freeze(self, worker):
        self.rollouts[worker].freeze("hold")
        if self.phase in {"pending", "shadow", "canary"}:
            self.held, self.phase = self.phase, "frozen"
            self.new_step()

    @rule(worker=workers)
    def unfreeze(self, worker):
        self.rollouts[worker].unfreeze()
        if self.phase == "frozen":
            self.phase = self.held
            self.new_step()

    @rule(worker=workers)
    def abort(self, worker):
        self.rollouts[worker].abort("stop")
        if not self.over:
            self.phase = "rolled back"

    # -- what must follow ---------------------------------------------------------------

    @property
    def over(self):
        return self.phase in {"promoted", "rolled back"}

    def handed_in(self, worker):
        if self.over:
            return
        good, bad = self.fresh[worker]
        self.good, self.bad = self.good + good + bad, self.bad + bad
        self.fresh[worker] = [0, 0]

    def new_step(self):
        # Pairs that come later count for the new step if their worker knows of it; the model
        # asks only what can be asked of all: nothing moves without any fresh pair.
        self.good, self.since = 0, self.clock.time()

    def follow(self):
        """Take one step, if the rollout took one; it must have been allowed to."""
        phase, share = self.seen()
        if phase == self.phase and (phase != "canary" or share == STEPS[self.step]):
            return
        if phase == "rolled back":
            assert self.bad >= HARM
            assert self.phase != "pending"
        elif self.phase == "pending":
            assert phase == "shadow"
        else:
            assert self.phase in {"shadow", "canary"}
            assert self.bad < HARM
            assert self.good >= ENOUGH
            assert self.clock.time() - self.since >= SECONDS
            self.step += 1
            wanted = ("canary", STEPS[self.step]) if self.step < 2 else ("promoted", 1.0)
            assert (phase, share) == wanted
        self.phase = phase
        self.new_step()

    def seen(self):
        probe = self.make()
        return probe.phase.value, probe.share

    @invariant()
    def the_store_has_what_the_model_has(self):
        if hasattr(self, "store"):
            phase, share = self.seen()
            assert phase == self.phase
            assert phase != "canary" or share == STEPS[self.step]

    def teardown(self):
        """Harm that was handed in always ends in a roll back, and its command is handed out."""
        if not hasattr(self, "store"):
            return
        for worker in range(3):
            self.tick(worker)
        if self.bad >= HARM and self.phase not in {"pending", "promoted"}:
            assert self.phase == "rolled back"
        # Whoever was handed commands may be dead: another hears of them in time.
        self.clock.advance(HANDOVER + 1)
        last = [command for rollout in self.rollouts for command in rollout.tick()]
        every = [command for commands in self.told for command in commands] + last
        kinds = {
            "shadow": StartShadow,
            "canary": SetCanary,
            "promoted": Promote,
            "rolled back": RollBack,
        }
        if self.seen()[0] in kinds:
            assert any(isinstance(command, kinds[self.seen()[0]]) for command in every)


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestModel = Model.TestCase
