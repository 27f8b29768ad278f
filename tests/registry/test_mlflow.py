"""MLflow as a source and a mirror: against a small fake everywhere, the real one where it is.

The fake answers the few calls that the adapter makes as MLflow 3.17 answered them.
"""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from prodml.errors import BadConfiguration
from prodml.events import AliasMoved, Stream
from prodml.integrations.mlflow import MLflowModels, MLflowSerializer
from prodml.registry import Bundle, ModelRegistry, SkopsSerializer

X = np.array([[0.0], [1.0], [2.0], [3.0]])
Y = [0, 0, 1, 1]


class Text:
    """A serializer of one file."""

    name = "text"
    packages = ("numpy",)

    def dump(self, model):
        return model.encode()

    def load(self, data):
        return data.decode()


class Fake:
    """The calls of ``MlflowClient`` that the adapter makes."""

    def __init__(self, folder):
        self.folder, self.versions, self.there = folder, {}, {}

    def log(self, name, files, run=None):
        version = str(len(self.versions.setdefault(name, [])) + 1)
        root = Bundle(files).write(self.folder / name / version)
        self.versions[name].append(SimpleNamespace(version=int(version), run_id=run, source=root))

    def get_model_version(self, name, version):
        return self.versions[name][int(version) - 1]

    def get_model_version_by_alias(self, name, alias):
        return self.get_model_version(name, self.there[name, alias])

    def get_model_version_download_uri(self, name, version):
        return str(self.get_model_version(name, version).source)

    def get_registered_model(self, name):
        # MLflow gives numbers, whatever it was given.
        aliases = {alias: int(v) for (model, alias), v in self.there.items() if model == name}
        return SimpleNamespace(aliases=aliases)

    def set_registered_model_alias(self, name, alias, version):
        self.there[name, alias] = version

    def delete_registered_model_alias(self, name, alias):
        del self.there[name, alias]

    def get_run(self, run):
        dataset = SimpleNamespace(dataset=SimpleNamespace(name="train", digest="04e3c22d"))
        return SimpleNamespace(
            data=SimpleNamespace(
                metrics={"auc": 0.9, "loss": float("nan")},
                params={"C": "1"},
                tags={"mlflow.source.git.commit": "9f2c1e", "mlflow.user": "kim"},
            ),
            inputs=SimpleNamespace(dataset_inputs=[dataset]),
        )


@pytest.fixture
def fake(tmp_path):
    fake = Fake(tmp_path / "mlflow")
    for number in (1, 2, 3):
        files = {"MLmodel": b"flavors:", "model.txt": b"weights %d" % number}
        fake.log("churn", files, run=f"run-{number}")
    return fake


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "models", serializers=[Text()], events=Stream())


def copied(uri, folder):
    return shutil.copytree(uri, f"{folder}/model")


@pytest.fixture
def models(registry, fake):
    return MLflowModels(registry, fake, download=copied)


def test_whole_model_is_brought_with_its_story(models, registry, fake):
    fake.there["churn", "champion"] = "2"
    ref = models.bring("churn", "champion", tags=["imported"])
    described = registry.describe("churn", ref.version)
    assert described.metadata == {
        "mlflow": {"model": "churn", "version": "2", "file": None},
        "metrics": {"auc": 0.9, "loss": "nan"},
        "params": {"C": "1"},
    }
    assert (described.lineage.run, described.lineage.code) == ("run-2", "9f2c1e")
    assert described.lineage.data == {"train": "04e3c22d"}
    assert (described.serializer, described.tags) == ("mlflow", ("imported",))
    assert [file.path for file in described.files] == ["MLmodel", "model.txt"]


def test_whole_model_is_not_loaded_without_trust(models, registry):
    models.bring("churn", "1")
    with pytest.raises(BadConfiguration, match="'mlflow'; known here"):
        registry.load("churn", "1")


def test_one_file_is_brought_with_its_serializer(models, registry):
    ref = models.bring("churn", "3", as_name="ours", file="model.txt", serializer=Text())
    assert registry.load("ours", ref.version) == "weights 3"
    described = registry.describe("ours", ref.version)
    assert (described.serializer, described.bundle) == ("text", False)
    assert list(described.environment.packages) == ["numpy"]


def test_file_that_cannot_be_loaded_is_refused_when_brought(models, registry, fake):
    fake.log("churn", {"MLmodel": b"", "model.txt": b"\xff"})
    with pytest.raises(UnicodeDecodeError):
        models.bring("churn", "4", file="model.txt", serializer=Text())
    with pytest.raises(BadConfiguration, match=r"no file 'other.txt', but MLmodel, model.txt"):
        models.bring("churn", "1", file="other.txt", serializer=Text())
    for half in ({"file": "model.txt"}, {"serializer": Text()}):
        with pytest.raises(BadConfiguration, match="go together"):
            models.bring("churn", "1", **half)
    assert registry.models() == ()


def test_model_without_a_run_is_brought(models, registry, fake):
    fake.log("bare", {"MLmodel": b""})
    assert registry.describe("bare", models.bring("bare", "1").version).lineage.run == ""


