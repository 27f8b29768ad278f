"""From tensors to the rows that a model is asked about, and from its answers to tensors."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from prodml.errors import BadConfiguration, RejectedAnswer
from prodml.integrations.open_inference.signature import Tensor
from prodml.integrations.open_inference.tensors import Array, datatype_of, refused

__all__ = ["Rows", "Tabular", "TensorMapping", "batchable"]

Rows: TypeAlias = Literal["auto", "array", "dicts"] | Callable[[dict[str, Any]], Any]
"""How the rows look to the model; see :class:`Tabular`."""


@runtime_checkable
class TensorMapping(Protocol):
    """What stands between tensors and a model; :class:`Tabular` is the usual one."""

    def features(self, tensors: Sequence[Tensor]) -> Any:
        """Rows for the model's ``predict_batch``: ``len()`` of them are the rows asked."""
        ...

    def outputs(self, answers: Any, rows: int) -> Mapping[str, Array]:
        """Arrays by name of the output tensor, each with ``rows`` in its first dimension."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tabular:
    """Rows of features; the first dimension of every tensor counts the rows.

    Parameters
    ----------
    rows
        ``"array"``: one array of shape (n, ...), several tensors side by side.
        ``"dicts"``: a list of mappings, tensor name to value; a tensor with one column gives
        Python scalars, a wider one an array a row.  A callable, say ``pandas.DataFrame``,
        gets the columns by name.  ``"auto"``: one tensor is an array, several are dicts.
    text
        BYTES are text: UTF-8, given as ``str`` whichever way they came.  False gives
        ``bytes``.  A tensor with the parameter ``content_type`` "base64" is always bytes.
    output
        Name of the output tensor of answers that bring no names along.

    Notes
    -----
    Answers may be an array or list of n values or rows, a mapping from name to such, or a
    list of n mappings.  None among numbers becomes NaN.

    Raises
    ------
    BadConfiguration
        ``rows`` is none of these.

    Examples
    --------
    >>> ages = Tensor("age", "INT64", np.array([[41], [17]]))
    >>> home = Tensor("home", "BYTES", np.array([["rent"], ["own"]], object))
    >>> Tabular().features([ages, home])
    [{'age': 41, 'home': 'rent'}, {'age': 17, 'home': 'own'}]
    >>> Tabular().outputs([0.5, 0.25], 2)
    {'predict': array([0.5 , 0.25])}
    """

    rows: Rows = "auto"
    text: bool = True
    output: str = "predict"

    def __post_init__(self) -> None:
        if not callable(self.rows) and self.rows not in {"auto", "array", "dicts"}:
            raise BadConfiguration(
                f'rows={self.rows!r} must be "auto", "array", "dicts" or a callable that '
                "makes a frame of columns by name"
            )

    def features(self, tensors: Sequence[Tensor]) -> Any:
        """Rows of ``tensors``.

        Raises
        ------
        InvalidFeatures
            The tensors disagree about the number of rows, there are none, or a text is not
            UTF-8.
        """
        _check_rows(tensors)
        way = self.rows
        if way == "auto":
            way = "array" if len(tensors) == 1 else "dicts"
        if way == "array":
            return _side_by_side([self._plain(tensor) for tensor in tensors])
        columns = {tensor.name: _flat(self._plain(tensor)) for tensor in tensors}
        return _dicts(columns) if way == "dicts" else _frame(way, columns)

    def outputs(self, answers: Any, rows: int) -> dict[str, Array]:
        """Arrays of ``answers`` by output name.

        Raises
        ------
        RejectedAnswer
            Not ``rows`` answers, or values that no tensor can hold.
        """
        named = _named(answers)
        if named is None:
            named = {self.output: answers}
        return {str(name): _column(values, rows) for name, values in named.items()}

    def _plain(self, tensor: Tensor) -> Array:
        if tensor.datatype != "BYTES":
            return tensor.array
        if tensor.parameters.get("content_type") == "base64":
            return _each(tensor, _unbase)
        return _each(tensor, _text if self.text else _octets)


# -- for a batcher ------------------------------------------------------------------------


def batchable(mapping: TensorMapping) -> tuple[TensorMapping, Callable[[list[Any]], Any]]:
    """``mapping`` so that its rows can be put together with others, and how to do it.

    Examples
    --------
    >>> _, stack = batchable(Tabular())
    >>> stack([np.array([1, 2]), np.array([3, 4])]).shape, stack([{"age": 41}])
    ((2, 2), [{'age': 41}])
    """
    if isinstance(mapping, Tabular) and callable(mapping.rows):
        return replace(mapping, rows="dicts"), partial(_framed, mapping.rows)
    return mapping, _stacked


def _stacked(rows: list[Any]) -> Any:
    return np.stack(rows) if isinstance(rows[0], np.ndarray) else rows


def _framed(make: Callable[[dict[str, Any]], Any], rows: list[Any]) -> Any:
    return make({name: [row[name] for row in rows] for name in rows[0]})


# -- tensors to rows ----------------------------------------------------------------------


def _check_rows(tensors: Sequence[Tensor]) -> None:
    first = tensors[0]
    count = len(first.array)
    if count == 0:
        raise refused(first.name, "there are no rows")
    for tensor in tensors:
        if len(tensor.array) != count:
            raise refused(tensor.name, f"{len(tensor.array)} rows, {first.name!r} has {count}")


def _each(tensor: Tensor, change: Callable[[Any], Any]) -> Array:
    array = tensor.array
    made = np.empty(array.size, object)
    try:
        made[:] = [change(item) for item in array.ravel().tolist()]
    except ValueError as error:
        raise refused(tensor.name, str(error)) from None
    return made.reshape(array.shape)


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else item


def _octets(item: Any) -> bytes:
    return item if isinstance(item, bytes) else item.encode()


def _unbase(item: Any) -> bytes:
    try:
        return base64.b64decode(item, validate=True)
    except binascii.Error:
        raise ValueError("data are not base64") from None


def _side_by_side(arrays: list[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _flat(array: Array) -> Array:
    return array.ravel() if array.size == len(array) else array


def _dicts(columns: Mapping[str, Array]) -> list[dict[str, Any]]:
    values = zip(*map(_items, columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def _items(column: Array) -> list[Any]:
    return column.tolist() if column.ndim == 1 else list(column)


def _frame(make: Any, columns: Mapping[str, Array]) -> Any:
    # A frame takes a column of arrays only as a list.
    return make({name: c if c.ndim == 1 else list(c) for name, c in columns.items()})


# -- answers to tensors -------------------------------------------------------------------


def _named(answers: Any) -> Mapping[str, Any] | None:
    """``answers`` by name, if they bring names along."""
    if isinstance(answers, Mapping):
        return cast("Mapping[str, Any]", answers)
    first = answers[0] if isinstance(answers, list) and answers else None
    if not isinstance(first, Mapping):
        return None
    try:
        return {name: [answer[name] for answer in answers] for name in first}
    except (KeyError, TypeError):
        raise RejectedAnswer("the answers of one batch have different names", answers) from None


def _column(values: Any, rows: int) -> Array:
    try:
        array = _array_of(values)
        datatype_of(array)
    except (TypeError, ValueError) as error:
        raise RejectedAnswer(f"no tensor can hold the answer: {error}", values) from None
    if array.ndim == 0 and rows == 1:
        array = array.reshape(1)
    told = len(array) if array.ndim else 1
    if told != rows:
        raise RejectedAnswer(f"{told} answers for {rows} rows", values)
    return array


def _array_of(values: Any) -> Array:
    array = np.asarray(values)
    if array.dtype.kind in "US" and not hasattr(values, "dtype"):
        # Of a list like ["a", 1] numpy has made two texts.
        array = np.asarray(values, object)
    return _unboxed(array) if array.dtype.kind == "O" else array


def _unboxed(array: Array) -> Array:
    """Array of objects that are all text or bytes, or all numbers or None."""
    texts = sum(isinstance(item, str | bytes) for item in array.ravel().tolist())
    if texts == array.size:
        return array
    if texts:
        raise TypeError("text and other values are mixed")
    return array.astype(np.float64)
