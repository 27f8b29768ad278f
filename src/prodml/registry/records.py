"""Records: JSON in one form, under a checksum, with names that are safe as paths."""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, cast

from prodml.errors import BadConfiguration, CorruptRecord

__all__ = ["canonical", "digest_of", "parsed", "sealed", "unsealed"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ALIAS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
VERSION: Final = re.compile(r"[1-9][0-9]{0,7}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """SHA-256 of ``data``, in hexadecimal.

    Examples
    --------
    >>> digest_of(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return sha256(data).hexdigest()


def canonical(entry: object) -> bytes:
    """The one JSON text of ``entry``: sorted keys, no spaces, ASCII.

    Examples
    --------
    >>> canonical({"b": 1, "a": [1.5, "x"]})
    b'{"a":[1.5,"x"],"b":1}'
    """
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parsed(where: str, data: bytes) -> dict[str, Any]:
    """Object of a JSON text; ``CorruptRecord`` for anything else.

    Examples
    --------
    >>> parsed("here", b'{"a": 1}')
    {'a': 1}
    """
    try:
        entry = json.loads(data)
    except ValueError as error:
        raise CorruptRecord(where, str(error)) from error
    if not isinstance(entry, dict):
        raise CorruptRecord(where, "not a JSON object")
    return cast("dict[str, Any]", entry)


def sealed(data: bytes) -> bytes:
    """``data`` below a line with its checksum.

    Examples
    --------
    >>> unsealed("here", sealed(b"{}"))
    b'{}'
    """
    return digest_of(data).encode() + b"\n" + data


def unsealed(where: str, record: bytes) -> bytes:
    """What was sealed; ``CorruptRecord`` if the checksum is another.

    Examples
    --------
    >>> unsealed("here", b"0000" + sealed(b"{}")[4:])
    Traceback (most recent call last):
    prodml.errors.CorruptRecord: corrupt record at here: ... does not match its checksum
    """
    checksum, _, data = record.partition(b"\n")
    if checksum.decode("ascii", "replace") != digest_of(data):
        raise CorruptRecord(where, "the content does not match its checksum")
    return data


def check_name(name: str) -> None:
    """Refuse a model name that could be a path."""
    _check(NAME, "model name", name)


def check_alias(alias: str) -> None:
    """Refuse an alias that could be a path or a version."""
    _check(ALIAS, "alias", alias)


def check_plain(what: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` as a dictionary, refused if JSON would change it."""
    given = dict(data)
    try:
        same = json.loads(canonical(given)) == given
    except (TypeError, ValueError) as error:
        raise BadConfiguration(f"{what} must be plain JSON data: {error}") from None
    if not same:
        raise BadConfiguration(f"{what} must be plain JSON data: text keys, lists, no tuples")
    return given


def _check(pattern: re.Pattern[str], what: str, name: object) -> None:
    if not (isinstance(name, str) and pattern.fullmatch(name)):
        raise BadConfiguration(f"{what} must match {pattern.pattern}, not {name!r}")
