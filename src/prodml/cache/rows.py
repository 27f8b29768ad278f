"""The entries of one batch: one version, one reading of the clock, names made once.

What :class:`~prodml.cache.steps.CacheSteps` does for one key, done here for hundreds.
"""
# ruff: noqa: SLF001 - files of one room may know each other's private names

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from prodml._call import Steps
from prodml.cache.codecs import atomic
from prodml.cache.entry import Entry, Kind
from prodml.cache.epochs import Head, _short
from prodml.cache.freshness import Life
from prodml.cache.memory import Data
from prodml.cache.steps import CacheSteps
from prodml.cache.tiers import Answer
from prodml.cache.typed import AnswerType
from prodml.errors import CorruptRecord
from prodml.types import MISS

__all__ = ["Found", "Rows"]

_FOREVER: Final = float("inf")
_NO_TIMES: Final[tuple[float, ...]] = ()


class Found:
    """A row's answer, with what those who wait for it need.

    Examples
    --------
    >>> Found(0.5, None).value
    0.5
    """

    __slots__: tuple[str, ...] = ("body", "life", "shared", "tier", "value")

    def __init__(
        self, value: Any, body: bytes | None, life: Life | None = None, *, shared: bool = True
    ) -> None:
        self.value: Any = value
        # Bytes that the others' copies are made of; None where all may have the same object.
        self.body: bytes | None = body
        self.life: Life | None = life
        self.shared: bool = shared
        self.tier: str = "store" if life is not None else "memory"

    def answer(self) -> Answer:
        """It, for somebody who has waited for it."""
        return Answer(self.value, body=self.body, life=self.life, shared=self.shared)


