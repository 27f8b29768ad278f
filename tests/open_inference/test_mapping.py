"""From tensors to rows, from answers to tensors."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import InvalidFeatures, RejectedAnswer
from prodml.integrations.open_inference import (
    Endpoint,
    Tabular,
    Tensor,
    TensorMapping,
    TensorSpec,
    open_inference_app,
)
from tests.open_inference.driver import Driver, infer, tensor


def made(*shape, name="x", datatype="FP64"):
    return Tensor(name, datatype, np.arange(np.prod(shape), dtype=float).reshape(shape))


def test_one_tensor_is_an_array_several_are_rows_by_name():
    assert Tabular().features([made(2, 3)]).shape == (2, 3)
    assert Tabular().features([made(3)]).shape == (3,)
    rows = Tabular().features([made(2, name="a"), made(2, 1, name="b"), made(2, 3, name="c")])
    assert [list(row) for row in rows] == [["a", "b", "c"]] * 2
    assert (rows[1]["a"], rows[1]["b"], rows[1]["c"].tolist()) == (1.0, 1.0, [3.0, 4.0, 5.0])
    assert type(rows[0]["a"]) is float


def test_the_way_can_be_said():
    assert Tabular(rows="dicts").features([made(2, 1)]) == [{"x": 0.0}, {"x": 1.0}]
    side = Tabular(rows="array").features([made(2, 2), made(2, name="b")])
    assert side.tolist() == [[0.0, 1.0, 0.0], [2.0, 3.0, 1.0]]
    for frame in (pd.DataFrame, pl.DataFrame):
        table = Tabular(rows=frame).features([made(2, 1, name="a"), made(2, name="b")])
        assert list(table.columns) == ["a", "b"]
        assert len(table) == 2


def test_text_is_text_however_it_came():
    binary = Tensor("x", "BYTES", np.array([["ä".encode()], [b"b"]], object))
    text = Tensor("x", "BYTES", np.array([["ä"], ["b"]], object))
    for sent in (binary, text):
        assert Tabular().features([sent]).tolist() == [["ä"], ["b"]]
        assert Tabular(text=False).features([sent]).tolist() == [["ä".encode()], [b"b"]]


def test_base64_is_unpacked_when_the_tensor_says_so():
    sent = Tensor("x", "BYTES", np.array(["/w=="], object), {"content_type": "base64"})
    assert Tabular().features([sent]).tolist() == [b"\xff"]
    sent = Tensor("x", "BYTES", np.array(["!"], object), {"content_type": "base64"})
    with pytest.raises(InvalidFeatures, match="not base64"):
        Tabular().features([sent])


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([0.5, 0.25], {"predict": [0.5, 0.25]}),
        (np.array([[1, 2], [3, 4]]), {"predict": [[1, 2], [3, 4]]}),
        (pd.Series([1, 2]), {"predict": [1, 2]}),
        (pl.Series([1, 2]), {"predict": [1, 2]}),
        (pd.DataFrame({"a": [1, 2]}), {"predict": [[1], [2]]}),
        (("a", "b"), {"predict": ["a", "b"]}),
        ([b"a", "b"], {"predict": [b"a", "b"]}),
        ([True, False], {"predict": [True, False]}),
        ({"p": [0.5, 0.25], "q": np.array([1, 2])}, {"p": [0.5, 0.25], "q": [1, 2]}),
        ([{"p": 1, "q": "x"}, {"p": 2, "q": "y"}], {"p": [1, 2], "q": ["x", "y"]}),
        ([np.float32(1), np.float32(2)], {"predict": [1.0, 2.0]}),
        ([[0.1, 0.9], [0.8, 0.2]], {"predict": [[0.1, 0.9], [0.8, 0.2]]}),
    ],
)
def test_answers_of_many_kinds_become_tensors(answers, expected):
    outputs = Tabular().outputs(answers, 2)
    assert {name: array.tolist() for name, array in outputs.items()} == expected


def test_none_among_numbers_is_nan():
    outputs = Tabular().outputs([1, None], 2)["predict"]
    assert outputs.dtype == np.float64
    assert np.isnan(outputs[1])


def test_one_bare_value_answers_one_row():
    assert Tabular(output="y").outputs(0.5, 1)["y"].tolist() == [0.5]
    with pytest.raises(RejectedAnswer, match="1 answers for 2 rows"):
        Tabular().outputs(0.5, 2)


@given(st.lists(st.floats(allow_nan=False) | st.integers(-5, 5), min_size=1, max_size=6))
def test_numbers_keep_their_values(values):
    assert Tabular().outputs(values, len(values))["predict"].tolist() == values


class Words:
    """A mapping of one's own: a text of words in, their number out."""

    def features(self, tensors):
        return [text.decode().split() for text in tensors[0].array.ravel().tolist()]

    def outputs(self, answers, rows):
        return {"words": np.array(answers, np.int32), "rows": np.full(1, rows)}


def test_a_mapping_of_ones_own():
    assert isinstance(Words(), TensorMapping)
    endpoint = Endpoint(len, mapping=Words(), outputs=[TensorSpec("words", "INT64")])
    size = {"parameters": {"binary_data_size": 9}}
    sent = {"name": "x", "shape": [1], "datatype": "BYTES"} | size
    with Driver(open_inference_app({"m": endpoint})) as ask:
        import json

        header = json.dumps(infer(sent)).encode()
        body = header + b"\x05\x00\x00\x00a b c"
        answer = ask(
            "POST",
            "/v2/models/m/infer",
            body,
            headers={"inference-header-content-length": str(len(header))},
        )
        # Declared are the outputs, and in which datatype.
        assert answer.json["outputs"] == [
            {"name": "words", "datatype": "INT64", "shape": [1], "data": [3]}
        ]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([TensorSpec("a", "FP64"), TensorSpec("b", "FP64")], "has no 'a'; it has predict"),
        ([TensorSpec("a", "INT8")], "float64, not INT8"),
        ([TensorSpec("a", "BYTES")], "float64, not BYTES"),
    ],
)
def test_a_model_that_breaks_its_promise_is_told(specs, says, caplog):
    endpoint = Endpoint(lambda rows: [0.5], outputs=specs)
    with Driver(open_inference_app({"m": endpoint})) as ask:
        assert ask("POST", "/v2/models/m/infer", infer(tensor())).status == 500
    assert says in caplog.text


def test_outputs_may_be_declared_narrower():
    endpoint = Endpoint(lambda rows: [0.1], outputs=[TensorSpec("risk", "FP32")])
    with Driver(open_inference_app({"m": endpoint})) as ask:
        output = ask("POST", "/v2/models/m/infer", infer(tensor())).json["outputs"][0]
    assert (output["name"], output["datatype"]) == ("risk", "FP32")
    assert output["data"] == [float(np.float32(0.1))]


def test_not_a_number_is_null_in_json_and_itself_in_binary():
    endpoint = Endpoint(lambda rows: [[float("nan"), float("inf")]])
    with Driver(open_inference_app({"m": endpoint})) as ask:
        plain = ask("POST", "/v2/models/m/infer", infer(tensor()))
        assert plain.json["outputs"][0]["data"] == [None, None]
        body = infer(tensor(), parameters={"binary_data_output": True})
        raw = ask("POST", "/v2/models/m/infer", body).body[-16:]
    assert np.isnan(np.frombuffer(raw)[0])
    assert np.isinf(np.frombuffer(raw)[1])
