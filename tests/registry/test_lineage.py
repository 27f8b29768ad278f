"""What a model was made of, and what was made of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, UnknownVersion
from prodml.events import Stream
from prodml.registry import Lineage, ModelRegistry, Retention
from prodml.testing import ManualClock


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path, clock=ManualClock(), events=Stream())


def test_lineage_is_kept_with_the_version(registry):
    base = registry.register("base", b"0")
    lineage = Lineage(data={"train": "sha256:ab"}, code="9f2c", parents=[base], run="job-7")
    registry.register("churn", b"1", lineage=lineage)
    kept = registry.describe("churn", "1").lineage
    assert kept == lineage
    assert (kept.data, kept.code, kept.parents, kept.run) == (
        {"train": "sha256:ab"}, "9f2c", ("base@1",), "job-7",
    )  # fmt: skip
    assert registry.describe("base", "1").lineage == Lineage()


def test_queries_go_up_and_down_the_chain(registry):
    registry.register("base", b"", lineage=Lineage(data={"web": "crawl-1"}, code="c0"))
    registry.register("churn", b"", lineage=Lineage(parents=["base@1"], code="c1"))
    registry.register("churn", b"", lineage=Lineage(parents=["churn@1"], code="c2"))
    registry.register("fraud", b"", lineage=Lineage(data={"web": "crawl-2"}, code="c2"))
    registry.register("both", b"", lineage=Lineage(parents=["churn@2", "fraud@1"]))
    family = registry.family
    assert family.ancestors("both", "1") == ("churn@2", "fraud@1", "churn@1", "base@1")
    assert family.descendants("base", "1") == ("churn@1", "churn@2", "both@1")
    assert family.ancestors("base", "1") == family.descendants("both", "1") == ()
    assert family.made_from(data="crawl-2") == ("fraud@1", "both@1")
    assert sorted(family.made_from(data="web")) == [
        "base@1", "both@1", "churn@1", "churn@2", "fraud@1",
    ]  # fmt: skip
    assert family.made_from(code="c2") == ("churn@2", "fraud@1", "both@1")
    assert family.made_from(data="crawl-1", code="c2") == ()


def test_retired_versions_are_still_told(registry):
    registry.register("base", b"", lineage=Lineage(data={"web": "crawl-1"}))
    registry.register("base", b"new", lineage=Lineage(parents=["base@1"]))
    registry.clock.advance(1)
    assert registry.prune(retention=Retention(last=1, newer_than=0)).retired == ("base@1",)
    assert registry.family.made_from(data="crawl-1") == ("base@1", "base@2")


def test_parent_must_be_registered(registry):
    for parent in ("none@1", "churn@2"):
        with pytest.raises(UnknownVersion):
            registry.register("churn", b"", lineage=Lineage(parents=[parent]))
    assert registry.models() == ()


@pytest.mark.parametrize("parent", ["churn", "churn@", "churn@v1", "@1", "../x@1", "churn@1@2"])
def test_parent_that_is_no_version_is_refused(parent):
    with pytest.raises(BadConfiguration):
        Lineage(parents=[parent])


@pytest.mark.parametrize(
    "wrong", [{"parents": "churn@1"}, {"data": {"a": 1}}, {"code": None}, {"data": {1: "a"}}]
)
def test_lineage_of_other_types_is_refused(wrong):
    with pytest.raises(BadConfiguration):
        Lineage(**wrong)


def test_made_from_nothing_is_refused(registry):
    with pytest.raises(BadConfiguration, match="data= or code="):
        registry.family.made_from()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), max_size=3), min_size=1, max_size=12))
def test_family_agrees_with_a_closure(parents):
    """Version n's parents are some of the versions before it."""
    registry = ModelRegistry("memory://", events=Stream())
    edges = {}
    for number, wanted in enumerate(parents, 1):
        mine = sorted({1 + parent % (number - 1) for parent in wanted}) if number > 1 else []
        registry.register("m", b"", lineage=Lineage(parents=[f"m@{parent}" for parent in mine]))
        edges[number] = {*mine}
    up = {}
    for number, mine in edges.items():
        up[number] = mine.union(*(up[parent] for parent in mine))
    for number in edges:
        found = registry.family.ancestors("m", str(number))
        assert {int(ref.split("@")[1]) for ref in found} == up[number]
        assert len(found) == len(up[number])
        down = {int(ref.split("@")[1]) for ref in registry.family.descendants("m", str(number))}
        assert down == {other for other in edges if number in up[other]}
