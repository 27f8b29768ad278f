"""A store that lies: whatever it gives, no exception, no wrong type, and all is counted."""

import asyncio
import math
import pickle
import random
import struct
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
import pytest
from msgspec.msgpack import Ext, encode

from prodml.cache import MISS, PredictionCache, cached_prediction
from prodml.cache.codecs import ValueCodec
from prodml.cache.entry import Entry, Kind
from prodml.cache.sealing import _HEADER, Sealer
from prodml.testing import ManualClock

ROW = {"age": 41}
SECRET = "sixteen bytes..."


@dataclass
class Score:
    value: float
    label: str | None = None


class Row(msgspec.Struct):
    id: int
    score: float


class Bomb:
    fuse: list[str] = []

    def __reduce__(self):
        return Bomb.fuse.append, ("boom",)


class Liar:
    """Keeps epochs; for anything else it gives what ``lie(name)`` makes up."""

    def __init__(self):
        self.values = {}
        self.lie = None
        self.name = ""

    def get(self, key):
        if self.lie is None or len(self.values.get(key, b"")) == 8:
            return self.values.get(key)
        self.name = key
        return self.lie(key)

    def set(self, key, value, *, ttl=None):
        self.values[key] = value

    def delete(self, key):
        return self.values.pop(key, None) is not None


CODEC = ValueCodec(Score, Row)

# Answers of one function each, and bodies that are none of its.
ANSWERS = [
    (float, 0.5),
    (str, "churn"),
    (list[float], [0.25, 0.5]),
    (dict[str, float], {"a": 0.5}),
    (np.ndarray, np.arange(4.0)),
    (Score, Score(0.5, "churn")),
    (Row, Row(1, 0.5)),
    (tuple[int, str] | None, (1, "a")),
]
OTHERS = [0.5, "churn", [0.25, 1], {"a": 1}, np.arange(4.0), Score(1), Row(1, "a"), ("a", 1), 1]
OTHERS += [True, None, b"a", {"value": 0.5}, [], {}, np.float32(1), np.int64(1), 1j, {1: 2.0}]
CLAIMS = [b"\xdd", b"\xdf", b"\xc6", b"\xc9", b"\xdb"]
SHAPES = [[2**40], [2**62, 4], [-1], [0, 2**62], [1.5], ["a"], [[1]], [], None, "ab", [True, 2]]
TYPES = ["<f8", "|O", "<U1", "|V8", "|b1", "<f999", "<M8[ns]", "<M8[]", "|S9", "f8,f8", 1, None]
STRANGERS = ["text", 1, 0.5, True, [], {}, object(), bytearray(80), memoryview(b"a" * 80), MISS]
TIMES = [math.nan, math.inf, -math.inf, 1e300, -1e300, -1.0, 1e18]


