"""What all streaming detectors promise, and what river says on the same streams."""

import copy
import json
import math
import pickle
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml import _settings
from prodml.drift import (
    ADWIN,
    DDM,
    EDDM,
    HDDM_A,
    HDDM_W,
    KSWIN,
    PageHinkley,
    RankCUSUM,
    StreamDetector,
)
from prodml.errors import BadConfiguration, CorruptRecord
from tests.drift.streams import detections

REAL = {
    "adwin": ADWIN,
    "page-hinkley": PageHinkley,
    "page-hinkley of river": lambda: PageHinkley(
        threshold=50, delta=0.005, scale=1.0, forgetting=0.9999
    ),
    "kswin": lambda: KSWIN(alpha=0.005, window_size=60, stat_size=20),
    "rank-cusum": lambda: RankCUSUM(warm_up=50),
    "rank-cusum of spread": lambda: RankCUSUM(warm_up=50, on="spread"),
}
BINARY = {
    "ddm": DDM,
    "eddm": EDDM,
    "hddm_a": lambda: HDDM_A(two_sided=True),
    "hddm_w": lambda: HDDM_W(two_sided=True),
}
ALL = REAL | BINARY
BAD = [math.nan, math.inf, -math.inf, 1e101, 10**400, None, "spam", [1.0]]


def binary_stream():
    rng = np.random.default_rng(0)
    parts = [rng.random(3000) < p for p in (0.1, 0.25, 0.05)]
    return np.concatenate(parts).astype(float).tolist()


def normal_stream():
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, 1, 3000), rng.normal(0.5, 1, 2000), rng.normal(-1, 2, 2000)]
    return np.concatenate(parts).tolist()


def share_stream():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.random(3000) * top for top in (0.5, 0.8, 0.3)]).tolist()


STREAMS = {"normal": normal_stream(), "binary": binary_stream(), "share": share_stream()}

# (ours, name in river, settings there, stream, where both say drift)
SAME = [
    (lambda: ADWIN(delta=0.002, scale=1.0), "ADWIN", {}, "normal", [3071, 5023]),
    (lambda: ADWIN(delta=0.002, scale=1.0), "ADWIN", {}, "binary", [3167, 6175]),
    (
        lambda: ADWIN(delta=0.05, scale=1.0, check_every=1, max_buckets=3, min_window_length=2),
        "ADWIN",
        {"delta": 0.05, "clock": 1, "max_buckets": 3, "min_window_length": 2},
        "share",
        [3058, 6036],
    ),
    (
        REAL["page-hinkley of river"],
        "PageHinkley",
        {},
        "normal",
        [1434, 3053, 5022, 5270, 5638],
    ),
    (
        lambda: PageHinkley(threshold=20, delta=0.1, scale=1.0, forgetting=0.999, mode="down"),
        "PageHinkley",
        {"threshold": 20, "delta": 0.1, "alpha": 0.999, "mode": "down"},
        "normal",
        [973, 1699, 4529, 4904, 5012],
    ),
    (REAL["page-hinkley of river"], "PageHinkley", {}, "share", [3352, 6173]),
    (DDM, "binary.DDM", {}, "binary", [2056, 3113]),
    (EDDM, "binary.EDDM", {}, "binary", [289, 674, 1011, 1273, 1503]),
    (HDDM_A, "binary.HDDMA", {}, "binary", [3128]),
    (BINARY["hddm_a"], "binary.HDDMA", {"two_sided_test": True}, "share", [3195, 6067]),
    (HDDM_W, "binary.HDDMW", {}, "binary", [3610]),
    (BINARY["hddm_w"], "binary.HDDMW", {"two_sided_test": True}, "binary", [3610, 6088]),
    (
        lambda: KSWIN(alpha=0.005, window_size=100, stat_size=30, seed=7),
        "KSWIN",
        {"seed": 7},
        "normal",
        [429, 532, 1430],
    ),
]


def part(stream, name):
    # A test with SciPy for each value takes half a millisecond.
    return STREAMS[stream][2500:4000] if name == "KSWIN" else STREAMS[stream]


@pytest.mark.parametrize(("ours", "name", "_settings", "stream", "known"), SAME)
def test_detections_are_those_that_were_written_down(ours, name, _settings, stream, known):
    assert detections(ours(), part(stream, name))[: len(known)] == known


