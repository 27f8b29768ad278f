"""What an HTTP client hears when something went wrong: always ``{"error": ...}``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from prodml.errors import (
    InvalidFeatures,
    ProdmlError,
    RateLimited,
    Rejected,
    StoreUnavailable,
    UnknownVersion,
)
from prodml.integrations.open_inference.messages import json_bytes

__all__ = ["HttpError", "Refusal", "refusal_of"]

_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (InvalidFeatures, 400),
    (UnknownVersion, 404),
    (RateLimited, 429),
    (Rejected, 503),
    (StoreUnavailable, 503),
)
_LATER: Final = frozenset({429, 503})


class HttpError(ProdmlError):
    """A request that has no meaning here: ``status``, a sentence, and headers beside it."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, text, headers)
        self.status: int = status
        self.text: str = text
        self.headers: Mapping[str, str] = headers or {}

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as HTTP says it.

    Parameters
    ----------
    status
        The HTTP status.
    error
        One sentence for the client.
    headers
        Beside the content's own: ``Retry-After``, ``Allow``.

    Examples
    --------
    >>> Refusal(404, "no such model", {}).content
    {'error': 'no such model'}
    """

    status: int
    error: str
    headers: Mapping[str, str]

    @property
    def content(self) -> dict[str, Any]:
        """The body as a mapping."""
        return {"error": self.error}

    @property
    def body(self) -> bytes:
        """The body as JSON."""
        return json_bytes(self.content)


def refusal_of(error: Exception, what: str = "the model") -> Refusal:
    """How HTTP tells ``error``: whose fault it is, and when to come again.

    ==============================================  ======  ==============
    error                                           status  Retry-After
    ==============================================  ======  ==============
    InvalidFeatures                                 400
    UnknownVersion                                  404
    RateLimited                                     429     when a permit is due
    every other Rejected (circuit open, full,       503     its ``retry_after``, or 1 s
    overloaded, out of time), StoreUnavailable
    anything else                                   500
    ==============================================  ======  ==============

    The text of an unforeseen error stays inside: it may hold a row or a path.

    Examples
    --------
    >>> from prodml.errors import CircuitOpen
    >>> refusal = refusal_of(CircuitOpen("db", 2.5))
    >>> refusal.status, dict(refusal.headers)
    (503, {'retry-after': '3'})
    >>> refusal_of(KeyError("/secret")).error
    'the model failed; its error is in the log of the server'
    """
    if isinstance(error, HttpError):
        return Refusal(error.status, error.text, error.headers)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return Refusal(status, str(error), _headers(status, error))
    return Refusal(500, f"{what} failed; its error is in the log of the server", {})


def _headers(status: int, error: Exception) -> Mapping[str, str]:
    if status not in _LATER:
        return {}
    seconds = getattr(error, "retry_after", 1.0)
    return {"retry-after": str(max(1, math.ceil(min(seconds, 86_400.0))))}
