"""The split: shares, stickiness, independence; what a split may not be."""

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, UnknownVersion
from prodml.events import Stream
from prodml.serving import VersionedModelServer
from prodml.serving.routing import Table
from prodml.serving.slot import Route, Slot
from prodml.serving.split import Split

USERS = range(100_000)


def split(shares, salt="churn"):
    stable = Route.to(Slot.of("v0", abs), "stable")
    canaries = [(Route.to(Slot.of(v, abs), "canary"), share) for v, share in shares.items()]
    return Split.of(stable, canaries, salt=salt)


def cohort(shares, salt="churn", users=USERS, version="v1"):
    laid = split(shares, salt)
    return {user for user in users if laid.by_key(user).version == version}


def serving(*versions, **settings):
    server = VersionedModelServer(events=Stream(), **settings)
    for version in versions:
        server.load_model(version, lambda features, version=version: version)
    server.set_default_version(versions[0])
    return server


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
def test_cohort_has_the_share_asked_for(share):
    assert len(cohort({"v1": share})) / len(USERS) == pytest.approx(share, abs=0.003)


def test_two_rollouts_are_independent():
    overlap = cohort({"v1": 0.05}) & cohort({"v2": 0.05}, version="v2")
    assert 0.0020 <= len(overlap) / len(USERS) <= 0.0030


def test_two_salts_are_independent():
    overlap = cohort({"v1": 0.05}, salt="first") & cohort({"v1": 0.05}, salt="second")
    assert 0.0020 <= len(overlap) / len(USERS) <= 0.0030


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5))
def test_raising_a_share_moves_nobody_out_of_that_canary_or_back_to_stable(low, high, other):
    low, high = sorted((low, high))
    before, after = split({"v1": low, "v2": other}), split({"v1": high, "v2": other})
    for user in range(200):
        old, new = before.by_key(user).version, after.by_key(user).version
        assert new == old or new == "v1" or (old, new) == ("v0", "v2")


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 0.25), max_size=4))
def test_several_canaries_each_get_their_share(shares):
    laid, users = split(shares), range(4000)
    answered = [laid.by_key(user).version for user in users]
    for version, share in shares.items():
        assert answered.count(version) / len(users) == pytest.approx(share, abs=0.04)


def test_whole_traffic_may_go_to_canaries():
    laid = split({"v1": 0.5, "v2": 0.5})
    assert {laid.by_key(user).version for user in range(1000)} == {"v1", "v2"}
    assert len(cohort({"v1": 1.0}, users=range(1000))) == 1000


def test_share_beyond_the_whole_gets_nothing():
    laid = split({"v1": 1.0, "v2": 0.0})
    assert {laid.by_key(user).version for user in range(1000)} == {"v1"}


def test_order_of_the_mapping_does_not_matter():
    one, other = split({"v1": 0.1, "v2": 0.2}), split({"v2": 0.2, "v1": 0.1})
    for user in range(1000):
        assert one.by_key(user).version == other.by_key(user).version


def test_number_text_and_bytes_are_the_same_key():
    laid = split({"v1": 0.5})
    for user in range(100):
        assert laid.by_key(user) is laid.by_key(str(user)) is laid.by_key(str(user).encode())


KEYS = st.one_of(st.text(), st.text(st.characters(categories=["Cs"])), st.integers(), st.binary())


@given(st.lists(KEYS, max_size=20), st.floats(0, 1), st.text(max_size=3))
def test_server_places_keys_as_the_split_does(keys, share, salt):
    server = serving("v0", "v1")
    server.route(canary={"v1": share}, salt=salt)
    laid = split({"v1": share} if share else {}, salt)
    for key in keys:
        assert server.call({}, key=key).version == laid.by_key(key).version


def test_lone_surrogate_is_a_key():
    assert split({"v1": 0.5}).by_key("\ud800").version in {"v0", "v1"}


