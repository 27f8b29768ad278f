"""Model registry: versions, aliases with a history, loading that verifies.

>>> from prodml.registry import ModelRegistry
>>> registry = ModelRegistry("memory://")  # or a directory, or "sqlite:///models.db"
>>> ref = registry.register("churn", {"bias": 0.2}, {"auc": 0.91})
>>> move = registry.alias("churn", "champion", ref.version, expected=None, reason="first")
>>> registry.load("churn", "champion")
{'bias': 0.2}
>>> [move.new for move in registry.history("churn", "champion")]
['1']

``registry.py`` has the registry; ``version.py``, ``lineage.py`` and ``environment.py`` what
is said about a version, ``aliases.py`` who points at it, ``retention.py`` how long it stays.
``serializers.py`` and its neighbours turn models into bytes (no pickle unless you pass
one), ``signing.py`` says whose they are, ``files.py`` and ``stored.py`` where they lie.
"""

from typing import TYPE_CHECKING

from prodml._lazy import load_on_use

if TYPE_CHECKING:
    from prodml.registry.aliases import AliasMove, AliasWatch
    from prodml.registry.audit import Audit, audit
    from prodml.registry.bundle import Bundle
    from prodml.registry.environment import Environment, EnvironmentWarning
    from prodml.registry.files import Archive, Directory
    from prodml.registry.lineage import Family, Lineage
    from prodml.registry.onnx_serializer import ONNXSerializer
    from prodml.registry.registry import ModelRegistry
    from prodml.registry.retention import Pruned, Retention
    from prodml.registry.serializers import (
        BundleSerializer,
        BytesSerializer,
        JSONSerializer,
        PickleSerializer,
        Serializer,
    )
    from prodml.registry.signing import PublicKey, Signer, SigningKey, Verifier
    from prodml.registry.skops_serializer import SkopsSerializer
    from prodml.registry.stored import StoreArchive
    from prodml.registry.version import ModelVersion, StoredFile

__all__ = [
    "AliasMove",
    "AliasWatch",
    "Archive",
    "Audit",
    "Bundle",
    "BundleSerializer",
    "BytesSerializer",
    "Directory",
    "Environment",
    "EnvironmentWarning",
    "Family",
    "JSONSerializer",
    "Lineage",
    "ModelRegistry",
    "ModelVersion",
    "ONNXSerializer",
    "PickleSerializer",
    "Pruned",
    "PublicKey",
    "Retention",
    "Serializer",
    "Signer",
    "SigningKey",
    "SkopsSerializer",
    "StoreArchive",
    "StoredFile",
    "Verifier",
    "audit",
]

load_on_use(
    __name__,
    {
        ".aliases": ("AliasMove", "AliasWatch"),
        ".audit": ("Audit", "audit"),
        ".bundle": ("Bundle",),
        ".environment": ("Environment", "EnvironmentWarning"),
        ".files": ("Archive", "Directory"),
        ".lineage": ("Family", "Lineage"),
        ".onnx_serializer": ("ONNXSerializer",),
        ".registry": ("ModelRegistry",),
        ".retention": ("Pruned", "Retention"),
        ".serializers": (
            "BundleSerializer",
            "BytesSerializer",
            "JSONSerializer",
            "PickleSerializer",
            "Serializer",
        ),
        ".signing": ("PublicKey", "Signer", "SigningKey", "Verifier"),
        ".skops_serializer": ("SkopsSerializer",),
        ".stored": ("StoreArchive",),
        ".version": ("ModelVersion", "StoredFile"),
    },
)
