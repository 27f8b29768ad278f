"""Every call of the protocol, answered as the specification and its clients want."""

import asyncio
import gzip
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest

from prodml.errors import BadConfiguration
from prodml.events import Stream
from prodml.integrations.open_inference import (
    Endpoint,
    Tabular,
    TensorSpec,
    open_inference_app,
)
from prodml.serving import ServingFleet, VersionedModelServer
from prodml.stores import MemoryStore
from tests.open_inference.driver import Driver, Summing, infer, served, tensor


@pytest.fixture
def server():
    return served(v1=Summing(), v2=Summing(100.0))


@pytest.fixture
def ask(server):
    with Driver(open_inference_app(server)) as driver:
        yield driver


# -- the server ---------------------------------------------------------------------------


def test_live_and_ready_say_both_words(ask):
    for path in ("/v2/health/live", "/v2/health/ready"):
        answer = ask("GET", path)
        assert (answer.status, answer.json) == (200, {"live": True, "ready": True})


def test_a_server_whose_model_has_no_default_is_live_and_not_ready():
    empty = VersionedModelServer(name="churn")
    with Driver(open_inference_app(empty)) as ask:
        assert ask("GET", "/v2/health/live").json == {"live": True, "ready": False}
        answer = ask("GET", "/v2/health/ready")
        assert answer.status == 503
        assert (answer.json["live"], answer.json["ready"]) == (True, False)
        assert answer.error == "not ready: churn: no default version is set"
        assert ask("GET", "/v2/models/churn/ready").status == 503
        assert ask("POST", "/v2/models/churn/infer", infer()).status == 404


def test_no_model_at_all_is_not_ready():
    with Driver(open_inference_app({})) as ask:
        assert ask("GET", "/v2/health/ready").error == "not ready: there is no model"


def test_the_application_may_have_a_say_in_readiness(server):
    well = [True]
    with Driver(open_inference_app(server, ready=lambda: well[0])) as ask:
        assert ask("GET", "/v2/health/ready").status == 200
        well[0] = False
        assert ask("GET", "/v2/health/ready").error == "not ready: the application says so"
        assert ask("GET", "/v2/health/live").status == 200


def test_a_coroutine_has_no_say_in_readiness(server):
    async def ready():
        return False

    with pytest.raises(BadConfiguration, match="ready must be a plain function"):
        open_inference_app(server, ready=ready)


def test_server_metadata(ask):
    told = ask("GET", "/v2").json
    assert told["name"] == "prodml"
    assert told["version"]
    assert told["extensions"] == ["binary_tensor_data"]
    assert ask("GET", "/v2/").json == told


def test_the_server_may_be_named(server):
    with Driver(open_inference_app(server, name="shop", version="7", loader=abs)) as ask:
        assert ask("GET", "/v2").json == {
            "name": "shop",
            "version": "7",
            "extensions": ["binary_tensor_data", "model_repository"],
        }


# -- a model ------------------------------------------------------------------------------


def test_model_metadata(server):
    app = open_inference_app(
        server, inputs=[TensorSpec("x", "FP64", (-1, 2))], outputs=[TensorSpec("sum", "FP64")]
    )
    expected = {
        "name": "churn",
        "versions": ["v1", "v2"],
        "platform": "prodml_python",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
        "outputs": [{"name": "sum", "datatype": "FP64", "shape": [-1]}],
    }
    with Driver(app) as ask:
        assert ask("GET", "/v2/models/churn").json == expected
        assert ask("GET", "/v2/models/churn/versions/v2").json == expected | {"versions": ["v2"]}
        assert ask("GET", "/v2/models/churn/versions/v9").status == 404
        assert ask("GET", "/v2/models/none").error == "there is no model 'none'"


def test_model_ready(ask):
    assert ask("GET", "/v2/models/churn/ready").json == {"name": "churn", "ready": True}
    assert ask("GET", "/v2/models/churn/versions/v2/ready").status == 200
    assert "no version 'v9'" in ask("GET", "/v2/models/churn/versions/v9/ready").error


