"""Who gets which traffic: overrides, cohorts, variants, and the same as plain data."""

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, UnknownVersion
from prodml.events import Stream, TrafficRouted
from prodml.serving import VersionedModelServer
from prodml.testing import Recorder

VERSIONS = ("v1", "v2", "v3")


def serving(**settings):
    server = VersionedModelServer(events=Stream(), **settings)
    for version in VERSIONS:
        server.load_model(version, lambda features, version=version: version)
    server.set_default_version("v1")
    return server


def who(server, *args, **kwargs):
    reply = server.call({}, *args, **kwargs)
    return reply.version, reply.arm


# -- overrides --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{"x-arm": "new"}, {"X-Arm": "new"}, {"a": "b", "X-ARM": "new"}]
)
def test_header_decides_whatever_its_case(headers):
    server = serving()
    server.route(overrides={"X-Arm": {"new": "v2"}})
    assert who(server, headers=headers) == ("v2", "override")
    assert server.predict({}, headers=headers) == "v2"
    with server.lease(headers=headers) as lease:
        assert (lease.version, lease.arm) == ("v2", "override")


@pytest.mark.parametrize("headers", [None, {}, {"x-arm": "New"}, {"x-other": "new"}])
def test_header_that_says_nothing_leaves_the_split_in_charge(headers):
    server = serving()
    server.route(canary={"v3": 1.0}, overrides={"x-arm": {"new": "v2"}})
    assert who(server, key="ann", headers=headers) == ("v3", "canary")


def test_header_applies_to_batches_and_awaited_requests():
    import asyncio

    server = serving()
    server.route(overrides={"x-arm": {"new": "v2"}})
    headers = {"x-arm": "new"}
    assert server.call_batch([{}, {}], headers=headers).versions == ("v2", "v2")
    assert server.call_batch([{}, {}], keys=[1, 2], headers=headers).arm == "override"
    assert asyncio.run(server.apredict({}, headers=headers)) == "v2"
    assert asyncio.run(server.acall({}, headers=headers)).arm == "override"


def test_order_of_say_is_pinned_header_cohort_share():
    server = serving()
    server.route(
        canary={"v3": 1.0},
        overrides={"x-arm": {"new": "v2"}},
        cohorts={"staff": ("v1", ["ann"])},
    )
    new = {"x-arm": "new"}
    assert who(server, "v1", key="ann", headers=new) == ("v1", "pinned")
    assert who(server, key="ann", headers=new) == ("v2", "override")
    assert who(server, key="ann") == ("v1", "staff")
    assert who(server, key="bob") == ("v3", "canary")


def test_overrides_and_cohorts_stay_until_they_are_replaced():
    server = serving()
    server.route(overrides={"x-arm": {"new": "v2"}}, cohorts={"staff": ("v2", ["ann"])})
    server.route(canary={"v3": 0.5})
    server.route()
    assert who(server, headers={"x-arm": "new"}) == ("v2", "override")
    assert who(server, key="ann") == ("v2", "staff")
    server.route(overrides={})
    assert who(server, headers={"x-arm": "new"}) == ("v1", "stable")
    assert who(server, key="ann") == ("v2", "staff")
    server.route(cohorts={})
    assert who(server, key="ann") == ("v1", "stable")


# -- cohorts ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", [5, "5", b"5"])
def test_cohort_knows_its_keys_in_any_form(key):
    server = serving()
    server.route(cohorts={"staff": ("v2", {5, "ann"})})
    assert who(server, key=key) == ("v2", "staff")
    assert who(server, key="ann") == ("v2", "staff")
    assert who(server, key="bob") == ("v1", "stable")
    assert who(server) == ("v1", "stable")


