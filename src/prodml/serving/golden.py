"""Rows whose answers are known: what a version must get right before anybody asks it."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, final

from prodml._call import run
from prodml.errors import BadConfiguration, GoldenMismatch
from prodml.serving.difference import apart
from prodml.serving.slot import Slot

__all__ = ["Golden", "Mismatch"]

_TOLD = 10


class Mismatch(NamedTuple):
    """A golden row that was answered otherwise than expected.

    ``apart`` is the largest difference between their numbers, infinite where there are none.

    Examples
    --------
    >>> Mismatch(3, 0.5, 0.9, 0.4).row
    3
    """

    row: int
    expected: Any
    answer: Any
    apart: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Golden:
    """A check of a model by rows with known answers, for ``load`` and ``load_model``.

    Parameters
    ----------
    rows
        What ``predict_batch`` takes: an array or frame, which goes to the model whole, or a
        sequence of rows.
    answers
        One a row.
    rtol, atol
        Numbers agree within ``atol + rtol * abs(expected)``; answers of any shape are compared
        part by part.
    allowed
        Share of the rows that may differ, 0..1: none by default.  A retrained model seldom
        repeats its predecessor exactly.

    Raises
    ------
    BadConfiguration
        No rows, not one answer a row, or a tolerance below zero.

    Examples
    --------
    >>> golden = Golden(rows=[-1, 2], answers=[1, 2])
    >>> golden(abs)
    >>> golden(lambda row: row)
    Traceback (most recent call last):
    prodml.errors.GoldenMismatch: answer rejected: 1 of 2 golden rows answered otherwise
    (rtol=1e-05, atol=1e-08); row 0: expected 1, answered -1
    """

    rows: Any
    answers: Any
    rtol: float = 1e-5
    atol: float = 1e-8
    allowed: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.rows) or len(self.rows) != len(self.answers):
            raise BadConfiguration(
                f"golden rows need one answer each: {len(self.rows)} rows, "
                f"{len(self.answers)} answers"
            )
        for name in ("rtol", "atol"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise BadConfiguration(f"{name} must be 0 or more, not {getattr(self, name)!r}")
        if not 0.0 <= self.allowed < 1.0:
            raise BadConfiguration(f"allowed must be a share in [0, 1), not {self.allowed!r}")

    @classmethod
    def of(cls, model: Any, rows: Any, **tolerances: float) -> Self:
        """Golden rows with the answers that a trusted ``model`` gives now.

        Examples
        --------
        >>> Golden.of(abs, [-1, 2]).answers
        [1, 2]
        """
        return cls(rows=rows, answers=_ask(model, rows), **tolerances)

    def __call__(self, model: Any) -> None:
        """Ask ``model`` and compare; raises as :meth:`compare`."""
        self.compare(_ask(model, self.rows))

    def compare(self, answers: Any) -> None:
        """Hold ``answers`` against those that are known.

        Raises
        ------
        GoldenMismatch
            More rows than ``allowed`` differ; ``mismatches`` has the ten worst.
        """
        given, known = list(answers), list(self.answers)
        if len(given) != len(known):
            raise GoldenMismatch(f"{len(given)} answers for {len(known)} golden rows", ())
        wrong: list[Mismatch] = []
        for row, (expected, answer) in enumerate(zip(known, given, strict=True)):
            agree, distance = apart(expected, answer, rtol=self.rtol, atol=self.atol)
            if not agree:
                wrong.append(Mismatch(row, expected, answer, distance))
        if len(wrong) / len(known) > self.allowed:
            wrong.sort(key=lambda mismatch: -mismatch.apart)
            raise GoldenMismatch(self._sentence(wrong), tuple(wrong[:_TOLD]))

    def _sentence(self, wrong: list[Mismatch]) -> str:
        worst = wrong[0]
        return (
            f"{len(wrong)} of {len(self.answers)} golden rows answered otherwise "
            f"(rtol={self.rtol:g}, atol={self.atol:g}); row {worst.row}: "
            f"expected {worst.expected!r}, answered {worst.answer!r}"
        )


def _ask(model: Any, rows: Any) -> Any:
    return run(Slot.of("golden", model).batch_steps(rows))