def test_infer(ask):
    answer = ask("POST", "/v2/models/churn/infer", infer(id="42"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "model_name": "churn",
        "model_version": "v1",
        "id": "42",
        "parameters": {"arm": "stable"},
        "outputs": [{"name": "predict", "shape": [1], "datatype": "FP64", "data": [3.0]}],
    }


def test_an_id_is_echoed_only_when_given(ask):
    assert "id" not in ask("POST", "/v2/models/churn/infer", infer()).json
    assert "id" not in ask("POST", "/v2/models/churn/infer", infer(id=None)).json
    assert ask("POST", "/v2/models/churn/infer", infer(id="")).json["id"] == ""


def test_parameters_of_the_request_are_not_echoed(ask):
    body = infer(tensor(parameters={"a": 1}), parameters={"b": True, "c": "d", "e": 0.5})
    answer = ask("POST", "/v2/models/churn/infer", body).json
    assert answer["parameters"] == {"arm": "stable"}
    assert "parameters" not in answer["outputs"][0]


def test_data_may_be_nested(ask):
    rows = [[1, 2], [3, 4], [5, 6]]
    body = infer(tensor(rows, (3, 2), "INT64"))
    assert ask("POST", "/v2/models/churn/infer", body).json["outputs"][0]["data"] == [3, 7, 11]


def test_a_version_in_the_path_bypasses_the_split(server, ask):
    server.route(canary={"v2": 1.0})
    answer = ask("POST", "/v2/models/churn/infer", infer()).json
    assert (answer["model_version"], answer["parameters"]["arm"]) == ("v2", "canary")
    answer = ask("POST", "/v2/models/churn/versions/v1/infer", infer()).json
    assert (answer["model_version"], answer["parameters"]["arm"]) == ("v1", "pinned")
    assert answer["outputs"][0]["data"] == [3.0]


def test_the_split_sticks_to_a_key_in_a_header_or_a_parameter(server, ask):
    server.route(canary={"v2": 0.5})
    by_key = {}
    for user in map(str, range(40)):
        headers = {"X-Routing-Key": user}
        asked = [
            ask("POST", "/v2/models/churn/infer", infer(), headers=headers),
            ask("POST", "/v2/models/churn/infer", infer(parameters={"routing_key": user})),
            ask("POST", "/v2/models/churn/infer", infer(parameters={"routing_key": int(user)})),
        ]
        versions = {answer.json["model_version"] for answer in asked}
        route = server.resolve(key=user)
        route.release()
        assert versions == {route.version}
        by_key[user] = versions.pop()
    assert set(by_key.values()) == {"v1", "v2"}


def test_where_the_key_stands_may_be_set(server):
    server.route(canary={"v2": 0.5})
    app = open_inference_app(server, key_header="X-User", key_parameter="user")
    with Driver(app) as ask:
        for user in map(str, range(20)):
            one = ask("POST", "/v2/models/churn/infer", infer(), headers={"x-user": user})
            two = ask("POST", "/v2/models/churn/infer", infer(parameters={"user": user}))
            assert one.json["model_version"] == two.json["model_version"]


def test_headers_may_override_the_split(server, ask):
    server.route(overrides={"x-arm": {"canary": "v2"}})
    answer = ask("POST", "/v2/models/churn/infer", infer(), headers={"X-Arm": "canary"}).json
    assert (answer["model_version"], answer["parameters"]["arm"]) == ("v2", "override")
    assert ask("POST", "/v2/models/churn/infer", infer()).json["model_version"] == "v1"


def test_several_models_live_side_by_side():
    app = open_inference_app({"a": served("one"), "b": Endpoint(Summing(10.0))})
    with Driver(app) as ask:
        assert ask("POST", "/v2/models/a/infer", infer()).json["model_name"] == "a"
        answer = ask("POST", "/v2/models/b/infer", infer()).json
        assert (answer["model_name"], answer["model_version"]) == ("b", "1")
        assert answer["outputs"][0]["data"] == [30.0]


# -- outputs ------------------------------------------------------------------------------


class Both:
    def predict(self, rows):
        return {"sum": rows.sum(axis=1), "label": ["odd" if row[0] % 2 else "even" for row in rows]}


def test_outputs_are_those_asked_for_in_their_order():
    with Driver(open_inference_app({"m": Both()})) as ask:
        whole = ask("POST", "/v2/models/m/infer", infer()).json["outputs"]
        assert [output["name"] for output in whole] == ["sum", "label"]
        wanted = infer(outputs=[{"name": "label"}, {"name": "sum"}])
        asked = ask("POST", "/v2/models/m/infer", wanted).json["outputs"]
        assert asked == whole[::-1]
        unknown = ask("POST", "/v2/models/m/infer", infer(outputs=[{"name": "nope"}]))
        assert (unknown.status, unknown.error) == (
            400,
            "there is no output 'nope'; there is sum, label",
        )


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("INT16", [-32768, 32767]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 65535]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("FP16", [0.5, 65504.0]),
        ("FP32", [0.1, 3e38]),
        ("FP64", [0.1, 1e308]),
        ("BYTES", ["", "naïve"]),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_every_datatype_goes_in_and_comes_out(datatype, values, binary):
    echo = Endpoint(lambda rows: rows, mapping=Tabular(rows="array"))
    with Driver(open_inference_app({"echo": echo})) as ask:
        body = infer(tensor(values, (2, 1), datatype), parameters={"binary_data_output": binary})
        answer = ask("POST", "/v2/models/echo/infer", body)
        assert answer.status == 200, answer.body
        if not binary:
            output = answer.json["outputs"][0]
            assert (output["datatype"], output["shape"]) == (datatype, [2, 1])
            kind = {"FP16": np.float16, "FP32": np.float32}.get(datatype)
            assert output["data"] == (values if kind is None else kind(values).tolist())
            return
        header, raw = split(answer)
        output = header["outputs"][0]
        assert output["parameters"] == {"binary_data_size": len(raw)}
        again = {"name": "x", "shape": [2, 1], "datatype": datatype}
        again["parameters"] = {"binary_data_size": len(raw)}
        back = binary_ask(ask, "/v2/models/echo/infer", infer(again), raw)
        assert back.json["outputs"][0]["data"] == ask_json(ask, values, datatype)


def ask_json(ask, values, datatype):
    body = infer(tensor(values, (2, 1), datatype))
    return ask("POST", "/v2/models/echo/infer", body).json["outputs"][0]["data"]


def split(answer):
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.body[:length]), answer.body[length:]


