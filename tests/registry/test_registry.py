"""The registry: versions, aliases, verification, serializers; in a directory and in stores."""

import json
import os
import pickle
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import (
    BadConfiguration,
    Conflict,
    CorruptRecord,
    StoreUnavailable,
    UnknownVersion,
)
from prodml.events import AliasMoved, ModelRegistered, Stream
from prodml.registry import ModelRegistry, PickleSerializer
from prodml.registry.records import canonical, digest_of, sealed
from prodml.registry.stored import StoreArchive
from prodml.stores import MemoryStore
from prodml.testing import ManualClock, Recorder


class Weights:
    """A model that is neither bytes nor plain data."""

    def __init__(self, bias):
        self.bias = bias

    def __eq__(self, other):
        return self.bias == other.bias

    __hash__ = None


class Spy:
    """A serializer that notes what it was asked to decode."""

    name = "spy"

    def __init__(self):
        self.seen = []

    def dump(self, model):
        return repr(model).encode()

    def load(self, data):
        self.seen.append(data)
        return data


@pytest.fixture(params=["directory", "memory", "sqlite"])
def place(request, tmp_path):
    if request.param == "memory":
        return MemoryStore()
    return tmp_path / "models" if request.param == "directory" else f"sqlite:///{tmp_path}/m.db"


@pytest.fixture
def registry(place):
    return ModelRegistry(place, clock=ManualClock(), events=Stream())


def test_registered_model_is_loaded_by_version_and_by_alias(registry):
    ref = registry.register("churn", {"bias": 0.2}, {"auc": 0.9})
    registry.alias("churn", "champion", ref.version)
    assert registry.load("churn", "1") == registry.load("churn", "champion") == {"bias": 0.2}
    assert registry.metadata("churn", "champion") == {"auc": 0.9}


def test_versions_count_up_by_name(registry):
    refs = [registry.register(name, b"x") for name in ("churn", "churn", "fraud")]
    assert [str(ref) for ref in refs] == ["churn@1", "churn@2", "fraud@1"]
    assert registry.versions("churn") == ("1", "2")
    assert registry.models() == ("churn", "fraud")


def test_empty_registry_has_nothing(registry):
    assert (registry.models(), registry.versions("churn"), registry.aliases("churn")) == (
        (), (), {},
    )  # fmt: skip
    assert registry.history("churn", "champion") == ()


def test_reference_carries_digest_and_time(registry):
    ref = registry.register("churn", b"weights")
    assert ref.digest == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert ref.created == registry.clock.time()
    assert registry.resolve("churn", "1") == ref


def test_another_process_sees_everything(place, registry):
    if isinstance(place, MemoryStore):
        place = StoreArchive(place)
    registry.register("churn", b"x")
    registry.alias("churn", "champion", "1")
    other = ModelRegistry(place)
    assert other.load("churn", "champion") == b"x"
    assert other.aliases("churn") == {"champion": "1"}


@pytest.mark.parametrize(
    "wanted", ["9", "0", "01", "champion", "", "no such", "1" * 5000, "\u0661", "+1", "1 "]
)
def test_unknown_version_names_the_known_ones(registry, wanted):
    registry.register("churn", b"x")
    registry.alias("churn", "stable", "1")
    with pytest.raises(UnknownVersion, match="known: 1, stable"):
        registry.load("churn", wanted)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 200])
def test_name_that_could_leave_the_directory_is_refused(registry, name):
    with pytest.raises(BadConfiguration, match="model name"):
        registry.register(name, b"x")
    with pytest.raises(BadConfiguration, match="model name"):
        registry.load(name, "1")


@pytest.mark.parametrize("alias", ["1", "", "a/b", "../up"])
def test_alias_that_could_be_a_version_or_a_path_is_refused(registry, alias):
    registry.register("churn", b"x")
    with pytest.raises(BadConfiguration, match="alias"):
        registry.alias("churn", alias, "1")


# -- aliases ----------------------------------------------------------------------------


def moved(registry, *versions):
    for version in versions:
        while version not in registry.versions("churn"):
            registry.register("churn", version)
        registry.clock.advance(100)
        registry.alias("churn", "champion", version, reason=f"to {version}")


def test_history_tells_every_move(registry):
    moved(registry, "1", "2", "1")
    history = registry.history("churn", "champion")
    assert [(move.old, move.new, move.reason) for move in history] == [
        (None, "1", "to 1"), ("1", "2", "to 2"), ("2", "1", "to 1"),
    ]  # fmt: skip


def test_who_was_champion_then(registry):
    start = registry.clock.time()
    moved(registry, "1", "2")

    def champion(at):
        return registry.resolve("churn", "champion", at=at).version

    assert [champion(start + seconds) for seconds in (100, 199, 200, 999)] == ["1", "1", "2", "2"]
    assert champion(datetime.fromtimestamp(start + 150, UTC)) == "1"
    with pytest.raises(UnknownVersion):
        champion(start + 99)


