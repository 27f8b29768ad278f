"""Bodies of the infer call: bytes to tensors, and tensors to bytes.

A body is JSON, or, with the binary extension, a JSON header of a given length and behind it
the raw tensors in the order of the inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from prodml.errors import InvalidFeatures
from prodml.integrations.open_inference.signature import Tensor
from prodml.integrations.open_inference.tensors import from_binary, from_json, to_binary, to_json

__all__ = ["InferRequest", "Parameters", "decode_request", "encode_reply", "json_bytes"]

Parameters: TypeAlias = dict[str, str | int | float | bool | None]
"""Parameters of a request or a tensor: by the protocol text, number or boolean."""

_Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
# What Triton's clients can ask for and this server does not have: better an error than an
# answer to another question.
_FOREIGN: Final = ("shared_memory_region", "classification")


class _Input(msgspec.Struct):
    name: str
    shape: list[_Size]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | None = None


class _Wanted(msgspec.Struct):
    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """What the JSON part of an infer call says.

    Examples
    --------
    >>> body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [7]}]}'
    >>> request, tensors = decode_request(body)
    >>> request.id, tensors[0].array
    (None, array([7], dtype=int8))
    """

    inputs: Annotated[list[_Input], msgspec.Meta(min_length=1)]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[_Wanted] | None = None


class _Output(msgspec.Struct, omit_defaults=True):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class _Reply(msgspec.Struct, omit_defaults=True, kw_only=True):
    model_name: str
    model_version: str = ""
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output]


_DECODER: Final = msgspec.json.Decoder(InferRequest)
_ENCODER: Final = msgspec.json.Encoder()

json_bytes: Final[Callable[[Any], bytes]] = _ENCODER.encode


def decode_request(
    body: bytes, header_length: int | None = None
) -> tuple[InferRequest, list[Tensor]]:
    """Request and its tensors; ``header_length`` is that of the JSON part, None for all.

    Raises
    ------
    InvalidFeatures
        The body breaks the protocol; says where.
    """
    header: Any = body
    rest = memoryview(b"")
    if header_length is not None:
        if header_length > len(body):
            raise InvalidFeatures(["the JSON header is longer than the body"])
        whole = memoryview(body)
        header, rest = whole[:header_length], whole[header_length:]
    try:
        request = _DECODER.decode(header)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise InvalidFeatures([f"the body is not an inference request: {error}"]) from None
    tensors = list(_tensors(request.inputs, rest))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise InvalidFeatures(["two input tensors have the same name"])
    return request, tensors


def _tensors(inputs: Sequence[_Input], rest: memoryview) -> Iterator[Tensor]:
    for given in inputs:
        parameters = given.parameters or {}
        _refuse_foreign(given.name, parameters)
        size = parameters.get("binary_data_size")
        if given.data is not msgspec.UNSET:
            if size is not None:
                raise InvalidFeatures([f"tensor {given.name!r} has data in JSON and in binary"])
            array = from_json(given.data, given.name, given.datatype, given.shape)
        else:
            piece, rest = _cut(rest, given.name, size)
            array = from_binary(piece, given.name, given.datatype, given.shape)
        yield Tensor(given.name, given.datatype, array, parameters)
    if rest:
        raise InvalidFeatures([f"{len(rest)} bytes at the end of the body belong to no tensor"])


def _cut(rest: memoryview, name: str, size: Any) -> tuple[memoryview, memoryview]:
    if size is None:
        raise InvalidFeatures([f"tensor {name!r} has no data and no binary_data_size"])
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidFeatures(
            [f"tensor {name!r}: binary_data_size is {size!r}, {len(rest)} bytes are there"]
        )
    return rest[:size], rest[size:]


def _refuse_foreign(name: str, parameters: Mapping[str, Any]) -> None:
    for foreign in _FOREIGN:
        if parameters.get(foreign):
            raise InvalidFeatures([f"tensor {name!r}: {foreign} is not supported here"])


# -- replies ------------------------------------------------------------------------------


def encode_reply(
    request: InferRequest,
    outputs: Mapping[str, Tensor],
    model: str,
    version: str,
    parameters: dict[str, Any] | None = None,
) -> tuple[bytes, int | None]:
    """Body of the reply, and the length of its JSON part if binary tensors follow.

    Only the outputs that ``request`` asks for, in its order; all of them if it names none.

    Raises
    ------
    InvalidFeatures
        It asks for an output that does not exist, or for one twice.

    Examples
    --------
    >>> import numpy as np
    >>> body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "BOOL", "data": [true]}]}'
    >>> request, _ = decode_request(body)
    >>> body, _ = encode_reply(request, {"y": Tensor("y", "FP64", np.ones(1))}, "m", "v1")
    >>> print(body.decode())
    {"model_name":"m","model_version":"v1","outputs":[{"name":"y",...,"data":[1.0]}]}
    """
    everything = bool((request.parameters or {}).get("binary_data_output", False))
    written: list[_Output] = []
    raw: list[bytes] = []
    for tensor, binary in _wanted(request, outputs, everything):
        output = _Output(tensor.name, tensor.array.shape, tensor.datatype)
        if binary:
            data = to_binary(tensor.array, tensor.datatype)
            output.parameters = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            output.data = to_json(tensor.array, tensor.name, tensor.datatype)
        written.append(output)
    reply = _Reply(
        model_name=model,
        model_version=version,
        id=request.id,
        parameters=parameters,
        outputs=written,
    )
    header = json_bytes(reply)
    if not raw:
        return header, None
    return b"".join((header, *raw)), len(header)


def _wanted(
    request: InferRequest, outputs: Mapping[str, Tensor], everything: bool
) -> Iterator[tuple[Tensor, bool]]:
    if not request.outputs:
        for tensor in outputs.values():
            yield tensor, everything
        return
    _distinct(request.outputs)
    for wanted in request.outputs:
        parameters = wanted.parameters or {}
        _refuse_foreign(wanted.name, parameters)
        if wanted.name not in outputs:
            known = ", ".join(outputs)
            raise InvalidFeatures([f"there is no output {wanted.name!r}; there is {known}"])
        yield outputs[wanted.name], bool(parameters.get("binary_data", everything))


def _distinct(wanted: Sequence[_Wanted]) -> None:
    """Refuse to give an output twice: a few bytes would ask for a copy of everything."""
    if len({output.name for output in wanted}) != len(wanted):
        raise InvalidFeatures(["an output is asked for twice"])
