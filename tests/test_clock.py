import asyncio
import time

from prodml.clock import SYSTEM_CLOCK, Clock, utc
from prodml.testing import ManualClock


def test_the_system_clock_reads_the_machine():
    before = time.monotonic()
    SYSTEM_CLOCK.sleep(0.0)
    asyncio.run(_pause(SYSTEM_CLOCK))
    assert before <= SYSTEM_CLOCK.monotonic() <= time.monotonic()
    assert abs(SYSTEM_CLOCK.time() - time.time()) < 60


async def _pause(clock):
    await clock.asleep(0.0)


def test_both_clocks_are_clocks():
    assert isinstance(SYSTEM_CLOCK, Clock)
    assert isinstance(ManualClock(), Clock)


def test_utc_is_aware():
    assert utc(1_700_000_000).isoformat() == "2023-11-14T22:13:20+00:00"
