"""A monitor that can be left switched on: one budget of false alarms for all of its checks."""

import hashlib
import json
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast, final

import numpy as np

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.baseline import Baseline, baseline, codes_of, taken
from prodml.drift.budget import FalseAlarms, seconds_of
from prodml.drift.calibration import Calibration, calibrate
from prodml.drift.exchangeability import Finding, exchangeability, repeats
from prodml.drift.level import DriftLevel
from prodml.drift.monitored import MonitoredFeature, MonitorReport
from prodml.drift.reference import Reference
from prodml.drift.sample import Kind
from prodml.drift.sequential import Grains, Ledger, Rules, Standing, Watched, standing
from prodml.drift.table import Table, table_of
from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import EVENTS, DriftCleared, DriftDetected, Stream
from prodml.stores import Store, open_store
from prodml.types import MISS

__all__ = ["DriftMonitor"]

_LOG = logging.getLogger("prodml.drift")
_FIXED = "the evidence so far rests on it: build another monitor"
_FORMAT = 1
# Rows given one by one wait until there are so many, or until a check.
_TOGETHER = 256


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
        URL or store in which the evidence survives a restart, under ``name``.
    name
        Names the monitor in facts, reports and the store.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, the reference cannot be fitted, or the store holds the
        evidence of another reference.

    Notes
    -----
    Safe for any number of threads.  States :class:`~prodml.events.DriftDetected` when a
    feature drifts that did not before and :class:`~prodml.events.DriftCleared` when none
    does any more; an alarm ends when the effect of late is below three quarters of the
    floor, and the evidence of that feature then begins anew.  The promise is exact where
    values have no ties, and measured to hold with ties and levels; with ``blocks`` it rests
    on design effects, which are estimates.  It counts references too: once in twenty, at
    5 %, a reference is unlucky.  How it works is told in *Evidence that may be looked at
    any time* of the docs.

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
    _usual: Any = field(default=None, init=False, repr=False)
    _kept: Store | None = field(default=None, init=False, repr=False)
    _ledgers: dict[str, tuple[Ledger, ...]] = field(init=False, repr=False)
    _drifting: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _waiting: dict[tuple[int, int], tuple[float, list[Any]]] = field(init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _saving: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._budget = FalseAlarms.read(self.false_alarms)
        self._grains = _grains(self._budget, self.every)
        _check(self)
        self._base = self._fitted()
        self.feature_names, self.categorical = self._base.names, tuple(self.categorical)
        # The raw data may be large: what is kept is what was fitted.
        self.reference = self._base
        self.blocks = self.seasonal = None
        self._empty()
        if self.store is not None:
            self._kept = open_store(self.store)
            self._recall(self._kept.get(self._key))

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
        if self.order and not isinstance(self.reference, Reference):
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
        season
            Label of the batch, or one a row, for a monitor with ``seasonal``.
        at
            When the rows came, seconds since the epoch; None is now.  To replay a history.

        Returns
        -------
        MonitorReport
            A verdict for every feature of the reference, whatever the batch looks like.

        Raises
        ------
        TypeError
            ``batch`` is no table at all; nothing was added.
        BadConfiguration
            A season that the reference does not have; nothing was added.

        Examples
        --------
        >>> monitor = DriftMonitor({"x": [float(i % 7) for i in range(70)]})
        >>> print(monitor.check({"y": [1.0]})["x"].reason)
        the column is gone
        """
        now = self.clock.time() if at is None else at
        table = Table() if batch is None else _held(table_of(batch, self._base.names))
        portions = _portions(self._base, table, season)
        findings = self._findings(batch, table)
        troubles = {} if batch is None else _troubles(self._base, table)
        counts = [
            (at_season, _counted(self._base, columns, troubles)) for at_season, columns in portions
        ]
        with self._lock:
            self._flush()
            for _, counted in counts:
                self._add(now, counted)
            report = self._report(now, table, findings, troubles)
            before, after = self._drifting, self._next(report)
            self._drifting = after
            # What is over is over: evidence of it must not raise another alarm.
            for name in before - after:
                self._ledgers[name] = self._base.features[name].ledgers(self._grains)
        self._save()
        self._announce(report, before, after)
        return report

    def add(self, row: Any, *, season: Any = None) -> None:
        """Take in one row: a mapping, or values in the order of the features.

        Never raises for what a row holds: what is no row counts as one with every value
        missing.

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
        key = (self._grains.at(now, 0), at)
        with self._lock:
            _, rows = self._waiting.setdefault(key, (now, []))
            rows.append(row)
            if len(rows) >= _TOGETHER:
                self._flush()

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the counts of a replica: its :meth:`to_dict`, or better its :meth:`drain`.

        Whole numbers are added, so the order of replicas does not matter, to the last bit.

        Raises
        ------
        BadConfiguration
            The replica has another reference or other settings; nothing was added.
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
        read = self._read(state)
        with self._lock:
            for name, ledgers in read.items():
                for mine, its in zip(self._ledgers[name], ledgers, strict=True):
                    mine.merge(its)

    def drain(self) -> dict[str, Any]:
        """The counts so far, for :meth:`merge` elsewhere; this monitor begins anew."""
        with self._lock:
            state = self.to_dict()
            self._empty()
        self._save()
        return state

    def reset(self) -> None:
        """Forget all evidence, and any alarm, without a word."""
        with self._lock:
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
            return {
                "format": _FORMAT,
                "reference": self._mark,
                "drifting": sorted(self._drifting),
                "features": {
                    name: [ledger.to_list() for ledger in ledgers]
                    for name, ledgers in self._ledgers.items()
                },
            }

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Go on from what :meth:`to_dict` gave, instead of what has come so far.

        Raises
        ------
        BadConfiguration
            The state is that of another reference or other settings; nothing changed.
        CorruptRecord
            The state cannot be read; nothing changed.
        """
        read = self._read(state)
        with self._lock:
            self._empty()
            self._ledgers = read
            self._drifting = frozenset(state.get("drifting", ())) & set(self._base.names)
        return self

    def _read(self, state: Mapping[str, Any]) -> dict[str, tuple[Ledger, ...]]:
        if state.get("format") != _FORMAT:
            raise CorruptRecord(self._key, f"format {state.get('format')!r}, not {_FORMAT}")
        if state.get("reference") != self._mark:
            raise BadConfiguration(
                f"the state of monitor {self.name!r} belongs to another reference or other "
                f"settings: give the monitor another name, or delete the state"
            )
        read = {name: one.ledgers(self._grains) for name, one in self._base.features.items()}
        try:
            for name, ledgers in read.items():
                for ledger, plain in zip(ledgers, state["features"][name], strict=True):
                    ledger.load(plain)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CorruptRecord(self._key, repr(error)) from error
        return read

    @property
    def _mark(self) -> str:
        """What two monitors must share for their counts to add up."""
        told = hashlib.sha256(f"{self._grains}".encode())
        for name, one in self._base.features.items():
            for track in one.tracks:
                told.update(f"{name}{track.name}{track.labels}".encode())
                told.update(track.cuts.tobytes() + track.shares.tobytes())
        return told.hexdigest()[:32]

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
        self.restore(state)

    def _save(self) -> None:
        if self._kept is None:
            return
        # One at a time, so that an older state never lands on a newer one.
        with self._saving:
            state = json.dumps(self.to_dict()).encode()
            try:
                self._kept.set(self._key, state)
            except Exception:
                _LOG.exception("monitor %s could not keep its state", self.name)

    # -- inside: under the lock ---------------------------------------------------------------

    def _empty(self) -> None:
        self._ledgers = {n: one.ledgers(self._grains) for n, one in self._base.features.items()}
        self._waiting, self._drifting = {}, frozenset()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        names = self._base.names
        for (_, at), (time, rows) in waiting.items():
            plain = [_row(row, names) for row in rows]
            columns = {name: [row.get(name, MISS) for row in plain] for name in names}
            portion = _Portion(at, columns)
            self._add(time, _counted(self._base, portion, {}))

    def _add(self, time: float, counted: "Mapping[str, list[Any]]") -> None:
        for name, counts in counted.items():
            for ledger, one in zip(self._ledgers[name], counts, strict=True):
                if one.any():
                    ledger.add(time, one)

    def _report(
        self, at: float, table: Table, findings: tuple[Finding, ...], troubles: Mapping[str, str]
    ) -> MonitorReport:
        features = {
            name: self._verdict(one, troubles.get(name, ""))
            for name, one in self._base.features.items()
        }
        return MonitorReport(
            features,
            alpha=self._budget.alpha,
            at=at,
            source=self.name,
            findings=findings,
            new_columns=tuple(name for name in table.columns if name not in features),
        )

    def _verdict(self, one: Watched, trouble: str) -> MonitoredFeature:
        rules = Rules(
            alpha=self._budget.alpha,
            features=len(self._base.features),
            min_effect=self.min_effect,
            min_new=self.min_new_levels,
            min_rows=self.min_rows,
            recent_rows=self.recent_rows,
        )
        drifting = one.name in self._drifting
        pairs = zip(one.tracks, self._ledgers[one.name], strict=True)
        found = [standing(track, ledger, rules, drifting=drifting) for track, ledger in pairs]
        return _verdict(one, [s for s in found if s is not None], trouble, self.min_rows)

    def _next(self, report: MonitorReport) -> frozenset[str]:
        return frozenset(report.drifted) | (self._drifting & frozenset(report.inconclusive))

    # -- inside: outside the lock -------------------------------------------------------------

    def _findings(self, batch: Any, table: Table) -> tuple[Finding, ...]:
        if batch is None:
            return ()
        if not table.columns and not table.misfit:
            return (
                Finding(
                    name="empty",
                    feature="",
                    p_value=0.0,
                    effect=1.0,
                    reason="the batch has no rows",
                ),
            )
        if not self.order:
            return ()
        try:
            known = {
                name: raw for name, raw in table.columns.items() if name in self._base.features
            }
            usual = self._usual if len(known) == len(self._base.features) else None
            return exchangeability({n: known[n] for n in self._base.names if n in known}, usual)
        except Exception as error:
            # A note on the batch must not cost its verdict.
            told = f"order and copies cannot be told: {type(error).__name__}: {error}"
            return (Finding(name="malformed", feature="", p_value=0.0, effect=0.0, reason=told),)

    def _announce(
        self, report: MonitorReport, before: frozenset[str], after: frozenset[str]
    ) -> None:
        if frozenset(report.drifted) - before:
            told = "; ".join(f"{name}: {report[name].reason}" for name in report.drifted[:3])
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
class _Portion:
    """Rows of one season."""

    season: int
    columns: Mapping[str, Any]


def _held(table: Table) -> Table:
    """Columns that can be read only once, as lists."""
    once = {n: list(raw) for n, raw in table.columns.items() if hasattr(raw, "__next__")}
    return Table({**table.columns, **once}, table.misfit)


def _portions(base: Baseline, table: Table, season: Any) -> list[tuple[int, _Portion]]:
    if not table.columns:
        return []
    if not isinstance(season, list | tuple | np.ndarray):
        at = base.season(season)
        return [(at, _Portion(at, table.columns))]
    labels, codes = codes_of(season)
    found: list[tuple[int, _Portion]] = []
    for code, label in enumerate(labels):
        at, rows = base.season(label), np.nonzero(codes == code)[0]
        known = {name: raw for name, raw in table.columns.items() if name in base.features}
        columns = {name: taken(raw, rows, len(codes)) for name, raw in known.items()}
        found.append((at, _Portion(at, columns)))
    return found


def _troubles(base: Baseline, table: Table) -> dict[str, str]:
    """Features that cannot be counted, and why."""
    if not table.columns and not table.misfit:
        return {}
    why = f"the batch has {table.misfit}" if table.misfit else "the column is gone"
    return {name: why for name in base.names if name not in table.columns}


def _counted(base: Baseline, portion: _Portion, troubles: dict[str, str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, one in base.features.items():
        if name not in portion.columns:
            continue
        try:
            sample = base.columns[name].read(portion.columns[name])
            found[name] = one.count(sample, portion.season)
        except Exception as error:
            # One column that no one can read must not cost the verdict on the others.
            troubles[name] = f"cannot be read: {type(error).__name__}: {error}"
    return found


def _row(row: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return cast("Mapping[str, Any]", row)
    if isinstance(row, list | tuple | np.ndarray) and len(row) == len(names):
        return dict(zip(names, row, strict=True))
    return {}


def _verdict(
    one: Watched, found: Sequence[Standing], trouble: str, min_rows: int
) -> MonitoredFeature:
    best = min(found, key=lambda s: (_GRAVITY.index(s.first.level), -s.log_e), default=None)
    if trouble and not trouble.startswith("cannot"):
        return _plain(one, best, DriftLevel.DRIFT, trouble, effect=1.0)
    if trouble or best is None:
        why = trouble or one.problem or f"fewer than {min_rows} rows so far"
        return _plain(one, best, DriftLevel.INCONCLUSIVE, why)
    level = best.first.level
    if one.problem and level is not DriftLevel.DRIFT:
        return _plain(one, best, DriftLevel.INCONCLUSIVE, one.problem)
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
    )


_GRAVITY = (DriftLevel.DRIFT, DriftLevel.INCONCLUSIVE, DriftLevel.NEGLIGIBLE, DriftLevel.NONE)


def _reason(best: Standing, aspects: Sequence[Any]) -> str:
    first = best.first
    if first.level is DriftLevel.NONE:
        return f"no evidence: p {best.p_adjusted:.2g} over all checks"
    if first.level is DriftLevel.NEGLIGIBLE:
        return f"{first.reason} (below the floor of {100 * first.floor:.3g} %)"
    return "; ".join(a.reason for a in aspects if a.level is DriftLevel.DRIFT)


def _plain(
    one: Watched, best: Standing | None, level: DriftLevel, reason: str, effect: float = 0.0
) -> MonitoredFeature:
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
    )


def _grains(budget: FalseAlarms, every: float | str) -> Grains:
    seconds = seconds_of(every, "every")
    if seconds > budget.seconds:
        raise BadConfiguration(
            f"every must be at most the time of false_alarms, {budget.seconds:g} s, not {every!r}"
        )
    return Grains.over(budget.seconds, seconds)


def _check(monitor: DriftMonitor) -> None:
    for name in ("min_effect", "min_new_levels"):
        value = getattr(monitor, name)
        if not (isinstance(value, int | float) and 0.0 <= value <= 1.0):
            raise BadConfiguration(f"{name} must be a share in [0, 1], not {value!r}")
    for name in ("min_rows", "recent_rows"):
        value = getattr(monitor, name)
        if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            raise BadConfiguration(f"{name} must be a whole number >= 1, not {value!r}")
    if isinstance(monitor.categorical, str):
        raise BadConfiguration(
            f"categorical must be several names, not the text {monitor.categorical!r}"
        )
    if monitor.blocks is not None and monitor.calibration is not None:
        raise BadConfiguration("blocks and calibration say the same: give one of them")
