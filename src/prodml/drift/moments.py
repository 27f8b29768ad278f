"""Moments of the values in a window, without ever subtracting one.

Taking an old value out of a running sum leaves its rounding behind: after one value of 1e9
a sum of numbers near 0.3 is wrong for ever.  Here values only enter.  The window is two
stacks (the queue of two stacks of Okasaki [1]_): new values go into one aggregate; when the
old stack is used up, the values in the window are stacked once, newest first, each with the
moments of all values newer than it.  Values come in batches, so both are array operations.

References
----------
.. [1] Okasaki (1998), *Purely Functional Data Structures*, section 5.2.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from prodml._sketch import Moments

__all__ = ["SlidingMoments"]

Floats: TypeAlias = npt.NDArray[np.float64]

_NONE: Floats = np.empty(0)


class SlidingMoments:
    """Count, mean, variance, smallest and largest of the finite values in a window.

    Adding costs the same for any window, on average; once in a window's length the stack is
    built anew.  Who drops decides how long the window is: by count, or by time with
    ``stamps``.  Not safe for threads.

    Examples
    --------
    >>> sliding = SlidingMoments()
    >>> sliding.extend(np.array([1e9, 1.0, np.nan, 2.0]))
    >>> sliding.drop(1)
    array([1.e+09])
    >>> len(sliding), sliding.moments().mean, sliding.moments().maximum
    (3, 1.5, 2.0)
    """

    __slots__: tuple[str, ...] = ("_left", "_new", "_news", "_old", "_size", "_stack")

    def __init__(self) -> None:
        # The old stack oldest first, with its stamps, and the aggregates of its newest.
        self._old: tuple[Floats, Floats] = (_NONE, _NONE)
        self._stack: tuple[Floats, ...] | None = None
        self._left: int = 0
        # What has come since, and its moments.
        self._news: list[tuple[Floats, Floats]] = []
        self._new: Moments = Moments()
        self._size: int = 0

    def __len__(self) -> int:
        return self._size

    def extend(self, values: Floats, stamps: Floats = _NONE) -> None:
        """Take in ``values``, oldest first; what is not finite has a place and no moments.

        ``stamps`` are their times, ascending, for :meth:`until`.
        """
        self._news.append((values, stamps))
        self._new.merge(moments_of(values))
        self._size += len(values)

    def drop(self, count: int) -> Floats:
        """Let the ``count`` oldest values go, and return them."""
        gone: list[Floats] = []
        while count > 0:
            if not self._left:
                self._restack()
            taken = min(count, self._left)
            begin = len(self._old[0]) - self._left
            gone.append(self._old[0][begin : begin + taken])
            self._left -= taken
            self._size -= taken
            count -= taken
        return np.concatenate(gone) if gone else _NONE

    def values(self) -> Floats:
        """Values in the window, oldest first."""
        old = self._old[0][len(self._old[0]) - self._left :]
        return np.concatenate([old, *(values for values, _ in self._news)])

    def until(self, stamp: float) -> int:
        """How many of the oldest values have a stamp of at most ``stamp``."""
        total = 0
        for stamps in self._stamps():
            found = int(np.searchsorted(stamps, stamp, side="right"))
            total += found
            if found < len(stamps):
                break
        return total

    def moments(self) -> Moments:
        """Moments of the values in the window, as they are now."""
        if not self._left:
            return Moments().merge(self._new)
        if self._stack is None:
            self._stack = _suffixes(self._old[0][::-1])
        count, mean, m2, low, high = (float(column[self._left - 1]) for column in self._stack)
        return Moments(int(count), mean, m2, low, high).merge(self._new)

    def _stamps(self) -> Iterator[Floats]:
        if self._left:
            yield self._old[1][-self._left :]
        for _, stamps in self._news:
            yield stamps

    def _restack(self) -> None:
        values, stamps = zip(*self._news, strict=True)
        self._old = (np.concatenate(values), np.concatenate(stamps))
        # Found when it is asked for.
        self._stack = None
        self._left = len(self._old[0])
        self._news, self._new = [], Moments()


def moments_of(values: Floats) -> Moments:
    """Moments of the finite ones of ``values``."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Moments()
    mean = float(finite.mean())
    apart = finite - mean
    return Moments(
        finite.size, mean, float((apart * apart).sum()), float(finite.min()), float(finite.max())
    )


def _suffixes(newest: Floats) -> tuple[Floats, ...]:
    """Count, mean, m2, smallest and largest of the first 1, 2, ... of ``newest``."""
    finite = np.isfinite(newest)
    # All contain the first one: a distance from it is never large beside their spread.
    centre = newest[np.argmax(finite)] if finite.any() else 0.0
    apart = np.where(finite, newest - centre, 0.0)
    count = np.cumsum(finite, dtype=np.float64)
    some = np.maximum(count, 1.0)
    total = np.cumsum(apart)
    m2 = np.maximum(np.cumsum(apart * apart) - total * total / some, 0.0)
    low = np.minimum.accumulate(np.where(finite, newest, np.inf))
    high = np.maximum.accumulate(np.where(finite, newest, -np.inf))
    return count, np.where(count > 0.0, centre + total / some, 0.0), m2, low, high
