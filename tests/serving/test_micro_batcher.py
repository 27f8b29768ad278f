"""What a micro-batcher takes, what it answers, and when it asks the model."""

import asyncio
import os
import threading

import numpy as np
import pandas as pd
import pytest
from tests.serving.held import Held, Queue, until

from prodml._settings import retune, settings_of
from prodml.errors import BadConfiguration, RejectedAnswer, UnknownVersion
from prodml.events import SettingsChanged, Stream
from prodml.serving import BatchStats, MicroBatcher, Reply
from prodml.testing import Recorder


def doubled(rows):
    return [row * 2 for row in rows]


# -- models -------------------------------------------------------------------------------


class ByBatch:
    def predict_batch(self, rows):
        return doubled(rows)

    def predict(self, row):
        raise AssertionError("asked for one row")


class ByArray:
    """As scikit-learn: a predict that wants an array of shape (n, d)."""

    def predict(self, rows):
        assert rows.ndim == 2
        return rows.sum(axis=1)


def test_a_function_of_rows_is_a_model():
    assert MicroBatcher(doubled).predict(21) == 42


def test_an_object_with_predict_batch_is_a_model():
    assert MicroBatcher(ByBatch()).predict(21) == 42


def test_rows_are_stacked_into_one_array():
    batcher = MicroBatcher(ByArray(), stack=True)
    assert batcher.predict(np.array([1.0, 2.0])) == 3.0
    assert batcher.predict([1, 2.5]) == 3.5
    assert batcher.submit_many(np.arange(6).reshape(3, 2)) == [1, 5, 9]


def test_scikit_learn_answers_as_it_does_alone():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 5))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    batcher = MicroBatcher(model.predict_proba, stack=True)

    async def main():
        return await asyncio.gather(*(batcher.apredict(row) for row in rows[:50]))

    np.testing.assert_allclose(asyncio.run(main()), model.predict_proba(rows[:50]))
    assert batcher.stats().batches == 1


def test_rows_are_stacked_as_told():
    batcher = MicroBatcher(lambda frame: frame["a"] + frame["b"], stack=pd.DataFrame)
    assert batcher.submit_many([{"a": 1, "b": 2}, {"b": 3, "a": 4}]) == [3, 7]


def test_a_row_of_text_does_not_turn_the_numbers_of_others_into_text():
    batcher = MicroBatcher(lambda rows: [type(row[0]) for row in rows], stack=True)
    assert batcher.submit_many([[1, 2], ["a", "b"]]) == [int, str]


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (ByArray(), {}, "stack=True"),
        (ByArray, {"stack": True}, "not the class"),
        (3, {}, "must be a function or have predict_batch"),
        (asyncio.sleep, {}, "must be a plain function"),
        (doubled, {"max_rows": 0}, "max_rows must be a whole number of rows >= 1, not 0"),
        (doubled, {"max_rows": 1.5}, "max_rows"),
        (doubled, {"max_queue": 0}, "max_queue"),
        (doubled, {"budget": -1.0}, "budget must be a number of seconds >= 0"),
        (doubled, {"budget": float("nan")}, "budget"),
        (doubled, {"inline": -0.1}, "inline"),
        (doubled, {"stack": 3}, "stack must be True or a function"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_built(model, settings, message):
    with pytest.raises(BadConfiguration, match=message):
        MicroBatcher(model, **settings)


# -- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [(1, 2), np.array([1, 2]), pd.Series([1, 2], index=[7, 3]), range(1, 3), iter([1, 2])],
    ids=lambda told: type(told).__name__,
)
def test_any_sequence_of_answers_will_do(told):
    assert MicroBatcher(lambda _: told).submit_many(["a", "b"]) == [1, 2]


@pytest.mark.parametrize(
    "told",
    [
        [1],
        [1, 2, 3],
        None,
        {"a": 1, "b": 2},
        {1, 2},
        "ab",
        b"ab",
        7,
        np.array(7),
        pd.DataFrame({"p": [1, 2], "q": [3, 4]}),
    ],
    ids=lambda told: type(told).__name__,
)
def test_what_is_not_one_answer_a_row_is_refused(told):
    with pytest.raises(RejectedAnswer, match="for 2 rows"):
        MicroBatcher(lambda _: told).submit_many(["a", "b"])


