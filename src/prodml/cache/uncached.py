"""How a computation says that its answer is not to be kept."""

from typing import Generic, TypeVar

__all__ = ["Uncached"]

T = TypeVar("T")


class Uncached(Generic[T]):
    """An answer that must not be kept: ``compute`` returns it in place of the answer.

    Callers who waited for it get ``value`` too, the same object.

    Examples
    --------
    >>> Uncached(0.5).value
    0.5
    """

    __slots__: tuple[str, ...] = ("value",)

    def __init__(self, value: T) -> None:
        self.value: T = value
