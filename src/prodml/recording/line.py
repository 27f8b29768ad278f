"""One record as one line: JSON with a number, so that loss shows, and a checksum.

``{"v":1,"id":7,"crc":2714962318,"at":1700000000.0,"request_id":"r-1",...}`` and a newline.
``id`` counts the lines of one writer from 1 without gaps.  ``crc`` is the CRC-32 of
everything behind ``"crc":...,``, started with ``id``, so a line is whole or it is nothing.
"""

import re
from typing import Final
from zlib import crc32

__all__ = ["framed", "unframed"]

_HEAD: Final = re.compile(rb'\{"v":1,"id":(\d+),"crc":(\d+),')


def framed(number: int, body: bytes) -> bytes:
    r"""Line ``number`` of a writer around ``body``, a JSON object with at least one key.

    Examples
    --------
    >>> framed(7, b'{"at":1.0}')
    b'{"v":1,"id":7,"crc":4869145,"at":1.0}\n'
    """
    rest = body[1:]
    return b'{"v":1,"id":%d,"crc":%d,%b\n' % (number, crc32(rest, number & 0xFFFFFFFF), rest)


def unframed(line: bytes) -> tuple[int, bytes] | None:
    """Give the number and the rest behind the checksum, or None if the line is not whole.

    Examples
    --------
    >>> unframed(framed(7, b'{"at":1.0}'))
    (7, b'"at":1.0}')
    >>> unframed(framed(7, b'{"at":1.0}')[:-4]) is None
    True
    """
    head = _HEAD.match(line)
    if head is None or not line.endswith(b"\n"):
        return None
    number, rest = int(head[1]), line[head.end() : -1]
    return (number, rest) if crc32(rest, number & 0xFFFFFFFF) == int(head[2]) else None
