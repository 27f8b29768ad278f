import asyncio
import math
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml._call import Invoke, arun, run
from prodml._call.spawn import BEHIND
from prodml._settings import retune
from prodml.cache import MISS, PredictionCache, Uncached, cached_prediction
from prodml.cache.failures import Failures, Notice, afresh
from prodml.cache.freshness import Freshness, Verdict
from prodml.errors import (
    BadConfiguration,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    InvalidFeatures,
    RememberedFailure,
)
from prodml.stores import MemoryStore
from prodml.testing import ManualClock
from tests.cache.stores import BulkMemoryStore

ROW = {"age": 41, "country": "DE"}

seconds = st.floats(0.0, 1e6)
rules = st.builds(Freshness, early=st.floats(0.0, 10.0), stale=seconds, stale_if_error=seconds)


# -- the rule -------------------------------------------------------------------------------


@given(rules, seconds, st.floats(1e-3, 1e6), st.floats(0.0, 1e4), st.floats(-1e4, 1e7), seconds)
def test_verdicts_come_in_order(rule, created, ttl, cost, now, later):
    order = list(Verdict)
    draws = (0.5, 0.5)
    one, two = (
        order.index(rule.verdict(created, ttl, cost, at, draw))
        for at, draw in zip((now, now + later), draws, strict=True)
    )
    assert one <= two


@given(rules, seconds, st.floats(1e-3, 1e6), st.floats(0.0, 1e4), seconds, st.floats(0, 1))
def test_the_ends_of_the_windows_are_exact(rule, created, ttl, cost, age, draw):
    verdict = rule.verdict(0.0, ttl, cost, age, draw)
    if age < ttl:
        assert verdict in {Verdict.FRESH, Verdict.EARLY}
    elif age - ttl < rule.stale:
        assert verdict is Verdict.STALE
    elif age - ttl < rule.stale_if_error:
        assert verdict is Verdict.FAILED
    else:
        assert verdict is Verdict.GONE


@given(rules, st.floats(1e-3, 1e6), st.floats(0.0, 1e4), seconds, st.floats(0, 1))
def test_while_it_is_calm_chance_decides_nothing(rule, ttl, cost, age, draw):
    if age < rule.calm(0.0, ttl, cost) * (1 - 1e-9) and age < ttl:
        assert rule.verdict(0.0, ttl, cost, age, draw) is Verdict.FRESH


@given(rules, st.floats(1e-3, 1e6), st.floats(0.0, 1e4), st.floats(0.0, 1e6), st.floats(0, 1))
def test_an_entry_of_a_clock_that_is_ahead_is_as_good_as_new(rule, ttl, cost, ahead, draw):
    verdict = rule.verdict(ahead, ttl, cost, 0.0, draw)
    assert verdict is rule.verdict(0.0, ttl, cost, 0.0, draw)


def test_early_is_a_matter_of_chance_as_xfetch_says():
    rule, rng = Freshness(early=1.0), random.Random(1)
    draws = [rule.verdict(0.0, 100.0, 5.0, 90.0, rng.random()) for _ in range(20_000)]
    share = draws.count(Verdict.EARLY) / len(draws)
    assert abs(share - math.exp(-10.0 / 5.0)) < 0.01
    assert Freshness(early=0.0).verdict(0.0, 100.0, 5.0, 99.9, 0.0) is Verdict.FRESH


