"""Whatever goes wrong, the client hears ``{"error": ...}`` and nothing it should not."""

import json
import logging
import math
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodml.errors import (
    AllFallbacksFailed,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    InvalidFeatures,
    Overloaded,
    RateLimited,
    Rejected,
    RejectedAnswer,
    StoreUnavailable,
    UnknownVersion,
)
from prodml.integrations.open_inference import (
    Endpoint,
    Tabular,
    Tensor,
    TensorSpec,
    open_inference_app,
    refusal_of,
)
from prodml.integrations.open_inference.paths import find
from tests.open_inference.driver import Driver, Summing, infer, served, tensor


class Raising:
    def __init__(self, error):
        self.error = error

    def predict(self, rows):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (InvalidFeatures(["age: -3 is below 0"]), 400, None),
        (UnknownVersion("m", "v9"), 404, None),
        (RateLimited("limit", 2.2), 429, "3"),
        (RateLimited("limit", 0.0), 429, "1"),
        (CircuitOpen("db", 30.0, "5 failures"), 503, "30"),
        (CircuitOpen("db", math.inf), 503, "86400"),
        (BulkheadFull("gpu", 2, 8), 503, "1"),
        (Overloaded("batcher", 0.5, 0.2, 9, 0.3), 503, "1"),
        (DeadlineExceeded("model", 0.1), 503, "1"),
        (Rejected("closed"), 503, "1"),
        (StoreUnavailable("redis", "refused"), 503, "1"),
        (AllFallbacksFailed("m", [ValueError("secret")]), 500, None),
        (RejectedAnswer("secret"), 500, None),
        (ValueError("secret"), 500, None),
        (KeyError("secret"), 500, None),
        (OSError("secret"), 500, None),
        (RecursionError("secret"), 500, None),
        (StopIteration("secret"), 500, None),
    ],
)
def test_the_models_error_becomes_a_status(error, status, after, caplog):
    with Driver(open_inference_app({"m": Raising(error)})) as ask:
        answer = ask("POST", "/v2/models/m/infer", infer(id="7"))
    assert answer.status == status
    assert answer.headers.get("retry-after") == after
    assert "secret" not in answer.body.decode()
    if status == 500:
        assert answer.error == "model 'm' failed; its error is in the log of the server"
        assert caplog.records[0].exc_info is not None
    else:
        assert answer.error == str(error)
        assert not caplog.records


def test_refusals_can_be_used_without_the_application():
    refusal = refusal_of(RateLimited("limit", 1.5))
    assert (refusal.status, dict(refusal.headers)) == (429, {"retry-after": "2"})
    assert json.loads(refusal.body) == refusal.content == {"error": str(RateLimited("limit", 1.5))}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([1.0], "one answer for two rows"),
        ([1.0, 2.0, 3.0], "three"),
        (None, "none"),
        (object(), "no tensor holds it"),
        ([{"a": 1}, {"b": 2}], "other names"),
        ([{"a": 1}, 2], "a number among mappings"),
        ([[1], [2, 3]], "ragged"),
        ([1 + 2j, 2], "complex"),
        ([object(), object()], "objects"),
        ({"a": [1.0]}, "one for two"),
        (["a", 1], "mixed"),
        (["1", 2], "mixed"),
    ],
)
def test_a_senseless_answer_is_the_models_fault(answer, why):
    with Driver(open_inference_app({"m": lambda rows: answer})) as ask:
        got = ask("POST", "/v2/models/m/infer", infer(tensor([1, 2, 3, 4], (2, 2))))
    assert got.status == 500, why
    assert got.error


