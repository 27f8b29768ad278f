"""How a model becomes bytes and bytes become a model: always named, never guessed at load."""

import json
import pickle
from typing import Any, Protocol, final

from prodml.errors import BadConfiguration
from prodml.registry.bundle import Bundle

__all__ = [
    "BundleSerializer",
    "BytesSerializer",
    "JSONSerializer",
    "PickleSerializer",
    "Serializer",
]


class Serializer(Protocol):
    """Turns a model into bytes or a bundle of files, and back.

    ``name`` is written beside the bytes.  A serializer may have an attribute ``packages``:
    the distributions, beside that of the model's class, whose versions matter at load.
    """

    @property
    def name(self) -> str:
        """Stable name: what was registered under it must stay loadable under it."""
        ...

    def dump(self, model: Any, /) -> bytes | Bundle:
        """Bytes of ``model``, or its files."""
        ...

    def load(self, data: Any, /) -> Any:
        """Model of what :meth:`dump` has made, every byte of it verified."""
        ...


@final
class BytesSerializer:
    """Bytes stay what they are: ONNX files, weights, anything with a format of its own.

    Examples
    --------
    >>> BytesSerializer().load(BytesSerializer().dump(b"weights"))
    b'weights'
    """

    __slots__: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``"bytes"``."""
        return "bytes"

    def dump(self, model: Any, /) -> bytes:
        """Return ``model``, which must be bytes."""
        if not isinstance(model, bytes | bytearray | memoryview):
            raise BadConfiguration(f"{type(model).__name__} is not bytes")
        return bytes(model)

    def load(self, data: bytes, /) -> bytes:
        """Return ``data``."""
        return data


@final
class BundleSerializer:
    """Several files stay what they are: a :class:`~prodml.registry.Bundle` in and out.

    Examples
    --------
    >>> BundleSerializer().dump(Bundle({"weights": b"1"}))["weights"]
    b'1'
    """

    __slots__: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``"bundle"``."""
        return "bundle"

    def dump(self, model: Any, /) -> Bundle:
        """Return ``model``, which must be a bundle."""
        if not isinstance(model, Bundle):
            raise BadConfiguration(f"{type(model).__name__} is not a Bundle: use Bundle.read(...)")
        return model

    def load(self, data: Bundle, /) -> Bundle:
        """Return ``data``."""
        return data


@final
class JSONSerializer:
    """Plain data (coefficients, rules, settings) as JSON.

    Refuses what JSON would change on the way, such as tuples, NaN or number keys.

    Examples
    --------
    >>> JSONSerializer().dump({"b": 2, "a": [1.5]})
    b'{"a":[1.5],"b":2}'
    """

    __slots__: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``"json"``."""
        return "json"

    def dump(self, model: Any, /) -> bytes:
        """UTF-8 text with sorted keys."""
        try:
            text = json.dumps(model, sort_keys=True, separators=(",", ":"), allow_nan=False)
            same = json.loads(text) == model
        except (TypeError, ValueError) as error:
            raise BadConfiguration(f"not plain JSON data: {error}") from None
        if not same:
            raise BadConfiguration(
                "not plain JSON data: only dictionaries with text keys, lists, text, numbers, "
                "booleans and None come back as they went"
            )
        return text.encode()

    def load(self, data: bytes, /) -> Any:
        """Parse ``data``."""
        return json.loads(data)


@final
class PickleSerializer:
    """Python's pickle, for those who trust everybody who can write to the registry.

    Loading a pickle runs code that its author chose.  The digest proves that the bytes are
    those that were registered, not that whoever registered them meant well.  Nothing in
    the library uses this class unless it is handed one.

    Parameters
    ----------
    trusted
        Must be True; says that you accept the above.
    protocol
        Pickle protocol; the default reads on every supported Python.

    Examples
    --------
    >>> PickleSerializer()
    Traceback (most recent call last):
    prodml.errors.BadConfiguration: pickle runs code of whoever wrote the bytes: ...
    >>> pickled = PickleSerializer(trusted=True)
    >>> pickled.load(pickled.dump((1, 2)))
    (1, 2)
    """

    __slots__: tuple[str, ...] = ("_protocol",)

    def __init__(self, *, trusted: bool = False, protocol: int = 5) -> None:
        if trusted is not True:
            raise BadConfiguration(
                "pickle runs code of whoever wrote the bytes: pass trusted=True if only people "
                "you trust can write to the registry, or use another serializer"
            )
        self._protocol: int = protocol

    @property
    def name(self) -> str:
        """``"pickle"``."""
        return "pickle"

    def dump(self, model: Any, /) -> bytes:
        """Pickle ``model``."""
        return pickle.dumps(model, protocol=self._protocol)

    def load(self, data: bytes, /) -> Any:
        """Unpickle ``data``."""
        return pickle.loads(data)  # noqa: S301