class Attacker:
    """Makes up values for one cache; knows the secret, so that tags may be valid."""

    def __init__(self, encryption, said, honest, now, seed):
        self.rng = random.Random(seed)
        self.mine = Sealer(SECRET.encode(), encryption)
        foreign = "aes-gcm" if encryption is None else None
        self.foreign = [
            Sealer(SECRET.encode(), foreign),
            Sealer(b"another secret", encryption),
            Sealer(SECRET.encode(), encryption, "my.Codec"),
        ]
        self.now = now
        self.body = CODEC.encode(honest)
        self.wrong = [CODEC.encode(other) for other in OTHERS if not _fits(said, other)]
        self.ways = [
            self.wrong_type,
            self.rubbish,
            self.flipped,
            self.flipped_inside,
            self.cut,
            self.swapped,
            self.foreign_mode,
            self.pickled,
            self.huge,
            self.forged_array,
            self.forged_record,
            self.stranger,
            self.strange_times,
            self.unknown_kind,
        ]

    def lie(self, name):
        if self.rng.random() < 0.01:
            return self.deep(name)
        return self.rng.choice(self.ways)(name)

    def sealed(self, name, body, created=None, ttl=60.0, cost=0.0, kind=0):
        created = self.now if created is None else created
        header = _HEADER.pack(created, ttl, cost, kind)
        stamp, closed = self.mine._mode.close(header, name, body)
        return self.mine._front + stamp + header + closed

    def wrong_type(self, name):
        return self.sealed(name, self.rng.choice(self.wrong))

    def rubbish(self, name):
        # 0xC1 is never used, so these bytes are no value whatever follows.
        body = b"\xc1" + self.rng.randbytes(self.rng.randrange(40))
        return self.sealed(name, body) if self.rng.random() < 0.5 else body

    def flipped(self, name):
        made = bytearray(self.sealed(name, self.body))
        made[self.rng.randrange(len(made))] ^= 1 << self.rng.randrange(8)
        return bytes(made)

    def flipped_inside(self, name):
        """A body that may still be an answer, but not of this function's type."""
        made = bytearray(self.rng.choice(self.wrong))
        made[self.rng.randrange(len(made))] ^= 1 << self.rng.randrange(8)
        return self.sealed(name, bytes(made))

    def cut(self, name):
        made = self.sealed(name, self.body)
        if self.rng.random() < 0.2:
            return made + self.rng.randbytes(1 + self.rng.randrange(9))
        return made[: self.rng.randrange(len(made))]

    def swapped(self, name):
        return self.sealed(name[:-1] + "x", self.body)

    def foreign_mode(self, name):
        sealer = self.rng.choice(self.foreign)
        made = sealer.seal(name, Entry(self.body, self.now, 60.0))
        # An envelope that claims to be of this mode is none of it, either.
        return made if self.rng.random() < 0.5 else self.mine._front + made[2:]

    def pickled(self, name):
        made = pickle.dumps(Bomb(), self.rng.randrange(2, 6))
        return made if self.rng.random() < 0.5 else self.sealed(name, made)

    def huge(self, name):
        made = self.rng.choice(CLAIMS) + b"\xff\xff\xff\xff" + self.rng.randbytes(8)
        if self.rng.random() < 0.3:
            made = struct.pack(">B7xQ", 0xC1, self.rng.choice([0, 16, 24, 2**40, 2**64 - 1])) + made
        return self.sealed(name, made)

    def forged_array(self, name):
        code, dtype, shape = (self.rng.choice(x) for x in ([20, 21, 22], TYPES, SHAPES))
        # Seven bytes are never what a shape and a type of these ask for.
        payload = [[dtype, shape, 16, 7], [dtype, b"\xff" * 7], [shape, [1] * 7]][code - 20]
        nested = self.rng.choice([lambda x: x, lambda x: [x], lambda x: {"a": x}])
        head = struct.pack(">B7xQ", 0xC1, 32) + b"\xff" * 16
        return self.sealed(name, head + encode(nested(Ext(code, encode(payload)))))

    def forged_record(self, name):
        cls = self.rng.choice(
            [f"{__name__}.Score", f"{__name__}.Row", "os.system", "builtins.open"]
        )
        fields = self.rng.choice([{}, {"value": "text"}, {"__class__": 1}, [1], "true", None])
        return self.sealed(name, encode(Ext(self.rng.choice([30, 31]), encode([cls, fields]))))

    def stranger(self, name):
        return self.rng.choice(STRANGERS)

    def strange_times(self, name):
        times = {"created": [math.nan, math.inf, -math.inf, 1e300, self.now + 1e4]}
        times |= {"ttl": [math.nan, math.inf, -math.inf, -1.0], "cost": [math.nan, -1.0, math.inf]}
        field = self.rng.choice(list(times))
        return self.sealed(name, self.body, **{field: self.rng.choice(times[field])})

    def unknown_kind(self, name):
        return self.sealed(name, self.body, kind=self.rng.randrange(len(Kind), 256))

    def deep(self, name):
        depth = self.rng.choice([200, 1000, 5000])
        if self.rng.random() < 0.5:
            return self.sealed(name, self.rng.choice([b"\x91", b"\x81\xa1a"]) * depth + b"\xc0")
        made = b"\xc0"
        for _ in range(min(depth, 400)):
            made = encode(Ext(self.rng.choice([1, 2, 3, 4]), b"\x91" + made))
        return self.sealed(name, made)


def _fits(said, value):
    from prodml.cache.typed import AnswerType

    return AnswerType(said).fits(value)


def _same(one, other):
    return type(one) is type(other) and bool(np.all(one == other))


def _attack(encryption, said, honest, count, seed=0):
    clock, store = ManualClock(), Liar()
    cache = PredictionCache(
        store, memory=None, ttl=60.0, secret=SECRET, encryption=encryption, clock=clock
    )

    def fn(row):
        return honest

    fn.__annotations__["return"] = said
    predict = cached_prediction(cache, version="v1", function="f")(fn)
    assert _same(predict(ROW), honest)
    assert _same(predict(ROW), honest)
    assert cache.stats().store_hits == 1
    attacker = Attacker(encryption, said, honest, clock.time(), seed)
    store.lie = attacker.lie
    for number in range(count):
        answer = predict(ROW)
        if not _same(answer, honest):
            # A flipped bit may turn one body into another of the right type.
            assert _fits(said, answer), (number, answer)
    stats = cache.stats()
    # Before the attack there were one miss and one hit.
    return stats, stats.store_hits + stats.misses - 2


