"""The wire to Redis: the right answers to the right questions, whatever goes wrong."""

import asyncio
import gc
import itertools
import os
import random
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fakeredis
import pytest
import redis
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml._call import run
from prodml.cache import Backoff
from prodml.cache.stats import Counts
from prodml.cache.tier import BulkStore, LeaseStore, StoreTier
from prodml.errors import BulkheadFull, StoreUnavailable
from prodml.integrations.redis import AsyncRedisStore, RedisStore
from prodml.integrations.redis_protocol import (
    Garbled,
    Reader,
    Refusal,
    get_request,
    mget_request,
    packed,
    set_requests,
    whole,
)
from prodml.integrations.redis_wire import NoWire, Wires

SOURCE = str(Path(__file__).parents[2] / "src")
server = pytest.mark.server


# -- bytes out ----------------------------------------------------------------------------

PARTS = st.one_of(st.text(), st.binary(), st.integers(), st.floats(allow_nan=False))


COMMANDS = st.lists(PARTS, max_size=4).map(lambda parts: ["SET", *parts])


@given(st.lists(COMMANDS, min_size=1, max_size=4))
def test_commands_are_packed_as_the_client_packs_them(commands):
    client = redis.Connection()
    theirs = b"".join(client.pack_commands(commands))
    assert packed(tuple(command) for command in commands) == theirs


@given(st.text())
def test_the_short_form_of_get_is_no_other(key):
    assert get_request(key) == packed([("GET", key)])


KEYS = st.one_of(
    st.lists(st.text(min_size=1)), st.lists(st.text("ab\r\n\xe9", min_size=2, max_size=2))
)


@given(KEYS)
def test_the_short_form_of_mget_is_no_other(keys):
    assert mget_request(keys) == packed([("MGET", *keys)])


@given(st.dictionaries(st.text(), st.binary()), st.none() | st.integers(1, 10**9))
def test_the_short_form_of_many_sets_is_no_other(items, end):
    tail = () if end is None else ("PX", end)
    commands = [("SET", key, value, *tail) for key, value in items.items()]
    assert set_requests(items, end) == packed(commands)


# -- bytes in -----------------------------------------------------------------------------


class Incomplete(Exception):
    pass


def reference(data, count):
    """Replies in ``data`` by the letter of the protocol, or Garbled, or Incomplete."""

    def line(at):
        end = data.find(b"\r\n", at)
        if end < 0:
            raise Incomplete
        return data[at:end], end + 2

    def number(text, least):
        digits = text.removeprefix(b"-") if least is None else text
        if not (digits and all(48 <= byte <= 57 for byte in digits)):
            if text == b"-1":
                return -1
            raise Garbled
        return int(text)

    def value(at):
        if at >= len(data):
            raise Incomplete
        text, after = line(at)
        kind, text = text[:1], text[1:]
        if kind == b"+":
            return text, after
        if kind == b"-":
            return ("refused", text.decode(errors="replace")), after
        if kind == b":":
            return number(text.removeprefix(b"+"), None), after
        if kind == b"_" and not text:
            return None, after
        if kind == b"$":
            size = number(text, 0)
            if size < 0:
                return None, after
            if len(data) < after + size + 2:
                raise Incomplete
            if data[after + size : after + size + 2] != b"\r\n":
                raise Garbled
            return data[after : after + size], after + size + 2
        if kind == b"*":
            size = number(text, 0)
            if size < 0:
                return None, after
            items = []
            for _ in range(size):
                item, after = value(after)
                items.append(item)
            return items, after
        raise Garbled

    found, at = [], 0
    for _ in range(count):
        item, at = value(at)
        found.append(item)
    if at < len(data):
        raise Garbled
    return found


def plain(reply):
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    return ("refused", reply.text) if type(reply) is Refusal else reply


def told(function):
    try:
        return function()
    except Garbled:
        return "garbled"
    except Incomplete:
        return "incomplete"


def fed(data, count, cuts):
    reader = Reader()
    reader.expect(count)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    done = False
    for start, end in itertools.pairwise(places):
        if start == end:
            continue
        if done:
            # Anything after the last reply is one too many.
            raise Garbled
        done = reader.feed(data[start:end])
    if not done:
        raise Incomplete
    return [plain(reply) for reply in reader.replies]


