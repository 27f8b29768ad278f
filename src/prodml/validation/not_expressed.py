"""What one language of schemas cannot say in another's words."""

import warnings

__all__ = ["NotExpressed", "tell"]


class NotExpressed(UserWarning):
    """A setting got lost on the way from one language of schemas to another.

    Parameters
    ----------
    where
        The field or place in the document; empty for the schema as a whole.
    what
        The setting, and what becomes of it.

    Examples
    --------
    >>> str(NotExpressed("age", "unique is not checked"))
    'age: unique is not checked'
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where: str = where
        self.what: str = what

    def __str__(self) -> str:
        return f"{self.where or 'schema'}: {self.what}"


def tell(where: str, what: str) -> None:
    """Warn of one setting that is lost."""
    warnings.warn(NotExpressed(where, what), stacklevel=4)
