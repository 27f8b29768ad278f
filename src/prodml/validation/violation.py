"""What is wrong with one value of one row."""

from dataclasses import dataclass
from typing import Any

__all__ = ["Violation", "shown"]


@dataclass(slots=True)
class Violation:
    """One value that breaks one rule.

    Parameters
    ----------
    field
        Name of the feature, or of the rule between fields; empty when the row itself is not a
        mapping.
    rule
        ``"missing"``, ``"type"``, ``"finite"``, ``"range"``, ``"length"``, ``"pattern"``,
        ``"category"`` or ``"extra"``; of rules between fields ``"rule"`` and ``"rule_error"``;
        of batches ``"unique"`` and ``"null_share"``.
    value
        What was found; ``MISS`` when the field is absent; the values of a rule by field.
    expected
        What the rule asks for, in words.

    Notes
    -----
    ``str()`` shows the value, shortened to 60 characters: keep violations of personal data
    out of logs that outlive it.

    Examples
    --------
    >>> str(Violation("age", "range", 150, "0 to 120"))
    'age: 150 breaks range, expected 0 to 120'
    """

    field: str
    rule: str
    value: Any
    expected: str

    def __str__(self) -> str:
        value = shown(self.value)
        return f"{self.field or 'row'}: {value} breaks {self.rule}, expected {self.expected}"


def shown(value: Any) -> str:
    """``value`` in 60 characters at most; never raises."""
    try:
        text = repr(value)
    except Exception as error:
        # A whole number of more digits than Python writes, or a type of somebody's own.
        text = f"<{type(value).__name__}, not shown: {type(error).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
