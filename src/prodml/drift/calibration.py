"""What a monitor would have done with the reference itself: known before it is switched on.

Rows of one day share the day.  A thousand of them are weaker evidence than a thousand rows of
a thousand days, and how much weaker the reference itself can tell: design effects by feature,
and a replay in which some days of the reference are watched by a monitor fitted on the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml.drift.baseline import Baseline, baseline, codes_of, taken
from prodml.drift.blocks import block_codes
from prodml.drift.budget import FalseAlarms, seconds_of
from prodml.drift.level import DriftLevel
from prodml.drift.sample import Kind
from prodml.drift.sequential import Grains, Ledger, Rules, Watched, standing
from prodml.drift.table import table_of
from prodml.drift.terminal import clean
from prodml.drift.tracks import Track
from prodml.errors import BadConfiguration, CorruptRecord

__all__ = ["Calibration", "calibrate"]

Floats: TypeAlias = npt.NDArray[np.float64]
Design: TypeAlias = Mapping[str, Mapping[str, float]]

# By how much design effects are enlarged until the reference does not alarm against itself.
_FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
_HORIZONS = (1, 7, 30)
_FAR = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the reference says of a monitor that is to watch by it.

    Parameters
    ----------
    days
        Blocks of the reference.
    rows_per_day
        Rows of the median block.
    design
        By feature and aspect (``"distribution"``, ``"missing"``): rows that count as one.
    factors
        By feature: by how much its design effects were enlarged, because its own days
        would have alarmed.
    alarmed_as_rows, alarmed
        By feature: share of the reference's own days in alarm, if every row is counted as
        one, and with ``design``.
    unsettled
        Features whose own days alarm whatever the factor: the reference itself moves.
    visible
        By feature: smallest effect (share of rows) found within 1, 7 and 30 days; NaN
        where no effect would be.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> day = np.repeat(np.arange(40), 100)
    >>> wind = 0.7 * rng.normal(size=40)[day] + rng.normal(size=4000)
    >>> found = calibrate({"wind": wind}, blocks=day)
    >>> found.alarmed_as_rows["wind"] > 0.5, found.alarmed["wind"], found.unsettled
    (True, 0.0, ())
    >>> found.visible["wind"][7] > 0.1
    True
    """

    days: int
    rows_per_day: int
    design: Design
    factors: Mapping[str, float]
    alarmed_as_rows: Mapping[str, float]
    alarmed: Mapping[str, float]
    unsettled: tuple[str, ...]
    visible: Mapping[str, Mapping[int, float]] = field(repr=False)

    def __str__(self) -> str:
        head = f"{self.days} days of about {self.rows_per_day} rows"
        lines = [
            head,
            "feature  rows as one  own days in alarm: as rows, now  visible in 1, 7, 30 days",
        ]
        for name, effects in self.design.items():
            seen = ", ".join(
                "-" if math.isnan(share) else f"{100 * share:.0f} %"
                for share in self.visible[name].values()
            )
            as_rows, now = 100 * self.alarmed_as_rows[name], 100 * self.alarmed[name]
            size = f"{effects.get('distribution', 1.0):.3g}"
            lines.append(f"{clean(name)}  {size}  {as_rows:.0f} %, {now:.0f} %  {seen}")
        if self.unsettled:
            told = ", ".join(map(clean, self.unsettled))
            lines.append(f"the reference itself moves: {told}")
        return "\n".join(lines)

    def covers(self, names: Sequence[str]) -> None:
        """Check that it was made for all of these features.

        Raises
        ------
        BadConfiguration
            A feature would be watched as if no two rows were alike.
        """
        missing = [name for name in names if name not in self.design]
        if missing:
            raise BadConfiguration(
                f"the calibration was made without {missing[0]!r}: calibrate on the same columns"
            )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; see :meth:`from_dict`."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        visible = {
            name: {str(days): None if math.isnan(x) else x for days, x in seen.items()}
            for name, seen in self.visible.items()
        }
        return {**plain, "unsettled": list(self.unsettled), "visible": visible}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Calibration":
        """What :meth:`to_dict` gave.

        Raises
        ------
        CorruptRecord
            It is something else.

        Examples
        --------
        >>> day = np.repeat(np.arange(20), 20)
        >>> found = calibrate({"x": np.random.default_rng(0).normal(size=400)}, blocks=day)
        >>> Calibration.from_dict(found.to_dict()).design == found.design
        True
        """
        try:
            visible = {
                name: {int(days): math.nan if x is None else x for days, x in seen.items()}
                for name, seen in plain["visible"].items()
            }
            fields = {name: plain[name] for name in _PLAIN}
            unsettled = tuple(plain["unsettled"])
            _check_design(fields["design"])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise CorruptRecord("a stored calibration", repr(error)) from error
        return cls(**fields, unsettled=unsettled, visible=visible)


