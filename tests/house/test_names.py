"""Every public name exists, is documented, and has an example that runs."""

import importlib
import inspect
import re

import pytest

import prodml
from prodml.errors import ProdmlError
from prodml.events import Event
from tests.house.tree import ROOT, SOURCE, modules

ROOMS = sorted(p.parent.name for p in SOURCE.glob("[!_]*/__init__.py"))
PUBLIC = (
    [
        f"prodml.{name}"
        for name in ("clock", "errors", "events", "stores", "svg", "testing", "types")
    ]
    + [f"prodml.{room}" for room in ROOMS]
    + ["prodml.service", "prodml.lifecycle", "prodml.following"]
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def names():
    for module in PUBLIC:
        loaded = importlib.import_module(module)
        for name in getattr(loaded, "__all__", ()):
            yield module, name


def test_the_facade_is_the_lazy_map_and_every_name_resolves():
    assert sorted(prodml.__all__) == sorted({*prodml._HOME} - {*prodml._ROOMS})
    for name in prodml._HOME:
        assert getattr(prodml, name) is not None
    assert set(prodml.__all__) <= set(dir(prodml))
    with pytest.raises(AttributeError, match="nonsense"):
        prodml.nonsense  # noqa: B018


def test_type_checkers_see_the_same_facade():
    text = (SOURCE / "__init__.py").read_text()
    block = text.split("if TYPE_CHECKING:")[1]
    seen = set(re.findall(r"(\w+) as \1", block))
    assert seen == set(prodml.__all__)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_name_in_all_exists(module):
    loaded = importlib.import_module(module)
    missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    assert missing == []
    assert len(set(loaded.__all__)) == len(loaded.__all__)


def test_every_public_module_says_what_it_is():
    assert [m.name for m in modules() if not (m.tree.body and isinstance(doc(m), str))] == []


def doc(module):
    return inspect.getdoc(type("X", (), {"__doc__": __import__("ast").get_docstring(module.tree)}))


def test_every_public_object_has_a_docstring_and_an_example_that_runs():
    blocks = "\n".join(
        block
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    )
    facts = (ROOT / "docs/reference/facts.md").read_text()
    bare, unshown = [], []
    for module, name in names():
        thing = getattr(importlib.import_module(module), name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        text = thing.__doc__ or ""
        if not text or text.startswith(f"{name}("):
            bare.append(f"{module}.{name}")
        if inspect.isclass(thing) and issubclass(thing, Event):
            shown = f"`{name}`" in facts
        else:
            shown = ">>>" in text or re.search(rf"\b{name}\b", blocks)
        listed = inspect.isclass(thing) and issubclass(thing, ProdmlError)
        if not (shown or listed or getattr(thing, "_is_protocol", False)):
            unshown.append(f"{module}.{name}")
    assert bare == []
    assert unshown == []


def test_every_error_and_fact_is_in_the_reference():
    facts = (ROOT / "docs/reference/facts.md").read_text()
    errors = (ROOT / "docs/reference/errors.md").read_text()
    for module, name in names():
        thing = getattr(importlib.import_module(module), name)
        if inspect.isclass(thing) and issubclass(thing, Event):
            assert f"`{name}`" in facts, name
        if inspect.isclass(thing) and issubclass(thing, ProdmlError):
            assert f"`{name}`" in errors, name


def test_every_room_has_a_page_in_the_api_reference():
    api = "\n".join(p.read_text() for p in (ROOT / "docs/reference/api").glob("*.md"))
    assert [module for module in PUBLIC if module not in api] == []
