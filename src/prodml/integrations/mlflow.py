"""MLflow as a source of models and a mirror of aliases (extra ``mlflow``).

MLflow tracks the training; the registry here keeps what serves: digests that are checked,
aliases with compare-and-swap and a history, loading without MLflow on the serving host.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, Final, final

from prodml.errors import BadConfiguration
from prodml.events import AliasMoved
from prodml.registry import Bundle, Lineage, ModelRegistry, Serializer
from prodml.types import ModelRef

__all__ = ["MLflowModels", "MLflowSerializer", "Mirrored"]

_COMMIT: Final = "mlflow.source.git.commit"


@final
class MLflowSerializer:
    """Whole MLflow models as bundles, loaded by ``mlflow.pyfunc``.

    The files are written to a folder that only this user may enter, and stay there until
    the model is forgotten, since some flavours read them late.

    Parameters
    ----------
    trusted
        Must be True: most flavours unpickle, and a model may bring code of its own.  For a
        model in skops or ONNX take that one file instead (``bring(file=...)``).

    Raises
    ------
    BadConfiguration
        ``trusted`` is not True.

    Examples
    --------
    >>> MLflowSerializer()
    Traceback (most recent call last):
    prodml.errors.BadConfiguration: an MLflow model may run code of whoever logged it: ...
    >>> MLflowSerializer(trusted=True).name
    'mlflow'
    """

    __slots__: tuple[str, ...] = ()

    packages: tuple[str, ...] = ()

    def __init__(self, *, trusted: bool = False) -> None:
        if trusted is not True:
            raise BadConfiguration(
                "an MLflow model may run code of whoever logged it: pass trusted=True if only "
                "people you trust can log there, or bring one file of it with its serializer"
            )

    @property
    def name(self) -> str:
        """``"mlflow"``."""
        return "mlflow"

    def dump(self, model: Any, /) -> Bundle:
        """Return ``model``, a bundle with an ``MLmodel`` file."""
        if not isinstance(model, Bundle) or "MLmodel" not in model:
            raise BadConfiguration("an MLflow model is a Bundle with a file MLmodel at its top")
        return model

    def load(self, data: Bundle, /) -> Any:
        """A ``mlflow.pyfunc.PyFuncModel``."""
        pyfunc: Any = import_module("mlflow.pyfunc")
        folder = tempfile.mkdtemp(prefix="prodml-mlflow-")
        try:
            model = pyfunc.load_model(str(data.write(Path(folder) / "model")))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
        return model


@final
@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a mirroring has moved, and what it could not.

    Parameters
    ----------
    moved
        Version by alias, None for those that were removed, as the other side numbers them.
    skipped
        Reason by alias.

    Examples
    --------
    >>> Mirrored({"champion": "3"}, {}).moved
    {'champion': '3'}
    """

    moved: Mapping[str, str | None]
    skipped: Mapping[str, str]


