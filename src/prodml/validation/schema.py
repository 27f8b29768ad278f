"""What every row must look like, learnt or written down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import Any, Self, cast, get_args

from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.types import Features
from prodml.validation.columns import Array, rows_of, table_of
from prodml.validation.difference import SchemaDiff
from prodml.validation.fastpath import Accepts
from prodml.validation.field import ACTIONS, ON_RULES, Action, Field, RuleName
from prodml.validation.inference import Inference
from prodml.validation.judgement import judge_rows, judge_table
from prodml.validation.outcome import BatchValidation
from prodml.validation.policy import REFUSALS, Extra, Policy
from prodml.validation.quarantine import HeldRow, Quarantine
from prodml.validation.rule import Rule
from prodml.validation.stats import SchemaStats
from prodml.validation.tally import Tally
from prodml.validation.violation import Violation
from prodml.validation.whole import keys_of, null_findings

__all__ = ["Extra", "Schema"]

_FORMAT = 1
_TOLD = frozenset({"format", "name", "extra", "on", "fields", "rules", "unique", "null_alpha"})


@dataclass(kw_only=True, slots=True, eq=False)
class Schema:
    """What every row must look like.

    Parameters
    ----------
    fields
        Field by feature name; read-only once the schema is made.
    extra
        Unknown fields: ``"allow"`` keeps them, ``"reject"`` refuses the row, ``"drop"``
        leaves them out of the accepted row.
    on
        Action by rule for every field that does not say otherwise itself: ``"reject"`` (the
        default of all), ``"quarantine"`` (reject, and keep the row in ``quarantine``),
        ``"clip"``, ``"impute"``, ``"warn"``.  A field for which the action is impossible (clip
        without bounds, impute without a default) rejects.
    rules
        What must hold between fields: :class:`Rule`, or the text of one.
    unique
        Keys of several fields that may occur once only in a batch: ``[("user", "day")]``.
    null_alpha
        Chance of a false finding of ``max_null_share``, a field and batch, 0..1.
    quarantine
        Where rows refused by ``"quarantine"`` are kept; the newest 1,000 by default.
    name
        Shown in reports.

    Raises
    ------
    BadConfiguration
        An unknown rule, action or ``extra``, a name that is not text, a value that is no Field,
        two rules of one name, a rule or key over fields that the schema does not know.

    Notes
    -----
    Safe for any number of threads.  A row that is fine returns itself: its check is straight
    code, written for this schema when the first row comes.  The count of accepted rows is kept
    without a lock: on interpreters without a global lock it may miss a few.

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
    on: Mapping[RuleName, Action] = field(default_factory=dict[RuleName, Action])
    rules: Sequence[Rule | str] = ()
    unique: Sequence[Sequence[str]] = ()
    null_alpha: float = 0.001
    quarantine: Quarantine = field(default_factory=Quarantine, repr=False)
    name: str = "schema"
    _accepts: Accepts = field(init=False, repr=False)
    _policy: Policy = field(init=False, repr=False)
    _tally: Tally = field(default_factory=Tally, init=False, repr=False)
    _rows: int = field(default=0, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_other("fields", self.fields)
        _refuse_other("on", self.on)
        # The checks are written once: a field changed later would count in some of them.
        self.fields, self.on = MappingProxyType(dict(self.fields)), dict(self.on)
        for name, value in self.fields.items():
            _refuse_field(name, value)
        if self.extra not in get_args(Extra):
            raise BadConfiguration(f"extra must be allow, reject or drop, not {self.extra!r}")
        for rule, action in self.on.items():
            _refuse_action(rule, action)
        if not isinstance(cast("Any", self.null_alpha), float) or not 0 < self.null_alpha < 1:
            raise BadConfiguration(f"null_alpha is a chance, 0 to 1, not {self.null_alpha!r}")
        if not isinstance(cast("Any", self.quarantine), Quarantine):
            raise BadConfiguration(f"quarantine must be a Quarantine, not {self.quarantine!r}")
        self._refuse_rules()
        self._refuse_keys()
        self._retuned()

    def _refuse_rules(self) -> None:
        if not isinstance(cast("Any", self.rules), (list, tuple)):
            raise BadConfiguration(f"rules must be a sequence of rules, not {self.rules!r}")
        rules = [Rule(rule) if isinstance(rule, str) else rule for rule in self.rules]
        if not all(isinstance(cast("Any", rule), Rule) for rule in rules):
            raise BadConfiguration(f"rules must be rules or their texts, not {rules!r}")
        self.rules = rules
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names) or not self.fields.keys().isdisjoint(names):
            raise BadConfiguration(f"rules need names of their own, not {names}")
        for rule in rules:
            self._refuse_strangers(f"rule {rule.name!r}", rule.fields)

    def _refuse_keys(self) -> None:
        keys: Any = self.unique
        if not isinstance(keys, (list, tuple)) or not all(map(_is_key, keys)):
            raise BadConfiguration("unique holds keys of several names; one: Field(unique=True)")
        self.unique = [tuple(key) for key in self.unique]
        for key in self.unique:
            self._refuse_strangers("unique", key)

    def _refuse_strangers(self, what: str, names: Sequence[str]) -> None:
        strangers = [name for name in names if name not in self.fields]
        if strangers:
            raise BadConfiguration(f"{what}: no field {', '.join(map(repr, strangers))}")

    def _retuned(self) -> None:
        rules = cast("Sequence[Rule]", self.rules)
        self._policy = Policy(self.fields, self.extra, self.on, rules)
        self._accepts = self._first_accepts

    def _first_accepts(self, row: Any) -> bool:
        # Under the lock, lest a retuned schema be given the checks of before.
        with self._lock:
            self._accepts = accepts = self._policy.accepts()
        return accepts(row)

    def __reduce__(self) -> tuple[Any, ...]:
        settings: dict[str, Any] = {
            "extra": self.extra,
            "on": self.on,
            "rules": self.rules,
            "unique": self.unique,
            "null_alpha": self.null_alpha,
            "quarantine": self.quarantine,
            "name": self.name,
        }
        return partial(type(self), dict(self.fields), **settings), ()

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
        on: Mapping[RuleName, Action] | None = None,
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
        verdict = self._policy.judge(row)
        self._tally.add_row(verdict)
        if not verdict.refused:
            return verdict.row
        violation = self._policy.violation
        if verdict.held:
            self.quarantine.add(HeldRow(row, tuple(map(violation, verdict.found))))
        pairs = zip(verdict.found, verdict.actions, strict=True)
        raise InvalidFeatures([violation(found) for found, do in pairs if do in REFUSALS])

    def check(self, row: Features, /) -> tuple[Violation, ...]:
        """Every violation, whatever its action; raises nothing, changes and counts nothing.

        Examples
        --------
        >>> len(Schema({"age": Field(int)}).check({"age": "old"}))
        1
        """
        return self._policy.violations(row)

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
        keys = keys_of(self.fields, self.unique)
        source: Any = rows_of(rows)
        if source is not None:
            judged = judge_rows(self._policy, source, self._accepts, keys, self.quarantine)
        else:
            source = table_of(rows, list(self.fields) if _is_array(rows) else None)
            extra = "allow" if isinstance(source, Array) else self.extra
            judged = judge_table(
                self._policy,
                source,
                fields=self.fields,
                extra=extra,
                keys=keys,
                quarantine=self.quarantine,
            )
        n_rows = len(judged.valid)
        findings = null_findings(self.fields, source, n_rows, self.null_alpha)
        action = self._policy.action
        for found in findings:
            do = action(found.field, "null_share")
            judged.counts.append((found.field, "null_share", do, 1))
        self._tally.add(
            judged.counts,
            rows=n_rows,
            rejected=n_rows - int(judged.valid.sum()),
            amended=judged.amended,
            quarantined=judged.held,
            batches=1,
        )
        return BatchValidation(
            valid=judged.valid,
            valid_rows=judged.accepted,
            quarantined=judged.refused,
            where=cast("Mapping[tuple[str, str], Sequence[int]]", judged.where),
            findings=tuple(findings),
            refused=any(action(each.field, "null_share") == "reject" for each in findings),
            held=judged.held,
        )

    # -- the schema itself --------------------------------------------------------------

    def stats(self) -> SchemaStats:
        """What has been seen so far.

        Examples
        --------
        >>> Schema({"age": Field(int)}).stats().rows
        0
        """
        return self._taken(reset=False)

    def take_stats(self) -> SchemaStats:
        """What has been seen since the last call, and start counting anew: one period's counts.

        Examples
        --------
        >>> schema = Schema({"age": Field(int)})
        >>> _ = schema.validate({"age": 3})
        >>> schema.take_stats().rows, schema.stats().rows
        (1, 0)
        """
        return self._taken(reset=True)

    def _taken(self, *, reset: bool) -> SchemaStats:
        with self._lock:
            plain = self._rows
            stats = self._tally.take(reset=reset)
            if reset:
                # Rows that pass meanwhile belong to the next period.
                self._rows -= plain
            return SchemaStats(rows=plain) + stats

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
            "rules": [cast("Rule", rule).to_dict() for rule in self.rules],
            "unique": [list(key) for key in self.unique],
            "null_alpha": self.null_alpha,
        }

    @classmethod
    def from_dict(
        cls, told: Mapping[str, Any], /, *, rules: Mapping[str, Rule] | None = None
    ) -> Self:
        """Schema that :meth:`to_dict` described.

        Parameters
        ----------
        told
            The description.
        rules
            The rules whose test is a function, by name: a description holds no code.

        Raises
        ------
        BadConfiguration
            Another format, settings that make no sense, or a rule that ``rules`` lacks.

        Examples
        --------
        >>> schema = Schema({"age": Field(int, minimum=0)})
        >>> Schema.from_dict(schema.to_dict()).diff(schema)
        {}
        """
        if not isinstance(cast("Any", told), Mapping):
            raise BadConfiguration(f"not the description of a schema: {told!r}")
        if told.get("format") != _FORMAT:
            raise BadConfiguration(f"schema format {told.get('format')!r}; known: {_FORMAT}")
        if strange := told.keys() - _TOLD:
            raise BadConfiguration(
                f"not known in the description of a schema: {sorted(map(str, strange))}"
            )
        try:
            return cls(
                {name: Field(**settings) for name, settings in told["fields"].items()},
                extra=told["extra"],
                on=told["on"],
                name=told["name"],
                rules=[_told_rule(each, rules or {}) for each in told.get("rules", ())],
                unique=told.get("unique", ()),
                null_alpha=told.get("null_alpha", 0.001),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise BadConfiguration(f"not the description of a schema: {error!r}") from error

    def diff(self, other: "Schema", /) -> SchemaDiff:
        """What differs, by field and setting, as ``(self's, other's)``; ``MISS`` where unset.

        The result is a mapping that prints as a table and says of each change whether rows
        that ``self`` accepts may be refused by ``other``.

        Examples
        --------
        >>> old, new = Schema({"age": Field(int)}), Schema({"age": Field(int, minimum=0)})
        >>> old.diff(new)["age"]["minimum"][1]
        0
        >>> print(old.diff(new))
        age: minimum unset -> 0 (narrower)
        rows that the old schema accepts may be refused
        """
        return SchemaDiff.between(self.to_dict(), other.to_dict())

    # -- other people's schemas -----------------------------------------------------------

    def to_json_schema(self) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of one row.

        Warns
        -----
        NotExpressed
            For each setting that other validators will not check; it travels in
            ``x-prodml``, from which :meth:`from_json_schema` reads it back.

        Examples
        --------
        >>> Schema({"age": Field(int, minimum=0)}).to_json_schema()["properties"]
        {'age': {'type': 'integer', 'minimum': 0}}
        """
        from prodml.validation.json_schema import to_json_schema

        return to_json_schema(self.to_dict(), self.fields)

    @classmethod
    def from_json_schema(
        cls, document: Mapping[str, Any], /, *, rules: Mapping[str, Rule] | None = None
    ) -> Self:
        """Schema that accepts what ``document``, a JSON Schema of an object, accepts.

        Parameters
        ----------
        document
            The JSON Schema, as a mapping; local references are followed.
        rules
            As for :meth:`from_dict`.

        Warns
        -----
        NotExpressed
            For each keyword that a row of this schema is not checked for.

        Raises
        ------
        BadConfiguration
            No schema of an object, or settings that make no sense.

        Examples
        --------
        >>> document = {"type": "object", "properties": {"age": {"type": "integer"}}}
        >>> print(Schema.from_json_schema(document))
        schema (extra fields: allow)
          age  int   may be absent
        """
        from prodml.validation.json_schema import from_json_schema

        return cls.from_dict(from_json_schema(document), rules=rules)

    def __str__(self) -> str:
        width = max(map(len, self.fields), default=0)
        lines = [f"{self.name} (extra fields: {self.extra})"]
        lines += [f"  {name:<{width}}  {_line(wanted)}" for name, wanted in self.fields.items()]
        lines += [f"  {_rule_line(cast('Rule', rule))}" for rule in self.rules]
        lines += [f"  {', '.join(key)}: unique together" for key in self.unique]
        return "\n".join(lines)


def _is_key(key: Any) -> bool:
    return isinstance(key, (list, tuple))


def _refuse_other(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise BadConfiguration(f"{name} must be a mapping, not {value!r}")


def _refuse_field(name: Any, value: Any) -> None:
    if not (isinstance(name, str) and isinstance(value, Field)):
        raise BadConfiguration(
            f"fields maps names, which must be text, to a Field each, "
            f"not {name!r} to {type(value).__name__}"
        )


def _refuse_action(rule: str, action: str) -> None:
    if rule not in ON_RULES or action not in ACTIONS:
        raise BadConfiguration(
            f"on: {rule!r}: {action!r}; rules: {', '.join(ON_RULES)}; actions: {', '.join(ACTIONS)}"
        )


def _is_array(rows: Any) -> bool:
    return hasattr(rows, "dtype") and hasattr(rows, "ndim")


def _told_rule(told: Mapping[str, Any], known: Mapping[str, Rule]) -> Rule:
    if "test" in told:
        return Rule(told["test"], name=told["name"], action=told["action"])
    if told["name"] not in known:
        raise BadConfiguration(f"rules: the function of {told['name']!r} is needed")
    return known[told["name"]]


def _rule_line(rule: Rule) -> str:
    return rule.expected if rule.name == rule.test else f"{rule.name}: {rule.expected}"


def _line(wanted: Field) -> str:
    words: list[str] = []
    if wanted.minimum is not None or wanted.maximum is not None:
        words.append(wanted.expected("range"))
    for setting, rule in (("pattern", "pattern"), ("categories", "category")):
        if getattr(wanted, setting) is not None:
            words.append(wanted.expected(rule))
    if (wanted.min_length, wanted.max_length) != (None, None):
        words.append(wanted.expected("length"))
    if wanted.max_null_share is not None:
        words.append(wanted.expected("null_share"))
    words += ["unique"] * wanted.unique
    words += ["may be null"] * wanted.nullable + ["may be absent"] * (not wanted.required)
    words += [f"{rule}: {action}" for rule, action in wanted.on.items()]
    return f"{wanted.kind:<5} {', '.join(words)}".rstrip()
