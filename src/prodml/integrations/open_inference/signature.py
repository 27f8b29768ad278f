"""What tensors a model takes and gives: stated by the user, or read off the model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prodml.errors import BadConfiguration, InvalidFeatures, RejectedAnswer
from prodml.integrations.open_inference.tensors import DATATYPES, Array, datatype_of

__all__ = ["Tensor", "TensorSpec", "fitted", "inferred", "produced"]


@dataclass(slots=True)
class Tensor:
    """One tensor of a request.

    Examples
    --------
    >>> Tensor("age", "INT64", np.array([[41]])).array.shape
    (1, 1)
    """

    name: str
    datatype: str
    array: Array
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of a tensor that a model takes or gives.

    Parameters
    ----------
    name
        Name in requests and replies.
    datatype
        BOOL, INT8 to INT64, UINT8 to UINT64, FP16, BF16, FP32, FP64 or BYTES.
    shape
        -1 stands for any size; the first dimension counts the rows.

    Raises
    ------
    BadConfiguration
        An unknown datatype, or no shape.

    Examples
    --------
    >>> TensorSpec("x", "FP32", (-1, 4)).to_dict()
    {'name': 'x', 'datatype': 'FP32', 'shape': [-1, 4]}
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            known = ", ".join(DATATYPES)
            raise BadConfiguration(f"datatype={self.datatype!r} is unknown; use one of {known}")
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.shape or any(size < -1 for size in self.shape):
            raise BadConfiguration(f"shape={self.shape!r} needs a size or -1 for each dimension")

    def to_dict(self) -> dict[str, Any]:
        """As the metadata of a model show it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def breach(self, tensor: Tensor) -> str | None:
        """What ``tensor`` has against it, or None.

        Examples
        --------
        >>> spec = TensorSpec("x", "FP64", (-1, 2))
        >>> spec.breach(Tensor("x", "FP64", np.zeros((1, 3))))
        "tensor 'x': shape [1, 3], expected [-1, 2]"
        >>> spec.breach(Tensor("x", "FP32", np.zeros((1, 2), np.float32)))
        """
        found = tensor.array.shape
        if not self._fits(found):
            return f"tensor {tensor.name!r}: shape {list(found)}, expected {list(self.shape)}"
        if tensor.datatype == self.datatype:
            return None
        # A narrower number is welcome where a wider one is expected.
        if np.can_cast(DATATYPES[tensor.datatype], DATATYPES[self.datatype], "safe") and (
            self.datatype != "BYTES"
        ):
            return None
        return f"tensor {tensor.name!r}: datatype {tensor.datatype}, expected {self.datatype}"

    def _fits(self, found: tuple[int, ...]) -> bool:
        return len(found) == len(self.shape) and all(
            wanted in {-1, size} for wanted, size in zip(self.shape, found, strict=True)
        )


def fitted(specs: Sequence[TensorSpec], tensors: Sequence[Tensor]) -> list[Tensor]:
    """``tensors`` in the order of ``specs``, in their datatypes.

    Raises
    ------
    InvalidFeatures
        With every breach: tensors missing, unknown, of another shape or datatype.
    """
    given = {tensor.name: tensor for tensor in tensors}
    breaches = [*_strangers(specs, given), *_misfits(specs, given)]
    if breaches:
        raise InvalidFeatures(breaches)
    return [_cast(spec, given[spec.name]) for spec in specs]


def _strangers(specs: Sequence[TensorSpec], given: Mapping[str, Tensor]) -> list[str]:
    expected = {spec.name for spec in specs}
    return [f"tensor {name!r} is not expected" for name in given if name not in expected]


def _misfits(specs: Sequence[TensorSpec], given: Mapping[str, Tensor]) -> Iterator[str]:
    for spec in specs:
        tensor = given.get(spec.name)
        found = f"tensor {spec.name!r} is missing" if tensor is None else spec.breach(tensor)
        if found is not None:
            yield found


def _cast(spec: TensorSpec, tensor: Tensor) -> Tensor:
    if tensor.datatype == spec.datatype:
        return tensor
    array = tensor.array.astype(DATATYPES[spec.datatype])
    return Tensor(tensor.name, spec.datatype, array, tensor.parameters)


def produced(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Answers as tensors, in the order and the datatypes of ``specs``, if there are any.

    Raises
    ------
    RejectedAnswer
        The model did not give what it promised.

    Examples
    --------
    >>> specs = [TensorSpec("risk", "FP32")]
    >>> produced(specs, {"predict": np.array([0.5])})["risk"].array
    array([0.5], dtype=float32)
    """
    if not specs:
        return {name: Tensor(name, datatype_of(array), array) for name, array in arrays.items()}
    # One promised and one given need not agree about the name.
    if len(specs) == 1 and len(arrays) == 1:
        arrays = {specs[0].name: next(iter(arrays.values()))}
    return {spec.name: _promised(spec, arrays) for spec in specs}


def _promised(spec: TensorSpec, arrays: Mapping[str, Array]) -> Tensor:
    array = arrays.get(spec.name)
    if array is None:
        given = ", ".join(arrays) or "nothing"
        raise RejectedAnswer(f"the answer has no {spec.name!r}; it has {given}")
    if datatype_of(array) == spec.datatype:
        return Tensor(spec.name, spec.datatype, array)
    wanted = DATATYPES[spec.datatype]
    if spec.datatype == "BYTES" or not np.can_cast(array.dtype, wanted, "same_kind"):
        raise RejectedAnswer(f"the answer's {spec.name!r} is {array.dtype}, not {spec.datatype}")
    return Tensor(spec.name, spec.datatype, array.astype(wanted))


def inferred(model: Any) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a fitted scikit-learn estimator; of anything else nothing is known.

    Examples
    --------
    >>> inferred(abs)
    ([], [])
    """
    width = getattr(model, "n_features_in_", None)
    if not isinstance(width, int):
        return [], []
    classes = getattr(model, "classes_", None)
    datatype = "FP64" if classes is None else _datatype_or(np.asarray(classes), "BYTES")
    return [TensorSpec("input", "FP64", (-1, width))], [TensorSpec("predict", datatype)]


def _datatype_or(array: Array, otherwise: str) -> str:
    try:
        return datatype_of(array)
    except TypeError:
        return otherwise
