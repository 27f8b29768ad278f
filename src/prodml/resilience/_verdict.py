"""Which errors count: what the users of a policy may say about it."""

from collections.abc import Callable
from typing import TypeAlias

from prodml.errors import DeadlineExceeded, Rejected
from prodml.resilience._bounds import error_types

__all__ = ["Failures", "check_failures", "counts", "refused"]

Failures: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]
"""Classes of exceptions, or a predicate of the exception."""


def check_failures(component: object, name: str) -> None:
    """Refuse what is neither ``Exception`` classes nor a predicate."""
    wanted = getattr(component, name)
    if isinstance(wanted, type | tuple) or not callable(wanted):
        error_types(component, name)


def counts(wanted: Failures, error: Exception) -> bool:
    """Whether ``error`` is one of those that are ``wanted``; a predicate that raises says yes."""
    if isinstance(wanted, type | tuple):
        return isinstance(error, wanted)
    try:
        return bool(wanted(error))
    except Exception:
        return True


def refused(error: Exception) -> bool:
    """Whether a policy refused the call, so that ``error`` says nothing of the dependency.

    A deadline that has passed says that it hung.
    """
    return isinstance(error, Rejected) and not (isinstance(error, DeadlineExceeded) and error.begun)
