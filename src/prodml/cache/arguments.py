"""Which function is called, with which features, version and other arguments."""

import inspect
import weakref
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple
from uuid import uuid4

from prodml.cache.keys import canonical, home_of
from prodml.cache.typed import AnswerType, returns
from prodml.errors import BadConfiguration

__all__ = ["NO_EXTRA", "Arguments", "Call", "function_id"]

NO_EXTRA: Final = canonical({})
"""Canonical bytes of no other arguments."""

_ANONYMOUS: Final["weakref.WeakKeyDictionary[Any, str]"] = weakref.WeakKeyDictionary()


def function_id(fn: str | Callable[..., Any]) -> str:
    """Name that stands for ``fn`` in keys: its module and qualified name, or the text given.

    A function of the program itself goes by the name of the program, see
    :func:`~prodml.cache.keys.home_of`.  A lambda, a function made inside another or typed
    into a session, a partial or a bound method has no name that means the same elsewhere
    (two models may hide behind it), so it gets a random one: its entries live as long as
    this object and are shared with no other process.

    Examples
    --------
    >>> import json
    >>> function_id(json.dumps), function_id("fraud")
    ('json.dumps', 'fraud')
    >>> function_id(lambda x: x) == function_id(lambda x: x)
    False
    """
    if isinstance(fn, str):
        return fn
    inner = inspect.unwrap(fn)
    name = getattr(inner, "__qualname__", "<")
    home = home_of(inner) if _is_plain(inner) and "<" not in name else None
    if home is not None:
        return f"{home}.{name}"
    try:
        return _ANONYMOUS.setdefault(inner, f"<{uuid4().hex}>")
    except TypeError:
        return f"<{uuid4().hex}>"


def _is_plain(fn: Any) -> bool:
    if isinstance(fn, BuiltinFunctionType):
        # A method of an object written in C is of this type, too.
        return isinstance(fn.__self__, ModuleType)
    return isinstance(fn, FunctionType)


class Call(NamedTuple):
    """What a call says: its features, version (None if not given) and canonical others."""

    features: Any
    version: Any
    extra: bytes


class Arguments:
    """Reads the calls of one function.

    Parameters
    ----------
    fn
        The function; its first argument is the features, and unless ``versioned``, its
        second the model version.
    function
        Name in keys; by default :func:`function_id` of ``fn``.
    versioned
        The version comes from elsewhere.
    batch
        ``fn`` answers many rows at once.

    Examples
    --------
    >>> def predict(features, model_version, threshold=0.5): ...
    >>> arguments = Arguments(predict, versioned=False)
    >>> one = arguments.read(({"a": 1}, "v1", 0.5), {})
    >>> one == arguments.read(({"a": 1},), {"threshold": 0.5, "model_version": "v1"})
    True
    """

    __slots__: tuple[str, ...] = (
        *("_names", "_signature"),
        *("answer", "bare", "function", "usual", "whole"),
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        function: str | None = None,
        versioned: bool,
        batch: bool = False,
    ) -> None:
        self.answer: AnswerType | None = returns(fn, rows=batch)
        self.whole: AnswerType | None = returns(fn) if batch else self.answer
        self.function: str = function_id(fn if function is None else function)
        self.bare: int = 1 if versioned else 2
        self._signature: inspect.Signature | None = _signature(fn)
        self._names: tuple[str, ...] = _first_names(self._signature, self.bare)
        self.usual: bytes | None = self._usual()

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Parts of the call ``fn(*args, **kwargs)``.

        Raises
        ------
        TypeError
            The call does not fit the function, or another argument cannot be named.
        """
        if self.usual is not None and not kwargs and len(args) == self.bare:
            return Call(args[0], args[1] if self.bare == 2 else None, self.usual)
        if self._signature is None or not self._names:
            if len(args) < self.bare:
                raise TypeError("features and version must come first")
            rest = canonical([args[self.bare :], kwargs])
            return Call(args[0], args[1] if self.bare == 2 else None, rest)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        first = [given.pop(name) for name in self._names]
        return Call(first[0], first[1] if self.bare == 2 else None, canonical(given))

    def swap(
        self, rows: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the same call for other ``rows``."""
        if args:
            return (rows, *args[1:]), dict(kwargs)
        return (), {**kwargs, self._names[0]: rows}

    def _usual(self) -> bytes | None:
        if self._signature is None:
            return None
        try:
            bound = self._signature.bind(*range(self.bare))
            bound.apply_defaults()
            given = {n: v for n, v in bound.arguments.items() if n not in self._names}
            return canonical(given) if self._names else None
        except TypeError:
            return None


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        # Some functions written in C do not tell.
        return None


def _first_names(signature: inspect.Signature | None, count: int) -> tuple[str, ...]:
    if signature is None:
        return ()
    places = list(signature.parameters.values())
    named = [p.name for p in places if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    if len(named) >= count:
        return tuple(named[:count])
    if any(p.kind is p.VAR_POSITIONAL for p in places):
        return ()
    raise BadConfiguration(
        "a cached function takes the features first and the model version second; "
        "if the version is not an argument, pass version='...' or a function to the decorator"
    )
