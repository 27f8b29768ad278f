import json

from hypothesis import given
from hypothesis import strategies as st

from prodml.recording.line import framed, unframed

numbers = st.integers(min_value=1, max_value=2**60)
bodies = st.dictionaries(st.text(), st.integers(), min_size=1).map(lambda d: json.dumps(d).encode())


@given(numbers, bodies)
def test_line_comes_back(number, body):
    assert unframed(framed(number, body)) == (number, body[1:])


@given(numbers, bodies)
def test_line_is_json_of_one_line(number, body):
    line = framed(number, body)
    assert line.count(b"\n") == 1
    assert json.loads(line)["id"] == number


@given(numbers, bodies, st.data())
def test_no_part_of_a_line_is_taken_for_a_line(number, body, data):
    line = framed(number, body)
    assert unframed(line[:-1]) is None
    cut = data.draw(st.integers(0, len(line) - 2))
    assert unframed(line[:cut]) is None
    assert unframed(line[:cut] + b"\n") is None


@given(numbers, bodies, st.data())
def test_one_changed_byte_is_noticed(number, body, data):
    line = bytearray(framed(number, body))
    place = data.draw(st.integers(0, len(line) - 2))
    line[place] ^= data.draw(st.integers(1, 255))
    found = unframed(bytes(line))
    # Within the checksum's own digits leading zeros could be added; nothing else may pass.
    assert found is None or found == (number, body[1:])


def test_line_of_somebody_else_is_none():
    assert unframed(b'{"request_id": "r-1"}\n') is None
    assert unframed(b"\n") is None
