"""A rollout's report: what was seen and decided, step by step, as data and as a page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from prodml import svg
from prodml.clock import utc
from prodml.rollout.analysis import Finding
from prodml.rollout.machine import RolloutPhase, RolloutState

__all__ = ["page", "step_told"]

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 1rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem;
  border-bottom: 1px solid rgba(128, 128, 128, .35); }
svg { width: 100%; max-width: 45rem; height: auto; display: block; margin: 1rem 0; }
.verdict { border-radius: .6rem; padding: 0 .5rem; white-space: nowrap;
  background: rgba(128, 128, 128, .25); }
.worse { background: #c0392b; color: #fff; }
.fine { background: #1e7d45; color: #fff; }
"""


def step_told(
    state: RolloutState, ended: float, findings: Mapping[str, Finding], decision: str
) -> dict[str, Any]:
    """A step as plain data: when, what each guard said, its numbers, what was decided.

    Examples
    --------
    >>> state = RolloutState(version="v2", stable="v1", steps=(0.1,))
    >>> step_told(state, 60.0, {}, "shadow")["decision"]
    'shadow'
    """
    return {
        "phase": state.phase.value,
        "share": state.share,
        "began": state.since,
        "ended": ended,
        "decision": decision,
        "guards": {
            name: {"verdict": f.verdict.value, "reason": f.reason} | dict(f.numbers)
            for name, f in findings.items()
        },
    }


def page(report: Mapping[str, Any]) -> str:
    """A report as one HTML page: no script, nothing to load, all text escaped.

    Examples
    --------
    >>> from prodml.rollout import Rollout
    >>> text = page(Rollout("<b>", "v1").to_dict())
    >>> "&lt;b&gt;" in text, "<script" in text
    (True, False)
    """
    title = f"Rollout of {report['version']} over {report['stable']}"
    told = f"{report['phase']}, share {_percent(report['share'])}, at {_time(report['at'])}"
    rows = "\n".join(map(_step, report["steps"]))
    facts = "\n".join(
        f"<tr><td>{_time(fact['at'])}</td><td>{_text(fact['fact'])}</td>"
        f"<td>{_text(fact.get('reason', ''))}</td></tr>"
        for fact in report["facts"]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{_text(title)}</h1><p>{_text(told)}. {_text(_why(report))}</p>\n"
        f"{_shares(report)}\n{_evidence(report['findings'])}\n"
        f"<h2>Steps</h2>\n{_table(('step', 'from', 'to', 'decision', 'guards'), rows)}\n"
        f"<h2>Facts</h2>\n{_table(('at', 'fact', 'reason'), facts)}\n</body></html>\n"
    )


def _why(report: Mapping[str, Any]) -> str:
    return f"Holding: {report['holding']}" if report["holding"] else str(report["reason"])


def _shares(report: Mapping[str, Any]) -> str:
    """The challenger's share over time; the last step reaches to the report's time."""
    steps = report["steps"]
    if not steps or steps[0]["phase"] == RolloutPhase.PENDING.value:
        return ""
    start = steps[0]["began"]
    hours = [*((step["began"] - start) / 3600.0 for step in steps), (report["at"] - start) / 3600.0]
    shares = [*(step["share"] for step in steps), report["share"]]
    return svg.step_chart({"share of the challenger": shares}, x=hours, title="Share by hour")


def _evidence(findings: Mapping[str, Mapping[str, Any]]) -> str:
    """How far each guard is on the way to calling the challenger worse."""
    shown = {name: max(0.0, found.get("evidence", 0.0)) for name, found in findings.items()}
    return svg.bar_chart(shown, title="Evidence of harm (1 rolls back)", threshold=1.0)


def _step(step: Mapping[str, Any]) -> str:
    guards = "".join(_guard(name, found) for name, found in step["guards"].items())
    return (
        f"<tr><td>{_text(step['phase'])} {_percent(step['share'])}</td>"
        f"<td>{_time(step['began'])}</td><td>{_time(step['ended'])}</td>"
        f"<td>{_text(step['decision'])}</td><td>{guards}</td></tr>"
    )


def _guard(name: str, found: Mapping[str, Any]) -> str:
    verdict = _text(found["verdict"])
    return (
        f'<div><span class="verdict {verdict}">{verdict}</span> {_text(name)}: '
        f"{_text(found['reason'])}</div>"
    )


def _table(heads: Sequence[str], rows: str) -> str:
    told = "".join(f"<th>{head}</th>" for head in heads)
    return f"<table><thead><tr>{told}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _percent(share: float) -> str:
    return f"{100.0 * share:g} %"


def _time(at: float) -> str:
    return f"{utc(at):%Y-%m-%d %H:%M:%S} UTC"


def _text(value: object) -> str:
    return escape(str(value))