def test_time_without_a_zone_is_refused(registry):
    moved(registry, "1")
    with pytest.raises(BadConfiguration, match="time zone"):
        registry.resolve("churn", "champion", at=datetime(2024, 1, 1))


def test_version_is_itself_at_any_time(registry):
    registry.register("churn", b"x")
    assert registry.resolve("churn", "1", at=0.0).version == "1"


def test_compare_and_swap_refuses_whoever_read_an_older_state(registry):
    moved(registry, "1", "2")
    with pytest.raises(Conflict, match="expected '1', found '2'"):
        registry.alias("churn", "champion", "1", expected="1")
    assert registry.alias("churn", "champion", "1", expected="2").new == "1"


def test_compare_and_swap_with_none_wants_no_alias(registry):
    registry.register("churn", b"x")
    registry.alias("churn", "champion", "1", expected=None)
    with pytest.raises(Conflict):
        registry.alias("churn", "champion", "1", expected=None)


def test_move_to_the_same_version_is_no_move(registry):
    moved(registry, "1", "1")
    assert len(registry.history("churn", "champion")) == 1


@pytest.mark.parametrize("version", [1, 1.0, None, b"1"])
def test_a_version_that_is_no_text_is_named(registry, version):
    registry.register("churn", {"bias": 1})
    calls = [
        lambda: registry.load("churn", version),
        lambda: registry.resolve("churn", version),
        lambda: registry.alias("churn", "champion", version or 1),
        lambda: registry.tag("churn", version, "audit"),
    ]
    for call in calls:
        with pytest.raises(BadConfiguration, match="a version of churn is text, such as '1', not"):
            call()
    with pytest.raises(BadConfiguration, match=r"model name must match .*, not 7"):
        registry.register(7, b"weights")
    assert registry.history("churn", "champion") == ()


def test_alias_of_an_unknown_version_is_refused(registry):
    registry.register("churn", b"x")
    registry.alias("churn", "champion", "1")
    for version in ("2", "champion"):
        with pytest.raises(UnknownVersion):
            registry.alias("churn", "challenger", version)
    assert registry.aliases("churn") == {"champion": "1"}


def test_lost_race_for_a_move_is_tried_again_or_refused():
    """Also where the lock does not hold, as on some file systems."""

    class Raced:
        """Somebody else moves the alias just before we do, once."""

        def __init__(self):
            self.real = StoreArchive(MemoryStore())

        def __getattr__(self, name):
            return getattr(self.real, name)

        def writing(self):
            return nullcontext()

        def add(self, topic, number, data):
            if number == 2 and topic.startswith("aliases"):
                ModelRegistry(self.real, events=Stream()).alias("churn", "champion", "3")
            return self.real.add(topic, number, data)

    for expected, versions in (("1", ["1", "3"]), (None, ["1", "3", "2"])):
        registry = ModelRegistry(Raced(), events=Stream())
        for _ in range(3):
            registry.register("churn", b"x")
        registry.alias("churn", "champion", "1")
        if expected:
            with pytest.raises(Conflict):
                registry.alias("churn", "champion", "2", expected=expected)
        else:
            registry.alias("churn", "champion", "2")
        assert [move.new for move in registry.history("churn", "champion")] == versions


def test_registering_and_moving_are_facts(registry):
    heard = Recorder(registry.events)
    moved(registry, "1", "2")
    moved(registry, "2")
    assert [fact.ref.version for fact in heard.of(ModelRegistered)] == ["1", "2"]
    assert [(f.name, f.alias, f.old, f.new) for f in heard.of(AliasMoved)] == [
        ("churn", "champion", None, "1"), ("churn", "champion", "1", "2"),
    ]  # fmt: skip


# -- what bytes become ------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(PLAIN | st.binary())
def test_plain_data_comes_back_as_it_went_or_is_refused(model):
    registry = ModelRegistry("memory://", events=Stream())
    try:
        registry.register("churn", model)
    except BadConfiguration:
        assert "inf" in repr(model)
    else:
        assert registry.load("churn", "1") == model


@pytest.mark.parametrize("model", [(1, 2), {1: 2}, float("nan"), {"a": (1,)}, {1, 2}, object()])
def test_model_that_json_would_change_is_refused(registry, model):
    with pytest.raises(BadConfiguration, match="no serializer"):
        registry.register("churn", model)
    assert registry.models() == ()


def test_metadata_must_be_plain(registry):
    with pytest.raises(BadConfiguration, match="plain JSON"):
        registry.register("churn", b"x", {"when": datetime.now(UTC)})


