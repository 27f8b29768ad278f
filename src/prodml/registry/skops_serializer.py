"""scikit-learn models without pickle: skops, with a list of the types that may be built."""

from collections.abc import Sequence
from typing import Any, final

from prodml.errors import BadConfiguration, UntrustedModel

__all__ = ["SkopsSerializer"]


@final
class SkopsSerializer:
    """scikit-learn estimators by skops, which builds only types that it knows or you allow.

    skops knows scikit-learn, numpy and scipy; ``trusted`` names the others in full.  Read
    each before you allow it, and write the list down in code: a list that was made from the
    file (``get_untrusted_types``) allows whatever its author chose.  Extra ``skops``.

    Parameters
    ----------
    trusted
        Full names of further types and functions.

    Raises
    ------
    BadConfiguration
        ``trusted`` is no list of names; at ``dump``, the model needs a type that is not
        allowed, or skops is not installed.
    UntrustedModel
        At ``load``: the bytes ask for a type that is not allowed; nothing was built.

    Examples
    --------
    >>> SkopsSerializer(trusted=["lightgbm.sklearn.LGBMClassifier"]).trusted
    ('lightgbm.sklearn.LGBMClassifier',)
    >>> SkopsSerializer(trusted=True)
    Traceback (most recent call last):
    prodml.errors.BadConfiguration: trusted must be a list of full type names, not True
    """

    __slots__: tuple[str, ...] = ("trusted",)

    packages: tuple[str, ...] = ("numpy", "scikit-learn", "scipy", "skops")

    def __init__(self, *, trusted: Sequence[str] = ()) -> None:
        names: Any = trusted
        listed = isinstance(names, Sequence) and not isinstance(names, str | bytes)
        if not listed or not all(isinstance(name, str) for name in names):
            raise BadConfiguration(f"trusted must be a list of full type names, not {trusted!r}")
        self.trusted: tuple[str, ...] = tuple(trusted)

    @property
    def name(self) -> str:
        """``"skops"``."""
        return "skops"

    def dump(self, model: Any, /) -> bytes:
        """Bytes of ``model``, which this serializer can also load."""
        io, _ = _skops()
        data = bytes(io.dumps(model))
        unknown = sorted(set(io.get_untrusted_types(data=data)) - {*self.trusted})
        if unknown:
            raise BadConfiguration(
                f"the model needs types that are not allowed: {', '.join(unknown)}; read them, "
                "then name them in SkopsSerializer(trusted=[...])"
            )
        return data

    def load(self, data: bytes, /) -> Any:
        """Model of ``data``."""
        io, untrusted = _skops()
        try:
            return io.loads(data, trusted=list(self.trusted))
        except untrusted as error:
            raise UntrustedModel("skops", str(error)) from error


def _skops() -> tuple[Any, Any]:
    try:
        from skops import io
        from skops.io.exceptions import UntrustedTypesFoundException
    except ModuleNotFoundError:
        raise BadConfiguration(
            "SkopsSerializer needs the package skops: pip install 'prodml[skops]'"
        ) from None
    return io, UntrustedTypesFoundException
