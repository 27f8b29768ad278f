"""What becomes of one request: the facts that are stated for each."""

from typing import Any, ClassVar

from prodml.events.fact import Event, fact
from prodml.types import Features, Prediction

__all__ = ["PredictionFailed", "PredictionServed", "ShadowScored"]


@fact
class PredictionServed(Event):
    """A request got its answer.  ``key`` is the entity that routing sticks to, if any."""

    level: ClassVar[str] = "debug"
    prediction: Prediction[Any]
    features: Features
    key: str | None = None
    arm: str = "stable"


@fact
class PredictionFailed(Event):
    """A request got an error instead of an answer."""

    level: ClassVar[str] = "warning"
    request_id: str
    features: Any
    error: BaseException
    latency_ms: float
    version: str = ""
    key: str | None = None
    arm: str = "stable"


@fact
class ShadowScored(Event):
    """A shadow version answered a copy of a request; ``error`` is set if it failed."""

    level: ClassVar[str] = "debug"
    request_id: str
    version: str
    value: Any
    stable_version: str
    stable_value: Any
    latency_ms: float
    error: BaseException | None = None
