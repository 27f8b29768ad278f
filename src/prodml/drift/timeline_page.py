"""A time line as pictures and as a page."""

import math
from collections.abc import Sequence
from typing import Final

from prodml import svg
from prodml.drift.level import DriftLevel
from prodml.drift.page import HEAD, STYLE, named, region
from prodml.drift.picture import moment
from prodml.drift.summary import CheckSummary, FeatureSummary
from prodml.svg import escaped

__all__ = ["feature_line", "heat_map", "timeline_page"]

_ROWS, _COLUMNS, _LINES, _LISTED = 40, 120, 12, 200
_STYLE: Final = (
    ".prodml-drift .wide svg { min-width: 44rem; }\n.prodml-drift .time { white-space: nowrap; }\n"
)
_FOOT: Final = (
    "<p>Effect is the share of rows that moved; a frame with a diagonal marks drift, a dot that "
    "nothing could be said. Times are UTC.</p>"
)
_ABSENT: Final = FeatureSummary(level=DriftLevel.INCONCLUSIVE, effect=math.nan)


def timeline_page(name: str, checks: Sequence[CheckSummary], *, whole: bool = True) -> str:
    """HTML of the last checks; not ``whole`` is a fragment for notebooks.

    Examples
    --------
    >>> "0 checks" in timeline_page("tickets", [])
    True
    """
    title, told = f"Drift over time: {name}", _told(checks)
    tag = "main" if whole else "div"
    pictures = [_drawn("Features by checks", heat_map(checks))] if checks else []
    if whole and checks:
        pictures += [_drawn("Score and share of drifted features", _overall(checks))]
        pictures += [_histories(checks)]
        pictures += ["<h2>Features that drifted</h2>"] if _worst(checks) else []
        pictures += [
            '<div class="cards">',
            *(_card(checks, one) for one in _worst(checks)),
            "</div>",
        ]
    body = "\n".join(
        [
            f'<style>{STYLE}{_STYLE}</style><{tag} class="prodml-drift">',
            f"<h1>Drift over time: {named(name)}</h1>" if whole else "",
            f"<p><strong>{told}</strong></p>",
            *pictures,
            _FOOT,
            f"</{tag}>",
        ]
    )
    return f"{HEAD.format(title=escaped(title))}{body}</body></html>\n" if whole else body


def heat_map(checks: Sequence[CheckSummary]) -> str:
    """Features by checks; many checks are put together, the gravest in front.

    Examples
    --------
    >>> heat_map([]).count("<rect")
    0
    """
    names = _features(checks)[:_ROWS]
    size = max(1, math.ceil(len(checks) / _COLUMNS))
    groups = [checks[at : at + size] for at in range(0, len(checks), size)]
    labels = _labels([group[0].at for group in groups])
    values: list[list[float]] = []
    marks: dict[tuple[int, int], str] = {}
    for line, name in enumerate(names):
        values.append([])
        for place, group in enumerate(groups):
            found = [check.features.get(name, _ABSENT) for check in group]
            values[-1].append(_largest(found))
            if any(one.level is DriftLevel.DRIFT for one in found):
                marks[line, place] = f"{name:.60}, {labels[place]}: {values[-1][-1]:.3g}, drift"
    return svg.grid(
        [f"{name:.60}" for name in names],
        labels,
        values,
        marks=marks,
        description=f"Effect of {len(names)} features in {len(checks)} checks; "
        f"{len(marks)} cells with drift.",
    )


def feature_line(checks: Sequence[CheckSummary], name: str, *, width: float = 720) -> str:
    """The effect on one feature over time, its floor, and where it drifted.

    Examples
    --------
    >>> feature_line([], "age")[:4]
    '<svg'
    """
    seen = [(check.at, check.features[name]) for check in checks if name in check.features]
    drifted = [at for at, one in seen if one.level is DriftLevel.DRIFT]
    floors = [one.floor for _, one in seen if math.isfinite(one.floor)]
    times = [at for at, _ in seen]
    return svg.line_chart(
        {f"{name:.40}": [_known(one) for _, one in seen]},
        x=times,
        y_label="effect",
        labels=_ticks(times, max(2, int(width / 150))),
        threshold=floors[-1] if floors else None,
        marks={at: f"drift, {moment(at)}" for at in drifted},
        description=f"Effect on {name:.60} in {len(seen)} checks, {len(drifted)} with drift.",
        width=width,
    )