def test_a_model_of_scikit_learn_is_not_asked_about_rows_of_another_width(caplog):
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(np.eye(3), np.arange(3.0))
    with Driver(open_inference_app({"m": model})) as ask:
        assert ask("POST", "/v2/models/m/infer", infer(tensor([1, 2, 3], (1, 3)))).status == 200
        answer = ask("POST", "/v2/models/m/infer", infer())
        assert (answer.status, answer.error) == (400, "tensor 'x': shape [1, 2], expected [-1, 3]")
        described = ask("GET", "/v2/models/m").json
        assert described["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 3]}]
    assert not caplog.records


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'"x"',
        b'{"inputs": []}',
        b'{"inputs": {}}',
        b'{"inputs": [1]}',
        b'{"inputs": [{}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64"}]}',
        b'{"inputs": [{"name": 1, "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]}',
        b'{"inputs": [{"name": "x", "shape": [-1, 2], "datatype": "FP64", "data": [1, 2]}]}',
        b'{"inputs": [{"name": "x", "shape": [1.0, 2], "datatype": "FP64", "data": [1, 2]}]}',
        b'{"inputs": [{"name": "x", "shape": 2, "datatype": "FP64", "data": [1, 2]}]}',
        b'{"inputs": [{"name": "x", "shape": [99999999999999999999], "datatype": "BOOL"}]}',
        b'{"inputs": [{"name": "x", "shape": [0, 2], "datatype": "FP64", "data": []}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "fp64", "data": [1, 2]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, NaN]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]} x',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"inputs":' * 20_000,
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": ' + b"[" * 90_000,
        b'{"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    ],
)
def test_a_body_that_is_none_is_the_callers_fault(body):
    with Driver(open_inference_app(served())) as ask:
        answer = ask("POST", "/v2/models/churn/infer", body)
        assert answer.status == 400
        assert answer.error


@pytest.mark.parametrize("rows", ["array", "dicts"])
@pytest.mark.parametrize("datatype", ["FP64", "BYTES", "BOOL"])
@pytest.mark.parametrize(
    "shape", [(2**62, 0), (0, 2**62), (10**8, 0), (2**31, 2**31, 0), (9**9, 0, 1)]
)
def test_rows_of_nothing_are_not_counted(shape, datatype, rows):
    endpoint = Endpoint(Summing(), mapping=Tabular(rows=rows))
    with Driver(open_inference_app({"m": endpoint})) as ask:
        answer = ask("POST", "/v2/models/m/infer", infer(tensor([], shape, datatype)))
        assert answer.status == 400
        assert answer.error == f"tensor 'x': no tensor without elements is as large as {[*shape]}"


def test_a_few_rows_of_nothing_are_still_rows():
    with Driver(open_inference_app(served())) as ask:
        answer = ask("POST", "/v2/models/churn/infer", infer(tensor([], (3, 0))))
        assert answer.json["outputs"][0]["data"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("timeout", [-1, 2**64, 10**400, "5", True, 1.5])
def test_a_timeout_is_a_number_of_microseconds(timeout):
    with Driver(open_inference_app(served())) as ask:
        body = infer(parameters={"timeout": timeout})
        answer = ask("POST", "/v2/models/churn/infer", body)
        assert answer.status == 400
        assert answer.error.startswith("the parameter timeout is ")


def test_an_output_is_given_once():
    with Driver(open_inference_app(served())) as ask:
        body = infer(outputs=[{"name": "predict"}] * 2)
        answer = ask("POST", "/v2/models/churn/infer", body)
        assert (answer.status, answer.error) == (400, "an output is asked for twice")


def test_a_long_path_is_refused_and_not_kept():
    before = find.cache_info().currsize
    with Driver(open_inference_app(served())) as ask:
        answer = ask("GET", "/v2/models/" + "m" * 3000)
        assert (answer.status, answer.error) == (414, "the path is longer than 2048 characters")
    assert find.cache_info().currsize == before


def test_the_document_says_which_paths_may_be_too_long():
    with Driver(open_inference_app(served())) as ask:
        for template, operations in ask("GET", "/openapi.json").json["paths"].items():
            (operation,) = (value for key, value in operations.items() if key != "parameters")
            assert template == "/metrics" or ("414" in operation["responses"]) == ("{" in template)


def test_two_tensors_of_one_name_are_refused():
    with Driver(open_inference_app(served())) as ask:
        answer = ask("POST", "/v2/models/churn/infer", infer(tensor(), tensor()))
        assert answer.error == "two input tensors have the same name"


def test_what_other_servers_can_and_this_cannot_is_refused():
    with Driver(open_inference_app(served())) as ask:
        for name in ("shared_memory_region", "classification"):
            body = infer(tensor(parameters={name: 1}))
            assert "not supported" in ask("POST", "/v2/models/churn/infer", body).error
            body = infer(outputs=[{"name": "predict", "parameters": {name: 1}}])
            assert "not supported" in ask("POST", "/v2/models/churn/infer", body).error


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([tensor()], "tensor 'x' is not expected; tensor 'a' is missing; tensor 'b' is missing"),
        ([tensor(name="a")], "tensor 'b' is missing"),
        ([tensor([1.0], (1, 1), name="a"), tensor(["x"], (1,), "BYTES", name="b")], "shape [1, 1]"),
        ([tensor(name="a"), tensor([1], (1,), "INT8", name="b")], "datatype INT8, expected BYTES"),
    ],
)
def test_with_a_signature_every_breach_is_told(tensors, says):
    inputs = [TensorSpec("a", "FP64", (-1, 2)), TensorSpec("b", "BYTES", (-1,))]
    endpoint = Endpoint(lambda row: 1.0, inputs=inputs)
    with Driver(open_inference_app({"m": endpoint})) as ask:
        answer = ask("POST", "/v2/models/m/infer", infer(*tensors))
        assert answer.status == 400
        assert says in answer.error


