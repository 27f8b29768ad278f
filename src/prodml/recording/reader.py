"""The reading end of the prediction log."""

import heapq
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeAlias, cast, final

from prodml.errors import BadConfiguration
from prodml.recording.codec import decode, revive, to_json
from prodml.recording.line import unframed
from prodml.recording.record import Gap, Record
from prodml.recording.segments import Segment, is_live, segments_of
from prodml.types import MISS

__all__ = ["PredictionLog"]

# How far a record may stand from its place in time, in records of one writer: threads stamp
# before they queue for the file.
_REORDER: Final = 1024

# The kind of a line that is no prediction comes first behind the checksum.
_LABEL: Final = b'"kind":"label"'
_HEAD_BYTES: Final = 80
_WRITTEN: Final = (
    "at",
    "request_id",
    "features",
    "prediction",
    "model_version",
    "latency_ms",
    "metadata",
)

Test: TypeAlias = Callable[[Record], object]
Labels: TypeAlias = dict[str, tuple[Any, float]]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class PredictionLog:
    """Records of the log in directory ``path``, in the order of time.

    Iterating reads lazily, all writers' files at once, and joins the labels that are there
    when it begins: of several labels for a request the one logged last.  It is safe while
    others write; it ends with what was there.  Lines that are not whole are skipped;
    :meth:`gaps` tells where.

    Parameters
    ----------
    path
        Directory; one that does not exist yet is an empty log.

    Notes
    -----
    Each iteration reads the files twice, once for the labels; labels are held in memory.
    Records that a step of the clock threw more than 1,024 places back stay where they are.

    Examples
    --------
    >>> import tempfile
    >>> from prodml.recording import PredictionLogger
    >>> directory = tempfile.mkdtemp()
    >>> with PredictionLogger(directory) as logger:
    ...     written = [logger.log_prediction(f"r-{n}", {"x": n}, 2 * n, "v1", 1.0) for n in (1, 2)]
    >>> log = PredictionLog(directory)
    >>> [(record.request_id, record.prediction) for record in log]
    [('r-1', 2), ('r-2', 4)]
    >>> len(list(log.where(lambda record: record.prediction > 2))), list(log.gaps())
    (1, [])
    """

    path: str | os.PathLike[str] = field(kw_only=False)
    _tests: tuple[Test, ...] = field(default=(), init=False, repr=False)

    def __iter__(self) -> Iterator[Record]:
        return self._select(b"")

    def where(
        self,
        *tests: Test,
        model_version: str | None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        labelled: bool | None = None,
        failed: bool | None = None,
    ) -> "PredictionLog":
        """Narrow the log to the records that pass everything given.

        Parameters
        ----------
        *tests
            Functions of a record; what they raise comes through.
        model_version
            Exactly this version.
        since, until
            ``since <= record.at < until``, seconds since the epoch or aware datetimes.
        labelled, failed
            Only records that are, or are not.

        Raises
        ------
        BadConfiguration
            A datetime without a time zone, or a test that is no function.
        """
        for test in tests:
            if not callable(test):
                raise BadConfiguration(f"a test must be a function of a record, not {test!r}")
        wanted = {"model_version": model_version, "labelled": labelled, "failed": failed}
        more = [_equal(name, value) for name, value in wanted.items() if value is not None]
        if since is not None:
            more.append(partial(_not_before, _moment("since", since)))
        if until is not None:
            more.append(partial(_before, _moment("until", until)))
        narrowed = replace(self)
        narrowed._tests = (*self._tests, *more, *tests)  # noqa: SLF001
        return narrowed

    def get(self, request_id: str) -> Record | None:
        """Find the record of ``request_id`` that was logged last; None if there is none."""
        found: Record | None = None
        for record in self._select(to_json(request_id)):
            if record.request_id == request_id:
                found = record
        return found

    def gaps(self) -> Generator[Gap, None, None]:
        """Find out what is missing: dropped by a logger, torn by a crash, or gone.

        Files that retention deleted are no gap.  An unfinished last line of a process that
        still writes is none either.
        """
        for writer, segments in self._writers():
            yield from _gaps_of(writer, segments)

    def frame(self, backend: str | None = None) -> Any:
        """Give the records as columns, or as a data frame.

        Columns are ``at``, ``request_id``, ``model_version``, ``prediction``, ``label``,
        ``label_at``, ``latency_ms``, then ``features.<name>`` and ``metadata.<name>`` for
        every name seen.  What a record lacks is None.

        Parameters
        ----------
        backend
            None for a dict of lists; ``"pandas"``, ``"polars"`` or ``"pyarrow"`` for a frame.

        Raises
        ------
        BadConfiguration
            No such backend.
        """
        if backend not in {None, "pandas", "polars", "pyarrow"}:
            raise BadConfiguration(
                f"backend must be None, 'pandas', 'polars' or 'pyarrow', not {backend!r}"
            )
        columns = _columns(self)
        if backend is None:
            return columns
        import narwhals

        return narwhals.from_dict(columns, backend=cast("Any", backend)).to_native()

    def replay(self, model: Any) -> Generator[tuple[Record, Any], None, None]:
        """Ask ``model`` again: every record that has features, and the new answer.

        Parameters
        ----------
        model
            Something with ``predict``, or a function of the features.  What it raises comes
            through.
        """
        predict = getattr(model, "predict", model)
        for record in self:
            if record.features is not None:
                yield record, predict(record.features)

    # -- reading ------------------------------------------------------------------------

    def _writers(self) -> Iterator[tuple[str, list[Segment]]]:
        grouped = itertools.groupby(segments_of(Path(self.path)), attrgetter("writer"))
        return ((writer, list(segments)) for writer, segments in grouped)

    def _select(self, needle: bytes) -> Iterator[Record]:
        """Records whose lines contain ``needle``, labels joined, tests passed."""
        labels = self._labels(needle)
        for record in self._records(needle):
            found = labels.get(record.request_id)
            if found is not None:
                record.label, record.label_at = found
            if all(test(record) for test in self._tests):
                yield record

    def _records(self, needle: bytes) -> Iterator[Record]:
        streams = [_in_order(_records_of(*group, needle)) for group in self._writers()]
        return heapq.merge(*streams, key=attrgetter("at"))

    def _labels(self, needle: bytes) -> Labels:
        newest: dict[str, tuple[float, Any, float]] = {}
        for _, segments in self._writers():
            for line in itertools.chain.from_iterable(_lines(s.path) for s in segments):
                if line.find(_LABEL, 0, _HEAD_BYTES) > 0 and needle in line:
                    _take_label(newest, line)
        return {request: (label, at) for request, (_, label, at) in newest.items()}


