"""ONNX models: one file, or a graph with its weights in files of their own."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, final

from prodml.errors import BadConfiguration, UntrustedModel
from prodml.registry.bundle import Bundle

__all__ = ["ONNXSerializer"]

# A protocol buffer can be no larger, so beyond this only the references are checked.
_LARGEST: Final = 2**31 - 1


@final
class ONNXSerializer:
    """ONNX models as bytes or a bundle, checked if ``onnx`` is installed.

    ``dump`` takes a ``ModelProto``, the bytes of one, or a :class:`Bundle` of one ``.onnx``
    file and the files that its tensors lie in.  ``load`` returns bytes or bundle, or with
    ``session`` an ONNX Runtime session that was built from memory alone.

    Parameters
    ----------
    session
        Make a session at load; needs ``onnxruntime``.
    providers
        Execution providers of the session, in order.

    Raises
    ------
    BadConfiguration
        At ``dump``: the model is not valid; a tensor lies in a file that is not in the
        bundle, or beyond the end of it; the bundle has files that no tensor lies in.
    UntrustedModel
        At ``load``: the same.

    Notes
    -----
    ONNX Runtime resolves the files of a model in the working directory if it is given bytes
    alone, so a graph could name any file there.  A session made here has no files but those
    of the bundle.

    Examples
    --------
    >>> ONNXSerializer().name
    'onnx'
    """

    __slots__: tuple[str, ...] = ("_providers", "_session")

    def __init__(
        self, *, session: bool = False, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        self._session: bool = session
        self._providers: tuple[str, ...] = tuple(providers)

    @property
    def name(self) -> str:
        """``"onnx"``."""
        return "onnx"

    def dump(self, model: Any, /) -> bytes | Bundle:
        """Bytes or bundle of ``model``, checked."""
        if hasattr(model, "SerializeToString"):
            model = model.SerializeToString()
        if not isinstance(model, bytes | Bundle):
            raise BadConfiguration(f"{type(model).__name__} is no ONNX model: pass bytes or Bundle")
        fault = _fault(model)
        if fault:
            raise BadConfiguration(f"not a sound ONNX model: {fault}")
        return model

    def load(self, data: bytes | Bundle, /) -> Any:
        """Bytes or bundle, checked again, or a session."""
        fault = _fault(data)
        if fault:
            raise UntrustedModel("onnx", fault)
        return self._opened(data) if self._session else data

    def _opened(self, data: bytes | Bundle) -> Any:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise BadConfiguration("a session needs the package onnxruntime") from None
        graph, files = _parts(data)
        # A table without files counts as none, and the working directory would be asked.
        table = files or {"": b"\0"}
        options = onnxruntime.SessionOptions()
        options.add_external_initializers_from_files_in_memory(
            list(table), list(table.values()), list(map(len, table.values()))
        )
        return onnxruntime.InferenceSession(graph, options, providers=list(self._providers))


def _parts(model: bytes | Bundle) -> tuple[bytes, dict[str, bytes]]:
    """The graph, and the other files by path."""
    if isinstance(model, bytes):
        return model, {}
    graphs = [path for path in model if path.endswith(".onnx")]
    if len(graphs) != 1:
        raise BadConfiguration(f"a bundle needs one .onnx file, not {len(graphs)}: {graphs}")
    return model[graphs[0]], {path: model[path] for path in model if path != graphs[0]}


def _fault(model: bytes | Bundle) -> str:
    """What is wrong, or nothing; nothing also where ``onnx`` is not installed."""
    graph, files = _parts(model)
    try:
        import onnx
    except ModuleNotFoundError:
        return ""
    try:
        proto = onnx.load_model_from_string(graph)
        small = len(graph) + sum(map(len, files.values())) < _LARGEST
        external = [t for t in _tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
        unused = set(files) - {_located(tensor, files, small) for tensor in external}
        if unused:
            return f"files that no tensor lies in: {', '.join(sorted(unused))}"
        if small:
            onnx.checker.check_model(proto)
    # The checker and the parser have errors of their own without a common base.
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def _located(tensor: Any, files: dict[str, bytes], inline: bool) -> str:
    """File that an external tensor lies in; with ``inline`` its bytes go into the tensor."""
    where: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    path = where.get("location", "")
    if path not in files:
        raise ValueError(f"tensor {tensor.name!r} lies in {path!r}, which is not in the bundle")
    offset, size = int(where.get("offset", 0)), len(files[path])
    length = int(where.get("length", size - offset))
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"tensor {tensor.name!r} lies beyond the end of {path!r}")
    if inline:
        tensor.raw_data = files[path][offset : offset + length]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return path


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of a protocol buffer: initializers, attributes, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else list(value):
                yield from _tensors(item)
