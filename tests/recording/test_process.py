"""What survives the death of a process, and what several of them do to one directory."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prodml.events import Stream
from prodml.recording import PredictionLog, PredictionLogger

# Python warns of forks beside threads; that they do no harm here is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

# Writes for ever; says on its standard output which records were acknowledged.
WRITER = """
import os, sys
from prodml.recording import PredictionLogger
log = PredictionLogger(sys.argv[1], segment_bytes="16 KiB")
for number in range(int(sys.argv[2])):
    if log.log_prediction(f"r-{number}", {"x": number, "pad": "a" * 200}, 0.5, "v1", 1.0):
        os.write(1, b"%d\\n" % number)
"""


def writer(directory, count, **options):
    command = [sys.executable, "-c", WRITER, str(directory), str(count)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, **options)


def written(directory):
    return {record.request_id for record in PredictionLog(directory)}


def one(log, request_id):
    return log.log_prediction(request_id, {"x": 1}, 0.5, "v1", 1.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_acknowledged_survives_the_signal(tmp_path, number):
    with writer(tmp_path, 10**7) as process:
        head = [process.stdout.readline() for _ in range(500)]
        process.send_signal(number)
        acknowledged = [int(line) for line in [*head, *process.stdout] if line.endswith(b"\n")]
    assert process.returncode == -number
    assert {f"r-{n}" for n in acknowledged} <= written(tmp_path)
    # One more may have been written and not yet been acknowledged; none is torn.
    assert len(written(tmp_path)) - len(acknowledged) in {0, 1}
    assert [gap.cause for gap in PredictionLog(tmp_path).gaps()] in ([], ["torn"])


def test_exit_without_closing_loses_nothing(tmp_path):
    with writer(tmp_path, 300) as process:
        acknowledged = process.stdout.readlines()
    assert len(acknowledged) == len(written(tmp_path)) == 300


def test_two_processes_share_a_directory(tmp_path):
    with writer(tmp_path, 500) as first, writer(tmp_path, 500) as second:
        assert len(first.stdout.readlines()) == len(second.stdout.readlines()) == 500
    records = list(PredictionLog(tmp_path))
    assert len(records) == 1000
    assert len({(record.writer, record.id) for record in records}) == 1000
    assert len({record.writer for record in records}) == 2
    assert list(PredictionLog(tmp_path).gaps()) == []


def test_writer_after_a_killed_one_goes_on(tmp_path):
    with writer(tmp_path, 10**7) as process:
        process.stdout.readline()
        process.kill()
    before = len(written(tmp_path))
    with PredictionLogger(tmp_path) as log:
        assert one(log, "after")
    assert len(written(tmp_path)) == before + 1


def in_a_fork(work):
    child = os.fork()
    if child == 0:
        # No exception and no exit handler of the parent's may run in here.
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_parent_and_child_keep_all_their_records(tmp_path):
    with PredictionLogger(tmp_path) as log:
        for number in range(200):
            assert one(log, f"before-{number}")
        assert in_a_fork(lambda: all(one(log, f"child-{number}") for number in range(200))) == 0
        for number in range(200):
            assert one(log, f"after-{number}")
        assert log.stats().written == 400
    assert len(written(tmp_path)) == 600
    assert len({record.writer for record in PredictionLog(tmp_path)}) == 2
    assert list(PredictionLog(tmp_path).gaps()) == []


def test_child_counts_from_nothing(tmp_path):
    with PredictionLogger(tmp_path, events=Stream()) as log:
        one(log, "parent")
        log.log_prediction("parent", {}, 0, "v1", "slow")
        assert in_a_fork(lambda: log.stats().accepted == 0 and one(log, "child")) == 0
        assert log.stats().dropped == {"invalid": 1}


def test_fork_in_the_middle_of_a_write_locks_nobody_out(tmp_path):
    with PredictionLogger(tmp_path) as log:
        one(log, "before")
        held, release = threading.Event(), threading.Event()

        def hold():
            with log._lock, log._tally:
                log._busy = True
                held.set()
                release.wait()
                log._busy = False

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        try:
            code = in_a_fork(lambda: one(log, "child"))
        finally:
            release.set()
            thread.join()
    assert code == 0
    assert "child" in written(tmp_path)


def test_child_lets_the_parents_file_go(tmp_path):
    with PredictionLogger(tmp_path) as log:
        one(log, "parent")
        descriptor = log._journal._descriptor

        def gone():
            try:
                os.fstat(descriptor)
            except OSError:
                return True
            return False

        assert in_a_fork(gone) == 0
        assert one(log, "parent again")


def test_closed_logger_stays_closed_in_the_child(tmp_path):
    log = PredictionLogger(tmp_path, events=Stream())
    log.close()
    assert in_a_fork(lambda: not one(log, "child")) == 0
