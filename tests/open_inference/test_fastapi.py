"""Inside a FastAPI application: behind its dependencies, below its paths, beside its handlers."""

import json

import numpy as np
import pytest

from prodml import PredictionService
from prodml.errors import InvalidFeatures, RateLimited
from prodml.events import Stream
from prodml.integrations.fastapi import add_error_handlers, open_inference_router, reply_of
from prodml.integrations.open_inference import open_inference_app
from prodml.types import MISS, Prediction
from tests.open_inference.driver import Driver, infer, served

fastapi = pytest.importorskip("fastapi")
Depends, FastAPI, Header, HTTPException = (
    fastapi.Depends,
    fastapi.FastAPI,
    fastapi.Header,
    fastapi.HTTPException,
)


@pytest.mark.parametrize("prefix", ["", "/models", "/v2/v2"])
def test_the_router_answers_below_any_prefix(prefix):
    app = FastAPI()
    app.include_router(open_inference_router(served()), prefix=prefix)
    with Driver(app) as ask:
        answer = ask("POST", f"{prefix}/v2/models/churn/infer", infer(id="7"))
        assert (answer.status, answer.json["id"]) == (200, "7")
        assert ask("GET", f"{prefix}/v2").json["name"] == "prodml"
        assert ask("GET", f"{prefix}/v2/health/ready").json == {"live": True, "ready": True}
        assert ask("HEAD", f"{prefix}/v2/health/ready").status == 200
        for path, status in (("/v2/models/none", 404), ("/v2/nothing", 404)):
            answer = ask("GET", prefix + path)
            assert (answer.status, set(answer.json)) == (status, {"error"})
        answer = ask("TRACE", f"{prefix}/v2/models/churn/infer")
        assert (answer.status, set(answer.json)) == (405, {"error"})
        assert ask("POST", f"{prefix}/v2/models/churn/infer", b"{").status == 400
        assert ask("GET", "/elsewhere").json == {"detail": "Not Found"}


def test_a_mounted_application_answers_too():
    app = FastAPI()
    app.mount("/oip", open_inference_app(served()))
    with Driver(app) as ask:
        assert ask("POST", "/oip/v2/models/churn/infer", infer()).status == 200
        assert "requests_total" in ask("GET", "/oip/metrics").body.decode()


def test_dependencies_hold_and_are_told_in_the_protocols_words():
    def signed_in(x_token: str = Header()):
        if x_token != "yes":
            raise HTTPException(401, "who are you?", {"www-authenticate": "Bearer"})

    app = FastAPI()
    app.include_router(open_inference_router(served()), dependencies=[Depends(signed_in)])
    with Driver(app) as ask:
        path = "/v2/models/churn/infer"
        assert ask("POST", path, infer(), headers={"x-token": "yes"}).status == 200
        refused = ask("POST", path, infer(), headers={"x-token": "no"})
        assert (refused.status, refused.error) == (401, "who are you?")
        assert refused.headers["www-authenticate"] == "Bearer"


def test_a_request_that_a_dependency_cannot_read_is_told_in_the_protocols_words():
    def signed_in(x_token: str = Header(), x_shop: int = Header()): ...

    app = FastAPI()
    app.include_router(open_inference_router(served()), dependencies=[Depends(signed_in)])
    with Driver(app) as ask:
        refused = ask("GET", "/v2", headers={"x-shop": "one"})
        assert refused.status == 422
        assert refused.error.startswith("header x-token: Field required; header x-shop: ")


def test_a_name_of_any_script_is_found_or_not():
    app = FastAPI()
    app.include_router(open_inference_router(served("模型")))
    with Driver(app) as ask:
        assert ask("POST", "/v2/models/模型/infer", infer()).json["model_name"] == "模型"
        refused = ask("GET", "/v2/models/✓")
        assert (refused.status, refused.error) == (404, "there is no model '✓'")


def test_settings_and_an_application_that_is_made_already():
    app = FastAPI()
    app.include_router(open_inference_router(served(), name="shop", max_body=10))
    app.include_router(open_inference_router(open_inference_app(served("b"))), prefix="/b")
    with Driver(app) as ask:
        assert ask("GET", "/v2").json["name"] == "shop"
        assert ask("POST", "/v2/models/churn/infer", infer()).status == 413
        assert ask("POST", "/b/v2/models/b/infer", infer()).status == 200


def handlers():
    service = PredictionService(lambda row: 10 / row["x"], events=Stream(), version="v7")
    app = FastAPI()
    add_error_handlers(app)

    @app.post("/predict")
    async def predict(row: dict[str, float]) -> dict[str, object]:
        if row["x"] < 0:
            raise InvalidFeatures(["x: below 0"])
        if row["x"] > 100:
            raise RateLimited("limit", 7.0)
        return reply_of(await service.apredict(row))

    return app


def test_handlers_of_ones_own():
    with Driver(handlers()) as ask:
        told = ask("POST", "/predict", {"x": 4}, headers={"content-type": "application/json"}).json
        assert (told["value"], told["model_version"], told["degraded"]) == (2.5, "v7", False)
        refused = ask("POST", "/predict", {"x": -1}, headers={"content-type": "application/json"})
        assert (refused.status, refused.error) == (400, "x: below 0")
        later = ask("POST", "/predict", {"x": 101}, headers={"content-type": "application/json"})
        assert (later.status, later.headers["retry-after"]) == (429, "7")


def test_a_reply_is_fit_for_json():
    value = {"a": np.arange(2), "b": [np.float32(0.5), (1, "x")], "c": None}
    told = reply_of(Prediction(value, "r1", "v2", "cache", cached=True))
    assert json.loads(json.dumps(told)) == {
        "request_id": "r1",
        "value": {"a": [0, 1], "b": [0.5, [1, "x"]], "c": None},
        "model_version": "v2",
        "source": "cache",
        "degraded": False,
        "cached": True,
        "latency_ms": 0.0,
    }


def test_a_number_that_json_has_no_word_for_is_none():
    value = {"a": np.array([[np.nan, 1.0], [np.inf, 2.0]]), "b": np.float32("-inf"), "c": [np.nan]}
    told = reply_of(Prediction(value, "r1", "v2"))
    json.dumps(told, allow_nan=False)
    assert told["value"] == {"a": [[None, 1.0], [None, 2.0]], "b": None, "c": [None]}


def test_a_failed_row_says_why_and_no_more():
    failed = Prediction(MISS, "b", source="failed", errors=(ZeroDivisionError("a secret"),))
    bad = reply_of(failed)
    assert bad == {
        "request_id": "b",
        "error": "the prediction failed; its error is in the log of the server",
        "status": 500,
    }
