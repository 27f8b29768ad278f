import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml._call import Guard, arun, run
from prodml.errors import BadConfiguration, CircuitOpen, DeadlineExceeded, StaleFeatures
from prodml.events import FeatureSourceFailed, FeatureSourceRecovered, Stream
from prodml.features import Aged, FeatureService, FeatureView
from prodml.testing import ManualClock

NAN = float("nan")


class Table:
    """A source that counts its calls."""

    def __init__(self, rows):
        self.rows, self.calls, self.error = rows, [], None

    def fetch(self, entity, names):
        self.calls.append((dict(entity), tuple(names)))
        if self.error is not None:
            raise self.error
        return self.rows.get(entity["id"])


class ManyTable(Table):
    def fetch_many(self, entities, names):
        self.calls.append(([dict(entity) for entity in entities], tuple(names)))
        if self.error is not None:
            raise self.error
        return [self.rows.get(entity["id"]) for entity in entities]


class Shut(Guard):
    """A guard that rejects while ``shut`` and remembers endings."""

    def __init__(self, *, shut=False):
        self.shut, self.left, self.failed = shut, 0, []

    def enter(self):
        if self.shut:
            raise CircuitOpen("table", 5.0)

    def leave(self, token, result):
        self.left += 1

    def fail(self, token, error):
        self.failed.append(error)


def view(source, **settings):
    settings = {"features": ("a", "b"), "entity": ("id",), **settings}
    return FeatureView(settings.pop("name", "table"), source=source, **settings)


def service(source, **settings):
    return FeatureService(view(source, **settings))


def test_missing_features_are_filled_in():
    done = service(Table({7: {"a": 1, "b": 2}})).complete({"id": 7})
    assert done.features == {"id": 7, "a": 1, "b": 2}
    assert (done.degraded, done.errors, done.defaulted, done.missing) == (False, (), (), ())


def test_the_input_is_never_changed():
    row = {"id": 7, "a": None}
    before = deepcopy(row)
    service(Table({7: {"a": 1, "b": 2}})).complete(row)
    assert row == before


def test_a_complete_row_comes_back_itself_without_a_call():
    table, row = Table({}), {"id": 7, "a": 1, "b": 2}
    assert service(table).complete(row).features is row
    assert table.calls == []


@pytest.mark.parametrize("value", [0, 0.0, "", False, [], {}])
def test_falsy_values_of_the_request_are_never_replaced(value):
    done = service(Table({7: {"a": 1, "b": 2}})).complete({"id": 7, "a": value})
    assert done.features["a"] is value


@pytest.mark.parametrize("value", [0, 0.0, "", False])
def test_falsy_values_of_the_source_are_never_defaulted(value):
    table = Table({7: {"a": value, "b": value}})
    done = service(table, defaults={"a": 9, "b": 9}).complete({"id": 7})
    assert done.features["a"] is value
    assert not done.degraded


@pytest.mark.parametrize("value", [None, NAN])
def test_none_and_nan_of_the_request_are_missing(value):
    done = service(Table({7: {"a": 1, "b": 2}})).complete({"id": 7, "a": value})
    assert done.features["a"] == 1


@pytest.mark.parametrize("value", [None, NAN])
def test_none_and_nan_of_the_source_are_defaulted(value):
    done = service(Table({7: {"a": value, "b": 2}}), defaults={"a": 9}).complete({"id": 7})
    assert (done.features["a"], done.defaulted, done.degraded) == (9, ("a",), True)


@pytest.mark.parametrize("default", [0, "", False, None])
def test_a_falsy_default_is_a_default(default):
    done = service(Table({}), defaults={"a": default, "b": 1}).complete({"id": 7})
    assert done.features["a"] is default
    assert done.defaulted == ("a", "b")


def test_only_the_missing_names_are_asked_for():
    table = Table({7: {"a": 1, "b": 2}})
    service(table).complete({"id": 7, "b": 5})
    assert table.calls == [({"id": 7}, ("a",))]


def test_names_that_nobody_asked_for_are_left_out():
    done = service(Table({7: {"a": 1, "b": 2, "z": 3}})).complete({"id": 7})
    assert "z" not in done.features


def test_a_dead_source_costs_the_default_and_degrades():
    table = Table({})
    table.error = ConnectionError("down")
    done = service(table, defaults={"a": 9, "b": 8}).complete({"id": 7})
    assert done.features == {"id": 7, "a": 9, "b": 8}
    assert (done.degraded, done.errors) == (True, (table.error,))


