"""Straight-line checks of one row, made for the fields of a schema.

Two functions are written and compiled for a schema when its first row comes: ``accepts``
says that a row surely is fine, ``find`` lists every breach.  Both make only the comparisons
that the settings leave open, one after the other, without a loop or a look at a setting.
The text that is compiled holds numbers of fields and nothing else: names, bounds, levels
and patterns enter as arguments, so that no text of a user ever becomes code.
"""

from collections.abc import Callable, Mapping
from sys import float_info
from types import CodeType, FunctionType
from typing import Any, TypeAlias, cast

from prodml.types import MISS
from prodml.validation.field import Field, RuleName, breach

__all__ = ["Accepts", "Breach", "Find", "make_accepts", "make_find"]

Breach: TypeAlias = tuple[str, RuleName, Any]
"""Field, rule, value."""
Accepts: TypeAlias = Callable[[Any], bool]
Find: TypeAlias = Callable[[Any], "list[Breach]"]

_STEADY = frozenset({bool, bytes, dict, int, list, set, str, tuple})
_PLAIN: Mapping[str, type] = {"int": int, "bool": bool, "bytes": bytes, "str": str}


def make_accepts(fields: Mapping[str, Field], *, closed: bool) -> Accepts:
    """Function that says whether a row surely is fine; it may refuse a good row, never accept
    a bad one.

    Examples
    --------
    >>> accepts = make_accepts({"age": Field(int, minimum=0)}, closed=False)
    >>> accepts({"age": 4}), accepts({"age": "4"}), accepts({})
    (True, False, False)
    """
    return cast("Accepts", _made(_accepting(fields, closed)))


def make_find(fields: Mapping[str, Field]) -> Find:
    """Function that lists the breaches of a plain dict in the order of ``fields``.

    Examples
    --------
    >>> make_find({"age": Field(int)})({"age": "4"})
    [('age', 'type', '4')]
    """
    quick = cast("Callable[[Any], list[Breach] | None]", _made(_finding(fields)))
    listed = tuple(fields.items())

    def find(row: Any) -> list[Breach]:
        found = quick(row)
        if found is not None:
            return found
        told: list[Breach] = []
        for name, wanted in listed:
            value = row.get(name, MISS)
            rule = breach(wanted, value)
            if rule is not None:
                told.append((name, rule, value))
        return told

    return find


_Written: TypeAlias = tuple[list[str], dict[str, Any]]
"""Lines of a function, and what their names stand for."""


def _accepting(fields: Mapping[str, Field], closed: bool) -> _Written:
    names: dict[str, Any] = {"type": type, "dict": dict, "MISS": MISS}
    strict = all(wanted.required for wanted in fields.values())
    lines = ["if type(row) is not dict: return False"]
    if closed and strict:
        names["width"] = len(fields)
        lines.append("if len(row) != width: return False")
    elif closed:
        names["known"] = fields.keys()
        lines.append("if not row.keys() <= known: return False")
    lines.append("try:")
    for i, (name, wanted) in enumerate(fields.items()):
        doubt = _doubt(wanted, i, names)
        names[f"k{i}"] = name
        value = f"row[k{i}]" if wanted.required else f"row.get(k{i}, MISS)"
        if doubt == f"v not in s{i}":
            # Looked at once, it needs no name.
            lines.append(f"    if {value} not in s{i}: return False")
        else:
            lines += [f"    v = {value}", f"    if {doubt}: return False"]
    lines += ["    return True", "except Exception:", "    return False"]
    return lines, names


def _finding(fields: Mapping[str, Field]) -> _Written:
    """All fields present and easy to compare, or ``None``."""
    names: dict[str, Any] = {"type": type, "MISS": MISS, "breach": breach}
    lines = ["found = []", "try:"]
    for i, (name, wanted) in enumerate(fields.items()):
        doubt = _doubt(wanted, i, names)
        names |= {f"k{i}": name, f"f{i}": wanted}
        rule = _sure(wanted, names)
        lines += [
            f"    v = row[k{i}]" if wanted.required else f"    v = row.get(k{i}, MISS)",
            f"    if {doubt}:",
            f"        rule = {rule}breach(f{i}, v)",
            f"        if rule is not None: found.append((k{i}, rule, v))",
        ]
    lines += ["    return found", "except Exception:", "    return None"]
    return lines, names


