import enum
import functools
import threading
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
)

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from prodml.cache import MISS, PredictionCache, cached_prediction
from prodml.cache.codecs import CustomCodec
from prodml.cache.typed import AnswerType, checker, kept_by, returns
from prodml.errors import CorruptRecord
from tests.cache.stores import BulkMemoryStore

ROW = {"age": 41}
T = TypeVar("T")
Cents = NewType("Cents", int)


class Label(enum.Enum):
    YES = "yes"
    NO = "no"


@dataclass
class Score:
    value: float
    label: Label = Label.NO
    parts: dict[str, float] = field(default_factory=dict)


class Tree(msgspec.Struct):
    weight: float
    children: list["Tree"] = []


class Span(NamedTuple):
    low: float
    high: float


class Answer(TypedDict, total=False):
    score: float
    label: str


class Strict(Answer):
    id: int


class Shaped(Protocol):
    shape: tuple[int, ...]


@dataclass
class Box(Generic[T]):
    content: T


FITS = [
    (float, [0.5, np.float64(1), np.float32(1), np.float16(1)]),
    (int, [1, np.int64(1), np.uint8(1)]),
    (bool, [True, np.bool_(False)]),
    (str, ["", np.str_("a")]),
    (bytes, [b"", np.bytes_(b"a")]),
    (complex, [1j, np.complex64(1)]),
    (None, [None]),
    (float | None, [0.5, None, np.float32(1)]),
    (
        Optional[str],  # noqa: UP045
        ["a", None],
    ),
    (
        Union[int, list[int]],  # noqa: UP007
        [1, [1, 2], []],
    ),
    (Literal["a", 1], ["a", 1]),
    (Cents, [1]),
    (Annotated[float, "score"], [0.5]),
    (np.float32, [np.float32(1)]),
    (np.floating[Any], [np.float64(1)]),
    (list, [[], [1, "a"]]),
    (list[float], [[], [0.5, np.float64(2)]]),
    (set[int], [set(), {1}]),
    (tuple, [(), (1,)]),
    (tuple[float, ...], [(), (0.5,)]),
    (tuple[int, str], [(1, "a")]),
    (dict, [{}, {1: 2}]),
    (dict[str, list[float]], [{"a": [0.5]}, {}]),
    (Mapping[str, int], [{"a": 1}]),
    (Sequence[float], [[0.5], (0.5,)]),
    (Answer, [{}, {"score": 0.5}, {"score": 0.5, "more": object()}]),
    (Strict, [{"id": 1}, {"id": 1, "label": "a"}]),
    (np.ndarray, [np.zeros(2), np.array(["a"])]),
    (npt.NDArray[np.float64], [np.zeros((2, 2))]),
    (npt.NDArray[np.floating[Any]], [np.zeros(2, "f4")]),
    (npt.NDArray[Any], [np.array(["a"])]),
    (Score, [Score(0.5), Score(0.5, Label.YES, {"a": 1.0})]),
    (Box[int], [Box(1), Box("a")]),
    (Tree, [Tree(1.0, [Tree(2.0)])]),
    (Span, [Span(0.0, 1.0)]),
    (Label, [Label.YES]),
    (Score | Tree | None, [Score(0.5), Tree(1.0), None]),
    (dict[Label, list[Score]], [{Label.YES: [Score(0.5)]}]),
    (date, [date(2024, 1, 1)]),
    (Decimal, [Decimal(1)]),
]


@pytest.mark.parametrize(("said", "values"), FITS, ids=[str(said) for said, _ in FITS])
def test_what_was_said_fits_and_comes_back(said, values):
    answer = AnswerType(said)
    for value in values:
        assert answer.fits(value)
        if "more" not in str(value):
            back = answer.codec.decode(answer.codec.encode(value))
            assert answer.fits(back)
            assert type(back) is type(value)


