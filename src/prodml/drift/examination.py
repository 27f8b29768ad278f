"""Every aspect of one feature, in the order in which people ask."""

from prodml.drift.categorical import of_levels
from prodml.drift.cells import Cells
from prodml.drift.evidence import Evidence, Rules, of_rate, too_few
from prodml.drift.numeric import always_moves, of_freshness, of_numbers
from prodml.drift.reference import ReferenceColumn, Sample
from prodml.drift.sample import Levels, Numbers

__all__ = ["examine"]

_RATES = (("missing", "missing"), ("infinite", "infinite"), ("type", "invalid"))


def examine(reference: ReferenceColumn, current: Sample, rules: Rules) -> tuple[Evidence, ...]:
    """Every aspect of one feature, not yet judged."""
    old = reference.sample
    if min(old.rows, current.rows) < rules.min_rows:
        few = too_few(old.rows, current.rows, rules, "rows")
        # How old the newest row is, one row is enough to tell.
        return (few, *_freshness(reference, current, rules))
    design, rows = reference.design.get("missing", 1.0), (old.rows, current.rows)
    found = [
        of_rate(
            aspect,
            (getattr(old, name), getattr(current, name)),
            rows,
            design,
            rules.min_effect,
        )
        for aspect, name in _RATES
    ]
    rest = _of_values(reference, current, rules)
    return (*(evidence for evidence in found if evidence is not None), *rest)


def _of_values(reference: ReferenceColumn, new: Sample, rules: Rules) -> list[Evidence]:
    old, design = reference.sample, reference.design.get("distribution", 1.0)
    test = rules.tests.get(reference.name, "")
    if isinstance(old, Levels) and isinstance(new, Levels):
        return of_levels(old, new, design, rules, test)
    assert isinstance(old, Numbers | Cells)
    assert isinstance(new, Numbers | Cells)
    found = _freshness(reference, new, rules)
    if reference.kind != "time":
        found += of_numbers(old, new, design, rules, test)
    return found or [always_moves()]


def _freshness(reference: ReferenceColumn, new: Sample, rules: Rules) -> list[Evidence]:
    limit = rules.fresh.get(reference.name)
    return [] if limit is None or isinstance(new, Levels) else [of_freshness(new, limit, rules.now)]
