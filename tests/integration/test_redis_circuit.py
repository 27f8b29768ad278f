"""A circuit shared through real servers: found out by one process, known to all."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import redis
import redis.asyncio

from prodml.errors import CircuitOpen
from prodml.integrations.redis import RedisStore
from prodml.resilience import CircuitBreaker, CircuitState
from prodml.testing import check_shared_store

pytestmark = [pytest.mark.server]

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def worker():
    """Build a breaker on a store; each is a worker of its own."""
    made = []

    def build(target, name="db", **changed):
        usual = {"failure_threshold": 1, "success_threshold": 1, "sync_interval": 0.02}
        made.append(CircuitBreaker(name, store=target, **(usual | changed)))
        return made[-1]

    yield build
    for breaker in made:
        breaker.unshare()


def fail(breaker):
    def down():
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        breaker.call(down)


def eventually(condition, seconds=20.0):
    """Wait for what other threads and processes bring about."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.005)


def admits(breaker):
    try:
        return breaker.enter()
    except CircuitOpen:
        return None


def expiring(url):
    def advance(_seconds):
        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter("*:lease"):
                client.delete(key)

    return advance


def test_a_redis_store_keeps_the_contract_of_shared_stores(redis_url):
    store = RedisStore(redis_url)
    check_shared_store(lambda: store, advance=expiring(redis_url))
    store.close()


def test_the_oldest_server_keeps_it_too(oldest_url):
    store = RedisStore(oldest_url)
    check_shared_store(lambda: store, advance=expiring(oldest_url))
    store.close()


def test_a_lease_ends_by_the_servers_clock(redis_url):
    store = RedisStore(redis_url)
    lease = store.acquire("probe", "one", 0.05)
    assert store.acquire("probe", "two", 10.0) is None
    eventually(lambda: store.acquire("probe", "two", 10.0))
    assert lease.token == 1
    store.close()


@pytest.mark.check("Redis 1", "what one worker finds out all workers know")
def test_all_workers_open_and_close_together(redis_url, worker):
    here, there = worker(redis_url, reset_timeout=0.1), worker(redis_url, reset_timeout=0.1)
    there.call(int)
    fail(here)
    eventually(lambda: there.state is OPEN)
    token = None

    def tried():
        nonlocal token
        token = admits(there)
        return token

    eventually(tried)
    there.leave(token, None)
    eventually(lambda: here.state is CLOSED)


@pytest.mark.check("Redis 9", "clients of both colours, decode_responses too")
@pytest.mark.parametrize("colour", [redis.Redis, redis.asyncio.Redis])
def test_any_client_will_do_also_one_that_decodes(redis_url, worker, colour):
    client = colour.from_url(redis_url, decode_responses=True)
    here, there = worker(client), worker(client)
    there.call(int)
    fail(here)
    eventually(lambda: there.state is OPEN)
    assert there.snapshot().reason == "1 failures in a row, the last: ConnectionError"


@pytest.mark.check("Redis 2", "closed and open, a call gives no command; a key per name")
def test_breakers_have_a_key_each_and_calls_give_no_command(redis_url, worker):
    first, second = worker(redis_url, "a", sync_interval=60.0), worker(redis_url, "b")
    second.call(int)
    fail(first)
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.exists("prodml:circuit:a"))
        assert not client.exists("prodml:circuit:b")
        second.unshare()
        client.config_resetstat()
        for _ in range(200):
            with pytest.raises(CircuitOpen):
                first.call(int)
        stats = client.info("commandstats")
        assert not {"cmdstat_hmget", "cmdstat_evalsha", "cmdstat_eval"} & set(stats)
    assert second.state is CLOSED


@pytest.mark.check("Redis 3", "nothing is connected in the constructor")
def test_nothing_is_connected_before_the_first_call(private_server, worker):
    server = private_server()
    breaker = worker(server.url)
    with redis.Redis.from_url(server.url) as client:
        connected = client.info("stats")["total_connections_received"]
        time.sleep(0.05)
        assert client.info("stats")["total_connections_received"] == connected
        breaker.call(int)
        eventually(lambda: client.info("stats")["total_connections_received"] > connected)


@pytest.mark.check("Redis 4", "a server that is away leaves a local breaker")
def test_a_server_that_is_away_leaves_a_local_breaker(tmp_path, worker):
    breaker = worker(f"unix://{tmp_path}/nobody.sock", reset_timeout=0.05)
    assert breaker.call(int) == 0
    fail(breaker)
    assert breaker.state is not CLOSED
    eventually(lambda: breaker.snapshot().shared == "cut off")
    eventually(lambda: admits(breaker))


