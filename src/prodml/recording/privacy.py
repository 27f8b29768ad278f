"""What must not be written is taken out before anything is written."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

from prodml.errors import BadConfiguration

__all__ = ["Redact", "Redaction", "hashed", "redaction"]

Redact: TypeAlias = Iterable[str] | Mapping[str, Callable[[Any], Any]] | Callable[[Any], Any]
"""Names to leave out, what to write instead by name, or a function of a whole row."""

Redaction: TypeAlias = Callable[[str, Any], Any]
"""Given the part of a record (``"features"``, ...) and its plain value: what to write."""


def hashed(key: bytes, *, size: int = 16) -> Callable[[Any], str]:
    """Replacement for ``redact=``: equal values become equal tokens that tell nothing else.

    Keyed BLAKE2b [1]_.  Without the key nobody can test guesses; with a new key the old
    tokens join to nothing any more.

    Parameters
    ----------
    key
        Secret of 16 to 64 bytes.
    size
        Bytes of the token, 8 to 64; it is written in hex.

    Raises
    ------
    BadConfiguration
        A key or size out of range.

    Examples
    --------
    >>> token = hashed(b"sixteen byte key", size=8)
    >>> token("ada@example.org") == token("ada@example.org") != token("bob@example.org")
    True
    >>> len(token("ada@example.org"))
    16

    References
    ----------
    .. [1] Saarinen and Aumasson (2015), *The BLAKE2 Cryptographic Hash*, RFC 7693.
    """
    if not 16 <= len(key) <= 64:
        raise BadConfiguration(f"key must be 16 to 64 bytes, not {len(key)}")
    if not 8 <= size <= 64:
        raise BadConfiguration(f"size must be 8 to 64 bytes, not {size}")

    def token(value: Any) -> str:
        # With the type, or the number 1 and the text "1" would be one person.
        text = f"{type(value).__name__}:{value}"
        data = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, key=key, digest_size=size).hexdigest()

    return token


def redaction(rule: Redact) -> Redaction | None:
    """Make the function that takes out of a part of a record what ``rule`` says.

    It works on what :func:`~prodml.recording.codec.plain` made, so a data frame's column or
    a dataclass's field is found by its name as well.  Names are looked for at any depth of
    every part; a function sees ``"features"`` and ``"metadata"`` only.

    Raises
    ------
    BadConfiguration
        The rule is none of the three kinds.

    Examples
    --------
    >>> redaction(("ssn",))("features", {"age": 41, "card": [{"ssn": "1-2-3"}]})
    {'age': 41, 'card': [{}]}
    """
    if callable(rule):
        return lambda part, row: rule(row) if part in {"features", "metadata"} else row
    if isinstance(rule, str | bytes) or not isinstance(rule, Iterable):
        raise BadConfiguration(f"redact must be names, a mapping or a function, not {rule!r}")
    rules: dict[Any, Any] = (
        dict(cast("Mapping[str, Any]", rule)) if isinstance(rule, Mapping) else dict.fromkeys(rule)
    )
    for name, replace in rules.items():
        if not isinstance(name, str) or not (replace is None or callable(replace)):
            raise BadConfiguration(
                f"redact must map names to functions, or list names, not {name!r}: {replace!r}"
            )
    return (lambda _part, row: _walk(row, rules)) if rules else None


def _walk(value: Any, rules: Mapping[str, Callable[[Any], Any] | None]) -> Any:
    if isinstance(value, list):
        return [_walk(item, rules) for item in value]
    if not isinstance(value, dict):
        return value
    row = cast("dict[str, Any]", value)
    if row.keys() == {"$map"}:
        return {"$map": [[key, item] for key, item in _pairs(row["$map"], rules)]}
    return dict(_pairs(row.items(), rules))


def _pairs(
    pairs: Iterable[tuple[Any, Any]], rules: Mapping[str, Callable[[Any], Any] | None]
) -> Iterable[tuple[Any, Any]]:
    for key, item in pairs:
        if not isinstance(key, str) or key not in rules:
            yield key, _walk(item, rules)
        elif (replace := rules[key]) is not None:
            yield key, replace(item)
