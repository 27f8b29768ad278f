"""What operators ask of a cache: why a row is answered as it is, warming, what it is worth."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from prodml._call import Invoke, Steps
from prodml.cache.arguments import NO_EXTRA, Arguments, function_id
from prodml.cache.epochs import Key
from prodml.cache.rounding import Rounding, RoundingAudit
from prodml.cache.stats import Explanation
from prodml.cache.steps import CacheSteps
from prodml.cache.tiers import Answer
from prodml.cache.typed import AnswerType, kept_by
from prodml.cache.worth import Warmed, Worth
from prodml.errors import BadConfiguration

__all__ = ["NO_ARGUMENTS", "Entries", "Function", "OperationSteps"]

NO_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType({})

Function: TypeAlias = str | Callable[..., Any]
"""Whose entries are meant: a decorated function, or the name it has in keys."""


class Entries(NamedTuple):
    """Which entries are meant: those of a function, for some other arguments of it."""

    name: str
    extra: bytes = NO_EXTRA
    answer: AnswerType | None = None
    rounding: Rounding | None = None

    def shown(self, features: Any) -> Any:
        """``features`` as keys see them."""
        return features if self.rounding is None else self.rounding(features)


class OperationSteps(CacheSteps):
    """The steps behind the commands of a cache.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> PredictionCache().warm([{"a": 1}, {"a": 2}], "v1", len, function="score").computed
    2
    """

    __slots__: tuple[str, ...] = ()

    _audits: dict[str, RoundingAudit]
    _functions: "WeakKeyDictionary[Callable[..., Any], tuple[Arguments, Rounding | None]]"

    def enrol(
        self,
        fn: Callable[..., Any],
        arguments: Arguments,
        rounding: Rounding | None,
        audit: RoundingAudit | None,
    ) -> None:
        """Learn how the decorated ``fn`` calls its entries, to find them by ``function=fn``."""
        self._functions[fn] = arguments, rounding
        if rounding is not None and audit is not None:
            self._audits[arguments.function] = audit

    def entries_of(
        self, function: Function, arguments: Mapping[str, Any], version: Any = None
    ) -> Entries:
        """Entries of ``function`` for its other ``arguments``.

        Raises
        ------
        BadConfiguration
            There are other arguments, but ``function`` is only a name.
        TypeError
            They do not fit the function, or cannot be named.
        """
        found = None if isinstance(function, str) else self._functions.get(function)
        if found is None:
            if arguments:
                raise BadConfiguration(
                    f"arguments={dict(arguments)!r} can only be read with the decorated function "
                    "itself as function="
                )
            return Entries(function_id(function), NO_EXTRA, kept_by(function))
        reads, rounding = found
        call = reads.read((None, version)[: reads.bare], arguments)
        return Entries(reads.function, call.extra, kept_by(function), rounding)

    # -- explaining -----------------------------------------------------------------------

    def _explain_steps(
        self, features: Any, version: Any, function: Function, arguments: Mapping[str, Any]
    ) -> Steps:
        """Steps to ``(Explanation, None)``: looks into all tiers, counts no hit and no miss."""
        try:
            entries = self.entries_of(function, arguments, version)
            canonical = self._namer.name(entries.shown(features))
            head = self._head(entries.name, version)
        except BadConfiguration as error:
            return None, error
        except Exception as error:
            # As in a look-up: whatever reading a stranger's object raises.
            return Explanation(cacheable=False, reason=str(error) or type(error).__name__), None
        tail = entries.extra + self._body(entries.shown(features))
        key = Key(entries.name, version, head.epoch, tail, entries.answer)
        told = Explanation(
            cacheable=True,
            reason="never computed, expelled, expired or dropped",
            canonical=canonical,
            function=entries.name,
            version=version,
        )
        away = self._tier is not None and self._tier.away()
        (found,), _ = yield from self._fetch([key])
        place = self._preimage(key)
        told = replace(told, key=self._name(place))
        if found is None:
            failure = self._failures.find(place, self._now())
            if failure is not None:
                told = replace(told, reason=f"computing it failed: {failure!r}")
            elif away:
                told = replace(told, reason="not in memory, and the store is away")
            return told, None
        return self._placed(told, found), None

    def _placed(self, told: Explanation, found: Answer) -> Explanation:
        ttl = float("inf") if found.life is None else found.life.ttl
        left = ttl - found.age
        return replace(
            told,
            reason="kept" if found.fresh else "its time is over, but it may stand in",
            tier=found.tier,
            age=found.age,
            expires_in=None if left == float("inf") else left,
        )

    # -- warming --------------------------------------------------------------------------

    def _warm_steps(
        self,
        rows: Iterable[Any],
        version: Any,
        compute: Callable[[Any], Any],
        entries: Entries,
        batch: int | None,
    ) -> Steps:
        """Steps to ``(Warmed, None)``."""
        warmed, rest = Warmed(), iter(rows)
        while chunk := list(islice(rest, batch or 1)):
            answers, keys = self.recall_many(
                map(entries.shown, chunk),
                version,
                function=entries.name,
                extra=entries.extra,
                answer=entries.answer,
            )
            answers, _ = yield from self.fetch_steps(keys, answers)
            some, _ = yield from self._warmed(chunk, keys, answers, compute, batch=batch)
            warmed = Warmed(
                computed=warmed.computed + some.computed,
                present=warmed.present + some.present,
                failed=warmed.failed + some.failed,
                uncacheable=warmed.uncacheable + some.uncacheable,
                error=warmed.error or some.error,
            )
        return warmed, None

    def _warmed(
        self,
        chunk: Sequence[Any],
        keys: Sequence[Key | None],
        answers: Sequence[Answer | None],
        compute: Callable[[Any], Any],
        *,
        batch: int | None,
    ) -> Steps:
        wanted = [
            at
            for at, (key, answer) in enumerate(zip(keys, answers, strict=True))
            if key is not None and answer is None
        ]
        present = sum(answer is not None for answer in answers)
        unnamed = len(chunk) - present - len(wanted)
        if not wanted:
            return Warmed(present=present, uncacheable=unnamed), None
        asked = [keys[at] for at in wanted]
        missing = [chunk[at] for at in wanted]
        if batch is None:
            kept, error = yield from self._led(asked[0], compute, missing[0])
        else:
            kept, error = yield from self._called(asked, compute, missing)
        failed = 0 if error is None else len(wanted)
        return Warmed(
            computed=kept,
            present=present,
            failed=failed,
            uncacheable=unnamed + len(wanted) - kept - failed,
            error=error,
        ), None

    def _led(self, key: Key | None, compute: Callable[[Any], Any], row: Any) -> Steps:
        """Compute one row in a flight: traffic that asks for it meanwhile waits for it."""

        def steps() -> Steps:
            return (yield Invoke(compute, (row,)))

        answer, error = yield from self.answer_steps(key, steps)
        return (0 if error is not None else int(answer.kept)), error

    def _called(
        self, keys: Sequence[Key | None], compute: Callable[[Any], Any], rows: list[Any]
    ) -> Steps:
        """Compute many rows in one call."""
        began = self._now()
        values, error = yield Invoke(compute, (rows,))
        if error is None and len(values) != len(rows):
            error = ValueError(f"{len(values)} answers for {len(rows)} rows")
        if error is not None:
            return 0, error
        cost = (self._now() - began) / len(rows)
        return (yield from self.store_steps(keys, values, cost=cost))

    # -- worth ----------------------------------------------------------------------------

    def worth(self) -> Worth:
        """Estimate whether the cache pays, and what a larger memory would answer.

        Examples
        --------
        >>> from prodml.cache import PredictionCache
        >>> PredictionCache().worth().pays
        False
        """
        counts, memory = self._counts, self._memory
        hits = counts.memory_hits + counts.store_hits + counts.coalesced
        asked = max(1, hits + counts.misses)
        each = counts.compute_seconds / max(1, counts.computed)
        looking = (hits + counts.misses) * counts.look_seconds / max(1, counts.looks)
        larger = memory.larger.hits() if memory.capacity else {}
        return Worth(
            hits=hits,
            hit_ratio=hits / asked,
            saved_seconds=hits * each,
            spent_seconds=looking + counts.store_seconds,
            larger={f: min(1.0, (hits + more) / asked) for f, more in larger.items()},
        )
