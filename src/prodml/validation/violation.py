"""What is wrong with one value of one row."""

from dataclasses import dataclass
from typing import Any

__all__ = ["Violation"]


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
        shown = repr(self.value)
        if len(shown) > 60:
            shown = shown[:57] + "..."
        return f"{self.field or 'row'}: {shown} breaks {self.rule}, expected {self.expected}"
