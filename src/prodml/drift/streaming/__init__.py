"""Detectors of change in streams, one value at a time.

All share one small protocol, :class:`StreamDetector`: ``update(value)`` is true at the value
that completes the evidence, ``to_dict`` and ``from_dict`` carry the state over a restart,
and what is no number is counted and changes nothing.  :class:`RankCUSUM` is the one to
begin with; :class:`ADWIN`, :class:`PageHinkley` and :class:`KSWIN` take a run length too, and
:class:`DDM`, :class:`EDDM`, :class:`HDDM_A` and :class:`HDDM_W` are those of the literature for
streams of errors.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.drift.streaming.adwin import ADWIN
    from prodml.drift.streaming.ddm import DDM
    from prodml.drift.streaming.detector import StreamDetector
    from prodml.drift.streaming.eddm import EDDM
    from prodml.drift.streaming.hddm_a import HDDM_A
    from prodml.drift.streaming.hddm_w import HDDM_W
    from prodml.drift.streaming.kswin import KSWIN
    from prodml.drift.streaming.page_hinkley import PageHinkley
    from prodml.drift.streaming.rank_cusum import RankCUSUM

__all__ = [
    "ADWIN",
    "DDM",
    "EDDM",
    "HDDM_A",
    "HDDM_W",
    "KSWIN",
    "PageHinkley",
    "RankCUSUM",
    "StreamDetector",
]

load_on_use(
    __name__,
    {
        ".adwin": ("ADWIN",),
        ".ddm": ("DDM",),
        ".detector": ("StreamDetector",),
        ".eddm": ("EDDM",),
        ".hddm_a": ("HDDM_A",),
        ".hddm_w": ("HDDM_W",),
        ".kswin": ("KSWIN",),
        ".page_hinkley": ("PageHinkley",),
        ".rank_cusum": ("RankCUSUM",),
    },
)
