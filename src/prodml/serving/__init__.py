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

``server.py`` answers, ``versions.py`` carries out the commands, ``routing.py`` has the
immutable table that a request reads, the split and the proof of the in-flight count,
``lease.py`` holds a version for a block, ``shadow.py`` scores copies that nobody waits for.
"""

from prodml.serving.lease import Lease
from prodml.serving.routing import Arm, Change, Key, Route
from prodml.serving.server import VersionedModelServer
from prodml.serving.shadow import ShadowStats

__all__ = ["Arm", "Change", "Key", "Lease", "Route", "ShadowStats", "VersionedModelServer"]
