"""The registry against a small reference model, by hypothesis."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prodml.errors import Conflict, RetiredVersion, UnknownVersion
from prodml.events import Stream
from prodml.registry import ModelRegistry, Retention, audit
from prodml.stores import MemoryStore
from prodml.testing import ManualClock
from prodml.types import MISS

NAMES = st.sampled_from(["churn", "fraud"])
ALIASES = st.sampled_from(["champion", "canary"])
NUMBERS = st.integers(1, 6)


class Registry(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.registry = self.opened()
        self.models = {}  # name -> [content], None once retired
        self.made = {}  # name -> [time]
        self.tags = {}  # (name, number) -> tags
        self.moves = {}  # (name, alias) -> [(time, number or None)]

    def opened(self):
        return ModelRegistry(self.store, clock=self.clock, events=Stream())

    def target(self, name, alias):
        moves = self.moves.get((name, alias))
        return moves[-1][1] if moves else None

    def live(self, name):
        return [n for n, content in enumerate(self.models.get(name, []), 1) if content is not None]

    @rule(name=NAMES, content=st.integers(0, 3), tagged=st.booleans())
    def register(self, name, content, tagged):
        ref = self.registry.register(name, {"c": content}, tags=["keep"] if tagged else [])
        self.models.setdefault(name, []).append({"c": content})
        self.made.setdefault(name, []).append(self.clock.time())
        assert ref.version == str(len(self.models[name]))
        if tagged:
            self.tags[name, int(ref.version)] = ("keep",)

    @rule(name=NAMES, alias=ALIASES, number=NUMBERS, expected=st.none() | NUMBERS | st.just(MISS))
    def point(self, name, alias, number, expected):
        now = self.target(name, alias)
        wanted = expected if expected is MISS or expected is None else str(expected)
        try:
            self.registry.alias(name, alias, str(number), expected=wanted)
        except UnknownVersion as error:
            assert number not in self.live(name)
            known = number <= len(self.models.get(name, []))
            assert isinstance(error, RetiredVersion) is known  # noqa: PT017
        except Conflict:
            assert expected is not MISS
            assert expected != now
        else:
            assert expected is MISS or expected == now
            assert number in self.live(name)
            if now != number:
                self.moves.setdefault((name, alias), []).append((self.clock.time(), number))

    @rule(name=NAMES, alias=ALIASES)
    def drop(self, name, alias):
        self.registry.unalias(name, alias)
        if self.target(name, alias) is not None:
            self.moves[name, alias].append((self.clock.time(), None))

    @rule(name=NAMES, number=NUMBERS, words=st.sets(st.sampled_from(["keep", "audit"])))
    def tag(self, name, number, words):
        if number not in self.live(name):
            with pytest.raises(UnknownVersion):
                self.registry.tag(name, str(number), *words)
            return
        self.registry.tag(name, str(number), *words)
        self.tags[name, number] = tuple(sorted(words))

    @rule(seconds=st.integers(1, 50))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def restart(self):
        self.registry = self.opened()

    @rule(name=NAMES, last=st.integers(0, 2), young=st.integers(0, 40), window=st.integers(0, 40),
          dry=st.booleans())  # fmt: skip
    def prune(self, name, last, young, window, dry):
        rules = Retention(last=last, newer_than=young, aliased_within=window, tags=["keep"])
        pruned = self.registry.prune(name, rules, dry_run=dry)
        goes = [n for n in self.live(name) if not self.kept(name, n, last, young, window)]
        assert pruned.retired == tuple(f"{name}@{n}" for n in goes)
        if not dry:
            for number in goes:
                self.models[name][number - 1] = None

    def kept(self, name, number, last, young, window):
        now = self.clock.time()
        if number in self.live(name)[::-1][:last] or "keep" in self.tags.get((name, number), ()):
            return True
        return now - self.made[name][number - 1] < young or self.aliased(name, number, window)

    def aliased(self, name, number, window):
        now = self.clock.time()
        for (model, _), moves in self.moves.items():
            ends = [at for at, _ in moves[1:]] + [float("inf")]
            for (_, target), end in zip(moves, ends, strict=True):
                if model == name and target == number and end > now - window:
                    return True
        return False

    @invariant()
    def versions_are_those_that_are_not_retired(self):
        for name in ("churn", "fraud"):
            assert self.registry.versions(name) == tuple(map(str, self.live(name)))
            for number in self.live(name):
                content = self.models[name][number - 1]
                assert self.registry.load(name, str(number)) == content
                tags = self.registry.describe(name, str(number)).tags
                assert tags == self.tags.get((name, number), ())

    @invariant()
    def aliases_are_where_they_were_moved(self):
        for name in ("churn", "fraud"):
            now = {alias: self.target(name, alias) for alias in ("champion", "canary")}
            assert self.registry.aliases(name) == {a: str(n) for a, n in now.items() if n}

    @precondition(lambda self: self.moves)
    @rule(data=st.data())
    def ask_for_the_past(self, data):
        (name, alias), moves = data.draw(st.sampled_from(sorted(self.moves.items())))
        when = data.draw(st.floats(moves[0][0] - 10, self.clock.time() + 10))
        then = [target for at, target in moves if at <= when]
        if then and then[-1]:
            assert self.registry.at(name, alias, when).version == str(then[-1])
        else:
            with pytest.raises(UnknownVersion):
                self.registry.at(name, alias, when)

    @precondition(lambda self: self.moves)
    @rule(data=st.data())
    def ask_for_a_span(self, data):
        (name, alias), moves = data.draw(st.sampled_from(sorted(self.moves.items())))
        times = st.none() | st.integers(-60, 60).map(lambda s: self.clock.time() + s)
        since, until = data.draw(times), data.draw(times)
        ends = [at for at, _ in moves[1:]] + [float("inf")]
        wanted = [
            number
            for number, ((at, _), end) in enumerate(zip(moves, ends, strict=True), 1)
            if (until is None or at <= until) and (since is None or end > since)
        ]
        found = self.registry.history(name, alias, since=since, until=until)
        assert [move.number for move in found] == wanted

    def teardown(self):
        found = audit(self.registry)
        assert found.problems == found.orphans == ()
        assert found.moves == sum(map(len, self.moves.values()))


Registry.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_the_registry_is_its_model = Registry.TestCase


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_registry_is_its_model_for_longer():
    Registry.TestCase.settings = settings(max_examples=1500, stateful_step_count=60, deadline=None)
    Registry.TestCase().runTest()
