"""One rate for several processes: by real servers that are shared, stalled, killed, old."""

import asyncio
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
import redis.asyncio

from prodml.errors import RateLimited, StoreUnavailable
from prodml.events import Stream
from prodml.integrations.redis import AsyncRedisStore, RedisStore
from prodml.resilience.rate_limit import RateLimiter, RateStore
from prodml.testing import ManualClock

pytestmark = pytest.mark.server


@pytest.fixture
def shared():
    """Make limiters of one name and close them in the end."""
    made = []

    def make(store, rate=0.01, **changes):
        given = {"name": "api", "burst": 5, "events": Stream()} | changes
        made.append(RateLimiter(rate, store=store, **given))
        return made[-1]

    yield make
    for limiter in made:
        limiter.close()


@pytest.fixture
def patient(redis_url):
    """A store that a busy machine does not make unavailable."""
    return RedisStore(redis_url, timeout=30.0)


def admitted(limiter, tries=20):
    """How many of ``tries`` calls are admitted."""
    went = 0
    for _ in range(tries):
        try:
            limiter.enter()
        except RateLimited:
            continue
        went += 1
    return went


async def aadmitted(limiter, tries=20):
    async def one():
        try:
            return await limiter.acall(asyncio.sleep, 0, 1)
        except RateLimited:
            return 0

    went = sum(await asyncio.gather(*(one() for _ in range(tries))))
    await limiter.aclose()
    return went


def server_time(client):
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def state(url, key="prodml:rate:api"):
    with redis.Redis.from_url(url) as client:
        return client.get(key), client.pttl(key)


# -- one limit ----------------------------------------------------------------------------


def test_both_stores_can_limit_rates():
    for store in (RedisStore("redis://host"), AsyncRedisStore("redis://host")):
        assert isinstance(store, RateStore)


def test_limiters_of_one_name_share_a_limit_and_others_do_not(patient, redis_url, shared):
    one, two = shared(patient), shared(RedisStore(redis_url, timeout=30.0))
    assert admitted(one, 3) + admitted(two, 10) == 5
    assert admitted(one) == 0
    assert admitted(shared(patient, name="other"), 10) == 5
    assert (one.admitted, one.rejected, one.outages) == (3, 20, 0)


def test_threads_and_tasks_share_a_limit(patient, shared):
    limiter = shared(patient)
    assert admitted(limiter, 2) == 2
    assert asyncio.run(aadmitted(limiter)) == 3
    assert admitted(limiter) == 0
    assert limiter.outages == 0


def test_the_rate_comes_back_and_a_rejection_tells_when(patient, redis_url, shared):
    clock = ManualClock()
    limiter = shared(patient, rate=0.1, burst=1, max_wait=1000.0, clock=clock)
    began = _now(redis_url)
    for _ in range(10):
        limiter.enter()
    took = _now(redis_url) - began
    # The first is due at once, the others ten seconds apart; nobody really slept.
    assert len(clock.slept) == 9
    for number, slept in enumerate(clock.slept, 1):
        assert 10 * number - took <= slept <= 10 * number
    with pytest.raises(RateLimited) as refused:
        shared(patient, rate=0.1, burst=1).enter()
    assert 100 - (_now(redis_url) - began) <= refused.value.retry_after <= 100


def _now(url):
    with redis.Redis.from_url(url) as client:
        return server_time(client)


def test_what_is_kept_ends_by_itself(patient, redis_url, shared):
    limiter = shared(patient, rate=1, burst=50)
    admitted(limiter, 30)
    kept, ttl = state(redis_url)
    assert len(kept.split()) == 4
    assert 0 < ttl <= 31_000
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("prodml:rate:*") == [b"prodml:rate:api"]


def test_another_rate_goes_on_with_what_is_owed(patient, shared):
    slow = shared(patient, rate=1, per=3600.0)
    assert admitted(slow) == 5
    # Five permits are owed, which now takes a fraction of a second instead of five hours.
    fast = shared(patient, rate=10, burst=5)
    with pytest.raises(RateLimited) as refused:
        fast.enter()
    assert 0 < refused.value.retry_after <= 0.1


