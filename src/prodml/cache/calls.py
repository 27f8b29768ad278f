"""Reading the calls of a cached function: which features, which version."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from prodml.cache.arguments import Arguments, Call
from prodml.cache.prediction_cache import PredictionCache
from prodml.cache.rounding import Rounding, RoundingAudit
from prodml.clock import Clock

__all__ = ["CachedFlow"]


class CachedFlow:
    """What the flows around one row and around many share.

    Examples
    --------
    >>> from prodml.cache import CachedBatches, CachedCalls
    >>> issubclass(CachedCalls, CachedFlow), issubclass(CachedBatches, CachedFlow)
    (True, True)
    """

    _batch: bool = False

    __slots__: tuple[str, ...] = (
        *("_arguments", "_audit", "_cache", "_others", "_rounding", "_version"),
        "clock",
    )

    def __init__(
        self,
        cache: PredictionCache,
        *,
        version: Any = None,
        arguments: Arguments | None = None,
        rounding: Rounding | None = None,
        audit: RoundingAudit | None = None,
    ) -> None:
        self._cache: PredictionCache = cache
        self._version: Any = version
        self._arguments: Arguments | None = arguments
        self._rounding: Rounding | None = rounding
        self._audit: RoundingAudit | None = audit
        self._others: OrderedDict[Any, Arguments] = OrderedDict()
        self.clock: Clock = cache.clock
        self._prepare()

    def _prepare(self) -> None:
        """Make what a flow of this kind keeps beside."""

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

    def _moved(self, version: Any) -> bool:
        """Whether calls are answered by another version than ``version`` by now."""
        try:
            return callable(self._version) and bool(self._version() != version)
        except Exception:
            # Nobody knows: then the answer is not for others.
            return True

    def _arguments_of(self, fn: Callable[..., Any]) -> Arguments:
        found = self._others.get(fn)
        if found is None:
            versioned = self._version is not None
            found = self._others[fn] = Arguments(fn, versioned=versioned, batch=self._batch)
            while len(self._others) > 256:
                self._others.popitem(last=False)
        return found
