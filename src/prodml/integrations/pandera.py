"""Schemas for pandera and from it: ``to_pandera(schema)`` and ``from_pandera(theirs)``.

Batches of pandas or polars are then checked where pandera is at home, in tests and pipelines,
by what was learnt for serving; or a pandera schema guards single rows, which pandera cannot
do at a row's price.  What one side cannot say is told by a
:class:`~prodml.validation.NotExpressed` warning each, and kept in pandera's ``metadata``,
from which it comes back.
"""

import math
from collections.abc import Callable, Mapping
from sys import float_info
from typing import Any, Literal, TypeAlias, cast

from prodml.errors import BadConfiguration
from prodml.validation import Field, Schema
from prodml.validation.not_expressed import tell
from prodml.validation.pattern import scoped

__all__ = ["from_pandera", "to_pandera"]

Backend: TypeAlias = Literal["pandas", "polars"]
_KEPT = ("default", "null_share", "on", "max_null_share", "pattern")
_MOST = float_info.max


def to_pandera(schema: Schema, *, backend: Backend = "pandas") -> Any:
    """``DataFrameSchema`` of pandera that gives a frame the verdict of ``validate_batch``.

    Parameters
    ----------
    schema
        What to express.
    backend
        ``"pandas"`` or ``"polars"``.

    Returns
    -------
    pandera.DataFrameSchema
        Of that backend.  Columns must have the plain dtype (``float64``, ``int64``,
        ``bool``, text, ``datetime64[us]``; ``Int64`` and ``boolean`` in pandas where nulls
        are welcome), where prodml also takes narrower ones and ints for floats.

    Warns
    -----
    NotExpressed
        For each setting that pandera will not check: actions, ``max_null_share``, rules
        between fields, a second key, the kinds ``bytes`` and ``date`` in pandas.

    Raises
    ------
    BadConfiguration
        An unknown backend.

    Examples
    --------
    >>> from prodml.validation import Field
    >>> theirs = to_pandera(Schema({"age": Field(int, minimum=0)}))  # doctest: +SKIP
    >>> theirs.columns["age"].checks  # doctest: +SKIP
    [<Check greater_than_or_equal_to: greater_than_or_equal_to(0)>]
    """
    if backend not in {"pandas", "polars"}:
        raise BadConfiguration(f"backend must be pandas or polars, not {backend!r}")
    theirs = _backend(backend)
    told = schema.to_dict()
    kept = {key: told[key] for key in ("on", "rules", "null_alpha") if told.get(key)}
    for key in ("on", "rules"):
        if key in kept:
            tell("", f"{key}: not known to pandera")
    keys = told["unique"]
    if len(keys) > 1:
        kept["unique"] = keys[1:]
        tell("", "unique: pandera checks one key, the others are not checked")
    strict: Any = {"allow": False, "reject": True, "drop": "filter"}[schema.extra]
    return theirs.DataFrameSchema(
        {name: _column(theirs, backend, name, field) for name, field in schema.fields.items()},
        strict=strict,
        unique=keys[0] if keys else None,
        name=schema.name,
        metadata={"prodml": kept},
    )


def _backend(name: Backend) -> Any:
    import importlib

    return importlib.import_module(f"pandera.{name}")


def _column(theirs: Any, backend: Backend, name: str, field: Field) -> Any:
    told = field.to_dict()
    kept = {key: told[key] for key in _KEPT if key in told}
    for key in sorted(kept.keys() & {"on", "max_null_share"}):
        tell(name, f"{key}: not known to pandera")
    if field.unique and field.nullable:
        tell(name, "unique: pandera takes two nulls for a repeated value")
    return theirs.Column(
        _dtype(backend, name, field),
        _checks(theirs, backend, name, field),
        nullable=field.nullable,
        unique=field.unique,
        required=field.required,
        metadata={"prodml": {"kind": field.kind, **kept}},
    )


_PANDAS: Mapping[str, Any] = {"float": "float64", "int": "int64", "bool": "bool", "str": str}
_NULLABLE = {"int": "Int64", "bool": "boolean"}


