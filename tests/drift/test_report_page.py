"""The page: nothing from data runs, nothing is loaded, everyone can read it."""

import re
import xml.etree.ElementTree as ET
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.drift import DriftDetector, DriftMonitor, DriftReport, DriftTimeline
from prodml.events import Stream
from prodml.testing import ManualClock

HOSTILE = [
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "javascript:alert(1)",
    "&lt;script&gt;",
    "&#60;script&#62;",
    "<a href='https://example.com'>free</a>",
    "<style>@import 'https://example.com/x.css'</style>",
    "x\x00y\x1b[31m\u202ereversed\ud800",
    "{title}{0}%s",
    "long" * 500,
]
VOID = {"meta", "br", "img", "link", "input", "base"}
TAGS = {"html", "head", "meta", "title", "body", "main", "style", "div", "h1", "h2", "h3", "p"}
TAGS |= {"ul", "li"}
TAGS |= {"strong", "bdi", "table", "caption", "thead", "tbody", "tr", "th", "td", "a", "span"}
TAGS |= {"svg", "desc", "path", "rect", "text", "g"}
ATTRIBUTES = {"class", "id", "href", "lang", "charset", "content", "name", "http-equiv", "scope"}
ATTRIBUTES |= {"role", "aria-label", "tabindex", "xmlns", "viewbox", "d", "x", "y", "width"}
ATTRIBUTES |= {"height", "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray"}
ATTRIBUTES |= {"text-anchor", "stroke-linecap", "font-family", "font-size", "font-weight"}


