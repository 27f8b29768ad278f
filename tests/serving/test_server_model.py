"""The server against a small reference model: any sequence of commands, any time."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prodml.errors import BadConfiguration, UnknownVersion
from prodml.events import Stream
from prodml.serving import VersionedModelServer

VERSIONS = st.sampled_from(["v1", "v2", "v3", "v4"])


class Named:
    def __init__(self, version):
        self.version, self.closed = version, False

    def predict(self, features):
        assert not self.closed
        return self.version

    def close(self):
        self.closed = True


class ServerAgainstModel(RuleBasedStateMachine):
    """Plain dictionaries and lists say what the server must do."""

    def __init__(self):
        super().__init__()
        self.server = VersionedModelServer(events=Stream())
        self.loaded = {}
        self.default = None
        self.past = []
        self.canary = {}
        self.shadow = ()
        self.quarantined = set()
        self.open = []

    def refused(self, kind, call):
        with pytest.raises(kind):
            call()

    def settle(self, default):
        self.default = default
        self.canary.pop(default, None)
        self.shadow = tuple(v for v in self.shadow if v != default)

    @rule(version=VERSIONS)
    def load(self, version):
        model = Named(version)
        if version in self.loaded:
            self.refused(BadConfiguration, lambda: self.server.load_model(version, model))
            return
        self.server.load_model(version, model)
        self.loaded[version] = model

    @rule(version=VERSIONS)
    def load_badly(self, version):
        if version not in self.loaded:
            model = Named(version)
            with pytest.raises(ValueError):
                self.server.load_model(version, model, check=lambda m: False)

    @rule(version=VERSIONS)
    def promote(self, version):
        if version not in self.loaded:
            self.refused(UnknownVersion, lambda: self.server.set_default_version(version))
        elif version in self.quarantined:
            self.refused(BadConfiguration, lambda: self.server.set_default_version(version))
        else:
            self.server.set_default_version(version)
            if version != self.default and self.default is not None:
                self.past.append(self.default)
            self.settle(version)

    @rule(version=VERSIONS, share=st.floats(0.0, 1.0), mirrored=st.booleans())
    def route(self, version, share, mirrored):
        split = {"canary": {version: share}, "shadow": [version] if mirrored else []}
        bad = version == self.default or version in self.quarantined or self.default is None
        if bad or version not in self.loaded:
            self.refused((BadConfiguration, UnknownVersion), lambda: self.server.route(**split))
            return
        self.server.route(**split)
        self.canary = {version: share} if share else {}
        self.shadow = tuple(split["shadow"])

    @rule(version=VERSIONS)
    def unload(self, version):
        used = version == self.default or version in self.canary or version in self.shadow
        busy = any(route.version == version for route in self.open)
        if version not in self.loaded:
            self.refused(UnknownVersion, lambda: self.server.unload_model(version))
        elif used:
            self.refused(BadConfiguration, lambda: self.server.unload_model(version))
        elif not busy:
            self.server.unload_model(version)
            assert self.loaded.pop(version).closed

    @rule()
    def roll_back(self):
        if self.default is None:
            self.refused(UnknownVersion, self.server.rollback)
            return
        if self.canary:
            self.quarantined |= set(self.canary)
            self.shadow = tuple(v for v in self.shadow if v not in self.canary)
            self.canary = {}
        else:
            past = list(self.past)
            bad = self.quarantined | {self.default}
            while past and (past[-1] not in self.loaded or past[-1] in bad):
                past.pop()
            if not past:
                self.refused(BadConfiguration, self.server.rollback)
                return
            self.quarantined = bad
            self.past = past[:-1]
            self.settle(past[-1])
        assert self.server.rollback() == self.default

    @rule(version=VERSIONS)
    def release(self, version):
        if version in self.loaded or version in self.quarantined:
            self.server.release(version)
            self.quarantined.discard(version)

    @rule(key=st.integers(0, 50))
    def begin(self, key):
        if self.default is not None:
            self.open.append(self.server.resolve(key=key))

    @rule(index=st.integers(0, 10))
    def end(self, index):
        if self.open:
            route = self.open.pop(index % len(self.open))
            assert route.predict({}) == route.version
            route.release()

    @invariant()
    def agrees(self):
        assert set(self.server.versions) == set(self.loaded)
        assert self.server.default_version == self.default
        assert dict(self.server.canary) == self.canary
        assert self.server.shadow_versions == self.shadow
        assert set(self.server.quarantined) == self.quarantined

    @invariant()
    def counts_every_open_request(self):
        counts = dict.fromkeys(self.loaded, 0)
        for route in self.open:
            counts[route.version] += 1
        assert self.server.in_flight == counts

    @invariant()
    def answers_with_a_routed_version(self):
        if self.default is not None:
            assert self.server.predict({}, key="ann") in {self.default, *self.canary}
        for version in self.loaded:
            assert self.server.predict({}, version) == version


TestServerAgainstModel = ServerAgainstModel.TestCase
TestServerAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
