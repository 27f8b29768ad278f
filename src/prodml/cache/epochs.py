"""What entries are called, and how all of a version are forgotten at once.

A key holds an *epoch* of its version: eight random bytes that all processes read from the
store now and then.  Dropping a version is writing another epoch, after which nobody asks for
the old keys any more.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock
from typing import Any, Final

from prodml._call import Steps
from prodml.cache.digest import digest, digests
from prodml.cache.keys import FORMAT, Namer, canonical
from prodml.cache.single_flight import SingleFlight
from prodml.cache.stats import Counts
from prodml.cache.tier import StoreTier
from prodml.cache.typed import AnswerType
from prodml.types import MISS

__all__ = ["Epoch", "Head", "Key", "KeySteps"]

# A dropped version is gone everywhere within a second of its drop.
_POLL: Final = 0.85
_CLAIM: Final = 0.1
_LABEL: Final = "prodml:"
_LONG: Final = 1024
_FOREVER: Final = float("inf")


class Epoch:
    """What a version's keys contain so that all of them can be dropped at once."""

    __slots__: tuple[str, ...] = ("name", "pending", "token", "until")

    def __init__(self, name: str, until: float) -> None:
        self.name: str = name
        self.token: bytes = b""
        self.until: float = until
        # A drop that the store has not heard of yet.
        self.pending: bool = False


class Head:
    """The part of a key that a function's calls for one version share."""

    __slots__: tuple[str, ...] = ("epoch", "prefix", "token")

    def __init__(self, prefix: bytes, epoch: Epoch) -> None:
        self.epoch: Epoch = epoch
        self.token: bytes = epoch.token
        self.prefix: bytes = prefix + canonical(self.token)


class Key:
    """One entry: what :meth:`CacheSteps.lookup` hands out and the other steps take.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> value, key = PredictionCache().lookup({"age": 41}, "v1")
    >>> bool(value), key.version
    (False, 'v1')
    """

    __slots__: tuple[str, ...] = (
        *("absent", "answer", "due", "epoch", "function"),
        *("place", "renew", "tail", "version"),
    )

    def __init__(
        self,
        function: str,
        version: Any,
        epoch: Epoch,
        tail: bytes,
        answer: AnswerType | None,
        *,
        due: bool = False,
        place: bytes | None = None,
    ) -> None:
        # Whether memory has an answer that ought to be renewed.
        self.due: bool = due
        # Whether the store has just said that it has nothing.
        self.absent: bool = False
        # Whether it is to be computed whatever there is.
        self.renew: bool = False
        # Where it was asked for, which is where an answer computed since then belongs.
        self.place: bytes | None = place
        self.answer: AnswerType | None = answer
        self.function: str = function
        self.version: Any = version
        self.epoch: Epoch = epoch
        self.tail: bytes = tail


