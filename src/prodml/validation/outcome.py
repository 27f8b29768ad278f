"""How a batch fared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prodml.validation.columns import Mask
from prodml.validation.violation import Violation

__all__ = ["BatchValidation"]


@dataclass(slots=True, kw_only=True)
class BatchValidation:
    """How a batch fared.

    Parameters
    ----------
    valid
        Boolean array of shape (n_rows,): the row was accepted, perhaps amended.
    valid_rows
        The accepted rows, amended where a policy says so, in the container that came in.
    quarantined
        The refused rows as they came, likewise; ``reasons`` tells why, row by row.
    violations
        Count by field and rule, whatever the action was: ``violations["age"]["range"]``.
        Rules between fields stand under their own name, repeated keys under their fields.
    where
        Row numbers by ``(field, rule)``, ascending.
    findings
        What is wrong with the batch as a whole: more nulls than ``max_null_share`` explains.
    refused
        Whether a finding is to be rejected: the batch is not ``ok`` then, though its rows are.
    held
        Number of rows that went to the schema's quarantine.

    Examples
    --------
    >>> from prodml.validation import Field, Schema
    >>> batch = Schema({"age": Field(int, minimum=0)}).validate_batch({"age": [3, -1]})
    >>> batch.ok, batch.quarantined, batch.violations
    (False, {'age': [-1]}, {'age': {'range': 1}})
    >>> batch.reasons
    [(('age', 'range'),)]
    """

    valid: Mask
    valid_rows: Any
    quarantined: Any
    where: Mapping[tuple[str, str], Sequence[int]] = field(repr=False)
    findings: tuple[Violation, ...] = ()
    refused: bool = False
    held: int = 0
    violations: Mapping[str, Mapping[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        counts: dict[str, dict[str, int]] = {}
        for (name, rule), rows in self.where.items():
            counts.setdefault(name, {})[rule] = len(rows)
        self.violations = counts

    @property
    def ok(self) -> bool:
        """Whether every row was accepted, and the batch as a whole."""
        return bool(self.valid.all()) and not self.refused

    @property
    def reasons(self) -> list[tuple[tuple[str, str], ...]]:
        """``(field, rule)`` of every breach of each quarantined row, in the rows' order."""
        found: dict[int, list[tuple[str, str]]] = {
            row: [] for row in (~self.valid).nonzero()[0].tolist()
        }
        for key, rows in self.where.items():
            for row in rows:
                if row in found:
                    found[row].append(key)
        return [tuple(reasons) for reasons in found.values()]

    def __str__(self) -> str:
        kept = int(self.valid.sum())
        lines = [f"{kept} of {len(self.valid)} rows accepted, {self.held} kept aside"]
        for name, rules in self.violations.items():
            lines += [f"  {name}: {rule} in {count} rows" for rule, count in rules.items()]
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])
