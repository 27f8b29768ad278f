"""Tell every layer below how much time the request has left."""

from dataclasses import dataclass, field
from typing import Self, final

from prodml._call import DeadlineFlow, pop, push
from prodml._deadline import narrow, remaining, restore
from prodml.clock import SYSTEM_CLOCK, Clock
from prodml.resilience._bounds import seconds

__all__ = ["Deadline"]


@final
@dataclass(kw_only=True, slots=True, eq=False)
class Deadline(DeadlineFlow):
    """Everything inside has ``seconds`` in all; what would begin later is refused.

    Nothing is interrupted: each layer below asks how much is left.  Timeouts become
    shorter, a retry whose wait would end too late is not begun, a rung without time is
    skipped, and a call that would begin after the end is refused with
    :class:`~prodml.errors.DeadlineExceeded`.  An outer deadline that ends earlier wins.

    Use it with ``with``, in synchronous and asynchronous code alike, or as a decorator of
    any kind of function (of generators, the opening up to the first item).

    Parameters
    ----------
    seconds
        Time for everything inside, > 0.
    clock
        Collaborator.

    Raises
    ------
    BadConfiguration
        ``seconds`` is not a positive number.

    See Also
    --------
    Timeout : cuts a single call off.

    Examples
    --------
    >>> with Deadline(0.5) as deadline:
    ...     print(0.4 < deadline.remaining() <= 0.5)
    True
    """

    seconds: float = field(kw_only=False)
    clock: Clock = SYSTEM_CLOCK

    def __post_init__(self) -> None:
        seconds(self, "seconds")

    @staticmethod
    def remaining() -> float | None:
        """Seconds left here and now, negative when overdue; None outside every deadline."""
        return remaining()

    def __enter__(self) -> Self:
        push(self, narrow(self.seconds, self.clock))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        restore(pop(self))