LINE = st.binary(max_size=12).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b""))
SCALARS = st.one_of(
    LINE.map(lambda text: b"+" + text + b"\r\n"),
    LINE.map(lambda text: b"-ERR " + text + b"\r\n"),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.binary(max_size=40).map(lambda data: b"$%d\r\n%b\r\n" % (len(data), data)),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"*0\r\n", b"$0\r\n\r\n"]),
)
REPLIES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, min_size=1, max_size=4).map(
        lambda items: b"*%d\r\n%b" % (len(items), b"".join(items))
    ),
    max_leaves=10,
)
CUTS = st.lists(st.integers(0, 400), max_size=12)


@settings(max_examples=400)
@given(st.lists(REPLIES, min_size=1, max_size=4), CUTS)
def test_replies_are_read_however_the_stream_is_cut(replies, cuts):
    data = b"".join(replies)
    expected = reference(data, len(replies))
    assert fed(data, len(replies), cuts) == expected
    assert fed(data, len(replies), range(len(data))) == expected


def test_the_short_look_knows_every_length():
    bulks = [b"$%d\r\n%b\r\n" % (size, bytes(size)) for size in [*range(1200), 99_999, 100_000]]
    for data in bulks * 2:
        assert whole(data) == data.partition(b"\n")[2][:-2]
    for size in range(1200):
        for first in (b"\0", b"$", b"+"):
            assert whole(first + bytes(size) + b"\r\n") is None


STRINGS = st.lists(
    st.one_of(st.none(), st.binary(max_size=3), st.binary(max_size=40), st.just(b"+OK\r\n")),
    min_size=1,
    max_size=30,
)


@settings(max_examples=300)
@given(st.lists(STRINGS, min_size=1, max_size=2), CUTS)
def test_lists_of_strings_are_read_however_the_stream_is_cut(lists, cuts):
    data = b"".join(
        b"*%d\r\n" % len(items)
        + b"".join(b"$-1\r\n" if i is None else b"$%d\r\n%b\r\n" % (len(i), i) for i in items)
        for items in lists
    )
    assert fed(data, len(lists), cuts) == lists


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_short_look_at_writes_sees_all_of_them_or_none(count):
    taken = b"+OK\r\n" * count
    assert fed(taken, count, ()) == [b"OK"] * count
    assert all(fed(taken, count, (cut,)) == [b"OK"] * count for cut in range(len(taken)))
    # The same bytes as the last of an array that has begun, or of replies that have come.
    assert fed(b"*%d\r\n" % count + taken, 1, (4,)) == [[b"OK"] * count]
    assert fed(b":1\r\n" + taken, count + 1, (4,)) == [1, *[b"OK"] * count]


@settings(max_examples=400)
@given(st.lists(REPLIES, min_size=1, max_size=3), CUTS, st.data())
def test_damaged_replies_are_read_as_the_reference_reads_them(replies, cuts, data):
    stream = bytearray(b"".join(replies))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(stream) - 1))
        if data.draw(st.booleans()):
            stream[place] = data.draw(st.sampled_from(b"\r\n$*+-:_0129\xff"))
        else:
            del stream[place:]
            break
    damaged = bytes(stream)
    expected = told(lambda: reference(damaged, len(replies)))
    assert told(lambda: fed(damaged, len(replies), cuts)) == expected


@settings(max_examples=300)
@given(st.binary(max_size=60), CUTS)
def test_rubbish_is_refused_or_waited_for_and_nothing_else(rubbish, cuts):
    expected = told(lambda: reference(rubbish, 1))
    assert told(lambda: fed(rubbish, 1, cuts)) == expected


@given(st.one_of(REPLIES, st.binary(max_size=30)))
def test_the_short_look_sees_what_the_reader_sees(data):
    seen = whole(data)
    expected = told(lambda: reference(data, 1))
    if seen is not None:
        assert expected == [seen]
    elif data.startswith(b"$") and isinstance(expected, list):
        assert expected == [None]


