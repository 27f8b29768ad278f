import ast

import pytest

from tests.house.tree import modules, where

# Where a coroutine may be written: the hallway, what keeps bytes, the doors, and the
# contract suites, which must try both colours.
ASYNC_HOMES = {"_call", "stores", "integrations", "console", "testing"}
CLOCK_CALLS = {
    ("time", "time"),
    ("time", "monotonic"),
    ("time", "perf_counter"),
    ("time", "time_ns"),
    ("time", "monotonic_ns"),
    ("time", "perf_counter_ns"),
    ("time", "sleep"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}


def found(*kinds, but=(), test=lambda node: True):
    return [
        where(module, node)
        for module in modules()
        if module.room not in but
        for node in module.walk(*kinds)
        if test(node)
    ]


def test_coroutines_are_written_in_few_places():
    kinds = (ast.AsyncFunctionDef, ast.Await, ast.AsyncWith, ast.AsyncFor)
    assert found(*kinds, but=ASYNC_HOMES) == []


def test_only_the_clock_reads_time():
    def reads(node):
        base = node.value
        name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
        return (name, node.attr) in CLOCK_CALLS

    assert found(ast.Attribute, but={"clock"}, test=reads) == []


@pytest.mark.parametrize("word", ["print", "eval", "exec"])
def test_some_builtins_are_not_used(word):
    def calls(node):
        return isinstance(node.func, ast.Name) and node.func.id == word

    assert found(ast.Call, but={"__main__"}, test=calls) == []


def test_no_bare_or_silent_except():
    def bad(node):
        silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
        return node.type is None or silent

    assert found(ast.ExceptHandler, test=bad) == []


def test_nobody_raises_a_bare_exception():
    def bad(node):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return isinstance(raised, ast.Name) and raised.id in {"Exception", "BaseException"}

    assert found(ast.Raise, test=bad) == []


def test_no_global_statement_and_no_mutable_default():
    def mutable(node):
        defaults = [*node.args.defaults, *node.args.kw_defaults]
        return any(isinstance(d, ast.List | ast.Dict | ast.Set) for d in defaults)

    assert found(ast.Global) == []
    assert found(ast.FunctionDef, ast.Lambda, test=mutable) == []


def test_pickle_stays_out():
    def loads(node):
        home, names = getattr(node, "module", "") or "", [alias.name for alias in node.names]
        if home == "marshal" and names == ["dumps"]:
            # Written to be compared, and never read.
            return False
        loaders = {"pickle", "marshal", "shelve", "dill"}
        return any(name.split(".")[0] in loaders for name in [*names, home])

    # The registry's one opt-in serializer, loaded after its digest was checked.
    assert found(ast.Import, ast.ImportFrom, but={"registry"}, test=loads) == []


def test_files_are_named_for_what_they_hold():
    banned = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}
    assert [m.name for m in modules() if banned & set(m.name.strip("_").split("."))] == []
