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

# Both type checkers understand this, and ``typing`` stays unloaded.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from prodml.cache import PredictionCache as PredictionCache
    from prodml.cache import cached_prediction as cached_prediction
    from prodml.drift import DriftDetector as DriftDetector
    from prodml.drift import PredictionDriftMonitor as PredictionDriftMonitor
    from prodml.errors import ProdmlError as ProdmlError
    from prodml.events import EVENTS as EVENTS
    from prodml.features import FeatureService as FeatureService
    from prodml.lifecycle import Lifecycle as Lifecycle
    from prodml.recording import PredictionLog as PredictionLog
    from prodml.recording import PredictionLogger as PredictionLogger
    from prodml.registry import ModelRegistry as ModelRegistry
    from prodml.resilience import CircuitBreaker as CircuitBreaker
    from prodml.resilience import CircuitState as CircuitState
    from prodml.resilience import FallbackChain as FallbackChain
    from prodml.resilience import Retry as Retry
    from prodml.resilience import Rung as Rung
    from prodml.retraining import RetrainingOrchestrator as RetrainingOrchestrator
    from prodml.retraining import TriggerType as TriggerType
    from prodml.service import PredictionService as PredictionService
    from prodml.serving import MicroBatcher as MicroBatcher
    from prodml.serving import VersionedModelServer as VersionedModelServer
    from prodml.validation import Schema as Schema

__version__: str = "0.1.0"

# Where each headline name lives.  A room itself is in the map too, because an attribute
# of a package with ``__getattr__`` does not fall back to its submodules.
_ROOMS: tuple[str, ...] = (
    "cache",
    "drift",
    "features",
    "quality",
    "recording",
    "registry",
    "resilience",
    "retraining",
    "rollout",
    "serving",
    "testing",
    "validation",
)
_HOME: dict[str, str] = {
    **dict.fromkeys(_ROOMS, ""),
    "CircuitBreaker": "resilience",
    "CircuitState": "resilience",
    "DriftDetector": "drift",
    "EVENTS": "events",
    "FallbackChain": "resilience",
    "FeatureService": "features",
    "Lifecycle": "lifecycle",
    "MicroBatcher": "serving",
    "ModelRegistry": "registry",
    "PredictionCache": "cache",
    "PredictionDriftMonitor": "drift",
    "PredictionLog": "recording",
    "PredictionLogger": "recording",
    "PredictionService": "service",
    "ProdmlError": "errors",
    "RetrainingOrchestrator": "retraining",
    "Retry": "resilience",
    "Rung": "resilience",
    "Schema": "validation",
    "TriggerType": "retraining",
    "VersionedModelServer": "serving",
    "cached_prediction": "cache",
}

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


def __getattr__(name: str) -> object:
    """Load a headline name or a room on first use."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'prodml' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"prodml.{home or name}")
    value: object = getattr(module, name) if home else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is there, loaded or not."""
    return sorted({*globals(), *_HOME})
