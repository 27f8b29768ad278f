"""``@cached_prediction``: a cache around a function, for rows and for batches."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar, final

from prodml._call import Flow, Invoke, Steps
from prodml.cache.arguments import Arguments, Call
from prodml.cache.batch import Column, Kind, Table, assemble, column_of, is_kind, table_of
from prodml.cache.keys import Namer
from prodml.cache.prediction_cache import PredictionCache
from prodml.cache.steps import Key
from prodml.clock import Clock
from prodml.types import MISS

__all__ = ["CachedBatches", "CachedCalls", "cached_prediction"]

P = ParamSpec("P")
R = TypeVar("R")


def cached_prediction(
    cache: PredictionCache,
    *,
    version: Any = None,
    batch: bool = False,
    function: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Put ``cache`` around a function whose first argument is the features.

    Works on ``def`` and ``async def``; both share entries and computations.  Whatever the
    cache cannot do, the call goes through to the function.

    Parameters
    ----------
    version
        The model version, or a function that tells it at each call.  By default the
        function's second argument is the version, as in ``predict(features, version)``.
    batch
        The first argument is many rows (a 2-d array, a pandas, polars or pyarrow frame, a
        list or tuple of rows) and the answer has one value a row (an array, a list, a tuple,
        a series).  The function is called once, with the distinct rows that are missing, in
        a container of the same type; order and the answer's type are kept.
    function
        Name of the function in keys; functions with the same name share entries.  By
        default module and qualified name, or for lambdas and inner functions a random one.

    Raises
    ------
    BadConfiguration
        There is neither a second argument nor ``version``.

    Examples
    --------
    >>> cache = PredictionCache()
    >>> @cached_prediction(cache)
    ... def predict(features, model_version):
    ...     print("computing")
    ...     return features["age"] / 100
    >>> predict({"age": 41}, "v1"), predict({"age": 41}, "v1")
    computing
    (0.41, 0.41)
    >>> @cached_prediction(cache, version="v1", batch=True)
    ... def score(rows):
    ...     print("computing", rows)
    ...     return [row["age"] / 100 for row in rows]
    >>> score([{"age": 3}, {"age": 2}, {"age": 3}])
    computing [{'age': 3}, {'age': 2}]
    [0.03, 0.02, 0.03]
    """
    kind = CachedBatches if batch else CachedCalls

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        return kind(cache, version=version, arguments=_arguments(fn, version, function))(fn)

    return decorate


def _arguments(fn: Callable[..., Any], version: Any, function: str | None) -> Arguments:
    return Arguments(fn, function=function, versioned=version is not None)


class _Cached:
    """What rows and batches share: reading the call."""

    __slots__: tuple[str, ...] = ("_arguments", "_cache", "_others", "_version", "clock")

    def __init__(
        self, cache: PredictionCache, *, version: Any = None, arguments: Arguments | None = None
    ) -> None:
        self._cache: PredictionCache = cache
        self._version: Any = version
        self._arguments: Arguments | None = arguments
        self._others: OrderedDict[Any, Arguments] = OrderedDict()
        self.clock: Clock = cache.clock

    def _read(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Arguments, Call] | None:
        try:
            arguments = self._arguments or self._arguments_of(fn)
            call = arguments.read(args, kwargs)
            if self._version is not None:
                version = self._version() if callable(self._version) else self._version
                call = call._replace(version=version)
        except Exception:
            # The call does not fit, or nobody knows the version: the function shall say so,
            # and a look-up without a version counts the call as uncacheable.
            self._cache.lookup(None, None)
            return None
        return arguments, call

    def _arguments_of(self, fn: Callable[..., Any]) -> Arguments:
        found = self._others.get(fn)
        if found is None:
            found = self._others[fn] = _arguments(fn, self._version, None)
            while len(self._others) > 256:
                self._others.popitem(last=False)
        return found