def test_the_same_is_brought_once(models, registry):
    first = models.bring("churn", "1")
    models.bring("churn", "2")
    assert models.bring("churn", "1") == first
    other = models.bring("churn", "1", file="model.txt", serializer=Text())
    assert registry.versions("churn") == ("1", "2", "3")
    assert other.version == "3"


def test_aliases_are_pulled(models, registry, fake):
    fake.there |= {("churn", "champion"): "2", ("churn", "challenger"): "3", ("churn", "_x"): "1"}
    mirrored = models.pull("churn", file="model.txt", serializer=Text())
    assert set(mirrored.moved) == {"champion", "challenger"}
    assert "alias must match" in mirrored.skipped["_x"]
    assert registry.load("churn", "champion") == "weights 2"
    assert registry.history("churn", "champion")[0].reason == "MLflow churn 2"
    again = models.pull("churn", file="model.txt", serializer=Text())
    assert again.moved == {}
    fake.there["churn", "champion"] = "3"
    assert set(models.pull("churn", file="model.txt", serializer=Text()).moved) == {"champion"}
    assert registry.load("churn", "champion") == "weights 3"


def test_aliases_are_pushed(models, registry, fake):
    registry.register("churn", "home-made", serializer=Text())
    registry.alias("churn", "challenger", "1")
    for version in ("3", "1"):
        models.bring("churn", version)
    registry.alias("churn", "champion", "2")
    fake.there["churn", "theirs"] = "2"
    mirrored = models.push_aliases("churn")
    assert mirrored.moved == {"champion": "3"}
    assert mirrored.skipped == {"challenger": "churn@1 did not come from MLflow"}
    assert fake.there == {("churn", "theirs"): "2", ("churn", "champion"): "3"}
    assert models.push_aliases("churn").moved == {}


def test_moves_are_pushed_as_they_happen(models, registry, fake):
    registry.events.subscribe(AliasMoved, models.push)
    for version in ("2", "3"):
        models.bring("churn", version)
    registry.alias("churn", "champion", "1")
    assert fake.there == {("churn", "champion"): "2"}
    registry.alias("churn", "champion", "2")
    assert fake.there == {("churn", "champion"): "3"}
    registry.unalias("churn", "champion")
    assert fake.there == {}
    registry.register("churn", "home-made", serializer=Text())
    registry.alias("churn", "champion", "3")
    assert fake.there == {}
    assert registry.events.failures == 0


def test_mlflow_that_is_away_stops_no_move(models, registry, fake, caplog):
    registry.events.subscribe(AliasMoved, models.push)
    models.bring("churn", "1")
    fake.get_registered_model = lambda name: 1 / 0
    registry.alias("churn", "champion", "1")
    assert registry.aliases("churn") == {"champion": "1"}


def test_serializer_takes_mlflow_models_alone():
    with pytest.raises(BadConfiguration, match="MLmodel"):
        MLflowSerializer(trusted=True).dump(Bundle({"a/MLmodel": b""}))
    with pytest.raises(BadConfiguration, match="trusted=True"):
        MLflowSerializer(trusted=1)


# -- the real one -----------------------------------------------------------------------


@pytest.fixture
def real(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("e", artifact_location=(tmp_path / "runs").as_uri())
    mlflow.set_experiment("e")
    for weight in (1.0, 9.0):
        with mlflow.start_run():
            mlflow.log_metric("auc", 0.9)
            mlflow.set_tag("mlflow.source.git.commit", "9f2c1e")
            mlflow.log_input(mlflow.data.from_numpy(X, name="train"))
            model = LogisticRegression(C=weight).fit(X, Y)
            mlflow.sklearn.log_model(model, name="model", registered_model_name="churn")
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)


@pytest.mark.filterwarnings("default")
def test_a_real_mlflow_is_a_source_and_a_mirror(real, tmp_path):
    skops = SkopsSerializer()
    whole = MLflowSerializer(trusted=True)
    registry = ModelRegistry(tmp_path / "models", serializers=[skops, whole], events=Stream())
    models = MLflowModels(registry, real)
    real.set_registered_model_alias("churn", "champion", "1")
    mirrored = models.pull("churn", file="model.skops", serializer=skops)
    assert mirrored.moved == {"champion": "1"}
    loaded = registry.load("churn", "champion")
    assert loaded.C == 1.0
    described = registry.describe("churn", "1")
    assert described.metadata["metrics"] == {"auc": 0.9}
    assert described.lineage.code == "9f2c1e"
    assert set(described.lineage.data) == {"train"}
    second = models.bring("churn", "2")
    assert np.array_equal(registry.load("churn", second.version).predict(X), loaded.predict(X))
    registry.events.subscribe(AliasMoved, models.push)
    registry.alias("churn", "champion", second.version)
    assert str(real.get_model_version_by_alias("churn", "champion").version) == "2"
    registry.unalias("churn", "champion")
    assert real.get_registered_model("churn").aliases == {}
    assert models.pull("churn").moved == {}
    assert registry.events.failures == 0
