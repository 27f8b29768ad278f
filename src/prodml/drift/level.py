"""The four answers to "did it drift?"."""

from enum import Enum

__all__ = ["DriftLevel"]


class DriftLevel(Enum):
    """What a check found.

    A large sample makes every difference significant, a small one makes every difference
    look large; so drift is said only where there is evidence *and* size.

    Examples
    --------
    >>> DriftLevel.DRIFT.value, DriftLevel("none")
    ('drift', <DriftLevel.NONE: 'none'>)
    """

    NONE = "none"
    """No evidence of a change."""
    NEGLIGIBLE = "negligible"
    """Evidence of a change, but smaller than the floor: it does not alarm."""
    DRIFT = "drift"
    """Evidence of a change at least as large as the floor."""
    INCONCLUSIVE = "inconclusive"
    """Too little data, or data that cannot be compared; the reason says which."""