def binary_ask(ask, path, body, raw, length=None, **headers):
    header = json.dumps(body).encode()
    size = len(header) if length is None else length
    headers |= {"Inference-Header-Content-Length": str(size)}
    return ask("POST", path, header + raw, headers=headers)


# -- the binary extension -----------------------------------------------------------------


def binary_tensor(array, name="x", datatype="FP32"):
    size = array.nbytes
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": size},
    }


def test_binary_tensors_follow_in_the_order_of_the_inputs(ask):
    one = np.array([[1], [2]], np.float32)
    body = infer(binary_tensor(one, "a"), tensor([5, 6], (2, 1), name="b"), binary_tensor(one, "c"))
    with Driver(open_inference_app({"rows": lambda row: row["a"] * row["b"] + row["c"]})) as rows:
        answer = binary_ask(rows, "/v2/models/rows/infer", body, one.tobytes() * 2)
        assert answer.json["outputs"][0]["data"] == [6.0, 14.0]


def test_an_output_is_binary_when_it_is_asked_to_be():
    with Driver(open_inference_app({"m": Both()})) as ask:
        wanted = [
            {"name": "sum", "parameters": {"binary_data": True}},
            {"name": "label", "parameters": {"binary_data": False}},
        ]
        header, raw = split(ask("POST", "/v2/models/m/infer", infer(outputs=wanted)))
        assert raw == struct.pack("<d", 3.0)
        assert header["outputs"][1]["data"] == ["odd"]
        # The output's own word goes before the request's.
        body = infer(outputs=wanted, parameters={"binary_data_output": True})
        assert split(ask("POST", "/v2/models/m/infer", body)) == (header, raw)
        # Without names all are binary.
        body = infer(parameters={"binary_data_output": True})
        header, raw = split(ask("POST", "/v2/models/m/infer", body))
        assert raw == struct.pack("<d", 3.0) + struct.pack("<I", 3) + b"odd"
        assert all("data" not in output for output in header["outputs"])


