import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.drift import DriftMonitor, FalseAlarms
from prodml.drift.budget import seconds_of
from prodml.errors import BadConfiguration

DAY = 86400.0
YEAR = 365.25 * DAY


@pytest.mark.parametrize(
    ("words", "alpha", "seconds"),
    [
        ("5% per quarter", 0.05, YEAR / 4),
        ("5 % a quarter", 0.05, YEAR / 4),
        ("0.5 percent per 2 weeks", 0.005, 14 * DAY),
        ("1 per cent each month", 0.01, YEAR / 12),
        ("  10%  PER   Year ", 0.1, YEAR),
        ("5%/day", 0.05, DAY),
        ("1 per year", 0.25, YEAR / 4),
        ("once a year", 0.25, YEAR / 4),
        ("one false alarm per year", 0.25, YEAR / 4),
        ("twice a month", 0.25, YEAR / 12 / 8),
        ("2 false alarms in a week", 0.25, 7 * DAY / 8),
        ("0.05 per quarter", 0.05, YEAR / 4),
        ("half a year", None, None),
    ],
)
def test_a_budget_is_read_from_words(words, alpha, seconds):
    if alpha is None:
        with pytest.raises(BadConfiguration, match="must read like"):
            FalseAlarms.read(words)
        return
    found = FalseAlarms.read(words)
    assert found.alpha == pytest.approx(alpha)
    assert found.seconds == pytest.approx(seconds)


@given(st.floats(0.01, 50), st.sampled_from(["day", "week", "month", "quarter", "year"]))
def test_a_number_of_alarms_keeps_its_rate(many, unit):
    found = FalseAlarms.read(f"{many:.3f} per {unit}")
    whole = FalseAlarms.read(f"1% per {unit}")
    assert found.alpha / found.seconds == pytest.approx(float(f"{many:.3f}") / whole.seconds)
    assert found.alpha <= 0.25 + 1e-12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("5% per fortnight", "unknown time 'fortnight'"),
        ("often", "must read like '5% per quarter'"),
        ("", "must read like"),
        ("0% per year", "above 0 %"),
        ("100% per year", "below 100 %"),
        ("0 per year", "allow for some"),
        ("5% per 0 days", "per some time"),
        (0.05, "must read like"),
        (None, "must read like"),
    ],
)
def test_what_is_wrong_with_a_budget_is_named(words, told):
    with pytest.raises(BadConfiguration, match=told):
        FalseAlarms.read(words)
    with pytest.raises(BadConfiguration):
        DriftMonitor([1.0] * 50, false_alarms=words)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("1d", DAY), ("15m", 900), ("day", DAY), ("2 weeks", 14 * DAY), ("1h", 3600), (0.5, 0.5)],
)
def test_durations(words, seconds):
    assert seconds_of(words, "every") == seconds


@pytest.mark.parametrize("words", ["1 eon", "", "0d", -1, 0, True, float("nan"), None, "x1d"])
def test_wrong_durations_name_their_setting(words):
    with pytest.raises(BadConfiguration, match="every"):
        seconds_of(words, "every")


def test_looking_less_often_than_the_budget_lasts_is_refused():
    with pytest.raises(BadConfiguration, match="every must be at most"):
        DriftMonitor([1.0] * 50, false_alarms="5% per day", every="1w")