@pytest.mark.parametrize(("ours", "name", "given", "stream", "known"), SAME)
def test_river_says_drift_at_the_same_values(ours, name, given, stream, known):
    drift = pytest.importorskip("river.drift")
    pytest.importorskip("river.drift.binary")
    kind = drift
    for step in name.split("."):
        kind = getattr(kind, step)
    theirs, mine, values = kind(**given), ours(), part(stream, name)
    apart = []
    for i, value in enumerate(values):
        mine.update(value)
        theirs.update(value)
        warning = getattr(theirs, "warning_detected", False) and not theirs.drift_detected
        if (mine.drift_detected, mine.warning) != (theirs.drift_detected, warning):
            apart.append(i)
    assert apart == []
    assert mine.detections > 0


def test_adwin_looks_at_the_last_bucket_of_each_size_too():
    """A loop that is one too short never tries the only cut that shows the change."""
    detector = ADWIN(delta=0.3, check_every=24, max_buckets=2)
    # Buckets of 8, 8, 4, 2, 1, 1 values: the change lies between the second 8 and the 4, so
    # after the last bucket of its size.
    assert detections(detector, [0.0] * 16 + [1.0] * 8) == [23]
    assert detector.width == 0


def test_a_constant_does_not_drift_by_rounding():
    for make in REAL.values():
        assert detections(make(), [0.1] * 3000) == []
        assert detections(make(), [1e9 + 0.1] * 3000) == []


# Thresholds in the units of the data alarm for ever on a spread of 3.
SCALED = {name: make for name, make in ALL.items() if name != "page-hinkley of river"}


@pytest.mark.parametrize("make", SCALED.values(), ids=SCALED)
def test_one_change_is_one_detection(make):
    binary = make in BINARY.values()
    rng = np.random.default_rng(5)
    values = (
        [*(rng.random(1500) < 0.05), *(rng.random(600) < 0.9)]
        if binary
        else [*rng.normal(0, 1, 1500), *rng.normal(8, 3, 600)]
    )
    found = [i for i in detections(make(), map(float, values)) if i >= 1500]
    # EDDM and DDM measure against the best of a short past, so that a reset may alarm again.
    assert len(found) == 1 or make in (EDDM, DDM)
    assert found[0] < 1700


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_bad_values_are_counted_and_touch_nothing_else(make, data):
    stream = STREAMS["binary" if make in BINARY.values() else "normal"][2700:3400]
    at = data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=8, unique=True))
    bad = {i: data.draw(st.sampled_from(BAD)) for i in at}
    clean, dirty = make(), make()
    for i, value in enumerate(stream):
        if i in bad:
            assert dirty.update(bad[i]) is False
            assert dirty.drift_detected is False
        assert dirty.update(value) == clean.update(value)
    assert dirty.invalid == len(bad)
    assert dirty.seen == clean.seen == len(stream)
    assert dirty.to_dict()["state"] | {"invalid": 0} == clean.to_dict()["state"]


@pytest.mark.parametrize("make", BINARY.values(), ids=BINARY)
def test_errors_outside_of_zero_to_one_are_bad_values(make):
    detector = make()
    assert [detector.update(value) for value in (-0.1, 1.1, 1, 0, True)] == [False] * 5
    assert (detector.invalid, detector.seen) == (2, 3)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@given(cut=st.integers(0, 900))
@settings(max_examples=8, deadline=None)
def test_a_restart_goes_on_where_it_was(make, cut):
    stream = STREAMS["binary" if make in BINARY.values() else "normal"][2500:3400]
    whole, first = make(), make()
    expected = detections(whole, stream)
    found = detections(first, stream[:cut])
    # Through text, as a store keeps it; NaN and infinity are no JSON.
    kept = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    second = type(first).from_dict(kept)
    found += [cut + i for i in detections(second, stream[cut:])]
    assert found == expected
    assert second.to_dict() == whole.to_dict()
    assert second.detections == len(expected)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_what_was_kept_is_a_copy(make):
    detector = make()
    detections(detector, [0.0, 1.0] * 100)
    kept = detector.to_dict()
    before = json.dumps(kept)
    detections(type(detector).from_dict(kept), [1.0] * 100)
    detections(detector, [1.0] * 100)
    assert json.dumps(kept) == before


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_what_this_class_did_not_write_is_refused(make):
    detector = make()
    detections(detector, [0.0, 1.0] * 60)
    kept = detector.to_dict()
    broken = [
        {},
        kept | {"detector": "Other"},
        kept | {"version": 2},
        kept | {"settings": {"speed": 3}},
        kept | {"state": {}},
        kept | {"state": kept["state"] | {"seen": "many"}},
    ]
    for bad in broken:
        with pytest.raises(CorruptRecord, match=type(detector).__name__):
            type(detector).from_dict(bad)


