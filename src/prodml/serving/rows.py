"""Parts of a batch: picked out, answered apart, put together again."""

from collections.abc import Sequence
from typing import Any

__all__ = ["merge", "take"]


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
