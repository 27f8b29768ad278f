"""The forms in which a guard can stand around some code.

Each form is ``form(guard, body)``: it runs ``body()`` protected and returns what that
returns.  Coroutines are driven by hand, so a body may itself go through the guard again.
"""

import pytest


def drive(steps):
    try:
        steps.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine was suspended")


def plain(guard, body):
    @guard
    def protected():
        return body()

    return protected()


def coroutine(guard, body):
    @guard
    async def protected():
        return body()

    return drive(protected())


def generator(guard, body):
    @guard
    def protected():
        yield "first"
        return body()

    items = protected()
    assert next(items) == "first"
    try:
        next(items)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the generator went on")


def async_generator(guard, body):
    answer = []

    @guard
    async def protected():
        yield "first"
        answer.append(body())

    items = protected()
    assert drive(items.__anext__()) == "first"
    try:
        drive(items.__anext__())
    except StopAsyncIteration:
        return answer[0]
    raise AssertionError("the generator went on")


def block(guard, body):
    with guard:
        return body()


def async_block(guard, body):
    async def protected():
        async with guard:
            return body()

    return drive(protected())


def call(guard, body):
    return guard.call(body)


def acall(guard, body):
    async def protected():
        return body()

    return drive(guard.acall(protected))


FORMS = (plain, coroutine, generator, async_generator, block, async_block, call, acall)


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__)
def form(request):
    return request.param
