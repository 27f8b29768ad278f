"""Validation: bad rows are stopped at the door, and bad answers too.

A :class:`Schema` says what every row must look like.  Learn it from the training data with
``Schema.infer(train)``, print it, correct what you know better, and keep it with the model
(``to_dict``); or write it down as ``Schema({"age": Field(int, minimum=0)})``.
``schema.validate(row)`` returns the row itself when it is fine and raises
:class:`~prodml.errors.InvalidFeatures` with *every* :class:`Violation` when it is not;
policies (``on={"range": "clip", "missing": "impute"}``) repair instead, and count; a
:class:`Rule` holds between fields.  ``schema.validate_batch(frame)`` sets bad rows aside as
``quarantined``, ``schema.stats()`` counts, and an :class:`AnomalyDetector` ranks rows that are
valid and still odd.
An :class:`AnswerCheck` looks at the other end: a model that answers NaN has failed.

None and NaN are missing values; ``0``, ``""`` and ``False`` are values.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.validation.anomaly import AnomalyDetector, BatchAnomaly, RowAnomaly
    from prodml.validation.answer import AnswerCheck
    from prodml.validation.difference import SchemaDiff
    from prodml.validation.field import Field
    from prodml.validation.not_expressed import NotExpressed
    from prodml.validation.outcome import BatchValidation
    from prodml.validation.quarantine import HeldRow, Quarantine
    from prodml.validation.rule import Rule
    from prodml.validation.schema import Schema
    from prodml.validation.stats import SchemaStats, ShareChange
    from prodml.validation.violation import Violation

__all__ = [
    "AnomalyDetector",
    "AnswerCheck",
    "BatchAnomaly",
    "BatchValidation",
    "Field",
    "HeldRow",
    "NotExpressed",
    "Quarantine",
    "RowAnomaly",
    "Rule",
    "Schema",
    "SchemaDiff",
    "SchemaStats",
    "ShareChange",
    "Violation",
]

load_on_use(
    __name__,
    {
        ".anomaly": ("AnomalyDetector", "BatchAnomaly", "RowAnomaly"),
        ".answer": ("AnswerCheck",),
        ".difference": ("SchemaDiff",),
        ".field": ("Field",),
        ".not_expressed": ("NotExpressed",),
        ".outcome": ("BatchValidation",),
        ".quarantine": ("HeldRow", "Quarantine"),
        ".rule": ("Rule",),
        ".schema": ("Schema",),
        ".stats": ("SchemaStats", "ShareChange"),
        ".violation": ("Violation",),
    },
)