def test_first_of_two_cohorts_counts():
    server = serving()
    server.route(cohorts={"a": ("v2", ["ann"]), "b": ("v3", ["ann", "bob"])})
    assert [who(server, key=key) for key in ("ann", "bob")] == [("v2", "a"), ("v3", "b")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cohorts": {"staff": ("v2", "ann")}}, "collection of keys"),
        ({"cohorts": {"staff": ("v2", [b"\xff"])}}, "no UTF-8"),
        ({"cohorts": {"stable": ("v2", [])}}, "name of its own"),
        ({"cohorts": {"": ("v2", [])}}, "name of its own"),
        ({"cohorts": {"staff": (2, [])}}, "lead to a version"),
        ({"cohorts": {"staff": ("v2", 7)}}, "collection of keys"),
        ({"cohorts": {"staff": "v2"}}, r"\(version, keys\)"),
        ({"cohorts": {"staff": ("v2",)}}, r"\(version, keys\)"),
        ({"variants": {"B": "v2"}}, r"\(version, share\)"),
        ({"variants": {"B": ("v2", 0.5, 1)}}, r"\(version, share\)"),
        ({"variants": {"canary": ("v2", 0.5)}}, "name of its own"),
        ({"variants": {"B": ("v2", 1.5)}}, "0..1"),
        ({"variants": {"B": ("v2", "half")}}, "0..1"),
        ({"variants": {"B": ("v2", 0.7), "C": ("v3", 0.7)}}, "add up to 1.4"),
        ({"variants": {"v2": ("v3", 0.7)}, "canary": {"v2": 0.7}}, "add up to 1.4"),
        ({"variants": {"B": ("v2", 0.5)}, "cohorts": {"B": ("v2", [])}}, "name of its own"),
        ({"overrides": {"x-arm": {"new": 2}}}, "lead to a version"),
        ({"shadow": {"v2": 2.0}}, "shadow share"),
    ],
)
def test_traffic_that_makes_no_sense_is_refused_whole(settings, message):
    server = serving()
    before = server.history
    with pytest.raises(BadConfiguration, match=message):
        server.route(**settings)
    assert server.history is before


@pytest.mark.parametrize(
    "settings",
    [
        {"overrides": {"x-arm": {"new": "v9"}}},
        {"cohorts": {"staff": ("v9", ["ann"])}},
        {"variants": {"B": ("v9", 0.5)}},
        {"shadow": {"v9": 0.5}},
    ],
)
def test_traffic_to_an_unknown_version_is_refused_whole(settings):
    server = serving()
    before = server.history
    with pytest.raises(UnknownVersion, match="v9"):
        server.route(**settings)
    assert server.history is before


# -- experiments ------------------------------------------------------------------------


def test_arms_of_an_experiment_are_named_and_sticky():
    server = serving()
    server.route(variants={"A": ("v1", 0.2), "B": ("v2", 0.2), "C": ("v3", 0.2)})
    users = range(20_000)
    arms = {user: who(server, key=user) for user in users}
    assert arms == {user: who(server, key=user) for user in users}
    shares = {arm: count / 20_000 for arm, count in Counter(arms.values()).items()}
    expected = {("v1", "A"): 0.2, ("v2", "B"): 0.2, ("v3", "C"): 0.2, ("v1", "stable"): 0.4}
    assert shares == pytest.approx(expected, abs=0.01)


def test_same_version_in_two_arms_tests_the_test():
    server = serving()
    server.route(variants={"A": ("v2", 0.5), "AA": ("v2", 0.5)})
    arms = Counter(who(server, key=user) for user in range(4000))
    assert arms[("v2", "A")] / 4000 == pytest.approx(0.5, abs=0.03)
    assert arms[("v2", "AA")] / 4000 == pytest.approx(0.5, abs=0.03)


def test_experiment_and_canary_run_side_by_side():
    server = serving()
    server.route(canary={"v3": 0.1}, variants={"B": ("v2", 0.5)})
    arms = Counter(who(server, key=user) for user in range(20_000))
    expected = {("v3", "canary"): 0.1, ("v2", "B"): 0.5, ("v1", "stable"): 0.4}
    assert {a: n / 20_000 for a, n in arms.items()} == pytest.approx(expected, abs=0.01)


def test_experiment_goes_on_when_one_of_its_versions_becomes_the_default():
    server = serving()
    server.route(variants={"B": ("v2", 1.0)})
    server.set_default_version("v2")
    assert who(server, key="ann") == ("v2", "B")
    assert dict(server.variants) == {"B": ("v2", 1.0)}


# -- bad versions -----------------------------------------------------------------------


def test_rollback_takes_a_version_out_of_everything():
    server = serving()
    server.route(
        canary={"v2": 0.3},
        variants={"B": ("v2", 0.3), "C": ("v3", 0.3)},
        shadow=["v2"],
        overrides={"x-arm": {"new": "v2", "other": "v3"}},
        cohorts={"staff": ("v2", ["ann"]), "family": ("v3", ["bob"])},
    )
    server.rollback("v2", reason="bad")
    assert (dict(server.canary), server.shadow_versions) == ({}, ())
    assert dict(server.variants) == {"C": ("v3", 0.3)}
    assert who(server, key="ann", headers={"x-arm": "new"}) != ("v2", "override")
    assert who(server, headers={"x-arm": "other"}) == ("v3", "override")
    assert who(server, key="bob") == ("v3", "family")
    assert who(server, "v2") == ("v2", "pinned")


