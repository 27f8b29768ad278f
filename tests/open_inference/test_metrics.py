"""The counters, and that Prometheus can read them."""

import re

from prodml.integrations.open_inference import open_inference_app
from prodml.integrations.open_inference.metrics import Metrics
from prodml.testing import ManualClock
from tests.open_inference.driver import Driver, Summing, infer, served

LINE = re.compile(r'(\w+)\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)')


def parsed(text):
    """Series by name and labels; checks the form on the way."""
    assert text.endswith("\n")
    types, series = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types
            types[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = LINE.fullmatch(line).groups()
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in types or types[base] == "histogram"
            key = name, tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)))
            assert key not in series
            series[key] = float(value)
    return series


def test_requests_are_counted_by_who_answered_and_how():
    server = served("m", v1=Summing(), v2=Summing())
    with Driver(open_inference_app(server)) as ask:
        for _ in range(3):
            ask("POST", "/v2/models/m/infer", infer())
        ask("POST", "/v2/models/m/versions/v2/infer", infer())
        ask("POST", "/v2/models/m/infer", b"x")
        ask("POST", "/v2/models/m/versions/v9/infer", infer())
        ask("POST", "/v2/models/nobody/infer", infer())
        answer = ask("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    series = parsed(answer.body.decode())
    name = "prodml_inference_requests_total"
    counted = {
        tuple(dict(labels)[label] for label in ("model", "version", "arm", "status")): value
        for (named, labels), value in series.items()
        if named == name
    }
    assert counted == {
        ("m", "v1", "stable", "200"): 3.0,
        ("m", "v2", "pinned", "200"): 1.0,
        ("m", "", "", "400"): 1.0,
        ("m", "", "", "404"): 1.0,
        ("", "", "", "404"): 1.0,
    }
    assert series["prodml_inference_seconds_count", (("model", "m"), ("version", "v1"))] == 3.0
    assert series["prodml_inference_in_flight", (("model", "m"), ("version", "v1"))] == 0.0
    assert series["prodml_model_ready", (("model", "m"),)] == 1.0


def test_latency_is_told_as_a_cumulative_histogram():
    clock = ManualClock()

    def slow(rows):
        clock.advance(0.02)
        return [1.0]

    with Driver(open_inference_app({"m": slow}, clock=clock)) as ask:
        for _ in range(4):
            ask("POST", "/v2/models/m/infer", infer())
        series = parsed(ask("GET", "/metrics").body.decode())
    labels = (("model", "m"), ("version", "1"))
    buckets = {
        dict(named)["le"]: value
        for (name, named), value in series.items()
        if name == "prodml_inference_seconds_bucket"
    }
    assert (buckets["0.01"], buckets["0.025"], buckets["10.0"], buckets["+Inf"]) == (0, 4, 4, 4)
    assert list(buckets.values()) == sorted(buckets.values())
    assert abs(series["prodml_inference_seconds_sum", labels] - 0.08) < 1e-9


def test_labels_are_escaped():
    metrics = Metrics()
    metrics.count('a"b\\c\nd', "v1", "stable", 503, 0.1)
    series = parsed(metrics.text({}))
    assert series["prodml_inference_shed_total", (("model", 'a\\"b\\\\c\\nd'),)] == 1.0


def test_a_client_cannot_make_series():
    with Driver(open_inference_app(served("m"))) as ask:
        ask("GET", "/metrics")
        for n in range(50):
            ask("POST", f"/v2/models/x{n}/infer", infer())
            ask("POST", f"/v2/models/m/versions/{n}/infer", infer())
        text = ask("GET", "/metrics").body.decode()
    assert len([line for line in text.splitlines() if "requests_total{" in line]) == 2


def test_metrics_and_document_can_be_switched_off():
    with Driver(open_inference_app(served("m"), metrics=False, openapi=False)) as ask:
        assert ask("GET", "/metrics").status == 404
        assert ask("GET", "/openapi.json").status == 404
