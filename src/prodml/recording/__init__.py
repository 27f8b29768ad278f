"""Every prediction, written down so that it can be found, joined and replayed.

``PredictionLogger("logs/churn")`` appends one JSON line a prediction to the files of a
directory; a record that was logged survives ``kill -9``.  ``log.truth(request_id, label)``
adds the label when it arrives.  ``PredictionLog("logs/churn")`` reads the files of all
processes in the order of time, joins labels, skips torn lines and says what is missing.

The logger observes: it never raises into a prediction, never changes what it is given, and
counts what it had to drop (``log.stats()``).  Give it to ``PredictionService(logger=...)``,
or ``log.subscribe(events)``.  ``redact=`` keeps out what must not be written;
:func:`hashed` makes tokens of it.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.recording.logger import LogStats, PredictionLogger
    from prodml.recording.privacy import hashed
    from prodml.recording.reader import PredictionLog
    from prodml.recording.record import Gap, Record

__all__ = [
    "Gap",
    "LogStats",
    "PredictionLog",
    "PredictionLogger",
    "Record",
    "hashed",
]

load_on_use(
    __name__,
    {
        ".logger": ("LogStats", "PredictionLogger"),
        ".privacy": ("hashed",),
        ".reader": ("PredictionLog",),
        ".record": ("Gap", "Record"),
    },
)
