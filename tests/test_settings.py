from dataclasses import dataclass, field
from threading import Lock

import pytest

from prodml._settings import retune, settings_of
from prodml.errors import BadConfiguration
from prodml.events import SettingsChanged, Stream
from prodml.testing import ManualClock, Recorder


@dataclass(kw_only=True, slots=True)
class Fan:
    speed: int = 3
    kinds: tuple[type, ...] = (ValueError,)
    name: str = field(default="fan", metadata={"fixed": "facts carry it"})
    events: Stream = field(default_factory=Stream)
    clock: ManualClock = field(default_factory=ManualClock)
    _lock: Lock = field(default_factory=Lock, init=False)
    _double: int = field(default=0, init=False)

    def __post_init__(self):
        if self.speed < 0:
            raise BadConfiguration(f"speed must be at least 0, not {self.speed}")
        self._retuned()

    def _retuned(self):
        self._double = 2 * self.speed


def test_settings_are_the_plain_values_and_not_the_collaborators():
    assert settings_of(Fan()) == {"speed": 3, "kinds": (ValueError,), "name": "fan"}


def test_retuning_sets_derives_and_states_the_fact():
    fan = Fan()
    recorder = Recorder(fan.events)
    fact = retune(fan, speed=5, kinds=(ValueError,))
    assert (fan.speed, fan._double) == (5, 10)
    assert recorder.of(SettingsChanged) == [fact]
    assert (fact.changes, fact.source, fact.at) == ({"speed": (3, 5)}, "fan", fan.clock.time())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": -1}, "at least 0"),
        ({"sped": 1}, "no setting 'sped'; settings: speed, kinds, name"),
        ({"clock": 1}, "no setting 'clock'"),
        ({"speed": 9, "name": "x"}, "name cannot change while running: facts carry it"),
    ],
)
def test_a_refused_change_changes_nothing(change, message):
    fan = Fan()
    with pytest.raises(BadConfiguration, match=message):
        retune(fan, **change)
    assert settings_of(fan) == settings_of(Fan())
