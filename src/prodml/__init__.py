"""Typed, embeddable patterns for machine learning in production.

Import what you need from here; everything is loaded on first use, so ``import prodml``
itself costs next to nothing.  More names live in the rooms: ``prodml.drift.psi``.

Examples
--------
>>> from prodml import CircuitBreaker
>>> breaker = CircuitBreaker("feature-service", failure_threshold=5)
>>> breaker.call(len, "abc")
3
"""

from prodml._lazy import load_on_use

# Both type checkers understand this, and ``typing`` stays unloaded.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from prodml.cache import PredictionCache, cached_prediction
    from prodml.drift import DriftDetector, PredictionDriftMonitor
    from prodml.errors import ProdmlError
    from prodml.events import EVENTS
    from prodml.features import FeatureService
    from prodml.lifecycle import Lifecycle
    from prodml.recording import PredictionLog, PredictionLogger
    from prodml.registry import ModelRegistry
    from prodml.resilience import CircuitBreaker, CircuitState, FallbackChain, Retry, Rung
    from prodml.retraining import RetrainingOrchestrator, TriggerType
    from prodml.service import PredictionService
    from prodml.serving import MicroBatcher, VersionedModelServer
    from prodml.validation import Schema

__version__: str = "0.1.0"

__all__ = [
    "EVENTS",
    "CircuitBreaker",
    "CircuitState",
    "DriftDetector",
    "FallbackChain",
    "FeatureService",
    "Lifecycle",
    "MicroBatcher",
    "ModelRegistry",
    "PredictionCache",
    "PredictionDriftMonitor",
    "PredictionLog",
    "PredictionLogger",
    "PredictionService",
    "ProdmlError",
    "RetrainingOrchestrator",
    "Retry",
    "Rung",
    "Schema",
    "TriggerType",
    "VersionedModelServer",
    "cached_prediction",
]

load_on_use(
    __name__,
    {
        ".cache": ("PredictionCache", "cached_prediction"),
        ".drift": ("DriftDetector", "PredictionDriftMonitor"),
        ".errors": ("ProdmlError",),
        ".events": ("EVENTS",),
        ".features": ("FeatureService",),
        ".lifecycle": ("Lifecycle",),
        ".quality": (),
        ".recording": ("PredictionLog", "PredictionLogger"),
        ".registry": ("ModelRegistry",),
        ".resilience": ("CircuitBreaker", "CircuitState", "FallbackChain", "Retry", "Rung"),
        ".retraining": ("RetrainingOrchestrator", "TriggerType"),
        ".rollout": (),
        ".service": ("PredictionService",),
        ".serving": ("MicroBatcher", "VersionedModelServer"),
        ".testing": (),
        ".validation": ("Schema",),
    },
)
