"""JSON Schema (draft 2020-12) of one row, in and out.

What JSON Schema cannot say travels in ``x-prodml``, which other validators pass over, and is
told by a :class:`~prodml.validation.NotExpressed` warning.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from prodml.errors import BadConfiguration
from prodml.types import MISS
from prodml.validation.field import Field
from prodml.validation.kinds import kind_of_type
from prodml.validation.not_expressed import tell
from prodml.validation.pattern import PYTHON_ONLY, scoped

__all__ = ["from_json_schema", "to_json_schema"]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Mapping[str, str] = {
    "bool": "boolean",
    "float": "number",
    "int": "integer",
    "str": "string",
    "bytes": "string",
    "date": "string",
    "datetime": "string",
}
_KINDS = {"boolean": "bool", "number": "float", "integer": "int", "string": "str"}
_FORMATS = {"datetime": "date-time", "date": "date"}
_HEAD, _TAIL = "^(?:", r")(?![\s\S])"
"""The whole text and nothing after it; a ``$`` would let a last newline through."""
_REMARKS = frozenset(
    {"title", "description", "examples", "$comment", "deprecated", "readOnly", "writeOnly"}
    | {"default", "$defs", "x-prodml"}
)
_WORDS: Mapping[str, str] = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "default": "default",
}
_PASSED = (
    (_REMARKS - {"$defs"})
    | {"type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"pattern", "format", "anyOf", "$ref", *_WORDS}
)
_TOP = frozenset(
    {"$schema", "$id", "title", "description", "type", "properties", "required", "$defs"}
    | {"additionalProperties", "definitions", "x-prodml", "$comment", "examples", "default"}
)


# -- out ----------------------------------------------------------------------------------


def to_json_schema(told: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Document for the schema that ``told`` describes.

    Examples
    --------
    >>> to_json_schema({"name": "s", "extra": "reject"}, {})["additionalProperties"]
    False
    """
    document: dict[str, Any] = {
        "$schema": _DRAFT,
        "title": told["name"],
        "type": "object",
        "properties": {name: _property(name, wanted) for name, wanted in fields.items()},
        "required": [name for name, wanted in fields.items() if wanted.required],
    }
    if told["extra"] == "reject":
        document["additionalProperties"] = False
    beyond = {key: told[key] for key in ("on", "rules", "unique", "null_alpha") if told.get(key)}
    if told["extra"] == "drop":
        beyond["extra"] = "drop"
    for key in sorted(beyond.keys() & {"extra", "on", "rules", "unique"}):
        tell("", f"{key} {_SAID[key]}")
    return {**document, "x-prodml": beyond} if beyond else document


_SAID: Mapping[str, str] = {
    "extra": "drops unknown fields here and lets them pass there",
    "on": "repairs rows here that are refused there",
    "rules": "between fields are not checked there",
    "unique": "keys are not checked there",
}
_UNSAID: Mapping[str, str] = {
    "on": "on repairs values here that are refused there",
    "unique": "unique is not checked there",
    "max_null_share": "max_null_share is not checked there",
}


def _property(name: str, wanted: Field) -> dict[str, Any]:
    kind = cast("str", wanted.kind)
    told = wanted.to_dict()
    said = _say_type(kind, nullable=wanted.nullable)
    beyond = {key: told[key] for key in ("null_share", *_UNSAID) if key in told}
    if wanted.categories is not None:
        said["enum"] = [*told["categories"], *([None] if wanted.nullable else [])]
        if kind == "any":
            beyond["kind"] = kind
    said |= {word: told[key] for word, key in _WORDS.items() if key in told}
    for key in sorted(beyond.keys() & _UNSAID.keys()):
        tell(name, _UNSAID[key])
    _say_bounds(name, kind, told, said, beyond)
    if wanted.pattern is not None:
        _say_pattern(name, wanted.pattern, said, beyond)
    return {**said, "x-prodml": beyond} if beyond else said


def _say_type(kind: str, *, nullable: bool) -> dict[str, Any]:
    if kind in _TYPES:
        return {"type": [_TYPES[kind], "null"] if nullable else _TYPES[kind]}
    return {} if nullable else {"not": {"type": "null"}}