def _sure(wanted: Field, names: dict[str, Any]) -> str:
    """The rule that a doubt about a value of the plain type can only mean."""
    kind = cast("str", wanted.kind)
    if kind == "float" and wanted.categories is None:
        names |= {"least": -float_info.max, "most": float_info.max, "float": float}
        return "'range' if type(v) is float and least <= v <= most else "
    if kind == "int" and wanted.categories is None:
        return "'range' if type(v) is int else "
    if kind == "str" and wanted.categories is not None and not _further(wanted):
        names["str"] = str
        return "'category' if type(v) is str else "
    return ""


def _further(wanted: Field) -> bool:
    settings = (wanted.min_length, wanted.max_length, wanted.pattern)
    return settings != (None, None, None)


def _doubt(wanted: Field, i: int, names: dict[str, Any]) -> str:
    """Condition under which ``v`` needs the judgement of ``breach``."""
    kind = cast("str", wanted.kind)
    doubts = _DOUBTS.get(kind, _plain_doubts)(wanted, i, names)
    if wanted.categories is not None:
        names[f"s{i}"] = frozenset(wanted.categories)
        # Texts are known by what they equal: nothing else equals a text.
        texts = kind == "str" and all(type(level) is str for level in wanted.categories)
        doubts = [*doubts[texts:], f"v not in s{i}"]
    text = " or ".join(doubts)
    if wanted.nullable:
        text = f"v is not None and ({text})"
    return text if wanted.required else f"v is not MISS and ({text})"


def _plain_doubts(wanted: Field, i: int, names: dict[str, Any]) -> list[str]:
    kind = cast("str", wanted.kind)
    if kind == "any":
        names["steady"] = _STEADY
        return ["type(v) not in steady"]
    names[kind] = _PLAIN[kind]
    doubts = [f"type(v) is not {kind}"]
    bounds = ("minimum", "maximum") if kind == "int" else ("min_length", "max_length")
    value = "v" if kind == "int" else "len(v)"
    doubts += _bounds(wanted, bounds, value, i, names)
    if wanted.matcher is not None:
        names[f"m{i}"] = wanted.matcher.fullmatch
        doubts.append(f"m{i}(v) is None")
    return doubts


def _bounds(
    wanted: Field, settings: tuple[str, str], value: str, i: int, names: dict[str, Any]
) -> list[str]:
    doubts: list[str] = []
    for sign, setting in zip("<>", settings, strict=True):
        bound = getattr(wanted, setting)
        if bound is not None:
            letter = "a" if sign == "<" else "b"
            names[f"{letter}{i}"] = bound
            doubts.append(f"{value} {sign} {letter}{i}")
    return doubts


def _float_doubts(wanted: Field, i: int, names: dict[str, Any]) -> list[str]:
    names |= {"float": float, "int": int}
    # Two floats compare fastest; a bound above all floats is none.
    names[f"a{i}"] = _edge(wanted.minimum, -1)
    names[f"b{i}"] = _edge(wanted.maximum, 1)
    kind = "type(v) is not float and type(v) is not int"
    # NaN is not at most anything.
    outside = f"v < a{i} or not v <= b{i}"
    return [kind, f"v == v and ({outside})" if wanted.nullable else outside]


def _edge(bound: float | None, sign: int) -> float:
    if bound is None:
        return sign * float_info.max
    if abs(bound) > float_info.max:
        return bound
    wide = float(bound)
    return wide if wide == bound else bound


def _moment_doubts(wanted: Field, i: int, names: dict[str, Any]) -> list[str]:
    from datetime import date, datetime

    kind = cast("str", wanted.kind)
    names[kind] = date if kind == "date" else datetime
    # A bound with a time zone refuses to be compared with a moment that has none.
    return [f"type(v) is not {kind}", *_bounds(wanted, ("minimum", "maximum"), "v", i, names)]


_DOUBTS: Mapping[str, Callable[[Field, int, dict[str, Any]], list[str]]] = {
    "float": _float_doubts,
    "date": _moment_doubts,
    "datetime": _moment_doubts,
}


def _made(written: _Written) -> FunctionType:
    lines, names = written
    # Defaults are local variables: the fastest names that Python has.
    head = f"def check(row, {', '.join(names)}):"
    code = compile("\n    ".join([head, *lines]), "<schema>", "exec")
    inner = next(part for part in code.co_consts if isinstance(part, CodeType))
    return FunctionType(inner, {"__builtins__": _BUILTINS}, None, tuple(names.values()))


_BUILTINS: Mapping[str, Any] = {"len": len, "Exception": Exception}