@pytest.mark.parametrize("name", ["early", "stale", "stale_if_error", "negative_ttl", "lease"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_settings_without_sense_are_refused_by_name(name, value):
    with pytest.raises(BadConfiguration, match=name):
        PredictionCache(**{name: value})


def test_windows_can_be_retuned():
    clock = ManualClock()
    cache = PredictionCache(ttl=10.0, jitter=0.0, clock=clock)
    retune(cache, stale=30.0, stale_if_error=60.0, early=0.0)
    assert cache._fresh == Freshness(early=0.0, stale=30.0, stale_if_error=60.0)


# -- in use -----------------------------------------------------------------------------------


class Chance(random.Random):
    """Gives ``draw`` for every draw."""

    draw = 0.999999

    def random(self):
        return self.draw


class Model:
    """Answers with the number of its calls, taking ``cost`` seconds of a manual clock."""

    def __init__(self, clock, cost=1.0):
        self.clock, self.cost = clock, cost
        self.calls, self.error = 0, None
        self.rows = []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, features):
        self.calls += 1
        self.rows.append(dict(features))
        assert self.gate.wait(10)
        self.clock.advance(self.cost)
        if self.error is not None:
            raise self.error
        return self.calls

    async def apredict(self, features):
        return self.predict(features)


class World:
    def __init__(self, store=None, **settings):
        self.clock, self.chance = ManualClock(), Chance()
        self.model = Model(self.clock)
        given = {"ttl": 100.0, "jitter": 0.0, "rng": self.chance, "clock": self.clock}
        self.cache = PredictionCache(store, **(given | settings))
        decorate = cached_prediction(self.cache, version="v1", function="m")
        self.predict = decorate(self.model.predict)
        self.apredict = decorate(self.model.apredict)

    @property
    def stats(self):
        return self.cache.stats()


def _settled():
    """Wait until nothing goes on behind anybody's back."""
    while len(BEHIND):
        pass


@pytest.fixture(params=["memory", "store", "both"])
def world(request):
    def make(**settings):
        store = None if request.param == "memory" else BulkMemoryStore()
        if request.param == "store":
            settings["memory"] = None
        return World(store, **settings)

    return make


def test_an_early_renewal_keeps_nobody_waiting(world):
    w = world()
    assert w.predict(ROW) == 1
    w.clock.advance(99.0)
    w.chance.draw = 0.1
    w.model.gate.clear()
    assert [w.predict(ROW) for _ in range(50)] == [1] * 50
    w.chance.draw = 0.999999
    w.model.gate.set()
    _settled()
    assert w.predict(ROW) == 2
    assert w.model.calls == 2
    assert (w.stats.early, w.stats.renewals, w.stats.stale) == (1, 1, 0)


def test_chance_may_say_no(world):
    w = world()
    w.predict(ROW)
    w.clock.advance(99.0)
    assert w.predict(ROW) == 1
    _settled()
    assert w.model.calls == 1


def test_a_stale_answer_is_served_while_one_renews_it(world):
    w = world(stale=30.0)
    w.predict(ROW)
    w.clock.advance(110.0)
    w.model.gate.clear()
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda _: w.predict(ROW), range(50))) == [1] * 50
    w.model.gate.set()
    _settled()
    assert w.predict(ROW) == 2
    assert w.model.calls == 2
    assert (w.stats.stale, w.stats.renewals, w.stats.misses) == (50, 1, 1)


def test_fifty_tasks_at_the_end_wait_for_nothing(world):
    w = world(stale=30.0)

    async def main():
        await w.apredict(ROW)
        w.clock.advance(110.0)
        served = await asyncio.gather(*(w.apredict(ROW) for _ in range(50)))
        while len(BEHIND):
            await asyncio.sleep(0)
        return served, await w.apredict(ROW)

    assert asyncio.run(main()) == ([1] * 50, 2)
    assert (w.model.calls, w.stats.stale) == (2, 50)


def test_beyond_the_window_a_caller_waits(world):
    w = world(stale=30.0)
    w.predict(ROW)
    w.clock.advance(130.0)
    assert w.predict(ROW) == 2
    assert w.stats.stale == 0


def test_nothing_stale_is_served_unless_asked_for(world):
    w = world()
    w.predict(ROW)
    w.clock.advance(100.0)
    assert w.predict(ROW) == 2


def test_a_renewal_that_fails_keeps_the_old_answer_and_rests(world):
    w = world(stale=30.0)
    w.predict(ROW)
    w.clock.advance(105.0)
    w.model.error, w.model.cost = ValueError("no"), 0.0
    for _ in range(5):
        assert w.predict(ROW) == 1
        _settled()
    assert (w.model.calls, w.stats.renewal_errors) == (2, 1)
    w.clock.advance(1.5)
    w.model.error = None
    assert w.predict(ROW) == 1
    _settled()
    assert w.predict(ROW) == 3


