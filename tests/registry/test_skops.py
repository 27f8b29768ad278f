"""scikit-learn models by skops: explicit types, or nothing is built."""

import io
import json
import sys
import zipfile

import numpy as np
import pytest

from prodml.errors import BadConfiguration, UntrustedModel
from prodml.events import Stream
from prodml.registry import ModelRegistry, SkopsSerializer

pytest.importorskip("skops")

X, Y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
TREE = "sklearn.tree._tree.Tree"


def linear():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)


def forest():
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=3, random_state=0).fit(X, Y)


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path, serializers=[SkopsSerializer()], events=Stream())


def test_estimator_comes_back(registry):
    model = linear()
    registry.register("churn", model)
    loaded = registry.load("churn", "1")
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))
    described = registry.describe("churn", "1")
    assert described.serializer == "skops"
    assert {"scikit-learn", "numpy", "scipy", "skops"} == set(described.environment.packages)


def test_type_that_nobody_allowed_is_refused_when_registering(registry):
    import skops

    if tuple(map(int, skops.__version__.split(".")[:2])) < (0, 16):
        pytest.skip("older releases trust trees")
    with pytest.raises(BadConfiguration, match=TREE):
        registry.register("churn", forest())
    assert registry.models() == ()


def test_type_that_was_named_is_allowed(tmp_path):
    allowing = SkopsSerializer(trusted=[TREE])
    registry = ModelRegistry(tmp_path, serializers=[allowing], events=Stream())
    model = forest()
    registry.register("churn", model)
    assert np.array_equal(registry.load("churn", "1").predict(X), model.predict(X))


def renamed(data, old, new):
    """The skops file with module and class of one node replaced."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    text = json.dumps(json.loads(files["schema.json"]))
    for before, after in zip(old, new, strict=True):
        text = text.replace(json.dumps(before), json.dumps(after))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in (files | {"schema.json": text.encode()}).items():
            archive.writestr(name, content)
    return out.getvalue()


def test_file_that_asks_for_another_type_builds_nothing(registry, monkeypatch):
    """Somebody with the right to register wants ``os.system`` called at load."""
    import os

    monkeypatch.setattr(os, "system", lambda *a: pytest.fail("called"))
    good = SkopsSerializer().dump(linear())
    evil = renamed(good, ("sklearn.preprocessing._data", "StandardScaler"), ("os", "system"))
    assert evil != good

    class Forger:
        name = "skops"

        def dump(self, model):
            return evil

    registry.register("churn", "model", serializer=Forger())
    with pytest.raises(UntrustedModel, match=r"(os|posix)\.system"):
        registry.load("churn", "1")


@pytest.mark.parametrize("trusted", [True, False, None, "sklearn.tree._tree.Tree", [1], {"a"}])
def test_trust_is_a_list_of_names(trusted):
    with pytest.raises(BadConfiguration, match="list of full type names"):
        SkopsSerializer(trusted=trusted)


def test_without_skops_it_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "skops"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(BadConfiguration, match=r"prodml\[skops\]"):
        SkopsSerializer().dump({})
