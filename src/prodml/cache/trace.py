"""Where answers came from, told to whoever asks; and calls that pass the cache by.

Both hold for a ``with`` block and what runs in its context: the block's own thread or task,
and the tasks begun in it.
"""

from collections import deque
from contextvars import ContextVar, Token
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Self, final

from prodml.cache.tiers import Answer

__all__ = ["Bypass", "Provenance", "Trace", "Watch"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one answer came from.

    Parameters
    ----------
    function, version
        Whose answer it is.
    tier
        ``"memory"``, ``"store"`` (the shared one or the disk), ``"flight"`` for a computation
        that somebody else had under way, or empty when this caller's own call computed it.
    age
        Seconds since it was computed.
    stale
        Whether its time to live was over.

    Examples
    --------
    >>> Provenance("score", "v1", "memory", 3.0).cached, Provenance("score", "v1").cached
    (True, False)
    """

    function: str
    version: Any
    tier: str = ""
    age: float = 0.0
    stale: bool = False

    @property
    def cached(self) -> bool:
        """Whether no model ran for this answer."""
        return bool(self.tier)


class Watch:
    """Which blocks hold around a cache's calls.

    Examples
    --------
    >>> watch = Watch()
    >>> with Bypass(watch, keep=False):
    ...     watch.blocks, watch.bypass().keep
    (1, False)
    """

    __slots__: tuple[str, ...] = ("_lock", "blocks")

    def __init__(self) -> None:
        # While there are none, anywhere, nobody need ask which of them hold here.
        self.blocks: int = 0
        self._lock: Lock = Lock()

    def bypass(self) -> "Bypass | None":
        """The innermost bypass of this cache that holds here."""
        if self.blocks:
            for block in reversed(_BLOCKS.get()):
                if type(block) is Bypass and block.watch is self and block.holds:
                    return block
        return None

    def tell(self, function: str, version: Any, answer: Answer | None) -> None:
        """Tell the traces that hold here of an answer; None is one just computed."""
        if not self.blocks:
            return
        told = (
            Provenance(function, version)
            if answer is None
            else Provenance(function, version, answer.tier, answer.age, answer.stale)
        )
        for block in _BLOCKS.get():
            if type(block) is Trace and block.watch is self and block.holds:
                block.answers.append(told)

    def after_fork(self) -> None:
        """Go on in a child process."""
        self._lock = Lock()

    def count(self, change: int) -> None:
        """Take in that a block has begun or ended."""
        with self._lock:
            self.blocks += change


class _Block:
    """Holds from entering to leaving, in its context."""

    __slots__: tuple[str, ...] = ("_token", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch: Watch = watch
        self._token: Token[tuple[_Block, ...]] | None = None

    @property
    def holds(self) -> bool:
        """Whether its block has not ended: tasks begun in it may outlive it."""
        return self._token is not None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this block is in use already: ask the cache for another one")
        self._token = _BLOCKS.set((*_BLOCKS.get(), self))
        self.watch.count(1)
        return self

    def __exit__(self, *_: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            self.watch.count(-1)
            _BLOCKS.reset(token)


_BLOCKS: Final[ContextVar[tuple[_Block, ...]]] = ContextVar("prodml_cache_blocks", default=())


@final
class Trace(_Block):
    """Hears where the answers of a ``with`` block come from; made by ``cache.trace()``.

    Parameters
    ----------
    size
        Answers that are kept; the oldest make room.

    Examples
    --------
    >>> from prodml.cache import PredictionCache, cached_prediction
    >>> cache = PredictionCache()
    >>> @cached_prediction(cache, version="v1")
    ... def score(features):
    ...     return features["age"] / 100
    >>> with cache.trace() as trace:
    ...     values = [score({"age": 41}) for _ in range(2)]
    >>> [answer.tier for answer in trace.answers], trace.last.version
    (['', 'memory'], 'v1')
    """

    __slots__: tuple[str, ...] = ("answers",)

    def __init__(self, watch: Watch, size: int) -> None:
        super().__init__(watch)
        self.answers: deque[Provenance] = deque(maxlen=size)

    @property
    def last(self) -> Provenance | None:
        """Where the latest answer came from; None before the first."""
        return self.answers[-1] if self.answers else None


@final
class Bypass(_Block):
    """Lets the calls of a ``with`` block compute; made by ``cache.bypass()``.

    Parameters
    ----------
    keep
        Whether what they compute is kept, in place of what is there.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> with PredictionCache().bypass() as bypass:
    ...     bypass.keep
    False
    """

    __slots__: tuple[str, ...] = ("keep",)

    def __init__(self, watch: Watch, *, keep: bool) -> None:
        super().__init__(watch)
        self.keep: bool = keep
