"""Drift: has the data moved, and by enough to matter?

:class:`DriftDetector` is fitted on the data that the model knows and compares batches with
it.  ``report = detector.detect_drift(batch)`` is a mapping of feature to
:class:`FeatureDrift`, each with a :class:`DriftLevel`, an effect, a p-value corrected for
being one of many, and a reason in words; ``report.drifted`` names what drifted, and
``report.to_html("drift.html")`` draws it.  A verdict needs evidence *and* size; missing
values, new levels and vanished columns are findings, never exceptions and never silence.
:class:`PredictionDriftMonitor` watches the mean of a model's answers as they are given.
The measures (:func:`ks`, :func:`psi`, ...) are plain functions of two samples.
"""

from prodml.drift.anderson_darling import anderson_darling
from prodml.drift.categories import cramers_v, g_test, l_infinity, total_variation
from prodml.drift.correction import adjust, benjamini_hochberg, bonferroni, holm
from prodml.drift.cramer_von_mises import cramer_von_mises
from prodml.drift.detector import DriftDetector
from prodml.drift.evidence import Evidence
from prodml.drift.feature import FeatureDrift
from prodml.drift.level import DriftLevel
from prodml.drift.measures import (
    TestResult,
    chi_square,
    hellinger,
    jensen_shannon,
    ks,
    psi,
    rate_change,
    wasserstein,
)
from prodml.drift.prediction import PredictionDrift, PredictionDriftMonitor
from prodml.drift.reference import Reference
from prodml.drift.report import DriftReport

__all__ = [
    "DriftDetector",
    "DriftLevel",
    "DriftReport",
    "Evidence",
    "FeatureDrift",
    "PredictionDrift",
    "PredictionDriftMonitor",
    "Reference",
    "TestResult",
    "adjust",
    "anderson_darling",
    "benjamini_hochberg",
    "bonferroni",
    "chi_square",
    "cramer_von_mises",
    "cramers_v",
    "g_test",
    "hellinger",
    "holm",
    "jensen_shannon",
    "ks",
    "l_infinity",
    "psi",
    "rate_change",
    "total_variation",
    "wasserstein",
]
