"""Schemathesis against the application's own OpenAPI document (``nox -s clients``)."""

import pytest
from hypothesis import HealthCheck, settings

from tests.open_inference.zoo import zoo

schemathesis = pytest.importorskip("schemathesis")

APP = zoo()
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)
# A tensor's data must fit its shape and datatype, which no JSON Schema can say: a body that
# fits the schema may still be refused, in the right form.
SAID_IN_WORDS = (
    [schemathesis.checks.positive_data_acceptance]
    if hasattr(schemathesis.checks, "positive_data_acceptance")
    else []
)


@schema.parametrize()
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_reply_is_as_the_document_says(case):
    response = case.call()
    case.validate_response(response, excluded_checks=SAID_IN_WORDS)
    if response.status_code >= 400:
        assert isinstance(response.json()["error"], str)
