"""Twenty stacks of a hundred resources in layers, for fleets, and what must be true of them in the
end."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import converge
from tests.acceptance import witness
from tests.templates import template

STACKS = [f"stack-{number}" for number in range(20)]
LAYERS, WIDTH = 10, 10
#: Each layer has both types.
TYPES = ("effect", "retried")


def layers(version: int) -> converge.Template:
    """Each node requires two of the layer before; of each version another half changes."""
    bodies: dict[str, Any] = {}
    for layer, place in itertools.product(range(LAYERS), range(WIDTH)):
        before = {f"n{layer - 1}-{(place + step) % WIDTH}" for step in (0, 1)} if layer else ()
        bodies[f"n{layer}-{place}"] = {
            "type": TYPES[place % 2],
            "properties": {"least": 0.02, "version": (version + place // 2) // 2},
            "depends_on": sorted(before),
        }
    return template(bodies)


def check_converged(
    client: converge.Store, version: int, lines: Sequence[witness.Line], killed: Collection[int]
) -> None:
    """Check that all stacks are what a version says, and what was made outside is what the rows
    say.

    :param lines: what the engines told.
    :param killed: the pids of those that were killed, or lost their leases.
    """
    expected = layers(version).to_dict()["resources"]
    made: list[str] = []
    for name in STACKS:
        found = client.show(name)["resources"]
        made += [one["physical_id"] for one in found.values()]
        assert {one["status"] for one in found.values()} == {"COMPLETE"}
        assert {name: one["properties"] for name, one in found.items()} == {
            name: body["properties"] for name, body in expected.items()
        }
    ended: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in lines:
        if line.what == "end":
            ended[line.node, line.token].append(line.pid)
    # each piece of work was done once, or by an engine that could not say so any more
    assert len(set(made)) == len(STACKS) * LAYERS * WIDTH
    assert {token for _, token in ended}.issuperset(made)
    assert all(set(killed).issuperset(pids[:-1]) for pids in ended.values())
