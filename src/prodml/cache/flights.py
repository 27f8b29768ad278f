"""One computation for all who ask: of a process, and of all processes that share a store.

The first caller of a process *leads*, see :mod:`prodml.cache.single_flight`.  The leaders of
several processes agree by a lease in the store: one computes, the others watch for the value,
or for a notice that there will be none.  A store that cannot be asked holds nobody up.
"""

import os
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, Final, TypeAlias

from prodml._call import Outcome, Pause, Spawn, Steps
from prodml._deadline import expired, remaining
from prodml.cache.codecs import atomic
from prodml.cache.entry import EXPIRED, Entry, Kind
from prodml.cache.epochs import Key
from prodml.cache.failures import Failures, Notice, lasting, replaceable
from prodml.cache.lease import HEARTBEATS, pauses
from prodml.cache.single_flight import ALONE, HANDOVER, leave_flights
from prodml.cache.tier import StoreTier
from prodml.cache.tiers import Answer, TierSteps
from prodml.cache.uncached import Uncached
from prodml.errors import CorruptRecord, DeadlineExceeded, RememberedFailure
from prodml.types import MISS

__all__ = ["Compute", "FlightSteps"]

Compute: TypeAlias = Callable[[], Steps]

# Begins no key of an entry, so that a look-up and a computation are two flights.
_COMPUTING: Final = b"\x00"
# How long a notice lies for those who wait: they look every 50 ms.
_NOTICE: Final = 0.2
# After a renewal that failed, or was somebody else's, the next is so far away.
_REST: Final = 1.0
_THEIRS: Final = 0.1


class _Word(Enum):
    """What a waiting leader may hear instead of an answer."""

    FREE = "nobody computes it any more"
    ALONE = "waiting is of no use"


