"""Give a new version traffic by degrees, and take it back at the first sound sign of harm.

``Rollout("v2", "v1")`` walks from shadow through canary steps to promotion.  Tell it what you
see: ``observe_pair`` (losses of both versions on the same request), ``observe_outcome`` (a
request of an arm succeeded or failed).  ``tick()`` says what to do next, as commands; it may
be called by anyone at any time.  Guards answer *worse*, *fine* or *unknown*; without data
nothing moves.  Their tests stay valid however often one looks (:class:`PairedLoss`,
:class:`ErrorRate`).  ``prodml.lifecycle`` carries the commands out.
"""

from prodml.rollout.analysis import ErrorRate, Finding, Guardrail, PairedLoss, Verdict
from prodml.rollout.machine import (
    ROLLOUT,
    Promote,
    RollBack,
    RolloutPhase,
    RolloutState,
    SetCanary,
    StartShadow,
    StopShadow,
)
from prodml.rollout.rollout import Rollout

__all__ = [
    "ROLLOUT",
    "ErrorRate",
    "Finding",
    "Guardrail",
    "PairedLoss",
    "Promote",
    "RollBack",
    "Rollout",
    "RolloutPhase",
    "RolloutState",
    "SetCanary",
    "StartShadow",
    "StopShadow",
    "Verdict",
]
