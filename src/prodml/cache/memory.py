"""The first tier: this process's memory, bounded by bytes, evicted by S3-FIFO.

Most rows are asked for once.  S3-FIFO lets newcomers through a small queue and keeps in
the main one only what was asked for again, with a list of the recently expelled to tell a
comeback from a newcomer (Yang et al. 2023, "FIFO queues are all you need for cache
eviction", SOSP).  A hit writes one small number and takes no lock.
"""

import re
import sys
import threading
from collections import OrderedDict, deque
from typing import Any, Final, TypeAlias

from prodml.cache.larger import Larger
from prodml.errors import BadConfiguration

__all__ = ["Data", "Entry", "Memory", "size_of"]

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

# Value, whether it is encoded, when it ends, until when it is calm, and its life.
Data: TypeAlias = tuple[Any, bool, float, float, Any]

# In place of what cannot be replaced: over at any time.
_OVER: Final[Data] = (None, False, -float("inf"), -float("inf"), None)
# What the interpreter spends on an entry beside its key and value, as measured: the entry,
# its places in the table and a queue, and its share of the list of expelled keys.
_OVERHEAD: Final = 540
# On a shortcut to it.
_SHORTCUT: Final = 270
# And on its life.
_LIFE: Final = 120


def size_of(size: int | str | None, setting: str) -> int:
    """Bytes meant by ``size``: a number, ``"64 MiB"``, or None for none.

    Raises
    ------
    BadConfiguration
        It is not a size; the message names ``setting``.

    Examples
    --------
    >>> size_of("64 MiB", "memory"), size_of("1.5 kB", "memory"), size_of(None, "memory")
    (67108864, 1500, 0)
    """
    if size is None:
        return 0
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is not None and found[2].upper() in _UNITS:
        return int(float(found[1]) * _UNITS[found[2].upper()])
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    raise BadConfiguration(f"{setting}={size!r} is not a size: use bytes or text like '64 MiB'")


class Entry:
    """One value.  ``data`` is (value, encoded?, ends, calm, life), swapped as a whole."""

    __slots__: tuple[str, ...] = ("data", "hits", "key", "resident", "shortcut", "size")

    def __init__(self, key: bytes, data: Data, size: int) -> None:
        self.key: bytes = key
        self.data: Data = data
        self.size: int = size
        self.hits: int = 0
        self.resident: bool = False
        # Another table that leads here, and the entry's key there.
        self.shortcut: tuple[dict[bytes, Any], bytes] | None = None


