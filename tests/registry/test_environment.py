"""What a model was registered with, and what a load says about other versions."""

import warnings
from importlib import metadata

import numpy as np
import pytest

from prodml.errors import BadConfiguration, EnvironmentMismatch
from prodml.events import Stream
from prodml.registry import Environment, EnvironmentWarning, ModelRegistry, PickleSerializer
from prodml.registry.environment import packages_of
from prodml.stores import MemoryStore


def elsewhere(monkeypatch, **versions):
    """Pretend that other versions are installed here; None for not at all."""
    real = metadata.version

    def version(package):
        if package not in versions:
            return real(package)
        if versions[package] is None:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(metadata, "version", version)


@pytest.fixture
def store():
    store = MemoryStore()
    ModelRegistry(store, packages=["numpy"], events=Stream()).register("churn", b"x")
    return store


def test_python_and_packages_are_recorded(store):
    environment = ModelRegistry(store).describe("churn", "1").environment
    assert environment.packages == {"numpy": np.__version__}
    assert environment == Environment.here(["numpy"])


def test_nothing_is_said_when_all_is_the_same(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ModelRegistry(store).load("churn", "1") == b"x"


@pytest.mark.parametrize(("here", "told"), [("99.1", "here 99.1"), (None, "here not installed")])
def test_another_version_is_a_warning_an_error_or_nothing(store, monkeypatch, here, told):
    elsewhere(monkeypatch, numpy=here)
    with pytest.warns(EnvironmentWarning, match=f"churn@1 .* numpy {np.__version__}, {told}"):
        assert ModelRegistry(store).load("churn", "1") == b"x"
    with pytest.raises(EnvironmentMismatch, match=told) as raised:
        ModelRegistry(store, environment="raise").load("churn", "1")
    assert raised.value.differences == (f"numpy {np.__version__}, {told}",)
    assert ModelRegistry(store, environment="ignore").load("churn", "1") == b"x"


def test_the_warning_points_at_the_caller(store, monkeypatch):
    elsewhere(monkeypatch, numpy="99")
    with pytest.warns(EnvironmentWarning) as told:
        ModelRegistry(store).load("churn", "1")
    assert told[0].filename == __file__


def test_nothing_is_decoded_in_another_environment(store, monkeypatch):
    elsewhere(monkeypatch, numpy="99")

    class Spy:
        name = "bytes"

        def load(self, data):
            pytest.fail("decoded")

    with pytest.raises(EnvironmentMismatch):
        ModelRegistry(store, environment="raise").load("churn", "1", serializer=Spy())


@pytest.mark.parametrize(
    ("there", "differs"),
    [("3.11.7", False), ("3.11.0", False), ("3.12.7", True), ("3.1.7", True), ("2.11.7", True)],
)
def test_python_differs_by_its_minor_version(monkeypatch, there, differs):
    monkeypatch.setattr("prodml.registry.environment.python_version", lambda: "3.11.9")
    assert bool(Environment(there).differences()) is differs


def test_package_that_is_not_there_cannot_be_recorded():
    registry = ModelRegistry("memory://", packages=["no-such-thing"], events=Stream())
    with pytest.raises(BadConfiguration, match="no-such-thing"):
        registry.register("churn", b"x")
    assert registry.models() == ()


def test_the_package_of_the_class_is_recorded_by_itself():
    from sklearn.linear_model import LinearRegression

    class Own(LinearRegression):
        pass

    assert packages_of(LinearRegression()) == packages_of(Own()) == {"scikit-learn"}
    registry = ModelRegistry("memory://", events=Stream())
    registry.register("churn", LinearRegression(), serializer=PickleSerializer(trusted=True))
    assert list(registry.describe("churn", "1").environment.packages) == ["scikit-learn"]


def test_settings_are_checked():
    with pytest.raises(BadConfiguration, match="environment must be"):
        ModelRegistry("memory://", environment="shout")
    with pytest.raises(BadConfiguration, match="packages must be a list"):
        ModelRegistry("memory://", packages="numpy")