@pytest.mark.parametrize("encryption", [None, "aes-gcm"])
@pytest.mark.parametrize(("said", "honest"), ANSWERS, ids=[str(said) for said, _ in ANSWERS])
def test_hostile_values_are_counted_misses(encryption, said, honest):
    count = 100_000 // (2 * len(ANSWERS))
    stats, asked = _attack(encryption, said, honest, count)
    assert asked == count
    assert stats.corrupt == stats.misses - 1
    assert stats.corrupt >= 0.97 * count
    assert (stats.store_errors, stats.unstorable, stats.uncacheable) == (0, 0, 0)
    assert Bomb.fuse == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_a_million_hostile_values(seed):
    for encryption in (None, "aes-gcm"):
        for said, honest in ANSWERS:
            stats, _ = _attack(encryption, said, honest, 100_000 // (2 * len(ANSWERS)), seed + 1)
            assert stats.corrupt == stats.misses - 1


def _planted(lie, **settings):
    clock, store = ManualClock(), Liar()
    cache = PredictionCache(store, memory=None, ttl=60.0, secret=SECRET, clock=clock, **settings)
    cache.set(ROW, "v1", "honest")
    sealer = Sealer(SECRET.encode())
    store.lie = partial(lie, sealer, clock.time())
    return cache


@pytest.mark.parametrize("ttl", [None, 60.0, 1e300])
def test_an_entry_whose_time_is_over_is_a_miss_and_nobodys_fault(ttl):
    def lie(sealer, now, name):
        return sealer.seal(
            name, Entry(CODEC.encode("old"), now - 1e6, math.inf if ttl is None else ttl)
        )

    cache = _planted(lie)
    assert cache.get(ROW, "v1") is MISS
    assert (cache.stats().corrupt, cache.stats().misses) == (0, 1)


def test_a_failure_is_never_handed_out_as_an_answer():
    def lie(sealer, now, name):
        return sealer.seal(name, Entry(CODEC.encode("oops"), now, 60.0, 0.0, Kind.FAILURE))

    assert _planted(lie).get(ROW, "v1") is MISS


@pytest.mark.parametrize("stranger", STRANGERS)
def test_tasks_are_told_no_lies_either(stranger):
    cache = _planted(lambda sealer, now, name: stranger)

    @cached_prediction(cache, version="v1")
    async def predict(row) -> float:
        return 0.5

    async def main():
        return await cache.aget(ROW, "v1"), await predict(ROW)

    assert asyncio.run(main()) == (MISS, 0.5)
    assert cache.stats().corrupt == 2


class BulkLiar(Liar):
    """Lies about many keys at once, and about the epoch."""

    def __init__(self, lie):
        super().__init__()
        self.answer = lie

    def get_many(self, keys):
        return self.answer(keys) if callable(self.answer) else self.answer

    def set_many(self, items, *, ttl=None):
        self.values |= items

    def setdefault(self, key, value):
        return self.answer[0] if isinstance(self.answer, list) and self.answer else value


@pytest.mark.parametrize(
    "lie",
    [
        None,
        7,
        "ab",
        b"ab",
        [],
        [b"x"],
        [b"x"] * 9,
        {},
        lambda keys: [STRANGERS[at % len(STRANGERS)] for at, _ in enumerate(keys)],
        lambda keys: [b"\0" * 50] * len(keys),
        lambda keys: iter(keys),
        *([stranger] * 3 for stranger in STRANGERS),
    ],
)
def test_batches_are_told_no_lies_either(lie):
    cache = PredictionCache(BulkLiar(lie), memory=None, clock=ManualClock())

    @cached_prediction(cache, version="v1", batch=True)
    def predict(rows) -> list[float]:
        return [row["age"] / 100 for row in rows]

    for _ in range(2):
        assert predict([{"age": 1}, {"age": 2}]) == [0.01, 0.02]
    assert cache.stats().corrupt >= 1
    assert cache.stats().uncacheable == 0


@pytest.mark.parametrize(
    "kind",
    [
        ("tuple",),
        ("array", "<f8"),
        ("array", "|O", 3),
        ("series", "pandas", "Float64", "a"),
        "list",
    ],
)
def test_a_batch_never_comes_in_another_container(kind):
    store = Liar()

    def make():
        cache = PredictionCache(store, memory=None, clock=ManualClock())

        @cached_prediction(cache, version="v1", batch=True, function="f")
        def predict(rows) -> list[float]:
            return [0.5 for _ in rows]

        return predict

    make()([{"age": 1}])
    sealer, codec, now = Sealer(b"prodml"), ValueCodec(), ManualClock().time()
    for name, value in store.values.items():
        found = sealer.unseal(name, value, now) if len(value) > 8 else None
        if found is not None and codec.decode(found.body) == ("list",):
            store.values[name] = sealer.seal(name, Entry(codec.encode(kind), now, 60.0))
    assert make()([{"age": 1}]) == [0.5]
