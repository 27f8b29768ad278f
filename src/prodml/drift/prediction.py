"""Have the answers moved?  The last predictions against a baseline, at every look."""

import math
import threading
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, cast, final

import numpy as np

from prodml._sketch import Moments
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.level import DriftLevel
from prodml.drift.moments import Floats, SlidingMoments
from prodml.drift.prediction_evidence import (
    Baseline,
    Counts,
    Finding,
    Limits,
    at_every_look,
    findings,
)
from prodml.drift.streaming.detector import number_of
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, PredictionDriftDetected, PredictionServed, Stream

__all__ = ["PredictionDrift", "PredictionDriftMonitor"]

# Predictions taken into the window at once: appending is cheap, arrays have a fixed price.
_BATCH = 4096
# Squares of larger numbers overflow; they are counted with the infinite ones.
_LARGEST = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionDrift:
    """What a check of the window found; true if the predictions drifted.

    Parameters
    ----------
    aspect
        What decided: ``"location"`` (also where nothing moved), ``"spread"``, ``"shape"``,
        ``"range"`` or ``"invalid"``; empty while there is nothing to compare.
    shift
        Mean of the window less that of the baseline, in standard deviations of the
        baseline; NaN while the window holds too little, infinite where a constant moved.
    standard_error
        Standard error of ``shift`` if nothing moved but chance, window and baseline both
        being samples.
    threshold
        Shift, either way, from which it matters.
    p_value
        Of ``aspect``, valid however often the monitor was and will be asked; its level is
        the monitor's ``alpha``.
    p_once
        What a single look would have had for a p-value.
    spread
        Standard deviation of the window over that of the baseline.
    count, invalid
        Finite predictions in the window, and the others.
    reason
        The numbers in words.

    Examples
    --------
    >>> monitor = PredictionDriftMonitor(50)
    >>> monitor.set_baseline([0.2, 0.4] * 50)
    >>> result = monitor.check_drift()
    >>> bool(result), result.level.value, result.reason
    (False, 'inconclusive', '0 predictions in the window; at least 30 are needed')
    >>> result.to_dict()["level"]
    'inconclusive'
    """

    level: DriftLevel
    aspect: str
    shift: float
    standard_error: float
    threshold: float
    p_value: float
    p_once: float
    spread: float
    count: int
    invalid: int
    reason: str

    @property
    def drift_detected(self) -> bool:
        """Whether there is evidence of a change that is large enough to matter."""
        return self.level is DriftLevel.DRIFT

    def to_dict(self) -> dict[str, Any]:
        """Its fields, ready for JSON; what is no finite number becomes None."""
        plain = asdict(self) | {"level": self.level.value}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in plain.items()
        }

    def __bool__(self) -> bool:
        return self.drift_detected


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PredictionDriftMonitor:
    """Compare the last predictions with a baseline, as often as one likes.

    Five aspects are watched: location, spread, shape, values outside of the baseline's range,
    and answers that are no finite number.  Drift is said when one of them is large (size) *and*
    beyond what chance explains (evidence).

    Parameters
    ----------
    window_size
        Predictions looked back on, at most.
    window_seconds
        Age at which predictions leave the window; None: only their number counts.
    threshold
        Smallest shift of the mean that matters, in standard deviations of the baseline.
    min_spread
        Smallest change of spread that matters, as the mean score of spread: 0.2 is a
        normal distribution that is an eighth wider.
    min_shape
        Smallest share of predictions in other quantiles of the baseline that matters.
    max_outside
        Share of predictions outside of the baseline's range from which that is drift.
    max_invalid
        Rise of the share of predictions that are NaN, infinite or no number, from which
        that is drift (and at least five are in the window).
    alpha
        Probability that the monitor ever says drift without one, however often it is asked.
    min_samples
        Finite predictions below which the values are not judged.
    check_every
        :meth:`observe` checks after every so many predictions.
    value
        Makes a number of an answer heard by :meth:`observe`; None takes it as it is.
    skip_cached
        Whether :meth:`observe` leaves out answers that no model computed for the request: a
        popular key counts once and not a thousand times, and the evidence is not the same
        answer told again.  Off, what users see counts.
    name
        Names the monitor in facts.
    clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    Safe for any number of threads.  Adding is O(1) on average, a check does not depend on
    the window.  Location and spread are judged by ranks within the baseline, so neither a
    heavy tail nor one outlier alarms or hides an alarm.  The p-value pays for every look
    (:mod:`prodml.drift.prediction_evidence`): asking once an hour or after each prediction
    costs no false alarms.  States :class:`~prodml.events.PredictionDriftDetected` when drift
    begins, once, until a check has found none again.  Predictions are taken as independent;
    where neighbours are alike, the evidence is weaker than it looks.

    Examples
    --------
    >>> monitor = PredictionDriftMonitor(window_size=100)
    >>> monitor.set_baseline([0.2, 0.4] * 500)
    >>> for _ in range(100):
    ...     monitor.add_prediction(0.4)
    >>> result = monitor.check_drift(threshold=0.1)
    >>> bool(result), result.aspect, result.reason
    (True, 'location', 'mean 0.3 -> 0.4: +1.00 standard deviations of the baseline')
    """

    window_size: int = field(
        default=1000, kw_only=False, metadata={"fixed": "build another monitor"}
    )
    window_seconds: float | None = field(default=None, metadata={"fixed": "build another monitor"})
    threshold: float = 0.1
    min_spread: float = 0.2
    min_shape: float = 0.15
    max_outside: float = 0.01
    max_invalid: float = 0.01
    alpha: float = 0.01
    min_samples: int = 30
    check_every: int = 100
    value: Callable[[Any], Any] | None = field(default=None, repr=False)
    skip_cached: bool = True
    name: str = "prediction-drift"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    # What has come since the last batch, and when: threads append values without a lock.
    _incoming: "array[float]" = field(init=False, repr=False)
    _stamps: "array[float]" = field(init=False, repr=False)
    _append: Callable[[float], object] = field(init=False, repr=False)
    _window: SlidingMoments = field(default_factory=SlidingMoments, init=False, repr=False)
    _cells: Counts | None = field(default=None, init=False, repr=False)
    _lengths: float = field(default=1.0, init=False, repr=False)
    # How many have come into the window and left it since it was last looked at.
    _come: int = field(default=0, init=False, repr=False)
    _gone: int = field(default=0, init=False, repr=False)
    _heard: int = field(default=0, init=False, repr=False)
    _baseline: Baseline | None = field(default=None, init=False, repr=False)
    _drifting: bool = field(default=False, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("window_size", "min_samples", "check_every"):
            _whole(name, getattr(self, name), 2 if name == "window_size" else 1)
        self.min_samples = min(self.min_samples, self.window_size)
        if not 0.0 < self.alpha < 1.0:
            raise BadConfiguration(f"alpha must lie in (0, 1), not {self.alpha!r}")
        for name in ("max_invalid", "max_outside", "min_shape"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadConfiguration(f"{name} must lie in [0, 1], not {getattr(self, name)!r}")
        if self.window_seconds is not None and not 0.0 < self.window_seconds < math.inf:
            raise BadConfiguration(
                f"window_seconds must be a finite number > 0, not {self.window_seconds!r}"
            )
        _size("threshold", self.threshold)
        _size("min_spread", self.min_spread)
        # With the monitor, not with its first check.
        import_module("scipy.special")
        self._incoming, self._stamps = array("d"), array("d")
        self._append = self._incoming.append if self.window_seconds is None else self._stamped

    # -- what comes in --------------------------------------------------------------------

    def set_baseline(self, predictions: Iterable[float]) -> None:
        """Take ``predictions`` as the reference; the window stays, an alarm ends.

        Parameters
        ----------
        predictions : iterable of shape (n,), float
            Any array, series or list.  What is not a finite number is counted, and its share
            is what the window is held against; a constant is a baseline like another, from
            which everything else is drift.

        Raises
        ------
        BadConfiguration
            Fewer than two predictions.

        Examples
        --------
        >>> monitor = PredictionDriftMonitor()
        >>> monitor.set_baseline([0.5] * 1000)
        >>> for _ in range(30):
        ...     monitor.add_prediction(0.500001)
        >>> monitor.check_drift().reason
        'mean 0.5 -> 0.5: +inf standard deviations of the baseline'
        """
        if not isinstance(cast("Any", predictions), Iterable):
            raise BadConfiguration(f"a baseline needs predictions, not {predictions!r}")
        values = _usable(np.array([number_of(prediction) for prediction in predictions]))
        if len(values) < 2:
            raise BadConfiguration(f"a baseline needs at least 2 predictions, not {len(values)}")
        baseline = Baseline.of(values)
        with self._lock:
            self._fold()
            self._baseline = baseline
            self._cells = baseline.cells(self._window.values())
            self._lengths, self._come, self._gone = 1.0, 0, 0
            self._drifting = False

    def add_prediction(self, prediction: float) -> None:
        """Take in one prediction; what is not a finite number is counted, never raised.

        Examples
        --------
        >>> monitor = PredictionDriftMonitor()
        >>> for prediction in (0.5, float("nan"), None):
        ...     monitor.add_prediction(prediction)
        >>> monitor.get_statistics()["count"], monitor.get_statistics()["invalid"]
        (1, 2)
        """
        try:
            self._append(prediction)
        except Exception:
            # Whatever a type raises that will not be a number.
            self._append(number_of(prediction))
        if len(self._incoming) >= _BATCH:
            with self._lock:
                self._fold()

    def observe(self, event: PredictionServed) -> None:
        """Hear a served prediction; check every ``check_every`` of them, given a baseline.

        Examples
        --------
        >>> from prodml.types import Prediction
        >>> stream, monitor = Stream(), PredictionDriftMonitor()
        >>> unsubscribe = stream.subscribe(PredictionServed, monitor.observe)
        >>> answer = Prediction(0.5, "r1")
        >>> stream.emit(PredictionServed(at=0.0, source="api", prediction=answer, features={}))
        >>> monitor.get_statistics()["count"]
        1
        """
        if self.skip_cached and event.prediction.cached:
            return
        answer = event.prediction.value
        self.add_prediction(answer if self.value is None else self._valued(answer))
        with self._lock:
            self._heard += 1
            due = self._baseline is not None and self._heard % self.check_every == 0
        if due:
            self.check_drift()

    # -- what is asked ----------------------------------------------------------------------

    def check_drift(self, threshold: float | None = None) -> PredictionDrift:
        """Judge the window as it stands.

        Parameters
        ----------
        threshold
            Smallest shift that matters, instead of the monitor's.

        Raises
        ------
        BadConfiguration
            No baseline, or a threshold that is no finite number >= 0.

        Examples
        --------
        >>> PredictionDriftMonitor().check_drift()
        Traceback (most recent call last):
            ...
        prodml.errors.BadConfiguration: no baseline: call set_baseline() with predictions ...
        """
        limit = self.threshold if threshold is None else threshold
        _size("threshold", limit)
        with self._lock:
            self._fold()
            if self._baseline is None or self._cells is None:
                raise BadConfiguration(
                    "no baseline: call set_baseline() with predictions of the validation set"
                )
            self._look()
            result = self._judged(self._baseline, self._cells, limit)
            begun = result.drift_detected and not self._drifting
            if result.level is not DriftLevel.INCONCLUSIVE:
                self._drifting = result.drift_detected
        if begun:
            self._announce(result)
        return result

    def get_statistics(self) -> dict[str, float]:
        """Moments of the window and of the baseline; NaN where there is nothing to tell.

        Returns
        -------
        dict
            ``count`` (finite predictions), ``invalid`` (the others), ``mean``, ``std``
            (dividing by n - 1), ``min``, ``max``, ``baseline_mean``, ``baseline_std``.

        Examples
        --------
        >>> monitor = PredictionDriftMonitor()
        >>> monitor.add_prediction(0.25)
        >>> monitor.get_statistics()["mean"]
        0.25
        """
        with self._lock:
            self._fold()
            window, rows = self._window.moments(), len(self._window)
            baseline = Moments() if self._baseline is None else self._baseline.moments
        some, known = window.count > 0, baseline.count > 0
        return {
            "count": window.count,
            "invalid": rows - window.count,
            "mean": window.mean if some else math.nan,
            "std": window.std,
            "min": window.minimum if some else math.nan,
            "max": window.maximum if some else math.nan,
            "baseline_mean": baseline.mean if known else math.nan,
            "baseline_std": baseline.std,
        }

    # -- inside: what begins below runs under the lock, but for _stamped and _valued --------------

    def _stamped(self, value: float) -> None:
        with self._lock:
            self._incoming.append(value)
            self._stamps.append(self.clock.monotonic())

    def _valued(self, answer: Any) -> Any:
        try:
            return self.value(answer) if self.value is not None else answer
        except Exception:
            # An answer that cannot be read is counted with those that are no number.
            return None

    def _fold(self) -> None:
        """Take what has come into the window; let go what is too old or too much."""
        count = len(self._incoming)
        if count:
            first = max(0, count - self.window_size)
            # Others append meanwhile, at the end.
            self._enter(_taken(self._incoming, first, count), _taken(self._stamps, first, count))
        if self.window_seconds is not None:
            self._leave(self._window.until(self.clock.monotonic() - self.window_seconds))
        self._leave(len(self._window) - self.window_size)
        self._come += count

    def _enter(self, values: Floats, stamps: Floats) -> None:
        self._window.extend(values, stamps)
        if self._baseline is not None and self._cells is not None:
            self._cells += self._baseline.cells(values)

    def _leave(self, count: int) -> None:
        if count <= 0:
            return
        self._gone += count
        gone = self._window.drop(count)
        if self._baseline is not None and self._cells is not None:
            self._cells -= self._baseline.cells(gone)

    def _look(self) -> None:
        """Pay for one look: by how far the window has moved, and never by more than a length."""
        moved = max(self._come, self._gone) / max(1, len(self._window))
        self._lengths += min(1.0, moved)
        self._come = self._gone = 0

    def _judged(self, baseline: Baseline, cells: Counts, threshold: float) -> PredictionDrift:
        window = self._window.moments()
        limits = Limits(
            threshold, self.min_spread, self.min_shape, self.max_outside, self.max_invalid
        )
        level, finding = self._verdict(
            findings(baseline, window, cells, limits), baseline.moments, window
        )
        spread = window.std / baseline.moments.std if baseline.moments.std else math.nan
        # Under the hypothesis of no shift the larger spread is the safer guess.
        wider = max(1.0, spread**2) if math.isfinite(spread) else 1.0
        return PredictionDrift(
            level=level,
            aspect=finding.aspect,
            shift=baseline.shift(window),
            standard_error=math.sqrt(
                wider / max(1, window.count) + 1.0 / max(1, baseline.moments.count)
            ),
            threshold=threshold,
            p_value=at_every_look(finding.p_once, self._lengths),
            p_once=finding.p_once,
            spread=spread,
            count=window.count,
            invalid=len(self._window) - window.count,
            reason=finding.reason,
        )

    def _verdict(
        self, found: tuple[Finding, ...], baseline: Moments, window: Moments
    ) -> tuple[DriftLevel, Finding]:
        """The aspect that decides, and the level that it makes."""
        if window.count < self.min_samples or not baseline.count:
            # Bad answers are judged all the same: they may be why there are so few.
            found = tuple(finding for finding in found if finding.aspect == "invalid")
        certain = [f for f in found if at_every_look(f.p_once, self._lengths) < self.alpha]
        large = [finding for finding in certain if finding.large]
        if large:
            # A shift moves spread and range as well, so it is named before them.
            return DriftLevel.DRIFT, large[0]
        if not baseline.count:
            return DriftLevel.INCONCLUSIVE, _nothing("the baseline has no finite number")
        if window.count < self.min_samples:
            return DriftLevel.INCONCLUSIVE, _nothing(
                f"{window.count} predictions in the window; at least {self.min_samples} are needed"
            )
        finding = min(certain, key=_chance) if certain else found[1]
        why = "too little to matter" if certain else "within what chance explains"
        level = DriftLevel.NEGLIGIBLE if certain else DriftLevel.NONE
        return level, finding._replace(reason=f"{finding.reason}, {why}")

    def _announce(self, result: PredictionDrift) -> None:
        self.events.emit(
            PredictionDriftDetected(
                at=self.clock.time(),
                source=self.name,
                shift=result.shift,
                threshold=result.threshold,
                reason=result.reason,
            )
        )


def _chance(finding: Finding) -> float:
    return finding.p_once


def _nothing(reason: str) -> Finding:
    return Finding("", 1.0, False, reason)


def _taken(column: "array[float]", first: int, count: int) -> Floats:
    """Take the first ``count`` numbers out of ``column``, and return those from ``first``."""
    taken = column[first:count]
    del column[:count]
    return _usable(np.array(taken))


def _usable(values: Floats) -> Floats:
    values[~(np.abs(values) <= _LARGEST)] = math.nan
    return values


def _whole(name: str, value: Any, low: int) -> None:
    if not (isinstance(value, int) and value >= low):
        raise BadConfiguration(f"{name} must be a whole number >= {low}, not {value!r}")


def _size(name: str, size: float) -> None:
    if not 0.0 <= size < math.inf:
        raise BadConfiguration(f"{name} must be a finite number >= 0, not {size!r}")