_PLAIN = ("days", "rows_per_day", "design", "factors", "alarmed_as_rows", "alarmed")


def calibrate(
    reference: Any,
    feature_names: Sequence[str] | None = None,
    *,
    blocks: Any,
    false_alarms: str | FalseAlarms = "5% per quarter",
    every: float | str = "1d",
    kinds: Mapping[str, Kind] | None = None,
    seasonal: Any = None,
    min_effect: float = 0.05,
    min_new_levels: float = 0.01,
    min_rows: int = 30,
    folds: int = 5,
) -> Calibration:
    """Replay the reference against itself, day by day.

    The days, in the order in which they appear, are cut into ``folds`` stretches.  Each
    stretch is watched, one check a day, by a monitor fitted on all others.  Design effects
    of features whose days would have used up the budget are enlarged until they do not.

    Parameters
    ----------
    reference, feature_names, kinds, seasonal
        As for :class:`DriftMonitor`; the data itself, not a fitted reference.
    blocks
        One label a row: its day.  At least ten.
    false_alarms, every, min_effect, min_new_levels, min_rows
        Those of the monitor that is to be switched on.
    folds
        Stretches, at least 2.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, too few blocks, or labels that do not fit the rows.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> day = np.repeat(np.arange(30), 50)
    >>> found = calibrate({"x": rng.normal(size=1500)}, blocks=day)
    >>> found.days, found.rows_per_day, found.alarmed
    (30, 50, {'x': 0.0})
    """
    if not _whole(folds):
        raise BadConfiguration(f"folds must be at least 2, not {folds!r}")
    budget = FalseAlarms.read(false_alarms)
    grains = Grains.over(budget.seconds, seconds_of(every, "every"))
    rules = Rules(
        alpha=budget.alpha,
        features=1,
        min_effect=min_effect,
        min_new=min_new_levels,
        min_rows=min_rows,
        recent_rows=1000,
    )
    codes = block_codes(blocks)
    whole = baseline(
        reference, feature_names, kinds=kinds, blocks=blocks, seasonal=seasonal, min_rows=min_rows
    )
    rules = replace(rules, features=len(whole.features))
    sizes = np.bincount(codes)
    folds = min(folds, len(sizes))
    replays = list(_replays(reference, whole, codes, seasonal, folds=folds, min_rows=min_rows))
    found = {
        name: _settled(name, one, replays, grains, rules) for name, one in whole.features.items()
    }
    per_day = int(np.median(sizes))
    return Calibration(
        days=len(sizes),
        rows_per_day=per_day,
        design={name: one.design for name, one in found.items()},
        factors={name: one.factor for name, one in found.items()},
        alarmed_as_rows={name: one.as_rows for name, one in found.items()},
        alarmed={name: one.alarmed for name, one in found.items()},
        unsettled=tuple(name for name, one in found.items() if not one.quiet),
        visible={
            name: _visible(one, found[name].design, per_day, grains, rules)
            for name, one in whole.features.items()
        },
    )


def _check_design(design: Design) -> None:
    effects = [effect for own in design.values() for effect in own.values()]
    if not all(1.0 <= effect < math.inf for effect in effects):
        raise ValueError("rows that count as one must be at least 1")


def _whole(folds: Any) -> bool:
    return isinstance(folds, int) and folds >= 2


@dataclass(frozen=True, slots=True)
class _Settled:
    design: dict[str, float]
    factor: float
    as_rows: float
    alarmed: float
    quiet: bool


@dataclass(frozen=True, slots=True)
class _Replay:
    """One stretch of days: features fitted on all others, and counts by day."""

    features: Mapping[str, Watched]
    days: Sequence[Mapping[str, list[Any]]]


