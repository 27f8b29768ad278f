"""The adapters of the examples, as far as they go without the frameworks they are for."""

import sys

import pytest
from examples.adapters import kserve_predictor, ray_serve

from prodml.errors import UnknownVersion
from tests.open_inference.driver import Driver, infer


def test_they_import_without_their_frameworks():
    assert "kserve" not in sys.modules
    assert "ray" not in sys.modules


def test_the_container_of_kserve_is_the_application():
    with Driver(kserve_predictor.application()) as ask:
        assert ask("POST", "/v2/models/churn/infer", infer()).json["model_version"] == "v1"
        assert ask("GET", "/v2/health/ready").status == 200


@pytest.fixture
def fresh():
    ray_serve.server.cache_clear()
    yield
    ray_serve.server.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_replica_of_ray_swaps_in_place():
    replica = ray_serve.Replica()
    replica.reconfigure({"version": "v1", "factor": 1.0})
    with Driver(ray_serve.application()) as ask:
        assert ask("POST", "/v2/models/churn/infer", infer()).json["outputs"][0]["data"] == [3.0]
        for _ in range(2):  # Ray may repeat itself
            replica.reconfigure({"version": "v2", "factor": 2.0})
        answer = ask("POST", "/v2/models/churn/infer", infer()).json
        assert (answer["model_version"], answer["outputs"][0]["data"]) == ("v2", [6.0])
    assert ray_serve.server().versions == ("v2",)
    with pytest.raises(UnknownVersion):
        ray_serve.server().predict([], version="v1")
