"""Which arm a key belongs to: shares of traffic, the same in every process."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from zlib import crc32

from prodml.serving.slot import Key, Route

__all__ = ["NOT_ZERO", "Split", "key_bytes"]

_UNIT = 2**32
# Stands in for a hash of 0, that of the empty key, which times anything is 0: in every arm.
NOT_ZERO: Final = 0x9E3779B9


def key_bytes(key: Key) -> bytes:
    """Bytes that stand for ``key``; a number is its decimal text.

    Examples
    --------
    >>> key_bytes(5) == key_bytes("5") == key_bytes(b"5")
    True
    """
    return key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Shares of traffic by arm; the rest is stable.

    A key's place in an arm is ``crc32(key) * m mod 2**32``: multiplicative hashing [1]_ with
    an odd multiplier *m* drawn by BLAKE2b from the salt and the arm's name.  It is the same in
    every process and release of Python, and independent between arms and salts, which
    ``crc32(salt + key)`` (linear) and ``hash()`` (seeded a process) are not.  A key is in the
    arm if its place is below the share.

    Several arms are asked in the order of their names; arm *i* takes a key with probability
    ``share_i / (1 - shares before it)``.  Raising a share therefore never takes a key out of
    that arm and never sends a key back to stable.

    References
    ----------
    .. [1] Dietzfelbinger, Hagerup, Katajainen, Penttonen (1997), *A reliable randomized
       algorithm for the closest-pair problem*, J. Algorithms 25 (multiply-shift hashing).

    Examples
    --------
    >>> from prodml.serving.slot import Slot
    >>> stable = Route.to(Slot.of("v1", abs), "stable")
    >>> canary = Route.to(Slot.of("v2", abs), "canary")
    >>> split = Split.of(stable, [(canary, 0.05)], salt="churn")
    >>> sum(split.by_key(user) is canary for user in range(100_000))
    5088
    """

    stable: Route
    arms: tuple[tuple[Route, int, int], ...]
    shares: tuple[tuple[Route, float], ...]

    @classmethod
    def of(cls, stable: Route, arms: Sequence[tuple[Route, float]], *, salt: str) -> "Split":
        """Lay out ``arms`` (route, share) in the order of their names."""
        laid: list[tuple[Route, int, int]] = []
        left = 1.0
        ordered = tuple(sorted(arms, key=lambda arm: _name(arm[0])))
        for route, share in ordered:
            likely = min(share / left, 1.0) if left > 0.0 else 0.0
            laid.append((route, _multiplier(salt, _name(route)), round(likely * _UNIT)))
            left -= share
        return cls(stable, tuple(laid), ordered)

    def by_key(self, key: Key) -> Route:
        """Always the same route for the same ``key``."""
        try:
            hashed = crc32(key.encode()) or NOT_ZERO  # type: ignore[union-attr]
        except (AttributeError, UnicodeEncodeError):
            hashed = crc32(key_bytes(key)) or NOT_ZERO
        for route, multiplier, limit in self.arms:
            if hashed * multiplier & 0xFFFFFFFF < limit:
                return route
        return self.stable

    @property
    def only(self) -> tuple[int, int, Route, Route] | None:
        """Multiplier, limit, arm and stable route, if there is one arm: for the hot path."""
        if len(self.arms) != 1:
            return None
        route, multiplier, limit = self.arms[0]
        return multiplier, limit, route, self.stable

    def by_chance(self, rng: Random) -> Route:
        """Any route, with the probability of its share."""
        drawn = rng.random()
        for route, share in self.shares:
            if drawn < share:
                return route
            drawn -= share
        return self.stable


def _name(route: Route) -> str:
    """What tells the arm from others: a canary keeps its cohort whatever else there is."""
    return f"canary:{route.version}" if route.arm == "canary" else f"variant:{route.arm}"


def _multiplier(salt: str, name: str) -> int:
    from hashlib import blake2b

    secret = f"{len(salt)}:{salt}{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(secret, digest_size=4).digest(), "big") | 1
