"""Signatures: what is signed, who is trusted, and that nothing can be swapped."""

import json

import pytest

from prodml.errors import BadConfiguration, CorruptRecord, UntrustedModel
from prodml.events import Stream
from prodml.registry import Lineage, ModelRegistry, PublicKey, SigningKey, audit
from prodml.registry.records import canonical, sealed, unsealed

pytest.importorskip("cryptography")

OURS, THEIRS = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)


@pytest.fixture(params=["directory", "sqlite"])
def place(request, tmp_path):
    return tmp_path / "models" if request.param == "directory" else f"sqlite:///{tmp_path}/m.db"


def open_(place, signer=None, trusted=(OURS.public,)):
    return ModelRegistry(place, signer=signer, trusted=trusted, events=Stream())


def rewritten(registry, edit):
    """Add version 2: the record of version 1 as ``edit`` makes it of manifest and signatures."""
    lines = unsealed("", registry._archive.record("models/churn", 1)).split(b"\n")
    lines = edit(lines[0], lines[1:])
    assert registry._archive.add("models/churn", 2, sealed(b"\n".join(lines)))


def test_signed_model_is_loaded_by_those_who_trust_the_key(place):
    open_(place, OURS).register("churn", {"bias": 1})
    assert open_(place).load("churn", "1") == {"bias": 1}
    assert open_(place, trusted=[THEIRS.public, OURS.public]).load("churn", "1") == {"bias": 1}
    assert open_(place).verify("churn", "1").signed_by == (OURS.key_id,)
    assert open_(place, trusted=None).load("churn", "1") == {"bias": 1}


def test_unsigned_model_is_refused_by_those_who_trust_keys(place):
    open_(place).register("churn", {"bias": 1})
    registry = open_(place)
    for call in (registry.load, registry.verify):
        with pytest.raises(UntrustedModel, match=r"churn@1 .* signed by nobody"):
            call("churn", "1")


def test_who_trusts_nobody_loads_nothing(place):
    """An empty list of keys is no wish to go without."""
    open_(place, OURS).register("churn", {"bias": 1})
    with pytest.raises(UntrustedModel):
        open_(place, trusted=[]).load("churn", "1")


@pytest.mark.parametrize("trusted", [OURS.public, OURS.public.pem, [OURS.public.raw], [OURS]])
def test_trust_is_a_list_of_public_keys(trusted):
    with pytest.raises(BadConfiguration, match="list of keys"):
        ModelRegistry("memory://", trusted=trusted)


def test_model_signed_by_a_stranger_is_refused(place):
    open_(place, THEIRS).register("churn", {"bias": 1})
    with pytest.raises(UntrustedModel, match=THEIRS.key_id):
        open_(place).load("churn", "1")


def test_nothing_was_decoded_when_the_signature_is_refused(place):
    class Spy:
        name = "json"

        def load(self, data):
            pytest.fail("decoded")

    open_(place).register("churn", {"bias": 1})
    with pytest.raises(UntrustedModel):
        open_(place).load("churn", "1", serializer=Spy())


CHANGES = {
    "name": "fraud",
    "version": "2",
    "files": [{"path": "model", "size": 10, "sha256": "0" * 64}],
    "bundle": True,
    "serializer": "pickle",
    "environment": {"python": "3.11.0", "packages": {"numpy": "0"}},
    "lineage": Lineage(code="other").to_dict(),
    "metadata": {"auc": 1.0},
    "tags": ["audit"],
    "created": 0.0,
    "format": 1.0,
}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_every_field_of_the_manifest_is_signed(place, field):
    registry = open_(place, OURS)
    registry.register("churn", {"bias": 1}, {"auc": 0.5})

    def edit(manifest, signatures):
        entry = json.loads(manifest)
        assert set(entry) == set(CHANGES)
        return [canonical(entry | {field: CHANGES[field]}), *signatures]

    rewritten(registry, edit)
    with pytest.raises(UntrustedModel, match="no valid signature"):
        registry.load("churn", "2")


def test_signed_manifest_under_another_number_is_refused(place):
    registry = open_(place, OURS)
    registry.register("churn", {"bias": 1})
    rewritten(registry, lambda manifest, signatures: [manifest, *signatures])
    with pytest.raises(CorruptRecord, match="it is churn@1"):
        registry.load("churn", "2")


