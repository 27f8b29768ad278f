"""KServe's own client against a real server (``nox -s clients``)."""

import asyncio

import numpy as np
import pytest

from tests.open_inference.live import serving
from tests.open_inference.zoo import zoo

kserve = pytest.importorskip("kserve")
from kserve.protocol.infer_type import RequestedOutput  # noqa: E402

ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


@pytest.fixture(scope="module")
def base():
    with serving(zoo()) as address:
        yield f"http://{address}"


def with_client(work):
    """Run ``work(client)`` in a loop of its own."""

    async def main():
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
            return await work(client)

    return asyncio.run(main())


def given(array, datatype, name="INPUT", binary=True):
    sent = kserve.InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


def infer(base, model, inputs, **settings):
    request = kserve.InferRequest(model_name=model, infer_inputs=inputs, **settings)
    return with_client(lambda client: client.infer(base, request, model_name=model))


def test_live_and_ready(base):
    assert with_client(lambda client: client.is_server_live(base)) is True
    assert with_client(lambda client: client.is_server_ready(base)) is True
    assert with_client(lambda client: client.is_model_ready(base, "sum")) is True
    assert with_client(lambda client: client.is_model_ready(base, "nobody")) is False


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_infer(base, sent, told):
    wanted = [RequestedOutput("SUM", parameters={"binary_data": told})]
    reply = infer(
        base, "sum", [given(ROWS, "FP32", binary=sent)], request_id="r1", request_outputs=wanted
    )
    # The client itself drops the reply's model_version.
    assert (reply.model_name, reply.id) == ("sum", "r1")
    assert reply.outputs[0].as_numpy().tolist() == [3.0, 7.0]


def test_a_request_without_an_id(base):
    assert infer(base, "sum", [given(ROWS, "FP32")]).outputs[0].as_numpy().tolist() == [3.0, 7.0]


def test_text(base):
    text = given(np.array(["ab", "cde"], object), "BYTES", "text", binary=False)
    reply = infer(base, "words", [text])
    outputs = {output.name: output.as_numpy().tolist() for output in reply.outputs}
    assert outputs["length"] == [2, 3]
    assert [x if isinstance(x, str) else x.decode() for x in outputs["upper"]] == ["AB", "CDE"]


def test_several_tensors(base):
    age = given(np.array([[41], [17]], np.int64), "INT64", "age", binary=False)
    home = given(np.array([["own"], ["rent"]], object), "BYTES", "home", binary=True)
    reply = infer(base, "columns", [age, home])
    assert reply.outputs[0].as_numpy().tolist() == [141.0, 17.0]


@pytest.mark.parametrize(
    ("model", "rows", "says"),
    [("nobody", ROWS, "no model"), ("sum", ROWS[:, :1], "expected [-1, 2]"), ("sum", -ROWS, "log")],
)
def test_errors_reach_the_client_as_a_sentence(base, model, rows, says):
    with pytest.raises(Exception, match=r"nobody|expected|log") as caught:
        infer(base, model, [given(np.ascontiguousarray(rows), "FP32")])
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_adapter_of_the_examples_answers_inside_kserves_server():
    from examples.adapters.kserve_predictor import predictor, served

    from prodml.integrations.open_inference import Endpoint

    model = predictor("churn", Endpoint(served()))
    request = kserve.InferRequest("churn", [given(ROWS, "FP32", binary=False)], request_id="r1")
    reply = asyncio.run(model.predict(request, {"x-routing-key": "ann"}))
    assert (reply.model_name, reply.model_version, reply.id) == ("churn", "v1", "r1")
    assert reply.outputs[0].as_numpy().tolist() == [3.0, 7.0]
