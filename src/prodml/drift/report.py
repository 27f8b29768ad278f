"""What a check found: a mapping of features, a terminal table, a page."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prodml.clock import utc
from prodml.drift.feature import FeatureDrift
from prodml.drift.level import DriftLevel
from prodml.drift.page import page

__all__ = ["DriftReport"]


class DriftReport(Mapping[str, FeatureDrift]):
    """Verdicts by feature name, in the order of the reference.

    Parameters
    ----------
    features
        Verdict of every feature of the reference.
    alpha
        The level that adjusted p-values were compared with.
    at
        When the check was made, seconds since the epoch.
    source
        Name of the detector.
    new_columns
        Columns of current that the reference does not know: named, not compared.

    Notes
    -----
    A report is a mapping, so its truth is that of a mapping: ask ``drift_detected``.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> rows = [{"age": age, "plan": "pro"} for age in range(100)]
    >>> report = DriftDetector(rows).detect_drift([{**row, "age": row["age"] + 40} for row in rows])
    >>> report.drift_detected, report.drifted, round(report.score, 3)
    (True, ('age',), 0.4)
    >>> report["age"].reason
    'median +0.80 IQR (49 -> 89); at most 39: 40 % -> 0 %'
    """

    __slots__: tuple[str, ...] = ("_features", "alpha", "at", "new_columns", "source")

    def __init__(
        self,
        features: Mapping[str, FeatureDrift],
        *,
        alpha: float = 0.05,
        at: float = 0.0,
        source: str = "drift",
        new_columns: tuple[str, ...] = (),
    ) -> None:
        self._features: dict[str, FeatureDrift] = dict(features)
        self.alpha: float = alpha
        self.at: float = at
        self.source: str = source
        self.new_columns: tuple[str, ...] = new_columns

    def __getitem__(self, name: str) -> FeatureDrift:
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)

    @property
    def drift_detected(self) -> bool:
        """Whether any feature drifted."""
        return bool(self.drifted)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Features that drifted, the largest effect first."""
        return tuple(f.name for f in self.ranked() if f.drift_detected)

    @property
    def inconclusive(self) -> tuple[str, ...]:
        """Features about which nothing can be said."""
        return tuple(n for n, f in self.items() if f.level is DriftLevel.INCONCLUSIVE)

    @property
    def score(self) -> float:
        """The largest effect among the features that drifted, in [0, 1]; 0 if none did.

        Largest and not average: one broken feature among fifty is a broken model.
        """
        return max((f.effect for f in self.values() if f.drift_detected), default=0.0)

    @property
    def share(self) -> float:
        """Share of the features that drifted, in [0, 1]."""
        return len(self.drifted) / len(self) if self._features else 0.0

    def ranked(self) -> list[FeatureDrift]:
        """Verdicts, the gravest level and then the largest effect first."""
        return sorted(self.values(), key=lambda f: (_ORDER[f.level], -f.effect))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
        >>> report.to_dict()["features"]["x0"]["level"]
        'inconclusive'
        """
        return {
            "at": self.at,
            "source": self.source,
            "alpha": self.alpha,
            "drift_detected": self.drift_detected,
            "drifted": list(self.drifted),
            "inconclusive": list(self.inconclusive),
            "new_columns": list(self.new_columns),
            "score": self.score,
            "share": self.share,
            "features": {name: feature.to_dict() for name, feature in self.items()},
        }

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page with SVG pictures and no script; also written to ``path``.

        Examples
        --------
        >>> from prodml.drift import DriftDetector
        >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
        >>> "<script" in report.to_html(), report.to_html().startswith("<!doctype html>")
        (False, True)
        """
        text = page(self.headline, self.ranked())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @property
    def headline(self) -> str:
        """One sentence with the outcome."""
        count = len(self.drifted)
        told = f"{count} of {len(self)} features drifted" if count else "no feature drifted"
        if self.inconclusive:
            told += f", {len(self.inconclusive)} inconclusive"
        if self.new_columns:
            told += f", new columns: {', '.join(self.new_columns)}"
        return f"{self.source}, {utc(self.at):%Y-%m-%d %H:%M} UTC: {told} (alpha {self.alpha:g})"

    def __str__(self) -> str:
        rows = [
            (f.name, f.level.value, f"{f.effect:.3f}", f"{f.p_adjusted:.2g}", f.reason)
            for f in self.ranked()
        ]
        table = [("feature", "level", "effect", "p", "reason"), *rows]
        widths = [max(len(row[i]) for row in table) for i in range(4)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))])
            + f"  {row[4]}"
            for row in table
        ]
        return "\n".join([self.headline, *lines])

    def __repr__(self) -> str:
        return f"<DriftReport {self.headline}>"

    def _repr_html_(self) -> str:
        return page(self.headline, self.ranked(), whole=False)


_ORDER = {
    DriftLevel.DRIFT: 0,
    DriftLevel.INCONCLUSIVE: 1,
    DriftLevel.NEGLIGIBLE: 2,
    DriftLevel.NONE: 3,
}
