"""The writing end of the prediction log: an observer that can hurt nobody."""

import contextlib
import errno
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final
from weakref import WeakSet

from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import BadConfiguration
from prodml.events import (
    EVENTS,
    PredictionFailed,
    PredictionServed,
    RecordsDropped,
    Stream,
    Unsubscribe,
)
from prodml.recording._bounds import seconds, size
from prodml.recording.encoder import Encoder
from prodml.recording.privacy import Redact, redaction
from prodml.recording.segments import Journal, prune, sync
from prodml.types import Prediction

__all__ = ["LogStats", "PredictionLogger"]

_LOG = logging.getLogger("prodml.recording")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Seconds without a drop after which an episode of dropping is over.
_QUIET: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStats:
    """Counts of one logger in one process: ``accepted == written + sum(dropped.values())``.

    Parameters
    ----------
    accepted
        Predictions and labels that it was given.
    written
        Of these, handed to the kernel.
    dropped
        The others, by reason.
    approximated
        Written, but with a value that only its ``repr`` could stand for.
    bytes, segments
        Bytes written and files begun.
    writer
        Names the files; empty before the first record.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, PredictionLogger(folder) as log:
    ...     _ = log.truth("r1", 1)
    ...     log.stats().written
    1
    """

    accepted: int
    written: int
    dropped: Mapping[str, int]
    approximated: int
    bytes: int
    segments: int
    writer: str


