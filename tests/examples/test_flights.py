"""The main job: its data, its point-in-time features, and its fast run from end to end."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "examples" / "flights"


@pytest.fixture(scope="module", autouse=True)
def on_path():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(FLIGHTS))
    yield
    sys.path.remove(str(FLIGHTS))


@pytest.fixture(scope="module")
def year(on_path):
    from data import load

    return load()


def day(year, month, number):
    return (year.month == month) & (year.day == number)


# -- data -------------------------------------------------------------------------------


def test_the_extract_is_complete(year):
    assert len(year) == 336_776
    assert np.isfinite(year.weather.values["temp"]).sum() == 26_115
    assert float(np.isnan(year.arr_delay).mean()) == pytest.approx(0.028, abs=0.0005)


def test_a_damaged_extract_is_refused(tmp_path):
    from data import FILE, load

    for name in (FILE, "SHA256SUMS"):
        shutil.copy(FLIGHTS / "data" / name, tmp_path)
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / FILE)


def test_the_incidents_of_the_year_are_in_the_data(year):
    gone = np.isnan(year.dep_delay)
    assert 0.50 < gone[day(year, 2, 8)].mean() < 0.52
    assert 0.56 < gone[day(year, 2, 9)].mean() < 0.58
    last = day(year, 12, 31)
    assert last.sum() == 776
    assert np.isnan(year.features["temp"][last]).all()


def test_weather_is_that_of_the_last_hour_before_the_request(year):
    hours = year.asked // 60
    assert ((year.asked - hours * 60 >= 0) & (year.asked - hours * 60 < 60)).all()
    flight = 12_345
    report = year.weather.at(int(year.origin[flight]), int(hours[flight]))
    assert year.features["temp"][flight] == report["temp"]


def test_live_delays_are_those_of_flights_that_had_really_left(year):
    from data import UNKNOWN

    rng = np.random.default_rng(0)
    for flight in rng.integers(0, len(year), 200):
        sched, origin = year.sched[flight], year.origin[flight]
        left = year.departed
        window = (year.origin == origin) & (left >= sched - 180) & (left <= sched - 60)
        told = year.features["delay_now"][flight]
        if window.any():
            assert told == pytest.approx(year.dep_delay[window].mean(), abs=1e-9)
        else:
            assert told == UNKNOWN


def test_the_future_does_not_change_a_feature(year):
    from dataclasses import replace

    cut = 200_000
    moment = year.asked[cut]
    later = year.departed > moment
    changed = replace(year, dep_delay=np.where(later, 999.0, year.dep_delay))
    before = year.asked <= moment
    same = changed.features["delay_now"][before] == year.features["delay_now"][before]
    assert same.all()


def test_no_label_is_known_before_the_flight_has_landed(year):
    from counterfactual import known_by

    minute = 100 * 1440.0
    known = known_by(year, minute)
    assert (year.departed[known] + year.air_time[known] <= minute).all()
    assert not np.isnan(year.late[known]).any()


# -- statistics -------------------------------------------------------------------------


def test_a_policy_leads_itself_by_nothing_and_a_better_one_by_something():
    from counterfactual import Weekly, paired_interval

    rng = np.random.default_rng(1)
    base = rng.uniform(900, 1100, 48)
    worse = Weekly("a", base * 0.9, base, base * 5, 0)
    better = Weekly("b", base * rng.uniform(0.83, 0.87, 48), base, base * 5, 5)
    assert paired_interval(worse, worse) == (0.0, 0.0, 0.0)
    lead, low, high = paired_interval(better, worse)
    assert 0.0 < low < lead < high
    assert worse.skill == pytest.approx(0.1)


def test_with_days_as_blocks_the_weather_moved_and_the_calendar_did_not(year):
    from data import CATEGORICAL, FEATURES, SCHEDULE, WEATHER

    from prodml import DriftDetector
    from prodml.events import Stream

    table, days = year.matrix(), year.local_day
    january = year.month == 1
    settings = {"categorical": CATEGORICAL, "min_effect": 0.2, "events": Stream()}
    by_days = DriftDetector(table[january], FEATURES, blocks=days[january], **settings)
    by_rows = DriftDetector(table[january], FEATURES, **settings)
    moved, significant = [], []
    for day in range(45, 360, 35):
        week = table[(days >= day - 7) & (days < day)]
        moved += by_days.detect_drift(week).drifted
        significant += [n for n, f in by_rows.detect_drift(week).items() if f.p_adjusted < 0.05]
    assert set(significant) >= {"weekday", "dest", "temp"}
    assert moved.count("temp") >= 5
    assert not set(moved) & set(SCHEDULE)
    assert set(moved) <= {*WEATHER, "delay_now"}


# -- service ----------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_served_answers_are_the_models_on_point_in_time_features(year, tmp_path):
    """What the feature service puts together, tick by tick, equals the array code."""
    from operation import START, Operation

    operation = Operation(year, tmp_path)
    champion = operation.server.lease().__enter__().model
    for _ in operation.run((START, START + 1)):
        pass
    served = np.flatnonzero([s is not None for s in operation.trace.source])
    # The first hours know nothing of the flights that left before the replay began.
    settled = served[year.sched[served] > year.sched[served].min() + 240]
    expected = champion.score(operation.table[settled])
    got = operation.trace.probability[settled]
    clear = np.isfinite(operation.table[settled, 8])
    assert len(settled) > 1000
    assert np.allclose(got[clear], expected[clear], atol=1e-12)


@pytest.mark.timeout(400)
def test_the_fast_run_shows_its_incidents(tmp_path):
    page = tmp_path / "flights.html"
    done = subprocess.run(
        [sys.executable, str(FLIGHTS), "--fast", "--out", str(page)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )
    told = done.stdout
    assert re.search(r"unanswered requests +0\n", told)
    assert "storm: 51 % of the flights cancelled" in told
    assert "storm: 57 % of the flights cancelled" in told
    assert re.search(r"16 Dec +gate refused a challenger", told)
    forced = re.search(r"17 Dec +version (\d+) enters shadow", told).group(1)
    assert re.search(rf"1[789] Dec +version {forced} rolled back: paired loss", told)
    assert re.search(r"30 Dec +weather feed: breaker open", told)
    assert re.search(r"what moved, day by day +weather \d+ times .*calendar 0, in", told)
    assert int(re.search(r"degraded answers +([\d,]+)", told).group(1).replace(",", "")) >= 776
    lead = re.search(r"never retrained .*?([+-][\d.]+) points", told).group(1)
    assert float(lead) > 0
    assert_sound_page(page.read_text())


def assert_sound_page(html):
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        ET.fromstring(chart)
