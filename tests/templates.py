"""Templates for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import converge

#: a resource's body, or the names that it depends on, in a list or with spaces between them
Body = Mapping[str, Any] | Iterable[str]


def template(
    resources: Mapping[str, Body] | None = None,
    /,
    *,
    type: str = "fake",
    properties: Mapping[str, Any] | None = None,
    **more: Body,
) -> converge.Template:
    """A template of these resources, each given by its body, or by the names that it depends on.

    :param type: of those whose body names none.
    :param properties: of those whose body has none.
    """
    bodies: dict[str, Any] = {}
    for name, body in {**(resources or {}), **more}.items():
        if isinstance(body, str):
            body = body.split()
        given = body if isinstance(body, Mapping) else {"depends_on": list(body)}
        bodies[name] = {"type": type, **({"properties": properties} if properties else {}), **given}
    return converge.Template.from_dict({"resources": bodies})


def one_of_each(*types: str, **properties: Any) -> converge.Template:
    """A resource of each type, called like it."""
    return template({name: {"type": name} for name in types}, properties=properties)


def several(
    type: str, count: int, *, chain: bool = False, properties: Mapping[str, Any] | None = None
) -> converge.Template:
    """Resources ``r0``, ``r1``, … of a type; in a chain each depends on the one before it."""
    bodies = {f"r{n}": [f"r{n - 1}"] if chain and n else [] for n in range(count)}
    return template(bodies, type=type, properties=properties)


def layers(size: int, prefix: str = "", **first: Any) -> dict[str, dict[str, Any]]:
    """Three layers of resources, each of which refers to two of the layer before it.

    :param first: more properties of the first layer.
    """
    found: dict[str, dict[str, Any]] = {}
    for layer in range(3):
        for number in range(size):
            properties: dict[str, Any] = dict(first) if layer == 0 else {}
            for other in (number, (number + 1) % size) if layer else ():
                properties[f"to {other}"] = {"get_resource": f"{prefix}{layer - 1}.{other}"}
            found[f"{prefix}{layer}.{number}"] = {"properties": properties}
    return found