def test_a_wrong_number_of_answers_fails_its_whole_call_and_is_not_asked_again():
    held = Held()
    batcher = MicroBatcher(lambda rows: held(rows)[: len(rows) - (len(rows) > 1)])
    queue = Queue(batcher, held)
    waiting = queue.rows(1, 2, 3)
    assert queue.go() == 0
    for future in waiting:
        with pytest.raises(RejectedAnswer, match="2 answers for 3 rows"):
            future.result(20.0)
    assert held.calls == [[0], [1, 2, 3]]
    assert batcher.stats().extra == 0


def test_a_list_that_the_model_uses_again_is_not_handed_out():
    kept = [0]

    def model(rows):
        kept[:] = doubled(rows)
        return kept

    batcher = MicroBatcher(model)
    first = batcher.submit_many([1])
    assert (batcher.predict(5), first) == (10, [2])


def test_a_model_may_take_its_list_of_rows_apart():
    def model(rows):
        answers = []
        while rows:
            answers.append(rows.pop(0) * 2)
        return answers

    assert MicroBatcher(model).submit_many([1, 2]) == [2, 4]


def test_frames_and_mappings_are_no_rows():
    batcher = MicroBatcher(doubled)
    for rows in (pd.DataFrame({"a": [1]}), {"a": 1}, "ab"):
        with pytest.raises(TypeError, match="must be a sequence of rows"):
            batcher.submit_many(rows)


# -- when and where -----------------------------------------------------------------------


def test_who_is_alone_is_served_at_once_in_his_own_thread():
    threads = []
    batcher = MicroBatcher(lambda rows: threads.append(threading.get_ident()) or rows)
    for row in range(5):
        assert batcher.predict(row) == row
    assert threads == [threading.get_ident()] * 5
    assert batcher.stats() == BatchStats(rows=5, batches=5)


def test_a_task_that_is_alone_is_served_in_its_loop():
    threads = []
    batcher = MicroBatcher(lambda rows: threads.append(threading.get_ident()) or rows)

    async def main():
        return [await batcher.apredict(row) for row in range(20)]

    assert asyncio.run(main()) == list(range(20))
    assert threads == [threading.get_ident()] * 20


def test_out_of_the_loop_if_so_set():
    threads = []
    batcher = MicroBatcher(lambda rows: threads.append(threading.get_ident()) or rows, inline=0)

    async def main():
        for row in range(20):
            assert await batcher.apredict(row) == row
        return await asyncio.gather(*(batcher.apredict(row) for row in range(100)))

    assert asyncio.run(main()) == list(range(100))
    assert threading.get_ident() not in threads


def test_batches_that_take_long_leave_the_loop_by_themselves():
    batcher = MicroBatcher(doubled, inline=0.01)
    batcher._desk.runner.cost.base = 1.0
    threads = []
    batcher._desk.router._ask = lambda rows: threads.append(threading.get_ident()) or rows
    assert asyncio.run(batcher.apredict(3)) == 3
    assert threads[0] != threading.get_ident()


