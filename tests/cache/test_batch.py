import asyncio
import threading
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.cache import PredictionCache, cached_prediction
from prodml.cache.columns import assemble, column_of
from tests.cache.stores import BulkMemoryStore

FRAME = {"a": [1, 2, 1, 3], "b": [0.5, 0.25, 0.5, 1.0], "c": list("xyxz")}


def _frames():
    return [pd.DataFrame(FRAME, index=[7, 8, 9, 5]), pl.DataFrame(FRAME), pa.table(FRAME)]


def until(true, seconds=10.0):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.001)


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


def test_a_series_without_a_name_has_none_afterwards():
    column = column_of(pd.Series([1.0]), 1)
    assert assemble(column.kind, [2.0]).name is None


# -- what is shared with others must fit ----------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "entry"),
    [
        (lambda rows: rows[:, 0].astype(int), 0.7),
        (lambda rows: rows[:, 0] * 1.0, "5"),
        (lambda rows: rows[:, 0] > 2, 1),
        (lambda rows: rows[:, 0].astype("f4"), 0.1),
        (lambda rows: pd.Series(rows[:, 0]).astype(int), 0.7),
        (lambda rows: pl.Series(rows[:, 0]), "5"),
        (lambda rows: rows * 1.0, [1.0, 2.0]),
        (lambda rows: pd.DataFrame(rows), (1.0,)),
    ],
)
def test_an_entry_of_another_kind_is_never_cast(answer, entry):
    cache = PredictionCache()
    model = Scorer(answer, cache)
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    first = model.score(rows)
    cache.set(rows[0], "v1", entry, function="scorer")
    for _ in range(2):
        again = model.score(rows)
        assert str(again) == str(first)
        assert type(again) is type(first)
    # All was computed once more, and is known again.
    assert [len(batch) for batch in model.batches] == [2, 2]


def test_numbers_of_python_fit_into_an_array_of_the_same():
    cache = PredictionCache()
    model = Scorer(lambda rows: rows.sum(axis=1), cache)
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    model.score(rows)
    cache.set(rows[0], "v1", 9.5, function="scorer")
    np.testing.assert_array_equal(model.score(rows), [9.5, 7.0])
    assert len(model.batches) == 1


# -- containers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows", ["text", 5, iter([1]), {1, 2}, pl.Series([1]), np.array(1.0), object()], ids=repr
)
def test_what_is_no_container_of_rows_is_counted(rows):
    model = Scorer(lambda rows: "whole")
    for _ in range(2):
        assert model.score(rows) == "whole"
    assert model.cache.stats().uncacheable == 2
    assert all(batch is rows for batch in model.batches)


def test_an_answer_that_cannot_be_taken_apart_is_counted():
    model = Scorer(lambda rows: 42)
    for _ in range(2):
        model.score([{"a": 1}])
    assert model.cache.stats().unstorable == 2


@pytest.mark.parametrize("frame", _frames(), ids=["pandas", "polars", "pyarrow"])
def test_probabilities_in_a_frame_are_kept_by_row(frame):
    def answer(rows):
        p = np.asarray(rows["a"]) / 10
        return (
            type(frame)({"no": 1 - p, "yes": p})
            if not isinstance(frame, pa.Table)
            else pa.table({"no": 1 - p, "yes": p})
        )

    model = Scorer(answer)
    expected = answer(frame)
    for _ in range(3):
        again = model.score(frame)
        assert type(again) is type(expected)
        assert again.equals(expected)
    assert len(model.batches) == 1


def test_a_frame_of_answers_keeps_the_labels_of_its_rows():
    frame = _frames()[0]
    model = Scorer(lambda rows: pd.DataFrame({"p": rows["a"] / 10.0}))
    expected = pd.DataFrame({"p": frame["a"] / 10.0})
    for part in (frame, frame, frame.iloc[[3, 0]], frame.reset_index(drop=True)):
        pd.testing.assert_frame_equal(
            model.score(part),
            expected.loc[part.index] if part.index[0] else expected.reset_index(drop=True),
        )
    assert len(model.batches) == 1


