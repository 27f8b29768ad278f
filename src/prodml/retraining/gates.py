"""Is the challenger good enough?  Champion and challenger on the same rows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, final

from prodml.errors import BadConfiguration

__all__ = ["AbsoluteFloor", "BetterOnSameRows", "Evaluation", "Gate", "GateResult"]

LossFunction = Callable[[Any, Any], float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Rows that neither model was trained on, with their labels.

    ``blocks`` (one a row: the day, the customer) groups rows that are alike; the interval of
    a comparison is then over blocks, not rows.

    Examples
    --------
    >>> Evaluation([{"x": 1}], [1]).blocks is None
    True
    """

    rows: Sequence[Any]
    labels: Sequence[Any]
    blocks: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What a gate found: losses of both models (``champion`` None if there is none).

    Examples
    --------
    >>> GateResult(gate="brier", passed=True, champion=None, challenger=0.1, reason="first").passed
    True
    """

    gate: str
    passed: bool
    champion: float | None
    challenger: float
    reason: str


class Gate(Protocol):
    """Judges a challenger."""

    @property
    def name(self) -> str:
        """Names the gate in facts."""
        ...

    def judge(self, champion: Any, challenger: Any, evaluation: Evaluation, /) -> GateResult:
        """Compare; ``champion`` is None when there is none yet."""
        ...


def brier(value: Any, label: Any) -> float:
    """Squared error of a probability (Brier 1950).

    Examples
    --------
    >>> brier(0.5, 1)
    0.25
    """
    return float((value - label) ** 2)


def log_loss(value: Any, label: Any) -> float:
    """Negative log-likelihood of a binary label, in nats, of a probability kept off 0 and 1.

    Examples
    --------
    >>> round(log_loss(0.5, 1), 4)
    0.6931
    """
    sure = min(max(float(value), 1e-15), 1.0 - 1e-15)
    return -math.log(sure if label else 1.0 - sure)


def absolute(value: Any, label: Any) -> float:
    """Absolute error.

    Examples
    --------
    >>> absolute(3, 5)
    2.0
    """
    return float(abs(value - label))


def zero_one(value: Any, label: Any) -> float:
    """1 for a wrong answer, 0 for a right one.

    Examples
    --------
    >>> zero_one("yes", "no")
    1.0
    """
    return float(value != label)


_LOSSES: dict[str, LossFunction] = {
    "brier": brier,
    "log": log_loss,
    "absolute": absolute,
    "zero_one": zero_one,
}


def losses_of(model: Any, evaluation: Evaluation, loss: LossFunction) -> list[float]:
    """Loss of each row; by ``predict_batch`` if the model has it, else row by row."""
    batch = getattr(model, "predict_batch", None)
    if batch is not None:
        answers = cast("Sequence[Any]", batch(evaluation.rows))
    else:
        predict: Callable[[Any], Any] = getattr(model, "predict", model)
        answers = [predict(row) for row in evaluation.rows]
    pairs = zip(answers, evaluation.labels, strict=True)
    return [loss(answer, label) for answer, label in pairs]


def _loss_function(loss: str | LossFunction) -> LossFunction:
    if not isinstance(loss, str):
        return loss
    if loss not in _LOSSES:
        raise BadConfiguration(f"loss must be a function or one of {sorted(_LOSSES)}, not {loss!r}")
    return _LOSSES[loss]


@final
@dataclass(frozen=True, slots=True)
class BetterOnSameRows:
    """The challenger's mean loss may exceed the champion's by at most ``tolerance``.

    Parameters
    ----------
    loss
        ``"brier"``, ``"log"``, ``"absolute"``, ``"zero_one"``, or a function of (answer,
        label).
    tolerance
        Largest acceptable mean difference, challenger minus champion.
    min_rows
        Rows below which nobody passes.
    certain
        True asks that the upper end of the interval, not the mean, is within tolerance.
    name
        Names the gate in facts; by default the loss.

    Notes
    -----
    The 95 % interval is Student's of the paired differences, of block means where the
    evaluation has blocks: rows of one day are not independent.  (Seven days with the normal
    quantile would be 90 %.)

    Examples
    --------
    >>> evaluation = Evaluation([{}] * 50, [1, 0] * 25)
    >>> gate = BetterOnSameRows("brier")
    >>> gate.judge(lambda row: 0.5, lambda row: 0.9, evaluation).passed
    False
    """

    loss: str | LossFunction = "brier"
    tolerance: float = 0.0
    min_rows: int = 30
    certain: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        function = _loss_function(self.loss)
        if not self.name:
            shown = self.loss if isinstance(self.loss, str) else function.__name__
            object.__setattr__(self, "name", f"{shown} on the same rows")

    def judge(self, champion: Any, challenger: Any, evaluation: Evaluation, /) -> GateResult:
        """Compare both models on ``evaluation``."""
        rows = len(evaluation.rows)
        if rows < self.min_rows:
            return self._result(None, math.nan, f"{rows} rows, {self.min_rows} are needed", False)
        function = _loss_function(self.loss)
        own = losses_of(challenger, evaluation, function)
        mean = math.fsum(own) / rows
        if not math.isfinite(mean):
            return self._result(None, mean, "a loss of the challenger is not finite", False)
        if champion is None:
            return self._result(None, mean, f"loss {mean:.4f}; there is no champion yet", True)
        theirs = losses_of(champion, evaluation, function)
        return self._compare(own, theirs, evaluation.blocks)

    def _compare(
        self, own: list[float], theirs: list[float], blocks: Sequence[Any] | None
    ) -> GateResult:
        rows = len(own)
        mean, before = math.fsum(own) / rows, math.fsum(theirs) / rows
        differences = [a - b for a, b in zip(own, theirs, strict=True)]
        low, high = _interval(_block_means(differences, blocks))
        worst = high if self.certain else mean - before
        reason = (
            f"loss {mean:.4f} against {before:.4f} on {rows:,} rows: "
            f"{mean - before:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
        # A champion that cannot be computed is no reason to keep it.
        passed = worst <= self.tolerance or not math.isfinite(before)
        return self._result(before, mean, reason, passed)

    def _result(
        self, champion: float | None, challenger: float, reason: str, passed: bool
    ) -> GateResult:
        return GateResult(
            gate=self.name, passed=passed, champion=champion, challenger=challenger, reason=reason
        )


@final
@dataclass(frozen=True, slots=True)
class AbsoluteFloor:
    """The challenger's mean loss may be at most ``at_most``, whatever the champion's is.

    Examples
    --------
    >>> AbsoluteFloor(0.2).judge(None, lambda row: 0.9, Evaluation([{}], [1])).passed
    True
    """

    at_most: float
    loss: str | LossFunction = "brier"
    name: str = "absolute floor"

    def __post_init__(self) -> None:
        _loss_function(self.loss)

    def judge(self, champion: Any, challenger: Any, evaluation: Evaluation, /) -> GateResult:  # noqa: ARG002
        """Judge the challenger alone."""
        losses = losses_of(challenger, evaluation, _loss_function(self.loss))
        mean = math.fsum(losses) / len(losses) if losses else math.nan
        return GateResult(
            gate=self.name,
            # False for NaN, as it should be.
            passed=mean <= self.at_most,
            champion=None,
            challenger=mean,
            reason=f"loss {mean:.4f}, at most {self.at_most:g} is allowed",
        )


def _block_means(values: list[float], blocks: Sequence[Any] | None) -> list[float]:
    if blocks is None:
        return values
    groups: dict[Any, list[float]] = {}
    for value, block in zip(values, blocks, strict=True):
        groups.setdefault(block, []).append(value)
    return [math.fsum(group) / len(group) for group in groups.values()]


def _interval(values: list[float]) -> tuple[float, float]:
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return -math.inf, math.inf
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    half = _student(count - 1) * math.sqrt(variance / count)
    return mean - half, mean + half


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
