"""One model as the protocol shows it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, cast, final

from prodml.errors import BadConfiguration, InvalidFeatures, ProdmlError, UnknownVersion
from prodml.integrations.open_inference.backends import (
    Backend,
    BatchedBackend,
    Question,
    ServerBackend,
    ServiceBackend,
    Threads,
)
from prodml.integrations.open_inference.mapping import Tabular, TensorMapping, batchable
from prodml.integrations.open_inference.signature import (
    Tensor,
    TensorSpec,
    fitted,
    inferred,
    produced,
)
from prodml.service import PredictionService
from prodml.serving import MicroBatcher, Reply, VersionedModelServer

__all__ = ["Endpoint", "named"]


@final
@dataclass(slots=True, eq=False)
class Endpoint:
    """A model for :func:`open_inference_app`, with settings of its own.

    Parameters
    ----------
    model
        A :class:`~prodml.serving.VersionedModelServer`, a :class:`~prodml.PredictionService`,
        or one model, which is served as version "1".
    inputs, outputs
        What the model takes and gives.  With ``inputs`` a request is held to them: tensors
        missing, unknown, of another shape or datatype are the caller's fault (400).
        Without, they are read off a scikit-learn estimator, and asked about when it fails.
    mapping
        Turns tensors into rows and answers into tensors: :class:`Tabular` or your own.
    batcher
        Settings of a :class:`~prodml.serving.MicroBatcher`, ``{}`` for its defaults, or one made
        for this server: requests that wait at the same time are answered by one call.  Unless
        they say how to ``stack`` rows, rows of arrays become one array.  Read it back to ask
        for its ``stats()``.
    threads
        0 asks plain models in the event loop's thread, which is fastest for models that take
        a few milliseconds; more are for models that are slow and let other threads run.
    max_waiting
        Requests that may wait for one of the ``threads``; beyond it ``BulkheadFull`` (503).
    platform
        What the metadata call it: ``<project>_<format>``.

    Raises
    ------
    BadConfiguration
        A setting makes no sense.

    Examples
    --------
    >>> inputs = [TensorSpec("x", "FP32", (-1, 2))]
    >>> endpoint = Endpoint(lambda rows: rows.sum(axis=1), inputs=inputs)
    >>> endpoint.metadata("sum")["inputs"]
    [{'name': 'x', 'datatype': 'FP32', 'shape': [-1, 2]}]
    """

    model: Any
    _: KW_ONLY
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    mapping: TensorMapping | None = None
    batcher: Any = None
    threads: int = 0
    max_waiting: int = 1000
    platform: str = "prodml_python"
    server: VersionedModelServer = field(init=False, repr=False)
    _threads: Threads | None = field(init=False, repr=False)
    _backend: Backend = field(init=False, repr=False)
    _mapping: TensorMapping = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for setting in ("threads", "max_waiting"):
            if getattr(self, setting) < 0:
                raise BadConfiguration(f"{setting} must be at least 0")
        service = self.model if isinstance(self.model, PredictionService) else None
        self.server = _serving(self.model)
        self._threads = None
        if self.threads:
            self._threads = Threads(self.threads, waiting=self.max_waiting, name=self.server.name)
        # A service looks features up by name.
        self._mapping = self.mapping or Tabular(rows="auto" if service is None else "dicts")
        self._backend = self._behind(service)

    async def infer(
        self, tensors: Sequence[Tensor], question: Question
    ) -> tuple[dict[str, Tensor], Reply]:
        """Answer ``tensors``; the rows of ``question`` are filled in here.

        Raises
        ------
        InvalidFeatures
            The tensors are not what the model takes.
        Exception
            Whatever the model or what stands before it raised.
        """
        if self.inputs:
            tensors = fitted(self.inputs, tensors)
        question.rows = rows = self._mapping.features(tensors)
        try:
            reply = await self._backend.ask(question)
        except Exception as error:
            self._blame(tensors, question.version, error)
            raise
        arrays = self._mapping.outputs(reply.value, len(rows))
        return produced(self.outputs, arrays), reply

    def metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """What a client may know about the model.

        Raises
        ------
        UnknownVersion
            ``version`` is not loaded.
        """
        inputs, outputs = self._signature(version)
        return {
            "name": name,
            "versions": list(self.server.versions) if version is None else [version],
            "platform": self.platform,
            "inputs": [spec.to_dict() for spec in inputs],
            "outputs": [spec.to_dict() for spec in outputs],
        }

    def unready(self, version: str | None = None) -> str:
        """Why ``version``, or the default version, cannot answer; empty if it can.

        Raises
        ------
        UnknownVersion
            ``version`` is not loaded.
        """
        server = self.server
        if version is None:
            return "" if server.ready() else "no default version is set"
        if version not in server.versions:
            raise UnknownVersion(server.name, version, server.versions)
        return ""

    def close(self) -> None:
        """Let own threads end."""
        if self._threads is not None:
            self._threads.close()

    def _behind(self, service: PredictionService | None) -> Backend:
        if self.batcher is None:
            if service is not None:
                return ServiceBackend(service)
            return ServerBackend(self.server, self._threads)
        if service is not None or self.threads:
            raise BadConfiguration(
                "a batcher stands before a server, neither before a PredictionService nor "
                "together with threads: it moves to a thread by itself, see its inline="
            )
        if isinstance(self.batcher, MicroBatcher):
            return BatchedBackend(self.batcher)
        self._mapping, stack = batchable(self._mapping)
        settings: dict[str, Any] = {"stack": stack, "name": self.server.name, **self.batcher}
        self.batcher = MicroBatcher(self.server, **settings)
        return BatchedBackend(self.batcher)

    def _blame(self, tensors: Sequence[Tensor], version: str | None, error: Exception) -> None:
        """Find out, after the fact, whether the tensors were what the model cannot take."""
        if isinstance(error, ProdmlError) or self.inputs or len(tensors) != 1:
            return
        with suppress(UnknownVersion):  # it was unloaded meanwhile
            specs, _ = self._signature(version)
            breaches = [spec.breach(tensors[0]) for spec in specs]
            if any(breaches):
                raise InvalidFeatures(breaches) from error

    def _signature(self, version: str | None) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
        if self.unready(version):
            return self.inputs, self.outputs
        with self.server.lease(version) as lease:
            inputs, outputs = inferred(lease.model)
        return self.inputs or inputs, self.outputs or outputs


def _serving(model: Any) -> VersionedModelServer:
    if isinstance(model, PredictionService):
        return model.server
    if isinstance(model, VersionedModelServer):
        return model
    server = VersionedModelServer(name="model")
    server.load_model("1", model)
    server.set_default_version("1")
    return server


def named(models: Any) -> Mapping[str, Any]:
    """``models`` by name; one that stands alone goes by its own.

    Examples
    --------
    >>> list(named(VersionedModelServer(name="churn"))), list(named({"a": abs}))
    (['churn'], ['a'])
    """
    if isinstance(models, Mapping):
        return cast("Mapping[str, Any]", models)
    server = models.server if isinstance(models, Endpoint) else models
    name = getattr(server, "name", None)
    return {name if isinstance(name, str) else "model": models}