def test_in_the_loop_after_all_if_there_is_no_thread_to_be_had(monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("prodml.serving.batch_desk.WORKERS.submit", full)
    threads = []
    batcher = MicroBatcher(lambda rows: threads.append(threading.get_ident()) or rows, inline=0)
    assert asyncio.run(batcher.apredict(3)) == 3
    assert threads == [threading.get_ident()]


def test_who_comes_while_a_batch_runs_is_in_the_next():
    held = Held()
    batcher = MicroBatcher(held, max_rows=4)
    queue = Queue(batcher, held)
    waiting = queue.rows(*range(1, 11))
    assert batcher.stats().waiting == 10
    queue.go()
    assert [future.result(20.0) for future in waiting] == list(range(2, 22, 2))
    assert held.calls == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    stats = batcher.stats()
    assert (stats.rows, stats.batches, stats.mean_rows, stats.waiting) == (11, 4, 2.75, 0)


def test_tasks_that_are_ready_together_are_one_batch():
    held = Held()
    held.go.set()
    batcher = MicroBatcher(held, max_rows=8)

    async def main():
        return await asyncio.gather(*(batcher.apredict(row) for row in range(20)))

    assert asyncio.run(main()) == list(range(0, 40, 2))
    assert [len(call) for call in held.calls] == [8, 8, 4]


def test_a_crowd_is_noticed_after_a_lonely_time():
    held = Held()
    held.go.set()
    batcher = MicroBatcher(held)

    async def main():
        for row in range(100):
            await batcher.apredict(row)
        held.calls.clear()
        for _ in range(10):
            await asyncio.gather(*(batcher.apredict(row) for row in range(16)))

    asyncio.run(main())
    # At most seven go alone before one looks for company; from then on nobody does.
    sizes = [len(call) for call in held.calls]
    assert sizes[-9:] == [16] * 9
    assert sizes[:-10] == [1] * len(sizes[:-10])
    assert len(sizes) <= 7 + 10


def test_both_colours_share_one_line():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)
    awaited = queue.add(lambda: asyncio.run(batcher.apredict(1)))
    plain = queue.add(batcher.predict, 2)
    queue.go()
    assert (awaited.result(20.0), plain.result(20.0)) == (2, 4)
    assert held.calls == [[0], [1, 2]]


# -- requests of several rows -------------------------------------------------------------


def test_rows_of_one_request_stay_together_and_in_order():
    held = Held()
    batcher = MicroBatcher(held, max_rows=4)
    queue = Queue(batcher, held)
    three = queue.add(batcher.submit_many, [1, 2, 3], rows=3)
    six = queue.add(batcher.submit_many, [4, 5, 6, 7, 8, 9], rows=6)
    one = queue.add(batcher.predict, 10)
    queue.go()
    assert three.result(20.0) == [2, 4, 6]
    assert six.result(20.0) == [8, 10, 12, 14, 16, 18]
    assert one.result(20.0) == 20
    assert held.calls == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_more_rows_than_a_batch_holds():
    sizes = []
    batcher = MicroBatcher(lambda rows: sizes.append(len(rows)) or doubled(rows), max_rows=64)
    assert batcher.submit_many(range(150)) == list(range(0, 300, 2))
    assert asyncio.run(batcher.asubmit_many(range(150))) == list(range(0, 300, 2))
    assert sizes == [64, 64, 22] * 2


def test_no_rows_no_call():
    def model(rows):
        raise AssertionError("asked for nothing")

    batcher = MicroBatcher(model)
    assert batcher.submit_many([]) == []
    assert asyncio.run(batcher.asubmit_many([])) == []
    assert list(batcher.call_batch([])) == []
    assert batcher.stats() == BatchStats()


def test_a_request_fails_as_one_and_its_other_rows_are_not_asked():
    calls = []

    def model(rows):
        calls.append(rows[:])
        if 3 in rows:
            raise ValueError("three")
        return rows

    batcher = MicroBatcher(model, max_rows=2)
    with pytest.raises(ValueError, match="three"):
        batcher.submit_many(range(10))
    assert calls == [[0, 1], [2, 3]]
    assert batcher.predict(5) == 5


def test_a_plain_model_has_no_versions():
    batcher = MicroBatcher(doubled, name="churn")
    with pytest.raises(UnknownVersion, match="churn has no version 'v2'"):
        batcher.predict(1, version="v2")
    assert batcher.call(1, key="ann") == Reply(2, "", "stable")
    assert asyncio.run(batcher.acall(1)) == Reply(2, "", "stable")
    assert asyncio.run(batcher.acall_batch([1, 2])).value == [2, 4]
    assert batcher.call_batch([1, 2]).arm == "stable"


# -- nesting ------------------------------------------------------------------------------