class Rows:
    """Entries of one function and version, by their number in the batch.

    Parameters
    ----------
    bodies
        Canonical bytes of each row, None for one that cannot be named; the last is an entry
        of the batch's own, of any value.
    function, version, extra
        What their keys have in common.
    answer
        What their values are.

    Examples
    --------
    >>> from prodml._call import run
    >>> from prodml.cache import PredictionCache
    >>> from prodml.cache.arguments import NO_EXTRA
    >>> shared = {"function": "score", "version": "v1", "extra": NO_EXTRA, "answer": None}
    >>> rows = Rows(PredictionCache(), [b"1", b"2", b"own"], **shared)
    >>> run(rows.keep({0: 0.5}, cost=0.1)), rows.recall([0, 1])
    ({0: None}, {0: 0.5})
    """

    __slots__: tuple[str, ...] = (
        *("_answer", "_bodies", "_cache", "_extra", "_function", "_head", "_last"),
        *("_name", "_names", "_version", "lives", "named", "places"),
    )

    def __init__(
        self,
        cache: CacheSteps,
        bodies: Sequence[bytes | None],
        *,
        function: str,
        version: Any,
        extra: bytes,
        answer: AnswerType | None,
    ) -> None:
        self._cache: CacheSteps = cache
        self._answer: AnswerType | None = answer
        self._function: str = function
        self._version: Any = version
        self._last: int = len(bodies) - 1
        self._head: Head | None = None
        self._name: Callable[[bytes], str] = cache._name
        self._names: dict[int, str] = {}
        # The times of those found, for whoever watches.
        self.lives: dict[int, Life] = {}
        # Where the rows are kept; None for those without a name.
        self.places: list[bytes | None] = [None] * len(bodies)
        self._extra: bytes = extra
        self._bodies: list[bytes | None] = [
            None if body is None else _short(body) for body in bodies
        ]
        # Whether the version has a name; without one no row has any.
        self.named: bool = self._look()
        unnamed = self._bodies[:-1].count(None) if self.named else self._last
        cache._counts.uncacheable += unnamed

    def settle(self) -> Steps:
        """Steps that learn the version's epoch, which is part of every place."""
        if self._head is not None:
            yield from self._cache._refresh(self._head.epoch)
            self._look()
        return None, None

    def recall(self, wanted: Iterable[int]) -> dict[int, Any]:
        """Those ``wanted`` that memory has."""
        cache, head, watched = self._cache, self._head, self._cache.watched
        now, found = cache._now(), dict[int, Any]()
        if head is None or not cache._memory.capacity or now >= head.epoch.until:
            return found
        find, places, answer = cache._memory.find, self.places, self._answer
        for at in wanted:
            place = places[at]
            data = None if place is None else find(place, now)
            if data is None or (now >= data[3] and cache._is_due(data[4], now, early=False)):
                continue
            value = data[0] if answer is None and not data[1] else self._held(at, data)
            if value is MISS:
                cache._counts.corrupt += 1
            else:
                found[at] = value
                if watched:
                    self.lives[at] = data[4]
        cache._counts.memory_hits += len(found) - (self._last in found)
        return found

    def fetch(self, wanted: Iterable[int]) -> Steps:
        """Steps to the :class:`Found` ones of those ``wanted``, by number; one round trip."""
        cache, places = self._cache, self.places
        found = {at: self._found(value) for at, value in self.recall(wanted).items()}
        absent = [at for at in wanted if at not in found and places[at] is not None]
        if cache._tier is None or not absent:
            return found, None
        names = self._called(absent)
        envelopes, _ = yield from cache._tier.read(names)
        opened = self._opened(absent, names, envelopes)
        cache._counts.store_hits += len(opened) - (self._last in opened)
        return found | opened, None

    def keep(self, values: Mapping[int, Any], *, cost: float) -> Steps:
        """Steps that keep ``values``, to the bytes of each by number; one round trip.

        They are kept under the epoch that was known before they were computed: if the
        version has been dropped since, nobody finds them.
        """
        cache, ttl, places = self._cache, self._cache._lifetime(), self.places
        life = Life(cache._now(), ttl, cost, cache.clock.time())
        encoded = cache._encoded
        bodies = {
            at: None if places[at] is None else encoded(value, self._answer_of(at))
            for at, value in values.items()
        }
        kept = {at: body for at, body in bodies.items() if body is not None}
        cache._counts.computed += len(kept)
        cache._counts.compute_seconds += cost * len(kept)
        self._remember(values, kept, life)
        if cache._tier is not None and kept:
            named = dict(zip(self._called(kept), kept.values(), strict=True))
            envelopes = cache._sealer.seal_many(named, Entry(b"", life.stamp, ttl, cost))
            ends = None if ttl == _FOREVER else ttl + cache._fresh.grace
            yield from cache._tier.write(envelopes, ends)
        # Of what cannot change all may have the same object.
        return {at: None if atomic(type(values[at])) else bodies[at] for at in values}, None

    def _remember(self, values: Mapping[int, Any], bodies: Mapping[int, bytes], life: Life) -> None:
        """Keep rows that were computed together in memory."""
        cache, places, grace = self._cache, self.places, self._cache._fresh.grace
        now, ends = cache._now(), life.created + life.ttl + grace
        if ends <= now or not cache._memory.capacity:
            return
        calm, put = cache._fresh.calm(life.created, life.ttl, life.cost), cache._memory.put
        for at, body in bodies.items():
            value, place = values[at], places[at] or b""
            plain = atomic(type(value))
            kept = put(
                place,
                value if plain else body,
                encoded=not plain,
                now=now,
                expires=ends,
                calm=calm,
                life=life,
            )
            cache._counts.unstorable += not kept

    def copied(self, at: int, value: Any, body: bytes | None) -> Any:
        """What another gets of a row's value; MISS if it is none of this function."""
        return self._cache._copied(value, body, self._answer_of(at))

    def _look(self) -> bool:
        try:
            head = self._cache._head(self._function, self._version)
        except Exception:
            # No version, or an object of anyone's making that raises when read.
            return False
        if head is not self._head:
            front = head.prefix + self._extra
            self._head, self._name = head, self._cache._names(front)
            self.places = [None if body is None else front + body for body in self._bodies]
            self._names.clear()
        return True

    def _called(self, wanted: Iterable[int]) -> list[str]:
        """Names of those ``wanted`` in a shared store; they are not made twice."""
        names, bodies = self._names, self._bodies
        new = [at for at in wanted if at not in names]
        names.update(zip(new, map(self._name, [bodies[at] or b"" for at in new]), strict=True))
        return [names[at] for at in wanted]

    def _answer_of(self, at: int) -> AnswerType | None:
        return None if at == self._last else self._answer

    def _held(self, at: int, data: Data) -> Any:
        return self._cache._held(data, self._answer_of(at))

    def _found(self, value: Any) -> Found:
        plain = atomic(type(value))
        body = None if plain else self._cache._encoded(value, None)
        return Found(value, body, shared=plain or body is not None)

    def _opened(
        self, wanted: Sequence[int], names: Sequence[str], envelopes: Sequence[Any]
    ) -> dict[int, Found]:
        cache, places, found = self._cache, self.places, dict[int, Found]()
        wall, now, grace = cache.clock.time(), cache._now(), cache._fresh.grace
        longest = _FOREVER if cache.ttl is None else cache.ttl
        opened, kept = cache._sealer.opened, cache._memory.capacity
        decoded, own = self._decoder(), cache._codec.decode
        life, before = Life(now), _NO_TIMES
        for at, name, envelope in zip(wanted, names, envelopes, strict=True):
            if envelope is None:
                continue
            try:
                body, times, kind = opened(name, envelope, wall, longest)
                created, ttl, cost = times
                if wall >= created + ttl + grace or kind is not Kind.VALUE:
                    continue
                value = decoded(body) if at != self._last else own(body)
            except CorruptRecord:
                cache._counts.corrupt += 1
                continue
            if times != before:
                # Rows that were computed together have one life.
                before, life = times, Life(now - max(0.0, wall - created), ttl, cost, created)
            if kept:
                cache._remember(places[at] or b"", value, body, life)
            if now < life.created + ttl:
                found[at] = Found(value, None if atomic(type(value)) else body, life)
                self.lives[at] = life
        return found

    def _decoder(self) -> Callable[[bytes], Any]:
        answer, codec = self._answer, self._cache._codec
        if answer is None:
            return codec.decode
        return answer.decoder(None if self._cache.codec is None else codec)
