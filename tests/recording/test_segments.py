import errno
import os

import pytest

from prodml.recording.segments import Journal, is_live, prune, segments_of

BODY = b'{"at":0.0}'


def journal(directory, **settings):
    return Journal(directory=directory, **({"segment_bytes": 10_000} | settings))


def test_files_of_others_are_not_ours(tmp_path):
    (tmp_path / "notes.jsonl").write_text("{}")
    written = journal(tmp_path)
    written.append(BODY, at=0.0)
    assert [segment.writer for segment in segments_of(tmp_path)] == [written.writer]


def test_two_writers_of_one_process_and_moment_get_two_files(tmp_path):
    first, second = journal(tmp_path), journal(tmp_path)
    first.append(BODY, at=0.0)
    second.append(BODY, at=0.0)
    assert second.writer == f"{first.writer}-2"
    assert len(segments_of(tmp_path)) == 2


def test_file_in_the_way_is_passed_by(tmp_path):
    written = journal(tmp_path, segment_seconds=1.0)
    written.append(BODY, at=0.0)
    (tmp_path / f"{written.writer}.000001.jsonl").write_text("copied here by hand")
    written.append(BODY, at=5.0)
    assert [segment.number for segment in segments_of(tmp_path)] == [0, 1, 2]


def test_writer_without_a_free_name_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("prodml.recording.segments._writers", lambda at: iter(()))
    with pytest.raises(FileExistsError):
        journal(tmp_path).append(BODY, at=0.0)


def test_file_is_live_as_long_as_it_is_open(tmp_path):
    written = journal(tmp_path)
    written.append(BODY, at=0.0)
    (segment,) = segments_of(tmp_path)
    assert is_live(segment.path)
    written.close()
    assert not is_live(segment.path)
    assert not is_live(tmp_path / "gone")


def test_forgotten_journal_lets_its_file_go(tmp_path):
    written = journal(tmp_path)
    written.append(BODY, at=0.0)
    del written
    assert not is_live(segments_of(tmp_path)[0].path)


def test_closing_twice_is_closing_once(tmp_path):
    written = journal(tmp_path)
    written.append(BODY, at=7.0)
    written.close()
    written.close()
    assert segments_of(tmp_path)[0].path.stat().st_mtime == 7.0


def test_no_descriptor_left_lets_the_old_file_go_on(tmp_path, monkeypatch):
    written = journal(tmp_path, segment_bytes=100)
    written.append(BODY, at=0.0)

    def refuse(*_):
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for _ in range(3):
            written.append(BODY, at=0.0)
    assert written.files == 1
    for _ in range(3):
        written.append(BODY, at=1.0)
    assert written.files > 1


def test_line_larger_than_a_segment_has_one_of_its_own(tmp_path):
    written = journal(tmp_path, segment_bytes=20)
    written.append(b'{"at":"' + b"x" * 100 + b'"}', at=0.0)
    written.append(BODY, at=0.0)
    assert written.files == 2


def test_torn_line_that_cannot_be_cut_back_ends_its_file(tmp_path, monkeypatch):
    written, write = journal(tmp_path), os.write
    written.append(BODY, at=0.0)
    calls = []

    def tear(descriptor, data):
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data[:7])

    def refuse(*_):
        raise OSError(errno.EIO, "device error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", tear)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="no space"):
            written.append(BODY, at=0.0)
    assert written.append(BODY, at=0.0) == 2
    assert written.files == 2


def test_pruning_keeps_what_is_being_written(tmp_path):
    for at in (1.0, 2.0, 3.0):
        closed = journal(tmp_path)
        closed.append(BODY, at=at)
        closed.close()
    current = journal(tmp_path)
    current.append(BODY, at=0.5)
    os.utime(tmp_path / f"{current.writer}.000000.jsonl", (0.5, 0.5))
    gone = prune(tmp_path, keep_bytes=1, keep_after=None)
    assert len(gone) == 3
    assert [segment.writer for segment in segments_of(tmp_path)] == [current.writer]


def test_pruning_by_age_keeps_the_young(tmp_path):
    for at in (1.0, 2.0, 3.0):
        closed = journal(tmp_path)
        closed.append(BODY, at=at)
        closed.close()
    prune(tmp_path, keep_bytes=None, keep_after=2.5)
    assert [segment.writer[:18] for segment in segments_of(tmp_path)] == ["19700101T000003000"]


def test_pruning_nothing_deletes_nothing(tmp_path):
    assert prune(tmp_path / "not there", keep_bytes=1, keep_after=0.0) == []