MISFITS = [
    (float, [1, True, "0.5", None, np.int64(1), np.array(0.5), 1j]),
    (int, [1.0, True, np.float64(1), np.timedelta64(1, "s"), np.bool_(True), "1"]),
    (bool, [1, 0, None, np.int8(1)]),
    (str, [b"a", None, np.bytes_(b"a"), ["a"]]),
    (None, [0, False, ""]),
    (float | None, [1, "a"]),
    (Literal["a", 1], ["b", True, 1.0, []]),
    (Cents, [1.0]),
    (np.float32, [np.float64(1), 1.0]),
    (list, [(), {}]),
    (list[float], [[1], [0.5, "a"], (0.5,), np.zeros(2)]),
    (set[int], [{"a"}, frozenset()]),
    (tuple[float, ...], [[0.5], (1,)]),
    (tuple[int, str], [(1,), ("a", 1), (1, "a", 2)]),
    (dict[str, list[float]], [{"a": [1]}, {1: []}, []]),
    (Mapping[str, int], [{"a": "b"}, [("a", 1)]]),
    (Sequence[float], [[1], 5, {0.5}]),
    (Answer, [{"score": 1}, []]),
    (Strict, [{}, {"id": "a"}]),
    (np.ndarray, [[1.0], np.float64(1)]),
    (npt.NDArray[np.float64], [np.zeros(2, "f4"), [0.5]]),
    (Score, [Score(1), Score("a"), {"value": 0.5}, Score(0.5, "no"), Score(0.5, parts={"a": 1})]),
    (Tree, [Tree(1), Tree(1.0, [Tree("a")]), Tree(1.0, (Tree(2.0),))]),
    (Span, [(0.0, 1.0), Span(0, 1)]),
    (Label, ["yes", None]),
    (date, [datetime(2024, 1, 1)]),
    (Iterable[float], [5]),
]


@pytest.mark.parametrize(("said", "values"), MISFITS, ids=[str(said) for said, _ in MISFITS])
def test_what_was_not_said_does_not(said, values):
    assert [value for value in values if AnswerType(said).fits(value)] == []


@pytest.mark.parametrize("said", [Any, object, T, Shaped, Awaitable[float], "text", 5, Any | None])
def test_what_says_nothing_is_not_checked(said):
    assert checker(said) is None
    assert AnswerType(said).fits(object())


def test_a_value_that_cannot_be_looked_at_does_not_fit():
    deep = value = Tree(1.0)
    for _ in range(5000):
        value.children = [Tree(1.0)]
        value = value.children[0]
    assert not AnswerType(Tree).fits(deep)


class Caller:
    def __call__(self, features) -> float: ...

    def predict(self, features) -> "float": ...


def _plain(features) -> float: ...


async def _awaited(features: "Unknown") -> "float": ...  # noqa: F821


@functools.wraps(_plain)
def _wrapped(*args): ...


@pytest.mark.parametrize(
    "fn", [_plain, _awaited, _wrapped, functools.partial(_plain), Caller(), Caller().predict]
)
def test_what_a_function_says_is_found(fn):
    assert returns(fn).fits(0.5)
    assert not returns(fn).fits("text")


def _unknown(features) -> "Nowhere": ...  # noqa: F821


def _vague(features) -> Any: ...


@pytest.mark.parametrize("fn", [_unknown, _vague, lambda features: 1, print, 5])
def test_a_function_that_does_not_say_is_not_held_to_it(fn):
    assert returns(fn) is None


def _rows(rows) -> list[Score]: ...


def _array(rows) -> npt.NDArray[np.float64]: ...


def test_a_batch_says_what_a_row_is():
    assert returns(_rows, rows=True).fits(Score(0.5))
    assert not returns(_rows, rows=True).fits([Score(0.5)])
    assert returns(_array, rows=True) is None
    assert returns(_plain, rows=True) is None
    assert kept_by(_rows).fits(Score(0.5))
    assert kept_by(_rows).fits([Score(0.5)])
    assert kept_by(_array) is None


# -- through the cache ------------------------------------------------------------------


def _score(features) -> Score:
    return Score(features["age"] / 100, Label.YES, {"a": 1.0})


def test_records_are_kept_and_found_by_their_function():
    store = BulkMemoryStore()
    caches = [PredictionCache(store) for _ in range(2)]
    fns = [cached_prediction(cache, version="v1")(_score) for cache in caches]
    answers = [fns[0](ROW), fns[0](ROW), fns[1](ROW), caches[1].get(ROW, "v1", function=_score)]
    assert answers == [Score(0.41, Label.YES, {"a": 1.0})] * 4
    assert len({id(answer) for answer in answers}) == 4
    assert caches[1].stats().store_hits == 1
    assert caches[0].stats().misses == 1
    assert caches[0].get(ROW, "v1", function="tests.cache.test_typed._score") is MISS