def test_without_a_default_the_feature_stays_missing_and_is_named():
    done = service(Table({}), defaults={"a": 9}).complete({"id": 7, "b": None})
    assert done.features == {"id": 7, "a": 9, "b": None}
    assert (done.missing, done.degraded) == (("b",), True)


def test_a_row_without_the_entity_gets_defaults_and_says_why():
    table = Table({})
    done = service(table, defaults={"a": 9, "b": 8}).complete({"x": 1})
    assert done.features == {"x": 1, "a": 9, "b": 8}
    assert isinstance(done.errors[0], LookupError)
    assert table.calls == []


@pytest.mark.parametrize("answer", [5, "text", [("a", 1)]])
def test_an_answer_that_is_no_mapping_is_an_error_of_the_source(answer):
    done = service(lambda entity, names: answer, defaults={"a": 9}).complete({"id": 7})
    assert isinstance(done.errors[0], TypeError)
    assert done.features["a"] == 9


def test_a_time_that_is_no_number_is_an_error_of_the_source():
    done = service(lambda e, n: Aged({"a": 1}, at="noon"), max_age=9).complete({"id": 7})
    assert done.missing == ("a", "b")


# -- freshness ---------------------------------------------------------------------------


def aged_service(clock, value, **settings):
    settings = {"max_age": 60.0, "defaults": {"a": 9}, "features": ("a",), **settings}
    table = view(lambda entity, names: value, **settings)
    return FeatureService(table, clock=clock)


@pytest.mark.parametrize("wrap", [lambda at: Aged({"a": 1}, at), lambda at: {"a": Aged(1, at)}])
def test_a_stale_value_is_defaulted_and_named(wrap):
    clock = ManualClock()
    done = aged_service(clock, wrap(clock.time() - 61)).complete({"id": 7})
    assert (done.features["a"], done.stale, done.defaulted) == (9, ("a",), ("a",))
    error = done.errors[0]
    assert isinstance(error, StaleFeatures)
    assert (error.name, error.age, error.limit) == ("a", 61, 60.0)


@pytest.mark.parametrize("age", [0, 60, -5])
def test_a_value_within_its_age_or_from_the_future_is_used(age):
    clock = ManualClock()
    done = aged_service(clock, Aged({"a": 1}, clock.time() - age)).complete({"id": 7})
    assert (done.features["a"], done.degraded) == (1, False)


def test_a_stale_value_without_default_stays_missing():
    clock = ManualClock()
    done = aged_service(clock, Aged({"a": 1}, 0.0), defaults={}).complete({"id": 7})
    assert (done.features, done.missing, done.stale) == ({"id": 7}, ("a",), ("a",))


def test_a_value_without_age_is_fresh():
    done = aged_service(ManualClock(), {"a": 1}).complete({"id": 7})
    assert done.features["a"] == 1


def test_without_max_age_nothing_is_stale():
    done = aged_service(ManualClock(), Aged({"a": 1}, 0.0), max_age=None).complete({"id": 7})
    assert done.features["a"] == 1


# -- several views -----------------------------------------------------------------------


def test_a_later_view_may_be_keyed_by_what_an_earlier_one_found():
    plane = FeatureView(
        "plane", features=("tail",), entity=("flight",), source=lambda e, n: {"tail": "N1"}
    )
    age = FeatureView(
        "age", features=("age",), entity=("tail",), source=lambda e, n: {"age": e["tail"] + "!"}
    )
    assert FeatureService(plane, age).complete({"flight": 5}).features["age"] == "N1!"


def test_one_dead_view_does_not_hurt_the_other():
    dead, alive = Table({}), Table({7: {"c": 3}})
    dead.error = OSError("gone")
    both = FeatureService(
        view(dead, defaults={"a": 1, "b": 2}), view(alive, name="c", features=["c"])
    )
    assert both.complete({"id": 7}).features == {"id": 7, "a": 1, "b": 2, "c": 3}


# -- guards, time limits, colours --------------------------------------------------------


def test_a_rejecting_guard_spares_the_source():
    table = Table({7: {"a": 1, "b": 2}})
    done = service(table, guard=Shut(shut=True), defaults={"a": 9, "b": 8}).complete({"id": 7})
    assert table.calls == []
    assert isinstance(done.errors[0], CircuitOpen)
    assert done.degraded


