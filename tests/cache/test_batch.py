import asyncio

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from prodml.cache import PredictionCache, cached_prediction
from prodml.cache.batch import assemble, column_of
from tests.cache.stores import BulkMemoryStore

FRAME = {"a": [1, 2, 1, 3], "b": [0.5, 0.25, 0.5, 1.0], "c": list("xyxz")}


def _frames():
    return [pd.DataFrame(FRAME, index=[7, 8, 9, 5]), pl.DataFrame(FRAME), pa.table(FRAME)]


class Scorer:
    """Remembers the batches it was given."""

    def __init__(self, answer, cache=None, **settings):
        self.batches = []
        self.cache = cache if cache is not None else PredictionCache()

        @cached_prediction(self.cache, version="v1", batch=True, function="scorer", **settings)
        def score(rows):
            self.batches.append(rows)
            return answer(rows)

        self.score = score


def test_an_array_computes_distinct_missing_rows_only_and_keeps_the_order():
    model = Scorer(lambda rows: rows.sum(axis=1))
    rows = np.array([[1.0, 2], [3, 4], [1, 2], [5, 6]])
    np.testing.assert_array_equal(model.score(rows), [3, 7, 3, 11])
    np.testing.assert_array_equal(model.batches[0], rows[[0, 1, 3]])
    more = np.array([[5.0, 6], [7, 8]])
    answer = model.score(more)
    np.testing.assert_array_equal(answer, [11, 15])
    np.testing.assert_array_equal(model.batches[1], more[1:])
    assert (type(answer), answer.dtype) == (np.ndarray, np.dtype(float))


def test_a_batch_found_whole_calls_nothing():
    model = Scorer(lambda rows: rows.sum(axis=1))
    rows = np.arange(6.0).reshape(3, 2)
    first = model.score(rows)
    np.testing.assert_array_equal(model.score(rows[::-1]), first[::-1])
    assert len(model.batches) == 1
    stats = model.cache.stats()
    assert (stats.misses, stats.memory_hits) == (3, 3)


def test_an_empty_batch_calls_nothing_once_the_container_is_known():
    model = Scorer(lambda rows: rows.sum(axis=1))
    rows = np.zeros((2, 3))
    model.score(rows)
    empty = model.score(rows[:0])
    assert (empty.shape, empty.dtype, len(model.batches)) == ((0,), np.dtype(float), 1)


def test_probabilities_keep_their_shape():
    model = Scorer(lambda rows: np.stack([rows[:, 0], 1 - rows[:, 0]], axis=1))
    rows = np.array([[0.25], [0.5], [0.25]])
    expected = [[0.25, 0.75], [0.5, 0.5], [0.25, 0.75]]
    for _ in range(2):
        np.testing.assert_array_equal(model.score(rows), expected)


@pytest.mark.parametrize(
    "labels",
    [
        lambda rows: np.array(["yes" if row[0] else "nope" for row in rows]),
        lambda rows: np.array(["yes" if row[0] else None for row in rows], dtype=object),
    ],
)
def test_labels_come_back_as_labels(labels):
    model = Scorer(labels)
    rows = np.array([[0], [1], [0]])
    first, second = model.score(rows), model.score(rows)
    np.testing.assert_array_equal(first, labels(rows))
    assert second.dtype == first.dtype


@pytest.mark.parametrize("frame", _frames(), ids=["pandas", "polars", "pyarrow"])
def test_a_frame_is_passed_on_as_a_frame(frame):
    model = Scorer(lambda rows: np.asarray(rows["a"]) * 10)
    for _ in range(2):
        np.testing.assert_array_equal(model.score(frame), [10, 20, 10, 30])
    assert len(model.batches) == 1
    assert type(model.batches[0]) is type(frame)
    assert len(model.batches[0]) == 3


def test_a_pandas_series_keeps_name_and_index():
    frame = _frames()[0]
    model = Scorer(lambda rows: (rows["a"] * 2).rename("score"))
    expected = pd.Series([2, 4, 2, 6], index=frame.index, name="score")
    for _ in range(2):
        pd.testing.assert_series_equal(model.score(frame), expected)
    assert len(model.batches) == 1


def test_a_polars_series_is_one_again():
    frame = _frames()[1]
    model = Scorer(lambda rows: rows["a"].alias("score"))
    for _ in range(2):
        assert model.score(frame).equals(pl.Series("score", [1, 2, 1, 3]))


