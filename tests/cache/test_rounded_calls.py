"""Decorated functions whose keys are rounded: near rows share, and the error is measured."""

import asyncio
import random
import threading

import pytest

from prodml.cache import MeasuredError, PredictionCache, RoundingAudit, cached_prediction
from prodml.errors import BadConfiguration


def settled(audit: RoundingAudit, count: int) -> MeasuredError:
    """The error once ``count`` answers were compared, which happens in the background."""
    arrived = threading.Event()
    for _ in range(1000):
        if audit.error.count >= count:
            break
        arrived.wait(0.01)
    return audit.error


def test_near_rows_share_the_answer_to_the_first() -> None:
    cache, seen = PredictionCache(), []

    @cached_prediction(cache, version="v1", round={"amount": 1}, quantize={"age": 10}, audit=0.0)
    def score(features):
        seen.append(features)
        return features["amount"]

    assert score({"amount": 9.98, "age": 41}) == 9.98
    assert score({"amount": 10.01, "age": 38}) == 9.98
    assert score({"amount": 10.06, "age": 41}) == 10.06
    assert seen == [{"amount": 9.98, "age": 41}, {"amount": 10.06, "age": 41}], (
        "the model sees rows as they came"
    )


def test_a_share_of_the_answers_is_computed_anew_and_the_error_reported() -> None:
    cache, audit = PredictionCache(), RoundingAudit(share=1.0)

    @cached_prediction(cache, version="v1", function="score", round={"x": 0}, audit=audit)
    def score(features):
        return features["x"]

    assert score({"x": 1.0}) == 1.0
    assert score({"x": 1.25}) == 1.0
    error = settled(audit, 1)
    assert (error.count, error.changed, error.maximum) == (1, 1, 0.25)
    assert cache.stats().rounding == {"score": error}
    assert cache.stats().to_dict()["rounding"]["score"]["maximum"] == 0.25


def test_an_audit_neither_delays_nor_breaks_nor_changes_an_answer() -> None:
    cache, audit = PredictionCache(), RoundingAudit(share=1.0)
    caller, others = threading.get_ident(), []
    release = threading.Event()

    @cached_prediction(cache, version="v1", round={"x": 0}, audit=audit)
    def score(features):
        if threading.get_ident() != caller:
            others.append(threading.get_ident())
            assert release.wait(10)
            raise ConnectionError("the model is away")
        return [features["x"]]

    assert score({"x": 1.0}) == [1.0]
    assert score({"x": 1.25}) == [1.0], "answered while the audit computes"
    release.set()
    assert audit.error.count == 0


def test_tasks_audit_too() -> None:
    cache, audit = PredictionCache(), RoundingAudit(share=1.0)

    @cached_prediction(cache, version="v1", round={"x": 0}, audit=audit)
    async def score(features):
        await asyncio.sleep(0)
        return features["x"]

    async def main() -> MeasuredError:
        await score({"x": 1.0})
        assert await score({"x": 0.75}) == 1.0
        for _ in range(1000):
            if audit.error.count:
                break
            await asyncio.sleep(0.001)
        return audit.error

    assert asyncio.run(main()).maximum == 0.25


def test_arguments_that_cannot_be_copied_are_not_audited() -> None:
    audit = RoundingAudit(share=1.0)

    class Row(dict):
        def __deepcopy__(self, memo):
            raise TypeError("one of a kind")

    @cached_prediction(PredictionCache(), version="v1", round={"x": 0}, audit=audit)
    def score(features):
        return features["x"]

    assert [score(Row(x=1.0)), score(Row(x=1.0))] == [1.0, 1.0]
    assert audit.error.count == 0


def test_the_same_rows_without_rounding_have_other_entries() -> None:
    cache = PredictionCache()

    def score(features):
        return features["x"]

    rounded = cached_prediction(cache, version="v1", function="s", round={"x": 0})(score)
    exact = cached_prediction(cache, version="v1", function="s")(score)
    assert (rounded({"x": 1.25}), exact({"x": 1.0}), rounded({"x": 1.0})) == (1.25, 1.0, 1.25)


def test_batches_and_rows_share_rounded_entries() -> None:
    cache, calls = PredictionCache(), []
    names = {"version": "v1", "function": "s", "round": {"x": 1}, "audit": 0.0}

    @cached_prediction(cache, batch=True, **names)
    def many(rows):
        calls.append(len(rows))
        return [row["x"] for row in rows]

    @cached_prediction(cache, **names)
    def one(features):
        raise AssertionError("known")

    assert many([{"x": 0.31}, {"x": 0.29}, {"x": 0.44}]) == [0.31, 0.31, 0.44]
    assert calls == [2]
    assert one({"x": 0.33}) == 0.31


def test_batches_are_audited_where_rows_share() -> None:
    cache, audit = PredictionCache(), RoundingAudit(share=1.0, rng=random.Random(0))

    @cached_prediction(cache, version="v1", batch=True, function="s", round={"x": 0}, audit=audit)
    def many(rows):
        return [row["x"] for row in rows]

    assert many([{"x": 1.0}, {"x": 1.25}]) == [1.0, 1.0], "equal keys within a batch"
    assert settled(audit, 1).maximum == 0.25
    assert many([{"x": 0.5625}, {"x": 9.0}]) == [1.0, 9.0], "an answer from before"
    error = settled(audit, 2)
    assert (error.count, error.maximum) == (2, 0.4375), "what was computed is exact: not compared"


@pytest.mark.parametrize(
    "settings", [{"round": {"x": "2"}}, {"quantize": {"x": 0}}, {"audit": 1.5, "round": {"x": 1}}]
)
def test_a_rounding_that_makes_no_sense_is_refused(settings) -> None:
    with pytest.raises(BadConfiguration):
        cached_prediction(PredictionCache(), version="v1", **settings)