def test_rollback_without_a_version_takes_challengers_of_both_kinds():
    server = serving()
    server.route(canary={"v2": 0.5}, variants={"A": ("v1", 0.1), "B": ("v3", 0.1)})
    assert server.rollback(reason="guard") == "v1"
    assert set(server.quarantined) == {"v2", "v3"}
    assert dict(server.variants) == {"A": ("v1", 0.1)}


@pytest.mark.parametrize(
    "settings",
    [
        {"overrides": {"x-arm": {"new": "v2"}}},
        {"cohorts": {"staff": ("v2", ["ann"])}},
        {"variants": {"B": ("v2", 0.5)}},
    ],
)
def test_version_with_a_part_in_traffic_is_neither_unloaded_nor_quarantined_into(settings):
    server = serving()
    server.route(**settings)
    with pytest.raises(BadConfiguration, match="cannot unload"):
        server.unload_model("v2")
    server.rollback("v2")
    with pytest.raises(BadConfiguration, match="quarantined"):
        server.route(**settings)
    server.unload_model("v2")


def test_history_and_facts_tell_the_traffic_in_words():
    server = serving()
    heard = Recorder(server.events, TrafficRouted)
    server.route(
        canary={"v2": 0.05},
        variants={"B": ("v3", 0.5)},
        overrides={"x-arm": {"new": "v2"}},
        cohorts={"staff": ("v2", ["ann"])},
    )
    words = "canary v2 5 %; variant B = v3 50 %; override x-arm=new to v2; cohort staff of 1 to v2"
    assert server.history[-1].traffic == heard.facts[-1].traffic == words
    server.route(overrides={}, cohorts={})
    assert server.history[-1].traffic == "all to the default"


# -- as plain data ----------------------------------------------------------------------

SHARE = st.floats(0.0, 0.3)
KEYS = st.lists(st.one_of(st.integers(0, 99), st.text(max_size=3)), max_size=4)
TRAFFIC = st.fixed_dictionaries(
    {
        "canary": st.dictionaries(st.sampled_from(("v2", "v3")), SHARE, max_size=2),
        "variants": st.dictionaries(
            st.sampled_from("ABC"), st.tuples(st.sampled_from(VERSIONS), st.floats(0, 0.1))
        ),
        "shadow": st.dictionaries(st.sampled_from(("v2", "v3")), SHARE, max_size=2),
        "salt": st.text(max_size=3),
        "overrides": st.dictionaries(
            st.text("xyz-", min_size=1, max_size=3),
            st.dictionaries(st.text("ab", max_size=2), st.sampled_from(VERSIONS), max_size=2),
            max_size=2,
        ),
        "cohorts": st.dictionaries(
            st.sampled_from(("staff", "family")), st.tuples(st.sampled_from(VERSIONS), KEYS)
        ),
    }
)


@given(TRAFFIC, st.lists(st.sampled_from(VERSIONS), max_size=4))
@settings(max_examples=60, deadline=None)
def test_routing_survives_a_trip_as_json(traffic, defaults):
    one, other = serving(name="churn"), VersionedModelServer(name="churn", events=Stream())
    for version in VERSIONS:
        other.load_model(version, lambda features, version=version: version)
    for version in defaults:
        one.set_default_version(version)
    if one.default_version != "v1":
        traffic = traffic | {"canary": {}, "shadow": {}}
    one.route(**traffic)
    other.apply_routing(json.loads(json.dumps(one.routing())))
    assert other.routing() == one.routing()
    for user in range(50):
        headers = {"x": "a"}
        assert who(one, key=user) == who(other, key=user)
        one.rng, other.rng = Random(user), Random(user)
        assert who(one, headers=headers) == who(other, headers=headers)
    assert other.history[-1].action == "applied"


def test_applied_routing_can_be_rolled_back():
    one, other = serving(name="churn"), serving(name="churn")
    one.set_default_version("v2")
    one.set_default_version("v3")
    other.apply_routing(one.routing(), reason="fleet")
    assert (other.rollback(), other.rollback()) == ("v2", "v1")
    one.apply_routing(other.routing())
    assert (one.default_version, set(one.quarantined)) == ("v1", {"v2", "v3"})


