"""What a function says that it answers, as a check for what comes out of a cache.

The check is exact: a float is no int, and 1 is never turned into 1.0, since a cached
answer must be the one computed.  Scalars of numpy pass for what they extend in Python.
Records (dataclasses, structs of msgspec, named tuples, enumerations) that an annotation
names can be stored; others cannot.  What an annotation leaves open is not checked.
"""

import collections.abc
import inspect
import types
import typing
import weakref
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from typing import Any, Final, TypeAlias, Union, get_args, get_origin

from prodml.cache.codecs import Codec, ValueCodec, fields_of
from prodml.errors import CorruptRecord

__all__ = ["AnswerType", "checker", "kept_by", "returns"]

Check: TypeAlias = Callable[[Any], bool]
Records: TypeAlias = dict[type, Check]

_SCALARS: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})
_NUMPY: Final = {
    "bool": bool,
    "bool_": bool,
    "bytes_": bytes,
    "complexfloating": complex,
    "floating": float,
    "integer": int,
    "str_": str,
}
_PLAIN: Final = frozenset({"builtins", "datetime", "decimal", "uuid"})
_AWAITED: Final = frozenset({collections.abc.Awaitable, collections.abc.Coroutine})
_ROWS: Final = frozenset({list, tuple, collections.abc.Sequence})


def returns(fn: Callable[..., Any], *, rows: bool = False) -> "AnswerType | None":
    """What ``fn`` says that it answers; None if it does not, or says it too vaguely.

    Parameters
    ----------
    rows
        ``fn`` answers many rows at once: what it says about one of them.

    Examples
    --------
    >>> def predict(features) -> float | None: ...
    >>> returns(predict).fits(0.5), returns(predict).fits("text"), returns(print)
    (True, False, None)
    """
    said = _annotation(fn)
    return _answer(_row(said) if rows else said)


def kept_by(fn: str | Callable[..., Any]) -> "AnswerType | None":
    """What the entries of ``fn`` are, whether it answers one row or many at once.

    Examples
    --------
    >>> def score(rows) -> list[float]: ...
    >>> kept_by(score).fits(0.5), kept_by(score).fits("text"), kept_by("score")
    (True, False, None)
    """
    if isinstance(fn, str):
        return None
    try:
        if fn not in _KEPT:
            _KEPT[fn] = _either(_annotation(fn))
        return _KEPT[fn]
    except TypeError:
        # Neither hashable nor weakly known.
        return None


_KEPT: Final["weakref.WeakKeyDictionary[Any, AnswerType | None]"] = weakref.WeakKeyDictionary()


def _either(said: Any) -> "AnswerType | None":
    origin = get_origin(said) or said
    if origin in _ROWS:
        return _answer(said | _row(said)) if get_args(said) else None
    # Arrays and series may be one answer or a batch of others.
    outside = getattr(origin, "__module__", "").split(".")[0] in {"numpy", "pandas", "polars"}
    return None if outside else _answer(said)


def _row(said: Any) -> Any:
    parts = [part for part in get_args(said) if part is not Ellipsis]
    return parts[0] if get_origin(said) in _ROWS and len(parts) == 1 else Any


def _answer(said: Any) -> "AnswerType | None":
    try:
        answer = AnswerType(said)
    except Exception:
        # As in _annotation.
        return None
    return None if answer.vague else answer


def _annotation(fn: Callable[..., Any]) -> Any:
    try:
        while isinstance(fn, partial):
            fn = fn.func
        inner: Any = inspect.unwrap(fn)
        if not hasattr(inner, "__annotations__") and callable(inner):
            inner = type(inner).__call__
        said = inner.__annotations__["return"]
        names = getattr(inner, "__globals__", {})
        alone = types.SimpleNamespace(__annotations__={"return": said})
        return typing.get_type_hints(alone, names)["return"]
    except Exception:
        # Names that exist for type checkers only, and whatever else annotations do.
        return Any


