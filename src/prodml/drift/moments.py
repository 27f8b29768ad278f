"""Moments of the last so many values, without ever subtracting one.

Taking an old value out of a running sum leaves its rounding behind: after one value of 1e9
a sum of numbers near 0.3 is wrong for ever.  Here values only enter.  The window is two
stacks (the queue of two stacks of Okasaki [1]_): new values go into one aggregate; when the
old stack is used up, the values in the window are stacked once, newest first, each with the
moments of all values newer than it.

References
----------
.. [1] Okasaki (1998), *Purely Functional Data Structures*, section 5.2.
"""

from collections import deque

from prodml._sketch import Moments

__all__ = ["SlidingMoments"]


class SlidingMoments:
    """Count, mean, variance, smallest and largest of the last ``size`` values.

    Adding costs the same for any size, on average; once in ``size`` values the stack is
    built anew.  Not safe for threads.

    Examples
    --------
    >>> sliding = SlidingMoments(2)
    >>> for value in (1e9, 1.0, 2.0):
    ...     sliding.add(value)
    >>> sliding.moments().mean, sliding.moments().maximum
    (1.5, 2.0)
    """

    __slots__: tuple[str, ...] = ("_new", "_old", "_size", "_values")

    def __init__(self, size: int) -> None:
        self._size: int = size
        # Values of the new stack; those of the old one survive only in its aggregates.
        self._values: deque[float] = deque()
        self._new: Moments = Moments()
        self._old: list[Moments] = []

    def __len__(self) -> int:
        return len(self._values) + len(self._old)

    def add(self, value: float) -> None:
        """Take in a finite ``value``; the oldest leaves when the window is full."""
        if len(self) >= self._size:
            self.drop()
        self._values.append(value)
        self._new.add(value)

    def drop(self) -> None:
        """Let the oldest value go."""
        if not self._old:
            self._restack()
        self._old.pop()

    def moments(self) -> Moments:
        """Moments of the values in the window, as they are now."""
        return (_copy(self._old[-1]) if self._old else Moments()).merge(self._new)

    def _restack(self) -> None:
        running = Moments()
        while self._values:
            running.add(self._values.pop())
            self._old.append(_copy(running))
        self._new = Moments()


def _copy(moments: Moments) -> Moments:
    return Moments(moments.count, moments.mean, moments.m2, moments.minimum, moments.maximum)
