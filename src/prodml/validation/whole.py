"""What can be judged on a batch only: repeated values and shares of nulls."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from prodml.types import MISS, Features, is_missing
from prodml.validation.columns import Column, Mask, Table
from prodml.validation.field import Field
from prodml.validation.violation import Violation

__all__ = ["keys_of", "null_findings", "nulls_in", "repeats"]


def keys_of(fields: Mapping[str, Field], unique: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Fields of every key that may occur once only, by the name it is counted under.

    Examples
    --------
    >>> keys_of({"id": Field(int, unique=True)}, [("user", "day")])
    {'id': ['id'], 'user, day': ['user', 'day']}
    """
    single = {name: [name] for name, wanted in fields.items() if wanted.unique}
    return {**single, **{", ".join(names): list(names) for names in unique}}


def repeats(columns: Sequence[Column]) -> Mask:
    """Rows whose values occurred in an earlier row; a row with a null repeats nothing.

    Examples
    --------
    >>> repeats([[1, 1, None, None], ["a", "a", "b", "b"]]).tolist()
    [False, True, False, False]
    """
    import numpy as np

    if len(columns) == 1 and not isinstance(columns[0], list):
        values = columns[0]
        if values.dtype.kind in "iufMb":
            again = np.ones(len(values), dtype=bool)
            again[np.unique(values, return_index=True)[1]] = False
            # NaN and NaT differ from themselves.
            return cast("Mask", again & (values == values))  # noqa: PLR0124
    return np.fromiter(_repeated(zip(*map(_items, columns), strict=True)), dtype=np.bool_)


def _repeated(keys: Iterable[tuple[Any, ...]]) -> Iterator[bool]:
    seen: set[Any] = set()
    for key in keys:
        if any(map(is_missing, key)):
            yield False
            continue
        try:
            hash(key)
        except Exception:
            # A list is no key of a set; what it shows is.
            key = (None, *map(_shown, key))  # noqa: PLW2901
        yield key in seen
        seen.add(key)


def _shown(part: Any) -> Any:
    # A long array shows its ends only.
    return part.tobytes() if hasattr(part, "tobytes") else repr(part)


def _items(values: Column) -> list[Any]:
    if isinstance(values, list):
        return values
    return list(values) if values.dtype.kind in "mM" else cast("list[Any]", values.tolist())


def nulls_in(source: Table | Sequence[Features], name: str) -> int:
    """Number of rows in which ``name`` is missing.

    Examples
    --------
    >>> nulls_in([{"a": 1}, {"a": None}, {}], "a")
    2
    """
    if isinstance(source, Sequence):
        return sum(is_missing(row.get(name, MISS)) for row in source if hasattr(row, "get"))
    if name not in source.names:
        return source.n_rows
    values, _ = source.column(name)
    if not isinstance(values, list) and values.dtype.kind in "iufbM":
        return int((values != values).sum())  # noqa: PLR0124
    return sum(map(is_missing, values))


def null_findings(
    fields: Mapping[str, Field], source: Any, n_rows: int, alpha: float
) -> list[Violation]:
    """Fields with more nulls than ``max_null_share`` explains, by the exact binomial tail.

    Examples
    --------
    >>> fields = {"a": Field(int, nullable=True, max_null_share=0.1)}
    >>> print(*null_findings(fields, [{"a": None}] * 10, 10, alpha=0.001))
    a: 1.0 breaks null_share, expected at most 0.1 nulls
    """
    found: list[Violation] = []
    for name, wanted in fields.items():
        if wanted.max_null_share is None or not n_rows:
            continue
        nulls = nulls_in(source, name)
        if nulls > wanted.max_null_share * n_rows:
            from scipy.special import bdtrc

            # P(at least so many nulls) if the share were the largest allowed.
            tail = bdtrc(nulls - 1, n_rows, wanted.max_null_share)
            if tail < alpha:
                words = wanted.expected("null_share")
                found.append(Violation(name, "null_share", nulls / n_rows, words))
    return found
