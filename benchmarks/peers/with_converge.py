"""converge: a resource type that does the work of a node, one engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import converge
from benchmarks.peers.common import WORKERS, read, say, work

CASE = read()


class Node(converge.ResourceType):
    """Its name is its property."""

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        """Do the work."""
        work(CASE, properties["name"])
        return "x"


def main() -> None:
    url = CASE.database.replace("postgresql://", "postgresql+psycopg://")
    with (
        converge.connect(url, create_schema=True) as store,
        converge.Engine(store, {"node": Node()}, workers=WORKERS) as engine,
    ):
        if CASE.resume:
            stack = store.stack("peers")
        else:
            engine.wait_idle(30)
            say("started")
            resources = {
                name: {"type": "node", "properties": {"name": name}, "depends_on": required}
                for name, required in CASE.requires.items()
            }
            template = converge.Template.from_dict({"resources": resources})
            stack = store.create_stack("peers", template)
        assert stack.wait(3600) == "COMPLETE", stack.reason
        say("ended")


if __name__ == "__main__":
    main()
