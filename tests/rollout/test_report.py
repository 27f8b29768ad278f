"""The report: plain data, and a page that nothing can break out of."""

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from prodml.events import Stream
from prodml.rollout import ErrorRate, PairedLoss, Rollout
from prodml.stores import MemoryStore
from prodml.testing import ManualClock

EVIL = """<script>alert("x")</script>'&"""
GOOD, BAD = [(0.1, 0.1)] * 10, [(1.0, 0.0)] * 60


def make(clock, version="v2", **changes):
    given = {"steps": (0.1, 0.5), "step_seconds": 60.0, "guards": [PairedLoss(enough=10)]}
    return Rollout(version, "v1", clock=clock, events=Stream(), **given | changes)


def walked(clock, losses=GOOD, **changes):
    rollout = make(clock, **changes)
    rollout.tick()
    for pairs in (GOOD, GOOD, losses):
        clock.advance(61)
        rollout.observe_pairs(pairs)
        rollout.tick()
    return rollout


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in {"src", "href"} or (value or "").startswith("#")
        if tag not in {"meta", "br", "rect", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in {"rect", "path"}:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_plain_data_and_tells_each_step():
    clock = ManualClock()
    rollout = walked(clock)
    report = json.loads(json.dumps(rollout.to_dict(), allow_nan=False))
    assert (report["phase"], report["share"], report["holding"]) == ("promoted", 1.0, "")
    assert [step["decision"] for step in report["steps"]] == ["canary", "canary", "promoted"]
    assert [step["share"] for step in report["steps"]] == [0.0, 0.1, 0.5]
    assert [step["ended"] - step["began"] for step in report["steps"]] == [61.0] * 3
    numbers = [step["guards"]["paired loss"] for step in report["steps"]]
    assert [(n["n"], n["in_all"], n["verdict"]) for n in numbers] == [
        (10, 10, "fine"),
        (10, 20, "fine"),
        (10, 30, "fine"),
    ]
    assert [fact["fact"] for fact in report["facts"]] == ["Began", *["FoundFine"] * 3]


def test_the_present_step_says_what_it_waits_for():
    clock = ManualClock()
    rollout = make(clock)
    assert rollout.to_dict()["steps"][-1]["decision"] == "go on"
    rollout.tick()
    assert rollout.to_dict()["holding"] == "0 of 60 s"
    clock.advance(60)
    assert rollout.to_dict()["holding"] == "no guard has been told anything"
    rollout.observe_pairs(GOOD[:4])
    assert rollout.to_dict()["steps"][-1]["decision"].startswith("hold: paired loss: ")


def test_a_roll_back_is_told_with_its_evidence():
    report = walked(ManualClock(), BAD).to_dict()
    last = report["steps"][-1]
    assert (last["decision"], last["share"]) == ("rolled back", 0.5)
    assert last["guards"]["paired loss"]["evidence"] >= 1
    assert last["guards"]["paired loss"]["verdict"] == "worse"
    assert report["reason"].startswith("paired loss: ")


def test_an_abort_ends_a_step_too():
    clock = ManualClock()
    rollout = make(clock)
    rollout.tick()
    rollout.abort("complaints")
    assert rollout.to_dict()["steps"][-1]["decision"] == "rolled back"


@pytest.mark.parametrize("losses", [GOOD, BAD])
def test_the_page_is_whole_and_loads_nothing(losses, tmp_path):
    rollout = walked(ManualClock(), losses)
    text = rollout.to_html(tmp_path / "rollout.html")
    assert (tmp_path / "rollout.html").read_text(encoding="utf-8") == text
    tags = Tags(text)
    assert tags.open == []
    assert tags.seen.count("svg") == 2
    for svg in text.split("<svg")[1:]:
        ET.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")


def test_a_page_can_be_drawn_at_any_time():
    clock = ManualClock()
    rollout = make(clock, guards=[ErrorRate(), PairedLoss()])
    assert Tags(rollout.to_html()).seen.count("svg") == 1
    rollout.tick()
    assert Tags(rollout.to_html()).seen.count("svg") == 2
    rollout.freeze("x")
    assert "frozen" in rollout.to_html()


def test_nothing_that_a_user_names_gets_into_the_page_unescaped():
    clock = ManualClock()
    rollout = make(clock, version=EVIL, name="n", guards=[PairedLoss(name=EVIL, enough=1)])
    rollout.tick()
    rollout.observe_pairs(BAD)
    rollout.freeze(EVIL)
    rollout.abort(EVIL)
    text = rollout.to_html()
    assert "<script" not in text
    tags = Tags(text)
    assert "script" not in tags.seen
    assert EVIL in " ".join(tags.text)


def test_a_report_of_another_process_is_the_same():
    clock, store = ManualClock(), MemoryStore()
    one = walked(clock, store=store)
    assert make(clock, store=store).to_dict() == one.to_dict()
