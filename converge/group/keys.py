"""Which partition a key is in.

The partition of a key among ``n`` is the first eight bytes of the SHA-256 of its UTF-8, read as a
number with the highest byte first, modulo ``n``. It is the same in every process, on every machine
and in every version; :func:`hash` of Python differs from process to process.

A key that is no text is its canonical JSON; none at all is the empty text. So the number 7 and the
text "7" are in one partition.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from converge.canonical import dump

#: The most partitions of a group: each is a row, and a queue for each sink.
MOST_PARTITIONS = 1024


def key_text(value: Any) -> str:
    """The text of a key."""
    if value is None:
        return ""
    return value if isinstance(value, str) else dump(value)


def partition_of(key: Any, partitions: int) -> int:
    """The partition of a key: 0 or more, less than ``partitions``."""
    digest = sha256(key_text(key).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % partitions


def share_of(generation: int, number: int) -> int:
    """A partition as one number, which no partition of another generation has; 0 is none."""
    return generation * MOST_PARTITIONS + number
