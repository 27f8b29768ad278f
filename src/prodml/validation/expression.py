"""Small expressions over the fields of a row, read but never run as Python.

``parse`` walks the syntax tree once and builds nested functions for the few forms that it
knows: names, constants, comparisons (chained ones too), ``in (...)``, ``and``, ``or``,
``not``, ``+ - * / // %`` and ``abs``.  Everything else is refused while building.  The same
functions take one row or whole columns; columns only where arithmetic of machine numbers
gives what Python's numbers give.
"""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

from prodml.errors import BadConfiguration
from prodml.validation.kinds import kind_of_type

__all__ = ["EXACT", "Expression", "parse"]

Values: TypeAlias = Mapping[str, Any]
Term: TypeAlias = Callable[[Values], Any]

EXACT = 2**53
"""Whole numbers up to here are floats without loss."""
_PYTHON = frozenset({bool, float, int, str})
_NUMBERS = frozenset({"bool", "float", "int"})


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """What :func:`parse` made of a text.

    Parameters
    ----------
    text
        The expression as it was written.
    fields
        Names that it reads, in order of appearance.

    Examples
    --------
    >>> parse("tenure <= age - 16").holds({"tenure": 3, "age": 30})
    True
    """

    text: str
    fields: tuple[str, ...]
    _term: Term
    _tree: ast.expr

    def holds(self, row: Values) -> bool:
        """Whether ``row`` satisfies it.

        Raises
        ------
        Exception
            What Python raises on values that do not fit: TypeError, ZeroDivisionError, ...
        """
        return bool(self._term(row))

    def holds_for(self, columns: Mapping[str, Any]) -> Any:
        """Array of booleans for arrays of numbers, or None where only rows give a sure answer.

        Examples
        --------
        >>> import numpy as np
        >>> parse("a < b").holds_for({"a": np.array([1, 5]), "b": np.array([2, 2])}).tolist()
        [True, False]
        """
        import numpy as np

        columns = {name: columns[name] for name in self.fields}
        if any(values.dtype.kind not in "iuf" for values in columns.values()):
            return None
        length = len(next(iter(columns.values()), ()))
        try:
            if length and _largest(self._tree, columns) > EXACT:
                return None
            columns = {name: _widened(values) for name, values in columns.items()}
            with np.errstate(divide="raise", invalid="raise", over="ignore", under="ignore"):
                found = np.asarray(self._term(columns))
        except Exception:
            # Whatever it is, the rows one by one say it of the row that it happens in.
            return None
        whole = found.shape == (length,) and found.dtype.kind in "biuf"
        return found.astype(np.bool_) if whole else None


