"""Each operation of the stores as commands, and what the replies mean: one for both colours."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from prodml.integrations.redis_protocol import (
    Command,
    Refusal,
    mget_request,
    packed,
    set_requests,
)

__all__ = [
    "Operation",
    "Refused",
    "claiming",
    "deleting",
    "ending",
    "getting",
    "getting_many",
    "keeping",
    "parts",
    "pieces",
    "prolonging",
    "setting",
    "setting_many",
    "settling",
    "taking",
    "unclaiming",
    "value_of",
    "watching",
]

T = TypeVar("T")

# More than that at once would take a server and a network longer than an outage is waited for.
_PIECE: Final = 1000

# The schedule of prodml.resilience.rate_limit, by the server's clock in microseconds.  What
# is kept: epoch, permits since, interval, time of the last one.  A clock that was set back
# moves the epoch with it; another interval begins with as many permits saved up, or owed.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = string.gmatch(redis.call('GET', KEYS[1]) or '', '%S+')
local epoch, count = tonumber(kept() or '') or now, tonumber(kept() or '') or 0
local old, seen = tonumber(kept() or '') or interval, tonumber(kept() or '') or now
epoch = epoch - math.max(0, seen - now)
if old ~= interval then
  epoch, count = now, math.max(0, count - (now - epoch) / old)
end
if epoch + count * interval <= now then
  epoch, count = now, 0
end
local wait = epoch + (count + 1 - burst) * interval - now
if wait < 0.5 then
  wait = 0
end
if wait > patience then
  return {0, math.ceil(wait)}
end
count = count + 1
local ttl = math.ceil((epoch + count * interval - now) / 1000) + 1000
local state = string.format('%.17g %.17g %.17g %.17g', epoch, count, interval, now)
redis.call('SET', KEYS[1], state, 'PX', string.format('%.0f', ttl))
return {1, math.ceil(wait)}
"""
_TAKE_SHA: Final = hashlib.sha1(_TAKE.encode(), usedforsecurity=False).hexdigest()

# Whoever lost the lease while it computed must not end another's.
_UNCLAIM: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


_PROLONG: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""


class Refused(Exception):
    """The server said no."""


class Operation(NamedTuple):
    """Commands that go in one trip, and what turns their replies into a result.

    ``request`` makes their bytes, where there is a shorter way than to pack them.
    """

    commands: Sequence[Command]
    meaning: Callable[[Sequence[Any]], Any]
    request: Callable[[], bytes] | None = None

    def packed(self) -> bytes:
        """Bytes of the commands."""
        return packed(self.commands) if self.request is None else self.request()


