"""Have the answers moved?  The mean of the last predictions against a baseline."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, final

from prodml._sketch import Moments
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.level import DriftLevel
from prodml.drift.moments import SlidingMoments
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, PredictionDriftDetected, PredictionServed, Stream

__all__ = ["PredictionDrift", "PredictionDriftMonitor"]

# Fewer bad answers than this are an accident, not a change.
_FEW = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionDrift:
    """What a check of the window found; true if the predictions drifted.

    Parameters
    ----------
    shift
        Mean of the window less that of the baseline, in standard deviations of the
        baseline; NaN while the window holds too little.
    standard_error
        Standard error of ``shift`` if nothing moved but chance, window and baseline both
        being samples.
    threshold
        Shift, either way, from which it matters.
    p_value
        Two-sided, by the normal distribution; the level is the monitor's ``alpha``.
    spread
        Standard deviation of the window over that of the baseline: for information.
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
    """

    level: DriftLevel
    shift: float
    standard_error: float
    threshold: float
    p_value: float
    spread: float
    count: int
    invalid: int
    reason: str

    @property
    def drift_detected(self) -> bool:
        """Whether there is evidence of a shift that is large enough to matter."""
        return self.level is DriftLevel.DRIFT

    def __bool__(self) -> bool:
        return self.drift_detected


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PredictionDriftMonitor:
    """Compare the mean of the last predictions with a baseline.

    Drift is said when the shift is at least ``threshold`` standard deviations of the
    baseline (size) *and* beyond what the sampling of both explains (evidence); also when
    answers that are no finite numbers become more frequent by ``max_invalid``.

    Parameters
    ----------
    window_size
        Predictions looked back on.
    threshold
        Smallest shift that matters, in standard deviations of the baseline.
    alpha
        Level of one check, in (0, 1): strict by default, because checks are many.
    min_samples
        Finite predictions below which a check is INCONCLUSIVE.
    max_invalid
        Rise of the share of predictions that are NaN, infinite or no number, from which
        that alone is drift (and at least five are in the window).
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
    Safe for any number of threads.  Adding is O(1) on average, a check O(1).  States
    :class:`~prodml.events.PredictionDriftDetected` when drift begins, once, until a check
    has found none again.  Only the mean is judged: a change of spread or shape at the same
    mean needs :class:`DriftDetector` on a column of predictions.  Predictions are taken as
    independent; where neighbours are alike, the evidence is weaker than it looks.

    Examples
    --------
    >>> monitor = PredictionDriftMonitor(window_size=100)
    >>> monitor.set_baseline([0.2, 0.4] * 500)
    >>> for _ in range(100):
    ...     monitor.add_prediction(0.5)
    >>> result = monitor.check_drift(threshold=0.1)
    >>> bool(result), result.reason
    (True, 'mean 0.3 -> 0.5: +2.00 standard deviations of the baseline, standard error 0.105')
    """

    window_size: int = field(
        default=1000, kw_only=False, metadata={"fixed": "build another monitor"}
    )
    threshold: float = 0.1
    alpha: float = 0.001
    min_samples: int = 30
    max_invalid: float = 0.01
    check_every: int = 100
    value: Callable[[Any], Any] | None = field(default=None, repr=False)
    skip_cached: bool = True
    name: str = "prediction-drift"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    _window: SlidingMoments = field(init=False, repr=False)
    _finite: deque[bool] = field(init=False, repr=False)
    _invalid: int = field(default=0, init=False, repr=False)
    _added: int = field(default=0, init=False, repr=False)
    _baseline: Moments | None = field(default=None, init=False, repr=False)
    _usually: float = field(default=0.0, init=False, repr=False)
    _drifting: bool = field(default=False, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("window_size", "min_samples", "check_every"):
            _whole(name, getattr(self, name), 2 if name == "window_size" else 1)
        self.min_samples = min(self.min_samples, self.window_size)
        if not 0.0 < self.alpha < 1.0:
            raise BadConfiguration(f"alpha must lie in (0, 1), not {self.alpha!r}")
        if not 0.0 <= self.max_invalid <= 1.0:
            raise BadConfiguration(f"max_invalid must lie in [0, 1], not {self.max_invalid!r}")
        _size(self.threshold)
        self._window = SlidingMoments(self.window_size)
        self._finite = deque()

    # -- what comes in --------------------------------------------------------------------

    def set_baseline(self, predictions: Iterable[float]) -> None:
        """Take ``predictions`` as the reference; the window stays, an alarm ends.

        Parameters
        ----------
        predictions : iterable of shape (n,), float
            Any array, series or list.  What is not a finite number is counted apart.

        Raises
        ------
        BadConfiguration
            Fewer than two finite predictions, or all of them equal: a shift is measured
            in their standard deviation.

        Examples
        --------
        >>> try:
        ...     PredictionDriftMonitor().set_baseline([0.5, 0.5])
        ... except BadConfiguration as error:
        ...     print(error)
        a baseline must vary: all of its 2 finite predictions are 0.5
        """
        baseline, rows = Moments(), 0
        for prediction in predictions:
            rows += 1
            baseline.add(_number(prediction))
        if baseline.count < 2:
            raise BadConfiguration(
                f"a baseline needs at least 2 finite predictions, not {baseline.count} of {rows}"
            )
        if not 0.0 < baseline.std < math.inf:
            what = "all" if baseline.minimum == baseline.maximum else "the largest"
            raise BadConfiguration(
                f"a baseline must vary: {what} of its {baseline.count} finite predictions "
                f"are {baseline.maximum:.6g}"
            )
        with self._lock:
            self._baseline = baseline
            self._usually = 1.0 - baseline.count / rows
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
        value = _number(prediction)
        with self._lock:
            self._add(value)

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
        value = _number(answer if self.value is None else self._valued(answer))
        with self._lock:
            self._add(value)
            due = self._baseline is not None and self._added % self.check_every == 0
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
        _size(limit)
        with self._lock:
            if self._baseline is None:
                raise BadConfiguration(
                    "no baseline: call set_baseline() with predictions of the validation set"
                )
            result = self._judged(self._baseline, limit)
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
            window, baseline, invalid = self._window.moments(), self._baseline, self._invalid
        some = window.count > 0
        return {
            "count": window.count,
            "invalid": invalid,
            "mean": window.mean if some else math.nan,
            "std": window.std,
            "min": window.minimum if some else math.nan,
            "max": window.maximum if some else math.nan,
            "baseline_mean": math.nan if baseline is None else baseline.mean,
            "baseline_std": math.nan if baseline is None else baseline.std,
        }

    # -- inside: _add and _judged run under the lock --------------------------------------------

    def _add(self, value: float) -> None:
        if len(self._finite) >= self.window_size:
            if self._finite.popleft():
                self._window.drop()
            else:
                self._invalid -= 1
        finite = math.isfinite(value)
        self._finite.append(finite)
        self._added += 1
        if finite:
            self._window.add(value)
        else:
            self._invalid += 1

    def _valued(self, answer: Any) -> Any:
        try:
            return self.value(answer) if self.value is not None else answer
        except Exception:
            # An answer that cannot be read is counted with those that are no number.
            return None

    def _judged(self, baseline: Moments, threshold: float) -> PredictionDrift:
        window, invalid = self._window.moments(), self._invalid
        shift = (window.mean - baseline.mean) / baseline.std if window.count else math.nan
        # Under the hypothesis of no shift the larger spread is the safer guess.
        spread = window.std / baseline.std if window.count > 1 else math.nan
        error = math.sqrt(max(1.0, spread**2) / max(1, window.count) + 1.0 / baseline.count)
        p_value = 2.0 * NormalDist().cdf(-abs(shift) / error)
        level, reason = self._verdict(baseline, window, shift, threshold, p_value)
        return PredictionDrift(
            level=level,
            shift=shift,
            standard_error=error,
            threshold=threshold,
            p_value=p_value,
            spread=spread,
            count=window.count,
            invalid=invalid,
            reason=f"{reason}, standard error {error:.3g}" if "mean" in reason else reason,
        )

    def _verdict(
        self, baseline: Moments, window: Moments, shift: float, threshold: float, p_value: float
    ) -> tuple[DriftLevel, str]:
        share = self._invalid / max(1, len(self._finite))
        if self._invalid >= _FEW and share - self._usually >= self.max_invalid:
            return DriftLevel.DRIFT, (
                f"{share:.3g} of the predictions are no finite number, "
                f"{self._usually:.3g} of the baseline"
            )
        if window.count < self.min_samples:
            need = f"at least {self.min_samples} are needed"
            return DriftLevel.INCONCLUSIVE, f"{window.count} predictions in the window; {need}"
        moved = (
            f"mean {baseline.mean:.4g} -> {window.mean:.4g}: {shift:+.2f} standard deviations "
            f"of the baseline"
        )
        if p_value >= self.alpha:
            return DriftLevel.NONE, f"{moved}, within the sampling error"
        if abs(shift) < threshold:
            return DriftLevel.NEGLIGIBLE, f"{moved}, less than {threshold:.3g}"
        return DriftLevel.DRIFT, moved

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


def _number(prediction: Any) -> float:
    try:
        return float(prediction)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _whole(name: str, value: Any, low: int) -> None:
    if not (isinstance(value, int) and value >= low):
        raise BadConfiguration(f"{name} must be a whole number >= {low}, not {value!r}")


def _size(threshold: float) -> None:
    if not 0.0 <= threshold < math.inf:
        raise BadConfiguration(f"threshold must be a finite number >= 0, not {threshold!r}")
