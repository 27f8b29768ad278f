"""Workers that are real processes, and what happens when they or their Redis are killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import redis

from prodml.errors import Conflict, LeaseLost, StoreUnavailable
from prodml.events import Stream
from prodml.integrations.redis import RedisStore
from prodml.serving import ServingFleet, VersionedModelServer

SOURCE = str(Path(__file__).parents[2] / "src")
KEY = "prodml:fleet:churn"
VERSIONS = ("v1", "v2", "v3")

# Serves as fast as it can and notes every answer that no table of the fleet can have given.
WORKER = """
    import json, os, signal, sys, time
    from prodml.serving import ServingFleet, VersionedModelServer

    settings = json.loads(sys.argv[1])
    looks = settings.pop("looks", False)
    server = VersionedModelServer(name="churn")
    for version in ("v1", "v2", "v3"):
        server.load_model(version, lambda features, version=version: version)
    server.set_default_version("v1")
    ends = []
    signal.signal(signal.SIGTERM, lambda *_: ends.append(1))
    fleet = ServingFleet(server, **settings).start()
    print("ready", flush=True)
    requests, failed, tables, pairs = 0, [], set(), set()
    while not ends:
        if looks:
            fleet.look()
        try:
            route = server.resolve(key=requests)
            try:
                pairs.add((route.predict({}), route.version, route.arm))
            finally:
                route.release()
        except Exception as error:
            failed.append(repr(error))
        requests += 1
        tables.add(json.dumps(server.routing(), sort_keys=True))
        if requests % 20 == 0:
            time.sleep(0.0005)
    fleet.close()
    told = {"requests": requests, "failed": failed, "tables": sorted(tables),
            "pairs": sorted(pairs), "generation": fleet.generation}
    print(json.dumps(told), flush=True)
"""


class Worker:
    def __init__(self, **settings):
        env = {**os.environ, "PYTHONPATH": SOURCE}
        command = [sys.executable, "-c", textwrap.dedent(WORKER), json.dumps(settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)

    def ready(self):
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def signal(self, number):
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self):
        """What it has seen."""
        self.process.terminate()
        told, _ = self.process.communicate(timeout=30)
        return json.loads(told)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def workers():
    made = []

    def start(count, **settings):
        new = [Worker(**settings) for _ in range(count)]
        made.extend(new)
        return [worker.ready() for worker in new]

    yield start
    for worker in made:
        if worker.process.poll() is None:
            worker.signal(signal.SIGCONT)
            worker.kill()


@pytest.fixture
def boss(tmp_path):
    made = []

    def build(**settings):
        made.append(ServingFleet(name="churn", events=Stream(), **settings))
        return made[-1]

    yield build
    for each in made:
        each.close()


def eventually(condition, seconds=30.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.005)


def answers(fleet):
    """The record's default if the store answers and all living workers serve by it."""
    try:
        agreement = fleet.converged()
    except StoreUnavailable:
        return None
    return agreement.version if agreement.complete else None


def swap(fleet, version, canary):
    def edit(server):
        server.route()
        server.set_default_version(version)
        server.route(canary={canary: 0.5})

    return fleet.change(edit, reason=f"to {version}", wait=True, timeout=30.0)


PAIRS = {("v1", "v2"), ("v2", "v3"), ("v3", "v1")}


def checked(told, tables):
    """One worker's report: no failure, no table that was never true, no mixed answer."""
    assert told["failed"] == []
    assert told["requests"] > 100
    assert set(told["tables"]) <= tables
    for value, version, arm in told["pairs"]:
        assert value == version
        assert arm in {"stable", "canary"}


def table(server):
    return json.dumps(server.routing(), sort_keys=True)


def initial():
    server = VersionedModelServer(name="churn", events=Stream())
    for version in VERSIONS:
        server.load_model(version, lambda features, version=version: version)
    server.set_default_version("v1")
    return server


