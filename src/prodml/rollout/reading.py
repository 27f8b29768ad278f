"""Values of metrics that are fetched: each stretch of time once, by whoever ticks."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prodml.rollout.analysis import ARMS, added
from prodml.rollout.metric import Metric
from prodml.rollout.record import Record, compact

__all__ = ["Reading"]

_LOG = logging.getLogger("prodml.rollout")


@dataclass(slots=True)
class Reading:
    """Reads for ``metrics`` what is due and adds it to the record.

    The sums are committed together with the time up to which they go.  So if two tick at
    once, one's reading counts; and after a crash the stretch is read again.  ``failed`` says why a
    metric could not be read.

    Examples
    --------
    >>> from prodml.rollout.machine import RolloutState
    >>> metric = Metric("clicks", read=lambda since, until: [("canary", 1.0), ("stable", 0.0)])
    >>> record = Record(state=RolloutState(version="v2", stable="v1", steps=(0.1,)))
    >>> reading = Reading([metric])
    >>> reading.fetched(reading.begun(record, 0.0), 60.0).sums[1]["clicks"]["d"]
    -1.0
    """

    metrics: Sequence[Metric]
    failed: dict[str, str] = field(default_factory=dict[str, str], init=False)

    def begun(self, record: Record, at: float) -> Record:
        """The record of a rollout that begins now, if it had not begun before."""
        new = {metric.name: at for metric in self.metrics if metric.name not in record.read}
        return replace(record, read={**record.read, **new}) if new else record

    def fetched(self, record: Record, now: float) -> Record:
        """The record with what was due; as it was if nothing was, or could be read."""
        if record.state.phase.done:
            return record
        for metric in self.metrics:
            since = record.read.get(metric.name, now)
            until = now - metric.lag
            if until - since >= metric.every:
                record = self._read(record, metric, since, until)
        return record

    def _read(self, record: Record, metric: Metric, since: float, until: float) -> Record:
        fresh = replace(metric)
        try:
            for arm, value in metric.read(since, until) if metric.read else ():
                # What was pinned or overridden was not drawn by lot.
                if arm in ARMS:
                    fresh.observe(value, canary=arm == "canary")
        except Exception as error:
            # Somebody else's database is no reason to stop judging the rest.
            _LOG.warning("%s could not be read", metric.name, exc_info=True)
            self.failed[metric.name] = f"it could not be read: {error!r}"
            return record
        self.failed.pop(metric.name, None)
        now = dict(record.sums.get(record.era, {}))
        now[metric.name] = added([now.get(metric.name, {}), fresh.tally])
        sums = compact({**record.sums, record.era: now}, record.since)
        return replace(record, sums=sums, read={**record.read, metric.name: until})
