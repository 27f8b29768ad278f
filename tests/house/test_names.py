"""Every public name exists, is documented, and has an example that runs."""

import ast
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
    [f"prodml.{name}" for name in ("clock", "errors", "stores", "svg", "testing", "types")]
    + [f"prodml.{room}" for room in ROOMS]
    + ["prodml.service", "prodml.lifecycle", "prodml.following"]
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def names():
    for module in PUBLIC:
        loaded = importlib.import_module(module)
        for name in getattr(loaded, "__all__", ()):
            yield module, name


def test_the_facade_has_its_names_and_rooms():
    for name in [*prodml.__all__, *ROOMS]:
        if name != "integrations":
            assert getattr(prodml, name) is not None
            assert name in dir(prodml)
    with pytest.raises(AttributeError, match="nonsense"):
        prodml.nonsense  # noqa: B018


def lazy_rooms():
    """Rooms with the names by file that type checkers see, and those that are loaded."""
    for module in modules():
        for call in module.walk(ast.Call):
            if ast.unparse(call.func) == "load_on_use":
                (block,) = (node for node in module.tree.body if isinstance(node, ast.If))
                assert {type(node) for node in block.body} == {ast.ImportFrom}
                seen = {n.module: {alias.name for alias in n.names} for n in block.body}
                loaded = {
                    f"{module.name}{file}" if file.startswith(".") else file: set(names)
                    for file, names in ast.literal_eval(call.args[1]).items()
                }
                yield module.name, seen, {file: names for file, names in loaded.items() if names}


def test_type_checkers_see_of_each_room_what_is_loaded_on_use():
    rooms = {name: (seen, loaded) for name, seen, loaded in lazy_rooms()}
    assert set(rooms) >= {"prodml", "prodml.events"} | {
        f"prodml.{room}" for room in ROOMS if room != "integrations"
    }
    for name, (seen, loaded) in rooms.items():
        assert seen == loaded, name
        assert set().union(*loaded.values()) == set(importlib.import_module(name).__all__)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_name_in_all_exists(module):
    loaded = importlib.import_module(module)
    missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    assert missing == []
    assert len(set(loaded.__all__)) == len(loaded.__all__)


def test_every_public_module_says_what_it_is():
    assert [m.name for m in modules() if not (m.tree.body and isinstance(doc(m), str))] == []


def doc(module):
    return inspect.getdoc(type("X", (), {"__doc__": ast.get_docstring(module.tree)}))


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
