"""The audit finds every kind of damage and nothing where there is none."""

import pytest

from prodml.events import Stream
from prodml.registry import Bundle, ModelRegistry, Retention, audit
from prodml.registry.records import canonical, sealed
from prodml.testing import ManualClock


@pytest.fixture
def registry(tmp_path):
    registry = ModelRegistry(tmp_path, clock=ManualClock(), events=Stream())
    registry.register("churn", b"one")
    registry.register("churn", Bundle({"a": b"1", "b": b"2"}))
    registry.register("fraud", b"x")
    registry.alias("churn", "champion", "1")
    registry.alias("churn", "champion", "2")
    return registry


def test_all_is_well(registry):
    found = audit(registry)
    assert (found.versions, found.moves, found.artifacts) == (3, 2, 4)
    assert (found.orphans, found.problems) == ((), ())


def test_retired_versions_need_no_bytes(registry):
    registry.clock.advance(1)
    registry.prune("churn", Retention(last=1, newer_than=0, aliased_within=0))
    found = audit(registry)
    assert (found.versions, found.artifacts, found.problems) == (3, 3, ())


@pytest.mark.parametrize("kind", ["manifest", "artifact", "missing artifact", "move", "gap"])
def test_damage_is_named(registry, tmp_path, kind):
    records = tmp_path / "records"
    artifact = next(iter((tmp_path / "artifacts").glob("*/*")))
    match kind:
        case "manifest":
            (records / "models" / "churn" / "00000001.json").write_bytes(b"x")
        case "artifact":
            artifact.write_bytes(b"x")
        case "missing artifact":
            artifact.unlink()
        case "move":
            (records / "aliases" / "churn" / "champion" / "00000001.json").write_bytes(b"x")
        case "gap":
            (records / "models" / "churn" / "00000001.json").unlink()
    problems = audit(ModelRegistry(tmp_path)).problems
    assert len(problems) == 1
    assert "churn" in problems[0] or "fraud" in problems[0]


def test_what_retires_while_it_is_read_is_no_damage(registry):
    class Late:
        def __getattr__(self, name):
            return getattr(registry._archive, name)

        def get(self, digest, size):
            registry.prune("churn", Retention(last=0, newer_than=0, aliased_within=0))
            return registry._archive.get(digest, size)

    registry.clock.advance(1)
    assert audit(ModelRegistry(Late())).problems == ()


def test_an_alias_that_points_at_nothing_is_named(registry):
    move = {"alias": "champion", "old": "2", "new": "9", "at": 0.0, "reason": "", "number": 3}
    registry._archive.add("aliases/churn/champion", 3, sealed(canonical(move)))
    assert audit(registry).problems == ("churn@champion points at 9, which is not there",)


def test_a_broken_story_is_named(registry):
    move = {"alias": "champion", "old": "1", "new": "2", "at": 0.0, "reason": "", "number": 3}
    registry._archive.add("aliases/churn/champion", 3, sealed(canonical(move)))
    assert audit(registry).problems == ("churn@champion: move 3 does not follow the one before",)