@pytest.mark.parametrize("looks", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_four_workers_of_a_host_agree_again_and_again_under_load(workers, tmp_path, looks):
    started = workers(4, folder=str(tmp_path), looks=looks, poll=0.5, ttl=20.0)
    server = initial()
    # The commander is a worker as well, which shows each table as it was true.
    fleet = ServingFleet(server, folder=tmp_path, worker="boss", ttl=20.0, events=Stream()).start()
    tables = {table(server)}
    for number in range(20):
        agreement = swap(fleet, *sorted(PAIRS)[number % 3])
        assert agreement.complete, agreement
        assert len(agreement) == 5
        tables.add(table(server))
    fleet.change(lambda stage: (stage.route(), stage.set_default_version("v2")), wait=True)
    tables.add(table(server))
    agreement = fleet.rollback("v2", reason="kpi", wait=True)
    assert agreement.complete
    tables.add(table(server))
    told = [worker.end() for worker in started]
    for each in told:
        checked(each, tables)
        assert each["generation"] == fleet.generation
        assert len(each["tables"]) > 10
    fleet.close()
    assert [path.name for path in (tmp_path / "churn").iterdir()] == ["memory"]


def test_a_killed_worker_holds_nobody_up(workers, boss, tmp_path):
    started = workers(3, folder=str(tmp_path), poll=0.2, ttl=20.0)
    fleet = boss(folder=tmp_path)
    eventually(lambda: len(fleet.converged()) == 3)
    started[0].kill()
    began = time.monotonic()
    agreement = fleet.promote("v2", wait=True)
    assert (agreement.complete, len(agreement)) == (True, 2)
    assert time.monotonic() - began < 5.0
    assert [worker.end()["failed"] for worker in started[1:]] == [[], []]


def test_a_stopped_worker_catches_up_when_it_goes_on(workers, boss, tmp_path):
    started = workers(2, folder=str(tmp_path), looks=True, poll=0.1, ttl=1.0)
    fleet = boss(folder=tmp_path, poll=0.1, ttl=1.0)
    eventually(lambda: len(fleet.converged()) == 2)
    started[0].signal(signal.SIGSTOP)
    assert fleet.promote("v2", wait=True, timeout=30.0).complete
    assert len(fleet.converged()) == 1
    started[0].signal(signal.SIGCONT)
    eventually(lambda: len(fleet.converged()) == 2 and answers(fleet) == "v2")
    assert [worker.end()["generation"] for worker in started] == [1, 1]


# Gives one command after the other, each in a child that is killed before its nth line in the
# files of the fleet.  Prints what is true afterwards, and whether the next command works.
KILLING = """
    import json, os, signal, sys
    from prodml.events import Stream
    from prodml.serving import ServingFleet, VersionedModelServer

    settings, step = json.loads(sys.argv[1]), int(sys.argv[2])

    def made(name):
        server = VersionedModelServer(name="churn", events=Stream())
        for version in ("v1", "v2"):
            server.load_model(version, abs)
        server.set_default_version("v1")
        return ServingFleet(server, worker=name, patience=0.15, events=Stream(), **settings)

    def until(line):
        count = 0
        def trace(frame, event, arg):
            nonlocal count
            path = frame.f_code.co_filename
            if "fleet" not in path and "redis_" not in path:
                return None
            count += 1
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        return trace

    witness, boss = made("witness"), made("boss")
    boss.promote("v1")
    line, kills, outcomes = 0, 0, []
    while True:
        line += step
        before = boss.generation
        old, new = ("v1", "v2") if before % 2 else ("v2", "v1")
        child = os.fork()
        if child == 0:
            sys.settrace(until(line))
            boss.promote(new, reason="killed")
            sys.settrace(None)
            os._exit(0)
        survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        witness.sync()
        boss.sync()
        assert witness.server.default_version == boss.server.default_version
        assert witness.server.default_version in (old, new)
        done = witness.server.default_version == new
        outcomes.append(done)
        assert done == (witness.generation == before + 1)
        boss.promote("v1" if witness.generation % 2 == 0 else "v2", reason="next")
        witness.sync()
        assert witness.generation == boss.generation
        assert witness.server.routing() == boss.server.routing()
        if survived:
            assert done
            break
        kills += 1
    # Sooner or later it has come about, and is never undone by dying later.
    assert outcomes == sorted(outcomes), outcomes
    print(kills, sum(outcomes), flush=True)
"""


def killing(step, **settings):
    env = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", textwrap.dedent(KILLING), json.dumps(settings), str(step)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kills, came_about = map(int, done.stdout.split())
    return kills, came_about


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.soak)])
def test_a_commander_killed_at_any_line_has_done_all_or_nothing(tmp_path, step):
    kills, came_about = killing(step, folder=str(tmp_path))
    assert kills > 10
    assert 1 < came_about < kills


