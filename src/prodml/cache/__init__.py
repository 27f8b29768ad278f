"""Predictions kept by what they depend on: features, model version, function, arguments.

Start with ``cache = PredictionCache()`` and put ``@cached_prediction(cache)`` on
``predict(features, model_version)``; give the cache a Redis URL to share it between
processes.  The cache never gives one input the answer of another (keys are exact and the
same on every machine), computes each answer once however many ask at the same time, and
cannot break a prediction: what has no name is computed, a store that fails is a miss.
``cache.drop("v1")`` forgets a version everywhere in one operation, ``cache.stats()`` and
``cache.explain(features, version)`` say what happened and why.  Flows of your own use the
steps of :class:`CacheSteps`; :func:`canonical` is the format of the keys.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.cache.backoff import Backoff
    from prodml.cache.cached import CachedBatches, CachedCalls, cached_prediction
    from prodml.cache.codecs import Codec
    from prodml.cache.disk import DiskStats, DiskTier
    from prodml.cache.keys import canonical
    from prodml.cache.prediction_cache import PredictionCache
    from prodml.cache.rounding import MeasuredError, Rounding, RoundingAudit
    from prodml.cache.stats import CacheStats, Explanation
    from prodml.cache.steps import CacheSteps, Key, Uncached
    from prodml.cache.tiers import Answer
    from prodml.cache.trace import Bypass, Provenance, Trace
    from prodml.cache.typed import AnswerType
    from prodml.cache.worth import Warmed, Worth
    from prodml.types import MISS

__all__ = [
    "MISS",
    "Answer",
    "AnswerType",
    "Backoff",
    "Bypass",
    "CacheStats",
    "CacheSteps",
    "CachedBatches",
    "CachedCalls",
    "Codec",
    "DiskStats",
    "DiskTier",
    "Explanation",
    "Key",
    "MeasuredError",
    "PredictionCache",
    "Provenance",
    "Rounding",
    "RoundingAudit",
    "Trace",
    "Uncached",
    "Warmed",
    "Worth",
    "cached_prediction",
    "canonical",
]

load_on_use(
    __name__,
    {
        ".backoff": ("Backoff",),
        ".cached": ("CachedBatches", "CachedCalls", "cached_prediction"),
        ".codecs": ("Codec",),
        ".disk": ("DiskStats", "DiskTier"),
        ".keys": ("canonical",),
        ".prediction_cache": ("PredictionCache",),
        ".rounding": ("MeasuredError", "Rounding", "RoundingAudit"),
        ".stats": ("CacheStats", "Explanation"),
        ".steps": ("CacheSteps", "Key", "Uncached"),
        ".tiers": ("Answer",),
        ".trace": ("Bypass", "Provenance", "Trace"),
        ".typed": ("AnswerType",),
        ".worth": ("Warmed", "Worth"),
        "prodml.types": ("MISS",),
    },
)
