"""When to retrain: predicates of the metrics, the time, and the last training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Protocol, final
from zoneinfo import ZoneInfo

from prodml.errors import BadConfiguration

__all__ = [
    "DataGrowth",
    "Drift",
    "Firing",
    "Novelty",
    "Performance",
    "Schedule",
    "Situation",
    "Trigger",
    "TriggerType",
]

_DAY = 86_400.0


class TriggerType(Enum):
    """Why a model is trained again.

    Examples
    --------
    >>> TriggerType("data_drift") is TriggerType.DATA_DRIFT
    True
    """

    SCHEDULED = "scheduled"
    PERFORMANCE_DEGRADATION = "performance_degradation"
    DATA_DRIFT = "data_drift"
    DATA_GROWTH = "data_growth"
    NOVELTY = "novelty"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a trigger may look at: the metrics, the time, the last successful training.

    ``now`` and ``trained_at`` are seconds since the epoch (UTC); ``trained_on`` holds the
    metrics at the last successful training.

    Examples
    --------
    >>> Situation(now=60.0, trained_at=0.0).metrics
    {}
    """

    now: float
    trained_at: float
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    trained_on: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """A trigger that fired: its type, the reason in words, the numbers.

    Examples
    --------
    >>> Firing(type=TriggerType.MANUAL, reason="audit").type.value
    'manual'
    """

    type: TriggerType
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Trigger(Protocol):
    """A predicate of the situation."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics without which the trigger cannot be judged."""
        ...

    def firing(self, situation: Situation, /) -> Firing | None:
        """Why to retrain, or None; called only when every metric it needs is there."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """Fires when ``metric`` falls below ``below``.

    ``minimum_labels`` is the value that metric ``"labels"`` must reach before the metric is
    believed.

    Examples
    --------
    >>> now = Situation(now=0.0, trained_at=0.0, metrics={"accuracy": 0.79})
    >>> Performance(below=0.8).firing(now).reason
    'accuracy 0.79 is below 0.8'
    """

    metric: str = "accuracy"
    below: float = 0.80
    minimum_labels: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics without which the trigger cannot be judged."""
        return (self.metric, "labels") if self.minimum_labels else (self.metric,)

    def doubt(self, situation: Situation, /) -> str:
        """Why the metric is not believed yet; empty if it is."""
        if not self.minimum_labels or situation.metrics["labels"] >= self.minimum_labels:
            return ""
        return f"{self.metric} ({situation.metrics['labels']:g} of {self.minimum_labels:g} labels)"

    def firing(self, situation: Situation, /) -> Firing | None:
        """Why to retrain, or None."""
        value = situation.metrics[self.metric]
        if self.doubt(situation):
            return None
        return _compared(
            TriggerType.PERFORMANCE_DEGRADATION, self.metric, value, "below", self.below
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Fires when ``metric`` rises above ``above``.

    Examples
    --------
    >>> now = Situation(now=0.0, trained_at=0.0, metrics={"drift_score": 0.2})
    >>> Drift().firing(now).type
    <TriggerType.DATA_DRIFT: 'data_drift'>
    """

    metric: str = "drift_score"
    above: float = 0.05

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics without which the trigger cannot be judged."""
        return (self.metric,)

    def firing(self, situation: Situation, /) -> Firing | None:
        """Why to retrain, or None."""
        value = situation.metrics[self.metric]
        return _compared(TriggerType.DATA_DRIFT, self.metric, value, "above", self.above)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Novelty:
    """Fires when the share of inputs outside what the model was trained on exceeds ``above``.

    Examples
    --------
    >>> now = Situation(now=0.0, trained_at=0.0, metrics={"novelty": 0.1})
    >>> Novelty().firing(now) is None
    True
    """

    metric: str = "novelty"
    above: float = 0.3

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics without which the trigger cannot be judged."""
        return (self.metric,)

    def firing(self, situation: Situation, /) -> Firing | None:
        """Why to retrain, or None."""
        value = situation.metrics[self.metric]
        return _compared(TriggerType.NOVELTY, self.metric, value, "above", self.above)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataGrowth:
    """Fires when ``metric`` (labelled rows) is ``factor`` times what the model was trained on.

    Trainings thin out as data grow, which costs far less than a calendar.  A model whose
    training did not note the metric counts as trained on nothing.

    Raises
    ------
    BadConfiguration
        ``factor`` is not above 1.

    Examples
    --------
    >>> now = Situation(now=0.0, trained_at=0.0, metrics={"labels": 150.0},
    ...                 trained_on={"labels": 100.0})
    >>> DataGrowth().firing(now).reason
    'labels 150 is 1.5 times the 100 of the last training'
    """

    metric: str = "labels"
    factor: float = 1.5

    def __post_init__(self) -> None:
        if not self.factor > 1.0:
            raise BadConfiguration(f"factor must be above 1, not {self.factor}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics without which the trigger cannot be judged."""
        return (self.metric,)

    def firing(self, situation: Situation, /) -> Firing | None:
        """Why to retrain, or None."""
        value, before = situation.metrics[self.metric], situation.trained_on.get(self.metric, 0.0)
        if value <= 0.0 or value < self.factor * before:
            return None
        times = value / before if before else math.inf
        return Firing(
            type=TriggerType.DATA_GROWTH,
            reason=f"{self.metric} {value:g} is {times:.3g} times "
            f"the {before:g} of the last training",
            evidence={"metric": self.metric, "value": value, "before": before},
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Fires ``every`` so many seconds after the last training, or by a ``cron`` expression.

    However many times were missed, it fires once.  ``timezone`` is a name such as
    ``"Europe/Oslo"``; cron times follow its daylight saving.

    Raises
    ------
    BadConfiguration
        Not exactly one of ``every`` and ``cron``; a time, expression or zone that is none.

    Examples
    --------
    >>> week = Situation(now=7 * 86400.0, trained_at=0.0)
    >>> Schedule(every=7 * 86400).firing(week).type.value
    'scheduled'
    """

    every: float | None = None
    cron: str | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if (self.every is None) == (self.cron is None):
            raise BadConfiguration("give exactly one of every (seconds) and cron")
        if self.every is not None and not self.every > 0:
            raise BadConfiguration(f"every must be positive seconds, not {self.every}")
        if self.cron is not None:
            try:
                self._next(0.0)
            except Exception as error:
                what = f"cron {self.cron!r} in {self.timezone!r} makes no sense: {error}"
                raise BadConfiguration(what) from error

    @property
    def needs(self) -> tuple[str, ...]:
        """Nothing but the time."""
        return ()

    def firing(self, situation: Situation, /) -> Firing | None:
        """Why to retrain, or None."""
        due = (
            situation.trained_at + self.every
            if self.every is not None
            else self._next(situation.trained_at)
        )
        if situation.now < due:
            return None
        days = (situation.now - situation.trained_at) / _DAY
        return Firing(
            type=TriggerType.SCHEDULED,
            reason=f"due since {datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC, "
            f"last training {days:.3g} days ago",
            evidence={"due": due, "trained_at": situation.trained_at},
        )

    def _next(self, after: float) -> float:
        from cronsim import CronSim

        # Aware in the zone, or a change of the clocks would move the training by an hour.
        start = datetime.fromtimestamp(after, ZoneInfo(self.timezone))
        found: datetime = next(CronSim(self.cron or "", start))
        return (found - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)


def _compared(
    kind: TriggerType, metric: str, value: float, side: str, limit: float
) -> Firing | None:
    beyond = value < limit if side == "below" else value > limit
    # NaN is no evidence of health: a metric that cannot be computed is beyond any limit.
    if not beyond and not math.isnan(value):
        return None
    return Firing(
        type=kind,
        reason=f"{metric} {value:.4g} is {side} {limit:g}",
        evidence={"metric": metric, "value": value, "limit": limit},
    )
