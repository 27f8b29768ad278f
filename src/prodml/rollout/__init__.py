"""Give a new version traffic by degrees, and take it back at the first sound sign of harm.

``Rollout("v2", "v1")`` walks from shadow through canary steps to promotion.  Tell it what you
see: ``observe_outcome`` (a request of an arm succeeded or failed, and how long it took),
``observe_pair`` (losses of both versions on the same request), ``observe_answers``,
``observe_metric``.  ``tick()`` says what to do next, as commands; it may be called by anyone
at any time, and judges what all workers saw.  Guards answer *worse*, *fine* or *unknown*;
without data nothing moves.  Their tests stay valid however often one looks:
:class:`ErrorRate`, :class:`Latency`, :class:`PairedLoss`, :class:`Disagreement`,
:class:`Metric`, :class:`Floor`.  ``prodml.lifecycle`` carries the commands out.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.rollout.analysis import Finding, Guardrail, Seen, Verdict
    from prodml.rollout.disagreement import Disagreement
    from prodml.rollout.error_rate import ErrorRate
    from prodml.rollout.floor import Floor
    from prodml.rollout.latency import Latency
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
    from prodml.rollout.metric import Metric
    from prodml.rollout.paired_loss import PairedLoss
    from prodml.rollout.rollout import Rollout

__all__ = [
    "ROLLOUT",
    "Disagreement",
    "ErrorRate",
    "Finding",
    "Floor",
    "Guardrail",
    "Latency",
    "Metric",
    "PairedLoss",
    "Promote",
    "RollBack",
    "Rollout",
    "RolloutPhase",
    "RolloutState",
    "Seen",
    "SetCanary",
    "StartShadow",
    "StopShadow",
    "Verdict",
]

load_on_use(
    __name__,
    {
        ".analysis": ("Finding", "Guardrail", "Seen", "Verdict"),
        ".disagreement": ("Disagreement",),
        ".error_rate": ("ErrorRate",),
        ".floor": ("Floor",),
        ".latency": ("Latency",),
        ".machine": (
            "Promote",
            "ROLLOUT",
            "RollBack",
            "RolloutPhase",
            "RolloutState",
            "SetCanary",
            "StartShadow",
            "StopShadow",
        ),
        ".metric": ("Metric",),
        ".paired_loss": ("PairedLoss",),
        ".rollout": ("Rollout",),
    },
)
