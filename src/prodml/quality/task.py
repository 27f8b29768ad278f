"""What classification and regression do differently: reading, expecting, comparing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from prodml.errors import BadConfiguration
from prodml.quality.calibration import CALIBRATIONS, Calibration, Calibrator
from prodml.quality.loss import BinnedLoss, LearntLoss, LossModel, losses_of
from prodml.quality.metric import (
    CLASSIFICATION,
    REGRESSION,
    Chances,
    Formula,
    Losses,
    NumberRows,
    ScoreRows,
)
from prodml.types import is_missing

__all__ = ["Calibrated", "Classification", "Read", "Regression", "Task", "labels_of"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

# Squares of squared errors are numbers too.
_LARGEST = 1e150


@dataclass(frozen=True, slots=True)
class Read:
    """Rows that can be used, where they stood, and why others cannot."""

    rows: Any
    kept: Ints
    total: int
    findings: tuple[str, ...] = ()


class Task(Protocol):
    """One kind of model."""

    formulas: Mapping[str, Formula]

    def read(self, chunk: Any, features: Any) -> Read:
        """Rows of ``chunk`` that can be used."""
        ...

    def codes(self, labels: Any) -> Floats:
        """Labels as numbers, NaN for what is none."""
        ...

    def truth(self, rows: Any, codes: Floats) -> Any:
        """What came true, as chances or losses without uncertainty."""
        ...

    def fit(self, rows: Any, codes: Floats) -> Any:
        """A function of rows to what can be expected of them."""
        ...

    def pack(self, rows: Any, expected: Any) -> Floats:
        """What must be remembered of rows, one line a row."""
        ...

    def unpack(self, lines: Floats) -> tuple[Any, Any]:
        """Rows and what was expected of them."""
        ...


def labels_of(labels: Any) -> list[Any]:
    """Labels as plain Python values, from any sequence, array or series."""
    if hasattr(labels, "to_pylist"):
        # Arrow's own arrays give no copy where they hold text, booleans or nulls.
        return cast("list[Any]", labels.to_pylist())
    if hasattr(labels, "to_numpy"):
        labels = labels.to_numpy()
    if isinstance(labels, np.ndarray):
        return cast("list[Any]", labels.tolist())
    return list(labels)


def _floats(raw: Any, what: str, dimensions: tuple[int, ...]) -> Floats:
    try:
        if hasattr(raw, "to_pylist"):
            raw = raw.to_numpy(zero_copy_only=False)
        elif hasattr(raw, "to_numpy"):
            raw = raw.to_numpy()
        array = np.asarray(raw)
        # Complex ones would lose half of themselves with no more than a warning.
        array = array if array.dtype.kind == "c" else array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be numbers: {error}") from error
    if array.dtype.kind == "c":
        raise TypeError(f"{what} must be numbers that can be compared, not complex")
    if array.ndim not in dimensions:
        raise TypeError(f"{what} must have {dimensions} dimensions, not {array.ndim}")
    return array


def _probabilities(raw: Any) -> Floats:
    scores = _floats(raw, "probabilities", (1, 2))
    # A column of its own is the positive class, as a single number is.
    return scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What can be expected of rows, by what their scores were worth on the reference."""

    calibrator: Calibrator

    def __call__(self, rows: ScoreRows) -> Chances:
        """Calibrated chances."""
        return Chances(self.calibrator(rows.scores))


