"""Small plots as text: one ``<svg>`` each, no script, no font, no dependency.

For reports that must open from a mail.  Colours hold in light and dark; marks have a
``<title>`` that browsers show on hover, and each picture a name and, where it is given, a
description that screen readers read.  Missing values (NaN) leave a gap.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = [
    "bar_chart",
    "bar_pair",
    "escaped",
    "grid",
    "heat_map",
    "histogram_pair",
    "line_chart",
    "step_chart",
]

# Okabe and Ito (2008): told apart by colour-blind readers as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 30, 46
_POINTED = 600
# Told apart without colours too: what was is filled, what is is outlined.
_WAS = f'fill="{_COLOURS[0]}" fill-opacity="0.5" stroke="{_COLOURS[0]}" stroke-width=".8"'
_IS = f'fill="none" stroke="{_COLOURS[1]}" stroke-width="1.6"'


# What XML 1.0 cannot hold, and what turns the direction of the text around it.
_UNFIT: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\u2028-\u202e\u2066-\u2069]"
)


def escaped(text: object) -> str:
    r"""``text`` as it may stand in HTML and SVG, between tags or in a quoted attribute.

    Control characters, lone surrogates and marks that turn the direction of the text around
    them become U+FFFD: data must neither break a page nor rearrange it.

    Examples
    --------
    >>> escaped('<b title="x">&')
    '&lt;b title=&quot;x&quot;&gt;&amp;'
    >>> ascii(escaped("a\x1b[31m"))
    "'a\\ufffd[31m'"
    """
    return escape(_UNFIT.sub("\ufffd", str(text)))


@dataclass(frozen=True, slots=True)
class _Frame:
    """Size of a picture, and how far from its sides the plot begins."""

    width: float = _WIDTH
    height: float = _HEIGHT
    left: float = _LEFT
    right: float = _RIGHT
    top: float = _TOP
    bottom: float = _BOTTOM

    def across(self, low: float, high: float) -> "_Scale":
        """The x axis."""
        return _Scale(low, high, self.left, self.width - self.right)

    def upward(self, low: float, high: float) -> "_Scale":
        """The y axis."""
        return _Scale(low, high, self.height - self.bottom, self.top)


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
    threshold: float | None = None,
    marks: Mapping[float, str] | None = None,
    description: str = "",
    width: float = _WIDTH,
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
    threshold
        Height of a dashed line.
    marks
        What happened, by position: a triangle above the plot, with the text on hover.
    description
        What the picture shows, for those who do not see it.
    width
        In user units of SVG, eleven of which are the height of the letters.

    Examples
    --------
    >>> line_chart({"brier": [0.2, 0.1, float("nan"), 0.1]}, title="Quality")[:4]
    '<svg'
    """
    frame = _framed(width, title, y_label)
    xs, parts = _lines(series, x, frame, _path, (y_label, labels, threshold))
    parts += [_mark(xs(at), frame.top, told) for at, told in (marks or {}).items()]
    return _svg(parts, title, frame, description)


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
    frame = _framed(_WIDTH, title, y_label)
    _, parts = _lines(series, x, frame, _steps, (y_label, labels, None))
    return _svg(parts, title, frame)


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
    return _svg(parts, title, _Frame(height=height))


def histogram_pair(
    edges: Sequence[float],
    reference: Sequence[float],
    current: Sequence[float],
    *,
    title: str = "",
    labels: Mapping[float, str] | None = None,
    description: str = "",
    width: float = _WIDTH,
    height: float = _HEIGHT,
) -> str:
    """Two histograms over the same bins: what was, filled, and what is, outlined.

    Parameters
    ----------
    edges
        Bin edges, one more than there are bins.
    reference, current
        Counts or shares by bin; each is drawn as shares of its own sum.
    labels
        Text at positions of the x axis, instead of numbers.
    description
        What the picture shows, for those who do not see it.
    width, height
        In user units of SVG, eleven of which are the height of the letters.

    Examples
    --------
    >>> histogram_pair([0, 1, 2], [3, 1], [1, 3])[:4]
    '<svg'
    """
    old, new = _shares(reference), _shares(current)
    frame = _Frame(width, height, top=_TOP if title else 10)
    xs = frame.across(edges[0], edges[-1])
    ys = frame.upward(0.0, max([*old, *new, 1e-12]))
    ticks = max(2, int(height / 50))
    parts = [
        *_y_axis(ys, frame, ticks),
        *_x_axis(xs, frame, labels),
        _pair_legend(frame, frame.left),
        f'<path d="{_outline(edges, old, xs, ys)}Z" {_WAS}/>',
        f'<path d="{_outline(edges, new, xs, ys)}" {_IS}/>',
        _hover(edges, [old, new], xs, frame),
    ]
    return _svg(parts, title, frame, description)