@pytest.mark.parametrize(
    "bad",
    [
        b"$1_0\r\n0123456789\r\n",
        b"$ 1\r\na\r\n",
        b"$+1\r\na\r\n",
        b"$-2\r\n",
        b"$999999999999\r\n",
        b"*999999999999\r\n",
        b"*1\r\n" * 20,
        b":1.5\r\n",
        b":\r\n",
        b"+" + bytes(70_000),
        b"_x\r\n",
        b">1\r\n+x\r\n",
    ],
)
def test_what_a_server_never_sends_is_garbled(bad):
    with pytest.raises(Garbled):
        Reader().feed(bad)


def test_long_values_in_small_pieces_take_linear_time():
    data = b"*200\r\n" + b"".join(b"$10000\r\n%b\r\n" % bytes(10_000) for _ in range(200))
    reader = Reader()
    began = time.perf_counter()
    for at in range(0, len(data), 1000):
        done = reader.feed(data[at : at + 1000])
    assert done
    assert reader.replies == [[bytes(10_000)] * 200]
    assert time.perf_counter() - began < 2


# -- a server that we direct --------------------------------------------------------------


class Director:
    """Answers GET by ``script(key)``: bytes to send, a pause, or None to hang up."""

    def __init__(self, script=None):
        self.script = script or (lambda key: [value_of(key)])
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        reader = Reader()
        with peer:
            while data := self._received(peer):
                if not reader.feed(data):
                    continue
                (command,) = reader.replies
                reader.expect(1)
                if not self._answer(peer, command):
                    return

    def _received(self, peer):
        try:
            return peer.recv(65536)
        except OSError:
            return b""

    def _answer(self, peer, command):
        for part in self.script(command[1].decode()):
            if part is None:
                return False
            if isinstance(part, float):
                time.sleep(part)
                continue
            try:
                peer.sendall(part)
            except OSError:
                return False
        return True

    def hang_up(self):
        for peer in self._open:
            try:
                peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self):
        self._listener.close()
        self.hang_up()


def value_of(key):
    data = f"value of {key}".encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def directed():
    made = []

    def make(script=None):
        made.append(Director(script))
        return made[-1]

    yield make
    for director in made:
        director.close()


@pytest.fixture
def opened():
    """Make stores that are closed in the end."""
    made = []

    def make(url, timeout=1.0):
        # A second where the limit is not the point: a loaded machine is no fault.
        made.append(RedisStore(url, timeout=timeout))
        return made[-1]

    yield make
    for store in made:
        store.close()


def late(key):
    """Every third answer comes after the time limit, some in two pieces."""
    number = int(key)
    answer = value_of(key)
    if number % 3 == 0:
        return [0.08, answer]
    if number % 3 == 1:
        return [answer[:5], 0.001, answer[5:]]
    return [answer]


def test_a_late_answer_is_never_taken_for_another(directed, opened):
    store = opened(directed(late).url, timeout=0.04)
    wrong, right, missed = [], 0, 0

    def ask(number):
        nonlocal right, missed
        key = str(number)
        try:
            found = store.get(key)
        except (StoreUnavailable, BulkheadFull):
            missed += 1
            return
        if found == f"value of {key}".encode():
            right += 1
        else:
            wrong.append((key, found))

    for number in range(30):
        ask(number)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, random.Random(1).sample(range(1000), 120)))
    assert wrong == []
    assert right > 10
    assert missed > 30


def test_a_task_never_gets_a_late_answer_nor_that_of_a_cancelled_one(directed):
    store = AsyncRedisStore(directed(late).url, timeout=0.04)
    wrong, right = [], 0

    async def ask(number):
        nonlocal right
        key = str(number)
        try:
            found = await store.get(key)
        except (StoreUnavailable, BulkheadFull):
            return
        if found == f"value of {key}".encode():
            right += 1
        else:
            wrong.append((key, found))

    async def main():
        chance = random.Random(2)
        for _ in range(15):
            tasks = [asyncio.create_task(ask(chance.randrange(1000))) for _ in range(20)]
            await asyncio.sleep(chance.choice([0.0, 0.001, 0.003, 0.02, 0.06]))
            for task in chance.sample(tasks, 8):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await ask(2)
        await store.close()

    asyncio.run(main())
    assert wrong == []
    assert right > 5


