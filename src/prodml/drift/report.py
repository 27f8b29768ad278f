"""What a check found: a mapping of features, a terminal table, a page, plain data."""

import copy
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from prodml.clock import utc
from prodml.drift.document import (
    FORMAT,
    VERSION,
    plain_feature,
    plain_verdict,
    restored_report,
)
from prodml.drift.feature import FeatureDrift
from prodml.drift.level import DriftLevel
from prodml.drift.ranking import Judged, ranked, weights_of

__all__ = ["CheckReport", "DriftReport"]

V = TypeVar("V", bound=Judged)


class CheckReport(Mapping[str, V], Generic[V]):
    """Verdicts by name, whoever gave them: what all reports on a check can do.

    Parameters
    ----------
    verdicts
        By feature (or method), in the order of the reference.
    alpha
        The level that was judged at.
    at
        When the check was made, seconds since the epoch.
    source
        Name of who checked.
    new_columns
        Columns of current that the reference does not know: named, not compared.
    importance
        Of the features to the model: see :meth:`weighed`.

    Notes
    -----
    A report is a mapping, so its truth is that of a mapping: ask ``drift_detected``.

    Examples
    --------
    >>> from prodml.drift import MultivariateDrift
    >>> found = MultivariateDrift(method="pca", level=DriftLevel.DRIFT, effect=0.3, what="moved")
    >>> report = CheckReport({"pca": found}, alpha=0.05, source="rows")
    >>> report.drifted, report.score
    (('pca',), 0.3)
    """

    __slots__: tuple[str, ...] = ("_verdicts", "alpha", "at", "importance", "new_columns", "source")

    def __init__(
        self,
        verdicts: Mapping[str, V],
        *,
        alpha: float = 0.05,
        at: float = 0.0,
        source: str = "drift",
        new_columns: tuple[str, ...] = (),
        importance: Mapping[str, float] | None = None,
    ) -> None:
        self._verdicts: dict[str, V] = dict(verdicts)
        self.alpha: float = alpha
        self.at: float = at
        self.source: str = source
        self.new_columns: tuple[str, ...] = new_columns
        self.importance: dict[str, float] = weights_of(importance)

    def __getitem__(self, name: str) -> V:
        return self._verdicts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._verdicts)

    def __len__(self) -> int:
        return len(self._verdicts)

    @property
    def drift_detected(self) -> bool:
        """Whether any feature drifted."""
        return self._count(DriftLevel.DRIFT) > 0

    @property
    def drifted(self) -> tuple[str, ...]:
        """Features that drifted, in the order of :meth:`ranked`."""
        found = ranked(self._verdicts, self.importance)
        return tuple(name for name, verdict in found if verdict.level is DriftLevel.DRIFT)

    @property
    def inconclusive(self) -> tuple[str, ...]:
        """Features about which nothing can be said."""
        return tuple(n for n, f in self.items() if f.level is DriftLevel.INCONCLUSIVE)

    @property
    def score(self) -> float:
        """The largest effect among the features that drifted, in [0, 1]; 0 if none did.

        Largest and not average: one broken feature among fifty is a broken model.
        """
        return max((f.effect for f in self.values() if f.level is DriftLevel.DRIFT), default=0.0)

    @property
    def share(self) -> float:
        """Share of the features that drifted, in [0, 1]."""
        return self._count(DriftLevel.DRIFT) / len(self) if self._verdicts else 0.0

    def ranked(self) -> list[V]:
        """Verdicts, the gravest level first, within it by :func:`~prodml.drift.priority`."""
        return [verdict for _, verdict in ranked(self._verdicts, self.importance)]

    def weighed(self, importance: Mapping[str, float] | None) -> Self:
        """The same report, ranked for a model to which not all features matter alike.

        Parameters
        ----------
        importance
            Feature to a number >= 0, such as a model's feature importances; features that
            it leaves out have 1, and names that are no feature are left alone.

        Raises
        ------
        BadConfiguration
            An importance is negative or no finite number.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> rows = [{"a": i, "b": i} for i in range(100)]
        >>> report = DriftDetector(rows).detect_drift(
        ...     [{"a": row["a"] + 60, "b": row["b"] + 30} for row in rows]
        ... )
        >>> report.drifted, report.weighed({"a": 0.1, "b": 0.9}).drifted
        (('a', 'b'), ('b', 'a'))
        """
        weights = weights_of(importance)
        weighed = copy.copy(self)
        weighed.importance = weights
        return weighed

    def metrics(self) -> dict[str, float]:
        """Numbers for triggers and gauges; every one is finite.

        ``drift_score``, ``drift_share`` and ``drift_worst_effect`` (of any level) lie in
        [0, 1]; ``drift_missing`` is the largest rise of a share of missing values;
        ``drift_features``, ``drift_drifted``, ``drift_inconclusive``, ``drift_negligible``
        and ``drift_new_columns`` are counts.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift({"y": [1.0]})
        >>> found = report.metrics()
        >>> found["drift_score"], found["drift_drifted"], found["drift_new_columns"]
        (1.0, 1.0, 1.0)
        """
        return {
            "drift_score": float(self.score),
            "drift_share": float(self.share),
            "drift_worst_effect": max((_finite(f.effect) for f in self.values()), default=0.0),
            "drift_missing": max((_more_missing(f) for f in self.values()), default=0.0),
            "drift_features": float(len(self)),
            "drift_drifted": float(self._count(DriftLevel.DRIFT)),
            "drift_inconclusive": float(self._count(DriftLevel.INCONCLUSIVE)),
            "drift_negligible": float(self._count(DriftLevel.NEGLIGIBLE)),
            "drift_new_columns": float(len(self.new_columns)),
        }

    def table(
        self, *, width: int = 100, limit: int = 40, colour: bool = False, plain: bool = False
    ) -> str:
        """The report as text, worst first: what ``print(report)`` shows.

        Parameters
        ----------
        width
            Columns of the terminal, at least 60.
        limit
            Rows; the others are counted.
        colour
            Colour the verdicts by ANSI codes.
        plain
            ASCII only; everything else is written as its code.

        Raises
        ------
        BadConfiguration
            ``width`` or ``limit`` too small.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> detector = DriftDetector({"age": [float(i) for i in range(50)]})
        >>> print(detector.detect_drift({}).table(width=80).splitlines()[4][:40].rstrip())
        ? inconclusive  age
        """
        from prodml.drift.terminal import table

        rows = ranked(self._verdicts, self.importance)
        return table(
            self.headline,
            rows,
            notes=self.notes,
            width=width,
            limit=limit,
            colour=colour,
            plain=plain,
        )

    def to_html(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        importance: Mapping[str, float] | None = None,
        pictures: int = 60,
    ) -> str:
        """One self-contained page with SVG pictures and no script; also written to ``path``.

        Parameters
        ----------
        path
            File to write, in UTF-8.
        importance
            Short for ``weighed(importance).to_html(...)``.
        pictures
            Features that are drawn, the gravest first; the others are in the table only.

        Raises
        ------
        BadConfiguration
            An importance is negative or no finite number.
        OSError
            The file cannot be written.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
        >>> "<script" in report.to_html(), report.to_html().startswith("<!doctype html>")
        (False, True)
        """
        # Not before a page is asked for: a check draws nothing.
        from prodml.drift.page import page

        weighed = self if importance is None else self.weighed(importance)
        text = page(weighed, pictures=pictures)
        _write(text, path)
        return text

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: what the reports of all checks tell alike.

        Examples
        --------
        >>> from prodml.drift import MultivariateDrift
        >>> found = MultivariateDrift(method="pca", level=DriftLevel.DRIFT, effect=0.3, what="new")
        >>> CheckReport({"pca": found}).to_dict()["features"]["pca"]["level"]
        'drift'
        """
        return {
            "format": "prodml.drift.CheckReport",
            "version": VERSION,
            "at": self.at,
            "source": self.source,
            "alpha": self.alpha,
            "drift_detected": self.drift_detected,
            "drifted": list(self.drifted),
            "inconclusive": list(self.inconclusive),
            "new_columns": list(self.new_columns),
            "score": self.score,
            "share": self.share,
            "importance": dict(self.importance),
            "metrics": self.metrics(),
            "features": {name: plain_verdict(verdict) for name, verdict in self.items()},
        }

    def to_json(
        self, path: str | os.PathLike[str] | None = None, *, indent: int | None = None
    ) -> str:
        """:meth:`to_dict` as JSON in ASCII; also written to ``path``.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
        >>> import json
        >>> json.loads(report.to_json())["inconclusive"]
        ['x0']
        """
        import json

        text = json.dumps(self.to_dict(), indent=indent, allow_nan=False)
        _write(text, path)
        return text

    @property
    def headline(self) -> str:
        """One sentence with the outcome."""
        count = self._count(DriftLevel.DRIFT)
        told = f"{count} of {len(self)} features drifted" if count else "no feature drifted"
        if self.inconclusive:
            told += f", {len(self.inconclusive)} inconclusive"
        if self.new_columns:
            more = len(self.new_columns) - 5
            told += f", new columns: {', '.join(f'{name:.40}' for name in self.new_columns[:5])}"
            told += f" and {more} more" if more > 0 else ""
        return f"{self.source}, {_when(self.at)}: {told} (alpha {self.alpha:g})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known before the verdicts are read: shown above them."""
        return ()

    def _count(self, level: DriftLevel) -> int:
        return sum(verdict.level is level for verdict in self.values())

    def __str__(self) -> str:
        text = self.table()
        try:
            # A terminal that cannot show a level's name must not cost the report.
            text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except (LookupError, UnicodeEncodeError):
            return self.table(plain=True)
        return text

    def __repr__(self) -> str:
        from prodml.drift.terminal import clean

        return f"<{type(self).__name__} {clean(self.headline)}>"

    def _repr_html_(self) -> str:
        from prodml.drift.page import page

        return page(self, whole=False, pictures=12)


