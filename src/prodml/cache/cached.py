"""``@cached_prediction``: a cache around a function, for rows and for batches."""
# ruff: noqa: SLF001 - a look is a part of its flow

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, final

from prodml._call import Flow, Invoke, Peek, Spawn, Steps
from prodml.cache.arguments import Arguments, Call
from prodml.cache.batches import CachedBatches
from prodml.cache.calls import CachedFlow
from prodml.cache.flights import Compute
from prodml.cache.prediction_cache import PredictionCache
from prodml.cache.rounding import Rounding, RoundingAudit
from prodml.cache.shortcuts import Shortcuts
from prodml.cache.steps import Key, Uncached
from prodml.cache.tier import Direct
from prodml.types import MISS

__all__ = ["CachedBatches", "CachedCalls", "cached_prediction"]

P = ParamSpec("P")
R = TypeVar("R")

Behind: TypeAlias = Callable[[], Compute]

# One look-up in so many is timed.
_SAMPLED: Final = 16


def cached_prediction(
    cache: PredictionCache,
    *,
    version: Any = None,
    batch: bool = False,
    function: str | None = None,
    round: Mapping[Any, int] | None = None,  # noqa: A002 - it is what it does to a feature
    quantize: Mapping[Any, float] | None = None,
    audit: RoundingAudit | float = 0.01,
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
        lazy frame of polars, a list or tuple of rows) and the answer has one value a row (an
        array, a list, a tuple, a series, a frame).  The function is called once, with the
        distinct rows that are missing and that nobody else computes, in a container of the
        same type; order and the answer's type are kept.  Answers of other containers or
        dtypes (categories, nested columns) are handed on and not kept.
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
    rounding = Rounding(round or {}, quantize=quantize or {}) if round or quantize else None
    books = audit if isinstance(audit, RoundingAudit) else RoundingAudit(share=audit)

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        arguments = Arguments(fn, function=function, versioned=version is not None, batch=batch)
        flow = kind(cache, version=version, arguments=arguments, rounding=rounding, audit=books)
        cached = flow(fn)
        cache.enrol(cached, arguments, rounding, books)
        return cached

    return decorate


