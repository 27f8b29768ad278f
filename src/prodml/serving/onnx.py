"""A session of ONNX Runtime as a model; needs the extra ``onnx``."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

from prodml.errors import BadConfiguration

__all__ = ["OnnxModel", "adapted"]

# What ONNX calls the types of its tensors, where numpy says otherwise.
_NUMPY = {"float": "float32", "double": "float64", "bool": "bool", "string": "str"}


@final
class OnnxModel:
    """Answers by a session of ONNX Runtime.

    ``load_model`` makes one of a bare session by itself; name the output or the features by
    making it yourself.

    Parameters
    ----------
    session
        An ``onnxruntime.InferenceSession``.
    output
        Name of the output that is the answer; by default the first.
    features
        Names of the columns, in the order of training, for models with one input of shape
        (n, columns): rows may then be mappings, or a frame with its columns in any order.

    Raises
    ------
    BadConfiguration
        The session has no such output, or ``features`` for more than one input.

    Notes
    -----
    Values are cast to the types that the model declares.  The runtime computes beside the
    interpreter lock, so sessions are good neighbours: as shadows, and while they load.
    """

    __slots__: tuple[str, ...] = ("__weakref__", "_features", "_inputs", "_output", "session")

    def __init__(
        self, session: Any, *, output: str | None = None, features: Sequence[str] | None = None
    ) -> None:
        self.session: Any = session
        self._inputs: list[tuple[str, str]] = [(i.name, _dtype(i)) for i in session.get_inputs()]
        outputs = [out.name for out in session.get_outputs()]
        if output is not None and output not in outputs:
            raise BadConfiguration(f"output must be one of {', '.join(outputs)}, not {output!r}")
        if features is not None and len(self._inputs) != 1:
            named = ", ".join(name for name, _ in self._inputs)
            raise BadConfiguration(f"features are for models with one input, not with {named}")
        self._output: str = outputs[0] if output is None else output
        self._features: tuple[str, ...] | None = None if features is None else tuple(features)

    @classmethod
    def open(cls, model: Any, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Self:
        """Read a model from a path or from bytes.

        Raises
        ------
        BadConfiguration
            ONNX Runtime is not installed: ``pip install prodml[onnx]``.
        """
        try:
            from onnxruntime import InferenceSession
        except ImportError:
            raise BadConfiguration("ONNX Runtime is missing: pip install prodml[onnx]") from None
        source = model if isinstance(model, bytes) else str(model)
        return cls(InferenceSession(source, providers=list(providers)))

    def predict(self, features: Any) -> Any:
        """Answer for a tensor, for a mapping of input name to tensor, or for one row by name.

        Returns
        -------
        array
            The output; for a single row by name, its one answer.
        """
        if self._features is not None and isinstance(features, Mapping):
            return self._run([[features[name] for name in self._features]])[0]
        return self._run(self._in_order(features))

    def predict_batch(self, rows: Any) -> Any:
        """Answers for an array whole, or for a sequence of rows stacked into one."""
        if self._features is not None and not hasattr(rows, "shape"):
            rows = [[row[name] for name in self._features] for row in rows]
        return self._run(self._in_order(rows))

    def close(self) -> None:
        """Let the session go, and with it the memory of the model."""
        self.session = None

    def _in_order(self, rows: Any) -> Any:
        """Columns of a frame as the model was trained on them, whatever order they come in."""
        if self._features is None or not hasattr(rows, "columns"):
            return rows
        return rows[list(self._features)]

    def _run(self, features: Any) -> Any:
        import numpy as np

        given = features if isinstance(features, Mapping) else {self._inputs[0][0]: features}
        feed = {name: np.asarray(given[name], dtype=dtype) for name, dtype in self._inputs}
        return self.session.run([self._output], feed)[0]


def adapted(model: Any) -> Any:
    """``model``, or what makes a model of it if it is a session of ONNX Runtime.

    Told by its methods, so that nothing need be imported.

    Examples
    --------
    >>> adapted(abs) is abs
    True
    """
    methods = ("run", "get_inputs", "get_outputs")
    is_session = not hasattr(model, "predict") and all(hasattr(model, m) for m in methods)
    return OnnxModel(model) if is_session else model


def _dtype(tensor: Any) -> str:
    kind = str(tensor.type).removeprefix("tensor(").removesuffix(")")
    return _NUMPY.get(kind, kind)