def test_bytes_serializer_refuses_anything_else(registry):
    from prodml.registry import BytesSerializer

    with pytest.raises(BadConfiguration, match="dict is not bytes"):
        registry.register("churn", {}, serializer=BytesSerializer())


def test_pickle_is_never_used_unless_it_was_asked_for(registry):
    with pytest.raises(BadConfiguration, match="pass serializer="):
        registry.register("churn", Weights(1))
    with pytest.raises(BadConfiguration, match="trusted=True"):
        PickleSerializer()


def test_pickled_model_is_not_loaded_without_the_flag(place):
    trusting = ModelRegistry(place, serializers=[PickleSerializer(trusted=True)], events=Stream())
    trusting.register("churn", Weights(0.5))
    assert trusting.load("churn", "1") == Weights(0.5)
    cautious = ModelRegistry(place)
    with pytest.raises(BadConfiguration, match="'pickle'; known here: bytes, bundle, json"):
        cautious.load("churn", "1")
    again = cautious.load("churn", "1", serializer=PickleSerializer(trusted=True))
    assert again == Weights(0.5)


def test_own_serializer_is_a_way_in_and_out(registry):
    spy = Spy()
    registry.register("churn", 7, serializer=spy)
    assert registry.load("churn", "1", serializer=spy) == b"7"


# -- damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"short", b"same length!", b"somewhat longer than it"])
def test_damaged_artifact_is_refused_before_a_serializer_sees_it(tmp_path, damage):
    spy = Spy()
    registry = ModelRegistry(tmp_path, serializers=[spy], events=Stream())
    ref = registry.register("churn", "ten bytes!", serializer=spy)
    file = tmp_path / "artifacts" / ref.digest[:2] / ref.digest
    assert len(file.read_bytes()) == len(b"same length!")
    file.write_bytes(damage)
    with pytest.raises(CorruptRecord, match=r"churn@1"):
        registry.load("churn", "1")
    assert spy.seen == []


def test_swapped_pickle_is_never_unpickled(tmp_path):
    trusted = PickleSerializer(trusted=True)
    registry = ModelRegistry(tmp_path, serializers=[trusted], events=Stream())
    ref = registry.register("churn", Weights(1))

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (tmp_path / "artifacts" / ref.digest[:2] / ref.digest).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CorruptRecord):
        registry.load("churn", "1")


def test_registering_again_mends_a_damaged_artifact(tmp_path):
    registry = ModelRegistry(tmp_path, events=Stream())
    ref = registry.register("churn", b"weights")
    (tmp_path / "artifacts" / ref.digest[:2] / ref.digest).write_bytes(b"WEIGHTS")
    registry.register("churn", b"weights")
    assert registry.load("churn", "1") == b"weights"


def forged(registry, **changes):
    """Write version 2 of churn as version 1 says it, but for ``changes``; all checksums right."""
    archive = registry._archive
    record = archive.record("models/churn", 1).split(b"\n", 1)[1]
    entry = json.loads(record) | {"version": "2"} | changes
    archive.add("models/churn", 2, sealed(canonical(entry)))


def test_missing_artifact_is_corrupt(registry):
    registry.register("churn", b"weights")
    gone = [{"path": "model", "size": 7, "sha256": "0" * 64}]
    forged(registry, files=gone)
    with pytest.raises(CorruptRecord, match="missing"):
        registry.load("churn", "2")


@pytest.mark.parametrize("record", [b"{", sealed(b"{"), sealed(b"[]"), sealed(b"{}"), b""])
def test_record_that_is_no_manifest_is_corrupt(registry, record):
    registry._archive.add("models/churn", 1, record)
    with pytest.raises(CorruptRecord, match="churn@1"):
        registry.load("churn", "1")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "1"}, "it is churn@1"),
        ({"name": "fraud"}, "it is fraud@2"),
        ({"format": 2}, "format 2, known here: 1"),
        ({"files": [{"path": "model", "size": 7, "sha256": "../../etc/passwd"}]}, "not a file"),
        ({"files": [{"path": "model", "size": -1, "sha256": "0" * 64}]}, "not a file"),
        ({"files": [{"path": "model", "size": "7", "sha256": "0" * 64}]}, "not a file"),
        ({"files": [{"path": "../up", "size": 7, "sha256": "0" * 64}]}, "inside a bundle"),
        ({"files": [{"path": "a", "size": 7, "sha256": "0" * 64}] * 2}, "one model"),
        ({"files": []}, "at least one file"),
        ({"files": "none"}, "not a manifest"),
        ({"lineage": {"parents": ["up"]}}, "not a manifest"),
        ({"environment": {}}, "not a manifest"),
    ],
)
def test_forged_manifest_is_refused(registry, changes, told):
    registry.register("churn", b"weights")
    forged(registry, **changes)
    with pytest.raises(CorruptRecord, match=told):
        registry.load("churn", "2")