def test_more_than_was_asked_for_ends_the_connection(directed, opened):
    director = directed(lambda key: [value_of(key) + value_of("another")])
    store = opened(director.url)
    for number in range(3):
        with pytest.raises(StoreUnavailable, match="more came"):
            store.get(str(number))
    assert director.connections == 3


@pytest.mark.parametrize(
    "rubbish", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff", b"$9\r\nshort"]
)
def test_a_server_that_speaks_something_else_is_away(directed, opened, rubbish):
    director = directed(lambda _: [rubbish])
    store = opened(director.url)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.get("a")

    async def main():
        astore = AsyncRedisStore(director.url, timeout=1.0)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await astore.get("a")
        await astore.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("MOVED 3999 127.0.0.1:6381", False),
        ("READONLY You can't write against a read only replica.", False),
        ("NOAUTH Authentication required.", False),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(directed, opened, text, stays):
    director = directed(lambda _: [f"-{text}\r\n".encode()])
    store = opened(director.url)
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as refused:
            store.get("a")
        assert refused.value.reason == text
    # A connection to the wrong server, or as the wrong user, is of no use.
    assert director.connections == (1 if stays else 3)


def test_a_request_has_one_time_limit_however_the_answer_trickles(directed, opened):
    drops = [part for byte in value_of("a") for part in (bytes((byte,)), 0.02)]
    director = directed(lambda _: drops)

    async def main():
        astore = AsyncRedisStore(director.url, timeout=0.1)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"0\.1 s"):
            await astore.get("a")
        await astore.close()
        return time.monotonic() - began

    store = opened(director.url, timeout=0.1)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"0\.1 s"):
        store.get("a")
    assert time.monotonic() - began < 0.3
    assert asyncio.run(main()) < 0.3


def test_a_name_server_that_hangs_costs_one_time_limit(monkeypatch, opened):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(5) and [])
    store = opened("redis://no.such.host", timeout=0.05)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="no connection within"):
        store.get("a")
    took = time.monotonic() - began
    release.set()
    assert 0.04 < took < 0.5


def test_a_refused_connection_is_told_at_once(opened):
    store = opened("redis://127.0.0.1:1/0", timeout=5.0)
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="refused"):
            store.get("a")
    assert time.monotonic() - began < 1


def test_all_who_wait_hear_that_the_connection_was_refused():
    async def main():
        store = AsyncRedisStore("redis://127.0.0.1:1/0", timeout=5.0)
        asked = [store.get(str(n)) for n in range(50)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await store.close()
        return answers

    began = time.monotonic()
    answers = asyncio.run(main())
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert len({id(answer) for answer in answers}) == 50
    assert time.monotonic() - began < 2


def test_to_run_out_of_connections_is_no_outage(directed):
    director = directed(lambda key: [0.2, value_of(key)])
    wires = Wires(
        lambda: socket.create_connection(("127.0.0.1", director.port)), "here", 0.6, limit=2
    )
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(wires.ask, get_request(str(n)), 1) for n in range(6)]
        errors = [future.exception() for future in asked]
    full = [error for error in errors if error is not None]
    # Two are served at once; others in their first half of the time, or turned away.
    assert full
    assert {type(error) for error in full} == {BulkheadFull}
    assert len(wires) == director.connections == 2
    wires.close()
    assert len(wires) == 0

    counts = Counts()
    guard = Backoff()
    tier = StoreTier(_Crowded(), guard, counts)
    assert run(tier.read(["a"])) == [None]
    assert not tier.down()
    assert (counts.store_errors, counts.store_skipped) == (0, 1)


class _Crowded:
    def get(self, key):
        raise BulkheadFull("connections", 32)

    set = delete = get


def test_a_connection_closed_while_idle_is_replaced_without_an_error(directed, opened):
    director = directed()
    store = opened(director.url)
    for number in range(5):
        assert store.get(str(number)) == f"value of {number}".encode()
        director.hang_up()
    assert director.connections == 5

    async def main():
        astore = AsyncRedisStore(director.url, timeout=1.0)
        for number in range(5):
            assert await astore.get(str(number)) == f"value of {number}".encode()
            director.hang_up()
            await asyncio.sleep(0.02 * (number % 2))
        await astore.close()

    asyncio.run(main())
    assert director.connections == 10


