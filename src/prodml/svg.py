"""Small plots as text: one ``<svg>`` each, no script, no font, no dependency.

For reports that must open from a mail.  Colours hold in light and dark; every mark has a
``<title>`` that browsers show on hover and screen readers read.  Missing values (NaN) leave a
gap.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["bar_chart", "heat_map", "histogram_pair", "line_chart", "step_chart"]

# Okabe and Ito (2008): told apart by colour-blind readers as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 30, 46


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps data from ``low``..``high`` to pixels from ``start``..``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def line_chart(
    series: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    title: str = "",
    y_label: str = "",
    labels: Mapping[float, str] | None = None,
) -> str:
    """Lines over a common axis.

    Parameters
    ----------
    series
        Values by name; all of one length.
    x
        Positions, by default 0, 1, 2, ...
    labels
        Text at positions of the x axis, instead of numbers.

    Examples
    --------
    >>> line_chart({"brier": [0.2, 0.1, float("nan"), 0.1]}, title="Quality")[:4]
    '<svg'
    """
    return _lines(series, x, title=title, y_label=y_label, labels=labels, draw=_path)


def step_chart(
    series: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    title: str = "",
    y_label: str = "",
    labels: Mapping[float, str] | None = None,
) -> str:
    """:func:`line_chart` of values that hold until the next one.

    Examples
    --------
    >>> "H" in step_chart({"version": [1, 1, 2, 3]})
    True
    """
    return _lines(series, x, title=title, y_label=y_label, labels=labels, draw=_steps)


def bar_chart(
    values: Mapping[str, float], *, title: str = "", threshold: float | None = None
) -> str:
    """Horizontal bars, one a name, with a line at ``threshold``.

    Examples
    --------
    >>> bar_chart({"age": 0.3, "fare": 0.1}, threshold=0.2).count("<rect")
    2
    """
    row, left = 22, 150
    height = _TOP + row * len(values) + 26
    finite = [v for v in values.values() if math.isfinite(v)]
    top = max([*finite, threshold or 0.0, 1e-12])
    scale = _Scale(min([*finite, 0.0]), top, left, _WIDTH - 70)
    parts: list[str] = []
    for place, (name, value) in enumerate(values.items()):
        y = _TOP + row * place
        parts.append(_text(left - 8, y + 14, name, anchor="end"))
        if math.isfinite(value):
            beyond = threshold is not None and value >= threshold
            x0, x1 = sorted((scale(0.0), scale(value)))
            parts.append(
                f'<rect x="{x0:.1f}" y="{y + 3}" width="{x1 - x0:.1f}" height="{row - 6}" '
                f'fill="{_COLOURS[1 if beyond else 0]}">{_tip(name, value)}</rect>'
            )
            parts.append(_text(x1 + 6, y + 14, _number(value)))
    if threshold is not None:
        at = scale(threshold)
        parts.append(_rule(at, _TOP - 4, at, height - 22))
        parts.append(_text(at, height - 8, _number(threshold), anchor="middle"))
    return _svg(parts, title, height)


def histogram_pair(
    edges: Sequence[float],
    reference: Sequence[float],
    current: Sequence[float],
    *,
    title: str = "",
) -> str:
    """Two histograms over the same bins: what was, filled, and what is, outlined.

    Parameters
    ----------
    edges
        Bin edges, one more than there are bins.
    reference, current
        Counts or shares by bin; each is drawn as shares of its own sum.

    Examples
    --------
    >>> histogram_pair([0, 1, 2], [3, 1], [1, 3])[:4]
    '<svg'
    """
    heights = [_shares(reference), _shares(current)]
    top = max([*heights[0], *heights[1], 1e-12])
    xs = _Scale(edges[0], edges[-1], _LEFT, _WIDTH - _RIGHT)
    ys = _Scale(0.0, top, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_y_axis(ys), *_x_axis(xs, None), _legend(["reference", "current"])]
    styles = (
        f'fill="{_COLOURS[0]}" fill-opacity="0.35"',
        f'fill="none" stroke="{_COLOURS[1]}" stroke-width="1.5"',
    )
    for shares, style in zip(heights, styles, strict=True):
        for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True):
            parts.append(
                f'<rect x="{xs(low):.1f}" y="{ys(share):.1f}" width="{xs(high) - xs(low):.1f}" '
                f'height="{ys(0.0) - ys(share):.1f}" {style}>'
                f"{_tip(f'{_number(low)} to {_number(high)}', share)}</rect>"
            )
    return _svg(parts, title, _HEIGHT)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    title: str = "",
    labels: Sequence[Sequence[str]] | None = None,
    top: float | None = None,
) -> str:
    """Cells by row and column, darker for more; ``top`` is the value of the darkest.

    Examples
    --------
    >>> heat_map(["age"], ["Jan", "Feb"], [[0.0, 0.3]]).count("<rect")
    2
    """
    left, row = 120, 20
    width = (_WIDTH - left - _RIGHT) / max(len(columns), 1)
    finite = [v for line in values for v in line if math.isfinite(v)]
    darkest = max([top or 0.0, 1e-12]) if top else max([*finite, 1e-12])
    parts = [
        _text(left + width * (place + 0.5), _TOP + 8, name, anchor="middle")
        for place, name in enumerate(columns)
    ]
    for line, name in enumerate(rows):
        y = _TOP + 16 + row * line
        parts.append(_text(left - 8, y + 14, name, anchor="end"))
        for place, value in enumerate(values[line]):
            label = labels[line][place] if labels is not None else ""
            cell = (left + width * place, y, width, row)
            where = f"{name}, {columns[place]}"
            parts += _cell(cell, value, darkest, label, where)
    return _svg(parts, title, _TOP + 16 + row * len(rows) + 12)


def _cell(
    box: tuple[float, float, float, float], value: float, darkest: float, label: str, where: str
) -> list[str]:
    x, y, width, height = box
    share = min(max(value / darkest, 0.0), 1.0) if math.isfinite(value) else 0.0
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height - 1:.1f}" ',
        f'fill="{_COLOURS[1]}" fill-opacity="{share:.2f}" stroke="#8884">',
        f"{_tip(where, value)}</rect>",
    ]
    if label:
        parts.append(_text(x + width / 2, y + height - 6, label, anchor="middle"))
    return parts


def _lines(
    series: Mapping[str, Sequence[float]],
    x: Sequence[float] | None,
    *,
    title: str,
    y_label: str,
    labels: Mapping[float, str] | None,
    draw: Callable[[Sequence[tuple[float, float]]], str],
) -> str:
    longest = max((len(values) for values in series.values()), default=0)
    positions = list(range(longest)) if x is None else list(x)
    finite = [v for values in series.values() for v in values if math.isfinite(v)] or [0.0, 1.0]
    margin = (max(finite) - min(finite)) * 0.05 or 1.0
    xs = _Scale(min(positions, default=0), max(positions, default=1), _LEFT, _WIDTH - _RIGHT)
    ys = _Scale(min(finite) - margin, max(finite) + margin, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_y_axis(ys), *_x_axis(xs, labels), _legend(list(series))]
    if y_label:
        parts.append(_text(_LEFT, _TOP - 6, y_label))
    for place, (name, values) in enumerate(series.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        points = [(xs(at), ys(v)) for at, v in zip(positions, values, strict=False)]
        parts.append(
            f'<path d="{draw(points)}" fill="none" stroke="{colour}" stroke-width="1.8">'
            f"<title>{escape(name)}</title></path>"
        )
    return _svg(parts, title, _HEIGHT)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return _drawn(points, "L{0:.1f} {1:.1f}")


def _steps(points: Sequence[tuple[float, float]]) -> str:
    return _drawn(points, "H{0:.1f} V{1:.1f}")


def _drawn(points: Sequence[tuple[float, float]], onward: str) -> str:
    told, drawing = list[str](), False
    for x, y in points:
        if math.isfinite(y):
            told.append((onward if drawing else "M{0:.1f} {1:.1f}").format(x, y))
        # A gap ends the line; what follows begins a new one.
        drawing = math.isfinite(y)
    return " ".join(told)


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round positions between ``low`` and ``high``: 1, 2 or 5 times a power of ten apart."""
    span = high - low
    if not span > 0.0:
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _y_axis(scale: _Scale) -> list[str]:
    parts: list[str] = []
    for tick in _ticks(scale.low, scale.high):
        y = scale(tick)
        parts.append(_rule(_LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(_text(_LEFT - 6, y + 4, _number(tick), anchor="end"))
    return parts


def _x_axis(scale: _Scale, labels: Mapping[float, str] | None) -> list[str]:
    named = labels or {tick: _number(tick) for tick in _ticks(scale.low, scale.high, 8)}
    return [
        _text(scale(at), _HEIGHT - _BOTTOM + 16, label, anchor="middle")
        for at, label in named.items()
    ]


def _legend(names: Sequence[str]) -> str:
    told, x = list[str](), float(_LEFT)
    for place, name in enumerate(names):
        colour = _COLOURS[place % len(_COLOURS)]
        y = _HEIGHT - 12
        told.append(f'<rect x="{x:.0f}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        told.append(_text(x + 14, y, name))
        x += 28 + 6.6 * len(name)
    return "".join(told)


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1.0
    return [count / total for count in counts]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _tip(name: str, value: float) -> str:
    return f"<title>{escape(name)}: {_number(value)}</title>"


def _rule(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path d="M{x0:.1f} {y0:.1f} L{x1:.1f} {y1:.1f}" stroke="#8884" fill="none"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">'
        f"{escape(text)}</text>"
    )


def _svg(parts: Sequence[str], title: str, height: float) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="11">'
    )
    name = f"<title>{escape(title)}</title>" if title else ""
    shown = _text(_LEFT, 16, title).replace("<text", '<text font-weight="bold"') if title else ""
    return head + name + shown + "".join(parts) + "</svg>"
