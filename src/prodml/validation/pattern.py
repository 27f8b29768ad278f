"""Regular expressions of Python inside other texts and other languages."""

import re

__all__ = ["PYTHON_ONLY", "scoped"]

PYTHON_ONLY: re.Pattern[str] = re.compile(
    r"\(\?P|\(\?[aiLmsux-]+[:)]|\(\?#|\(\?\(|\\[AZ]|[*+?}]\+|\(\?>"
)
"""What Python writes in its own way, and other engines refuse."""
_FLAGS = re.compile(r"\(\?([aiLmsux]+)\)")


def scoped(pattern: str) -> str:
    """``pattern`` with its leading flags around it: alone they may only stand at the beginning.

    Examples
    --------
    >>> scoped("(?i)ab"), scoped("ab")
    ('(?i:ab)', 'ab')
    """
    found = _FLAGS.match(pattern)
    if found is None:
        return pattern
    # In a verbose one a last comment would swallow the bracket.
    end = "\n" if "x" in found[1] else ""
    return f"(?{found[1]}:{pattern[found.end() :]}{end})"
