"""The adapter for Ray Serve in a real cluster of one machine (``nox -s clients``)."""

import json
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

INFER = "http://127.0.0.1:8000/v2/models/churn/infer"


def ask():
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    request = Request(INFER, json.dumps({"inputs": [tensor]}).encode())
    with urlopen(request, timeout=30) as reply:
        return json.loads(reply.read())


def deploy(**config):
    """What ``serve deploy`` does with its file."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    application = {
        "name": "churn",
        "route_prefix": "/",
        "import_path": "examples.adapters.ray_serve:deployment",
        "args": {"version": "v1", "factor": 1.0},
        "deployments": [{"name": "Replica", "user_config": config}],
    }
    schema = ServeDeploySchema.model_validate({"applications": [application]})
    _get_global_client().deploy_apps(schema)


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False)
    serve.start()
    yield
    serve.shutdown()
    ray.shutdown()


def within(seconds, true):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.2)


def answers():
    try:
        return bool(ask())
    except (HTTPError, OSError):
        return False


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("cluster")
def test_a_change_of_the_configuration_swaps_without_a_pause():
    deploy(version="v1", factor=1.0)
    within(90, answers)
    seen, gaps, over = [], [], threading.Event()

    def client():
        last = time.monotonic()
        while not over.is_set():
            seen.append(ask()["model_version"])
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=client)
    thread.start()
    try:
        within(30, lambda: seen)
        deploy(version="v2", factor=2.0)
        within(60, lambda: seen[-1] == "v2")
    finally:
        over.set()
        thread.join(60)
    assert ask()["outputs"][0]["data"] == [6.0]
    assert seen == sorted(seen)
    # Another replica would have taken seconds to start.
    assert max(gaps) < 2.0
