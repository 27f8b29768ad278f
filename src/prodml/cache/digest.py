"""What entries are called in a shared store: digests that tell nothing without the secret."""

import hashlib
from collections.abc import Callable
from functools import lru_cache

__all__ = ["digest", "digests"]


def digest(preimage: bytes, secret: bytes) -> str:
    """Keyed BLAKE2b-128 of ``preimage`` as 32 hexadecimal digits (RFC 7693).

    Whoever reads the digests cannot confirm a guess of the features without ``secret``.

    Examples
    --------
    >>> digest(b"x", b"one") == digest(b"x", b"two")
    False
    """
    hashed = _keyed(secret).copy()
    hashed.update(preimage)
    return hashed.hexdigest()


def digests(beginning: bytes, secret: bytes, label: str = "") -> Callable[[bytes], str]:
    """Names, by their rest, of preimages with this ``beginning``, which is read once.

    A name is ``label`` and a :func:`digest`.

    Examples
    --------
    >>> digests(b"be", b"secret", "k:")(b"gin") == "k:" + digest(b"begin", b"secret")
    True
    """
    begun = _keyed(secret).copy()
    begun.update(beginning)

    def of_rest(rest: bytes) -> str:
        hashed = begun.copy()
        hashed.update(rest)
        return label + hashed.hexdigest()

    return of_rest


@lru_cache(64)
def _keyed(secret: bytes) -> "hashlib.blake2b":
    # Never updated: a copy costs a tenth of what a new one does.
    return hashlib.blake2b(digest_size=16, key=secret)
