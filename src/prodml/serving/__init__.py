"""Versioned serving: swap models under load, split traffic, roll back in an instant.

>>> from prodml.serving import VersionedModelServer
>>> server = VersionedModelServer(name="churn")
>>> server.load_model("v1", lambda features: "old")
>>> server.load_model("v2", lambda features: "new", warm_up=[{}])
>>> server.set_default_version("v1")
>>> server.route(canary={"v2": 1.0})
>>> server.predict({}, key="ann")
'new'
>>> server.rollback(reason="error rate")
'v1'

``server.py`` answers; ``loading.py`` and ``versions.py`` carry out the commands on the
``board.py``; ``routing.py`` has the immutable table that a request reads, and the proof of the
in-flight count; ``traffic.py`` says who is to get what, ``split.py`` which arm a key belongs to,
``slot.py`` how a model is asked; ``lease.py`` holds a version for a block; ``golden.py`` holds
answers against known ones; ``shadow.py`` scores copies that nobody waits for.

``fleet.py`` lets many workers serve by one table: ``fleet_record.py`` is that table and says which
of two holds, ``fleet_memory.py`` and ``fleet_store.py`` are where it is kept, ``fleet_worker.py``
follows it, ``fleet_watch.py`` waits for news and ``fleet_loads.py`` brings what is not loaded.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.serving.board import State
    from prodml.serving.diffs import Difference, ShadowDiff
    from prodml.serving.fleet import FleetSnapshot, ServingFleet
    from prodml.serving.fleet_record import Agreement, FleetChange, Member
    from prodml.serving.fleet_store import FleetStore
    from prodml.serving.golden import Golden, Mismatch
    from prodml.serving.lease import Lease
    from prodml.serving.loading import Unloaded
    from prodml.serving.micro_batcher import BatchStats, MicroBatcher
    from prodml.serving.onnx import OnnxModel
    from prodml.serving.reply import BatchReply, Reply
    from prodml.serving.routing import Change
    from prodml.serving.server import VersionedModelServer
    from prodml.serving.shadow import ShadowStats
    from prodml.serving.slot import Key, Route

__all__ = [
    "Agreement",
    "BatchReply",
    "BatchStats",
    "Change",
    "Difference",
    "FleetChange",
    "FleetSnapshot",
    "FleetStore",
    "Golden",
    "Key",
    "Lease",
    "Member",
    "MicroBatcher",
    "Mismatch",
    "OnnxModel",
    "Reply",
    "Route",
    "ServingFleet",
    "ShadowDiff",
    "ShadowStats",
    "State",
    "Unloaded",
    "VersionedModelServer",
]

load_on_use(
    __name__,
    {
        ".board": ("State",),
        ".diffs": ("Difference", "ShadowDiff"),
        ".fleet": ("FleetSnapshot", "ServingFleet"),
        ".fleet_record": ("Agreement", "FleetChange", "Member"),
        ".fleet_store": ("FleetStore",),
        ".golden": ("Golden", "Mismatch"),
        ".lease": ("Lease",),
        ".loading": ("Unloaded",),
        ".micro_batcher": ("BatchStats", "MicroBatcher"),
        ".onnx": ("OnnxModel",),
        ".reply": ("BatchReply", "Reply"),
        ".routing": ("Change",),
        ".server": ("VersionedModelServer",),
        ".shadow": ("ShadowStats",),
        ".slot": ("Key", "Route"),
    },
)
