"""The hallway: every call of the house passes here, and so does every ``await``.

A pattern is written once, as a :class:`Guard` (before and after a call) or as a
:class:`Flow` (which calls, in which order, with which pauses), and the shells below make
it work on plain functions, coroutine functions, generators and async generators.

A **guard** answers *may this call pass, and how did it end?*  It never waits and never
calls.  There are three endings: ``leave`` (returned), ``fail`` with an ``Exception``
(raised), and ``fail`` with any other ``BaseException`` (abandoned: cancelled, interrupted,
generator closed), which gives the permit back and counts nothing.  A :class:`WaitingGuard`
may keep a call in a queue: it says so by the steps that lead to the token, and the shell
waits, in its own colour.

A **flow** is a generator of steps.  It is told each step's outcome as a value
``(result, error)`` and returns such a pair; the shell raises.  Sending errors as values
keeps flows free of ``try`` and immune to ``StopIteration`` inside generators.  When a step
is abandoned the shell closes the flow, so ``try/finally`` there gives permits back.

``kinds`` tells functions apart, ``steps`` names what a flow can ask for, ``walk``, ``race``
and ``spawn`` carry it out, ``guard`` and ``flow`` hold the two shapes with their shells, and
``calm`` the shells written by hand for what costs nothing while all is well.  ``peek`` is one
call before all steps, for flows that mostly find their answer by it.
"""

from prodml._call.blocks import pop, push
from prodml._call.calm import CalmGuard, Recovery, fused
from prodml._call.flow import Flow, awaiting, opening
from prodml._call.guard import NO_RESULT, Guard, WaitingGuard, protect
from prodml._call.kinds import Kind, abandoned, kind_of
from prodml._call.peek import Peek
from prodml._call.steps import Invoke, Outcome, Pause, Race, Spawn, Step, Steps, Wait
from prodml._call.stream import Opened
from prodml._call.timed import DeadlineFlow, TimedFlow
from prodml._call.walk import arun, run

__all__ = [
    "NO_RESULT",
    "CalmGuard",
    "DeadlineFlow",
    "Flow",
    "Guard",
    "Invoke",
    "Kind",
    "Opened",
    "Outcome",
    "Pause",
    "Peek",
    "Race",
    "Recovery",
    "Spawn",
    "Step",
    "Steps",
    "TimedFlow",
    "Wait",
    "WaitingGuard",
    "abandoned",
    "arun",
    "awaiting",
    "fused",
    "kind_of",
    "opening",
    "pop",
    "protect",
    "push",
    "run",
]
