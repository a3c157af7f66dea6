"""Graphs as bytes.

:meth:`converge.Graph.to_bytes` writes, all numbers little-endian and unsigned:

====== ====================================================================================
bytes  content
====== ====================================================================================
3      ``CvG``
1      version of the format, 1
4      CRC-32 of all that follows
4      number of nodes, *n*
4      number of edges, *m*
4      size of the names in bytes, *s*
rest   one zlib stream of 8 *n* + 4 *m* + *s* bytes: four columns, of which the first three
       are 32-bit numbers
====== ====================================================================================

The columns are, node by node in topological order:

1. the length of the name in characters (*n* numbers),
2. how many nodes the node requires (*n* numbers),
3. the required nodes by number, the least first, each as how many numbers lie between it and
   the next one of the same node, the last one and the node itself (*m* numbers),
4. the names without separators, in UTF-8 (lone surrogates are allowed).

A column of numbers is laid out as the lowest byte of each, then the second of each, and so
on: the high bytes are nearly all alike, which is what zlib is good at.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise, repeat
from operator import sub

from converge.errors import BadInput

_MAGIC = b"CvG"
_VERSION = 1
_PREFIX = struct.Struct("<3sBI")  # magic, version, checksum
_SIZES = struct.Struct("<III")  # nodes, edges, bytes of names
#: Bytes that a graph may have uncompressed, by default.
LIMIT = 256 * 1024 * 1024
_WIDTH = 4

if array("i").itemsize != _WIDTH:  # pragma: no cover - no such platform runs Python 3.11
    raise ImportError("converge.graph.encoding needs a platform where a C int has 32 bits")


def encode(names: Sequence[str], offsets: array[int], flat: array[int]) -> bytes:
    """Write a graph.

    :param names: of the nodes in topological order, distinct.
    :param flat: the nodes that are required, by number; those of node *i* are
        ``flat[offsets[i]:offsets[i + 1]]``, in ascending order.
    """
    following = flat[1:] + flat[:1]
    for number, (start, end) in enumerate(pairwise(offsets)):
        if start < end:
            following[end - 1] = number
    gaps = array("i", map(sub, map(sub, following, flat), repeat(1)))
    joined = "".join(names).encode("utf-8", "surrogatepass")
    packed = zlib.compress(
        b"".join(
            (
                _to_column(array("i", map(len, names))),
                _to_column(array("i", map(sub, offsets[1:], offsets))),
                _to_column(gaps),
                joined,
            )
        )
    )
    body = _SIZES.pack(len(names), len(flat), len(joined)) + packed
    return _PREFIX.pack(_MAGIC, _VERSION, zlib.crc32(body)) + body


def decode(data: bytes, limit: int) -> tuple[list[str], array[int], array[int]]:
    """Read what :func:`encode` wrote.

    :param limit: the most bytes that the data may have uncompressed.
    :raises BadInput: it is not a serialized graph, damaged, of another version of the format, or
        larger than the limit.
    """
    head = _PREFIX.size + _SIZES.size
    if len(data) < head or not data.startswith(_MAGIC):
        raise BadInput("this is not a serialized graph")
    _, version, checksum = _PREFIX.unpack_from(data)
    if version != _VERSION:
        raise BadInput(
            f"the serialized graph is of version {version}; this converge reads {_VERSION} only"
        )
    if zlib.crc32(data[_PREFIX.size :]) != checksum:
        raise BadInput("the serialized graph is damaged: its checksum is wrong")
    n, m, s = _SIZES.unpack_from(data, _PREFIX.size)
    size = 2 * _WIDTH * n + _WIDTH * m + s
    if size > limit:
        raise BadInput(f"the serialized graph has {size} bytes uncompressed, more than {limit}")
    stream = zlib.decompressobj()
    try:
        # One byte more than there should be, as 0 would mean no bound.
        body = stream.decompress(data[head:], size + 1)
    except zlib.error as error:
        raise BadInput(f"the serialized graph is damaged: {error}") from error
    if len(body) != size or not stream.eof or stream.unused_data:
        raise BadInput("the serialized graph is damaged: its sizes do not fit its content")
    splits = [0, _WIDTH * n, 2 * _WIDTH * n, 2 * _WIDTH * n + _WIDTH * m]
    lengths, counts, gaps = (_from_column(body[a:b]) for a, b in pairwise(splits))
    names = _split(body[splits[-1] :], lengths)
    rows = _from_gaps(counts, gaps)
    if names is None or rows is None:
        raise BadInput("the serialized graph is damaged: it contradicts itself")
    return names, *rows


def _split(text: bytes, lengths: array[int]) -> list[str] | None:
    """The names, given their lengths in characters; None if they do not fit, or repeat."""
    try:
        joined = text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    if min(lengths, default=0) < 0 or sum(lengths) != len(joined):
        return None
    names = [joined[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
    return names if len(set(names)) == len(names) else None


def _from_gaps(counts: array[int], gaps: array[int]) -> tuple[array[int], array[int]] | None:
    """The rows that the gaps describe; None if they describe none."""
    if min(counts, default=0) < 0 or sum(counts) != len(gaps):
        return None
    # Where no gap is negative, a row descends from its own number.
    if min(gaps, default=0) < 0 or max(gaps, default=-1) >= len(counts):
        return None
    offsets = array("i", accumulate(counts, initial=0))
    flat = array("i")
    for number, (start, end) in enumerate(pairwise(offsets)):
        row = []
        for gap in reversed(gaps[start:end]):
            number -= gap + 1
            row.append(number)
        if number < 0:
            return None
        flat.extend(reversed(row))
    return offsets, flat


def _to_column(numbers: array[int]) -> bytes:
    data = _little_endian(numbers).tobytes()
    return b"".join(data[i::_WIDTH] for i in range(_WIDTH))


def _from_column(column: bytes) -> array[int]:
    data = bytearray(len(column))
    size = len(column) // _WIDTH
    for i in range(_WIDTH):
        data[i::_WIDTH] = column[i * size : (i + 1) * size]
    numbers = array("i")
    numbers.frombytes(data)
    return _little_endian(numbers)


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":  # pragma: no cover
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