class KeySteps:
    """Names of entries, and the steps to the epochs in them.

    Examples
    --------
    >>> from prodml.cache import PredictionCache
    >>> PredictionCache().explain({"age": 41}, "v1").key.startswith("prodml:")
    True
    """

    __slots__: tuple[str, ...] = ()

    namespace: str
    _counts: Counts
    _epochs: dict[bytes, Epoch]
    _flights: SingleFlight
    _heads: dict[Any, Head]
    _lock: Lock
    _namer: Namer
    _now: Callable[[], float]
    _secret: bytes
    _tier: StoreTier | None

    def _named(self, features: Any) -> bytes | None:
        try:
            return self._namer.name(features)
        except Exception:
            # As in lookup: whatever reading a stranger's object raises.
            return None

    def _body(self, features: Any) -> bytes:
        return _short(self._namer.name(features))

    def _key(
        self,
        function: str,
        version: Any,
        extra: bytes,
        body: bytes | None,
        answer: AnswerType | None,
    ) -> Key | None:
        try:
            epoch = None if body is None else self._head(function, version).epoch
        except Exception:
            # As in lookup: a version may be an object of anyone's making, too.
            epoch = None
        if body is None or epoch is None:
            self._counts.uncacheable += 1
            return None
        return Key(function, version, epoch, extra + _short(body), answer)

    def _head(self, function: str, version: Any) -> Head:
        # The type, since 1, 1.0 and True are one key of a dictionary.
        place = (function, type(version), version)
        head = self._heads.get(place)
        if head is None or head.token is not head.epoch.token:
            head = self._new_head(function, version)
            if isinstance(version, str | int):
                self._heads[place] = head
        return head

    def _new_head(self, function: str, version: Any) -> Head:
        if version is None or version is MISS:
            raise TypeError("no version, no cache")
        name = canonical(version)
        if len(self._heads) >= 1024:
            self._heads.clear()
        return Head(self._prefix(canonical(function) + name), self._epoch(name))

    def _prefix(self, rest: bytes) -> bytes:
        return FORMAT + canonical(self.namespace) + rest

    def _epoch(self, version: bytes) -> Epoch:
        epoch = self._epochs.get(version)
        if epoch is None:
            until = _FOREVER if self._tier is None else -_FOREVER
            fresh = Epoch(self._name(b"epoch:" + self._prefix(version)), until)
            epoch = self._epochs.setdefault(version, fresh)
        return epoch

    def _preimage(self, key: Key) -> bytes:
        return self._head(key.function, key.version).prefix + key.tail

    def _name(self, preimage: bytes) -> str:
        return _LABEL + digest(preimage, self._secret)

    def _names(self, beginning: bytes) -> Callable[[bytes], str]:
        """:meth:`_name` of preimages with this ``beginning``, by their rest."""
        return digests(beginning, self._secret, _LABEL)

    # -- epochs -------------------------------------------------------------------------

    def _refresh(self, epoch: Epoch) -> Steps:
        if self._now() < epoch.until:
            return None, None
        work = partial(self._settle, epoch)
        return (yield from self._flights.steps(epoch.name.encode(), work))

    def _refresh_all(self, keys: Iterable[Key | None]) -> Steps:
        for epoch in {key.epoch for key in keys if key is not None}:
            yield from self._refresh(epoch)
        return None, None

    def _settle(self, epoch: Epoch) -> Steps:
        if self._tier is None or self._now() < epoch.until:
            return None, None
        before = epoch.token
        if before:
            # Others go on under the known epoch while this caller asks.
            epoch.until = self._now() + _CLAIM
        if epoch.pending:
            taken, _ = yield from self._tier.write({epoch.name: before}, None)
            with self._lock:
                # Another drop since then is still to be told, or may have been told too early.
                epoch.pending = not taken or epoch.token is not before
        else:
            token, _ = yield from self._tier.settle(epoch.name, before or os.urandom(8))
            self._learn_epoch(epoch, before, token)
        epoch.until = self._now() + _POLL
        return None, None

    def _learn_epoch(self, epoch: Epoch, before: bytes, token: bytes | None) -> None:
        with self._lock:
            # A drop here and now outruns what the store said before it.
            if token is None or epoch.token is not before or token == before:
                return
            if type(token) is not bytes or len(token) != 8:
                # Somebody else's bytes: put an epoch of our own in their place.
                self._counts.corrupt += 1
                epoch.pending = True
                token = before or os.urandom(8)
            epoch.token = token

    def _drop_steps(self, version: Any) -> Steps:
        epoch = self._epoch(canonical(version))
        self._counts.drops += 1
        with self._lock:
            token = epoch.token = os.urandom(8)
            epoch.pending = self._tier is not None
        if self._tier is None:
            return True, None
        taken, _ = yield from self._tier.write({epoch.name: token}, None)
        with self._lock:
            if epoch.token is token:
                epoch.pending = not taken
        return taken, None


def _short(body: bytes) -> bytes:
    if len(body) <= _LONG:
        return body
    # 0xC1 begins no canonical value, so a digest is never taken for one.
    return b"\xc1" + hashlib.blake2b(body, digest_size=32).digest()