def bar_pair(
    labels: Sequence[str],
    reference: Sequence[float],
    current: Sequence[float],
    *,
    title: str = "",
    description: str = "",
    width: float = _WIDTH,
) -> str:
    """Two bars a label: what was, filled, and what is, outlined.

    Parameters
    ----------
    labels
        Names of the levels.
    reference, current
        Shares by level, in [0, 1]; NaN leaves a bar out.
    description
        What the picture shows, for those who do not see it.
    width
        In user units of SVG, eleven of which are the height of the letters.

    Examples
    --------
    >>> bar_pair(["basic", "pro"], [0.6, 0.4], [0.2, 0.8]).count("<rect")
    6
    """
    row, top = 26, _TOP if title else 6
    longest = int((width * 0.38) / 6.2)
    frame = _Frame(width, top + row * len(labels) + 30, left=width * 0.4, right=46)
    xs = frame.across(0.0, max([v for v in (*reference, *current) if math.isfinite(v)] or [1.0]))
    parts: list[str] = []
    for place, (label, *pair) in enumerate(zip(labels, reference, current, strict=True)):
        y = top + row * place
        told = label if len(label) <= longest else f"{label[: longest - 1]}…"
        parts.append(_text(frame.left - 8, y + 15, told, anchor="end"))
        for at, (share, style) in enumerate(zip(pair, (_WAS, _IS), strict=True)):
            if math.isfinite(share):
                x1, y1 = xs(share), y + 2 + 11 * at
                parts.append(
                    f'<rect x="{frame.left:.1f}" y="{y1}" width="{x1 - frame.left:.1f}" '
                    f'height="9" {style}/>{_text(x1 + 5, y1 + 9, f"{100 * share:.3g} %")}'
                )
    parts.append(_pair_legend(frame, 8.0))
    return _svg(parts, title, frame, description)


def grid(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    marks: Mapping[tuple[int, int], str] | None = None,
    title: str = "",
    description: str = "",
    top: float | None = None,
    width: float = _WIDTH,
) -> str:
    """A :func:`heat_map` for many cells: a few bytes each, and text at the marked ones only.

    Parameters
    ----------
    rows, columns
        Names; so many of the columns' as have room.
    values
        By row and column; NaN where nothing is known, which is drawn as a dot.
    marks
        What happened, by (row, column): a frame and a diagonal, with the text on hover.
    top
        Value of the darkest cell, by default the largest.
    description
        What the picture shows, for those who do not see it.

    Examples
    --------
    >>> svg = grid(["age"], ["Mon", "Tue"], [[0.0, 0.3]], marks={(0, 1): "age, Tue: 0.3"})
    >>> "age, Tue: 0.3" in svg
    True
    """
    row, head = 18, 22 + (_TOP if title else 0)
    frame = _Frame(width, head + row * len(rows) + 8, left=min(170.0, width * 0.3), right=8)
    step = (width - frame.left - frame.right) / max(len(columns), 1)
    longest = int((frame.left - 12) / 6.2)
    parts = _column_names(columns, frame, step, head - 8)
    for line, name in enumerate(rows):
        told = name if len(name) <= longest else f"{name[: longest - 1]}…"
        parts.append(_text(frame.left - 8, head + row * line + 13, told, anchor="end"))
    darkest = top or max([v for line in values for v in line if math.isfinite(v)], default=1.0)
    shades: dict[str, list[str]] = {}
    for line, cells in enumerate(values):
        for place, value in enumerate(cells):
            at = f"M{frame.left + step * place:.1f} {head + row * line}"
            shades.setdefault(_shade(value, darkest), []).append(at)
    box = f"h{max(step - 0.5, 0.5):.1f}v{row - 2}h-{max(step - 0.5, 0.5):.1f}z"
    parts += [_shaded(shade, at, box, row) for shade, at in sorted(shades.items())]
    corners = {
        f"M{frame.left + step * place:.1f} {head + row * line}": told
        for (line, place), told in (marks or {}).items()
    }
    parts.append(_framed_cells(corners, f"{box}l{max(step - 0.5, 0.5):.1f} {row - 2}"))
    return _svg(parts, title, frame, description)


