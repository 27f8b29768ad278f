"""Drift: has the data moved, and by enough to matter?

:class:`DriftDetector` is fitted on the data that the model knows and compares batches with
it.  ``report = detector.detect_drift(batch)`` is a mapping of feature to
:class:`FeatureDrift`, each with a :class:`DriftLevel`, an effect, a p-value corrected for
being one of many, and a reason in words; ``report.drifted`` names what drifted, and
``report.to_html("drift.html")`` draws it.  A verdict needs evidence *and* size; missing
values, new levels and vanished columns are findings, never exceptions and never silence.
:class:`MultivariateDetector` and its methods find what no single feature shows.
:class:`DriftMonitor` watches for as long as data come, within one budget of false alarms.
:class:`DriftTimeline` keeps what the last checks found.
:class:`PredictionDriftMonitor` watches a model's answers as they are given, and
:class:`ConceptDriftMonitor` its errors, when labels come.  Both rest on detectors for streams:
:class:`RankCUSUM` unless you know better, :class:`ADWIN` and others of the literature.
The measures (:func:`ks`, :func:`psi`, ...) are plain functions of two samples.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.drift.anderson_darling import anderson_darling
    from prodml.drift.budget import FalseAlarms
    from prodml.drift.calibration import Calibration, calibrate
    from prodml.drift.categories import cramers_v, g_test, l_infinity, total_variation
    from prodml.drift.cells import Cells
    from prodml.drift.concept import ConceptCounts, ConceptDriftMonitor
    from prodml.drift.correction import adjust, benjamini_hochberg, bonferroni, holm
    from prodml.drift.cramer_von_mises import cramer_von_mises
    from prodml.drift.detector import DriftDetector
    from prodml.drift.document import report_schema
    from prodml.drift.evidence import Evidence
    from prodml.drift.exchangeability import Finding, exchangeability
    from prodml.drift.feature import FeatureDrift
    from prodml.drift.layout import Layout
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
    from prodml.drift.monitor import DriftMonitor
    from prodml.drift.monitored import MonitoredFeature, MonitorReport
    from prodml.drift.multivariate import (
        AucInterval,
        CorrelationDrift,
        DistanceDrift,
        DomainClassifier,
        MultivariateDetector,
        MultivariateDrift,
        MultivariateReport,
        PairDrift,
        PCAReconstruction,
        PermutationResult,
        PredictionDriftDetector,
        auc_interval,
        correlation_change,
        energy_distance,
        mmd,
    )
    from prodml.drift.prediction import PredictionDrift, PredictionDriftMonitor
    from prodml.drift.ranking import priority
    from prodml.drift.reference import Reference, ReferenceColumn
    from prodml.drift.report import CheckReport, DriftReport
    from prodml.drift.streaming import (
        ADWIN,
        DDM,
        EDDM,
        HDDM_A,
        HDDM_W,
        KSWIN,
        PageHinkley,
        RankCUSUM,
        StreamDetector,
    )
    from prodml.drift.summary import CheckSummary, FeatureSummary
    from prodml.drift.timeline import DriftTimeline

__all__ = [
    "ADWIN",
    "DDM",
    "EDDM",
    "HDDM_A",
    "HDDM_W",
    "KSWIN",
    "AucInterval",
    "Calibration",
    "Cells",
    "CheckReport",
    "CheckSummary",
    "ConceptCounts",
    "ConceptDriftMonitor",
    "CorrelationDrift",
    "DistanceDrift",
    "DomainClassifier",
    "DriftDetector",
    "DriftLevel",
    "DriftMonitor",
    "DriftReport",
    "DriftTimeline",
    "Evidence",
    "FalseAlarms",
    "FeatureDrift",
    "FeatureSummary",
    "Finding",
    "Layout",
    "MonitorReport",
    "MonitoredFeature",
    "MultivariateDetector",
    "MultivariateDrift",
    "MultivariateReport",
    "PCAReconstruction",
    "PageHinkley",
    "PairDrift",
    "PermutationResult",
    "PredictionDrift",
    "PredictionDriftDetector",
    "PredictionDriftMonitor",
    "RankCUSUM",
    "Reference",
    "ReferenceColumn",
    "StreamDetector",
    "TestResult",
    "adjust",
    "anderson_darling",
    "auc_interval",
    "benjamini_hochberg",
    "bonferroni",
    "calibrate",
    "chi_square",
    "correlation_change",
    "cramer_von_mises",
    "cramers_v",
    "energy_distance",
    "exchangeability",
    "g_test",
    "hellinger",
    "holm",
    "jensen_shannon",
    "ks",
    "l_infinity",
    "mmd",
    "priority",
    "psi",
    "rate_change",
    "report_schema",
    "total_variation",
    "wasserstein",
]

load_on_use(
    __name__,
    {
        ".anderson_darling": ("anderson_darling",),
        ".budget": ("FalseAlarms",),
        ".calibration": ("Calibration", "calibrate"),
        ".categories": ("cramers_v", "g_test", "l_infinity", "total_variation"),
        ".cells": ("Cells",),
        ".concept": ("ConceptCounts", "ConceptDriftMonitor"),
        ".correction": ("adjust", "benjamini_hochberg", "bonferroni", "holm"),
        ".cramer_von_mises": ("cramer_von_mises",),
        ".detector": ("DriftDetector",),
        ".document": ("report_schema",),
        ".evidence": ("Evidence",),
        ".exchangeability": ("Finding", "exchangeability"),
        ".feature": ("FeatureDrift",),
        ".layout": ("Layout",),
        ".level": ("DriftLevel",),
        ".measures": (
            "TestResult",
            "chi_square",
            "hellinger",
            "jensen_shannon",
            "ks",
            "psi",
            "rate_change",
            "wasserstein",
        ),
        ".monitor": ("DriftMonitor",),
        ".monitored": ("MonitorReport", "MonitoredFeature"),
        ".multivariate": (
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
        ),
        ".prediction": ("PredictionDrift", "PredictionDriftMonitor"),
        ".ranking": ("priority",),
        ".reference": ("Reference", "ReferenceColumn"),
        ".report": ("CheckReport", "DriftReport"),
        ".streaming": (
            "ADWIN",
            "DDM",
            "EDDM",
            "HDDM_A",
            "HDDM_W",
            "KSWIN",
            "PageHinkley",
            "RankCUSUM",
            "StreamDetector",
        ),
        ".summary": ("CheckSummary", "FeatureSummary"),
        ".timeline": ("DriftTimeline",),
    },
)
