"""Batches: many rows in one call, of which only those are computed that nobody knows."""
# ruff: noqa: SLF001 - files of one room may know each other's private names

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, final

from prodml._call import Flow, Invoke, Steps
from prodml._deadline import expired
from prodml.cache.arguments import Arguments, Call
from prodml.cache.batch import Table, table_of
from prodml.cache.boarding import Boarding
from prodml.cache.calls import CachedFlow
from prodml.cache.codecs import atomic
from prodml.cache.columns import Column, Kind, agreed, assemble, column_of, is_kind
from prodml.cache.keys import Namer
from prodml.cache.prediction_cache import PredictionCache
from prodml.cache.rows import Found, Rows
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

    def __init__(
        self, cache: PredictionCache, *, version: Any = None, arguments: Arguments | None = None
    ) -> None:
        super().__init__(cache, version=version, arguments=arguments)
        self._namer: Namer = Namer()
        self._kinds: _Kinds = _Kinds(cache)

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

        return (yield from _Batch(self._cache, self._kinds, table, arguments, call).steps(compute))

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
        *("_answers", "_boarded", "_cache", "_groups", "_kind", "_kinds"),
        *("_own", "_place", "_rows", "_table", "_told"),
    )

    def __init__(
        self,
        cache: PredictionCache,
        kinds: _Kinds,
        table: Table,
        arguments: Arguments,
        call: Call,
    ) -> None:
        self._cache: PredictionCache = cache
        self._kinds: _Kinds = kinds
        self._table: Table = table
        groups: dict[Any, list[int]] = {}
        for place, body in enumerate(table.bodies):
            groups.setdefault(place if body is None else body, []).append(place)
        self._groups: list[list[int]] = list(groups.values())
        self._answers: list[Any] = [MISS] * len(groups)
        self._place: Any = (arguments.function, repr(call.version), call.extra, table.kind)
        self._kind: Kind | None = kinds.find(self._place)
        self._told: AnswerType | None = arguments.whole
        self._boarded: dict[bytes, int] = {}
        # The batch's own entry says what its answers come in.  0xC1 begins no canonical row,
        # so no row is taken for it.
        own = b"\xc1container:" + table.kind.encode()
        bodies = [body if type(body) is bytes else None for body in groups]
        self._own: int = len(bodies)
        self._rows: Rows = Rows(
            cache,
            [*bodies, own],
            function=arguments.function,
            version=call.version,
            extra=call.extra,
            answer=arguments.answer,
        )

    def steps(self, compute: Callable[[Any], Invoke]) -> Steps:
        """Steps to the batch's answer: look up, compute what is free, wait for the rest."""
        self._take(self._rows.recall(range(len(self._groups))))
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

    # -- looking up ---------------------------------------------------------------------

    def _take(self, found: Mapping[int, Any]) -> None:
        for at, value in found.items():
            self._answers[at] = value

    def _board(self, *, last: bool) -> Steps:
        """Lead the missing rows that nobody leads; in the last round all are computed here."""
        self._kind = self._kind or self._kinds.find(self._place)
        missing = [at for at, answer in enumerate(self._answers) if answer is MISS]
        if missing or self._kind is None:
            yield from self._rows.settle()
        places = [] if last else [(self._rows.place(at), at) for at in missing]
        self._boarded = {place: at for place, at in places if place is not None}
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
        self._take({at: row.value for at, row in found.items()})
        boarding.land((self._rows.place(at), row) for at, row in found.items())
        return None, None

    # -- computing ----------------------------------------------------------------------

    def _computed(self, boarding: Boarding, compute: Callable[[Any], Invoke]) -> Steps:
        """Compute what is led here; to the whole answer if that was all, else to MISS."""
        yield from self._find(boarding)
        missing = self._missing(boarding)
        if not missing and (self._groups or self._kind is not None):
            return MISS, None
        rows = self._table.take([self._groups[at][0] for at in missing])
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
            self._answers = [MISS] * len(self._groups)
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
        return None if index is None else index[[self._groups[at][0] for at in places]]

    def _keep(
        self,
        values: Sequence[Any],
        kind: Kind,
        missing: Sequence[int],
        cost: float,
        boarding: Boarding,
    ) -> Steps:
        """Keep rows and container, in one trip, and tell those who wait."""
        self._kind, rows = kind, self._rows
        named = [rows.place(at) is not None for at in missing]
        self._cache._counts.misses += sum(named)
        kept = dict(zip(missing, values, strict=True))
        self._answers = [kept.get(at, answer) for at, answer in enumerate(self._answers)]
        if self._kinds.learn(self._place, kind):
            kept[self._own] = kind
        bodies, _ = yield from rows.keep(kept, cost=cost)
        kept.pop(self._own, None)
        changed = self._exchange(kept, bodies) if _is_mutable(kind) else False
        boarding.land(
            (rows.place(at), Found(value, bodies[at], shared=_is_shared(value, bodies[at])))
            for at, value in kept.items()
        )
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
        column = column_of(result, count, self._table.index)
        if column is not None:
            firsts = [column.values[group[0]] for group in self._groups]
            cost = (self._cache._now() - began) / max(1, count)
            everything = range(len(self._groups))
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
            self._answers[at] = value

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
        spread: list[Any] = [None] * len(self._table.bodies)
        copied = _is_mutable(kind)
        for group, answer in zip(self._groups, self._answers, strict=True):
            for place in group:
                spread[place] = answer
            if copied and len(group) > 1 and not atomic(type(answer)):
                for place in group[1:]:
                    spread[place] = deepcopy(answer)
        return spread


def _is_mutable(kind: Kind) -> bool:
    """Whether rows are handed out as they are, and not copied into an array or a frame."""
    return kind[0] in {"list", "tuple"} or "|O" in kind


def _is_shared(value: Any, body: bytes | None) -> bool:
    return body is not None or atomic(type(value))
