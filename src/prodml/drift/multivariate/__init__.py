"""Drift that no single feature shows: dependence, and rows as a whole.

Each method is fitted once on a reference and gives a :class:`MultivariateDrift` for a batch:
:class:`PCAReconstruction` (do features hang together as they did?), :class:`CorrelationDrift`
(which pairs do not?), :class:`DistanceDrift` (is the cloud of rows where it was?) and
:class:`DomainClassifier` (can a model tell the samples apart, and by what?).
:class:`MultivariateDetector` runs several and corrects for that.
:class:`PredictionDriftDetector` looks at the model's answers, one column or many.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.drift.multivariate.answers import PredictionDriftDetector
    from prodml.drift.multivariate.auc import AucInterval, auc_interval
    from prodml.drift.multivariate.classifier import DomainClassifier
    from prodml.drift.multivariate.correlation import CorrelationDrift, correlation_change
    from prodml.drift.multivariate.detector import MultivariateDetector, MultivariateReport
    from prodml.drift.multivariate.distance import (
        DistanceDrift,
        PermutationResult,
        energy_distance,
        mmd,
    )
    from prodml.drift.multivariate.reconstruction import PCAReconstruction
    from prodml.drift.multivariate.verdict import MultivariateDrift, PairDrift

__all__ = [
    "AucInterval",
    "CorrelationDrift",
    "DistanceDrift",
    "DomainClassifier",
    "MultivariateDetector",
    "MultivariateDrift",
    "MultivariateReport",
    "PCAReconstruction",
    "PairDrift",
    "PermutationResult",
    "PredictionDriftDetector",
    "auc_interval",
    "correlation_change",
    "energy_distance",
    "mmd",
]

load_on_use(
    __name__,
    {
        ".answers": ("PredictionDriftDetector",),
        ".auc": ("AucInterval", "auc_interval"),
        ".classifier": ("DomainClassifier",),
        ".correlation": ("CorrelationDrift", "correlation_change"),
        ".detector": ("MultivariateDetector", "MultivariateReport"),
        ".distance": ("DistanceDrift", "PermutationResult", "energy_distance", "mmd"),
        ".reconstruction": ("PCAReconstruction",),
        ".verdict": ("MultivariateDrift", "PairDrift"),
    },
)
