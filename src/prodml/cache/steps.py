"""The seam between a cache and the flows that use it: looking up, fetching, keeping.

Everything here is sans-I/O: generators of steps that a shell walks through in a thread or
a task.  ``cached_prediction`` and ``PredictionService`` are built on these methods.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from prodml._call import Steps
from prodml._deadline import CURRENT
from prodml.cache.arguments import NO_EXTRA
from prodml.cache.entry import Kind
from prodml.cache.epochs import Key
from prodml.cache.flights import Compute, FlightSteps
from prodml.cache.freshness import Life, Verdict
from prodml.cache.memory import Data
from prodml.cache.single_flight import ALONE
from prodml.cache.tier import Direct
from prodml.cache.tiers import Answer
from prodml.cache.trace import Bypass, Watch
from prodml.cache.typed import AnswerType
from prodml.cache.uncached import Uncached
from prodml.errors import CorruptRecord
from prodml.types import MISS

_FOREVER: Final = float("inf")

__all__ = ["CacheSteps", "Key", "Uncached"]


class CacheSteps(FlightSteps):
    """The steps of a cache.  ``key`` is None for what cannot be named: it is never kept.

    A flow that computes one answer writes::

        answer, key = cache.recall(features, version)
        if answer is None:
            answer, error = yield from cache.answer_steps(key, compute)
        ...  # answer.value, answer.tier, answer.age, answer.stale

    where ``compute()`` gives the steps to ``(answer, error)``.  A flow for many rows writes::

        answers, keys = cache.recall_many(rows, version)
        answers, _ = yield from cache.fetch_steps(keys, answers)
        ...  # compute those that are None
        yield from cache.store_steps(keys, values)

    Examples
    --------
    >>> from prodml._call import Invoke, run
    >>> from prodml.cache import PredictionCache
    >>> def compute():
    ...     return (yield Invoke(len, ("abc",)))
    >>> cache = PredictionCache()
    >>> [run(cache.compute_steps({"age": 41}, "v1", compute)) for _ in range(2)]
    [(3, False), (3, True)]
    """

    __slots__: tuple[str, ...] = ()

    _blocks: Watch

    @property
    def watched(self) -> bool:
        """Whether a trace or a bypass of this cache holds anywhere: hits go the long way."""
        return self._blocks.blocks > 0

    def bypassed(self) -> Bypass | None:
        """The bypass of this cache that holds here, if any."""
        return self._blocks.bypass()

    def tell(self, function: str, version: Any, answer: Answer | None) -> None:
        """Tell the traces that hold here of an answer of ``function``."""
        self._blocks.tell(function, version, answer)

    def lookup(
        self,
        features: Any,
        version: Any,
        *,
        function: str = "",
        extra: bytes = NO_EXTRA,
        answer: AnswerType | None = None,
    ) -> tuple[Any, Key | None]:
        """``(value, None)`` from memory, ``(MISS, key)``, or ``(MISS, None)`` if unnameable.

        Takes no lock, makes no call and never raises.

        Parameters
        ----------
        features, version
            The row and the resolved version of the model; a version of None has no key.
        function
            Whose answer it is: models that share a cache need different names.
        extra
            Canonical bytes of what else the answer depends on.
        answer
            What answers of ``function`` are: others are neither handed out nor kept.
        """
        try:
            value, key, _ = self._recall(function, version, extra + self._body(features), answer)
        except Exception:
            # Features may be objects of anyone's making, and raise anything when read.
            self._counts.uncacheable += 1
            return MISS, None
        return value, key

    def recall(
        self,
        features: Any,
        version: Any,
        *,
        function: str = "",
        extra: bytes = NO_EXTRA,
        answer: AnswerType | None = None,
    ) -> tuple[Answer | None, Key | None]:
        """:meth:`lookup` for a flow that wants to know where its answer comes from.

        It obeys a :meth:`bypass` that holds here.
        """
        bypass = self.bypassed()
        if bypass is not None:
            self._counts.bypassed += 1
            if not bypass.keep:
                return None, None
            key = self._key(function, version, extra, self._named(features), answer)
            if key is not None:
                key.renew = True
                if self._now() < key.epoch.until:
                    key.place = self._preimage(key)
            return None, key
        try:
            tail = extra + self._body(features)
            value, key, found = self._recall(function, version, tail, answer)
        except Exception:
            # As in lookup.
            self._counts.uncacheable += 1
            return None, None
        if found is None:
            return None, key
        life: Life = found[4]
        return Answer(value, tier="memory", life=life, age=life.age(self._now())), None

    def recall_many(
        self,
        rows: Iterable[Any],
        version: Any,
        *,
        function: str = "",
        extra: bytes = NO_EXTRA,
        answer: AnswerType | None = None,
    ) -> tuple[list[Answer | None], list[Key | None]]:
        """:meth:`recall` of each row."""
        told = [
            self.recall(row, version, function=function, extra=extra, answer=answer) for row in rows
        ]
        return [found for found, _ in told], [key for _, key in told]

    def fetch_steps(self, keys: Sequence[Key | None], answers: Sequence[Answer | None]) -> Steps:
        """Steps to ``(answers, None)``: what the tiers hold, None elsewhere; at most two trips.

        ``answers`` are those found before; only the others are asked for.  What is stale is
        None, too: whoever computes many rows may as well compute these.
        """
        found = list(answers)
        wanted = {
            place: key
            for place, key in enumerate(keys)
            if key is not None and not key.renew and found[place] is None
        }
        fetched, _ = yield from self._fetch(list(wanted.values()))
        for place, answer in zip(wanted, fetched, strict=True):
            if answer is not None and answer.fresh:
                self._count_hit(answer)
                found[place] = answer
        return found, None

    def store_steps(
        self,
        keys: Sequence[Key | None],
        values: Sequence[Any],
        *,
        cost: float = 0.0,
        computed: bool = True,
    ) -> Steps:
        """Steps to ``(rows kept, None)``; ``cost`` is what computing one took, in seconds.

        A value of MISS is not kept; if ``computed``, each of the others counts as a miss.
        """
        bodies, _ = yield from self._store(keys, values, cost, computed=computed)
        return sum(body is not None for body in bodies), None

    def _store(
        self, keys: Sequence[Key | None], values: Sequence[Any], cost: float, *, computed: bool
    ) -> Steps:
        bodies: list[bytes | None] = [None] * len(keys)
        items: list[tuple[Key, Any, bytes]] = []
        for at, (key, value) in enumerate(zip(keys, values, strict=True)):
            if key is None or value is MISS:
                continue
            self._counts.misses += computed
            body = bodies[at] = self._encoded(value, key.answer)
            if body is not None:
                items.append((key, value, body))
        yield from self._refresh_all(key for key, _, _ in items if key.place is None)
        places = [(key.place or self._preimage(key), value, body) for key, value, body in items]
        yield from self._keep(places, cost)
        return bodies, None

    def compute_steps(
        self,
        features: Any,
        version: Any,
        compute: Compute,
        *,
        function: str = "",
        extra: bytes = NO_EXTRA,
        answer: AnswerType | None = None,
        behind: Callable[[], Compute] | None = None,
    ) -> Steps:
        """Steps to ``((value, cached), error)``: from a tier, from another, or computed here.

        ``compute()`` gives steps to ``(answer, error)``; an answer wrapped in
        :class:`Uncached` is handed on and not kept.  An error is kept for ``negative_ttl``
        only.  ``cached`` is False only for the caller who computed.

        ``behind()`` gives another ``compute`` for a renewal behind the caller's back: it must
        not depend on anything that the caller may change, as arguments may be.  It is asked
        before the caller goes on, and may raise.  Without one nothing is renewed before its
        end, and nothing stale is served unless computing fails.
        """
        value, key = self.lookup(features, version, function=function, extra=extra, answer=answer)
        if value is not MISS:
            return (value, True), None
        return (yield from self.complete_steps(key, compute, behind))

    def complete_steps(
        self, key: Key | None, compute: Compute, behind: Callable[[], Compute] | None = None
    ) -> Steps:
        """:meth:`compute_steps` after a :meth:`lookup` that found nothing to answer with."""
        answer, error = yield from self.answer_steps(key, compute, behind)
        return (None if error is not None else (answer.value, answer.cached)), error

    def answer_steps(
        self, key: Key | None, compute: Compute, behind: Callable[[], Compute] | None = None
    ) -> Steps:
        """:meth:`complete_steps` to an :class:`~prodml.cache.tiers.Answer`: it knows its age."""
        if key is None:
            return (yield from self._alone(compute))
        yield from self._refresh(key.epoch)
        if key.renew:
            return (yield from self._computed(key, compute))
        if key.due:
            answer, _ = yield from self._at_once(key, behind)
            if answer is not None:
                return answer, None
        work = partial(self._work, key, compute, renewable=behind is not None)
        shared, error = yield from self._flights.steps(self._preimage(key), work)
        answer, led = shared
        if error is not None:
            return None, error
        if led:
            return (yield from self._landed(key, answer, compute, behind))
        if answer is ALONE or not answer.shared:
            return (yield from self._alone(compute))
        value = self._copied(answer.value, answer.body, key.answer)
        if value is MISS:
            # The leader's function says otherwise than this one what the name's answers are.
            return (yield from self._alone(compute))
        self._counts.coalesced += 1
        return self._told_stale(answer.for_others(value)), None

    def direct(self, key: Key) -> Direct | None:
        """How to look for ``key`` in the store without steps; None where it takes steps.

        For a :meth:`lookup` that has found nothing: most of what the store holds is found by
        one look, without a flight.  A request's deadline needs steps, which keep to it.
        """
        tier = self._tier
        if tier is None or key.due or CURRENT.get() is not None:
            return None
        return None if self._now() >= key.epoch.until else tier.direct

    def name_of(self, key: Key) -> str:
        """Name of ``key`` in the store."""
        return self._name(key.place or self._preimage(key))

    def broken(self, error: Exception) -> None:
        """Note that a look has failed with ``error``."""
        if self._tier is not None:
            self._tier.count(error)

    def seen(self, key: Key, name: str, envelope: Any) -> Any:
        """What a look at the store has found; MISS for all that takes steps."""
        now, wall = self._now(), self.clock.time()
        if envelope is not None:
            longest = _FOREVER if self.ttl is None else self.ttl
            try:
                body, (created, ttl, cost), kind = self._sealer.opened(
                    name, envelope, wall, longest
                )
                age = max(0.0, wall - created)
                fresh, begun = self._fresh, now - age
                if kind is Kind.VALUE and age < ttl + fresh.grace:
                    value = self._decoded(body, key.answer)
                    if self._memory.capacity and key.place is not None:
                        life = Life(begun, ttl, cost, created)
                        self._remember(key.place, value, body, life)
                    if fresh.calm(begun, ttl, cost) <= now:
                        # It may be time to renew it: the steps decide.
                        return MISS
                    self._counts.store_hits += 1
                    return value
            except CorruptRecord:
                self._counts.corrupt += 1
        # Who computes looks again when it takes the lease.
        key.absent = envelope is not None or self._leasing() is not None
        return MISS

    def _at_once(self, key: Key, behind: Callable[[], Compute] | None) -> Steps:
        """Steps to the answer in memory, if it may be served while it is renewed."""
        old = self._remembered(self._preimage(key), key.answer)
        if old is None or not (old.fresh or self._servable(old)):
            return None, None
        served, _ = yield from self._renew(key, old, behind)
        if not served:
            return None, None
        self._count_hit(old)
        return self._told_stale(old), None

    def _landed(
        self, key: Key, answer: Answer, compute: Compute, behind: Callable[[], Compute] | None
    ) -> Steps:
        """Steps of the leader after the landing: he sees to it that an old answer is renewed."""
        old = bool(answer.tier) and answer.verdict is not Verdict.FRESH
        if old and behind is not None and self._servable(answer):
            served, _ = yield from self._renew(key, answer, behind)
            if not served:
                # It cannot be renewed behind his back after all.
                return (yield from self.answer_steps(key, compute))
        return self._told_stale(answer), None

    def _told_stale(self, answer: Answer) -> Answer:
        self._counts.stale += answer.stale
        return answer

    # -- memory -------------------------------------------------------------------------

    def _recall(
        self,
        function: str,
        version: Any,
        tail: bytes,
        answer: AnswerType | None,
    ) -> tuple[Any, Key | None, Data | None]:
        head = self._head(function, version)
        now, due, place = self._now(), False, None
        if now < head.epoch.until:
            place = head.prefix + tail
            found = self._memory.find(place, now)
            if found is not None:
                # Until it is calm no more, nothing has to be decided.
                due = now >= found[3] and self._is_due(found[4], now, early=True)
                value = MISS if due else self._held(found, answer)
                if value is not MISS:
                    self._counts.memory_hits += 1
                    return value, None, found
        # An epoch that is out of date says nothing about where the answer belongs.
        return MISS, Key(function, version, head.epoch, tail, answer, due=due, place=place), None

    def _is_due(self, life: Life, now: float, *, early: bool) -> bool:
        verdict = self._judged(life, now)
        return verdict is not Verdict.FRESH and (early or verdict is not Verdict.EARLY)
