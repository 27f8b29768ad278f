"""A progress bar with the time left, quiet when nobody watches."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], total: int, say: Callable[[T], str]) -> Iterator[T]:
    """Hand ``items`` on; on a terminal, draw how far they are and how long the rest takes."""
    began, live = time.monotonic(), sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        gone = time.monotonic() - began
        left = gone / done * (total - done)
        if live:
            filled = 30 * done // total
            bar = "#" * filled + "." * (30 - filled)
            text = f"\r{say(item):>7} [{bar}] {100 * done // total:3d} %  {left:4.0f} s left "
            sys.stderr.write(text)
            sys.stderr.flush()
        elif done % 30 == 0:
            sys.stderr.write(f"{say(item)}: {100 * done // total} %, {left:.0f} s left\n")
    if live:
        sys.stderr.write("\n")