def test_a_renewal_goes_on_without_the_deadline_of_the_request(world):
    from prodml._deadline import narrow, restore

    w = world(stale=30.0)
    w.predict(ROW)
    w.clock.advance(105.0)
    w.model.gate.clear()
    reset = narrow(1.0, w.clock)
    assert w.predict(ROW) == 1
    w.clock.advance(5.0)
    restore(reset)
    w.model.gate.set()
    _settled()
    assert w.predict(ROW) == 2


def test_a_renewal_computes_with_what_the_caller_gave_not_with_what_he_made_of_it():
    w = World(stale=30.0)
    row = {"n": [1]}
    w.predict(row)
    w.clock.advance(105.0)
    w.model.gate.clear()
    w.predict(row)
    row["n"][0] = 2
    w.model.gate.set()
    _settled()
    assert w.model.rows[-1] == {"n": [1]}


def test_a_renewal_by_another_version_of_the_model_is_not_kept():
    w, version = World(stale=1000.0), ["v1"]
    predict = cached_prediction(w.cache, version=lambda: version[0])(w.model.predict)
    predict(ROW)
    w.clock.advance(105.0)
    w.model.gate.clear()
    assert predict(ROW) == 1
    version[0] = "v2"
    w.model.gate.set()
    _settled()
    version[0] = "v1"
    assert predict(ROW) == 1


def test_arguments_that_cannot_be_copied_are_computed_with_by_their_caller():
    w = World(stale=30.0)
    compute, calls = _compute(w)

    def behind():
        raise TypeError("no copies")

    steps = w.cache.compute_steps
    assert run(steps(ROW, "v1", compute, behind=behind)) == (1, False)
    w.clock.advance(105.0)
    assert run(steps(ROW, "v1", compute, behind=behind)) == (2, False)
    assert calls == [1, 2]


def _compute(w):
    calls = []

    def predict():
        calls.append(len(calls) + 1)
        return calls[-1]

    def compute():
        return (yield Invoke(predict))

    return compute, calls


def test_without_a_way_to_go_on_alone_nothing_is_renewed_behind():
    w = World(stale=30.0)
    compute, calls = _compute(w)
    assert run(w.cache.compute_steps(ROW, "v1", compute)) == (1, False)
    w.clock.advance(105.0)
    assert run(w.cache.compute_steps(ROW, "v1", compute)) == (2, False)
    assert calls == [1, 2]


def test_too_much_behind_is_counted_and_serves_the_old_answer(monkeypatch):
    w = World(stale=30.0)
    w.predict(ROW)
    w.clock.advance(105.0)
    monkeypatch.setattr(BEHIND, "most", 0)
    assert [w.predict(ROW) for _ in range(3)] == [1, 1, 1]
    assert w.stats.renewals_skipped == 1


def test_a_caller_who_needs_it_joins_the_renewal():
    w = World(stale=30.0)
    w.predict(ROW)
    w.clock.advance(105.0)
    w.model.gate.clear()
    assert w.predict(ROW) == 1
    while w.model.calls < 2:
        pass
    w.clock.advance(60.0)
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(w.predict, ROW)
        while not _waiters(w.cache):
            pass
        w.model.gate.set()
        assert waiter.result(10) == 2
    assert w.model.calls == 2
    _settled()


def _waiters(cache):
    return [f for f in list(cache._flights._flights.values()) if f._condition._waiters]