def _dtype(backend: Backend, name: str, field: Field) -> Any:
    kind = cast("str", field.kind)
    zone = next((m.tzinfo for m in (field.minimum, field.maximum) if hasattr(m, "tzinfo")), None)
    if backend == "polars":
        return _polars_dtype(kind, zone)
    if kind == "datetime":
        return "datetime64[us]" if zone is None else f"datetime64[us, {zone}]"
    if kind in {"bytes", "date"}:
        tell(name, f"kind {kind}: pandas has no such dtype, any is taken")
    plain = _PANDAS.get(kind)
    return _NULLABLE.get(kind, plain) if field.nullable else plain


def _polars_dtype(kind: str, zone: Any) -> Any:
    import polars as pl

    if kind == "datetime":
        return pl.Datetime("us", None if zone is None else str(zone))
    known: Mapping[str, Any] = {
        "float": pl.Float64,
        "int": pl.Int64,
        "bool": pl.Boolean,
        "str": pl.String,
        "bytes": pl.Binary,
        "date": pl.Date,
    }
    return known.get(kind)


def _checks(theirs: Any, backend: Backend, name: str, field: Field) -> list[Any]:
    make = theirs.Check
    checks: list[Any] = []
    low, high = field.minimum, field.maximum
    if field.kind == "float":
        # Infinities lie beyond all floats.
        low, high = -_MOST if low is None else low, _MOST if high is None else high
    if low is not None:
        checks.append(make.ge(low))
    if high is not None:
        checks.append(make.le(high))
    if (field.min_length, field.max_length) != (None, None):
        if field.kind == "str":
            checks.append(make.str_length(field.min_length, field.max_length))
        else:
            tell(name, "length of bytes: not known to pandera")
    if field.pattern is not None:
        # Their expressions are anchored at the start only, and polars' engine is Rust's.
        end = r"\Z" if backend == "pandas" else "$"
        pattern = f"^(?:{scoped(field.pattern)}){end}"
        if _knows(backend, pattern):
            checks.append(make.str_matches(pattern))
        else:
            tell(name, f"pattern: not known to {backend}")
    if field.categories is not None:
        checks.append(make.isin(list(field.categories)))
    return checks


def _knows(backend: Backend, pattern: str) -> bool:
    import importlib

    # Texts of Arrow are matched by RE2, those of polars by Rust's engine: neither knows all.
    texts = importlib.import_module(backend).Series([""]).str
    try:
        texts.match(pattern) if backend == "pandas" else texts.contains(pattern)
    except Exception:
        # Each engine has errors of its own.
        return False
    return True


# -- in -----------------------------------------------------------------------------------


def from_pandera(theirs: Any) -> Schema:
    """Schema that gives a frame the verdict of a ``DataFrameSchema`` of pandera.

    Parameters
    ----------
    theirs
        Of pandas or polars; a ``DataFrameModel`` is asked for ``to_schema()`` first.

    Warns
    -----
    NotExpressed
        For each check, parser or setting that is not checked here.

    Examples
    --------
    >>> import pandera.pandas as pa  # doctest: +SKIP
    >>> theirs = pa.DataFrameSchema({"age": pa.Column(int, pa.Check.ge(0))})  # doctest: +SKIP
    >>> print(from_pandera(theirs))  # doctest: +SKIP
    schema (extra fields: allow)
      age  int   at least 0
    """
    if isinstance(theirs, type) and hasattr(theirs, "to_schema"):
        theirs = cast("Any", theirs).to_schema()
    for setting in ("checks", "parsers", "index", "coerce", "ordered", "add_missing_columns"):
        if getattr(theirs, setting, None):
            tell("", f"{setting}: not checked here")
    kept = (theirs.metadata or {}).get("prodml", {})
    first = theirs.unique
    keys = [[first] if isinstance(first, str) else list(first)] if first else []
    return Schema.from_dict(
        {
            "format": 1,
            "name": theirs.name or "schema",
            "extra": {True: "reject", "filter": "drop"}.get(theirs.strict, "allow"),
            "on": kept.get("on", {}),
            "rules": kept.get("rules", ()),
            "unique": [*keys, *kept.get("unique", ())],
            "null_alpha": kept.get("null_alpha", 0.001),
            "fields": {name: _field(name, column) for name, column in theirs.columns.items()},
        }
    )