def test_signed_manifest_under_another_model_is_refused(place):
    registry = open_(place, OURS)
    registry.register("churn", {"bias": 1})
    record = registry._archive.record("models/churn", 1)
    registry._archive.add("models/fraud", 1, record)
    with pytest.raises(CorruptRecord, match="it is churn@1"):
        registry.load("fraud", "1")


@pytest.mark.parametrize(
    "signatures",
    [
        [],
        [{}],
        [{"key": OURS.key_id}],
        [{"key": OURS.key_id, "signature": "zz"}],
        [{"key": OURS.key_id, "signature": ""}],
        [{"key": OURS.key_id, "signature": "00" * 64}],
        [{"key": OURS.key_id, "signature": 7}],
        [{"key": [OURS.key_id], "signature": "00"}],
    ],
)
def test_signature_that_is_none_is_refused(place, signatures):
    registry = open_(place, OURS)
    registry.register("churn", {"bias": 1})
    lines = [canonical(entry) for entry in signatures]
    rewritten(registry, lambda manifest, _: [manifest, *lines])
    with pytest.raises((UntrustedModel, CorruptRecord)):
        registry.load("churn", "2")


def test_signature_of_bare_bytes_is_none_of_a_manifest(place):
    """Whoever gets us to sign a text of theirs has not got a manifest signed."""
    registry = open_(place, OURS)
    registry.register("churn", {"bias": 1})

    def edit(manifest, _):
        entry = canonical(json.loads(manifest) | {"version": "2"})
        signature = {"key": OURS.key_id, "signature": OURS.sign(entry).hex()}
        return [entry, canonical(signature)]

    rewritten(registry, edit)
    with pytest.raises(UntrustedModel):
        registry.load("churn", "2")


def test_audit_names_what_no_trusted_key_has_signed(place):
    open_(place, OURS).register("churn", {"bias": 1})
    open_(place, THEIRS).register("churn", {"bias": 2})
    assert len(audit(open_(place)).problems) == 1
    assert audit(open_(place, trusted=None)).problems == ()


def test_a_key_in_a_vault_signs_as_well(place):
    class Vault:
        key_id = "vault-7"

        def sign(self, data):
            return data[:3]

        def verify(self, signature, data):
            return signature == data[:3]

    open_(place, Vault()).register("churn", {"bias": 1})
    assert open_(place, trusted=[Vault()]).load("churn", "1") == {"bias": 1}


# -- keys -------------------------------------------------------------------------------


def test_the_first_vector_of_rfc_8032_is_signed_alike():
    secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    key = SigningKey(bytes.fromhex(secret))
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.public.raw.hex() == public
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_keys_go_out_and_in():
    key = SigningKey.generate()
    assert SigningKey(key.pem()).public == key.public
    assert SigningKey(key.pem(b"word"), password=b"word").public == key.public
    assert PublicKey(key.public.pem) == PublicKey(key.public.raw) == key.public
    assert len({key.public, PublicKey(key.public.raw), OURS.public}) == 2
    assert key.key_id == key.public.key_id
    assert len(key.key_id) == 16


def test_a_private_key_is_not_shown():
    assert OURS.key_id in repr(OURS)
    assert repr(OURS.public) == f"PublicKey({OURS.key_id})"
    assert "01010101" not in repr(OURS)


def foreign():
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, x25519

    for private in (
        ec.generate_private_key(ec.SECP256R1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ):
        pem = private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        public = private.public_key()
        yield pem, public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)


def test_keys_of_other_kinds_are_refused():
    for private, public in foreign():
        with pytest.raises(BadConfiguration, match="Ed25519 private key"):
            SigningKey(private)
        with pytest.raises(BadConfiguration, match="Ed25519 public key"):
            PublicKey(public)


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 33, "-----BEGIN NOTHING-----", b"-----"])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(BadConfiguration, match="private key"):
        SigningKey(key)
    with pytest.raises(BadConfiguration, match="public key"):
        PublicKey(key)


def test_wrong_password_is_refused():
    with pytest.raises(BadConfiguration):
        SigningKey(OURS.pem(b"word"), password=b"other")
    with pytest.raises(BadConfiguration):
        SigningKey(OURS.pem(b"word"))


def test_without_cryptography_a_key_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(BadConfiguration, match=r"prodml\[crypto\]"):
        SigningKey(b"\x01" * 32)