def _say_pattern(name: str, pattern: str, said: dict[str, Any], beyond: dict[str, Any]) -> None:
    if PYTHON_ONLY.search(pattern):
        tell(name, "pattern uses what only Python's expressions know")
        beyond["pattern"] = pattern
    else:
        said["pattern"] = f"{_HEAD}{pattern}{_TAIL}"


def _say_bounds(
    name: str, kind: str, told: Mapping[str, Any], said: dict[str, Any], beyond: dict[str, Any]
) -> None:
    bounds = {key: told[key] for key in ("minimum", "maximum") if key in told}
    if kind in {"float", "int"}:
        said |= bounds
    if kind not in {"bytes", "date", "datetime"}:
        return
    beyond |= {"kind": kind, **bounds}
    if kind == "bytes":
        said["contentEncoding"] = "base64"
        beyond |= {key: said.pop(w) for w, key in _WORDS.items() if w in said and key != "default"}
    else:
        said["format"] = _FORMATS[kind]
    tell(name, f"{kind} is text there: only its {'encoding' if kind == 'bytes' else 'format'}")


# -- in -----------------------------------------------------------------------------------


def from_json_schema(document: Mapping[str, Any]) -> dict[str, Any]:
    """Description, as ``Schema.to_dict`` makes it, of what ``document`` accepts.

    Raises
    ------
    BadConfiguration
        No JSON Schema of an object.

    Examples
    --------
    >>> told = from_json_schema({"type": "object", "properties": {"a": {"const": "x"}}})
    >>> told["fields"]
    {'a': {'kind': 'any', 'required': False, 'categories': ['x']}}
    """
    try:
        return _described(document)
    except (AttributeError, OverflowError, TypeError) as error:
        raise BadConfiguration(f"not the JSON Schema of a row: {error}") from error


def _described(document: Mapping[str, Any]) -> dict[str, Any]:
    if document.get("type", "object") != "object":
        raise BadConfiguration(f"a row is an object, not {document.get('type')!r}")
    for word in document.keys() - _TOP:
        tell("", f"{word} is not checked here")
    if "required" not in document and "properties" not in document:
        raise BadConfiguration("a schema of a row has properties")
    beyond = dict(document.get("x-prodml", {}))
    extra = document.get("additionalProperties", True)
    if isinstance(extra, Mapping) and extra:
        tell("", "additionalProperties may be anything here")
    required = list(document.get("required", ()))
    properties: dict[str, Any] = dict.fromkeys(required, True)
    properties |= document.get("properties", {})
    return {
        "format": 1,
        "name": document.get("title", "schema"),
        "extra": beyond.get("extra", "reject" if extra is False else "allow"),
        "on": beyond.get("on", {}),
        "rules": beyond.get("rules", ()),
        "unique": beyond.get("unique", ()),
        "null_alpha": beyond.get("null_alpha", 0.001),
        "fields": {
            name: _field(name, _followed(said, document), required=name in required)
            for name, said in properties.items()
        },
    }


