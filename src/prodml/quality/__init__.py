"""Quality: how good is the model today, while its labels are still on their way?

:class:`PerformanceEstimator` is fitted on predictions whose labels are known.  Its
``estimate(chunk)`` says what AUC, accuracy, error ... the model has on new rows, with an
interval and an alarm against the reference's own band; ``settle(ids, labels)`` joins labels when
they come, shows realised against estimated, and corrects what follows.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.quality.bias import Bias
    from prodml.quality.estimator import PerformanceEstimator
    from prodml.quality.report import MetricEstimate, PerformanceReport, Settlement

__all__ = [
    "Bias",
    "MetricEstimate",
    "PerformanceEstimator",
    "PerformanceReport",
    "Settlement",
]

load_on_use(
    __name__,
    {
        ".bias": ("Bias",),
        ".estimator": ("PerformanceEstimator",),
        ".report": ("MetricEstimate", "PerformanceReport", "Settlement"),
    },
)
