"""The pages in a real browser: no request, no message, no overflow."""

import shutil

import pytest

from prodml.drift import DriftTimeline
from tests.drift.test_report_page import hostile_monitor, hostile_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder, report = tmp_path_factory.mktemp("pages"), hostile_report()
    timeline = DriftTimeline(name="tickets")
    for _ in range(5):
        timeline.add(report)
    report.to_html(folder / "report.html")
    hostile_monitor().to_html(folder / "monitor.html")
    timeline.to_html(folder / "timeline.html")
    # As in a notebook: a fragment in a page of someone else.
    fragment = f"<!doctype html><meta charset=utf-8><body>{report._repr_html_()}</body>"
    (folder / "fragment.html").write_text(fragment, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["report", "monitor", "timeline", "fragment"])
def test_a_page_opens_by_itself_and_fits(browser, pages, name):
    address = (pages / f"{name}.html").as_uri()
    page, heard, asked = browser.new_page(viewport={"width": 1280, "height": 800}), [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    for width, scheme in ((1280, "light"), (375, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('svg').length") > 1
    assert asked == [address]
    assert heard == []
    page.close()


def test_everything_is_reached_by_keyboard(browser, pages):
    page = browser.new_page(viewport={"width": 375, "height": 800})
    page.goto((pages / "report.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == (
        "Features by priority"
    )
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#f0"
    page.close()