@pytest.mark.parametrize("counted_first", [True, False])
def test_labels_of_ones_own_are_not_taken_for_those_of_the_rows(counted_first):
    frame = _frames()[0]
    model = Scorer(lambda rows: pd.Series(rows["a"].to_numpy()))
    parts = [frame.iloc[:2].reset_index(drop=True), frame] if counted_first else [frame]
    for part in [*parts, frame, frame.iloc[::-1]]:
        expected = pd.Series(part["a"].to_numpy())
        pd.testing.assert_series_equal(model.score(part), expected)
    assert len(model.batches) <= 3


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "float32", "datetime64[ns]"])
def test_a_series_keeps_its_dtype(dtype):
    frame = pd.DataFrame({"a": [0, 1, 0, 1]})
    answer = lambda rows: rows["a"].astype(dtype if dtype != "string" else str).astype(dtype)
    model = Scorer(answer)
    for _ in range(3):
        pd.testing.assert_series_equal(model.score(frame), answer(frame))
    assert len(model.batches) == 1


def test_a_lazy_frame_is_collected_once_and_handed_on_as_one():
    collected = []

    def seen(frame):
        collected.append(len(frame))
        return frame

    lazy = pl.LazyFrame(FRAME).map_batches(seen)
    model = Scorer(lambda rows: rows.collect()["a"] * 10)
    assert model.score(lazy).to_list() == [10, 20, 10, 30]
    assert collected == [4]
    assert [type(batch) for batch in model.batches] == [pl.LazyFrame]
    assert model.batches[0].collect()["a"].to_list() == [1, 2, 3]
    assert model.score(lazy).to_list() == [10, 20, 10, 30]
    assert (len(model.batches), collected) == (1, [4, 4])


def test_a_lazy_frame_that_cannot_be_collected_goes_through():
    lazy = pl.LazyFrame(FRAME).select(pl.col("missing"))
    model = Scorer(lambda rows: "whole")
    assert model.score(lazy) == "whole"
    assert model.batches == [lazy] or model.batches[0] is lazy
    assert model.cache.stats().uncacheable == 1


def test_columns_may_have_numbers_for_names():
    frame = pd.DataFrame(np.arange(6.0).reshape(3, 2))
    model = Scorer(lambda rows: rows.sum(axis=1).to_numpy())
    for _ in range(2):
        np.testing.assert_array_equal(model.score(frame), [1, 5, 9])
    assert len(model.batches) == 1


def height_of(rows):
    return len(rows.collect() if isinstance(rows, pl.LazyFrame) else rows)


MOMENTS = np.array(["2024-01-01T00:00:00.000000001", "2024-01-01T00:00:00.000000002"], "M8[ns]")
SPANS = np.array([1_000_001, 1_000_002], "m8[ns]")


@pytest.mark.parametrize("values", [MOMENTS, SPANS], ids=["datetime", "timedelta"])
@pytest.mark.parametrize(
    "framed",
    [pd.DataFrame, pl.DataFrame, lambda columns: pl.DataFrame(columns).lazy(), pa.table],
    ids=["pandas", "polars", "lazy", "pyarrow"],
)
def test_rows_that_differ_by_a_nanosecond_do_not_share_an_entry(framed, values):
    model = Scorer(lambda rows: list(range(height_of(rows))))
    for _ in range(2):
        assert model.score(framed({"at": values})) == [0, 1]
    assert len(model.batches) == 1
    assert model.score(framed({"at": values[1:]})) == [1]
    assert len(model.batches) == 1


def test_a_frame_with_times_too_fine_to_be_named_goes_through():
    model = Scorer(len)
    moments = pl.Series("at", MOMENTS)
    frame = pl.DataFrame({"at": moments, "n": [1, 2]}).group_by("n").agg("at")
    assert [model.score(frame), model.score(frame)] == [2, 2]
    assert model.cache.stats().uncacheable == 2


def test_equal_rows_do_not_share_one_list():
    model = Scorer(lambda rows: [[row["a"]] for row in rows])
    for _ in range(2):
        one, other = model.score([{"a": 1}, {"a": 1}])
        one.append("mine")
        assert other == [1]


# -- round trips ----------------------------------------------------------------------------


def trips(store):
    made, store.trips[:] = list(store.trips), []
    return made


def test_a_batch_takes_two_round_trips_and_the_first_one_more_for_its_epoch():
    store = BulkMemoryStore()
    model = Scorer(lambda rows: rows.sum(axis=1), PredictionCache(store))
    rows = np.arange(40.0).reshape(20, 2)
    model.score(rows[:8])
    assert trips(store) == ["setdefault", "get_many", "set_many"]
    model.score(rows[:8])
    assert trips(store) == []
    model.score(rows[4:12])
    assert trips(store) == ["get_many", "set_many"]
    # A process that knows nothing: one trip for the container and all rows.
    other = Scorer(lambda rows: rows.sum(axis=1), PredictionCache(store))
    np.testing.assert_array_equal(other.score(rows[:12]), rows[:12].sum(axis=1))
    assert trips(store) == ["setdefault", "get_many"]
    assert other.batches == []


