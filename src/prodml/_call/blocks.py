"""Open ``with`` blocks, so that a guard in one can hand its token from entry to exit."""

import threading
from contextvars import ContextVar
from sys import _getframe as frame_above
from typing import Any

__all__ = ["pop", "push"]


class _Block:
    """An open ``with`` block: its guard and token, and the frame that it stands in."""

    __slots__: tuple[str, ...] = ("frame", "guard", "open", "token")

    def __init__(self, guard: object, token: Any, frame: int) -> None:
        self.guard: object = guard
        self.token: Any = token
        self.frame: int = frame
        self.open: bool = True


# All open blocks of a guard, by its id; and those of this thread or task, innermost last.
_BLOCKS: dict[int, list[_Block]] = {}
_HERE: ContextVar[tuple[_Block, ...]] = ContextVar("prodml_open_blocks", default=())
_LOCK = threading.RLock()


def push(guard: object, token: Any) -> None:
    """Note that the block which is being entered two frames above has ``token``."""
    block = _Block(guard, token, id(frame_above(2)))
    with _LOCK:
        _BLOCKS.setdefault(id(guard), []).append(block)
    _HERE.set((*(open_ for open_ in _HERE.get() if open_.open), block))


def pop(guard: object) -> Any:
    """Token of the block that is being left two frames above.

    A block ends in the frame in which it began, whatever thread, task or context runs it by
    then.  An exit stack has other frames: there it is the last one of this thread or task, or
    else the last one of all.
    """
    frame = id(frame_above(2))
    with _LOCK:
        blocks = _BLOCKS.get(id(guard), [])
        same = [block for block in blocks if block.frame == frame]
        here = [block for block in _HERE.get() if block.guard is guard and block.open]
        found = same or here or blocks
        if not found:
            raise RuntimeError(f"{guard!r} was left without having been entered")
        block = found[-1]
        block.open = False
        blocks.remove(block)
        if not blocks:
            del _BLOCKS[id(guard)]
    return block.token
