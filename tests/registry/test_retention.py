"""Retention: what stays, what goes, and in which order."""

import os

import pytest

from prodml.errors import (
    BadConfiguration,
    CorruptRecord,
    RetiredVersion,
    StoreUnavailable,
    UnknownVersion,
)
from prodml.events import Stream, VersionsRetired
from prodml.registry import Bundle, ModelRegistry, Retention, audit
from prodml.registry.files import Directory
from prodml.registry.records import digest_of
from prodml.testing import ManualClock, Recorder

DAY = 86_400
LAST = Retention(last=1, newer_than=0, aliased_within=0)


@pytest.fixture(params=["directory", "sqlite"])
def registry(request, tmp_path):
    place = tmp_path / "models" if request.param == "directory" else f"sqlite:///{tmp_path}/m.db"
    return ModelRegistry(place, clock=ManualClock(), events=Stream())


def filled(registry, count=5, name="churn"):
    """One version a day; the newest is registered now."""
    for number in range(1, count + 1):
        registry.clock.advance(DAY)
        registry.register(name, {"number": number})
    return registry


def test_the_last_stay(registry):
    filled(registry)
    pruned = registry.prune("churn", Retention(last=2, newer_than=0))
    assert pruned.retired == ("churn@1", "churn@2", "churn@3")
    assert pruned.kept == {"churn@4": "one of the last 2", "churn@5": "one of the last 2"}
    assert registry.versions("churn") == ("4", "5")
    assert (len(pruned.removed), pruned.freed) == (3, 3 * len(b'{"number":1}'))
    assert len(registry._archive.artifacts()) == 2


def test_the_young_stay(registry):
    filled(registry)
    pruned = registry.prune("churn", Retention(last=0, newer_than=1.5 * DAY))
    assert pruned.retired == ("churn@1", "churn@2", "churn@3")
    assert pruned.kept["churn@4"] == "1.0 days old"


def test_the_tagged_stay(registry):
    filled(registry)
    registry.tag("churn", "1", "audit")
    registry.tag("churn", "2", "eu", "demo")
    registry.tag("churn", "3", "demo")
    registry.tag("churn", "3")
    registry.register("churn", b"", tags=["audit"])
    rules = {"last": 0, "newer_than": 0}
    every = registry.prune("churn", Retention(**rules), dry_run=True)
    assert set(every.kept) == {"churn@1", "churn@2", "churn@6"}
    assert every.kept["churn@2"] == "tagged demo, eu"
    some = registry.prune("churn", Retention(**rules, tags=["audit"]), dry_run=True)
    assert set(some.kept) == {"churn@1", "churn@6"}
    assert registry.prune("churn", Retention(**rules, tags=()), dry_run=True).kept == {}


def test_what_an_alias_points_at_stays_whatever_the_rules_say(registry):
    filled(registry)
    registry.alias("churn", "champion", "1")
    registry.clock.advance(1000 * DAY)
    pruned = registry.prune("churn", Retention(last=0, newer_than=0, aliased_within=0))
    assert pruned.kept == {"churn@1": "alias champion"}
    assert registry.load("churn", "champion") == {"number": 1}


def test_what_an_alias_pointed_at_stays_for_a_while(registry):
    filled(registry)
    registry.alias("churn", "champion", "1")
    registry.clock.advance(10 * DAY)
    registry.alias("churn", "champion", "2")
    registry.alias("churn", "canary", "3")
    registry.unalias("churn", "canary")
    registry.clock.advance(5 * DAY)
    rules = {"last": 0, "newer_than": 0}
    within = registry.prune("churn", Retention(**rules, aliased_within=5.1 * DAY), dry_run=True)
    assert within.kept == {
        "churn@1": "alias champion", "churn@2": "alias champion", "churn@3": "alias canary",
    }  # fmt: skip
    beyond = registry.prune("churn", Retention(**rules, aliased_within=4.9 * DAY), dry_run=True)
    assert beyond.kept == {"churn@2": "alias champion"}


def test_dry_run_tells_the_same_and_changes_nothing(registry):
    filled(registry)
    before = audit(registry)
    planned = registry.prune("churn", LAST, dry_run=True)
    assert audit(registry) == before
    done = registry.prune("churn", LAST)
    assert planned.dry_run
    assert not done.dry_run
    assert (planned.retired, planned.kept, planned.removed, planned.freed) == (
        done.retired, done.kept, done.removed, done.freed,
    )  # fmt: skip
    assert bool(planned) is bool(done) is True
    assert not registry.prune("churn", LAST)


def test_retired_version_is_told_but_not_loaded(registry):
    filled(registry, 2)
    registry.alias("churn", "champion", "1")
    registry.clock.advance(1)
    registry.alias("churn", "champion", "2")
    registry.clock.advance(DAY)
    registry.prune("churn", LAST)
    for call in (registry.load, registry.verify):
        with pytest.raises(RetiredVersion, match="still there: 2"):
            call("churn", "1")
    with pytest.raises(RetiredVersion):
        registry.alias("churn", "champion", "1")
    with pytest.raises(RetiredVersion):
        registry.tag("churn", "1", "audit")
    described = registry.describe("churn", "1")
    assert (described.retired, described.size) == (True, 12)
    assert not registry.describe("churn", "2").retired
    first = registry.history("churn", "champion")[0]
    assert registry.at("churn", "champion", first.at).version == "1"
    assert registry.resolve("churn", "1").metadata == {}