def _replays(
    reference: Any, whole: Baseline, codes: Any, seasonal: Any, *, folds: int, min_rows: int
) -> Any:
    n, raws = len(codes), table_of(reference, whole.names).columns
    columns = {name: taken(raws[name], np.arange(n), n) for name in whole.names}
    labels = None if seasonal is None else codes_of(seasonal)[1]
    kinds: Any = {name: one.kind for name, one in whole.features.items()}
    none = {name: {"distribution": 1.0, "missing": 1.0} for name in columns}
    for stretch in np.array_split(np.arange(int(codes.max()) + 1), folds):
        inside = np.isin(codes, stretch)
        rest = np.nonzero(~inside)[0]
        part = baseline(
            {name: taken(raw, rest, n) for name, raw in columns.items()},
            whole.names,
            kinds=kinds,
            seasonal=None if labels is None else taken(labels, rest, n),
            design=none,
            min_rows=min_rows,
        )
        yield _Replay(
            part.features,
            [_day(part, columns, np.nonzero(codes == day)[0], labels) for day in stretch],
        )


def _day(part: Baseline, columns: Mapping[str, Any], rows: Any, labels: Any) -> Any:
    """Counts of one day by feature; seasons the rest does not have are left out."""
    found: dict[str, list[Any]] = {}
    own = np.zeros(len(rows), dtype=np.int64) if labels is None else labels[rows]
    for label in np.unique(own):
        if labels is not None and label not in part.seasons:
            continue
        season = 0 if labels is None else part.season(int(label))
        chosen = rows[own == label]
        for name, one in part.features.items():
            sample = part.columns[name].read(taken(columns[name], chosen, len(columns[name])))
            counts = one.count(sample, season)
            before = found.get(name)
            found[name] = (
                counts if before is None else [a + b for a, b in zip(before, counts, strict=True)]
            )
    return found


def _settled(
    name: str, one: Watched, replays: Sequence[_Replay], grains: Grains, rules: Rules
) -> _Settled:
    first: dict[str, float] = dict.fromkeys(("distribution", "missing"), 1.0)
    as_rows, _ = _alarms(name, first, replays, grains, rules)
    base = {
        "missing" if track.name == "status" else "distribution": track.design
        for track in one.tracks
    }
    base = first | base
    share, quiet, factor, design = 0.0, True, 1.0, base
    for factor in _FACTORS:
        design = {
            # An effect of one is rows that are independent: it need not be enlarged.
            aspect: 1.0 + (effect - 1.0) * factor if factor == 1.0 else effect * factor
            for aspect, effect in base.items()
        }
        share, quiet = _alarms(name, design, replays, grains, rules)
        if quiet:
            break
    return _Settled(design, factor, as_rows, share, quiet)


def _alarms(
    name: str, design: Mapping[str, float], replays: Sequence[_Replay], grains: Grains, rules: Rules
) -> tuple[float, bool]:
    """Share of days in alarm, and whether none of them had evidence over the budget."""
    days = alarms = over = 0
    for replay in replays:
        tracks = [_in_blocks(t, design) for t in replay.features[name].tracks]
        ledgers = [Ledger(grains, track.shape) for track in tracks]
        for day, counts in enumerate(replay.days):
            days += 1
            for ledger, one in zip(ledgers, counts.get(name, ()), strict=False):
                ledger.add((day + 0.5) * grains.every, one)
            pairs = zip(tracks, ledgers, strict=True)
            found = [standing(t, ledger, rules, drifting=False) for t, ledger in pairs]
            told = [s for s in found if s is not None]
            alarms += any(s.first.level is DriftLevel.DRIFT for s in told)
            over += any(s.p_adjusted <= rules.alpha for s in told)
    return alarms / max(1, days), not over


def _in_blocks(track: Track, design: Mapping[str, float]) -> Track:
    effect = design["missing" if track.name == "status" else "distribution"]
    return track.lumped(effect)


def _visible(
    one: Watched, design: Mapping[str, float], per_day: int, grains: Grains, rules: Rules
) -> dict[int, float]:
    tracks = [t for t in one.tracks if t.name != "status"]
    if not tracks:
        return dict.fromkeys(_HORIZONS, math.nan)
    track = _in_blocks(tracks[0], design)
    return {days: _smallest(track, days * per_day, grains, rules) for days in _HORIZONS}


def _smallest(track: Track, rows: int, grains: Grains, rules: Rules) -> float:
    """Effect at which the counts that are expected of it are evidence enough."""
    start = math.log(grains.weights[0] * track.stake)
    need = math.log(rules.features / rules.alpha) - start
    low, high = 0.0, _FAR
    if _wealth(track, high, rows) < need:
        return math.nan
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if _wealth(track, middle, rows) >= need else (middle, high)
    return track.effect(track.moved(high))


def _wealth(track: Track, by: float, rows: int) -> float:
    counts = track.moved(by) * rows / len(track.shares)
    return float(track.wealth(counts[None])[0])