def test_buckets_that_do_not_add_up_are_refused():
    detector = ADWIN()
    detections(detector, [0.5] * 100)
    kept = detector.to_dict()
    with pytest.raises(CorruptRecord, match="100 values"):
        ADWIN.from_dict(kept | {"state": kept["state"] | {"width": 7}})
    other = RankCUSUM(warm_up=20)
    detections(other, range(30))
    kept = other.to_dict()
    with pytest.raises(CorruptRecord, match="match"):
        RankCUSUM.from_dict(kept | {"state": kept["state"] | {"_counts": [1]}})


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_reset_detector_is_a_new_one(make):
    detector = make()
    detections(detector, [0.0, 1.0, math.nan] * 100)
    detector.reset()
    assert detector.to_dict() == make().to_dict()


@pytest.mark.parametrize("make", REAL.values(), ids=REAL)
def test_negative_and_foreign_numbers_are_numbers(make):
    detector = make()
    values = [-5, -6.5, Decimal("-5.5"), np.float32(-6), np.int64(-5), True] * 20
    assert detections(detector, values) == []
    assert (detector.seen, detector.invalid) == (120, 0)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ADWIN, {"arl": 1.0}),
        (ADWIN, {"arl": math.inf}),
        (ADWIN, {"delta": 1.0}),
        (ADWIN, {"scale": 0.0}),
        (ADWIN, {"check_every": 0}),
        (ADWIN, {"max_buckets": 1.5}),
        (ADWIN, {"min_window_length": 0}),
        (ADWIN, {"grace_period": -1}),
        (PageHinkley, {"arl": math.nan}),
        (PageHinkley, {"delta": 0.0}),
        (PageHinkley, {"threshold": -1.0}),
        (PageHinkley, {"scale": -1.0}),
        (PageHinkley, {"mode": "sideways"}),
        (PageHinkley, {"min_instances": 1}),
        (PageHinkley, {"forgetting": 1.1}),
        (KSWIN, {"arl": 0.0}),
        (KSWIN, {"alpha": 0.0}),
        (KSWIN, {"stat_size": 1}),
        (KSWIN, {"window_size": 100, "stat_size": 51}),
        (KSWIN, {"min_distance": 1.0}),
        (KSWIN, {"seed": None}),
        (DDM, {"warm_start": 0}),
        (DDM, {"drift_threshold": 0.0}),
        (DDM, {"warning_threshold": 4.0}),
        (EDDM, {"warm_start": 0}),
        (EDDM, {"alpha": 1.5}),
        (EDDM, {"beta": 0.99}),
        (HDDM_A, {"drift_confidence": 0.0}),
        (HDDM_A, {"warning_confidence": 1e-6}),
        (HDDM_W, {"weight": 1.0}),
        (HDDM_W, {"warning_confidence": 1e-6}),
        (RankCUSUM, {"arl": 1.0}),
        (RankCUSUM, {"shift": 0.0}),
        (RankCUSUM, {"shift": 5.0}),
        (RankCUSUM, {"on": "shape"}),
        (RankCUSUM, {"warm_up": 19}),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(kind, given):
    with pytest.raises(BadConfiguration, match=[*given][-1] if len(given) == 1 else "window_size"):
        kind(**given)


def test_the_critical_distance_is_that_of_the_exact_test():
    from scipy.stats import ks_2samp

    from prodml.drift.streaming.kswin import critical_distance

    for size, alpha in ((20, 0.05), (30, 0.005), (50, 1e-6), (100, 5e-5)):
        least = round(critical_distance(size, alpha) * size)
        # Two samples whose distributions are ``h / size`` apart.
        p_values = [
            ks_2samp(range(size), [x + h - 0.5 for x in range(size)], method="exact").pvalue
            for h in (least - 1, least)
        ]
        assert p_values[1] <= alpha < p_values[0]
    assert critical_distance(3, 1e-9) == math.inf


# The first one imports scipy's statistics.
@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=12, max_size=12),
    st.lists(st.integers(0, 9), min_size=12, max_size=12),
)
def test_the_distance_is_that_of_scipy(a, b):
    from scipy.stats import ks_2samp

    from prodml.drift.streaming.kswin import _distance

    assert _distance(sorted(a), sorted(b)) == pytest.approx(ks_2samp(a, b).statistic)


def test_every_detector_is_a_stream_detector_by_keyword():
    for make in ALL.values():
        detector = make()
        assert isinstance(detector, StreamDetector)
        with pytest.raises(TypeError):
            type(detector)(1.0)