# -- at the same time -----------------------------------------------------------------------


def at_once(calls):
    """Outcomes of ``calls``, each made in a thread of its own."""
    outcomes = [None] * len(calls)

    def run(at):
        try:
            outcomes[at] = calls[at]()
        except Exception as error:
            outcomes[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return outcomes


def slowly(answer, seconds=0.1):
    def compute(rows):
        time.sleep(seconds)
        return answer(rows)

    return compute


@pytest.mark.parametrize(
    "answer", [lambda r: r.sum(axis=1), lambda r: r * 2.0, lambda r: r.tolist()]
)
@pytest.mark.parametrize("memory", ["1 MiB", None])
def test_equal_batches_at_the_same_time_are_computed_once(answer, memory):
    store = None if memory else BulkMemoryStore()
    model = Scorer(slowly(answer), PredictionCache(store, memory=memory))
    rows = np.arange(8.0).reshape(4, 2)
    for outcome in at_once([lambda: model.score(rows)] * 10):
        np.testing.assert_array_equal(outcome, answer(rows))
    assert len(model.batches) == 1
    assert model.cache.stats().coalesced == 36
    assert len(model.cache._flights) == 0


def test_overlapping_batches_compute_each_row_once():
    model = Scorer(slowly(lambda rows: rows.sum(axis=1)))
    rows = np.arange(40.0).reshape(20, 2)
    parts = [slice(at, at + 8) for at in range(12)]
    outcomes = at_once([lambda part=part: model.score(rows[part]) for part in parts])
    for part, outcome in zip(parts, outcomes, strict=True):
        np.testing.assert_array_equal(outcome, rows[part].sum(axis=1))
    computed = np.concatenate(model.batches)
    assert len(computed) == len(np.unique(computed, axis=0)) == 19


def test_rows_and_batches_wait_for_each_other():
    cache, calls = PredictionCache(), []

    @cached_prediction(cache, version="v1", function="scorer")
    def one(row):
        calls.append(row)
        time.sleep(0.1)
        return -1.0

    model = Scorer(slowly(lambda rows: rows[:, 0]), cache)
    rows = np.arange(8.0).reshape(4, 2)
    model.score(rows[3:])
    started = threading.Thread(target=one, args=(rows[0],))
    started.start()
    until(lambda: calls)
    np.testing.assert_array_equal(model.score(rows), [-1, 2, 4, 6])
    started.join()
    assert [len(batch) for batch in model.batches] == [1, 2]


def test_a_failing_batch_fails_those_with_the_same_rows_once():
    def fail(rows):
        raise ValueError("no")

    model = Scorer(slowly(fail))
    rows = np.arange(8.0).reshape(4, 2)
    outcomes = at_once([lambda: model.score(rows)] * 10)
    assert {type(outcome) for outcome in outcomes} == {ValueError}
    assert len(model.batches) == 1
    assert len(model.cache._flights) == 0


def test_a_row_that_fails_elsewhere_because_of_its_neighbours_is_computed_here():
    def answer(rows):
        if (rows < 0).any():
            raise ValueError("negative")
        return rows.sum(axis=1)

    model = Scorer(slowly(answer))
    rows = np.array([[1.0, 2.0], [-1.0, 0.0]])
    bad, good = at_once(
        [lambda: model.score(rows), lambda: (time.sleep(0.03), model.score(rows[:1]))[1]]
    )
    assert isinstance(bad, ValueError)
    np.testing.assert_array_equal(good, [3.0])


def test_a_function_that_asks_for_its_own_rows_does_not_wait_for_itself():
    cache, depth = PredictionCache(), []

    @cached_prediction(cache, version="v1", batch=True, function="scorer")
    def score(rows):
        depth.append(len(rows))
        return score(rows) if len(depth) < 2 else [1 for _ in rows]

    assert score([{"a": 1}, {"a": 2}]) == [1, 1]
    assert depth == [2, 2]


def test_tasks_and_threads_share_batches():
    calls = []
    cache = PredictionCache()

    @cached_prediction(cache, version="v1", batch=True, function="scorer")
    async def ascore(rows):
        calls.append(len(rows))
        await asyncio.sleep(0.1)
        return rows.sum(axis=1)

    rows = np.arange(8.0).reshape(4, 2)

    async def main():
        return await asyncio.gather(*(ascore(rows) for _ in range(10)))

    for outcomes in at_once([lambda: asyncio.run(main())] * 3):
        for outcome in outcomes:
            np.testing.assert_array_equal(outcome, rows.sum(axis=1))
    assert calls == [4]


def test_a_cancelled_batch_hands_its_rows_over():
    calls = []

    @cached_prediction(PredictionCache(), version="v1", batch=True, function="scorer")
    async def score(rows):
        calls.append(len(rows))
        await asyncio.sleep(0.05)
        return rows.sum(axis=1)

    rows = np.arange(8.0).reshape(4, 2)

    async def main():
        first = asyncio.create_task(score(rows))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(score(rows)) for _ in range(5)]
        await asyncio.sleep(0.01)
        first.cancel()
        return await asyncio.gather(*others)

    for outcome in asyncio.run(main()):
        np.testing.assert_array_equal(outcome, rows.sum(axis=1))
    assert calls == [4, 4]


