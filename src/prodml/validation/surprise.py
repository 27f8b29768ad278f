"""How surprising one value of one feature is, against what a reference held.

A surprise is ``-log p``, where ``p`` is the share of the reference at least as far out; it is
0 for an everyday value, 3 for one in twenty, 7 for one in a thousand, and never more than 50.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, Protocol, cast

from prodml.types import MISS, is_missing
from prodml.validation.columns import Column
from prodml.validation.kinds import kind_of_type

__all__ = ["LARGEST", "Levels", "Numbers", "Surprise", "number"]

LARGEST = 50.0
_KNOTS = 128
_NUMBERS = frozenset({"bool", "float", "int"})


class Surprise(Protocol):
    """One feature of the reference."""

    def of(self, value: Any) -> float:
        """Surprise of one value; never raises."""
        ...

    def of_all(self, values: Column) -> Any:
        """Surprise of every value of a column."""
        ...


def number(value: Any) -> float:
    """``value`` as a float; NaN if it is none.

    Examples
    --------
    >>> number(True), number("3"), number(None)
    (1.0, nan, nan)
    """
    if type(value) is float:
        return value
    try:
        return float(value) if kind_of_type(type(value)) in _NUMBERS else math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return math.nan


def _bits(share: float) -> float:
    return min(LARGEST, -math.log(share)) if share > 0 else LARGEST


class Numbers:
    """Empirical tails of a number, carried on beyond the extremes by an exponential.

    Examples
    --------
    >>> import numpy as np
    >>> age = Numbers(np.arange(1000.0))
    >>> age.of(500.0) < 0.1, age.of(999.0) > 5, age.of(5000.0) > 10, age.of(None) > 5
    (True, True, True, True)
    """

    __slots__: tuple[str, ...] = ("_cells", "_fall", "_knots", "_missing", "_sides")

    def __init__(self, values: Any, *, sides: int = 2) -> None:
        import numpy as np

        known = np.sort(values[np.isfinite(values)])
        self._sides: int = sides
        self._missing: float = _bits((len(values) - len(known) + 0.5) / (len(values) + 1))
        if not len(known):
            known = np.zeros(1)
        count = int(np.clip(2 * np.sqrt(len(known)), 16, _KNOTS))
        grid = np.unique(known[np.linspace(0, len(known) - 1, count).round().astype(int)])
        size = len(known) + 1
        below = (np.searchsorted(known, grid, "right") + 0.5) / size
        above = (len(known) - np.searchsorted(known, grid, "left") + 0.5) / size
        # Cell i lies between two knots: the shares at least as far out to either side.
        left, right = np.append(below, 1.0), np.append(1.0, above)
        tails = 2 * np.minimum(left, right) if sides == 2 else right
        if sides == 2:
            tails = np.minimum(tails, _sparse(known, grid))
        self._cells: list[float] = (-np.log(np.minimum(1.0, tails))).tolist()
        self._knots: list[float] = grid.tolist()
        self._fall: tuple[float, float] = (_fall(-known[::-1]), _fall(known))

    def of(self, value: Any) -> float:
        """Surprise of one value; what is no number counts as missing."""
        x = value if type(value) is float else number(value)
        if x != x:  # noqa: PLR0124 - only NaN differs from itself
            return self._missing
        knots = self._knots
        surprise = self._cells[bisect_right(knots, x)]
        if x > knots[-1]:
            surprise += (x - knots[-1]) * self._fall[1]
        elif x < knots[0] and self._sides == 2:
            surprise += (knots[0] - x) * self._fall[0]
        return min(LARGEST, surprise)

    def of_all(self, values: Column) -> Any:
        """Surprise of every value."""
        import numpy as np

        if isinstance(values, list) or values.dtype.kind not in "iufb":
            x = np.array([number(value) for value in values], dtype=np.float64)
        else:
            x = values.astype(np.float64)
        knots = np.asarray(self._knots)
        with np.errstate(all="ignore"):
            surprise = np.asarray(self._cells)[np.searchsorted(knots, x, "right")]
            surprise = surprise + np.maximum(0.0, x - knots[-1]) * self._fall[1]
            if self._sides == 2:
                surprise += np.maximum(0.0, knots[0] - x) * self._fall[0]
        return np.where(np.isnan(x), self._missing, np.minimum(surprise, LARGEST))


def _sparse(known: Any, grid: Any) -> Any:
    """Share of the reference that lies at most twice as dense as each cell: small in gaps.

    Twice, for the density of a cell with few rows is known no better.
    """
    import numpy as np

    inner = np.diff(np.searchsorted(known, grid, "left")) + 0.5
    density = inner / np.diff(grid)
    order = np.argsort(density)
    masses = np.append(0.0, np.cumsum(inner[order]))
    share = masses[np.searchsorted(density[order], 2 * density, "right")] / (len(known) + 1)
    # The cells beyond the extremes are the tails' business.
    return np.concatenate([[1.0], share, [1.0]])


def _fall(known: Any) -> float:
    """Rate of the exponential that fits the upper twentieth; a constant falls at once."""
    start = known[int(0.95 * (len(known) - 1))]
    excess = float((known[known >= start] - start).mean())
    spread = float(known[-1] - known[0])
    floor = spread / len(known) if spread else max(1e-9, abs(float(known[0])) * 1e-6)
    return 1.0 / max(excess, floor)


class Levels:
    """How rare a level is: the share of rows whose level is no more frequent.

    A level that was not seen has the chance of an unseen one, estimated by the rows whose
    level occurred once (Good-Turing).

    Examples
    --------
    >>> plan = Levels(["a"] * 90 + ["b"] * 10)
    >>> plan.of("a") < 0.1, 2 < plan.of("b") < 3, plan.of("new") > 5
    (True, True, True)
    """

    __slots__: tuple[str, ...] = ("_known", "_missing", "_unseen")

    def __init__(self, values: Sequence[Any]) -> None:
        known = [_level(value) for value in values if not is_missing(value)]
        size = len(values) + 1
        counts = Counter(known)
        at_most: dict[int, int] = {}
        running = 0
        for count, levels in sorted(Counter(counts.values()).items()):
            running += count * levels
            at_most[count] = running
        shares = {level: at_most[count] / size for level, count in counts.items()}
        self._known: dict[Any, float] = {level: _bits(share) for level, share in shares.items()}
        once = sum(count == 1 for count in counts.values())
        self._unseen: float = _bits((once + 0.5) / size)
        self._missing: float = _bits((len(values) - len(known) + 0.5) / size)

    def of(self, value: Any) -> float:
        """Surprise of one value."""
        found = self._known.get(value) if type(value) is str else None
        if found is not None:
            return found
        if is_missing(value):
            return self._missing
        return self._known.get(_level(value), self._unseen)

    def of_all(self, values: Column) -> Any:
        """Surprise of every value."""
        import numpy as np

        listed = values if isinstance(values, list) else values.tolist()
        return np.array([self.of(value) for value in listed], dtype=np.float64)


def _level(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        # A list, or a tuple with one in it, is no level of a reference.
        return MISS
    return cast("Hashable", value)
