"""Evidence that grows check by check, and may be looked at as often as one likes.

If nothing has moved, what a bet (:mod:`prodml.drift.bets`) has become exceeds ``1 / a`` at any
time with probability at most ``a`` (Ville's inequality), however often it is looked at.  A bet
that begins on the first day is worth nothing on the day of a late change, so new ones begin all
the time: every ``every`` seconds, and in grains of 8, 64, ... times that, each kept for 24
grains.  All starts that can be alive in one period of the budget share its alpha (a union
bound, because their sampling errors have one reference in common), as do all features.

Only counts by grain are kept: whole numbers, that add up in any order, so that evidence is the
same after a restart, and of replicas together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.level import DriftLevel
from prodml.drift.tracks import Aspect, Track, level_track, number_track, status_track
from prodml.errors import BadConfiguration

__all__ = ["Grains", "Ledger", "Rules", "Standing", "Watched", "watched"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_KEEP = 24
_COARSER = 8
# Of a feature's budget: its values, and whether they are there at all.
_STAKES = (0.75, 0.25)


@dataclass(frozen=True, slots=True)
class Grains:
    """Where bets begin: ``levels`` of grains, the finest of ``every`` seconds.

    Examples
    --------
    >>> grains = Grains.over(91 * 86400.0, 86400.0)
    >>> grains.levels, grains.weights
    (2, (0.004310344827586207, 0.013513513513513514))
    """

    every: float
    weights: tuple[float, ...]

    @classmethod
    def over(cls, period: float, every: float) -> "Grains":
        """Grains whose longest bets last for a period at least.

        Raises
        ------
        BadConfiguration
            ``every`` is longer than the period.
        """
        if every > period:
            raise BadConfiguration(
                f"every must be at most the time of false_alarms, {period:g} s, not {every:g} s"
            )
        levels = 1
        while _KEEP * _COARSER ** (levels - 1) * every < period:
            levels += 1
        # In any period: those that begin in it, those that go on, one cut by each end.
        alive = [math.ceil(period / every / _COARSER**level) + _KEEP + 1 for level in range(levels)]
        return cls(every, tuple(1.0 / (levels * count) for count in alive))

    @property
    def levels(self) -> int:
        """How many sorts of grains there are."""
        return len(self.weights)

    def at(self, time: float, level: int) -> int:
        """Number of the grain that ``time`` lies in."""
        return math.floor(time / self._size(level))

    def begin(self, grain: int, level: int) -> float:
        """When a grain begins."""
        return grain * self._size(level)

    def _size(self, level: int) -> float:
        return self.every * float(_COARSER**level)


@dataclass(slots=True)
class Ledger:
    """Counts of one track by grain.

    Examples
    --------
    >>> ledger = Ledger(Grains.over(10.0, 1.0), (1, 2))
    >>> ledger.add(0.5, np.array([[1, 2]])), ledger.add(3.5, np.array([[5, 5]]))
    (True, True)
    >>> ledger.starts().counts.tolist()
    [[[5, 5]], [[6, 7]]]
    """

    grains: Grains
    shape: tuple[int, int]
    levels: list[dict[int, Ints]] = field(init=False)

    def __post_init__(self) -> None:
        self.levels = [{} for _ in self.grains.weights]

    def add(self, time: float, counts: Ints, *, sure: bool = False) -> bool:
        """Add counts of shape (seasons, cells) that belong to ``time``.

        ``sure`` says that it is now: what lies in the future then was dated by a clock that
        ran ahead, and is moved to now rather than hide what comes.  Returns whether the
        counts were young enough to be kept at all.
        """
        kept = [
            _add(tallies, self.grains.at(time, level), counts, sure=sure)
            for level, tallies in enumerate(self.levels)
        ]
        return any(kept)

    def copy(self) -> "Ledger":
        """The same counts; what is added to one is not in the other."""
        other = Ledger(self.grains, self.shape)
        # Counts are never changed in place: to add is to make new ones.
        other.levels = [dict(tallies) for tallies in self.levels]
        return other

    def merge(self, other: "Ledger") -> None:
        """Add the counts of ``other``."""
        for mine, its in zip(self.levels, other.levels, strict=True):
            for grain, counts in its.items():
                _add(mine, grain, counts)

    def starts(self) -> "Starts":
        """What has come since each start that is alive, the latest first."""
        times: list[float] = []
        weights: list[float] = []
        sums: list[Ints] = []
        for level, tallies in enumerate(self.levels):
            order = sorted(tallies, reverse=True)
            if order:
                sums.append(np.cumsum([tallies[grain] for grain in order], axis=0))
            times += [self.grains.begin(grain, level) for grain in order]
            weights += [self.grains.weights[level]] * len(order)
        counts = np.concatenate(sums) if sums else np.zeros((0, *self.shape), dtype=np.int64)
        return Starts(np.array(times), np.log(weights), counts)

    def to_list(self) -> list[dict[str, list[list[int]]]]:
        """Ready for JSON."""
        return [
            {str(grain): counts.tolist() for grain, counts in tallies.items()}
            for tallies in self.levels
        ]

    def load(self, plain: Sequence[Mapping[str, Any]]) -> None:
        """Add what :meth:`to_list` gave.

        Raises
        ------
        ValueError
            The counts are of another shape; nothing was added.
        """
        read = Ledger(self.grains, self.shape)
        read.levels = [
            {int(grain): _whole(counts) for grain, counts in tallies.items()} for tallies in plain
        ]
        if any((counts < 0).any() for tallies in read.levels for counts in tallies.values()):
            raise ValueError("counts below zero")
        shapes = {counts.shape for tallies in read.levels for counts in tallies.values()}
        if len(read.levels) != len(self.levels) or not shapes <= {self.shape}:
            raise ValueError(f"counts of shape {shapes} instead of {self.shape}")
        self.merge(read)


def _whole(counts: Any) -> Ints:
    found = np.array(counts)
    if found.dtype.kind not in "iu" and found.size:
        raise ValueError(f"counts of type {found.dtype}")
    return found.astype(np.int64)


def _add(tallies: dict[int, Ints], grain: int, counts: Ints, *, sure: bool = False) -> bool:
    newest = max(tallies, default=grain)
    if grain <= newest - _KEEP:
        if not sure:
            return False
        for ahead in [g for g in tallies if g > grain]:
            counts, newest = counts + tallies.pop(ahead), grain
    old = tallies.get(grain)
    tallies[grain] = counts.copy() if old is None else old + counts
    for late in [g for g in tallies if g <= max(newest, grain) - _KEEP]:
        del tallies[late]
    return True


@dataclass(frozen=True, slots=True)
class Starts:
    """Counts since each start: ``times``, logarithms of the weights, counts (n, seasons, cells)."""

    times: Floats
    log_weights: Floats
    counts: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a verdict is judged by; see :class:`~prodml.drift.DriftMonitor`."""

    alpha: float
    features: int
    min_effect: float
    min_new: float
    min_rows: int
    recent_rows: int
    easing: float = 0.75

    def __post_init__(self) -> None:
        shares: dict[str, Any] = {"min_effect": self.min_effect, "min_new_levels": self.min_new}
        for name, value in shares.items():
            if not (isinstance(value, int | float) and 0.0 <= value <= 1.0):
                raise BadConfiguration(f"{name} must be a share in [0, 1], not {value!r}")
        counts: dict[str, Any] = {"min_rows": self.min_rows, "recent_rows": self.recent_rows}
        for name, value in counts.items():
            if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
                raise BadConfiguration(f"{name} must be a whole number >= 1, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one track stands: its best bet, and sizes since that began and of late.

    ``before`` and ``after`` are the shares by cell of the reference and of late.
    """

    log_e: float
    p_adjusted: float
    since: float
    rows: int
    aspects: tuple[Aspect, ...]
    track: Track
    before: Floats
    after: Floats

    @property
    def first(self) -> Aspect:
        """The gravest aspect."""
        return min(self.aspects, key=lambda a: (_GRAVITY[a.level], -_times_floor(a)))


_GRAVITY = {
    DriftLevel.DRIFT: 0,
    DriftLevel.INCONCLUSIVE: 1,
    DriftLevel.NEGLIGIBLE: 2,
    DriftLevel.NONE: 3,
}


def _times_floor(aspect: Aspect) -> float:
    return aspect.effect / aspect.floor if aspect.floor else aspect.effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One feature: its tracks, and why its values cannot be watched, if so."""

    name: str
    kind: str
    tracks: tuple[Track, ...]
    problem: str = ""

    def ledgers(self, grains: Grains) -> tuple[Ledger, ...]:
        """Empty ones, one a track."""
        return tuple(Ledger(grains, track.shape) for track in self.tracks)

    def count(self, sample: Any, season: int) -> list[Ints]:
        """Counts of a batch, of shape (seasons, cells), one a track."""
        found: list[Ints] = []
        for track in self.tracks:
            counts = np.zeros(track.shape, dtype=np.int64)
            counts[season] = track.count(sample, season)
            found.append(counts)
        return found


def watched(
    name: str, kind: str, samples: Sequence[Any], design: Mapping[str, float], min_rows: int
) -> Watched:
    """Tracks of one column from its reference samples, one a season."""
    rows, size = min(s.rows for s in samples), min(s.size for s in samples)
    missing = status_track(samples, design.get("missing", 1.0), _STAKES[1])
    where = "the reference" if len(samples) == 1 else "a season of the reference"
    if rows < min_rows:
        return _unwatched(name, kind, (), f"{rows} rows in {where}; {min_rows} are needed")
    if kind == "time":
        return _unwatched(
            name,
            kind,
            (missing,),
            "time always moves: derive what the model uses (an hour, an age), "
            "or set its kind to 'numeric'",
        )
    if size < min_rows:
        return _unwatched(
            name, kind, (missing,), f"{size} values in {where}; {min_rows} are needed"
        )
    spread = design.get("distribution", 1.0)
    if kind == "numeric":
        return Watched(
            name=name, kind=kind, tracks=(number_track(samples, spread, _STAKES[0]), missing)
        )
    if all(s.uncounted or len(s.counts) == s.size for s in samples):
        return _unwatched(name, kind, (missing,), "no level occurs twice: an identifier?")
    return Watched(name=name, kind=kind, tracks=(level_track(samples, spread, _STAKES[0]), missing))


def _unwatched(name: str, kind: str, tracks: tuple[Track, ...], problem: str) -> Watched:
    return Watched(name=name, kind=kind, tracks=tracks, problem=problem)


def standing(track: Track, ledger: Ledger, rules: Rules, *, drifting: bool) -> Standing | None:
    """Evidence and size of one track; None before there are rows enough."""
    starts = ledger.starts()
    rows = starts.counts.sum(axis=(1, 2))
    if not len(rows) or rows.max() < rules.min_rows:
        return None
    wealth = track.wealth(starts.counts) + starts.log_weights + math.log(track.stake)
    best = int(wealth.argmax())
    log_e = float(wealth[best])
    p = min(1.0, rules.features * math.exp(-min(log_e, 700.0)))
    late = _recent(rows, best, rules)
    floors = (rules.min_effect, rules.min_new)
    since = track.aspects(starts.counts[best], *floors)
    now = track.aspects(starts.counts[late], *floors)
    found = p <= rules.alpha and rows[late] >= rules.min_rows
    before, after = track.pair(starts.counts[late])
    return Standing(
        log_e=log_e,
        p_adjusted=p,
        since=float(starts.times[best]),
        rows=int(rows[late]),
        track=track,
        before=before,
        after=after,
        aspects=tuple(
            _judged(*pair, found=found, easing=rules.easing if drifting else 1.0)
            for pair in zip(since, now, strict=True)
        ),
    )


def _recent(rows: Ints, best: int, rules: Rules) -> int:
    """The shortest look back that has rows enough and goes no further than the change."""
    enough = (rows >= min(rules.recent_rows, int(rows[best]))) & (rows <= rows[best])
    return int(np.where(enough, rows, np.iinfo(np.int64).max).argmin())


def _judged(since: Aspect, now: Aspect, *, found: bool, easing: float) -> Aspect:
    # Both: since the change, where noise is least, and of late, so that what is over is over.
    smaller = min(since, now, key=lambda aspect: aspect.effect)
    level = DriftLevel.NONE
    if found:
        enough = smaller.effect >= smaller.floor * easing
        level = DriftLevel.DRIFT if enough else DriftLevel.NEGLIGIBLE
    return Aspect(
        aspect=now.aspect,
        effect=smaller.effect,
        floor=now.floor,
        reason=now.reason,
        level=level,
    )
