"""A training under way: what the training function sees, and what its starter holds."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Event
from typing import Any, final

from prodml.errors import JobFailed
from prodml.retraining.gates import GateResult

__all__ = ["Job", "TrainingContext"]


@final
@dataclass(slots=True, kw_only=True)
class TrainingContext:
    """What a training function is told, and how it tells how far it is.

    Pickles, so that it can go to another process; there progress is not heard and
    cancellation not seen.

    Examples
    --------
    >>> context = TrainingContext(job="fraud-1", model="fraud", reason="drift")
    >>> context.progress(0.5, "half way"), context.cancelled
    (None, False)
    """

    job: str
    model: str
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    told: Callable[[float, str], None] | None = field(default=None, repr=False)
    stop: Event | None = field(default=None, repr=False)

    def progress(self, share: float, note: str = "") -> None:
        """Tell that a ``share`` in [0, 1] of the work is done."""
        if self.told is not None:
            self.told(share, note)

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked to stop."""
        return self.stop is not None and self.stop.is_set()

    def __reduce__(self) -> tuple[Any, ...]:
        plain = (self.job, self.model, self.reason, dict(self.metrics), dict(self.parameters))
        return _context, plain


def _context(
    job: str, model: str, reason: str, metrics: dict[str, float], parameters: dict[str, Any]
) -> TrainingContext:
    return TrainingContext(
        job=job, model=model, reason=reason, metrics=metrics, parameters=parameters
    )


@final
class Job:
    """A training that was started here.

    Examples
    --------
    >>> from prodml.retraining import RetrainingOrchestrator
    >>> orchestrator = RetrainingOrchestrator("fraud", train=lambda context: "model")
    >>> job = orchestrator.request(by="ops", reason="audit")
    >>> job.state, job.result()
    ('registered', 'model')
    """

    __slots__: tuple[str, ...] = (
        "_future",
        "_on_progress",
        "_stop",
        "context",
        "gates",
        "id",
        "note",
        "pid",
        "progress",
        "skip_gates",
        "state",
        "work",
    )

    def __init__(
        self, context: TrainingContext, *, skip_gates: bool, on_progress: Callable[[], None]
    ) -> None:
        self._stop: Event = Event()
        context.told = self._tell
        context.stop = self._stop
        self.id: str = context.job
        self.pid: int = os.getpid()
        self.context: TrainingContext = context
        self.skip_gates: bool = skip_gates
        self.state: str = "training"
        self.progress: float = 0.0
        self.note: str = ""
        self.gates: tuple[GateResult, ...] = ()
        self._future: Future[Any] = Future()
        self.work: Future[Any] | None = None
        self._on_progress: Callable[[], None] = on_progress

    def result(self, timeout: float | None = None) -> Any:
        """The challenger, once it has passed its gates.

        Raises
        ------
        ChallengerRejected
            The gates refused it.
        JobFailed
            The training raised, was cancelled or lost; the cause is chained.
        TimeoutError
            It is not over after ``timeout`` seconds.
        """
        return self._future.result(timeout)

    @property
    def done(self) -> bool:
        """Whether the job is over, well or not."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for at most ``timeout`` seconds; return whether the job is over."""
        return bool(wait([self._future], timeout).done)

    def cancel(self) -> bool:
        """Ask the job to stop; return whether it was still under way.

        A training that has not begun does not begin; one that runs sees
        ``context.cancelled``, and what it returns is thrown away.
        """
        if self.done:
            return False
        self._stop.set()
        if self.work is not None:
            self.work.cancel()
        return True

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._stop.is_set()

    def explain(self) -> str:
        """Why the job was started, and how it went, in words."""
        lines = [f"job {self.id}: {self.state}", f"because: {self.context.reason}"]
        if self.skip_gates:
            lines.append("gates: skipped on request")
        lines += [
            f"gate {result.gate}: {'passed' if result.passed else 'refused'}, {result.reason}"
            for result in self.gates
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.state}>"

    def succeed(self, model: Any) -> None:
        """End well: called by the orchestrator."""
        self._future.set_result(model)

    def fail(self, error: JobFailed, cause: BaseException | None = None) -> None:
        """End badly: called by the orchestrator."""
        error.__cause__ = cause
        self._future.set_exception(error)

    def _tell(self, share: float, note: str) -> None:
        self.progress, self.note = min(max(share, 0.0), 1.0), note
        self._on_progress()