def _followed(said: Any, document: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(32):
        if said is True:
            return {}
        if not isinstance(said, Mapping):
            raise BadConfiguration(f"a property is a schema, not {said!r}")
        said = dict(_merged(cast("Mapping[str, Any]", said)))
        reference = said.get("$ref")
        if reference is None:
            return cast("dict[str, Any]", said)
        said = _beside_reference(said, _found(reference, document))
    raise BadConfiguration("$ref goes round in a circle")


def _beside_reference(said: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    own = {key: value for key, value in said.items() if key != "$ref"}
    for word in sorted((own.keys() & found.keys()) - _REMARKS):
        if own[word] != found[word]:
            tell("", f"{word} beside a $ref goes before that of the $ref here")
    return {**found, **own}


def _merged(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """``said`` with an ``anyOf`` of something and null written as one."""
    options = said.get("anyOf")
    rest = {key: value for key, value in said.items() if key != "anyOf"}
    null = {"type": "null"}
    if not isinstance(options, list) or len(options) != 2 or null not in options:
        return said
    other = next((option for option in options if option != null), None)
    if not isinstance(other, Mapping):
        return said
    return {**rest, **other, "x-null": True}


def _found(reference: Any, document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = document
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise BadConfiguration(f"$ref {reference!r} leads out of the document")
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            raise BadConfiguration(f"$ref {reference!r} leads nowhere")
        found = found[name]
    return cast("Mapping[str, Any]", found)


def _field(name: str, said: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    types: Any = said.get("type", [])
    listed = set(cast("list[str]", [types] if isinstance(types, str) else types))
    beyond = dict(said.get("x-prodml", {}))
    kind = beyond.pop("kind", None) or _kind(name, listed - {"null"}, said)
    nullable = "null" in listed or said.get("x-null", False)
    if not listed and "anyOf" not in said:
        nullable = nullable or said.get("not") != {"type": "null"}
    told: dict[str, Any] = {"kind": kind, "required": required, "nullable": bool(nullable)}
    for word in sorted(said.keys() - _PASSED - {"x-null", "contentEncoding"}):
        if not (word == "not" and said[word] == {"type": "null"}):
            tell(name, f"{word} is not checked here")
    _take_levels(said, told)
    _take_range(name, kind, said, told)
    _take_text(name, kind, said, told)
    if "default" in said:
        told["default"] = said["default"]
    told |= beyond
    blank = {"required": True, "nullable": False}
    return {key: value for key, value in told.items() if blank.get(key, MISS) != value}


def _kind(name: str, types: set[str], said: Mapping[str, Any]) -> str:
    if types == {"integer", "number"}:
        return "float"
    if len(types) == 1 and (kind := _KINDS.get(next(iter(types)))):
        return kind
    if types:
        tell(name, f"type {', '.join(sorted(types))} is not checked here")
    if "anyOf" in said:
        tell(name, "anyOf is not checked here")
    return "any" if types else _kind_of_levels(name, said.get("enum", [said.get("const")]))


def _kind_of_levels(name: str, levels: Sequence[Any]) -> str:
    """Kind of what is listed without a type: true is not 1 there, and equal to it in Python."""
    kinds = {kind_of_type(type(level)) for level in levels if level is not None}
    if kinds and kinds <= {"float", "int"}:
        return "float"
    if {"bool"} < kinds and kinds & {"float", "int"}:
        tell(name, "enum takes true for 1 here")
    return "bool" if kinds == {"bool"} else "any"


def _take_levels(said: Mapping[str, Any], told: dict[str, Any]) -> None:
    levels = [said["const"]] if "const" in said else said.get("enum")
    if levels is None:
        return
    told["categories"] = [level for level in levels if level is not None]
    told["nullable"] = told["nullable"] and None in levels


def _take_range(name: str, kind: str, said: Mapping[str, Any], told: dict[str, Any]) -> None:
    for key, word, away in (
        ("minimum", "exclusiveMinimum", math.inf),
        ("maximum", "exclusiveMaximum", -math.inf),
    ):
        bounds = [said[key]] if key in said else []
        beyond = said.get(word)
        if isinstance(beyond, bool):
            # Drafts up to 4, and OpenAPI 3.0, say of the bound itself that it is left out.
            bounds = [_beside(bound, kind, away) if beyond else bound for bound in bounds]
        elif beyond is not None:
            bounds.append(_beside(beyond, kind, away))
        if bounds and kind not in {"float", "int"}:
            tell(name, f"{key} is not checked here")
        elif bounds:
            told[key] = max(bounds) if away > 0 else min(bounds)


def _beside(bound: float, kind: str, away: float) -> float:
    if kind == "int":
        return math.floor(bound) + 1 if away > 0 else math.ceil(bound) - 1
    return math.nextafter(bound, away)


def _take_text(name: str, kind: str, said: Mapping[str, Any], told: dict[str, Any]) -> None:
    if kind == "str":
        told |= {key: said[w] for w, key in _WORDS.items() if w in said and key != "default"}
        if "pattern" in said:
            told["pattern"] = _whole(said["pattern"])
    for word in ("minLength", "maxLength", "pattern"):
        if word in said and kind not in {"str", "bytes"}:
            tell(name, f"{word} is not checked here")
    if "format" in said and kind not in _FORMATS:
        tell(name, f"format {said['format']!r} is not checked here")


def _whole(pattern: str) -> str:
    """Expression for the whole text of one that is searched for in it."""
    if pattern.startswith(_HEAD) and pattern.endswith(_TAIL):
        return pattern[len(_HEAD) : -len(_TAIL)]
    return rf"[\s\S]*?(?:{scoped(pattern)})[\s\S]*"
