"""The log against a model of it: whatever is done, it holds what was acknowledged."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prodml.events import Stream
from prodml.recording import PredictionLog, PredictionLogger
from prodml.recording.segments import segments_of
from prodml.testing import ManualClock


class LogMachine(RuleBasedStateMachine):
    """Two writers, rotation, drops, crashes and damage; the model is a list and a dict."""

    @initialize()
    def begin(self):
        self.directory = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.written, self.labels, self.dropped, self.torn, self.count = [], {}, 0, 0, 0
        self.logs = [self.writer(), self.writer()]

    def writer(self):
        return PredictionLogger(
            self.directory,
            segment_bytes=4096,
            max_record_bytes=2000,
            clock=self.clock,
            events=Stream(),
        )

    @rule(which=st.integers(0, 1), pad=st.integers(0, 1500))
    def log(self, which, pad):
        name = f"r-{self.count}"
        self.count += 1
        assert self.logs[which].log_prediction(name, {"pad": "a" * pad}, 0.5, "v1", 1.0)
        self.written.append(name)
        self.clock.advance(1)

    @rule(which=st.integers(0, 1), number=st.integers(0, 20), label=st.integers())
    def label(self, which, number, label):
        assert self.logs[which].truth(f"r-{number}", label)
        self.labels[f"r-{number}"] = label
        self.clock.advance(1)

    @rule(which=st.integers(0, 1))
    def drop(self, which):
        assert not self.logs[which].log_prediction("big", {"pad": "a" * 2000}, 0.5, "v1", 1.0)

    @rule(which=st.integers(0, 1))
    def restart(self, which):
        self.dropped += self.logs[which].stats().dropped.get("too large", 0)
        self.logs[which].close()
        self.logs[which] = self.writer()

    @rule(which=st.integers(0, 1), part=st.binary(min_size=1, max_size=30))
    @precondition(lambda self: any(log.stats().written for log in self.logs))
    def crash_in_the_middle_of_a_line(self, which, part):
        log = self.logs[which]
        if not log.stats().written:
            return
        self.restart(which)
        writer = [s for s in segments_of(self.directory) if s.writer == log.stats().writer]
        with writer[-1].path.open("ab") as file:
            file.write(b'{"v":1,' + part.replace(b"\n", b" "))
        self.torn += 1

    @invariant()
    def reader_gives_what_was_acknowledged(self):
        records = list(PredictionLog(self.directory))
        assert [record.request_id for record in records] == self.written
        assert {r.request_id: r.label for r in records if r.labelled} == {
            name: label for name, label in self.labels.items() if name in self.written
        }

    @invariant()
    def everything_accepted_is_accounted_for(self):
        for log in self.logs:
            stats = log.stats()
            assert stats.accepted == stats.written + sum(stats.dropped.values())

    @invariant()
    def nothing_but_what_happened_is_missing(self):
        gaps = list(PredictionLog(self.directory).gaps())
        assert {gap.cause for gap in gaps} <= {"torn", "dropped: too large"}
        assert sum(gap.count for gap in gaps if gap.cause == "torn") == self.torn

    def teardown(self):
        for log in getattr(self, "logs", []):
            self.dropped += log.stats().dropped.get("too large", 0)
            log.close()
        noted = [gap for gap in PredictionLog(self.directory).gaps() if gap.cause != "torn"]
        assert sum(gap.count for gap in noted) == self.dropped
        for entry in os.scandir(self.directory):
            os.unlink(entry)
        self.directory.rmdir()


TestLog = LogMachine.TestCase
TestLog.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