class Memory:
    """Values by key, at most ``capacity`` bytes of them.

    Safe for any number of threads.

    Examples
    --------
    >>> memory = Memory(10_000)
    >>> memory.put(b"key", 0.5, encoded=False, now=0.0, expires=60.0)
    True
    >>> memory.find(b"key", now=59.0), memory.find(b"key", now=60.0)
    ((0.5, False, 60.0, 60.0, None), None)
    """

    __slots__: tuple[str, ...] = (
        "_entries",
        "_ghosts",
        "_lock",
        "_main",
        "_small",
        "_small_bytes",
        "capacity",
        "evictions",
        "larger",
        "used",
    )

    def __init__(self, capacity: int) -> None:
        self.capacity: int = capacity
        self.used: int = 0
        self.evictions: int = 0
        # What it remembers of the expelled is not in the budget: few of them, then.
        self.larger: Larger = Larger(capacity, every=64)
        self._entries: dict[bytes, Entry] = {}
        self._small: deque[Entry] = deque()
        self._main: deque[Entry] = deque()
        # Hashes are enough here: a collision costs one entry a better place in the queue.
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._small_bytes: int = 0
        self._lock: threading.Lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, now: float) -> Data | None:
        """Value, whether it is encoded, its end, calm and life; None if absent or over."""
        entry = self._entries.get(key)
        if entry is None:
            if self.evictions:
                self.larger.missed(key)
            return None
        data = entry.data
        if now >= data[2]:
            return None
        if entry.hits < 3:
            entry.hits += 1
        return data

    def put(
        self,
        key: bytes,
        value: Any,
        *,
        encoded: bool,
        now: float,
        expires: float,
        calm: float | None = None,
        life: Any = None,
    ) -> bool:
        """Keep ``value``; return False when it alone is larger than half the capacity.

        ``life`` is whatever is known of it, to be looked at from ``calm`` on.
        """
        if type(value) is bytes:
            # A copy: encoders leave room behind what they have written, which nobody counts.
            value = b"".join((b"", value))
        size = sys.getsizeof(key) + sys.getsizeof(value) + _OVERHEAD
        if life is not None:
            size += _LIFE
        if size * 2 > self.capacity:
            entry = self._entries.get(key)
            if entry is not None:
                # What it was to replace must not answer any longer.
                entry.data = _OVER
            return False
        data = (value, encoded, expires, expires if calm is None else calm, life)
        entry = self._entries.get(key)
        if entry is not None and entry.size == size and entry.shortcut is None:
            # Nothing else changes, so there is nothing to be locked.
            entry.data = data
            return True
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._admit(key, Entry(key, data, size), size)
            else:
                self._renew(entry, data, size)
            if self.used > self.capacity:
                self._trim(now)
        return True

    def entry(self, key: bytes) -> Entry | None:
        """The entry itself, to be given to :meth:`link`."""
        return self._entries.get(key)

    def link(self, entry: Entry, table: dict[bytes, Any], short: bytes) -> None:
        """Count what ``table[short]`` takes, and delete it with ``entry``.

        An entry has one shortcut: another is deleted at once.
        """
        with self._lock:
            old = entry.shortcut
            if self._entries.get(entry.key) is not entry:
                table.pop(short, None)
            elif old is not None:
                if old[0] is not table or old[1] != short:
                    table.pop(short, None)
            else:
                entry.shortcut = table, short
                more = sys.getsizeof(short) + _SHORTCUT
                entry.size += more
                self.used += more
                self._small_bytes += 0 if entry.resident else more
                # Whatever is over by now has not been asked for: any moment will do.
                self._trim(0.0)

    def after_fork(self) -> bool:
        """Go on in a child process; False if a thread that is gone was in the midst of a change."""
        torn, self._lock = self._lock.locked(), threading.Lock()
        self.larger = Larger(self.capacity, every=64)
        return not torn

    def resize(self, capacity: int, now: float) -> None:
        """Change the bound, letting go of what no longer fits."""
        with self._lock:
            self.capacity = self.larger.capacity = capacity
            self._trim(now)

    def _trim(self, now: float) -> None:
        while self.used > self.capacity:
            self._expel(now)

    def _admit(self, key: bytes, entry: Entry, size: int) -> None:
        self._entries[key] = entry
        self.used += size
        if self._ghosts.pop(hash(key), self) is None:
            entry.resident = True
            self._main.append(entry)
        else:
            self._small.append(entry)
            self._small_bytes += size

    def _renew(self, entry: Entry, data: Data, size: int) -> None:
        if entry.shortcut is not None:
            self._cut(entry.shortcut)
            entry.shortcut = None
        self.used += size - entry.size
        if not entry.resident:
            self._small_bytes += size - entry.size
        entry.size = size
        entry.data = data

    def _cut(self, shortcut: tuple[dict[bytes, Any], bytes]) -> None:
        # It holds what the entry held when it was laid.
        table, short = shortcut
        table.pop(short, None)

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.key]
        if entry.shortcut is not None:
            self._cut(entry.shortcut)
        self.larger.expelled(entry.key, entry.size)
        self.used -= entry.size
        self.evictions += 1

    def _expel(self, now: float) -> None:
        if self._small and (self._small_bytes * 10 >= self.capacity or not self._main):
            self._expel_newcomer(now)
        else:
            self._expel_resident(now)

    def _expel_newcomer(self, now: float) -> None:
        entry = self._small.popleft()
        self._small_bytes -= entry.size
        if entry.hits > 0 and now < entry.data[2]:
            entry.hits, entry.resident = 0, True
            self._main.append(entry)
            return
        self._forget(entry)
        self._ghosts[hash(entry.key)] = None
        while len(self._ghosts) > len(self._entries) + 16:
            self._ghosts.popitem(last=False)

    def _expel_resident(self, now: float) -> None:
        entry = self._main.popleft()
        if entry.hits > 0 and now < entry.data[2]:
            entry.hits -= 1
            self._main.append(entry)
            return
        self._forget(entry)