@final
class CachedCalls(CachedFlow, Flow):
    """The flow around one call: memory, then store, then one computation for all who ask.

    Examples
    --------
    >>> flow = CachedCalls(PredictionCache(), version="v1")
    >>> flow.call(sorted, (3, 1, 2))
    [1, 2, 3]
    """

    __slots__: tuple[str, ...] = ("_shortcuts",)

    def _prepare(self) -> None:
        self._shortcuts: Shortcuts | None = None
        if self._arguments is not None and self._rounding is None:
            self._shortcuts = Shortcuts(self._cache, self._arguments, self._version)

    @property
    def known(self) -> Callable[[tuple[Any, ...]], Any] | None:
        """The short way to answers in memory."""
        return None if self._shortcuts is None else self._shortcuts.known

    def start(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Steps | Peek | None]:
        """Answer from memory if it is there; else a look at the store comes first."""
        read = self._read(fn, args, kwargs)
        if read is None:
            return None, _through(fn, args, kwargs)
        arguments, call = read
        cache = self._cache
        if self._rounding is not None or cache.watched:
            return None, self._watched(arguments, call, Invoke(fn, args, kwargs))
        value, key = cache.lookup(
            call.features,
            call.version,
            function=arguments.function,
            extra=call.extra,
            answer=arguments.answer,
        )
        if value is not MISS:
            if self._shortcuts is not None:
                self._learn(self._shortcuts, call)
            return value, None
        direct = None if key is None else cache.direct(key)
        if key is None or direct is None:
            return None, self._rest(key, Invoke(fn, args, kwargs))
        return None, _Look(direct, self, key, (fn, args, kwargs))

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Steps of :meth:`start`, also when the answer is there at once."""
        answer, steps = self.start(fn, args, kwargs)
        if steps is None:
            return answer, None
        return (yield from steps.rest() if isinstance(steps, Peek) else steps)

    def _rest(self, key: Key | None, step: Invoke) -> Steps:
        """What follows when neither memory nor a look at the store had an answer."""
        if key is not None and not self._cache._counts.misses % _SAMPLED:
            self._timed(key, step)
        ways = self._ways(step, None if key is None else key.version, key)
        found, error = yield from self._cache.complete_steps(key, *ways)
        return (None if error is not None else found[0]), error

    def _timed(self, key: Key, step: Invoke) -> None:
        """Look the call up once more, to know what that costs: nothing where it pays."""
        cache, began = self._cache, self._cache._now()
        self._changed(key, step)
        cache._memory.find(cache._preimage(key), began)
        cache._counts.looks += 1
        cache._counts.look_seconds += cache._now() - began

    def _watched(self, arguments: Arguments, call: Call, step: Invoke) -> Steps:
        """The long way: with rounded features, or for those who want to know more."""
        cache, rounding = self._cache, self._rounding
        answer, key = cache.recall(
            call.features if rounding is None else rounding(call.features),
            call.version,
            function=arguments.function,
            extra=call.extra,
            answer=arguments.answer,
        )
        compute, behind = self._ways(step, call.version, key)
        if answer is None:
            answer, error = yield from cache.answer_steps(key, compute, behind)
            if error is not None:
                return None, error
        cache.tell(arguments.function, call.version, answer)
        if rounding is not None and answer.cached:
            yield from self._audited(behind, answer.value)
        return answer.value, None

    def _audited(self, behind: Behind, served: Any) -> Steps:
        """Compute some of the shared answers anew, behind the caller's back."""
        audit = self._audit
        if audit is None or not audit.due():
            return None, None
        try:
            compute, served = behind(), deepcopy(served)
        except Exception:
            # Arguments that cannot be copied: only their caller may compute with them.
            return None, None
        return (yield Spawn(partial(_compared, audit, compute, served)))

    def _ways(self, step: Invoke, version: Any, key: Key | None) -> tuple[Compute, Behind]:
        """How to compute the call here, and behind the caller's back."""
        return partial(self._computed, step, version, key), partial(self._apart, step, version, key)

    def _apart(self, step: Invoke, version: Any, key: Key | None) -> Compute:
        """The same call with arguments of its own: the caller may change his meanwhile."""
        own = Invoke(step.fn, *deepcopy((step.args, dict(step.kwargs))))
        return partial(self._computed, own, version, key)

    def _computed(self, step: Invoke, version: Any, key: Key | None) -> Steps:
        result, error = yield step
        if error is not None:
            return None, error
        if self._moved(version) or (key is not None and self._changed(key, step)):
            # Another model has answered than the one that was asked, or another row.
            return Uncached(result), None
        return result, None

    def _changed(self, key: Key, step: Invoke) -> bool:
        """Whether the call reads otherwise than when it was named: somebody has changed a row."""
        try:
            call = (self._arguments or self._arguments_of(step.fn)).read(step.args, step.kwargs)
            rounding, features = self._rounding, call.features
            body = self._cache._body(features if rounding is None else rounding(features))
        except Exception:
            return True
        return call.extra + body != key.tail

    def _learn(self, shortcuts: Shortcuts, call: Call) -> None:
        try:
            shortcuts.learn(call)
        except Exception:
            # A row that loses its names while it is read: the answer is there, and no shortcut.
            return


def _through(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
    return (yield Invoke(fn, args, kwargs))


def _compared(audit: RoundingAudit, compute: Compute, served: Any) -> Steps:
    exact, error = yield from compute()
    if error is None and type(exact) is not Uncached:
        audit.add(served, exact)
    return None, None


class _Look(Peek):
    """A look at the store before a flight is taken."""

    __slots__: tuple[str, ...] = ("_call", "_flow", "_key")

    def __init__(self, direct: Direct, flow: CachedCalls, key: Key, call: tuple[Any, ...]) -> None:
        self.guard, self.get, self.aget = direct
        self.arg: str = flow._cache.name_of(key)
        self._flow: CachedCalls = flow
        self._key: Key = key
        self._call: tuple[Any, ...] = call

    def judged(self, result: Any) -> Any:
        return self._flow._cache.seen(self._key, self.arg, result)

    def broken(self, error: Exception) -> None:
        self._flow._cache.broken(error)

    def rest(self) -> Steps:
        return self._flow._rest(self._key, Invoke(*self._call))
