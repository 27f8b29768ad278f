import asyncio

import pytest

from prodml.errors import BadConfiguration, DeadlineExceeded
from prodml.resilience import Deadline, FallbackChain, Rung


def test_it_counts_down(clock):
    with Deadline(5.0, clock=clock) as deadline:
        clock.advance(2.0)
        assert deadline.remaining() == 3.0
    assert Deadline.remaining() is None


def test_deadlines_nest_and_the_earlier_end_wins(clock):
    with Deadline(5.0, clock=clock):
        with Deadline(60.0, clock=clock):
            assert Deadline.remaining() == 5.0
        with Deadline(1.0, clock=clock):
            assert Deadline.remaining() == 1.0
        assert Deadline.remaining() == 5.0


def test_one_object_may_be_entered_twice(clock):
    deadline = Deadline(5.0, clock=clock)
    with deadline:
        clock.advance(1.0)
        with deadline:
            assert Deadline.remaining() == 4.0
        assert Deadline.remaining() == 4.0
    assert Deadline.remaining() is None


def test_it_is_gone_after_an_error(clock):
    with pytest.raises(ValueError), Deadline(5.0, clock=clock):
        raise ValueError
    assert Deadline.remaining() is None


def test_it_decorates_every_kind_of_function(clock):
    deadline = Deadline(5.0, clock=clock)

    @deadline
    async def acall():
        return Deadline.remaining()

    @deadline
    def items():
        yield Deadline.remaining()
        yield Deadline.remaining()

    assert deadline(Deadline.remaining)() == 5.0
    assert asyncio.run(acall()) == 5.0
    assert list(items()) == [5.0, None]


def test_it_covers_async_code_and_stays_in_its_task(clock):
    async def inside():
        with Deadline(5.0, clock=clock):
            await asyncio.sleep(0)
            return Deadline.remaining()

    async def outside():
        await asyncio.sleep(0)
        return Deadline.remaining()

    async def main():
        return await asyncio.gather(inside(), outside())

    assert asyncio.run(main()) == [5.0, None]


def test_what_would_begin_too_late_is_refused(clock):
    with Deadline(5.0, clock=clock):
        clock.advance(5.0)
        with pytest.raises(DeadlineExceeded):
            Deadline(60.0, clock=clock)(len)([])


def test_a_chain_inside_answers_with_its_default(clock):
    with Deadline(5.0, clock=clock):
        clock.advance(5.0)
        assert FallbackChain(Rung("model", len), default=0)("abc").value == 0


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_is_a_positive_number(seconds):
    with pytest.raises(BadConfiguration, match="seconds"):
        Deadline(seconds)