def test_a_model_that_asks_its_own_batcher_is_answered_at_once():
    def model(rows):
        return [row if row < 1 else batcher.predict(row - 1) + 1 for row in rows]

    batcher = MicroBatcher(model)
    assert batcher.predict(5) == 5
    assert batcher.submit_many([3, 2]) == [3, 2]


def test_also_by_an_event_loop_of_its_own():
    def model(rows):
        return [row if row < 1 else asyncio.run(batcher.apredict(row - 1)) + 1 for row in rows]

    batcher = MicroBatcher(model)
    assert batcher.predict(1) == 1


def test_an_inner_failure_is_the_inner_caller_s():
    def model(rows):
        if rows == ["bad"]:
            raise ValueError("bad")
        try:
            return [batcher.predict("bad")]
        except ValueError as error:
            return [f"caught {error}"]

    batcher = MicroBatcher(model)
    assert batcher.predict("good") == "caught bad"


# -- settings -----------------------------------------------------------------------------


def test_settings_can_be_changed_while_it_runs():
    heard = Stream()
    recorder = Recorder(heard, SettingsChanged)
    sizes = []
    batcher = MicroBatcher(
        lambda rows: sizes.append(len(rows)) or rows, max_rows=8, name="churn", events=heard
    )
    retune(batcher, max_rows=3, budget=0.5, max_queue=7, inline=0.0)
    batcher.submit_many(range(7))
    assert sizes == [3, 3, 1]
    desk = batcher._desk
    assert (desk.budget, desk.max_queue, desk.inline) == (0.5, 7, 0.0)
    assert recorder.names == ["SettingsChanged"]
    with pytest.raises(BadConfiguration):
        retune(batcher, max_rows=0)
    with pytest.raises(BadConfiguration, match="rows are on their way"):
        retune(batcher, stack=True)
    assert batcher.max_rows == 3
    assert settings_of(batcher)["name"] == "churn"


# -- close --------------------------------------------------------------------------------


def test_a_closed_batcher_refuses():
    from prodml.errors import Rejected

    with MicroBatcher(doubled, name="churn") as batcher:
        assert batcher.predict(1) == 2
    assert batcher.close(timeout=0.0)
    with pytest.raises(Rejected, match="churn is closed"):
        batcher.predict(1)
    with pytest.raises(Rejected, match="churn is closed"):
        asyncio.run(batcher.apredict(1))
    assert batcher.close()


def test_closing_waits_for_those_who_wait():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)
    waiting = queue.rows(1, 2)
    closed = queue.add(batcher.close, rows=0)
    until(lambda: batcher._desk.line.closed)
    assert not closed.done()
    queue.go()
    assert closed.result(20.0) is True
    assert [future.result(20.0) for future in waiting] == [2, 4]
    assert held.calls == [[0], [1, 2]]
    assert batcher.stats().rows == 3


def test_closing_does_not_wait_longer_than_told():
    from prodml.errors import Rejected

    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)
    waiting = queue.rows(1, 2)
    assert batcher.close(timeout=0.01) is False
    for future in waiting:
        with pytest.raises(Rejected, match="was closed before it came to this"):
            future.result(20.0)
    assert queue.go() == 0
    assert held.calls == [[0]]
    assert batcher.close()


def test_closing_in_the_event_loop_answers_its_own_tasks():
    batcher = MicroBatcher(doubled)

    async def main():
        tasks = [asyncio.ensure_future(batcher.apredict(row)) for row in range(3)]
        await asyncio.sleep(0)
        assert batcher.stats().waiting == 3
        assert batcher.close(timeout=20.0)
        assert batcher.stats().waiting == 0
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [0, 2, 4]


# -- forks --------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_begins_with_an_empty_line():
    held = Held()
    batcher = MicroBatcher(held)
    queue = Queue(batcher, held)
    waiting = queue.rows(1, 2)
    child = os.fork()
    if child == 0:
        try:
            right = batcher.stats().waiting == 0 and batcher.predict(5) == 10
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    queue.go()
    assert [future.result(20.0) for future in waiting] == [2, 4]
