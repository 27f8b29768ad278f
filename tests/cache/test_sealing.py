import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.cache.entry import EXPIRED, Entry, Kind
from prodml.cache.sealing import _HEADER, SKEW, Sealer
from prodml.errors import BadConfiguration, CorruptRecord

SECRET = b"sixteen bytes..."
ENTRY = Entry(b"body", created=1_700_000_000.25, ttl=60.0, cost=0.5)
NOW = ENTRY.created + 30.0
SEALERS = {mode or "tag": Sealer(SECRET, mode) for mode in (None, "aes-gcm")}
both = pytest.mark.parametrize("sealer", SEALERS.values(), ids=SEALERS)


def forged(sealer, name="k", body=b"body", created=NOW, ttl=60.0, cost=0.0, kind=0):
    """An envelope with a valid tag and whatever content."""
    header = _HEADER.pack(created, ttl, cost, kind)
    stamp, body = sealer._mode.close(header, name, body)
    return sealer._front + stamp + header + body


@both
@pytest.mark.parametrize("kind", Kind)
def test_an_envelope_gives_back_what_was_sealed(sealer, kind):
    entry = Entry(b"body", ENTRY.created, 60.0, 0.5, kind)
    assert sealer.unseal("k", sealer.seal("k", entry), NOW) == entry


@both
def test_the_format_is_stable(sealer):
    envelope = sealer.seal("k", ENTRY)
    assert envelope[:2] == bytes([2, sealer._mode.code])
    assert len(envelope) == {1: 2 + 16 + 25 + 4, 2: 2 + 12 + 25 + 4 + 16}[sealer._mode.code]
    assert (b"body" in envelope) == (sealer._mode.code == 1)
    if sealer._mode.code == 1:
        assert envelope.hex() == (
            "0201" + "447407da7875a9064130fce571336160"
            "41d954fc40100000" + "404e000000000000" + "3fe0000000000000" + "00" + "626f6479"
        )
    assert (sealer.seal("k", ENTRY) == envelope) == (sealer._mode.code == 1)


@both
def test_many_are_sealed_as_each_of_them_alone(sealer):
    bodies = {f"name-{number}": bytes(number) for number in range(50)}
    envelopes = sealer.seal_many(bodies, ENTRY)
    assert list(envelopes) == list(bodies)
    for name, envelope in envelopes.items():
        entry = Entry(bodies[name], ENTRY.created, ENTRY.ttl, ENTRY.cost)
        assert sealer.unseal(name, envelope, NOW) == entry
        if sealer._mode.code == 1:
            assert envelope == sealer.seal(name, entry)


@both
def test_an_entry_without_end_stays_without_end(sealer):
    envelope = sealer.seal("k", Entry(b"", 0.0))
    assert sealer.unseal("k", envelope, NOW).ttl == math.inf
    assert sealer.unseal("k", envelope, NOW, longest=60.0) is EXPIRED
    assert sealer.unseal("k", envelope, 59.0, longest=60.0).ttl == 60.0


@both
def test_its_time_is_over_after_ttl_and_grace(sealer):
    envelope, end = sealer.seal("k", ENTRY), ENTRY.expires
    assert sealer.unseal("k", envelope, end - 0.1) == ENTRY
    assert sealer.unseal("k", envelope, end) is EXPIRED
    assert sealer.unseal("k", envelope, end + 9.9, grace=10.0) == ENTRY
    assert sealer.unseal("k", envelope, end + 10.0, grace=10.0) is EXPIRED


@both
@pytest.mark.parametrize(
    "times",
    [
        {"created": math.nan},
        {"created": math.inf},
        {"created": -math.inf},
        {"created": 1e300},
        {"created": NOW + 61.0},
        {"created": NOW + SKEW + 1, "ttl": 2 * SKEW},
        {"created": NOW + SKEW + 1, "ttl": 0.0},
        {"ttl": math.nan},
        {"ttl": math.inf},
        {"ttl": -1.0},
        {"cost": math.nan},
        {"cost": math.inf},
        {"cost": -1.0},
        {"kind": 2},
        {"kind": 255},
    ],
)
def test_times_that_cannot_be_are_corrupt_even_with_a_valid_tag(sealer, times):
    with pytest.raises(CorruptRecord):
        sealer.unseal("k", forged(sealer, **times), NOW)


@both
def test_a_ttl_beyond_reason_is_cut_to_the_readers(sealer):
    envelope = forged(sealer, created=NOW, ttl=1e300)
    assert sealer.unseal("k", envelope, NOW + 59, longest=60.0).ttl == 60.0
    assert sealer.unseal("k", envelope, NOW + 60, longest=60.0) is EXPIRED


@both
def test_clocks_may_disagree_a_little(sealer):
    found = sealer.unseal("k", forged(sealer, created=NOW + 59.0), NOW)
    assert found.age(NOW) == 0.0


@both
@given(data=st.data())
def test_a_damaged_envelope_is_corrupt(sealer, data):
    envelope = bytearray(sealer.seal("k", ENTRY))
    place = data.draw(st.integers(0, len(envelope) - 1))
    envelope[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptRecord):
        sealer.unseal("k", bytes(envelope), NOW)


@both
@given(st.binary(max_size=80))
def test_rubbish_is_no_envelope(sealer, rubbish):
    for made in (rubbish, sealer._front + rubbish, sealer.seal("k", ENTRY)[: len(rubbish) % 46]):
        with pytest.raises(CorruptRecord):
            sealer.unseal("k", made, NOW)


@both
@pytest.mark.parametrize(
    "made", ["text", 1, 1.0, [], object(), bytearray(80), memoryview(b"a" * 80)]
)
def test_what_is_not_bytes_is_corrupt(sealer, made):
    with pytest.raises(CorruptRecord, match="instead of bytes"):
        sealer.unseal("k", made, NOW)


@both
def test_an_envelope_is_bound_to_name_secret_codec_and_mode(sealer):
    mode = "aes-gcm" if sealer._mode.code == 2 else None
    other = "aes-gcm" if mode is None else None
    strangers = [
        ("other", sealer),
        ("", sealer),
        ("k", Sealer(b"another secret", mode)),
        ("k", Sealer(SECRET, mode, "my.Codec")),
        ("k", Sealer(SECRET, other)),
    ]
    for name, reader in strangers:
        with pytest.raises(CorruptRecord):
            reader.unseal(name, sealer.seal("k", ENTRY), NOW)


@pytest.mark.parametrize(("codec", "name"), [("c", "ab"), ("ca", "b"), ("", "cab")])
def test_codec_and_name_cannot_pass_for_each_other(codec, name):
    envelope = Sealer(SECRET, None, codec).seal(name, ENTRY)
    with pytest.raises(CorruptRecord):
        Sealer(SECRET, None, "cab").unseal("", envelope, NOW)


def test_an_unknown_encryption_is_refused():
    with pytest.raises(BadConfiguration, match="rot13"):
        Sealer(SECRET, "rot13")


def test_without_the_package_the_setting_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(BadConfiguration, match=r"pip install 'prodml\[crypto\]'"):
        Sealer(SECRET, "aes-gcm")
