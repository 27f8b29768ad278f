"""Decide when to retrain, train durably, and let only a better model through.

Start with ``RetrainingOrchestrator("fraud", train=fit)``; ``check_triggers(metrics)`` says
what fired, what was held back and what could not be judged; ``trigger_retraining(decision)``
starts the one job there may be.  A challenger has to pass its gates on the same rows as the
champion (:class:`BetterOnSameRows`) before it is registered and handed on.  All that is
known lies in a store, so a restart forgets nothing and two workers start one job; the
decisions are a table (:data:`RETRAINING`), so recorded facts replay.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.errors import ChallengerRejected, JobFailed
    from prodml.retraining.gates import (
        AbsoluteFloor,
        BetterOnSameRows,
        Evaluation,
        Gate,
        GateResult,
    )
    from prodml.retraining.jobs import Job, TrainingContext
    from prodml.retraining.machine import RETRAINING, RetrainingPhase, RetrainingState
    from prodml.retraining.orchestrator import Decision, RetrainingOrchestrator
    from prodml.retraining.triggers import (
        DataGrowth,
        Drift,
        Firing,
        Novelty,
        Performance,
        Schedule,
        Situation,
        Trigger,
        TriggerType,
    )

__all__ = [
    "RETRAINING",
    "AbsoluteFloor",
    "BetterOnSameRows",
    "ChallengerRejected",
    "DataGrowth",
    "Decision",
    "Drift",
    "Evaluation",
    "Firing",
    "Gate",
    "GateResult",
    "Job",
    "JobFailed",
    "Novelty",
    "Performance",
    "RetrainingOrchestrator",
    "RetrainingPhase",
    "RetrainingState",
    "Schedule",
    "Situation",
    "TrainingContext",
    "Trigger",
    "TriggerType",
]

load_on_use(
    __name__,
    {
        "prodml.errors": ("ChallengerRejected", "JobFailed"),
        ".gates": ("AbsoluteFloor", "BetterOnSameRows", "Evaluation", "Gate", "GateResult"),
        ".jobs": ("Job", "TrainingContext"),
        ".machine": ("RETRAINING", "RetrainingPhase", "RetrainingState"),
        ".orchestrator": ("Decision", "RetrainingOrchestrator"),
        ".triggers": (
            "DataGrowth",
            "Drift",
            "Firing",
            "Novelty",
            "Performance",
            "Schedule",
            "Situation",
            "Trigger",
            "TriggerType",
        ),
    },
)