def test_bf16_comes_in_binary():
    echo = Endpoint(lambda rows: rows, outputs=[TensorSpec("y", "BF16", (-1, 1))])
    raw = struct.pack("<HH", 0x3F80, 0xC000)
    spec = {"name": "x", "shape": [2, 1], "datatype": "BF16"}
    spec["parameters"] = {"binary_data_size": 4}
    with Driver(open_inference_app({"echo": echo})) as ask:
        body = infer(spec, parameters={"binary_data_output": True})
        header, back = split(binary_ask(ask, "/v2/models/echo/infer", body, raw))
        assert header["outputs"][0]["datatype"] == "BF16"
        assert back == raw
        assert "BF16" in binary_ask(ask, "/v2/models/echo/infer", infer(spec), raw).error


@pytest.mark.parametrize(
    ("change", "raw", "says"),
    [
        ({}, b"\0" * 7, "7 bytes are there"),
        ({}, b"\0" * 9, "1 bytes at the end"),
        ({"shape": [1, 3]}, b"\0" * 8, "means 12"),
        ({"parameters": {}}, b"\0" * 8, "no data and no binary_data_size"),
        ({"parameters": {"binary_data_size": -1}}, b"\0" * 8, "binary_data_size is -1"),
        ({"parameters": {"binary_data_size": True}}, b"\0" * 8, "binary_data_size is True"),
        ({"parameters": {"binary_data_size": "8"}}, b"\0" * 8, "binary_data_size is '8'"),
        ({"data": [1, 2]}, b"\0" * 8, "in JSON and in binary"),
        ({"datatype": "BYTES"}, b"\0" * 8, None),
        ({"datatype": "BYTES"}, b"\xff" * 8, "each behind its length"),
        ({"datatype": "BYTES", "shape": [2**40]}, b"\0" * 8, "each behind its length"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(ask, change, raw, says):
    body = infer(binary_tensor(np.zeros((1, 2), np.float32)) | change)
    answer = binary_ask(ask, "/v2/models/churn/infer", body, raw)
    if says is None:
        assert answer.status != 400 or "length" not in answer.error
        return
    assert answer.status == 400
    assert says in answer.error


def test_the_length_of_the_json_part_is_checked(ask):
    body = infer(binary_tensor(np.zeros((1, 2), np.float32)))
    for length in ("1000000", "-1", "x", "1.0", ""):
        answer = binary_ask(ask, "/v2/models/churn/infer", body, b"\0" * 8, length)
        assert answer.status == 400


# -- HTTP ---------------------------------------------------------------------------------


def test_no_content_type_is_needed_and_any_is_taken(ask):
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json"}):
        assert ask("POST", "/v2/models/churn/infer", infer(), headers=headers).status == 200


def test_a_body_may_come_in_pieces(ask):
    for pieces in (1, 2, 7, 1000):
        assert ask("POST", "/v2/models/churn/infer", infer(), pieces=pieces).status == 200


def test_a_body_may_be_compressed(ask):
    body = json.dumps(infer()).encode()
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        headers = {"content-encoding": encoding}
        assert ask("POST", "/v2/models/churn/infer", packed, headers=headers).status == 200
        torn = ask("POST", "/v2/models/churn/infer", packed[:-9], headers=headers)
        assert torn.status == 400
        junk = ask("POST", "/v2/models/churn/infer", body, headers=headers)
        assert junk.error == f"the body is not {encoding}"
    answer = ask("POST", "/v2/models/churn/infer", body, headers={"content-encoding": "br"})
    assert answer.status == 415
    assert "gzip" in answer.headers["accept-encoding"]


def test_a_bomb_is_not_blown_up(server):
    bomb = gzip.compress(bytes(10_000_000))
    with Driver(open_inference_app(server, max_body=100_000)) as ask:
        headers = {"content-encoding": "gzip"}
        tracemalloc.start()
        try:
            assert ask("POST", "/v2/models/churn/infer", bomb, headers=headers).status == 413
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()


def test_a_large_body_is_refused_before_it_is_read(server):
    with Driver(open_inference_app(server, max_body="1 kB")) as ask:
        huge = {"content-length": "1001"}
        answer = ask("POST", "/v2/models/churn/infer", b"", headers=huge)
        assert (answer.status, answer.error) == (
            413,
            "the body is larger than the 1000 bytes allowed",
        )
        for pieces in (1, 50):
            answer = ask("POST", "/v2/models/churn/infer", b" " * 1001, pieces=pieces)
            assert answer.status == 413
        assert ask("POST", "/v2/models/churn/infer", infer()).status == 200


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "+1", "1_0", "", "9" * 19, "3"])
def test_a_bad_content_length_is_refused(ask, length):
    body = infer()
    answer = ask("POST", "/v2/models/churn/infer", body, headers={"content-length": length})
    assert answer.status in {400, 413}
    assert answer.error


def test_head_is_get_without_the_body(ask):
    for path in ("/v2", "/v2/health/ready", "/v2/models/churn", "/metrics", "/openapi.json"):
        whole, head = ask("GET", path), ask("HEAD", path)
        assert head.status == 200
        assert head.headers == whole.headers
    assert ask("HEAD", "/v2/models/none").status == 404
    assert ask("HEAD", "/v2/models/churn/infer").status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1",
        "/v2/health",
        "/v2/health/lively",
        "/v2/models",
        "/v2/models/churn/nope",
        "/v2/models/churn/versions",
        "/v2/models/churn/versions/v1/nope",
        "/v2/models/churn/infer/more",
        "/v2//models/churn/infer",
        "/v2/repository",
        "/v2/repository/models/churn/versions/v1/load",
        "/docs",
    ],
)
def test_other_paths_are_not_there(ask, path):
    for method in ("GET", "POST", "OPTIONS"):
        assert ask(method, path).status == 404
        assert ask(method, path).error == "there is nothing at this path"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ODD"])
