"""What every row must look like, learnt or written down."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Literal, Self, TypeAlias, cast, get_args

from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.types import MISS, Features
from prodml.validation.batch import BatchValidation, amend, judge
from prodml.validation.columns import Array, Mask, rows_of, table_of
from prodml.validation.fastpath import FastPath
from prodml.validation.field import ACTIONS, RULES, Action, Field, Rule, breach
from prodml.validation.inference import Inference
from prodml.validation.violation import Violation

__all__ = ["Extra", "Schema", "SchemaStats"]

Extra: TypeAlias = Literal["allow", "reject", "drop"]
Breach: TypeAlias = tuple[str, Rule, Any]
"""Field, rule, value."""

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStats:
    """What a schema has seen since it was made.

    Parameters
    ----------
    rows, rejected, amended
        Rows looked at, refused, and accepted after a change.
    breaches
        Count by ``(field, rule, action)``; unknown fields are counted together as ``"*"``.

    Examples
    --------
    >>> SchemaStats(rows=3, rejected=1, amended=0, breaches={}).accepted
    2
    """

    rows: int
    rejected: int
    amended: int
    breaches: Mapping[tuple[str, str, str], int]

    @property
    def accepted(self) -> int:
        """Rows that passed, amended ones included."""
        return self.rows - self.rejected


@dataclass(kw_only=True, slots=True, eq=False)
class Schema:
    """What every row must look like.

    Parameters
    ----------
    fields
        Field by feature name.
    extra
        Unknown fields: ``"allow"`` keeps them, ``"reject"`` refuses the row, ``"drop"``
        leaves them out of the accepted row.
    on
        Action by rule for every field that does not say otherwise itself: ``"reject"`` (the
        default of all), ``"clip"``, ``"impute"``, ``"warn"``.  A field for which the action
        is impossible (clip without bounds, impute without a default) rejects.
    name
        Shown in reports.

    Raises
    ------
    BadConfiguration
        An unknown rule, action or ``extra``, a name that is not text, a value that is no Field.

    Notes
    -----
    Safe for any number of threads.  A row that is fine returns itself, at the price of a few
    loops in C: rows whose values have types seen before are not judged field by field.  The
    count of accepted rows is kept without a lock: on interpreters without a global lock it
    may miss a few.

    Examples
    --------
    >>> schema = Schema({"age": Field(int, minimum=0), "plan": Field(str)}, extra="reject")
    >>> schema.validate({"age": 31, "plan": "pro"})
    {'age': 31, 'plan': 'pro'}
    >>> for violation in schema.check({"age": -1, "colour": "red"}):
    ...     print(violation)
    age: -1 breaks range, expected at least 0
    plan: <Miss.MISS: 'MISS'> breaks missing, expected a value
    colour: 'red' breaks extra, expected no such field
    """

    fields: Mapping[str, Field] = field(kw_only=False)
    extra: Extra = "allow"
    on: Mapping[Rule, Action] = field(default_factory=dict[Rule, Action])
    name: str = "schema"
    _accepts: FastPath = field(init=False, repr=False)
    _rows: int = field(default=0, init=False, repr=False)
    _rejected: int = field(default=0, init=False, repr=False)
    _amended: int = field(default=0, init=False, repr=False)
    _breaches: dict[tuple[str, str, str], int] = field(init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.fields, self.on = dict(self.fields), dict(self.on)
        for name, value in self.fields.items():
            if not (isinstance(cast("Any", name), str) and isinstance(cast("Any", value), Field)):
                raise BadConfiguration(f"fields: {name!r} must be text and {value!r} a Field")
        if self.extra not in get_args(Extra):
            raise BadConfiguration(f"extra must be allow, reject or drop, not {self.extra!r}")
        for rule, action in self.on.items():
            if rule not in RULES or action not in ACTIONS:
                raise BadConfiguration(
                    f"on: {rule!r}: {action!r}; rules: {', '.join(RULES)}; "
                    f"actions: {', '.join(ACTIONS)}"
                )
        self._breaches = {}
        self._retuned()

    def _retuned(self) -> None:
        self._accepts = FastPath(self.fields, self.extra)

    def __reduce__(self) -> tuple[Any, ...]:
        settings: dict[str, Any] = {"extra": self.extra, "on": self.on, "name": self.name}
        return partial(type(self), self.fields, **settings), ()

    @classmethod
    def infer(
        cls,
        reference: Any,
        names: Sequence[str] | None = None,
        *,
        slack: float = 0.1,
        max_levels: int = 100,
        max_unseen: float = 0.05,
        extra: Extra = "allow",
        on: Mapping[Rule, Action] | None = None,
        name: str = "schema",
    ) -> Self:
        """Learn a schema from ``reference``.

        Parameters
        ----------
        reference
            List of mappings, mapping of columns, array of shape (n_rows, n_columns), or a
            data frame of any library that narwhals knows (a lazy one is collected).
        names
            Column names of an array; ``x0``, ``x1``, ... by default.
        slack
            How far beyond the extremes seen a number may lie, as a share of the range seen.
            A constant column gets no range: it says nothing about its spread.
        max_levels, max_unseen
            A text column gets categories if it has at most ``max_levels`` levels and the
            chance that the next row brings a new one is at most ``max_unseen``, estimated as
            the share of rows whose level occurs once (Good-Turing [1]_).  The number of rows
            alone never decides.
        extra, on, name
            As for the schema.

        Returns
        -------
        Schema
            A field is required if every row has it, and nullable if a null was seen.  The
            default, used only by ``"impute"``, is the (lower) median, or the most
            frequent level.

        Raises
        ------
        BadConfiguration
            An empty reference, or a setting out of range.

        Examples
        --------
        >>> schema = Schema.infer({"age": [20, 60, 40], "plan": ["a", "a", "a"]})
        >>> print(schema)
        schema (extra fields: allow)
          age   int   16 to 64
          plan  str   one of 'a'

        References
        ----------
        .. [1] Good (1953), *The population frequencies of species and the estimation of
           population parameters*, Biometrika 40, eq. 9.
        """
        inference = Inference(slack=slack, max_levels=max_levels, max_unseen=max_unseen)
        fields = inference.fields(reference, names)
        return cls(fields, extra=extra, on=on or {}, name=name)

    # -- one row ------------------------------------------------------------------------

    def validate(self, row: Features, /) -> Features:
        """Accept ``row``: the same object if it is fine, an amended copy if a policy says so.

        Raises
        ------
        InvalidFeatures
            With every violation that is to be rejected, not only the first.

        Examples
        --------
        >>> schema = Schema({"age": Field(int, maximum=120, on={"range": "clip"})})
        >>> schema.validate({"age": 999})
        {'age': 120}
        """
        if self._accepts(row):
            self._rows += 1
            return row
        accepted, rejected = self._decide(row, self._breaches_of(row))
        if rejected:
            raise InvalidFeatures(rejected)
        return accepted

    def check(self, row: Features, /) -> tuple[Violation, ...]:
        """Every violation, whatever its action; raises nothing, changes and counts nothing.

        Examples
        --------
        >>> len(Schema({"age": Field(int)}).check({"age": "old"}))
        1
        """
        if self._accepts(row):
            return ()
        return tuple(self._violation(*found) for found in self._breaches_of(row))

    def _breaches_of(self, row: Any) -> tuple[Breach, ...]:
        found = tuple(self._each_breach(row))
        if not found and type(row) is dict:
            self._accepts.learn(cast("Features", row))
        return found

    def _each_breach(self, row: Any) -> Iterator[Breach]:
        if not (isinstance(row, Mapping) or (hasattr(row, "get") and hasattr(row, "keys"))):
            yield "", "type", row
            return
        known = cast("Features", row)
        for name, wanted in self.fields.items():
            value = known.get(name, MISS)
            rule = breach(wanted, value)
            if rule is not None:
                yield name, rule, value
        if self.extra != "allow":
            for name in known.keys():  # noqa: SIM118 - a pandas row iterates over its values
                if name not in self.fields:
                    yield name, "extra", known[name]

    def _violation(self, name: str, rule: Rule, value: Any) -> Violation:
        wanted = self.fields.get(name)
        words = "no such field" if rule == "extra" else "a mapping of feature to value"
        return Violation(name, rule, value, words if wanted is None else wanted.expected(rule))

    def _action(self, name: str, rule: Rule) -> Action:
        if rule == "extra":
            return "drop" if self.extra == "drop" else "reject"
        wanted = self.fields.get(name)
        if wanted is None:
            return "reject"
        action = wanted.on.get(rule) or self.on.get(rule, "reject")
        return action if wanted.can(rule, action) else "reject"

    def _decide(self, row: Features, found: Sequence[Breach]) -> tuple[Features, list[Violation]]:
        rejected: list[Violation] = []
        changed: dict[str, Any] | None = None
        actions: list[Action] = [self._action(name, rule) for name, rule, _ in found]
        for (name, rule, value), action in zip(found, actions, strict=True):
            if action == "reject":
                rejected.append(self._violation(name, rule, value))
            elif action != "warn":
                changed = dict(row) if changed is None else changed
                self._change(changed, name, value, action)
        amended = changed is not None and not rejected
        with self._lock:
            self._rows += 1
            self._rejected += bool(rejected)
            self._amended += amended
            for (name, rule, _), action in zip(found, actions, strict=True):
                self._count(name, rule, action, 1)
        return (row if changed is None else changed), rejected

    def _change(self, row: dict[str, Any], name: str, value: Any, action: Action) -> None:
        if action == "drop":
            del row[name]
        else:
            wanted = self.fields[name]
            row[name] = wanted.clip(value) if action == "clip" else wanted.default

    def _count(self, name: str, rule: Rule, action: Action, times: int) -> None:
        # Callers choose the names of unknown fields: counted by name they would fill memory.
        key = ("*" if rule == "extra" else name, rule, action)
        self._breaches[key] = self._breaches.get(key, 0) + times

    # -- many rows ----------------------------------------------------------------------

    def validate_batch(self, rows: Any, /) -> BatchValidation:
        """Judge every row; quarantine the bad ones instead of raising.

        Parameters
        ----------
        rows
            List of mappings, mapping of columns, array whose columns are the schema's fields
            in order, or a data frame of any library that narwhals knows.

        Returns
        -------
        BatchValidation
            The same verdict on each row as :meth:`validate`, by column where there are columns.

        Notes
        -----
        In a table an optional field may be an absent column, but not an absent cell; a null in
        a column of numbers counts as NaN.

        Examples
        --------
        >>> batch = Schema({"age": Field(int)}).validate_batch([{"age": 1}, {"age": None}])
        >>> batch.valid.tolist(), batch.quarantined
        ([True, False], [{'age': None}])
        """
        listed = rows_of(rows)
        if listed is not None:
            return self._validate_rows(listed)
        table = table_of(rows, list(self.fields) if _is_array(rows) else None)
        extra = "allow" if isinstance(table, Array) else self.extra
        found = judge(table, self.fields, extra)
        valid, accepted = amend(table, self.fields, found, self._action)
        self._count_batch(found, valid)
        return BatchValidation(
            valid=valid,
            valid_rows=accepted.take(valid),
            quarantined=table.take(~valid),
            where={key: mask.nonzero()[0].tolist() for key, mask in found.items()},
        )

    def _validate_rows(self, rows: Sequence[Features]) -> BatchValidation:
        import numpy as np

        valid = np.ones(len(rows), dtype=bool)
        accepted: list[Features] = []
        where: dict[tuple[str, str], list[int]] = {}
        for index, row in enumerate(rows):
            if self._accepts(row):
                self._rows += 1
                accepted.append(row)
                continue
            found = self._breaches_of(row)
            for name, rule, _ in found:
                where.setdefault((name, rule), []).append(index)
            amended, rejected = self._decide(row, found)
            if rejected:
                valid[index] = False
            else:
                accepted.append(amended)
        held = [row for row, fine in zip(rows, valid, strict=True) if not fine]
        return BatchValidation(valid=valid, valid_rows=accepted, quarantined=held, where=where)

    def _count_batch(self, found: Mapping[tuple[str, Rule], Mask], valid: Mask) -> None:
        amended = ~valid & False
        actions: dict[tuple[str, Rule], Action] = {key: self._action(*key) for key in found}
        for key, mask in found.items():
            if actions[key] not in {"reject", "warn"}:
                amended = amended | (mask & valid)
        with self._lock:
            self._rows += len(valid)
            self._rejected += int((~valid).sum())
            self._amended += int(amended.sum())
            for (name, rule), mask in found.items():
                self._count(name, rule, actions[name, rule], int(mask.sum()))

    # -- the schema itself --------------------------------------------------------------

    def stats(self) -> SchemaStats:
        """What has been seen so far.

        Examples
        --------
        >>> Schema({"age": Field(int)}).stats().rows
        0
        """
        with self._lock:
            return SchemaStats(
                rows=self._rows,
                rejected=self._rejected,
                amended=self._amended,
                breaches=dict(self._breaches),
            )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the counters, ready for JSON if the categories and defaults are.

        Examples
        --------
        >>> Schema({"age": Field(int)}).to_dict()["fields"]
        {'age': {'kind': 'int'}}
        """
        return {
            "format": _FORMAT,
            "name": self.name,
            "extra": self.extra,
            "on": dict(self.on),
            "fields": {name: wanted.to_dict() for name, wanted in self.fields.items()},
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], /) -> Self:
        """Schema that :meth:`to_dict` described.

        Raises
        ------
        BadConfiguration
            Another format, or settings that make no sense.

        Examples
        --------
        >>> schema = Schema({"age": Field(int, minimum=0)})
        >>> Schema.from_dict(schema.to_dict()).diff(schema)
        {}
        """
        if told.get("format") != _FORMAT:
            raise BadConfiguration(f"schema format {told.get('format')!r}; known: {_FORMAT}")
        try:
            fields = {name: Field(**settings) for name, settings in told["fields"].items()}
            return cls(fields, extra=told["extra"], on=told["on"], name=told["name"])
        except (AttributeError, KeyError, TypeError) as error:
            raise BadConfiguration(f"not the description of a schema: {error!r}") from error

    def diff(self, other: "Schema", /) -> dict[str, dict[str, tuple[Any, Any]]]:
        """What differs, by field and setting, as ``(self's, other's)``; ``MISS`` where unset.

        Examples
        --------
        >>> old, new = Schema({"age": Field(int)}), Schema({"age": Field(int, minimum=0)})
        >>> old.diff(new)["age"]["minimum"][1]
        0
        """
        ours = {name: wanted.to_dict() for name, wanted in self.fields.items()}
        theirs = {name: wanted.to_dict() for name, wanted in other.fields.items()}
        return {
            name: _changes(ours.get(name, {}), theirs.get(name, {}))
            for name in {**ours, **theirs}
            if ours.get(name) != theirs.get(name)
        }

    def __str__(self) -> str:
        width = max(map(len, self.fields), default=0)
        lines = [f"{self.name} (extra fields: {self.extra})"]
        lines += [f"  {name:<{width}}  {_line(wanted)}" for name, wanted in self.fields.items()]
        return "\n".join(lines)


def _is_array(rows: Any) -> bool:
    return hasattr(rows, "dtype") and hasattr(rows, "ndim")


def _changes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (ours.get(name, MISS), theirs.get(name, MISS))
        for name in {**ours, **theirs}
        if ours.get(name, MISS) != theirs.get(name, MISS)
    }


def _line(wanted: Field) -> str:
    words: list[str] = []
    if wanted.minimum is not None or wanted.maximum is not None:
        words.append(wanted.expected("range"))
    if wanted.categories is not None:
        words.append(wanted.expected("category"))
    words += ["may be null"] * wanted.nullable + ["may be absent"] * (not wanted.required)
    words += [f"{rule}: {action}" for rule, action in wanted.on.items()]
    return f"{wanted.kind:<5} {', '.join(words)}".rstrip()
