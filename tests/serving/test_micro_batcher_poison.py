"""One poisoned row fails only its own request (S8)."""

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml.errors import CircuitOpen, InvalidFeatures, RejectedAnswer
from prodml.serving import MicroBatcher


class Poison(ValueError):
    """Names the rows that were in the call."""


class Picky:
    """Cannot stand some rows, and notes what it is asked."""

    def __init__(self, poisoned, error=Poison):
        self.poisoned, self.error = set(poisoned), error
        self.calls, self.answered = [], Counter()

    def __call__(self, rows):
        self.calls.append(list(rows))
        bad = [row for row in rows if row in self.poisoned]
        if bad:
            raise self.error(bad)
        self.answered.update(rows)
        return [("answer", row) for row in rows]


def asked(model, rows, **settings):
    """Answer or error of each row, all of one batch."""
    batcher = MicroBatcher(model, **settings)

    async def main():
        calls = (batcher.apredict(row) for row in range(rows))
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main()), batcher.stats()


def check(outcomes, poisoned):
    for row, outcome in enumerate(outcomes):
        if row in poisoned:
            assert type(outcome) is Poison
            assert outcome.args == ([row],)
        else:
            assert outcome == ("answer", row)


@pytest.mark.parametrize("rows", [2, 3, 7, 64])
@pytest.mark.parametrize("place", [0.0, 0.4, 1.0])
def test_one_poisoned_row_fails_alone(rows, place):
    bad = round((rows - 1) * place)
    model = Picky({bad})
    outcomes, stats = asked(model, rows)
    check(outcomes, {bad})
    levels = math.ceil(math.log2(rows))
    assert len(model.calls) <= 1 + 2 * levels
    # Every good row was answered once, and computed at most once a level.
    assert set(model.answered.values()) == {1}
    assert max(Counter(row for call in model.calls for row in call).values()) <= 1 + levels
    assert (stats.batches, stats.bisected, stats.poisoned, stats.failed) == (1, 1, 1, 1)
    assert stats.extra == len(model.calls) - 1


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 64), data=st.data())
def test_any_seven_poisoned_rows_fail_alone(rows, data):
    poisoned = data.draw(st.sets(st.integers(0, rows - 1), max_size=7))
    model = Picky(poisoned)
    outcomes, stats = asked(model, rows)
    check(outcomes, poisoned)
    assert len(model.calls) <= max(1, 2 * rows - 1)
    assert len(model.calls) <= 1 + 2 * len(poisoned) * math.ceil(math.log2(rows))
    assert stats.poisoned == stats.failed == len(poisoned)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 64), data=st.data())
def test_any_number_of_poisoned_rows_leaves_nobody_with_a_strange_answer(rows, data):
    poisoned = data.draw(st.sets(st.integers(0, rows - 1)))
    model = Picky(poisoned)
    outcomes, stats = asked(model, rows)
    # Beyond hope: eight parts failed before anyone was answered.
    hopeless = all(isinstance(outcome, Poison) for outcome in outcomes)
    if not hopeless:
        check(outcomes, poisoned)
    else:
        assert len(poisoned) >= min(8, rows)
        assert len(model.calls) <= 15
    assert len(model.calls) <= 2 * rows - 1
    assert stats.failed == sum(isinstance(outcome, Poison) for outcome in outcomes)


@pytest.mark.parametrize("rows", [2, 5, 8, 64, 1000])
def test_a_model_that_is_down_is_not_asked_for_ever(rows):
    model = Picky(range(rows))
    outcomes, stats = asked(model, rows, max_rows=1000)
    assert {type(outcome) for outcome in outcomes} == {Poison}
    assert len(model.calls) <= min(15, 2 * rows - 1)
    assert stats.failed == rows


def test_a_refusal_is_not_asked_again():
    model = Picky({3}, error=lambda _: CircuitOpen("db", 1.0))
    outcomes, stats = asked(model, 8)
    assert {type(outcome) for outcome in outcomes} == {CircuitOpen}
    assert len(model.calls) == 1
    assert (stats.extra, stats.bisected, stats.poisoned, stats.failed) == (0, 0, 0, 8)


@pytest.mark.parametrize("error", [InvalidFeatures, RejectedAnswer], ids=lambda e: e.__name__)
def test_bad_features_and_bad_answers_are_a_row_s_own(error):
    outcomes, stats = asked(Picky({3}, error=error), 8)
    assert [row for row, outcome in enumerate(outcomes) if isinstance(outcome, error)] == [3]
    assert stats.poisoned == 1


def test_a_single_row_that_fails_is_no_poison():
    batcher = MicroBatcher(Picky({1}))
    with pytest.raises(Poison):
        batcher.predict(1)
    stats = batcher.stats()
    assert (stats.failed, stats.poisoned, stats.bisected, stats.extra) == (1, 0, 0, 0)


def test_rows_of_one_request_are_not_split():
    model = Picky({2})
    batcher = MicroBatcher(model)

    async def main():
        many = batcher.asubmit_many([0, 1, 2, 3])
        others = (batcher.apredict(row) for row in (4, 5))
        return await asyncio.gather(many, *others, return_exceptions=True)

    first, *others = asyncio.run(main())
    assert isinstance(first, Poison)
    assert others == [("answer", 4), ("answer", 5)]
    assert model.calls == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3], [4, 5]]


def test_a_row_that_cannot_be_stacked_fails_alone():
    batcher = MicroBatcher(lambda rows: rows.sum(axis=1), stack=True)

    async def main():
        calls = (batcher.apredict(row) for row in ([1, 2], [1, 2, 3], [3, 4]))
        return await asyncio.gather(*calls, return_exceptions=True)

    two, three, seven = asyncio.run(main())
    assert (two, seven) == (3, 7)
    # Alone it would do: it is of another shape than its neighbours, not wrong.
    assert three == 6


def test_a_model_whose_generator_breaks_midway():
    def model(rows):
        for row in rows:
            if row == 2:
                raise Poison([row])
            yield ("answer", row)

    outcomes, _ = asked(lambda rows: model(rows), 5)
    check(outcomes, {2})


def test_no_error_is_kept_once_it_was_raised():
    import gc
    import weakref

    kept = []

    class Kept(Exception):
        def __init__(self):
            kept.append(weakref.ref(self))

    def model(rows):
        if 2 in rows or 5 in rows:
            raise Kept
        return rows

    async def one(batcher, row):
        try:
            await batcher.apredict(row)
        except Kept:
            return

    async def main():
        batcher = MicroBatcher(model)
        await asyncio.gather(*(one(batcher, row) for row in range(8)))
        for row in (2, 5):
            try:
                batcher.predict(row)
            except Kept:
                continue

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert len(kept) > 4
        assert [ref() for ref in kept if ref() is not None] == []
    finally:
        gc.enable()
