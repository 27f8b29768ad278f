"""The four answers to "did it drift?", which other rooms give as well."""

from prodml.types import DriftLevel

__all__ = ["DriftLevel"]
