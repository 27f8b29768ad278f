"""An estimator that was saved goes on where it was, to the last bit."""

import base64
import json
import threading
from contextlib import suppress
from datetime import UTC, date, datetime
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import BadConfiguration, CorruptRecord
from prodml.events import PerformanceDropped, Stream
from prodml.quality import PerformanceEstimator
from prodml.testing import ManualClock
from tests.quality.test_estimator import BINARY, concept, fitted, noisy, scored


def again(estimator, tmp_path, **kwargs):
    path = tmp_path / "quality.json"
    estimator.save(path, **kwargs)
    return PerformanceEstimator.load(path, events=Stream(), clock=ManualClock(0.0))


def told(report):
    return {name: metric.to_dict() for name, metric in report.items()}


def three_classes(seed, n):
    rng = np.random.default_rng(seed)
    chance = rng.dirichlet([1.0] * 3, n)
    return chance, [("cat", "cow", "dog")[rng.choice(3, p=row)] for row in chance]


CASES = {
    "binary": (lambda: fitted(BINARY, skew=2.0), lambda seed, n: scored(seed, n)),
    "isotonic": (lambda: fitted(("auc",), calibration="isotonic"), lambda seed, n: scored(seed, n)),
    "none": (lambda: fitted(("auc",), calibration="none"), lambda seed, n: scored(seed, n)),
    "turned": (
        lambda: PerformanceEstimator(metrics=("f1",), positive=0, events=Stream()).fit(
            np.column_stack((1 - scored(0, 4000)[0], scored(0, 4000)[0])), scored(0, 4000)[1]
        ),
        lambda seed, n: (
            np.column_stack((1 - scored(seed, n)[0], scored(seed, n)[0])),
            scored(seed, n)[1],
        ),
    ),
    "three": (
        lambda: PerformanceEstimator(metrics=("auc", "brier"), events=Stream()).fit(
            *three_classes(0, 3000)
        ),
        three_classes,
    ),
    "numbers": (
        lambda: PerformanceEstimator(metrics=("mae", "rmse"), bins=7, events=Stream()).fit(
            *noisy(0, 3000)
        ),
        noisy,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_saved_goes_on_to_the_last_bit(case, tmp_path):
    make, draw = CASES[case]
    one = make()
    p, y = draw(1, 600)
    one.estimate(p, ids=range(600))
    one.settle(range(250), y[:250])
    one.settle(range(250, 300), y[250:300])
    two = again(one, tmp_path)
    assert two.settle([], []) == one.settle([], [])
    for seed in range(2, 5):
        p, y = draw(seed, 400)
        ids = [f"{seed}-{at}" for at in range(400)]
        assert told(two.estimate(p, ids=ids)) == told(one.estimate(p, ids=ids))
        assert two.settle(ids[::2], y[::2]) == one.settle(ids[::2], y[::2])
    # Predictions that waited when it was saved are joined by either.
    late = draw(1, 600)[1][300:]
    assert two.settle(range(300, 600), late) == one.settle(range(300, 600), late)
    # What is saved again is the same file.
    two.save(tmp_path / "two.json")
    one.save(tmp_path / "one.json")
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_settings_come_back_and_an_alarm_is_not_stated_twice(tmp_path):
    one = fitted(("accuracy",), name="loans", alpha=0.02, min_labels=50, memory=500)
    assert one.estimate(scored(1, 2000, a=5.0, b=5.0)[0]).alarm
    one.save(tmp_path / "quality.json")
    events, heard = Stream(), []
    events.subscribe(PerformanceDropped, heard.append)
    two = PerformanceEstimator.load(tmp_path / "quality.json", events=events)
    assert (two.name, two.alpha, two.min_labels, two.metrics) == ("loans", 0.02, 50, ("accuracy",))
    two.estimate(scored(1, 2000, a=5.0, b=5.0)[0])
    assert heard == []
    two.estimate(scored(1, 2000)[0])
    two.estimate(scored(1, 2000, a=5.0, b=5.0)[0])
    assert [fact.source for fact in heard] == ["loans"]


def test_what_was_learnt_from_labels_is_kept(tmp_path):
    one = fitted(("accuracy",))
    p, y = concept(1, 3000)
    one.estimate(p, ids=range(3000))
    one.settle(range(3000), y)
    two = again(one, tmp_path)
    assert two.estimate(p)["accuracy"].bias == one.estimate(p)["accuracy"].bias < -0.05


def test_an_estimator_that_was_never_fitted_is_its_settings(tmp_path):
    two = again(PerformanceEstimator(metrics=["mae"], bins=5), tmp_path)
    assert two.bins == 5
    with pytest.raises(BadConfiguration, match="fit the estimator"):
        two.estimate([1.0])
    assert two.fit(*noisy(0, 2000)).estimate(noisy(1, 100)[0]).alarm is False


KEYS = [
    "a",
    "",
    7,
    -(1 << 62),
    1 << 100,
    2.5,
    ("user", 3, ("x",)),
    (),
    UUID(int=5),
    date(2024, 2, 29),
    datetime(2024, 2, 29, 12, 30, 0, 5),
    datetime(2024, 2, 29, tzinfo=UTC),
    np.str_("text"),
]
plain_ids = st.recursive(
    st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.uuids(),
    lambda ids: st.lists(ids, max_size=3).map(tuple),
    max_leaves=4,
)


def test_ids_of_any_sort_come_back(tmp_path):
    one = fitted(("accuracy",))
    one.estimate(np.linspace(0.1, 0.9, len(KEYS)), ids=KEYS)
    two = again(one, tmp_path)
    assert two.settle([], []).waiting == len(KEYS)
    for key in KEYS:
        late = two.settle([key], [1])
        assert (late.joined, late.estimated) == (1, one.settle([key], [1]).estimated)


@given(st.lists(plain_ids, min_size=1, max_size=5, unique=True))
@settings(max_examples=40, deadline=None)
def test_any_ids_come_back(tmp_path_factory, ids):
    one = SHARED
    one.estimate(np.full(len(ids), 0.5), ids=ids)
    two = again(one, tmp_path_factory.mktemp("ids"))
    one.settle(ids, [1] * len(ids))
    assert two.settle(ids, [1] * len(ids)).joined == len(ids)


SHARED = fitted(("accuracy",), n=1000)


def test_what_json_does_not_bring_back_is_refused_and_nothing_written(tmp_path):
    from sklearn.tree import DecisionTreeRegressor

    path = tmp_path / "quality.json"
    one = fitted(("accuracy",))
    one.estimate([0.5], ids=[frozenset({1})])
    with pytest.raises(BadConfiguration, match="pending=False"):
        one.save(path)
    one.save(path, pending=False)
    assert PerformanceEstimator.load(path).settle([], []).waiting == 0
    assert one.settle([], []).waiting == 1
    before = path.read_bytes()
    tree = PerformanceEstimator(
        metrics=["mae"], loss_model=DecisionTreeRegressor(max_leaf_nodes=4)
    ).fit(*noisy(0, 1000))
    odd = PerformanceEstimator(metrics=["auc"], classes=(date(2024, 1, 1), date(2024, 1, 2)))
    for bad, said in ((tree, "loss_model"), (odd, "classes")):
        with pytest.raises(BadConfiguration, match=said):
            bad.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["quality.json"]
    with pytest.raises(OSError, match="nowhere"):
        one.save(tmp_path / "nowhere" / "quality.json", pending=False)
    with pytest.raises(OSError, match="none"):
        PerformanceEstimator.load(tmp_path / "none.json")


# -- corrupted --------------------------------------------------------------------------


def document(tmp_path, case="binary"):
    make, draw = CASES[case]
    one = make()
    p, y = draw(1, 40)
    one.estimate(p, ids=range(40))
    one.settle(range(5), y[:5])
    one.save(tmp_path / "quality.json")
    return json.loads((tmp_path / "quality.json").read_bytes())


def refused(tmp_path, stored):
    path = tmp_path / "bad.json"
    path.write_bytes(stored if isinstance(stored, bytes) else json.dumps(stored).encode())
    with pytest.raises(CorruptRecord) as caught:
        PerformanceEstimator.load(path)
    assert caught.value.where == str(path)
    return caught.value.reason


def test_other_formats_and_versions_are_refused(tmp_path):
    stored = document(tmp_path)
    assert "version 2, this release reads 1" in refused(tmp_path, {**stored, "version": 2})
    assert "not of format" in refused(tmp_path, {**stored, "format": "prodml.drift.Reference"})
    for nothing in (b"", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000):
        assert refused(tmp_path, nothing)


def changed(stored, where, value):
    stored = json.loads(json.dumps(stored))
    *path, last = where
    part = stored
    for step in path:
        part = part[step]
    if value is GONE:
        del part[last]
    else:
        part[last] = value
    return stored


GONE = object()
STATE = ("state",)
BAD = [
    (("settings",), []),
    (("settings", "alpha"), 3.0),
    (("settings", "alpha"), None),
    (("settings", "colour"), 1),
    (("settings", "metrics"), ["auc"]),
    (("settings", "memory"), 0),
    (("state", "biases", "auc", "memory"), 0),
    (("settings", "max_pending"), 3),
    (("alarming",), [1]),
    (("state", "rows"), -1),
    (("state", "rows"), True),
    (("state", "evicted"), -1),
    (("state", "joined"), 1.5),
    (("state", "bands"), {}),
    (("state", "bands", "auc", "size"), 0.0),
    (("state", "bands", "auc", "stretch"), 0.5),
    (("state", "bands", "auc", "chunks"), 1),
    (("state", "bands", "auc", "reference"), None),
    (("state", "bands", "auc", "spread"), -0.1),
    (("state", "bands", "auc", "offset"), 1e300),
    (("state", "biases", "auc", "precision"), -1.0),
    (("state", "biases", "auc", "total"), "x"),
    (("state", "biases", "auc"), GONE),
    (("state", "task"), {}),
    (("state", "task", "classes"), [0]),
    (("state", "task", "classes"), [0, 0]),
    (("state", "task", "classes"), [0, [1]]),
    (("state", "task", "classes"), [0, 1, 2]),
    (("state", "task", "curves", 0, "chances"), [0.5]),
    (("state", "task", "curves", 0, "scores"), []),
    (("state", "task", "curves"), [{"scores": [0.1, 0.2], "chances": [0.1, 1.2]}]),
    (("state", "task", "curves"), [{"scores": [0.2, 0.1], "chances": [0.1, 0.2]}]),
    (("state", "task", "curves"), [{"scores": [0.2], "chances": [0.1]}] * 2),
    (("state", "pending", "bytes"), ""),
    (("state", "pending", "bytes"), "!"),
    (("state", "pending", "bytes"), base64.b64encode(b"\xff" * 8 * 4 * 35).decode()),
    (("state", "pending", "of"), [5] * 35),
    (("state", "pending", "of"), [{"uuid": "x"}] * 35),
    (("state", "pending", "of"), [{"colour": "x"}] * 35),
    (("state", "pending", "of"), [[1]] * 35),
    (("state", "pending", "of"), [None] * 35),
    (("state", "held", "of"), [None] * 5),
    (("state", "held", "of"), [7.0] * 5),
    (("state", "held", "of"), []),
]


def test_every_part_that_does_not_fit_is_refused(tmp_path):
    stored = document(tmp_path)
    for where, value in BAD:
        assert refused(tmp_path, changed(stored, where, value)), where


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    stored = document(tmp_path, "numbers")
    for where, value in (
        (("state", "task", "bins", "edges"), [0.0]),
        (("state", "task", "bins", "means"), [[0.0]]),
        (("state", "task", "bins", "variances"), [[-1.0, 0.0]] * 7),
        (("state", "task", "bins"), None),
        (("state", "task", "classes"), [0, 1]),
        (("state", "held", "of"), ["x"] * 5),
    ):
        bad = changed(stored, where, value)
        if where[-1] == "classes":
            bad = changed(bad, ("state", "task", "bins"), None)
        assert refused(tmp_path, bad), where


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_that_was_cut_or_hit_is_refused_or_the_same(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hit")
    SHARED.save(folder / "quality.json", pending=False)
    raw = bytearray((folder / "quality.json").read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:at]
    else:
        raw[at] = data.draw(st.integers(0, 255))
    (folder / "hit.json").write_bytes(bytes(raw))
    with suppress(CorruptRecord):
        PerformanceEstimator.load(folder / "hit.json").estimate([0.5] * 50)


def test_a_save_under_traffic_is_one_moment(tmp_path):
    one = fitted(("accuracy",), min_labels=10**6)
    p, y = scored(1, 50)
    stop = threading.Event()

    def work():
        step = 0
        while not stop.is_set():
            ids = [(step, at) for at in range(50)]
            one.estimate(p, ids=ids)
            one.settle(ids, y)
            step += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(15):
            one.save(tmp_path / "quality.json")
            late = PerformanceEstimator.load(tmp_path / "quality.json").settle([], [])
            assert late.waiting in {0, 50}
            assert late.held % 50 == 0
    finally:
        stop.set()
        thread.join()