def test_a_server_that_always_hangs_up_is_away(directed, opened):
    store = opened(directed(lambda _: [None]).url)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="closed"):
            store.get("a")


def test_a_busy_event_loop_is_no_slow_server(directed):
    director = directed(lambda key: [0.01, value_of(key)])

    async def main():
        store = AsyncRedisStore(director.url, timeout=0.05)
        assert await store.get("first")
        for number in range(5):
            asked = asyncio.create_task(store.get(str(number)))
            await asyncio.sleep(0)
            time.sleep(0.15)
            assert await asked == f"value of {number}".encode()
        await store.close()

    asyncio.run(main())


def test_a_connection_that_cannot_be_had_is_left_to_the_client(monkeypatch, redis_url):
    def none():
        raise NoWire("a stand-in")

    store = RedisStore(redis_url)
    store._wires._connect = none
    store.set("a", b"1", ttl=60.0)
    assert store._plain
    assert (store.get("a"), store.get_many(["a", "b"])) == (b"1", [b"1", None])
    store.close()

    async def main():
        async def none():
            raise NoWire("a stand-in")

        astore = AsyncRedisStore(redis_url)
        astore._here()._connect = none
        found = await astore.get("a")
        assert astore._plain
        await astore.close()
        return found

    assert asyncio.run(main()) == b"1"


# -- real servers -------------------------------------------------------------------------


def clients(url):
    """Connections that the server has, but for the one that asks."""
    with redis.Redis.from_url(url) as client:
        return len(client.client_list()) - 1


def eventually(condition, seconds=10.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.005)


@server
def test_both_stores_can_do_all_that_a_tier_may_want(redis_url):
    for store in (RedisStore(redis_url), AsyncRedisStore(redis_url)):
        assert isinstance(store, BulkStore)
        assert isinstance(store, LeaseStore)
    assert StoreTier(redis_url, Backoff(), Counts()).leases


@server
@pytest.mark.parametrize("size", [0, 1, 65_530, 65_536, 300_000, 5_000_000])
def test_values_of_every_size_go_both_ways(redis_url, opened, size):
    value = random.Random(size).randbytes(size)
    store = opened(redis_url, timeout=10.0)
    store.set("a", value, ttl=60.0)
    assert store.get("a") == value
    store.set_many({"b": value, "c": b""}, ttl=60.0)
    assert list(store.get_many(["c", "x", "b"])) == [b"", None, value]

    async def main():
        astore = AsyncRedisStore(redis_url, timeout=10.0)
        await astore.set("d", value, ttl=60.0)
        found = await astore.get("d"), await astore.get_many(["a", "d"])
        await astore.close()
        return found

    assert asyncio.run(main()) == (value, [value, value])


@server
def test_a_connection_is_opened_without_a_look_at_the_files_of_the_library(
    redis_url, opened, monkeypatch
):
    def read(name):
        raise AssertionError(f"the version of {name} was looked up")

    monkeypatch.setattr("importlib.metadata.version", read)
    store = opened(redis_url, timeout=10.0)
    store.set("a", b"1")

    async def both():
        mine = AsyncRedisStore(redis_url, timeout=10.0)
        found = await mine.get("a")
        await mine.close()
        return found

    assert (store.get("a"), asyncio.run(both())) == (b"1", b"1")
    assert "encodings.idna" in sys.modules


@server
def test_a_batch_is_one_command_and_every_entry_ends(redis_url, opened):
    store = opened(redis_url, timeout=10.0)
    names = [f"n{n}" for n in range(256)]
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        store.get_many(names)
        store.set_many(dict.fromkeys(names, b"1"), ttl=60.0)
        stats = client.info("commandstats")
        assert stats["cmdstat_mget"]["calls"] == 1
        assert stats["cmdstat_set"]["calls"] == 256
        assert all(50_000 < client.pttl(name) <= 60_000 for name in names)
    many = {f"m{n}": str(n).encode() for n in range(2500)}
    store.set_many(many, ttl=60.0)
    assert list(store.get_many(list(many))) == list(many.values())
    assert list(store.get_many([])) == []
    store.set_many({})


