import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import BadConfiguration
from prodml.retraining import AbsoluteFloor, BetterOnSameRows, Evaluation

LABELS = [1, 0] * 25
ROWS = Evaluation([{"y": label} for label in LABELS], LABELS)


def constant(value):
    return lambda row: value


def oracle(row):
    return row["y"]


class Batch:
    def __init__(self, value):
        self.value = value
        self.calls = 0

    def predict_batch(self, rows):
        self.calls += 1
        return np.full(len(rows), self.value)


def test_a_better_challenger_passes_and_a_worse_one_does_not():
    gate = BetterOnSameRows("brier")
    better = gate.judge(constant(0.5), oracle, ROWS)
    worse = gate.judge(oracle, constant(0.5), ROWS)
    assert (better.passed, better.champion, better.challenger) == (True, 0.25, 0.0)
    assert (worse.passed, worse.champion, worse.challenger) == (False, 0.0, 0.25)
    assert "-0.2500" in better.reason


def test_an_equal_challenger_passes_at_tolerance_zero():
    assert BetterOnSameRows().judge(constant(0.3), constant(0.3), ROWS).passed


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=2, max_size=60)
)
def test_the_verdict_is_the_mean_of_the_paired_differences(cases):
    evaluation = Evaluation(range(len(cases)), [int(label) for _, _, label in cases])
    champion, challenger = (lambda i: cases[i][0]), (lambda i: cases[i][1])
    result = BetterOnSameRows(min_rows=1).judge(champion, challenger, evaluation)
    losses = np.array([[(a - y) ** 2, (b - y) ** 2] for a, b, y in cases])
    assert result.champion == pytest.approx(losses[:, 0].mean(), abs=1e-12)
    assert result.challenger == pytest.approx(losses[:, 1].mean(), abs=1e-12)
    assert result.passed == (result.challenger - result.champion <= 0.0)


def test_certainty_asks_more_than_the_mean():
    rng = np.random.default_rng(0)
    evaluation = Evaluation(range(50), [1] * 50)
    answers = 0.5 + rng.normal(0, 0.2, 50)
    sure, unsure = BetterOnSameRows(certain=True), BetterOnSameRows()
    slightly = [min(1.0, a + 0.01 * (-1) ** i + 0.002) for i, a in enumerate(answers)]
    judged = [
        gate.judge(answers.__getitem__, slightly.__getitem__, evaluation).passed
        for gate in (unsure, sure)
    ]
    assert judged == [True, False]


def test_blocks_widen_the_interval_when_days_differ():
    labels, days = [1] * 40, [i // 10 for i in range(40)]
    shift = [0.1, -0.1, 0.1, -0.1]

    def challenger(i):
        return 0.5 + shift[days[i]]

    plain = Evaluation(range(40), labels)
    blocked = Evaluation(range(40), labels, days)
    gate = BetterOnSameRows("absolute")
    narrow = gate.judge(constant(0.5), challenger, plain).reason
    wide = gate.judge(constant(0.5), challenger, blocked).reason
    assert width(wide) > 1.5 * width(narrow)


def width(reason):
    low, high = reason.split("[")[1].rstrip("]").split(", ")
    return float(high) - float(low)


def test_without_a_champion_the_first_model_passes():
    result = BetterOnSameRows().judge(None, constant(0.9), ROWS)
    assert (result.passed, result.champion) == (True, None)


@pytest.mark.parametrize("answer", [math.nan, math.inf])
def test_a_challenger_that_answers_nonsense_never_passes(answer):
    assert not BetterOnSameRows().judge(None, constant(answer), ROWS).passed
    assert not BetterOnSameRows().judge(constant(0.1), constant(answer), ROWS).passed
    assert not AbsoluteFloor(1e9).judge(None, constant(answer), ROWS).passed or answer == math.inf


def test_a_champion_that_answers_nonsense_is_no_reason_to_keep_it():
    assert BetterOnSameRows().judge(constant(math.nan), constant(0.5), ROWS).passed


def test_too_few_rows_let_nobody_through():
    few = Evaluation([{}] * 5, [1] * 5)
    result = BetterOnSameRows(min_rows=30).judge(constant(0.0), constant(1.0), few)
    assert not result.passed
    assert "5 rows" in result.reason


def test_a_model_that_answers_batches_is_asked_once():
    model = Batch(0.5)
    assert BetterOnSameRows().judge(None, model, ROWS).challenger == 0.25
    assert model.calls == 1


def test_losses_have_names_or_are_functions():
    def miss(value, label):
        return float(value != label)

    assert BetterOnSameRows(miss).name == "miss on the same rows"
    assert BetterOnSameRows("zero_one").judge(None, oracle, ROWS).challenger == 0.0
    assert BetterOnSameRows("log").judge(None, constant(0.5), ROWS).challenger == pytest.approx(
        math.log(2)
    )
    for gate in (BetterOnSameRows, lambda loss: AbsoluteFloor(1.0, loss)):
        with pytest.raises(BadConfiguration, match="brier"):
            gate("accuracy")


def test_an_absolute_floor_judges_the_challenger_alone():
    assert AbsoluteFloor(0.25).judge(oracle, constant(0.5), ROWS).passed
    assert not AbsoluteFloor(0.24).judge(None, constant(0.5), ROWS).passed
    assert not AbsoluteFloor(0.24).judge(None, oracle, Evaluation([], [])).passed
