"""Batches: who is asked how, splitting by key, putting together again."""

import numpy as np
import pandas as pd
import pytest

from prodml.errors import RejectedAnswer, UnknownVersion
from prodml.events import Stream
from prodml.serving import VersionedModelServer


class Adds:
    """Adds a constant to a number or to every number of an array; counts its calls."""

    def __init__(self, constant):
        self.constant, self.calls = constant, 0

    def predict(self, rows):
        self.calls += 1
        return np.asarray(rows) + self.constant if hasattr(rows, "shape") else rows + self.constant


class Batches(Adds):
    def predict_batch(self, rows):
        self.calls += 1
        return [row + self.constant for row in rows]


def serving(kind=Adds, canary=0.5):
    server = VersionedModelServer(events=Stream())
    models = {"v1": kind(0), "v2": kind(1000)}
    for version, model in models.items():
        server.load_model(version, model)
    server.set_default_version("v1")
    server.route(canary={"v2": canary})
    return server, models


def expected(server, rows):
    return [server.predict(row, key=row) for row in rows]


def test_array_goes_to_predict_whole():
    server, models = serving(canary=0.0)
    assert server.predict_batch(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert models["v1"].calls == 1


def test_list_is_answered_row_by_row():
    server, models = serving(canary=0.0)
    assert server.predict_batch([5, 6]) == [5, 6]
    assert models["v1"].calls == 2


def test_model_with_predict_batch_gets_the_whole_list():
    server, models = serving(Batches, canary=0.0)
    assert server.predict_batch([5, 6]) == [5, 6]
    assert models["v1"].calls == 1


@pytest.mark.parametrize("kind", [Adds, Batches])
def test_keys_split_a_list_and_keep_its_order(kind):
    server, _ = serving(kind)
    rows = list(range(50))
    assert server.predict_batch(rows, keys=rows) == expected(server, rows)


def test_model_that_knows_only_batches_answers_single_rows():
    class Only:
        def predict_batch(self, rows):
            return [row + 1 for row in rows]

    server = VersionedModelServer(events=Stream())
    server.load_model("v1", Only(), warm_up=[1])
    assert (server.predict(1, "v1"), server.predict_batch([1, 2], "v1")) == (2, [2, 3])


def test_keys_split_an_array_into_one_call_a_version():
    server, models = serving()
    rows = np.arange(50)
    answers = server.predict_batch(rows, keys=rows.tolist())
    assert [model.calls for model in models.values()] == [1, 1]
    assert answers.tolist() == expected(server, rows.tolist())
    assert server.in_flight == {"v1": 0, "v2": 0}


def test_keys_split_a_frame():
    server, _ = serving()
    frame = pd.DataFrame({"x": range(20)}, index=range(100, 120))
    answers = server.predict_batch(frame, keys=list(range(20)))
    assert answers[:, 0].tolist() == expected(server, range(20))


def test_batch_without_keys_goes_to_one_version():
    server, models = serving()
    server.predict_batch(np.arange(50))
    assert sorted(model.calls for model in models.values()) == [0, 1]


def test_pinned_batch_ignores_keys():
    server, _ = serving(canary=1.0)
    assert server.predict_batch([1, 2], version="v1", keys=["a", "b"]) == [1, 2]


def test_keys_must_match_the_rows():
    with pytest.raises(ValueError, match="1 keys for 2 rows"):
        serving()[0].predict_batch([1, 2], keys=["a"])


def test_empty_batch_has_an_empty_answer():
    server, _ = serving()
    assert server.predict_batch([], keys=[]) == []
    assert server.predict_batch([]) == []


def test_unknown_version_of_a_batch_is_refused():
    with pytest.raises(UnknownVersion):
        serving()[0].predict_batch([1], version="v9")


def test_failing_batch_is_counted_out():
    server, models = serving()
    models["v2"].constant = None
    with pytest.raises(TypeError):
        server.predict_batch(list(range(50)), keys=list(range(50)))
    assert server.in_flight == {"v1": 0, "v2": 0}


def by_cohort(first, second):
    """Rows "a" and "c" go to the first model, "b" and "d" to the second."""
    server = VersionedModelServer(events=Stream())
    server.load_model("v1", first)
    server.load_model("v2", second)
    server.set_default_version("v1")
    server.route(cohorts={"c": ("v2", ["b", "d"])})
    return server


@pytest.mark.parametrize(
    "second",
    [lambda rows: np.ones(len(rows) - 1), lambda rows: {"a": 1, "b": 2}, lambda rows: "no"],
)
def test_answers_of_a_wrong_number_are_not_given_to_other_rows(second):
    server = by_cohort(lambda rows: np.zeros(len(rows) + 1), second)
    with pytest.raises(RejectedAnswer, match="version 'v1' gave 3 answers for 2 rows"):
        server.predict_batch(np.zeros((4, 1)), keys=list("abcd"))
    server = by_cohort(lambda rows: np.zeros(len(rows)), second)
    with pytest.raises(RejectedAnswer, match="version 'v2' gave"):
        server.predict_batch(np.zeros((4, 1)), keys=list("abcd"))
    assert server.in_flight == {"v1": 0, "v2": 0}


@pytest.mark.parametrize("answer", [np.zeros(1), [0.0], np.float64(1.0), np.zeros(())])
def test_a_whole_batch_has_one_answer_a_row_too(answer):
    server, _ = serving(canary=0.0)
    server.load_model("v3", lambda rows: answer)
    if isinstance(answer, np.float64):
        # It cannot be counted: as it is.
        assert server.predict_batch(np.zeros((4, 1)), "v3") == 1.0
    else:
        with pytest.raises(RejectedAnswer, match="version 'v3' gave 1 answers for 4 rows"):
            server.call_batch(np.zeros((4, 1)), "v3")


def test_outputs_by_name_are_left_as_they_are():
    server, _ = serving(canary=0.0)
    server.load_model("v3", lambda rows: {"mean": rows, "spread": rows})
    assert set(server.predict_batch(np.zeros((4, 1)), "v3")) == {"mean", "spread"}


def test_a_split_that_comes_after_the_first_look_at_the_table_still_goes_by_key(monkeypatch):
    server, _ = serving(canary=0.0)
    rows, original, late = list(range(40)), VersionedModelServer.resolve, []

    def routed_meanwhile(self, *args):
        if not late:
            late.append(server.route(canary={"v2": 0.5}))
        return original(self, *args)

    monkeypatch.setattr(VersionedModelServer, "resolve", routed_meanwhile)
    assert server.predict_batch(rows, keys=rows) == expected(server, rows)
    assert server.in_flight == {"v1": 0, "v2": 0}
