"""Have the model's answers moved?  Every test of a feature, on what the model said."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast, final

import numpy as np

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.drift.correction import Correction
from prodml.drift.detector import DriftDetector
from prodml.drift.report import DriftReport
from prodml.drift.table import column_of
from prodml.errors import BadConfiguration
from prodml.events import EVENTS, Stream
from prodml.types import Prediction

__all__ = ["PredictionDriftDetector"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PredictionDriftDetector:
    """A :class:`DriftDetector` over answers: numbers, classes or vectors of probabilities.

    Numbers and classes are one feature, ``"answer"``.  A vector of probabilities is one feature
    for each class, ``"p(class)"``, and two that say more than any of them: ``"class"``, the most
    probable one, and ``"confidence"``, its probability.

    Parameters
    ----------
    reference
        Answers to the data that the model knows: numbers, classes, an array (rows, classes),
        a list of vectors, a data frame of them, or :class:`~prodml.types.Prediction` objects that
        hold any of these.  One number a row is a number, whatever the shape.
    classes
        Names of the columns of a vector, in order (default ``0``, ``1``, ...).
    codes
        Numbers are classes, not quantities.
    alpha, correction, min_effect, min_rows, blocks, name, clock, events
        As for :class:`DriftDetector`.

    Raises
    ------
    BadConfiguration
        A setting makes no sense, or the answers cannot be read.

    Notes
    -----
    A batch of answers in another form (vectors where numbers were) drifted: its columns are
    gone.  Vectors with a NaN have no class and no confidence, which is counted as missing.  For
    answers one at a time see :class:`PredictionDriftMonitor`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> check = PredictionDriftDetector(rng.dirichlet([4.0, 4.0, 2.0], 500), classes="abc")
    >>> report = check.detect_drift(rng.dirichlet([2.0, 4.0, 4.0], 500))
    >>> list(report), sorted(report.drifted)
    (['p(a)', 'p(b)', 'p(c)', 'class', 'confidence'], ['class', 'p(a)', 'p(c)'])
    """

    reference: Any = field(kw_only=False, repr=False)
    classes: Sequence[Any] | None = None
    codes: bool = False
    alpha: float = 0.05
    correction: Correction = "bh"
    min_effect: float = 0.05
    min_rows: int = 30
    blocks: Any = field(default=None, repr=False)
    name: str = "predictions"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    _detector: DriftDetector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = self._readable()
        self._detector = DriftDetector(
            table,
            alpha=self.alpha,
            correction=self.correction,
            min_effect=self.min_effect,
            min_rows=self.min_rows,
            blocks=self.blocks,
            categorical=("answer",) if self.codes and "answer" in table else (),
            name=self.name,
            clock=self.clock,
            events=self.events,
        )
        self.reference = self.blocks = None

    def detect_drift(self, current: Any, alpha: float | None = None) -> DriftReport:
        """Compare answers with those of the reference; see :meth:`DriftDetector.detect_drift`.

        Examples
        --------
        >>> check = PredictionDriftDetector(["yes", "no"] * 100)
        >>> check.detect_drift(["yes"] * 100).drifted
        ('answer',)
        """
        return self._detector.detect_drift(self._table(current), alpha)

    def _readable(self) -> dict[str, Any]:
        names = list(map(str, () if self.classes is None else self.classes))
        if len(set(names)) < len(names):
            raise BadConfiguration(f"classes must have different names: {names}")
        try:
            table = self._table(self.reference)
        except (TypeError, ValueError) as error:
            raise BadConfiguration(f"reference has answers of no form: {error}") from error
        if not table or np.isnan(table.get("confidence", 0.0)).all():
            raise BadConfiguration("reference has no answers")
        return table

    def _table(self, answers: Any) -> dict[str, Any]:
        values = _values(answers)
        if not len(values):
            return {}
        if isinstance(values, np.ndarray) and values.ndim == 2:
            return self._vectors(values)
        if any(isinstance(value, list | tuple | np.ndarray) for value in values):
            return self._vectors(_stacked(list(values)))
        return {"answer": values}

    def _vectors(self, vectors: Any) -> dict[str, Any]:
        if vectors.shape[1] == 1:
            return {"answer": vectors[:, 0]}
        classes = list(range(vectors.shape[1])) if self.classes is None else list(self.classes)
        if len(classes) != vectors.shape[1]:
            # Not comparable class by class: the columns of the reference are gone.
            return {f"{vectors.shape[1]} probabilities": vectors[:, 0]}
        known = np.isfinite(vectors).all(axis=1)
        top = np.where(known, np.argmax(vectors, axis=1), -1).tolist()
        return {
            **{f"p({name})": vectors[:, i] for i, name in enumerate(classes)},
            "class": [None if at < 0 else str(classes[at]) for at in top],
            "confidence": np.where(known, vectors.max(axis=1), np.nan),
        }


def _values(answers: Any) -> Any:
    if isinstance(answers, Mapping | str | bytes):
        raise TypeError(f"answers are one a row: a list or an array, no {type(answers).__name__}")
    if isinstance(answers, list | tuple):
        found = list(cast("Iterable[Any]", answers))
        return [one.value if isinstance(one, Prediction) else one for one in found]
    answers = _framed(answers)
    if isinstance(answers, np.ndarray) and answers.ndim == 2:
        return _numbers(answers)
    return column_of(answers, by_row=True)


def _framed(answers: Any) -> Any:
    """The vectors of a data frame, a row each."""
    import narwhals as nw

    frame = nw.from_native(answers, eager_only=True, pass_through=True)
    return frame.to_numpy() if isinstance(frame, nw.DataFrame) else answers


def _numbers(vectors: Any) -> Any:
    try:
        return vectors.astype(np.float64)
    except (TypeError, ValueError):
        return _stacked(vectors.tolist())


def _stacked(values: list[Any]) -> Any:
    """Vectors as rows; what is no vector of the usual length is a row of NaN."""
    lengths = [
        len(value) if isinstance(value, list | tuple | np.ndarray) else 0 for value in values
    ]
    width = max(set(lengths), key=lambda length: (lengths.count(length), length)) or max(lengths)
    rows = np.full((len(values), width), np.nan)
    for row, value, length in zip(rows, values, lengths, strict=True):
        if length == width:
            # What is no vector of numbers stays a row of NaN.
            with suppress(TypeError, ValueError):
                row[:] = value
    return rows
