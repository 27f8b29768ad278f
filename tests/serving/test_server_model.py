"""The server against a small reference model: any sequence of commands, any time."""

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prodml.errors import BadConfiguration, DrainTimeout, UnknownVersion
from prodml.events import Stream
from prodml.serving import VersionedModelServer

VERSIONS = st.sampled_from(["v1", "v2", "v3", "v4"])
ANY = st.sampled_from(["v1", "v2", "v3", "v4", None])
REFUSED = (BadConfiguration, UnknownVersion)


class Named:
    """Answers with its version, and notes in ``closed`` that it was closed; dies afterwards."""

    def __init__(self, version, closed):
        self.version, self.closed = version, closed

    def predict(self, features):
        assert self not in self.closed
        return self.version

    def close(self):
        assert self not in self.closed
        self.closed.append(self)


class ServerAgainstModel(RuleBasedStateMachine):
    """Plain dictionaries and lists say what the server must do."""

    def __init__(self):
        super().__init__()
        self.server = VersionedModelServer(events=Stream())
        self.closed = []
        self.loaded = {}
        self.default = None
        self.past = []
        self.canary = {}
        self.variants = {}
        self.shadow = ()
        self.header = None
        self.staff = None
        self.quarantined = set()
        self.open = []
        self.saved = None

    def refused(self, kind, call):
        before = self.server.routing(), self.server.history
        with pytest.raises(kind):
            call()
        assert self.server.routing() == before[0]
        assert self.server.history == before[1]

    def serving(self):
        """Every version that has a part in traffic."""
        arms = [version for version, _ in self.variants.values()]
        named = {self.default, self.header, self.staff, *self.canary, *self.shadow, *arms}
        return named - {None}

    def settle(self, default):
        self.default = default
        self.canary.pop(default, None)
        self.shadow = tuple(v for v in self.shadow if v != default)

    # -- loading ------------------------------------------------------------------------

    @rule(version=VERSIONS, behind=st.booleans())
    def load(self, version, behind):
        model = Named(version, self.closed)
        if version in self.loaded:
            self.refused(BadConfiguration, lambda: self.server.load_model(version, model))
            self.refused(BadConfiguration, lambda: self.server.load(version, lambda: model))
        else:
            if behind:
                self.server.load(version, lambda: model, warm_up=[{}]).result(10)
            else:
                self.server.load_model(version, model, warm_up=[{}])
            self.loaded[version] = model

    @rule(version=VERSIONS)
    def load_badly(self, version):
        if version not in self.loaded:
            model = Named(version, self.closed)
            with pytest.raises(ValueError):
                self.server.load_model(version, model, check=lambda m: False)

    @rule(version=VERSIONS)
    def unload(self, version):
        busy = any(route.version == version for route in self.open)
        if version not in self.loaded:
            self.refused(UnknownVersion, lambda: self.server.unload_model(version))
        elif version in self.serving():
            self.refused(BadConfiguration, lambda: self.server.unload_model(version))
        elif busy:
            with pytest.raises(DrainTimeout):
                self.server.unload_model(version, timeout=0.0)
        else:
            model = self.loaded.pop(version)
            self.server.unload_model(version)
            assert model in self.closed

    # -- routing ------------------------------------------------------------------------

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

    @rule(version=VERSIONS, share=st.floats(0.0, 0.5), arm=ANY, mirrored=st.booleans())
    def route(self, version, share, arm, mirrored):
        split = {"canary": {version: share}, "shadow": [version] if mirrored else []}
        split["variants"] = {} if arm is None else {"B": (arm, 0.25)}
        named = {version, arm} - {None}
        sound = self.default is not None and named <= set(self.loaded) - self.quarantined
        # A share of nothing is no part of traffic, so nobody minds whose it is.
        if not share and not mirrored:
            sound = self.default is not None and named - {version} <= (
                set(self.loaded) - self.quarantined
            )
            sound = sound or arm is None
        elif version == self.default:
            sound = False
        if not sound:
            self.refused(REFUSED, lambda: self.server.route(**split))
            return
        self.server.route(**split)
        self.canary = {version: share} if share else {}
        self.variants = split["variants"]
        self.shadow = tuple(split["shadow"])

    @rule(header=ANY, staff=ANY)
    def override(self, header, staff):
        given = {
            "overrides": {"x-arm": {"new": header}} if header else {},
            "cohorts": {"staff": (staff, [7])} if staff else {},
            "canary": self.canary,
            "variants": self.variants,
            "shadow": self.shadow,
        }
        named = {header, staff} - {None}
        parts = named or self.canary or self.variants or self.shadow
        if (parts and self.default is None) or not named <= set(self.loaded) - self.quarantined:
            self.refused(REFUSED, lambda: self.server.route(**given))
            return
        self.server.route(**given)
        self.header, self.staff = header, staff

    @rule()
    def roll_back(self):
        if self.default is None:
            self.refused(UnknownVersion, self.server.rollback)
            return
        arms = [version for version, _ in self.variants.values()]
        tried = {*self.canary, *arms} - {self.default}
        if tried:
            self.quarantined |= tried
            self.forget(tried)
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
            self.forget({self.default})
            self.settle(past[-1])
        assert self.server.rollback() == self.default

    def forget(self, bad):
        self.canary = {v: s for v, s in self.canary.items() if v not in bad}
        self.variants = {n: arm for n, arm in self.variants.items() if arm[0] not in bad}
        self.shadow = tuple(v for v in self.shadow if v not in bad)
        self.header = None if self.header in bad else self.header
        self.staff = None if self.staff in bad else self.staff

    @rule(version=VERSIONS)
    def release(self, version):
        if version in self.loaded or version in self.quarantined:
            self.server.release(version)
            self.quarantined.discard(version)

    @rule()
    def save(self):
        state = (
            self.default, list(self.past), dict(self.canary), dict(self.variants), self.shadow,
            self.header, self.staff, set(self.quarantined),
        )  # fmt: skip
        self.saved = json.dumps(self.server.routing()), state, self.serving()

    @rule()
    def restore(self):
        if self.saved is None:
            return
        data, state, serving = self.saved
        if not serving <= set(self.loaded):
            self.refused(UnknownVersion, lambda: self.server.apply_routing(json.loads(data)))
            return
        self.server.apply_routing(json.loads(data))
        (
            self.default, past, canary, variants, self.shadow, self.header, self.staff, bad,
        ) = state  # fmt: skip
        self.past, self.canary, self.variants = list(past), dict(canary), dict(variants)
        self.quarantined = set(bad)

    # -- asking -------------------------------------------------------------------------

    @rule(key=st.integers(0, 50), new=st.booleans())
    def begin(self, key, new):
        if self.default is not None:
            self.open.append(self.server.resolve(key=key, headers={"x-arm": "new"} if new else {}))

    @rule(index=st.integers(0, 10))
    def end(self, index):
        if self.open:
            route = self.open.pop(index % len(self.open))
            assert route.predict({}) == route.version
            route.release()

    @invariant()
    def agrees(self):
        assert set(self.server.versions) == set(self.loaded)
        assert self.server.states == dict.fromkeys(self.loaded, "ready")
        assert self.server.default_version == self.default
        assert self.server.ready() == (self.default is not None)
        assert dict(self.server.canary) == self.canary
        assert dict(self.server.variants) == self.variants
        assert self.server.shadow_versions == self.shadow
        assert set(self.server.quarantined) == self.quarantined
        assert self.server.routing()["past"] == self.past[-32:]

    @invariant()
    def nobody_is_closed_too_soon(self):
        assert not set(self.closed) & set(self.loaded.values())

    @invariant()
    def counts_every_open_request(self):
        counts = dict.fromkeys(self.loaded, 0)
        for route in self.open:
            counts[route.version] += 1
        assert self.server.in_flight == counts

    @invariant()
    def answers_with_a_routed_version(self):
        if self.default is not None:
            reply = self.server.call({}, key="ann")
            arms = {
                "stable": {self.default},
                "canary": set(self.canary),
                "B": {version for version, _ in self.variants.values()},
            }
            assert reply.value == reply.version
            assert reply.version in arms[reply.arm]
            reply = self.server.call({}, key=7)
            assert (reply.arm == "staff") == (self.staff is not None)
            assert self.staff in (None, reply.version)
            reply = self.server.call({}, headers={"X-Arm": "new"})
            assert self.header in (None, reply.version)
            assert (reply.arm == "override") == (self.header is not None)
        for version in self.loaded:
            assert self.server.predict({}, version) == version


TestServerAgainstModel = ServerAgainstModel.TestCase
TestServerAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
