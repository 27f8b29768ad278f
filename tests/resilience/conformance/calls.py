"""Calls as the checks make them; a test must not hang on what it tests."""

import threading

import pytest


def well():
    return "well"


def fail():
    raise ConnectionError("down")


def ending(error):
    def body():
        raise error

    return body


def trip(form, subject, times=3):
    for _ in range(times):
        with pytest.raises(subject.trips_with):
            form.run(subject, fail)


def half_open(form, subject):
    trip(form, subject)
    subject.pass_time(subject.reset)
    assert subject.says("half_open")


def rejects(form, subject):
    """Whether the next call is rejected; its body must not run then."""
    ran = []
    try:
        form.run(subject, lambda: ran.append(1))
    except subject.rejection:
        assert ran == []
        return True
    return False


class Blocked(AssertionError):
    """A call has not come back, though nothing keeps it inside."""


class Background:
    """``fn()`` in a thread of its own, which nobody has to wait for."""

    def __init__(self, fn):
        self._fn, self._result, self._error = fn, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._result = self._fn()
        except BaseException as error:
            self._error = error

    def result(self, patience):
        self._thread.join(patience)
        if self._thread.is_alive():
            raise Blocked(f"the call was blocked for {patience} s")
        if self._error is not None:
            raise self._error
        return self._result


class Held:
    """A protected call that stays inside until it is told how to end."""

    def __init__(self, form, subject):
        self._patience = subject.patience
        self._moved, self._inside, self._told = threading.Event(), False, threading.Event()
        self._ending = lambda: "late"
        self._call = Background(lambda: self._run(form, subject))
        moved = self._moved.wait(self._patience)
        if not self._inside:
            # It was rejected, which is raised here, or it is blocked.
            self._call.result(self._patience if moved else 0.0)

    def _run(self, form, subject):
        try:
            return form.run(subject, self._body)
        finally:
            self._moved.set()

    def _body(self):
        self._inside = True
        self._moved.set()
        self._told.wait(60)
        return self._ending()

    def end(self, ending=lambda: "late"):
        """Let it end with ``ending()``, and return or raise what its caller gets."""
        self._ending = ending
        self._told.set()
        return self._call.result(self._patience)

    def let_go(self):
        self._told.set()