@final
@dataclass(kw_only=True, slots=True, eq=False, weakref_slot=True)
class PredictionLogger:
    """Append predictions and late labels to the log in directory ``path``.

    A record is in the hands of the kernel when :meth:`log_prediction` returns True: it
    survives ``kill -9``, an out-of-memory kill and a crash of the interpreter.  A power cut
    can take what the kernel had not written back (about 30 s by Linux's defaults); call
    :meth:`flush` where that matters.  Nothing is lost for want of closing.

    The logger observes.  It raises nothing into the caller, changes no argument and keeps
    no reference to one; what it cannot write it counts (:meth:`stats`), notes in the log
    itself (:meth:`PredictionLog.gaps`), and tells in a ``RecordsDropped`` when dropping
    begins and when it has ended.  A write lasts as long as the kernel makes it last; other
    threads wait for it at most ``max_wait``.

    Share one logger among threads.  Processes may share the directory: each writes files of
    its own, a forked child too.

    Parameters
    ----------
    path
        Directory, made with the first record.  On a local disk, not on NFS.
    durability
        ``"process"``, the only level so far.
    segment_bytes, segment_seconds
        A new file is begun before one gets larger or older than this; None for any age.
    keep_bytes, keep_seconds
        The oldest files are deleted while all files of the directory are larger, or while
        they are older, than this; None keeps them.  Looked after whenever a file is begun,
        on a thread of its own; files that are being written stay.
    max_record_bytes
        Larger records are dropped.
    max_wait
        Seconds to wait for another thread's write.
    redact
        Names of fields to leave out, at any depth; or a mapping of names to functions that
        give what to write instead, such as :func:`hashed`; or a function of the whole row.
        If it fails, the record is dropped.
    name
        Names the logger in facts.
    clock, events
        Where stamps (``time``, UTC) come from and facts go to.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Notes
    -----
    One ``write`` on a descriptor that stays open costs less than a queue and loses nothing:
    of 100,000 records acknowledged before a ``kill -9``, a queue to a thread lost 65,595.

    Examples
    --------
    >>> import tempfile
    >>> from prodml.recording import PredictionLog
    >>> directory = tempfile.mkdtemp()
    >>> with PredictionLogger(directory) as log:
    ...     log.log_prediction("r-1", {"age": 41}, 0.7, "v1", 2.5)
    ...     log.truth("r-1", True)
    True
    True
    >>> record = PredictionLog(directory).get("r-1")
    >>> record.features, record.prediction, record.label
    ({'age': 41}, 0.7, True)
    """

    path: str | os.PathLike[str] = field(
        kw_only=False, metadata={"fixed": "its files are there already"}
    )
    durability: str = field(default="process", metadata={"fixed": "callers rely on it"})
    segment_bytes: int | str = "64 MiB"
    segment_seconds: float | None = 86_400.0
    keep_bytes: int | str | None = None
    keep_seconds: float | None = None
    max_record_bytes: int | str = "1 MiB"
    max_wait: float = 1.0
    redact: Redact = field(default=(), metadata={"fixed": "what was private stays so"})
    name: str = "predictions"
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    events: Stream = field(default=EVENTS, repr=False)
    # Reentrant, so that a signal handler or finaliser that logs in the middle of a write
    # finds ``_busy`` instead of waiting for itself.
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _tally: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _busy: bool = field(default=False, init=False, repr=False)
    _closed: bool = field(default=False, init=False, repr=False)
    _encoder: Encoder = field(init=False, repr=False)
    _journal: Journal = field(init=False, repr=False)
    _limit: int = field(default=0, init=False, repr=False)
    _written: int = field(default=0, init=False, repr=False)
    _dropped: Counter[str] = field(default_factory=Counter[str], init=False, repr=False)
    _unnoted: Counter[str] = field(default_factory=Counter[str], init=False, repr=False)
    _untold: Counter[str] = field(default_factory=Counter[str], init=False, repr=False)
    _dropped_at: float = field(default=0.0, init=False, repr=False)
    _pruned: int = field(default=0, init=False, repr=False)
    _pruner: threading.Thread | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.durability != "process":
            raise BadConfiguration(
                f"durability must be 'process', the only level so far, not {self.durability!r}"
            )
        seconds(self, "segment_seconds")
        seconds(self, "keep_seconds")
        seconds(self, "max_wait", optional=False)
        self._limit = size(self, "max_record_bytes", least=256)
        if self.keep_bytes is not None:
            size(self, "keep_bytes")
        self._encoder = Encoder(redaction(self.redact))
        self._journal = self._new_journal()
        _LOGGERS.add(self)

    # -- writing ------------------------------------------------------------------------

    def log_prediction(  # noqa: PLR0917 - by position too, as callers know it
        self,
        request_id: str,
        features: Any,
        prediction: Any,
        model_version: str,
        latency_ms: float | None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Write one prediction; True if it is in the log, False if it was dropped.

        Parameters
        ----------
        request_id
            Joins the late label; what is no text is written as ``str`` of it.
        features, prediction, metadata
            Any values; :mod:`prodml.recording.codec` says how each is written.  A log entry
            of a failed call has None as its prediction, or comes as a ``PredictionFailed``.
        model_version
            Version that answered.
        latency_ms
            Milliseconds; None if unknown.
        """
        entry = {
            "at": None,
            "request_id": request_id,
            "features": features,
            "prediction": prediction,
            "model_version": model_version,
            "latency_ms": latency_ms,
        }
        if metadata is not None:
            entry["metadata"] = metadata
        return self._log(entry)

    def truth(self, request_id: str, label: Any, at: float | datetime | None = None) -> bool:
        """Write the label of an earlier request, of any process; True if it is in the log.

        The label that was logged last counts.  ``at`` is when it became known (seconds
        since the epoch, or an aware datetime); None for now.
        """
        return self._log(
            {"kind": "label", "at": None, "request_id": request_id, "label": label, "label_at": at}
        )

    def __call__(self, fact: object) -> None:
        """Write a ``PredictionServed`` or ``PredictionFailed``; other facts mean nothing."""
        if isinstance(fact, PredictionServed):
            self._log(_served(fact))
        elif isinstance(fact, PredictionFailed):
            self._log(_failed(fact))

    def subscribe(self, events: Stream) -> Unsubscribe:
        """Write every prediction that ``events`` carries; return the way out."""
        ways_out = [
            events.subscribe(PredictionServed, self),
            events.subscribe(PredictionFailed, self),
        ]

        def unsubscribe() -> None:
            for leave in ways_out:
                leave()

        return unsubscribe

    def flush(self) -> bool:
        """Wait until the device has what was logged; True if it says so.

        After that the records survive a power cut as well.
        """
        # A device may take seconds, so nobody's write waits for it behind our lock.
        with self._lock:
            files, paths = self._journal.files, self._journal.unsynced()
        try:
            sync(paths)
        except OSError:
            return False
        with self._lock:
            self._journal.synced(files)
        return True

    def close(self) -> None:
        """Close the file.  Later records are dropped and counted; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._note(self.clock.time())
                self._journal.close()
            except OSError as error:
                self._count(_reason(error), records=0)
        self._tell()
        if self._pruner is not None:
            self._pruner.join(5.0)

    def stats(self) -> LogStats:
        """What this logger did in this process so far."""
        # Not under the lock of the files: a device that hangs must not hang the monitoring.
        with self._tally:
            return LogStats(
                accepted=self._written + self._dropped.total(),
                written=self._written,
                dropped=dict(self._dropped),
                approximated=self._encoder.approximated,
                bytes=self._journal.volume,
                segments=self._journal.files,
                writer=self._journal.writer,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- the way of a record ------------------------------------------------------------

    def _log(self, entry: dict[str, Any]) -> bool:
        try:
            at = entry["at"] = self.clock.time() if entry["at"] is None else _finite(entry["at"])
            if not _is_tidy(entry):
                _tidy(entry, at)
        except Exception:
            return self._drop("invalid")
        try:
            body = self._encoder(entry)
        except Exception:
            return self._drop("unserialisable")
        if len(body) > self._limit:
            return self._drop("too large")
        reason = self._append(body, at)
        if reason:
            return self._drop(reason)
        if self._untold or self._pruned != self._journal.files:
            self._look_after()
        return True

    def _append(self, body: bytes, at: float) -> str:
        """Write ``body``; say why not, if not."""
        if not self._lock.acquire(True, self.max_wait):
            return "stalled"
        try:
            if self._busy:
                return "reentrant"
            if self._closed:
                return "closed"
            self._busy = True
            try:
                if self._unnoted:
                    self._note(at)
                self._journal.append(body, at)
                self._written += 1
            except Exception as error:
                return _reason(error)
            finally:
                self._busy = False
        finally:
            self._lock.release()
        return ""

    def _note(self, at: float) -> None:
        """Say in the log itself how many records are missing here."""
        with self._tally:
            unnoted = dict(self._unnoted)
        if unnoted:
            self._journal.append(
                self._encoder({"kind": "dropped", "at": at, "dropped": unnoted}), at
            )
            # Only what the note says: others may have dropped more meanwhile.
            with self._tally:
                self._unnoted -= Counter(unnoted)

    def _drop(self, reason: str) -> bool:
        self._count(reason)
        return False

    def _count(self, reason: str, records: int = 1) -> None:
        with self._tally:
            self._dropped[reason] += records
            self._unnoted[reason] += records
            self._dropped_at = self.clock.monotonic()
            begins = reason not in self._untold
            self._untold[reason] += 0 if begins else records
        if begins:
            self._state(reason, records)

    def _look_after(self) -> None:
        if self._untold and self.clock.monotonic() - self._dropped_at >= _QUIET:
            self._tell()
        if self._pruned != self._journal.files:
            self._pruned = self._journal.files
            self._begin_to_prune()

    def _tell(self) -> None:
        # Listeners are called after the lock is free again.
        with self._tally:
            untold, self._untold = self._untold, Counter()
        for reason, count in untold.items():
            if count:
                self._state(reason, count)

    def _state(self, reason: str, count: int) -> None:
        self.events.emit(
            RecordsDropped(at=self.clock.time(), source=self.name, count=count, reason=reason)
        )

    # -- files --------------------------------------------------------------------------

    def _new_journal(self) -> Journal:
        return Journal(
            directory=Path(self.path),
            segment_bytes=size(self, "segment_bytes", least=4096),
            segment_seconds=self.segment_seconds,
        )

    def _begin_to_prune(self) -> None:
        if self.keep_bytes is None and self.keep_seconds is None:
            return
        if self._pruner is not None and self._pruner.is_alive():
            return
        # Deleting a large file takes milliseconds, and a caller has none to give.
        self._pruner = threading.Thread(target=self._prune, daemon=True, name=f"{self.name}-prune")
        try:
            self._pruner.start()
        except RuntimeError:
            self._pruner = None

    def _prune(self) -> None:
        keep_bytes = None if self.keep_bytes is None else size(self, "keep_bytes")
        keep_after = None if self.keep_seconds is None else self.clock.time() - self.keep_seconds
        try:
            prune(Path(self.path), keep_bytes, keep_after)
        except OSError as error:
            _LOG.warning("prediction log %s: cannot prune: %s", self.path, error)

    def _retuned(self) -> None:
        self._limit = size(self, "max_record_bytes")
        self._journal.segment_bytes = size(self, "segment_bytes")
        self._journal.segment_seconds = self.segment_seconds

    def _begin_again(self) -> None:
        """In a forked child: own locks, own files, own counts; the parent keeps its."""
        # The parent's threads may have held these when it forked; none of them is here.
        self._lock, self._tally, self._busy = threading.RLock(), threading.RLock(), False
        with contextlib.suppress(OSError):
            self._journal.abandon()
        self._journal, self._encoder = self._new_journal(), Encoder(redaction(self.redact))
        self._dropped, self._unnoted, self._untold = Counter(), Counter(), Counter()
        self._written, self._pruned, self._pruner = 0, 0, None


_LOGGERS: "WeakSet[PredictionLogger]" = WeakSet()


def _after_fork() -> None:
    for logger in list(_LOGGERS):
        logger._begin_again()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_after_fork)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return "internal"
    return "disk full" if error.errno in _FULL else "unavailable"


def _is_tidy(entry: dict[str, Any]) -> bool:
    return (
        type(entry["request_id"]) is type(entry.get("model_version")) is str
        and type(entry["latency_ms"]) is float
    )


def _tidy(entry: dict[str, Any], at: float) -> None:
    """Give the fixed fields their types; raise on what is none."""
    for name in ("request_id", "model_version"):
        if name in entry and type(entry[name]) is not str:
            entry[name] = _text(entry[name])
    if "latency_ms" in entry and type(entry["latency_ms"]) is not float:
        entry["latency_ms"] = None if entry["latency_ms"] is None else float(entry["latency_ms"])
    if "label_at" in entry:
        entry["label_at"] = _moment(entry["label_at"], at)


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no moment")
    return float(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def _moment(value: Any, now: float) -> float:
    if value is None:
        return now
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.timestamp()
    return _finite(value)


def _served(fact: PredictionServed) -> dict[str, Any]:
    prediction = fact.prediction
    return {
        "at": fact.at,
        "request_id": prediction.request_id,
        "features": fact.features,
        "prediction": prediction.value,
        "model_version": prediction.version,
        "latency_ms": prediction.latency_ms,
        "metadata": {
            "status": "success",
            "service": fact.source,
            "source": prediction.source,
            "arm": fact.arm,
            "cached": prediction.cached,
            "degraded": prediction.degraded,
        }
        | (_provenance(prediction) if prediction.cached else {})
        | ({} if fact.key is None else {"key": fact.key})
        | ({"errors": list(prediction.errors)} if prediction.errors else {}),
    }


def _provenance(prediction: Prediction[Any]) -> dict[str, Any]:
    """Where a cached answer came from, and how old it was."""
    return {"tier": prediction.tier, "age": prediction.age, "stale": prediction.stale}


def _failed(fact: PredictionFailed) -> dict[str, Any]:
    return {
        "at": fact.at,
        "request_id": fact.request_id,
        "features": fact.features,
        "prediction": None,
        "model_version": fact.version,
        "latency_ms": fact.latency_ms,
        "metadata": {
            "status": "error",
            "service": fact.source,
            "arm": fact.arm,
            "error": fact.error,
        }
        | ({} if fact.key is None else {"key": fact.key}),
    }
