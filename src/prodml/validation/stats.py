"""What a schema has seen and done, as numbers that add up and can be compared."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from prodml.errors import BadConfiguration

__all__ = ["SchemaStats", "ShareChange"]

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareChange:
    """How the share of rows with one breach differs from the reference's.

    Parameters
    ----------
    field, rule, action
        What was counted.
    share, reference_share
        Rows with it, 0..1, now and in the reference.
    p_value
        Exact conditional test of equal shares (Fisher's, twice the smaller tail).
    changed
        Whether ``p_value`` is below the level divided by the number of shares compared, and
        the shares differ by the least effect asked for.

    Examples
    --------
    >>> print(ShareChange(field="age", rule="range", action="clip", share=0.2,
    ...                   reference_share=0.01, p_value=1e-9, changed=True))
    age: clip for range in 20 % of rows, reference 1 % (p = 1e-09)
    """

    field: str
    rule: str
    action: str
    share: float
    reference_share: float
    p_value: float
    changed: bool

    @property
    def effect(self) -> float:
        """Difference of the shares."""
        return self.share - self.reference_share

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, ``effect`` included."""
        return {**asdict(self), "effect": self.effect}

    def __str__(self) -> str:
        return (
            f"{self.field}: {self.action} for {self.rule} in {100 * self.share:.3g} % of rows, "
            f"reference {100 * self.reference_share:.3g} % (p = {self.p_value:.2g})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStats:
    """What a schema has seen since it was made, or since its counters were last taken.

    Parameters
    ----------
    rows, rejected, amended
        Rows looked at, refused, and accepted after a change.
    quarantined
        Refused rows that were kept aside.
    batches
        Batches looked at; ``null_share`` is counted in these.
    breaches
        Count by ``(field, rule, action)``; unknown fields are counted together as ``"*"``.

    Notes
    -----
    Add the stats of several processes; subtract an earlier snapshot of the same schema.

    Examples
    --------
    >>> one = SchemaStats(rows=3, rejected=1, amended=0, breaches={("a", "type", "reject"): 1})
    >>> one.accepted, (one + one).rows, (one + one - one) == one
    (2, 6, True)
    """

    rows: int = 0
    rejected: int = 0
    amended: int = 0
    quarantined: int = 0
    batches: int = 0
    breaches: Mapping[Key, int] = field(default_factory=dict[Key, int])

    @property
    def accepted(self) -> int:
        """Rows that passed, amended ones included."""
        return self.rows - self.rejected

    def shares(self) -> dict[Key, float]:
        """Share of rows (of batches for ``null_share``) by field, rule and action.

        Examples
        --------
        >>> SchemaStats(rows=4, breaches={("a", "range", "clip"): 1}).shares()
        {('a', 'range', 'clip'): 0.25}
        """
        return {
            key: count / whole if (whole := _whole(self, key)) else 0.0
            for key, count in self.breaches.items()
        }

    def compare(
        self, reference: "SchemaStats", *, alpha: float = 0.01, min_effect: float = 0.0
    ) -> tuple[ShareChange, ...]:
        """How every share differs from the reference's, the surest change first.

        Parameters
        ----------
        reference
            Counts of the training data, or of a period that was fine.
        alpha
            Chance of calling any share changed when none is, 0..1 (Bonferroni).
        min_effect
            Differences of shares below this are not called a change.

        Raises
        ------
        BadConfiguration
            ``alpha`` or ``min_effect`` is no share.

        Examples
        --------
        >>> fine = SchemaStats(rows=1000, breaches={("age", "missing", "impute"): 10})
        >>> today = SchemaStats(rows=200, breaches={("age", "missing", "impute"): 40})
        >>> today.compare(fine)[0].changed
        True
        """
        if not (0 < alpha < 1 and 0 <= min_effect <= 1):
            raise BadConfiguration(f"alpha {alpha!r} and min_effect {min_effect!r} are shares")
        keys = {**reference.breaches, **self.breaches}
        found = [self._change(reference, key, alpha / len(keys), min_effect) for key in keys]
        return tuple(sorted(found, key=lambda change: (change.p_value, -abs(change.effect))))

    def _change(self, other: "SchemaStats", key: Key, level: float, least: float) -> ShareChange:
        ours, theirs = self.breaches.get(key, 0), other.breaches.get(key, 0)
        n, m = _whole(self, key), _whole(other, key)
        share, old = ours / n if n else 0.0, theirs / m if m else 0.0
        p_value = _equal_shares(ours, n, theirs, m)
        return ShareChange(
            field=key[0],
            rule=key[1],
            action=key[2],
            share=share,
            reference_share=old,
            p_value=p_value,
            changed=p_value < level and abs(share - old) >= least,
        )

    def __add__(self, other: Self) -> Self:
        return self._merged(other, lambda a, b: a + b)

    def __sub__(self, earlier: Self) -> Self:
        return self._merged(earlier, lambda a, b: a - b)

    def _merged(self, other: Self, join: Callable[[int, int], int]) -> Self:
        keys = {**self.breaches, **other.breaches}
        counts = {key: join(self.breaches.get(key, 0), other.breaches.get(key, 0)) for key in keys}
        return type(self)(
            breaches={key: count for key, count in counts.items() if count},
            **{name: join(getattr(self, name), getattr(other, name)) for name in _TOTALS},
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON.

        Examples
        --------
        >>> SchemaStats.from_dict(SchemaStats(rows=2).to_dict()).rows
        2
        """
        told: dict[str, Any] = {name: getattr(self, name) for name in _TOTALS}
        counts = self.breaches.items()
        listed = [{"field": f, "rule": r, "action": a, "count": n} for (f, r, a), n in counts]
        return {**told, "breaches": listed}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], /) -> Self:
        """What :meth:`to_dict` told.

        Raises
        ------
        BadConfiguration
            Something else.
        """
        try:
            counts = {
                (one["field"], one["rule"], one["action"]): int(one["count"])
                for one in told["breaches"]
            }
            return cls(breaches=counts, **{name: int(told[name]) for name in _TOTALS})
        except (KeyError, TypeError, ValueError) as error:
            raise BadConfiguration(f"not the stats of a schema: {error!r}") from error


def _whole(stats: SchemaStats, key: Key) -> int:
    return stats.batches if key[1] == "null_share" else stats.rows


_TOTALS = ("rows", "rejected", "amended", "quarantined", "batches")


def _equal_shares(a: int, n: int, b: int, m: int) -> float:
    """Twice the smaller tail of the hypergeometric law of ``a``, given the margins."""
    import numpy as np
    from scipy.special import gammaln

    hits = a + b
    low, high = max(0, hits - m), min(hits, n)
    if low == high:
        return 1.0
    # Forty standard deviations from the middle, and a thousand more for rare events, lies
    # nothing that a float could tell from zero.
    middle = hits * n / (n + m)
    reach = 40.0 * (middle * m / (n + m)) ** 0.5 + 1000.0
    if abs(a - middle) > reach:
        return 0.0
    low, high = max(low, int(middle - reach)), min(high, int(middle + reach) + 1)
    k = np.arange(low, high + 1, dtype=float)
    # Constants cancel when the weights are scaled to add up to one.
    logs: Any = -sum(gammaln(x + 1) for x in (k, hits - k, n - k, m - hits + k))
    weights = np.exp(logs - logs.max())
    at, total = a - low, weights.sum()
    tail = min(weights[: at + 1].sum(), weights[at:].sum())
    return float(min(1.0, 2 * tail / total))
