"""One feature of a report: its picture, and its figures before and after."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from prodml import svg
from prodml.clock import utc
from prodml.drift.evidence import percent
from prodml.drift.feature import Profile

__all__ = ["distances", "moment", "picture", "statistics"]

_WIDTH, _HEIGHT = 360, 170
_FIGURES: Final = (
    ("rows", "rows"),
    ("missing", "missing"),
    ("mean", "mean"),
    ("standard deviation", "std"),
)
_DISTANCES: Final = (
    ("PSI", "psi", "psi_bound"),
    ("Jensen-Shannon", "jensen_shannon", "jensen_shannon_bound"),
    ("Wasserstein", "wasserstein", "wasserstein_bound"),
)
_QUANTILES: Final = (("5 %", 0), ("median", 2), ("95 %", 4))


def picture(name: str, verdict: Any) -> str:
    """Histograms of numbers and times, bars of levels; nothing where nothing is known.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> plan = {"plan": ["basic"] * 60 + ["pro"] * 40}
    >>> found = DriftDetector(plan).detect_drift(plan)["plan"]
    >>> picture("plan", found)[:4], picture("plan", None)
    ('<svg', '')
    """
    profile: Profile | None = getattr(verdict, "profile", None)
    if profile is None or not all(map(math.isfinite, profile.edges)):
        return ""
    told = f"{name:.60}: reference filled, current outlined. {_spoken(profile)}"
    edges = profile.edges
    if edges and edges[0] < edges[-1]:
        return svg.histogram_pair(
            edges,
            profile.reference,
            profile.current,
            labels=_dates(edges) if verdict.kind == "time" else None,
            description=told,
            width=_WIDTH,
            height=_HEIGHT,
        )
    # All numbers are the same: a level, as it were.
    labels = profile.labels if not edges else (_figure(edges[0], verdict.kind),)
    pairs = (profile.reference, profile.current)
    old, new = pairs if not edges else ([sum(shares)] for shares in pairs)
    return svg.bar_pair(labels, old, new, description=told, width=_WIDTH)


def _spoken(profile: Profile) -> str:
    """Where the shares differ most, in words."""
    if not profile.labels:
        return ""
    differences = [b - a for a, b in zip(profile.reference, profile.current, strict=True)]
    at = max(range(len(differences)), key=lambda i: abs(differences[i]))
    before, after = percent(profile.reference[at]), percent(profile.current[at])
    return f"Most changed: {profile.labels[at]}, {before} before, {after} now."


def statistics(verdict: Any) -> str:
    """Figures of reference and current side by side, those that are known."""
    kind = getattr(verdict, "kind", "")
    rows = [row for row in _figures(verdict, kind) if row is not None]
    if not rows:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{told}</th><td class="number">{old}</td>'
        f'<td class="number">{new}</td></tr>'
        for told, old, new in rows
    )
    return (
        '<table><thead><tr><th scope="col">figure</th><th scope="col" class="number">reference'
        f'</th><th scope="col" class="number">current</th></tr></thead><tbody>{lines}'
        "</tbody></table>"
    )


def distances(verdict: Any) -> str:
    """Distances of reference and current in words, with what they may be off.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> numbers = [float(i) for i in range(100)]
    >>> distances(DriftDetector(numbers).detect_drift([x + 3.0 for x in numbers])["x0"])
    'PSI 0, Jensen-Shannon 0.0577, Wasserstein 3'
    """
    told: list[str] = []
    for name, field, bound in _DISTANCES:
        value, off = getattr(verdict, field, math.nan), getattr(verdict, bound, 0.0)
        # A distance that may be off by anything says nothing.
        if math.isfinite(value) and math.isfinite(off):
            # A bias taken off may leave a little less than nothing.
            told.append(f"{name} {max(value, 0.0):.3g}{f' ± {off:.2g}' if off else ''}")
    return ", ".join(told)


def _figures(verdict: Any, kind: str) -> Sequence[tuple[str, str, str] | None]:
    found: list[tuple[str, str, str] | None] = []
    for told, field in _FIGURES:
        if kind != "time" or field in {"rows", "missing"}:
            pair = [
                getattr(verdict, f"{side}_{field}", math.nan) for side in ("reference", "current")
            ]
            found.append(_row(told, pair, "share" if field == "missing" else ""))
    before = getattr(verdict, "reference_quantiles", ())
    after = getattr(verdict, "current_quantiles", ())
    if len(before) == len(after) == 5:
        found += [_row(told, (before[at], after[at]), kind) for told, at in _QUANTILES]
    return found


def _row(told: str, pair: Sequence[float], kind: str) -> tuple[str, str, str] | None:
    if not any(map(math.isfinite, pair)):
        return None
    old, new = (_figure(value, kind) for value in pair)
    return told, old, new


def _figure(value: float, kind: str) -> str:
    if not math.isfinite(value):
        return "-"
    if kind == "share":
        return percent(value)
    return (
        moment(value) if kind == "time" else f"{value:.5g}" if abs(value) < 1e5 else f"{value:,.6g}"
    )


def moment(at: float) -> str:
    """A time in UTC, to the minute; seconds where no calendar reaches.

    Examples
    --------
    >>> moment(86400.0), moment(1e20)
    ('1970-01-02 00:00', '1e+20 s')
    """
    try:
        return f"{utc(at):%Y-%m-%d %H:%M}"
    except (OverflowError, OSError, ValueError):
        return f"{at:g} s"


def _dates(edges: Sequence[float]) -> Mapping[float, str]:
    span = edges[-1] - edges[0]
    wanted = slice(0, 10) if span > 3 * 86400.0 else slice(5, 16)
    return {at: moment(at)[wanted] for at in (edges[0] + span * share for share in (0.1, 0.5, 0.9))}
