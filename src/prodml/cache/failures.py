"""Failures that are remembered for a while, so that they are not repeated at once.

In one process a failure is an exception like the first one.  What goes to other processes is
its type's name and its text, never the exception: an exception can only be rebuilt by running
code that somebody else has named.
"""

import copy
import json
import threading
from collections import OrderedDict
from typing import Final, NamedTuple

from prodml.errors import BadConfiguration, InvalidFeatures, Rejected, RememberedFailure

__all__ = ["Failures", "Notice", "afresh", "lasting", "replaceable"]

_LONGEST: Final = 500


def lasting(error: Exception) -> bool:
    """Whether the next call is likely to fail as well: what was only refused is not.

    Examples
    --------
    >>> from prodml.errors import CircuitOpen
    >>> lasting(ValueError()), lasting(CircuitOpen("model", 5.0))
    (True, False)
    """
    return not isinstance(error, Rejected)


def replaceable(error: Exception) -> bool:
    """Whether an older answer may stand in: not for a call that was wrong in itself.

    Examples
    --------
    >>> replaceable(ConnectionError()), replaceable(TypeError())
    (True, False)
    """
    return not isinstance(error, InvalidFeatures | TypeError | BadConfiguration)


def afresh(error: Exception) -> Exception:
    """A new exception like ``error``, without its traceback.

    Examples
    --------
    >>> error = KeyError("age")
    >>> afresh(error) is error, afresh(error)
    (False, KeyError('age'))
    """
    try:
        twin = copy.copy(error)
    except Exception:
        # Some exceptions cannot be made again from their arguments.
        twin = error
    if type(twin) is not type(error) or twin is error:
        return RememberedFailure(type(error).__name__, _text(error))
    return twin.with_traceback(None)


def _text(error: Exception) -> str:
    try:
        return str(error)[:_LONGEST]
    except Exception:
        # Not even its text: an exception of a stranger's making.
        return ""


class Failures:
    """What has failed lately, at most ``most`` keys.

    Examples
    --------
    >>> failures = Failures()
    >>> failures.note(b"key", ValueError("no"), until=10.0)
    >>> failures.find(b"key", now=9.0), failures.find(b"key", now=10.0)
    (ValueError('no'), None)
    """

    __slots__: tuple[str, ...] = ("_kept", "_lock", "most")

    def __init__(self, most: int = 4096) -> None:
        self.most: int = most
        self._kept: OrderedDict[bytes, tuple[Exception, float]] = OrderedDict()
        self._lock: threading.Lock = threading.Lock()

    def note(self, place: bytes, error: Exception, until: float) -> None:
        """Remember ``error``."""
        twin = afresh(error)
        with self._lock:
            self._kept.pop(place, None)
            self._kept[place] = (twin, until)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)

    def find(self, place: bytes, now: float) -> Exception | None:
        """A fresh copy of the failure, or None."""
        found = self._kept.get(place)
        if found is None:
            return None
        if now >= found[1]:
            self.forget(place)
            return None
        return afresh(found[0])

    def forget(self, place: bytes) -> None:
        """Let go of a failure: it has worked since."""
        if self._kept:
            with self._lock:
                self._kept.pop(place, None)


class Notice(NamedTuple):
    """What a process tells those of other processes who wait for its computation.

    Parameters
    ----------
    token
        Which computation.
    kind, text
        Type and text of its failure; an empty ``kind`` says that its answer cannot be had
        here, so that everybody had better compute for himself.

    Examples
    --------
    >>> notice = Notice.of("token", ValueError("no"))
    >>> Notice.read(notice.body()) == notice, Notice.read(b"rubbish")
    (True, None)
    """

    token: str
    kind: str = ""
    text: str = ""

    @classmethod
    def of(cls, token: str, error: Exception | None) -> "Notice":
        """Notice about a computation that has failed, or (None) cannot be shared."""
        if error is None or not lasting(error):
            return cls(token)
        if isinstance(error, RememberedFailure):
            return cls(token, error.kind, error.text)
        return cls(token, type(error).__name__, _text(error))

    def body(self) -> bytes:
        """It as bytes."""
        return json.dumps(self).encode()

    @classmethod
    def read(cls, body: bytes) -> "Notice | None":
        """Notice in ``body``, or None if it is none."""
        try:
            parts = json.loads(body)
        except ValueError:
            return None
        if type(parts) is not list or [type(part) for part in parts] != [str, str, str]:
            return None
        return cls(*parts)
