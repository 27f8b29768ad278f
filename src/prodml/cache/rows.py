"""The entries of one batch: one version, one reading of the clock, names made once.

What :class:`~prodml.cache.steps.CacheSteps` does for one key, done here for hundreds.
"""
# ruff: noqa: SLF001 - files of one room may know each other's private names

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prodml._call import Steps
from prodml.cache.codecs import atomic
from prodml.cache.entry import EXPIRED, Entry, Kind
from prodml.cache.epochs import Head, _short
from prodml.cache.freshness import Life
from prodml.cache.steps import CacheSteps
from prodml.cache.typed import AnswerType
from prodml.errors import CorruptRecord
from prodml.types import MISS

__all__ = ["Found", "Rows"]

_FOREVER: Final = float("inf")


class Found:
    """A row's answer, with what those who wait for it need.

    Examples
    --------
    >>> Found(0.5, None).value
    0.5
    """

    __slots__: tuple[str, ...] = ("body", "life", "shared", "value")

    def __init__(
        self, value: Any, body: bytes | None, life: Life | None = None, *, shared: bool = True
    ) -> None:
        self.value: Any = value
        # Bytes that the others' copies are made of; None where all may have the same object.
        self.body: bytes | None = body
        self.life: Life | None = life
        self.shared: bool = shared


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
        *("_answer", "_cache", "_function", "_head", "_last", "_names"),
        *("_prefix", "_tails", "_version", "named"),
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
        self._prefix: bytes = b""
        self._names: dict[int, str] = {}
        self._tails: list[bytes | None] = [
            None if body is None else extra + _short(body) for body in bodies
        ]
        # Whether the version has a name; without one no row has any.
        self.named: bool = self._look()
        unnamed = self._tails[:-1].count(None) if self.named else self._last
        cache._counts.uncacheable += unnamed

    def settle(self) -> Steps:
        """Steps that learn the version's epoch, which is part of every place."""
        if self._head is not None:
            yield from self._cache._refresh(self._head.epoch)
            self._look()
        return None, None

    def place(self, at: int) -> bytes | None:
        """Where the row is kept; None if it has no name."""
        tail = self._tails[at]
        return None if tail is None or not self.named else self._prefix + tail

    def recall(self, wanted: Iterable[int]) -> dict[int, Any]:
        """Those ``wanted`` that memory has."""
        cache, head = self._cache, self._head
        now, found = cache._now(), dict[int, Any]()
        if head is None or not cache._memory.capacity or now >= head.epoch.until:
            return found
        find, prefix, tails = cache._memory.find, self._prefix, self._tails
        for at in wanted:
            tail = tails[at]
            data = None if tail is None else find(prefix + tail, now)
            if data is None or (now >= data[3] and cache._is_due(data[4], now, early=False)):
                continue
            value = cache._held(data, self._answer_of(at))
            if value is MISS:
                cache._counts.corrupt += 1
            else:
                found[at] = value
        cache._counts.memory_hits += len(found) - (self._last in found)
        return found

    def fetch(self, wanted: Iterable[int]) -> Steps:
        """Steps to the :class:`Found` ones of those ``wanted``, by number; one round trip."""
        cache = self._cache
        found = {at: self._found(value) for at, value in self.recall(wanted).items()}
        absent = [at for at in wanted if at not in found and self._tails[at] is not None]
        if cache._tier is None or not self.named or not absent:
            return found, None
        names = self._call(absent)
        envelopes, _ = yield from cache._tier.read(names)
        opened = self._opened(absent, names, envelopes)
        cache._counts.store_hits += len(opened) - (self._last in opened)
        return found | opened, None

    def keep(self, values: Mapping[int, Any], *, cost: float) -> Steps:
        """Steps that keep ``values``, to the bytes of each by number; one round trip.

        They are kept under the epoch that was known before they were computed: if the
        version has been dropped since, nobody finds them.
        """
        cache, ttl = self._cache, self._cache._lifetime()
        life = Life(cache._now(), ttl, cost, cache.clock.time())
        bodies: dict[int, bytes | None] = {}
        envelopes: dict[str, bytes] = {}
        entry = Entry(b"", life.stamp, ttl, cost)
        tails, seal, shared = self._tails, cache._sealer.seal, cache._tier is not None
        if shared:
            self._call(at for at in values if at not in self._names)
        for at, value in values.items():
            tail, plain = tails[at], atomic(type(value))
            named = tail is not None and self.named
            body = cache._encoded(value, self._answer_of(at)) if named else None
            bodies[at] = None if plain else body
            if tail is None or body is None:
                continue
            if cache._memory.capacity:
                cache._remember(self._prefix + tail, value, body, life)
            if shared:
                name, entry.body = self._names[at], body
                envelopes[name] = seal(name, entry)
        if cache._tier is not None and envelopes:
            ends = None if ttl == _FOREVER else ttl + cache._fresh.grace
            yield from cache._tier.write(envelopes, ends)
        return bodies, None

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
            self._head, self._prefix = head, head.prefix
            self._names.clear()
        return True

    def _call(self, wanted: Iterable[int]) -> list[str]:
        """Names of those ``wanted`` in a shared store; they are not made twice."""
        prefix, tails, name_of = self._prefix, self._tails, self._cache._name
        names = {at: name_of(prefix + (tails[at] or b"")) for at in wanted}
        self._names.update(names)
        return list(names.values())

    def _answer_of(self, at: int) -> AnswerType | None:
        return None if at == self._last else self._answer

    def _found(self, value: Any) -> Found:
        plain = atomic(type(value))
        body = None if plain else self._cache._encoded(value, None)
        return Found(value, body, shared=plain or body is not None)

    def _opened(
        self, wanted: Sequence[int], names: Sequence[str], envelopes: Sequence[Any]
    ) -> dict[int, Found]:
        cache = self._cache
        wall, now, grace = cache.clock.time(), cache._now(), cache._fresh.grace
        longest = _FOREVER if cache.ttl is None else cache.ttl
        unseal, decoded = cache._sealer.unseal, cache._decoded
        found: dict[int, Found] = {}
        for at, name, envelope in zip(wanted, names, envelopes, strict=True):
            if envelope is None:
                continue
            try:
                entry = unseal(name, envelope, wall, grace, longest)
                if entry is EXPIRED or entry.kind is not Kind.VALUE:
                    continue
                value = decoded(entry.body, self._answer_of(at))
            except CorruptRecord:
                cache._counts.corrupt += 1
                continue
            life = Life(now - entry.age(wall), entry.ttl, entry.cost, entry.created)
            if cache._memory.capacity:
                cache._remember(self.place(at) or b"", value, entry.body, life)
            if now < life.created + life.ttl:
                found[at] = Found(value, None if atomic(type(value)) else entry.body, life)
        return found
