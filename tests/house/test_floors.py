from tests.house.tree import FLOOR, imports, modules

# Imported inside functions only, by code that is in an event loop already.
LATE = {"prodml._call.limit"}


def test_every_room_has_a_floor():
    rooms = {module.room for module in modules() if module.room}
    assert rooms <= set(FLOOR), rooms - set(FLOOR)


def test_imports_point_only_downwards_and_neighbours_are_strangers():
    wrong = []
    for module in modules():
        for name, line, _ in imports(module):
            if not name.startswith("prodml") or not module.room:
                continue
            room = name.split(".")[1] if "." in name else ""
            if room == module.room:
                continue
            if not room or FLOOR[room] >= FLOOR[module.room]:
                wrong.append(f"{module.name}:{line} imports {name}")
    assert wrong == []


def test_there_is_no_circle_not_even_a_hidden_one():
    graph = {
        module.name: {name for name, _, _ in imports(module) if name.startswith("prodml.")}
        for module in modules()
        if module.room
    }
    done: set[str] = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            visit(target, [*path, name])
        done.add(name)

    for name in graph:
        visit(name, [])


def test_heavy_libraries_are_never_imported_at_the_top_of_the_lower_floors():
    light = {"cache", "resilience", "serving", "features", "validation", "recording", "registry"}
    third = {"numpy", "scipy", "redis", "tenacity", "structlog", "msgspec", "narwhals", "asyncio"}
    wrong = [
        f"{module.name}:{line} imports {name}"
        for module in modules()
        if FLOOR.get(module.room, 99) <= FLOOR["testing"] or module.room in light
        for name, line, top in imports(module)
        if top and name.split(".")[0] in third and module.name not in LATE
    ]
    assert wrong == []


def test_scipy_stats_is_imported_only_inside_functions():
    wrong = [
        f"{module.name}:{line}"
        for module in modules()
        for name, line, top in imports(module)
        if top and name.startswith("scipy")
    ]
    assert wrong == []
