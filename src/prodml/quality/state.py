"""Everything that an estimator knows beside its settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prodml.quality.band import Band
from prodml.quality.bias import Bias
from prodml.quality.pending import Pending
from prodml.quality.task import Task

__all__ = ["State"]


@dataclass(slots=True)
class State:
    """What was learnt from the reference, and from labels since.

    ``rows`` are those of the reference, ``joined`` counts labels that found their prediction;
    ``held`` are joined lines with their labels that wait until there are ``wanted``, the number
    from which it is worth while to look again whether every metric is defined.
    """

    task: Task
    expect: Callable[[Any], Any]
    bands: dict[str, Band]
    biases: dict[str, Bias]
    pending: Pending
    rows: int
    held: list[tuple[bytes, float]] = field(default_factory=list[tuple[bytes, float]])
    joined: int = 0
    wanted: int = 0
