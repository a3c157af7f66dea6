"""What has drifted, in words: how ``check`` ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converge.cli.plans import differing
from converge.escaping import escape, prose
from converge.model import Status


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """What has drifted of a stack, as :meth:`converge.Store.show` says it: each property as it was
    made, and as it is."""
    for name, one in document["resources"].items():
        drift = one["drift"]
        if drift is None:
            continue
        head = f"{escape(name)} ({escape(one['type'])})"
        if drift["gone"] is not None:
            why = f"it is gone: {prose(drift['gone'])}" if drift["gone"] else "it is gone"
            yield f"  - {head}: {why}"
            continue
        said = f": {prose(drift['said'])}" if drift["said"] else ""
        yield f"  ~ {head}{said}"
        for key, values in drift["properties"].items():
            yield from differing(key, values["before"], values["after"])
    if document["more"]:
        yield f"  ... {document['more']} more"


def count(document: Mapping[str, Any]) -> int:
    """How many resources have drifted."""
    return int(document["counts"].get(Status.DRIFTED, 0))
