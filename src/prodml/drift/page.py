"""A drift report as HTML: one page, no script, nothing to load, pictures in SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from prodml.drift.level import DriftLevel
from prodml.drift.picture import distances, moment, picture, statistics
from prodml.drift.ranking import Judged, priority, ranked
from prodml.drift.terminal import numbers_told
from prodml.svg import escaped

__all__ = ["HEAD", "STYLE", "named", "page", "region"]

# Conservative on purpose: no variables, no grid, nothing that old mail programs stumble over.
# Text has the reader's own colour; every other colour holds on white and on black.
STYLE: Final = """
.prodml-drift { font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif;
  max-width: 75rem; margin: 0 auto; padding: 0 .75rem; overflow-wrap: anywhere; }
.prodml-drift table { border-collapse: collapse; }
.prodml-drift caption { text-align: left; padding: .2rem 0; opacity: .75; }
.prodml-drift th, .prodml-drift td { text-align: left; vertical-align: top;
  padding: .3rem .6rem .3rem 0; border-bottom: 1px solid rgba(128, 128, 128, .35);
  background: none; }
.prodml-drift .number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.prodml-drift .wide { overflow-x: auto; max-width: 100%; }
.prodml-drift .wide table { width: 100%; min-width: 44rem; }
.prodml-drift .wide .name { min-width: 8rem; max-width: 18rem; }
.prodml-drift .level { border: 1px solid; border-radius: .6rem; padding: 0 .5rem;
  white-space: nowrap; }
