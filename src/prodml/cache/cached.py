"""``@cached_prediction``: a cache around a function, for rows and for batches."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, ParamSpec, TypeVar, final

from prodml._call import Flow, Invoke, Steps
from prodml.cache.arguments import Arguments
from prodml.cache.batches import CachedBatches
from prodml.cache.calls import CachedFlow
from prodml.cache.prediction_cache import PredictionCache
from prodml.cache.steps import Uncached
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

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        arguments = Arguments(fn, function=function, versioned=version is not None, batch=batch)
        return kind(cache, version=version, arguments=arguments)(fn)

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
            call.features,
            call.version,
            function=arguments.function,
            extra=call.extra,
            answer=arguments.answer,
        )
        if value is not MISS:
            return value, None
        compute = partial(_through, fn, args, kwargs)
        behind = partial(self._apart, fn, args, kwargs, call.version)
        return None, _answer(self._cache.complete_steps(key, compute, behind))

    def steps(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Steps:
        """Steps of :meth:`start`, also when the answer is there at once."""
        answer, steps = self.start(fn, args, kwargs)
        return (answer, None) if steps is None else (yield from steps)

    def _apart(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        version: Any,
    ) -> Callable[[], Steps]:
        """The same call with arguments of its own: the caller may change his meanwhile."""
        own_args, own_kwargs = deepcopy((args, dict(kwargs)))
        return partial(self._behind, fn, own_args, own_kwargs, version)

    def _behind(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        version: Any,
    ) -> Steps:
        result, error = yield Invoke(fn, args, kwargs)
        if error is None and callable(self._version) and self._version() != version:
            # Another model has answered than the one that was asked.
            return Uncached(result), None
        return result, error


def _through(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
    return (yield Invoke(fn, args, kwargs))


def _answer(steps: Steps) -> Steps:
    found, error = yield from steps
    return (None if error is not None else found[0]), error
