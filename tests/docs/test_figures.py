"""The pictures of the docs are what the code draws today."""

import runpy
from pathlib import Path

import pytest

ASSETS = Path(__file__).parents[2] / "docs" / "assets"
SCRIPTS = {path.name: runpy.run_path(str(path))["FIGURES"] for path in ASSETS.glob("*.py")}
FIGURES = {name: (script, draw) for script, all_ in SCRIPTS.items() for name, draw in all_.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_what_the_code_draws(name):
    script, draw = FIGURES[name]
    drawn = (ASSETS / name).read_text()
    assert drawn == draw() + "\n", f"run python docs/{ASSETS.name}/{script}"


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_on_a_page(name):
    pages = (ASSETS.parent / "explanation").glob("*.md")
    assert any(f"../assets/{name}" in page.read_text() for page in pages)
