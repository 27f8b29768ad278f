"""What changed from one schema to another, and whom it hurts."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, Self, TypeAlias

from prodml.types import MISS

__all__ = ["Change", "SchemaDiff"]

Change: TypeAlias = Literal["wider", "narrower", "other", "neutral"]
Settings: TypeAlias = Mapping[str, Any]
_Pair: TypeAlias = tuple[Any, Any]

_NOT_FIELDS = ("extra", "on", "rules", "unique", "null_alpha")


class SchemaDiff(dict[str, dict[str, _Pair]]):
    """Changed settings by field, ``(old, new)``; ``MISS`` where unset.

    Settings of the schema as a whole (``extra``, ``on``, ``rules``, ``unique``) stand in
    ``whole``.  A change is ``"wider"`` if every value that the old schema accepts is accepted
    still, ``"narrower"`` if some may be refused, ``"other"`` if that cannot be told (a changed
    pattern, other actions), and ``"neutral"`` if no verdict hangs on it.

    Examples
    --------
    >>> from prodml.validation import Field, Schema
    >>> old = Schema({"age": Field(int, maximum=90), "plan": Field(str)})
    >>> diff = old.diff(Schema({"age": Field(int, maximum=120), "zip": Field(str)}))
    >>> diff.changed, diff.removed, diff.added, diff.compatible
    (['age'], ['plan'], ['zip'], False)
    >>> print(diff)
    age: maximum 90 -> 120 (wider)
    plan: removed (wider)
    zip: added, required (narrower)
    rows that the old schema accepts may be refused
    """

    def __init__(self) -> None:
        super().__init__()
        self.added: list[str] = []
        self.removed: list[str] = []
        self.changed: list[str] = []
        self.whole: dict[str, _Pair] = {}
        self._effects: dict[tuple[str, str], Change] = {}

    @classmethod
    def between(cls, old: Settings, new: Settings) -> Self:
        """Difference of two descriptions, as :meth:`Schema.to_dict` makes them."""
        diff = cls()
        ours, theirs = old["fields"], new["fields"]
        for name in {**ours, **theirs}:
            if ours.get(name) != theirs.get(name):
                diff._compare(name, ours.get(name), theirs.get(name))
        diff._weigh_strangers(old["extra"], new["extra"])
        for name in _NOT_FIELDS:
            if old.get(name) != new.get(name):
                diff.whole[name] = pair = (old.get(name), new.get(name))
                diff._effects["", name] = _WHOLE[name](*pair)
        return diff

    def _compare(self, name: str, ours: Settings | None, theirs: Settings | None) -> None:
        old, new = ours or {}, theirs or {}
        self[name] = {
            key: (old.get(key, MISS), new.get(key, MISS))
            for key in {**old, **new}
            if old.get(key, MISS) != new.get(key, MISS)
        }
        if ours is None:
            self.added.append(name)
        elif theirs is None:
            self.removed.append(name)
        else:
            self.changed.append(name)
            for key, (was, now) in self[name].items():
                self._effects[name, key] = _EFFECTS.get(key, _unclear)(was, now)

    def _weigh_strangers(self, old: str, new: str) -> None:
        # A new field was no field before: whatever stood there passed, if anything might.
        for name in self.added:
            needed = self[name].get("required", (MISS, MISS))[1] is not False
            self._effects[name, ""] = "narrower" if needed or old != "reject" else "wider"
        for name in self.removed:
            self._effects[name, ""] = "narrower" if new == "reject" else "wider"

    @property
    def compatible(self) -> bool:
        """Whether every row that the old schema accepts is accepted by the new one."""
        return not {"narrower", "other"} & set(self._effects.values())

    def effect(self, field: str, setting: str = "") -> Change:
        """Whether a change widens or narrows.

        Parameters
        ----------
        field
            The field; the empty text for a setting of the schema as a whole.
        setting
            The setting; the empty text for a field that came or went.

        Raises
        ------
        KeyError
            No such change.
        """
        return self._effects[field, setting]

    def __str__(self) -> str:
        lines: list[str] = []
        for name, settings in self.items():
            if name in self.added:
                needed = settings.get("required", (MISS, MISS))[1] is not False
                word = "added, required" if needed else "added, optional"
                lines.append(f"{name}: {word} ({self.effect(name)})")
            elif name in self.removed:
                lines.append(f"{name}: removed ({self.effect(name)})")
            else:
                lines += [self._line(f"{name}: ", name, *each) for each in settings.items()]
        lines += [self._line("", "", *each) for each in self.whole.items()]
        if not lines:
            return "no difference"
        end = "every row that the old schema accepts is accepted still"
        return "\n".join(
            [*lines, end if self.compatible else "rows that the old schema accepts may be refused"]
        )

    def _line(self, head: str, name: str, setting: str, pair: _Pair) -> str:
        old, new = ("unset" if value is MISS else value for value in pair)
        return f"{head}{setting} {old} -> {new} ({self.effect(name, setting)})"


def _unclear(old: Any, new: Any) -> Change:
    if old is MISS or new is MISS:
        return "wider" if new is MISS else "narrower"
    return "other"


def _actions(old: Any, new: Any) -> Change:
    # What is repaired or waved through where it was not is accepted at least as often.
    softer = all(new.get(rule) == old.get(rule) for rule in old if old[rule] != "reject")
    return "wider" if softer and "reject" not in new.values() else "other"


def _policies(old: Any, new: Any) -> Change:
    return _actions({} if old is MISS else old, {} if new is MISS else new)


def _limit(sign: int) -> Callable[[Any, Any], Change]:
    """A bound that lets more through the larger ``sign`` times it is; unset is no bound."""

    def compare(old: Any, new: Any) -> Change:
        if old is MISS or new is MISS:
            return "wider" if new is MISS else "narrower"
        if isinstance(old, str) != isinstance(new, str):
            # Another kind: numbers do not compare with moments.
            return "narrower"
        if isinstance(old, str):
            old, new = datetime.fromisoformat(old), datetime.fromisoformat(new)
            if (old.tzinfo is None) != (new.tzinfo is None):
                # Moments of the one sort are of the wrong type for the other.
                return "narrower"
        grows = new > old if sign > 0 else new < old
        return "wider" if grows else "narrower"

    return compare


def _levels(old: Any, new: Any) -> Change:
    if old is MISS or new is MISS:
        return "wider" if new is MISS else "narrower"
    return "wider" if set(old) <= set(new) else "narrower"


def _kind(old: Any, new: Any) -> Change:
    wide = new in {"any", MISS} or (old, new) == ("int", "float")
    return "wider" if wide else "narrower"


def _flag(*, wide: bool) -> Callable[[Any, Any], Change]:
    """A switch that lets more through when it is ``wide``; it is written down if it is not
    the default, which is the other way in every switch here.
    """

    def compare(_: Any, new: Any) -> Change:
        return "wider" if (new is not MISS) == wide else "narrower"

    return compare


def _extra(old: Any, new: Any) -> Change:
    return "narrower" if new == "reject" else "wider" if old == "reject" else "neutral"


def _keys(old: Any, new: Any) -> Change:
    fewer = {str(key) for key in new or ()} <= {str(key) for key in old or ()}
    return "wider" if fewer else "narrower"


def _neutral(_: Any, __: Any) -> Change:
    return "neutral"


_EFFECTS: Mapping[str, Callable[[Any, Any], Change]] = {
    "kind": _kind,
    "required": _flag(wide=True),
    "nullable": _flag(wide=True),
    "unique": _flag(wide=False),
    "minimum": _limit(-1),
    "maximum": _limit(1),
    "min_length": _limit(-1),
    "max_length": _limit(1),
    "max_null_share": _limit(1),
    "categories": _levels,
    "on": _policies,
    "default": _neutral,
    "null_share": _neutral,
}
_WHOLE: Mapping[str, Callable[[Any, Any], Change]] = {
    "extra": _extra,
    "on": _actions,
    "rules": _keys,
    "unique": _keys,
    "null_alpha": _limit(-1),
}