def test_an_event_loop_that_ends_ends_its_renewals():
    w = World(stale=1000.0)
    begun = []

    async def slow(features):
        begun.append(1)
        if len(begun) == 2:
            await asyncio.sleep(3600)
        return len(begun)

    predict = cached_prediction(w.cache, version="v1", function="slow")(slow)

    async def main():
        await predict(ROW)
        w.clock.advance(105.0)
        answer = await predict(ROW)
        await asyncio.sleep(0.01)
        return answer

    assert asyncio.run(main()) == 1
    assert len(begun) == 2
    assert len(BEHIND) == 0
    assert len(w.cache._flights) == 0
    assert asyncio.run(main()) == 1


def test_another_process_has_renewed_it_meanwhile():
    store = BulkMemoryStore()
    here = World(store, stale=30.0)
    here.predict(ROW)
    here.clock.advance(105.0)
    other = cached_prediction(
        PredictionCache(store, ttl=100.0, jitter=0.0, clock=here.clock),
        version="v1",
        function="m",
    )(lambda features: "theirs")
    assert other(ROW) == "theirs"
    assert here.predict(ROW) == "theirs"
    assert here.model.calls == 1


def test_batches_get_what_is_fresh_and_compute_what_is_not():
    w = World(stale=30.0)
    calls = []

    @cached_prediction(w.cache, version="v1", batch=True)
    def score(rows):
        calls.append(len(rows))
        return [row["n"] for row in rows]

    rows = [{"n": 1}, {"n": 2}]
    score(rows)
    w.clock.advance(99.0)
    w.chance.draw = 0.0
    assert score(rows) == [1, 2]
    w.clock.advance(6.0)
    assert score(rows) == [1, 2]
    assert calls == [2, 2]


def test_get_gives_nothing_stale():
    w = World(stale=30.0, stale_if_error=60.0)
    w.cache.set(ROW, "v1", 1)
    w.clock.advance(99.0)
    assert w.cache.get(ROW, "v1") == 1
    w.clock.advance(2.0)
    assert w.cache.get(ROW, "v1") is MISS
    told = w.cache.explain(ROW, "v1")
    assert told.reason == "its time is over, but it may stand in"
    assert (told.age, told.expires_in) == (101.0, -1.0)


def test_an_answer_knows_its_age_and_whether_it_is_stale():
    w = World(stale=30.0)
    compute, _ = _compute(w)

    def ask():
        value, key = w.cache.lookup(ROW, "v1")
        if key is None:
            return value
        answer = run(w.cache.answer_steps(key, compute, lambda: compute))
        return answer.value, answer.tier, answer.age, answer.stale

    assert ask() == (1, "", 0.0, False)
    w.clock.advance(105.0)
    assert ask() == (1, "memory", 105.0, True)
    _settled()


# -- errors -------------------------------------------------------------------------------------


def test_an_old_answer_stands_in_for_a_failure_for_so_long(world):
    w = world(stale_if_error=60.0)
    w.predict(ROW)
    w.clock.advance(110.0)
    w.model.error = ConnectionError("down")
    assert w.predict(ROW) == 1
    assert (w.model.calls, w.stats.stale_if_error, w.stats.stale) == (2, 1, 1)
    w.clock.advance(60.0)
    with pytest.raises(ConnectionError):
        w.predict(ROW)
    w.model.error = None
    assert w.predict(ROW) == 4