@final
@dataclass(slots=True, eq=False)
class MLflowModels:
    """Brings models from an MLflow registry and mirrors aliases, in either direction.

    Parameters
    ----------
    registry
        Where the models go.
    client
        A ``mlflow.MlflowClient``.
    download
        Fetches an artifact URI into a folder and returns the path; MLflow's own by default.

    Notes
    -----
    What MLflow raises passes through.  MLflow has no compare-and-swap: between two mirrors
    that push to one MLflow model the last one wins.

    Examples
    --------
    ::

        models = MLflowModels(registry, MlflowClient("https://mlflow.example"))
        ref = models.bring("churn", "champion", file="model.skops", serializer=SkopsSerializer())
        registry.alias("churn", "champion", ref.version, expected=None)
        EVENTS.subscribe(AliasMoved, Background(models.push))   # MLflow shows who serves
    """

    registry: ModelRegistry
    client: Any
    _: KW_ONLY
    download: Callable[[str, str], str] | None = None

    def bring(
        self,
        name: str,
        version_or_alias: str,
        *,
        as_name: str | None = None,
        file: str | None = None,
        serializer: Serializer | None = None,
        tags: Sequence[str] = (),
    ) -> ModelRef:
        """Register a version of MLflow's model ``name`` here; a second time returns the first.

        Metrics, parameters and the origin become metadata; commit, data sets and the run
        become the lineage.

        Parameters
        ----------
        as_name
            The model's name here; the same by default.
        file
            Take this one file of the model, which ``serializer`` can load; without it the
            whole folder is kept as a bundle for :class:`MLflowSerializer`.
        serializer
            Decodes ``file``; it is tried once before anything is registered.

        Raises
        ------
        BadConfiguration
            ``file`` without ``serializer`` or the other way round, or no such file.
        """
        if (file is None) is not (serializer is None):
            raise BadConfiguration("file and serializer go together: which file, and who reads it")
        found = self._found(name, version_or_alias)
        origin = {"model": name, "version": str(found.version), "file": file}
        own = as_name or name
        known = self._known(own, origin)
        if known is not None:
            return known
        bundle = self._downloaded(name, str(found.version))
        run = self.client.get_run(found.run_id) if found.run_id else None
        model, encoder = _taken(bundle, file, serializer)
        return self.registry.register(
            own,
            model,
            _metadata(origin, run),
            serializer=encoder,
            lineage=_lineage(found.run_id or "", run),
            tags=tags,
        )

    def pull(self, name: str, *, as_name: str | None = None, **bringing: Any) -> Mirrored:
        """Point aliases here at what MLflow's aliases point at, bringing what is missing.

        Aliases that MLflow does not have are left alone.

        Parameters
        ----------
        bringing
            ``file``, ``serializer`` and ``tags`` of :meth:`bring`.
        """
        moved: dict[str, str | None] = {}
        skipped: dict[str, str] = {}
        own = as_name or name
        for alias, version in sorted(self.client.get_registered_model(name).aliases.items()):
            ref = self.bring(name, str(version), as_name=own, **bringing)
            if self.registry.aliases(own).get(alias) == ref.version:
                continue
            try:
                self.registry.alias(own, alias, ref.version, reason=f"MLflow {name} {version}")
            except BadConfiguration as error:
                skipped[alias] = str(error)
            else:
                moved[alias] = ref.version
        return Mirrored(moved, skipped)

    def push(self, fact: AliasMoved) -> None:
        """Tell MLflow of a move here, as a handler of :class:`~prodml.events.AliasMoved`.

        An alias that was dropped here is removed there.
        """
        version = fact.old if fact.new is None else fact.new
        origin = None if version is None else self._origin(fact.name, version)
        if origin is None:
            return
        if fact.new is None:
            self.client.delete_registered_model_alias(origin["model"], fact.alias)
        else:
            self._pushed(origin, fact.alias)

    def push_aliases(self, name: str) -> Mirrored:
        """Point MLflow's aliases at what those of ``name`` here point at.

        Versions that did not come from MLflow are skipped, and so are aliases that MLflow
        alone has.
        """
        moved: dict[str, str | None] = {}
        skipped: dict[str, str] = {}
        for alias, version in self.registry.aliases(name).items():
            origin = self._origin(name, version)
            if origin is None:
                skipped[alias] = f"{name}@{version} did not come from MLflow"
            elif self._pushed(origin, alias):
                moved[alias] = origin["version"]
        return Mirrored(moved, skipped)

    # -- inside -------------------------------------------------------------------------

    def _origin(self, name: str, version: str) -> dict[str, str] | None:
        """Which model and version of MLflow this is, if it came from there."""
        return self.registry.metadata(name, version).get("mlflow")

    def _pushed(self, origin: Mapping[str, str], alias: str) -> bool:
        model, version = origin["model"], origin["version"]
        if str(self.client.get_registered_model(model).aliases.get(alias)) == version:
            return False
        self.client.set_registered_model_alias(model, alias, version)
        return True

    def _found(self, name: str, version_or_alias: str) -> Any:
        if version_or_alias.isdecimal():
            return self.client.get_model_version(name, version_or_alias)
        return self.client.get_model_version_by_alias(name, version_or_alias)

    def _known(self, name: str, origin: Mapping[str, str | None]) -> ModelRef | None:
        for version in reversed(self.registry.versions(name)):
            ref = self.registry.resolve(name, version)
            if ref.metadata.get("mlflow") == origin:
                return ref
        return None

    def _downloaded(self, name: str, version: str) -> Bundle:
        uri = self.client.get_model_version_download_uri(name, version)
        with tempfile.TemporaryDirectory(prefix="prodml-mlflow-") as folder:
            fetch = self.download or self._fetched
            return Bundle.read(fetch(uri, folder))

    def _fetched(self, uri: str, folder: str) -> str:
        artifacts: Any = import_module("mlflow.artifacts")
        path = artifacts.download_artifacts(
            artifact_uri=uri, dst_path=folder, tracking_uri=self.client.tracking_uri
        )
        return str(path)


class _Encoded:
    """Registers bytes that a serializer has made elsewhere, under its name."""

    __slots__: tuple[str, ...] = ("_serializer", "packages")

    def __init__(self, serializer: Serializer) -> None:
        self._serializer: Serializer = serializer
        self.packages: Sequence[str] = getattr(serializer, "packages", ())

    @property
    def name(self) -> str:
        return self._serializer.name

    def dump(self, model: Any, /) -> bytes:
        # What cannot be loaded here and now is refused now, not when it is to serve.
        self._serializer.load(model)
        return bytes(model)

    def load(self, data: Any, /) -> Any:
        return self._serializer.load(data)


def _taken(
    bundle: Bundle, file: str | None, serializer: Serializer | None
) -> tuple[bytes | Bundle, Serializer]:
    if file is None or serializer is None:
        # Says nothing about trust: that is asked of whoever loads.
        return bundle, MLflowSerializer(trusted=True)
    if file not in bundle:
        raise BadConfiguration(f"the model has no file {file!r}, but {', '.join(bundle)}")
    return bundle[file], _Encoded(serializer)


def _metadata(origin: Mapping[str, str | None], run: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"mlflow": dict(origin)}
    if run is not None:
        metrics = {key: _plain(value) for key, value in run.data.metrics.items()}
        said |= {"metrics": metrics, "params": dict(run.data.params)}
    return said


def _plain(value: float) -> float | str:
    # A metric may be NaN; JSON has no word for it.
    return value if isfinite(value) else str(value)


def _lineage(run_id: str, run: Any) -> Lineage:
    if run is None:
        return Lineage(run=run_id)
    inputs = getattr(run.inputs, "dataset_inputs", None) or ()
    return Lineage(
        data={given.dataset.name: given.dataset.digest for given in inputs},
        code=run.data.tags.get(_COMMIT, ""),
        run=run_id,
    )
