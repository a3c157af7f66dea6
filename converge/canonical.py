"""JSON as converge stores it: equal values are equal texts, in ASCII."""

from __future__ import annotations

import json
import json.encoder
from typing import Any

# made once: json.dumps() and json.loads() make or look one up at every call
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), sort_keys=True)
_DECODER = json.JSONDecoder()
# What encode() makes anew at every call, for as long as encoding takes. Only CPython has it.
_make: Any = getattr(json.encoder, "c_make_encoder", None)
_encode: Any = _make and _make(
    None, _ENCODER.default, json.encoder.encode_basestring_ascii, None, ":", ",", True, False, False
)


def dump(value: Any) -> str:
    """A value as canonical JSON.

    :raises ValueError, TypeError: the value is not JSON.
    """
    # a short cut: most values are empty, and there are many
    if not value and isinstance(value, dict | list):
        return "[]" if isinstance(value, list) else "{}"
    if _encode:
        try:
            return "".join(_encode(value, 0))
        except RecursionError:
            pass  # whether it contains itself, or is deep, the usual way says
    return _ENCODER.encode(value)


def load(value: str) -> Any:
    """What :func:`dump` made a text of."""
    if value == "{}":
        return {}
    return [] if value == "[]" else _DECODER.raw_decode(value)[0]