class FlightSteps(TierSteps):
    """Computing what the tiers do not hold, once, and renewing what is about to end.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> PredictionCache(ttl=60.0, stale=30.0, stale_if_error=600.0, negative_ttl=5.0).lease
    2.0
    """

    __slots__: tuple[str, ...] = ()

    flight_timeout: float
    lease: float
    negative_ttl: float
    _failures: Failures
    _renewals: dict[bytes, float]

    # -- in this process ------------------------------------------------------------------

    def _work(self, key: Key, compute: Compute, *, renewable: bool) -> Steps:
        """What the leader of this process does: look again, or else get it computed."""
        place = self._preimage(key)
        failure = self._failures.find(place, self._now())
        old = None
        if failure is None or self._fresh.stale_if_error:
            # The leader before may have landed between our look-up and our take-off.
            (old,), _ = yield from self._fetch([key])
            place = self._preimage(key)
            if old is not None and (old.fresh or (renewable and self._servable(old))):
                self._count_hit(old)
                return old, None
        if failure is None and self.negative_ttl:
            failure, _ = yield from self._told(place)
        if failure is not None:
            self._counts.negative_hits += 1
            return self._instead(old, failure)
        self._counts.misses += 1
        answer, error = yield from self._joined(key, place, compute, old)
        return (answer, None) if error is None else self._instead(old, error)

    def _joined(self, key: Key, place: bytes, compute: Compute, old: Answer | None) -> Steps:
        """Compute, or wait for the renewal that is under way behind others' backs.

        A flight of its own, so that nobody has to wait for a renewal who finds something
        that he can be served meanwhile.
        """
        if place not in self._renewals:
            return (yield from self._once(key, place, compute, old))
        work = partial(self._once, key, place, compute, old)
        (answer, led), error = yield from self._flights.steps(_COMPUTING + place, work)
        if error is not None or led:
            return answer, error
        if answer is ALONE or not answer.shared:
            return (yield from self._computed(key, compute))
        return answer.for_others(answer.value), None

    def _instead(self, old: Answer | None, error: Exception) -> Outcome:
        """Outcome of a computation that has failed with ``error``: the old answer, if any."""
        late = isinstance(error, DeadlineExceeded) and expired() is not None
        if old is None or late or not self._fresh.stale_if_error or not replaceable(error):
            return None, error
        if old.life is None or old.age >= old.life.ttl + self._fresh.stale_if_error:
            return None, error
        self._counts.stale_if_error += 1
        return old, None

    def _computed(self, key: Key, compute: Compute) -> Steps:
        """Compute and keep; here only, whatever other processes do."""
        place, began = self._preimage(key), self._now()
        result, error = yield from compute()
        if error is not None:
            if self.negative_ttl and lasting(error):
                self._failures.note(place, error, self._now() + self.negative_ttl)
            return None, error
        self._failures.forget(place)
        if type(result) is Uncached:
            plain = atomic(type(result.value))
            return Answer(result.value, shared=plain, kept=False), None
        body = self._encoded(result, key.answer)
        shared = None if atomic(type(result)) else body
        # The leader gets what the others get: arrays that nobody can write to, for one.
        value = MISS if body is None else self._copied(result, shared, key.answer)
        if value is MISS or body is None:
            return Answer(result, shared=atomic(type(result)), kept=False), None
        yield from self._keep([(place, result, body)], self._now() - began)
        return Answer(value, body=shared), None

    def _alone(self, compute: Compute) -> Steps:
        result, error = yield from compute()
        if error is not None:
            return None, error
        return Answer(result.value if type(result) is Uncached else result), None

    # -- among processes ------------------------------------------------------------------

    def _once(self, key: Key, place: bytes, compute: Compute, old: Answer | None) -> Steps:
        """Compute, or wait for the process that does."""
        tier = self._leasing()
        if tier is None:
            return (yield from self._computed(key, compute))
        name = self._name(place)
        token, ends = os.urandom(8).hex(), self._now() + self.flight_timeout
        while True:
            (envelope, mine), _ = yield from tier.claim(name, token, self.lease)
            answer = self._renewed(name, place, envelope, key, old)
            if answer is not None:
                yield from self._unclaim(tier, name, token, mine=mine)
                return self._from_another(answer), None
            if mine:
                return (yield from self._leased(tier, key, name, token, compute))
            told, error = yield from self._watch(tier, key, place, old, ends)
            if told is _Word.ALONE:
                return (yield from self._computed(key, compute))
            if told is not _Word.FREE:
                return told, error

    def _leasing(self) -> StoreTier | None:
        tier = self._tier
        if tier is None or not self.lease or not tier.leases or tier.down():
            return None
        return tier

    def _leased(self, tier: StoreTier, key: Key, name: str, token: str, compute: Compute) -> Steps:
        """Compute for all processes, and tell them if there is no answer for them."""
        held = HEARTBEATS.hold(tier, name, token, lease=self.lease, longest=self.flight_timeout)
        over = False
        try:
            answer, error = yield from self._computed(key, compute)
            if expired() is None:
                yield from self._notify(tier, key, token, answer, error)
                HEARTBEATS.drop(held)
                yield from tier.unclaim(name, token)
                over = True
            return answer, error
        finally:
            if not over:
                # Nobody here has the time to tell the store.
                HEARTBEATS.abandon(held)

    def _unclaim(self, tier: StoreTier, name: str, token: str, *, mine: bool) -> Steps:
        if mine:
            yield from tier.unclaim(name, token)
        return None, None

    def _notify(
        self,
        tier: StoreTier,
        key: Key,
        token: str,
        answer: Answer | None,
        error: Exception | None,
    ) -> Steps:
        if answer is not None and answer.kept:
            return None, None
        notice = Notice.of(token, error)
        ttl = max(_NOTICE, self.negative_ttl if notice.kind else 0.0)
        name = self._notice_name(self._preimage(key))
        entry = Entry(notice.body(), self.clock.time(), ttl, kind=Kind.FAILURE)
        yield from tier.write({name: self._sealer.seal(name, entry)}, ttl)
        return None, None

    def _watch(
        self, tier: StoreTier, key: Key, place: bytes, old: Answer | None, ends: float
    ) -> Steps:
        """Wait for the process that computes: for its answer, its failure, or its end."""
        name, rival = self._name(place), None
        for pause in pauses(self.rng):
            (envelope, holder), _ = yield from tier.watch(name)
            answer = self._renewed(name, place, envelope, key, old)
            if answer is not None:
                return self._from_another(answer), None
            if rival is not None and holder != rival:
                told, error = yield from self._heard(place, rival)
                if told is not None or error is not None:
                    return told, error
            if holder is None:
                return _Word.FREE, None
            rival = holder
            limit = expired()
            if limit is not None:
                return None, DeadlineExceeded("waiting for another process", limit.seconds)
            if self._now() >= ends:
                break
            left = remaining()
            yield Pause(pause if left is None else max(0.0, min(pause, left)))
        return _Word.ALONE, None

    def _renewed(
        self, name: str, place: bytes, envelope: Any, key: Key, old: Answer | None
    ) -> Answer | None:
        """Answer in an envelope if it is a good one, and another than the ``old``."""
        answer = self._opened(name, place, envelope, key.answer)
        good = answer is not None and answer.fresh and (old is None or not _same(answer, old))
        return answer if good else None

    def _from_another(self, answer: Answer) -> Answer:
        self._counts.store_hits += 1
        return answer

    def _heard(self, place: bytes, token: str) -> Steps:
        """What the process that had the lease ``token`` says about it."""
        notice, _ = yield from self._notice(place)
        if notice is None or notice.token != token:
            return None, None
        if not notice.kind:
            return _Word.ALONE, None
        error = RememberedFailure(notice.kind, notice.text)
        if self.negative_ttl:
            self._failures.note(place, error, self._now() + self.negative_ttl)
        return None, error

    def _told(self, place: bytes) -> Steps:
        """Steps to the failure that another process remembers, if there is one."""
        notice, _ = yield from self._notice(place, self.negative_ttl)
        if notice is None or not notice.kind:
            return None, None
        return RememberedFailure(notice.kind, notice.text), None

    def _notice(self, place: bytes, longest: float = float("inf")) -> Steps:
        if self._tier is None:
            return None, None
        name = self._notice_name(place)
        (envelope,), _ = yield from self._tier.read([name])
        if envelope is None:
            return None, None
        try:
            entry = self._sealer.unseal(name, envelope, self.clock.time(), 0.0, longest)
        except CorruptRecord:
            self._counts.corrupt += 1
            return None, None
        if entry is EXPIRED or entry.kind is not Kind.FAILURE:
            return None, None
        return Notice.read(entry.body), None

    def _notice_name(self, place: bytes) -> str:
        return self._name(b"notice:" + place)

    # -- behind the caller's back ---------------------------------------------------------

    def _servable(self, old: Answer) -> bool:
        """Whether ``old`` may be served while it is renewed: it is not too old for that."""
        return old.life is not None and old.age < old.life.ttl + self._fresh.stale

    def _renew(self, key: Key, old: Answer, behind: Callable[[], Compute] | None) -> Steps:
        """Begin to renew ``old``, unless somebody does; to whether it may be served."""
        if behind is None:
            return old.fresh, None
        place, now = self._preimage(key), self._now()
        if self._reserved(place, now):
            try:
                compute = behind()
            except Exception:
                # Arguments that cannot be copied: only their caller may compute with them.
                self._renewals.pop(place, None)
                return old.fresh, None
            _, error = yield Spawn(partial(self._renewing, key, place, compute, old))
            if error is not None:
                self._counts.renewals_skipped += 1
                self._renewals[place] = now + _REST
            elif old.fresh:
                self._counts.early += 1
        return True, None

    def _reserved(self, place: bytes, now: float) -> bool:
        """Whether the renewal of ``place`` is this caller's; it is nobody else's then."""
        if now < self._renewals.get(place, now):
            return False
        with self._lock:
            if now < self._renewals.get(place, now):
                return False
            if len(self._renewals) > 4096:
                over = [each for each, until in self._renewals.items() if until <= now]
                for each in over:
                    del self._renewals[each]
            # Should nothing be heard of it, another may try.
            self._renewals[place] = now + self.flight_timeout
            return True

    def _renewing(self, key: Key, place: bytes, compute: Compute, old: Answer) -> Steps:
        leave_flights()
        rest = 0.0
        try:
            work = partial(self._renewal, key, place, compute, old)
            (answer, led), error = yield from self._flights.only(_COMPUTING + place, work)
            if error is not None:
                self._counts.renewal_errors += 1
                rest = max(_REST, self.negative_ttl)
            elif not led or answer is HANDOVER:
                rest = _THEIRS
            elif not answer.kept:
                rest = _REST
        finally:
            if rest:
                self._renewals[place] = self._now() + rest
            else:
                self._renewals.pop(place, None)
        return None, None

    def _renewal(self, key: Key, place: bytes, compute: Compute, old: Answer) -> Steps:
        """What the leader of a renewal does; it keeps nobody waiting for other processes."""
        now = self._remembered(place, key.answer)
        if now is not None and now.fresh and not _same(now, old):
            return now, None
        tier = self._leasing()
        if tier is None:
            self._counts.renewals += 1
            return (yield from self._computed(key, compute))
        name, token = self._name(place), os.urandom(8).hex()
        (envelope, mine), _ = yield from tier.claim(name, token, self.lease)
        answer = self._renewed(name, place, envelope, key, old)
        if answer is not None:
            yield from self._unclaim(tier, name, token, mine=mine)
            return answer, None
        if not mine:
            # Those who wait for this flight must not be told the old answer.
            return HANDOVER, None
        self._counts.renewals += 1
        return (yield from self._leased(tier, key, name, token, compute))


def _same(one: Answer, other: Answer) -> bool:
    """Whether both are the same entry, wherever they were found."""
    if one.life is None or other.life is None:
        return False
    return one.life.stamp == other.life.stamp
