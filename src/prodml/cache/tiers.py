"""What the tiers hold: finding it, and keeping it."""

import random
from collections.abc import Sequence
from typing import Any, Final

from prodml._call import Steps
from prodml.cache.codecs import Codec, atomic
from prodml.cache.entry import EXPIRED, Entry, Kind
from prodml.cache.epochs import Key, KeySteps
from prodml.cache.freshness import Freshness, Life, Verdict
from prodml.cache.memory import Data, Memory
from prodml.cache.sealing import Sealer
from prodml.cache.typed import AnswerType
from prodml.clock import Clock
from prodml.errors import CorruptRecord
from prodml.types import MISS

__all__ = ["Answer", "TierSteps"]

_FOREVER: Final = float("inf")


class Answer:
    """A value on its way to callers, and where it comes from.

    Parameters
    ----------
    value
        What the caller gets.
    body
        Bytes that the others' copies are made of; None where all may have the same object.
    tier
        ``"memory"``, ``"store"``, or empty for what was computed now.
    verdict, life
        How fresh it is, and its times by the cache's monotonic clock.
    age
        Seconds since it was computed.
    cached
        False only for the caller who computed.
    shared
        Whether the others may have the same object or a copy of it.
    kept
        Whether other processes find it in the store.

    Examples
    --------
    >>> answer = Answer(0.5, tier="memory", age=3.0)
    >>> answer.value, answer.cached, answer.stale
    (0.5, True, False)
    """

    __slots__: tuple[str, ...] = (
        *("age", "body", "cached", "kept"),
        *("life", "shared", "tier", "value", "verdict"),
    )

    def __init__(
        self,
        value: Any,
        *,
        body: bytes | None = None,
        tier: str = "",
        verdict: Verdict = Verdict.FRESH,
        life: Life | None = None,
        age: float = 0.0,
        shared: bool = True,
        kept: bool = True,
    ) -> None:
        self.value: Any = value
        self.body: bytes | None = body
        self.tier: str = tier
        self.verdict: Verdict = verdict
        self.life: Life | None = life
        self.age: float = age
        self.cached: bool = bool(tier)
        self.shared: bool = shared
        self.kept: bool = kept

    @property
    def fresh(self) -> bool:
        """Whether its time is not over."""
        return self.verdict is Verdict.FRESH or self.verdict is Verdict.EARLY

    @property
    def stale(self) -> bool:
        """Whether its time is over: it is served while another is computed, or cannot be."""
        return not self.fresh

    def for_others(self, value: Any) -> "Answer":
        """It, with ``value`` for somebody who has waited for it."""
        return Answer(
            value,
            body=self.body,
            tier=self.tier or "flight",
            verdict=self.verdict,
            life=self.life,
            age=self.age,
        )


