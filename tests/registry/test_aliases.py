"""Aliases: history, time, dropping, watching."""

from datetime import UTC, datetime

import pytest

from prodml.errors import BadConfiguration, Conflict, UnknownVersion
from prodml.events import AliasMoved, Stream
from prodml.registry import ModelRegistry, StoreArchive
from prodml.stores import MemoryStore
from prodml.testing import ManualClock, Recorder

DAY = 86_400


@pytest.fixture(params=["directory", "sqlite"])
def registry(request, tmp_path):
    place = tmp_path / "models" if request.param == "directory" else f"sqlite:///{tmp_path}/m.db"
    registry = ModelRegistry(place, clock=ManualClock(), events=Stream())
    for bias in range(3):
        registry.register("churn", bias)
    return registry


def test_who_served_last_tuesday(registry):
    """All of one day, an instant of it, and the day before the first model."""
    start = registry.clock.time()
    for version in ("1", "2", "3"):
        registry.alias("churn", "champion", version)
        registry.clock.advance(DAY)

    def served(since, until):
        moves = registry.history("churn", "champion", since=start + since, until=start + until)
        return [move.new for move in moves]

    assert served(-DAY, -1) == []
    assert served(0, DAY - 1) == ["1"]
    assert served(DAY / 2, 1.5 * DAY) == ["1", "2"]
    assert served(2.1 * DAY, 9 * DAY) == ["3"]
    assert [move.new for move in registry.history("churn", "champion", since=start + DAY)] == [
        "2", "3",
    ]  # fmt: skip
    assert registry.at("churn", "champion", start + 1.5 * DAY).version == "2"
    assert registry.at("churn", "champion", datetime.fromtimestamp(start, UTC)).version == "1"
    with pytest.raises(UnknownVersion):
        registry.at("churn", "champion", start - 1)
    with pytest.raises(BadConfiguration, match="since must have a time zone"):
        registry.history("churn", "champion", since=datetime(2024, 1, 1))


def test_dropped_alias_points_at_nothing_and_keeps_its_history(registry):
    heard = Recorder(registry.events)
    start = registry.clock.time()
    registry.alias("churn", "canary", "2")
    registry.clock.advance(10)
    with pytest.raises(Conflict):
        registry.unalias("churn", "canary", expected="1")
    move = registry.unalias("churn", "canary", expected="2", reason="over")
    assert (move.old, move.new, move.reason, move.number) == ("2", None, "over", 2)
    assert registry.unalias("churn", "canary") == move
    assert registry.aliases("churn") == {}
    with pytest.raises(UnknownVersion):
        registry.load("churn", "canary")
    with pytest.raises(UnknownVersion):
        registry.at("churn", "canary", start + 11)
    assert registry.at("churn", "canary", start + 9).version == "2"
    assert [fact.new for fact in heard.of(AliasMoved)] == ["2", None]
    again = registry.alias("churn", "canary", "3", expected=None)
    assert (again.old, again.number) == (None, 3)


def test_dropping_what_never_was_does_nothing(registry):
    assert registry.unalias("churn", "canary") is None
    assert registry.history("churn", "canary") == ()


def test_a_clock_that_steps_back_leaves_no_hole_in_the_history(registry):
    registry.alias("churn", "champion", "1")
    before = registry.clock.time()
    registry.clock.step_wall(-1000)
    registry.alias("churn", "champion", "2")
    history = registry.history("churn", "champion")
    assert [move.at for move in history] == [before, before]
    assert registry.at("churn", "champion", before).version == "2"


# -- watching ---------------------------------------------------------------------------


def test_watch_tells_the_last_move_once(registry):
    watch = registry.watch("churn", "champion")
    assert (watch.generation(), watch.changed()) == (0, None)
    for version in ("1", "2"):
        registry.alias("churn", "champion", version)
    move = watch.changed()
    assert (move.new, move.number, watch.generation()) == ("2", 2, 2)
    assert watch.changed(since=move.number) is None
    registry.unalias("churn", "champion")
    assert watch.changed(since=move.number).new is None


def test_watch_sees_what_another_process_did(tmp_path):
    mine, other = (ModelRegistry(tmp_path, events=Stream()) for _ in range(2))
    watch = mine.watch("churn", "champion")
    other.register("churn", b"x")
    other.alias("churn", "champion", "1")
    assert watch.changed().new == "1"


def test_watch_reads_no_record_while_nothing_moves():
    class Counting:
        def __init__(self):
            self.real, self.read = StoreArchive(MemoryStore()), 0

        def __getattr__(self, name):
            return getattr(self.real, name)

        def record(self, topic, number):
            self.read += 1
            return self.real.record(topic, number)

    archive = Counting()
    registry = ModelRegistry(archive, events=Stream())
    registry.register("churn", b"x")
    registry.alias("churn", "champion", "1")
    watch = registry.watch("churn", "champion")
    archive.read = 0
    assert [watch.changed(since=1) for _ in range(100)] == [None] * 100
    assert archive.read == 0


def test_watch_of_a_wrong_name_is_refused(registry):
    with pytest.raises(BadConfiguration):
        registry.watch("../up", "champion")
    with pytest.raises(BadConfiguration):
        registry.watch("churn", "1")
