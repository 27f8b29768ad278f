"""ONNX: checked where onnx is installed; external weights come from the bundle alone."""

import sys

import numpy as np
import pytest

from prodml.errors import BadConfiguration, UntrustedModel
from prodml.events import Stream
from prodml.registry import Bundle, ModelRegistry, ONNXSerializer

onnx = pytest.importorskip("onnx")

W = np.arange(400, dtype=np.float32).reshape(20, 20)
ROW = np.ones((1, 20), np.float32)


def model(weights=W):
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 20])],
        [numpy_helper.from_array(weights, "W")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def external(location="w.bin", offset=None, length=None, where="initializer"):
    """A graph whose weights lie in another file."""
    proto = model()
    tensor = proto.graph.initializer[0]
    if where == "attribute":
        node = onnx.helper.make_node("Constant", [], ["W"], value=tensor)
        proto.graph.node.insert(0, node)
        del proto.graph.initializer[0]
        tensor = proto.graph.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return proto.SerializeToString()


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "models", serializers=[ONNXSerializer()], events=Stream())


def test_model_bytes_and_bundle_are_taken(registry):
    proto = model()
    whole = proto.SerializeToString()
    bundle = Bundle({"m.onnx": external(), "w.bin": W.tobytes()})
    for given in (proto, whole, bundle):
        registry.register("net", given, serializer=ONNXSerializer())
    assert registry.load("net", "1") == registry.load("net", "2") == whole
    assert registry.load("net", "3") == bundle


def test_default_serializer_takes_a_proto(registry):
    registry.register("net", model())
    assert registry.describe("net", "1").serializer == "onnx"


BAD = {
    "garbage": b"garbage",
    "nothing": b"",
    "no such operator": model().SerializeToString().replace(b"MatMul", b"MatMol"),
    "weights elsewhere": external(),
    "no graph": Bundle({"w.bin": b""}),
    "two graphs": Bundle({"a.onnx": external(), "b.onnx": external()}),
    "weights missing": Bundle({"m.onnx": external(), "other.bin": W.tobytes()}),
    "path that leads out": Bundle({"m.onnx": external("../w.bin"), "w.bin": W.tobytes()}),
    "absolute path": Bundle({"m.onnx": external("/etc/passwd"), "w.bin": W.tobytes()}),
    "extra file": Bundle({"m.onnx": external(), "w.bin": W.tobytes(), "extra": b""}),
    "beyond the end": Bundle({"m.onnx": external(offset=4, length=1600), "w.bin": W.tobytes()}),
    "negative offset": Bundle({"m.onnx": external(offset=-8, length=1600), "w.bin": W.tobytes()}),
    "not a number": Bundle({"m.onnx": external(offset="x"), "w.bin": W.tobytes()}),
    "too few weights": Bundle({"m.onnx": external(), "w.bin": W.tobytes()[:-4]}),
    "in an attribute, missing": Bundle({"m.onnx": external("v", where="attribute"), "w": b""}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_unsound_model_is_refused_at_registration(registry, kind):
    with pytest.raises(BadConfiguration):
        registry.register("net", BAD[kind], serializer=ONNXSerializer())
    assert registry.models() == ()


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in {"no graph", "two graphs"}])
def test_unsound_model_that_somebody_registered_is_refused_at_load(registry, kind):
    class Forger:
        name = "onnx"

        def dump(self, model):
            return model

    registry.register("net", BAD[kind], serializer=Forger())
    with pytest.raises(UntrustedModel):
        registry.load("net", "1")


def test_weights_in_an_attribute_are_found(registry):
    bundle = Bundle({"m.onnx": external(where="attribute"), "w.bin": W.tobytes()})
    registry.register("net", bundle, serializer=ONNXSerializer())
    assert registry.load("net", "1") == bundle


def test_part_of_a_file_may_be_used(registry):
    bundle = Bundle(
        {"m.onnx": external(offset=8, length=1600), "w.bin": b"8 bytes." + W.tobytes() + b"more"}
    )
    registry.register("net", bundle, serializer=ONNXSerializer())


def test_what_is_no_model_is_refused():
    with pytest.raises(BadConfiguration, match="list is no ONNX model"):
        ONNXSerializer().dump([1])


def test_beyond_two_gigabytes_references_alone_are_checked(registry, monkeypatch):
    from prodml.registry import onnx_serializer

    monkeypatch.setattr(onnx_serializer, "_LARGEST", 100)
    registry.register("net", Bundle({"m.onnx": external(), "w.bin": W.tobytes()}),
                      serializer=ONNXSerializer())  # fmt: skip
    with pytest.raises(BadConfiguration, match="extra"):
        ONNXSerializer().dump(BAD["extra file"])


def test_without_onnx_nothing_is_checked(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert ONNXSerializer().load(ONNXSerializer().dump(b"anything")) == b"anything"


# -- sessions ---------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(np.zeros_like(W).tobytes())
    return ONNXSerializer(session=True)


def test_session_is_built_from_memory_alone(registry, session):
    """A file of the same name lies in the working directory, with other weights."""
    registry.register("net", Bundle({"m.onnx": external(), "w.bin": W.tobytes()}),
                      serializer=session)  # fmt: skip
    registry.register("net", model(), serializer=session)
    for version in ("1", "2"):
        loaded = registry.load("net", version, serializer=session)
        assert np.array_equal(loaded.run(None, {"x": ROW})[0], ROW @ W)


def test_session_reads_no_file_even_where_onnx_is_not_installed(session, monkeypatch):
    import onnxruntime

    graph = external()
    bare = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert bare.run(None, {"x": ROW})[0].sum() == 0  # what the runtime does by itself
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(Exception, match=r"w\.bin not found"):
        session.load(graph)


def test_without_the_runtime_a_session_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadConfiguration, match="onnxruntime"):
        ONNXSerializer(session=True).load(model().SerializeToString())