def test_a_limit_that_was_busy_for_long_takes_on_another_rate_at_once(patient, redis_url, shared):
    with redis.Redis.from_url(redis_url) as client:
        now = server_time(client) * 1e6
        # 1000 permits in the last 995 seconds: five are owed.
        client.set("prodml:rate:api", f"{now - 995e6:.0f} 1000 1000000 {now:.0f}")
    limiter = shared(patient, rate=0.1)
    with pytest.raises(RateLimited) as refused:
        limiter.enter()
    assert 0 < refused.value.retry_after <= 10


def test_a_clock_that_is_set_back_is_time_that_has_not_passed(patient, redis_url, shared):
    limiter = shared(patient, rate=1, per=100.0)
    admitted(limiter, 5)
    kept, _ = state(redis_url)
    epoch, count, interval, seen = map(float, kept.split())
    hour = 3600e6
    with redis.Redis.from_url(redis_url) as client:
        ahead = f"{epoch + hour:.0f} {count:.0f} {interval:.17g} {seen + hour:.0f}"
        client.set("prodml:rate:api", ahead)
    with pytest.raises(RateLimited) as refused:
        limiter.enter()
    assert 90 < refused.value.retry_after <= 100


@pytest.mark.parametrize("rubbish", [b"", b"nonsense", b"1 2", b"\xff\x00 x y z"])
def test_rubbish_in_its_place_is_as_good_as_nothing(patient, redis_url, shared, rubbish):
    with redis.Redis.from_url(redis_url) as client:
        client.set("prodml:rate:api", rubbish)
    limiter = shared(patient)
    assert admitted(limiter) == 5
    assert limiter.outages == 0


def test_something_else_in_its_place_is_an_outage(redis_url, shared):
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("prodml:rate:api", "x")
    limiter = shared(redis_url, on_outage="closed")
    with pytest.raises(RateLimited) as refused:
        limiter.enter()
    assert isinstance(refused.value.__cause__, StoreUnavailable)


WORKER = """
    import sys
    from prodml.errors import RateLimited
    from prodml.integrations.redis import RedisStore
    from prodml.resilience.rate_limit import RateLimiter
    store = RedisStore(sys.argv[1], timeout=30.0)
    limiter = RateLimiter(200, burst=20, name="api", store=store)
    sys.stdin.readline()
    went = 0
    for _ in range(400):
        try:
            limiter.enter()
        except RateLimited:
            continue
        went += 1
    assert limiter.outages == 0, limiter.outages
    print(went)
"""


def test_processes_together_never_exceed_the_burst_and_the_rate(redis_url):
    source = str(Path(__file__).parents[2] / "src")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), redis_url],
            env={"PYTHONPATH": source},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    began = _now(redis_url)
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    went = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    ended = _now(redis_url)
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert 20 <= sum(went) <= 20 + 200 * (ended - began)


