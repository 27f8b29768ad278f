import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.svg import (
    _ticks,
    bar_chart,
    bar_pair,
    escaped,
    grid,
    heat_map,
    histogram_pair,
    line_chart,
    step_chart,
)

NS = "{http://www.w3.org/2000/svg}"
NAN = math.nan
floats = st.floats(-1e9, 1e9) | st.just(NAN)


def parts(svg, tag):
    return ET.fromstring(svg).findall(f".//{NS}{tag}")


def texts(svg):
    return [element.text for element in parts(svg, "text")]


@given(st.dictionaries(st.text(min_size=1), st.lists(floats, min_size=1, max_size=9), max_size=4))
def test_any_series_gives_well_formed_text_without_nan(series):
    names = {re.sub(r"[^\x20-\uD7FF]", "", name): values for name, values in series.items()}
    for draw in (line_chart, step_chart):
        svg = draw(names, title="a < b & c")
        ET.fromstring(svg)
        assert "nan" not in "".join(p.get("d") for p in parts(svg, "path")).lower()


@given(st.floats(-1e6, 1e6), st.floats(1e-2, 1e6))
def test_ticks_are_round_inside_and_few(low, span):
    ticks = _ticks(low, low + span)
    assert 1 <= len(ticks) <= 11
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)
    assert ticks == sorted(ticks)


def test_a_gap_in_the_data_is_a_gap_in_the_line():
    path = parts(line_chart({"a": [1, 2, NAN, 3]}), "path")[-1].get("d")
    assert path.count("M") == 2
    assert path.count("L") == 1


def test_steps_hold_their_value_until_the_next():
    path = parts(step_chart({"version": [1, 2]}), "path")[-1].get("d")
    assert re.fullmatch(r"M\S+ \S+ H\S+ V\S+", path)


def test_points_lie_where_the_scale_puts_them():
    path = parts(line_chart({"a": [0.0, 1.0]}, x=[0, 10]), "path")[-1].get("d")
    (x0, y0), (x1, y1) = (map(float, p.split()) for p in re.split("[ML]", path)[1:])
    assert (x0, x1) == (56.0, 708.0)
    assert y0 > y1


def test_names_are_escaped_and_told():
    svg = bar_chart({"<age>": 0.5}, title="Effect", threshold=0.2)
    assert "<age>" in texts(svg)
    assert "Effect" in texts(svg)
    assert "0.2" in texts(svg)


def test_bars_beyond_the_threshold_have_another_colour():
    fills = [
        bar.get("fill") for bar in parts(bar_chart({"a": 0.1, "b": 0.3}, threshold=0.2), "rect")
    ]
    assert len(set(fills)) == 2
    assert len({bar.get("fill") for bar in parts(bar_chart({"a": 1, "b": 2}), "rect")}) == 1


def test_a_bar_without_a_value_is_left_out():
    assert len(parts(bar_chart({"a": NAN, "b": 1.0, "c": -1.0}), "rect")) == 2


def test_histograms_are_drawn_as_shares():
    svg = histogram_pair([0, 1, 2], [10, 30], [1, 3])
    titles = [t.text for t in parts(svg, "title")]
    assert titles == ["0 to 1: 25 % → 25 %", "1 to 2: 75 % → 75 %"]
    assert "reference" in texts(svg)
    ET.fromstring(histogram_pair([0, 1], [0], [0], title="empty"))


def test_an_outline_goes_up_over_each_bin_and_down_again():
    was, now = [p.get("d") for p in parts(histogram_pair([0, 1, 2], [1, 3], [3, 1]), "path")][-2:]
    steps = re.fullmatch(r"M56\.0 (\S+?)V(\S+?)H382\.0V(\S+?)H708\.0V(\S+?)Z", was).groups()
    down, low, high, again = map(float, steps)
    assert down == again > low > high, "y grows downwards"
    assert (down - low) * 3 == pytest.approx(down - high)
    assert not now.endswith("Z"), "what is, is outlined"


def test_pairs_are_told_apart_without_colours():
    for svg in (histogram_pair([0, 1], [1], [1]), bar_pair(["a"], [0.5], [1.0])):
        named = dict(zip(texts(svg)[-2:], parts(svg, "rect"), strict=False))
        assert list(named) == ["reference", "current"] or "reference" in texts(svg)
        styles = [r.get("fill") for r in parts(svg, "rect") if r.get("width") == "10"]
        assert styles == ["#0072b2", "none"]