.prodml-drift .drift { background: #b3261e; border-color: #b3261e; color: #fff; }
.prodml-drift .inconclusive { background: #7a5200; border-color: #7a5200; color: #fff; }
.prodml-drift .cards { font-size: 13px; }
.prodml-drift .card { display: inline-block; vertical-align: top; box-sizing: border-box;
  width: 24rem; max-width: 100%; margin: 0 .4rem .8rem 0; padding: .2rem .8rem .6rem;
  border: 1px solid rgba(128, 128, 128, .45); border-radius: .4rem; }
.prodml-drift .card h3 { font-size: 15px; margin: .5rem 0 .2rem; }
.prodml-drift .card p { margin: .2rem 0 .4rem; }
.prodml-drift .card table { width: 100%; font-size: 12px; }
.prodml-drift svg { width: 100%; height: auto; display: block; margin: .3rem 0; }
.prodml-drift a { color: inherit; }
.prodml-drift :focus-visible { outline: 2px solid #0072b2; outline-offset: 2px; }
@media print { .prodml-drift .card { break-inside: avoid; } }
"""
# Even if something slipped through: the page may load nothing and run nothing.
HEAD: Final = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><title>{title}</title></head><body>\n'
)
_NOTES: Final = 20
_FOOT: Final = (
    "<p>Ranked by verdict, then by priority = effect * importance * evidence. Effect is the "
    "share of rows that moved; importance is 1 unless it was given; evidence is how likely it "
    "is, at best, that something moved at all: 1 / (1 - e p log p) for adjusted p below 1/e, "
    "otherwise 0.5. In the pictures the reference is filled, current is outlined.</p>"
)


class _Report(Protocol):
    @property
    def headline(self) -> str: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def source(self) -> str: ...

    @property
    def importance(self) -> Mapping[str, float]: ...

    def items(self) -> Any: ...


def page(report: _Report, *, whole: bool = True, pictures: int = 60) -> str:
    """HTML of a report; not ``whole`` is a fragment for notebooks.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift([])
    >>> page(report, whole=False).startswith("<style>")
    True
    """
    rows: list[tuple[str, Any]] = ranked(dict(report.items()), report.importance)
    if not whole:
        rows = [*rows[:60]]
        drawn = [row for row in rows if row[1].level is not DriftLevel.NONE][:pictures]
    else:
        drawn = rows[:pictures]
    tag = "main" if whole else "div"
    left_out = len(report.items()) - len(drawn)
    parts = [
        f'<style>{STYLE}</style><{tag} class="prodml-drift">',
        f"<h1>Drift: {named(report.source)}</h1>" if whole else "",
        f"<p><strong>{escaped(report.headline)}</strong></p>",
        _noted(report.notes),
        _sentence(rows),
        _ranking(rows, report.importance, len(drawn) if whole else 0),
        "<h2>Reference and current</h2>" if whole and drawn else "",
        '<div class="cards">',
        *(_card(place, *row, whole=whole) for place, row in enumerate(drawn)),
        "</div>",
        f"<p>Not drawn: {left_out} of {len(report.items())} features.</p>" if left_out else "",
        _FOOT,
        f"</{tag}>",
    ]
    body = "\n".join(part for part in parts if part)
    if not whole:
        return body
    return f"{HEAD.format(title=escaped(report.headline))}{body}</body></html>\n"


def named(name: str) -> str:
    """A name from data, isolated from the direction of the text around it."""
    return f"<bdi>{escaped(name if len(name) <= 120 else f'{name[:119]}…')}</bdi>"


def region(label: str, table: str) -> str:
    """A table that scrolls by itself, by keyboard too, where the page is narrow."""
    return (
        f'<div class="wide" role="region" aria-label="{escaped(label)}" tabindex="0">{table}</div>'
    )


def _noted(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    told = "".join(f"<li>{escaped(note)}</li>" for note in notes[:_NOTES])
    more = f"<li>and {len(notes) - _NOTES} more</li>" if len(notes) > _NOTES else ""
    return f"<p>Before the verdicts are read:</p><ul>{told}{more}</ul>"


def _sentence(rows: Sequence[tuple[str, Judged]]) -> str:
    moved = [row for row in rows if row[1].level is DriftLevel.DRIFT][:3]
    told = "; ".join(f"{named(name)} ({escaped(verdict.reason)})" for name, verdict in moved)
    return f"<p>First to look at: {told}.</p>" if told else ""


def _ranking(
    rows: Sequence[tuple[str, Judged]], importance: Mapping[str, float], linked: int
) -> str:
    if not rows:
        return ""
    weighed = '<th scope="col" class="number">importance</th>' if importance else ""
    lines = "\n".join(
        _line(place, *row, importance, linked=place < linked) for place, row in enumerate(rows)
    )
    table = (
        "<table><caption>Features, what matters most first</caption><thead><tr>"
        '<th scope="col">feature</th><th scope="col">verdict</th>'
        '<th scope="col" class="number">effect</th><th scope="col" class="number">adjusted p</th>'
        f'{weighed}<th scope="col" class="number">priority</th>'
        '<th scope="col">what changed</th></tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table>"
    )
    return region("Features by priority", table)


def _line(
    place: int, name: str, verdict: Judged, importance: Mapping[str, float], *, linked: bool
) -> str:
    effect, p = numbers_told(verdict)
    weight = importance.get(name, 1.0)
    shown = f'<a href="#f{place}">{named(name)}</a>' if linked else named(name)
    ranks = f"{priority(verdict, weight):.3g}" if effect else ""
    cells = [effect, p, *([f"{weight:.3g}"] if importance else []), ranks]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return (
        f'<tr><th scope="row" class="name">{shown}</th><td>{_badge(verdict.level)}</td>{numbers}'
        f"<td>{escaped(verdict.reason)}</td></tr>"
    )


def _badge(level: DriftLevel) -> str:
    return f'<span class="level {level.value}">{level.value}</span>'


def _card(place: int, name: str, verdict: Any, *, whole: bool) -> str:
    anchor = f' id="f{place}"' if whole else ""
    far = distances(verdict)
    return (
        f'<div class="card"{anchor}><h3>{named(name)} {_badge(verdict.level)}</h3>'
        f"<p>{escaped(verdict.reason)}{_since(verdict)}</p>"
        f"{picture(name, verdict)}{statistics(verdict)}"
        f"{_aspects(verdict)}{f'<p>{far}</p>' if far else ''}</div>"
    )


def _since(verdict: Any) -> str:
    """When it began, if a monitor can tell."""
    began = getattr(verdict, "since", math.nan)
    return f"; since {moment(began)} UTC" if math.isfinite(began) else ""


def _aspects(verdict: Any) -> str:
    """Everything that was tested, where it was more than one thing."""
    found = getattr(verdict, "evidence", ())
    if len(found) < 2:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{escaped(item.aspect)}</th><td>{item.level.value}</td>'
        f'<td class="number">{numbers_told(item)[0]}</td>'
        f'<td class="number">{numbers_told(item)[1]}</td></tr>'
        for item in found
    )
    return (
        '<table><thead><tr><th scope="col">aspect</th><th scope="col">verdict</th>'
        '<th scope="col" class="number">effect</th><th scope="col" class="number">p</th></tr>'
        f"</thead><tbody>{lines}</tbody></table>"
    )