def _framed_cells(corners: Mapping[str, str], box: str) -> str:
    """Frames with their texts; without, where there are more than anybody points at."""
    if len(corners) > _POINTED:
        drawn = f'<path d="{"".join(at + box for at in corners)}"/>'
    else:
        drawn = "".join(
            f'<path d="{at}{box}"><title>{escaped(told)}</title></path>'
            for at, told in corners.items()
        )
    return f'<g fill-opacity="0" stroke="currentColor">{drawn}</g>'


def _column_names(columns: Sequence[str], frame: _Frame, step: float, y: float) -> list[str]:
    """As many as stand beside each other without touching."""
    longest = max(map(len, columns), default=1)
    every = max(1, math.ceil((longest * 6.6 + 8) / step))
    return [
        _text(frame.left + step * (place + 0.5), y, name, anchor="middle")
        for place, name in enumerate(columns)
        if place % every == 0 and frame.left + step * (place + 0.5) + longest * 3.3 <= frame.width
    ]


def _shade(value: float, darkest: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{round(20 * min(max(value / (darkest or 1.0), 0.0), 1.0)) / 20:.2f}"


def _shaded(shade: str, at: Sequence[str], box: str, row: int) -> str:
    if not shade:
        dots = "".join(f"{one}m1 {row / 2 - 1:.0f}h2" for one in at)
        return f'<path d="{dots}" stroke="#888" fill="none"/>'
    return (
        f'<path d="{"".join(one + box for one in at)}" fill="{_COLOURS[1]}" '
        f'fill-opacity="{shade}" stroke="#8884" stroke-width=".5"/>'
    )


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
    return _svg(parts, title, _Frame(height=_TOP + 16 + row * len(rows) + 12))


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


def _framed(width: float, title: str, y_label: str) -> _Frame:
    # The label of the axis stands under the title, not on it.
    return _Frame(width, top=_TOP + (16 if title and y_label else 0))


def _lines(
    series: Mapping[str, Sequence[float]],
    x: Sequence[float] | None,
    frame: _Frame,
    draw: Callable[[Sequence[tuple[float, float]]], str],
    beside: tuple[str, Mapping[float, str] | None, float | None],
) -> tuple[_Scale, list[str]]:
    y_label, labels, threshold = beside
    longest = max((len(values) for values in series.values()), default=0)
    positions = list(range(longest)) if x is None else list(x)
    shown = [*series.values(), [math.nan if threshold is None else threshold]]
    finite = [v for values in shown for v in values if math.isfinite(v)] or [0.0, 1.0]
    margin = (max(finite) - min(finite)) * 0.05 or 1.0
    xs = frame.across(min(positions, default=0), max(positions, default=1))
    ys = frame.upward(min(finite) - margin, max(finite) + margin)
    parts = [*_y_axis(ys, frame), *_x_axis(xs, frame, labels), _legend(list(series), frame)]
    if y_label:
        parts.append(_text(frame.left, frame.top - 6, y_label))
    if threshold is not None:
        y = ys(threshold)
        parts.append(
            f'<path d="M{frame.left:.1f} {y:.1f} H{frame.width - frame.right:.1f}" fill="none" '
            f'stroke="currentColor" stroke-dasharray="4 3">{_tip("threshold", threshold)}</path>'
        )
    for place, (name, values) in enumerate(series.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        points = [(xs(at), ys(v)) for at, v in zip(positions, values, strict=False)]
        drawn = draw(points)
        ends = ' stroke-linecap="round"' if "h0" in drawn else ""
        parts.append(
            f'<path d="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8"{ends}>'
            f"<title>{escaped(name)}</title></path>"
        )
    return xs, parts


def _mark(x: float, y: float, told: str) -> str:
    return (
        f'<path d="M{x - 4:.1f} {y - 6:.1f}h8l-4 7z" fill="{_COLOURS[1]}">'
        f"<title>{escaped(told)}</title></path>"
    )


def _outline(edges: Sequence[float], shares: Sequence[float], xs: _Scale, ys: _Scale) -> str:
    """Up, over the bins, and down again."""
    steps = [
        f"V{ys(share):.1f}H{xs(high):.1f}" for high, share in zip(edges[1:], shares, strict=True)
    ]
    return f"M{xs(edges[0]):.1f} {ys(0.0):.1f}{''.join(steps)}V{ys(0.0):.1f}"


def _hover(
    edges: Sequence[float], pair: Sequence[Sequence[float]], xs: _Scale, frame: _Frame
) -> str:
    """A column without colour over every bin, which tells both shares."""
    y, height = frame.top, frame.height - frame.bottom - frame.top
    bins: list[str] = []
    for low, high, old, new in zip(edges[:-1], edges[1:], *pair, strict=True):
        told = f"{_number(low)} to {_number(high)}: {100 * old:.3g} % → {100 * new:.3g} %"
        bins.append(
            f'<rect x="{xs(low):.1f}" y="{y:g}" width="{xs(high) - xs(low):.1f}" '
            f'height="{height:g}"><title>{told}</title></rect>'
        )
    return f'<g fill-opacity="0">{"".join(bins)}</g>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return _drawn(points, "L{0:.1f} {1:.1f}")


def _steps(points: Sequence[tuple[float, float]]) -> str:
    return _drawn(points, "H{0:.1f} V{1:.1f}")


def _drawn(points: Sequence[tuple[float, float]], onward: str) -> str:
    told, drawing = list[str](), False
    for place, (x, y) in enumerate(points):
        if math.isfinite(y):
            told.append((onward if drawing else "M{0:.1f} {1:.1f}").format(x, y))
            alone = not drawing and not any(math.isfinite(v) for _, v in points[place + 1 :][:1])
            # A line of no length is a dot, since its ends are round.
            told += ["h0"] if alone else []
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


def _y_axis(scale: _Scale, frame: _Frame, wanted: int = 5) -> list[str]:
    parts: list[str] = []
    for tick in _ticks(scale.low, scale.high, wanted):
        y = scale(tick)
        parts.append(_rule(frame.left, y, frame.width - frame.right, y))
        parts.append(_text(frame.left - 6, y + 4, _number(tick), anchor="end"))
    return parts


def _x_axis(scale: _Scale, frame: _Frame, labels: Mapping[float, str] | None) -> list[str]:
    wanted = max(2, int(frame.width / 90))
    named = labels or {tick: _number(tick) for tick in _ticks(scale.low, scale.high, wanted)}
    y = frame.height - frame.bottom + 16
    return [_within(scale(at), y, label, frame) for at, label in named.items()]


def _within(x: float, y: float, text: str, frame: _Frame) -> str:
    """Under ``x``, or as near as the picture is wide."""
    half = 3.3 * len(text)
    if x + half > frame.width:
        return _text(frame.width - 1, y, text, anchor="end")
    return _text(max(x, half), y, text, anchor="middle")


def _legend(names: Sequence[str], frame: _Frame) -> str:
    told, x = list[str](), frame.left
    for place, name in enumerate(names):
        colour = _COLOURS[place % len(_COLOURS)]
        y = frame.height - 12
        told.append(f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" fill="{colour}"/>')
        told.append(_text(x + 14, y, name))
        x += 28 + 6.6 * len(name)
    return "".join(told)


def _pair_legend(frame: _Frame, x: float) -> str:
    y = frame.height - 12
    return (
        f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" {_WAS}/>'
        f"{_text(x + 14, y, 'reference')}"
        f'<rect x="{x + 88:.0f}" y="{y - 9:.0f}" width="10" height="10" {_IS}/>'
        f"{_text(x + 102, y, 'current')}"
    )


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1.0
    return [count / total for count in counts]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _tip(name: str, value: float) -> str:
    return f"<title>{escaped(name)}: {_number(value)}</title>"


def _rule(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path d="M{x0:.1f} {y0:.1f} L{x1:.1f} {y1:.1f}" stroke="#8884" fill="none"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">'
        f"{escaped(text)}</text>"
    )


def _svg(parts: Sequence[str], title: str, frame: _Frame, description: str = "") -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width:g} {frame.height:.0f}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="11">'
    )
    name = f"<title>{escaped(title)}</title>" if title else ""
    told = f"<desc>{escaped(description)}</desc>" if description else ""
    shown = _text(_LEFT, 16, title).replace("<text", '<text font-weight="bold"') if title else ""
    return head + name + told + shown + "".join(parts) + "</svg>"