def test_a_narrower_number_is_welcome_a_wider_one_is_not():
    seen = []
    endpoint = Endpoint(
        lambda rows: seen.append(rows.dtype) or rows.sum(axis=1),
        inputs=[TensorSpec("x", "FP32", (-1, 2))],
    )
    with Driver(open_inference_app({"m": endpoint})) as ask:
        for datatype, status in (("FP32", 200), ("FP16", 200), ("INT16", 200), ("FP64", 400)):
            body = infer(tensor([1, 2], datatype=datatype))
            assert ask("POST", "/v2/models/m/infer", body).status == status
    assert seen == [np.dtype(np.float32)] * 3


def test_rows_must_agree_about_their_number():
    with Driver(open_inference_app(served())) as ask:
        body = infer(tensor(name="a"), tensor([1, 2], (2, 1), name="b"))
        answer = ask("POST", "/v2/models/churn/infer", body)
        assert answer.error == "tensor 'b': 2 rows, 'a' has 1"


def test_the_text_of_a_tensor_must_be_text():
    raw = Tensor("x", "BYTES", np.array([b"\xff"], object))
    with pytest.raises(InvalidFeatures, match="tensor 'x'"):
        Tabular().features([raw])
    assert Tabular(text=False).features([raw]).tolist() == [b"\xff"]


# -- hostile bodies -----------------------------------------------------------------------


def seeds():
    array = np.arange(4, dtype=np.float32)
    plain = infer(tensor(), id="1", parameters={"a": 1}, outputs=[{"name": "predict"}])
    text = infer(tensor(["a", "b"], (2,), "BYTES"), tensor([[1], [2]], (2, 1), "INT8", name="y"))
    spec = {
        "name": "x",
        "shape": [2, 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 16},
    }
    header = json.dumps(infer(spec)).encode()
    return [
        (json.dumps(plain).encode(), {}),
        (json.dumps(text).encode(), {}),
        (
            header + array.tobytes(),
            {"inference-header-content-length": str(len(header))},
        ),
    ]


