"""The right to compute a value, kept while the computing lasts.

A process that may compute for all others holds a *lease* in the store.  It ends by itself, so
that whoever is killed holds nobody up for long; while its holder lives, one daemon thread of
the process prolongs it.  Who waits for a lease looks often at first, then every 50 ms.
"""

import logging
import math
import os
import random
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from prodml._call import Steps, run
from prodml.cache.tier import StoreTier
from prodml.clock import SYSTEM_CLOCK

__all__ = ["HEARTBEATS", "Heartbeats", "Held", "pauses"]

_LOG: Final = logging.getLogger("prodml.cache")

_FIRST: Final = 0.005
_LAST: Final = 0.05
_LONG: Final = 3600.0


def pauses(rng: random.Random) -> Iterator[float]:
    """Seconds between one look at a lease and the next, without end.

    Examples
    --------
    >>> import itertools
    >>> found = list(itertools.islice(pauses(random.Random(1)), 20))
    >>> found[0] <= 0.005, 0.025 <= found[-1] <= 0.05
    (True, True)
    """
    longest = _FIRST
    while True:
        # Many who wait shall not look all at the same moment.
        yield longest * (0.5 + 0.5 * rng.random())
        longest = min(longest * 1.5, _LAST)


class Held:
    """A lease of this process: on what, in which tier, and until when it is prolonged.

    Examples
    --------
    >>> Held(None, "name", "token", lease=2.0, longest=30.0, now=100.0).due
    100.66...
    """

    __slots__: tuple[str, ...] = ("due", "ends", "lease", "name", "tier", "token")

    def __init__(
        self,
        tier: StoreTier | None,
        name: str,
        token: str,
        *,
        lease: float,
        longest: float,
        now: float,
    ) -> None:
        self.tier: StoreTier | None = tier
        self.name: str = name
        self.token: str = token
        self.lease: float = lease
        self.due: float = now + lease / 3
        # Whoever waits gives up then: it may hang.
        self.ends: float = now + longest


class Heartbeats:
    """Prolongs the leases of a process, on one thread that begins with the first of them.

    Examples
    --------
    >>> beats = Heartbeats()
    >>> held = beats.hold(None, "name", "token", lease=2.0, longest=30.0)
    >>> len(beats)
    1
    >>> beats.drop(held)
    >>> len(beats)
    0
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start afresh in a forked child, where neither the thread nor the leaders go on."""
        self._held: dict[str, Held] = {}
        self._left: deque[Held] = deque()
        self._lock: threading.Lock = threading.Lock()
        self._next: float = math.inf
        self._started: bool = False
        self._wake: threading.Event = threading.Event()

    def __len__(self) -> int:
        return len(self._held)

    def hold(
        self, tier: StoreTier | None, name: str, token: str, *, lease: float, longest: float
    ) -> Held:
        """Prolong the lease on ``name`` until it is dropped, or for ``longest`` seconds."""
        now = SYSTEM_CLOCK.monotonic()
        held = Held(tier, name, token, lease=lease, longest=longest, now=now)
        self._held[token] = held
        if not self._started:
            self._start()
        if held.due < self._next:
            self._wake.set()
        return held

    def drop(self, held: Held) -> None:
        """Let the lease end."""
        self._held.pop(held.token, None)

    def abandon(self, held: Held) -> None:
        """Let the lease end and have it given back: its holder can ask the store no more."""
        self.drop(held)
        self._left.append(held)
        self._wake.set()

    def beat(self) -> float:
        """Prolong what is due and give back what was left; return the seconds until the next."""
        # Whatever is added from here on wakes the thread up again.
        self._next = math.inf
        while self._left:
            left = self._left.popleft()
            if left.tier is not None:
                _tried(left.tier.unclaim(left.name, left.token))
        for held in list(self._held.values()):
            if held.due <= SYSTEM_CLOCK.monotonic():
                self._prolong(held)
        now = SYSTEM_CLOCK.monotonic()
        self._next = min((held.due for held in list(self._held.values())), default=now + _LONG)
        return max(0.0, self._next - now)

    def _prolong(self, held: Held) -> None:
        now = SYSTEM_CLOCK.monotonic()
        held.due = now + held.lease / 3
        if held.tier is None or now >= held.ends:
            # Its holder hangs: another may compute.
            self.drop(held)
        elif not _tried(held.tier.prolong(held.name, held.token, held.lease)):
            # Lost: two may compute the same now, and nothing is wrong with that.
            self.drop(held)

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._work, name="prodml-leases", daemon=True).start()

    def _work(self) -> None:
        wake = self._wake
        while wake is self._wake:
            wake.wait(self.beat())
            wake.clear()


def _tried(steps: Steps) -> Any:
    try:
        return run(steps)
    except Exception as error:
        # A guard or store that misbehaves must not end the thread that serves all others.
        _LOG.warning("a lease could not be prolonged or given back", exc_info=error)
        return True


HEARTBEATS: Heartbeats = Heartbeats()
"""Those of this process."""

os.register_at_fork(after_in_child=HEARTBEATS.forget)