@pytest.mark.server
@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.soak)])
def test_and_so_it_has_with_redis(redis_url, step):
    kills, came_about = killing(step, store=redis_url)
    assert kills > 8
    assert 1 < came_about < kills


# -- Redis ----------------------------------------------------------------------------------


@pytest.mark.server
def test_workers_of_many_hosts_agree_through_redis(workers, boss, redis_url, tmp_path):
    hosts = [tmp_path / name for name in ("one", "two")]
    started = [
        worker
        for host in hosts
        for worker in workers(2, store=redis_url, folder=str(host), poll=0.5, ttl=20.0)
    ]
    fleet = boss(store=redis_url)
    eventually(lambda: len(fleet.converged()) == 4)
    for number in range(4):
        agreement = fleet.promote(f"v{2 - number % 2}", wait=True, timeout=30.0)
        assert agreement.complete, agreement
    assert fleet.rollback(reason="kpi", wait=True, timeout=30.0).complete
    assert fleet.converged().version == "v2"
    late = workers(1, store=redis_url, folder=str(tmp_path / "three"), looks=True)
    told = [worker.end() for worker in (*started, *late)]
    assert [each["failed"] for each in told] == [[]] * 5
    assert [each["generation"] for each in told] == [5] * 5
    # It had the table before its first request.
    assert {version for _, version, _ in told[-1]["pairs"]} == {"v2"}
    assert set(fleet.converged()) == set()


@pytest.mark.server
@pytest.mark.parametrize("store", ["folder too", pytest.param("redis", marks=pytest.mark.soak)])
def test_a_redis_that_stalls_leaves_everybody_with_the_last_table(
    workers, boss, private_server, tmp_path, store
):
    server = private_server()
    settings = {"folder": str(tmp_path)} if store != "redis" else {}
    started = workers(2, store=server.url, poll=0.1, ttl=20.0, looks=True, **settings)
    fleet = boss(store=server.url, patience=0.5)
    fleet.promote("v2", wait=True)
    server.freeze()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        fleet.promote("v1", reason="never")
    with pytest.raises(StoreUnavailable):
        fleet.rollback(reason="never")
    assert time.monotonic() - began < 10.0
    time.sleep(0.3)
    server.thaw()
    eventually(lambda: answers(fleet) == "v2")
    # What was given up is not carried out by a server that wakes.
    time.sleep(0.3)
    assert fleet.converged().generation == 1
    assert fleet.promote("v3", wait=True, timeout=30.0).complete
    told = [worker.end() for worker in started]
    assert [(each["failed"], each["generation"]) for each in told] == [([], 2)] * 2


@pytest.mark.server
def test_a_command_that_a_frozen_redis_has_in_its_queue_is_never_carried_out(private_server):
    """The worst moment: everything but the write itself has been answered."""
    server = private_server()
    fleet = ServingFleet(initial(), store=server.url, patience=0.3, events=Stream())
    fleet.promote("v2")
    truth = fleet._truth
    commit = truth._store.commit

    def frozen(key, value, revision, **settings):
        server.freeze()
        return commit(key, value, revision, **settings)

    truth._store.commit = frozen
    with pytest.raises(StoreUnavailable):
        fleet.promote("v3")
    truth._store.commit = commit
    server.thaw()
    with redis.Redis.from_url(server.url) as client:
        client.ping()
        for _ in range(20):
            assert json.loads(client.hget(KEY, "v"))["table"]["default"] == "v2"
            time.sleep(0.01)
    assert fleet.server.default_version == "v2"
    fleet.close()


@pytest.mark.server
def test_a_redis_that_was_killed_and_came_back_empty_is_told_again(workers, boss, private_server):
    server = private_server()
    started = workers(2, store=server.url, poll=0.1, ttl=20.0)
    fleet = boss(store=server.url)
    for version in ("v2", "v1", "v3"):
        fleet.promote(version, wait=True)
    server.kill()
    with pytest.raises(StoreUnavailable):
        fleet.promote("v1")
    time.sleep(0.3)
    server.start()
    eventually(lambda: answers(fleet) == "v3" and len(fleet.converged()) == 2)
    assert fleet.converged().generation == 3
    assert fleet.promote("v2", wait=True, timeout=30.0).complete
    told = [worker.end() for worker in started]
    assert [(each["failed"], each["generation"]) for each in told] == [([], 4)] * 2