class AnswerType:
    """One annotation: which values it admits, and which records they may hold.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Score:
    ...     value: float
    >>> answer = AnswerType(Score)
    >>> answer.codec.decode(answer.codec.encode(Score(0.5)))
    Score(value=0.5)
    >>> answer.fits(Score(0.5)), answer.fits(Score("text"))
    (True, False)
    """

    __slots__: tuple[str, ...] = ("_check", "_exact", "codec", "vague")

    def __init__(self, annotation: Any) -> None:
        records: Records = {}
        check = checker(annotation, records)
        self._check: Check = _anything if check is None else check
        self._exact: frozenset[type] = check.types if isinstance(check, _Scalar) else frozenset()
        self.codec: ValueCodec = ValueCodec(*records)
        self.vague: bool = check is None and not records

    def fits(self, value: Any) -> bool:
        """Whether ``value`` is what was said; never raises."""
        if type(value) in self._exact:
            return True
        try:
            return self._check(value)
        except Exception:
            # Values may be objects of anyone's making, nested beyond reason.
            return False

    def decoder(self, codec: Codec | None = None) -> Callable[[bytes], Any]:
        """What decodes bodies, by ``codec`` or else by its own, and lets only answers pass.

        It raises :class:`~prodml.errors.CorruptRecord` for others.
        """
        decode, exact, fits = (codec or self.codec).decode, self._exact, self.fits

        def decoded(body: bytes) -> Any:
            value = decode(body)
            if type(value) in exact or fits(value):
                return value
            raise CorruptRecord("cached value", "not what the function says it answers")

        return decoded


def _anything(_: Any) -> bool:
    return True


class _Scalar:
    """Values of exactly these types, or scalars of numpy that extend one of them."""

    def __init__(self, names: Iterable[type]) -> None:
        self.types: frozenset[type] = frozenset(names)

    def __call__(self, value: Any) -> bool:
        cls = type(value)
        if cls in self.types:
            return True
        return cls.__module__ == "numpy" and not self.types.isdisjoint(_bases(cls))


def _bases(cls: type) -> frozenset[type]:
    found = _BASES.get(cls)
    if found is None:
        names = {base.__name__ for base in cls.__mro__}
        # numpy counts durations among the integers.
        scalar = "generic" in names and "timedelta64" not in names
        bases = [_NUMPY[name] for name in names & _NUMPY.keys()] if scalar else []
        found = _BASES[cls] = frozenset(bases)
    return found


_BASES: Final[dict[type, frozenset[type]]] = {}


def checker(annotation: Any, records: Records | None = None) -> Check | None:
    """Check for values of ``annotation``, or None if it admits anything.

    Classes of records are added to ``records``, each with its check.

    Examples
    --------
    >>> check = checker(dict[str, list[float]])
    >>> check({"a": [0.5]}), check({"a": [1]})
    (True, False)
    >>> checker(object) is None
    True
    """
    return _checker(annotation, {} if records is None else records)


def _checker(said: Any, records: Records) -> Check | None:
    said = _resolved(said)
    if said is Any or said is object:
        return None
    if said is None or said in _SCALARS:
        return _Scalar([type(None) if said is None else said])
    origin, parts = get_origin(said) or said, get_args(said)
    if origin in _FORMS:
        return _FORMS[origin](parts, records)
    if typing.is_typeddict(origin):
        return _typed_dict(origin, records)
    if not isinstance(origin, type) or getattr(origin, "_is_protocol", False):
        return None
    if origin.__module__ == "collections.abc":
        return _abstract(origin, parts, records)
    return _array(origin, parts) if origin.__module__ == "numpy" else _concrete(origin, records)


def _resolved(said: Any) -> Any:
    """What stands behind NewType, ``type X = ...`` and Annotated."""
    while not isinstance(said, type):
        under: Any = getattr(said, "__supertype__", None) or getattr(said, "__value__", None)
        if get_origin(said) is typing.Annotated:
            under = get_args(said)[0]
        elif getattr(under, "__parameters__", None) and get_args(said):
            # ``type X[T] = ...``, asked for with something in place of T.
            under = under[get_args(said)]
        if under is None:
            break
        said = under
    return said


def _abstract(cls: type, parts: tuple[Any, ...], records: Records) -> Check | None:
    if cls in _AWAITED:
        return None
    if issubclass(cls, collections.abc.Mapping):
        return _mapping_of(parts, records)
    item = _checker(parts[0], records) if len(parts) == 1 else None
    return partial(_abstract_items, cls, item)


def _concrete(cls: type, records: Records) -> Check | None:
    if issubclass(cls, Enum) or fields_of(cls):
        return _record(cls, records)
    return partial(_exactly if cls.__module__ in _PLAIN else _any_of, cls)


def _exactly(cls: type, value: Any) -> bool:
    return type(value) is cls


def _any_of(cls: type, value: Any) -> bool:
    return isinstance(value, cls)


def _literal(words: frozenset[tuple[type, Any]], value: Any) -> bool:
    return (type(value), value) in words


def _literal_of(parts: tuple[Any, ...], _: Records) -> Check:
    return partial(_literal, frozenset((type(part), part) for part in parts))