def test_other_methods_are_not_allowed(ask, method):
    answer = ask(method, "/v2/models/churn/infer")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.error == f"{method} is not allowed here, POST is"
    answer = ask("POST", "/v2/health/live")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_the_application_may_be_mounted_below_a_path(server):
    with Driver(open_inference_app(server), root_path="/api/models") as ask:
        assert ask("POST", "/v2/models/churn/infer", infer()).status == 200
        assert ask("GET", "/v2/health/live").status == 200


@pytest.mark.parametrize("root", ["/v", "/v2", "/v2/health/live/more", "/api"])
def test_a_server_may_leave_the_path_of_the_mount_out(server, root):
    sent = []

    async def send(event):
        sent.append(event)

    scope = {"type": "http", "method": "GET", "path": "/v2/health/live", "headers": []}
    asyncio.run(open_inference_app(server)({**scope, "root_path": root}, None, send))
    # Below "/v2" the path is another one; to be part of a word is not to be below.
    assert sent[0]["status"] == (404 if root == "/v2" else 200)


def test_a_client_that_goes_away_gets_no_answer_and_breaks_nothing(ask, server):
    assert ask("POST", "/v2/models/churn/infer", infer(), pieces=3, gone=True) is None
    assert ask("POST", "/v2/models/churn/infer", infer(), gone=True) is None
    assert server.in_flight == {"v1": 0, "v2": 0}
    assert ask("POST", "/v2/models/churn/infer", infer()).status == 200


