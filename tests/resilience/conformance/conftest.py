"""The suite is about prodml, or with ``--subject NAME`` about a breaker of somebody else.

A test with the marker ``check`` that takes ``subject`` or ``build`` is about any breaker;
every other test is about prodml alone and is left out when a peer is the subject.
"""

import contextlib
import functools
import sys

import pytest
from tests.resilience.conformance.calls import Held, fail, well
from tests.resilience.conformance.forms import FORMS
from tests.resilience.conformance.subjects import PEERS, Lacking, subject_class


def pytest_addoption(parser):
    parser.addoption(
        "--subject",
        choices=("prodml", *PEERS),
        default="prodml",
        help="breaker that the conformance suite is pointed at",
    )


def chosen(config):
    # The option is unknown when pytest finds this file only after it has read its arguments.
    return config.getoption("--subject", "prodml")


def pytest_collection_modifyitems(config, items):
    if chosen(config) == "prodml":
        return
    kept = [
        item
        for item in items
        if item.get_closest_marker("check")
        and {"subject", "build"} & set(getattr(item, "fixturenames", ()))
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def not_applicable(cls, reason):
    # Nothing is out of prodml's scope, so that no check of it can be left out unnoticed.
    leave = pytest.fail if cls.name == "prodml" else pytest.skip
    leave(f"not applicable: {reason}")


@functools.cache
def protects(cls, form):
    """Whether the form is more than decoration: after three failures it must reject."""
    subject = cls()
    for _ in range(3):
        with contextlib.suppress(Exception):
            form.run(subject, fail)
    try:
        form.run(subject, well)
    except subject.rejection:
        return True
    except Exception:
        return False
    return False


@pytest.fixture
def cls(request):
    return subject_class(chosen(request.config))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except Lacking as lacking:
        not_applicable(subject_class(chosen(item.config)), str(lacking))


@pytest.fixture
def build(cls):
    """What builds a breaker with other settings than three failures, one trial."""
    return cls


@pytest.fixture
def subject(cls):
    return cls()


@pytest.fixture(params=FORMS, ids=str)
def form(request, cls):
    form = request.param
    if form.name not in cls.offers:
        not_applicable(cls, f"{cls.name} has no form {form}")
    checks = {mark.args[0] for mark in request.node.iter_markers("check")}
    if form.check not in checks and not protects(cls, form):
        not_applicable(cls, f"{form} is not protected, see check {form.check}")
    return form


@pytest.fixture
def overlapping(form, cls):
    """Leave out the forms in which no call can be overtaken by another."""
    if form.name in cls.serialised:
        not_applicable(cls, "calls never overlap, see check 1")


@pytest.fixture
def hold(form):
    """Begin a call that stays inside; whatever the test does, it is let go in the end."""
    held = []

    def begin(subject):
        held.append(Held(form, subject))
        return held[-1]

    yield begin
    for call in held:
        call.let_go()


@pytest.fixture
def restless():
    """Let the interpreter change threads as often as it can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)
