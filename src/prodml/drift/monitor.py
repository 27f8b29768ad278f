"""A monitor that can be left switched on: one budget of false alarms for all of its checks."""

import hashlib
import json
import math
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Self, cast, final

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.arrival import Arrival, Counts, arrived, in_order, lies_here, of_rows
from prodml.drift.baseline import Baseline, baseline
from prodml.drift.budget import FalseAlarms, seconds_of
from prodml.drift.calibration import Calibration, calibrate
from prodml.drift.exchangeability import Finding, noted, repeats
from prodml.drift.keeping import Keeper
from prodml.drift.level import DriftLevel
from prodml.drift.monitored import MonitoredFeature, MonitorReport, profile_of
from prodml.drift.sample import Kind
from prodml.drift.sequential import Grains, Ledger, Rules, Standing, Watched, standing
from prodml.drift.table import Picked, table_of
from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import EVENTS, DriftCleared, DriftDetected, Stream
from prodml.stores import open_store

__all__ = ["DriftMonitor"]

_FIXED = "the evidence so far rests on it: build another monitor"
_FORMAT = 1
# Rows given one by one wait until there are so many, or until a check.
_TOGETHER = 256
# So many of the latest states that were merged are known again.
_REMEMBERED = 1024


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DriftMonitor:
    """Compare everything that comes with one reference, for as long as it comes.

    Evidence is carried on from check to check, and the chance of *any* false alarm, over all
    features and however many checks, stays within ``false_alarms``.  A feature drifted when
    the evidence is beyond its share of the budget *and* the effect, since the change and of
    late, is at least the floor.

    Parameters
    ----------
    reference
        The data that the model knows, in any form that :class:`DriftDetector` takes, or a
        fitted :class:`Reference`.
    feature_names
        Names of an array's columns, or the columns of a table to watch (default all).
    false_alarms
        In words: "5% per quarter", "1 % a month", "once a year".  The promise is for any
        stretch of that time.
    every
        How finely the beginning of a change is looked for: seconds, or "1d", "15m".  As
        often as data come is right; check as often as you like.
    min_effect
        Smallest effect that is called drift: share of rows, in [0, 1].
    min_new_levels
        Smallest share of rows with levels that the reference does not have, in [0, 1].
    min_rows
        Rows that the reference and the time since a change need, at least 1.
    recent_rows
        Rows of late, at most, in which the effect must still be seen: what is over is over.
    categorical, kinds
        As for :class:`DriftDetector`.
    blocks
        One label a row of the reference (its day) when rows of one block are alike: the
        monitor is calibrated on them, see :func:`calibrate`, and says so in ``calibration``.
    calibration
        A :class:`Calibration` made before, instead of ``blocks``.
    seasonal
        One label a row of the reference (its weekday, its hour): each batch is then compared
        with rows of its own label, and the evidence goes on over all labels.
    order
        Whether the rows of each batch are looked at for order and copies, see
        :func:`exchangeability`.
    store
        URL or store in which the evidence survives a restart, under ``name``: one monitor a
        name.  Later failures are logged, and a check waits a second for it at most.
    name
        Names the monitor in facts, reports and the store.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, the reference cannot be fitted, or the store holds the
        evidence of another reference.
    CorruptRecord, StoreUnavailable
        The store holds no evidence that can be read, or does not answer: to begin anew would
        write over what is there.

    Notes
    -----
    Safe for any number of threads; ``add`` never waits for a verdict.  States
    :class:`~prodml.events.DriftDetected` when a feature drifts that did not before and
    :class:`~prodml.events.DriftCleared` when none does any more; an alarm ends when the effect
    of late is below three quarters of the floor, and the evidence of that feature then begins
    anew.  The promise is exact where values have no ties, and measured to hold with ties and
    levels; with ``blocks`` it rests on design effects, which are estimates.  It counts
    references too: once in twenty, at 5 %, a reference is unlucky.  How it works is told in
    *Evidence that may be looked at any time* of the docs.

    Examples
    --------
    >>> import numpy as np
    >>> from prodml.testing import ManualClock
    >>> rng, clock = np.random.default_rng(0), ManualClock()
    >>> monitor = DriftMonitor(rng.normal(size=(2000, 2)), ["age", "fare"], clock=clock)
    >>> found = []
    >>> for day in range(20):
    ...     batch = rng.normal(size=(250, 2)) + [0.0, 0.5 * (day >= 10)]
    ...     found.append(monitor.check(batch).drifted)
    ...     clock.advance(86400)
    >>> found[9], found[11]
    ((), ('fare',))
    """

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(
        default=None, kw_only=False, metadata={"fixed": _FIXED}
    )
    false_alarms: str | FalseAlarms = field(default="5% per quarter", metadata={"fixed": _FIXED})
    every: float | str = field(default="1d", metadata={"fixed": _FIXED})
    min_effect: float = 0.05
    min_new_levels: float = 0.01
    min_rows: int = field(default=30, metadata={"fixed": _FIXED})
    recent_rows: int = 1000
    categorical: Sequence[str] = field(default=(), metadata={"fixed": _FIXED})
    kinds: Mapping[str, Kind] | None = field(default=None, repr=False)
    blocks: Any = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    seasonal: Any = field(default=None, repr=False)
    order: bool = True
    store: Any = field(default=None, repr=False)
    name: str = "drift-monitor"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    _base: Baseline = field(init=False, repr=False)
    _budget: FalseAlarms = field(init=False, repr=False)
    _grains: Grains = field(init=False, repr=False)
    _mark: str = field(init=False, repr=False)
    _usual: Any = field(default=None, init=False, repr=False)
    _keeper: Keeper | None = field(default=None, init=False, repr=False)
    _ledgers: dict[str, tuple[Ledger, ...]] = field(init=False, repr=False)
    _drifting: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _gone: dict[str, str] = field(init=False, repr=False)
    _unread: dict[str, str] = field(init=False, repr=False)
    _waiting: dict[tuple[int, int], tuple[float, list[Any]]] = field(init=False, repr=False)
    _held: int = field(default=0, init=False, repr=False)
    # Names these counts, so that they are not added twice anywhere.
    _id: str = field(init=False, repr=False)
    _merged: tuple[str, ...] = field(init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    # One verdict at a time; always taken before the other.
    _judging: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._budget = FalseAlarms.read(self.false_alarms)
        self._grains = Grains.over(self._budget.seconds, seconds_of(self.every, "every"))
        _check(self)
        self._rules(1)
        self._base = self._fitted()
        self.feature_names, self.categorical = self._base.names, tuple(self.categorical)
        # The raw data may be large: what is kept is what was fitted.
        self.reference = self._base
        self.blocks = self.seasonal = None
        self._mark = _mark_of(self._grains, self._base)
        self._empty()
        if self.store is not None:
            store = open_store(self.store)
            self._keeper = Keeper(store=store, key=self._key, state=self._state)
            self._recall(store.get(self._key))

    def _fitted(self) -> Baseline:
        if isinstance(self.reference, Baseline):
            return self.reference
        kinds = {**dict.fromkeys(self.categorical, "categorical"), **(self.kinds or {})}
        if self.blocks is not None and self.calibration is None:
            self.calibration = calibrate(
                self.reference,
                self.feature_names,
                blocks=self.blocks,
                false_alarms=self._budget,
                every=self.every,
                kinds=cast("Mapping[str, Kind]", kinds),
                seasonal=self.seasonal,
                min_effect=self.min_effect,
                min_new_levels=self.min_new_levels,
                min_rows=self.min_rows,
            )
        base = baseline(
            self.reference,
            self.feature_names,
            kinds=cast("Mapping[str, Kind]", kinds),
            seasonal=self.seasonal,
            design=None if self.calibration is None else self.calibration.design,
            min_rows=self.min_rows,
        )
        if self.calibration is not None:
            self.calibration.covers(base.names)
        if self.order and lies_here(self.reference):
            columns = table_of(self.reference, self.feature_names).columns
            self._usual = repeats({name: columns[name] for name in base.names})
        return base

    # -- what comes in ----------------------------------------------------------------------

    def check(
        self, batch: Any = None, *, season: Any = None, at: float | None = None
    ) -> MonitorReport:
        """Add a batch, if there is one, and judge all that has come so far.

        Parameters
        ----------
        batch
            A table in any of the forms of ``reference``; None judges what :meth:`add` brought.
            Lazy frames (polars, DuckDB, ...) are counted where they lie, and what comes in
            parts (readers and datasets of pyarrow, a path of Parquet) part by part; the
            order of their rows is not looked at.  Frames of Spark and Dask, and a
            :class:`Reference` that was counted elsewhere, need a monitor on a counted one.
        season
            Label of the batch, or one a row, for a monitor with ``seasonal``.
        at
            When the rows came, seconds since the epoch; None is now.  To replay a history.
            Rows may come late, and in any order.

        Returns
        -------
        MonitorReport
            A verdict for every feature of the reference, whatever the batch looks like.

        Raises
        ------
        TypeError
            ``batch`` is no table at all; nothing was added.
        BadConfiguration
            A season that the reference does not have, or an ``at`` that is no time; nothing
            was added.

        Examples
        --------
        >>> monitor = DriftMonitor({"x": [float(i % 7) for i in range(70)]})
        >>> print(monitor.check({"y": [1.0]})["x"].reason)
        the column is gone
        """
        now = self.clock.time() if at is None else _time(at)
        came = Arrival() if batch is None else arrived(self._base, batch, season)
        findings = () if batch is None else self._findings(came)
        with self._judging:
            with self._lock:
                self._flush()
                if not self._add(now, came.counts, sure=at is None):
                    findings = (*findings, _finding("late", _LATE))
                seen = self._seen(came)
            # Rows go on coming in while this is weighed.
            report = self._report(now, came, findings, seen)
            before = seen.drifting
            after = frozenset(report.drifted) | (before & frozenset(report.inconclusive))
            self._settle(before, after)
        # The alarm before the store: neither a store that stalls nor a crash costs it.
        self._announce(report, before, after)
        self._save()
        return report

    def _settle(self, before: frozenset[str], after: frozenset[str]) -> None:
        with self._lock:
            self._drifting = after
            # What is over is over: evidence of it must not raise another alarm.
            for name in before - after:
                self._ledgers[name] = self._base.features[name].ledgers(self._grains)

    def add(self, row: Any, *, season: Any = None) -> None:
        """Take in one row: a mapping, or values in the order of the features.

        Never raises for what a row holds: what is no row counts as one with every value
        missing.  The values are copied, so that a row may be used again; a few hundred rows
        wait at most, whether or not anybody checks.

        Raises
        ------
        BadConfiguration
            A season that the reference does not have.

        Examples
        --------
        >>> monitor = DriftMonitor({"x": [float(i % 7) for i in range(70)]})
        >>> for i in range(70):
        ...     monitor.add({"x": None})
        >>> monitor.check()["x"].reason
        'missing 0 % -> 100 %'
        """
        at, now = self._base.season(season), self.clock.time()
        key, values = (self._grains.at(now, 0), at), in_order(row, self._base.names)
        with self._lock:
            self._waiting.setdefault(key, (now, []))[1].append(values)
            self._held += 1
            if self._held >= _TOGETHER:
                self._flush()

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the counts of a replica: what its :meth:`drain` gave.

        Whole numbers are added, so the order of replicas does not matter, to the last bit.
        No row counts twice: states carry a name, and one that was merged before (of the
        last 1024), here or in one of those merged here, is refused.  So is a second
        :meth:`to_dict` of a replica that goes on, which would hold the rows of the first.

        Raises
        ------
        BadConfiguration
            The replica has another reference or other settings, or its rows are counted
            here already; nothing was added.
        CorruptRecord
            The state cannot be read; nothing was added.

        Examples
        --------
        >>> reference = {"x": [float(i % 7) for i in range(70)]}
        >>> leader, replica = DriftMonitor(reference), DriftMonitor(reference)
        >>> replica.check({"x": [6.0] * 40}).drifted
        ('x',)
        >>> leader.merge(replica.drain())
        >>> leader.check().drifted, replica.check().drifted
        (('x',), ())
        """
        kept = self._read(state)
        with self._lock:
            known = {self._id, *self._merged} & {kept.id, *kept.merged}
            if known:
                raise BadConfiguration(
                    f"monitor {self.name!r} has counted these rows already (state "
                    f"{min(known)}): merge each drain() of a replica once"
                )
            for name, ledgers in kept.ledgers.items():
                for mine, its in zip(self._ledgers[name], ledgers, strict=True):
                    mine.merge(its)
            self._merged = (*self._merged, *kept.merged, kept.id)[-_REMEMBERED:]
        self._save()

    def drain(self) -> dict[str, Any]:
        """The counts so far, for :meth:`merge` elsewhere; this monitor begins anew."""
        with self._judging, self._lock:
            state = self.to_dict()
            self._empty()
        self._save()
        return state

    def reset(self) -> None:
        """Forget all evidence, and any alarm, without a word."""
        with self._judging, self._lock:
            self._empty()
        self._save()

    # -- what is kept -----------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All that a restart needs, ready for JSON: counts, and what is in alarm.

        Examples
        --------
        >>> reference = {"x": [float(i % 7) for i in range(70)]}
        >>> state = DriftMonitor(reference).to_dict()
        >>> DriftMonitor(reference).restore(state).check().drift_detected
        False
        """
        with self._lock:
            self._flush()
            ledgers = self._copied()
            state = {
                "format": _FORMAT,
                "id": self._id,
                "merged": list(self._merged),
                "reference": self._mark,
                "gone": dict(self._gone),
                "drifting": sorted(self._drifting),
            }
        plain = {name: [one.to_list() for one in tracks] for name, tracks in ledgers.items()}
        return {**state, "features": plain}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Go on from what :meth:`to_dict` gave, instead of what has come so far.

        Raises
        ------
        BadConfiguration
            The state is that of another reference or other settings; nothing changed.
        CorruptRecord
            The state cannot be read; nothing changed.
        """
        self._take(self._read(state))
        self._save()
        return self

    def _take(self, kept: "_Kept") -> None:
        with self._judging, self._lock:
            self._empty()
            self._ledgers, self._drifting, self._gone = kept.ledgers, kept.drifting, kept.gone
            self._id, self._merged = kept.id, kept.merged

    def _read(self, state: Any) -> "_Kept":
        """A state, or the reason why it cannot be read here; nothing changes."""
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            raise CorruptRecord(self._key, f"no state of a monitor in format {_FORMAT}")
        if state.get("reference") != self._mark:
            raise BadConfiguration(
                f"the state of monitor {self.name!r} belongs to another reference or other "
                f"settings: give the monitor another name, or delete the state"
            )
        ledgers = {name: one.ledgers(self._grains) for name, one in self._base.features.items()}
        plain = cast("dict[str, Any]", state)
        try:
            for name, own in ledgers.items():
                for ledger, counts in zip(own, plain["features"][name], strict=True):
                    ledger.load(counts)
            return _Kept(
                ledgers,
                frozenset(map(str, plain["drifting"])) & ledgers.keys(),
                {name: str(why) for name, why in plain.get("gone", {}).items() if name in ledgers},
                str(plain.get("id") or secrets.token_hex(8)),
                tuple(map(str, plain.get("merged", ()))),
            )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise CorruptRecord(self._key, repr(error)) from error

    @property
    def _key(self) -> str:
        return f"prodml:drift-monitor:{self.name}"

    def _recall(self, kept: bytes | None) -> None:
        if kept is None:
            return
        try:
            state = json.loads(kept)
        except ValueError as error:
            raise CorruptRecord(self._key, repr(error)) from error
        self._take(self._read(state))

    def _state(self) -> bytes:
        return json.dumps(self.to_dict()).encode()

    def _save(self) -> None:
        if self._keeper is not None:
            self._keeper.save()

    # -- inside: under the lock ---------------------------------------------------------------

    def _empty(self) -> None:
        self._ledgers = {n: one.ledgers(self._grains) for n, one in self._base.features.items()}
        self._waiting, self._held, self._drifting = {}, 0, frozenset()
        self._gone, self._unread = {}, {}
        self._id, self._merged = secrets.token_hex(8), ()

    def _flush(self) -> None:
        waiting, self._waiting, self._held = self._waiting, {}, 0
        for (_, season), (time, rows) in waiting.items():
            came = of_rows(self._base, rows, season)
            self._add(time, came.counts, sure=True)
            self._gone, self._unread = {}, {**self._unread, **came.unread}

    def _add(self, time: float, counts: Sequence[Counts], *, sure: bool) -> bool:
        """Count; ``sure`` is a time of the clock itself.  Whether anything was young enough."""
        kept = [
            ledger.add(time, one, sure=sure)
            for part in counts
            for name, tracks in part.items()
            for ledger, one in zip(self._ledgers[name], tracks, strict=True)
            if one.any()
        ]
        return any(kept) or not kept

    def _copied(self) -> dict[str, tuple[Ledger, ...]]:
        return {name: tuple(one.copy() for one in own) for name, own in self._ledgers.items()}

    def _seen(self, came: Arrival) -> "_Seen":
        if came.rows:
            self._gone = dict(came.gone)
        unread, self._unread = {**self._unread, **came.unread}, {}
        return _Seen(self._copied(), self._drifting, self._gone, unread)

    # -- inside: outside the lock -------------------------------------------------------------

    def _report(
        self, at: float, came: Arrival, findings: tuple[Finding, ...], seen: "_Seen"
    ) -> MonitorReport:
        rules = self._rules(len(self._base.features))
        features = {
            name: self._verdict(one, rules, seen) for name, one in self._base.features.items()
        }
        return MonitorReport(
            features,
            alpha=self._budget.alpha,
            at=at,
            source=self.name,
            findings=findings,
            new_columns=tuple(name for name in came.columns if name not in features),
        )

    def _rules(self, features: int) -> Rules:
        return Rules(
            alpha=self._budget.alpha,
            features=features,
            min_effect=self.min_effect,
            min_new=self.min_new_levels,
            min_rows=self.min_rows,
            recent_rows=self.recent_rows,
        )

    def _verdict(self, one: Watched, rules: Rules, seen: "_Seen") -> MonitoredFeature:
        name = one.name
        pairs = zip(one.tracks, seen.ledgers[name], strict=True)
        found = [standing(*pair, rules, drifting=name in seen.drifting) for pair in pairs]
        told = [s for s in found if s is not None]
        if name in seen.gone:
            return _plain(one, told, DriftLevel.DRIFT, seen.gone[name], effect=1.0)
        return _verdict(one, told, seen.unread.get(name, ""), self.min_rows)

    def _findings(self, came: Arrival) -> tuple[Finding, ...]:
        if not came.rows:
            return (_finding("empty", "the batch has no rows"),)
        if not self.order or came.table is None:
            return ()
        try:
            names = [name for name in self._base.names if name in came.table]
            usual = self._usual if len(names) == len(self._base.names) else None
            return noted(Picked(came.table, names), usual)
        except Exception as error:
            # A note on the batch must not cost its verdict.
            told = f"order and copies cannot be told: {type(error).__name__}: {error}"
            return (_finding("malformed", told),)

    def _announce(
        self, report: MonitorReport, before: frozenset[str], after: frozenset[str]
    ) -> None:
        if frozenset(report.drifted) - before:
            told = "; ".join(f"{name:.80}: {report[name].reason}" for name in report.drifted[:3])
            self.events.emit(
                DriftDetected(
                    at=report.at,
                    source=self.name,
                    score=report.score,
                    effects={name: report[name].effect for name in report.drifted},
                    reason=told,
                )
            )
        elif before and not after:
            over = tuple(sorted(before))
            self.events.emit(DriftCleared(at=report.at, source=self.name, features=over))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a verdict is given on: nothing of it changes any more."""

    ledgers: Mapping[str, tuple[Ledger, ...]]
    drifting: frozenset[str]
    gone: Mapping[str, str]
    unread: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A state that was read."""

    ledgers: dict[str, tuple[Ledger, ...]]
    drifting: frozenset[str]
    gone: dict[str, str]
    id: str
    merged: tuple[str, ...]


_LATE = "the rows are dated so long before the newest that they count no more"


def _finding(name: str, reason: str) -> Finding:
    return Finding(name=name, feature="", p_value=0.0, effect=0.0, reason=reason)


def _mark_of(grains: Grains, base: Baseline) -> str:
    """What two monitors must share for their counts to add up."""
    told = hashlib.sha256(f"{grains}".encode())
    for name, one in base.features.items():
        for track in one.tracks:
            told.update(f"{name}{track.name}{track.labels}".encode("utf-8", "backslashreplace"))
            told.update(track.cuts.tobytes() + track.shares.tobytes())
    return told.hexdigest()[:32]


def _time(at: Any) -> float:
    try:
        found = float(at) if isinstance(at, Real | int) and not isinstance(at, bool) else math.nan
    except OverflowError:
        found = math.inf
    if math.isfinite(found):
        return found
    raise BadConfiguration(f"at must be seconds since the epoch, not {at!r:.80}")


def _verdict(
    one: Watched, found: Sequence[Standing], unread: str, min_rows: int
) -> MonitoredFeature:
    best = _best(found)
    if unread or best is None:
        why = unread or one.problem or f"fewer than {min_rows} rows so far"
        return _plain(one, found, DriftLevel.INCONCLUSIVE, why)
    level = best.first.level
    if one.problem and level is not DriftLevel.DRIFT:
        return _plain(one, found, DriftLevel.INCONCLUSIVE, one.problem)
    aspects = sorted((a for s in found for a in s.aspects), key=lambda a: _GRAVITY.index(a.level))
    return MonitoredFeature(
        name=one.name,
        kind=one.kind,
        level=level,
        aspect=best.first.aspect,
        effect=best.first.effect,
        floor=best.first.floor,
        log_e=best.log_e,
        p_adjusted=best.p_adjusted,
        reason=_reason(best, aspects),
        since=best.since if level is not DriftLevel.NONE else math.nan,
        rows=best.rows,
        aspects=tuple(aspects),
        **_shown(found),
    )


def _best(found: Sequence[Standing]) -> Standing | None:
    return min(found, key=lambda s: (_GRAVITY.index(s.first.level), -s.log_e), default=None)


_GRAVITY = (DriftLevel.DRIFT, DriftLevel.INCONCLUSIVE, DriftLevel.NEGLIGIBLE, DriftLevel.NONE)


def _reason(best: Standing, aspects: Sequence[Any]) -> str:
    first = best.first
    if first.level is DriftLevel.NONE:
        return f"no evidence: p {best.p_adjusted:.2g} over all checks"
    if first.level is DriftLevel.NEGLIGIBLE:
        return f"{first.reason} (below the floor of {100 * first.floor:.3g} %)"
    return "; ".join(a.reason for a in aspects if a.level is DriftLevel.DRIFT)


def _plain(
    one: Watched, found: Sequence[Standing], level: DriftLevel, reason: str, effect: float = 0.0
) -> MonitoredFeature:
    best = _best(found)
    certain = level is DriftLevel.DRIFT
    return MonitoredFeature(
        name=one.name,
        kind=one.kind,
        level=level,
        aspect="column" if certain else "distribution",
        effect=effect,
        floor=0.0,
        log_e=math.inf if certain else -math.inf if best is None else best.log_e,
        p_adjusted=0.0 if certain else 1.0 if best is None else best.p_adjusted,
        reason=reason,
        rows=0 if best is None else best.rows,
        **_shown(found),
    )


def _shown(found: Sequence[Standing]) -> dict[str, Any]:
    """What is to be shown of the rows of late."""
    told: dict[str, Any] = {}
    for one in found:
        if one.track.name == "status":
            told |= {
                f"{side}_missing": float(shares[-1])
                for side, shares in (("reference", one.before), ("current", one.after))
            }
        else:
            told["profile"] = profile_of(one.track, one.before, one.after)
    return told


def _check(monitor: DriftMonitor) -> None:
    if isinstance(monitor.categorical, str):
        raise BadConfiguration(
            f"categorical must be several names, not the text {monitor.categorical!r}"
        )
    if not isinstance(monitor.calibration, Calibration | None):
        raise BadConfiguration(
            f"calibration must be a Calibration, not {monitor.calibration!r:.80}"
        )
    if monitor.blocks is not None and monitor.calibration is not None:
        raise BadConfiguration("blocks and calibration say the same: give one of them")