class TierSteps(KeySteps):
    """Finding entries in the tiers, and keeping them there.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> cache = PredictionCache(ttl=60.0)
    >>> cache.set({"age": 41}, "v1", 0.5), cache.get({"age": 41}, "v1")
    (True, 0.5)
    """

    __slots__: tuple[str, ...] = ()

    codec: Codec | None
    ttl: float | None
    jitter: float
    clock: Clock
    rng: random.Random
    _codec: Codec
    _fresh: Freshness
    _memory: Memory
    _sealer: Sealer

    def _fetch(self, keys: Sequence[Key]) -> Steps:
        """Steps to what the tiers hold of each key, fresh or not, and not counted yet."""
        yield from self._refresh_all(keys)
        places = [self._preimage(key) for key in keys]
        found = [
            self._remembered(place, key.answer) for place, key in zip(places, keys, strict=True)
        ]
        absent: list[int] = []
        for at, (key, place, answer) in enumerate(zip(keys, places, found, strict=True)):
            if (answer is None or answer.stale) and not (key.absent and key.place == place):
                absent.append(at)
            key.absent, key.place = False, place
        if self._tier is None or not absent:
            return found, None
        names = [self._name(places[at]) for at in absent]
        began = self._now()
        envelopes, _ = yield from self._tier.read(names)
        self._counts.store_seconds += self._now() - began
        for at, name, envelope in zip(absent, names, envelopes, strict=True):
            opened = self._opened(name, places[at], envelope, keys[at].answer)
            found[at] = found[at] if opened is None else opened
        return found, None

    def _remembered(self, place: bytes, answer: AnswerType | None) -> Answer | None:
        now = self._now()
        found = self._memory.find(place, now)
        if found is None:
            return None
        value = self._held(found, answer)
        if value is MISS:
            # A look-up has seen it before, and left the counting to this one.
            self._counts.corrupt += 1
            return None
        return self._answer(value, found[0] if found[1] else None, "memory", found[4], now)

    def _answer(
        self, value: Any, body: bytes | None, tier: str, life: Life, now: float
    ) -> Answer | None:
        verdict = self._judged(life, now)
        if verdict is Verdict.GONE:
            return None
        age = life.age(now)
        return Answer(value, body=body, tier=tier, verdict=verdict, life=life, age=age)

    def _judged(self, life: Life, now: float) -> Verdict:
        draw = self.rng.random()
        return self._fresh.verdict(life.created, life.ttl, life.cost, now, draw)

    def _count_hit(self, answer: Answer) -> None:
        if answer.tier == "memory":
            self._counts.memory_hits += 1
        else:
            self._counts.store_hits += 1

    def _held(self, found: Data, answer: AnswerType | None) -> Any:
        """Copy of what memory holds; MISS if it is no answer of this function."""
        return self._copied(found[0], found[0] if found[1] else None, answer)

    def _copied(self, value: Any, body: bytes | None, answer: AnswerType | None) -> Any:
        if body is None:
            return value if answer is None or answer.fits(value) else MISS
        try:
            return self._decoded(body, answer)
        except CorruptRecord:
            return MISS

    def _decoded(self, body: bytes, answer: AnswerType | None) -> Any:
        if answer is None:
            return self._codec.decode(body)
        value = (answer.codec if self.codec is None else self._codec).decode(body)
        if not answer.fits(value):
            raise CorruptRecord("cached value", "not what the function says it answers")
        return value

    def _opened(
        self, name: str, place: bytes, envelope: Any, answer: AnswerType | None
    ) -> Answer | None:
        if envelope is None:
            return None
        wall, now, grace = self.clock.time(), self._now(), self._fresh.grace
        longest = _FOREVER if self.ttl is None else self.ttl
        try:
            entry = self._sealer.unseal(name, envelope, wall, grace, longest)
            if entry is EXPIRED or entry.kind is not Kind.VALUE:
                return None
            value = self._decoded(entry.body, answer)
        except CorruptRecord:
            self._counts.corrupt += 1
            return None
        life = Life(now - entry.age(wall), entry.ttl, entry.cost, entry.created)
        self._remember(place, value, entry.body, life)
        return self._answer(value, None if atomic(type(value)) else entry.body, "store", life, now)

    def _keep(self, items: Sequence[tuple[bytes, Any, bytes]], cost: float) -> Steps:
        """Steps that keep ``(place, value, body)``.

        The places are those of before the computation: if the version has been dropped
        meanwhile, nobody finds them.
        """
        ttl, counts = self._lifetime(), self._counts
        life = Life(self._now(), ttl, cost, self.clock.time())
        if cost:
            counts.computed += len(items)
            counts.compute_seconds += cost * len(items)
        envelopes: dict[str, bytes] = {}
        for place, value, body in items:
            self._remember(place, value, body, life)
            if self._tier is not None:
                name = self._name(place)
                entry = Entry(body, life.stamp, ttl, cost)
                envelopes[name] = self._sealer.seal(name, entry)
        if self._tier is not None and envelopes:
            ends = None if ttl == _FOREVER else ttl + self._fresh.grace
            yield from self._tier.write(envelopes, ends)
            counts.store_seconds += self._now() - life.created
        return None, None

    def _remember(self, place: bytes, value: Any, body: bytes, life: Life) -> None:
        now = self._now()
        ends = life.created + life.ttl + self._fresh.grace
        if ends <= now or not self._memory.capacity:
            return
        atom = atomic(type(value))
        kept = self._memory.put(
            place,
            value if atom else body,
            encoded=not atom,
            now=now,
            expires=ends,
            calm=self._fresh.calm(life.created, life.ttl, life.cost),
            life=life,
        )
        self._counts.unstorable += not kept

    def _lifetime(self) -> float:
        if self.ttl is None:
            return _FOREVER
        return self.ttl * (1.0 - self.jitter * self.rng.random())

    def _encoded(self, value: Any, answer: AnswerType | None) -> bytes | None:
        try:
            if answer is None:
                return self._codec.encode(value)
            if answer.fits(value):
                return (answer.codec if self.codec is None else self._codec).encode(value)
        except Exception:
            # The answer reaches the caller; only keeping it is impossible.
            self._counts.unstorable += 1
            return None
        self._counts.unstorable += 1
        return None