def parse(text: str) -> Expression:
    """Read ``text``.

    Raises
    ------
    BadConfiguration
        It is no expression, names no field, or uses a form that is not known here.

    Examples
    --------
    >>> parse("0 <= part / whole <= 1").fields
    ('part', 'whole')
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        term = _term(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # Python's own parser calls a text that is nested too deeply a lack of memory.
        why = str(error) or "nested too deeply"
        raise BadConfiguration(f"rule {_shown(text)}: {why}") from error
    fields = dict.fromkeys(_names(tree))
    if not fields:
        raise BadConfiguration(f"rule {text!r} names no field")
    return Expression(text, tuple(fields), term, tree)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}...")


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Call):
        yield from _names(node.args[0])
    else:
        for child in ast.iter_child_nodes(node):
            yield from _names(child)


def _largest(node: ast.AST, columns: Mapping[str, Any]) -> float:
    """Bound of every whole number on the way to the value of ``node``."""
    if isinstance(node, ast.Name):
        values = columns[node.id]
        return 0 if values.dtype.kind == "f" else max(-int(values.min()), int(values.max()))
    if isinstance(node, ast.Constant):
        return abs(node.value) if isinstance(node.value, int) else 0
    if isinstance(node, ast.Call):
        return _largest(node.args[0], columns)
    inner = [_largest(child, columns) for child in ast.iter_child_nodes(node)]
    if not isinstance(node, ast.BinOp):
        return max(inner, default=0)
    product = isinstance(node.op, ast.Mult)
    return max(inner[0] * inner[2], *inner) if product else inner[0] + inner[2]


def _widened(values: Any) -> Any:
    import numpy as np

    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64, copy=False)


def _term(node: ast.AST) -> Term:
    build = _FORMS.get(type(node))
    if build is None:
        raise ValueError(f"{type(node).__name__} is not allowed here")
    return build(node)


def _name(node: Any) -> Term:
    name = node.id

    def value(row: Values) -> Any:
        found = row[name]
        return found if type(found) in _PYTHON or _is_column(found) else _plain(found)

    return value


def _plain(value: Any) -> Any:
    # Narrow numbers of numpy would round or overflow, and wide ones divide by zero.
    if kind_of_type(type(value)) not in _NUMBERS:
        return value
    return value.item() if hasattr(value, "item") else value


def _constant(node: Any) -> Term:
    value = node.value
    if type(value) not in {bool, float, int, str}:
        raise ValueError(f"the constant {value!r} is not allowed here")
    return lambda _: value


def _binary(node: Any) -> Term:
    plain = _OPERATORS.get(type(node.op))
    if plain is None:
        raise ValueError(f"the operator {type(node.op).__name__} is not allowed here")
    guarded = _GUARDED.get(type(node.op), plain)
    left, right = _term(node.left), _term(node.right)

    def result(row: Values) -> Any:
        a, b = left(row), right(row)
        if type(a) in _SCALARS and type(b) in _SCALARS:
            return plain(a, b)
        return guarded(_summand(a), _summand(b))

    return result


def _summand(value: Any) -> Any:
    # True + True is 2 in Python, and True in a column of booleans.
    truths = _is_column(value) and value.dtype.kind == "b"
    return value.astype("int64") if truths else value


def _no_text(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    # A text times a number, or formatted by one, is as long as the caller likes.
    def guarded(left: Any, right: Any) -> Any:
        if _is_long(left) or _is_long(right):
            raise TypeError("texts and sequences cannot be multiplied")
        return operate(left, right)

    return guarded


def _is_long(value: Any) -> bool:
    return hasattr(value, "__len__") and not _is_column(value)


def _no_zero(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    # Numpy says nothing where an infinity is divided by zero.
    def guarded(left: Any, right: Any) -> Any:
        if _is_column(left) or _is_column(right):
            zero = right == 0
            if zero.any() if _is_column(zero) else zero:
                raise ZeroDivisionError("division by zero")
        return operate(left, right)

    return guarded


_SCALARS = frozenset({bool, float, int})


def _unary(node: Any) -> Term:
    inner = _term(node.operand)
    if isinstance(node.op, ast.USub):
        return lambda row: -inner(row)
    if isinstance(node.op, ast.Not):
        return lambda row: _opposite(inner(row))
    raise ValueError(f"the operator {type(node.op).__name__} is not allowed here")


def _call(node: Any) -> Term:
    plain = isinstance(node.func, ast.Name) and node.func.id == "abs" and len(node.args) == 1
    if not plain or node.keywords:
        raise ValueError("only abs(...) may be called")
    inner = _term(node.args[0])
    return lambda row: abs(inner(row))


def _compare(node: Any) -> Term:
    terms = [node.left, *node.comparators]
    links = [
        _link(op, left, right) for op, left, right in zip(node.ops, terms, terms[1:], strict=False)
    ]
    return links[0] if len(links) == 1 else _all_of(links)


def _link(op: ast.AST, left: ast.AST, right: ast.AST) -> Term:
    if isinstance(op, (ast.In, ast.NotIn)):
        if not isinstance(right, (ast.Tuple, ast.List, ast.Set)) or not right.elts:
            raise ValueError("in needs a list of values, (1, 2)")
        one = _any_of([_link(ast.Eq(), left, each) for each in right.elts])
        return one if isinstance(op, ast.In) else lambda row: _opposite(one(row))
    compare = _COMPARISONS.get(type(op))
    if compare is None:
        raise ValueError(f"the comparison {type(op).__name__} is not allowed here")
    low, high = _term(left), _term(right)
    return lambda row: compare(low(row), high(row))


def _bool(node: Any) -> Term:
    terms = [_term(value) for value in node.values]
    return _all_of(terms) if isinstance(node.op, ast.And) else _any_of(terms)


def _all_of(terms: list[Term]) -> Term:
    def every(row: Values) -> Any:
        first = terms[0](row)
        if _is_column(first):
            return reduce(operator.and_, [_truth(term(row)) for term in terms])
        return bool(first) and all(term(row) for term in terms[1:])

    return every


def _any_of(terms: list[Term]) -> Term:
    def some(row: Values) -> Any:
        first = terms[0](row)
        if _is_column(first):
            return reduce(operator.or_, [_truth(term(row)) for term in terms])
        return bool(first) or any(term(row) for term in terms[1:])

    return some


def _opposite(value: Any) -> Any:
    return ~_truth(value) if _is_column(value) else not value


def _is_column(value: Any) -> bool:
    return getattr(value, "ndim", 0) > 0


def _truth(value: Any) -> Any:
    return value != 0 if _is_column(value) else bool(value)


_OPERATORS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_GUARDED: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Mult: _no_text(operator.mul),
    ast.Div: _no_zero(operator.truediv),
    ast.FloorDiv: _no_zero(operator.floordiv),
    ast.Mod: _no_zero(_no_text(operator.mod)),
}
"""For what is no plain number of Python."""
_COMPARISONS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FORMS: Mapping[type[ast.AST], Callable[[Any], Term]] = {
    ast.Name: _name,
    ast.Constant: _constant,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.Call: _call,
    ast.Compare: _compare,
    ast.BoolOp: _bool,
}
