"""The infer call: from a body to the reply that names who answered."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, final

from prodml._deadline import narrow, restore
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.errors import InvalidFeatures
from prodml.integrations.open_inference.backends import Question
from prodml.integrations.open_inference.endpoint import Endpoint
from prodml.integrations.open_inference.http import HttpReply, RequestHeaders, refused_reply
from prodml.integrations.open_inference.messages import (
    Parameters,
    decode_request,
    encode_reply,
)
from prodml.integrations.open_inference.metrics import Metrics
from prodml.integrations.open_inference.paths import Target
from prodml.integrations.open_inference.refusals import refusal_of
from prodml.integrations.open_inference.repository import Repository

__all__ = ["Inference", "log_fault"]

_LOG = logging.getLogger("prodml.integrations.open_inference")
_BINARY: Final = b"application/octet-stream"
# As long as Triton can say it; a float cannot hold any integer.
_LONGEST: Final = 2**64
_JSON_LENGTH: Final = b"inference-header-content-length"


def log_fault(what: str, error: Exception, status: int) -> None:
    """Log what a client is not told: the error behind a 500."""
    if status == 500:
        _LOG.error("%s failed", what, exc_info=error)


@dataclass(slots=True)
class _Told:
    """Who answered, for the counters; written while the call goes on."""

    version: str = ""
    arm: str = ""


@final
@dataclass(slots=True, eq=False)
class Inference:
    """Infer calls of all models, counted.

    Parameters
    ----------
    repository
        The models.
    key_header, key_parameter
        Where a request may carry the key that the split sticks to.
    """

    repository: Repository
    _: KW_ONLY
    key_header: str = "x-routing-key"
    key_parameter: str = "routing_key"
    clock: Clock = SYSTEM_CLOCK
    metrics: Metrics = field(default_factory=Metrics)
    _key_header: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._key_header = self.key_header.lower().encode()

    async def infer(
        self, target: Target, headers: RequestHeaders, body: bytes, began: float
    ) -> HttpReply:
        """Answer ``body``, and count how it ended; an error of any kind becomes a reply."""
        told = _Told()
        name = target.model
        try:
            endpoint = self.repository[name]
            reply = await self._infer(endpoint, target, headers, body, told)
        except Exception as error:
            what = f"model {name!r}"
            refusal = refusal_of(error, what)
            log_fault(what, error, refusal.status)
            reply = refused_reply(refusal)
        known = name if name in self.repository.endpoints else ""
        took = self.clock.monotonic() - began
        self.metrics.count(known, told.version, told.arm, reply.status, took)
        return reply

    async def _infer(
        self,
        endpoint: Endpoint,
        target: Target,
        headers: RequestHeaders,
        body: bytes,
        told: _Told,
    ) -> HttpReply:
        request, tensors = decode_request(body, headers.number(_JSON_LENGTH))
        parameters = request.parameters or {}
        key = self._key(headers, parameters)
        question = Question(None, target.version, key, headers, request.id or "")
        if parameters.get("timeout"):
            with self._in_time(parameters["timeout"]):
                outputs, answered = await endpoint.infer(tensors, question)
        else:
            outputs, answered = await endpoint.infer(tensors, question)
        told.version, told.arm = answered.version, answered.arm
        about = {"arm": answered.arm} if answered.arm else None
        content, length = encode_reply(request, outputs, target.model, answered.version, about)
        if length is None:
            return HttpReply(200, content)
        return HttpReply(200, content, _BINARY, ((_JSON_LENGTH, b"%d" % length),))

    def _key(self, headers: RequestHeaders, parameters: Parameters) -> str | None:
        key = headers.text(self._key_header)
        if key is not None:
            return key
        given = parameters.get(self.key_parameter)
        return None if given is None else str(given)

    @contextmanager
    def _in_time(self, given: Any) -> Generator[None, None, None]:
        """Hold what is below to the parameter ``timeout``, in microseconds as Triton has it."""
        if type(given) is not int or not 0 <= given < _LONGEST:
            raise InvalidFeatures([f"the parameter timeout is {given!r}, not microseconds"])
        reset = narrow(given / 1e6, self.clock)
        try:
            yield
        finally:
            restore(reset)
