"""What type checkers must see; checked by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
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
from prodml.resilience import Served, Timeout
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


def small(features: Any) -> float:
    return 0.5


def heard(fact: CircuitOpened) -> None: ...


def check_objects() -> None:
    assert_type(FallbackChain(Rung("small", small))({}), Served[float])
    assert_type(PredictionService(small).predict({}), Prediction[Any])
    assert_type(VersionedModelServer().versions, tuple[str, ...])
    assert_type(DriftDetector([[1.0]]).detect_drift([[2.0]]), DriftReport)
    assert_type(Schema({}).validate({}), Mapping[str, Any])
    assert_type(next(iter(PredictionLog("x"))), Record)
    assert_type(EVENTS.subscribe(CircuitOpened, heard), Callable[[], None])
