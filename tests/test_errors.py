import inspect
import pickle

import pytest

from prodml import errors
from prodml.errors import AllFallbacksFailed, InvalidFeatures, ProdmlError, UnknownVersion

SAMPLES = {
    "AllFallbacksFailed": ("ladder", [ValueError("a")]),
    "BulkheadFull": ("pool", 3),
    "CircuitOpen": ("db", 2.5),
    "Conflict": ("key", 1, 2),
    "CorruptRecord": ("file", "short"),
    "DeadlineExceeded": ("predict", 0.5),
    "DrainTimeout": ("churn", "v1", 2, 30.0),
    "GoldenMismatch": ("1 of 2 golden rows answered otherwise", ()),
    "ChallengerRejected": ("fraud-1", "brier"),
    "JobFailed": ("fraud-1", "no data"),
    "InvalidFeatures": (["age < 0", "fare missing"],),
    "LeaseLost": ("job", 7),
    "Overloaded": ("batcher", 0.2, 0.1, 7, 0.05),
    "RateLimited": ("api", 0.1),
    "RejectedAnswer": ("NaN", float("inf")),
    "StaleFeatures": ("clicks", 90.0, 60.0),
    "StoreUnavailable": ("redis", "refused"),
    "WriteRefused": ("redis", "OOM command not allowed"),
    "UnknownVersion": ("churn", "v9", ("v1", "v2")),
    "RetiredVersion": ("churn", "1", ("7",)),
    "UntrustedModel": ("churn@1", "signed by nobody"),
    "EnvironmentMismatch": ("churn@1", ("numpy 1, here 2",)),
}
ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", ALL)
def test_every_error_pickles_and_keeps_its_attributes_and_sentence(cls):
    error = cls(*SAMPLES.get(cls.__name__, ("some reason",)))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert str(error)
    if not isinstance(error, AllFallbacksFailed):
        assert vars(again) == vars(error)


def test_every_error_is_in_the_tree_and_the_tree_in_the_docstring():
    assert all(issubclass(cls, ProdmlError) for cls in ALL)
    assert all(cls.__name__ in errors.__doc__ for cls in ALL)
    defined = {
        n for n, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)


def test_a_group_of_fallback_errors_splits_and_keeps_its_type():
    group = AllFallbacksFailed("ladder", [ValueError("a"), KeyError("b")])
    values, rest = group.split(ValueError)
    assert isinstance(values, AllFallbacksFailed)
    assert [type(e) for e in rest.exceptions] == [KeyError]


def test_own_errors_are_what_their_builtin_kin_are():
    assert isinstance(UnknownVersion("m", "1"), LookupError)
    assert isinstance(InvalidFeatures([]), ValueError)
    assert str(InvalidFeatures([])) == "invalid features"
    assert "known: v1, v2" in str(UnknownVersion("m", "v9", ["v1", "v2"]))