@server
def test_somebody_elses_list_is_nothing(redis_url, opened):
    store = opened(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("a", "x")
    assert store.get("a") is None
    assert list(store.get_many(["a"])) == [None]
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        store.setdefault("a", b"1")
    store.set("a", b"1")
    assert store.get("a") == b"1"


@server
def test_threads_that_come_and_go_leave_no_connection_behind(redis_url):
    before = clients(redis_url)
    store = RedisStore(redis_url, timeout=10.0)
    for _ in range(20):
        threads = [threading.Thread(target=store.get, args=("a",)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= clients(redis_url) - before <= 10
    store.close()
    eventually(lambda: clients(redis_url) <= before)
    # Forgotten instead of closed.
    RedisStore(redis_url).get("a")
    gc.collect()
    eventually(lambda: clients(redis_url) <= before)


@server
def test_event_loops_that_end_leave_no_connection_behind(redis_url):
    before = clients(redis_url)
    store = AsyncRedisStore(redis_url, timeout=10.0)

    async def main():
        await asyncio.gather(*(store.get(str(n)) for n in range(50)))

    for _ in range(5):
        asyncio.run(main())
    eventually(lambda: clients(redis_url) <= before)
    asyncio.run(store.close())
    gc.collect()
    assert len(store._wires) <= 1


FORKING = """
    import os, sys
    from prodml.integrations.redis import RedisStore
    from prodml.integrations.redis_commands import Operation
    store = RedisStore(sys.argv[1], timeout=10.0)
    store.set("a", b"of all")
    def own():
        return store._asked(Operation((("CLIENT", "ID"),), len))[0]
    parent = own()
    read, write = os.pipe()
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                for turn in range(200):
                    name = f"{number}-{turn}"
                    store.set(name, name.encode())
                    assert store.get(name) == name.encode()
                assert store.get("a") == b"of all"
                os.write(write, b"%d\\n" % own())
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    for turn in range(200):
        assert store.get("a") == b"of all"
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    ids = set(map(int, os.read(read, 1000).split()))
    assert len(ids) == 4 and parent not in ids and own() == parent
"""


@server
def test_a_forked_child_has_connections_of_its_own(redis_url):
    subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            textwrap.dedent(FORKING),
            redis_url,
        ],
        check=True,
        env={"PYTHONPATH": SOURCE},
        timeout=60,
    )


@server
def test_64_threads_and_200_tasks_see_no_outage(redis_url):
    store = RedisStore(redis_url, timeout=10.0)
    store.set("a", b"1")

    def ask(_):
        return store.get("a")

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(ask, range(3000))) == {b"1"}
    assert len(store._wires) <= 32

    async def main():
        astore = store.twin
        for _ in range(5):
            found = await asyncio.gather(*(astore.get("a") for _ in range(200)))
            assert set(found) == {b"1"}
        assert len(astore._here()) <= 32
        await astore.close()

    asyncio.run(main())
    store.close()


@server
def test_a_frozen_server_costs_one_time_limit_for_each_try(private_server):
    frozen = private_server()
    store = RedisStore(frozen.url, timeout=0.05)
    counts = Counts()
    tier = StoreTier(store, Backoff(pause=60.0), counts)
    assert run(tier.write({"a": b"1"}, 600.0))
    frozen.freeze()
    began = time.monotonic()
    assert run(tier.read(["a"])) == [None]
    assert 0.04 < time.monotonic() - began < 0.3
    began = time.monotonic()
    for _ in range(100):
        assert run(tier.read(["a"])) == [None]
    assert time.monotonic() - began < 0.05
    assert (counts.store_errors, counts.store_skipped) == (1, 100)
    frozen.thaw()
    assert store.get("a") == b"1"
    store.close()


