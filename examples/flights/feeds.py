"""The sources that the service asks, as an airline would have them."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from data import EPOCH, LEAD, PLANE, UNKNOWN, WEATHER, Year

from prodml import CircuitBreaker, FeatureService, PredictionCache, cached_prediction
from prodml.clock import Clock
from prodml.events import Stream
from prodml.features import FeatureView, WindowedMean

HOUR = 3600.0

# Seconds that a silent weather station keeps a request waiting.
SILENCE = 0.4


class WeatherFeed:
    """Hourly reports of three stations; where a report does not exist, silence, then an error.

    Reports are cached by station and hour: a report never changes, so the cache's version is
    simply the year.
    """

    def __init__(self, year: Year, cache: PredictionCache, clock: Clock) -> None:
        self._year = year
        self._clock = clock
        self.asked = 0
        self.reports = 0
        self._report = cached_prediction(cache, version="2013", function="weather-report")(
            self._fetch_report
        )

    def fetch(self, entity: Mapping[str, Any], _: Sequence[str]) -> Mapping[str, float]:
        self.asked += 1
        return self._report({"origin": entity["origin"], "hour": entity["hour"]})

    def _fetch_report(self, key: Mapping[str, int]) -> dict[str, float]:
        self.reports += 1
        report = self._year.weather.at(key["origin"], key["hour"])
        if isnan(report["temp"]):
            self._clock.sleep(SILENCE)
            raise ConnectionError(f"no weather report for station {key['origin']}")
        return report


class Planes:
    """The register of planes, by tail number."""

    def __init__(self, year: Year) -> None:
        self._age = (2013.0 - year.plane_year).tolist()
        self._seats = year.plane_seats.tolist()

    def fetch(self, entity: Mapping[str, Any], _: Sequence[str]) -> Mapping[str, float]:
        age, seats = self._age[entity["tail"]], self._seats[entity["tail"]]
        # Not on record is an answer, not an outage.
        return {
            "age": UNKNOWN if isnan(age) else age,
            "seats": UNKNOWN if isnan(seats) else seats,
        }


class Departures:
    """Mean delay of the flights that left an airport 3 h to 1 h before a schedule."""

    def __init__(self, clock: Clock) -> None:
        self.window = WindowedMean(
            "delay_now",
            window_start=3 * HOUR,
            window_end=LEAD * 60.0,
            retention=6 * HOUR,
            clock=clock,
        )

    def left(self, origin: int, delay: float, minute: float) -> None:
        """A flight left ``origin`` at ``minute``, ``delay`` minutes late."""
        self.window.observe({"origin": origin}, delay, EPOCH + 60.0 * minute)

    def fetch(self, entity: Mapping[str, Any], _: Sequence[str]) -> Mapping[str, float]:
        mean = self.window.mean({"origin": entity["origin"]}, at=EPOCH + 60.0 * entity["sched"])
        return {"delay_now": UNKNOWN if mean is None or isnan(mean) else mean}


def feature_service(
    year: Year, weather: WeatherFeed, departures: Departures, clock: Clock, events: Stream
) -> tuple[FeatureService, CircuitBreaker]:
    """Three views; the weather stands behind a breaker that opens on three silences in a row."""
    breaker = CircuitBreaker(
        "weather-feed",
        failure_threshold=3,
        success_threshold=1,
        reset_timeout=HOUR,
        clock=clock,
        events=events,
    )
    service = FeatureService(
        FeatureView("planes", features=PLANE, entity=("tail",), source=Planes(year)),
        FeatureView(
            "departures", features=("delay_now",), entity=("origin", "sched"), source=departures
        ),
        FeatureView(
            "weather", features=WEATHER, entity=("origin", "hour"), source=weather, guard=breaker
        ),
        clock=clock,
        events=events,
    )
    return service, breaker
