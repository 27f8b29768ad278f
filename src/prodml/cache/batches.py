"""Batches: many rows in one call, of which only those are computed that nobody knows."""
# ruff: noqa: SLF001 - files of one room may know each other's private names

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Final, cast, final

from prodml._call import Flow, Invoke, Spawn, Steps
from prodml._deadline import expired
from prodml.cache.arguments import Arguments, Call
from prodml.cache.batch import Table, table_of
from prodml.cache.boarding import Boarding
from prodml.cache.calls import CachedFlow
from prodml.cache.codecs import atomic
from prodml.cache.columns import Column, Kind, agreed, assemble, column_of, is_kind
from prodml.cache.keys import Namer
from prodml.cache.prediction_cache import PredictionCache
from prodml.cache.rounding import RoundingAudit, RoundingNamer
from prodml.cache.rows import Rows
from prodml.cache.tiers import Answer
from prodml.cache.typed import AnswerType
from prodml.errors import DeadlineExceeded
from prodml.types import MISS

__all__ = ["CachedBatches"]

# Who has waited so often computes for himself.
_ROUNDS: Final = 3


class _Kinds:
    """In what containers a function answers: found out once, then asked of the tiers."""

    __slots__: tuple[str, ...] = ("_cache", "_kinds")

    def __init__(self, cache: PredictionCache) -> None:
        self._cache: PredictionCache = cache
        # With when the entry in the store needs to be renewed.
        self._kinds: dict[Any, tuple[Kind, float]] = {}

    def find(self, place: Any) -> Kind | None:
        found = self._kinds.get(place)
        return None if found is None else found[0]

    def learn(self, place: Any, kind: Kind, *, known: bool = False) -> bool:
        """Keep ``kind``; return whether the tiers need to be told of it."""
        cache, now = self._cache, self._cache._now()
        found = self._kinds.get(place)
        if found is not None and found[0] == kind and now < found[1]:
            return False
        if len(self._kinds) >= 1024:
            self._kinds.clear()
        # Rows must not outlive the entry that says how to put them together.
        ends = float("inf") if cache.ttl is None else now + cache.ttl * (1.0 - cache.jitter) / 2
        self._kinds[place] = kind, now if known else ends
        return not known


