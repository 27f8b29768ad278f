"""A model that is held up at will, and callers that line up behind it."""

import threading
import time
from concurrent.futures import Future


class Held:
    """Doubles its rows; the first call waits until it is let go."""

    def __init__(self, error=None):
        self.entered, self.go = threading.Event(), threading.Event()
        self.calls, self.threads, self.error = [], [], error

    def __call__(self, rows):
        first = not self.calls
        self.calls.append(list(rows))
        self.threads.append(threading.get_ident())
        if first:
            self.entered.set()
            assert self.go.wait(20.0)
            if self.error is not None:
                raise self.error
        return [row * 2 for row in rows]


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not come about in time"
        time.sleep(0.0005)


def start(call, *args, **kwargs):
    """Make a call in a thread of its own; returns its future."""
    future = Future()

    def run():
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Queue:
    """A batcher whose model is held by a first row, and others behind it, in order."""

    def __init__(self, batcher, held, first=0):
        self.batcher, self.held = batcher, held
        self.first = start(batcher.predict, first)
        assert held.entered.wait(20.0)

    def add(self, call, *args, rows=1, **kwargs):
        waiting = self.batcher.stats().waiting
        future = start(call, *args, **kwargs)
        until(lambda: self.batcher.stats().waiting == waiting + rows or future.done())
        return future

    def rows(self, *rows):
        return [self.add(self.batcher.predict, row) for row in rows]

    def go(self):
        self.held.go.set()
        return self.first.result(20.0)