class DriftReport(CheckReport[FeatureDrift]):
    """Verdicts by feature name, in the order of the reference: a :class:`CheckReport`.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> rows = [{"age": age, "plan": "pro"} for age in range(100)]
    >>> report = DriftDetector(rows).detect_drift([{**row, "age": row["age"] + 40} for row in rows])
    >>> report.drift_detected, report.drifted, round(report.score, 3)
    (True, ('age',), 0.4)
    >>> report["age"].reason.split(";")[0]
    'median +0.80 IQR (49 -> 89)'
    """

    __slots__: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, as :func:`~prodml.drift.report_schema` describes it.

        Numbers that are not finite become None; levels become text.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
        >>> report.to_dict()["features"]["x0"]["level"]
        'inconclusive'
        """
        return super().to_dict() | {
            "format": FORMAT,
            "features": {name: plain_feature(feature) for name, feature in self.items()},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The report that :meth:`to_dict` gave: ranked, printed and drawn as it was.

        Raises
        ------
        CorruptRecord
            Another format or version, or fields of another type.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
        >>> import json
        >>> DriftReport.from_dict(json.loads(report.to_json())).headline == report.headline
        True
        """
        features, settings = restored_report(stored)
        return cls(features, **settings)


def _write(text: str, path: str | os.PathLike[str] | None) -> None:
    if path is not None:
        from pathlib import Path

        Path(path).write_text(text, encoding="utf-8")


def _when(at: float) -> str:
    try:
        return f"{utc(at):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, OSError, ValueError):
        return f"at {at:g} s"


def _finite(value: float) -> float:
    return float(value) if abs(value) < float("inf") else 0.0


def _more_missing(verdict: Any) -> float:
    before = getattr(verdict, "reference_missing", 0.0)
    return max(0.0, _finite(getattr(verdict, "current_missing", 0.0) - before))
