import pytest

from prodml.errors import BadConfiguration
from prodml.recording import PredictionLogger


def logger(tmp_path, **settings):
    return PredictionLogger(tmp_path, **settings)


@pytest.mark.parametrize(
    ("text", "count"), [("64 MiB", 2**26), ("1.5 kB", 1500), (4096, 4096), ("2TiB", 2**41)]
)
def test_sizes_are_bytes_or_text(tmp_path, text, count):
    assert logger(tmp_path, max_record_bytes=text)._limit == count


@pytest.mark.parametrize(
    "settings",
    [
        {"segment_bytes": "64 parsecs"},
        {"segment_bytes": 0},
        {"segment_bytes": True},
        {"segment_bytes": None},
        {"max_record_bytes": 10},
        {"keep_bytes": -1},
        {"segment_seconds": 0},
        {"keep_seconds": "a week"},
        {"max_wait": None},
        {"max_wait": float("inf")},
        {"durability": "disk"},
        {"redact": "ssn"},
        {"redact": 7},
        {"redact": {"ssn": 7}},
        {"redact": (7,)},
    ],
    ids=str,
)
def test_senseless_setting_is_refused_by_name(tmp_path, settings):
    ((name, _),) = settings.items()
    with pytest.raises(BadConfiguration, match=name):
        logger(tmp_path, **settings)
