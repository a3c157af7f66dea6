"""Long texts, packed to fit one statement.

MariaDB refuses a statement of more than 16 MB, and the template of 100,000 resources is as long.
Packed it takes a tenth of that.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from sqlalchemy import Dialect

from converge.canonical import dump, load
from converge.sql.types import SealedJson, SealedText, keyring_of, unseal

#: Texts of more characters are packed; shorter ones can be read by who looks into the table.
LONGEST = 1_000_000
#: What a packed text begins with, and no JSON does.
PREFIX = "zlib:"


def pack(text: str) -> str:
    """A text as it is stored. It is ASCII, as JSON is that converge stores."""
    if len(text) <= LONGEST:
        return text
    return PREFIX + b64encode(zlib.compress(text.encode("ascii"), 1)).decode("ascii")


def unpack(stored: str) -> str:
    """The text that :func:`pack` made this of."""
    if not stored.startswith(PREFIX):
        return stored
    return zlib.decompress(b64decode(stored[len(PREFIX) :])).decode("ascii")


class PackedText(SealedText):
    """A text of ASCII that may be long, and secret. In SQL it is not to be compared."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else super().process_bind_param(pack(value), dialect)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unpack(unseal(dialect, value))


class PackedJson(SealedJson):
    """JSON that may be long, and secret. In SQL it is not to be compared."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        keyring = keyring_of(dialect)
        text = pack(dump(value))
        return text if keyring is None else self.seal(keyring, text)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        return lambda value: None if value is None else load(unpack(unseal(dialect, value)))
