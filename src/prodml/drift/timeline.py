"""Drift over time: the last checks, kept small, drawn as one picture."""

import json
import logging
import os
import threading
from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast, final

from prodml.drift.level import DriftLevel
from prodml.drift.summary import CheckSummary, Report, restored, summary_of
from prodml.drift.timeline_page import feature_line, heat_map, timeline_page
from prodml.errors import BadConfiguration, CorruptRecord

__all__ = ["DriftTimeline"]

_LOG = logging.getLogger("prodml.drift")
_FORMAT, _VERSION = "prodml.drift.DriftTimeline", 1


@final
@dataclass(kw_only=True, slots=True, eq=False)
class DriftTimeline:
    """The last checks of a detector or a monitor, and what became of each feature.

    Parameters
    ----------
    path
        File of JSON lines, one a check, in which the time line survives a restart; None
        keeps it in memory.  One writer at a time.
    keep
        How many checks, at least 1: the latest ones.  The file holds twice as many at most.
    name
        Title of the page.

    Raises
    ------
    BadConfiguration
        ``keep`` below 1.
    OSError
        The file cannot be read.

    Notes
    -----
    Of a check are kept the time, and level, effect, adjusted p and floor of each feature
    (of the 200 gravest, if there are more), and the reason where it drifted: about a hundred
    bytes a feature.  A line that cannot be read (the machine went down while it was written)
    is left out and counted in ``skipped``.  Safe for any number of threads.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> from prodml.testing import ManualClock
    >>> clock = ManualClock(0.0)
    >>> detector = DriftDetector([float(i) for i in range(100)], clock=clock)
    >>> timeline = DriftTimeline()
    >>> for day in range(4):
    ...     shift = 60.0 * (day >= 2)
    ...     timeline.add(detector.detect_drift([i + shift for i in range(100)]))
    ...     clock.advance(86400)
    >>> [check.drifted for check in timeline]
    [(), (), ('x0',), ('x0',)]
    >>> timeline.since("x0") / 86400
    2.0
    """

    path: str | Path | None = field(default=None, kw_only=False)
    keep: int = 400
    name: str = "drift"
    skipped: int = field(default=0, init=False)
    _checks: list[CheckSummary] = field(default_factory=list[CheckSummary], init=False, repr=False)
    _lines: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not _whole(self.keep):
            raise BadConfiguration(f"keep must be a whole number >= 1, not {self.keep!r}")
        if self.path is not None and Path(self.path).exists():
            self._read(Path(self.path).read_bytes())

    def __len__(self) -> int:
        return len(self._checks)

    def __iter__(self) -> Iterator[CheckSummary]:
        return iter(tuple(self._checks))

    def add(self, report: Report) -> None:
        """Keep the summary of ``report``, which may come late; the earliest beyond ``keep`` goes.

        Parameters
        ----------
        report
            A :class:`DriftReport`, or any report with ``at``, ``source`` and verdicts by
            name that have ``level``, ``effect``, ``p_adjusted`` and ``reason``.

        Raises
        ------
        OSError
            The file cannot be written; nothing was added.
        """
        check = summary_of(report)
        with self._lock:
            checks = self._with(check)
            self._write(check, checks)
            # A new list: who draws the old one is not disturbed.
            self._checks = checks

    def since(self, feature: str) -> float | None:
        """When the drift began in which ``feature`` still is; None if it is in none.

        Checks that said nothing about the feature, or could not conclude, do not end it.
        """
        began = None
        for check in reversed(self._checks):
            found = check.features.get(feature)
            if found is None or found.level is DriftLevel.INCONCLUSIVE:
                continue
            if found.level is not DriftLevel.DRIFT:
                break
            began = check.at
        return began

    def heat_map(self) -> str:
        """Features by checks as SVG: darker for a larger effect, framed where it drifted.

        Examples
        --------
        >>> DriftTimeline().heat_map()[:4]
        '<svg'
        """
        return heat_map(tuple(self._checks))

    def of(self, feature: str) -> str:
        """One feature over time as SVG: its effect, the floor, a mark where it drifted.

        Examples
        --------
        >>> DriftTimeline().of("age")[:4]
        '<svg'
        """
        return feature_line(tuple(self._checks), feature)

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page without script; also written to ``path``.

        Raises
        ------
        OSError
            The file cannot be written.

        Examples
        --------
        >>> DriftTimeline(name="tickets").to_html().count("<script")
        0
        """
        text = timeline_page(self.name, tuple(self._checks))
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON.

        Examples
        --------
        >>> DriftTimeline().to_dict()["checks"]
        []
        """
        checks = [check.to_dict() for check in self]
        return {"format": _FORMAT, "version": _VERSION, "name": self.name, "checks": checks}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], *, keep: int = 400) -> Self:
        """What :meth:`to_dict` gave, in memory.

        Raises
        ------
        CorruptRecord
            It is something else.

        Examples
        --------
        >>> len(DriftTimeline.from_dict(DriftTimeline().to_dict()))
        0
        """
        if stored.get("format") != _FORMAT or stored.get("version") != _VERSION:
            raise CorruptRecord("a drift time line", "another format or version")
        timeline = cls(keep=keep, name=str(stored.get("name", "drift")))
        for plain in cast("list[Any]", stored.get("checks", [])):
            timeline._checks = timeline._with(restored(plain))
        return timeline

    def _repr_html_(self) -> str:
        return timeline_page(self.name, tuple(self._checks), whole=False)

    def _with(self, check: CheckSummary) -> list[CheckSummary]:
        checks = list(self._checks)
        insort(checks, check, key=lambda one: one.at)
        return checks[-self.keep :]

    # -- the file ---------------------------------------------------------------------------

    def _read(self, raw: bytes) -> None:
        lines = [line for line in raw.split(b"\n") if line.strip()]
        found: list[CheckSummary] = []
        for line in lines:
            try:
                found.append(restored(json.loads(line)))
            except (CorruptRecord, ValueError) as error:
                self.skipped += 1
                _LOG.warning("%s: a line of %s is left out: %s", self.name, self.path, error)
        self._lines = len(lines)
        self._checks = sorted(found, key=lambda check: check.at)[-self.keep :]

    def _write(self, check: CheckSummary, checks: list[CheckSummary]) -> None:
        if self.path is None:
            return
        path, line = Path(self.path), _line(check)
        if self._lines >= 2 * self.keep:
            _replace(path, b"".join(map(_line, checks)))
            self._lines = len(checks)
            return
        with path.open("ab") as file:
            # One write, after a line that was never finished a new one.
            file.write(line if self._lines == 0 or _ends(path) else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._lines += 1


def _whole(keep: Any) -> bool:
    return isinstance(keep, int) and keep >= 1


def _line(check: CheckSummary) -> bytes:
    return json.dumps(check.to_dict(), allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _ends(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _replace(path: Path, raw: bytes) -> None:
    """The file whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