@server
def test_answers_of_a_thawed_server_reach_nobody(private_server):
    frozen = private_server()
    store = RedisStore(frozen.url, timeout=0.05)
    names = [str(number) for number in range(20)]
    store.set_many({name: name.encode() for name in names})

    async def main():
        astore = AsyncRedisStore(frozen.url, timeout=0.05)
        assert await astore.get("1") == b"1"
        frozen.freeze()
        lost = await asyncio.gather(*map(astore.get, names), return_exceptions=True)
        assert all(isinstance(error, StoreUnavailable | BulkheadFull) for error in lost)
        with pytest.raises(StoreUnavailable):
            store.get("2")
        frozen.thaw()
        astore.timeout = 5.0
        for name in names:
            assert await astore.get(name) == name.encode()
        await astore.close()

    asyncio.run(main())
    for name in names:
        assert store.get(name) == name.encode()
    store.close()


@server
def test_a_server_that_was_started_again_costs_no_error(private_server):
    killed = private_server()
    store = RedisStore(killed.url, timeout=5.0)
    store.set("a", b"1")
    killed.kill()
    with pytest.raises(StoreUnavailable):
        store.get("a")
    killed.start()
    assert store.get("a") is None
    store.set("a", b"2")
    killed.kill()
    killed.start()
    # The connection is dead, and nobody has to hear of it.
    assert store.get("a") is None
    store.close()


@server
def test_passwords_and_databases_are_the_clients_business(private_server):
    guarded = private_server()
    with redis.Redis.from_url(guarded.url) as client:
        client.config_set("requirepass", "hunter2")
    url = guarded.url.replace("unix://", "unix://:hunter2@") + "?db=3&client_name=prodml"
    store = RedisStore(url, timeout=5.0)
    store.set("a", b"1")
    assert store.get("a") == b"1"
    store.close()
    with redis.Redis.from_url(url) as client:
        assert client.get("a") == b"1"

    async def main():
        astore = AsyncRedisStore(url, timeout=5.0)
        found = await astore.get("a")
        await astore.close()
        return found

    assert asyncio.run(main()) == b"1"
    for wrong in (guarded.url, url.replace("hunter2", "hunter3")):
        refused = RedisStore(wrong, timeout=5.0)
        with pytest.raises(StoreUnavailable, match=r"NOAUTH|AuthenticationError") as told:
            refused.get("a")
        assert "hunter" not in str(told.value)
        refused.close()


@server
@pytest.mark.parametrize("package", [redis, redis.asyncio])
def test_a_client_that_decodes_or_speaks_the_newer_protocol_lends_its_address(redis_url, package):
    client = package.Redis.from_url(redis_url, decode_responses=True, protocol=3)
    store = RedisStore(client, timeout=5.0)
    store.set("a", b"\xff")
    assert store.get("a") == b"\xff"
    store.close()


@server
def test_a_client_with_a_greeting_of_its_own_is_used_whole(redis_url):
    greeted = []

    def greet(connection):
        greeted.append(connection)
        connection.on_connect()

    client = redis.Redis(unix_socket_path=redis_url.removeprefix("unix://"))
    client.connection_pool.connection_kwargs["redis_connect_func"] = greet
    store = RedisStore(client)
    store.set("a", b"1")
    assert greeted
    store.close()


@server
def test_the_oldest_server_speaks_the_same(oldest_url, opened):
    store = opened(oldest_url, timeout=5.0)
    store.set_many({"a": b"1", "b": b"2"}, ttl=60.0)
    assert list(store.get_many(["a", "b", "c"])) == [b"1", b"2", None]
    assert store.claim("x", "me", 5.0) == (None, True)
    assert store.watch("x") == (None, "me")
    store.unclaim("x", "me")
    assert store.watch("x") == (None, None)

    async def main():
        astore = AsyncRedisStore(oldest_url, timeout=5.0)
        found = await astore.get("a")
        await astore.close()
        return found

    assert asyncio.run(main()) == b"1"


# -- TLS ----------------------------------------------------------------------------------


@pytest.fixture
def encrypted(redis_url, tmp_path):
    """URL of the server behind a proxy that speaks TLS."""
    if not redis_url.startswith("unix://"):
        pytest.skip("the server is not ours")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = _Proxy(listener, context, redis_url.removeprefix("unix://"))
    threading.Thread(target=proxy.accept, daemon=True).start()
    port = listener.getsockname()[1]
    yield f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}", proxy
    listener.close()


