"""NVIDIA Triton's own client, plain and asyncio, against a real server."""

import asyncio

import numpy as np
import pytest

from tests.open_inference.live import serving
from tests.open_inference.zoo import zoo

httpclient = pytest.importorskip("tritonclient.http")
import tritonclient.http.aio as aioclient  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


@pytest.fixture(scope="module")
def address():
    with serving(zoo()) as address:
        yield address


@pytest.fixture
def client(address):
    with httpclient.InferenceServerClient(address) as client:
        yield client


def given(array, datatype, name="INPUT", binary=True, module=httpclient):
    sent = module.InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sum")
    assert client.is_model_ready("sum", "v2")
    assert not client.is_model_ready("sum", "v9")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    told = client.get_model_metadata("sum")
    assert told["versions"] == ["v1", "v2"]
    assert told["inputs"] == [{"name": "INPUT", "datatype": "FP32", "shape": [-1, 2]}]
    assert client.get_model_metadata("sum", "v2")["versions"] == ["v2"]


def test_the_default_is_binary_both_ways(client):
    result = client.infer("sum", [given(ROWS, "FP32")])
    assert result.as_numpy("SUM").tolist() == [3.0, 7.0]
    response = result.get_response()
    assert response["model_version"] == "v1"
    assert response["outputs"][0]["parameters"] == {"binary_data_size": 8}


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_json_and_binary_in_any_mixture(client, sent, told):
    wanted = [httpclient.InferRequestedOutput("SUM", binary_data=told)]
    result = client.infer("sum", [given(ROWS, "FP32", binary=sent)], outputs=wanted)
    assert result.as_numpy("SUM").tolist() == [3.0, 7.0]
    assert ("data" in result.get_response()["outputs"][0]) is not told


def test_a_version_an_id_and_parameters(client):
    result = client.infer(
        "sum",
        [given(ROWS, "FP32")],
        model_version="v2",
        request_id="r-1",
        sequence_id=7,
        priority=1,
        timeout=5_000_000,
        parameters={"team": "pricing"},
    )
    response = result.get_response()
    assert (response["model_version"], response["id"]) == ("v2", "r-1")
    assert result.as_numpy("SUM").tolist() == [300.0, 700.0]


EVERY = [
    ("BOOL", bool, [[True, False]]),
    ("INT8", np.int8, [[-128, 127]]),
    ("INT16", np.int16, [[-32768, 32767]]),
    ("INT32", np.int32, [[-(2**31), 2**31 - 1]]),
    ("INT64", np.int64, [[-(2**63), 2**63 - 1]]),
    ("UINT8", np.uint8, [[0, 255]]),
    ("UINT16", np.uint16, [[0, 65535]]),
    ("UINT32", np.uint32, [[0, 2**32 - 1]]),
    ("UINT64", np.uint64, [[0, 2**64 - 1]]),
    ("FP16", np.float16, [[0.5, -65504.0]]),
    ("FP32", np.float32, [[0.1, float("nan")]]),
    ("FP64", np.float64, [[0.1, float("inf")]]),
    ("BYTES", object, [[b"a", "naïve".encode()]]),
]
# This client sends neither FP16 nor what is no number as JSON.
IN_JSON = [case for case in EVERY if not case[0].startswith("FP")] + [
    ("FP32", np.float32, [[0.1, -3e38]]),
    ("FP64", np.float64, [[0.1, 1e308]]),
]


@pytest.mark.parametrize(
    ("datatype", "dtype", "values", "binary"),
    [(*case, True) for case in EVERY] + [(*case, False) for case in IN_JSON],
)
def test_every_datatype_comes_back_as_it_went(client, datatype, dtype, values, binary):
    array = np.array(values, dtype)
    wanted = [httpclient.InferRequestedOutput("predict", binary_data=binary)]
    result = client.infer("echo", [given(array, datatype, binary=binary)], outputs=wanted)
    back = result.as_numpy("predict")
    assert back.dtype == (np.dtype(dtype) if datatype != "BYTES" else object)
    if datatype == "BYTES":
        assert [x if isinstance(x, bytes) else x.encode() for x in back.ravel()] == values[0]
    else:
        assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


def test_bf16(client):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    sent = given(np.array([[1.0, -2.5]], bfloat16), "BF16")
    result = client.infer("echo", [sent])
    assert result.as_numpy("predict").tolist() == [[1.0, -2.5]]


def test_several_tensors_in_and_out(client):
    age = given(np.array([[41], [17]], np.int64), "INT64", "age")
    home = given(np.array([["own"], ["rent"]], object), "BYTES", "home", binary=False)
    result = client.infer("columns", [age, home])
    assert result.as_numpy("predict").tolist() == [141.0, 17.0]
    text = given(np.array(["ab", "cde"], object), "BYTES", "text")
    result = client.infer("words", [text])
    assert result.as_numpy("upper").tolist() == [b"AB", b"CDE"]
    assert result.as_numpy("length").tolist() == [2, 3]
    only = client.infer("words", [text], outputs=[httpclient.InferRequestedOutput("length")])
    assert only.as_numpy("upper") is None


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_a_request_may_be_compressed(client, way):
    result = client.infer(
        "sum",
        [given(ROWS, "FP32")],
        request_compression_algorithm=way,
        response_compression_algorithm=way,
    )
    assert result.as_numpy("SUM").tolist() == [3.0, 7.0]


def test_requests_side_by_side(client):
    waiting = [client.async_infer("sum", [given(ROWS, "FP32")]) for _ in range(8)]
    assert all(w.get_result().as_numpy("SUM").tolist() == [3.0, 7.0] for w in waiting)


def test_the_repository(client):
    index = client.get_model_repository_index()
    assert {entry["name"]: entry["state"] for entry in index}["sum"] == "READY"
    client.load_model("more", config='{"a": 1}', files={"file:1/weights": b"\0\1"})
    assert client.is_model_ready("more")
    client.unload_model("more", unload_dependents=True)
    assert not client.is_model_ready("more")


@pytest.mark.parametrize(
    ("model", "array", "version", "says"),
    [
        ("nobody", ROWS, "", "there is no model 'nobody'"),
        ("sum", ROWS, "v9", "no version 'v9'"),
        ("sum", ROWS[:, :1], "", "shape [2, 1], expected [-1, 2]"),
        ("sum", -ROWS, "", "model 'sum' failed; its error is in the log of the server"),
    ],
)
def test_errors_reach_the_client_as_a_sentence(client, model, array, version, says):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [given(np.ascontiguousarray(array), "FP32")], model_version=version)
    assert says in caught.value.message()


def test_what_it_asks_for_in_vain_is_told_too(client):
    with pytest.raises(InferenceServerException, match="nothing at this path"):
        client.get_inference_statistics("sum")
    with pytest.raises(InferenceServerException, match="classification is not supported"):
        wanted = [httpclient.InferRequestedOutput("SUM", class_count=2)]
        client.infer("sum", [given(ROWS, "FP32")], outputs=wanted)


def test_the_asyncio_client(address):
    async def main():
        async with aioclient.InferenceServerClient(address) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("sum")
            sent = [given(ROWS, "FP32", module=aioclient)]
            results = await asyncio.gather(*(client.infer("sum", sent) for _ in range(8)))
            with pytest.raises(InferenceServerException, match="no model"):
                await client.infer("nobody", sent)
            return [result.as_numpy("SUM").tolist() for result in results]

    assert asyncio.run(main()) == [[3.0, 7.0]] * 8
