"""How good is the model today, while the labels are still on their way?"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import EVENTS, LabelsArrived, PerformanceDropped, Stream
from prodml.quality.band import Band, band_of, cross_fitted
from prodml.quality.bias import Bias
from prodml.quality.calibration import Calibration
from prodml.quality.metric import CLASSIFICATION, REGRESSION, Formula
from prodml.quality.pending import Pending
from prodml.quality.report import MetricEstimate, PerformanceReport, Settlement
from prodml.quality.state import State
from prodml.quality.task import Classification, Read, Regression, Task, labels_of
from prodml.types import DriftLevel

__all__ = ["PerformanceEstimator"]

Floats: TypeAlias = npt.NDArray[np.float64]

_FAR = 1e150
_FITTED: Any = {"fixed": "the reference was fitted with it: build another estimator"}
_COLLABORATORS = {"loss_model", "clock", "events"}


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PerformanceEstimator:
    """Estimate a model's metrics without labels, and mend the estimates when labels come.

    Classification: the model's probabilities are calibrated on the reference, and a metric is
    taken in expectation over the labels that they make likely (confidence-based estimation
    [1]_).  Regression: the errors on the reference, by the size of the prediction or learnt
    from the features, are expected again (direct loss estimation [2]_).  Both hold as long as
    the *relation* of features to labels does; what changes is which rows come.  Where the
    relation itself changes only labels can tell: :meth:`settle`.

    Parameters
    ----------
    metrics
        ``"auc"``, ``"accuracy"``, ``"precision"``, ``"recall"``, ``"f1"``, ``"specificity"``,
        ``"brier"``, ``"log_loss"`` (for more than two classes: ``"auc"`` as the mean of one
        against the rest, accuracy, Brier and log loss), or ``"mae"``, ``"mse"``, ``"rmse"``.
    threshold
        Probability from which the positive class is predicted, in (0, 1).
    positive
        The positive class of two; default the larger label.
    classes
        Labels in the order of the columns of probabilities; default sorted.
    calibration
        ``"isotonic"``, ``"binned"`` (20 bins), ``"none"``, or ``"auto"``: whichever has the
        least squared error on a half of the reference it was not fitted on.
    loss_model
        For regression, a scikit-learn regressor that learns errors from prediction and
        features; default the mean error in ``bins`` bins of equally many predictions.
    alpha
        Chance that a chunk like the reference leaves the band, over all metrics, in (0, 1).
    min_effect
        Smallest change that is called drift, as a share of the reference's metric.
    confidence
        Of the intervals, in (0, 1).
    chunks
        Consecutive chunks of the reference that say how much the metric varies; at least 5.
    min_rows
        Rows that a chunk needs.
    min_labels
        Late labels that are needed to learn from them; where a metric is not defined by so
        many (a class is rare), twice as many, up to ``memory``.
    max_pending
        Predictions that may wait for labels; beyond, the oldest leave and are counted.
    memory
        Labels after which a label counts ``1/e``: see the notes.
    seed
        Of the folds.
    name, clock, events
        Collaborators.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    *Interval*: to first order, the variance of the metric if every label is drawn from its
    calibrated chance (every error from its bin), times ``1 + n / N`` for a calibration that rests
    on the ``N`` labels of the reference, times the square of how much more than that the
    estimates missed by on chunks of the reference, never less.  It covers the *realised* metric
    of the same rows.  *Band*: Student's interval around the reference's metric from the spread
    of the estimates between its chunks, scaled to the size of the chunk; ``alpha`` is shared out
    over the metrics (Bonferroni).  *Bias*: estimates are first rid of what they are off by on the
    reference, out of sample; then of what settled labels show, shrunk as :class:`Bias`
    documents, whose uncertainty widens both interval and band.

    Safe for any number of threads.  States :class:`~prodml.events.PerformanceDropped` when a
    metric becomes worse that was not in the check before, and
    :class:`~prodml.events.LabelsArrived` when labels join.

    References
    ----------
    .. [1] Kivimäki, Białek, Nurminen and Kuberski (2025), *Confidence-based estimators for
       predictive performance in model monitoring*, JAIR 82.
    .. [2] Lu et al. (2018), *Learning under concept drift: a review*, IEEE TKDE 31 (the setting);
       the estimator as in NannyML's documentation, without its code.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p = rng.beta(1, 2, size=10_000)
    >>> y = rng.random(10_000) < p
    >>> estimator = PerformanceEstimator(metrics=["accuracy"]).fit(p, y)
    >>> harder = rng.beta(4, 5, size=2000)
    >>> today = estimator.estimate(harder, ids=range(2000))
    >>> today.alarm, today.level.value
    (True, 'drift')
    >>> late = estimator.settle(range(2000), rng.random(2000) < harder)
    >>> low, high = today.interval
    >>> late.joined, low < late.realised["accuracy"] < high
    (2000, True)
    """

    metrics: Sequence[str] = field(default=("auc",), metadata=_FITTED)
    threshold: float = field(default=0.5, metadata=_FITTED)
    positive: Any = field(default=None, metadata=_FITTED)
    classes: Sequence[Any] | None = field(default=None, metadata=_FITTED)
    calibration: Calibration = field(default="auto", metadata=_FITTED)
    loss_model: Any = field(default=None, repr=False)
    bins: int = field(default=20, metadata=_FITTED)
    alpha: float = 0.01
    min_effect: float = 0.005
    confidence: float = 0.95
    chunks: int = field(default=20, metadata=_FITTED)
    min_rows: int = 30
    min_labels: int = 200
    max_pending: int = 100_000
    memory: int = 20_000
    seed: int = field(default=0, metadata=_FITTED)
    name: str = "performance"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    _formulas: dict[str, Formula] = field(init=False, repr=False)
    _fitted: State | None = field(default=None, init=False, repr=False)
    _alarming: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.metrics = (self.metrics,) if isinstance(self.metrics, str) else tuple(self.metrics)
        self._formulas = _formulas(self.metrics)
        _check(self)
        self._task()

    def fit(
        self, probabilities_or_predictions: Any, labels: Any, features: Any = None
    ) -> "PerformanceEstimator":
        """Learn from predictions whose labels are known; returns the estimator.

        Parameters
        ----------
        probabilities_or_predictions
            What the model said about rows it was *not* trained on, in the order of time: the
            probability of the positive class, probabilities (rows, classes), or numbers.
        labels
            What came true; rows without a label are left out.
        features
            Numbers (rows, features), where ``loss_model`` is to learn from them.

        Raises
        ------
        BadConfiguration
            Lengths differ, labels and columns do not match, or too few rows remain.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=3000)
        >>> y = x + x * rng.normal(size=3000)
        >>> estimator = PerformanceEstimator(metrics=["mae"]).fit(x, y)
        >>> estimator.estimate(2.0 * x).alarm
        True
        """
        task = self._task()
        try:
            answers = labels_of(labels)
            if isinstance(task, Classification):
                task.name_classes(probabilities_or_predictions, answers)
            read = task.read(probabilities_or_predictions, features)
        except TypeError as error:
            raise BadConfiguration(f"reference: {error}") from error
        if len(answers) != read.total:
            raise BadConfiguration(f"reference has {read.total} rows but {len(answers)} labels")
        codes = task.codes(answers)[read.kept]
        known = np.flatnonzero(np.isfinite(codes))
        rows, codes = read.rows.take(known), codes[known]
        least = max(self.min_rows * 2, self.chunks * 10)
        if len(rows) < least:
            raise BadConfiguration(
                f"reference has {len(rows)} rows with a prediction and a label; "
                f"{least} are needed for {self.chunks} chunks"
            )
        # What overflows is no number, and refused as such.
        with np.errstate(over="ignore", invalid="ignore"):
            fitted = self._learn(task, rows, codes)
        with self._lock:
            self._fitted, self._alarming = fitted, frozenset()
        return self

    def _learn(self, task: Task, rows: Any, codes: Floats) -> State:
        truth = task.truth(rows, codes)
        expected = cross_fitted(task, rows, codes, self.seed)
        bands: dict[str, Band] = {}
        for name, formula in self._formulas.items():
            if formula.binary_only and truth.values.shape[1] != 2:
                raise BadConfiguration(f"metric {name!r} is for two classes only")
            bands[name] = band_of(formula, rows, truth, expected, self.chunks)
            if not bands[name].defined or bands[name].chunks < 5:
                raise BadConfiguration(
                    f"metric {name!r} is not defined in enough chunks of the reference: "
                    f"fewer chunks, more rows of every class, or labels in smaller units"
                )
        biases = {n: Bias(band.realised_spread, self.memory) for n, band in bands.items()}
        expect = task.fit(rows, codes)
        return State(task, expect, bands, biases, Pending(self.max_pending), len(rows))

    def estimate(self, chunk: Any, features: Any = None, *, ids: Any = None) -> PerformanceReport:
        """Metrics of a chunk without its labels.

        Parameters
        ----------
        chunk
            Probabilities or predictions, as for :meth:`fit`.
        features
            As for :meth:`fit`.
        ids
            One hashable id a row, so that labels can be joined by :meth:`settle`; a row whose
            id is missing waits for none.

        Raises
        ------
        BadConfiguration
            Nothing was fitted.
        TypeError
            ``chunk`` or ``features`` are no numbers of the right shape, or there is not one id
            a row.

        Examples
        --------
        >>> p = np.linspace(0.01, 0.99, 2000)
        >>> y = np.random.default_rng(0).permutation(2000) < 2000 * p
        >>> estimator = PerformanceEstimator(metrics=["accuracy"]).fit(p, y)
        >>> report = estimator.estimate([float("nan")] * 100)
        >>> report.alarm is None, report.reason.split(";")[0]
        (True, '0 rows that can be used')
        """
        fitted = self._known()
        read = fitted.task.read(chunk, features)
        names = None if ids is None else labels_of(ids)
        if names is not None and len(names) != read.total:
            raise TypeError(f"{read.total} rows but {len(names)} ids")
        found = self._none(
            fitted, f"{len(read.rows)} rows that can be used; at least {self.min_rows} are needed"
        )
        if len(read.rows):
            try:
                expected = fitted.expect(read.rows)
            except Exception as error:
                # The user's own loss model: what it refuses cannot be judged, and is said.
                return self._report(read, self._none(fitted, f"loss model: {error}"))
            with self._lock:
                if names is not None:
                    kept = [names[at] for at in read.kept.tolist()]
                    fitted.pending.add(kept, fitted.task.pack(read.rows, expected))
                if len(read.rows) >= self.min_rows:
                    found = {
                        name: self._metric(fitted, name, read.rows, expected)
                        for name in self._formulas
                    }
        report = self._report(read, found)
        self._announce(report)
        return report

    def settle(self, ids: Any, labels: Any) -> Settlement:
        """Join late labels with their predictions, compare, and learn.

        Parameters
        ----------
        ids, labels
            One label an id, in any order, of any number of chunks.

        Raises
        ------
        BadConfiguration
            Nothing was fitted.
        TypeError
            There is not one label an id.

        Notes
        -----
        Labels that arrive for some rows only (loans that were granted) describe those rows; what
        is learnt from them is applied to all.

        Examples
        --------
        >>> p = np.linspace(0.01, 0.99, 2000)
        >>> y = np.random.default_rng(0).permutation(2000) < 2000 * p
        >>> estimator = PerformanceEstimator(metrics=["accuracy"]).fit(p, y)
        >>> _ = estimator.estimate(p, ids=range(2000))
        >>> late = estimator.settle([5, 6, -1], [True, None, True])
        >>> late.joined, late.invalid, late.unknown, late.waiting
        (1, 1, 1, 1999)
        """
        fitted = self._known()
        keys, codes = labels_of(ids), fitted.task.codes(labels)
        if len(keys) != len(codes):
            raise TypeError(f"{len(keys)} ids but {len(codes)} labels")
        with self._lock:
            joined: list[tuple[bytes, float]] = []
            unknown = 0
            for key, code in zip(keys, codes.tolist(), strict=True):
                # A label that is none leaves its prediction waiting for a better one.
                line = None if math.isnan(code) else fitted.pending.take(key)
                if line is not None:
                    joined.append((line, code))
                elif not math.isnan(code):
                    unknown += 1
            with np.errstate(over="ignore", invalid="ignore"):
                realised, estimated = self._learn_from(fitted, joined)
            late = Settlement(
                joined=len(joined),
                unknown=unknown,
                invalid=int(np.isnan(codes).sum()),
                waiting=len(fitted.pending),
                evicted=fitted.pending.evicted,
                held=len(fitted.held),
                realised=realised,
                estimated=estimated,
                bias={name: bias.value for name, bias in fitted.biases.items()},
            )
            total = fitted.joined
        if joined:
            at = self.clock.time()
            fact = LabelsArrived(at=at, source=self.name, count=len(joined), total=total)
            self.events.emit(fact)
        return late

    def save(self, path: str | Path, *, pending: bool = True) -> None:
        """Write to ``path`` as JSON: settings, what was learnt, and which predictions wait.

        The file is replaced whole or not at all.  A ``loss_model`` is code, and never stored.

        Parameters
        ----------
        pending
            Whether predictions that wait for their labels are kept, some 80 bytes each; without
            them their labels will be unknown.

        Raises
        ------
        BadConfiguration
            There is a loss model; or a class or an id is of a type that JSON does not bring back.
        OSError
            The file cannot be written.
        """
        from prodml.quality.stored import document, write

        names = (f.name for f in fields(self) if f.init and f.name not in _COLLABORATORS)
        settings = {name: getattr(self, name) for name in names}
        with self._lock:
            state, alarming = self._fitted, self._alarming
            if state is not None and not pending:
                state = replace(state, pending=Pending(1, state.pending.evicted))
            stored = document(settings, state, tuple(alarming))
        write(stored, Path(path))

    @classmethod
    def load(
        cls, path: str | Path, *, clock: Clock = SYSTEM_CLOCK, events: Stream = EVENTS
    ) -> "PerformanceEstimator":
        """Read what :meth:`save` wrote; it goes on where that one was.

        Raises
        ------
        CorruptRecord
            It is not what was written, or of another version.
        OSError
            The file cannot be read.

        Examples
        --------
        >>> import tempfile
        >>> p = np.linspace(0.01, 0.99, 2000)
        >>> y = np.random.default_rng(0).permutation(2000) < 2000 * p
        >>> estimator = PerformanceEstimator(metrics=["accuracy"]).fit(p, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     estimator.save(f"{folder}/quality.json")
        ...     again = PerformanceEstimator.load(f"{folder}/quality.json")
        >>> again.estimate(p).value == estimator.estimate(p).value
        True
        """
        from prodml.quality.stored import load, restored

        stored = load(Path(path))
        try:
            made = cls(**stored.settings, clock=clock, events=events)
            made._alarming = frozenset(stored.alarming) & frozenset(made.metrics)
            if stored.state is not None:
                made._fitted = restored(stored.state, made._task(), made.metrics, made.max_pending)
        except (BadConfiguration, ArithmeticError, TypeError, ValueError) as error:
            raise CorruptRecord(str(path), str(error)) from error
        return made

    def _retuned(self) -> None:
        """Settings that others were given a copy of."""
        if self._fitted is not None:
            self._fitted.pending.hold(self.max_pending)
            for bias in self._fitted.biases.values():
                bias.memory = self.memory

    def _task(self) -> Any:
        if next(iter(self._formulas)) in REGRESSION:
            return Regression(loss_model=self.loss_model, bins=self.bins)
        return Classification(
            threshold=self.threshold,
            positive=self.positive,
            classes=self.classes,
            calibration=self.calibration,
            seed=self.seed,
        )

    def _known(self) -> State:
        if self._fitted is None:
            raise BadConfiguration("fit the estimator on labelled predictions first")
        return self._fitted

    def _metric(self, fitted: State, name: str, rows: Any, expected: Any) -> MetricEstimate:
        band, bias, formula = fitted.bands[name], fitted.biases[name], self._formulas[name]
        raw, noise = formula.of(rows, expected)
        if not math.isfinite(raw + bias.value):
            told = "errors too large for a number, or none expected by the loss model"
            if name in CLASSIFICATION:
                told = "a class is never predicted"
            return self._unknown(fitted, name, f"{name} is not defined: {told}")
        value = _within(raw - band.offset + bias.value, formula)
        error = noise * band.stretch
        variance = error * error * (1.0 + len(rows) / fitted.rows) + bias.variance
        wide = NormalDist().inv_cdf(0.5 + self.confidence / 2.0) * math.sqrt(variance)
        half = band.half(len(rows), self.alpha / len(self._formulas), bias.variance)
        change = value - band.reference
        effect = abs(change) / abs(band.reference) if band.reference else abs(change)
        level = DriftLevel.NONE
        if abs(change) > half:
            level = DriftLevel.DRIFT if effect >= self.min_effect else DriftLevel.NEGLIGIBLE
        low, high = band.reference - half, band.reference + half
        return MetricEstimate(
            metric=name,
            level=level,
            reason=f"{name} {band.reference:.4g} -> {value:.4g} (band {low:.4g} to {high:.4g})",
            value=value,
            interval=(_within(value - wide, formula), _within(value + wide, formula)),
            reference=band.reference,
            band=(low, high),
            effect=effect,
            floor=self.min_effect,
            bias=bias.value,
            worse=(change < 0.0) is formula.more_is_better and change != 0.0,
        )

    def _none(self, fitted: State, why: str) -> dict[str, MetricEstimate]:
        return {name: self._unknown(fitted, name, why) for name in self._formulas}

    def _unknown(self, fitted: State, name: str, why: str) -> MetricEstimate:
        return MetricEstimate(
            metric=name,
            level=DriftLevel.INCONCLUSIVE,
            reason=why,
            reference=fitted.bands[name].reference,
            floor=self.min_effect,
        )

    def _report(self, read: Read, found: dict[str, MetricEstimate]) -> PerformanceReport:
        return PerformanceReport(
            found,
            rows=read.total,
            used=len(read.rows),
            findings=read.findings,
            at=self.clock.time(),
            source=self.name,
        )

    def _announce(self, report: PerformanceReport) -> None:
        unknown = {name for name, metric in report.items() if metric.alarm is None}
        with self._lock:
            before = self._alarming
            self._alarming = frozenset(report.alarms) | (before & unknown)
        for name in report.alarms:
            if name not in before:
                fact = PerformanceDropped(
                    at=report.at,
                    source=self.name,
                    metric=name,
                    reference=report[name].reference,
                    current=report[name].value,
                )
                self.events.emit(fact)

    def _learn_from(
        self, fitted: State, joined: list[tuple[bytes, float]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        if not joined:
            return {}, {}
        fitted.joined += len(joined)
        fitted.held += joined
        if len(fitted.held) >= max(fitted.wanted, self.min_labels):
            self._learn_held(fitted)
        return self._compared(fitted, joined)[:2]

    def _learn_held(self, fitted: State) -> None:
        labels = len(fitted.held)
        real, guess, noise = self._compared(fitted, fitted.held)
        # What is beyond all numbers is still to be learnt from.
        bounded = {n: min(max(value, -_FAR), _FAR) for n, value in real.items()}
        missed = {n: bounded[n] - guess[n] + band.offset for n, band in fitted.bands.items()}
        if any(map(math.isnan, missed.values())) and 2 * labels <= self.memory:
            # A rare class has no label yet: with twice as many it may have one.
            fitted.wanted = 2 * labels
            return
        for name, bias in fitted.biases.items():
            if math.isfinite(missed[name]):
                error = noise[name] * fitted.bands[name].stretch
                bias.learn(missed[name], error * error, labels)
        fitted.held, fitted.wanted = [], 0

    def _compared(
        self, fitted: State, joined: list[tuple[bytes, float]]
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        lines = np.frombuffer(b"".join(line for line, _ in joined)).reshape(len(joined), -1)
        rows, expected = fitted.task.unpack(lines)
        truth = fitted.task.truth(rows, np.array([code for _, code in joined]))
        real = {name: formula.of(rows, truth)[0] for name, formula in self._formulas.items()}
        both = {name: formula.of(rows, expected) for name, formula in self._formulas.items()}
        guess = {name: value for name, (value, _) in both.items()}
        return real, guess, {name: noise for name, (_, noise) in both.items()}


def _within(value: float, formula: Formula) -> float:
    return min(max(0.0, value), formula.top)


def _formulas(metrics: Sequence[str]) -> dict[str, Formula]:
    for known in (CLASSIFICATION, REGRESSION):
        found = {name: known[name] for name in metrics if name in known}
        if found and len(found) == len(metrics):
            return found
    raise BadConfiguration(
        f"metrics must be some of {', '.join(CLASSIFICATION)}, or some of "
        f"{', '.join(REGRESSION)}, each once: {list(metrics)}"
    )


def _check(estimator: Any) -> None:
    for name in ("alpha", "confidence", "threshold"):
        value = getattr(estimator, name)
        if not (isinstance(value, int | float) and 0.0 < value < 1.0):
            raise BadConfiguration(f"{name} must lie in (0, 1), not {value!r}")
    least = {
        "bins": 1,
        "chunks": 5,
        "max_pending": 1,
        "memory": 1,
        "min_labels": 1,
        "min_rows": 2,
    }
    for name, low in least.items():
        value = getattr(estimator, name)
        if not (isinstance(value, int) and value >= low):
            raise BadConfiguration(f"{name} must be a whole number >= {low}, not {value!r}")
    effect = estimator.min_effect
    if not (isinstance(effect, int | float) and math.isfinite(effect) and effect >= 0.0):
        raise BadConfiguration(f"min_effect must be a share of at least 0, not {effect!r}")