def _field(name: str, column: Any) -> dict[str, Any]:
    kept = dict((column.metadata or {}).get("prodml", {}))
    told: dict[str, Any] = {
        "kind": kept.pop("kind", None) or _kind(name, column.dtype),
        "required": column.required,
        "nullable": column.nullable,
        "unique": column.unique,
    }
    for setting in ("coerce", "regex", "parsers", "drop_invalid_rows"):
        if getattr(column, setting, None):
            tell(name, f"{setting}: not done here")
    if getattr(column, "default", None) is not None:
        told["default"] = column.default
        told["on"] = {"missing": "impute"}
    for check in column.checks:
        take = _CHECKS.get(check.name)
        said = check.statistics or {}
        if take is None or check.raise_warning or not _fits(told, check.name, said):
            tell(name, f"check {check.name or check.error}: not checked here")
        else:
            take(told, said)
    return {**told, **kept}


def _fits(told: Mapping[str, Any], check: str, said: Mapping[str, Any]) -> bool:
    """Whether a field of this kind can hold ``check`` beside what it holds already."""
    kind: str = told["kind"]
    if check == "str_length":
        return kind == "str"
    if check == "str_matches":
        return kind == "str" and "pattern" not in told
    if check in {"isin", "equal_to"}:
        return True
    open_end = check in {"greater_than", "less_than"} or False in said.values()
    kinds = {"float", "int"} if open_end else {"float", "int", "date", "datetime"}
    return kind in kinds


_PREFIXES = (
    ("float", "float"),
    ("int", "int"),
    ("uint", "int"),
    ("bool", "bool"),
    ("str", "str"),
    ("datetime", "datetime"),
    ("date", "date"),
    ("binary", "bytes"),
)
_OTHERS = ("interval", "struct")


def _kind(name: str, dtype: Any) -> str:
    if dtype is None:
        return "any"
    text = str(dtype).lower()
    for prefix, kind in _PREFIXES:
        if text.startswith(prefix) and not text.startswith(_OTHERS):
            return kind
    tell(name, f"dtype {dtype}: not checked here")
    return "any"


def _tighten(told: dict[str, Any], key: str, bound: Any) -> None:
    if isinstance(bound, float) and abs(bound) >= _MOST and (bound < 0) == (key == "minimum"):
        # Every number is within it.
        return
    old = told.get(key)
    pick = max if key == "minimum" else min
    told[key] = bound if old is None else pick(old, bound)


def _beside(told: Mapping[str, Any], bound: Any, way: float) -> Any:
    if told["kind"] == "int" and math.isfinite(bound):
        return math.floor(bound) + 1 if way > 0 else math.ceil(bound) - 1
    return math.nextafter(bound, way)


def _at_least(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    _tighten(told, "minimum", said["min_value"])


def _above(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    _tighten(told, "minimum", _beside(told, said["min_value"], math.inf))


def _at_most(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    _tighten(told, "maximum", said["max_value"])


def _below(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    _tighten(told, "maximum", _beside(told, said["max_value"], -math.inf))


def _between(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    (_at_least if said.get("include_min", True) else _above)(told, said)
    (_at_most if said.get("include_max", True) else _below)(told, said)


def _levels(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    levels = list(said.get("allowed_values", [said.get("value")]))
    before = told.get("categories", levels)
    told["categories"] = [level for level in levels if level in before]


def _length(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    exact = said.get("exact_value")
    for key, word, pick in (("min_length", "min_value", max), ("max_length", "max_value", min)):
        ends = [told.get(key), said.get(word) if exact is None else exact]
        known = [end for end in ends if end is not None]
        told[key] = pick(known) if known else None


def _pattern(told: dict[str, Any], said: Mapping[str, Any]) -> None:
    pattern = getattr(said["pattern"], "pattern", said["pattern"])
    for end in (r"\Z", "$"):
        if pattern.startswith("^(?:") and pattern.endswith(")" + end):
            told["pattern"] = pattern[4 : -1 - len(end)]
            return
    told["pattern"] = rf"(?:{pattern})[\s\S]*"


_CHECKS: Mapping[str, Callable[[dict[str, Any], Mapping[str, Any]], None]] = {
    "greater_than_or_equal_to": _at_least,
    "greater_than": _above,
    "less_than_or_equal_to": _at_most,
    "less_than": _below,
    "in_range": _between,
    "isin": _levels,
    "equal_to": _levels,
    "str_length": _length,
    "str_matches": _pattern,
}
