"""The year as arrays: flights in the order in which they are predicted, weather, planes.

Times are minutes from 1 January 2013, 00:00 UTC.  A flight is predicted one hour before its
schedule, and everything here is what was known by then: the weather of the last full hour,
and the delays of flights that had really left by that moment.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DATA = Path(__file__).parent / "data"
FILE = "flights2013.xz"
EPOCH = 1_356_998_400.0
"""2013-01-01T00:00:00Z in seconds since the Unix epoch."""
LATE = 15
"""A flight is late when it arrives more than so many minutes after schedule."""
LEAD = 60
"""Minutes before schedule at which the service is asked."""
DAY = 1440

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
PLANE = ("age", "seats")
SCHEDULE = ("carrier", "origin", "dest", "clock", "weekday", "distance")
LIVE = ("delay_now",)
FEATURES = (*SCHEDULE, *PLANE, *WEATHER, *LIVE)
CATEGORICAL = ("carrier", "origin", "dest")
UNKNOWN = -99.0
"""What a source answers when it knows that nobody knows: a plane that is not on record, a
gauge that was silent, an airport where nothing has left yet.  NaN is left for a source that
did not answer at all."""


@dataclass(frozen=True)
class Weather:
    """Hourly observations: ``values[name][origin, hour]``, NaN where there is none."""

    values: dict[str, Floats]

    def at(self, origin: int, hour: int) -> dict[str, float]:
        """What the station at ``origin`` reported for ``hour``; NaN if it did not report."""
        return {name: float(grid[origin, hour]) for name, grid in self.values.items()}


@dataclass(frozen=True)
class Year:
    """Every flight of 2013, by schedule."""

    sched: Ints
    month: Ints
    day: Ints
    clock: Ints
    dep_delay: Floats
    arr_delay: Floats
    air_time: Floats
    distance: Ints
    carrier: Ints
    origin: Ints
    dest: Ints
    tail: Ints
    plane_year: Floats
    plane_seats: Floats
    words: dict[str, list[str]]
    weather: Weather

    def __len__(self) -> int:
        return len(self.sched)

    @cached_property
    def late(self) -> Floats:
        """1 late, 0 not, NaN when the flight never arrived: no label will ever come."""
        late = (self.arr_delay > LATE).astype(float)
        late[np.isnan(self.arr_delay)] = np.nan
        return late

    @cached_property
    def asked(self) -> Ints:
        """Minute at which the flight is predicted."""
        return self.sched - LEAD

    @cached_property
    def departed(self) -> Floats:
        """Minute of the real departure; NaN for a flight that did not leave."""
        return self.sched + self.dep_delay

    @cached_property
    def landed(self) -> Floats:
        """Minute at which the label is known: wheels up, air time and 40 minutes on the ground."""
        return self.departed + self.air_time + 40.0

    @cached_property
    def local_day(self) -> Ints:
        """Day of the year at the airports, from 0."""
        starts = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])
        return np.asarray(starts[self.month - 1] + self.day - 1, dtype=np.int64)

    @cached_property
    def features(self) -> dict[str, Floats]:
        """Point-in-time features by name, one value a flight, NaN where unknown."""
        hour = self.asked // 60
        weather = {name: grid[self.origin, hour] for name, grid in self.weather.values.items()}
        plane = {"age": 2013.0 - self.plane_year[self.tail], "seats": self.plane_seats[self.tail]}
        return {
            "carrier": self.carrier.astype(float),
            "origin": self.origin.astype(float),
            "dest": self.dest.astype(float),
            "clock": (self.clock // 100 * 60 + self.clock % 100).astype(float),
            # 1 January 2013 was a Tuesday.
            "weekday": ((self.local_day + 1) % 7).astype(float),
            "distance": self.distance.astype(float),
            **{name: _or_unknown(values) for name, values in plane.items()},
            **weather,
            "delay_now": _or_unknown(self._delay_now()),
        }

    def matrix(self, names: tuple[str, ...] = FEATURES) -> Floats:
        """Features as an array of shape (n_flights, n_names)."""
        return np.column_stack([self.features[name] for name in names])

    def _delay_now(self) -> Floats:
        """Mean delay of flights that left the same airport 3 h to 1 h before schedule."""
        told = np.full(len(self), np.nan)
        for origin in range(len(self.words["origin"])):
            here = np.flatnonzero(self.origin == origin)
            gone = here[~np.isnan(self.departed[here])]
            gone = gone[np.argsort(self.departed[gone], kind="stable")]
            times, total = self.departed[gone], np.r_[0.0, np.cumsum(self.dep_delay[gone])]
            first = np.searchsorted(times, self.sched[here] - 180, "left")
            last = np.searchsorted(times, self.sched[here] - LEAD, "right")
            count = last - first
            with np.errstate(invalid="ignore"):
                told[here] = (total[last] - total[first]) / np.where(count > 0, count, np.nan)
        return told


def load(path: Path = DATA / FILE) -> Year:
    """Read the extract, after checking that it is the one that was checked in.

    Raises
    ------
    ValueError
        The file's checksum is not the one in ``SHA256SUMS``.
    """
    packed = path.read_bytes()
    wanted = (path.parent / "SHA256SUMS").read_text().split()[0]
    if hashlib.sha256(packed).hexdigest() != wanted:
        raise ValueError(f"{path} is damaged: its SHA-256 is not {wanted}")
    head, _, body = lzma.decompress(packed).partition(b"\n")
    header = json.loads(head)
    columns = _columns(header["columns"], body)
    words = header["words"]
    found: dict[str, Any] = {name: columns[name] for name in _INTS}
    found |= {name: _with_nan(columns[name], words["missing"]) for name in _FLOATS}
    named = {name: words[name] for name in ("carrier", "origin", "dest", "tail")}
    return Year(**found, words=named, weather=_weather(columns, words))


_INTS = ("sched", "month", "day", "clock", "distance", "carrier", "origin", "dest", "tail")
_FLOATS = ("dep_delay", "arr_delay", "air_time", "plane_year", "plane_seats")
_SIZES = {"b": 1, "h": 2, "i": 4}


def _or_unknown(values: Floats) -> Floats:
    return np.where(np.isnan(values), UNKNOWN, values)


def _columns(shape: list[tuple[str, str, int]], body: bytes) -> dict[str, Any]:
    found, place = {}, 0
    for name, kind, count in shape:
        dtype = np.dtype(f"<i{_SIZES[kind]}")
        found[name] = np.frombuffer(body, dtype, count, place).astype(np.int64)
        place += count * _SIZES[kind]
    return found


def _with_nan(values: Ints, missing: int) -> Floats:
    told = values.astype(float)
    told[values == missing] = np.nan
    return told


def _weather(columns: dict[str, Ints], words: dict[str, Any]) -> Weather:
    hours = 366 * 24
    grids: dict[str, Floats] = {}
    for name in WEATHER:
        grid = np.full((len(words["origin"]), hours), np.nan)
        values = _with_nan(columns[f"w_{name}"], words["missing"]) / words["scale"][name]
        grid[columns["w_origin"], columns["w_hour"]] = _or_unknown(values)
        grids[name] = grid
    return Weather(grids)