def _union_of(parts: tuple[Any, ...], records: Records) -> Check | None:
    checks = [_checker(part, records) for part in parts]
    known = [check for check in checks if check is not None]
    if len(known) < len(checks):
        return None
    scalars = [check.types for check in known if isinstance(check, _Scalar)]
    others = [check for check in known if not isinstance(check, _Scalar)]
    scalar = _Scalar(frozenset().union(*scalars))
    return partial(_one_of, [scalar, *others]) if others else scalar


def _items_of(cls: type, parts: tuple[Any, ...], records: Records) -> Check:
    return partial(_items, cls, _checker(parts[0], records) if parts else None)


def _mapping_of(parts: tuple[Any, ...], records: Records) -> Check:
    key, value = [_checker(part, records) for part in parts] or [None, None]
    return partial(_mapping, key, value)


def _tuple_of(parts: tuple[Any, ...], records: Records) -> Check:
    if not parts:
        return partial(_exactly, tuple)
    if parts[-1] is Ellipsis:
        return partial(_items, tuple, _checker(parts[0], records))
    return partial(_places, [_checker(part, records) for part in parts])


def _one_of(checks: list[Check], value: Any) -> bool:
    return any(check(value) for check in checks)


def _all(check: Check | None, values: Any) -> bool:
    if check is None:
        return True
    if isinstance(check, _Scalar) and check.types.issuperset(map(type, values)):
        return True
    return all(map(check, values))


def _items(cls: type, item: Check | None, value: Any) -> bool:
    return type(value) is cls and _all(item, value)


def _abstract_items(cls: type, item: Check | None, value: Any) -> bool:
    return isinstance(value, cls) and (type(value) not in {list, tuple} or _all(item, value))


def _mapping(key: Check | None, item: Check | None, value: Any) -> bool:
    return type(value) is dict and _all(key, value) and _all(item, value.values())


def _places(checks: list[Check | None], value: Any) -> bool:
    return type(value) is tuple and len(value) == len(checks) and _each(checks, value)


def _each(checks: Iterable[Check | None], values: Iterable[Any]) -> bool:
    return all(c is None or c(v) for c, v in zip(checks, values, strict=True))


def _typed_dict(cls: Any, records: Records) -> Check:
    hints = typing.get_type_hints(cls)
    items = {name: _checker(hint, records) for name, hint in hints.items()}
    return partial(_named, items, cls.__required_keys__)


def _named(items: dict[str, Check | None], required: frozenset[str], value: Any) -> bool:
    if type(value) is not dict or not required <= value.keys():
        return False
    present = [name for name in items if name in value]
    return _each([items[name] for name in present], [value[name] for name in present])


def _array(cls: type, parts: tuple[Any, ...]) -> Check:
    kinds = get_args(parts[1]) if cls.__name__ == "ndarray" and len(parts) == 2 else ()
    kind = (get_origin(kinds[0]) or kinds[0]) if kinds else None
    if isinstance(kind, type) and kind is not Any:
        return partial(_array_of, cls, kind)
    return partial(_any_of, cls)


def _array_of(cls: Any, kind: type, value: Any) -> bool:
    return type(value) is cls and issubclass(value.dtype.type, kind)


def _record(cls: Any, records: Records) -> Check | None:
    if cls in records:
        # Looked up when it is asked, since a record may hold records of its own class.
        return partial(_of_record, records, cls)
    if not (issubclass(cls, Enum | tuple) or _constructible(cls)):
        return partial(_any_of, cls)
    records[cls] = partial(_exactly, cls)
    if not issubclass(cls, Enum):
        hints = _hints(cls)
        names = fields_of(cls)
        checks = [_checker(hints.get(name, Any), records) for name in names]
        records[cls] = partial(_fields, cls, names, checks)
    return records[cls]


def _of_record(records: Records, cls: type, value: Any) -> bool:
    return records[cls](value)


def _constructible(cls: Any) -> bool:
    """Whether an instance has no state but its attributes."""
    return cls.__new__ is object.__new__ or hasattr(cls, "__struct_fields__")


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception:
        # As in _annotation.
        return {}


def _fields(cls: type, names: tuple[str, ...], checks: list[Check | None], value: Any) -> bool:
    return type(value) is cls and _each(checks, [getattr(value, name) for name in names])


_FORMS: Final[dict[Any, Callable[[tuple[Any, ...], Records], Check | None]]] = {
    typing.Literal: _literal_of,
    Union: _union_of,
    types.UnionType: _union_of,
    list: partial(_items_of, list),
    set: partial(_items_of, set),
    frozenset: partial(_items_of, frozenset),
    tuple: _tuple_of,
    dict: _mapping_of,
}
