"""The source tree as the house rules see it: modules, their imports, their functions."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "prodml"

# From the ground up; neighbours on one floor are strangers.
FLOORS = (
    ("errors", "clock", "_lazy"),
    ("types", "_deadline", "svg"),
    ("events", "_window", "_sketch", "_workers"),
    ("_settings", "stores", "_machine", "_call"),
    (
        "testing",
        "cache",
        "resilience",
        "serving",
        "features",
        "validation",
        "recording",
        "registry",
    ),
    ("quality", "drift", "monitoring", "debugging"),
    ("retraining", "rollout", "incidents"),
    ("service", "lifecycle", "following"),
    ("integrations", "console", "__main__"),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.split(".")[1] if "." in self.name else ""

    def walk(self, *kinds):
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("prodml", *path.relative_to(SOURCE).with_suffix("").parts)
        name = ".".join(part for part in parts if part != "__init__")
        found.append(Module(name, path, ast.parse(path.read_text())))
    return tuple(found)


def imports(module: Module):
    """(imported module, line, at module level) of every import, hidden ones included."""
    top = {id(node) for node in module.tree.body}
    for node in module.walk(ast.Import):
        for alias in node.names:
            yield alias.name, node.lineno, id(node) in top
    for node in module.walk(ast.ImportFrom):
        assert node.level == 0, f"{module.path}:{node.lineno}: relative import"
        home = node.module or ""
        for alias in node.names:
            # A file by way of its room is that file.
            name = f"{home}.{alias.name}"
            file = home == "prodml" or name in names()
            yield name if file else home, node.lineno, id(node) in top


@cache
def names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


def where(module: Module, node: ast.AST) -> str:
    return f"{module.path.relative_to(ROOT)}:{node.lineno}"