@pytest.mark.parametrize(
    ("error", "stands_in"),
    [
        (CircuitOpen("model", 5.0), True),
        (DeadlineExceeded("model", 5.0), True),
        (BulkheadFull("model", 1), True),
        (InvalidFeatures(["age"]), False),
        (TypeError("unexpected argument"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_a_wrong_call_is_told_so(error, stands_in):
    w = World(stale_if_error=60.0)
    w.predict(ROW)
    w.clock.advance(110.0)
    w.model.error = error
    if stands_in:
        assert w.predict(ROW) == 1
    else:
        with pytest.raises(type(error)):
            w.predict(ROW)


def test_an_old_answer_stands_in_for_all_who_wait():
    w = World(stale_if_error=60.0)
    w.predict(ROW)
    w.clock.advance(110.0)
    w.model.error = ConnectionError("down")
    w.model.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(w.predict, ROW) for _ in range(20)]
        while sum(len(f._condition._waiters) for f in _waiters(w.cache)) < 19:
            pass
        w.model.gate.set()
        assert [future.result(10) for future in futures] == [1] * 20
    assert w.model.calls == 2


def test_by_default_a_failure_is_not_remembered():
    w = World()
    w.model.error = ValueError("no")
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            w.predict(ROW)
    assert w.model.calls == 2


def test_a_failure_is_remembered_and_raised_afresh(world):
    w = world(negative_ttl=10.0)
    w.model.error = ValueError("no", 42)
    errors = []
    for _ in range(3):
        with pytest.raises(ValueError, match="no") as caught:
            w.predict(ROW)
        errors.append(caught.value)
    assert w.model.calls == 1
    assert w.stats.negative_hits == 2
    assert len(set(map(id, errors))) == 3
    assert all(error.args == ("no", 42) for error in errors)
    w.clock.advance(10.0)
    w.model.error = None
    assert w.predict(ROW) == 2
    assert w.predict(ROW) == 2


@pytest.mark.parametrize(
    "error", [CircuitOpen("m", 1.0), DeadlineExceeded("m", 1.0), KeyboardInterrupt()]
)
def test_what_was_only_refused_is_not_remembered(error):
    w = World(MemoryStore(), negative_ttl=10.0)
    for _ in range(2):
        w.model.error = error
        with pytest.raises(type(error)):
            w.predict(ROW)
    assert w.model.calls == 2


def test_an_old_answer_stands_in_for_a_remembered_failure(world):
    w = world(negative_ttl=10.0, stale_if_error=60.0)
    w.predict(ROW)
    w.clock.advance(110.0)
    w.model.error = ValueError("no")
    assert [w.predict(ROW) for _ in range(3)] == [1, 1, 1]
    assert w.model.calls == 2


def test_dropping_a_version_forgets_its_failures():
    w = World(negative_ttl=10.0)
    w.model.error = ValueError("no")
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            w.predict(ROW)
        w.cache.drop("v1")
    assert w.model.calls == 2


class Stubborn(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Mute(Exception):
    def __str__(self):
        raise RuntimeError

    def __copy__(self):
        raise RuntimeError


def test_an_exception_that_cannot_be_made_again_is_told_by_name():
    for error, text in ((Stubborn("a", "b"), "a and b"), (Mute(), "")):
        again = afresh(error)
        assert type(again) is RememberedFailure
        assert (again.kind, again.text) == (type(error).__name__, text)
    twin = pickle.loads(pickle.dumps(RememberedFailure("ValueError", "no")))
    assert (twin.kind, twin.text) == ("ValueError", "no")
    assert str(RememberedFailure("ValueError")).endswith("failed: ValueError")


def test_failures_do_not_pile_up():
    failures = Failures(most=3)
    for number in range(10):
        failures.note(b"%d" % number, ValueError(number), until=10.0)
    assert failures.find(b"6", 0.0) is None
    assert failures.find(b"9", 0.0).args == (9,)
    failures.forget(b"9")
    assert failures.find(b"9", 0.0) is None


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(repr).map(str.encode))
def test_rubbish_is_no_notice(body):
    assert Notice.read(body) is None


@given(st.text(), st.text(), st.text())
def test_notices_come_back_as_they_were(token, kind, text):
    notice = Notice(token, kind, text)
    assert Notice.read(notice.body()) == notice


def test_an_answer_that_is_not_to_be_kept_ends_no_entry():
    w = World(stale=30.0)
    keep = [True]

    def compute():
        result, error = yield Invoke(lambda: "answer")
        return (result if keep[0] else Uncached(result)), error

    steps = w.cache.compute_steps
    run(steps(ROW, "v1", compute, behind=lambda: compute))
    w.clock.advance(105.0)
    keep[0] = False
    assert run(steps(ROW, "v1", compute, behind=lambda: compute)) == ("answer", True)
    _settled()
    assert asyncio.run(arun(steps(ROW, "v1", compute, behind=lambda: compute)))[1]
