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
import math
import os
import struct
from collections.abc import Callable, Mapping
from hmac import compare_digest
from typing import Any, Final, Protocol, TypeAlias

from prodml.cache.entry import EXPIRED, Entry, Expired, Kind
from prodml.errors import BadConfiguration, CorruptRecord

__all__ = ["SKEW", "Content", "Sealer"]

SKEW: Final = 3600.0
"""Seconds by which the writer's clock may be ahead of the reader's, at most the entry's ttl."""

_FORMAT: Final = 2
_HEADER: Final = struct.Struct(">dddB")
_LENGTH: Final = struct.Struct(">I")
_KINDS: Final = tuple(Kind)
_NEVER: Final = math.inf

Content: TypeAlias = tuple[bytes, tuple[float, float, float], Kind]
"""Body; when it was computed, its ttl and what computing cost; its kind."""


class _Mode(Protocol):
    """One way to protect a body, and to tie it to its header and name."""

    code: int
    stamp: int

    def close(self, header: bytes, name: str, body: bytes) -> tuple[bytes, bytes]:
        """Stamp and protected body."""
        ...

    def open(self, header: bytes, name: str, stamp: bytes, body: bytes) -> bytes | None:
        """Body, or None if it is not what was closed."""
        ...


class _Tagged:
    """Anyone may read, only those with the secret can write."""

    code: int = 1
    stamp: int = 16

    def __init__(self, secret: bytes, codec: bytes) -> None:
        # A copy of one that has the secret costs half of what a new one does.
        self._keyed: Any = hashlib.blake2b(digest_size=16, key=secret, person=b"prodml-value2")
        self._front: bytes = bytes([_FORMAT, self.code])
        self._codec: bytes = codec
        self._bare: int = len(self._front) + _HEADER.size + len(codec)

    def close(self, header: bytes, name: str, body: bytes) -> tuple[bytes, bytes]:
        return self._tag(header, name, body), body

    def open(self, header: bytes, name: str, stamp: bytes, body: bytes) -> bytes | None:
        return body if compare_digest(stamp, self._tag(header, name, body)) else None

    def _tag(self, header: bytes, name: str, body: bytes) -> bytes:
        keyed, named = self._keyed.copy(), name.encode()
        # How long that is which stands before the body, so that none can pass for the other.
        size = _LENGTH.pack(self._bare + len(named))
        keyed.update(b"".join((size, self._front, header, self._codec, named, body)))
        tag: bytes = keyed.digest()
        return tag


class _AesGcm:
    """Only those with the secret can read and write.

    Nonces are random: one secret is good for 2**32 writes (NIST SP 800-38D, 8.3).
    """

    code: int = 2
    stamp: int = 12

    def __init__(self, secret: bytes, codec: bytes) -> None:
        key = hashlib.blake2b(digest_size=32, key=secret, person=b"prodml-aes-gcm").digest()
        self._cipher: Any
        self._cipher, self._wrong = _aes_gcm(key)
        self._front: bytes = bytes([_FORMAT, self.code])
        self._codec: bytes = codec

    def close(self, header: bytes, name: str, body: bytes) -> tuple[bytes, bytes]:
        nonce = os.urandom(12)
        return nonce, self._cipher.encrypt(nonce, body, self._bound(header, name))

    def open(self, header: bytes, name: str, stamp: bytes, body: bytes) -> bytes | None:
        try:
            plain: bytes = self._cipher.decrypt(stamp, body, self._bound(header, name))
        except (self._wrong, ValueError, OverflowError):
            return None
        return plain

    def _bound(self, header: bytes, name: str) -> bytes:
        # All parts but the last have a length that is known, so none can pass for another.
        return b"".join((self._front, header, self._codec, name.encode()))


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


_MODES: Final[dict[str | None, Callable[[bytes, bytes], _Mode]]] = {
    None: _Tagged,
    "aes-gcm": _AesGcm,
}


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

    __slots__: tuple[str, ...] = ("_body", "_front", "_front_of", "_mode", "_start")

    def __init__(self, secret: bytes, encryption: str | None = None, codec: str = "") -> None:
        if encryption not in _MODES:
            known = ", ".join(repr(name) for name in _MODES)
            raise BadConfiguration(f"encryption={encryption!r} is not known; use one of {known}")
        text = codec.encode()
        self._mode: _Mode = _MODES[encryption](secret, _LENGTH.pack(len(text)) + text)
        self._front: bytes = bytes([_FORMAT, self._mode.code])
        self._start: int = len(self._front) + self._mode.stamp
        self._body: int = self._start + _HEADER.size
        # All that stands before the body, read at once.
        layout = struct.Struct(f">2s{self._mode.stamp}sdddB")
        self._front_of: Callable[[bytes], tuple[Any, ...]] = layout.unpack_from

    def seal(self, name: str, entry: Entry) -> bytes:
        """Envelope of ``entry`` for ``name``."""
        return self.seal_many({name: entry.body}, entry)[name]

    def seal_many(self, bodies: Mapping[str, bytes], entry: Entry) -> dict[str, bytes]:
        """Envelopes of entries that differ from ``entry`` in name and body only."""
        # Zero stands for no end: infinity is never taken from a store.
        ttl = 0.0 if entry.ttl == math.inf else entry.ttl
        header = _HEADER.pack(entry.created, ttl, entry.cost, entry.kind.value)
        front, close = self._front, self._mode.close
        envelopes: dict[str, bytes] = {}
        for name, plain in bodies.items():
            stamp, body = close(header, name, plain)
            envelopes[name] = b"".join((front, stamp, header, body))
        return envelopes

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
        body, times, kind = self.opened(name, envelope, now, longest)
        created, ttl, cost = times
        if now >= created + ttl + grace:
            return EXPIRED
        return Entry(body, created, ttl, cost, kind)

    def opened(self, name: str, envelope: Any, now: float, longest: float) -> Content:
        """What the entry at ``name`` is made of, whether its time is over or not.

        Raises
        ------
        CorruptRecord
            As :meth:`unseal`.
        """
        if not isinstance(envelope, bytes):
            raise CorruptRecord(name, f"a {type(envelope).__name__} instead of bytes")
        begin = self._body
        if len(envelope) < begin:
            raise CorruptRecord(name, "not an envelope of this format and mode")
        front, stamp, created, ttl, cost, kind = self._front_of(envelope)
        if front != self._front:
            raise CorruptRecord(name, "not an envelope of this format and mode")
        header = envelope[self._start : begin]
        body = self._mode.open(header, name, stamp, envelope[begin:])
        if body is None:
            raise CorruptRecord(name, "the tag does not match")
        if not (-_NEVER < created < _NEVER and 0.0 <= ttl < _NEVER and 0.0 <= cost < _NEVER):
            raise CorruptRecord(name, "its times are not finite")
        if kind >= len(_KINDS):
            raise CorruptRecord(name, f"an entry of unknown kind {kind}")
        if not 0.0 < ttl < longest:
            ttl = longest
        if created > now and created > now + min(ttl, SKEW):
            raise CorruptRecord(name, "it was made in the future")
        return body, (created, ttl, cost), _KINDS[kind]