@pytest.mark.parametrize("container", [list, tuple])
def test_mappings_in_a_list_or_tuple(container):
    model = Scorer(lambda rows: container(row["a"] for row in rows))
    rows = container([{"a": 1}, {"a": 2}, {"a": 1}])
    for _ in range(2):
        assert model.score(rows) == container([1, 2, 1])
    assert model.batches == [container([{"a": 1}, {"a": 2}])]


def test_a_row_of_a_frame_and_a_mapping_share_their_entry():
    cache, calls = PredictionCache(), []

    @cached_prediction(cache, version="v1", function="scorer")
    def one(row):
        calls.append(row)
        return -1

    model = Scorer(lambda rows: [10 * value for value in rows["a"]], cache)
    model.score(pd.DataFrame(FRAME))
    assert one({"c": "y", "b": 0.25, "a": 2}) == 20
    assert calls == []


def test_rows_that_cannot_be_named_are_computed_each_time():
    model = Scorer(lambda rows: [len(row) for row in rows])
    rows = [{"a": 1}, {"a": print}, {"a": print}]
    model.score(rows)
    assert model.score(rows) == [1, 1, 1]
    assert model.batches[1] == rows[1:]


def test_an_error_reaches_the_caller_and_is_not_kept():
    model = Scorer(lambda rows: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            model.score([{"a": 1}])
    assert len(model.batches) == 2


def test_a_second_process_needs_two_round_trips_and_no_model():
    store = BulkMemoryStore()
    rows = np.arange(8.0).reshape(4, 2)
    first = Scorer(lambda r: r.sum(axis=1), PredictionCache(store)).score(rows)
    second = Scorer(lambda r: r.sum(axis=1), PredictionCache(store))
    store.trips.clear()
    np.testing.assert_array_equal(second.score(rows), first)
    assert (second.batches, store.trips) == ([], ["setdefault", "get_many"])


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: 42,
        lambda rows: [1, 2, 3, 4, 5],
        lambda rows: np.array(1.0),
        lambda rows: np.zeros(9),
        lambda rows: pl.Series([1, 2, 3]),
        lambda rows: {"a": 1},
    ],
)
def test_an_answer_that_is_not_one_value_a_row_is_handed_on(answer):
    model = Scorer(answer)
    rows = [{"a": 1}, {"a": 1}]
    for _ in range(2):
        assert str(model.score(rows)) == str(answer(rows))
    assert model.batches[-1] == rows


def test_a_function_that_changes_its_container_answers_itself():
    answers = [lambda rows: [1] * len(rows), lambda rows: tuple([2] * len(rows))]
    model = Scorer(lambda rows: answers[0](rows))
    model.score([{"a": 1}])
    answers.pop(0)
    assert model.score([{"a": 1}, {"a": 2}]) == (2, 2)
    assert model.score([{"a": 3}]) == (2,)


def test_stored_values_that_do_not_fit_together_are_computed_anew():
    cache = PredictionCache()
    model = Scorer(lambda rows: rows * 1.0, cache)
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    model.score(rows)
    cache.set(rows[0], "v1", "text", function="scorer")
    np.testing.assert_array_equal(model.score(rows), rows)


@pytest.mark.parametrize("rows", [np.array(1.0), "text", 5, iter([1])])
def test_what_is_no_container_of_rows_goes_through(rows):
    model = Scorer(lambda rows: "whole")
    assert model.score(rows) == "whole"
    assert model.batches == [rows]


def test_a_frame_that_cannot_be_read_goes_through():
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    model = Scorer(len)
    assert model.score(frame) == 1
    assert model.cache.stats().uncacheable > 0


def test_a_vector_is_a_batch_of_numbers():
    model = Scorer(lambda rows: rows * 2)
    np.testing.assert_array_equal(model.score(np.array([1.0, 2.0, 1.0])), [2, 4, 2])
    np.testing.assert_array_equal(model.batches[0], [1, 2])


def test_tasks_send_batches_too():
    calls = []

    @cached_prediction(PredictionCache(), batch=True)
    async def score(rows, model_version):
        calls.append(rows)
        return [row["a"] for row in rows]

    rows = [{"a": 1}, {"a": 2}]
    assert asyncio.run(score(rows=rows, model_version="v1")) == [1, 2]
    assert asyncio.run(score(rows, "v1")) == [1, 2]
    assert asyncio.run(score(rows, "v2")) == [1, 2]
    assert len(calls) == 2


def test_a_series_of_a_dtype_with_parameters_is_not_taken_apart():
    series = pd.Series(pd.to_datetime(["2024-01-01"]))
    assert column_of(series, 1) is None


def test_a_series_without_a_name_has_none_afterwards():
    column = column_of(pd.Series([1.0]), 1)
    assert assemble(column.kind, [2.0]).name is None
