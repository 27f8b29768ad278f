"""Cut a call off after so many seconds."""

from dataclasses import dataclass, field
from typing import final

from prodml._call import TimedFlow
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.resilience._bounds import seconds

__all__ = ["Timeout"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Timeout(TimedFlow):
    """Give a call ``seconds``; then raise :class:`~prodml.errors.DeadlineExceeded`.

    A coroutine is cancelled in its own task.  Plain code cannot be interrupted, so a plain
    function runs on a worker thread, with the caller's context variables, and is left
    behind if it hangs: it occupies that thread until it returns, but starves no other
    call.  Everything below sees the deadline and will not begin what is too late.  An
    outer deadline that ends earlier wins.  Of a generator the opening is limited, up to
    its first item; that of a plain one runs on the worker, the rest in the caller's thread.

    Parameters
    ----------
    seconds
        Time for one call, > 0.
    clock
        Collaborator; tells the layers below how much is left.  The cut itself is made by
        the machine's clock.

    Raises
    ------
    BadConfiguration
        ``seconds`` is not a positive number.

    See Also
    --------
    Deadline : tells the layers below how long they have, but cuts nothing off.

    Examples
    --------
    >>> import time
    >>> Timeout(0.01)(time.sleep)(0.1)
    Traceback (most recent call last):
        ...
    prodml.errors.DeadlineExceeded: sleep exceeded its 0.0... s
    """

    seconds: float = field(kw_only=False)
    clock: Clock = SYSTEM_CLOCK

    def __post_init__(self) -> None:
        seconds(self, "seconds")
