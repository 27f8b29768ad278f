"""Size is a conversation, not a law: a red test here asks whether a file or function has
grown past what one reads in a sitting."""

import ast
import io
import statistics
import tokenize

from tests.house.tree import modules, where

BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.While,
    ast.ExceptHandler,
    ast.comprehension,
    ast.Assert,
    ast.match_case,
)


def docstring_lines(tree):
    lines = set()
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines |= set(range(node.lineno, node.end_lineno + 1))
    return lines


def code_lines(module):
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    text = module.path.read_text()
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(module.tree)


def functions():
    for module in modules():
        lines = code_lines(module)
        for node in module.walk(ast.FunctionDef, ast.AsyncFunctionDef):
            inner = set()
            for child in ast.walk(node):
                if child is not node and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    inner |= set(range(child.lineno, child.end_lineno + 1))
            own = set(range(node.lineno, node.end_lineno + 1)) & lines - inner
            branches = sum(isinstance(child, BRANCHES) for child in ast.walk(node))
            bools = sum(
                len(child.values) - 1 for child in ast.walk(node) if isinstance(child, ast.BoolOp)
            )
            yield where(module, node), node.name, len(own), 1 + branches + bools


def test_files_stay_within_one_sitting():
    sizes = {module.name: len(code_lines(module)) for module in modules()}
    assert {name: size for name, size in sizes.items() if size > 500} == {}
    assert 20 <= statistics.median(sizes.values()) <= 160


def test_functions_are_short():
    sizes = {f"{place} {name}": size for place, name, size, _ in functions()}
    assert {place: size for place, size in sizes.items() if size > 60} == {}
    assert statistics.quantiles(sizes.values(), n=10)[-1] <= 20
    assert sum(size > 50 for size in sizes.values()) <= 0.005 * len(sizes)


def test_functions_are_simple():
    measured = {f"{place} {name}": branches for place, name, _, branches in functions()}
    assert {place: branches for place, branches in measured.items() if branches > 14} == {}
    assert statistics.mean(measured.values()) <= 3.0


def test_classes_have_few_public_methods():
    crowded = {
        where(module, node): len(public)
        for module in modules()
        for node in module.walk(ast.ClassDef)
        if len(
            public := [
                item.name
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
                and not item.name.startswith("_")
            ]
        )
        > 16
    }
    assert crowded == {}