@final
class CachedCalls(_Cached, Flow):
    """The flow around one call: memory, then store, then one computation for all who ask.

    Examples
    --------
    >>> flow = CachedCalls(PredictionCache(), version="v1")
    >>> flow.call(sorted, (3, 1, 2))
    [1, 2, 3]
    """

    __slots__: tuple[str, ...] = ()

    def start(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Steps | None]:
        """Answer from memory if it is there."""
        read = self._read(fn, args, kwargs)
        if read is None:
            return None, _through(fn, args, kwargs)
        arguments, call = read
        value, key = self._cache.lookup(
            call.features, call.version, function=arguments.function, extra=call.extra
        )
        if value is not MISS:
            return value, None
        compute = partial(_through, fn, args, kwargs)
        return None, _answer(self._cache.complete_steps(key, compute))

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Steps of :meth:`start`, also when the answer is there at once."""
        answer, steps = self.start(fn, args, kwargs)
        return (answer, None) if steps is None else (yield from steps)


def _through(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
    return (yield Invoke(fn, args, kwargs))


def _answer(steps: Steps) -> Steps:
    found, error = yield from steps
    return (None if error is not None else found[0]), error


@final
class CachedBatches(_Cached, Flow):
    """The flow around a call for many rows: one call for the distinct rows not found.

    Examples
    --------
    >>> flow = CachedBatches(PredictionCache(), version="v1")
    >>> flow.call(lambda rows: [row * 2 for row in rows], [1, 2, 1])
    [2, 4, 2]
    """

    __slots__: tuple[str, ...] = ("_kinds", "_namer")

    def __init__(
        self, cache: PredictionCache, *, version: Any = None, arguments: Arguments | None = None
    ) -> None:
        super().__init__(cache, version=version, arguments=arguments)
        self._namer: Namer = Namer()
        # In what container the function answers: found out once, then asked of the tiers.
        self._kinds: dict[Any, Kind] = {}

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Steps of one batch."""
        read = self._read(fn, args, kwargs)
        table = None if read is None else self._table(read[1].features)
        if read is None or table is None:
            return (yield Invoke(fn, args, kwargs))
        arguments, call = read
        if len(self._kinds) > 1024:
            self._kinds.clear()
        batch = _Batch(self._cache, self._kinds, table, arguments.function, call)

        def compute(rows: Any) -> Invoke:
            return Invoke(fn, *arguments.swap(rows, args, kwargs))

        return (yield from batch.steps(compute, Invoke(fn, args, kwargs)))

    def _table(self, rows: Any) -> Table | None:
        try:
            return table_of(rows, self._namer)
        except Exception:
            # A stranger's frame may raise anything when read; the function shall have it.
            self._cache.lookup(None, None)
            return None


class _Batch:
    """One call for many rows.  Equal rows form a group, which the first of them stands for."""

    __slots__: tuple[str, ...] = (
        *("_answers", "_cache", "_call", "_function", "_groups"),
        *("_keys", "_kind", "_kind_key", "_kinds", "_table"),
    )

    def __init__(
        self,
        cache: PredictionCache,
        kinds: dict[Any, Kind],
        table: Table,
        function: str,
        call: Call,
    ) -> None:
        self._cache: PredictionCache = cache
        self._kinds: dict[Any, Kind] = kinds
        self._table: Table = table
        self._function: str = function
        self._call: Call = call
        groups: dict[Any, list[int]] = {}
        for place, body in enumerate(table.bodies):
            groups.setdefault(place if body is None else body, []).append(place)
        self._groups: list[list[int]] = list(groups.values())
        self._keys: list[Key | None] = []
        self._answers: list[Any] = []
        self._kind: Any = MISS
        self._kind_key: Key | None = None

    def steps(self, compute: Callable[[Any], Invoke], whole: Invoke) -> Steps:
        yield from self._find()
        missing = [at for at, answer in enumerate(self._answers) if answer is MISS]
        if not missing and self._kind is not MISS:
            return (yield from self._assembled(whole))
        rows = self._table.take([self._groups[at][0] for at in missing])
        result, error = yield compute(rows)
        if error is not None:
            return None, error
        alone = len(missing) == len(self._table.bodies)
        column = column_of(result, len(missing))
        if column is None or not (alone or self._agrees(column.kind)):
            # Not one value a row, or not what the other rows came in: no merging.
            return (result, None) if alone else (yield whole)
        yield from self._keep(column, missing)
        return (result, None) if alone else (yield from self._assembled(whole))

    def _find(self) -> Steps:
        values, self._keys = self._recall([self._table.bodies[group[0]] for group in self._groups])
        self._kind = self._kinds.get(self._place(), MISS)
        if self._kind is MISS:
            # 0xC1 begins no canonical row, so no row is taken for this entry.
            body = b"\xc1container:" + self._table.kind.encode()
            (self._kind,), (self._kind_key,) = self._recall([body])
        found, _ = yield from self._cache.fetch_steps(
            [self._kind_key, *self._keys], [self._kind, *values]
        )
        self._kind, self._answers = found[0], found[1:]
        if not is_kind(self._kind):
            # Without the container's type the rows found cannot be handed out.
            self._kind, self._answers = MISS, [MISS] * len(self._groups)
        return None, None

    def _keep(self, column: Column, missing: Sequence[int]) -> Steps:
        self._kind = self._kinds[self._place()] = column.kind
        yield from self._cache.store_steps([self._kind_key], [column.kind], computed=False)
        keys = [self._keys[at] for at in missing]
        yield from self._cache.store_steps(keys, column.values)
        for at, value in zip(missing, column.values, strict=True):
            self._answers[at] = value
        return None, None

    def _agrees(self, kind: Kind) -> bool:
        return self._kind is MISS or self._kind == kind

    def _recall(self, bodies: Sequence[bytes | None]) -> tuple[list[Any], list[Key | None]]:
        return self._cache.recall_many(
            bodies, self._call.version, function=self._function, extra=self._call.extra
        )

    def _place(self) -> tuple[Any, ...]:
        return self._function, repr(self._call.version), self._call.extra, self._table.kind

    def _assembled(self, whole: Invoke) -> Steps:
        spread: list[Any] = [None] * len(self._table.bodies)
        for group, answer in zip(self._groups, self._answers, strict=True):
            for place in group:
                spread[place] = answer
        try:
            return assemble(self._kind, spread, self._table.index), None
        except Exception:
            # Stored values that do not fit together: the function shall answer.
            return (yield whole)
