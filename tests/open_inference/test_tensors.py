"""The tensor codec against numpy and struct, both ways, in both forms."""

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prodml.errors import InvalidFeatures
from prodml.integrations.open_inference.tensors import (
    DATATYPES,
    datatype_of,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

NUMBERS = [name for name in DATATYPES if name not in {"BYTES", "BF16"}]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw, finite=False):
    datatype = draw(st.sampled_from(NUMBERS))
    dtype = DATATYPES[datatype]
    elements = None
    if dtype.kind == "f" and finite:
        elements = hnp.from_dtype(dtype, allow_nan=True, allow_infinity=False)
    return datatype, draw(hnp.arrays(dtype, draw(SHAPES), elements=elements))


def same(left, right):
    """Equal to the bit, NaN and the sign of zero included."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and (
            left.tobytes() == right.tobytes()
            or (left.dtype.kind == "f" and np.array_equal(left, right, equal_nan=True))
        )
    )


@given(arrays())
def test_a_binary_tensor_comes_back_to_the_bit(case):
    datatype, array = case
    raw = to_binary(array, datatype)
    assert len(raw) == array.size * DATATYPES[datatype].itemsize
    back = from_binary(memoryview(raw), "x", datatype, array.shape)
    assert same(back, array)
    assert back.flags.writeable
    assert back.flags.aligned


@given(arrays(finite=True), st.booleans())
def test_a_json_tensor_comes_back_flat_or_nested(case, flat):
    datatype, array = case
    nulled = [None if x != x else x for x in to_json(array, "x", datatype)]
    nested = np.array(nulled, object).reshape(array.shape).tolist()
    text = json.dumps(nulled if flat else nested).encode()
    if not flat and 0 in array.shape:
        # [[]] does not tell how many columns there are not: only the flat form can.
        return
    back = from_json(text, "x", datatype, array.shape)
    assert same(np.nan_to_num(back), np.nan_to_num(array))


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_bytes_come_back_behind_their_lengths(items):
    array = np.empty(len(items), object)
    array[:] = items
    raw = to_binary(array, "BYTES")
    assert raw == b"".join(struct.pack("<I", len(item)) + item for item in items)
    assert from_binary(memoryview(raw), "x", "BYTES", [len(items)]).tolist() == items


@given(st.lists(st.text(max_size=9), min_size=1, max_size=9))
def test_text_goes_through_json_and_binary_alike(items):
    raw = to_binary(np.array(items, object), "BYTES")
    binary = from_binary(memoryview(raw), "x", "BYTES", [len(items)])
    try:
        whole = [item.encode() for item in items]
    except UnicodeEncodeError:
        return  # a lone surrogate is no text for JSON
    assert binary.tolist() == whole
    text = json.dumps(to_json(binary, "x", "BYTES")).encode()
    assert from_json(text, "x", "BYTES", [len(items)]).tolist() == items


@given(
    st.binary(max_size=40),
    st.sampled_from(list(DATATYPES)),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_any_bytes_are_a_tensor_of_that_shape_or_refused(data, datatype, shape):
    try:
        array = from_binary(memoryview(data), "x", datatype, shape)
    except InvalidFeatures:
        return
    assert array.shape == tuple(shape)
    if datatype not in {"BF16", "BYTES", "BOOL"}:
        assert array.tobytes() == data


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(list(DATATYPES)),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
)
def test_json_is_a_tensor_of_exactly_that_type_and_shape_or_refused(value, datatype, shape):
    text = json.dumps(value).encode()
    try:
        array = from_json(text, "x", datatype, shape)
    except InvalidFeatures:
        return
    assert array.shape == tuple(shape)
    assert array.dtype == DATATYPES[datatype]
    flat = np.array(value, object).ravel().tolist()
    assert all(map(fits(datatype), flat)), (value, datatype)


def fits(datatype):
    if datatype == "BYTES":
        return lambda item: isinstance(item, str)
    if datatype == "BOOL":
        return lambda item: isinstance(item, bool)
    if datatype.startswith("FP"):
        return lambda item: (
            item is None or (isinstance(item, int | float) and not isinstance(item, bool))
        )
    info = np.iinfo(DATATYPES[datatype])
    return lambda item: type(item) is int and info.min <= item <= info.max


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT64", b"[1.5]"),
        ("INT8", b"[128]"),
        ("INT8", b"[-129]"),
        ("UINT8", b"[-1]"),
        ("UINT32", b"[4294967296]"),
        ("UINT64", b"[18446744073709551616]"),
        ("INT64", b"[9223372036854775808]"),
        ("FP64", b"[true]"),
        ("FP64", b'["1"]'),
        ("FP16", b"[70000]"),
        ("FP32", b"[1e39]"),
        ("FP64", b"[1e999]"),
        ("BOOL", b"[1]"),
        ("BYTES", b"[1]"),
        ("BYTES", b"[null]"),
        ("BF16", b"[1]"),
        ("FP64", b"[[[1]]]"),
        ("FP64", b"null"),
        ("FP64", b"{}"),
        ("FP64", b"[1, 2]"),
        ("FP64", b"[]"),
        ("FP8", b"[1]"),
    ],
)
def test_nothing_is_converted_on_the_quiet(datatype, data):
    with pytest.raises(InvalidFeatures, match="tensor 'x'"):
        from_json(data, "x", datatype, [1])


def test_brackets_that_fit_no_shape_are_not_even_read():
    for raw in (b"[[[1]]]", b"[" * 10_000, b"1"):
        with pytest.raises(InvalidFeatures, match="neither flat nor nested"):
            from_json(raw, "x", "FP64", [1, 1])


def test_a_ragged_list_is_refused():
    with pytest.raises(InvalidFeatures):
        from_json(b"[[1, 2], [3]]", "x", "FP64", [2, 2])
    with pytest.raises(InvalidFeatures, match=r"shape \[2, 1\]"):
        from_json(b"[[1], [2]]", "x", "FP64", [1, 2])


@pytest.mark.parametrize("shape", [[], [1] * 33])
def test_a_shape_has_a_sane_number_of_dimensions(shape):
    with pytest.raises(InvalidFeatures, match="dimensions"):
        from_json(b"[1]", "x", "FP64", shape)


def test_the_extremes_of_every_integer_go_through_json():
    for name, dtype in DATATYPES.items():
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            text = json.dumps([info.min, info.max]).encode()
            assert from_json(text, "x", name, [2]).tolist() == [info.min, info.max]


@given(hnp.arrays(np.float32, 5))
def test_bf16_is_the_nearest_upper_half(array):
    back = from_binary(memoryview(to_binary(array, "BF16")), "x", "BF16", [5])
    for number, rounded in zip(array.tolist(), back.tolist(), strict=True):
        if math.isnan(number):
            assert math.isnan(rounded)
        elif math.isfinite(number) and math.isfinite(rounded):
            # Eight bits of significand: half a unit in the last place, subnormals aside.
            assert abs(rounded - number) <= max(abs(number) * 2.0**-8, 2.0**-134)
        elif math.isinf(number):
            assert rounded == number


@given(hnp.arrays(np.float32, 5))
def test_bf16_rounds_as_the_reference_does(array):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with np.errstate(all="ignore"):
        other = array.astype(ml_dtypes.bfloat16)
    assert datatype_of(other) == "BF16"
    known = np.isnan(array)
    ours = np.frombuffer(to_binary(array, "BF16"), np.uint16)
    assert np.array_equal(ours[~known], other.view(np.uint16)[~known])
    assert to_binary(other[~known], "BF16") == other[~known].tobytes()


def test_bf16_agrees_with_known_patterns():
    known = {1.0: 0x3F80, -2.0: 0xC000, 3.140625: 0x4049, 1.00390625: 0x3F80, 1.01171875: 0x3F82}
    raw = to_binary(np.array(list(known), np.float32), "BF16")
    assert list(struct.unpack("<5H", raw)) == list(known.values())


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array(["a"]), "BYTES"),
        (np.array([b"a"]), "BYTES"),
        (np.array(["2020-01-01"], "M8[D]"), "BYTES"),
        (np.zeros(1, ">f4"), "FP32"),
        (np.zeros(1, np.uint16), "UINT16"),
    ],
)
def test_the_datatype_of_an_array(array, datatype):
    assert datatype_of(array) == datatype


def test_the_byte_order_of_the_wire_is_little():
    assert to_binary(np.array([1], ">i4"), "INT32") == b"\x01\x00\x00\x00"
    assert to_json(np.array([1], ">i4"), "x", "INT32") == [1]


@pytest.mark.parametrize("dtype", [complex, np.longdouble, "m8[s]"])
def test_what_no_datatype_holds_is_said(dtype):
    with pytest.raises(TypeError, match="no datatype"):
        datatype_of(np.zeros(1, dtype))


def test_bytes_that_are_no_text_have_no_json_form():
    with pytest.raises(InvalidFeatures, match="binary_data"):
        to_json(np.array([b"\xff"], object), "y", "BYTES")
    with pytest.raises(InvalidFeatures, match="binary_data"):
        to_json(np.zeros(1, np.float32), "y", "BF16")


def test_dates_are_told_as_text():
    days = np.array(["2020-02-29"], "M8[D]")
    assert to_json(days, "y", "BYTES") == ["2020-02-29"]
