"""What to do about what is wrong with a row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from prodml.types import MISS, Features
from prodml.validation.fastpath import Accepts, Breach, Find, make_accepts, make_find
from prodml.validation.field import Action, Field, RuleName, breach
from prodml.validation.rule import Rule
from prodml.validation.violation import Violation

__all__ = ["REFUSALS", "Extra", "Policy", "Verdict"]

Extra: TypeAlias = Literal["allow", "reject", "drop"]

REFUSALS = frozenset({"reject", "quarantine"})
_RULE_WORDS = {"rule", "rule_error"}
_RULE_ACTIONS = REFUSALS | {"warn"}


@dataclass(slots=True)
class Verdict:
    """What is wrong with one row, what is done about each, and the row as accepted."""

    row: Features
    found: list[Breach]
    actions: list[Action]
    amended: bool = False

    @property
    def refused(self) -> bool:
        """Whether the row is not accepted."""
        return not REFUSALS.isdisjoint(self.actions)

    @property
    def held(self) -> bool:
        """Whether the row is to be kept aside."""
        return "quarantine" in self.actions


class Policy:
    """Judges one row by fields, rules between them and actions.

    Examples
    --------
    >>> policy = Policy({"age": Field(int, maximum=9)}, "allow", {"range": "clip"}, ())
    >>> policy.judge({"age": 12}).row
    {'age': 9}
    """

    __slots__: tuple[str, ...] = (
        "_actions",
        "_extra",
        "_fields",
        "_find",
        "_on",
        "_words",
        "rules",
    )

    def __init__(
        self,
        fields: Mapping[str, Field],
        extra: Extra,
        on: Mapping[RuleName, Action],
        rules: Sequence[Rule],
    ) -> None:
        self._fields: Mapping[str, Field] = fields
        self._extra: Extra = extra
        self._on: Mapping[RuleName, Action] = on
        self.rules: dict[str, Rule] = {rule.name: rule for rule in rules}
        self._find: Find = self._first_find
        self._actions: dict[tuple[str, str], Action] = {}
        self._words: dict[tuple[str, str], str] = {}

    def _first_find(self, row: Any) -> list[Breach]:
        self._find = make_find(self._fields)
        return self._find(row)

    def accepts(self) -> Accepts:
        """Function that says whether a row surely is fine as it stands.

        It is made when it is asked for, for a schema that is never used costs nothing.
        """
        plain = make_accepts(self._fields, closed=self._extra != "allow")
        if not self.rules:
            return plain
        rules = tuple(self.rules.values())

        def accepts(row: Any) -> bool:
            return plain(row) and all(rule.skips(row) or rule.error(row) is None for rule in rules)

        return accepts

    def action(self, name: str, rule: RuleName) -> Action:
        """What to do when ``name`` breaks ``rule``."""
        if rule == "extra":
            return "drop" if self._extra == "drop" else "reject"
        found = self._actions.get((name, rule))
        if found is None:
            found = self._actions[name, rule] = self._settled(name, rule)
        return found

    def _settled(self, name: str, rule: RuleName) -> Action:
        if rule in _RULE_WORDS:
            return self.rules[name].action
        wanted = self._fields.get(name)
        if wanted is None:
            # A key of several fields: a row can be refused or waved through, not repaired.
            action = self._on.get(rule, "reject") if rule == "unique" else "reject"
            return action if action in _RULE_ACTIONS else "reject"
        action = wanted.on.get(rule) or self._on.get(rule, "reject")
        return action if wanted.can(rule, action) else "reject"

    def violation(self, found: Breach) -> Violation:
        """``found`` in words."""
        name, rule, value = found
        words = self._words.get((name, rule))
        if words is not None:
            return Violation(name, rule, value, words)
        if rule == "rule_error":
            value, raised = value
            return Violation(name, rule, value, f"a rule that can be judged; it raised {raised}")
        if rule == "extra":
            return Violation(name, rule, value, "no such field")
        words = self._words[name, rule] = self._said(name, rule)
        return Violation(name, rule, value, words)

    def _said(self, name: str, rule: RuleName) -> str:
        if rule == "rule":
            return self.rules[name].expected
        wanted = self._fields.get(name)
        return "a mapping of feature to value" if wanted is None else wanted.expected(rule)

    def violations(self, row: Any) -> tuple[Violation, ...]:
        """Everything that is wrong with ``row``, in words."""
        found = self.judge(row).found if self.rules else self._breaches(row)
        return tuple([self.violation(each) for each in found]) if found else ()

    def judge(self, row: Any) -> Verdict:
        """Everything that is wrong with ``row``, and the row as it would be accepted."""
        found = self._breaches(row)
        actions: list[Action] = [self.action(name, rule) for name, rule, _ in found]
        verdict = Verdict(row, found, actions)
        if found:
            self._amend(verdict)
        if self.rules and not (found and found[0][0] == "" and found[0][1] == "type"):
            self._ask_rules(verdict)
        return verdict

    def _breaches(self, row: Any) -> list[Breach]:
        if type(row) is not dict:
            return list(self._each_breach(row))
        plain = cast("dict[str, Any]", row)
        found = self._find(plain)
        if self._extra != "allow":
            for name in plain:
                if name not in self._fields:
                    found.append((name, "extra", plain[name]))
        return found

    def _each_breach(self, row: Any) -> Iterator[Breach]:
        if not (isinstance(row, Mapping) or (hasattr(row, "get") and hasattr(row, "keys"))):
            yield "", "type", row
            return
        known = cast("Features", row)
        for name, wanted in self._fields.items():
            value = known.get(name, MISS)
            rule = breach(wanted, value)
            if rule is not None:
                yield name, rule, value
        if self._extra != "allow":
            for name in known.keys():  # noqa: SIM118 - a pandas row iterates over its values
                if name not in self._fields:
                    yield name, "extra", known[name]

    def _amend(self, verdict: Verdict) -> None:
        changed: dict[str, Any] | None = None
        for (name, _, value), action in zip(verdict.found, verdict.actions, strict=True):
            if action in REFUSALS or action == "warn":
                continue
            if changed is None:
                changed = dict(verdict.row)
            if action == "drop":
                del changed[name]
            else:
                wanted = self._fields[name]
                changed[name] = wanted.clip(value) if action == "clip" else wanted.filled()
        if changed is not None:
            verdict.row, verdict.amended = changed, True

    def _ask_rules(self, verdict: Verdict) -> None:
        refused = {
            name
            for (name, _, _), action in zip(verdict.found, verdict.actions, strict=True)
            if action in REFUSALS
        }
        for rule in self.rules.values():
            fields = rule.fields
            blocked = refused.intersection(fields) if fields else refused
            if blocked or rule.skips(verdict.row):
                continue
            raised = rule.error(verdict.row)
            if raised is None:
                continue
            values = rule.values(verdict.row)
            told: Breach = (rule.name, "rule", values)
            if raised:
                told = (rule.name, "rule_error", (values, raised))
            verdict.found.append(told)
            verdict.actions.append(rule.action)