def test_numbers_are_not_given_twice(registry):
    filled(registry, 3)
    registry.prune("churn", Retention(last=0, newer_than=0))
    assert registry.versions("churn") == ()
    assert registry.models() == ("churn",)
    assert registry.register("churn", b"x").version == "4"


def test_bytes_that_another_version_needs_stay(registry):
    registry.register("churn", b"shared")
    registry.register("other", Bundle({"a": b"shared", "b": b"own"}))
    registry.clock.advance(DAY)
    assert registry.prune("churn", Retention(last=0, newer_than=0)).removed == ()
    assert registry.load("other", "1")["a"] == b"shared"
    assert set(registry.prune(retention=Retention(last=0, newer_than=0)).removed) == {
        digest_of(b"shared"), digest_of(b"own"),
    }  # fmt: skip


def test_all_models_or_one(registry):
    filled(registry, 2)
    filled(registry, 2, "fraud")
    assert registry.prune("churn", LAST).retired == ("churn@1",)
    assert registry.prune(None, LAST).retired == ("fraud@1",)
    assert registry.prune("none", LAST).retired == ()


def test_retiring_is_a_fact(registry):
    filled(registry, 3)
    heard = Recorder(registry.events)
    registry.prune("churn", LAST, dry_run=True)
    registry.prune("churn", LAST)
    registry.prune("churn", LAST)
    assert [fact.versions for fact in heard.of(VersionsRetired)] == [("churn@1", "churn@2")]


def test_content_that_was_removed_can_be_registered_again(registry):
    registry.register("churn", b"same")
    registry.clock.advance(1)
    registry.prune("churn", Retention(last=0, newer_than=0))
    assert registry.register("churn", b"same").version == "2"
    assert registry.load("churn", "2") == b"same"


def test_nothing_is_removed_while_a_manifest_is_damaged(tmp_path):
    registry = filled(ModelRegistry(tmp_path, clock=ManualClock(), events=Stream()))
    ModelRegistry(tmp_path, events=Stream()).register("other", b"x")
    (tmp_path / "records" / "models" / "other" / "00000001.json").write_bytes(b"damaged")
    with pytest.raises(CorruptRecord, match="other@1"):
        registry.prune("churn", LAST)
    assert len(registry.versions("churn")) == 5
    assert len(registry._archive.artifacts()) == 6


def test_orphans_go_after_an_hour(tmp_path):
    archive = Directory(tmp_path)
    registry = ModelRegistry(archive, events=Stream())
    registry.register("churn", b"x")
    for data, age in ((b"old", 3700), (b"young", 3500)):
        archive.stage(digest_of(data), data)
        file = tmp_path / "artifacts" / digest_of(data)[:2] / digest_of(data)
        os.utime(file, (0, archive.clock.time() - age))
    assert len(audit(registry).orphans) == 2
    assert registry.prune().removed == (digest_of(b"old"),)
    assert audit(registry).orphans == (digest_of(b"young"),)


def test_registration_writes_again_what_a_pruning_took_from_it(tmp_path):
    """A pruning comes between the staging and the lock, and takes even young orphans."""
    archive = Directory(tmp_path)

    class Crossed:
        def __getattr__(self, name):
            return getattr(archive, name)

        def stage(self, digest, data):
            archive.stage(digest, data)
            with archive.writing():
                archive.remove(digest)

    registry = ModelRegistry(Crossed(), events=Stream())
    registry.register("churn", b"weights")
    assert registry.load("churn", "1") == b"weights"


def test_reader_that_comes_too_late_is_told_so(tmp_path):
    """The version is retired between reading its manifest and reading its bytes."""
    archive = Directory(tmp_path)
    clock = ManualClock()
    pruner = filled(ModelRegistry(archive, clock=clock, events=Stream()), 2)

    class Late:
        def __getattr__(self, name):
            return getattr(archive, name)

        def get(self, digest, size):
            pruner.prune("churn", LAST)
            return archive.get(digest, size)

    with pytest.raises(RetiredVersion):
        ModelRegistry(Late()).load("churn", "1")


@pytest.mark.parametrize("wrong", [{"last": -1}, {"newer_than": -1.0}, {"newer_than": float("nan")},
                                   {"aliased_within": -1}, {"tags": "audit"}])  # fmt: skip
def test_settings_are_checked(wrong):
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        Retention(**wrong)


@pytest.mark.parametrize("tags", ["audit", [""], [7]])
def test_tags_are_words(registry, tags):
    with pytest.raises(BadConfiguration, match="list of words"):
        registry.register("churn", b"x", tags=tags)
    assert registry.models() == ()


def test_tags_of_an_unknown_version(registry):
    registry.register("churn", b"x")
    with pytest.raises(UnknownVersion):
        registry.tag("churn", "2", "audit")


def test_pruning_waits_for_writers_and_gives_up(tmp_path):
    registry = filled(ModelRegistry(Directory(tmp_path, patience=0.01), events=Stream(),
                                    clock=ManualClock()))  # fmt: skip
    with Directory(tmp_path).writing(), pytest.raises(StoreUnavailable):
        registry.prune("churn", LAST)
    assert len(registry.versions("churn")) == 5