class _Proxy:
    def __init__(self, listener, context, path):
        self.listener, self.context, self.path, self.delay = listener, context, path, 0.0

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with socket.socket(socket.AF_UNIX) as behind:
            behind.connect(self.path)
            try:
                with self.context.wrap_socket(peer, server_side=True) as front:
                    while data := front.recv(65536):
                        behind.sendall(data)
                        time.sleep(0.002 + self.delay)
                        front.sendall(behind.recv(65536))
            except OSError:
                peer.close()


@server
def test_both_colours_speak_tls(encrypted):
    url, proxy = encrypted
    store = RedisStore(url, timeout=5.0)
    store.set("a", b"1" * 1000)
    assert store.get("a") == b"1" * 1000

    async def main():
        astore = AsyncRedisStore(url, timeout=5.0)
        found = await astore.get("a")
        await astore.close()
        return found

    assert asyncio.run(main()) == b"1" * 1000
    store.close()
    hurried = RedisStore(url, timeout=0.5)
    assert hurried.get("a")
    proxy.delay = 2.0
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        hurried.get("a")
    assert time.monotonic() - began < 1.8
    hurried.close()


# -- leases -------------------------------------------------------------------------------


def _claims(store):
    assert store.claim("x", "one", 5.0) == (None, True)
    # Asked again, as after a connection that broke: no other answer.
    assert store.claim("x", "one", 5.0) == (None, True)
    assert store.claim("x", "two", 5.0) == (None, False)
    assert store.watch("x") == (None, "one")
    store.unclaim("x", "two")
    assert store.watch("x") == (None, "one")
    assert store.prolong("x", "one", 5.0)
    assert not store.prolong("x", "two", 5.0)
    store.set("x", b"computed")
    assert store.claim("x", "two", 5.0) == (b"computed", False)
    store.unclaim("x", "one")
    assert store.watch("x") == (b"computed", None)
    assert not store.prolong("x", "one", 5.0)
    store.delete("x")
    assert store.claim("x", "two", 0.02) == (None, True)


@server
def test_one_claims_the_others_watch(redis_url, opened):
    store = opened(redis_url, timeout=5.0)
    _claims(store)
    eventually(lambda: store.watch("x") == (None, None))


@server
def test_one_task_claims_the_others_watch(redis_url):
    async def main():
        store = AsyncRedisStore(redis_url, timeout=5.0)
        found = await asyncio.gather(*(store.claim("x", str(n), 5.0) for n in range(50)))
        assert sorted(claimed for _, claimed in found) == [False] * 49 + [True]
        value, holder = await store.watch("x")
        assert (value, found[int(holder)]) == (None, (None, True))
        await store.unclaim("x", holder)
        assert await store.watch("x") == (None, None)
        await store.close()

    asyncio.run(main())


@server
def test_of_many_threads_one_claims(redis_url, opened):
    stores = [opened(redis_url, timeout=10.0) for _ in range(4)]
    with ThreadPoolExecutor(24) as pool:
        for turn in range(10):
            claims = [pool.submit(stores[n % 4].claim, f"x{turn}", str(n), 5.0) for n in range(24)]
            assert sum(claim.result()[1] for claim in claims) == 1


def test_a_stand_in_without_scripts_lets_one_claim_too():
    _claims(RedisStore(fakeredis.FakeRedis()))
    _claims(RedisStore(fakeredis.FakeRedis(decode_responses=True)))

    async def main():
        store = AsyncRedisStore(fakeredis.FakeAsyncRedis())
        assert await store.claim("x", "one", 5.0) == (None, True)
        await store.unclaim("x", "two")
        assert await store.watch("x") == (None, "one")
        await store.unclaim("x", "one")
        assert await store.claim("x", "two", 5.0) == (None, True)

    asyncio.run(main())


def test_the_process_id_is_not_asked_for_at_each_request(monkeypatch, directed, opened):
    store = opened(directed().url)
    store.get("1")
    monkeypatch.setattr(os, "getpid", lambda: pytest.fail("a system call too many"))
    assert store.get("2") == b"value of 2"