def _equal(name: str, value: object) -> Test:
    return lambda record: getattr(record, name) == value


def _not_before(first: float, record: Record) -> bool:
    return record.at >= first


def _before(end: float, record: Record) -> bool:
    return record.at < end


def _take_label(newest: dict[str, tuple[float, Any, float]], line: bytes) -> None:
    whole = unframed(line)
    content = {} if whole is None else _content(whole[1])
    if content:
        request, logged = content["request_id"], content["at"]
        if request not in newest or newest[request][0] <= logged:
            newest[request] = (logged, content["label"], content["label_at"])


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of ``path`` up to where it ends now; a file that is gone has none."""
    try:
        file = path.open("rb", buffering=1 << 16)
    except FileNotFoundError:
        return
    # Up to the size it has now, or a busy writer would keep a reader for ever.
    with file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (line := file.readline(left)):
            left -= len(line)
            yield line


def _content(rest: bytes) -> dict[str, Any]:
    """Fields of a line; ``rest`` is what stands behind its checksum."""
    content: dict[str, Any] = decode(b"{" + rest)
    if b"$" in rest:
        content = {name: revive(value) for name, value in content.items()}
    return content


def _records_of(writer: str, segments: Iterable[Segment], needle: bytes) -> Iterator[Record]:
    for line in itertools.chain.from_iterable(_lines(segment.path) for segment in segments):
        whole = unframed(line) if needle in line else None
        if whole is not None and not whole[1].startswith(b'"kind":'):
            content = _content(whole[1])
            # A later version may write more than we know.
            known = {name: content[name] for name in _WRITTEN if name in content}
            yield Record(id=whole[0], writer=writer, **known)


def _in_order(records: Iterable[Record]) -> Iterator[Record]:
    # A heap as long as the window puts each record where its stamp belongs.
    waiting: list[tuple[float, int, Record]] = []
    for place, record in enumerate(records):
        entry = (record.at, place, record)
        if len(waiting) < _REORDER:
            heapq.heappush(waiting, entry)
        else:
            yield heapq.heappushpop(waiting, entry)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _gaps_of(writer: str, segments: list[Segment]) -> Iterator[Gap]:
    # Whatever retention took from the front is no loss.
    last = 0 if segments[0].number == 0 else None
    for segment in segments:
        name = segment.path.name
        for torn, whole in _whole_lines(segment.path):
            if whole is None:
                yield _gap(writer, name, last or 0, torn, "torn")
                continue
            number, rest = whole
            last = number - 1 if last is None else last
            lost = max(number - last - 1, torn)
            if lost > 0:
                yield _gap(writer, name, last, lost, "torn" if torn else "missing")
            last = max(last, number)
            if rest.startswith(b'"kind":"dropped"'):
                yield from _dropped(writer, name, number, _content(rest))


def _whole_lines(path: Path) -> Iterator[tuple[int, tuple[int, bytes] | None]]:
    """Whole lines with the count of torn ones before each; None stands for the end."""
    torn = size = 0
    for line in _lines(path):
        size += len(line)
        whole = unframed(line)
        if whole is None:
            torn += 1
        else:
            yield torn, whole
            torn = 0
    if torn and _is_final(path, size):
        yield torn, None


def _is_final(path: Path, size: int) -> bool:
    """Whether nobody has written, or will write, behind the ``size`` bytes that were read."""
    try:
        return not is_live(path) and path.stat().st_size == size
    except FileNotFoundError:
        return False


def _gap(writer: str, segment: str, after: int, count: int, cause: str) -> Gap:
    return Gap(writer=writer, segment=segment, after=after, count=count, cause=cause)


def _dropped(writer: str, name: str, number: int, content: dict[str, Any]) -> Iterator[Gap]:
    for reason, count in content["dropped"].items():
        yield _gap(writer, name, number - 1, count, f"dropped: {reason}")


def _moment(setting: str, value: float | datetime) -> float:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise BadConfiguration(f"{setting} must be seconds or an aware datetime, not {value!r}")
    return value.timestamp()


_FIXED: Final = (
    "at",
    "request_id",
    "model_version",
    "prediction",
    "label",
    "label_at",
    "latency_ms",
)


def _columns(records: Iterable[Record]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in _FIXED}
    for count, record in enumerate(records):
        row = _row(record)
        for name in row.keys() - columns.keys():
            columns[name] = [None] * count
        for name, column in columns.items():
            column.append(row.get(name))
    return columns


def _row(record: Record) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _FIXED}
    row["label"] = None if record.label is MISS else record.label
    for part in ("features", "metadata"):
        values = getattr(record, part)
        if isinstance(values, dict):
            named: dict[Any, Any] = values
            row |= {f"{part}.{name}": value for name, value in named.items()}
    return row