def mutated(rng, body):
    body = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(body) + 1)
        what = rng.randrange(6)
        if what == 0:
            del body[place : place + rng.randint(1, 8)]
        elif what == 1:
            body[place:place] = rng.randbytes(rng.randint(1, 4))
        elif what == 2 and place < len(body):
            body[place] ^= 1 << rng.randrange(8)
        elif what == 3:
            body[place:place] = rng.choice(
                [b"9" * 30, b"-1", b"1e400", b"null", b"[" * 50, b'"', b"{}", b"\\ud800", b"true"]
            )
        elif what == 4:
            body += body[place:]
        else:
            other = rng.randrange(len(body) + 1)
            body[place:place] = body[min(place, other) : max(place, other)][:64]
    return bytes(body)


def hammer(app, seed, count):
    """Mutated bodies, and each gets JSON, soon."""
    rng, known, kinds, slowest = random.Random(seed), seeds(), {}, 0.0
    with Driver(app) as ask:
        for number in range(count):
            body, headers = known[number % len(known)]
            if rng.random() < 0.05:
                headers = {
                    name: rng.choice(["", "0", "7", "-1", "9" * 25, "x"]) for name in headers
                }
            began = time.perf_counter()
            answer = ask("POST", "/v2/models/churn/infer", mutated(rng, body), headers=headers)
            slowest = max(slowest, time.perf_counter() - began)
            told = answer.json if answer.headers["content-type"] == "application/json" else {}
            assert (answer.status == 200) == ("outputs" in told)
            if answer.status != 200:
                assert answer.error
            kinds[answer.status] = kinds.get(answer.status, 0) + 1
    return kinds, slowest


class Tolerant:
    """Answers rows of any kind, so that a 500 is the application's own fault."""

    def predict(self, rows):
        return [0.0] * len(rows)

    predict_batch = predict


def test_ten_thousand_hostile_bodies_are_answered_with_json(caplog):
    kinds, slowest = hammer(open_inference_app(served(v1=Tolerant())), seed=5, count=10_000)
    assert set(kinds) <= {200, 400}, (kinds, caplog.text[-2000:])
    assert kinds[400] > 5_000
    assert slowest < 2.0


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_a_million_hostile_bodies_are_answered_with_json(seed, caplog):
    kinds, slowest = hammer(open_inference_app(served(v1=Tolerant())), seed=seed, count=100_000)
    assert set(kinds) <= {200, 400}, (kinds, caplog.text[-2000:])
    assert slowest < 5.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.sampled_from(["/v2/models/churn/infer", "/v2/repository/index"]))
def test_any_json_is_answered_with_json(value, path):
    with Driver(open_inference_app(served(v1=Tolerant()))) as ask:
        answer = ask("POST", path, value)
    assert answer.status in {200, 400}
    assert answer.json is not None


@given(st.text(max_size=30), st.sampled_from(["GET", "POST", "HEAD"]))
def test_any_path_is_answered_with_json(path, method):
    with Driver(open_inference_app(served())) as ask:
        answer = ask(method, "/" + path)
        assert answer.status in {200, 404, 405}
        answer = ask(method, "/v2/models/" + path)
        assert answer.status in {200, 400, 404, 405}


def test_the_log_of_a_failure_has_its_traceback(caplog):
    with caplog.at_level(logging.ERROR, "prodml.integrations.open_inference"):
        with Driver(open_inference_app({"m": Raising(ValueError("row 7 is odd"))})) as ask:
            ask("POST", "/v2/models/m/infer", infer())
    assert "model 'm' failed" in caplog.text
    assert "row 7 is odd" in caplog.text


def test_a_fault_of_the_application_itself_is_told_like_any_other(caplog):
    def broken():
        raise RuntimeError("secret")

    with Driver(open_inference_app({"m": Summing()}, ready=broken)) as ask:
        answer = ask("GET", "/v2/health/ready")
    assert (answer.status, answer.error) == (
        500,
        "the server failed; its error is in the log of the server",
    )
    assert "secret" in caplog.text