def test_rows_of_records_are_kept_too():
    calls = []

    @cached_prediction(PredictionCache(), version="v1", batch=True)
    def score(rows) -> list[Score]:
        calls.append(rows)
        return [_score(row) for row in rows]

    rows = [{"age": 1}, {"age": 2}]
    assert score(rows) == score(rows) == [_score(row) for row in rows]
    assert calls == [rows]


@pytest.mark.parametrize("memory", ["1 MiB", None])
def test_an_answer_of_another_type_under_a_shared_name_is_a_counted_miss(memory):
    cache = PredictionCache(BulkMemoryStore(), memory=memory)

    @cached_prediction(cache, version="v1", function="f")
    def text(features) -> str:
        return "text"

    @cached_prediction(cache, version="v1", function="f")
    def number(features) -> float:
        return 0.5

    assert text(ROW) == "text"
    assert number(ROW) == 0.5
    assert cache.stats().corrupt == (1 if memory is None else 2)
    assert cache.get(ROW, "v1", function=number.__wrapped__) is MISS
    assert number(ROW) == 0.5


def test_an_answer_that_is_not_what_was_said_is_handed_on_and_not_kept():
    cache, calls = PredictionCache(), []

    @cached_prediction(cache, version="v1")
    def predict(features) -> float:
        calls.append(features)
        return 1

    assert [predict(ROW), predict(ROW)] == [1, 1]
    assert type(predict(ROW)) is int
    assert (len(calls), cache.stats().unstorable, cache.stats().corrupt) == (3, 3, 0)


def test_a_waiter_of_another_type_computes_for_itself():
    cache, door, inside = PredictionCache(), threading.Event(), threading.Event()

    @cached_prediction(cache, version="v1", function="f")
    def number(features) -> float:
        inside.set()
        assert door.wait(10)
        return 0.5

    @cached_prediction(cache, version="v1", function="f")
    def text(features) -> str:
        return "text"

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(number, ROW)
        assert inside.wait(10)
        waiter = pool.submit(text, ROW)
        while not any(f._condition._waiters for f in cache._flights._flights.values()):
            pass
        door.set()
        assert (leader.result(10), waiter.result(10)) == (0.5, "text")
    assert cache.stats().coalesced == 0


def test_everybody_gets_an_array_that_nobody_can_write_to():
    made = []

    @cached_prediction(PredictionCache(), version="v1")
    def predict(features) -> np.ndarray:
        made.append(np.zeros(3))
        return made[0]

    answers = [predict(ROW), predict(ROW)]
    assert [answer.flags.writeable for answer in answers] == [False, False]
    made[0][:] = 7
    np.testing.assert_array_equal(answers, np.zeros((2, 3)))


@pytest.mark.parametrize("container", [list, tuple])
def test_arrays_in_a_list_are_the_same_for_everybody(container):
    @cached_prediction(PredictionCache(), version="v1", batch=True)
    def predict(rows):
        return container(np.zeros(2) for _ in rows)

    for _ in range(2):
        answers = predict([{"a": 1}, {"a": 2}])
        assert type(answers) is container
        assert [answer.flags.writeable for answer in answers] == [False, False]


def test_a_decoder_lets_only_answers_pass():
    answer = AnswerType(list[float] | int)
    decoded = answer.decoder()
    for value in ([0.5], [], 7):
        assert decoded(answer.codec.encode(value)) == value
    for value in ([1], "text", 0.5, None, True):
        with pytest.raises(CorruptRecord):
            decoded(answer.codec.encode(value))
    with pytest.raises(CorruptRecord):
        decoded(b"\xc1")


def test_a_decoder_may_use_another_codec():
    decoded = AnswerType(int).decoder(CustomCodec(Reversed()))
    assert decoded(b"21") == 12
    with pytest.raises(CorruptRecord):
        decoded(b"x")


class Reversed:
    def encode(self, value):
        return str(value)[::-1].encode()

    def decode(self, body):
        return int(body.decode()[::-1])