def test_the_guard_hears_how_the_call_ended():
    table, guard = Table({7: {"a": 1, "b": 2}}), Shut()
    looked_up = service(table, guard=guard)
    looked_up.complete({"id": 7})
    table.error = OSError("gone")
    looked_up.complete({"id": 7})
    assert (guard.left, guard.failed) == (1, [table.error])


def test_a_hanging_source_costs_its_timeout_and_the_default():
    release = threading.Event()
    hanging = service(lambda e, n: release.wait(30), timeout=0.02, defaults={"a": 9, "b": 8})
    done = hanging.complete({"id": 7})
    release.set()
    assert isinstance(done.errors[0], DeadlineExceeded)
    assert done.features["a"] == 9


def test_an_interrupt_is_not_swallowed():
    guard = Shut()

    def stop(entity, names):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service(stop, guard=guard).complete({"id": 7})
    assert not isinstance(guard.failed[0], Exception)


def test_an_async_source_serves_awaiting_callers():
    async def source(entity, names):
        return {"a": 1, "b": 2}

    done = asyncio.run(service(source).acomplete({"id": 7}))
    assert done.features == {"id": 7, "a": 1, "b": 2}


def test_an_async_source_in_a_plain_call_is_a_mistake_that_shows():
    async def source(entity, names):
        return {}

    with pytest.raises(TypeError, match="async"):
        service(source).complete({"id": 7})


class TwoColours(Table):
    async def afetch(self, entity, names):
        return {"a": "async", "b": "async"}

    async def afetch_many(self, entities, names):
        return [{"a": "many", "b": "many"}] * len(entities)

    fetch_many = ManyTable.fetch_many


def test_a_source_of_two_colours_is_called_in_the_callers():
    looked_up = service(TwoColours({7: {"a": "plain", "b": "plain"}}))
    assert looked_up.complete({"id": 7}).features["a"] == "plain"
    assert asyncio.run(looked_up.acomplete({"id": 7})).features["a"] == "async"


def test_a_batch_of_two_colours_likewise():
    looked_up = service(TwoColours({7: {"a": "plain", "b": "plain"}}))
    rows = [{"id": 7}, {"id": 8}]
    assert looked_up.complete_batch(rows)[0].features["a"] == "plain"
    assert asyncio.run(arun(looked_up.batch_steps(rows)))[1].features["a"] == "many"


def test_the_steps_can_be_part_of_a_larger_flow():
    looked_up = service(Table({7: {"a": 1, "b": 2}}))

    def flow():
        done, error = yield from looked_up.steps({"id": 7})
        assert error is None
        return done.features["a"] + 1, None

    assert run(flow()) == 2


# -- batches -----------------------------------------------------------------------------


def test_a_batch_calls_once_an_entity_and_keeps_the_order():
    table = Table({1: {"a": 1, "b": 1}, 2: {"a": 2, "b": 2}})
    done = service(table).complete_batch([{"id": 2}, {"id": 1}, {"id": 2}, {"id": 2, "a": 0}])
    assert [row.features["a"] for row in done] == [2, 1, 2, 0]
    assert table.calls == [({"id": 2}, ("a", "b")), ({"id": 1}, ("a", "b"))]


def test_fetch_many_is_one_call_for_the_batch():
    table = ManyTable({1: {"a": 1, "b": 1}, 2: {"a": 2, "b": 2}})
    done = service(table).complete_batch([{"id": 2}, {"id": 1, "b": 0}, {"id": 3}])
    assert table.calls == [([{"id": 2}, {"id": 1}, {"id": 3}], ("a", "b"))]
    assert [row.features.get("a") for row in done] == [2, 1, None]
    assert done[1].features["b"] == 0
    assert [row.degraded for row in done] == [False, False, True]


@pytest.mark.parametrize("answers", [[], [{}], None, 5])
def test_fetch_many_with_the_wrong_number_of_answers_costs_the_defaults(answers):
    table = ManyTable({})
    table.fetch_many = lambda entities, names: answers
    done = service(table, defaults={"a": 9, "b": 9}).complete_batch([{"id": 1}, {"id": 2}])
    assert all(row.features["a"] == 9 and row.errors for row in done)


def test_fetch_many_that_fails_costs_the_defaults():
    table = ManyTable({})
    table.error = OSError("gone")
    done = service(table, defaults={"a": 9, "b": 9}).complete_batch([{"id": 1}, {"id": 2}])
    assert [row.errors for row in done] == [(table.error,), (table.error,)]


