"""The forms in which a breaker can stand around some code.

``form.run(subject, body)`` runs ``body()`` protected and returns what that returns, for
every form.  Coroutines are driven by hand there, so that a body may itself go through the
breaker again and no event loop is needed; ``form.arun`` is the same for a real loop.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Form:
    """One way to protect code, and the check that asks whether it protects at all."""

    name: str
    check: int
    run: Callable[[Any, Callable[[], Any]], Any]
    arun: Callable[[Any, Callable[[], Awaitable[Any]]], Awaitable[Any]] | None = None

    def __str__(self) -> str:
        return self.name


def drive(steps):
    try:
        steps.send(None)
    except StopIteration as stop:
        return stop.value
    steps.close()
    raise AssertionError("the coroutine was suspended")


def by_hand(arun):
    def run(subject, body):
        async def abody():
            return body()

        return drive(arun(subject, abody))

    return run


def plain(subject, body):
    @subject.protect
    def protected():
        return body()

    return protected()


async def coroutine(subject, body):
    @subject.protect
    async def protected():
        return await body()

    return await protected()


def generator(subject, body):
    answer = []

    @subject.protect
    def protected():
        yield "first"
        answer.append(body())

    items = protected()
    assert next(items) == "first"
    assert next(items, "ended") == "ended"
    return answer[0]


async def async_generator(subject, body):
    answer = []

    @subject.protect
    async def protected():
        yield "first"
        answer.append(await body())

    items = protected()
    assert await anext(items) == "first"
    assert await anext(items, "ended") == "ended"
    return answer[0]


def block(subject, body):
    with subject.block():
        return body()


async def block_in_task(subject, body):
    with subject.block():
        return await body()


async def async_block(subject, body):
    async with subject.ablock():
        return await body()


def call(subject, body):
    return subject.call(body)


async def acall(subject, body):
    return await subject.acall(body)


DEF = Form("def", 0, plain)
ASYNC_DEF = Form("async def", 4, by_hand(coroutine), coroutine)
GENERATOR = Form("generator", 7, generator)
ASYNC_GENERATOR = Form("async generator", 8, by_hand(async_generator), async_generator)
WITH = Form("with", 16, block, block_in_task)
ASYNC_WITH = Form("async with", 16, by_hand(async_block), async_block)
CALL = Form("call", 0, call)
ACALL = Form("acall", 4, by_hand(acall), acall)

FORMS = (DEF, ASYNC_DEF, GENERATOR, ASYNC_GENERATOR, WITH, ASYNC_WITH, CALL, ACALL)
AWAITED = tuple(form for form in FORMS if form.arun is not None)
STREAMS = (GENERATOR, ASYNC_GENERATOR)
