"""Features: what the request did not bring along, looked up without risk.

A :class:`FeatureView` says which features come from which source, by which entity, how old
they may be and what stands in for them.  ``FeatureService(view, ...).complete(row)`` fills
in what is missing, and only that: a source that is down, slow or stale costs the default and
marks the row ``degraded``, never the request.  Put a circuit breaker before a source with
``guard=``.  An :class:`OnlineStore` keeps features in memory and answers for any moment
without looking into the future; a :class:`WindowedMean` is the mean of a window that ended
some time ago.  Sources tell the age of a value with :class:`Aged`.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.features.online import OnlineStore
    from prodml.features.service import Completed, FeatureService, ViewStats
    from prodml.features.view import Aged, FeatureView
    from prodml.features.windowed import WindowedMean

__all__ = [
    "Aged",
    "Completed",
    "FeatureService",
    "FeatureView",
    "OnlineStore",
    "ViewStats",
    "WindowedMean",
]

load_on_use(
    __name__,
    {
        ".online": ("OnlineStore",),
        ".service": ("Completed", "FeatureService", "ViewStats"),
        ".view": ("Aged", "FeatureView"),
        ".windowed": ("WindowedMean",),
    },
)