@pytest.mark.check("Redis 5", "a stalled server (SIGSTOP) leaves a local breaker")
def test_a_server_that_stalls_leaves_a_local_breaker(private_server, worker):
    server = private_server()
    here, there = worker(server.url, reset_timeout=0.1), worker(server.url, reset_timeout=0.1)
    here.call(int)
    there.call(int)
    eventually(lambda: here.snapshot().shared == there.snapshot().shared == "connected")
    server.freeze()
    fail(here)
    eventually(lambda: here.snapshot().shared == "cut off")
    token = None

    def tried():
        nonlocal token
        token = admits(here)
        return token

    eventually(tried)
    here.leave(token, None)
    assert (here.state, there.state) == (CLOSED, CLOSED)
    server.thaw()
    eventually(lambda: here.snapshot().shared == "connected")


@pytest.mark.check("Redis 6", "a server killed and restarted empty is told again")
def test_a_server_that_was_killed_and_came_back_empty_is_told_again(private_server, worker):
    server = private_server()
    here = worker(server.url, reset_timeout=60.0)
    fail(here)
    with redis.Redis.from_url(server.url) as client:
        eventually(lambda: client.exists("prodml:circuit:db"))
    server.kill()
    eventually(lambda: here.snapshot().shared == "cut off")
    assert here.state is OPEN
    server.start()
    there = worker(server.url, reset_timeout=60.0)
    there.call(int)
    eventually(lambda: there.state is OPEN)


PROBING = """
    import sys, time
    from prodml.errors import CircuitOpen
    from prodml.resilience import CircuitBreaker
    breaker = CircuitBreaker("db", store=sys.argv[1], reset_timeout=0.2, trial_lease=1.0,
                             sync_interval=0.02)
    while True:
        try:
            with breaker:
                if breaker.snapshot().state.value == "half_open":
                    print("probing", flush=True)
                    time.sleep(3600)
        except CircuitOpen:
            pass
        time.sleep(0.005)
"""


@pytest.mark.check("Redis 8", "a worker killed with the trial call wedges nobody")
def test_a_worker_killed_while_it_holds_the_trial_wedges_nobody(redis_url, worker):
    here = worker(redis_url, reset_timeout=0.2, trial_lease=1.0)
    fail(here)
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.exists("prodml:circuit:db"))
        there = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROBING), redis_url],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": SOURCE},
        )
        # No call comes here meanwhile, so the trial is the other worker's.
        assert there.stdout.readline() == b"probing\n"
        there.kill()
        there.wait()
        there.stdout.close()
    token = None

    def tried():
        nonlocal token
        token = admits(here)
        return token

    eventually(tried)
    here.leave(token, None)
    assert here.state is CLOSED


COMPETING = """
    import sys, time
    from prodml.errors import CircuitOpen
    from prodml.resilience import CircuitBreaker
    breaker = CircuitBreaker("db", store=sys.argv[1], reset_timeout=0.3, trial_lease=30.0,
                             success_threshold=10, sync_interval=0.02)
    breaker.call(int)
    sys.stdin.readline()
    admitted, ends = 0, time.monotonic() + 2.0
    while time.monotonic() < ends:
        try:
            breaker.enter()
            admitted += breaker.snapshot().state.value == "half_open"
        except CircuitOpen:
            time.sleep(0.002)
    print(admitted, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.check("Redis 7", "of four processes one makes the trial call")
def test_of_four_processes_one_makes_the_trial_call(redis_url, worker):
    here = worker(redis_url, reset_timeout=0.3, trial_lease=30.0, success_threshold=10)
    others = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(COMPETING), redis_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": SOURCE},
        )
        for _ in range(4)
    ]
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: int(client.info("clients")["connected_clients"]) >= 5)
        fail(here)
        eventually(lambda: client.exists("prodml:circuit:db"))
    # The fifth makes no calls: it cannot win while others have calls waiting.
    time.sleep(0.2)
    for other in others:
        other.stdin.write(b"go\n")
        other.stdin.flush()
    counts = [int(other.stdout.readline()) for other in others]
    for other in others:
        other.stdin.close()
        other.wait()
        other.stdout.close()
    assert sum(counts) == 1