def _overall(checks: Sequence[CheckSummary]) -> str:
    times = [check.at for check in checks]
    return svg.line_chart(
        {
            "largest effect of what drifted": [check.score for check in checks],
            "share of features that drifted": [check.share for check in checks],
        },
        x=times,
        labels=_ticks(times, 6),
        description="Score and share of drifted features by check.",
    )


def _told(checks: Sequence[CheckSummary]) -> str:
    if not checks:
        return "0 checks"
    last = checks[-1]
    found = ", ".join(named(name) for name in last.drifted[:5]) or "nothing drifted"
    more = len(last.drifted) - 5
    count = f"{len(checks)} check{'s' if len(checks) > 1 else ''}"
    return (
        f"{count}, {moment(checks[0].at)} to {moment(last.at)} UTC; the last: "
        f"{found}{f' and {more} more' if more > 0 else ''}"
    )


def _features(checks: Sequence[CheckSummary]) -> list[str]:
    """Those that drifted most often first, then those with the largest effect."""
    often: dict[str, tuple[int, float]] = {}
    for check in checks:
        for name, one in check.features.items():
            count, largest = often.get(name, (0, 0.0))
            drifted = one.level is DriftLevel.DRIFT
            often[name] = (count + drifted, max(largest, one.effect if drifted else 0.0))
    return sorted(often, key=lambda name: (-often[name][0], -often[name][1]))


def _worst(checks: Sequence[CheckSummary]) -> list[str]:
    ever = {name for check in checks for name in check.drifted}
    return [name for name in _features(checks) if name in ever][:_LINES]


def _histories(checks: Sequence[CheckSummary]) -> str:
    lines = "\n".join(_history(checks, name) for name in _features(checks)[:_LISTED])
    table = (
        "<table><caption>Features, what drifted most often first</caption><thead><tr>"
        '<th scope="col">feature</th><th scope="col">now</th>'
        '<th scope="col" class="number">checks with drift</th><th scope="col">first</th>'
        '<th scope="col">last</th><th scope="col" class="number">largest effect</th>'
        '<th scope="col">what changed</th></tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table>"
    )
    return region("Features over time", table)


def _history(checks: Sequence[CheckSummary], name: str) -> str:
    seen = [(check.at, check.features[name]) for check in checks if name in check.features]
    drifted = [(at, one) for at, one in seen if one.level is DriftLevel.DRIFT]
    now = seen[-1][1].level.value
    first, last = (moment(drifted[at][0]) if drifted else "" for at in (0, -1))
    largest = f"{max(one.effect for _, one in drifted):.3g}" if drifted else ""
    reason = escaped(drifted[-1][1].reason) if drifted else ""
    return (
        f'<tr><th scope="row" class="name">{named(name)}</th>'
        f'<td><span class="level {now}">{now}</span></td>'
        f'<td class="number">{len(drifted)} of {len(seen)}</td>'
        f'<td class="time">{first}</td><td class="time">{last}</td>'
        f'<td class="number">{largest}</td><td>{reason}</td></tr>'
    )


def _card(checks: Sequence[CheckSummary], name: str) -> str:
    return f'<div class="card"><h3>{named(name)}</h3>{feature_line(checks, name, width=360)}</div>'


def _drawn(title: str, picture: str) -> str:
    return f"<h2>{title}</h2>{region(title, picture)}"


def _known(one: FeatureSummary) -> float:
    return math.nan if one.level is DriftLevel.INCONCLUSIVE else one.effect


def _largest(found: Sequence[FeatureSummary]) -> float:
    return max((x for x in map(_known, found) if math.isfinite(x)), default=math.nan)


def _labels(times: Sequence[float]) -> list[str]:
    """Days, or minutes where all is within a few days."""
    if not times:
        return []
    wanted = slice(0, 10) if times[-1] - times[0] > 3 * 86400.0 else slice(5, 16)
    return [moment(at)[wanted] for at in times]


def _ticks(times: Sequence[float], many: int) -> dict[float, str]:
    if not times:
        return {}
    span = times[-1] - times[0]
    at = [times[0] + span * (0.1 + 0.8 * step / (many - 1)) for step in range(many)]
    return dict(zip(at, _labels(at), strict=True))
