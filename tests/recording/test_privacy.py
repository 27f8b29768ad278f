import dataclasses
import os

import numpy as np
import pandas as pd
import pytest

from prodml.errors import BadConfiguration
from prodml.recording import PredictionLog, PredictionLogger, hashed

KEY = b"sixteen byte key"


def written(tmp_path, rule, features, prediction=0.5, metadata=None):
    with PredictionLogger(tmp_path, redact=rule) as log:
        log.log_prediction("r-1", features, prediction, "v1", 1.0, metadata)
        log.truth("r-1", {"ssn": "123-45"})
    return b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode()


@dataclasses.dataclass
class Person:
    age: int
    ssn: str


@pytest.mark.parametrize(
    "features",
    [
        {"age": 1, "ssn": "123-45"},
        {"a": [{"b": ({"ssn": "123-45"},)}]},
        {7: 1, "ssn": "123-45"},
        {"person": Person(41, "123-45")},
        Person(41, "123-45"),
        pd.DataFrame({"age": [1], "ssn": ["123-45"]}),
        {"x": np.array([{"ssn": "123-45"}], dtype=object)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_named_field_is_written_at_no_depth(tmp_path, features):
    assert "123-45" not in written(tmp_path, ("ssn",), features)


def test_named_field_is_left_out_of_every_part(tmp_path):
    text = written(tmp_path, ["ssn"], {"x": 1}, {"ssn": "123-45"}, {"ssn": "123-45"})
    assert "123-45" not in text


def test_other_fields_stay(tmp_path):
    written(tmp_path, ("ssn",), {"age": 41, "ssn": 1, 7: float("inf")})
    assert PredictionLog(tmp_path).get("r-1").features == {"age": 41, 7: float("inf")}


def test_hashed_field_is_a_token_that_joins(tmp_path):
    with PredictionLogger(tmp_path, redact={"email": hashed(KEY)}) as log:
        for number in range(2):
            log.log_prediction(f"r-{number}", {"email": "ada@example.org"}, 1, "v1", 1.0)
    first, second = (record.features["email"] for record in PredictionLog(tmp_path))
    assert first == second == hashed(KEY)("ada@example.org")


def test_token_depends_on_key_value_and_type():
    token = hashed(KEY)
    assert len({token(1), token("1"), token(2), hashed(b"another key of 24 bytes!")(1)}) == 4


@pytest.mark.parametrize(("key", "size"), [(b"short", 16), (b"x" * 65, 16), (KEY, 4), (KEY, 65)])
def test_weak_hash_is_refused(key, size):
    with pytest.raises(BadConfiguration):
        hashed(key, size=size)


def test_function_sees_the_row_and_the_caller_keeps_its_own(tmp_path):
    features = {"age": 41, "ssn": "123-45"}
    text = written(tmp_path, lambda row: row and {"age": row["age"]}, features)
    assert '"features":{"age":41}' in text
    assert features == {"age": 41, "ssn": "123-45"}


def test_record_whose_redaction_fails_is_dropped_not_written(tmp_path):
    with PredictionLogger(tmp_path, redact={"ssn": lambda _: 1 / 0}) as log:
        assert not log.log_prediction("r-1", {"ssn": "123-45"}, 1, "v1", 1.0)
        assert log.stats().dropped == {"unserialisable": 1}
    assert all("123-45" not in path.read_text() for path in tmp_path.iterdir())


def test_no_rule_means_nothing_is_taken_out(tmp_path):
    assert "123-45" in written(tmp_path, (), {"ssn": "123-45"})
    assert os.listdir(tmp_path)