@dataclass(slots=True, kw_only=True)
class Classification:
    """Probabilities of two classes or more.

    ``labels`` are those of the columns of scores; where two classes come with the positive one
    first they are ``turned``: read from right to left.
    """

    threshold: float = 0.5
    positive: Any = None
    classes: Sequence[Any] | None = None
    calibration: Calibration = "auto"
    seed: int = 0
    formulas: Mapping[str, Formula] = field(default_factory=lambda: CLASSIFICATION)
    labels: tuple[Any, ...] = field(default=(), init=False)
    turned: bool = field(default=False, init=False)
    _codes: dict[Any, int] = field(default_factory=dict[Any, int], init=False)

    def __post_init__(self) -> None:
        if self.classes is not None and not _differ(self.classes):
            raise BadConfiguration(f"classes must be different labels: {list(self.classes)[:10]}")
        if self.calibration not in CALIBRATIONS:
            known = ", ".join(CALIBRATIONS)
            raise BadConfiguration(f"calibration must be one of {known}, not {self.calibration!r}")

    def name_classes(self, scores: Any, labels: list[Any]) -> None:
        """Learn which label belongs to which column."""
        shape = _probabilities(scores).shape
        count = 2 if len(shape) == 1 else shape[1]
        seen = list(dict.fromkeys(label for label in labels if not is_missing(label)))
        classes = list(self.classes) if self.classes is not None else _sorted(seen)
        if len(classes) != count:
            raise BadConfiguration(
                f"{count} probabilities but labels {classes[:10]}: name the classes in order"
            )
        strange = [label for label in seen if label not in classes]
        if strange:
            raise BadConfiguration(f"labels {strange[:3]} are none of classes {classes[:10]}")
        if self.positive is not None and self.positive not in classes:
            raise BadConfiguration(f"positive {self.positive!r} is no label: {classes}")
        first = count == 2 and self.positive is not None and self.positive == classes[0]
        self.restore(classes[::-1] if first else classes, turned=first)

    def restore(self, labels: Sequence[Any], *, turned: bool) -> None:
        """Take labels for those of the columns; of two the positive one is the last."""
        if len(labels) < 2 or not _differ(labels):
            raise ValueError("labels of at least two classes expected")
        self.labels, self.turned = tuple(labels), turned
        self._codes = {label: code for code, label in enumerate(labels)}

    def read(self, chunk: Any, features: Any) -> Read:  # noqa: ARG002
        """Probabilities: one of the positive class, or one a class."""
        scores = _probabilities(chunk)
        if scores.ndim == 1:
            scores = np.column_stack((1.0 - scores, scores))
        elif self.turned:
            scores = scores[:, ::-1]
        if len(scores) and scores.shape[1] != len(self._codes):
            raise TypeError(f"{scores.shape[1]} probabilities a row instead of {len(self._codes)}")
        finite = np.isfinite(scores).all(axis=1)
        inside = ((scores >= -1e-9) & (scores <= 1.0 + 1e-9)).all(axis=1)
        good: Any = np.asarray(finite & inside)
        good[good] = np.abs(scores[good].sum(axis=1) - 1.0) <= 1e-3
        told: list[str] = []
        if not finite.all():
            told.append(f"{(~finite).sum()} of {len(scores)} rows without probabilities")
        if (finite & ~good).any():
            told.append(f"{(finite & ~good).sum()} of {len(scores)} rows are no probabilities")
        kept = np.flatnonzero(good)
        rows = self._rows(np.clip(scores[kept], 0.0, 1.0))
        return Read(rows, kept, len(scores), tuple(told))

    def _rows(self, scores: Floats) -> ScoreRows:
        if scores.shape[1] == 2:
            return ScoreRows(scores, (scores[:, 1] >= self.threshold).astype(np.int64))
        return ScoreRows(scores, np.argmax(scores, axis=1))

    def codes(self, labels: Any) -> Floats:
        """Number of the class, NaN for a label that is none."""
        known = [self._codes.get(x, np.nan) if _hashes(x) else np.nan for x in labels_of(labels)]
        return np.array(known, dtype=np.float64)

    def truth(self, rows: ScoreRows, codes: Floats) -> Chances:
        """Chances of 0 and 1."""
        return Chances(np.eye(rows.scores.shape[1])[codes.astype(np.int64)])

    def fit(self, rows: ScoreRows, codes: Floats) -> Any:
        """Calibrated chances."""
        hits = self.truth(rows, codes).values
        kind = self.calibration
        if kind == "auto":
            kind = _best(rows.scores, hits, self.seed)
        return Calibrated(Calibrator.fit(kind, rows.scores, hits))

    def pack(self, rows: ScoreRows, expected: Chances) -> Floats:
        """Scores, then chances."""
        return np.hstack((rows.scores, expected.values))

    def unpack(self, lines: Floats) -> tuple[ScoreRows, Chances]:
        """Scores, then chances."""
        scores, weights = np.hsplit(lines, 2)
        return self._rows(scores), Chances(weights)