@final
class CachedBatches(CachedFlow, Flow):
    """The flow around a call for many rows: one call for the distinct rows not found.

    Examples
    --------
    >>> flow = CachedBatches(PredictionCache(), version="v1")
    >>> flow.call(lambda rows: [row * 2 for row in rows], [1, 2, 1])
    [2, 4, 2]
    """

    __slots__: tuple[str, ...] = ("_kinds", "_namer")

    _batch: bool = True

    def _prepare(self) -> None:
        rounding = self._rounding
        self._namer: Namer = Namer() if rounding is None else RoundingNamer(rounding)
        self._kinds: _Kinds = _Kinds(self._cache)

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Steps of one batch."""
        read = self._read(fn, args, kwargs)
        table = None if read is None else self._table(read[1].features)
        if read is None or table is None:
            return (yield Invoke(fn, args, kwargs))
        arguments, call = read

        def compute(rows: Any) -> Invoke:
            return Invoke(fn, *arguments.swap(rows, args, kwargs))

        cache, bypass = self._cache, self._cache.bypassed()
        if bypass is not None:
            cache._counts.bypassed += len(table.bodies)
            if not bypass.keep:
                return (yield Invoke(fn, args, kwargs))
        moved = partial(self._moved, call.version)
        batch = _Batch(cache, self._kinds, table, arguments, call, moved=moved)
        result, error = (
            yield from batch.steps(compute) if bypass is None else batch.renewed(compute)
        )
        if error is None and (cache.watched or self._rounding is not None):
            yield from self._told(batch, compute, call, result)
        return result, error

    def _told(
        self, batch: "_Batch", compute: Callable[[Any], Invoke], call: Call, result: Any
    ) -> Steps:
        """Tell traces where the rows come from, and have some of the shared ones looked at."""
        answers = batch.answers()
        for answer in answers:
            self._cache.tell(batch.function, call.version, answer)
        audit = self._audit
        if audit is None or self._rounding is None:
            return None, None
        places = [at for at, answer in enumerate(answers) if answer.cached and audit.due()]
        column = column_of(result, len(answers), None) if places else None
        if column is None:
            return None, None
        try:
            step = compute(deepcopy(batch.rows(places)))
            served = deepcopy([column.values[at] for at in places])
        except Exception:
            # Rows that cannot be copied: only their caller may compute with them.
            return None, None
        return (yield Spawn(partial(self._compared, audit, step, call.version, served)))

    def _compared(
        self, audit: RoundingAudit, step: Invoke, version: Any, served: list[Any]
    ) -> Steps:
        result, error = yield step
        column = None if error is not None else column_of(result, len(served), None)
        # Another model may answer by now than the one that was asked.
        if column is not None and not self._moved(version):
            for one, exact in zip(served, column.values, strict=True):
                audit.add(one, exact)
        return None, None

    def _table(self, rows: Any) -> Table | None:
        try:
            table = table_of(rows, self._namer)
        except Exception:
            # A stranger's frame may raise anything when read; the function shall have it.
            table = None
        if table is None:
            self._cache.lookup(None, None)
        return table


class _Batch:
    """One call for many rows.  Equal rows form a group, which the first of them stands for."""

    __slots__: tuple[str, ...] = (
        *("_answers", "_boarded", "_cache", "_firsts", "_groups", "_kind", "_kinds"),
        *("_moved", "_own", "_place", "_rows", "_table", "_tiers", "_told", "function"),
    )

    def __init__(
        self,
        cache: PredictionCache,
        kinds: _Kinds,
        table: Table,
        arguments: Arguments,
        call: Call,
        *,
        moved: Callable[[], bool],
    ) -> None:
        self._cache: PredictionCache = cache
        # Whether another version answers by now than the one that was asked.
        self._moved: Callable[[], bool] = moved
        self._kinds: _Kinds = kinds
        self._table: Table = table
        # The first row of each group, and the group of each row: None if no two are equal.
        self._firsts: Sequence[int]
        self._groups: Sequence[int] | None
        self._firsts, self._groups = _grouped(table.bodies)
        self._answers: list[Any] = [MISS] * len(self._firsts)
        # Where each answer comes from; empty for those computed here.
        self._tiers: list[str] = [""] * len(self._firsts)
        self.function: str = arguments.function
        self._place: Any = (arguments.function, repr(call.version), call.extra, table.kind)
        self._kind: Kind | None = kinds.find(self._place)
        self._told: AnswerType | None = arguments.whole
        self._boarded: dict[bytes, int] = {}
        # The batch's own entry says what its answers come in.  0xC1 begins no canonical row,
        # so no row is taken for it.
        own = b"\xc1container:" + table.kind.encode()
        bodies = table.bodies
        self._own: int = len(self._firsts)
        self._rows: Rows = Rows(
            cache,
            [*(bodies if self._groups is None else [bodies[at] for at in self._firsts]), own],
            function=arguments.function,
            version=call.version,
            extra=call.extra,
            answer=arguments.answer,
        )

    def steps(self, compute: Callable[[Any], Invoke]) -> Steps:
        """Steps to the batch's answer: look up, compute what is free, wait for the rest."""
        for at, value in self._rows.recall(range(self._own)).items():
            self._answers[at], self._tiers[at] = value, "memory"
        for last in (*[False] * (_ROUNDS - 1), True):
            boarding, _ = yield from self._board(last=last)
            try:
                result, error = yield from self._computed(boarding, compute)
            finally:
                boarding.leave()
            if error is not None or result is not MISS:
                return result, error
            _, error = yield from self._waited(boarding)
            if error is not None:
                return None, error
            if not any(answer is MISS for answer in self._answers):
                break
        return (yield from self._assembled(compute))

    def renewed(self, compute: Callable[[Any], Invoke]) -> Steps:
        """Steps to the answers computed anew, and kept."""
        yield from self._rows.settle()
        return (yield from self._whole(compute))

    def rows(self, places: list[int]) -> Any:
        """The rows at ``places``, in a container of the same type."""
        return self._table.take(places)

    def answers(self) -> list[Answer]:
        """Where the answer to each row came from; their values are left out."""
        lives, now = self._rows.lives, self._cache._now()
        told: list[Answer] = []
        for row in range(len(self._table.bodies)):
            at = row if self._groups is None else self._groups[row]
            life, tier = lives.get(at), self._tiers[at]
            # One computed answer is for all rows of its group.
            tier = tier or ("" if self._firsts[at] == row else "flight")
            told.append(Answer(None, tier=tier, age=0.0 if life is None else life.age(now)))
        return told

    # -- looking up ---------------------------------------------------------------------

    def _board(self, *, last: bool) -> Steps:
        """Lead the missing rows that nobody leads; in the last round all are computed here."""
        self._kind = self._kind or self._kinds.find(self._place)
        missing = [at for at, answer in enumerate(self._answers) if answer is MISS]
        if missing or self._kind is None:
            yield from self._rows.settle()
        places = self._rows.places
        boarded = {} if last else {places[at]: at for at in missing}
        boarded.pop(None, None)
        self._boarded = cast("dict[bytes, int]", boarded)
        return Boarding(self._cache._flights, list(self._boarded)), None

    def _find(self, boarding: Boarding) -> Steps:
        """Ask the tiers for the container and the rows led here; one trip."""
        wanted = [self._boarded[place] for place in boarding.mine]
        if self._kind is None:
            wanted.append(self._own)
        found, _ = yield from self._rows.fetch(wanted)
        own = found.pop(self._own, None)
        if own is not None and is_kind(own.value):
            self._kind = own.value
            self._kinds.learn(self._place, own.value, known=True)
        for at, row in found.items():
            self._answers[at], self._tiers[at] = row.value, row.tier
        places, boarded = self._rows.places, self._boarded
        boarding.land([places[at] for at in found], lambda place: found[boarded[place]].answer())
        return None, None

    # -- computing ----------------------------------------------------------------------

    def _computed(self, boarding: Boarding, compute: Callable[[Any], Invoke]) -> Steps:
        """Compute what is led here; to the whole answer if that was all, else to MISS."""
        yield from self._find(boarding)
        missing = self._missing(boarding)
        if not missing and (self._own or self._kind is not None):
            return MISS, None
        rows = self._table.take([self._firsts[at] for at in missing])
        began = self._cache._now()
        result, error = yield compute(rows)
        if error is not None:
            boarding.fail(error)
            return None, error
        if not missing:
            # Of no rows: what a function makes of them tells nothing about others.
            return result, None
        cost = (self._cache._now() - began) / max(1, len(missing))
        alone = len(missing) == len(self._table.bodies)
        if self._moved():
            boarding.leave()
            return (result, None) if alone else (yield from self._whole(compute))
        column = column_of(result, len(missing), self._index(missing))
        kind = self._merged(column, alone=alone)
        if column is None or kind is None:
            # Not one value a row, or not what the other rows came in: no merging.
            self._cache._counts.unstorable += column is None
            boarding.leave()
            return (result, None) if alone else (yield from self._whole(compute))
        changed, _ = yield from self._keep(column.values, kind, missing, cost, boarding)
        return (result if alone and not changed else MISS), None

    def _missing(self, boarding: Boarding) -> list[int]:
        """Groups to compute here.  Rows found are of no use while their container is unknown."""
        if self._kind is None:
            self._answers, self._tiers = [MISS] * self._own, [""] * self._own
        theirs = {self._boarded[place] for place in boarding.theirs}
        return [
            at for at, answer in enumerate(self._answers) if answer is MISS and at not in theirs
        ]

    def _merged(self, column: Column | None, *, alone: bool) -> Kind | None:
        if column is None:
            return None
        known = column.kind if self._kind is None else agreed(self._kind, column.kind)
        return column.kind if known is None and alone else known

    def _index(self, places: Sequence[int]) -> Any:
        index = self._table.index
        return None if index is None else index[[self._firsts[at] for at in places]]

    def _keep(
        self,
        values: Sequence[Any],
        kind: Kind,
        missing: Sequence[int],
        cost: float,
        boarding: Boarding,
    ) -> Steps:
        """Keep rows and container, in one trip, and tell those who wait."""
        self._kind, rows, boarded = kind, self._rows, self._boarded
        places = [rows.places[at] for at in missing]
        self._cache._counts.misses += len(places) - places.count(None)
        kept = dict(zip(missing, values, strict=True))
        self._answers = [kept.get(at, answer) for at, answer in enumerate(self._answers)]
        if self._kinds.learn(self._place, kind):
            kept[self._own] = kind
        bodies, _ = yield from rows.keep(kept, cost=cost)
        kept.pop(self._own, None)
        changed = self._exchange(kept, bodies) if _is_mutable(kind) else False

        def tell(place: bytes) -> Answer:
            value, body = kept[boarded[place]], bodies[boarded[place]]
            return Answer(value, body=body, shared=body is not None or atomic(type(value)))

        boarding.land(places, tell)
        return changed, None

    def _exchange(self, kept: Mapping[int, Any], bodies: Mapping[int, bytes | None]) -> bool:
        """Take what others will get; rows in other containers are copied into them."""
        changed = False
        for at, value in kept.items():
            body = bodies[at]
            copy = MISS if body is None else self._rows.copied(at, value, body)
            if copy is not MISS:
                self._answers[at], changed = copy, True
        return changed

    def _whole(self, compute: Callable[[Any], Invoke]) -> Steps:
        """Compute all rows, and keep them in place of those that do not fit together."""
        count = len(self._table.bodies)
        began = self._cache._now()
        result, error = yield compute(self._table.take(list(range(count))))
        if error is not None:
            return None, error
        self._tiers = [""] * self._own
        column = None if self._moved() else column_of(result, count, self._table.index)
        if column is not None:
            firsts = [column.values[at] for at in self._firsts]
            cost = (self._cache._now() - began) / max(1, count)
            everything = range(self._own)
            nobody = Boarding(self._cache._flights, ())
            self._boarded = {}
            yield from self._keep(firsts, column.kind, everything, cost, nobody)
        return result, None

    # -- waiting ------------------------------------------------------------------------

    def _waited(self, boarding: Boarding) -> Steps:
        """Take over what others have computed; to an error that would be ours as well."""
        for place in boarding.theirs:
            landed, error = yield boarding.wait(place)
            if error is not None:
                if isinstance(error, DeadlineExceeded) and expired() is not None:
                    return None, error
                # It would be waiting for itself, or has waited enough.
                continue
            answer, error = boarding.judged(place, landed)
            if error is not None:
                return None, error
            if answer is not None and answer.shared:
                self._take_over(self._boarded[place], answer)
        return None, None

    def _take_over(self, at: int, answer: Answer) -> None:
        value = self._rows.copied(at, answer.value, answer.body)
        if value is not MISS:
            self._cache._counts.coalesced += 1
            self._answers[at], self._tiers[at] = value, "flight"

    # -- putting together ---------------------------------------------------------------

    def _assembled(self, compute: Callable[[Any], Invoke]) -> Steps:
        told = self._told
        try:
            kind = self._kind or self._kinds.find(self._place)
            if kind is not None:
                answer = assemble(kind, self._spread(kind), self._table.index)
                if told is None or told.fits(answer):
                    return answer, None
        except Exception:
            # Stored values that do not fit together: the function shall answer.
            return (yield from self._whole(compute))
        return (yield from self._whole(compute))

    def _spread(self, kind: Kind) -> list[Any]:
        """One answer a row; equal rows get equal answers, but not the same list."""
        if self._groups is None:
            return self._answers
        spread = [self._answers[group] for group in self._groups]
        if _is_mutable(kind):
            firsts = set(self._firsts)
            for place, answer in enumerate(spread):
                if place not in firsts and not atomic(type(answer)):
                    spread[place] = deepcopy(answer)
        return spread


def _grouped(bodies: Sequence[bytes | None]) -> tuple[Sequence[int], Sequence[int] | None]:
    """First row of each group of equal rows, and the group of each row, see :class:`_Batch`."""
    if len(set(bodies)) == len(bodies):
        return range(len(bodies)), None
    firsts: list[int] = []
    groups: list[int] = []
    known: dict[Any, int] = {}
    for place, body in enumerate(bodies):
        # One without a name is equal to no other.
        group = known.setdefault(place if body is None else body, len(firsts))
        if group == len(firsts):
            firsts.append(place)
        groups.append(group)
    return firsts, groups


def _is_mutable(kind: Kind) -> bool:
    """Whether rows are handed out as they are, and not copied into an array or a frame."""
    return kind[0] in {"list", "tuple"} or "|O" in kind
