"""Batches judged by a policy: rows one by one, tables a column at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from prodml.types import MISS, Features
from prodml.validation.batch import Found, amend, judge
from prodml.validation.columns import Column, Mask, Table
from prodml.validation.fastpath import Breach
from prodml.validation.field import Action, Field, RuleName
from prodml.validation.policy import REFUSALS, Policy, Verdict
from prodml.validation.quarantine import HeldRow, Quarantine
from prodml.validation.whole import repeats

__all__ = ["Judged", "judge_rows", "judge_table"]

Keys: TypeAlias = Mapping[str, Sequence[str]]
Actions: TypeAlias = dict[tuple[str, RuleName], Action]


@dataclass(slots=True)
class Judged:
    """Rows of a batch, and what came of them."""

    valid: Mask
    where: dict[tuple[str, RuleName], list[int]]
    accepted: Any
    refused: Any
    counts: list[tuple[str, str, Action, int]] = field(default_factory=list[Any])
    amended: int = 0
    held: int = 0


def judge_rows(
    policy: Policy,
    rows: Sequence[Features],
    accepts: Callable[[Any], bool],
    keys: Keys,
    quarantine: Quarantine,
) -> Judged:
    """Judge every row by itself, then the keys that may occur once only."""
    import numpy as np

    verdicts: dict[int, Verdict] = {}
    for index, row in enumerate(rows):
        if not accepts(row):
            verdicts[index] = policy.judge(row)
    _add_repeats(policy, rows, keys, verdicts)
    valid = np.ones(len(rows), dtype=bool)
    judged = Judged(valid, {}, list(rows), [])
    for index in sorted(verdicts):
        verdict = verdicts[index]
        for (name, rule, _), action in zip(verdict.found, verdict.actions, strict=True):
            judged.where.setdefault((name, rule), []).append(index)
            judged.counts.append((name, rule, action, 1))
        valid[index] = not verdict.refused
        judged.accepted[index] = verdict.row
        judged.amended += verdict.amended and not verdict.refused
        if verdict.held:
            judged.held += 1
            violations = tuple(policy.violation(found) for found in verdict.found)
            quarantine.add(HeldRow(rows[index], violations))
    if not valid.all():
        kept = zip(judged.accepted, valid, strict=True)
        judged.accepted = [row for row, fine in kept if fine]
        judged.refused = [row for row, fine in zip(rows, valid, strict=True) if not fine]
    return judged


def _add_repeats(
    policy: Policy, rows: Sequence[Features], keys: Keys, verdicts: dict[int, Verdict]
) -> None:
    for name, fields in keys.items():
        columns: list[Column] = [[_cell(row, each) for row in rows] for each in fields]
        for index in repeats(columns).nonzero()[0].tolist():
            row = rows[index]
            verdict = verdicts.setdefault(index, Verdict(row, [], []))
            values = tuple(row[each] for each in fields)
            value = values if len(fields) > 1 else row[fields[0]]
            verdict.found.append((name, "unique", value))
            verdict.actions.append(policy.action(name, "unique"))


def _cell(row: Any, name: str) -> Any:
    return row.get(name, MISS) if hasattr(row, "get") else MISS


def judge_table(
    policy: Policy,
    table: Table,
    *,
    fields: Mapping[str, Field],
    extra: str,
    keys: Keys,
    quarantine: Quarantine,
) -> Judged:
    """Judge every column, then the rules between them and the keys."""
    found = judge(table, fields, extra)
    changes = dict(found)
    valid, accepted = amend(table, fields, found, policy.action)
    _ask_rules(policy, accepted, found)
    _ask_keys(table, keys, found)
    actions: Actions = {key: policy.action(*key) for key in found}
    for key, mask in found.items():
        if key not in changes and actions[key] in REFUSALS:
            valid &= ~mask
    return Judged(
        valid,
        {key: mask.nonzero()[0].tolist() for key, mask in found.items()},
        accepted.take(valid),
        table.take(~valid),
        [(*key, actions[key], int(mask.sum())) for key, mask in found.items()],
        _amended(found, actions, valid),
        _hold(policy, table, found, keys, quarantine),
    )


def _ask_rules(policy: Policy, table: Table, found: Found) -> None:
    import numpy as np

    refused = {key: mask for key, mask in found.items() if policy.action(*key) in REFUSALS}
    fresh: Found = {}
    for rule in policy.rules.values():
        asked = np.ones(table.n_rows, dtype=bool)
        for (name, _), mask in refused.items():
            if not rule.fields or name in rule.fields:
                asked &= ~mask
        names = [name for name in rule.fields or table.names if name in table.names]
        columns = {name: table.column(name)[0] for name in names}
        for broken, mask in rule.masks(columns, asked):
            if mask.any():
                fresh[rule.name, broken] = mask
    found.update(fresh)


def _ask_keys(table: Table, keys: Keys, found: Found) -> None:
    for name, fields in keys.items():
        if all(each in table.names for each in fields):
            again = repeats([table.column(each)[0] for each in fields])
            if again.any():
                found[name, "unique"] = again


def _amended(found: Found, actions: Actions, valid: Mask) -> int:
    changed = ~valid & False
    for key, mask in found.items():
        if actions[key] not in REFUSALS | {"warn"}:
            changed |= mask & valid
    return int(changed.sum())


def _hold(
    policy: Policy,
    table: Table,
    found: Found,
    keys: Keys,
    quarantine: Quarantine,
) -> int:
    masks = [mask for key, mask in found.items() if policy.action(*key) == "quarantine"]
    if not masks:
        return 0
    held = sum(masks[1:], masks[0]).nonzero()[0]
    # The older ones would leave at once.
    newest = held[-quarantine.capacity :].tolist() if quarantine.capacity else []
    quarantine.pass_over(len(held) - len(newest))
    columns = {name: table.column(name)[0] for name in table.names}
    for index in newest:
        row = {name: _plain(values[index]) for name, values in columns.items()}
        breaches: list[Breach] = [
            (*key, _told(policy, keys, key, row)) for key, mask in found.items() if mask[index]
        ]
        quarantine.add(HeldRow(row, tuple(policy.violation(each) for each in breaches)))
    return len(held)


def _plain(value: Any) -> Any:
    plain = getattr(value, "ndim", None) == 0 and value.dtype.kind != "M"
    return value.item() if plain else value


def _told(policy: Policy, keys: Keys, key: tuple[str, RuleName], row: Features) -> Any:
    name, rule = key
    if rule == "unique" and len(keys[name]) > 1:
        return tuple(row[each] for each in keys[name])
    if rule in {"rule", "rule_error"}:
        asked = policy.rules[name]
        values = asked.values(row)
        return values if rule == "rule" else (values, asked.error(row))
    return row.get(name, MISS)
