"""Model registry: versions, aliases with a history, loading that verifies.

>>> from prodml.registry import ModelRegistry
>>> registry = ModelRegistry("memory://")  # or a directory, or "sqlite:///models.db"
>>> ref = registry.register("churn", {"bias": 0.2}, {"auc": 0.91})
>>> move = registry.alias("churn", "champion", ref.version, expected=None, reason="first")
>>> registry.load("churn", "champion")
{'bias': 0.2}
>>> [move.new for move in registry.history("churn", "champion")]
['1']

``registry.py`` has the registry, ``files.py`` where bytes and records lie,
``serializers.py`` how a model becomes bytes: no pickle unless you pass one.
"""

from prodml.registry.files import Archive
from prodml.registry.registry import AliasMove, ModelRegistry
from prodml.registry.serializers import (
    BytesSerializer,
    JSONSerializer,
    PickleSerializer,
    Serializer,
)

__all__ = [
    "AliasMove",
    "Archive",
    "BytesSerializer",
    "JSONSerializer",
    "ModelRegistry",
    "PickleSerializer",
    "Serializer",
]