def test_cohort_is_the_same_in_every_process():
    script = (
        "from tests.serving.test_routing import cohort;"
        "print(sorted(cohort({'v1': 0.05}, users=range(500))))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert printed == {f"{sorted(cohort({'v1': 0.05}, users=range(500)))}\n"}


def test_cohort_is_the_same_in_every_release():
    members = [15, 17, 39, 43, 55]
    assert sorted(cohort({"v1": 0.05}, users=range(60))) == members


def test_without_a_key_the_shares_hold_on_average():
    laid, rng = split({"v1": 0.1, "v2": 0.3}), Random(7)
    drawn = [laid.by_chance(rng).version for _ in range(20_000)]
    assert drawn.count("v1") / 20_000 == pytest.approx(0.1, abs=0.01)
    assert drawn.count("v2") / 20_000 == pytest.approx(0.3, abs=0.01)


def test_injected_rng_makes_keyless_routing_repeatable():
    def answers():
        server = serving("v1", "v2", rng=Random(3))
        server.route(canary={"v2": 0.5})
        return [server.predict({}) for _ in range(50)]

    assert answers() == answers()
    assert set(answers()) == {"v1", "v2"}


def test_pinned_request_bypasses_the_split():
    server = serving("v1", "v2")
    server.route(canary={"v2": 1.0})
    assert server.predict({}, version="v1", key="ann") == "v1"
    assert server.predict({}, key="ann") == "v2"


@pytest.mark.parametrize(("version", "arm"), [(None, "canary"), ("v1", "pinned"), ("v2", "pinned")])
def test_route_names_its_arm(version, arm):
    server = serving("v1", "v2")
    server.route(canary={"v2": 1.0})
    with server.lease(version, key="ann") as lease:
        assert lease.arm == arm


def test_servers_of_the_same_name_agree_and_others_do_not():
    def answers(name, salt=None):
        server = serving("v1", "v2", name=name)
        server.route(canary={"v2": 0.5}, salt=salt)
        return [server.predict({}, key=user) for user in range(100)]

    assert answers("churn") == answers("churn") == answers("fraud", salt="churn")
    assert answers("churn") != answers("fraud")


def test_promoted_canary_leaves_the_split():
    server = serving("v1", "v2", "v3")
    server.route(canary={"v2": 0.5, "v3": 0.1}, shadow=["v2"])
    server.set_default_version("v2")
    assert (dict(server.canary), server.shadow_versions) == ({"v3": 0.1}, ())


def test_zero_share_is_no_canary():
    server = serving("v1", "v2")
    server.route(canary={"v2": 0.0})
    assert dict(server.canary) == {}


@pytest.mark.parametrize(
    ("canary", "shadow", "message"),
    [
        ({"v2": 1.1}, (), "0..1"),
        ({"v2": -0.1}, (), "0..1"),
        ({"v2": float("nan")}, (), "0..1"),
        ({"v2": 0.6, "v3": 0.6}, (), "add up to 1.2"),
        ({"v1": 0.1}, (), "default already"),
        ({}, ["v1"], "default already"),
        ({}, "v2", "a list of versions"),
    ],
)
def test_split_that_makes_no_sense_is_refused_whole(canary, shadow, message):
    server = serving("v1", "v2", "v3")
    before = server.history
    with pytest.raises(BadConfiguration, match=message):
        server.route(canary=canary, shadow=shadow)
    assert server.history is before


@pytest.mark.parametrize("split_of", [{"canary": {"v9": 0.1}}, {"shadow": ["v9"]}])
def test_split_to_an_unknown_version_is_refused(split_of):
    with pytest.raises(UnknownVersion, match="v9"):
        serving("v1").route(**split_of)


def test_split_needs_a_default():
    server = VersionedModelServer()
    server.load_model("v1", abs)
    with pytest.raises(BadConfiguration, match="no default"):
        server.route(canary={"v1": 0.5})
    server.route()


def test_history_keeps_the_last_thousand():
    table = Table(name="models")
    for at in range(1100):
        table = table.note(float(at), "routed")
    assert [len(table.history), table.history[0].at, table.history[-1].at] == [1000, 100.0, 1099.0]


@pytest.mark.parametrize("key", ["", b""])
def test_the_empty_key_is_not_in_every_canary(key):
    arms = set()
    for number in range(200):
        server = serving("v1", "v2", name=f"rollout-{number}")
        server.route(canary={"v2": 0.25})
        arm = server.call({}, key=key).version
        assert arm == server.call({}, key="").version, "it sticks"
        with_cohort = server.call_batch([{}], keys=[key]).versions
        assert with_cohort == (arm,)
        arms.add((number, arm))
    assert 0.15 <= sum(arm == "v2" for _, arm in arms) / 200 <= 0.35