def test_threads_and_event_loops_never_exceed_the_burst(redis_url, shared):
    stores = [RedisStore(redis_url, timeout=30.0) for _ in range(2)]
    one, two = (shared(store, rate=1e-6, burst=40) for store in stores)
    start = threading.Barrier(4)

    def work(number):
        limiter = (one, two)[number // 2]
        start.wait()
        return asyncio.run(aadmitted(limiter, 50)) if number % 2 else admitted(limiter, 50)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 40
    assert one.outages == two.outages == 0


# -- clients of all kinds -----------------------------------------------------------------


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("package", [redis, redis.asyncio])
def test_a_client_of_either_colour_lends_its_address(redis_url, shared, package, decode):
    client = package.Redis.from_url(redis_url, decode_responses=decode)
    assert isinstance(shared(client).store, RedisStore)
    limiter = shared(RedisStore(client, timeout=30.0))
    assert admitted(limiter, 2) == 2
    assert asyncio.run(aadmitted(limiter)) == 3
    assert limiter.outages == 0


@pytest.mark.parametrize("decode", [False, True])
def test_a_client_that_is_used_as_it_is_may_decode(redis_url, shared, decode):
    class Finder(redis.ConnectionPool):
        pass

    client = redis.Redis(connection_pool=Finder.from_url(redis_url, decode_responses=decode))
    assert admitted(shared(client)) == 5


def test_a_store_may_be_given_and_its_twin_has_its_patience(patient, shared):
    limiter = shared(patient)
    assert limiter._stores[1].timeout == 30.0
    assert asyncio.run(aadmitted(limiter)) == 5


def test_the_oldest_server_will_do(oldest_url, shared):
    limiter = shared(RedisStore(oldest_url, timeout=30.0))
    assert admitted(limiter, 3) == 3
    assert asyncio.run(aadmitted(limiter)) == 2
    assert limiter.outages == 0


def test_nothing_connects_before_the_first_call(shared):
    limiter = shared("redis://:hunter2@127.0.0.1:1/0")
    assert limiter.outages == 0
    assert "hunter2" not in repr(limiter.store)


def test_a_burst_of_tasks_waits_for_a_connection_instead_of_calling_it_an_outage(redis_url, shared):
    limiter = shared(RedisStore(redis_url, timeout=30.0), rate=1e6, burst=1000)
    assert asyncio.run(aadmitted(limiter, 300)) == 300
    assert limiter.outages == 0


# -- outages ------------------------------------------------------------------------------


def outcome(limiter, colour, tries=20):
    return admitted(limiter, tries) if colour == "plain" else asyncio.run(one_by_one(limiter))


async def one_by_one(limiter, tries=20):
    went = 0
    for _ in range(tries):
        try:
            went += await limiter.acall(asyncio.sleep, 0, 1)
        except RateLimited:
            continue
    await limiter.aclose()
    return went


COLOURS = pytest.mark.parametrize("colour", ["plain", "awaited"])
CHOICES = pytest.mark.parametrize(("on_outage", "went"), [("open", 5), ("closed", 0)])


@COLOURS
@CHOICES
def test_a_refused_connection(shared, colour, on_outage, went):
    clock = ManualClock()
    limiter = shared("redis://127.0.0.1:1/0", on_outage=on_outage, clock=clock)
    assert outcome(limiter, colour) == went
    assert limiter.outages == 20
    # The first call found out; nobody else was sent there.
    assert limiter.breaker.snapshot().rejected == 19


@COLOURS
@CHOICES
def test_a_stalled_server_costs_one_timeout(private_server, shared, colour, on_outage, went):
    server, clock = private_server(), ManualClock()
    store = RedisStore(server.url, timeout=0.2)
    limiter = shared(store, on_outage=on_outage, clock=clock)
    limiter.enter()
    server.freeze()
    assert outcome(limiter, colour) == went
    assert limiter.outages == 20
    assert limiter.breaker.snapshot().rejected == 19
    server.thaw()


@COLOURS
@CHOICES
def test_a_killed_server_that_comes_back_is_asked_again(
    private_server, shared, colour, on_outage, went
):
    server, clock = private_server(), ManualClock()
    store = RedisStore(server.url, timeout=30.0)
    limiter = shared(store, on_outage=on_outage, clock=clock)
    assert outcome(limiter, colour) == 5
    server.kill()
    assert outcome(limiter, colour) == went
    assert limiter.outages == 20
    # It has forgotten the limit, and the script.
    server.start()
    clock.advance(1.0)
    assert outcome(limiter, colour) == 5
    assert limiter.outages == 20


def test_a_server_that_has_lost_the_script_learns_it_again(patient, redis_url, shared):
    limiter = shared(patient)
    assert admitted(limiter, 2) == 2
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    assert admitted(limiter) == 3
    assert limiter.outages == 0


def test_the_event_loop_runs_on_while_the_server_is_asked(private_server, shared):
    server = private_server()
    limiter = shared(RedisStore(server.url, timeout=30.0))

    async def main():
        await limiter.aenter()
        server.freeze()
        asked = asyncio.create_task(limiter.aenter())
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not asked.done()
        # Only a loop that runs comes to this; else the call would end as an outage.
        server.thaw()
        await asked
        await limiter.aclose()

    asyncio.run(main())
    assert (limiter.admitted, limiter.outages) == (2, 0)


def test_a_call_that_is_cancelled_while_the_server_is_asked_is_no_outage(private_server, shared):
    server = private_server()
    limiter = shared(RedisStore(server.url, timeout=30.0))

    async def main():
        await limiter.aenter()
        server.freeze()
        asked = asyncio.create_task(limiter.aenter())
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        server.thaw()
        await limiter.aenter()
        await limiter.aclose()

    asyncio.run(main())
    assert limiter.outages == 0
    assert limiter.breaker.snapshot().opened == 0