# -- properties -----------------------------------------------------------------------------

ROWS = st.lists(st.integers(0, 12), max_size=20)
MAKE = {
    "list": lambda ids: [{"a": at} for at in ids],
    "tuple": lambda ids: tuple({"a": at} for at in ids),
    "array": lambda ids: np.array([[at, at + 1] for at in ids], dtype=float).reshape(-1, 2),
    "pandas": lambda ids: pd.DataFrame({"a": ids}, dtype="int64"),
    "polars": lambda ids: pl.DataFrame({"a": ids}, schema={"a": pl.Int64}),
    "lazy": lambda ids: pl.LazyFrame({"a": ids}, schema={"a": pl.Int64}),
    "arrow": lambda ids: pa.table({"a": pa.array(ids, pa.int64())}),
}
ANSWERS = {
    "list": lambda x: (x * 2).tolist(),
    "tuple": lambda x: tuple((x * 2).tolist()),
    "float": lambda x: x * 0.5,
    "bool": lambda x: x > 5,
    "text": lambda x: np.array([f"{v:.0f}" * int(v) for v in x], dtype=np.str_),
    "matrix": lambda x: np.stack([x, -x], axis=1),
    "objects": lambda x: np.array([None if v > 5 else int(v) for v in x], dtype=object),
    "Int64": lambda x: pd.Series([None if v > 5 else int(v) for v in x], dtype="Int64"),
    "dates": lambda x: pd.Series(pd.to_datetime(x, unit="D")),
    "polars": lambda x: pl.Series("p", x / 3),
    "frame": lambda x: pl.DataFrame({"no": x, "yes": -x}),
    "table": lambda x: pd.DataFrame({"no": x, "yes": [f"{v}" for v in x]}),
}


def ids_of(rows):
    if isinstance(rows, list | tuple):
        return np.array([row["a"] for row in rows], dtype=float)
    if isinstance(rows, np.ndarray):
        return rows[:, 0]
    if isinstance(rows, pl.LazyFrame):
        rows = rows.collect()
    return np.asarray(rows["a"], dtype=float)


def identical(one, other):
    assert type(one) is type(other)
    if isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype or one.dtype.kind == "U"
    elif isinstance(one, pl.Series | pl.DataFrame):
        assert one.equals(other)
    else:
        assert one == other


@settings(max_examples=300, deadline=None)
@given(
    container=st.sampled_from(list(MAKE)),
    answer=st.sampled_from(list(ANSWERS)),
    batches=st.lists(ROWS, min_size=1, max_size=5),
    stored=st.booleans(),
    memory=st.booleans(),
)
def test_any_batch_answers_as_the_function_does(container, answer, batches, stored, memory):
    store = BulkMemoryStore() if stored or not memory else None
    make, compute = MAKE[container], lambda rows: ANSWERS[answer](ids_of(rows))
    model = Scorer(compute, PredictionCache(store, memory="4 MiB" if memory else None))
    known: set[int] = set()
    for ids in batches:
        model.batches.clear()
        if store is not None:
            store.trips.clear()
        again = model.score(make(ids))
        # Of no rows a function answers what it likes: the known container is as good.
        assert ids or len(again) == 0
        if ids:
            identical(again, compute(make(ids)))
        if store is not None:
            assert len([trip for trip in store.trips if trip != "setdefault"]) <= 2
        missing = [at for at in dict.fromkeys(ids) if at not in known]
        if ids:
            # Distinct misses only, in one call.
            assert [ids_of(batch).tolist() for batch in model.batches] == [missing] * bool(missing)
        known.update(ids)
