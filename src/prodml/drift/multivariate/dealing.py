"""Rows that come in blocks are dealt out by whole blocks.

A permutation of rows takes every row for an observation of its own.  Rows of one day share the
day: any two days differ, and such a test says so, rightly and of no use.  Dealt out by whole
blocks [1]_ the question becomes whether *these* blocks differ from those more than some blocks
of the reference differ from all others.  It asks of the data only that without drift one block
could be exchanged for another.

Blocks of different sizes could not be: from every block as many rows are drawn as the usual
block of current has, and no more than there is room for.

References
----------
.. [1] Anderson and ter Braak (2003), *Permutation tests for multi-factorial analysis of
   variance*, Journal of Statistical Computation and Simulation 73.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.blocks import MIN_BLOCKS
from prodml.drift.multivariate.encoding import Sheet, rows_of
from prodml.drift.table import Counted, column_of
from prodml.errors import BadConfiguration
from prodml.types import is_missing

__all__ = ["Coder", "Dealt", "Held", "dealt", "share_as_far"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


class Coder(Protocol):
    """Makes matrices of tables."""

    def raw(self, data: Any) -> dict[str, Any]:
        """Columns of ``data`` that it reads, as they are."""
        ...

    def survey(self, data: Any) -> Sheet:
        """What is in ``data``, without its values."""
        ...

    def pair(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Sheet, Sheet]:
        """Two samples, encoded by both of them together."""
        ...


# Of blocks without number some are enough: a matrix of their pairs is held.
_MOST_BLOCKS = 500


@dataclass(frozen=True, slots=True)
class Held:
    """Rows of a reference by block: as raw columns, and how many of each block.

    Examples
    --------
    >>> data = {"x": np.arange(40.0)}
    >>> rng = np.random.default_rng(0)
    >>> held = Held.of(data, np.arange(40) // 4, np.ones(40, dtype=bool), 20, rng)
    >>> held.sizes.tolist()
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """

    columns: Mapping[str, Any]
    sizes: Ints
    most: int

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Any],
        labels: Any,
        some: Bools,
        most: int,
        rng: np.random.Generator,
    ) -> "Held":
        """At most ``most`` of the rows that hold ``some`` value.

        Raises
        ------
        BadConfiguration
            Not one label a row, rows without a label, or fewer than ten blocks.
        """
        try:
            codes = _codes(labels, len(some))
        except TypeError as error:
            raise BadConfiguration(f"blocks of the reference: {error}") from error
        blocks = _rows_by_block(codes, some, rng)
        if len(blocks) < MIN_BLOCKS:
            raise BadConfiguration(
                f"blocks must have at least {MIN_BLOCKS} different labels, not {len(blocks)}: "
                f"use shorter blocks or a longer reference"
            )
        blocks = blocks[: min(most, _MOST_BLOCKS)]
        each = max(1, most // len(blocks))
        kept = [rows[:each] for rows in blocks]
        sizes = np.array([len(rows) for rows in kept])
        return cls(rows_of(columns, np.concatenate(kept)), sizes, most)

    def thinned(self, each: int) -> tuple[dict[str, Any], list[int]]:
        """At most ``each`` rows a block, and how many they are."""
        starts = np.cumsum(self.sizes) - self.sizes
        kept = np.minimum(self.sizes, each).tolist()
        rows = [np.arange(at, at + n) for at, n in zip(starts.tolist(), kept, strict=True)]
        return rows_of(self.columns, np.concatenate(rows)), kept


def _codes(labels: Any, rows: int) -> Ints:
    column = column_of(labels, by_row=True)
    assert not isinstance(column, Counted)
    listed: list[Any] = column if isinstance(column, list) else column.tolist()
    if len(listed) != rows:
        raise TypeError(f"{len(listed)} labels of blocks for {rows} rows")
    if any(map(is_missing, listed)):
        raise TypeError("a row without a block: label every row, or leave it out")
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in listed], dtype=np.int64)


def _rows_by_block(codes: Ints, some: Bools, rng: np.random.Generator) -> list[Ints]:
    """Rows that hold something, by block, both in random order."""
    order = rng.permutation(np.flatnonzero(some))
    order = order[np.argsort(codes[order], kind="stable")]
    blocks = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    return [blocks[at] for at in rng.permutation(len(blocks)).tolist()]


@dataclass(frozen=True, slots=True)
class Dealt:
    """Rows of both samples, those of current first, and every way in which they may be dealt.

    ``codes`` is the block of every row, ``new`` how many of them are current's.  ``ways`` says
    of every block (a line) whether it plays current in this dealing (a column); the first is
    what happened.
    """

    rows: Floats
    owner: tuple[str, ...]
    codes: Ints
    new: int
    ways: Bools

    @property
    def blocks(self) -> int:
        """Blocks of both samples."""
        return len(self.ways)

    @property
    def told(self) -> str:
        """How many blocks there are, for people."""
        return f"{self.new} of {self.blocks} blocks"

    def too_few(self, alpha: float) -> str:
        """Why no p-value can fall below ``alpha``; empty where it can."""
        if self.ways.shape[1] * alpha > 1.0:
            return ""
        needed = self.blocks
        while math.comb(needed, self.new) * alpha <= 1.0:
            needed += 1
        return (
            f"{self.told} can be dealt in {self.ways.shape[1]} ways, so no p-value falls below "
            f"{alpha:.3g}; {needed} blocks would do"
        )


def dealt(
    held: Held,
    coder: Coder,
    current: Any,
    sheet: Sheet,
    labels: Any,
    *,
    permutations: int,
    seed: int,
) -> Dealt:
    """Rows of the reference and of ``current``, encoded together, to be dealt by block.

    Without ``labels`` current is one block.

    Raises
    ------
    TypeError
        There is not one label a row of current.
    """
    rng = np.random.default_rng([seed, 2])
    codes = np.zeros(sheet.rows, dtype=np.int64) if labels is None else _codes(labels, sheet.rows)
    blocks = _rows_by_block(codes, sheet.some, rng)[: min(held.most, _MOST_BLOCKS)]
    usual = int(np.median([len(rows) for rows in blocks]))
    each = max(1, min(usual, held.most // len(blocks), int(held.sizes.max())))
    mine = [rows[:each] for rows in blocks]
    theirs, sizes = held.thinned(each)
    old, new = coder.pair(theirs, rows_of(coder.raw(current), np.concatenate(mine)))
    sizes = [*map(len, mine), *sizes]
    place = np.repeat(np.arange(len(sizes)), sizes)
    return Dealt(
        np.vstack((new.values, old.values)),
        old.owner,
        place[np.concatenate((new.some, old.some))],
        len(mine),
        _ways(len(sizes), len(mine), permutations, rng),
    )


def _ways(blocks: int, new: int, permutations: int, rng: np.random.Generator) -> Bools:
    """All dealings if they are few, else some at random; the real one first."""
    if math.comb(blocks, new) <= permutations + 1:
        chosen = np.array(list(combinations(range(blocks), new)))
    else:
        drawn = [rng.permutation(blocks)[:new] for _ in range(permutations)]
        chosen = np.vstack((np.arange(new), *drawn))
    ways = np.zeros((blocks, len(chosen)), dtype=np.bool_)
    ways[chosen.T, np.arange(len(chosen))] = True
    return ways


def share_as_far(found: Floats, scale: float = 0.0) -> float:
    """The p-value of the first dealing: the share of all that are at least as far.

    Sums that differ by 1e-10 of ``scale`` are the same, added up in another order.

    Examples
    --------
    >>> share_as_far(np.array([3.0, 1.0, 3.0, 2.0]))
    0.5
    """
    least = found[0] - 1e-10 * max(abs(float(found[0])), abs(scale))
    return float((found >= least).mean())
