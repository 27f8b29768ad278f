"""The pictures of the docs are what the code draws today."""

import runpy
from pathlib import Path

import pytest

ASSETS = Path(__file__).parents[2] / "docs" / "assets"
FIGURES = runpy.run_path(str(ASSETS / "freshness.py"))["FIGURES"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_what_the_code_draws(name):
    drawn = (ASSETS / name).read_text()
    assert drawn == FIGURES[name]() + "\n", f"run python {ASSETS.name}/freshness.py"


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_on_a_page(name):
    pages = (ASSETS.parent / "explanation").glob("*.md")
    assert any(f"../assets/{name}" in page.read_text() for page in pages)
