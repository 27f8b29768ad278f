"""Counters of a schema, for any number of threads."""

from collections.abc import Iterable
from threading import Lock

from prodml.validation.field import Action
from prodml.validation.policy import Verdict
from prodml.validation.stats import SchemaStats

__all__ = ["Tally"]


class Tally:
    """Counts of what was not simply accepted.

    Examples
    --------
    >>> tally = Tally()
    >>> tally.add([("age", "range", "clip", 2)], rows=5, amended=2)
    >>> tally.take(reset=True).rows, tally.take(reset=False).rows
    (5, 0)
    """

    __slots__: tuple[str, ...] = ("_counts", "_lock", "_totals")

    def __init__(self) -> None:
        self._lock: Lock = Lock()
        self._counts: dict[tuple[str, str, str], int] = {}
        self._totals: dict[str, int] = {}

    def add(self, breaches: Iterable[tuple[str, str, Action, int]], **totals: int) -> None:
        """Add counts by field, rule and action, and totals by name."""
        with self._lock:
            for name, count in totals.items():
                self._totals[name] = self._totals.get(name, 0) + int(count)
            for name, rule, action, times in breaches:
                # Callers choose the names of unknown fields: counted by name they fill memory.
                key = ("*" if rule == "extra" else name, rule, action)
                self._counts[key] = self._counts.get(key, 0) + times

    def add_row(self, verdict: Verdict) -> None:
        """Add what one row brought."""
        pairs = zip(verdict.found, verdict.actions, strict=True)
        refused = verdict.refused
        self.add(
            ((name, rule, action, 1) for (name, rule, _), action in pairs),
            rows=1,
            rejected=refused,
            amended=verdict.amended and not refused,
            quarantined=verdict.held,
        )

    def take(self, *, reset: bool) -> SchemaStats:
        """What was counted; with ``reset`` counting starts anew, and nothing falls between."""
        with self._lock:
            stats = SchemaStats(breaches=dict(self._counts), **self._totals)
            if reset:
                self._counts, self._totals = {}, {}
            return stats