@pytest.mark.server
def test_a_killed_worker_is_not_counted_after_its_time(workers, boss, redis_url):
    started = workers(2, store=redis_url, poll=0.1, ttl=0.6)
    fleet = boss(store=redis_url, poll=0.1, ttl=0.6)
    eventually(lambda: len(fleet.converged()) == 2)
    started[0].kill()
    agreement = fleet.promote("v2", wait=True, timeout=30.0)
    assert (agreement.complete, len(agreement)) == (True, 1)


@pytest.fixture
def follower(redis_url):
    made = []

    def build(**settings):
        usual = {"store": redis_url, "poll": 30.0, "ttl": 100.0, "events": Stream()}
        made.append(ServingFleet(initial(), **(usual | settings)).start())
        return made[-1]

    yield build
    for each in made:
        each.close()


def listeners(url):
    with redis.Redis.from_url(url) as client:
        return client.pubsub_numsub(KEY)[0][1]


@pytest.mark.server
def test_a_nudge_is_quicker_than_the_poll_and_comes_back_when_it_is_cut(follower, redis_url):
    here, there = follower(), follower(poll=0.2, ttl=100.0)
    eventually(lambda: listeners(redis_url) == 2)
    began = time.monotonic()
    here.promote("v2")
    eventually(lambda: there.server.default_version == "v2")
    assert time.monotonic() - began < 10.0
    with redis.Redis.from_url(redis_url) as client:
        client.client_kill_filter(_type="pubsub")
    eventually(lambda: listeners(redis_url) == 2)
    here.promote("v1", wait=True)
    assert there.server.default_version == "v1"


@pytest.mark.server
def test_a_nudge_that_is_lost_is_made_good_by_the_poll(follower):
    here, there = follower(), follower(poll=0.05)
    here._truth.nudge = lambda: None
    here.promote("v2")
    eventually(lambda: there.server.default_version == "v2")


@pytest.mark.server
def test_a_request_gives_no_command_and_a_poll_but_three(follower, redis_url):
    here = follower()
    eventually(lambda: listeners(redis_url) == 1)
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.exists(f"{KEY}:worker:{here.worker}"))
        time.sleep(0.1)
        client.config_resetstat()
        for _ in range(2000):
            here.look()
            here.server.predict({})
        assert set(client.info("commandstats")) <= {"cmdstat_config|resetstat", "cmdstat_info"}
        client.config_resetstat()
        here.sync()
        stats = client.info("commandstats")
        asked = {name: stats[name]["calls"] for name in stats if "config" not in name}
        asked.pop("cmdstat_info", None)
        assert asked == {"cmdstat_hmget": 2, "cmdstat_set": 1}


@pytest.mark.server
def test_the_oldest_server_and_a_client_that_decodes_will_do(oldest_url):
    with redis.Redis.from_url(oldest_url, decode_responses=True) as client:
        here = ServingFleet(initial(), store=client, events=Stream(), worker="a").start()
        there = ServingFleet(initial(), store=client, events=Stream(), worker="b").start()
        eventually(lambda: len(here.converged()) == 2)
        assert here.promote("v2", wait=True).complete
        assert there.server.default_version == "v2"
        here.close()
        there.close()


@pytest.mark.server
def test_a_write_under_a_lease_is_refused_when_the_lease_is_over(redis_url):
    store = RedisStore(redis_url)
    lease = store.acquire(KEY, "one", 0.05)
    assert store.commit(KEY, b"a", 0, lease=lease) == 1
    with pytest.raises(Conflict):
        store.commit(KEY, b"b", 0, lease=lease)
    eventually(lambda: store.acquire(KEY, "two", 10.0))
    with pytest.raises(LeaseLost):
        store.commit(KEY, b"b", 1, lease=lease)
    assert store.read(KEY) == (b"a", 1)
    store.close()
