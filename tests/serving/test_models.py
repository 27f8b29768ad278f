"""Whatever answers is a model: estimators of scikit-learn, sessions of ONNX Runtime."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prodml.errors import BadConfiguration, GoldenMismatch
from prodml.events import Stream
from prodml.serving import Golden, OnnxModel, VersionedModelServer

ROWS = np.random.default_rng(0).normal(size=(200, 2))
LABELS = (ROWS[:, 0] > 0).astype(int)


def server_of(model, **settings):
    server = VersionedModelServer(events=Stream())
    server.load_model("v1", model, **settings)
    server.set_default_version("v1")
    return server


def test_estimator_answers_rows_and_batches():
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS)
    server = server_of(
        model, warm_up=[ROWS[:1]], check=Golden(rows=ROWS, answers=model.predict(ROWS))
    )
    assert server.predict(ROWS[:3]).tolist() == model.predict(ROWS[:3]).tolist()
    assert server.predict_batch(ROWS).tolist() == model.predict(ROWS).tolist()
    with server.lease() as lease:
        assert lease.model.predict_proba(ROWS).shape == (200, 2)


def test_estimator_of_frames_gets_frames():
    frame = pd.DataFrame(ROWS, columns=["a", "b"])
    model = LogisticRegression().fit(frame, LABELS)
    server = server_of(model)
    server.load_model("v2", LogisticRegression(C=0.01).fit(frame, 1 - LABELS))
    server.route(canary={"v2": 0.5})
    keys = list(range(200))
    reply = server.call_batch(frame, keys=keys)
    assert set(reply.versions) == {"v1", "v2"}
    assert reply.value.tolist() == [
        server.predict(frame.iloc[[place]], key=key)[0] for place, key in enumerate(keys)
    ]


def test_retrained_estimator_that_forgot_everything_is_refused():
    model = LogisticRegression().fit(ROWS, LABELS)
    bad = LogisticRegression().fit(ROWS, 1 - LABELS)
    golden = Golden(rows=ROWS, answers=LABELS, allowed=0.05)
    server = server_of(model, check=golden)
    with pytest.raises(GoldenMismatch):
        server.load("v2", lambda: bad, check=golden).result(10)


class Session:
    """Answers with the first column; speaks as a session of ONNX Runtime does."""

    class Tensor:
        type = "tensor(double)"

        def __init__(self, name):
            self.name = name

    def get_inputs(self):
        return [self.Tensor("x")]

    def get_outputs(self):
        return [self.Tensor("y")]

    def run(self, outputs, feed):
        return [feed["x"][:, 0]]


def test_columns_of_a_frame_are_taken_by_name():
    model = OnnxModel(Session(), features=("a", "b"))
    frame = pd.DataFrame({"c": ["x", "y"], "b": [1.0, 2.0], "a": [3.0, 4.0]})
    assert model.predict_batch(frame).tolist() == [3.0, 4.0]
    assert model.predict(frame).tolist() == [3.0, 4.0]
    assert server_of(model).predict_batch(frame).tolist() == [3.0, 4.0]
    with pytest.raises(KeyError, match="a"):
        model.predict_batch(frame[["b"]])


# -- ONNX Runtime -----------------------------------------------------------------------

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def graph(nodes, inputs, outputs):
    """A model in bytes; inputs and outputs are (name, type, shape)."""
    value = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        nodes, "test", [value(*one) for one in inputs], [value(*one) for one in outputs]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()


def doubler():
    """Answers the largest of each row, and beside it the row doubled."""
    node = onnx.helper.make_node
    return graph(
        [
            node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
            node("Add", ["x", "x"], ["twice"]),
        ],
        [("x", onnx.TensorProto.FLOAT, [None, 2])],
        [("most", onnx.TensorProto.FLOAT, [None]), ("twice", onnx.TensorProto.FLOAT, [None, 2])],
    )


def session(data):
    return runtime.InferenceSession(data, providers=["CPUExecutionProvider"])


def test_bare_session_is_a_model():
    server = server_of(session(doubler()), warm_up=[[[1.0, 2.0]]])
    assert server.predict([[1, 2], [4, 3]]).tolist() == [2.0, 4.0]
    assert server.predict_batch(np.array([[1.0, 2.0]])).tolist() == [2.0]
    assert server.predict_batch([[1, 2], [3, 4]]).tolist() == [2.0, 4.0]


def test_output_and_features_are_named():
    model = OnnxModel(session(doubler()), output="twice", features=["a", "b"])
    server = server_of(model, check=Golden(rows=[{"b": 2, "a": 1}], answers=[[2.0, 4.0]]))
    assert server.predict({"b": 2, "a": 1}).tolist() == [2.0, 4.0]
    assert server.predict_batch([{"a": 1, "b": 2}, {"a": 3, "b": 4}]).tolist() == [[2, 4], [6, 8]]
    assert server.predict(np.array([[1, 2]])).tolist() == [[2.0, 4.0]]


def test_several_inputs_are_given_by_name():
    data = graph(
        [onnx.helper.make_node("Add", ["a", "b"], ["sum"])],
        [("a", onnx.TensorProto.INT64, [None]), ("b", onnx.TensorProto.INT64, [None])],
        [("sum", onnx.TensorProto.INT64, [None])],
    )
    server = server_of(session(data))
    assert server.predict({"a": [1, 2], "b": [10, 20]}).tolist() == [11, 22]
    with pytest.raises(BadConfiguration, match="one input, not with a, b"):
        OnnxModel(session(data), features=["a"])


def test_text_goes_in_and_out():
    data = graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        [("x", onnx.TensorProto.STRING, [None])],
        [("y", onnx.TensorProto.STRING, [None])],
    )
    assert server_of(session(data)).predict(["a", "b"]).tolist() == ["a", "b"]


def test_unknown_output_is_refused():
    with pytest.raises(BadConfiguration, match="one of most, twice, not 'least'"):
        OnnxModel(session(doubler()), output="least")


def test_model_is_opened_from_a_path_or_from_bytes(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(doubler())
    for source in (path, doubler()):
        assert OnnxModel.open(source).predict([[1, 5]]).tolist() == [5.0]


def test_session_is_let_go_when_its_version_is_unloaded():
    server = VersionedModelServer(events=Stream())
    server.load("v1", lambda: session(doubler()), warm_up=[[[1, 2]]]).result(10)
    assert not server.unload_model("v1").held


def test_missing_runtime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BadConfiguration, match=r"pip install prodml\[onnx\]"):
        OnnxModel.open("model.onnx")
