"""Memory handed back to the system when a model has gone."""

import gc
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

__all__ = ["Farewell", "resident", "watch"]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident() -> int | None:
    """Bytes of this process that are in memory now; None where the system does not say."""
    try:
        # pathlib would cost more than all of this file.
        with open("/proc/self/statm", "rb") as told:  # noqa: PTH123
            return int(told.read().split()[1]) * _PAGE
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Farewell:
    """Waits for a model to be forgotten and hands its memory back.

    Made by :func:`watch` while the model is still there.
    """

    model: "weakref.ref[Any] | None"
    before: int | None

    def give_back(self) -> tuple[int | None, bool]:
        """Return the memory; say how many bytes (None if unknown), and if the model is still held.

        Reference counts free most models at once.  Only one that is part of a cycle needs the
        collector, which stops every thread, so it is asked only then.  What is free inside
        ``malloc`` is then given to the system (``malloc_trim``, where the C library has it).
        """
        if self.model is None or self.model() is not None:
            gc.collect()
        trim = _trim()
        if trim is not None:
            trim(0)
        held = self.model is not None and self.model() is not None
        after = resident()
        if self.before is None or after is None:
            return None, held
        return max(0, self.before - after), held


def watch(model: Any) -> Farewell:
    """Look at ``model`` and at the memory before it goes, without keeping it."""
    try:
        return Farewell(weakref.ref(model), resident())
    except TypeError:
        return Farewell(None, resident())


@cache
def _trim() -> Callable[[int], object] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    return getattr(ctypes.CDLL(None), "malloc_trim", None)
