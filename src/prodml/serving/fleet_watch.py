"""What a worker of a fleet waits on, and what a request of it looks at."""

import os
import select
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from prodml.serving.fleet_record import Member

__all__ = ["Ear", "Ears", "Glance", "Place"]


class Ear(Protocol):
    """Something to wait on until somebody rings."""

    def fileno(self) -> int:
        """What to wait on."""
        ...

    def drain(self) -> bool:
        """Take away what was rung; return whether it can ring again."""
        ...

    def alive(self) -> bool:
        """Whether it can still be rung, as far as one knows."""
        ...

    def close(self, *, ours: bool = True) -> None:
        """Let it be; a forked child, which it does not belong to, its copy only."""
        ...


class Place(Protocol):
    """Where the record of a fleet hangs: a store, or the memory of a host."""

    where: str

    def read(self) -> tuple[bytes | None, int]:
        """Value and revision of the record."""
        ...

    def commit(self, value: bytes, revision: int) -> int:
        """Write a command's record if the revision is ``revision``: now or never."""
        ...

    def tell(self, value: bytes, revision: int) -> int:
        """Write a record that is known already, if the revision is ``revision``."""
        ...

    def nudge(self) -> None:
        """Ring at the workers."""
        ...

    def listen(self, worker: str) -> Ear | None:
        """What rings for ``worker``, if this place can."""
        ...

    def beat(self, worker: str, member: Member) -> None:
        """Say how ``worker`` fares."""
        ...

    def leave(self, worker: str) -> None:
        """Let ``worker`` be no more."""
        ...

    def workers(self) -> dict[str, Member]:
        """Living workers and what they say."""
        ...

    def close(self) -> None:
        """Let go of what is open; the next use opens it again."""
        ...

    def forget(self) -> None:
        """Begin anew in a forked child."""
        ...


class Glance:
    """What a request looks at: ``word[1]`` differs from ``seen`` when there is news."""

    __slots__: tuple[str, ...] = ("seen", "word")

    def __init__(self) -> None:
        self.word: Any = (0, 0)
        self.seen: int = -1

    def rest(self) -> None:
        """Nothing is to be seen from here on."""
        self.word, self.seen = (0, 0), 0


class Ears:
    """All that the thread of one worker waits on: a bell or a subscription at each place."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places: Sequence[Place] = places
        self._ears: dict[str, Ear] = {}
        self._woken, self._waking = os.pipe()
        self._open: bool = True
        self._lock: threading.Lock = threading.Lock()
        # Whoever wakes never waits: a full pipe wakes already.
        os.set_blocking(self._waking, False)

    def wake(self) -> None:
        """End the waiting; from any thread."""
        # Under a lock: the number of a closed handle may be somebody else's by now.
        with self._lock, suppress(BlockingIOError):
            if self._open:
                os.write(self._waking, b"\1")

    def wait(self, seconds: float) -> list[int]:
        """Wait until somebody rings; return by which handles."""
        poll = select.poll()
        for handle in (self._woken, *(ear.fileno() for ear in self._ears.values())):
            poll.register(handle, select.POLLIN)
        return [handle for handle, _ in poll.poll(seconds * 1000.0)]

    def drain(self, rung: Sequence[int]) -> None:
        """Take away what was rung."""
        if self._woken in rung:
            os.read(self._woken, 4096)
        for where, ear in list(self._ears.items()):
            if ear.fileno() in rung and not _drained(ear):
                _close(self._ears.pop(where))

    def attend(self, worker: str, *, anew: bool = False) -> None:
        """Listen wherever nobody listens yet, or ``anew`` everywhere."""
        for place in self._places:
            ear = self._ears.get(place.where)
            if ear is not None and not anew and ear.alive():
                continue
            if ear is not None:
                _close(self._ears.pop(place.where))
            # Without an ear there is still the poll.
            with suppress(Exception):
                ear = place.listen(worker)
                if ear is not None:
                    self._ears[place.where] = ear

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            self._let_go(ours=True)

    def abandon(self) -> None:
        """Close the copies of a forked child, where the lock may be held by nobody."""
        self._let_go(ours=False)

    def _let_go(self, *, ours: bool) -> None:
        was, self._open = self._open, False
        ears, self._ears = self._ears, {}
        for ear in ears.values():
            _close(ear, ours=ours)
        for handle in (self._woken, self._waking) if was else ():
            os.close(handle)


# Ears may be somebody else's: what they raise must not end the thread that follows.


def _close(ear: Ear, *, ours: bool = True) -> None:
    with suppress(Exception):
        ear.close(ours=ours)


def _drained(ear: Ear) -> bool:
    try:
        return ear.drain()
    except Exception:
        return False