def test_one_true_and_one_point_zero_are_different_entities():
    table = Table({1: {"a": 1, "b": 1}})
    service(table).complete_batch([{"id": 1}, {"id": True}, {"id": 1.0}])
    assert [type(entity["id"]) for entity, _ in table.calls] == [int, bool, float]


def test_an_entity_that_cannot_be_hashed_is_still_looked_up():
    seen = service(lambda entity, names: {"a": len(entity["id"]), "b": 0})
    done = seen.complete_batch([{"id": [1]}, {"id": [1, 2]}])
    assert [row.features["a"] for row in done] == [1, 2]


def test_rows_of_a_batch_without_the_entity_get_defaults():
    done = service(Table({}), defaults={"a": 9, "b": 9}).complete_batch([{}, {"id": 1}])
    assert isinstance(done[0].errors[0], LookupError)
    assert done[1].errors == ()


ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 4)},
        optional={"a": st.sampled_from([0, None, NAN, 5]), "b": st.just("")},
    )
)


@given(ROWS, st.booleans())
def test_a_batch_is_the_same_as_its_rows_one_by_one(rows, many):
    kind = ManyTable if many else Table
    source = kind({i: {"a": i, "b": i} for i in range(3)})
    looked_up = service(source, defaults={"a": -1})
    batch = looked_up.complete_batch(rows)
    single = [looked_up.complete(row) for row in rows]
    assert [repr(done) for done in batch] == [repr(done) for done in single]


# -- facts, counters, settings -----------------------------------------------------------


def test_a_source_that_begins_to_fail_and_recovers_is_two_facts():
    events, heard, table = Stream(), [], Table({7: {"a": 1, "b": 2}})
    events.subscribe(FeatureSourceFailed, heard.append)
    events.subscribe(FeatureSourceRecovered, heard.append)
    looked_up = FeatureService(view(table), events=events, clock=ManualClock(), name="f")
    for error in (None, OSError("gone"), OSError("gone"), None, None):
        table.error = error
        looked_up.complete({"id": 7})
    failed, recovered = heard
    assert (failed.view, failed.source, failed.reason) == ("table", "f", "OSError('gone')")
    assert (recovered.view, recovered.failures) == ("table", 2)


def test_the_counters_add_up():
    clock, table = ManualClock(), Table({7: Aged({"a": 1}, 0.0), 8: {"a": 1}})
    looked_up = FeatureService(view(table, max_age=5, defaults={"a": 9}), clock=clock)
    looked_up.complete({"id": 7})
    looked_up.complete({"id": 8})
    table.error = OSError("gone")
    looked_up.complete({"id": 8})
    told = looked_up.stats()["table"]
    assert (told.calls, told.failures, told.filled) == (3, 1, 1)
    assert (told.defaulted, told.stale, told.missing) == (2, 1, 3)


def test_counters_are_a_copy():
    looked_up = service(Table({}))
    looked_up.stats()["table"].calls = 99
    assert looked_up.stats()["table"].calls == 0


def test_many_threads_lose_no_count():
    looked_up = service(Table({7: {"a": 1, "b": 2}}))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: looked_up.complete({"id": 7}), range(400)))
    assert looked_up.stats()["table"].filled == 800


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"features": ()}, "features"),
        ({"features": "ab"}, "features"),
        ({"entity": ()}, "entity"),
        ({"entity": "id"}, "entity"),
        ({"defaults": {"z": 1}}, "defaults"),
        ({"max_age": 0}, "max_age"),
        ({"timeout": -1}, "timeout"),
        ({"max_age": NAN}, "max_age"),
    ],
)
def test_a_view_refuses_nonsense(settings, named):
    with pytest.raises(BadConfiguration, match=named):
        view(Table({}), **settings)


def test_a_view_refuses_a_source_that_cannot_be_called():
    with pytest.raises(BadConfiguration, match="source"):
        view("http://features")


def test_two_views_of_one_name_are_refused():
    with pytest.raises(BadConfiguration, match="name"):
        FeatureService(view(Table({})), view(Table({}), features=("c",)))


def test_one_feature_in_two_views_is_refused():
    with pytest.raises(BadConfiguration, match="two views"):
        FeatureService(view(Table({})), view(Table({}), name="other", features=("b",)))
