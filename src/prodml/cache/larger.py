"""What a larger memory would have answered, from what was expelled and asked for again.

A sample of the expelled keys is remembered, with how many bytes have been expelled by then.
When such a key is asked for again, the bytes expelled since say how much larger the memory
would have had to be to have it still.  Sampling by the key's hash keeps this cheap and fair
(Waldspurger et al. 2015, "Efficient MRC construction with SHARDS", FAST).
"""

from collections import OrderedDict
from threading import Lock
from typing import Final

__all__ = ["FACTORS", "Larger"]

FACTORS: Final = (1.5, 2.0, 4.0, 8.0)
"""How many times larger, at least and at most, an answer is given for."""


class Larger:
    """Counts the look-ups that larger memories would have answered.

    Parameters
    ----------
    capacity
        Bytes of the memory that there is.
    every
        One key in so many is remembered; a power of two.

    Examples
    --------
    >>> larger = Larger(1000, every=1)
    >>> larger.expelled(b"a", 400), larger.expelled(b"b", 400)
    (None, None)
    >>> larger.missed(b"a")
    >>> larger.hits()
    {1.5: 0, 2.0: 1, 4.0: 1, 8.0: 1}
    """

    __slots__: tuple[str, ...] = ("_counts", "_gone", "_lock", "_mask", "_total", "capacity")

    def __init__(self, capacity: int, *, every: int = 64) -> None:
        self.capacity: int = capacity
        self._mask: int = every - 1
        self._total: int = 0
        self._lock: Lock = Lock()
        # By hash: two keys of one hash are too rare to matter to an estimate.
        self._gone: OrderedDict[int, int] = OrderedDict()
        self._counts: dict[float, int] = dict.fromkeys(FACTORS, 0)

    def expelled(self, key: bytes, size: int) -> None:
        """Note that ``key`` had to go, with ``size`` bytes; not called by two threads at once."""
        name = hash(key)
        if not name & self._mask:
            farthest = (FACTORS[-1] - 1.0) * self.capacity
            with self._lock:
                self._gone[name] = self._total
                while self._total - next(iter(self._gone.values())) > farthest:
                    self._gone.popitem(last=False)
        self._total += size

    def missed(self, key: bytes) -> None:
        """Note that ``key`` was asked for and is not there."""
        name = hash(key)
        if name & self._mask:
            return
        with self._lock:
            gone = self._gone.pop(name, None)
        if gone is None:
            return
        needed = self._total - gone
        for factor in FACTORS:
            if needed <= (factor - 1.0) * self.capacity:
                self._counts[factor] += 1

    def hits(self) -> dict[float, int]:
        """Hits more than there were, in each memory so many times larger."""
        return {factor: count * (self._mask + 1) for factor, count in self._counts.items()}