def test_a_client_that_goes_away_before_its_reply_breaks_nothing(server):
    app = open_inference_app(server)

    async def receive():
        return {"type": "http.request", "body": json.dumps(infer()).encode()}

    async def send(event):
        raise OSError("gone")

    scope = {"type": "http", "method": "POST", "path": "/v2/models/churn/infer", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert server.in_flight == {"v1": 0, "v2": 0}


async def talk(app, kind, *events):
    waiting, sent = list(events), []

    async def receive():
        return {"type": waiting.pop(0)}

    async def send(event):
        sent.append(event)

    await app({"type": kind}, receive, send)
    return sent


def test_lifespan_and_websocket(server):
    app = open_inference_app(server)
    told = asyncio.run(talk(app, "lifespan", "lifespan.startup", "lifespan.shutdown"))
    assert [event["type"] for event in told] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    told = asyncio.run(talk(app, "websocket", "websocket.connect"))
    assert [event["type"] for event in told] == ["websocket.close"]
    with pytest.raises(Exception, match="not served"):
        asyncio.run(talk(app, "carrier pigeon"))


# -- a server that belongs to a fleet -------------------------------------------------------


def test_the_lifespan_starts_and_closes_the_fleets(server):
    store = MemoryStore()
    fleets = [ServingFleet(served(name), store=store, name=name, events=Stream()) for name in "ab"]
    app = open_inference_app({f.name: f.server for f in fleets}, fleets=fleets)

    async def serve():
        states = []

        async def receive():
            states.append([fleet.snapshot().condition for fleet in fleets])
            return {"type": ("lifespan.startup", "lifespan.shutdown")[len(states) - 1]}

        async def send(event):
            states[-1].append(event["type"])

        await app({"type": "lifespan"}, receive, send)
        return states

    assert asyncio.run(serve()) == [
        ["not started", "not started", "lifespan.startup.complete"],
        ["connected", "connected", "lifespan.shutdown.complete"],
    ]
    assert [fleet.snapshot().condition for fleet in fleets] == ["closed", "closed"]


def test_a_fleet_that_cannot_start_stops_the_server(server, caplog):
    fleet = ServingFleet(server, store="memory://", events=Stream())
    fleet.close()
    app = open_inference_app(server, fleets=[fleet])
    told = asyncio.run(talk(app, "lifespan", "lifespan.startup", "lifespan.shutdown"))
    assert told[0]["type"] == "lifespan.startup.failed"
    assert told[0]["message"].startswith("fleet 'churn' does not start: this fleet is closed")
    assert "does not start" in caplog.text


def test_a_request_is_answered_by_the_newest_table_of_its_host(server, tmp_path):
    quiet = {"folder": tmp_path, "poll": 60.0, "ttl": 100.0, "events": Stream()}
    fleet = ServingFleet(server, **quiet)
    app = open_inference_app(server, fleets=[fleet])
    with fleet, ServingFleet(name="churn", **quiet) as console, Driver(app) as ask:
        # Deaf, so that only the request itself can find out.
        fleet._worker.turn = lambda ears, rung: 60.0
        for version in ("v2", "v1", "v2"):
            console.promote(version)
            answer = ask("POST", "/v2/models/churn/infer", infer())
            assert answer.json["model_version"] == version


def test_fleets_are_a_list(server):
    with pytest.raises(BadConfiguration, match=r"fleets=\[fleet\]"):
        open_inference_app(server, fleets=ServingFleet(server, store="memory://"))


def test_it_needs_nothing_but_numpy_and_msgspec():
    code = """
import asyncio, json, sys
from prodml.integrations.open_inference import open_inference_app
app = open_inference_app({"m": lambda rows: rows.sum(axis=1)}, batcher={})
tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
body = json.dumps({"inputs": [tensor]}).encode()
async def receive():
    return {"type": "http.request", "body": body}
async def send(event):
    assert event.get("status", 200) == 200
scope = {"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": []}
asyncio.run(app(scope, receive, send))
tops = {name.partition(".")[0] for name in sys.modules}
known = set(sys.stdlib_module_names) | set(sys.builtin_module_names)
print(*sorted(top for top in tops - known if not top.startswith("_")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # What numpy and msgspec bring along is theirs, and what an installation runs at its start.
    others = {"cython_runtime", "prodml", "typing_extensions", "sitecustomize", "usercustomize"}
    third = set(done.stdout.split()) - others
    assert third == {"msgspec", "numpy"}
