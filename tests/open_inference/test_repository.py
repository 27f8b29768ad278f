"""The extension that lists, loads and unloads models."""

import asyncio
import base64
import threading

import pytest

from prodml.errors import BadConfiguration
from prodml.integrations.open_inference import Endpoint, open_inference_app
from tests.open_inference.driver import Driver, Summing, infer, served

INDEX = "/v2/repository/index"
LOAD, UNLOAD = "/v2/repository/models/{}/load", "/v2/repository/models/{}/unload"


def test_the_index_lists_every_version():
    app = open_inference_app({"a": served("one", v1=Summing(), v2=Summing()), "b": Summing()})
    expected = [
        {"name": "a", "version": "v1", "state": "READY", "reason": ""},
        {"name": "a", "version": "v2", "state": "READY", "reason": ""},
        {"name": "b", "version": "1", "state": "READY", "reason": ""},
    ]
    with Driver(app) as ask:
        for body in (b"", b"{}", b'{"ready": true}', b'{"ready": false}'):
            assert ask("POST", INDEX, body).json == expected
        for body in (b"x", b"[]", b'{"ready": 1}'):
            assert ask("POST", INDEX, body).status == 400


def test_a_version_that_drains_is_listed_as_such():
    server = served("m", v1=Summing(), v2=Summing())
    begun = threading.Event()

    def unload():
        begun.set()
        server.unload_model("v2", timeout=20.0)

    drained = threading.Thread(target=unload)
    with Driver(open_inference_app(server)) as ask:
        with server.lease("v2"):
            drained.start()
            begun.wait(20)
            while server.states["v2"] == "ready":
                drained.join(0.001)
            listed = ask("POST", INDEX).json
            assert listed[1] == {"name": "m", "version": "v2", "state": "UNLOADING", "reason": ""}
            assert len(ask("POST", INDEX, {"ready": True}).json) == 1
        drained.join(20)
        assert len(ask("POST", INDEX).json) == 1


def test_loading_is_off_unless_there_is_a_loader():
    with Driver(open_inference_app(served("m"))) as ask:
        for path in (LOAD.format("m"), UNLOAD.format("m")):
            answer = ask("POST", path)
            assert answer.status == 403
            assert "switched off" in answer.error
        assert ask("POST", "/v2/models/m/infer", infer()).status == 200


def test_a_loader_makes_models_and_hears_the_parameters():
    heard = []

    def loader(name, parameters):
        heard.append((name, parameters, threading.current_thread() is threading.main_thread()))
        return Summing(float(parameters.get("factor", 1.0)))

    with Driver(open_inference_app({}, loader=loader)) as ask:
        assert ask("POST", LOAD.format("m")).json == {}
        assert ask("POST", "/v2/models/m/infer", infer()).json["outputs"][0]["data"] == [3.0]
        weights = base64.b64encode(b"weights").decode()
        body = {"parameters": {"factor": 2, "config": "{}", "file:1/model": weights}}
        assert ask("POST", LOAD.format("m"), body).status == 200
        assert ask("POST", "/v2/models/m/infer", infer()).json["outputs"][0]["data"] == [6.0]
        assert ask("POST", INDEX).json[0]["state"] == "READY"
        for bad in (b"x", {"parameters": 1}, {"parameters": {"a": [1]}}):
            assert ask("POST", LOAD.format("m"), bad).status == 400
    assert heard == [("m", {}, False), ("m", body["parameters"], False)]


def test_a_loader_may_load_a_version_into_the_server_that_is_there():
    server = served("m")

    def loader(name, parameters):
        server.load_model(str(parameters["version"]), Summing(10.0))
        server.set_default_version(str(parameters["version"]))

    with Driver(open_inference_app(server, loader=loader)) as ask:
        ask("POST", LOAD.format("m"), {"parameters": {"version": "v2"}})
        answer = ask("POST", "/v2/models/m/infer", infer()).json
    assert (answer["model_version"], answer["outputs"][0]["data"]) == ("v2", [30.0])


def test_a_loader_that_fails_changes_nothing(caplog):
    def loader(name, parameters):
        raise OSError("no such file: /secret")

    with Driver(open_inference_app(served("m"), loader=loader)) as ask:
        for name in ("m", "other"):
            answer = ask("POST", LOAD.format(name))
            assert answer.status == 500
            assert "secret" not in answer.error
        assert ask("POST", "/v2/models/m/infer", infer()).status == 200
        assert len(ask("POST", INDEX).json) == 1
    assert "/secret" in caplog.text


def test_unloading_lets_those_inside_end_and_tells_the_unloader():
    told = []
    app = open_inference_app(
        served("m"), loader=lambda *_: Endpoint(Summing(7.0)), unloader=lambda *a: told.append(a)
    )
    endpoint = app.repository["m"]
    with Driver(app) as ask:
        assert (
            ask("POST", UNLOAD.format("m"), {"parameters": {"unload_dependents": True}}).status
            == 200
        )
        assert told == [("m", endpoint)]
        assert ask("POST", "/v2/models/m/infer", infer()).status == 404
        assert ask("GET", "/v2/health/ready").status == 503
        assert ask("POST", INDEX).json == [
            {"name": "m", "state": "UNAVAILABLE", "reason": "unloaded"}
        ]
        assert ask("POST", UNLOAD.format("m")).status == 404
        assert ask("POST", LOAD.format("m")).status == 200
        assert ask("POST", "/v2/models/m/infer", infer()).json["outputs"][0]["data"] == [21.0]
        assert ask("POST", UNLOAD.format("m"), b"x").status == 400


def test_an_unloader_that_fails_leaves_no_threads(caplog):
    def unloader(name, endpoint):
        raise OSError("disk")

    endpoint = Endpoint(served("m"), threads=1)
    app = open_inference_app({"m": endpoint}, loader=lambda *_: None, unloader=unloader)
    with Driver(app) as ask:
        assert ask("POST", "/v2/models/m/infer", infer()).status == 200
        assert ask("POST", "/v2/repository/models/m/unload").status == 500
    assert endpoint._threads._pool is None
    assert "disk" in caplog.text


def test_one_model_is_moved_once_at_a_time_and_others_go_on():
    begun, go_on = threading.Event(), threading.Event()

    def loader(name, parameters):
        begun.set()
        assert go_on.wait(20)
        return Summing()

    async def main(ask):
        loading = asyncio.ensure_future(ask.ask("POST", LOAD.format("new")))
        await asyncio.to_thread(begun.wait, 20)
        listed = await ask.ask("POST", INDEX)
        twice = await ask.ask("POST", LOAD.format("new"))
        answered = await ask.ask("POST", "/v2/models/m/infer", infer())
        go_on.set()
        return listed.json[1], twice, answered.status, (await loading).status

    with Driver(open_inference_app(served("m"), loader=loader)) as ask:
        listed, twice, answered, loaded = ask.run(main(ask))
    assert listed == {"name": "new", "state": "LOADING", "reason": ""}
    assert (twice.status, twice.error) == (409, "model 'new' is loading already")
    assert (answered, loaded) == (200, 200)


def test_a_loader_that_makes_no_model_is_told():
    with Driver(open_inference_app({}, loader=lambda *_: 3)) as ask:
        assert ask("POST", LOAD.format("m")).status == 500
    with pytest.raises(BadConfiguration):
        open_inference_app({"m": 3})
