"""What type checkers must see; checked by mypy and pyright, never run."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
)
from concurrent.futures import Future
from typing import Any, assert_type

from prodml import (
    CircuitBreaker,
    CircuitState,
    DriftDetector,
    FallbackChain,
    PredictionCache,
    PredictionLog,
    PredictionService,
    Retry,
    Rung,
    Schema,
    VersionedModelServer,
    cached_prediction,
)
from prodml.drift import DriftReport
from prodml.events import EVENTS, CircuitOpened
from prodml.recording import Record
from prodml.resilience import Deadline, Fallback, Served, Timeout, compose
from prodml.serving import Agreement, BatchReply, Reply, ServingFleet, Unloaded
from prodml.types import Prediction

breaker = CircuitBreaker("db")


@breaker
@Retry(attempts=2)
@Timeout(1.0)
def plain(a: int, *, b: str = "x") -> float:
    return a + len(b)


@breaker
async def coroutine(a: int) -> str:
    return str(a)


@breaker
def generator(n: int) -> Iterator[int]:
    yield from range(n)


@breaker
async def async_generator(n: int) -> AsyncIterator[int]:
    yield n


class Service:
    @breaker
    @Retry()
    def method(self, a: int) -> float:
        return float(a)


@cached_prediction(PredictionCache(), version="v1")
def cached(features: Mapping[str, float]) -> float:
    return features["x"]


async def check() -> None:
    assert_type(plain(1, b="y"), float)
    assert_type(await coroutine(1), str)
    assert_type(list(generator(3)), list[int])
    assert_type([n async for n in async_generator(1)], list[int])
    assert_type(Service().method(1), float)
    assert_type(breaker.call(plain, 1, b="y"), float)
    assert_type(await breaker.acall(coroutine, 1), str)
    assert_type(breaker.state, CircuitState)
    assert_type(cached({"x": 1.0}), float)


stack = compose(Deadline(1.0), Retry(), breaker, Timeout(0.5))
with_text = compose(Fallback("nothing"), Retry(), breaker)


@stack
def stacked(a: int, *, b: str = "x") -> float:
    return a + len(b)


@stack
async def astacked(a: int) -> str:
    return str(a)


@stack
def gstacked(n: int) -> Generator[int, str, bytes]:
    yield n
    return b""


@stack
async def agstacked(n: int) -> AsyncGenerator[int, str]:
    yield n


@with_text
def joined(a: int, *, b: str = "x") -> float:
    return a + len(b)


@with_text
async def ajoined(a: int) -> float:
    return float(a)


@with_text
def gjoined(n: int) -> Iterator[int]:
    yield from range(n)


@with_text
async def agjoined(n: int) -> AsyncIterator[int]:
    yield n


def no_answer(a: int, *, b: str = "x") -> None: ...


async def bytes_of(a: int) -> bytes:
    return bytes(a)


async def check_joined() -> None:
    assert_type(stacked(1, b="y"), float)
    assert_type(await astacked(1), str)
    assert_type(gstacked(1), Generator[int, str, bytes])
    assert_type(agstacked(1), AsyncGenerator[int, str])
    assert_type(joined(1, b="y"), float | str)
    assert_type(await ajoined(1), float | str)
    assert_type(list(gjoined(1)), list[int | str])
    assert_type([n async for n in agjoined(1)], list[int | str])
    assert_type(Fallback(no_answer)(plain)(1, b="y"), float | None)
    assert_type(await Fallback(bytes_of)(coroutine)(1), str | bytes)
    assert_type(Fallback(FallbackChain(Rung("small", small)))(plain)(1), float)
    chained = compose(FallbackChain(Rung("small", small)), Retry())
    assert_type(await chained(coroutine)(1), str | float)
    assert_type(with_text.call(plain, 1, b="y"), float | str)
    assert_type(await with_text.acall(coroutine, 1), str)
    assert_type(Fallback("x").call(plain, 1), float | str)


def small(features: Any) -> float:
    return 0.5


def heard(fact: CircuitOpened) -> None: ...


def check_objects() -> None:
    assert_type(FallbackChain(Rung("small", small))({}), Served[float])
    assert_type(PredictionService(small).predict({}), Prediction[Any])
    assert_type(VersionedModelServer().versions, tuple[str, ...])
    assert_type(VersionedModelServer().call({}), Reply)
    assert_type(VersionedModelServer().call_batch([]), BatchReply)
    assert_type(VersionedModelServer().load("v1", object), Future[str])
    assert_type(VersionedModelServer().unload_model("v1"), Unloaded)
    assert_type(ServingFleet(store="memory://", name="m").promote("v1"), Agreement)
    assert_type(DriftDetector([[1.0]]).detect_drift([[2.0]]), DriftReport)
    assert_type(Schema({}).validate({}), Mapping[str, Any])
    assert_type(next(iter(PredictionLog("x"))), Record)
    assert_type(EVENTS.subscribe(CircuitOpened, heard), Callable[[], None])
