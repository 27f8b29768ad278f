"""MLServer's codecs and its ``infer`` command against a real server (``nox -s clients``)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from tests.open_inference.live import serving
from tests.open_inference.zoo import zoo

codecs = pytest.importorskip("mlserver.codecs")
import pandas as pd  # noqa: E402
from mlserver import types  # noqa: E402

ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


@pytest.fixture(scope="module")
def address():
    with serving(zoo()) as address:
        yield address


def post(address, model, request):
    body = request.model_dump_json(exclude_none=True).encode()
    with urlopen(Request(f"http://{address}/v2/models/{model}/infer", body)) as reply:
        return types.InferenceResponse.model_validate_json(reply.read())


def asked(address, model, *inputs, **beside):
    return post(address, model, types.InferenceRequest(inputs=list(inputs), **beside))


def test_the_numpy_codec(address):
    reply = asked(address, "sum", codecs.NumpyCodec.encode_input("INPUT", ROWS), id="r1")
    assert (reply.model_name, reply.model_version, reply.id) == ("sum", "v1", "r1")
    assert codecs.NumpyCodec.decode_output(reply.outputs[0]).tolist() == [3.0, 7.0]


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"])
def test_every_number_of_the_numpy_codec(address, dtype):
    array = np.array([[0, 1], [1, 0]], dtype)
    reply = asked(address, "echo", codecs.NumpyCodec.encode_input("x", array))
    back = codecs.NumpyCodec.decode_output(reply.outputs[0])
    assert back.dtype == array.dtype
    assert back.tolist() == array.tolist()


def test_the_numpy_request_codec(address):
    request = codecs.NumpyRequestCodec.encode_request(ROWS)
    reply = post(address, "echo", request)
    assert codecs.NumpyRequestCodec.decode_response(reply).tolist() == ROWS.tolist()


def test_the_string_codecs(address):
    reply = asked(address, "words", codecs.StringCodec.encode_input("text", ["ab", "ä"]))
    outputs = {output.name: output for output in reply.outputs}
    assert codecs.StringCodec.decode_output(outputs["upper"]) == ["AB", "Ä"]
    assert codecs.NumpyCodec.decode_output(outputs["length"]).tolist() == [2, 1]
    reply = post(address, "echo", codecs.StringRequestCodec.encode_request(["x", "y"]))
    assert codecs.StringRequestCodec.decode_response(reply) == ["x", "y"]


def test_the_base64_and_datetime_codecs(address):
    sent = codecs.Base64Codec.encode_input("x", [b"ab"], use_bytes=False)
    assert asked(address, "echo", sent).outputs[0].data.root == ["ab"]
    from datetime import datetime

    day = [datetime(2020, 2, 29)]
    sent = codecs.DatetimeCodec.encode_input("x", day, use_bytes=False)
    assert codecs.DatetimeCodec.decode_output(asked(address, "echo", sent).outputs[0]) == day


def test_the_pandas_codec(address):
    frame = pd.DataFrame({"age": [41, 17], "home": pd.Series(["own", "rent"], dtype=object)})
    request = codecs.PandasCodec.encode_request(frame, use_bytes=False)
    reply = post(address, "columns", request)
    assert codecs.PandasCodec.decode_response(reply)["predict"].tolist() == [141.0, 17.0]


def test_the_repository_and_health_have_its_types(address):
    with urlopen(Request(f"http://{address}/v2/repository/index", b"{}")) as reply:
        items = json.loads(reply.read())
    listed = [types.RepositoryIndexResponseItem.model_validate(item) for item in items]
    assert {types.State(item.state) for item in listed} == {types.State.READY}
    with urlopen(f"http://{address}/v2/models/sum") as reply:
        told = types.MetadataModelResponse.model_validate_json(reply.read())
    assert told.inputs[0].shape == [-1, 2]
    with urlopen(f"http://{address}/v2") as reply:
        types.MetadataServerResponse.model_validate_json(reply.read())


def test_an_error_has_its_type(address):
    wrong = types.InferenceRequest(inputs=[codecs.NumpyCodec.encode_input("INPUT", ROWS[:, :1])])
    with pytest.raises(HTTPError) as caught:
        post(address, "sum", wrong)
    told = types.InferenceErrorResponse.model_validate_json(caught.value.read())
    assert "expected [-1, 2]" in told.error


@pytest.mark.parametrize("binary", [True, False])
def test_its_command_infers_a_file(address, tmp_path, binary):
    command = shutil.which("mlserver", path=str(Path(sys.executable).parent))
    lines = [
        types.InferenceRequest(inputs=[codecs.NumpyCodec.encode_input("INPUT", ROWS * n)])
        for n in range(1, 6)
    ]
    (tmp_path / "in").write_text("\n".join(x.model_dump_json(exclude_none=True) for x in lines))
    told = subprocess.run(
        [
            *(command, "infer", "-u", address, "-m", "sum", "-i", tmp_path / "in"),
            *("-o", tmp_path / "out", "-s", "1", "-w", "2", *(["-b"] if binary else [])),
        ],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    replies = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert len(replies) == 5
    if not binary:
        sums = sorted(reply["outputs"][0]["data"] for reply in replies)
        assert sums == [[3.0 * n, 7.0 * n] for n in range(1, 6)]
