"""The disk tier behind a real cache: answers and drops outlive the process."""

from prodml.cache import MISS, DiskTier, PredictionCache, cached_prediction


def answering(cache):
    calls = []

    @cached_prediction(cache, version="v1", function="double")
    def double(features):
        calls.append(features["n"])
        return features["n"] * 2

    return double, calls


def test_answers_are_there_after_a_restart(tmp_path):
    first = PredictionCache(disk=tmp_path / "cache.db")
    double, calls = answering(first)
    assert [double({"n": n}) for n in range(5)] == [0, 2, 4, 6, 8]
    first.close()
    second = PredictionCache(disk=DiskTier(tmp_path / "cache.db"))
    double, calls = answering(second)
    assert [double({"n": n}) for n in range(6)] == [0, 2, 4, 6, 8, 10]
    assert calls == [5]
    second.close()


def test_a_dropped_version_stays_dropped_after_a_restart(tmp_path):
    first = PredictionCache(disk=tmp_path / "cache.db")
    first.set({"n": 1}, "v1", 2.0)
    assert first.drop("v1")
    first.close()
    second = PredictionCache(disk=tmp_path / "cache.db")
    assert second.get({"n": 1}, "v1") is MISS
    second.close()


def test_a_file_that_cannot_be_used_costs_nothing_but_the_tier(tmp_path):
    (tmp_path / "cache.db").write_bytes(b"no database" * 1000)
    cache = PredictionCache(disk=tmp_path / "cache.db")
    double, _ = answering(cache)
    assert double({"n": 3}) == double({"n": 3}) == 6
    cache.close()