def test_bars_of_a_pair_are_as_long_as_their_shares():
    svg = bar_pair(["a", "b" * 90], [0.5, NAN], [1.0, 0.25], description="what it shows")
    was, now, other, *_ = [float(r.get("width")) for r in parts(svg, "rect")]
    assert (was * 2, other * 4) == pytest.approx((now, now))
    assert {"50 %", "100 %", "25 %"} <= set(texts(svg))
    assert any(t.startswith("bbbb") and t.endswith("…") for t in texts(svg))
    assert parts(svg, "desc")[0].text == "what it shows"


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 4))
def test_many_cells_cost_few_bytes_and_their_names_do_not_touch(columns, rows):
    names = [f"2024-01-{i:02d}" for i in range(columns)]
    values = [[0.3 if i % 2 else NAN for i in range(columns)] for _ in range(rows)]
    svg = grid([f"row {i}" for i in range(rows)], names, values)
    assert len(svg) <= 2000 + rows * columns * 45 + 100 * (rows + columns)
    shown = [t for t in parts(svg, "text") if t.text in set(names)]
    centres = [float(t.get("x")) for t in shown]
    assert all(b - a >= 66 for a, b in pairwise(centres))


def test_cells_of_a_grid_are_as_dark_as_their_value_and_marked_ones_say_so():
    svg = grid(["a"], ["x", "y", "z"], [[0.0, 0.4, NAN]], marks={(0, 1): "<a>, y"})
    shades = {p.get("fill-opacity"): p.get("d") for p in parts(svg, "path")}
    assert {"0.00", "1.00"} <= set(shades)
    assert [t.text for t in parts(svg, "title")] == ["<a>, y"]
    assert "nan" not in svg.lower()


def test_text_from_data_is_text():
    assert escaped("<&>\"'") == "&lt;&amp;&gt;&quot;&#x27;"
    assert escaped("\x00\x1b\ud800\u202e\ufffe\x85") == "\ufffd" * 6
    assert escaped("a\tb\nç 日本 \U0001f600") == "a\tb\nç 日本 \U0001f600"


def boxes(svg):
    """Roughly where each text stands: left, right, top, bottom."""
    for element in parts(svg, "text"):
        wide = 6.6 * len(element.text)
        x, y = float(element.get("x")), float(element.get("y"))
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[element.get("text-anchor")]
        yield element.text, (left, left + wide, y - 9.0, y + 2.0)


@pytest.mark.parametrize("draw", [line_chart, step_chart])
@pytest.mark.parametrize("title", ["", "Quality", "A long title that goes on " * 3])
@pytest.mark.parametrize("y_label", ["", "Brier score", "mean absolute error of the estimate"])
def test_no_text_stands_on_another(draw, title, y_label):
    svg = draw({"a": [1.0, 2.0, 3.0], "another": [0.0, 1e-4, 5.0]}, title=title, y_label=y_label)
    found = list(boxes(svg))
    assert {title, y_label} - {""} <= {text for text, _ in found}
    for place, (text, (left, right, top, bottom)) in enumerate(found):
        for other, (left2, right2, top2, bottom2) in found[:place]:
            apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
            assert apart, (text, other)


def test_a_threshold_and_marks_are_drawn_and_told():
    svg = line_chart({"a": [0.1, 0.3]}, x=[5, 6], threshold=0.2, marks={6: "drift & more"})
    assert [t.text for t in parts(svg, "title")] == ["threshold: 0.2", "a", "drift & more"]
    ET.fromstring(line_chart({"a": []}, threshold=0.2, marks={}))


@pytest.mark.parametrize("top", [None, 0.4])
def test_cells_darken_with_their_value(top):
    svg = heat_map(["x"], ["a", "b", "c"], [[0.0, 0.4, NAN]], labels=[["", "!", ""]], top=top)
    opacity = [float(cell.get("fill-opacity")) for cell in parts(svg, "rect")]
    assert opacity == [0.0, 1.0, 0.0]
    assert "!" in texts(svg)


def test_axis_labels_and_units_are_shown():
    svg = line_chart({"a": [1, 2, 3]}, labels={0: "Jan", 2: "Mar"}, y_label="Brier")
    assert {"Jan", "Mar", "Brier"} <= set(texts(svg))


def test_nothing_to_draw_is_still_a_picture():
    ET.fromstring(line_chart({}))
    ET.fromstring(line_chart({"a": [NAN]}))


@pytest.mark.parametrize("width", [240, 360, 720])
def test_labels_of_the_axis_stay_within_the_picture(width):
    labels = {0.0: "2026-11-26 00:00", 5.0: "middle", 10.0: "2026-12-24 23:59"}
    svg = line_chart({"a": [1.0, 2.0]}, x=[0.0, 10.0], labels=labels, width=width)
    ends = {}
    for text in parts(svg, "text"):
        if text.text in labels.values():
            x, wide = float(text.get("x")), 6.2 * len(text.text)
            left = {"start": 0.0, "middle": wide / 2, "end": wide}[text.get("text-anchor")]
            ends[text.text] = (x - left, x - left + wide)
    assert len(ends) == 3
    assert min(low for low, _ in ends.values()) >= 0.0
    assert max(high for _, high in ends.values()) <= width


def test_a_point_without_neighbours_is_a_dot():
    path = parts(line_chart({"a": [NAN, 2, NAN, 3, 4]}), "path")[-1]
    assert path.get("d").count("h0") == 1
    assert path.get("stroke-linecap") == "round"
    assert "h0" in parts(line_chart({"a": [0.3]}, x=[7.0]), "path")[-1].get("d")
