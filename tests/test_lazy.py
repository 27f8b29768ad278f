"""Rooms that load a name on first use behave as if everything were loaded."""

import copy
import importlib
import pickle
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import prodml
from prodml._lazy import Room, load_on_use

ROOMS = [
    name
    for name in [
        "prodml",
        *(found.name for found in pkgutil.walk_packages(prodml.__path__, "prodml.") if found.ispkg),
    ]
    if isinstance(importlib.import_module(name), Room)
]
PUBLIC = [(room, name) for room in ROOMS for name in importlib.import_module(room).__all__]
# Functions that the import system would hide behind the file of the same name.
NAMESAKES = [
    (room, name)
    for room, name in PUBLIC
    if importlib.util.find_spec(room) and importlib.util.find_spec(f"{room}.{name}")
]


def fresh(code):
    """What ``code`` prints in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_all_rooms_are_found():
    assert len(ROOMS) >= 16
    assert len(PUBLIC) >= 250
    assert len(NAMESAKES) >= 5


def test_rooms_show_all_their_names_before_any_is_loaded():
    code = f"""
import importlib
for name in {ROOMS}:
    room = importlib.import_module(name)
    assert set(room.__all__) <= set(dir(room)), name
"""
    fresh(code)


def test_a_star_takes_all_names():
    code = f"""
import importlib
for name in {ROOMS}:
    space = {{}}
    exec(f"from {{name}} import *", space)
    assert set(space) == {{*importlib.import_module(name).__all__, "__builtins__"}}, name
"""
    fresh(code)


def test_what_is_not_there_is_not_there():
    with pytest.raises(AttributeError, match=r"'prodml\.drift' has no attribute 'nonsense'"):
        prodml.drift.nonsense  # noqa: B018
    with pytest.raises(ImportError, match="nonsense"):
        from prodml.drift import nonsense  # noqa: F401
    assert not hasattr(prodml.drift, "__wrapped__")


def test_a_room_is_an_attribute_of_its_package_and_a_file_of_its_room():
    code = "import prodml; print(prodml.drift.psi.__name__, prodml.cache.keys.__name__)"
    assert fresh(code) == "psi prodml.cache.keys"


@pytest.mark.parametrize(
    "first", ["import {0}.{1}", "import {0}; {0}.{1}", "from {0} import {1}", "import {0}"]
)
def test_a_file_does_not_hide_the_function_that_it_is_named_after(first):
    for room, name in NAMESAKES:
        assert type(getattr(importlib.import_module(room), name)).__name__ == "function"
    code = "\n".join(
        f"{first.format(*each)}\nimport {each[0]}.{each[1]}\nfrom {each[0]} import {each[1]}\n"
        f"assert type({each[1]}).__name__ == 'function', {each}"
        for each in NAMESAKES
    )
    fresh(code)


def test_a_test_may_put_something_in_the_place_of_a_name(monkeypatch):
    before = prodml.drift.psi
    monkeypatch.setattr("prodml.drift.psi", len)
    from prodml.drift import psi

    assert psi is len
    monkeypatch.undo()
    assert prodml.drift.psi is before


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_goes_to_another_process_by_its_name(room):
    module = importlib.import_module(room)
    assert pickle.loads(pickle.dumps(module)) is module
    assert copy.deepcopy(module) is module
    assert isinstance(module, ModuleType)
    assert repr(module).startswith(f"<module {room!r} from")


def test_classes_and_functions_are_pickled_by_the_path_of_their_file():
    for room, name in PUBLIC:
        value = getattr(importlib.import_module(room), name)
        if isinstance(value, type) or type(value).__name__ == "function":
            assert pickle.loads(pickle.dumps(value)) is value
            assert pickle.loads(f"c{room}\n{name}\n.".encode()) is value


def test_threads_that_ask_for_the_first_time_together_get_the_same():
    code = """
import threading, prodml.resilience as room
barrier, found = threading.Barrier(8), []
def ask(names):
    barrier.wait()
    found.append({name: getattr(room, name) for name in names})
names = list(room.__all__)
threads = [threading.Thread(target=ask, args=(names[i:] + names[:i],)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), all(each == found[0] for each in found))
"""
    assert fresh(code) == "8 True"


def test_a_package_of_ones_own_can_be_such_a_room(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    home = tmp_path / "lazily_made"
    home.mkdir()
    (home / "__init__.py").write_text("")
    (home / "inner.py").write_text("def inner(): return 'inner'\nVALUE = 1\n")
    import lazily_made

    load_on_use("lazily_made", {".inner": ("inner", "VALUE"), "math": ("tau",)})
    assert "lazily_made.inner" not in sys.modules
    assert {"VALUE", "inner", "tau"} <= set(dir(lazily_made))
    assert (lazily_made.VALUE, lazily_made.inner(), round(lazily_made.tau)) == (1, "inner", 6)
