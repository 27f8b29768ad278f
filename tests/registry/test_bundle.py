"""Models of several files: what may be in a bundle, and what comes back."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, CorruptRecord, StoreUnavailable
from prodml.events import Stream
from prodml.registry import Bundle, BundleSerializer, ModelRegistry
from prodml.registry.records import digest_of

FILES = {"model.onnx": b"graph", "data/weights.bin": b"numbers", "data/deep/er": b""}


@pytest.fixture(params=["directory", "sqlite"])
def registry(request, tmp_path):
    place = tmp_path / "models" if request.param == "directory" else f"sqlite:///{tmp_path}/m.db"
    return ModelRegistry(place, events=Stream())


def test_bundle_comes_back_as_it_went(registry):
    ref = registry.register("net", Bundle(FILES))
    loaded = registry.load("net", "1")
    assert isinstance(loaded, Bundle)
    assert dict(loaded) == FILES
    assert loaded == Bundle(FILES)
    described = registry.describe("net", "1")
    assert [file.path for file in described.files] == sorted(FILES)
    assert (described.size, described.bundle, described.serializer) == (12, True, "bundle")
    assert ref.digest == described.digest


def test_digest_of_a_bundle_tells_names_and_contents_apart(registry):
    bundles = [{"a": b"1", "b": b"2"}, {"a": b"2", "b": b"1"}, {"a": b"1"}, {"b": b"1"}]
    digests = [registry.register("net", Bundle(files)).digest for files in bundles]
    again = registry.register("net", Bundle({"b": b"2", "a": b"1"})).digest
    assert len(set(digests)) == 4
    assert again == digests[0]


def test_same_file_in_two_bundles_is_kept_once(registry):
    for number in range(3):
        registry.register("net", Bundle({"weights": b"same", "config": b"%d" % number}))
    assert len(registry._archive.artifacts()) == 4


def test_a_directory_is_read_and_written(tmp_path):
    root = Bundle(FILES).write(tmp_path / "out" / "model")
    assert (root / "data" / "weights.bin").read_bytes() == b"numbers"
    assert Bundle.read(root) == Bundle(FILES)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
def test_only_the_owner_may_enter_what_is_written(tmp_path):
    before = os.umask(0)
    try:
        root = Bundle(FILES).write(tmp_path / "model")
    finally:
        os.umask(before)
    assert root.stat().st_mode & 0o077 == 0


def test_nothing_is_written_over_what_is_there(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(StoreUnavailable, match="exists"):
        Bundle(FILES).write(tmp_path / "model")


@pytest.mark.parametrize(
    "path",
    [
        "", "/abs", "../up", "a/../../up", "a/..", ".", "./a", "a//b", "a/", "a\\b", "C:/x", "C:x",
        "a\x00b", "a\nb", "...", "a/ ", "x" * 256, "/".join(["d" * 200] * 6), "nul|x", "what?",
    ],
)  # fmt: skip
def test_path_that_could_mean_another_place_is_refused(path):
    with pytest.raises(BadConfiguration, match="inside a bundle"):
        Bundle({"fine": b"", path: b""})


def test_path_through_a_file_is_refused():
    with pytest.raises(BadConfiguration, match="goes through a file"):
        Bundle({"a": b"", "a/b": b""})


def test_bundle_without_files_is_refused(tmp_path):
    with pytest.raises(BadConfiguration, match="at least one"):
        Bundle.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
@pytest.mark.parametrize("kind", ["symlink", "folder link", "dangling", "hard link", "pipe"])
def test_link_or_pipe_in_a_directory_is_refused(tmp_path, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = Bundle(FILES).write(tmp_path / "model")
    odd = root / "data" / "odd"
    match kind:
        case "symlink":
            odd.symlink_to(outside / "secret")
        case "folder link":
            odd.symlink_to(outside, target_is_directory=True)
        case "dangling":
            odd.symlink_to(outside / "none")
        case "hard link":
            odd.hardlink_to(outside / "secret")
        case "pipe":
            os.mkfifo(odd)
    with pytest.raises(BadConfiguration, match=r"data/odd is a link or no file"):
        Bundle.read(root)


def test_link_that_comes_between_the_look_and_the_opening_is_not_followed(tmp_path, monkeypatch):
    root = Bundle({"weights": b"1"}).write(tmp_path / "model")
    (tmp_path / "secret").write_bytes(b"secret")
    real = os.open

    def swapped(path, *args, **kwargs):
        Path(path).unlink()
        Path(path).symlink_to(tmp_path / "secret")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(StoreUnavailable):
        Bundle.read(root)


def test_folder_that_is_none_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable):
        Bundle.read(tmp_path / "none")


@pytest.mark.parametrize("damage", [b"", b"NUMBERS", b"numbers and more"])
def test_one_damaged_file_spoils_the_bundle(tmp_path, damage):
    registry = ModelRegistry(tmp_path, events=Stream())
    registry.register("net", Bundle(FILES))
    digest = digest_of(b"numbers")
    (tmp_path / "artifacts" / digest[:2] / digest).write_bytes(damage)
    with pytest.raises(CorruptRecord, match=r"data/weights\.bin"):
        registry.load("net", "1")


def test_bundle_is_immutable_and_says_its_size():
    files = dict(FILES)
    bundle = Bundle(files)
    files["more"] = b""
    assert len(bundle) == 3
    assert repr(bundle) == "Bundle(3 files, 12 bytes)"
    with pytest.raises(TypeError):
        bundle["more"] = b""


def test_bundle_serializer_takes_bundles_alone():
    with pytest.raises(BadConfiguration, match=r"Bundle\.read"):
        BundleSerializer().dump(b"bytes")


@settings(deadline=None)
@given(st.text(max_size=12))
def test_every_path_stays_inside_or_is_refused(path):
    try:
        Bundle({path: b""})
    except BadConfiguration:
        return
    root = os.path.realpath("/somewhere/model")
    target = os.path.normpath(os.path.join(root, path))
    assert target.startswith(root + "/")
    assert os.path.relpath(target, root) == path
