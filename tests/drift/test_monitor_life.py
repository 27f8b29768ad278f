"""What happens to a monitor in its life: clocks, stores, crashes, replicas, floods, bad rows."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing, suppress
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import prodml.drift.monitor
from prodml.drift import Calibration, DriftMonitor, FalseAlarms, calibrate
from prodml.drift.keeping import Keeper
from prodml.errors import BadConfiguration, CorruptRecord, ProdmlError
from prodml.events import Stream
from prodml.stores import MemoryStore, open_store
from prodml.testing import ManualClock
from tests.drift.test_monitor import DAY, NAMES, NORMAL, batch_of, heard_by, monitor_of


def told(heard):
    return [type(fact).__name__ for fact in heard]


def rows_in(monitor):
    return int(sum(np.sum(c) for c in monitor.to_dict()["features"]["age"][0][0].values()))


# -- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at", [math.nan, math.inf, "now", True, np.datetime64("2026-01-01"), 10**400]
)
def test_what_is_no_time_is_refused_and_nothing_added(at):
    monitor = monitor_of()
    before = monitor.to_dict()
    with pytest.raises(BadConfiguration, match="at must be seconds"):
        monitor.check(batch_of(0), at=at)
    assert monitor.to_dict() == before


def test_batches_may_come_in_any_order_and_with_the_same_time():
    orders = [range(9), reversed(range(9)), [4, 0, 8, 2, 6, 1, 7, 3, 5]]
    states = []
    for order in orders:
        monitor = monitor_of()
        for day in order:
            monitor.check(batch_of(day, fare=0.3 * (day > 5)), at=day // 2 * 2 * DAY)
        states.append((monitor.to_dict()["features"], monitor.check(at=9 * DAY)["fare"].p_adjusted))
    assert states[0] == states[1] == states[2]


def test_rows_too_old_to_count_are_said_and_not_swallowed():
    monitor = monitor_of()
    monitor.check(batch_of(0), at=1000 * DAY)
    before = monitor.to_dict()["features"]
    report = monitor.check(batch_of(1, age=3.0), at=0.0)
    assert [found.name for found in report.findings] == ["late"]
    assert "count no more" in str(report)
    assert monitor.to_dict()["features"] == before
    # A week late is no harm: its grain is there.
    assert monitor.check(batch_of(2), at=993 * DAY).findings == ()


@pytest.mark.parametrize("ahead", [30 * DAY, 400 * DAY, 1e12])
def test_a_clock_that_ran_ahead_does_not_blind_the_monitor(ahead):
    clock = ManualClock(1.7e9)
    monitor = monitor_of(clock=clock)
    for day in range(3):
        monitor.check(batch_of(day))
        clock.advance(DAY)
    wrong = monitor_of(clock=ManualClock(clock.time() + ahead))
    wrong.restore(monitor.to_dict())
    wrong.check(batch_of(8))
    again = monitor_of(clock=clock).restore(wrong.to_dict())
    for day in range(10, 14):
        report = again.check(batch_of(day, fare=1.0))
        clock.advance(DAY)
    assert report.drifted == ("fare",)
    assert report.findings == ()
    assert report["fare"].since <= clock.time()
    rows = monitor_of(clock=clock).restore(wrong.to_dict())
    for row in zip(*batch_of(20, rows=300, wait=2.0).values(), strict=True):
        rows.add(row)
    assert rows.check().drifted == ("wait",)


def test_a_clock_that_steps_back_a_little_loses_no_row():
    monitor = monitor_of(every="1m", false_alarms="5% per day")
    for minute in range(40):
        monitor.clock = ManualClock(1.7e9 + 60.0 * (minute if minute % 10 else minute - 3))
        monitor.check(batch_of(minute, rows=10))
    coarse = monitor.to_dict()["features"]["age"][0][-1]
    assert sum(np.sum(counts) for counts in coarse.values()) == 400


# -- rows -------------------------------------------------------------------------------------


def test_a_row_that_is_used_again_counts_as_it_was():
    one, two = monitor_of(), monitor_of()
    row, buffer = {}, np.empty(3)
    for values in NORMAL[:90]:
        row.update(zip(NAMES, values.tolist(), strict=True))
        buffer[:] = values
        one.add(row)
        two.add(buffer)
    expected = monitor_of()
    expected.check(NORMAL[:90])
    assert one.to_dict()["features"] == two.to_dict()["features"]
    assert one.to_dict()["features"] == expected.to_dict()["features"]


def test_rows_that_nobody_checks_take_no_more_memory():
    clock = ManualClock()
    seasons = np.repeat(["a", "b", "c", "d"], 250)
    monitor = monitor_of(clock=clock, every="1m", false_alarms="5% per day", seasonal=seasons)
    for minute in range(3000):
        monitor.add({"age": 0.0}, season="abcd"[minute % 4])
        clock.advance(60)
        waiting = sum(len(rows) for _, rows in monitor._waiting.values())
        assert waiting < 300
    assert sum(len(level) for level in monitor.to_dict()["features"]["age"][0]) <= 24 * 5


def test_a_row_that_cannot_be_read_is_said_at_the_next_check():
    monitor = monitor_of(
        {"x": [float(i % 60) for i in range(100)], "y": [float(i) for i in range(100)]}
    )

    class Odd(dict):
        def get(self, *_):
            raise RuntimeError("no")

    for i in range(60):
        monitor.add({"x": Decimal("sNaN") if i == 7 else Decimal(i), "y": 100.0 * i / 60})
    report = monitor.check()
    assert report["x"].level.value in {"inconclusive", "none"}
    assert report["y"].level.value == "none"
    for _ in range(60):
        monitor.add(Odd())
    assert monitor.check()["y"].aspect == "missing"


def test_a_column_that_is_gone_stays_gone_until_rows_say_otherwise():
    stream = Stream()
    heard, store = heard_by(stream), MemoryStore()
    monitor = monitor_of(events=stream, store=store)
    whole = batch_of(0)
    without = {name: whole[name] for name in ("fare", "wait")}
    monitor.check(whole)
    assert monitor.check(without).drifted == ("age",)
    # Nothing new was seen: neither an empty batch nor a look nor a restart brings it back.
    assert monitor.check().drifted == monitor.check([]).drifted == ("age",)
    monitor = monitor_of(events=stream, store=store)
    assert monitor.check().drifted == ("age",)
    assert monitor.check(without).drifted == ("age",)
    assert told(heard) == ["DriftDetected"]
    assert monitor.check(whole).drifted == ()
    assert told(heard) == ["DriftDetected", "DriftCleared"]
    monitor.check(without)
    for row in zip(*batch_of(1).values(), strict=True):
        monitor.add(row)
    assert monitor.check().drifted == ()


@pytest.mark.parametrize(
    "empty",
    [
        [],
        {},
        {name: [] for name in NAMES},
        np.empty((0, 3)),
        pd.DataFrame(columns=NAMES),
        pl.DataFrame(schema=dict.fromkeys(NAMES, pl.Float64)),
        pl.LazyFrame(schema=dict.fromkeys(NAMES, pl.Float64)),
    ],
)
def test_a_batch_without_rows_is_said_in_every_form(empty):
    report = monitor_of().check(empty)
    assert [found.name for found in report.findings] == ["empty"]
    assert report.inconclusive == tuple(NAMES)


def test_labels_of_seasons_come_in_any_form():
    seasons = np.repeat(["a", "b"], 500)
    wanted = None
    for form in (list, tuple, np.array, pd.Series, pd.Index, pl.Series):
        monitor = monitor_of(seasonal=seasons)
        monitor.check(batch_of(0), season=form(seasons[400:600]))
        state = monitor.to_dict()["features"]
        wanted = wanted or state
        assert state == wanted

    class Odd:
        def __iter__(self):
            raise ValueError("no column")

    report = monitor_of(seasonal=seasons).check(
        {**batch_of(0, fare=2.0), "age": Odd()}, season=["a", "b"] * 100
    )
    assert "cannot be read: ValueError" in report["age"].reason
    assert report.drifted == ("fare",)
    for wrong in ([["a"]] * 200, ["a"] * 7, math.nan, ["a"] * 199 + ["c"]):
        with pytest.raises(BadConfiguration):
            monitor_of(seasonal=seasons).check(batch_of(0), season=wrong)


# -- replicas ---------------------------------------------------------------------------------


def test_no_replica_counts_twice():
    leader, replica = monitor_of(), monitor_of()
    replica.check(batch_of(0))
    first = json.loads(json.dumps(replica.to_dict()))
    leader.merge(first)
    rows = rows_in(leader)
    assert rows == 200
    replica.check(batch_of(1))
    for again in (first, replica.to_dict(), replica.drain(), leader.to_dict()):
        with pytest.raises(BadConfiguration, match="already"):
            leader.merge(again)
    assert rows_in(leader) == rows
    # What was drained is gone from the replica: what comes then is new.
    replica.check(batch_of(2))
    leader.merge(replica.drain())
    assert rows_in(leader) == 400
    # Nor by a detour, nor after a restart.
    other = monitor_of()
    other.merge(first)
    for one in (leader, monitor_of().restore(leader.to_dict())):
        with pytest.raises(BadConfiguration, match="already"):
            one.merge(other.drain() if one is leader else first)


def test_what_is_merged_or_restored_survives_a_crash():
    store, replica = MemoryStore(), monitor_of()
    replica.check(batch_of(0, age=2.0))
    state = replica.to_dict()
    monitor_of(store=store).merge(state)
    assert rows_in(monitor_of(store=store)) == 200
    monitor_of(store=store, name="second").restore(state)
    assert monitor_of(store=store, name="second").check().drifted == ("age",)
    old = {name: part for name, part in state.items() if name not in {"id", "merged", "gone"}}
    assert monitor_of().restore(old).check().drifted == ("age",)


@pytest.mark.parametrize("value", [-5, 1.5, 10**30, None, "3", [1, 2]])
def test_counts_that_are_none_are_refused(value):
    monitor = monitor_of()
    monitor.check(batch_of(0))
    state = json.loads(json.dumps(monitor.to_dict()))
    grains = state["features"]["age"][0][0]
    grains[min(grains)][0][0] = value
    before = monitor.to_dict()
    for take in (monitor.restore, monitor.merge):
        with pytest.raises(CorruptRecord):
            take(state)
    assert monitor.to_dict() == before


@pytest.mark.parametrize("state", [None, [], 7, "x", {"format": 1, "reference": "x"}])
def test_what_is_no_state_is_refused_and_nothing_changes(state):
    monitor = monitor_of()
    monitor.check(batch_of(0, age=2.0))
    before = monitor.to_dict()
    for broken in (
        state,
        {**before, "drifting": 5},
        {**before, "gone": 3},
        {**before, "merged": 1},
    ):
        for take in (monitor.restore, monitor.merge):
            with pytest.raises((CorruptRecord, BadConfiguration)):
                take(broken)
    assert monitor.to_dict() == before
    store = MemoryStore()
    store.set("prodml:drift-monitor:drift-monitor", json.dumps(state).encode())
    with pytest.raises((CorruptRecord, BadConfiguration)):
        monitor_of(store=store)


# -- stores -----------------------------------------------------------------------------------


class Stalling(MemoryStore):
    def __init__(self):
        super().__init__()
        self.open, self.tried = threading.Event(), 0

    def set(self, key, value, *, ttl=None):
        self.tried += 1
        self.open.wait(20)
        super().set(key, value, ttl=ttl)


def test_a_store_that_stalls_holds_up_neither_checks_nor_alarms_nor_rows(caplog):
    store, stream = Stalling(), Stream()
    heard = heard_by(stream)
    clock = ManualClock()
    monitor = monitor_of(store=store, events=stream, clock=clock)
    monitor._keeper.patience = 0.05
    for day in range(5):
        assert monitor.check(batch_of(day, age=2.0 * (day > 2)))["fare"].rows
        clock.advance(DAY)
        monitor.add((0.0, 0.0, 0.0))
    assert told(heard) == ["DriftDetected"]
    assert store.tried == 1
    assert caplog.text.count("takes longer") == 1
    store.open.set()
    thread = monitor._keeper._thread
    if thread is not None:
        thread.join(30)
    # The newest state was written in the end, not the one that waited.
    again = monitor_of(store=store)
    assert again.to_dict()["features"] == monitor.to_dict()["features"]
    monitor._keeper.patience = 30.0
    monitor.check(batch_of(9))
    assert rows_in(monitor_of(store=store)) == rows_in(monitor)


def test_the_newest_state_is_the_one_that_is_kept_under_many_threads():
    store, count = MemoryStore(), [0]
    lock = threading.Lock()

    def state():
        with lock:
            return str(count[0]).encode()

    keeper = Keeper(store=store, key="k", state=state)

    def work():
        for _ in range(50):
            with lock:
                count[0] += 1
            keeper.save()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("k") == b"200"


def test_a_state_is_kept_where_no_thread_can_be_started(monkeypatch):
    def refuses(_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    store = MemoryStore()
    monitor_of(store=store).check(batch_of(0))
    assert rows_in(monitor_of(store=store)) == 200


def test_a_locked_file_holds_up_no_check_and_is_written_later(tmp_path):
    path = tmp_path / "drift.db"
    monitor = monitor_of(store=f"sqlite:///{path}")
    monitor._keeper.patience = 30.0
    monitor.check(batch_of(0), at=0.0)
    monitor._keeper.patience = 0.05
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    report = monitor.check(batch_of(1, age=2.0), at=DAY)
    assert report.drifted == ("age",)
    thread = monitor._keeper._thread
    assert thread is not None
    other.execute("ROLLBACK")
    other.close()
    thread.join(30)
    assert rows_in(monitor_of(store=f"sqlite:///{path}")) == 400


def kept_rows(store, monitor, at, wanted):
    """Rows in the store, once it has answered: requests to Redis may last 50 ms, tests longer."""
    for _ in range(200):
        monitor.check(at=at)
        with suppress(ProdmlError):
            if rows_in(monitor_of(store=store)) == wanted:
                return wanted
    return None


def test_a_redis_that_freezes_or_dies_costs_the_write_only(private_server):
    server = private_server()
    with closing(open_store(server.url)) as store:
        monitor = monitor_of(store=store)
        monitor.check(batch_of(0), at=0.0)
        assert kept_rows(store, monitor, 0.0, 200) == 200
        server.freeze()
        try:
            assert monitor.check(batch_of(1, age=2.0), at=DAY).drifted == ("age",)
        finally:
            server.thaw()
        monitor.check(batch_of(2, age=2.0), at=2 * DAY)
        assert kept_rows(store, monitor, 2 * DAY, 600) == 600
        server.kill()
        assert monitor.check(batch_of(3, age=2.0), at=3 * DAY).drifted == ("age",)


SCRIPT = """
    import sys
    import numpy as np
    from prodml.drift import DriftMonitor
    from prodml.events import DriftDetected, Stream
    from prodml.testing import ManualClock

    url, start = sys.argv[1], int(sys.argv[2])
    events = Stream()
    events.subscribe(DriftDetected, lambda fact: print("drift", flush=True))
    reference = np.random.default_rng(0).normal(size=(1000, 3))
    monitor = DriftMonitor(reference, store=url, events=events, clock=ManualClock())
    monitor._keeper.patience = 30.0  # on a busy machine, too
    for day in range(start, 10_000):
        values = np.random.default_rng(day + 1).normal(size=(200, 3)) + [2.0 * (day > 2), 0, 0]
        monitor.check(values, at=day * 86400.0)
        print(day, flush=True)
