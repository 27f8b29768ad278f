"""Parts of a batch: picked out, answered apart, put together again."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from prodml.errors import RejectedAnswer
from prodml.serving.batch_model import listed

__all__ = ["merge", "miscounted", "take"]

_UNCOUNTED: Final = (str, bytes, Mapping)


def miscounted(answers: Any, rows: int, version: str, *, part: bool) -> RejectedAnswer | None:
    """What is wrong with the number of ``answers`` that ``version`` gave to ``rows``.

    The answers to ``part`` of a batch must be a sequence, one a row.  A whole batch is left
    as it is where its answers cannot be counted: a mapping of outputs by name, say.

    Examples
    --------
    >>> print(miscounted([0.1], 2, "v1", part=False))
    answer rejected: version 'v1' gave 1 answers for 2 rows
    """
    # Nearly always; a list says so fastest.
    if type(answers) is list and len(answers) == rows:
        return None
    told: Any = listed(answers) if part else answers
    if part and told is None:
        return RejectedAnswer(f"version {version!r} gave no sequence of answers", answers)
    if isinstance(told, _UNCOUNTED) or not hasattr(told, "__len__"):
        return None
    count = 1 if getattr(told, "shape", True) == () else len(told)
    if count == rows:
        return None
    return RejectedAnswer(f"version {version!r} gave {count} answers for {rows} rows", answers)


def take(rows: Any, places: Sequence[int]) -> Any:
    """Rows at ``places``: an array or a frame stays one, anything else becomes a list.

    Examples
    --------
    >>> take("abc", [0, 2])
    ['a', 'c']
    """
    if hasattr(rows, "iloc"):
        return rows.iloc[list(places)]
    if hasattr(rows, "shape"):
        return rows[list(places)]
    return [rows[place] for place in places]


def merge(parts: Sequence[tuple[Sequence[int], Any]], rows: int) -> Any:
    """Answers of ``parts`` (places, answers) in the order of the ``rows``.

    One part is returned as it is; several become an array if all of them are arrays,
    else a list.

    Examples
    --------
    >>> merge([([0, 2], "ac"), ([1], "b")], 3)
    ['a', 'b', 'c']
    """
    if len(parts) == 1:
        return parts[0][1]
    if parts and all(hasattr(answers, "__array_interface__") for _, answers in parts):
        import numpy as np

        joined = np.concatenate([answers for _, answers in parts])
        order = np.concatenate([np.asarray(places) for places, _ in parts])
        merged = np.empty_like(joined)
        merged[order] = joined
        return merged
    by_place: list[Any] = [None] * rows
    for places, answers in parts:
        for place, answer in zip(places, answers, strict=True):
            by_place[place] = answer
    return by_place