class Parsed(HTMLParser):
    """What a browser would see: tags, attributes, texts; raises where tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.styles = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.texts).append(data)


def harmless(text):
    """The page as parsed, once nothing in it can run, load or lead elsewhere."""
    found = Parsed(text)
    assert set(found.tags) <= TAGS
    assert {name for _, name, _ in found.attributes} <= ATTRIBUTES
    assert all(re.fullmatch(r"#f\d+", v) for _, name, v in found.attributes if name == "href")
    styles = "".join(found.styles)
    assert "url(" not in styles
    assert "@import" not in styles
    text.encode("utf-8")
    return found


@cache
def hostile_report():
    rng = np.random.default_rng(0)
    names = [*HOSTILE, "plain"]
    old = {name: rng.choice(HOSTILE[:8], size=200).tolist() for name in names}
    new = {name: rng.choice(HOSTILE[4:], size=200).tolist() for name in names}
    numbers = {f"{name}#": rng.normal(size=200) for name in names}
    moved = {name: values + 1.0 for name, values in numbers.items()}
    extra = {f"new {name}": [1] * 200 for name in names}
    detector = DriftDetector(
        {**old, **numbers}, events=Stream(), name=HOSTILE[1], clock=ManualClock(0.0)
    )
    return detector.detect_drift({**new, **moved, **extra})


@pytest.fixture(scope="module")
def report():
    return hostile_report()


@pytest.mark.parametrize("whole", [True, False])
def test_hostile_names_and_levels_stay_text(report, whole):
    text = report.to_html(pictures=200) if whole else report._repr_html_()
    found = harmless(text)
    told = "".join(found.texts)
    assert "<script>alert(1)</script>" in told, "it is shown, as what it is"
    for char in "\x00\x1b\u202e\ud800":
        assert char not in text
    assert len(text) < 1_000_000


def hostile_monitor():
    """A monitor that has everything to say of a batch whose every name is hostile."""
    rng = np.random.default_rng(0)
    names = [*HOSTILE, "plain", "x" * 10_240]
    old = {f"{name}#": rng.normal(size=200) for name in names}
    levels = {name: rng.choice(HOSTILE[:8], size=200).tolist() for name in names}
    monitor = DriftMonitor(
        {**old, **levels}, events=Stream(), name=HOSTILE[1], clock=ManualClock(0.0)
    )
    moved = {name: np.sort(values + 1.0) for name, values in old.items()}
    strange = {name: sorted(rng.choice(HOSTILE[4:], size=200).tolist()) for name in names}
    return monitor.check({**moved, **strange, **{f"new {name}": [1] * 200 for name in names}})


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_monitor_noted_and_saw_is_shown_and_stays_text(whole):
    report = hostile_monitor()
    assert len(report.findings) > 20
    text = report.to_html() if whole else report._repr_html_()
    told = "".join(harmless(text).texts)
    assert "Before the verdicts are read:" in told
    assert report.notes[0].replace("\x00", "\ufffd") in told
    assert f"and {len(report.notes) - 20} more" in told
    assert "<svg" in text
    assert "reference filled, current outlined" in told
    assert len(text) < 500_000


def test_a_page_of_a_monitor_opens_from_a_mail():
    rng = np.random.default_rng(0)
    numbers = {f"n{i}": rng.normal(size=2000) for i in range(20)}
    levels = {f"l{i}": rng.choice(list("abcdefghijklmnop"), size=2000) for i in range(5)}
    monitor = DriftMonitor({**numbers, **levels}, events=Stream(), clock=ManualClock(0.0))
    report = monitor.check({name: column[:500] for name, column in {**numbers, **levels}.items()})
    page = report.to_html()
    assert page.count("<svg") == 25
    assert len(page) < 300_000
    assert "Before the verdicts" not in page


def test_a_card_says_since_when():
    rng = np.random.default_rng(0)
    monitor = DriftMonitor({"x": rng.normal(size=500)}, events=Stream(), clock=ManualClock())
    for day in range(12):
        report = monitor.check({"x": rng.normal(size=200) + (day > 8)}, at=day * 86400.0)
    assert report.drifted == ("x",)
    assert "; since 1970-01-10 00:00 UTC" in report.to_html()


def test_a_stored_report_is_as_harmless(report):
    stored = report.to_dict()
    stored["source"] = stored["features"]["plain"]["reason"] = HOSTILE[0]
    harmless(DriftReport.from_dict(stored).to_html())


def test_hostile_names_stay_text_over_time(report):
    timeline = DriftTimeline(name=HOSTILE[1])
    for _ in range(3):
        timeline.add(report)
    harmless(timeline.to_html())
    harmless(timeline._repr_html_())
    for name in HOSTILE:
        ET.fromstring(timeline.of(name))


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_no_text_breaks_a_page(name, levels):
    old = {name: (levels * 40)[:40]}
    detector = DriftDetector(old, events=Stream(), name=name, clock=ManualClock(0.0))
    report = detector.detect_drift({name: [f"{level}!" for level in old[name]]})
    harmless(report.to_html())
    ET.fromstring(f"<div>{report._repr_html_()}</div>")


def test_the_page_may_load_nothing(report):
    metas = [v for tag, name, v in Parsed(report.to_html()).attributes if tag == "meta"]
    assert "default-src 'none'; style-src 'unsafe-inline'" in metas


@pytest.mark.parametrize("whole", [True, False])
def test_styles_touch_the_report_only(report, whole):
    timeline = DriftTimeline()
    timeline.add(report)
    for text in (report.to_html(), report._repr_html_(), timeline._repr_html_()):
        styles = "".join(Parsed(text).styles)
        rules = re.sub(r"@media print \{(.*?\})\s*\}", r"\1", styles)
        selectors = [
            s.strip() for rule in re.findall(r"([^{}]+)\{", rules) for s in rule.split(",")
        ]
        assert selectors
        assert all(selector.startswith(".prodml-drift") for selector in selectors)


def test_readers_that_cannot_see_are_told(report):
    root = ET.fromstring(f"<div>{report._repr_html_()}</div>")
    for table in root.iter("table"):
        heads = table.findall("./thead/tr/th")
        assert heads
        assert all(head.get("scope") == "col" for head in heads)
        assert all(row[0].get("scope") == "row" for row in table.findall("./tbody/tr"))
    svg = "{http://www.w3.org/2000/svg}"
    pictures = list(root.iter(f"{svg}svg"))
    assert pictures
    for picture in pictures:
        assert picture.get("role") == "img"
        assert (
            "reference filled, current outlined. Most changed:" in picture.find(f"{svg}desc").text
        )
    # What scrolls can be reached by keyboard, and has a name.
    for scrolled in (one for one in root.iter("div") if one.get("class") == "wide"):
        assert (scrolled.get("tabindex"), scrolled.get("role")) == ("0", "region")
        assert scrolled.get("aria-label")


def test_verdicts_are_words_and_not_colours_alone(report):
    text = report.to_html()
    assert '<span class="level drift">drift</span>' in text


def contrast(one, other):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_have_contrast_on_light_and_on_dark(report):
    styles = "".join(Parsed(report.to_html()).styles)
    badges = re.findall(r"background: (#\w{6}); border-color: \1; color: #fff", styles)
    assert len(badges) == 2
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in badges)
    strokes = set(re.findall(r'stroke="(#\w{6})"', report.to_html()))
    assert strokes
    assert all(contrast(c, ground) >= 3.0 for c in strokes for ground in ("#ffffff", "#121212"))


def test_of_many_features_the_gravest_are_drawn():
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(100)]
    detector = DriftDetector(rng.normal(size=(100, 100)), names, events=Stream())
    current = rng.normal(size=(100, 100))
    current[:, 70] += 2.0
    text = detector.detect_drift(current).to_html(pictures=5)
    assert text.count("<svg") == 5
    assert "Not drawn: 95 of 100 features" in text
    assert re.search(r'id="f0"><h3><bdi>x70<', text)
    assert text.count('<tr><th scope="row" class="name">') == 100


def test_times_have_dates_and_constants_a_bar():
    days = np.arange("2024-01-01", "2024-04-10", dtype="datetime64[D]")
    table = {"when": days, "same": [3.0] * 100}
    text = DriftDetector(table, events=Stream()).detect_drift(table).to_html()
    assert "2024-01-1" in text
    assert "2024-02-19" in text
    assert ">3</text>" in text
