"""One batch against the reference: every feature is examined, and all are judged together."""

from typing import TYPE_CHECKING, Any

from prodml.drift.breaches import of_breaches
from prodml.drift.correction import Correction, adjust
from prodml.drift.evidence import Evidence, Rules, absent, judge, unreadable
from prodml.drift.examination import examine
from prodml.drift.feature import Details, FeatureDrift, details_of, verdict
from prodml.drift.lazy import batch_of
from prodml.drift.reference import Reference, ReferenceColumn, Sample
from prodml.drift.strips import in_strips
from prodml.drift.table import Table

if TYPE_CHECKING:
    from prodml.validation import SchemaStats

__all__ = ["compared"]


def compared(
    current: Any,
    fitted: Reference,
    rules: Rules,
    correction: Correction,
    breaches: "tuple[SchemaStats, SchemaStats] | None" = None,
) -> tuple[dict[str, FeatureDrift], tuple[str, ...]]:
    """Verdicts on ``current`` by feature, and the names of columns that are new.

    Examples
    --------
    >>> rules = Rules(alpha=0.05, min_effect=0.1, min_new=0.01, min_rows=30)
    >>> found, new = compared({"y": [1]}, Reference.fit({"x": [1.0, 2.0]}), rules, "bh")
    >>> found["x"].reason, new
    ('the column is gone', ('y',))
    """
    reference, table = batch_of(current, fitted)
    table = in_strips(table, reference)
    verdicts = _verdicts(reference, table, rules, correction, breaches)
    return verdicts, tuple(name for name in table.columns if name not in verdicts)


def _verdicts(
    reference: Reference,
    table: Table,
    rules: Rules,
    correction: Correction,
    breaches: "tuple[SchemaStats, SchemaStats] | None",
) -> dict[str, FeatureDrift]:
    found: dict[str, tuple[tuple[Evidence, ...], Details]] = {}
    for name, column in reference.columns.items():
        try:
            # Column by column: what was read of one is let go before the next.
            found[name] = _examined(column, _read(column, table), table, rules)
        except Exception as error:
            # One column that no one can read must not cost the verdict on the others.
            found[name] = (unreadable(error),), Details()
        if breaches is not None:
            evidence, details = found[name]
            found[name] = (*evidence, *of_breaches(name, *breaches, rules)), details
    tested = [e for evidence, _ in found.values() for e in evidence if e.tested]
    p_values, weights = [e.p_value for e in tested], [_weight(e) for e in tested]
    adjusted = iter(adjust(p_values, correction, weights).tolist())
    verdicts: dict[str, FeatureDrift] = {}
    for name, (evidence, details) in found.items():
        judged = tuple(judge(e, next(adjusted), rules) if e.tested else e for e in evidence)
        verdicts[name] = verdict(reference.columns[name], details, judged)
    return verdicts


def _weight(evidence: Evidence) -> float:
    """How much of the level an aspect is given.

    What most drift does is to move the distribution: the aspects beside it, which see the
    rest, may cost it little.  With 3 a test of 20 features has the power of Kolmogorov-Smirnov
    alone less two points, and the range loses none of its own.
    """
    return 3.0 if evidence.aspect == "distribution" else 1.0


def _read(column: ReferenceColumn, table: Table) -> Sample | None:
    if column.name in table.columns:
        return column.read(table.columns[column.name])
    # A list without rows cannot say which columns it would have had.
    return None if table.columns or table.misfit else column.read([])


def _examined(
    column: ReferenceColumn, sample: Sample | None, table: Table, rules: Rules
) -> tuple[tuple[Evidence, ...], Details]:
    if sample is None:
        told = f"current has {table.misfit}" if table.misfit else "the column is gone"
        return (absent(told),), Details()
    return examine(column, sample, rules), details_of(column, sample)
