"""Counts of requests, as text that Prometheus reads; written by hand, one process's own."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

__all__ = ["Metrics", "Series"]

Series: TypeAlias = Iterable[tuple[Mapping[str, Any], float]]
"""Labels and value of each series of one metric."""

_BOUNDS: Final[tuple[float, ...]] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_SHED: Final = frozenset({429, 503})


class _Histogram:
    """Counts by upper bound, with their sum."""

    __slots__: tuple[str, ...] = ("counts", "total")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(_BOUNDS) + 1)
        self.total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """Requests by model, version, arm and status, with their latency.

    Written by the event loop's thread alone.  No label ever comes from a request, so a
    client cannot make series.

    Examples
    --------
    >>> metrics = Metrics()
    >>> metrics.count("churn", "v1", "stable", 200, 0.002)
    >>> print(metrics.text({}).splitlines()[2])
    prodml_inference_requests_total{model="churn",version="v1",arm="stable",status="200"} 1
    """

    __slots__: tuple[str, ...] = ("_latency", "_requests", "_shed")

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str, int], int] = {}
        self._latency: dict[tuple[str, str], _Histogram] = {}
        self._shed: dict[str, int] = {}

    def count(self, model: str, version: str, arm: str, status: int, seconds: float) -> None:
        """Count one infer call that ended with ``status`` after ``seconds``."""
        labels = (model, version, arm, status)
        self._requests[labels] = self._requests.get(labels, 0) + 1
        histogram = self._latency.get((model, version))
        if histogram is None:
            histogram = self._latency[model, version] = _Histogram()
        histogram.add(seconds)
        if status in _SHED:
            self._shed[model] = self._shed.get(model, 0) + 1

    def text(self, gauges: Mapping[str, Series]) -> str:
        """All series in Prometheus' text format 0.0.4; ``gauges`` are read by the caller."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: Mapping[str, Series]) -> Iterator[str]:
        name = "prodml_inference_requests_total"
        yield from _head(name, "counter", "Infer calls by how they ended.")
        for (model, version, arm, status), count in self._requests.items():
            labels = {"model": model, "version": version, "arm": arm, "status": str(status)}
            yield _line(name, labels, count)
        name = "prodml_inference_shed_total"
        yield from _head(name, "counter", "Infer calls refused because of load: 429 and 503.")
        for model, count in self._shed.items():
            yield _line(name, {"model": model}, count)
        yield from self._latency_lines("prodml_inference_seconds")
        for name, series in gauges.items():
            yield from _head(name, "gauge", "Read when asked.")
            yield from (_line(name, labels, value) for labels, value in series)

    def _latency_lines(self, name: str) -> Iterator[str]:
        yield from _head(name, "histogram", "Seconds from a request's arrival to its reply.")
        for (model, version), histogram in self._latency.items():
            labels = {"model": model, "version": version}
            running = 0
            for bound, count in zip((*_BOUNDS, "+Inf"), histogram.counts, strict=True):
                running += count
                yield _line(f"{name}_bucket", {**labels, "le": bound}, running)
            yield _line(f"{name}_sum", labels, histogram.total)
            yield _line(f"{name}_count", labels, running)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, labels: Mapping[str, Any], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value!r}"


def _escaped(text: Any) -> str:
    return str(text).translate(_ESCAPES)