def _differ(labels: Sequence[Any]) -> bool:
    return all(map(_hashes, labels)) and len(set(labels)) == len(labels)


def _sorted(labels: list[Any]) -> list[Any]:
    try:
        return sorted(labels)
    except TypeError:
        return sorted(labels, key=lambda label: (type(label).__name__, str(label)))


def _hashes(label: Any) -> bool:
    try:
        hash(label)
    except TypeError:
        return False
    return not is_missing(label)


def _best(scores: Floats, hits: Floats, seed: int) -> Calibration:
    """The calibration with the least squared error on rows it has not seen."""
    order = np.random.default_rng([seed, 7]).permutation(len(scores))
    halves = np.array_split(order, 2)
    missed: dict[Calibration, float] = {}
    for kind in CALIBRATIONS[1:]:
        missed[kind] = 0.0
        for seen, held in (halves, halves[::-1]):
            chances = Calibrator.fit(kind, scores[seen], hits[seen])(scores[held])
            missed[kind] += float(((chances - hits[held]) ** 2).sum())
    return min(missed, key=lambda kind: missed[kind])


@dataclass(slots=True, kw_only=True)
class Regression:
    """Predictions that are numbers."""

    loss_model: Any = None
    bins: int = 20
    formulas: Mapping[str, Formula] = field(default_factory=lambda: REGRESSION)
    # Features that the loss model was fitted with; None before.
    _width: int | None = field(default=None, init=False)

    def read(self, chunk: Any, features: Any) -> Read:
        """Predictions, and features where the loss model wants them."""
        predictions = _floats(chunk, "predictions", (1, 2))
        if predictions.ndim == 2 and predictions.shape[1] != 1:
            raise TypeError(f"one prediction a row, not {predictions.shape[1]}")
        predictions = predictions.reshape(-1)
        known = None
        if features is not None and self.loss_model is not None:
            known = _floats(features, "features", (2,))
            if len(known) != len(predictions):
                raise TypeError(f"{len(known)} rows of features, {len(predictions)} predictions")
        width = 0 if known is None else known.shape[1]
        if self._width not in {None, width}:
            raise TypeError(f"{width} features instead of the {self._width} of the reference")
        finite = np.isfinite(predictions)
        told = (f"{(~finite).sum()} of {len(finite)} rows without a prediction",)
        kept = np.flatnonzero(finite)
        rows = NumberRows(predictions, known).take(kept)
        return Read(rows, kept, len(finite), () if finite.all() else told)

    def codes(self, labels: Any) -> Floats:
        """Finite labels."""
        found = [_number(label) for label in labels_of(labels)]
        return np.array(found, dtype=np.float64)

    def truth(self, rows: NumberRows, codes: Floats) -> Losses:
        """Errors as they came."""
        losses = losses_of(rows.predictions, codes)
        return Losses(losses, np.zeros_like(losses))

    def fit(self, rows: NumberRows, codes: Floats) -> LossModel:
        """A model of the errors."""
        losses = losses_of(rows.predictions, codes)
        if losses.max(initial=0.0) > _LARGEST:
            raise BadConfiguration(
                f"errors up to {losses[:, 0].max():.3g} have no squares that could be compared: "
                f"predictions and labels in smaller units"
            )
        self._width = 0 if rows.features is None else rows.features.shape[1]
        if self.loss_model is None:
            return BinnedLoss.fit(rows.predictions, losses, self.bins)
        return LearntLoss.fit(self.loss_model, rows, losses)

    def restore(self) -> None:
        """As after a fit without features."""
        self._width = 0

    def pack(self, rows: NumberRows, expected: Losses) -> Floats:
        """Prediction, errors, variances."""
        return np.column_stack((rows.predictions, expected.values, expected.variances))

    def unpack(self, lines: Floats) -> tuple[NumberRows, Losses]:
        """Prediction, errors, variances."""
        return NumberRows(lines[:, 0]), Losses(lines[:, 1:3], lines[:, 3:5])


def _number(label: Any) -> float:
    try:
        value = float(label)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
    return value if np.isfinite(value) else float("nan")
