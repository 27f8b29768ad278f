"""Validation: bad rows are stopped at the door, and bad answers too.

A :class:`Schema` says what every row must look like.  Learn it from the training data with
``Schema.infer(train)``, print it, correct what you know better, and keep it with the model
(``to_dict``); or write it down as ``Schema({"age": Field(int, minimum=0)})``.
``schema.validate(row)`` returns the row itself when it is fine and raises
:class:`~prodml.errors.InvalidFeatures` with *every* :class:`Violation` when it is not;
policies (``on={"range": "clip", "missing": "impute"}``) repair instead, and count.
``schema.validate_batch(frame)`` sets bad rows aside as ``quarantined``.
An :class:`AnswerCheck` looks at the other end: a model that answers NaN has failed.

None and NaN are missing values; ``0``, ``""`` and ``False`` are values.
"""

from prodml.validation.answer import AnswerCheck
from prodml.validation.batch import BatchValidation
from prodml.validation.field import Field
from prodml.validation.schema import Schema, SchemaStats
from prodml.validation.violation import Violation

__all__ = ["AnswerCheck", "BatchValidation", "Field", "Schema", "SchemaStats", "Violation"]
