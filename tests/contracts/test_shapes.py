"""Every guard, flow, machine and store of the library keeps its contract.

Components are found by looking, so a new one cannot be forgotten: it needs no settings
to be built, or a line in ``MAKE``.
"""

import importlib
import inspect
import pkgutil
from functools import partial

import pytest

import prodml
from prodml._call import Flow, Guard
from prodml._machine import Machine
from prodml.cache import Backoff, CachedBatches, CachedCalls, PredictionCache
from prodml.resilience import AdaptiveLimiter, Bulkhead, Deadline, Fallback, RateLimiter, Timeout
from prodml.testing import check_flow, check_guard, check_machine


def everything():
    for found in pkgutil.walk_packages(prodml.__path__, "prodml."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def subclasses(base):
    return sorted(
        {
            thing
            for module in everything()
            for _, thing in inspect.getmembers(module, inspect.isclass)
            if issubclass(thing, base)
            and thing is not base
            and not inspect.isabstract(thing)
            and thing.__module__.startswith("prodml.")
            # The shapes themselves.
            and not thing.__module__.startswith("prodml._call.")
        },
        key=lambda cls: cls.__qualname__,
    )


def build(cls):
    return MAKE.get(cls.__name__, cls)


MAKE = {
    "AdaptiveLimiter": lambda: AdaptiveLimiter(30.0),
    "LimitShare": lambda: AdaptiveLimiter(30.0).below(0.5),
    # By default a single failure starts its pause, and the contract fails twice.
    "Backoff": lambda: Backoff(failure_threshold=1000),
    "Fallback": lambda: Fallback(0),
    "RateLimiter": lambda: RateLimiter(1e9),
    "Bulkhead": lambda: Bulkhead(8, queue=8),
    "Timeout": lambda: Timeout(30.0),
    "Deadline": lambda: Deadline(30.0),
    "CachedCalls": partial(CachedCalls, PredictionCache(), version="v1"),
    "CachedBatches": partial(CachedBatches, PredictionCache(), version="v1"),
}


@pytest.mark.parametrize("cls", subclasses(Guard), ids=lambda cls: cls.__name__)
def test_every_guard_keeps_the_contract(cls):
    check_guard(build(cls))


@pytest.mark.parametrize("cls", subclasses(Flow), ids=lambda cls: cls.__name__)
def test_every_flow_keeps_the_contract(cls):
    check_flow(build(cls))


def machines():
    return [
        (module.__name__, name, thing)
        for module in everything()
        for name, thing in vars(module).items()
        if isinstance(thing, Machine)
    ]


@pytest.mark.parametrize(
    ("module", "name", "machine"), machines(), ids=lambda value: getattr(value, "name", str(value))
)
def test_every_machine_is_deaf_to_the_unknown_and_fully_drawn(module, name, machine):
    from types import SimpleNamespace

    initial = SimpleNamespace(phase=machine.rows[0].phase)
    check_machine(machine, initial, [])
