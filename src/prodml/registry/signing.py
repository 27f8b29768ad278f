"""Who registered a model: Ed25519 signatures over manifests.

The signed bytes are those that lie on the disk, below a line that says what they are, so a
signature of something else never fits.  Any object with ``key_id`` and ``sign`` is a
signer, so a key may stay in a vault.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, final

from prodml.errors import BadConfiguration, UntrustedModel
from prodml.registry.records import digest_of

__all__ = ["PublicKey", "Signer", "SigningKey", "Verifier"]

_ABOUT: Final = b"prodml model manifest, format 1\n"


class Signer(Protocol):
    """Signs manifests."""

    @property
    def key_id(self) -> str:
        """Tells which public key verifies."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """Signature of ``data``."""
        ...


class Verifier(Protocol):
    """Knows signatures of one key."""

    @property
    def key_id(self) -> str:
        """The id that the signer gave."""
        ...

    def verify(self, signature: bytes, data: bytes, /) -> bool:
        """Whether ``signature`` is one of ``data``."""
        ...


@final
class PublicKey:
    """An Ed25519 public key (RFC 8032): 32 bytes, or a PEM text.  Extra ``crypto``.

    Raises
    ------
    BadConfiguration
        It is no such key, or ``cryptography`` is not installed.

    Examples
    --------
    >>> key = SigningKey.generate()
    >>> PublicKey(key.public.raw) == key.public, len(key.public.raw)
    (True, 32)
    >>> key.public.verify(key.sign(b"manifest"), b"another")
    False
    """

    __slots__: tuple[str, ...] = ("_key", "raw")

    def __init__(self, key: bytes | str) -> None:
        ed25519, serialization = _crypto()
        data = key.encode() if isinstance(key, str) else key
        read = (
            serialization.load_pem_public_key
            if data.lstrip().startswith(b"-----")
            else ed25519.Ed25519PublicKey.from_public_bytes
        )
        try:
            found = read(data)
        except ValueError as error:
            raise BadConfiguration(f"not an Ed25519 public key: {error}") from None
        self._key: Any = _of_kind(found, ed25519.Ed25519PublicKey, "public")
        self.raw: bytes = self._key.public_bytes_raw()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"PublicKey({self.key_id})"

    @property
    def key_id(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256."""
        return digest_of(self.raw)[:16]

    @property
    def pem(self) -> str:
        """The key as text, to be handed around."""
        _, serialization = _crypto()
        pem = self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return str(pem.decode())

    def verify(self, signature: bytes, data: bytes, /) -> bool:
        """Whether ``signature`` is one of ``data``."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


@final
class SigningKey:
    """An Ed25519 private key: 32 bytes, or a PEM text.  Extra ``crypto``.

    Raises
    ------
    BadConfiguration
        It is no such key, or ``cryptography`` is not installed.

    Examples
    --------
    >>> key = SigningKey.generate()
    >>> key.public.verify(key.sign(b"manifest"), b"manifest")
    True
    """

    __slots__: tuple[str, ...] = ("_key", "public")

    def __init__(self, key: bytes | str, *, password: bytes | None = None) -> None:
        ed25519, serialization = _crypto()
        data = key.encode() if isinstance(key, str) else key
        try:
            if data.lstrip().startswith(b"-----"):
                found = serialization.load_pem_private_key(data, password)
            else:
                found = ed25519.Ed25519PrivateKey.from_private_bytes(data)
        except (ValueError, TypeError) as error:
            raise BadConfiguration(f"not an Ed25519 private key: {error}") from None
        self._key: Any = _of_kind(found, ed25519.Ed25519PrivateKey, "private")
        self.public: PublicKey = PublicKey(self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key from the system's random source."""
        ed25519, _ = _crypto()
        return cls(ed25519.Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def key_id(self) -> str:
        """That of the public key."""
        return self.public.key_id

    def pem(self, password: bytes | None = None) -> str:
        """The key as PKCS#8 text, encrypted if there is a password."""
        _, serialization = _crypto()
        how = (
            serialization.NoEncryption()
            if password is None
            else serialization.BestAvailableEncryption(password)
        )
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how
        )
        return str(pem.decode())

    def sign(self, data: bytes, /) -> bytes:
        """Signature of ``data``, 64 bytes."""
        return bytes(self._key.sign(data))


def signed(manifest: bytes, signer: Signer) -> dict[str, str]:
    """Signature of a manifest, as it is written below it."""
    return {"key": signer.key_id, "signature": signer.sign(_ABOUT + manifest).hex()}


def check_signed(
    where: str,
    manifest: bytes,
    signatures: Iterable[Mapping[str, Any]],
    trusted: Iterable[Verifier],
) -> None:
    """Refuse a manifest that no trusted key has signed.

    Raises
    ------
    UntrustedModel
        There is no signature of these keys, or it is one of other bytes.
    """
    by_key = {str(entry.get("key")): str(entry.get("signature")) for entry in signatures}
    for verifier in trusted:
        if _fits(verifier, by_key.get(verifier.key_id), manifest):
            return
    keys = ", ".join(by_key) or "nobody"
    raise UntrustedModel(where, f"signed by {keys}; no valid signature of a trusted key")


def _fits(verifier: Verifier, signature: str | None, manifest: bytes) -> bool:
    if signature is None:
        return False
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        return False
    return verifier.verify(raw, _ABOUT + manifest)


def _of_kind(key: Any, kind: Any, what: str) -> Any:
    if not isinstance(key, kind):
        raise BadConfiguration(f"not an Ed25519 {what} key: it is {type(key).__name__}")
    return key


def _crypto() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError:
        raise BadConfiguration(
            "signatures need the package cryptography: pip install 'prodml[crypto]'"
        ) from None
    return ed25519, serialization
