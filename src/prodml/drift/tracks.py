"""What is counted of one column: rows by cell of its distribution, rows by their status.

A track is fitted on one reference sample a season (one, if there are no seasons).  It talks to
a sample of numbers through one question, how many values are at or below some edges, so that
sorted values and counts by cell serve alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.bets import Bets, level_bets, normal_scores, number_bets
from prodml.drift.level import DriftLevel
from prodml.drift.sample import Levels, Numbers

__all__ = ["Aspect", "Track", "at_most", "level_track", "number_track", "status_track"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

# Shares of the reference below its edges: closer in the tails, where ranges go wrong.
_SHARES = np.array(
    [0.01, 0.025, 0.05, 0.08, *(0.125 + 0.05 * i for i in range(16)), 0.92, 0.95, 0.975, 0.99]
)
# Values that so large a share of the rows have are cells of their own.
_LUMP = 0.01
_LEVELS = 40
_STATUS = ("sound", "invalid", "infinite", "missing")
# A cell that no row of the reference is in: Jeffreys' prior for it.
_EMPTY = 0.5
# A cell that this season does not have.
_NO_CELL = 1e-6
# Differences that single precision cannot hold are rounding, not drift.
_ROUNDING = float(np.finfo(np.float32).eps)


class _Sized(Protocol):
    @property
    def rows(self) -> int: ...

    @property
    def size(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Aspect:
    """In what way a column moved, and by how much; ``level`` once it was judged."""

    aspect: str
    effect: float
    floor: float
    reason: str
    level: DriftLevel = DriftLevel.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One thing that is counted, and the bets on it.

    Parameters
    ----------
    name
        ``"numbers"``, ``"levels"`` or ``"status"``.
    bets
        On its counts, in effective rows.
    shares : array of shape (seasons, cells)
        Of the reference, as they were counted.
    labels
        Levels by cell; the last two are the rare ones and new ones.
    known
        All levels of the reference that are listed.
    rest
        Whether the reference has levels that are not listed: then nothing is new.
    cuts : array of shape (seasons, cells - 1)
        Upper ends of the cells of numbers; ``inf`` from where a season has no more.
    design
        Rows that count as one: see :mod:`prodml.drift.blocks`.
    stake
        Share of the feature's budget.

    Examples
    --------
    >>> from prodml.drift.sample import levels_of
    >>> track = level_track([levels_of(["a"] * 60 + ["b"] * 40)])
    >>> track.labels, track.count(levels_of(["b", "b", "c", None])).tolist()
    (('a', 'b', '(rare)', '(new)'), [0, 2, 0, 1])
    """

    name: str
    bets: Bets
    shares: Floats
    stake: float
    labels: tuple[Any, ...] = ()
    known: frozenset[Any] = frozenset()
    rest: bool = False
    cuts: Floats = field(default_factory=lambda: np.empty((0, 0)))
    design: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Seasons and cells."""
        seasons, cells = self.shares.shape
        return seasons, cells

    def count(self, sample: Any, season: int = 0) -> Ints:
        """Rows of ``sample`` by cell."""
        if self.name == "numbers":
            upto = np.minimum(at_most(sample, self.cuts[season]), sample.size)
            return np.diff(np.concatenate(([0], upto, [sample.size]))).astype(np.int64)
        if self.name == "levels":
            return _by_level(sample, self.labels, self.known, rest=self.rest)
        return _by_status(sample)

    def wealth(self, counts: npt.NDArray[Any]) -> Floats:
        """Logarithm of the wealth of each of the counts of shape (n, seasons, cells)."""
        return self.bets.log_wealth(counts / self.design)

    def lumped(self, design: float) -> "Track":
        """The same with rows of which so many count as one."""
        cells = self.bets.cells * self.design / design
        bets = replace(self.bets, cells=cells, tilts=self.bets.tilts * self.design / design)
        return replace(self, bets=bets, design=design)

    def moved(self, by: float) -> Floats:
        """Shares of the cells after a move: up by standard deviations, or off the first level."""
        if self.name == "numbers":
            tilted = self.shares * np.exp(by * normal_scores(self.bets.cells))
            return np.asarray(tilted / tilted.sum(axis=1, keepdims=True))
        stays = math.exp(-by)
        first = self.shares[:, :1]
        rest = self.shares[:, 1:] * (1.0 - first * stays) / np.maximum(1.0 - first, 1e-9)
        return np.concatenate([first * stays, rest], axis=1)

    def effect(self, shares: Floats) -> float:
        """Share of rows that moved, for shares of shape (seasons, cells)."""
        moved = (shares - self.shares).mean(axis=0)
        if self.name == "numbers":
            return float(np.abs(np.cumsum(moved)).max())
        return float(np.abs(moved).sum() / 2)

    def pair(self, counts: Ints) -> tuple[Floats, Floats]:
        """Shares by cell of the reference, in the seasons of ``counts``, and of these."""
        rows = counts.sum(axis=1, keepdims=True)
        total = max(1.0, float(rows.sum()))
        return (self.shares * rows).sum(axis=0) / total, counts.sum(axis=0) / total

    def aspects(self, counts: Ints, floor: float, new: float) -> list[Aspect]:
        """How far ``counts`` of shape (seasons, cells) lie from the reference."""
        before, after = self.pair(counts)
        total = max(1.0, float(counts.sum()))
        if self.name == "numbers":
            return [self._of_numbers(before, after, floor)]
        if self.name == "levels":
            return [self._of_levels(before, after, floor, total), self._new(after, new)]
        return [
            Aspect(
                aspect=_STATUS[i] if _STATUS[i] != "invalid" else "type",
                effect=abs(float(after[i] - before[i])),
                floor=floor,
                reason=f"{_RATES[i]} {_percent(before[i])} -> {_percent(after[i])}",
            )
            for i in (1, 2, 3)
        ]

    def _of_numbers(self, before: Floats, after: Floats, floor: float) -> Aspect:
        old, new = np.cumsum(before)[:-1], np.cumsum(after)[:-1]
        at = int(np.abs(new - old).argmax())
        where = f"at most {self.cuts[0, at]:.4g}" if len(self.cuts) == 1 else "below an edge"
        return Aspect(
            aspect="distribution",
            effect=float(abs(new[at] - old[at])),
            floor=floor,
            reason=f"{where}: {_percent(old[at])} -> {_percent(new[at])}",
        )

    def _of_levels(self, before: Floats, after: Floats, floor: float, rows: float) -> Aspect:
        moved = after - before
        at = int(np.abs(moved).argmax())
        # What chance alone is expected to add to a squared distance is taken off.
        noise = float((before * (1.0 - before)).sum() * self.design / rows)
        squared = float((moved**2).sum())
        kept = math.sqrt(max(0.0, 1.0 - noise / squared)) if squared else 0.0
        label = f"{self.labels[at]!s:.40}"
        return Aspect(
            aspect="distribution",
            effect=float(np.abs(moved).sum() / 2) * kept,
            floor=floor,
            reason=f"{label} {_percent(before[at])} -> {_percent(after[at])}",
        )

    def _new(self, after: Floats, floor: float) -> Aspect:
        share = float(after[-1])
        return Aspect(
            aspect="levels", effect=share, floor=floor, reason=f"new levels {_percent(share)}"
        )


_RATES = ("", "of a wrong type", "infinite", "missing")


def _percent(share: float) -> str:
    return f"{100 * float(share):.3g} %"


def at_most(sample: Any, edges: Floats) -> Ints:
    """How many finite values of a sample are at or below each of the edges.

    Examples
    --------
    >>> from prodml.drift.sample import numbers_of
    >>> at_most(numbers_of([1.0, 2.0, 2.0, 3.0]), np.array([0.0, 2.0, np.inf])).tolist()
    [0, 3, 4]
    """
    if isinstance(sample, Numbers):
        return np.searchsorted(sample.values, edges, "right").astype(np.int64)
    finite = np.isfinite(edges)
    found = np.full(len(edges), sample.size, dtype=np.int64)
    found[finite] = sample.cumulative(edges[finite])
    return found


def number_track(samples: Sequence[Any], design: float = 1.0, stake: float = 1.0) -> Track:
    """Track of numbers: cells between edges of the reference, lumps in cells of their own."""
    edges = [_edges(sample) for sample in samples]
    cells = max(map(len, edges)) + 1
    cuts = np.full((len(samples), cells - 1), np.inf)
    weights = np.full((len(samples), cells), _NO_CELL)
    shares = np.zeros((len(samples), cells))
    for season, (sample, own) in enumerate(zip(samples, edges, strict=True)):
        upto = np.concatenate(([0], at_most(sample, own), [sample.size]))
        counts = np.diff(upto)
        cuts[season, : len(own)] = own
        shares[season, : len(counts)] = counts / max(1, sample.size)
        weights[season, : len(counts)] = np.where(counts > 0, counts, _EMPTY)
        # The gap above the largest of n values: one of n + 1, exactly.
        weights[season, len(own)] = counts[-1] + 1.0
    return Track(
        name="numbers",
        bets=number_bets(weights / design),
        shares=shares,
        cuts=cuts,
        design=design,
        stake=stake,
    )


def _edges(sample: Any) -> Floats:
    """Where the cells of a reference end: at fixed ranks, and on both sides of lumps."""
    if not isinstance(sample, Numbers):
        offered = np.asarray(sample.edges(100))
        at = at_most(sample, offered) / max(1, sample.size)
        near = np.abs(at[:, None] - _SHARES).argmin(axis=0)
        big = np.nonzero(np.diff(at, prepend=0.0) > 2 * _LUMP)[0]
        ends = np.array([0, len(at) - 1])
        return np.unique(offered[np.concatenate((near, big, np.maximum(big - 1, 0), ends))])
    n, values = sample.size, sample.values
    ranks = np.unique(np.clip(np.round(_SHARES * n), 1, n).astype(int))
    ends = np.unique(values[np.concatenate(([0], ranks - 1, [n - 1]))])
    ties = np.searchsorted(values, ends, "right") - np.searchsorted(values, ends, "left")
    lumps = ties >= max(2, _LUMP * n)
    with np.errstate(over="ignore"):
        slack = np.where(lumps, np.abs(ends) * _ROUNDING, 0.0)
        under = np.nextafter(ends - slack, -np.inf)
        return np.unique(np.concatenate((ends + slack, under[lumps])))


def level_track(samples: Sequence[Levels], design: float = 1.0, stake: float = 1.0) -> Track:
    """Track of levels: the most frequent ones, the rare ones together, new ones together.

    New levels are expected as often as Good and Turing expect them: as often as the reference
    has levels that occur once.
    """
    sums: dict[Any, int] = {}
    for sample in samples:
        for level, count in sample.counts.items():
            sums[level] = sums.get(level, 0) + count
    top = sorted(sums, key=lambda level: (-sums[level], str(level)))
    kept = [level for level in top[:_LEVELS] if sums[level] > 1]
    labels = (*kept, "(rare)", "(new)")
    known = frozenset(sums)
    rest = any(sample.rest for sample in samples)
    counts = np.array([_by_level(s, labels, known, rest=rest) for s in samples], dtype=float)
    weights = np.array([_expected(*pair) for pair in zip(samples, counts, strict=True)])
    return Track(
        name="levels",
        bets=level_bets(weights / design, _doubts(samples, weights)),
        shares=counts / np.maximum(1.0, counts.sum(axis=1, keepdims=True)),
        labels=labels,
        known=known,
        rest=rest,
        design=design,
        stake=stake,
    )


def _expected(sample: Levels, counts: Floats) -> Floats:
    once = 0 if sample.rest else sum(count == 1 for count in sample.counts.values())
    weights = np.where(counts > 0, counts, _EMPTY)
    # What is new comes out of the share of those seen once, who are fewer than they look.
    weights[-1] = once + _EMPTY
    weights[-2] = max(_EMPTY, counts[-2] - once)
    return weights


def _doubts(samples: Sequence[Levels], weights: Floats) -> Floats:
    """How much less certain the shares of rare and of new levels are than counted ones.

    Good and Turing's estimate of what is new has about the variance of as many rows as there
    are levels seen once, and twice those seen twice; what is new is lost to the rare ones.
    """
    once, twice = (
        np.array([sum(c == k for c in s.counts.values()) for s in samples]) for k in (1, 2)
    )
    found = np.ones(weights.shape[1])
    for cell in (-2, -1):
        found[cell] += ((once + 2.0 * twice) / weights[:, cell]).max()
    return found


def _by_level(
    sample: Levels, labels: tuple[Any, ...], known: frozenset[Any], *, rest: bool
) -> Ints:
    place = {label: at for at, label in enumerate(labels[:-2])}
    counts = np.zeros(len(labels), dtype=np.int64)
    # What is not listed may be anything that the reference does not list either.
    strange = -2 if rest else -1
    counts[strange] = sample.rest
    for level, count in sample.counts.items():
        counts[place.get(level, -2 if level in known else strange)] += count
    return counts


def status_track(samples: Sequence[_Sized], design: float = 1.0, stake: float = 1.0) -> Track:
    """Track of rows by status: sound, of a wrong type, infinite, missing."""
    counts = np.array([_by_status(sample) for sample in samples], dtype=float)
    weights = np.where(counts > 0, counts, _EMPTY)
    return Track(
        name="status",
        bets=level_bets(weights / design),
        shares=counts / np.maximum(1.0, counts.sum(axis=1, keepdims=True)),
        labels=_STATUS,
        design=design,
        stake=stake,
    )


def _by_status(sample: Any) -> Ints:
    other = (sample.invalid, sample.infinite, sample.missing)
    return np.array([sample.rows - sum(other), *other], dtype=np.int64)
