"""An error that has been handled is freed at once, with the frames and features it saw."""

import asyncio
import gc
import time
import weakref

import pytest

from prodml._call import Invoke, arun, run


class Own(Exception):
    pass


def failing():
    raise Own


def flow(timeout):
    return (yield Invoke(failing, timeout=timeout))


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def freed(call):
    try:
        call()
    except Own as error:
        reference = weakref.ref(error)
    # A worker may be about to let go.
    for _ in range(1000):
        if reference() is None:
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_plain_flow_keeps_no_error(no_collector, timeout):
    assert freed(lambda: run(flow(timeout)))


def test_an_awaiting_flow_keeps_no_error(no_collector):
    async def main():
        try:
            await arun(flow(None))
        except Own as error:
            reference = weakref.ref(error)
        return reference() is None

    assert asyncio.run(main())