def pieces(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of a batch that go in one trip each.

    Examples
    --------
    >>> [len(piece) for piece in pieces(range(2500))]
    [1000, 1000, 500]
    """
    yield from (items[at : at + _PIECE] for at in range(0, len(items), _PIECE))


def parts(items: Mapping[str, T]) -> Iterator[Mapping[str, T]]:
    """:func:`pieces` of a mapping.

    Examples
    --------
    >>> list(parts({"a": 1, "b": 2}))
    [{'a': 1, 'b': 2}]
    """
    if len(items) <= _PIECE:
        return iter((items,) if items else ())
    return map(dict, pieces(list(items.items())))


def getting(key: str) -> Operation:
    """Value at ``key``."""
    return Operation((("GET", key),), value_of)


def getting_many(keys: Sequence[str], *, apart: bool = False) -> Operation:
    """Value at each key; ``apart`` for a cluster, whose nodes have different keys."""
    if apart:
        return Operation([("GET", key) for key in keys], _values)
    return Operation((("MGET", *keys),), _only, partial(mget_request, keys))


def setting(key: str, value: bytes, ttl: float | None) -> Operation:
    """Keep ``value`` at ``key``."""
    return Operation((_set(key, value, _milliseconds(ttl)),), _done)


def setting_many(items: Mapping[str, bytes], ttl: float | None) -> Operation:
    """Keep all ``items``."""
    end = _milliseconds(ttl)
    sets = [_set(key, value, end) for key, value in items.items()]
    return Operation(sets, _done, partial(set_requests, items, end))


def settling(key: str, value: bytes) -> Operation:
    """Value at ``key``, which is set to ``value`` if absent."""
    return Operation((("SET", key, value, "NX"), ("GET", key)), _settled)


def deleting(key: str) -> Operation:
    """Whether there was something at ``key``."""
    return Operation((("DEL", key),), _truth)


def claiming(name: str, token: str, lease: float) -> Operation:
    """Value at ``name``, and whether the right to compute it is ``token``'s now.

    Who holds the lease is read back, so that it may be asked twice.  The value is read last:
    it is written before its lease is given back, so whoever gets the lease then sees it.
    """
    claim: Command = ("SET", _lease(name), token, "NX", "PX", max(1, round(lease * 1000)))
    owner = token.encode()

    def meaning(replies: Sequence[Any]) -> tuple[bytes | None, bool]:
        if not isinstance(replies[2], bytes):
            _done(replies)
        return replies[2], replies[1] == owner

    return Operation((claim, ("GET", _lease(name)), ("GET", name)), meaning)


def watching(name: str, *, apart: bool = False) -> Operation:
    """Value at ``name``, and the token of who computes it."""
    both = getting_many((name, _lease(name)), apart=apart)

    def pair(replies: Sequence[Any]) -> tuple[bytes | None, str | None]:
        value, token = both.meaning(replies)
        return value, None if token is None else token.decode(errors="replace")

    return Operation(both.commands, pair)


def prolonging(name: str, token: str, lease: float) -> Operation:
    """Whether ``name`` is still ``token``'s to compute, for ``lease`` seconds from now.

    The result is None where scripts are unknown or forbidden.
    """
    end = max(1, round(lease * 1000))
    return Operation((("EVAL", _PROLONG, 1, _lease(name), token, end),), _unclaimed)


def keeping(name: str, token: str, lease: float) -> Operation:
    """Let ``token`` compute ``name``, whoever could before."""
    return setting(_lease(name), token.encode(), lease)


def unclaiming(name: str, token: str) -> Operation:
    """Give back the right to compute ``name``, if it is still ``token``'s.

    By a script, in one trip: between a look and a deletion the lease may become another's.
    The result is None where scripts are unknown or forbidden.
    """
    return Operation((("EVAL", _UNCLAIM, 1, _lease(name), token),), _unclaimed)


def ending(name: str) -> Operation:
    """End whoever's right to compute ``name``."""
    return deleting(_lease(name))


def taking(
    key: str, interval: float, burst: int, patience: float, *, known: bool = True
) -> Operation:
    """Take a permit; the result is None if the server does not know the script."""
    script = ("EVALSHA", _TAKE_SHA) if known else ("EVAL", _TAKE)
    args = (interval * 1e6, burst, patience * 1e6)
    return Operation(((*script, 1, key, *args),), _taken)


def _lease(name: str) -> str:
    return f"{name}#"


def _set(key: str, value: bytes, end: int | None) -> Command:
    return ("SET", key, value) if end is None else ("SET", key, value, "PX", end)


def _milliseconds(ttl: float | None) -> int | None:
    return None if ttl is None or math.isinf(ttl) else max(1, round(ttl * 1000))


# -- what replies mean ------------------------------------------------------------------


def _done(replies: Sequence[Any]) -> None:
    for reply in replies:
        if type(reply) is Refusal:
            raise Refused(reply.text)


def _only(replies: Sequence[Any]) -> Any:
    _done(replies)
    return replies[0]


def _settled(replies: Sequence[Any]) -> Any:
    # A full server refuses the proposal, which is no loss where there is a value.
    if not isinstance(replies[1], bytes):
        _done(replies)
    return replies[1]


def _truth(replies: Sequence[Any]) -> bool:
    return bool(_only(replies))


def value_of(replies: Sequence[Any]) -> bytes | None:
    """What GET found; somebody else's list or hash is nothing, as it is for MGET."""
    reply = replies[0]
    if type(reply) is Refusal:
        if reply.text.startswith("WRONGTYPE"):
            return None
        raise Refused(reply.text)
    return reply  # type: ignore[no-any-return]


def _values(replies: Sequence[Any]) -> list[bytes | None]:
    return [value_of((reply,)) for reply in replies]


def _unclaimed(replies: Sequence[Any]) -> bool | None:
    reply = replies[0]
    if type(reply) is Refusal and ("unknown command" in reply.text or "permission" in reply.text):
        return None
    return _truth(replies)


def _taken(replies: Sequence[Any]) -> tuple[bool, float] | None:
    reply = replies[0]
    unknown = ("NOSCRIPT", "No matching script")
    if type(reply) is Refusal and reply.text.startswith(unknown):
        return None
    taken, wait = _only(replies)
    return bool(taken), wait / 1e6
