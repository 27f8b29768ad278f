"""Predictions that wait for their labels, as many as fit."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.types import is_missing

__all__ = ["Pending"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(slots=True)
class Pending:
    """Lines by id, the oldest leaving first; not safe for threads.

    Examples
    --------
    >>> pending = Pending(most=2)
    >>> pending.add(["a", "b", "c"], np.arange(6.0).reshape(3, 2))
    >>> pending.take("a") is None, np.frombuffer(pending.take("c")).tolist(), pending.evicted
    (True, [4.0, 5.0], 1)
    """

    most: int
    evicted: int = 0
    _lines: OrderedDict[Hashable, bytes] = field(default_factory=OrderedDict[Hashable, bytes])

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, ids: Sequence[Any], lines: Floats) -> None:
        """Remember one line an id; an id that waits already gets the newer line.

        A row without an id waits for nothing.
        """
        # Nothing is remembered of a batch with an id that cannot be.
        for key in ids:
            hash(key)
        named = ((key, line) for key, line in zip(ids, lines, strict=True) if not is_missing(key))
        for key, line in named:
            self._lines.pop(key, None)
            self._lines[key] = line.tobytes()
            self.hold(self.most)

    def hold(self, most: int) -> None:
        """Hold at most so many from now on."""
        self.most = most
        while len(self._lines) > most:
            self._lines.popitem(last=False)
            self.evicted += 1

    def take(self, key: Any) -> bytes | None:
        """The line of ``key``, which then waits no more; None if it does not wait."""
        try:
            return self._lines.pop(key, None)
        except TypeError:
            return None

    def waiting(self) -> tuple[list[Hashable], list[bytes]]:
        """Ids and their lines, the oldest first."""
        return list(self._lines), list(self._lines.values())