def leaves(item, path=()):
    """Every part of a state, the first three of a list."""
    if isinstance(item, dict | list):
        parts = item.items() if isinstance(item, dict) else list(enumerate(item))[:3]
        if path:
            yield path
        for key, part in parts:
            yield from leaves(part, (*path, key))
    else:
        yield path


def changed(kept, path, value):
    kept = json.loads(json.dumps(kept))
    inner = kept["state"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return kept


@pytest.mark.parametrize("odd", ["x", None, math.nan, -1, -5.0, 0, [], [["x"]], 10**400, True])
@pytest.mark.parametrize("make", [ADWIN, DDM, EDDM, HDDM_A, HDDM_W, KSWIN, PageHinkley, RankCUSUM])
def test_a_crafted_state_is_refused_or_works(make, odd):
    for count in (0, 5, 320):
        detector = make()
        detections(detector, [0.0, 1.0, 1.0, 0.0, 0.0] * (count // 5))
        kept = detector.to_dict()
        for path in leaves(kept["state"]):
            try:
                other = make.from_dict(changed(kept, path, odd))
            except CorruptRecord:
                continue
            detections(other, [0.0, 1.0] * 150)
            json.dumps(other.to_dict())


@pytest.mark.parametrize("make", [ADWIN, PageHinkley, RankCUSUM])
def test_no_value_raises(make):
    class Stubborn:
        def __float__(self):
            raise RuntimeError("not a number")

    detector = make()
    for value in (Stubborn(), Decimal("sNaN"), "x", [], 1j):
        assert detector.update(value) is False
    assert (detector.seen, detector.invalid) == (0, 5)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_detector_can_be_pickled_and_copied(make):
    stream = STREAMS["binary" if make in BINARY.values() else "normal"][2700:3600]
    detector = make()
    detections(detector, stream[:400])
    for other in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        whole = type(detector).from_dict(detector.to_dict())
        assert detections(other, stream[400:]) == detections(whole, stream[400:])
        assert other.to_dict() == whole.to_dict()


RETUNED = {
    ADWIN: {"arl": 500.0},
    PageHinkley: {"arl": 500.0},
    KSWIN: {"arl": 50.0, "stat_size": 20},
    RankCUSUM: {"arl": 500.0, "warm_up": 30},
    DDM: {"drift_threshold": 4.0},
    HDDM_W: {"weight": 0.1},
}


@pytest.mark.parametrize(("kind", "changes"), RETUNED.items())
def test_a_retuned_detector_begins_anew_with_what_follows_from_its_settings(kind, changes):
    stream = STREAMS["binary" if kind in (DDM, HDDM_W) else "normal"]
    retuned, fresh = kind(), kind(**changes)
    detections(retuned, stream[:700])
    _settings.retune(retuned, **changes)
    assert detections(retuned, stream[2000:4000]) == detections(fresh, stream[2000:4000])
    assert kind.from_dict(retuned.to_dict()).to_dict() == retuned.to_dict()
    with pytest.raises(BadConfiguration):
        _settings.retune(retuned, **dict.fromkeys(changes, -1))


UNITS = [(1e-12, 0.0), (1e12, 0.0), (1.0, 1e9), (1e-90, 0.0), (1e90, 0.0), (1.0, 1e12)]


@pytest.mark.parametrize("make", [ADWIN, PageHinkley, REAL["kswin"], RankCUSUM])
def test_no_unit_and_no_offset_matters(make):
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 1000), rng.normal(4, 1, 500), rng.normal(-3, 4, 500)])
    expected = detections(make(), values.tolist())
    assert expected
    for unit, offset in UNITS:
        assert detections(make(), (unit * values + offset).tolist()) == expected


@pytest.mark.parametrize("make", [ADWIN, PageHinkley, RankCUSUM, DDM, HDDM_A, HDDM_W])
def test_a_change_that_comes_again_is_found_again(make):
    rng = np.random.default_rng(11)
    values = np.concatenate([rng.random(1500) < (0.6 if k % 2 else 0.05) for k in range(6)])
    found = detections(make(), values.astype(float).tolist())
    # HDDM and DDM hear a rise only, the others a fall too.
    rises = (1500, 4500, 7500)
    wanted = rises if make in (DDM, HDDM_A, HDDM_W) else (1500, 3000, 4500, 6000, 7500)
    for change in wanted:
        assert any(change <= i < change + 400 for i in found), change


def test_an_array_of_one_number_is_a_number():
    for make in (PageHinkley, RankCUSUM):
        detector = make()
        detections(detector, [np.array([0.5]), np.array([[0.5]]), np.array(0.5), np.array([1, 2])])
        assert (detector.seen, detector.invalid) == (3, 1)
