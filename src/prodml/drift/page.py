"""A drift report as HTML: one page, no script, pictures in SVG."""

from collections.abc import Sequence
from html import escape

from prodml import svg
from prodml.drift.evidence import percent
from prodml.drift.feature import FeatureDrift, Profile
from prodml.drift.level import DriftLevel

__all__ = ["page"]

_STYLE = """
.prodml-drift { font: 14px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 1rem auto; }
.prodml-drift table { border-collapse: collapse; width: 100%; }
.prodml-drift th, .prodml-drift td { text-align: left; vertical-align: top; padding: .4rem .6rem;
  border-bottom: 1px solid rgba(128, 128, 128, .35); }
.prodml-drift svg { width: 22rem; height: auto; }
.prodml-drift .levels td, .prodml-drift .levels th { padding: 0 .4rem; font-size: 12px; }
.prodml-drift td.number { text-align: right; font-variant-numeric: tabular-nums; }
.prodml-drift .level { border-radius: .6rem; padding: 0 .5rem; white-space: nowrap; }
.prodml-drift .drift { background: #c0392b; color: #fff; }
.prodml-drift .inconclusive { background: #b7791f; color: #fff; }
.prodml-drift .negligible, .prodml-drift .none { background: rgba(128, 128, 128, .25); }
"""
_HEAD = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
    'content="light dark"><title>{title}</title></head><body>\n'
)


def page(headline: str, features: Sequence[FeatureDrift], *, whole: bool = True) -> str:
    """HTML of a report; not ``whole`` is a fragment for notebooks.

    Examples
    --------
    >>> page("nothing", []).count("<table>")
    1
    """
    rows = "\n".join(_row(feature) for feature in features)
    body = (
        f'<style>{_STYLE}</style><div class="prodml-drift"><h1>Drift</h1>'
        f"<p>{escape(headline)}</p>\n<table><thead><tr><th>feature</th><th>verdict</th>"
        f"<th>effect</th><th>adjusted p</th><th>what changed</th><th>picture</th></tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table>\n<p>Effect is the share of rows that moved; "
        f"reference in blue, current in orange.</p></div>"
    )
    return f"{_HEAD.format(title=escape(headline))}{body}</body></html>\n" if whole else body


def _row(feature: FeatureDrift) -> str:
    level = feature.level.value
    tested = feature.level is not DriftLevel.INCONCLUSIVE
    p_value = f"{feature.p_adjusted:.2g}" if tested else ""
    effect = f"{feature.effect:.3f}" if tested else ""
    return (
        f"<tr><td>{escape(feature.name)}</td>"
        f'<td><span class="level {level}">{level}</span></td>'
        f'<td class="number">{effect}</td><td class="number">{p_value}</td>'
        f"<td>{escape(feature.reason)}</td><td>{_picture(feature)}</td></tr>"
    )


def _picture(feature: FeatureDrift) -> str:
    profile = feature.profile
    if profile is None:
        return ""
    if not profile.edges:
        return _levels(profile)
    return svg.histogram_pair(profile.edges, profile.reference, profile.current)


def _levels(profile: Profile) -> str:
    """Two horizontal bars a level would need a legend in every row: a small table reads better."""
    rows = "".join(
        f"<tr><td>{escape(label)}</td><td>{percent(old)}</td><td>{percent(new)}</td></tr>"
        for label, old, new in zip(profile.labels, profile.reference, profile.current, strict=True)
    )
    return (
        f'<table class="levels"><tr><th></th><th>reference</th><th>current</th></tr>{rows}</table>'
    )
