"""Envelopes: entries on their way through a store that others can write to.

::

    format 2 | mode | stamp | created  ttl  cost  kind | body
       1        1     16/12    8       8     8    1

In mode 1 the stamp is a keyed BLAKE2b-128 tag and the body is plain; in mode 2 it is the
nonce of AES-256-GCM and the body is the ciphertext with its tag.  Either way everything is
authenticated together with the entry's name and the name of the codec, so bytes that were
damaged, moved to another name or written by somebody without the secret are refused.  The
mode is the reader's configuration: an envelope cannot choose how it is checked.
"""

import hashlib
import hmac
import math
import os
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from prodml.cache.entry import EXPIRED, Entry, Expired, Kind
from prodml.errors import BadConfiguration, CorruptRecord

__all__ = ["SKEW", "Sealer"]

SKEW: Final = 3600.0
"""Seconds by which the writer's clock may be ahead of the reader's, at most the entry's ttl."""

_FORMAT: Final = 2
_HEADER: Final = struct.Struct(">dddB")
_LENGTH: Final = struct.Struct(">I")
_KINDS: Final = tuple(Kind)


class _Mode(Protocol):
    """One way to protect a body; ``bound`` is what it is tied to."""

    code: int
    stamp: int

    def close(self, bound: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Stamp and protected body."""
        ...

    def open(self, bound: bytes, stamp: bytes, body: bytes) -> bytes | None:
        """Body, or None if it is not what was closed."""
        ...


class _Tagged:
    """Anyone may read, only those with the secret can write."""

    code: int = 1
    stamp: int = 16

    def __init__(self, secret: bytes) -> None:
        self._key: bytes = secret

    def close(self, bound: bytes, body: bytes) -> tuple[bytes, bytes]:
        return self._tag(bound, body), body

    def open(self, bound: bytes, stamp: bytes, body: bytes) -> bytes | None:
        return body if hmac.compare_digest(stamp, self._tag(bound, body)) else None

    def _tag(self, bound: bytes, body: bytes) -> bytes:
        keyed = hashlib.blake2b(digest_size=16, key=self._key, person=b"prodml-value2")
        keyed.update(_LENGTH.pack(len(bound)))
        keyed.update(bound)
        keyed.update(body)
        return keyed.digest()


class _AesGcm:
    """Only those with the secret can read and write.

    Nonces are random: one secret is good for 2**32 writes (NIST SP 800-38D, 8.3).
    """

    code: int = 2
    stamp: int = 12

    def __init__(self, secret: bytes) -> None:
        key = hashlib.blake2b(digest_size=32, key=secret, person=b"prodml-aes-gcm").digest()
        self._cipher: Any
        self._cipher, self._wrong = _aes_gcm(key)

    def close(self, bound: bytes, body: bytes) -> tuple[bytes, bytes]:
        nonce = os.urandom(12)
        return nonce, self._cipher.encrypt(nonce, body, bound)

    def open(self, bound: bytes, stamp: bytes, body: bytes) -> bytes | None:
        try:
            plain: bytes = self._cipher.decrypt(stamp, body, bound)
        except (self._wrong, ValueError, OverflowError):
            return None
        return plain


def _aes_gcm(key: bytes) -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise BadConfiguration(
            "encryption='aes-gcm' needs the package cryptography: pip install 'prodml[crypto]'"
            f" ({error})"
        ) from None
    return AESGCM(key), InvalidTag


_MODES: Final[dict[str | None, Callable[[bytes], _Mode]]] = {None: _Tagged, "aes-gcm": _AesGcm}


class Sealer:
    """Seals entries for a shared store, and checks what comes back.

    Parameters
    ----------
    secret
        Key of the tags, 1 to 64 bytes; all who share the store need the same one.
    encryption
        None, or ``"aes-gcm"`` (needs the package cryptography).
    codec
        Name of what made the bodies: bytes of another codec are refused, not misread.

    Raises
    ------
    BadConfiguration
        An unknown ``encryption``, or its package is not installed.

    Examples
    --------
    >>> sealer = Sealer(b"sixteen bytes...")
    >>> envelope = sealer.seal("name", Entry(b"body", created=100.0, ttl=60.0))
    >>> sealer.unseal("name", envelope, now=130.0).body
    b'body'
    >>> sealer.unseal("name", envelope, now=160.0) is EXPIRED
    True
    >>> sealer.unseal("name", envelope, now=160.0, grace=30.0).age(160.0)
    60.0
    >>> sealer.unseal("another", envelope, now=130.0)
    Traceback (most recent call last):
        ...
    prodml.errors.CorruptRecord: corrupt record at another: the tag does not match
    """

    __slots__: tuple[str, ...] = ("_codec", "_front", "_mode", "_start")

    def __init__(self, secret: bytes, encryption: str | None = None, codec: str = "") -> None:
        if encryption not in _MODES:
            known = ", ".join(repr(name) for name in _MODES)
            raise BadConfiguration(f"encryption={encryption!r} is not known; use one of {known}")
        self._mode: _Mode = _MODES[encryption](secret)
        self._front: bytes = bytes([_FORMAT, self._mode.code])
        self._start: int = len(self._front) + self._mode.stamp
        text = codec.encode()
        self._codec: bytes = _LENGTH.pack(len(text)) + text

    def seal(self, name: str, entry: Entry) -> bytes:
        """Envelope of ``entry`` for ``name``."""
        # Zero stands for no end: infinity is never taken from a store.
        ttl = 0.0 if entry.ttl == math.inf else entry.ttl
        header = _HEADER.pack(entry.created, ttl, entry.cost, entry.kind.value)
        stamp, body = self._mode.close(self._bound(name, header), entry.body)
        return b"".join((self._front, stamp, header, body))

    def unseal(
        self,
        name: str,
        envelope: Any,
        now: float,
        grace: float = 0.0,
        longest: float = math.inf,
    ) -> Entry | Expired:
        """Entry in the envelope found at ``name``, or EXPIRED.

        Parameters
        ----------
        envelope
            What the store gave: of any type.
        now
            Seconds since the epoch.
        grace
            Seconds after its ttl during which an entry is still handed out.
        longest
            The reader's own ttl: an entry that claims a longer one is cut to it.

        Raises
        ------
        CorruptRecord
            Not bytes, damaged, of another name, mode, codec or secret, or with times that
            cannot be: not finite, or made later than ``now`` plus its ttl (at most
            :data:`SKEW`, for clocks that disagree).
        """
        if not isinstance(envelope, bytes):
            raise CorruptRecord(name, f"a {type(envelope).__name__} instead of bytes")
        if len(envelope) < self._start + _HEADER.size or not envelope.startswith(self._front):
            raise CorruptRecord(name, "not an envelope of this format and mode")
        begin = self._start + _HEADER.size
        header = envelope[self._start : begin]
        stamp = envelope[len(self._front) : self._start]
        body = self._mode.open(self._bound(name, header), stamp, envelope[begin:])
        if body is None:
            raise CorruptRecord(name, "the tag does not match")
        entry = _checked(name, body, header, now, longest)
        return EXPIRED if now >= entry.created + entry.ttl + grace else entry

    def _bound(self, name: str, header: bytes) -> bytes:
        # All parts but the last have a length that is known, so none can pass for another.
        return b"".join((self._front, header, self._codec, name.encode()))


def _checked(name: str, body: bytes, header: bytes, now: float, longest: float) -> Entry:
    created, ttl, cost, kind = _HEADER.unpack(header)
    if not (math.isfinite(created) and 0 <= ttl < math.inf and 0 <= cost < math.inf):
        raise CorruptRecord(name, "its times are not finite")
    if kind >= len(_KINDS):
        raise CorruptRecord(name, f"an entry of unknown kind {kind}")
    ttl = min(ttl or math.inf, longest)
    if created > now + min(ttl, SKEW):
        raise CorruptRecord(name, "it was made in the future")
    return Entry(body, created, ttl, cost, _KINDS[kind])
