import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.svg import _ticks, bar_chart, heat_map, histogram_pair, line_chart, step_chart

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
    assert titles.count("0 to 1: 0.25") == 2
    assert "reference" in texts(svg)
    ET.fromstring(histogram_pair([0, 1], [0], [0], title="empty"))


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