"""


def test_killed_between_checks_it_goes_on_and_states_the_alarm_once(tmp_path):
    url, said, day = f"sqlite:///{tmp_path}/drift.db", [], 0
    for _ in range(3):
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), url, str(day)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        for line in process.stdout:
            said.append(line.strip())
            if said[-1].isdigit() and int(said[-1]) >= day + 4:
                break
        process.send_signal(signal.SIGKILL)
        said += process.communicate()[0].split()
        day = max(int(word) for word in said if word.isdigit()) + 1
    # A line may be lost in the pipe, the evidence may not.
    assert said.count("drift") == 1
    reference = np.random.default_rng(0).normal(size=(1000, 3))
    monitor = DriftMonitor(reference, store=url, events=Stream(), clock=ManualClock())
    assert monitor.check(at=day * DAY).drifted == ("x0",)
    kept = monitor.to_dict()["features"]["x0"][0][0]
    assert len(kept) >= day - 1


# -- floods and settings ----------------------------------------------------------------------


def test_a_flood_of_rows_while_checks_run_loses_none_and_raises_nothing():
    monitor, done, failed = monitor_of(order=False, store=MemoryStore()), threading.Event(), []

    def flood(seed):
        try:
            for row in np.random.default_rng(seed).normal(size=(1500, 3)):
                monitor.add(row)
        except Exception as error:
            failed.append(error)

    def look():
        while not done.is_set():
            monitor.check(batch_of(1, rows=10))
            monitor.merge(monitor_of().drain())

    looker = threading.Thread(target=look)
    writers = [threading.Thread(target=flood, args=(seed,)) for seed in range(6)]
    looker.start()
    began = time.monotonic()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    looker.join()
    assert failed == []
    assert rows_in(monitor) % 10 == 0
    assert rows_in(monitor) >= 9000
    assert time.monotonic() - began < 30


def test_rows_do_not_wait_for_a_verdict(monkeypatch):
    """With many seasons a verdict takes seconds: a prediction must not."""
    weighing, go = threading.Event(), threading.Event()
    judge = prodml.drift.monitor.standing

    def slow(*args, **kwargs):
        weighing.set()
        assert go.wait(10)
        return judge(*args, **kwargs)

    monkeypatch.setattr(prodml.drift.monitor, "standing", slow)
    monitor, reports = monitor_of(order=False), []
    checker = threading.Thread(target=lambda: reports.append(monitor.check(batch_of(0))))
    checker.start()
    assert weighing.wait(10)
    for row in zip(*batch_of(1, rows=600).values(), strict=True):
        monitor.add(row)
    state = monitor.to_dict()
    go.set()
    checker.join()
    # The verdict is of what there was when it began, and nothing was lost.
    assert reports[0]["age"].rows == 200
    assert rows_in(monitor) == 800
    assert monitor_of().restore(state).check()["age"].rows == 800


def test_a_drain_waits_for_the_verdict_that_is_being_given():
    """Or the alarm of the old counts would be carried into the new ones."""
    for seed in range(5):
        stream = Stream()
        heard, monitor = heard_by(stream), monitor_of(events=stream, order=False)
        threads = [threading.Thread(target=monitor.drain) for _ in range(2)]
        checks = [
            threading.Thread(target=monitor.check, args=(batch_of(seed, age=2.0),))
            for _ in range(3)
        ]
        for thread in (checks[0], threads[0], checks[1], threads[1], checks[2]):
            thread.start()
        for thread in (*threads, *checks):
            thread.join()
        monitor.drain()
        assert monitor.check().drifted == ()
        assert "DriftCleared" not in told(heard)


def test_a_monitor_does_not_keep_the_rows_of_its_reference():
    rng = np.random.default_rng(0)
    reference = {"x": rng.normal(size=100_000), "day": np.arange(100_000).astype("M8[h]")}
    monitor = monitor_of(reference)
    kept = monitor.reference.columns
    assert sum(column.sample.size for column in kept.values()) <= 2
    times = {"x": reference["day"][:100], "day": reference["x"][:100]}
    assert {found.aspect for found in monitor.check(times).values()} == {"type"}


def test_a_calibration_must_cover_the_features_and_be_one():
    rng = np.random.default_rng(0)
    found = calibrate({"x": rng.normal(size=400)}, blocks=np.repeat(np.arange(20), 20))
    assert isinstance(found, Calibration)
    with pytest.raises(BadConfiguration, match="without 'y'"):
        monitor_of({"x": NORMAL[:, 0], "y": NORMAL[:, 1]}, calibration=found)
    with pytest.raises(BadConfiguration, match="must be a Calibration"):
        monitor_of(calibration={"x": 1.0})
    assert monitor_of({"x": NORMAL[:, 0]}, calibration=found).calibration is found


def test_a_calibration_that_was_stored_is_read_with_care():
    rng = np.random.default_rng(0)
    found = calibrate({"x": rng.normal(size=400)}, blocks=np.repeat(np.arange(20), 20))
    plain = json.loads(json.dumps(found.to_dict()))
    assert Calibration.from_dict(plain).design == found.design
    for broken in (
        {},
        [],
        {**plain, "design": {"x": {"distribution": 0.0}}},
        {**plain, "design": {"x": {"distribution": None}}},
        {**plain, "visible": {"x": [1]}},
    ):
        with pytest.raises(CorruptRecord):
            Calibration.from_dict(broken)


class Lives(RuleBasedStateMachine):
    """Whatever happens, every row is counted once, and only once, somewhere."""

    def __init__(self):
        super().__init__()
        self.clock, self.store = ManualClock(1.7e9), MemoryStore()
        reference = {"x": [float(i) for i in range(100)]}

        def fresh(name):
            # No evidence is ever enough: an alarm that ends would forget its rows.
            return monitor_of(
                reference,
                clock=self.clock,
                store=self.store,
                name=name,
                false_alarms=FalseAlarms(1e-300, 91 * DAY),
            )

        self.fresh = fresh
        self.leader, self.replica, self.rows, self.drained = fresh("a"), fresh("b"), 0, []

    @rule(value=st.none() | st.floats() | st.text(max_size=2), count=st.integers(1, 40))
    def add(self, value, count):
        for _ in range(count):
            self.replica.add({"x": value})
        self.rows += count

    @rule(late=st.integers(0, 150), count=st.integers(0, 50))
    def check(self, late, count):
        batch = {"x": [float(i) for i in range(count)]}
        self.replica.check(batch, at=self.clock.time() - late * DAY if late else None)
        self.rows += count

    @rule(days=st.floats(-2.0, 2.0))
    def step(self, days):
        self.clock = self.leader.clock = self.replica.clock = ManualClock(
            max(1.7e9 - 5 * DAY, min(1.7e9 + 5 * DAY, self.clock.time() + days * DAY))
        )

    @rule()
    def drain(self):
        self.drained.append(self.replica.drain())
        self.leader.merge(json.loads(json.dumps(self.drained[-1])))

    @precondition(lambda self: self.drained)
    @rule(data=st.data())
    def merge_again(self, data):
        with pytest.raises(BadConfiguration):
            self.leader.merge(data.draw(st.sampled_from(self.drained)))

    @rule()
    def restart(self):
        self.leader.check()
        self.replica.check()
        self.leader, self.replica = self.fresh("a"), self.fresh("b")

    @invariant()
    def every_row_is_somewhere(self):
        states = [one.to_dict()["features"]["x"][1][-1] for one in (self.leader, self.replica)]
        assert sum(np.sum(c) for state in states for c in state.values()) == self.rows


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"folds": "a"}, "folds"),
        ({"min_effect": math.nan}, "min_effect"),
        ({"min_rows": 0}, "min_rows"),
        ({"false_alarms": "5% per day", "every": "2d"}, "every"),
        ({"false_alarms": "9" * 400 + " per day"}, "false_alarms"),
        ({"every": 10**400}, "every"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_replay(wrong, word):
    with pytest.raises(BadConfiguration, match=word):
        calibrate({"x": NORMAL[:, 0]}, blocks=np.repeat(np.arange(20), 50), **wrong)
