"""Every fact of the house, and the stream that carries them.

A fact is something that has happened, named in the past tense.  Transitions are facts;
frequent things are counters, read on scrape.  The one exception is
:class:`PredictionServed` (with :class:`PredictionFailed` and :class:`ShadowScored`): ask
:meth:`Stream.wants` before building one.

Facts are slotted dataclasses that type checkers treat as frozen: freezing them at run
time would triple their price on the serving path.  Handlers run on the emitting thread;
one that raises is logged and cannot hurt the caller; a slow one belongs behind
:class:`Background`.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.events.background import Background
    from prodml.events.drift import (
        DriftCleared,
        DriftDetected,
        PerformanceDropped,
        PredictionDriftDetected,
    )
    from prodml.events.fact import Event
    from prodml.events.feature import FeatureSourceFailed, FeatureSourceRecovered
    from prodml.events.fleet import FleetCutOff, FleetReconnected, RoutingRefused
    from prodml.events.incident import IncidentOpened, IncidentResolved
    from prodml.events.prediction import PredictionFailed, PredictionServed, ShadowScored
    from prodml.events.record import LabelsArrived, RecordsDropped
    from prodml.events.registry import AliasMoved, FollowingFailed, ModelRegistered, VersionsRetired
    from prodml.events.resilience import (
        CallRetried,
        CircuitClosed,
        CircuitHalfOpened,
        CircuitOpened,
    )
    from prodml.events.retraining import (
        GateFailed,
        GatePassed,
        RetrainingRequested,
        RetrainingSuppressed,
        ScheduleDue,
        TrainingFailed,
        TrainingFinished,
        TrainingStarted,
    )
    from prodml.events.rollout import ModelPromoted, RolloutStarted, RolloutStepped
    from prodml.events.serving import (
        DefaultVersionChanged,
        ModelLoaded,
        ModelRefused,
        ModelUnloaded,
        RolledBack,
        TrafficRouted,
        VersionQuarantined,
    )
    from prodml.events.setting import SettingsChanged
    from prodml.events.stream import EVENTS, Handler, Stream, Unsubscribe

__all__ = [
    "EVENTS",
    "AliasMoved",
    "Background",
    "CallRetried",
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitOpened",
    "DefaultVersionChanged",
    "DriftCleared",
    "DriftDetected",
    "Event",
    "FeatureSourceFailed",
    "FeatureSourceRecovered",
    "FleetCutOff",
    "FleetReconnected",
    "FollowingFailed",
    "GateFailed",
    "GatePassed",
    "Handler",
    "IncidentOpened",
    "IncidentResolved",
    "LabelsArrived",
    "ModelLoaded",
    "ModelPromoted",
    "ModelRefused",
    "ModelRegistered",
    "ModelUnloaded",
    "PerformanceDropped",
    "PredictionDriftDetected",
    "PredictionFailed",
    "PredictionServed",
    "RecordsDropped",
    "RetrainingRequested",
    "RetrainingSuppressed",
    "RolledBack",
    "RolloutStarted",
    "RolloutStepped",
    "RoutingRefused",
    "ScheduleDue",
    "SettingsChanged",
    "ShadowScored",
    "Stream",
    "TrafficRouted",
    "TrainingFailed",
    "TrainingFinished",
    "TrainingStarted",
    "Unsubscribe",
    "VersionQuarantined",
    "VersionsRetired",
]

load_on_use(
    __name__,
    {
        ".background": ("Background",),
        ".drift": (
            "DriftCleared",
            "DriftDetected",
            "PerformanceDropped",
            "PredictionDriftDetected",
        ),
        ".fact": ("Event",),
        ".feature": ("FeatureSourceFailed", "FeatureSourceRecovered"),
        ".fleet": ("FleetCutOff", "FleetReconnected", "RoutingRefused"),
        ".incident": ("IncidentOpened", "IncidentResolved"),
        ".prediction": ("PredictionFailed", "PredictionServed", "ShadowScored"),
        ".record": ("LabelsArrived", "RecordsDropped"),
        ".registry": ("AliasMoved", "FollowingFailed", "ModelRegistered", "VersionsRetired"),
        ".resilience": ("CallRetried", "CircuitClosed", "CircuitHalfOpened", "CircuitOpened"),
        ".retraining": (
            "GateFailed",
            "GatePassed",
            "RetrainingRequested",
            "RetrainingSuppressed",
            "ScheduleDue",
            "TrainingFailed",
            "TrainingFinished",
            "TrainingStarted",
        ),
        ".rollout": ("ModelPromoted", "RolloutStarted", "RolloutStepped"),
        ".serving": (
            "DefaultVersionChanged",
            "ModelLoaded",
            "ModelRefused",
            "ModelUnloaded",
            "RolledBack",
            "TrafficRouted",
            "VersionQuarantined",
        ),
        ".setting": ("SettingsChanged",),
        ".stream": ("EVENTS", "Handler", "Stream", "Unsubscribe"),
    },
)