def test_same_routing_again_is_no_change():
    server = serving()
    server.route(canary={"v2": 0.5}, cohorts={"staff": ("v3", ["ann"])})
    before = server.history
    server.apply_routing(json.loads(json.dumps(server.routing())))
    assert server.history is before


def test_data_without_a_past_adds_the_old_default_to_it():
    server = serving()
    server.apply_routing({"default": "v2"})
    assert server.rollback() == "v1"


@pytest.mark.parametrize(
    "data",
    [
        {"default": "v9"},
        {"default": "v2", "canary": {"v9": 0.1}},
        {"default": "v2", "cohorts": {"staff": ["v9", ["ann"]]}},
    ],
)
def test_routing_to_a_version_that_is_not_loaded_changes_nothing(data):
    server = serving()
    server.route(canary={"v3": 0.5})
    before = server.routing(), server.history
    with pytest.raises(UnknownVersion, match="v9"):
        server.apply_routing(data)
    assert (server.routing(), server.history) == before
    assert server.history is before[1]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"canary": {}},
        {"default": "v1", "canery": {}},
        {"default": "v1", "canary": ["v2"]},
        {"default": "v1", "canary": {"v2": "much"}},
        {"default": "v1", "variants": {"B": "v2"}},
        {"default": "v1", "cohorts": {"staff": ["v2"]}},
        {"default": "v1", "cohorts": 7},
        {"default": "v1", "quarantined": ["v2"]},
        {"default": "v1", "past": 3},
        {"default": "v2", "quarantined": {"v2": "bad"}},
        {"default": None, "canary": {"v2": 0.5}},
        {"default": "v1", "shadow": {"v1": 0.5}},
    ],
)
def test_data_that_is_no_routing_changes_nothing(data):
    server = serving()
    before = server.routing(), server.history
    with pytest.raises(BadConfiguration):
        server.apply_routing(data)
    assert server.history is before[1]
    assert server.routing() == before[0]


def test_routing_without_a_default_may_be_applied():
    server = serving()
    server.apply_routing(VersionedModelServer().routing() | {"salt": ""})
    assert not server.ready()


# -- blue and green, readiness ----------------------------------------------------------


def test_blue_green_is_one_store_and_one_to_undo():
    server = serving()
    server.set_default_version("v2", reason="green")
    assert {server.predict({}, key=user) for user in range(50)} == {"v2"}
    server.set_default_version("v1", reason="back to blue")
    assert {server.predict({}, key=user) for user in range(50)} == {"v1"}
    assert dict(server.quarantined) == {}


def test_ready_means_that_the_default_can_answer():
    server = VersionedModelServer(events=Stream())
    assert (server.ready(), server.live()) == (False, True)
    server.load_model("v1", abs)
    assert not server.ready()
    server.set_default_version("v1")
    assert server.ready()
    server.load_model("v2", abs, check=lambda model: server.ready())
    assert server.ready()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"salt": 5}, "salt must be text, not 5"),
        ({"canary": ["v2"]}, "canary must be a mapping"),
        ({"canary": "v2"}, "canary must be a mapping"),
        ({"variants": ["B"]}, "variants must be a mapping"),
        ({"shadow": 5}, "shadow must be a list of versions, not 5"),
        ({"cohorts": ["v2"]}, "cohorts must be a mapping"),
        ({"overrides": {"x": "v2"}}, "overrides of the header 'x' must be a mapping, not 'v2'"),
        ({"overrides": {5: {"a": "v2"}}}, "must be text, not 5"),
        ({"overrides": {"x": {True: "v2"}}}, "must be text, not True"),
    ],
)
def test_a_wrong_kind_of_setting_is_named_and_changes_nothing(settings, message):
    server = serving()
    before = server.routing()
    with pytest.raises(BadConfiguration, match=message):
        server.route(**settings)
    assert server.routing() == before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"default": ["v1"]}, r"default of models must be a version or None, not \['v1'\]"),
        ({"default": 3}, "default of models must be a version or None, not 3"),
        ({"default": "v1", "past": "v2"}, "past of models must be a list, not 'v2'"),
        ({"default": "v1", "salt": 5}, "salt must be text"),
    ],
)
def test_a_wrong_kind_of_data_is_named_and_changes_nothing(data, message):
    server = serving()
    before = server.routing()
    with pytest.raises(BadConfiguration, match=message):
        server.apply_routing(data)
    assert server.routing() == before