def test_manifest_moved_to_another_number_is_refused(tmp_path):
    registry = ModelRegistry(tmp_path, events=Stream())
    for bias in (1, 2):
        registry.register("churn", bias)
    folder = tmp_path / "records" / "models" / "churn"
    (folder / "00000002.json").write_bytes((folder / "00000001.json").read_bytes())
    with pytest.raises(CorruptRecord, match="it is churn@1"):
        registry.load("churn", "2")


@pytest.mark.parametrize("record", [b"", sealed(b"{}"), sealed(b'{"alias": "champion"}')])
def test_damaged_move_is_corrupt(registry, record):
    registry.register("churn", b"x")
    registry._archive.add("aliases/churn/champion", 1, record)
    with pytest.raises(CorruptRecord, match="aliases/churn/champion/1"):
        registry.load("churn", "champion")


@pytest.mark.parametrize("target", ["x", "0", "../1", 1.5, [], "1" * 5000])
def test_move_to_what_is_no_version_is_corrupt(registry, target):
    registry.register("churn", b"x")
    move = {"alias": "champion", "old": None, "new": target, "at": 0.0, "reason": "", "number": 1}
    registry._archive.add("aliases/churn/champion", 1, sealed(canonical(move)))
    with pytest.raises(CorruptRecord, match="no version"):
        registry.load("churn", "champion")


def test_move_of_another_alias_is_corrupt(registry):
    registry.register("churn", b"x")
    registry.alias("churn", "champion", "1")
    record = registry._archive.record("aliases/churn/champion", 1)
    registry._archive.add("aliases/churn/stable", 1, record)
    with pytest.raises(CorruptRecord, match="move 1 of 'champion'"):
        registry.load("churn", "stable")


@pytest.mark.parametrize("entry", [{}, {"retired": 1, "tags": {}}, {"retired": [], "tags": []}])
def test_damaged_marks_are_corrupt(registry, entry):
    registry.register("churn", b"x")
    registry._archive.add("marks/churn", 1, sealed(canonical(entry)))
    with pytest.raises(CorruptRecord, match="marks/churn/1"):
        registry.versions("churn")


def test_digest_of_a_version_is_that_of_its_bytes(registry):
    assert registry.register("churn", b"weights").digest == digest_of(b"weights")


# -- verification -----------------------------------------------------------------------


def test_verify_reads_everything_and_decodes_nothing(tmp_path):
    spy = Spy()
    registry = ModelRegistry(tmp_path, serializers=[spy], events=Stream())
    ref = registry.register("churn", "weights", serializer=spy)
    assert registry.verify("churn", "1").digest == ref.digest
    (tmp_path / "artifacts" / ref.digest[:2] / ref.digest).write_bytes(b"damaged!!")
    with pytest.raises(CorruptRecord):
        registry.verify("churn", "1")
    assert spy.seen == []


def test_the_bytes_that_were_checked_are_the_bytes_that_are_decoded(tmp_path):
    """Swap the file between the check and the decoding: the decoder must not notice."""
    trusted = PickleSerializer(trusted=True)
    registry = ModelRegistry(tmp_path, events=Stream())
    ref = registry.register("churn", "good", serializer=trusted)
    file = tmp_path / "artifacts" / ref.digest[:2] / ref.digest

    class Late:
        name = "pickle"

        def load(self, data):
            file.write_bytes(pickle.dumps("evil"))
            return trusted.load(data)

    assert registry.load("churn", "1", serializer=Late()) == "good"
    with pytest.raises(CorruptRecord):
        registry.load("churn", "1", serializer=Late())


def test_a_file_is_opened_once_a_load(tmp_path, monkeypatch):
    registry = ModelRegistry(tmp_path, events=Stream())
    ref = registry.register("churn", b"weights")
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **k: opened.append(path) or real(path, *a, **k)
    )
    registry.load("churn", "1")
    assert [Path(path).name for path in opened] == ["00000001.json", ref.digest]


def test_an_endless_artifact_is_not_read_to_its_end(tmp_path):
    registry = ModelRegistry(tmp_path, events=Stream())
    ref = registry.register("churn", b"weights")
    with (tmp_path / "artifacts" / ref.digest[:2] / ref.digest).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CorruptRecord, match="more bytes instead of 7"):
        registry.load("churn", "1")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_opened(tmp_path, kind):
    registry = ModelRegistry(tmp_path / "models", events=Stream())
    ref = registry.register("churn", b"weights")
    file = tmp_path / "models" / "artifacts" / ref.digest[:2] / ref.digest
    file.rename(tmp_path / "weights")
    if kind == "link":
        file.symlink_to(tmp_path / "weights")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises(StoreUnavailable):
        registry.load("churn", "1")
